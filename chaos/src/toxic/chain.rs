//! The toxics that a proxy has now, each with the witness of what it did. Connections watch them, so that a change
//! reaches those that run. What a toxic does to bytes is in the rules.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use crate::toxic::kind::{Stream, Toxic};

/// No experiment needs more on one proxy, and each costs every connection.
pub const TOXICS_MAX: usize = 64;

/// Why a toxic was not put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// One of this name is there.
    #[error("toxic already exists")]
    Exists,
    /// The proxy has [`TOXICS_MAX`].
    #[error("too many toxics: a proxy has {TOXICS_MAX} at the most")]
    TooMany,
}

/// What a toxic did so far: the proof that it bit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Witness {
    /// Connections on which it did anything, each direction by itself.
    pub connections: u64,
    /// Bytes that had to wait.
    pub delayed_bytes: u64,
    /// Bytes that were dropped.
    pub dropped_bytes: u64,
    /// Packets that were cut off a longer piece.
    pub packets: u64,
    /// Ends of streams that had to wait.
    pub delayed_ends: u64,
    /// Connections it closed.
    pub closed: u64,
    /// Connections it reset.
    pub resets: u64,
}

impl Witness {
    /// Whether it did anything at all.
    #[must_use]
    pub fn bit(&self) -> bool {
        *self != Self::default()
    }
}

impl fmt::Display for Witness {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.delayed_bytes, "bytes delayed"),
            (self.packets, "packets cut"),
            (self.dropped_bytes, "bytes dropped"),
            (self.delayed_ends, "ends delayed"),
            (self.closed, "connections closed"),
            (self.resets, "connections reset"),
        ];
        let mut said = false;
        for (number, what) in parts.into_iter().filter(|(number, _)| *number > 0) {
            write!(out, "{}{number} {what}", if said { ", " } else { "" })?;
            said = true;
        }
        match said {
            true => write!(out, " on {} streams", self.connections),
            false => out.write_str("nothing was touched"),
        }
    }
}

/// The counters behind a [`Witness`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connections: AtomicU64,
    pub(super) delayed_bytes: AtomicU64,
    pub(super) dropped_bytes: AtomicU64,
    pub(super) packets: AtomicU64,
    pub(super) delayed_ends: AtomicU64,
    pub(super) closed: AtomicU64,
    pub(super) resets: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self) -> Witness {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Witness {
            connections: of(&self.connections),
            delayed_bytes: of(&self.delayed_bytes),
            dropped_bytes: of(&self.dropped_bytes),
            packets: of(&self.packets),
            delayed_ends: of(&self.delayed_ends),
            closed: of(&self.closed),
            resets: of(&self.resets),
        }
    }
}

/// A toxic on a proxy.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Never used again on this proxy, unlike a name.
    pub(super) id: u64,
    /// Changes with each update.
    pub(super) revision: u64,
    pub(super) toxic: Toxic,
    pub(super) counters: Arc<Counters>,
}

/// All toxics of a proxy, in the order in which they came.
pub(super) type Chain = Arc<Vec<Arc<Entry>>>;

#[derive(Debug)]
struct Shared {
    chain: watch::Sender<Chain>,
    ids: AtomicU64,
}

/// The toxics of one proxy. Cheap to clone; all clones share.
#[derive(Debug, Clone)]
pub struct Toxics(Arc<Shared>);

impl Toxics {
    pub(super) fn new() -> Self {
        let chain = watch::Sender::new(Chain::default());
        Self(Arc::new(Shared { chain, ids: AtomicU64::new(0) }))
    }

    /// Puts a toxic on all connections, those that run and those to come, until the guard is dropped.
    ///
    /// # Errors
    /// [`ChainError`] where there is one of this name, or no room.
    pub fn put(&self, toxic: Toxic) -> Result<PutOn, ChainError> {
        let id = self.0.ids.fetch_add(1, Ordering::Relaxed);
        let counters = Arc::new(Counters::default());
        let entry = Arc::new(Entry { id, revision: 0, toxic, counters: Arc::clone(&counters) });
        let mut outcome = Ok(());
        self.0.chain.send_if_modified(|chain| {
            if chain.iter().any(|other| other.toxic.name == entry.toxic.name) {
                outcome = Err(ChainError::Exists);
            } else if chain.len() >= TOXICS_MAX {
                outcome = Err(ChainError::TooMany);
            } else {
                Arc::make_mut(chain).push(entry);
            }
            outcome.is_ok()
        });
        outcome.map(|()| PutOn { toxics: self.clone(), id, counters })
    }

