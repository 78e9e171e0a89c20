//! What is inside a message, as far as the proxy needs it, and the few messages that it makes itself. It keeps no state
//! and decides nothing.

use std::fmt;
use std::str::FromStr;

use bytes::{BufMut, Bytes, BytesMut};

use crate::pgwire::frame::{Frame, HEADER, Kind, Sender};

/// A server's statement that all is over, at rest outside of a transaction, in one, or in one that failed.
pub(super) const IDLE: u8 = b'I';
const IN_TRANSACTION: u8 = b'T';
const FAILED: u8 = b'E';

/// How bad it is, in the server's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// A notice; the statement goes on.
    Warning,
    /// The statement fails, and its transaction.
    Error,
    /// The session ends.
    Fatal,
    /// All sessions end.
    Panic,
}

impl Severity {
    const ALL: [(Self, &str); 4] =
        [(Self::Warning, "WARNING"), (Self::Error, "ERROR"), (Self::Fatal, "FATAL"), (Self::Panic, "PANIC")];

    /// Whether the server closes the connection after it.
    #[must_use]
    pub fn ends_session(self) -> bool {
        matches!(self, Self::Fatal | Self::Panic)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Self::ALL.iter().find(|(severity, _)| severity == self);
        out.write_str(known.map_or("ERROR", |(_, name)| name))
    }
}

impl FromStr for Severity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|(_, name)| *name == text);
        known.map(|(severity, _)| *severity).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|(_, name)| *name).collect();
            format!("`{text}` is no severity; known are {}", names.join(", "))
        })
    }
}

/// What a server can say of itself: an error, or a notice where it is only a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// How bad it is.
    pub severity: Severity,
    /// Five letters or digits, such as `57P03`.
    pub code: String,
    /// In words.
    pub message: String,
}

impl Said {
    /// The message a real server sends: severity (in its language, and for programs), code, text.
    pub(super) fn to_bytes(&self) -> Bytes {
        let kind = if self.severity == Severity::Warning { b'N' } else { b'E' };
        let severity = self.severity.to_string();
        let fields =
            [(b'S', severity.as_str()), (b'V', &severity), (b'C', &self.code), (b'M', &self.message)];
        let mut body = BytesMut::new();
        for (field, text) in fields {
            body.put_u8(field);
            // A zero byte would end the field before its time.
            body.extend(text.bytes().filter(|byte| *byte != 0));
            body.put_u8(0);
        }
        body.put_u8(0);
        message(kind, &body)
    }
}

fn message(kind: u8, body: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(body.len() + HEADER);
    bytes.put_u8(kind);
    bytes.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
    bytes.extend_from_slice(body);
    bytes.freeze()
}

/// A statement by the simple protocol.
pub(super) fn query(sql: &str) -> Frame {
    let mut body = sql.as_bytes().to_vec();
    body.push(0);
    Frame { kind: Kind::client(b'Q'), bytes: message(b'Q', &body) }
}

/// Runs a portal that nobody has bound: an error at this place of the pipeline, whatever stands around it.
pub(super) fn execute_nothing() -> Frame {
    let body = b"ridethrough nothing\0\0\0\0\0";
    Frame { kind: Kind::client(b'E'), bytes: message(b'E', body) }
}

/// The server's sign that it is ready, with another state than it said.
pub(super) fn ready_as_if_failed(frame: &Frame) -> Bytes {
    match status(frame) {
        Some(IN_TRANSACTION) => message(b'Z', &[FAILED]),
        _ => frame.bytes.clone(),
    }
}

/// What a `ReadyForQuery` says.
pub(super) fn status(frame: &Frame) -> Option<u8> {
    (frame.kind == Kind::server(b'Z')).then(|| frame.body().first().copied()).flatten()
}

/// The tag of a `CommandComplete`, such as `INSERT 0 1`.
pub(super) fn tag(frame: &Frame) -> Option<String> {
    let mut texts = Texts(frame.body());
    (frame.kind == Kind::server(b'C')).then(|| texts.next_lossy()).flatten()
}

/// The SQLSTATE of an error or a notice.
pub(super) fn code(frame: &Frame) -> Option<String> {
    if !matches!(frame.kind.code(), b'E' | b'N') || frame.kind.sender() != Sender::Server {
        return None;
    }
    let mut fields = Texts(frame.body());
    std::iter::from_fn(|| fields.next_lossy()).find_map(|field| field.strip_prefix('C').map(str::to_owned))
}

/// Process and secret, by which a cancel request names a session.
pub(super) fn key(frame: &Frame) -> Option<Bytes> {
    let from = if frame.kind == Kind::CANCEL_REQUEST { 8 } else { HEADER };
    let named = frame.kind == Kind::CANCEL_REQUEST || frame.kind == Kind::server(b'K');
    (named && frame.bytes.len() >= from + 4).then(|| frame.bytes.slice(from..))
}

/// The process in a key.
pub(super) fn process(key: &Bytes) -> Option<i32> {
    key.get(..4)?.try_into().ok().map(i32::from_be_bytes)
}

/// Texts that end with a zero byte, one after another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Texts<'b>(pub(super) &'b [u8]);

impl<'b> Texts<'b> {
    /// The next one; `None` where none ends.
    pub(super) fn next(&mut self) -> Option<&'b [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = self.0.get(..end)?;
        self.0 = self.0.get(end + 1..)?;
        Some(text)
    }

    fn next_lossy(&mut self) -> Option<String> {
        self.next().filter(|text| !text.is_empty()).map(|text| String::from_utf8_lossy(text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgwire::frame::tests::{FROM_SERVER, frames};

    #[test]
    fn an_error_has_the_fields_of_a_real_one() {
        let said =
            Said { severity: Severity::Fatal, code: "57P03".to_owned(), message: "not \0yet".to_owned() };
        let found = frames(Sender::Server, &said.to_bytes());
        assert_eq!(found[0].kind.name(), "ErrorResponse");
        assert_eq!(code(&found[0]).as_deref(), Some("57P03"));
        assert_eq!(found[0].body(), b"SFATAL\0VFATAL\0C57P03\0Mnot yet\0\0");
        let warning = Said { severity: Severity::Warning, ..said };
        assert_eq!(frames(Sender::Server, &warning.to_bytes())[0].kind.name(), "NoticeResponse");
    }

    #[test]
    fn tag_status_and_key_are_read() {
        let found = frames(Sender::Server, FROM_SERVER);
        assert_eq!(found.iter().find_map(tag).as_deref(), Some("SELECT 1"));
        assert_eq!(found.iter().filter_map(status).collect::<Vec<_>>(), [IDLE; 3]);
        let key = found.iter().find_map(key).unwrap();
        assert_eq!((process(&key), &key[4..]), (Some(0x1001), &b"\x12\x34\x56\x78"[..]));
        let ready = Frame { kind: Kind::server(b'Z'), bytes: message(b'Z', b"T") };
        assert_eq!(ready_as_if_failed(&ready).last(), Some(&FAILED));
    }

    #[test]
    fn what_is_cut_short_is_read_as_nothing() {
        let short = Frame { kind: Kind::server(b'C'), bytes: Bytes::from_static(b"C\0\0\0\x07abc") };
        assert_eq!(tag(&short), None);
        let error = Frame { kind: Kind::server(b'E'), bytes: Bytes::from_static(b"E\0\0\0\x06C4") };
        assert_eq!(code(&error), None);
    }
}
