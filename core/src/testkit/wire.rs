//! The bytes of protocol 3: messages of a client taken apart, messages of a server put together. It knows no SQL and
//! keeps no state.

use std::{collections::HashMap, io};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_postgres::types::Type;

/// A longer message is refused before a byte of it is kept; no test needs one.
const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// PostgreSQL's own limit for the first packet.
const FIRST_BYTES_MAX: usize = 10_000;

const PROTOCOL_3: i32 = 196_608;
const CANCEL_REQUEST: i32 = 80_877_102;
const SSL_REQUEST: i32 = 80_877_103;
const GSS_REQUEST: i32 = 80_877_104;

/// What a client opens a connection with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum First {
    /// It asks for encryption; the answer is one byte.
    Encryption,
    Cancel {
        process: i32,
        secret: i32,
    },
    Startup(HashMap<String, String>),
}

/// A message of a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frontend {
    Query(String),
    Parse {
        name: String,
        sql: String,
        types: Vec<u32>,
    },
    Bind {
        portal: String,
        statement: String,
        values: Vec<Option<Bytes>>,
        formats: Vec<i16>,
    },
    Describe {
        portal: bool,
        name: String,
    },
    Execute {
        portal: String,
        rows_max: usize,
    },
    Close {
        portal: bool,
        name: String,
    },
    Password(String),
    Sync,
    Flush,
    Terminate,
    /// A kind the fake server does not speak, such as those of COPY.
    Other(u8),
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Takes the first packet out of `input`; `None` where it is not complete yet.
///
/// # Errors
/// `InvalidData` where it cannot be one.
pub(super) fn take_first(input: &mut BytesMut) -> io::Result<Option<First>> {
    let Some(length) = length_at(input, 0) else { return Ok(None) };
    if !(8..=FIRST_BYTES_MAX).contains(&length) {
        return Err(malformed("invalid length of startup packet"));
    }
    if input.len() < length {
        return Ok(None);
    }
    let mut body = input.split_to(length).freeze();
    body.advance(4);
    match body.get_i32() {
        SSL_REQUEST | GSS_REQUEST => Ok(Some(First::Encryption)),
        CANCEL_REQUEST if body.len() == 8 => {
            Ok(Some(First::Cancel { process: body.get_i32(), secret: body.get_i32() }))
        }
        PROTOCOL_3 => {
            let mut settings = HashMap::new();
            loop {
                let name = text(&mut body)?;
                if name.is_empty() {
                    return Ok(Some(First::Startup(settings)));
                }
                settings.insert(name, text(&mut body)?);
            }
        }
        _ => Err(malformed("unsupported frontend protocol")),
    }
}

/// Takes one message out of `input`; `None` where none is complete yet.
///
/// # Errors
/// `InvalidData` where the bytes cannot be a message.
pub(super) fn take(input: &mut BytesMut) -> io::Result<Option<Frontend>> {
    let Some(length) = length_at(input, 1) else { return Ok(None) };
    if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(malformed("invalid message length"));
    }
    if input.len() < length + 1 {
        return Ok(None);
    }
    let mut body = input.split_to(length + 1).freeze();
    let tag = body.get_u8();
    body.advance(4);
    let message = match tag {
        b'Q' => Frontend::Query(text(&mut body)?),
        b'P' => parse(&mut body)?,
        b'B' => bind(&mut body)?,
        b'D' => Frontend::Describe { portal: target(&mut body)?, name: text(&mut body)? },
        b'C' => Frontend::Close { portal: target(&mut body)?, name: text(&mut body)? },
        b'E' => {
            let portal = text(&mut body)?;
            Frontend::Execute { portal, rows_max: usize::try_from(int32(&mut body)?).unwrap_or(0) }
        }
        b'p' => Frontend::Password(text(&mut body)?),
        b'S' => Frontend::Sync,
        b'H' => Frontend::Flush,
        b'X' => Frontend::Terminate,
        other => Frontend::Other(other),
    };
    Ok(Some(message))
}

fn length_at(input: &BytesMut, offset: usize) -> Option<usize> {
    let bytes: [u8; 4] = input.get(offset..offset + 4)?.try_into().ok()?;
    // A negative length becomes one that is too large.
    Some(u32::from_be_bytes(bytes) as usize)
}

fn parse(body: &mut Bytes) -> io::Result<Frontend> {
    let (name, sql) = (text(body)?, text(body)?);
    let count = int16(body)?;
    let types = (0..count).map(|_| int32(body).map(i32::cast_unsigned)).collect::<io::Result<_>>()?;
    Ok(Frontend::Parse { name, sql, types })
}

fn bind(body: &mut Bytes) -> io::Result<Frontend> {
    let (portal, statement) = (text(body)?, text(body)?);
    // The formats of the values: what the fake server keeps of them it hands back as it came.
    for _ in 0..int16(body)? {
        int16(body)?;
    }
    let count = int16(body)?;
    let values = (0..count).map(|_| value(body)).collect::<io::Result<_>>()?;
    let count = int16(body)?;
    let formats = (0..count).map(|_| int16(body)).collect::<io::Result<_>>()?;
    Ok(Frontend::Bind { portal, statement, values, formats })
}