    /// The toxic of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Toxic> {
        let chain = self.0.chain.borrow();
        chain.iter().find(|entry| entry.toxic.name == name).map(|entry| entry.toxic.clone())
    }

    /// All of them with what they did, those of the upstream first.
    #[must_use]
    pub fn all(&self) -> Vec<(Toxic, Witness)> {
        let chain = self.0.chain.borrow();
        let of = |stream| chain.iter().filter(move |entry| entry.toxic.stream == stream);
        let ordered = Stream::ALL.into_iter().flat_map(of);
        ordered.map(|entry| (entry.toxic.clone(), entry.counters.read())).collect()
    }

    /// Changes the kind and the toxicity of the toxic of this name, on connections that run too, and gives what it is
    /// now; `None` where there is none. Its name and its stream stay.
    pub(super) fn update(&self, changed: Toxic) -> Option<Toxic> {
        let mut now = None;
        self.0.chain.send_if_modified(|chain| {
            let mut entries = Arc::make_mut(chain).iter_mut();
            if let Some(entry) = entries.find(|entry| entry.toxic.name == changed.name) {
                let entry = Arc::make_mut(entry);
                entry.revision += 1;
                entry.toxic.kind = changed.kind;
                entry.toxic.toxicity = changed.toxicity;
                now = Some(entry.toxic.clone());
            }
            now.is_some()
        });
        now
    }

    /// Takes the toxic of this name off; false where there is none.
    pub(super) fn remove(&self, name: &str) -> bool {
        self.take_off(|entry| entry.toxic.name == name)
    }

    /// Takes all off.
    pub(super) fn clear(&self) {
        self.take_off(|_| true);
    }

    pub(super) fn watch(&self) -> watch::Receiver<Chain> {
        self.0.chain.subscribe()
    }

    fn take_off(&self, which: impl Fn(&Entry) -> bool) -> bool {
        self.0.chain.send_if_modified(|chain| {
            let any = chain.iter().any(|entry| which(entry));
            if any {
                Arc::make_mut(chain).retain(|entry| !which(entry));
            }
            any
        })
    }
}

/// A toxic that is on. It is taken off when this is dropped.
#[derive(Debug)]
#[must_use = "the toxic is taken off as soon as this is dropped"]
pub struct PutOn {
    toxics: Toxics,
    id: u64,
    counters: Arc<Counters>,
}

impl PutOn {
    /// What it did so far.
    #[must_use]
    pub fn witness(&self) -> Witness {
        self.counters.read()
    }

    /// Takes it off and gives what it did.
    #[must_use]
    pub fn heal(self) -> Witness {
        self.witness()
    }

    /// Leaves it on for as long as its proxy lives, or until it is taken off by its name.
    pub(super) fn leave(mut self) {
        // No toxic ever has this number: they are counted up from 0.
        self.id = u64::MAX;
    }
}

impl Drop for PutOn {
    fn drop(&mut self) {
        self.toxics.take_off(|entry| entry.id == self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toxic::kind::{Kind, LimitData};

    fn noop(name: &str, stream: Stream) -> Toxic {
        Toxic { name: name.to_owned(), ..Toxic::new(stream, Kind::of_type("noop").unwrap()) }
    }

    fn names(toxics: &Toxics) -> Vec<String> {
        toxics.all().into_iter().map(|(toxic, _)| toxic.name).collect()
    }

    #[test]
    fn a_toxic_is_on_while_its_guard_lives() {
        let toxics = Toxics::new();
        let first = toxics.put(noop("a", Stream::Downstream)).unwrap();
        let second = toxics.put(noop("b", Stream::Upstream)).unwrap();
        assert_eq!(names(&toxics), ["b", "a"], "upstream first");
        drop(first);
        assert_eq!(names(&toxics), ["b"]);
        second.leave();
        assert_eq!(names(&toxics), ["b"]);
        assert!(toxics.remove("b") && !toxics.remove("b"));
    }

    #[test]
    fn a_guard_never_takes_off_a_namesake_that_came_later() {
        let toxics = Toxics::new();
        let first = toxics.put(noop("a", Stream::Downstream)).unwrap();
        toxics.clear();
        let _second = toxics.put(noop("a", Stream::Upstream)).unwrap();
        drop(first);
        assert_eq!(names(&toxics), ["a"]);
    }

    #[test]
    fn names_are_unique_over_both_streams_and_the_number_is_bounded() {
        let toxics = Toxics::new();
        toxics.put(noop("a", Stream::Upstream)).unwrap().leave();
        assert_eq!(toxics.put(noop("a", Stream::Downstream)).unwrap_err(), ChainError::Exists);
        for number in 1..TOXICS_MAX {
            toxics.put(noop(&number.to_string(), Stream::Upstream)).unwrap().leave();
        }
        assert_eq!(toxics.put(noop("b", Stream::Upstream)).unwrap_err(), ChainError::TooMany);
    }

    #[test]
    fn an_update_keeps_name_stream_and_witness() {
        let toxics = Toxics::new();
        let on = toxics.put(noop("a", Stream::Upstream)).unwrap();
        on.counters.closed.fetch_add(1, Ordering::Relaxed);
        let kind = Kind::LimitData(LimitData { bytes: 5 });
        let changed = Toxic { toxicity: 0.5, ..Toxic::new(Stream::Downstream, kind.clone()) };
        assert_eq!(toxics.update(changed.clone()), None);
        let now = toxics.update(Toxic { name: "a".to_owned(), ..changed }).unwrap();
        assert_eq!((now.stream, now.toxicity, &now.kind), (Stream::Upstream, 0.5, &kind));
        assert_eq!(on.heal().closed, 1);
    }

    #[test]
    fn a_witness_says_what_was_done() {
        assert!(!Witness::default().bit());
        assert_eq!(Witness::default().to_string(), "nothing was touched");
        let witness = Witness { connections: 2, delayed_bytes: 70, resets: 1, ..Witness::default() };
        assert!(witness.bit());
        assert_eq!(witness.to_string(), "70 bytes delayed, 1 connections reset on 2 streams");
    }
}
