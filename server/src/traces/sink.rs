//! A collector for tests: it answers, refuses, hangs or is dead, and reads what it was sent with eyes of its own.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What it does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Answers,
    Refuses,
    Hangs,
}

pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
    running: JoinHandle<()>,
}

/// A span as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) trace: String,
    pub(crate) span: String,
    pub(crate) parent: String,
    pub(crate) state: String,
    pub(crate) name: String,
    pub(crate) kind: u64,
    /// Keys with the values that are texts.
    pub(crate) attributes: Vec<(String, String)>,
}

impl Sink {
    pub(crate) async fn start(manner: Manner) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), manner).await
    }

    pub(crate) async fn start_at(address: SocketAddr, manner: Manner) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let bodies = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let taken = Arc::clone(&bodies);
        let running = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, manner, Arc::clone(&taken)));
            }
        });
        Self { address, bodies, running }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}/v1/traces", self.address)
    }

    /// Nothing listens there any more.
    pub(crate) async fn dies(self) -> SocketAddr {
        self.running.abort();
        let _ = self.running.await;
        self.address
    }

    /// All that was sent, as it was.
    pub(crate) fn raw(&self) -> Vec<u8> {
        self.bodies.lock().unwrap().concat()
    }

    pub(crate) fn spans(&self) -> Vec<Sent> {
        let bodies = self.bodies.lock().unwrap();
        let resources = bodies.iter().flat_map(|body| parts(body, 1));
        let scopes = resources.flat_map(|resource| parts(resource, 2));
        scopes.flat_map(|scope| parts(scope, 2)).map(sent).collect()
    }
}

async fn serve(mut stream: TcpStream, manner: Manner, taken: Arc<Mutex<Vec<Vec<u8>>>>) {
    let mut read = Vec::new();
    let (head, length) = loop {
        if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
            return;
        }
        let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(read[..end].to_vec()).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.unwrap().parse().unwrap();
        if read.len() >= end + 4 + length {
            break (head, length);
        }
    };
    assert!(head.starts_with("post /v1/traces http/1.1"), "{head}");
    assert!(head.contains("content-type: application/x-protobuf"), "{head}");
    let answer: &[u8] = match manner {
        Manner::Hangs => return std::future::pending().await,
        Manner::Refuses => b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
        Manner::Answers => {
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"
        }
    };
    if manner == Manner::Answers {
        taken.lock().unwrap().push(read[read.len() - length..].to_vec());
    }
    let _ = stream.write_all(answer).await;
}

/// One field of a message in protobuf.
enum Field<'m> {
    Number(u64),
    Bytes(&'m [u8]),
}

/// Its fields in order, each with its number.
fn fields(mut message: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = number(&mut message);
        let fixed = |message: &mut &[u8], length: usize| {
            let (field, rest) = message.split_at(length);
            *message = rest;
            Field::Number(field.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
        };
        let field = match tag & 7 {
            0 => Field::Number(number(&mut message)),
            1 => fixed(&mut message, 8),
            5 => fixed(&mut message, 4),
            2 => {
                let length = number(&mut message) as usize;
                let (field, rest) = message.split_at(length);
                message = rest;
                Field::Bytes(field)
            }
            other => panic!("no wire type {other}"),
        };
        found.push((tag >> 3, field));
    }
    found
}

fn number(message: &mut &[u8]) -> u64 {
    let mut sum = 0;
    for place in 0.. {
        let (byte, rest) = message.split_first().unwrap();
        *message = rest;
        sum |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            break;
        }
    }
    sum
}

/// The fields of this number that are bytes.
fn parts(message: &[u8], wanted: u64) -> Vec<&[u8]> {
    let bytes = |(number, field)| match field {
        Field::Bytes(bytes) if number == wanted => Some(bytes),
        _ => None,
    };
    fields(message).into_iter().filter_map(bytes).collect()
}

fn sent(span: &[u8]) -> Sent {
    let first = |wanted: u64| parts(span, wanted).first().map_or(&[][..], |bytes| *bytes).to_vec();
    let hex = |wanted| crate::identity::hexadecimal(&first(wanted));
    let text = |wanted| String::from_utf8(first(wanted)).unwrap();
    let kind = fields(span).into_iter().find_map(|(number, field)| match field {
        Field::Number(kind) if number == 6 => Some(kind),
        _ => None,
    });
    let attribute = |pair: &[u8]| {
        let text = |message: &[u8], number| {
            parts(message, number).first().map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
        };
        let value = parts(pair, 2).first().and_then(|value| text(value, 1));
        (text(pair, 1).unwrap_or_default(), value.unwrap_or_default())
    };
    Sent {
        trace: hex(1),
        span: hex(2),
        state: text(3),
        parent: hex(4),
        name: text(5),
        kind: kind.unwrap_or_default(),
        attributes: parts(span, 9).into_iter().map(attribute).collect(),
    }
}
