//! A server of a few words for the tests of pool and reaper: it lives in memory, knows transactions, and can be told to
//! hang, to die, or not to be there.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::SeqCst},
    },
};

use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::Notify,
};

use crate::db::connector::{BoxStream, Connector, HostAddress};

const CANCEL: u32 = 80_877_102;

#[derive(Debug, Default)]
pub(in crate::db) struct Fake {
    pub(in crate::db) connects: AtomicUsize,
    pub(in crate::db) cancels: AtomicUsize,
    /// Connections are refused.
    pub(in crate::db) is_away: AtomicBool,
    /// Cancel requests are taken and not acted on.
    pub(in crate::db) is_deaf: AtomicBool,
    /// Cancel requests are acted on two seconds late.
    pub(in crate::db) is_slow_to_cancel: AtomicBool,
    /// Says 53300 to everyone.
    pub(in crate::db) is_full: AtomicBool,
    /// Every session ends now.
    pub(in crate::db) all_die: Notify,
    processes: AtomicI32,
    interrupts: Mutex<HashMap<i32, Arc<Notify>>>,
}

/// The `Connector` of a fake.
#[derive(Debug)]
pub(in crate::db) struct ToFake(pub(in crate::db) Arc<Fake>);

impl Connector for ToFake {
    fn connect<'a>(&'a self, _host: &'a HostAddress) -> BoxFuture<'a, io::Result<BoxStream>> {
        Box::pin(async move {
            self.0.connects.fetch_add(1, SeqCst);
            if self.0.is_away.load(SeqCst) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (ours, theirs) = tokio::io::duplex(4096);
            let fake = Arc::clone(&self.0);
            tokio::spawn(async move {
                tokio::select! {
                    _ = fake.serve(theirs) => {}
                    () = fake.all_die.notified() => {}
                }
            });
            Ok(Box::new(ours) as BoxStream)
        })
    }
}

impl Fake {
    async fn serve(&self, mut stream: DuplexStream) -> io::Result<()> {
        let length = stream.read_u32().await?;
        let mut start = vec![0; length as usize - 4];
        stream.read_exact(&mut start).await?;
        let number = |at: usize| u32::from_be_bytes(start[at..at + 4].try_into().unwrap());
        if number(0) == CANCEL {
            self.cancels.fetch_add(1, SeqCst);
            if self.is_slow_to_cancel.load(SeqCst) {
                tokio::time::sleep(std::time::Duration::from_secs(2)).await;
            }
            if !self.is_deaf.load(SeqCst) {
                self.interrupts.lock().unwrap()[&number(4).cast_signed()].notify_one();
            }
            return Ok(());
        }
        if self.is_full.load(SeqCst) {
            return stream.write_all(&message(b'E', b"SFATAL\0VFATAL\0C53300\0Mfull\0\0")).await;
        }
        let process = self.processes.fetch_add(1, SeqCst);
        let interrupt = Arc::new(Notify::new());
        self.interrupts.lock().unwrap().insert(process, Arc::clone(&interrupt));
        let mut greeting = message(b'R', &[0; 4]);
        greeting.extend(message(b'K', &[&process.to_be_bytes()[..], &[7; 4]].concat()));
        greeting.extend(message(b'Z', b"I"));
        stream.write_all(&greeting).await?;
        let mut status = b'I';
        loop {
            let tag = stream.read_u8().await?;
            let length = stream.read_u32().await?;
            let mut body = vec![0; length as usize - 4];
            stream.read_exact(&mut body).await?;
            let text = String::from_utf8_lossy(&body).trim_end_matches('\0').to_owned();
            let mut answer = match (tag, text.as_str()) {
                (b'Q', "") => message(b'I', b""),
                (b'Q', "BEGIN") => tagged(&mut status, b'T', "BEGIN"),
                (b'Q', "ROLLBACK" | "COMMIT") => tagged(&mut status, b'I', "ROLLBACK"),
                (b'Q', "hang") => {
                    interrupt.notified().await;
                    if status == b'T' {
                        status = b'E';
                    }
                    message(b'E', b"SERROR\0VERROR\0C57014\0Mcanceling\0\0")
                }
                (b'Q', "slow COMMIT") => {
                    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
                    tagged(&mut status, b'I', "COMMIT")
                }
                (b'Q', "die") => return Ok(()),
                (b'Q', _) => identity(),
                (b'S', _) => Vec::new(),
                _ => return Ok(()),
            };
            answer.extend(message(b'Z', &[status]));
            stream.write_all(&answer).await?;
        }
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

fn tagged(status: &mut u8, becomes: u8, tag: &str) -> Vec<u8> {
    *status = becomes;
    message(b'C', format!("{tag}\0").as_bytes())
}

/// A standby of 15.18 with a name and a timeline.
fn identity() -> Vec<u8> {
    let values = ["t", "on", "150018", "-2", "7"];
    let (mut description, mut row) = (vec![0, 5], vec![0, 5]);
    for value in values {
        description.extend(b"x\0");
        description.extend([0; 18]);
        row.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        row.extend(value.as_bytes());
    }
    [message(b'T', &description), message(b'D', &row), message(b'C', b"SELECT 1\0")].concat()
}
