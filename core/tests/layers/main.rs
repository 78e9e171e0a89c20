//! The tower layers from outside: tower's readiness contract, and what each layer answers. Mock services and a paused clock;
//! no network.

mod stack;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
    time::Duration,
};

use ridethrough::{
    Deadline,
    backoff::{Backoff, Jitter},
    breaker::{Breaker, BreakerConfig, BreakerState},
    budget::{RetryBudget, RetryBudgetConfig},
    bulkhead::{Bulkhead, BulkheadConfig, Permit, Priority},
    error::ErrorClass,
    judgement::{AnyError, Judgement, Repeatable},
    layer::{
        BoxError, BreakerLayer, BulkheadLayer, DeadlineLayer, LayerError, RetryLayer, current_deadline,
        with_deadline,
    },
    retry::Retry,
};
use tokio::time::{Instant, advance};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_test::{
    assert_request_eq,
    mock::{self, Mock, Spawn},
};

const MS: Duration = Duration::from_millis(1);
const PAUSE: Duration = Duration::from_millis(500);

/// Opens after the first failure, so that a test sees each one.
fn breaker() -> Arc<Breaker> {
    let config = BreakerConfig { consecutive_failures: 1, ..BreakerConfig::default() };
    Breaker::new("test", config, Instant::now())
}

fn half_open(breaker: &Breaker) {
    breaker.probe_failed(Instant::now(), Instant::now());
    breaker.probe_succeeded(Instant::now());
}

fn bulkhead(permits: usize) -> Arc<Bulkhead> {
    Bulkhead::new(BulkheadConfig { permits, ..BulkheadConfig::default() }, Instant::now())
}

/// A permit in use.
fn taken(bulkhead: &Arc<Bulkhead>) -> Permit {
    let now = Instant::now();
    let permit = bulkhead.try_acquire(Priority::Interactive, Deadline::after(now, MS), now);
    permit.expect("the bulkhead has room").into_owned()
}

fn retry(breaker: Option<&Arc<Breaker>>) -> Retry {
    let budget = RetryBudgetConfig { floor_per_second: 10.0, ..RetryBudgetConfig::default() };
    let backoff = Backoff { base: PAUSE, jitter: Jitter::None, ..Backoff::default() };
    let budget = Arc::new(RetryBudget::new(budget, Instant::now()));
    Retry { backoff, breaker: breaker.cloned(), ..Retry::new(budget) }
}

fn said<T>(result: &Result<T, BoxError>) -> Option<LayerError> {
    result.as_ref().err().and_then(|error| LayerError::of(error.as_ref())).copied()
}

fn contention<T>(result: &Result<T, BoxError>) -> Judgement {
    if result.is_ok() { Judgement::SUCCESS } else { Judgement::of(ErrorClass::Contention) }
}

fn same(request: &u32) -> Option<u32> {
    Some(*request)
}

fn spawned<L: Layer<Mock<u32, u32>>>(layer: L) -> (Spawn<L::Service>, mock::Handle<u32, u32>) {
    mock::spawn_layer(layer)
}

// --- readiness ---

