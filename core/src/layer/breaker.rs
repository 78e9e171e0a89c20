//! The breaker around a service. An open breaker answers in `call`, not in `poll_ready`: there an error would mean that the
//! service is lost for good, and waiting would hide the refusal from whoever could answer with something else.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::{BoxError, LayerError, PATIENCE, current_deadline, is_timeout, judge};
use crate::{
    breaker::{Breaker, BreakerOpen},
    judgement::{Awaited, Classify},
};

/// Puts a breaker around services; all of them share it.
#[derive(Debug, Clone)]
pub struct BreakerLayer<C> {
    breaker: Arc<Breaker>,
    classifier: C,
}

impl<C> BreakerLayer<C> {
    /// Tells `breaker` what `classifier` makes of each answer.
    pub fn new(breaker: Arc<Breaker>, classifier: C) -> Self {
        Self { breaker, classifier }
    }
}

impl<S, C: Clone> Layer<S> for BreakerLayer<C> {
    type Service = BreakerService<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        BreakerService { inner, breaker: Arc::clone(&self.breaker), classifier: self.classifier.clone() }
    }
}

/// A service behind a breaker.
#[derive(Debug, Clone)]
pub struct BreakerService<S, C> {
    inner: S,
    breaker: Arc<Breaker>,
    classifier: C,
}

impl<S, C, Request> Service<Request> for BreakerService<S, C>
where
    S: Service<Request, Error: Into<BoxError>>,
    C: Classify<S::Response, BoxError> + Clone,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BreakerFuture<S::Future, C>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let now = Instant::now();
        let state = match self.breaker.admit_owned(now) {
            Ok(admission) => {
                // Before the call, which may panic.
                let awaited = Some(Awaited::new(admission, current_deadline(), PATIENCE, now));
                State::Called {
                    future: self.inner.call(request),
                    awaited,
                    classifier: self.classifier.clone(),
                }
            }
            Err(open) => State::Refused { open },
        };
        BreakerFuture { state }
    }
}

pin_project! {
    /// A call behind a breaker. Dropped early it counts as a failure where its deadline had passed, and else not at all.
    #[must_use = "futures do nothing unless polled"]
    #[derive(Debug)]
    pub struct BreakerFuture<F, C> {
        #[pin]
        state: State<F, C>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[derive(Debug)]
    enum State<F, C> {
        Called { #[pin] future: F, awaited: Option<Awaited<Arc<Breaker>>>, classifier: C },
        Refused { open: BreakerOpen },
    }
}

impl<F, C, T, E> Future for BreakerFuture<F, C>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
    C: Classify<T, BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Called { future, awaited, classifier } => {
                let result = ready!(future.poll(context)).map_err(Into::into);
                if let Some(awaited) = awaited.take() {
                    let (judgement, now) = (judge(classifier, &result), Instant::now());
                    if is_timeout(&result) {
                        awaited.record_timeout(judgement, now);
                    } else {
                        awaited.record(judgement.breaker, now);
                    }
                }
                Poll::Ready(result)
            }
            StateProjection::Refused { open } => Poll::Ready(Err(LayerError::Open(*open).into())),
        }
    }
}
