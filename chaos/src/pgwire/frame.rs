//! The bytes of both directions split into messages, whatever way they arrive. It knows the kinds of messages by name and
//! the limits of their length; what is inside is read in `message`.

use std::fmt;
use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// A longer message ends the connection: nothing that a test needs is larger, and each direction of each connection may
/// hold one in memory.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// PostgreSQL's own limit for what comes before the first message with a type.
pub const FIRST_BYTES_MAX: usize = 10_000;
/// Type and length.
pub(super) const HEADER: usize = 5;
/// Room for one read.
const READ_BYTES: usize = 16 * 1024;

const PROTOCOL_MAJOR: u16 = 3;
const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;

/// Who sends a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sender {
    /// The program in front of the proxy.
    Client,
    /// PostgreSQL.
    Server,
}

impl fmt::Display for Sender {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

/// What a message is, by the protocol's own name, such as `client Query`. The packets that come before the first message
/// with a type are `Startup`, `SslRequest`, `GssRequest` and `CancelRequest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind {
    sender: Sender,
    code: u8,
}

/// The digits stand for packets without a type; no message of a client has one.
const CLIENT: [(u8, &str); 18] = [
    (b'0', "Startup"),
    (b'1', "SslRequest"),
    (b'2', "GssRequest"),
    (b'3', "CancelRequest"),
    (b'B', "Bind"),
    (b'C', "Close"),
    (b'D', "Describe"),
    (b'E', "Execute"),
    (b'F', "FunctionCall"),
    (b'H', "Flush"),
    (b'P', "Parse"),
    (b'Q', "Query"),
    (b'S', "Sync"),
    (b'X', "Terminate"),
    (b'c', "CopyDone"),
    (b'd', "CopyData"),
    (b'f', "CopyFail"),
    (b'p', "Password"),
];
const SERVER: [(u8, &str); 24] = [
    (b'1', "ParseComplete"),
    (b'2', "BindComplete"),
    (b'3', "CloseComplete"),
    (b'A', "NotificationResponse"),
    (b'C', "CommandComplete"),
    (b'D', "DataRow"),
    (b'E', "ErrorResponse"),
    (b'G', "CopyInResponse"),
    (b'H', "CopyOutResponse"),
    (b'I', "EmptyQueryResponse"),
    (b'K', "BackendKeyData"),
    (b'N', "NoticeResponse"),
    (b'R', "Authentication"),
    (b'S', "ParameterStatus"),
    (b'T', "RowDescription"),
    (b'V', "FunctionCallResponse"),
    (b'W', "CopyBothResponse"),
    (b'Z', "ReadyForQuery"),
    (b'c', "CopyDone"),
    (b'd', "CopyData"),
    (b'n', "NoData"),
    (b's', "PortalSuspended"),
    (b't', "ParameterDescription"),
    (b'v', "NegotiateProtocolVersion"),
];
/// A kind that came with a later version of the protocol; it passes.
const UNKNOWN: &str = "Unknown";

impl Kind {
    pub(super) const STARTUP: Self = Self::client(b'0');
    pub(super) const SSL_REQUEST: Self = Self::client(b'1');
    pub(super) const GSS_REQUEST: Self = Self::client(b'2');
    pub(super) const CANCEL_REQUEST: Self = Self::client(b'3');

    pub(super) const fn client(code: u8) -> Self {
        Self { sender: Sender::Client, code }
    }

    pub(super) const fn server(code: u8) -> Self {
        Self { sender: Sender::Server, code }
    }

    /// The kind of this name.
    #[must_use]
    pub fn named(sender: Sender, name: &str) -> Option<Self> {
        let (code, _) = table(sender).iter().find(|(_, known)| *known == name)?;
        Some(Self { sender, code: *code })
    }

    /// Every name there is for messages of this sender.
    pub fn names(sender: Sender) -> impl Iterator<Item = &'static str> {
        table(sender).iter().map(|(_, name)| *name)
    }

    /// Who sends it.
    #[must_use]
    pub fn sender(self) -> Sender {
        self.sender
    }

    /// Its name in the protocol's description.
    #[must_use]
    pub fn name(self) -> &'static str {
        let known = table(self.sender).iter().find(|(code, _)| *code == self.code);
        known.map_or(UNKNOWN, |(_, name)| *name)
    }

    /// The letter of the protocol; a digit for packets without a type.
    pub(super) fn code(self) -> u8 {
        self.code
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.sender, self.name())
    }
}

