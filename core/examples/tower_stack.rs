//! The layers around a client service: deadline, retry, bulkhead, breaker. The client stands for any HTTP client that is a
//! tower service; it fails for a while, so that all layers have something to do.
//!
//!     cargo run -p ridethrough --features tower --example tower_stack

use std::{sync::Arc, time::Duration};

use http::{Request, Response, StatusCode};
use ridethrough::{
    breaker::{Breaker, BreakerConfig},
    budget::{RetryBudget, RetryBudgetConfig},
    bulkhead::{Bulkhead, BulkheadConfig},
    error::ErrorClass,
    judgement::Judgement,
    layer::{BoxError, BreakerLayer, BulkheadLayer, DeadlineLayer, LayerError, RetryLayer},
    retry::Retry,
};
use tokio::time::{Instant, sleep};
use tower::{ServiceBuilder, ServiceExt, service_fn};

/// 503 means that nobody was there to take the request; an error may have come after it was taken.
fn judge(result: &Result<Response<String>, BoxError>) -> Judgement {
    match result {
        Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => {
            Judgement::of(ErrorClass::Transient)
        }
        Ok(_) => Judgement::SUCCESS,
        Err(_) => Judgement::of(ErrorClass::Unknown),
    }
}

fn copy(request: &Request<String>) -> Option<Request<String>> {
    request.method().is_idempotent().then(|| request.clone())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let now = Instant::now();
    let client = service_fn(move |_: Request<String>| {
        let is_away = (1_000..2_500).contains(&now.elapsed().as_millis());
        let status = if is_away { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        std::future::ready(Response::builder().status(status).body(String::new()).map_err(BoxError::from))
    });
    let breaker = Breaker::new("prices", BreakerConfig::default(), now);
    let budget = Arc::new(RetryBudget::new(RetryBudgetConfig::default(), now));
    let retry = Retry { breaker: Some(breaker.clone()), ..Retry::new(budget) };
    let service = ServiceBuilder::new()
        .layer(DeadlineLayer::new(Duration::from_secs(1)))
        .layer(RetryLayer::new(retry, judge, copy))
        .layer(BulkheadLayer::new(Bulkhead::new(BulkheadConfig::default(), now), judge))
        .layer(BreakerLayer::new(breaker, judge))
        .service(client);
    for number in 1..=30 {
        let answer = service.clone().oneshot(Request::get("/price").body(String::new())?).await;
        match answer {
            Ok(answer) => eprintln!("{number}: {}", answer.status()),
            Err(error) => match LayerError::of(error.as_ref()) {
                Some(said) => eprintln!("{number}: {said}; again in {:?}", said.retry_after()),
                None => eprintln!("{number}: failed: {error}"),
            },
        }
        sleep(Duration::from_millis(250)).await;
    }
    Ok(())
}
