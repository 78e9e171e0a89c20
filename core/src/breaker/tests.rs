//! The breaker's promises, one by one, on a clock that the test moves.

use super::*;
use crate::deadline::Deadline;

const SECOND: Duration = Duration::from_secs(1);

/// No jitter, so that intervals are exact, and no ramp, which has tests of its own.
fn settings() -> BreakerConfig {
    BreakerConfig { jitter: 0.0, ramp_max: 1, ..BreakerConfig::default() }
}

fn breaker(now: Instant) -> Arc<Breaker> {
    Breaker::new("test", settings(), now)
}

fn call(breaker: &Arc<Breaker>, result: CallResult, now: Instant) -> bool {
    match breaker.admit(now) {
        Ok(admission) => {
            admission.record(result, now);
            true
        }
        Err(_) => false,
    }
}

fn tripped(now: Instant) -> Arc<Breaker> {
    let breaker = breaker(now);
    for _ in 0..3 {
        assert!(call(&breaker, CallResult::Failure, now));
    }
    assert_eq!(breaker.state(now), BreakerState::Open);
    breaker
}

#[test]
fn three_failures_in_a_row_trip_and_a_success_between_resets_the_count() {
    let now = Instant::now();
    let breaker = breaker(now);
    for result in [CallResult::Failure, CallResult::Failure, CallResult::Success, CallResult::Failure] {
        call(&breaker, result, now);
    }
    assert_eq!(breaker.state(now), BreakerState::Closed);
    call(&breaker, CallResult::Failure, now);
    call(&breaker, CallResult::Failure, now);
    assert_eq!(breaker.state(now), BreakerState::Open);
}

#[test]
fn half_of_ten_calls_failing_trips_though_never_three_in_a_row() {
    let now = Instant::now();
    let breaker = breaker(now);
    for _ in 0..5 {
        call(&breaker, CallResult::Success, now);
        call(&breaker, CallResult::Failure, now);
    }
    assert_eq!(breaker.state(now), BreakerState::Open);
    assert_eq!(breaker.evidence().unwrap().0, TripReason::FailureRatio);
}

#[test]
fn neutral_results_never_trip() {
    let now = Instant::now();
    let breaker = breaker(now);
    for _ in 0..100 {
        call(&breaker, CallResult::Neutral, now);
    }
    assert_eq!(breaker.state(now), BreakerState::Closed);
}

#[test]
fn an_open_breaker_rejects_and_says_when_to_come_back() {
    let now = Instant::now();
    let breaker = tripped(now);
    let rejection = breaker.admit(now + SECOND / 4).unwrap_err();
    assert_eq!(rejection.retry_after(), SECOND * 3 / 4);
    assert_eq!(rejection.reason, TripReason::ConsecutiveFailures);
    assert_eq!(rejection.since(), now);
}

#[test]
fn half_open_admits_one_trial_and_two_successes_close() {
    let now = Instant::now();
    let breaker = tripped(now);
    let later = now + SECOND;
    let trial = breaker.admit(later).unwrap();
    assert!(breaker.admit(later).is_err(), "a second trial at once");
    trial.record(CallResult::Success, later);
    assert_eq!(breaker.state(later), BreakerState::HalfOpen);
    assert!(call(&breaker, CallResult::Success, later));
    assert_eq!(breaker.state(later), BreakerState::Closed);
}

#[test]
fn a_failed_trial_opens_again_for_twice_as_long() {
    let now = Instant::now();
    let breaker = tripped(now);
    let later = now + SECOND;
    assert!(call(&breaker, CallResult::Failure, later));
    assert_eq!(breaker.retry_after(later), SECOND * 2);
    assert_eq!(breaker.evidence().unwrap().0, TripReason::Trial);
}

#[test]
fn open_intervals_stop_growing_at_their_maximum() {
    let mut now = Instant::now();
    let breaker = tripped(now);
    for _ in 0..40 {
        now += breaker.retry_after(now);
        assert!(call(&breaker, CallResult::Failure, now));
    }
    assert_eq!(breaker.retry_after(now), BreakerConfig::default().open_max);
}

#[test]
fn a_dropped_trial_gives_its_place_back_without_a_verdict() {
    let now = Instant::now();
    let breaker = tripped(now);
    let later = now + SECOND;
    drop(breaker.admit(later).unwrap());
    assert_eq!(breaker.state(later), BreakerState::HalfOpen);
    assert!(breaker.admit(later).is_ok());
}

#[test]
fn a_trial_that_never_reports_loses_its_lease_and_opens_again() {
    let now = Instant::now();
    let breaker = tripped(now);
    let later = now + SECOND;
    let hung = breaker.admit(later).unwrap();
    let after_lease = later + BreakerConfig::default().trial_lease;
    assert!(breaker.admit(after_lease).is_err());
    assert_eq!(breaker.state(after_lease), BreakerState::Open);
    drop(hung);
    assert_eq!(breaker.state(after_lease), BreakerState::Open);
}