fn table(sender: Sender) -> &'static [(u8, &'static str)] {
    match sender {
        Sender::Client => &CLIENT,
        Sender::Server => &SERVER,
    }
}

/// One message, with type and length as they were on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// All of it.
    pub bytes: Bytes,
}

impl Frame {
    /// What follows type and length.
    pub(super) fn body(&self) -> &[u8] {
        let header =
            if self.kind.code.is_ascii_digit() && self.kind.sender == Sender::Client { 4 } else { HEADER };
        self.bytes.get(header..).unwrap_or_default()
    }
}

/// What has arrived of one direction and is not yet a whole message.
#[derive(Debug)]
pub struct Frames {
    sender: Sender,
    bytes: BytesMut,
    /// The client's first packets have no type.
    is_begun: bool,
}

impl Frames {
    /// Nothing has arrived yet.
    #[must_use]
    pub fn of(sender: Sender) -> Self {
        Self { sender, bytes: BytesMut::new(), is_begun: sender == Sender::Server }
    }

    /// More has arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Reads what there is; 0 at the end of the stream.
    pub(super) async fn read_from(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        self.bytes.reserve(READ_BYTES);
        from.read_buf(&mut self.bytes).await
    }

    /// Whether nothing waits to become a message.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next whole message; `None` where more must arrive first.
    ///
    /// # Errors
    /// `InvalidData` where the bytes cannot be a message, or one that is too long.
    pub fn next_frame(&mut self) -> io::Result<Option<Frame>> {
        let header = usize::from(self.is_begun);
        let Some(mut length) = self.bytes.get(header..header + 4) else { return Ok(None) };
        let length = usize::try_from(length.get_u32()).unwrap_or(usize::MAX);
        let (least, most) = if self.is_begun { (4, MESSAGE_BYTES_MAX) } else { (8, FIRST_BYTES_MAX) };
        if !(least..=most).contains(&length) {
            return Err(malformed("a message has an impossible length"));
        }
        let whole = header + length;
        if self.bytes.len() < whole {
            return Ok(None);
        }
        let bytes = self.bytes.split_to(whole).freeze();
        let code = bytes.first().copied().unwrap_or_default();
        let kind = if self.is_begun { Kind { sender: self.sender, code } } else { first_kind(&bytes)? };
        // After a question about encryption another packet without a type follows.
        self.is_begun = self.is_begun || kind == Kind::STARTUP;
        Ok(Some(Frame { kind, bytes }))
    }
}

fn first_kind(bytes: &[u8]) -> io::Result<Kind> {
    let mut code = bytes.get(4..8).unwrap_or_default();
    match code.try_get_u32().unwrap_or_default() {
        SSL_REQUEST => Ok(Kind::SSL_REQUEST),
        GSS_REQUEST => Ok(Kind::GSS_REQUEST),
        CANCEL_REQUEST => Ok(Kind::CANCEL_REQUEST),
        version if version >> 16 == u32::from(PROTOCOL_MAJOR) => Ok(Kind::STARTUP),
        _ => Err(malformed("not the protocol of PostgreSQL 7.4 and later")),
    }
}

