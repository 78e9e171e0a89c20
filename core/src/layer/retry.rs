//! Retries around a service, paid for by the budget. Each attempt after the first waits for readiness anew, on the clone
//! that made the first; what may be made again is said by the classifier, and how a request is copied by the caller.

use std::{
    fmt, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};
use tower_layer::Layer;
use tower_service::Service;

use super::{BoxError, current_deadline, is_refused, judge};
use crate::{deadline::Deadline, judgement::Classify, retry::Retry};

/// Puts retries around services; all of them share the budget.
#[derive(Debug, Clone)]
pub struct RetryLayer<C, R> {
    retry: Retry,
    classifier: C,
    copy: R,
}

impl<C, R> RetryLayer<C, R> {
    /// Makes a call again where `classifier` says that it may be and `copy` gave a copy of its request. The copy is made
    /// before each attempt; a request without one, because it must not be sent twice or its body is a stream, is sent once.
    pub fn new(retry: Retry, classifier: C, copy: R) -> Self {
        Self { retry, classifier, copy }
    }
}

impl<S, C: Clone, R: Clone> Layer<S> for RetryLayer<C, R> {
    type Service = RetryService<S, C, R>;

    fn layer(&self, inner: S) -> Self::Service {
        RetryService { inner, policy: self.clone() }
    }
}

/// A service whose failed calls are made again.
#[derive(Debug, Clone)]
pub struct RetryService<S, C, R> {
    inner: S,
    policy: RetryLayer<C, R>,
}

impl<S, C, R, Request> Service<Request> for RetryService<S, C, R>
where
    S: Service<Request, Error: Into<BoxError>> + Clone,
    C: Classify<S::Response, BoxError> + Clone,
    R: Fn(&Request) -> Option<Request> + Clone,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = RetryFuture<S, C, R, Request>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // The service that is ready makes the call; its clone is not, and stays.
        let clone = self.inner.clone();
        let mut service = mem::replace(&mut self.inner, clone);
        let request_copy = (self.policy.copy)(&request);
        RetryFuture {
            state: State::Called { future: service.call(request) },
            service,
            policy: self.policy.clone(),
            copy: request_copy,
            attempt: 1,
            deadline: current_deadline(),
            before: None,
        }
    }
}

pin_project! {
    /// A call and its retries.
    #[must_use = "futures do nothing unless polled"]
    pub struct RetryFuture<S, C, R, Request>
    where
        S: Service<Request>,
    {
        #[pin]
        state: State<S::Future>,
        service: S,
        policy: RetryLayer<C, R>,
        copy: Option<Request>,
        attempt: u32,
        deadline: Option<Deadline>,
        // How the attempt before this one ended. Where the retry is refused this is the answer, so that "refused" always
        // means that nothing was done.
        before: Option<Result<S::Response, BoxError>>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[derive(Debug)]
    enum State<F> {
        Called { #[pin] future: F },
        Pausing { #[pin] sleep: Sleep },
        GettingReady,
    }
}

impl<S, C, R, Request> Future for RetryFuture<S, C, R, Request>
where
    S: Service<Request, Error: Into<BoxError>>,
    C: Classify<S::Response, BoxError>,
    R: Fn(&Request) -> Option<Request>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::Called { future } => {
                    let result = ready!(future.poll(context)).map_err(Into::into);
                    if is_refused(&result) {
                        return Poll::Ready(this.before.take().unwrap_or(result));
                    }
                    if *this.attempt == 1 {
                        // Not before: a refused call earns no retry.
                        this.policy.retry.budget.deposit(Instant::now());
                    }
                    if this.copy.is_none() {
                        return Poll::Ready(result);
                    }
                    let judgement = judge(&this.policy.classifier, &result);
                    let (retry, now) = (&this.policy.retry, Instant::now());
                    let random = &mut fastrand::Rng::new();
                    let pause = retry.pause(judgement, *this.attempt, *this.deadline, now, random);
                    let Some(pause) = pause else { return Poll::Ready(result) };
                    *this.before = Some(result);
                    this.state.set(State::Pausing { sleep: sleep(pause) });
                }
                StateProjection::Pausing { sleep } => {
                    ready!(sleep.poll(context));
                    this.state.set(State::GettingReady);
                }
                StateProjection::GettingReady => {
                    let is_ready = ready!(this.service.poll_ready(context)).map_err(Into::into);
                    match (is_ready, this.copy.take()) {
                        (Ok(()), Some(request)) => {
                            *this.attempt += 1;
                            *this.copy = (this.policy.copy)(&request);
                            this.state.set(State::Called { future: this.service.call(request) });
                        }
                        (lost, _) => {
                            let lost = lost.err().unwrap_or_else(|| "the request has no copy".into());
                            return Poll::Ready(this.before.take().unwrap_or(Err(lost)));
                        }
                    }
                }
            }
        }
    }
}

impl<S: Service<Request>, C, R, Request> fmt::Debug for RetryFuture<S, C, R, Request> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryFuture").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}
