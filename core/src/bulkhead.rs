//! The bulkhead: a bound on calls in progress that adapts to what the database bears, with a bounded queue in front.
//!
//! It does not know what the calls do, and it never refuses for any reason but lack of room or of time. Who goes first is
//! decided in `queue`, how many at once in `limit`; both are pure. Without a queue, entering and leaving are one atomic
//! operation each.
//!
//! Defaults, metrics and what not to do: `docs/patterns/bulkhead.md`.

mod due;
mod limit;
mod permit;
mod queue;
mod samples;
mod silence;
mod waiting;
mod word;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use self::{
    due::Notes,
    limit::{BELIEVED, Bounds, Judgement, Limiter, WINDOW},
    queue::Queue,
    samples::Samples,
    silence::Silence,
    waiting::{Verdict, Waiting},
    word::Word,
};
pub use self::{permit::Permit, queue::Priority, samples::Ended};
use crate::deadline::Deadline;

/// Calls of a window above which only each second, fourth, ... sixteenth is counted.
const COUNTED_MIN: u32 = 128;
/// Replay gets the limit divided by this at the most.
const REPLAY_SHARE: usize = 5;
/// A silence is at least this long: a healthy database stops for less, and it is short beside a wait, so that also those
/// get to know of it who are put out of a full queue.
const SILENCE_MIN: Duration = Duration::from_millis(100);

/// The bounds of one bulkhead.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize, serde::Serialize),
    serde(default, deny_unknown_fields)
)]
pub struct BulkheadConfig {
    /// Calls in progress at the most, 1 to 65,535: the ceiling of the limit. Default 32.
    pub permits: usize,
    /// The limit never gets smaller than this, 1 or more, so that a quiet service stays usable. Default 4; `permits` where
    /// that is less.
    pub permits_min: usize,
    /// Whether the limit follows the latency. Default true; else it is always `permits`.
    pub adaptive: bool,
    /// A median latency of this many times the normal one under load makes the limit smaller, above 1.0. Default 2.0.
    pub latency_tolerance: f64,
    /// Calls that may wait for a permit. Default 256; a longer queue only makes answers that nobody waits for.
    pub queue: usize,
    /// How long a call may wait for a permit. Default 500 ms.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub wait: Duration,
}

impl Default for BulkheadConfig {
    fn default() -> Self {
        Self {
            permits: 32,
            permits_min: 4,
            adaptive: true,
            latency_tolerance: 2.0,
            queue: 256,
            wait: Duration::from_millis(500),
        }
    }
}

/// Why a call got no permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BulkheadFull {
    /// The queue had no place left: refused at once, or put out of it by a call that goes first.
    #[error("the queue for a permit is full")]
    Queue,
    /// No permit came free within the wait or the deadline.
    #[error("no permit came free in time")]
    Wait,
    /// Half of all calls take longer than what is left of the deadline: refused at once.
    #[error("too little time is left for an answer")]
    Deadline,
}

/// Bounded concurrency with a bounded queue.
///
/// ```
/// use std::time::Duration;
/// use ridethrough::{Deadline, bulkhead::{Bulkhead, BulkheadConfig, Ended, Priority}};
/// use tokio::time::Instant;
///
/// let now = Instant::now();
/// let bulkhead = Bulkhead::new(BulkheadConfig { permits: 1, ..BulkheadConfig::default() }, now);
/// let deadline = Deadline::after(now, Duration::from_secs(1));
/// let permit = bulkhead.try_acquire(Priority::Interactive, deadline, now).expect("nobody is there");
/// assert!(bulkhead.try_acquire(Priority::Interactive, deadline, now).is_err());
/// permit.finish(Ended::Answered, Instant::now());
/// ```
#[derive(Debug)]
pub struct Bulkhead {
    word: Word,
    /// Every how many calls one is counted, less one; a power of two less one.
    counted_mask: AtomicU32,
    /// Nanoseconds since `birth` at which the window under way may be judged.
    judge_at: AtomicU64,
    judge_notes: Notes,
    /// The measured median service time in nanoseconds, 0 for unknown, and until when it is believed.
    service_time: AtomicU64,
    service_time_until: AtomicU64,
    silence: Silence,
    birth: Instant,
    config: BulkheadConfig,
    /// Permits in use by replay; changed under the lock of `queue`.
    replaying: AtomicUsize,
    queue: Mutex<Queue<oneshot::Sender<Verdict>>>,
    samples: Samples,
    limiter: Mutex<Limiter>,
}

