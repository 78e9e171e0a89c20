//! The ear on a connection: what was handed to the socket, in which state the server says the session is, and its last
//! words. The driver throws all three away.
//!
//! It listens and changes nothing, but for one thing: a sealed ear lets no further byte out.

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use super::frames::{Message, ROLLED_BACK};
use crate::error::{LastWords, Severity};

/// The top bit of the count of bytes: once set, no byte goes out any more.
const SEALED: u64 = 1 << 63;

/// What one connection has said and heard. Written by the connection's task, read by whoever holds the session.
#[derive(Debug)]
pub(crate) struct Ear {
    host: usize,
    /// Bytes offered to the socket since the connection began.
    offered: AtomicU64,
    /// Requests that were sent whole, and how many of them were answered to the end.
    requests: AtomicU64,
    answered: AtomicU64,
    /// A request was begun and is not whole yet.
    is_begun: AtomicBool,
    /// The bytes can no longer be told apart.
    is_lost: AtomicBool,
    /// The byte of the last ReadyForQuery: `I`, `T` or `E`; 0 before the first.
    status: AtomicU8,
    /// The last statement that was done rolled back.
    rolled_back: AtomicBool,
    key: OnceLock<[u8; 8]>,
    words: Mutex<Option<LastWords>>,
    /// There are words: without them, which is nearly always, an answer takes no lock.
    has_words: AtomicBool,
}

/// A point in what was sent. See [`Ear::mark`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(u64);

impl Ear {
    pub(super) fn new(host: usize) -> Self {
        Self {
            host,
            offered: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            is_begun: AtomicBool::new(false),
            is_lost: AtomicBool::new(false),
            status: AtomicU8::new(0),
            rolled_back: AtomicBool::new(false),
            key: OnceLock::new(),
            words: Mutex::new(None),
            has_words: AtomicBool::new(false),
        }
    }