pub(super) fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Recorded from a driver that asks for encryption, starts, and sends one statement by the extended protocol.
    pub(in crate::pgwire) const FROM_CLIENT: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f\
        \0\0\0\x28\0\x03\0\0user\0app\0database\0app\0client\0x\0\0\
        P\0\0\0\x19s1\0select $1::int4\0\0\0\
        D\0\0\0\x08Ss1\0S\0\0\0\x04\
        B\0\0\0\x18\0s1\0\0\x01\0\x01\0\x01\0\0\0\x04\0\0\0\x07\0\0\
        E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04X\0\0\0\x04";
    /// The answers to it.
    pub(in crate::pgwire) const FROM_SERVER: &[u8] = b"R\0\0\0\x08\0\0\0\0\
        S\0\0\0\x09a\0on\0K\0\0\0\x0c\0\0\x10\x01\x12\x34\x56\x78Z\0\0\0\x05I\
        1\0\0\0\x04t\0\0\0\x0a\0\x01\0\0\0\x17Z\0\0\0\x05I\
        2\0\0\0\x04D\0\0\0\x0e\0\x01\0\0\0\x04\0\0\0\x07C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I";

    pub(in crate::pgwire) fn frames(sender: Sender, bytes: &[u8]) -> Vec<Frame> {
        let mut frames = Frames::of(sender);
        frames.push(bytes);
        let mut found = Vec::new();
        while let Some(frame) = frames.next_frame().unwrap() {
            found.push(frame);
        }
        assert!(frames.is_empty(), "bytes are left over");
        found
    }

    fn names(sender: Sender, bytes: &[u8]) -> Vec<&'static str> {
        frames(sender, bytes).iter().map(|frame| frame.kind.name()).collect()
    }

    #[test]
    fn a_recorded_conversation_is_split_into_its_messages() {
        let client =
            ["SslRequest", "Startup", "Parse", "Describe", "Sync", "Bind", "Execute", "Sync", "Terminate"];
        assert_eq!(names(Sender::Client, FROM_CLIENT), client);
        let server =
            ["Authentication", "ParameterStatus", "BackendKeyData", "ReadyForQuery", "ParseComplete"];
        let after = ["ParameterDescription", "ReadyForQuery", "BindComplete", "DataRow", "CommandComplete"];
        let all: Vec<_> = server.into_iter().chain(after).chain(["ReadyForQuery"]).collect();
        assert_eq!(names(Sender::Server, FROM_SERVER), all);
    }

    #[test]
    fn impossible_lengths_are_refused_before_anything_is_kept() {
        for (sender, bytes) in [
            (Sender::Server, &b"D\xff\xff\xff\xff"[..]),
            (Sender::Server, b"D\0\0\0\x03"),
            (Sender::Server, b"D\x7f\xff\xff\xff"),
            (Sender::Client, b"\0\0\x40\0"),
            (Sender::Client, b"\0\0\0\x07"),
            // A client that speaks TLS without asking.
            (Sender::Client, b"\x16\x03\x01\x02\0\x01"),
            (Sender::Client, b"GET / HTTP/1.1\r\n"),
            (Sender::Client, b"\0\0\0\x08\0\x02\0\0"),
        ] {
            let mut frames = Frames::of(sender);
            frames.push(bytes);
            let refused = frames.next_frame().unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
            assert!(frames.bytes.capacity() < READ_BYTES, "{bytes:?}");
        }
    }

    #[test]
    fn every_kind_is_found_by_its_name() {
        for sender in [Sender::Client, Sender::Server] {
            for name in Kind::names(sender) {
                assert_eq!(Kind::named(sender, name).unwrap().name(), name);
            }
        }
        assert_eq!(Kind::server(b'?').name(), "Unknown");
    }

    proptest! {
        /// Whatever way the bytes arrive, the messages are the same.
        #[test]
        fn any_split_gives_the_same_frames(cuts in proptest::collection::vec(0_usize..200, 0..20)) {
            for (sender, bytes) in [(Sender::Client, FROM_CLIENT), (Sender::Server, FROM_SERVER)] {
                let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % bytes.len()).collect();
                cuts.extend([0, bytes.len()]);
                cuts.sort_unstable();
                let mut split = Frames::of(sender);
                let mut found = Vec::new();
                for pair in cuts.windows(2) {
                    split.push(&bytes[pair[0]..pair[1]]);
                    while let Some(frame) = split.next_frame().unwrap() {
                        found.push(frame);
                    }
                }
                prop_assert_eq!(&found, &frames(sender, bytes));
                let again: Vec<u8> = found.iter().flat_map(|frame| frame.bytes.to_vec()).collect();
                prop_assert_eq!(again, bytes);
            }
        }

        /// Hostile bytes are an error or a message, never a panic, and nothing is kept beyond what has come and one
        /// message's room.
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), client: bool) {
            let mut frames = Frames::of(if client { Sender::Client } else { Sender::Server });
            frames.push(&bytes);
            while let Ok(Some(_)) = frames.next_frame() {}
            prop_assert!(frames.bytes.capacity() <= READ_BYTES);
        }
    }
}