impl Bulkhead {
    /// A bulkhead with all its permits free, as of `now`.
    #[must_use]
    pub fn new(config: BulkheadConfig, now: Instant) -> Arc<Self> {
        let ceiling = config.permits.clamp(1, usize::from(u16::MAX));
        let floor = config.permits_min.clamp(1, ceiling);
        let bounds = Bounds { floor, ceiling, tolerance: config.latency_tolerance.max(1.0) };
        Arc::new(Self {
            word: Word::new(ceiling),
            counted_mask: AtomicU32::new(0),
            judge_at: AtomicU64::new(nanos(WINDOW)),
            judge_notes: Notes::new(),
            service_time: AtomicU64::new(0),
            service_time_until: AtomicU64::new(0),
            silence: Silence::default(),
            birth: now,
            replaying: AtomicUsize::new(0),
            queue: Mutex::new(Queue::new(config.queue)),
            samples: Samples::default(),
            limiter: Mutex::new(Limiter::new(bounds, now)),
            config,
        })
    }

    /// Waits for a permit, no longer than the wait and the deadline allow. `now` is the time of the call.
    ///
    /// Higher priority first. Within one priority the first to come is the first served; but once a newcomer would have
    /// to wait for more than 100 ms, or the queue is more than half full, the newest goes first, because the oldest are
    /// the least likely to make it in time.
    ///
    /// # Errors
    /// [`BulkheadFull::Queue`] where too many wait already; [`BulkheadFull::Wait`] where no permit came free;
    /// [`BulkheadFull::Deadline`] at once where less is left than [`Bulkhead::service_time`].
    ///
    /// # Cancel safety
    /// A dropped call leaves the queue and takes no permit, not even one that was granted just then.
    #[inline]
    pub async fn acquire(
        self: &Arc<Self>,
        priority: Priority,
        deadline: Deadline,
        now: Instant,
    ) -> Result<Permit<&Arc<Self>>, BulkheadFull> {
        match self.try_acquire(priority, deadline, now) {
            // Boxed, because a call that waits can pay for it and all others would carry its weight.
            Err(BulkheadFull::Wait) => Box::pin(self.wait(priority, deadline, now)).await,
            at_once => at_once,
        }
    }

    /// As [`Bulkhead::acquire`], with a permit that can move to another task.
    ///
    /// # Errors
    /// As [`Bulkhead::acquire`].
    ///
    /// # Cancel safety
    /// As [`Bulkhead::acquire`].
    pub async fn acquire_owned(
        self: Arc<Self>,
        priority: Priority,
        deadline: Deadline,
        now: Instant,
    ) -> Result<Permit, BulkheadFull> {
        Ok(self.acquire(priority, deadline, now).await?.into_owned())
    }

    /// A permit without waiting. Replay always has to wait, if only for a moment.
    ///
    /// # Errors
    /// [`BulkheadFull::Wait`] where one would have to wait; [`BulkheadFull::Deadline`] as for [`Bulkhead::acquire`].
    #[inline]
    pub fn try_acquire(
        self: &Arc<Self>,
        priority: Priority,
        deadline: Deadline,
        now: Instant,
    ) -> Result<Permit<&Arc<Self>>, BulkheadFull> {
        if self.is_too_late(deadline, now) {
            return Err(BulkheadFull::Deadline);
        }
        // Replay is counted apart, under the lock.
        if priority == Priority::Replay {
            return Err(BulkheadFull::Wait);
        }
        match self.word.enter() {
            Some(serial) => Ok(self.permit(priority, serial, now)),
            None => Err(BulkheadFull::Wait),
        }
    }

