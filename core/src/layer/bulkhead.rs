//! The bulkhead around a service. The permit is taken in `poll_ready`, as tower asks of whatever `call` uses up; a service
//! that is dropped gives it back, and a clone has to wait for its own.
//!
//! A full bulkhead makes `poll_ready` wait, no longer than the bulkhead's own `wait`, and is told in `call`. Put tower's
//! load shedding in front to refuse at once. The permit is held until the answer is there, which for HTTP is the head; what
//! the classifier makes of it, and a deadline that passed first, is what the adaptive limit follows.

use std::{
    fmt, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::{BoxError, LayerError, PATIENCE, current_deadline, is_refused, is_timeout, judge};
use crate::{
    bulkhead::{Bulkhead, BulkheadFull, Ended, Permit, Priority},
    deadline::Deadline,
    judgement::Classify,
};

/// Stands for "no deadline": the bulkhead's own `wait` ends much sooner.
const NO_DEADLINE: Duration = Duration::from_secs(24 * 3_600);

/// Puts a bulkhead around services; all of them share it.
#[derive(Debug, Clone)]
pub struct BulkheadLayer<C> {
    bulkhead: Arc<Bulkhead>,
    classifier: C,
    priority: Priority,
}

impl<C> BulkheadLayer<C> {
    /// Takes the permits out of `bulkhead` with [`Priority::Interactive`], and tells it what `classifier` makes of each
    /// answer.
    pub fn new(bulkhead: Arc<Bulkhead>, classifier: C) -> Self {
        Self { bulkhead, classifier, priority: Priority::Interactive }
    }

    /// The same, with another priority.
    #[must_use]
    pub fn with_priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }
}

impl<S, C: Clone> Layer<S> for BulkheadLayer<C> {
    type Service = BulkheadService<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        BulkheadService { inner, layer: self.clone(), place: Place::None }
    }
}

/// A service behind a bulkhead.
pub struct BulkheadService<S, C> {
    inner: S,
    layer: BulkheadLayer<C>,
    place: Place,
}

type Granted = Result<Permit, BulkheadFull>;

/// What `poll_ready` has got so far for the next call.
enum Place {
    None,
    Waiting(Pin<Box<dyn Future<Output = Granted> + Send + Sync>>),
    Told(Granted),
}

impl<S: Clone, C: Clone> Clone for BulkheadService<S, C> {
    /// The clone has no place: readiness belongs to the service that was polled.
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone(), place: Place::None }
    }
}

impl<S: fmt::Debug, C> fmt::Debug for BulkheadService<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkheadService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, C, Request> Service<Request> for BulkheadService<S, C>
where
    S: Service<Request, Error: Into<BoxError>>,
    C: Classify<S::Response, BoxError> + Clone,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BulkheadFuture<S::Future, C>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        loop {
            match &mut self.place {
                Place::None => {
                    let bulkhead = Arc::clone(&self.layer.bulkhead);
                    self.place = Place::Waiting(Box::pin(acquired(bulkhead, self.layer.priority)));
                }
                Place::Waiting(waiting) => self.place = Place::Told(ready!(waiting.as_mut().poll(context))),
                Place::Told(Err(_)) => return Poll::Ready(Ok(())),
                Place::Told(Ok(_)) => break,
            }
        }
        let is_ready = ready!(self.inner.poll_ready(context));
        if is_ready.is_err() {
            self.place = Place::None;
        }
        Poll::Ready(is_ready.map_err(Into::into))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let state = match mem::replace(&mut self.place, Place::None) {
            Place::Told(Ok(permit)) => {
                let held = Held::new(permit, Instant::now());
                let classifier = self.layer.classifier.clone();
                State::Called { future: self.inner.call(request), held, classifier }
            }
            Place::Told(Err(full)) => State::Refused { full },
            Place::None | Place::Waiting(_) => panic!("call must follow a poll_ready that was ready"),
        };
        BulkheadFuture { state }
    }
}

async fn acquired(bulkhead: Arc<Bulkhead>, priority: Priority) -> Granted {
    let now = Instant::now();
    let deadline = current_deadline().unwrap_or_else(|| Deadline::after(now, NO_DEADLINE));
    bulkhead.acquire_owned(priority, deadline, now).await
}

/// The permit of a call in progress. Dropped after the deadline of a call that had time enough, it says so.
#[derive(Debug)]
struct Held {
    /// `None` once the end was told.
    permit: Option<Permit>,
    deadline: Option<Deadline>,
    is_patient: bool,
}

impl Held {
    fn new(mut permit: Permit, now: Instant) -> Self {
        // The place was reserved by `poll_ready`, and nobody knows how long ago.
        permit.begin(now);
        let deadline = current_deadline();
        let is_patient = deadline.is_none_or(|deadline| deadline.remaining(now) >= PATIENCE);
        Self { permit: Some(permit), deadline, is_patient }
    }

    fn finish(&mut self, ended: Ended) {
        let is_hurried = ended == Ended::TimedOut && !self.is_patient;
        if let Some(permit) = self.permit.take() {
            permit.finish(if is_hurried { Ended::Neutral } else { ended }, Instant::now());
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.permit.is_some() {
            let is_late = self.deadline.is_some_and(|deadline| deadline.is_past(Instant::now()));
            self.finish(if is_late { Ended::TimedOut } else { Ended::Neutral });
        }
    }
}

pin_project! {
    /// A call with its permit, or the refusal.
    #[must_use = "futures do nothing unless polled"]
    #[derive(Debug)]
    pub struct BulkheadFuture<F, C> {
        #[pin]
        state: State<F, C>,
    }
}

pin_project! {
    // The future goes before the permit: what it does on drop still counts as a call in progress.
    #[project = StateProjection]
    #[derive(Debug)]
    enum State<F, C> {
        Called { #[pin] future: F, held: Held, classifier: C },
        Refused { full: BulkheadFull },
        Done,
    }
}

impl<F, C, T, E> Future for BulkheadFuture<F, C>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
    C: Classify<T, BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        let result = match state.as_mut().project() {
            StateProjection::Called { future, held, classifier } => {
                let result = ready!(future.poll(context)).map_err(Into::into);
                held.finish(match &result {
                    result if is_refused(result) => Ended::Neutral,
                    result if is_timeout(result) => Ended::TimedOut,
                    result => judge(classifier, result).ended(),
                });
                result
            }
            StateProjection::Refused { full: BulkheadFull::Deadline } => {
                Err(LayerError::DeadlinePassed.into())
            }
            StateProjection::Refused { full } => Err(LayerError::Full(*full).into()),
            StateProjection::Done => panic!("polled after it was done"),
        };
        // Whoever keeps the finished future must not keep the permit.
        state.set(State::Done);
        Poll::Ready(result)
    }
}