#[test]
fn results_of_calls_admitted_before_a_transition_are_dropped() {
    let now = Instant::now();
    let breaker = breaker(now);
    let slow: Vec<Admission<&Breaker>> = (0..5).map(|_| breaker.admit(now).unwrap()).collect();
    for _ in 0..3 {
        call(&breaker, CallResult::Failure, now);
    }
    breaker.probe_succeeded(now);
    assert_eq!(breaker.state(now), BreakerState::HalfOpen);
    for admission in slow {
        admission.record(CallResult::Failure, now);
    }
    assert_eq!(breaker.state(now), BreakerState::HalfOpen, "late failures must not undo the recovery");
}

#[test]
fn a_good_probe_ends_the_open_interval_and_a_bad_one_opens() {
    let now = Instant::now();
    let breaker = breaker(now);
    breaker.probe_failed(now, now + SECOND / 2);
    assert_eq!(breaker.state(now), BreakerState::Open);
    assert_eq!(breaker.retry_after(now), SECOND / 2);
    breaker.probe_failed(now + SECOND / 2, now + SECOND);
    assert_eq!(breaker.state(now + SECOND / 2), BreakerState::Open);
    breaker.probe_succeeded(now + SECOND / 2);
    assert_eq!(breaker.state(now + SECOND / 2), BreakerState::HalfOpen);
}

/// In an outage the open interval ran out while the probe was still waiting for its answer, so users' requests were let
/// through as trials, failed, and doubled the interval.
#[test]
fn users_make_no_trials_while_a_probe_reports() {
    let now = Instant::now();
    let breaker = tripped(now);
    breaker.probe_failed(now, now + SECOND / 2);
    let probe_is_late = now + SECOND * 3;
    assert!(breaker.admit(probe_is_late).is_err());
    assert_eq!(breaker.state(probe_is_late), BreakerState::Open);
    let probe_is_dead = now + PROBE_SILENCE;
    assert_eq!(breaker.state(probe_is_dead), BreakerState::HalfOpen);
    assert!(breaker.admit(probe_is_dead).is_ok(), "without the probe, time must end the interval");
}

#[test]
fn probes_alone_close_it_when_nobody_calls() {
    let now = Instant::now();
    let breaker = tripped(now);
    breaker.probe_succeeded(now);
    breaker.probe_succeeded(now);
    assert_eq!(breaker.state(now), BreakerState::HalfOpen);
    breaker.probe_succeeded(now);
    assert_eq!(breaker.state(now), BreakerState::Closed);
}

#[test]
fn the_ramp_doubles_after_as_many_successes_as_each_step_allows() {
    let now = Instant::now();
    let breaker = Breaker::new("test", BreakerConfig { ramp_max: 8, ..settings() }, now);
    breaker.probe_failed(now, now + SECOND);
    assert_eq!(breaker.ramp(now), Some(0));
    breaker.probe_succeeded(now);
    for allowed in [1, 2, 4, 8] {
        assert_eq!(breaker.ramp(now), Some(allowed));
        let trials: Vec<_> = (0..allowed).map(|_| breaker.admit(now).unwrap()).collect();
        assert!(breaker.admit(now).is_err(), "more than {allowed} at once");
        trials.into_iter().for_each(|trial| trial.record(CallResult::Success, now));
    }
    assert_eq!((breaker.state(now), breaker.ramp(now)), (BreakerState::Closed, None));
}

#[test]
fn a_failure_on_the_ramp_collapses_it_and_the_next_one_begins_at_the_bottom() {
    let now = Instant::now();
    let breaker = Breaker::new("test", BreakerConfig { ramp_max: 8, ..settings() }, now);
    breaker.probe_failed(now, now + SECOND);
    (0..3).for_each(|_| breaker.probe_succeeded(now));
    assert_eq!(breaker.ramp(now), Some(4));
    assert!(call(&breaker, CallResult::Failure, now));
    assert_eq!(breaker.ramp(now), Some(0));
    breaker.probe_succeeded(now);
    assert_eq!(breaker.ramp(now), Some(1));
}

#[test]
fn a_quiet_service_climbs_the_whole_ramp_in_a_few_probes() {
    let now = Instant::now();
    let breaker = Breaker::new("test", BreakerConfig::default(), now);
    breaker.probe_failed(now, now + SECOND);
    let probes = (1..).find(|_| {
        breaker.probe_succeeded(now);
        breaker.state(now) == BreakerState::Closed
    });
    assert_eq!(probes, Some(7), "one ends the open interval, then 1, 2, 4, 8, 16, 32");
}

