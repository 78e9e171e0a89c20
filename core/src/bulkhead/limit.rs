//! The adaptive limit: how many calls at once the database takes without getting slow, judged window by window.
//!
//! A pure policy: it gets sums and the time and answers with a limit. Additive increase and multiplicative decrease, as
//! congestion control does it, with the median latency against its own past as the signal.
//!
//! - Only windows in which more than half of the limit was in use can make it smaller by latency or by time-outs: what is
//!   slow at low load is slow for other reasons. The median, not the mean, is compared: one slow statement is no load.
//! - The server's own word (SQLSTATE class 53) makes it smaller at any load.
//! - It grows by its square root each window in which it was used, and by an eighth of the ceiling each second in which it
//!   was not needed: from the floor to the ceiling in two seconds under load, in eight without.

use std::time::Duration;

use tokio::time::Instant;

use super::samples::Window;

/// The shortest window.
pub(super) const WINDOW: Duration = Duration::from_millis(250);
/// A window is judged at the latest after this time, with whatever it holds.
const WINDOW_MAX: Duration = Duration::from_secs(1);
/// Calls that make a window worth judging early, and a median worth trusting.
const ENOUGH: u32 = 20;
/// Busy calls below this number prove nothing about the load.
const BUSY_MIN: u32 = 10;
/// Time-outs in one window that count as a sign of load, where they are also a tenth of its calls.
const TIMEOUTS_MIN: u32 = 3;
/// What the limit is multiplied with at the most, in one window.
const DECREASE: f64 = 0.7;
/// Medians up to this time are nobody's trouble, whatever they were before.
const HARMLESS: Duration = Duration::from_millis(5);
/// How fast a slower median becomes the normal one; a faster one does so at once.
const BASELINE_TIME: Duration = Duration::from_secs(30);
/// How long a measured service time is believed.
pub(super) const BELIEVED: Duration = Duration::from_secs(5);

/// The bounds of a limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) floor: usize,
    pub(super) ceiling: usize,
    /// A median of this many times the normal one is a sign of load.
    pub(super) tolerance: f64,
}

/// The limit and what it is judged by.
#[derive(Debug)]
pub(super) struct Limiter {
    bounds: Bounds,
    /// With its fraction, so that small steps add up.
    limit: f64,
    /// The normal median, in seconds.
    baseline: Option<f64>,
    window_start: Instant,
}

/// Why a limit changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    Overloaded,
    TimedOut,
    Slow,
    Used,
    Quiet,
}

/// What followed from a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Judgement {
    pub(super) limit: usize,
    pub(super) sign: Sign,
    /// The median time of a call, where there were enough of them to say.
    pub(super) median: Option<Duration>,
}

impl Limiter {
    /// A limit at its ceiling: the first calls of a service should not wait for a guess.
    pub(super) fn new(bounds: Bounds, now: Instant) -> Self {
        Self { bounds, limit: bounds.ceiling as f64, baseline: None, window_start: now }
    }

    /// Judges a window that ends `now`; `None` where it is too early to say, and the window goes on.
    pub(super) fn judge(&mut self, window: &Window, now: Instant) -> Option<Judgement> {
        let length = now.saturating_duration_since(self.window_start);
        if length < WINDOW
            || (length < WINDOW_MAX && window.answered + window.timed_out < ENOUGH && window.overloaded == 0)
        {
            return None;
        }
        self.window_start = now;
        let median = (window.answered >= ENOUGH).then_some(window.median);
        let sign = self.sign(window, length);
        match sign {
            Sign::Overloaded | Sign::TimedOut => self.limit *= DECREASE,
            Sign::Slow => {
                let normal = self.baseline.unwrap_or_default() * self.bounds.tolerance;
                self.limit *= (normal / window.busy_median.as_secs_f64()).max(DECREASE);
            }
            Sign::Used => self.limit += self.limit.sqrt(),
            Sign::Quiet => self.limit += length.as_secs_f64() * self.bounds.ceiling as f64 / 8.0,
        }
        self.limit = self.limit.clamp(self.bounds.floor as f64, self.bounds.ceiling as f64);
        if window.answered >= BUSY_MIN {
            self.learn(window.median.as_secs_f64(), length);
        }
        Some(Judgement { limit: self.limit.round() as usize, sign, median })
    }

    fn sign(&self, window: &Window, length: Duration) -> Sign {
        // What was said long before the next call ended is news no more.
        if window.overloaded > 0 && length < BELIEVED {
            return Sign::Overloaded;
        }
        let calls = window.answered + window.timed_out;
        if window.timed_out >= TIMEOUTS_MIN && window.timed_out * 10 >= calls {
            return Sign::TimedOut;
        }
        let slow =
            self.baseline.map(|baseline| (baseline * self.bounds.tolerance).max(HARMLESS.as_secs_f64()));
        if window.busy >= BUSY_MIN && slow.is_some_and(|slow| window.busy_median.as_secs_f64() > slow) {
            return Sign::Slow;
        }
        if window.busy > 0 && window.busy * 2 >= window.answered { Sign::Used } else { Sign::Quiet }
    }

