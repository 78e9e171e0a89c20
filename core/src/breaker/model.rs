//! The breaker against a reference model: the same rules, written down the slow and obvious way, without generations,
//! packed words, rings or locks.
//!
//! Proptest prints the steps of a failure and keeps its seed.

use proptest::prelude::*;

use super::*;
use crate::deadline::Deadline;

const CONFIG: BreakerConfig = BreakerConfig {
    consecutive_failures: 3,
    failure_ratio: 0.5,
    samples_min: 6,
    window: Duration::from_secs(10),
    slow_call: Some(Duration::from_millis(100)),
    slow_ratio: 0.6,
    open: Duration::from_secs(1),
    open_max: Duration::from_secs(4),
    jitter: 0.0,
    trials: 1,
    ramp_max: 4,
    trial_lease: Duration::from_secs(2),
    successes_to_close: 2,
};

#[derive(Debug, Clone, Copy)]
enum Step {
    Admit,
    /// Ends the call of that number among those that are held, with that result, slow or not.
    End(usize, CallResult, bool),
    /// Drops it; its deadline has passed or not.
    Drop(usize),
    ProbeSucceeded,
    ProbeFailed(u64),
    Force(Forced),
    Release,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let result = prop_oneof![
        4 => Just(CallResult::Success),
        3 => Just(CallResult::Failure),
        1 => Just(CallResult::Neutral)
    ];
    prop_oneof![
        12 => Just(Step::Admit),
        12 => (0usize..4, result, prop::bool::weighted(0.3)).prop_map(|(which, result, slow)| Step::End(which, result, slow)),
        1 => (0usize..4).prop_map(Step::Drop),
        2 => Just(Step::ProbeSucceeded),
        1 => (1u64..3_000).prop_map(Step::ProbeFailed),
        1 => prop_oneof![Just(Forced::Open), Just(Forced::Closed)].prop_map(Step::Force),
        2 => Just(Step::Release),
        6 => prop_oneof![0u64..300, 0u64..3_000, 5_000u64..30_000].prop_map(Step::Wait),
    ]
}

/// Times are milliseconds since the start of the case.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Is {
    Closed,
    Open { until: u64 },
    HalfOpen,
}

struct Reference {
    is: Is,
    forced: Option<Forced>,
    /// Which stretch of time between two transitions it is.
    stretch: usize,
    /// Tick, failed, slow; of this stretch only.
    results: Vec<(u64, bool, bool)>,
    in_a_row: u32,
    trips: u32,
    reason: Option<TripReason>,
    last_probe: Option<u64>,
    step_of_ramp: u32,
    earned: u32,
    good: u32,
    /// Calls of this stretch in progress as trials, with the end of their lease.
    trials: Vec<(usize, u64)>,
    next_call: usize,
}

/// Some tick boundary; only differences matter, and they are found from the real one.
type TickOf<'a> = &'a dyn Fn(u64) -> u64;

impl Reference {
    fn new() -> Self {
        Self {
            is: Is::Closed,
            forced: None,
            stretch: 0,
            results: Vec::new(),
            in_a_row: 0,
            trips: 0,
            reason: None,
            last_probe: None,
            step_of_ramp: 0,
            earned: 0,
            good: 0,
            trials: Vec::new(),
            next_call: 0,
        }
    }

    fn turn(&mut self, is: Is) {
        self.is = is;
        self.stretch += 1;
        self.results.clear();
        self.in_a_row = 0;
        self.trials.clear();
        (self.step_of_ramp, self.earned, self.good) = (1, 0, 0);
        self.forced = None;
        if is == Is::Closed {
            self.trips = 0;
        }
    }

    fn trip(&mut self, reason: TripReason, at: u64) {
        let open = (1_000u64 << self.trips.min(2)).min(4_000);
        let trips = self.trips + 1;
        self.turn(Is::Open { until: at + open });
        self.trips = trips;
        self.reason = Some(reason);
    }

    fn is_over(&self, at: u64) -> bool {
        let Is::Open { until } = self.is else { return false };
        self.forced.is_none() && at >= until && self.last_probe.is_none_or(|probe| at >= probe + 5_000)
    }

    fn notice_lost_leases(&mut self, at: u64) {
        if self.is == Is::HalfOpen && self.trials.iter().any(|(_, until)| at >= *until) {
            self.trip(TripReason::Trial, at);
        }
    }

    /// The number of the call and its stretch, if it is admitted.
    fn admit(&mut self, at: u64) -> Option<(usize, usize)> {
        if self.is_over(at) {
            self.turn(Is::HalfOpen);
        }
        self.notice_lost_leases(at);
        self.next_call += 1;
        match self.is {
            Is::Closed => {}
            Is::Open { .. } => return None,
            Is::HalfOpen if self.trials.len() as u32 >= self.step_of_ramp => return None,
            Is::HalfOpen => self.trials.push((self.next_call, at + 2_000)),
        }
        Some((self.next_call, self.stretch))
    }

    fn success_on_the_way_back(&mut self, is_probe: bool) {
        self.good += 1;
        self.earned += 1;
        if is_probe || self.earned >= self.step_of_ramp {
            if self.step_of_ramp < 4 {
                self.step_of_ramp *= 2;
                self.earned = 0;
            } else if self.good >= 2 {
                self.turn(Is::Closed);
            }
        }
    }