#[tokio::test(start_paused = true)]
async fn readiness_holds_a_permit_and_a_dropped_service_gives_it_back() {
    let bulkhead = bulkhead(1);
    let (mut service, _handle) = spawned(BulkheadLayer::new(bulkhead.clone(), AnyError));
    assert!(service.poll_ready().is_ready());
    assert_eq!(bulkhead.in_use(), 1, "the place of the call to come is taken");
    assert!(service.poll_ready().is_ready());
    assert_eq!(bulkhead.in_use(), 1, "asking again takes no second one");
    drop(service);
    assert_eq!(bulkhead.in_use(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_clone_does_not_share_readiness() {
    let bulkhead = bulkhead(1);
    let (mut service, _handle) = spawned(BulkheadLayer::new(bulkhead.clone(), AnyError));
    assert!(service.poll_ready().is_ready());
    let mut clone = service.clone();
    assert!(clone.poll_ready().is_pending());
    assert_eq!(bulkhead.queued(), 1);
    drop(service);
    assert!(clone.poll_ready().is_ready());
    assert_eq!((bulkhead.in_use(), bulkhead.queued()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_service_dropped_while_it_waits_leaves_the_queue() {
    let bulkhead = bulkhead(1);
    let (mut first, _handle) = spawned(BulkheadLayer::new(bulkhead.clone(), AnyError));
    let mut second = first.clone();
    assert!(first.poll_ready().is_ready());
    assert!(second.poll_ready().is_pending());
    drop(second);
    assert_eq!(bulkhead.queued(), 0);
    // Granted to a waiter that is never polled again: dropped, it gives the permit on.
    let mut third = first.clone();
    assert!(third.poll_ready().is_pending());
    drop(first);
    drop(third);
    assert_eq!((bulkhead.in_use(), bulkhead.queued()), (0, 0));
}

/// An error in `poll_ready` would tell callers to throw the service away.
#[tokio::test(start_paused = true)]
async fn a_full_bulkhead_is_told_in_the_call() {
    let bulkhead = bulkhead(1);
    let (mut first, mut handle) = spawned(BulkheadLayer::new(bulkhead.clone(), AnyError));
    let mut second = first.clone();
    assert!(first.poll_ready().is_ready());
    assert!(second.poll_ready().is_pending());
    advance(BulkheadConfig::default().wait).await;
    assert!(matches!(second.poll_ready(), Poll::Ready(Ok(()))));
    assert!(matches!(said(&second.call(1).await), Some(LayerError::Full(_))));
    assert!(handle.poll_request().is_pending(), "the service was not asked");
    drop(first);
    assert!(second.poll_ready().is_ready(), "the refusal was for one call");
    assert_eq!(bulkhead.in_use(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_finished_future_keeps_no_permit() {
    let bulkhead = bulkhead(1);
    let layers = ServiceBuilder::new()
        .layer(DeadlineLayer::new(10 * MS))
        .layer(BulkheadLayer::new(bulkhead.clone(), AnyError))
        .into_inner();
    let (mut service, mut handle) = spawned(layers);
    for answer in [true, false] {
        assert!(service.poll_ready().is_ready());
        let mut call = stepped(service.call(1));
        assert!(call.poll_once().await.is_none());
        let (_, responder) = handle.next_request().await.unwrap();
        if answer {
            responder.send_response(2);
        } else {
            advance(10 * MS).await;
        }
        assert_eq!(call.poll_once().await.unwrap().is_ok(), answer);
        assert_eq!(bulkhead.in_use(), 0, "answered: {answer}; the future is still there");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answered_future_keeps_no_permit_without_a_deadline_either() {
    let bulkhead = bulkhead(1);
    let (mut service, mut handle) = spawned(BulkheadLayer::new(bulkhead.clone(), AnyError));
    assert!(service.poll_ready().is_ready());
    let mut call = stepped(service.call(1));
    assert!(call.poll_once().await.is_none());
    handle.next_request().await.unwrap().1.send_response(2);
    assert_eq!(call.poll_once().await.unwrap().unwrap(), 2);
    assert_eq!(bulkhead.in_use(), 0);
}

#[tokio::test(start_paused = true)]
async fn no_layer_hides_that_the_service_is_not_ready() {
    let layers = ServiceBuilder::new()
        .layer(DeadlineLayer::new(MS))
        .layer(RetryLayer::new(retry(None), AnyError, same))
        .layer(BulkheadLayer::new(bulkhead(1), AnyError))
        .layer(BreakerLayer::new(breaker(), AnyError))
        .into_inner();
    let (mut service, mut handle) = spawned(layers);
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    handle.send_error("lost for good");
    assert!(matches!(service.poll_ready(), Poll::Ready(Err(_))));
}

// --- breaker ---

#[tokio::test(start_paused = true)]
async fn an_open_breaker_answers_without_asking_the_service() {
    let breaker = breaker();
    let (mut service, mut handle) = spawned(BreakerLayer::new(breaker.clone(), AnyError));
    assert!(service.poll_ready().is_ready());
    let call = service.call(1);
    assert_request_eq!(handle, 1).send_error("away");
    assert!(call.await.is_err());
    assert_eq!(breaker.state(Instant::now()), BreakerState::Open);

    assert!(service.poll_ready().is_ready());
    let refused = said(&service.call(2).await).unwrap();
    assert!(refused.is_rejection() && refused.retry_after().is_some_and(|wait| wait > Duration::ZERO));
    assert!(handle.poll_request().is_pending());
}

#[tokio::test(start_paused = true)]
async fn refusals_of_layers_further_in_say_nothing_about_the_service() {
    let (outer, inner, bulkhead) = (breaker(), breaker(), bulkhead(1));
    inner.probe_failed(Instant::now(), Instant::now() + 1_000 * MS);
    let _held = taken(&bulkhead);
    let never = || service_fn(async |_: u32| -> Result<u32, BoxError> { panic!("was called") });
    let open = ServiceBuilder::new()
        .layer(BreakerLayer::new(outer.clone(), AnyError))
        .layer(BreakerLayer::new(inner, AnyError))
        .service(never());
    assert!(matches!(said(&open.oneshot(1).await), Some(LayerError::Open(_))));
    let full = ServiceBuilder::new()
        .layer(BreakerLayer::new(outer.clone(), AnyError))
        .layer(BulkheadLayer::new(bulkhead.clone(), AnyError))
        .service(never());
    assert!(matches!(said(&full.oneshot(1).await), Some(LayerError::Full(_))));
    assert_eq!(outer.state(Instant::now()), BreakerState::Closed);
}

async fn state_after(limit: Duration, dropped_after: Duration, deadline_outside: bool) -> BreakerState {
    let breaker = breaker();
    let hang = service_fn(async |_: u32| std::future::pending::<Result<u32, BoxError>>().await);
    let (limited, guarded) = (DeadlineLayer::new(limit), BreakerLayer::new(breaker.clone(), AnyError));
    let result = if deadline_outside {
        let service = ServiceBuilder::new().layer(limited).layer(guarded).service(hang);
        tokio::time::timeout(dropped_after, service.oneshot(1)).await
    } else {
        let service = ServiceBuilder::new().layer(guarded).layer(limited).service(hang);
        tokio::time::timeout(dropped_after, service.oneshot(1)).await
    };
    if let Ok(result) = &result {
        assert_eq!(said(result), Some(LayerError::Timeout { limit }));
    }
    assert_eq!(result.is_ok(), dropped_after > limit);
    breaker.state(Instant::now())
}

#[tokio::test(start_paused = true)]
async fn a_timeout_counts_and_a_departed_caller_does_not() {
    for outside in [true, false] {
        assert_eq!(state_after(1_000 * MS, 500 * MS, outside).await, BreakerState::Closed, "{outside}");
        assert_eq!(state_after(1_000 * MS, 2_000 * MS, outside).await, BreakerState::Open, "{outside}");
    }
    // Nobody can answer a caller in such a hurry; a short limit on each attempt, further in, is a setting.
    assert_eq!(state_after(50 * MS, 2_000 * MS, true).await, BreakerState::Closed);
    assert_eq!(state_after(50 * MS, 2_000 * MS, false).await, BreakerState::Open);
}

// --- bulkhead ---

async fn limit_after_hanging_calls(deadline_outside: bool, limit: Duration) -> usize {
    let bulkhead = bulkhead(16);
    for _ in 0..4 {
        let calls: Vec<_> = (0..16)
            .map(|_| {
                let hang = service_fn(async |_: u32| std::future::pending::<Result<u32, BoxError>>().await);
                let (deadline, held) =
                    (DeadlineLayer::new(limit), BulkheadLayer::new(bulkhead.clone(), AnyError));
                if deadline_outside {
                    let service = ServiceBuilder::new().layer(deadline).layer(held).service(hang);
                    tokio::spawn(service.oneshot(1))
                } else {
                    let service = ServiceBuilder::new().layer(held).layer(deadline).service(hang);
                    tokio::spawn(service.oneshot(1))
                }
            })
            .collect();
        for call in calls {
            // Timed out, or refused because the limit is smaller already.
            assert!(said(&call.await.expect("no call panics")).is_some());
        }
        advance(1_000 * MS).await;
    }
    assert_eq!(bulkhead.in_use(), 0);
    bulkhead.limit()
}

/// The limit follows what calls report, also those that a deadline further out dropped.
#[tokio::test(start_paused = true)]
async fn calls_that_time_out_in_a_full_bulkhead_make_its_limit_smaller() {
    for outside in [true, false] {
        let limit = limit_after_hanging_calls(outside, 1_000 * MS).await;
        assert!(limit < 16, "{limit} of 16, deadline outside: {outside}");
    }
    assert_eq!(limit_after_hanging_calls(true, 50 * MS).await, 16, "a caller in a hurry says nothing");
}

// --- deadline ---

#[tokio::test(start_paused = true)]
async fn a_deadline_further_in_never_extends_the_one_outside() {
    let started = Instant::now();
    let service = |outer, inner| {
        let seen = service_fn(async |_: u32| Ok::<_, BoxError>(current_deadline()));
        ServiceBuilder::new().layer(DeadlineLayer::new(outer)).layer(DeadlineLayer::new(inner)).service(seen)
    };
    let expected = Some(Deadline::after(started, 10 * MS));
    assert_eq!(service(10 * MS, 20 * MS).oneshot(1).await.unwrap(), expected);
    assert_eq!(service(20 * MS, 10 * MS).oneshot(1).await.unwrap(), expected);
    let outside = with_deadline(Deadline::after(started, 10 * MS), service(20 * MS, 20 * MS).oneshot(1));
    assert_eq!(outside.await.unwrap(), expected);
    assert_eq!(current_deadline(), None);
}

#[tokio::test(start_paused = true)]
async fn a_passed_deadline_begins_nothing() {
    let never = service_fn(async |_: u32| -> Result<u32, BoxError> { panic!("was called") });
    let service = ServiceBuilder::new().layer(DeadlineLayer::new(10 * MS)).service(never);
    let passed = Deadline::after(Instant::now(), Duration::ZERO);
    let result = with_deadline(passed, service.oneshot(1)).await;
    assert_eq!(said(&result), Some(LayerError::DeadlinePassed));
}

// --- retry ---

#[tokio::test(start_paused = true)]
async fn a_retry_waits_for_pause_and_readiness() {
    let (mut service, mut handle) = spawned(RetryLayer::new(retry(None), contention::<u32>, same));
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let mut call = stepped(service.call(1));
    assert_request_eq!(handle, 1).send_error("lost a race");
    assert!(call.poll_once().await.is_none());
    handle.allow(0);
    advance(PAUSE).await;
    assert!(call.poll_once().await.is_none());
    assert!(handle.poll_request().is_pending(), "not ready, so not called");
    handle.allow(1);
    assert!(call.poll_once().await.is_none());
    assert_request_eq!(handle, 1).send_response(7);
    assert_eq!(call.poll_once().await.unwrap().unwrap(), 7);
}

#[tokio::test(start_paused = true)]
async fn what_is_tried_again_is_bounded() {
    let calls = Arc::new(AtomicU32::new(0));
    let failing = || {
        let calls = calls.clone();
        service_fn(move |_: u32| {
            calls.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Err::<u32, BoxError>("lost a race".into()))
        })
    };
    let made = || calls.swap(0, Ordering::Relaxed);

    let attempts = RetryLayer::new(retry(None), contention::<u32>, same).layer(failing());
    assert!(attempts.oneshot(1).await.is_err());
    assert_eq!(made(), 3, "attempts");

    let no_copy = RetryLayer::new(retry(None), contention::<u32>, |_: &u32| None).layer(failing());
    assert!(no_copy.oneshot(1).await.is_err());
    assert_eq!(made(), 1, "a request that cannot be copied");

    let unknown = RetryLayer::new(retry(None), AnyError, same).layer(failing());
    assert!(unknown.oneshot(1).await.is_err());
    assert_eq!(made(), 1, "an unknown outcome");

    let hurried = RetryLayer::new(retry(None), contention::<u32>, same);
    let hurried = ServiceBuilder::new().layer(DeadlineLayer::new(PAUSE)).layer(hurried).service(failing());
    let started = Instant::now();
    assert_eq!(said(&hurried.oneshot(1).await), None, "the real error, at once");
    assert_eq!((made(), started.elapsed()), (1, Duration::ZERO), "no time left for pause and attempt");

    let breaker = breaker();
    half_open(&breaker);
    let frozen = RetryLayer::new(retry(Some(&breaker)), contention::<u32>, same).layer(failing());
    assert!(frozen.oneshot(1).await.is_err());
    assert_eq!(made(), 1, "half-open");
}

#[tokio::test(start_paused = true)]
async fn refusals_are_not_tried_again_and_cost_nothing() {
    let breaker = breaker();
    breaker.probe_failed(Instant::now(), Instant::now() + 1_000 * MS);
    let retry = retry(None);
    let budget = retry.budget.clone();
    let never = service_fn(async |_: u32| -> Result<u32, BoxError> { panic!("was called") });
    let service = ServiceBuilder::new()
        .layer(RetryLayer::new(retry, Repeatable(AnyError), same))
        .layer(BreakerLayer::new(breaker, AnyError))
        .service(never);
    let before = budget.balance(Instant::now());
    assert!(matches!(said(&service.oneshot(1).await), Some(LayerError::Open(_))));
    assert!(budget.balance(Instant::now()) >= before);
}

/// A write that was sent and lost, and whose retry was refused, would look as if nothing had been done.
#[tokio::test(start_paused = true)]
async fn a_refused_retry_answers_with_the_failure_before_it() {
    let lost = service_fn(async |_: u32| Err::<u32, BoxError>("lost".into()));
    // The retry does not know the breaker, so it does try again.
    let service = ServiceBuilder::new()
        .layer(RetryLayer::new(retry(None), Repeatable(AnyError), same))
        .layer(BreakerLayer::new(breaker(), AnyError))
        .service(lost);
    assert_eq!(service.oneshot(1).await.unwrap_err().to_string(), "lost");
}

/// A future on the heap, to be polled step by step.
struct Stepped<F>(std::pin::Pin<Box<F>>);

fn stepped<F: Future>(future: F) -> Stepped<F> {
    Stepped(Box::pin(future))
}

impl<F: Future> Stepped<F> {
    /// Polls once; time that passed has reached the timers by then.
    async fn poll_once(&mut self) -> Option<F::Output> {
        tokio::task::yield_now().await;
        std::future::poll_fn(|context| {
            Poll::Ready(match self.0.as_mut().poll(context) {
                Poll::Ready(output) => Some(output),
                Poll::Pending => None,
            })
        })
        .await
    }
}
