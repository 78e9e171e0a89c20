//! Guarded calls on a paused clock: what is tried again, what is not, and what a drop leaves behind.

use std::{
    cell::Cell,
    future::{pending, ready},
};

use super::*;
use crate::{
    breaker::CallResult,
    error::ErrorClass,
    judgement::{AnyError, Repeatable},
};

const MS: Duration = Duration::from_millis(1);

fn guard(change: impl FnOnce(&mut GuardConfig)) -> Guard {
    let mut config = GuardConfig::default();
    change(&mut config);
    Guard::new("test", config)
}

fn within(limit: Duration) -> Deadline {
    Deadline::after(Instant::now(), limit)
}

fn transient(result: &Result<u32, &str>) -> Judgement {
    if result.is_ok() { Judgement::SUCCESS } else { Judgement::of(ErrorClass::Transient) }
}

#[tokio::test(start_paused = true)]
async fn a_failure_without_effect_is_tried_again_until_it_works() {
    let guard = guard(|_| {});
    let flaky = async |attempt: Attempt| if attempt.number < 3 { Err("away") } else { Ok(7) };
    assert_eq!(guard.call(within(1_000 * MS), flaky, &transient).await, Ok(7));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_may_have_had_its_effect_is_made_once() {
    let guard = guard(|_| {});
    let calls = Cell::new(0);
    let lost = |_| {
        calls.set(calls.get() + 1);
        ready(Err::<u32, _>("lost"))
    };
    let error = guard.call(within(1_000 * MS), lost, &AnyError).await.unwrap_err();
    assert_eq!((calls.get(), error.class(), error.into_inner()), (1, ErrorClass::Unknown, Some("lost")));
}

#[tokio::test(start_paused = true)]
async fn a_hanging_call_ends_with_its_attempt_and_trips_the_breaker() {
    let guard = guard(|config| config.breaker.consecutive_failures = 1);
    let started = Instant::now();
    let hang = |_| pending::<Result<u32, &str>>();
    let error = guard.call(within(5_000 * MS), hang, &Repeatable(AnyError)).await.unwrap_err();
    assert_eq!(error, GuardError::Timeout { limit: 1_000 * MS });
    assert_eq!(started.elapsed(), 1_000 * MS);
    let error = guard.call(within(5_000 * MS), hang, &AnyError).await.unwrap_err();
    assert!(matches!(error, GuardError::Open(_)), "{error}");
    assert!(error.is_rejection() && error.retry_after().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_hurried_caller_does_not_trip_the_breaker() {
    let guard = guard(|config| config.breaker.consecutive_failures = 1);
    let hang = |_| pending::<Result<u32, &str>>();
    let error = guard.call(within(20 * MS), hang, &AnyError).await.unwrap_err();
    assert_eq!(error, GuardError::Timeout { limit: 20 * MS });
    assert_eq!(guard.breaker().state(Instant::now()), BreakerState::Closed);
}

/// A write whose first attempt was lost and whose second was refused would look as if nothing had been done.
#[tokio::test(start_paused = true)]
async fn a_refused_retry_answers_with_the_failure_before_it() {
    let guard = guard(|_| {});
    let breaker = Arc::clone(guard.breaker());
    let lost_and_then_out = |_| {
        // The prober finds out during the pause: the second attempt is refused.
        let breaker = Arc::clone(&breaker);
        tokio::spawn(async move { breaker.probe_failed(Instant::now(), Instant::now() + 1_000 * MS) });
        ready(Err::<u32, _>("lost"))
    };
    let error = guard.call(within(1_000 * MS), lost_and_then_out, &Repeatable(AnyError)).await.unwrap_err();
    assert_eq!(error.into_inner(), Some("lost"));
    assert_eq!(guard.breaker().state(Instant::now()), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_passed_deadline_begins_nothing() {
    let guard = guard(|_| {});
    let never = |_| -> std::future::Ready<Result<u32, &str>> { panic!("was called") };
    let error = guard.call(within(MS), never, &AnyError).await.unwrap_err();
    assert_eq!(error, GuardError::DeadlinePassed);
}

#[tokio::test(start_paused = true)]
async fn a_full_bulkhead_refuses_without_a_word_to_the_breaker() {
    let guard = guard(|config| {
        config.bulkhead = BulkheadConfig { permits: 1, queue: 0, ..BulkheadConfig::default() };
        config.breaker.consecutive_failures = 1;
    });
    let _held =
        guard.bulkhead().acquire(Priority::Interactive, within(1_000 * MS), Instant::now()).await.unwrap();
    let fine = |_| ready(Ok::<u32, &str>(1));
    let error = guard.call(within(1_000 * MS), fine, &AnyError).await.unwrap_err();
    assert!(matches!(error, GuardError::Full(_)), "{error}");
    assert_eq!(guard.breaker().state(Instant::now()), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_a_failure_counts_and_is_given_back_at_the_end() {
    let guard = guard(|config| config.breaker.consecutive_failures = 100);
    let calls = Cell::new(0);
    let busy = |_| {
        calls.set(calls.get() + 1);
        ready(Ok::<u32, &str>(503))
    };
    let unavailable = |_: &Result<u32, &str>| Judgement::of(ErrorClass::Transient);
    assert_eq!(guard.call(within(1_000 * MS), busy, &unavailable).await, Ok(503));
    assert!(calls.get() > 1, "was made {} times", calls.get());
}

/// The limit of an adaptive bulkhead follows what the calls report; the guard once reported nothing, so it never moved.
#[tokio::test(start_paused = true)]
async fn calls_that_time_out_in_a_full_bulkhead_make_its_limit_smaller() {
    let guard = guard(|config| {
        config.bulkhead = BulkheadConfig { permits: 16, ..BulkheadConfig::default() };
        config.breaker.consecutive_failures = 10_000;
        config.breaker.failure_ratio = 1.1;
    });
    for _ in 0..4 {
        let hang = |_| pending::<Result<u32, &str>>();
        let calls: Vec<_> = (0..16)
            .map(|_| {
                let guard = guard.clone();
                tokio::spawn(async move { guard.call(within(2_000 * MS), hang, &AnyError).await })
            })
            .collect();
        for call in calls {
            call.await.unwrap().unwrap_err();
        }
    }
    assert!(guard.bulkhead().limit() < 16, "the limit is still {}", guard.bulkhead().limit());
}

#[tokio::test(start_paused = true)]
async fn batch_work_waits_behind_interactive_calls() {
    let guard = guard(|config| config.bulkhead = BulkheadConfig { permits: 1, ..BulkheadConfig::default() });
    let held =
        guard.bulkhead().acquire(Priority::Interactive, within(1_000 * MS), Instant::now()).await.unwrap();
    let order = std::sync::Mutex::new(Vec::new());
    let call = async |priority| {
        let note = async |_| {
            order.lock().unwrap().push(priority);
            Ok::<_, &str>(())
        };
        guard.with_priority(priority).call(within(1_000 * MS), note, &AnyError).await.unwrap();
    };
    let free = async {
        tokio::time::sleep(MS).await;
        drop(held);
    };
    tokio::join!(call(Priority::Batch), call(Priority::Interactive), free);
    assert_eq!(*order.lock().unwrap(), [Priority::Interactive, Priority::Batch]);
}

#[tokio::test(start_paused = true)]
async fn refused_calls_earn_no_retries() {
    let guard = guard(|config| config.budget.floor_per_second = 0.0);
    let now = Instant::now();
    guard.breaker().probe_failed(now, now + 1_000 * MS);
    for _ in 0..100 {
        let never = |_| -> std::future::Ready<Result<u32, &str>> { panic!("was called") };
        assert!(guard.call(within(1_000 * MS), never, &AnyError).await.unwrap_err().is_rejection());
    }
    assert!(guard.budget().balance(Instant::now()) < 1e-9);
}

/// The product of where a call can be dropped (queue, attempt, pause) with the breaker's state (closed, half-open): each
/// time all permits and the trial must be there again.
#[tokio::test(start_paused = true)]
async fn a_dropped_call_leaves_no_permit_and_no_trial_behind() {
    for half_open in [false, true] {
        for place in ["queue", "attempt", "pause"] {
            let guard = guard(|config| {
                config.bulkhead = BulkheadConfig { permits: 1, ..BulkheadConfig::default() };
                config.backoff =
                    Backoff { base: 500 * MS, jitter: crate::backoff::Jitter::None, ..Backoff::default() };
            });
            if half_open {
                let now = Instant::now();
                guard.breaker().probe_failed(now, now);
                guard.breaker().probe_succeeded(now);
            }
            let held = match place {
                "queue" => Some(
                    guard
                        .bulkhead()
                        .acquire(Priority::Interactive, within(1_000 * MS), Instant::now())
                        .await
                        .unwrap(),
                ),
                _ => None,
            };
            let make = async |_| {
                if place == "attempt" {
                    pending::<()>().await;
                }
                Err::<u32, _>("contention")
            };
            let contention = |_: &Result<u32, &str>| Judgement::of(ErrorClass::Contention);
            let call = guard.call(within(5_000 * MS), make, &contention);
            let dropped = tokio::time::timeout(100 * MS, call).await;
            // While half-open nothing is tried again, so there is no pause to be dropped in.
            assert_eq!(dropped.is_err(), !(half_open && place == "pause"), "{place}");
            drop(held);
            let case = format!("dropped in {place}, half-open: {half_open}");
            assert_eq!((guard.bulkhead().in_use(), guard.bulkhead().queued()), (0, 0), "{case}");
            let trial = guard.breaker().admit(Instant::now());
            trial.expect(&case).record(CallResult::Success, Instant::now());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_after_its_deadline_counts() {
    let guard = guard(|config| config.breaker.consecutive_failures = 1);
    let hang = |_| pending::<Result<u32, &str>>();
    let mut call = Box::pin(guard.call(within(1_000 * MS), hang, &AnyError));
    assert!(futures_poll(call.as_mut()).await.is_none());
    tokio::time::advance(1_000 * MS).await;
    drop(call);
    assert_eq!(guard.breaker().state(Instant::now()), BreakerState::Open);
}

/// Polls once.
async fn futures_poll<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match future.as_mut().poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
