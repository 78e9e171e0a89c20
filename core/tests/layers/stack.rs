//! All four layers together: composition with the layers of tower and tower-http, and what a dropped call leaves behind.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use ridethrough::{
    breaker::{Breaker, BreakerConfig, BreakerState, CallResult},
    bulkhead::Bulkhead,
    error::ErrorClass,
    judgement::Judgement,
    layer::{BoxError, BreakerLayer, BulkheadLayer, DeadlineLayer, RetryLayer},
};
use tokio::time::{Instant, advance};
use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::{MS, PAUSE, breaker, bulkhead, contention, half_open, retry, same, spawned, stepped, taken};

#[tokio::test(start_paused = true)]
async fn composes_with_layers_of_tower_and_tower_http() {
    use bytes::Bytes;
    use http::{Request, Response, StatusCode};
    use http_body_util::{Empty, Full};

    type Answer = Result<Response<Full<Bytes>>, BoxError>;
    let calls = Arc::new(AtomicU32::new(0));
    let backend = {
        let calls = calls.clone();
        service_fn(move |_: Request<Empty<Bytes>>| {
            let is_first = calls.fetch_add(1, Ordering::Relaxed) == 0;
            let status = if is_first { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
            let answer = Response::builder().status(status).body(Full::<Bytes>::default()).unwrap();
            std::future::ready(Ok::<_, BoxError>(answer))
        })
    };
    let by_status = |result: &Answer| match result {
        Ok(answer) if answer.status().is_server_error() => Judgement::of(ErrorClass::Transient),
        Ok(_) => Judgement::SUCCESS,
        Err(_) => Judgement::of(ErrorClass::Unknown),
    };
    let idempotent =
        |request: &Request<Empty<Bytes>>| request.method().is_idempotent().then(|| request.clone());
    let breaker = Breaker::new("backend", BreakerConfig::default(), Instant::now());
    let bulkhead = bulkhead(1);
    let service = ServiceBuilder::new()
        .layer(tower_http::trace::TraceLayer::new_for_http())
        .load_shed()
        .timeout(5_000 * MS)
        .layer(DeadlineLayer::new(2_000 * MS))
        .layer(RetryLayer::new(retry(Some(&breaker)), by_status, idempotent))
        .layer(BulkheadLayer::new(bulkhead.clone(), by_status))
        .layer(BreakerLayer::new(breaker, by_status))
        .concurrency_limit(10)
        .service(backend);
    is_good_for_axum(&service);

    let get = || Request::get("/").body(Empty::new()).unwrap();
    let answer = service.clone().oneshot(get()).await.unwrap();
    assert_eq!((answer.status(), calls.load(Ordering::Relaxed)), (StatusCode::OK, 2));

    let held = taken(&bulkhead);
    let shed = service.clone().oneshot(get()).await.err().unwrap();
    assert!(shed.is::<tower::load_shed::error::Overloaded>(), "{shed}");
    drop(held);
    assert_eq!(bulkhead.queued(), 0);

    calls.store(0, Ordering::Relaxed);
    let post = Request::post("/").body(Empty::new()).unwrap();
    let answer = service.oneshot(post).await.unwrap();
    assert_eq!((answer.status(), calls.load(Ordering::Relaxed)), (StatusCode::SERVICE_UNAVAILABLE, 1));
    assert_eq!(bulkhead.in_use(), 0);
}

fn is_good_for_axum<S: Clone + Send + Sync + 'static>(_: &S) {}

/// Where a call of the whole stack can be dropped.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Queue,
    Reserved,
    Call,
    Pause,
    Readiness,
}

/// The product of all places with the state of the breaker and with a deadline that passed or not: each time no permit, no
/// place in the queue and no trial may be missing.
#[tokio::test(start_paused = true)]
async fn a_call_dropped_anywhere_leaves_nothing_behind() {
    for place in [Place::Queue, Place::Reserved, Place::Call, Place::Pause, Place::Readiness] {
        for starts_half_open in [false, true] {
            // While half-open nothing is tried again, so there is no pause to be dropped in.
            if starts_half_open && matches!(place, Place::Pause | Place::Readiness) {
                continue;
            }
            for expired in [false, true] {
                let (breaker, bulkhead) = (breaker(), bulkhead(1));
                if starts_half_open {
                    half_open(&breaker);
                }
                drop_at(place, expired, &breaker, &bulkhead).await;
                let case = format!("{place:?}, half-open: {starts_half_open}, expired: {expired}");
                assert_eq!((bulkhead.in_use(), bulkhead.queued()), (0, 0), "{case}");
                let now = Instant::now();
                if expired && place == Place::Call {
                    assert_eq!(breaker.state(now), BreakerState::Open, "{case}");
                } else {
                    breaker.admit(now).expect(&case).record(CallResult::Success, now);
                }
            }
        }
    }
}

async fn drop_at(place: Place, expired: bool, breaker: &Arc<Breaker>, bulkhead: &Arc<Bulkhead>) {
    let limit = 1_000 * MS;
    let layers = ServiceBuilder::new()
        .layer(DeadlineLayer::new(limit))
        .layer(RetryLayer::new(retry(Some(breaker)), contention::<u32>, same))
        .layer(BulkheadLayer::new(bulkhead.clone(), contention::<u32>))
        .layer(BreakerLayer::new(breaker.clone(), contention::<u32>))
        .into_inner();
    let (mut service, mut handle) = spawned(layers);
    let held = match place {
        Place::Queue => Some(taken(bulkhead)),
        _ => None,
    };
    handle.allow(1);
    assert_eq!(service.poll_ready().is_ready(), place != Place::Queue);
    if matches!(place, Place::Queue | Place::Reserved) {
        if expired {
            advance(limit).await;
        }
        drop((service, held));
        return;
    }
    let mut call = stepped(service.call(1));
    assert!(call.poll_once().await.is_none());
    if place != Place::Call {
        let request = handle.next_request().await;
        request.expect("the service was called").1.send_error("lost a race");
        assert!(call.poll_once().await.is_none());
        assert_eq!(bulkhead.in_use(), 0, "a pause needs no permit");
    }
    if place == Place::Readiness {
        handle.allow(0);
        advance(PAUSE).await;
        assert!(call.poll_once().await.is_none());
        assert_eq!(bulkhead.in_use(), 1);
    }
    if expired {
        advance(limit).await;
    }
    drop(call);
    drop(service);
}