fn value(body: &mut Bytes) -> io::Result<Option<Bytes>> {
    let Ok(length) = usize::try_from(int32(body)?) else { return Ok(None) };
    if body.len() < length {
        return Err(malformed("a value longer than its message"));
    }
    Ok(Some(body.split_to(length)))
}

fn text(body: &mut Bytes) -> io::Result<String> {
    let end =
        body.iter().position(|byte| *byte == 0).ok_or_else(|| malformed("invalid string in message"))?;
    let bytes = body.split_to(end);
    body.advance(1);
    String::from_utf8(bytes.to_vec()).map_err(|_| malformed("invalid byte sequence for encoding UTF8"))
}

fn target(body: &mut Bytes) -> io::Result<bool> {
    match body.try_get_u8() {
        Ok(b'P') => Ok(true),
        Ok(b'S') => Ok(false),
        _ => Err(malformed("invalid subtype of a message")),
    }
}

fn int16(body: &mut Bytes) -> io::Result<i16> {
    body.try_get_i16().map_err(|_| malformed("insufficient data left in message"))
}

fn int32(body: &mut Bytes) -> io::Result<i32> {
    body.try_get_i32().map_err(|_| malformed("insufficient data left in message"))
}

/// Puts one message at the end of `out`.
pub(super) fn put(out: &mut BytesMut, tag: u8, write: impl FnOnce(&mut BytesMut)) {
    let mut body = BytesMut::new();
    write(&mut body);
    out.put_u8(tag);
    out.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
    out.put_slice(&body);
}

/// A string with its closing zero; a zero inside would end it early and is left out.
pub(super) fn put_text(out: &mut BytesMut, text: &str) {
    out.extend(text.bytes().filter(|byte| *byte != 0));
    out.put_u8(0);
}

/// A number of things, which no message may have more of than this can say.
fn put_count(out: &mut BytesMut, count: usize) {
    out.put_i16(i16::try_from(count).unwrap_or(i16::MAX));
}

pub(super) fn put_parameter_description(out: &mut BytesMut, types: &[Type]) {
    put(out, b't', |body| {
        put_count(body, types.len());
        types.iter().for_each(|kind| body.put_u32(kind.oid()));
    });
}

/// Names and types of the columns that follow, each in its format (1 is binary).
pub(super) fn put_row_description<'c>(
    out: &mut BytesMut,
    columns: impl ExactSizeIterator<Item = (&'c str, &'c Type)>,
    format: impl Fn(usize) -> i16,
) {
    put(out, b'T', |body| {
        put_count(body, columns.len());
        for (index, (name, kind)) in columns.enumerate() {
            put_text(body, name);
            body.put_u32(0);
            body.put_i16(0);
            body.put_u32(kind.oid());
            body.put_i16(-1);
            body.put_i32(-1);
            body.put_i16(format(index));
        }
    });
}

pub(super) fn put_row(out: &mut BytesMut, values: impl ExactSizeIterator<Item = Option<Bytes>>) {
    put(out, b'D', |body| {
        put_count(body, values.len());
        for value in values {
            match value {
                None => body.put_i32(-1),
                Some(bytes) => {
                    body.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
                    body.put_slice(&bytes);
                }
            }
        }
    });
}

pub(super) fn put_parameter_status(out: &mut BytesMut, name: &str, value: &str) {
    put(out, b'S', |body| {
        put_text(body, name);
        put_text(body, value);
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_is_taken_only_when_it_is_complete() {
        let mut whole = BytesMut::new();
        put(&mut whole, b'Q', |body| put_text(body, "SELECT 1"));
        for end in 0..whole.len() {
            assert_eq!(take(&mut BytesMut::from(&whole[..end])).unwrap(), None);
        }
        whole.put_slice(b"S\0\0\0\x04");
        assert_eq!(take(&mut whole).unwrap(), Some(Frontend::Query("SELECT 1".to_owned())));
        assert_eq!(take(&mut whole).unwrap(), Some(Frontend::Sync));
        assert!(whole.is_empty());
    }

    #[test]
    fn lengths_that_cannot_be_are_refused_before_anything_is_kept() {
        for length in [0_u32, 3, MESSAGE_BYTES_MAX as u32 + 1, u32::MAX] {
            let mut input = BytesMut::from(&b"Q"[..]);
            input.put_u32(length);
            assert!(take(&mut input).is_err(), "{length}");
        }
        assert!(take_first(&mut BytesMut::from(&b"GET / HTTP/1.1\r\n"[..])).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), tag in any::<u8>()) {
            let _ = take_first(&mut BytesMut::from(&bytes[..]));
            let mut framed = BytesMut::new();
            put(&mut framed, tag, |body| body.put_slice(&bytes));
            let _ = take(&mut framed);
        }
    }
}
