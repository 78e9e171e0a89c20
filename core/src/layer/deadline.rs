//! One deadline for everything inside. It is kept with the task while the call is polled, so that it works for any type of
//! request: the layers inside read it, and so may the service ([`current_deadline`]). A service that hands its work to
//! another task has to take it along ([`with_deadline`]).
//!
//! It begins with `call`; waiting for readiness is bounded by whatever one waits for.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::{
    task::futures::TaskLocalFuture,
    time::{Instant, Sleep, sleep_until},
};
use tower_layer::Layer;
use tower_service::Service;

use super::{BoxError, LayerError};
use crate::deadline::Deadline;

tokio::task_local! {
    static DEADLINE: Deadline;
}

/// The deadline of the call that is being polled, where there is one.
#[must_use]
pub fn current_deadline() -> Option<Deadline> {
    DEADLINE.try_with(|deadline| *deadline).ok()
}

/// Runs `future` under `deadline`, or the one it is under already where that comes first. It tells those inside and stops
/// nobody: that is what [`DeadlineLayer`] does.
///
/// # Cancel safety
/// That of `future`.
pub async fn with_deadline<F: Future>(deadline: Deadline, future: F) -> F::Output {
    DEADLINE.scope(within_current(deadline), future).await
}

fn within_current(deadline: Deadline) -> Deadline {
    current_deadline().map_or(deadline, |current| current.min(deadline))
}

/// Gives every call a deadline.
#[derive(Debug, Clone, Copy)]
pub struct DeadlineLayer {
    limit: Duration,
}

impl DeadlineLayer {
    /// Each call ends after `limit`, or at the deadline it is under already where that comes first.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        DeadlineService { inner, limit: self.limit }
    }
}

/// A service whose calls end in time.
#[derive(Debug, Clone)]
pub struct DeadlineService<S> {
    inner: S,
    limit: Duration,
}

impl<S, Request> Service<Request> for DeadlineService<S>
where
    S: Service<Request, Error: Into<BoxError>>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let now = Instant::now();
        let deadline = within_current(Deadline::after(now, self.limit));
        let inner = (!deadline.is_past(now)).then(|| {
            // The call itself runs under the deadline too: layers admit and count in it.
            let future = DEADLINE.sync_scope(deadline, || self.inner.call(request));
            DEADLINE.scope(deadline, future)
        });
        let limit = deadline.remaining(now);
        DeadlineFuture { inner, sleep: sleep_until(deadline.instant()), limit }
    }
}

pin_project! {
    /// A call that ends in time.
    #[must_use = "futures do nothing unless polled"]
    #[derive(Debug)]
    pub struct DeadlineFuture<F> {
        // `None` once it is over: what it holds must not wait for whoever keeps this future.
        #[pin]
        inner: Option<TaskLocalFuture<Deadline, F>>,
        #[pin]
        sleep: Sleep,
        limit: Duration,
    }
}

impl<F, T, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(Err(LayerError::DeadlinePassed.into()));
        };
        let result = match inner.poll(context) {
            Poll::Ready(result) => result.map_err(Into::into),
            Poll::Pending if this.sleep.poll(context).is_ready() => {
                Err(LayerError::Timeout { limit: *this.limit }.into())
            }
            Poll::Pending => return Poll::Pending,
        };
        this.inner.set(None);
        Poll::Ready(result)
    }
}
