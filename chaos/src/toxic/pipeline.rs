//! The bytes in one direction of one connection, on their way through the toxics. It is told the time and does no
//! input or output.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::time::Instant;

use crate::toxic::chain::Entry;
use crate::toxic::kind::{Kind, Stream};
use crate::toxic::rule::{self, Context, Head, Rule, Step, Stop, Untouched};

/// Bytes one direction may hold before no more are read. At a latency of 100 ms it carries 10 MB/s.
const HELD_BYTES_MAX: usize = 1024 * 1024;
/// Pieces in one queue, so that slices of one byte cost no more memory than this many.
const QUEUE_PIECES_MAX: usize = 1024;

/// What moves through a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Data(Bytes),
    End(End),
}

/// How a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its source has nothing more to say; the other direction goes on.
    Finished,
    /// A toxic ended the connection.
    Stopped(Stop),
}

/// Which stream of which connection it is, for random numbers that can be had again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    /// Of the proxy.
    pub(super) seed: u64,
    /// Counted by the proxy from 0, in the order of acceptance.
    pub(super) connection: u64,
    pub(super) stream: Stream,
}

impl Identity {
    /// One source for each toxic, so that none takes numbers from another, and none depends on which bytes came first
    /// where several flow.
    fn random(&self, toxic: &str) -> fastrand::Rng {
        let seed = mix(mix(self.seed, self.stream.name().as_bytes()), &self.connection.to_be_bytes());
        fastrand::Rng::with_seed(mix(seed, toxic.as_bytes()))
    }
}