    fn learn(&mut self, median: f64, length: Duration) {
        let share = 1.0 - (-length.as_secs_f64() / BASELINE_TIME.as_secs_f64()).exp();
        self.baseline = Some(match self.baseline {
            Some(baseline) if median > baseline => baseline + (median - baseline) * share,
            _ => median,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { floor: 4, ceiling: 32, tolerance: 2.0 };

    /// A limiter at a service that normally answers in `normal` milliseconds, and a clock.
    struct Service {
        limiter: Limiter,
        now: Instant,
        limit: usize,
    }

    impl Service {
        fn new(normal: u64) -> Self {
            let now = Instant::now();
            let mut service = Self { limiter: Limiter::new(BOUNDS, now), now, limit: BOUNDS.ceiling };
            service.run(2_000, &busy(normal));
            service
        }

        /// Lets windows of this sort pass for `milliseconds`.
        fn run(&mut self, milliseconds: u64, window: &Window) -> usize {
            for _ in 0..milliseconds / 250 {
                self.now += WINDOW;
                let judged = self.limiter.judge(window, self.now);
                self.limit = judged.map_or(self.limit, |judged| judged.limit);
            }
            self.limit
        }
    }

    fn busy(milliseconds: u64) -> Window {
        let median = Duration::from_millis(milliseconds);
        Window { answered: 100, median, busy: 100, busy_median: median, ..Window::default() }
    }

    #[test]
    fn a_database_that_gets_slow_under_load_gets_less_of_it() {
        let mut service = Service::new(10);
        assert_eq!(service.run(3_000, &busy(100)), BOUNDS.floor);
    }

    #[test]
    fn the_limit_is_back_within_seconds() {
        let mut service = Service::new(10);
        service.run(3_000, &busy(100));
        assert_eq!(service.run(2_500, &busy(10)), BOUNDS.ceiling);
        service.run(3_000, &busy(100));
        assert_eq!(service.run(8_000, &Window { busy: 0, ..busy(10) }), BOUNDS.ceiling);
    }

    #[test]
    fn slowness_at_low_load_is_no_reason() {
        let mut service = Service::new(10);
        let slow_and_quiet = Window { busy: 0, timed_out: 0, ..busy(900) };
        assert_eq!(service.run(10_000, &slow_and_quiet), BOUNDS.ceiling);
    }

    #[test]
    fn a_few_busy_calls_prove_nothing() {
        let mut service = Service::new(10);
        let median = Duration::from_millis(900);
        let few = Window { answered: 9, median, busy: 9, busy_median: median, timed_out: 2, overloaded: 0 };
        assert_eq!(service.run(10_000, &few), BOUNDS.ceiling);
    }

    #[test]
    fn one_word_of_the_server_counts_at_any_load() {
        let mut service = Service::new(10);
        let refused = Window { answered: 1, overloaded: 1, ..Window::default() };
        assert_eq!(service.run(250, &refused), 22);
        assert_eq!(service.run(5_000, &refused), BOUNDS.floor);
    }

    #[test]
    fn what_the_server_said_before_a_long_pause_is_news_no_more() {
        let mut service = Service::new(10);
        service.now += Duration::from_secs(60);
        assert_eq!(
            service.run(250, &Window { answered: 1, overloaded: 1, ..Window::default() }),
            BOUNDS.ceiling
        );
    }

    #[test]
    fn timeouts_count_where_they_are_many() {
        let mut service = Service::new(10);
        assert_eq!(service.run(1_000, &Window { timed_out: 2, ..busy(10) }), BOUNDS.ceiling);
        assert_eq!(service.run(1_000, &Window { timed_out: 9, ..busy(10) }), BOUNDS.ceiling);
        assert!(service.run(1_000, &Window { timed_out: 30, ..busy(10) }) < 10);
    }

    #[test]
    fn work_that_is_slower_by_nature_becomes_the_normal() {
        let mut service = Service::new(10);
        assert_eq!(service.run(5_000, &busy(200)), BOUNDS.floor);
        assert_eq!(
            service.run(25_000, &busy(200)),
            BOUNDS.ceiling,
            "a changed workload keeps its limit for ever"
        );
    }

    #[test]
    fn fast_answers_never_count_as_slow() {
        let mut service = Service::new(0);
        assert_eq!(service.run(5_000, &busy(5)), BOUNDS.ceiling);
    }
}
