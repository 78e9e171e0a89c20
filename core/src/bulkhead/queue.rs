//! Who waits for a permit, and who gets the next one: a pure policy over time, place and priority.
//!
//! It knows nothing of permits or tasks: a waiter is a ticket of whatever type its user wakes it with.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Where a newcomer would have to wait for longer than this for its turn, the newest goes first. The figure is the one that
/// Facebook publishes for its controlled delay (Maurer, "Fail at Scale", ACM Queue 13(8), 2015); there it is the time
/// without an empty queue, but a service with more callers than permits always has somebody waiting, if only for a moment.
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
    /// While somebody waits.
    turn: Option<Turn>,
}

/// The time in which all those leave the queue who were in it at the beginning: so long would a newcomer have waited for
/// its turn, whoever in truth went first.
#[derive(Debug)]
struct Turn {
    since: Instant,
    /// So many have yet to leave.
    left: usize,
    /// The one before took too long.
    is_after_slow: bool,
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
        Self { lines: Default::default(), places, next_id: 0, turn: None }
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
                Some(line) => {
                    shed.extend(line.pop_front().map(|waiter| waiter.ticket));
                    self.note_left(1, now);
                }
                None => {
                    shed.push(ticket);
                    return Pushed { id: None, shed };
                }
            }
        }
        let id = self.next_id;
        self.next_id += 1;
        self.turn.get_or_insert(Turn { since: now, left: 1, is_after_slow: false });
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
        let (newest_first, before) = (self.is_overloaded(now), expired.len());
        for priority in [Priority::Probe, Priority::Interactive, Priority::Batch, Priority::Replay] {
            if priority == Priority::Replay && !replay_too {
                continue;
            }
            let Some(line) = self.lines.get_mut(priority as usize) else { continue };
            while let Some(waiter) = if newest_first { line.pop_back() } else { line.pop_front() } {
                if waiter.until > now {
                    self.note_left(expired.len() - before + 1, now);
                    return Some((priority, waiter.ticket));
                }
                expired.push(waiter.ticket);
            }
        }
        self.note_left(expired.len() - before, now);
        None
    }

    /// Takes a waiter out that does not want to wait any longer.
    pub(super) fn remove(&mut self, priority: Priority, id: u64, now: Instant) {
        let Some(line) = self.lines.get_mut(priority as usize) else { return };
        let before = line.len();
        line.retain(|waiter| waiter.id != id);
        let gone = before - line.len();
        self.note_left(gone, now);
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
        let stands = |turn: &Turn| turn.is_after_slow || turn.is_slow(now);
        self.len() > self.places / 2 || self.turn.as_ref().is_some_and(stands)
    }

    fn drop_expired(&mut self, now: Instant) -> Vec<T> {
        let mut expired = Vec::new();
        for line in &mut self.lines {
            let (gone, left): (VecDeque<_>, _) =
                std::mem::take(line).into_iter().partition(|waiter| waiter.until <= now);
            *line = left;
            expired.extend(gone.into_iter().map(|waiter| waiter.ticket));
        }
        self.note_left(expired.len(), now);
        expired
    }

    /// So many have just left, served or not.
    fn note_left(&mut self, gone: usize, now: Instant) {
        let waiting = self.len();
        let Some(turn) = &mut self.turn else { return };
        turn.left = turn.left.saturating_sub(gone);
        if waiting == 0 {
            self.turn = None;
        } else if turn.left == 0 {
            *turn = Turn { since: now, left: waiting, is_after_slow: turn.is_slow(now) };
        }
    }
}

impl Turn {
    fn is_slow(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) > OVERLOADED_AFTER
    }
}