    /// Where the stream of sent bytes is now.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.offered.load(Ordering::Acquire) & !SEALED)
    }

    /// Whether any byte was offered to the socket since `mark`. "No" is proof only once the connection has ended; before
    /// that, [`seal_unless_sent`](Self::seal_unless_sent) makes it one.
    pub(crate) fn sent_since(&self, mark: Mark) -> bool {
        self.mark() != mark
    }

    /// Proves that nothing was sent since `mark`, and that nothing will be; `false` where something was.
    pub(crate) fn seal_unless_sent(&self, mark: Mark) -> bool {
        let sealing =
            self.offered.compare_exchange(mark.0, mark.0 | SEALED, Ordering::AcqRel, Ordering::Acquire);
        sealing.is_ok() || sealing == Err(mark.0 | SEALED)
    }

    /// Whether the session is idle and in no transaction, as far as the server's own words prove it.
    pub(crate) fn is_idle(&self) -> bool {
        self.status.load(Ordering::Acquire) == b'I' && !self.is_busy()
    }

    /// Whether the server has said once that it is ready: the greeting is over.
    pub(super) fn was_ready(&self) -> bool {
        self.status.load(Ordering::Acquire) != 0
    }

    /// Whether a request waits for its answer, or nobody can tell.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
            || self.is_begun.load(Ordering::Acquire)
            || self.requests.load(Ordering::Acquire) != self.answered.load(Ordering::Acquire)
    }

    /// Whether the server last said that a transaction is open, failed ones included.
    pub(crate) fn is_in_transaction(&self) -> bool {
        matches!(self.status.load(Ordering::Acquire), b'T' | b'E')
    }

    /// Whether the last statement that was done rolled back, whatever was asked for.
    pub(crate) fn has_rolled_back(&self) -> bool {
        self.rolled_back.load(Ordering::Acquire)
    }

    /// What the server said last without being asked, or when it ended the session.
    pub(crate) fn last_words(&self) -> Option<LastWords> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The process that serves this session, and the secret that lets cancel it.
    pub(crate) fn cancel_key(&self) -> Option<[u8; 8]> {
        self.key.get().copied()
    }

    /// The server's process of this session; behind a pooler, a number of the pooler's.
    pub(crate) fn process_id(&self) -> Option<i32> {
        self.cancel_key().map(|[a, b, c, d, ..]| i32::from_be_bytes([a, b, c, d]))
    }

    /// Announces `bytes` that are about to go out; `false` where they must not.
    pub(super) fn offer(&self, bytes: usize) -> bool {
        self.offered.fetch_add(bytes as u64, Ordering::AcqRel) & SEALED == 0
    }

    /// A part of a message went out.
    pub(super) fn began(&self) {
        self.is_begun.store(true, Ordering::Release);
    }

    /// A message of the client went out whole.
    pub(super) fn said(&self, message: &Message<'_>) {
        match message.tag {
            // The start of the session counts as a request: its answer ends with ReadyForQuery too.
            0 | b'Q' | b'S' | b'F' => {
                self.requests.fetch_add(1, Ordering::AcqRel);
                self.is_begun.store(false, Ordering::Release);
            }
            // A password belongs to the start; a goodbye has no answer.
            b'p' | b'X' => {}
            _ => self.is_begun.store(true, Ordering::Release),
        }
    }

    /// The server said this.
    pub(super) fn heard(&self, message: &Message<'_>) {
        match (message.tag, message.body) {
            (b'Z', [status]) => self.became_ready(*status),
            (b'C', tag) => self.rolled_back.store(tag == ROLLED_BACK, Ordering::Release),
            (b'K', key) => {
                // Keys of other lengths belong to a protocol that the driver does not speak.
                if let Ok(key) = key.try_into() {
                    let _ = self.key.set(key);
                }
            }
            // COPY begins: the server swallows the Sync that was sent along with it.
            (b'G' | b'W', _) => {
                let _ = self.requests.fetch_update(Ordering::AcqRel, Ordering::Acquire, |requests| {
                    (requests > self.answered.load(Ordering::Acquire)).then(|| requests - 1)
                });
            }
            (b'E' | b'N', fields) => self.heard_words(message.tag, fields),
            _ => {}
        }
    }

    /// From here on nobody can tell what is being said.
    pub(super) fn lose(&self) {
        self.is_lost.store(true, Ordering::Release);
    }

    fn became_ready(&self, status: u8) {
        self.status.store(status, Ordering::Release);
        let answered = self.answered.fetch_add(1, Ordering::AcqRel) + 1;
        if self.requests.load(Ordering::Acquire) < answered {
            self.requests.fetch_max(answered, Ordering::AcqRel);
        }
        if !self.has_words.load(Ordering::Acquire) {
            return;
        }
        // The session went on, so whatever was said before was not the end of it.
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        if words.as_ref().is_some_and(|words| !words.severity.ends_session()) {
            *words = None;
            self.has_words.store(false, Ordering::Release);
        }
    }

    fn heard_words(&self, tag: u8, fields: &[u8]) {
        let (mut severity, mut translated, mut code) = (None, None, None);
        for field in fields.split(|byte| *byte == 0) {
            let Some((kind, value)) = field.split_first() else { continue };
            match kind {
                b'V' => severity = Some(value),
                b'S' => translated = Some(value),
                b'C' => code = Some(value),
                _ => {}
            }
        }
        let severity = match severity.or(translated) {
            Some(b"FATAL") => Severity::Fatal,
            Some(b"PANIC") => Severity::Panic,
            _ if tag == b'E' => Severity::Error,
            _ => Severity::Notice,
        };
        let code: String = String::from_utf8_lossy(code.unwrap_or_default()).chars().take(5).collect();
        // An answer to a request goes to whoever asked. A crash of the server announces itself by a mere notice.
        let unasked = !self.is_busy() || severity.ends_session() || code.starts_with("57P");
        if unasked {
            let words = LastWords { code, severity, at: SystemTime::now(), host: self.host };
            *self.words.lock().unwrap_or_else(PoisonError::into_inner) = Some(words);
            self.has_words.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests;
