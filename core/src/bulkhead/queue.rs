//! Who waits for a permit, and who gets the next one: a pure policy over time, place and priority.
//!
//! It knows nothing of permits or tasks: a waiter is a ticket of whatever type its user wakes it with.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// A queue that was not empty for this long does not drain by itself: from here on the newest waiter goes first. The
/// figure is the one that Facebook publishes for its controlled delay (Maurer, "Fail at Scale", ACM Queue 13(8), 2015).
pub(super) const OVERLOADED_AFTER: Duration = Duration::from_millis(100);

/// What a call is for, and so who goes first. Higher before lower, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(rename_all = "lowercase"))]
pub enum Priority {
    /// Journaled writes on their way to the database: a fifth of the limit at the most, and only what nobody else wants.
    Replay,
    /// Work that nobody watches: exports, refreshes, clean-up.
    Batch,
    /// Somebody waits for the answer. The default.
    #[default]
    Interactive,
    /// Health checks and what else decides about all others.
    Probe,
}

const PRIORITIES: usize = 4;

impl Priority {
    /// The word for logs and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Batch => "batch",
            Self::Interactive => "interactive",
            Self::Probe => "probe",
        }
    }
}

#[derive(Debug)]
struct Waiter<T> {
    id: u64,
    until: Instant,
    ticket: T,
}

/// A bounded queue with one line for each priority.
#[derive(Debug)]
pub(super) struct Queue<T> {
    /// Lowest priority first; oldest waiter in front.
    lines: [VecDeque<Waiter<T>>; PRIORITIES],
    places: usize,
    next_id: u64,
    /// Since when somebody waits without a break.
    waited_since: Option<Instant>,
}

/// The end of [`Queue::push`].
#[derive(Debug)]
pub(super) struct Pushed<T> {
    /// The place of the newcomer; `None` where there was none to be had, and then its ticket is in `shed`.
    pub(super) id: Option<u64>,
    /// Who lost a place over it.
    pub(super) shed: Vec<T>,
}

impl<T> Queue<T> {
    pub(super) fn new(places: usize) -> Self {
        Self { lines: Default::default(), places, next_id: 0, waited_since: None }
    }

    /// Puts a waiter into its line. A full queue makes room: the expired leave first, then the oldest of the lowest
    /// priority; a newcomer below all others is the one to go.
    pub(super) fn push(&mut self, priority: Priority, until: Instant, ticket: T, now: Instant) -> Pushed<T> {
        let mut shed = Vec::new();
        if self.len() >= self.places {
            shed.extend(self.drop_expired(now));
        }
        if self.len() >= self.places {
            let lowest = self.lines.iter().position(|line| !line.is_empty());
            match lowest
                .filter(|lowest| *lowest <= priority as usize)
                .and_then(|lowest| self.lines.get_mut(lowest))
            {
                Some(line) => shed.extend(line.pop_front().map(|waiter| waiter.ticket)),
                None => {
                    shed.push(ticket);
                    return Pushed { id: None, shed };
                }
            }
        }
        let id = self.next_id;
        self.next_id += 1;
        self.waited_since.get_or_insert(now);
        if let Some(line) = self.lines.get_mut(priority as usize) {
            line.push_back(Waiter { id, until, ticket });
        }
        Pushed { id: Some(id), shed }
    }

    /// The waiter whose turn it is, with its priority; whoever expired before is passed over and put into `expired`.
    pub(super) fn pop(
        &mut self,
        replay_too: bool,
        now: Instant,
        expired: &mut Vec<T>,
    ) -> Option<(Priority, T)> {
        let newest_first = self.is_overloaded(now);
        for priority in [Priority::Probe, Priority::Interactive, Priority::Batch, Priority::Replay] {
            if priority == Priority::Replay && !replay_too {
                continue;
            }
            let Some(line) = self.lines.get_mut(priority as usize) else { continue };
            while let Some(waiter) = if newest_first { line.pop_back() } else { line.pop_front() } {
                if waiter.until > now {
                    self.note_emptiness();
                    return Some((priority, waiter.ticket));
                }
                expired.push(waiter.ticket);
            }
        }
        self.note_emptiness();
        None
    }

    /// Takes a waiter out that does not want to wait any longer.
    pub(super) fn remove(&mut self, priority: Priority, id: u64) {
        if let Some(line) = self.lines.get_mut(priority as usize) {
            line.retain(|waiter| waiter.id != id);
        }
        self.note_emptiness();
    }

    /// Whether anybody waits that may have a permit now.
    pub(super) fn wants(&self, replay_too: bool) -> bool {
        let from = if replay_too { 0 } else { Priority::Replay as usize + 1 };
        self.lines.iter().skip(from).any(|line| !line.is_empty())
    }

    pub(super) fn len(&self) -> usize {
        self.lines.iter().map(VecDeque::len).sum()
    }

    /// Whether the queue stands rather than flows, so that the oldest waiters are the least likely to make it.
    fn is_overloaded(&self, now: Instant) -> bool {
        let standing = |since| now.saturating_duration_since(since) > OVERLOADED_AFTER;
        self.len() > self.places / 2 || self.waited_since.is_some_and(standing)
    }

    fn drop_expired(&mut self, now: Instant) -> Vec<T> {
        let mut expired = Vec::new();
        for line in &mut self.lines {
            let (gone, left): (VecDeque<_>, _) =
                std::mem::take(line).into_iter().partition(|waiter| waiter.until <= now);
            *line = left;
            expired.extend(gone.into_iter().map(|waiter| waiter.ticket));
        }
        self.note_emptiness();
        expired
    }

    fn note_emptiness(&mut self) {
        if self.len() == 0 {
            self.waited_since = None;
        }
    }
}