    fn end(&mut self, call: (usize, usize), result: CallResult, is_slow: bool, at: u64, tick: TickOf) {
        if call.1 != self.stretch || self.forced.is_some() {
            return;
        }
        if self.is == Is::HalfOpen {
            self.notice_lost_leases(at);
            if self.is != Is::HalfOpen {
                return;
            }
            self.trials.retain(|(trial, _)| *trial != call.0);
            match result {
                CallResult::Success if !is_slow => self.success_on_the_way_back(false),
                CallResult::Failure => self.trip(TripReason::Trial, at),
                _ => {}
            }
            return;
        }
        match result {
            CallResult::Neutral => return,
            CallResult::Success => self.in_a_row = 0,
            CallResult::Failure => self.in_a_row += 1,
        }
        let failed = result == CallResult::Failure;
        self.results.push((tick(at), failed, is_slow && !failed));
        let recent: Vec<_> = self.results.iter().filter(|(then, ..)| then + 10 > tick(at)).collect();
        let enough = recent.len() >= 6;
        let failures = recent.iter().filter(|(_, failed, _)| *failed).count();
        let slow = recent.iter().filter(|(.., slow)| *slow).count();
        if failed && self.in_a_row >= 3 {
            self.trip(TripReason::ConsecutiveFailures, at);
        } else if failed && enough && failures * 2 >= recent.len() {
            self.trip(TripReason::FailureRatio, at);
        } else if is_slow && enough && slow * 10 >= recent.len() * 6 {
            self.trip(TripReason::SlowCalls, at);
        }
    }

    fn probe(&mut self, next: Option<u64>, at: u64) {
        self.last_probe = Some(at);
        if self.forced.is_some() {
            return;
        }
        if let Some(next) = next {
            if !matches!(self.is, Is::Open { .. }) {
                self.trip(TripReason::Probe, at);
            }
            self.is = Is::Open { until: next };
            return;
        }
        self.notice_lost_leases(at);
        match self.is {
            Is::Closed => {}
            Is::Open { .. } => self.turn(Is::HalfOpen),
            Is::HalfOpen => self.success_on_the_way_back(true),
        }
    }

    fn force(&mut self, forced: Forced, at: u64) {
        if self.forced == Some(forced) {
            return;
        }
        let trips = self.trips;
        match forced {
            Forced::Closed => self.turn(Is::Closed),
            Forced::Open => {
                self.turn(Is::Open { until: at + 1_000_000_000 });
                self.trips = trips;
                self.reason = Some(TripReason::Forced);
            }
        }
        self.forced = Some(forced);
    }

    fn release(&mut self) {
        match self.forced {
            None => {}
            Some(Forced::Open) => self.turn(Is::HalfOpen),
            Some(Forced::Closed) => self.turn(Is::Closed),
        }
    }

    fn state(&self, at: u64) -> BreakerState {
        match self.is {
            Is::Closed => BreakerState::Closed,
            Is::Open { .. } if !self.is_over(at) => BreakerState::Open,
            _ => BreakerState::HalfOpen,
        }
    }

    fn ramp(&self, at: u64) -> Option<u32> {
        match self.state(at) {
            BreakerState::Closed => None,
            BreakerState::Open => Some(0),
            BreakerState::HalfOpen => Some(if self.is == Is::HalfOpen { self.step_of_ramp } else { 1 }),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn the_breaker_does_what_the_reference_does(steps in prop::collection::vec(step(), 1..120)) {
        let start = Instant::now();
        let instant = |at: u64| start + Duration::from_millis(at);
        let breaker = Breaker::new("model", CONFIG, start);
        let tick = |at: u64| breaker.ticks.of(instant(at));
        let mut reference = Reference::new();
        let mut held = Vec::new();
        let mut at = 0;
        for step in steps {
            match step {
                Step::Admit => {
                    let admitted = breaker.admit(instant(at));
                    let expected = reference.admit(at);
                    prop_assert_eq!(admitted.is_ok(), expected.is_some());
                    match (admitted, expected) {
                        (Ok(admission), Some(call)) => held.push((admission, call)),
                        (Err(rejection), _) => {
                            prop_assert!(rejection.retry_after() > Duration::ZERO);
                            prop_assert_eq!(Some(rejection.reason), reference.reason);
                        }
                        _ => {}
                    }
                }
                Step::End(which, result, slow) if which < held.len() => {
                    let (admission, call) = held.remove(which);
                    let took = Duration::from_millis(if slow { 100 } else { 99 });
                    admission.record_timed(result, took, instant(at));
                    reference.end(call, result, slow, at, &tick);
                }
                // The drop reads the clock, which has hardly moved since the start: a case of its own for that moment.
                Step::Drop(which) if which < held.len() && at == 0 => {
                    let (admission, call) = held.remove(which);
                    drop(admission.until(Deadline::after(start, Duration::ZERO)));
                    reference.end(call, CallResult::Failure, false, 0, &tick);
                }
                Step::End(..) | Step::Drop(_) => {}
                Step::ProbeSucceeded => {
                    breaker.probe_succeeded(instant(at));
                    reference.probe(None, at);
                }
                Step::ProbeFailed(pause) => {
                    breaker.probe_failed(instant(at), instant(at + pause));
                    reference.probe(Some(at + pause), at);
                }
                Step::Force(forced) => {
                    breaker.force(forced, instant(at));
                    reference.force(forced, at);
                }
                Step::Release => {
                    breaker.release(instant(at));
                    reference.release();
                }
                Step::Wait(pause) => at += pause,
            }
            prop_assert_eq!(breaker.state(instant(at)), reference.state(at), "after {:?} at {}", step, at);
            prop_assert_eq!(breaker.ramp(instant(at)), reference.ramp(at), "after {:?} at {}", step, at);
            prop_assert_eq!(breaker.forced(), reference.forced);
        }
        // What is left is dropped on the real clock, which says nothing more about the case.
        held.into_iter().for_each(|(admission, _)| admission.record(CallResult::Neutral, instant(at)));
    }
}