/// A caller that gave up at its deadline used to count as one that went away, so a black hole never tripped anything.
#[tokio::test(start_paused = true)]
async fn a_call_dropped_after_its_deadline_failed_and_one_dropped_before_says_nothing() {
    let now = Instant::now();
    let breaker = breaker(now);
    let deadline = Deadline::after(now, SECOND);
    let hung: Vec<_> = (0..3).map(|_| breaker.admit(now).unwrap().until(deadline)).collect();
    for _ in 0..3 {
        drop(breaker.admit(now).unwrap().until(deadline));
    }
    assert_eq!(breaker.state(now), BreakerState::Closed, "departed callers");
    tokio::time::advance(SECOND).await;
    drop(hung);
    assert_eq!(breaker.state(Instant::now()), BreakerState::Open);
    assert_eq!(breaker.evidence().unwrap().0, TripReason::ConsecutiveFailures);
}

#[test]
fn slow_successes_trip_where_they_are_asked_about_and_never_else() {
    let now = Instant::now();
    let config = BreakerConfig { slow_call: Some(SECOND), slow_ratio: 0.5, ..settings() };
    for (config, expected) in [(config, BreakerState::Open), (settings(), BreakerState::Closed)] {
        let breaker = Breaker::new("test", config, now);
        for took in [0, 2, 0, 2, 0, 2, 0, 2, 0, 2] {
            let admission = breaker.admit(now).unwrap();
            admission.record_timed(CallResult::Success, SECOND * took, now);
        }
        assert_eq!(breaker.state(now), expected);
    }
}

#[test]
fn a_million_successes_long_ago_do_not_delay_a_trip() {
    let now = Instant::now();
    let breaker = breaker(now);
    for _ in 0..1_000_000 {
        call(&breaker, CallResult::Success, now);
    }
    let later = now + SECOND * 11;
    for _ in 0..5 {
        call(&breaker, CallResult::Success, later);
        call(&breaker, CallResult::Failure, later);
    }
    assert_eq!(breaker.state(later), BreakerState::Open);
    assert_eq!(breaker.evidence().unwrap().0, TripReason::FailureRatio);
}

#[test]
fn forced_positions_hold_against_calls_and_probes_until_released() {
    let now = Instant::now();
    let breaker = breaker(now);
    breaker.force(Forced::Open, now);
    breaker.probe_succeeded(now + SECOND);
    assert_eq!(breaker.admit(now + SECOND * 100_000).unwrap_err().reason, TripReason::Forced);
    assert_eq!(breaker.forced(), Some(Forced::Open));
    breaker.force(Forced::Closed, now);
    for _ in 0..100 {
        assert!(call(&breaker, CallResult::Failure, now));
    }
    breaker.probe_failed(now, now + SECOND);
    assert_eq!((breaker.state(now), breaker.evidence()), (BreakerState::Closed, None));
    breaker.release(now);
    assert_eq!((breaker.state(now), breaker.forced()), (BreakerState::Closed, None));
    breaker.force(Forced::Open, now);
    breaker.release(now);
    assert_eq!(breaker.state(now), BreakerState::HalfOpen, "nobody knows what is behind it");
}

#[test]
fn open_intervals_of_instances_that_tripped_together_differ_by_half_at_the_most() {
    let now = Instant::now();
    let intervals: Vec<Duration> = (0..50)
        .map(|seed| {
            let config = BreakerConfig { consecutive_failures: 1, ..BreakerConfig::default() };
            let breaker = Breaker::with_random("test", config, fastrand::Rng::with_seed(seed), now);
            call(&breaker, CallResult::Failure, now);
            breaker.retry_after(now)
        })
        .collect();
    assert!(intervals.iter().all(|open| (SECOND / 2..=SECOND * 3 / 2).contains(open)), "{intervals:?}");
    let (least, most) = (intervals.iter().min().unwrap(), intervals.iter().max().unwrap());
    assert!(*most - *least > SECOND / 2, "{intervals:?}");
}

#[test]
fn an_unproven_breaker_lets_one_trial_through_and_says_so() {
    let now = Instant::now();
    let breaker = Breaker::new_unproven("test", settings(), now);
    assert_eq!(breaker.ramp(now), Some(1));
    let _trial = breaker.admit(now).unwrap();
    assert_eq!(breaker.admit(now).unwrap_err().reason, TripReason::Unproven);
}

#[test]
fn a_rejection_can_be_explained_to_a_person() {
    let now = Instant::now();
    let breaker = tripped(now);
    let text = breaker.explain(now + SECOND / 2).to_string();
    assert_eq!(
        text,
        "the breaker test is open after consecutive failures, left the closed state 0.5 s ago, next trial in \
         0.5 s: 3 of 3 calls failed, 0 were slow, 3 failures in a row"
    );
}

#[test]
fn changes_are_told_to_whoever_watches() {
    let now = Instant::now();
    let breaker = breaker(now);
    let mut changes = breaker.changes();
    assert!(!changes.has_changed().unwrap());
    breaker.probe_failed(now, now + SECOND);
    assert_eq!(changes.borrow_and_update().state, BreakerState::Open);
    breaker.force(Forced::Closed, now);
    let change = *changes.borrow_and_update();
    assert_eq!((change.state, change.forced), (BreakerState::Closed, Some(Forced::Closed)));
}