    #[inline]
    fn permit(self: &Arc<Self>, priority: Priority, serial: u32, now: Instant) -> Permit<&Arc<Self>> {
        // Replay works in batches, whose time says nothing about that of a call.
        let is_counted = serial & self.counted_mask.load(Relaxed) == 0 && priority != Priority::Replay;
        Permit { bulkhead: Some(self), priority, is_counted, granted_at: now }
    }

    #[cold]
    async fn wait(
        self: &Arc<Self>,
        priority: Priority,
        deadline: Deadline,
        now: Instant,
    ) -> Result<Permit<&Arc<Self>>, BulkheadFull> {
        let reserve = self.service_time(now).unwrap_or_default();
        let until = deadline.earlier(reserve).capped(now, self.config.wait).instant();
        let Some(mut waiting) = self.queue_up(priority, until, now)? else {
            return Ok(self.permit(priority, self.word.serial(), now));
        };
        match timeout_at(until, &mut waiting.verdict).await {
            Ok(Ok(verdict)) => {
                waiting.is_over = true;
                verdict.map(|()| self.permit(priority, self.word.serial(), Instant::now()))
            }
            Ok(Err(_)) | Err(_) => Err(BulkheadFull::Wait),
        }
    }

    /// A place in the queue, or none where the call may enter at once.
    fn queue_up(
        self: &Arc<Self>,
        priority: Priority,
        until: Instant,
        now: Instant,
    ) -> Result<Option<Waiting<'_>>, BulkheadFull> {
        let mut queue = self.queue();
        self.hand_over(&mut queue, now);
        let is_next = !queue.wants(self.replay_has_room());
        if is_next && self.may_run(priority) && self.word.enter_or_flag() {
            self.note_replay(priority);
            return Ok(None);
        }
        if !queue.wants(false) {
            self.silence.may_begin(self.age(now));
        }
        let (ticket, verdict) = oneshot::channel();
        let pushed = queue.push(priority, until, ticket, now);
        self.hand_over(&mut queue, now);
        drop(queue);
        for ticket in pushed.shed {
            // Whoever dropped its end does not want to know.
            let _ = ticket.send(Err(BulkheadFull::Queue));
        }
        let id = pushed.id.ok_or(BulkheadFull::Queue)?;
        Ok(Some(Waiting { bulkhead: self, priority, id, verdict, is_over: false }))
    }

    /// Gives what is free to whoever is next, and leaves the flag as the queue needs it.
    fn hand_over(&self, queue: &mut Queue<oneshot::Sender<Verdict>>, now: Instant) {
        let mut expired = Vec::new();
        while queue.wants(self.replay_has_room()) && self.word.enter_or_flag() {
            let Some((priority, ticket)) = queue.pop(self.replay_has_room(), now, &mut expired) else {
                self.word.leave();
                continue;
            };
            if ticket.send(Ok(())).is_ok() {
                self.note_replay(priority);
            } else {
                self.word.leave();
            }
        }
        if !queue.wants(self.replay_has_room()) {
            self.word.lower_flag();
        }
        for ticket in expired {
            let _ = ticket.send(Err(BulkheadFull::Wait));
        }
    }

    /// A permit comes back. Only where somebody waits for it, the time matters.
    #[inline]
    fn leave(&self, priority: Priority, now: impl FnOnce() -> Instant) {
        if priority == Priority::Replay {
            let mut queue = self.queue();
            self.replaying.fetch_sub(1, Relaxed);
            self.word.leave();
            self.hand_over(&mut queue, now());
        } else if self.word.leave() {
            self.hand_over(&mut self.queue(), now());
        }
    }

    /// The limit now, between `permits_min` and `permits`.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.word.limit()
    }

    /// Calls in progress now; above the limit for a while where that just got smaller.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.word.in_use()
    }

    /// Calls waiting now.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue().len()
    }

    /// The median time from permit to answer in the last seconds; `None` where too few calls say.
    #[must_use]
    pub fn service_time(&self, now: Instant) -> Option<Duration> {
        let median = self.service_time.load(Relaxed);
        (median > 0 && self.age(now) < self.service_time_until.load(Relaxed))
            .then(|| Duration::from_nanos(median))
    }

    /// Whether a call that asked at `since` and was refused at `now` met silence: a time in which it or others waited, and not
    /// one call in progress was answered, for 100 ms and twice the [`Bulkhead::service_time`], or for the whole wait where
    /// that is not known. Who is asked for more than it can goes on answering; so this one is rather away, which nobody
    /// can know yet, because no call has run out of its time. Means nothing to a call that was not refused.
    #[must_use]
    pub fn met_silence(&self, since: Instant, now: Instant) -> bool {
        self.silence.was_met(self.age(since), self.age(now), self.silence_min(now))
    }

    fn note_answer(&self, now: Instant) {
        self.silence.answered(self.age(now), self.silence_min(now));
    }

    /// The shortest silence that tells, in nanoseconds.
    fn silence_min(&self, now: Instant) -> u64 {
        nanos(self.service_time(now).map_or(self.config.wait, |median| SILENCE_MIN.max(median * 2)))
    }

    #[inline]
    fn is_too_late(&self, deadline: Deadline, now: Instant) -> bool {
        let median = Duration::from_nanos(self.service_time.load(Relaxed));
        deadline.is_past(now + median) && self.is_too_late_for(median, deadline, now)
    }

    #[cold] // Nearly every call has time enough.
    fn is_too_late_for(&self, median: Duration, deadline: Deadline, now: Instant) -> bool {
        // Believed for seconds only: if all are refused nobody measures, and then somebody must be let in.
        deadline.is_past(now)
            || (deadline.remaining(now) < median && self.age(now) < self.service_time_until.load(Relaxed))
    }

    /// Of the calls of a crowd, only a part comes here: it need not weigh on all others.
    #[inline(never)]
    fn count(&self, ended: Ended, granted_at: Instant, now: Instant) {
        self.samples.add(ended, now.saturating_duration_since(granted_at), self.word.is_busy());
        if self.judge_notes.is_due(now, || self.birth + Duration::from_nanos(self.judge_at.load(Relaxed))) {
            self.judge(now);
        }
    }

    #[cold]
    fn judge(&self, now: Instant) {
        let Ok(mut limiter) = self.limiter.try_lock() else { return };
        self.judge_at.store(self.age(now + WINDOW), Relaxed);
        let window = self.samples.window();
        let Some(Judgement { limit, sign, median }) = limiter.judge(&window, now) else { return };
        self.samples.reset();
        drop(limiter);
        let counted_mask = self.counted_mask.load(Relaxed);
        let calls = window.answered.saturating_mul(counted_mask + 1);
        let every = (calls / COUNTED_MIN).clamp(1, 16);
        self.counted_mask.store((1 << every.ilog2()) - 1, Relaxed);
        if let Some(median) = median {
            self.service_time_until.store(self.age(now + BELIEVED), Relaxed);
            self.service_time.store(nanos(median), Relaxed);
        }
        let before = self.limit();
        if self.config.adaptive && limit != before {
            self.change_limit(before, limit, now);
            tracing::debug!(before, limit, ?sign, ?window, "bulkhead limit changed");
        }
    }

    fn change_limit(&self, before: usize, limit: usize, now: Instant) {
        let mut queue = self.queue();
        self.word.set_limit(limit);
        self.hand_over(&mut queue, now);
        drop(queue);
        let ceiling = self.config.permits;
        if before >= ceiling {
            tracing::info!(limit, ceiling, "bulkhead limit left its ceiling");
        } else if limit >= ceiling {
            tracing::info!(limit, ceiling, "bulkhead limit back at its ceiling");
        }
    }

    fn replay_has_room(&self) -> bool {
        self.replaying.load(Relaxed) < (self.word.limit() / REPLAY_SHARE).max(1)
    }

    fn may_run(&self, priority: Priority) -> bool {
        priority != Priority::Replay || self.replay_has_room()
    }

    fn note_replay(&self, priority: Priority) {
        if priority == Priority::Replay {
            self.replaying.fetch_add(1, Relaxed);
        }
    }

    /// Nanoseconds since the bulkhead was made.
    fn age(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.birth))
    }

    fn queue(&self) -> MutexGuard<'_, Queue<oneshot::Sender<Verdict>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}

#[cfg(test)]
mod tests;
