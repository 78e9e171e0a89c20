//! What passed through the proxy, with times: the witness of what clients and server did. It judges nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::time::Instant;

use crate::pgwire::follow::Asked;
use crate::pgwire::frame::{Frame, Kind, Sender};
use crate::pgwire::message;
use crate::pgwire::sql::Statement;

/// Moments of one kind that are kept: a storm of connections is a few thousand; the oldest go first.
const TIMES_MAX: usize = 100_000;
/// Messages that a recording holds; a transaction has dozens.
const RECORDED_MAX: usize = 10_000;

/// How much of everything there was, from the start of the proxy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Connections asked for, whether or not the server was there.
    pub connections: u64,
    /// Of those, the ones that the server did not accept.
    pub unreachable: u64,
    /// Sessions that clients began, whether or not the server was there.
    pub sessions: u64,
    /// Of those, the ones that are open now.
    pub sessions_open: u64,
    /// Cancel requests of clients, whether or not they were passed on.
    pub cancels: u64,
    /// Of those, the ones that named a session which is open here.
    pub cancels_of_sessions: u64,
    /// Statements sent to the server, by the simple protocol or executed by the extended one.
    pub statements: u64,
    /// Bytes that clients sent.
    pub bytes_from_clients: u64,
    /// Bytes that the server sent.
    pub bytes_from_server: u64,
    /// Effects of all rules.
    pub bites: u64,
    /// Connections ended because of bytes that are no message, or a too long one.
    pub malformed: u64,
}

/// A message of a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The session, counted from 1.
    pub session: u64,
    /// What it is.
    pub message: Kind,
    /// Its length in bytes.
    pub length: usize,
    /// The tag of a `CommandComplete`, the SQLSTATE of an error or a notice.
    pub about: Option<String>,
    /// The statement it belongs to; of a long one the beginning.
    pub statement: Option<String>,
    /// Whether the server is ready with it, and in no transaction.
    pub is_idle: bool,
}

/// A statement of the extended protocol that only read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The statement; of a long one the beginning.
    pub statement: String,
    /// The same for the same parameters.
    pub given: u64,
    /// When it was sent to the server.
    pub from: Instant,
    /// When it was answered, or its session was over.
    pub until: Instant,
}

/// The counts of a proxy.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) counts: Counts,
    pub(super) arrivals: Times,
    pub(super) statements: Times,
    /// The open sessions and what cancel requests call them.
    keys: HashMap<u64, Option<Bytes>>,
    recording: Option<Vec<Recorded>>,
    /// Reads with their ends, the last ones, where somebody wants to know.
    reads: Option<VecDeque<(Asked, Instant)>>,
}

/// Moments in order, the last ones.
#[derive(Debug, Default)]
pub(super) struct Times(VecDeque<Instant>);

impl Times {
    pub(super) fn push(&mut self, now: Instant) {
        if self.0.len() == TIMES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(now);
    }

    /// Takes one out again, as far as it is still there.
    pub(super) fn forget(&mut self, at: Instant) {
        if let Some(place) = self.0.iter().rposition(|other| *other == at) {
            self.0.remove(place);
        }
    }

    pub(super) fn all(&self) -> Vec<Instant> {
        self.0.iter().copied().collect()
    }
}

/// Counted without a lock, because each read does it.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    from_clients: AtomicU64,
    from_server: AtomicU64,
}

impl Traffic {
    pub(super) fn add(&self, sender: Sender, bytes: usize) {
        let counter = if sender == Sender::Client { &self.from_clients } else { &self.from_server };
        counter.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn put_into(&self, counts: &mut Counts) {
        counts.bytes_from_clients = self.from_clients.load(Ordering::Relaxed);
        counts.bytes_from_server = self.from_server.load(Ordering::Relaxed);
    }
}

impl Tally {
    /// A session begins; answers its number.
    pub(super) fn begin(&mut self) -> u64 {
        self.counts.sessions += 1;
        self.counts.sessions_open += 1;
        self.keys.insert(self.counts.sessions, None);
        self.counts.sessions
    }

    pub(super) fn end(&mut self, session: u64) {
        self.counts.sessions_open = self.counts.sessions_open.saturating_sub(1);
        self.keys.remove(&session);
    }