/// FNV-1a from `seed` on: the same in every build, which the standard library's hasher does not promise.
pub(super) fn mix(seed: u64, bytes: &[u8]) -> u64 {
    let start = seed ^ 0xcbf2_9ce4_8422_2325;
    bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Pieces that wait, each since when.
#[derive(Debug, Default)]
struct Queue {
    pieces: VecDeque<(Piece, Instant)>,
    bytes: usize,
}

impl Queue {
    fn push(&mut self, piece: Piece, now: Instant) {
        if let Piece::Data(data) = &piece {
            self.bytes += data.len();
        }
        self.pieces.push_back((piece, now));
    }

    fn pop(&mut self) -> Option<Piece> {
        let (piece, _) = self.pieces.pop_front()?;
        if let Piece::Data(data) = &piece {
            self.bytes -= data.len();
        }
        Some(piece)
    }

    /// Takes the first bytes of the head.
    fn part(&mut self, bytes: usize) -> Option<Piece> {
        let Some((Piece::Data(data), _)) = self.pieces.front_mut() else { return None };
        let part = data.split_to(bytes.min(data.len()));
        self.bytes -= part.len();
        Some(Piece::Data(part))
    }

    fn head(&self) -> Head {
        match self.pieces.front() {
            None => Head::Empty,
            Some((Piece::Data(data), arrived)) => Head::Data { bytes: data.len(), arrived: *arrived },
            Some((Piece::End(_), arrived)) => Head::End { arrived: *arrived },
        }
    }

    fn is_full(&self) -> bool {
        self.pieces.len() >= QUEUE_PIECES_MAX
    }

    fn append(&mut self, mut other: Self) {
        self.bytes += other.bytes;
        self.pieces.append(&mut other.pieces);
    }
}

/// One toxic on this stream, and what waits before it.
#[derive(Debug)]
struct Stage {
    entry: Arc<Entry>,
    queue: Queue,
    rule: Box<dyn Rule>,
    random: fastrand::Rng,
    /// Below the toxicity the toxic acts on this stream. Drawn once, so that an update changes the lot of no
    /// connection whose toxicity stays.
    lot: f64,
    since: Instant,
    passed: u64,
    /// Whether the head has been counted as delayed, and this connection as touched.
    head_counted: bool,
    touched: bool,
    /// The end has gone through, so nothing follows.
    over: bool,
}

/// What moving brought.
#[derive(Debug, Default, Clone, Copy)]
struct Moved {
    any: bool,
    wake: Option<Instant>,
}

impl Stage {
    fn new(entry: Arc<Entry>, identity: &Identity, now: Instant) -> Self {
        let mut random = identity.random(&entry.toxic.name);
        let lot = random.f64();
        let rule = rule_of(&entry, lot);
        let queue = Queue::default();
        Self {
            entry,
            queue,
            rule,
            random,
            lot,
            since: now,
            passed: 0,
            head_counted: false,
            touched: false,
            over: false,
        }
    }

    fn update(&mut self, entry: Arc<Entry>, now: Instant) {
        self.rule = rule_of(&entry, self.lot);
        self.entry = entry;
        self.since = now;
    }

    fn is_active(&self) -> bool {
        self.lot < self.entry.toxic.toxicity
    }

    /// Whether what it did leaves the stream with a hole, so that the connection cannot live on without it.
    fn breaks_when_removed(&self) -> bool {
        self.is_active() && matches!(self.entry.toxic.kind, Kind::Timeout(_))
    }

    /// Moves what may go on by now to `next`.
    fn pump(&mut self, next: &mut Queue, now: Instant) -> Moved {
        let mut moved = Moved::default();
        while !self.over && !next.is_full() {
            let head = self.queue.head();
            let mut context =
                Context { now, since: self.since, passed: self.passed, random: &mut self.random };
            let step = self.rule.judge(head, &mut context);
            self.count(head, step);
            match step {
                Step::Wait(until) => {
                    moved.wake = until;
                    return moved;
                }
                Step::Stop(stop) => {
                    self.finish();
                    next.push(Piece::End(End::Stopped(stop)), now);
                }
                Step::Drop => drop(self.queue.pop()),
                Step::Pass => self.give(None, next, now),
                Step::Part(bytes) => self.give(Some(bytes), next, now),
            }
            moved.any = true;
        }
        moved
    }

    fn give(&mut self, part: Option<usize>, next: &mut Queue, now: Instant) {
        let piece = match part {
            None => self.queue.pop(),
            Some(bytes) => self.queue.part(bytes),
        };
        if let Some(piece) = piece {
            match &piece {
                Piece::Data(data) => self.passed += data.len() as u64,
                Piece::End(_) => self.finish(),
            }
            next.push(piece, now);
        }
    }

    /// Nothing goes through any more, and what waits does not matter.
    fn finish(&mut self) {
        self.over = true;
        self.queue = Queue::default();
    }

    /// The witness: everything that is not simply passed on.
    fn count(&mut self, head: Head, step: Step) {
        let counters = &self.entry.counters;
        let add = |counter: &std::sync::atomic::AtomicU64, number: usize| {
            counter.fetch_add(number as u64, Ordering::Relaxed);
        };
        let bit = match (step, head) {
            (Step::Pass | Step::Wait(_), Head::Empty) => false,
            (Step::Pass, _) => {
                self.head_counted = false;
                false
            }
            (Step::Wait(_), _) if self.head_counted => false,
            (Step::Wait(_), head) => {
                self.head_counted = true;
                match head {
                    Head::Data { bytes, .. } => add(&counters.delayed_bytes, bytes),
                    Head::Empty | Head::End { .. } => add(&counters.delayed_ends, 1),
                }
                true
            }
            (Step::Part(_), _) => {
                add(&counters.packets, 1);
                true
            }
            (Step::Drop, head) => {
                self.head_counted = false;
                if let Head::Data { bytes, .. } = head {
                    add(&counters.dropped_bytes, bytes);
                }
                true
            }
            (Step::Stop(stop), _) => {
                add(&counters.dropped_bytes, self.queue.bytes);
                add(if stop == Stop::Reset { &counters.resets } else { &counters.closed }, 1);
                true
            }
        };
        if bit && !mem::replace(&mut self.touched, true) {
            add(&counters.connections, 1);
        }
    }
}

fn rule_of(entry: &Entry, lot: f64) -> Box<dyn Rule> {
    if lot < entry.toxic.toxicity { rule::of(&entry.toxic.kind) } else { Box::new(Untouched) }
}

/// One direction of one connection: pieces go in at one end, through the toxics, and out at the other.
#[derive(Debug)]
pub(super) struct Pipeline {
    identity: Identity,
    stages: Vec<Stage>,
    out: Queue,
    /// Nothing more is taken: the source has ended, or a toxic has ended the stream.
    closed: bool,
}

impl Pipeline {
    pub(super) fn new(identity: Identity, chain: &[Arc<Entry>], now: Instant) -> Self {
        let mut pipeline = Self { identity, stages: Vec::new(), out: Queue::default(), closed: false };
        pipeline.adopt(chain, now);
        pipeline
    }

    /// Takes over the toxics as they are now. Those that stay keep what they hold; what a removed one held goes on.
    pub(super) fn adopt(&mut self, chain: &[Arc<Entry>], now: Instant) {
        let stream = self.identity.stream;
        let mut wanted: Vec<&Arc<Entry>> =
            chain.iter().filter(|entry| entry.toxic.stream == stream).collect();
        // What removed stages held, on its way to the next that stays.
        let mut carry = Queue::default();
        for mut stage in mem::take(&mut self.stages) {
            let place = wanted.iter().position(|entry| entry.id == stage.entry.id);
            let Some(entry) = place.map(|place| wanted.remove(place)) else {
                let broken = stage.breaks_when_removed() && !self.closed;
                stage.queue.append(carry);
                carry = stage.queue;
                if broken {
                    carry = Queue::default();
                    carry.push(Piece::End(End::Stopped(Stop::Close)), now);
                    self.closed = true;
                    self.stages.iter_mut().for_each(Stage::finish);
                }
                continue;
            };
            stage.queue.append(mem::take(&mut carry));
            if entry.revision != stage.entry.revision {
                stage.update(Arc::clone(entry), now);
            }
            self.stages.push(stage);
        }
        self.out.append(carry);
        self.stages
            .extend(wanted.into_iter().map(|entry| Stage::new(Arc::clone(entry), &self.identity, now)));
    }

    /// Whether more may be put in.
    pub(super) fn has_room(&self) -> bool {
        let first = self.stages.first().map_or(&self.out, |stage| &stage.queue);
        let held: usize = self.stages.iter().map(|stage| stage.queue.bytes).sum();
        !self.closed && !first.is_full() && held + self.out.bytes < HELD_BYTES_MAX
    }

    /// Puts in what was read.
    pub(super) fn put(&mut self, piece: Piece, now: Instant) {
        if self.closed {
            return;
        }
        self.closed = matches!(piece, Piece::End(_));
        self.stages.first_mut().map_or(&mut self.out, |stage| &mut stage.queue).push(piece, now);
    }

    /// Moves everything as far as it may go by now, and says when to ask again, if not before something changes.
    pub(super) fn pump(&mut self, now: Instant) -> Option<Instant> {
        loop {
            let (mut any, mut wake, mut over) = (false, None, false);
            let mut next = &mut self.out;
            // From the end, so that there is room for what follows.
            for stage in self.stages.iter_mut().rev() {
                if over {
                    stage.finish();
                } else {
                    let moved = stage.pump(next, now);
                    any |= moved.any;
                    wake = [wake, moved.wake].into_iter().flatten().min();
                    over = stage.over;
                }
                next = &mut stage.queue;
            }
            self.closed |= over;
            if !any {
                return wake;
            }
        }
    }

    /// What is to be written next.
    pub(super) fn front(&self) -> Option<&Piece> {
        self.out.pieces.front().map(|(piece, _)| piece)
    }

    /// So many bytes of the front have been written.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.out.part(bytes);
        if matches!(self.front(), Some(Piece::Data(data)) if data.is_empty()) {
            self.out.pop();
        }
    }

    /// How the connection is to be stopped, once that has come through all toxics.
    pub(super) fn stop(&self) -> Option<Stop> {
        match self.out.pieces.back() {
            Some((Piece::End(End::Stopped(stop)), _)) => Some(*stop),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
