//! Looks at the bytes of an HTTP/1 connection before the parser does, and refuses what could be read in two ways.
//!
//! The parser behind it is generous where the standard allows it: of two framings it takes one, it takes equal lengths
//! given twice for one, and a line may end with LF alone. What it does then is right, but somebody in front or behind may
//! read the same bytes otherwise, and the difference is a smuggled request. So every head is read here for the two
//! fields that say where its message ends, and every body is followed to that end. What is not clear never reaches the
//! parser: it gets a byte in its place that no message may hold, answers 400 and closes. Whether the rest of a head is
//! right is the parser's business.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Stands where something was not clear. In no place of a message does the parser take the first byte, and it does not
/// look at a head before the blank line.
const REFUSED: &[u8] = b"\0\r\n\r\n";
/// The beginning of a line is enough to judge it by; the rest of a longer one is not kept. Longer lengths and codings
/// are not clear.
const LINE_BYTES_KEPT: usize = 256;
/// As many as 64 bits have.
const CHUNK_DIGITS_MAX: usize = 16;

/// A stream of HTTP/1 without ambiguous messages.
pub(super) struct Clear<S> {
    stream: S,
    watch: Watch,
    /// What is left to say instead of everything that comes.
    refusal: Option<&'static [u8]>,
    /// Set once the connection speaks something else than HTTP.
    is_upgraded: Arc<AtomicBool>,
}

impl<S> Clear<S> {
    pub(super) fn new(stream: S, is_upgraded: Arc<AtomicBool>) -> Self {
        Self { stream, watch: Watch::default(), refusal: None, is_upgraded }
    }

    /// Says as much of the refusal as fits; then the stream is at its end.
    fn refuse(&mut self, buffer: &mut ReadBuf<'_>) {
        let left = self.refusal.unwrap_or_default();
        let (now, later) = left.split_at_checked(buffer.remaining()).unwrap_or((left, &[]));
        buffer.put_slice(now);
        self.refusal = Some(later);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Clear<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.refusal.is_some() {
            self.refuse(buffer);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if self.is_upgraded.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let come = buffer.filled().get(before..).unwrap_or_default();
        if let Err(Unclear { after }) = self.watch.see(come) {
            buffer.set_filled(before + after);
            self.refusal = Some(REFUSED);
            self.refuse(buffer);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Clear<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Something that can be read in two ways. `after` bytes of what was shown come before it, of which the end of the same
/// message is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unclear {
    after: usize,
}

/// Where in a message the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    /// Before the first line of a request.
    #[default]
    Between,
    Fields,
    /// So many bytes are left.
    Counted(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
}

/// What the fields read so far say about the end of the message.
#[derive(Debug, Clone, Copy, Default)]
struct Framing {
    length: Option<u64>,
    is_chunked: bool,
}

/// Follows the messages of one connection.
#[derive(Debug, Default)]
struct Watch {
    place: Place,
    framing: Framing,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
}

impl Watch {
    fn see(&mut self, bytes: &[u8]) -> Result<(), Unclear> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let after = bytes.len() - rest.len();
            rest = match self.place {
                Place::Counted(left) => {
                    let (left, rest) = skip(left, rest);
                    self.place = if left == 0 { Place::Between } else { Place::Counted(left) };
                    rest
                }
                Place::Chunk(left) => {
                    let (left, rest) = skip(left, rest);
                    self.place = if left == 0 { Place::ChunkEnd } else { Place::Chunk(left) };
                    rest
                }
                _ => self.see_line(rest).ok_or(Unclear { after })?,
            };
        }
        Ok(())
    }

    /// Takes the next line, or the part of it that is there; `None` where it is not clear.
    fn see_line<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            self.keep(bytes);
            return Some(&[]);
        };
        let (line, rest) = bytes.split_at_checked(end + 1)?;
        let place = if self.line.is_empty() {
            self.judge(line)?
        } else {
            self.keep_end(line);
            let whole = std::mem::take(&mut self.line);
            let place = self.judge(&whole)?;
            self.line = whole;
            self.line.clear();
            place
        };
        self.place = place;
        Some(rest)
    }

    fn keep(&mut self, part: &[u8]) {
        let room = LINE_BYTES_KEPT.saturating_sub(self.line.len());
        // The last byte is kept whatever happens: it may be the CR of the end.
        let (last, first) = match part.split_last() {
            Some((last, first)) => (*last, first),
            None => return,
        };
        if self.line.len() > LINE_BYTES_KEPT {
            self.line.pop();
        }
        self.line.extend(first.iter().take(room));
        self.line.push(last);
    }

    fn keep_end(&mut self, end: &[u8]) {
        let before_lf = end.len().saturating_sub(1);
        self.keep(end.get(..before_lf).unwrap_or_default());
        self.line.push(b'\n');
    }

    /// Judges a whole line, its end included; gives the place after it.
    fn judge(&mut self, line: &[u8]) -> Option<Place> {
        let line = line.strip_suffix(b"\r\n")?;
        match self.place {
            Place::Between if line.is_empty() => Some(Place::Between),
            Place::Between => {
                self.framing = Framing::default();
                Some(Place::Fields)
            }
            Place::Fields if line.is_empty() => Some(match self.framing {
                Framing { is_chunked: true, .. } => Place::ChunkSize,
                Framing { length: Some(length @ 1..), .. } => Place::Counted(length),
                _ => Place::Between,
            }),
            Place::Fields => self.framing.read(line).then_some(Place::Fields),
            Place::ChunkSize => match chunk_size(line)? {
                0 => Some(Place::Trailers),
                size => Some(Place::Chunk(size)),
            },
            Place::ChunkEnd => line.is_empty().then_some(Place::ChunkSize),
            Place::Trailers if line.is_empty() => Some(Place::Between),
            Place::Trailers => Some(Place::Trailers),
            Place::Counted(_) | Place::Chunk(_) => None,
        }
    }
}