    /// A message passes in a session.
    pub(super) fn passes(&mut self, session: u64, frame: &Frame, statement: Option<&Statement>) {
        if frame.kind == Kind::client(b'Q') || frame.kind == Kind::client(b'E') {
            self.counts.statements += 1;
            self.statements.push(Instant::now());
        }
        if frame.kind == Kind::server(b'K') {
            self.keys.insert(session, message::key(frame));
        }
        if let Some(recording) = self.recording.as_mut().filter(|recording| recording.len() < RECORDED_MAX) {
            recording.push(Recorded {
                session,
                message: frame.kind,
                length: frame.bytes.len(),
                about: message::tag(frame).or_else(|| message::code(frame)),
                statement: statement.map(|statement| statement.text().to_owned()),
                is_idle: message::status(frame) == Some(message::IDLE),
            });
        }
    }

    /// The open session that a cancel request names.
    pub(super) fn session_of(&self, key: &Bytes) -> Option<u64> {
        let named = self.keys.iter().find(|(_, known)| known.as_ref() == Some(key));
        named.map(|(session, _)| *session)
    }

    /// The process at the server that serves a session.
    pub(super) fn process_of(&self, session: u64) -> Option<i32> {
        self.keys.get(&session)?.as_ref().and_then(message::process)
    }

    pub(super) fn watch_reads(&mut self) {
        self.reads.get_or_insert_default();
    }

    pub(super) fn answered(&mut self, reads: impl Iterator<Item = Asked>, now: Instant) {
        let Some(kept) = self.reads.as_mut() else { return };
        for read in reads {
            if kept.len() == TIMES_MAX {
                kept.pop_front();
            }
            kept.push_back((read, now));
        }
    }

    pub(super) fn reads(&self) -> Vec<Read> {
        let told = |(read, until): &(Asked, Instant)| Read {
            statement: read.statement.text().to_owned(),
            given: read.given,
            from: read.at,
            until: *until,
        };
        self.reads.iter().flatten().map(told).collect()
    }

    pub(super) fn record(&mut self, on: bool) {
        self.recording = on.then(Vec::new);
    }

    pub(super) fn recorded(&self) -> Vec<Recorded> {
        self.recording.clone().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgwire::frame::tests::{FROM_SERVER, frames};

    #[test]
    fn a_cancel_request_names_one_session_only_while_that_is_open() {
        let mut tally = Tally::default();
        let (one, two) = (tally.begin(), tally.begin());
        let greeting = frames(Sender::Server, FROM_SERVER);
        for frame in &greeting {
            tally.passes(two, frame, None);
        }
        let request = b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\x10\x01\x12\x34\x56\x78";
        let key = message::key(&frames(Sender::Client, request)[0]).unwrap();
        assert_eq!((tally.session_of(&key), tally.process_of(two)), (Some(two), Some(0x1001)));
        assert_eq!(tally.process_of(one), None);
        tally.end(two);
        assert_eq!(tally.session_of(&key), None);
        assert_eq!((tally.counts.sessions, tally.counts.sessions_open), (2, 1));
    }

    #[test]
    fn memory_is_bounded() {
        let mut times = Times::default();
        let now = Instant::now();
        for _ in 0..TIMES_MAX + 5 {
            times.push(now);
        }
        assert_eq!(times.all().len(), TIMES_MAX);
        times.push(now + std::time::Duration::from_secs(1));
        times.forget(now);
        assert_eq!(
            (times.all().len(), times.all().last()),
            (TIMES_MAX - 1, Some(&(now + std::time::Duration::from_secs(1))))
        );
        times.forget(now + std::time::Duration::from_secs(2));
        assert_eq!(times.all().len(), TIMES_MAX - 1, "it was none of them");
        let mut tally = Tally::default();
        tally.record(true);
        let query = message::query("select 1");
        for _ in 0..RECORDED_MAX + 5 {
            tally.passes(1, &query, None);
        }
        assert_eq!(tally.recorded().len(), RECORDED_MAX);
        assert_eq!(tally.counts.statements, RECORDED_MAX as u64 + 5);
    }
}