impl Framing {
    /// Takes one field in; false where the end of the message is not clear any more.
    fn read(&mut self, field: &[u8]) -> bool {
        // A line that continues the one before it belongs to a field that was judged without it.
        if matches!(field.first(), None | Some(b' ' | b'\t')) {
            return false;
        }
        let colon = field.iter().position(|byte| *byte == b':').unwrap_or(field.len());
        let (name, value) = field.split_at_checked(colon).unwrap_or((field, &[]));
        let value = value.strip_prefix(b":").unwrap_or_default().trim_ascii();
        let name = name.trim_ascii_end();
        // Of such a line not all may have been kept.
        let is_whole = field.len() < LINE_BYTES_KEPT;
        if name.eq_ignore_ascii_case(b"content-length") {
            let is_first = self.length.is_none() && !self.is_chunked;
            self.length = number(value, 10);
            return is_first && is_whole && self.length.is_some();
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let is_first = self.length.is_none() && !self.is_chunked;
            self.is_chunked = true;
            return is_first && is_whole && value.eq_ignore_ascii_case(b"chunked");
        }
        true
    }
}

/// Skips up to `left` bytes; gives how many are left then, and the bytes after them.
fn skip(left: u64, bytes: &[u8]) -> (u64, &[u8]) {
    let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    (left - here as u64, bytes.get(here..).unwrap_or_default())
}

/// The size in the first line of a chunk; extensions are passed over.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, rest) = line.split_at_checked(digits)?;
    if digits > CHUNK_DIGITS_MAX {
        return None;
    }
    matches!(rest.first(), None | Some(b';' | b' ' | b'\t')).then(|| number(size, 16)).flatten()
}

/// Digits and nothing else. Without a sign, which the parsing of numbers would take.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(|byte| char::from(*byte).is_digit(radix));
    is_number.then(|| u64::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()).flatten()
}

#[cfg(test)]
mod tests;
