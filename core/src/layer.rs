//! The policies as tower layers, around any `Service`. They hold no rule of their own: breaker, budget, bulkhead and deadline
//! are those of the database path. Errors are boxed, as tower's own layers do it; [`LayerError`] is found in the box.
//!
//! The order that works, outermost first: deadline, retry, bulkhead, breaker, service.
//!
//! - The deadline bounds all attempts and their pauses, and every layer inside knows it.
//! - A retry waits without a permit.
//! - A call that the open breaker refuses gives its permit back at once. With the bulkhead inside the breaker, a refused
//!   call would leave its reserved permit in the service until that is called again or dropped.
//!
//! A second deadline innermost bounds each attempt.
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//! use ridethrough::{
//!     breaker::{Breaker, BreakerConfig},
//!     budget::{RetryBudget, RetryBudgetConfig},
//!     bulkhead::{Bulkhead, BulkheadConfig},
//!     judgement::{AnyError, Repeatable},
//!     layer::{BreakerLayer, BulkheadLayer, DeadlineLayer, RetryLayer},
//!     retry::Retry,
//! };
//! use tokio::time::Instant;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let now = Instant::now();
//! let breaker = Breaker::new("prices", BreakerConfig::default(), now);
//! let budget = Arc::new(RetryBudget::new(RetryBudgetConfig::default(), now));
//! let retry = Retry { breaker: Some(breaker.clone()), ..Retry::new(budget) };
//! let service = ServiceBuilder::new()
//!     .layer(DeadlineLayer::new(Duration::from_secs(2)))
//!     .layer(RetryLayer::new(retry, Repeatable(AnyError), |request: &u32| Some(*request)))
//!     .layer(BulkheadLayer::new(Bulkhead::new(BulkheadConfig::default(), now), AnyError))
//!     .layer(BreakerLayer::new(breaker, AnyError))
//!     .service(service_fn(async |request: u32| Ok::<_, std::io::Error>(request + 1)));
//! assert_eq!(service.oneshot(1).await.unwrap(), 2);
//! # }
//! ```
//!
//! When to use it and what not to do: `docs/patterns/guard-and-layers.md`.

mod breaker;
mod bulkhead;
mod deadline;
mod retry;

use std::{error::Error, time::Duration};

pub use self::{
    breaker::{BreakerFuture, BreakerLayer, BreakerService},
    bulkhead::{BulkheadFuture, BulkheadLayer, BulkheadService},
    deadline::{DeadlineFuture, DeadlineLayer, DeadlineService, current_deadline, with_deadline},
    retry::{RetryFuture, RetryLayer, RetryService},
};
use crate::{
    breaker::{BreakerOpen, CallResult},
    bulkhead::BulkheadFull,
    error::ErrorClass,
    judgement::{Classify, Judgement},
};

/// A call that is given less than this before its deadline says nothing about the service when it gets no answer.
const PATIENCE: Duration = Duration::from_millis(100);

/// What all these layers answer with when they fail; the same type as tower's.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What a layer says itself. Every other error is the service's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// Refused: the breaker is open. Nothing was done.
    #[error(transparent)]
    Open(BreakerOpen),
    /// Refused: too many calls are in progress. Nothing was done.
    #[error(transparent)]
    Full(BulkheadFull),
    /// Refused: what is left of the deadline is too little for an answer. Nothing was done.
    #[error("too little is left of the deadline")]
    DeadlinePassed,
    /// The call was made and no answer came in time; it may have had its effect.
    #[error("no answer within {} ms", limit.as_millis())]
    Timeout {
        /// How long it was given.
        limit: Duration,
    },
}

impl LayerError {
    /// Finds what a layer said in `error` or among its sources.
    #[must_use]
    pub fn of<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(said) = error.downcast_ref() {
                return Some(said);
            }
            next = error.source();
        }
        None
    }

    /// Whether the call was refused without being made, not even once.
    #[must_use]
    pub fn is_rejection(&self) -> bool {
        !matches!(self, Self::Timeout { .. })
    }

    /// When asking again is worth while, where that is known. Spread it before it is told to a crowd.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Open(open) => Some(open.retry_after()),
            Self::Full(_) | Self::DeadlinePassed | Self::Timeout { .. } => None,
        }
    }
}

/// What a layer further in said is judged here, and only the rest by the classifier: a refusal says nothing about the
/// service, and is never tried again.
fn judge<T>(classifier: &impl Classify<T, BoxError>, result: &Result<T, BoxError>) -> Judgement {
    let refused = |class| Judgement { class: Some(class), breaker: CallResult::Neutral, may_retry: false };
    match result.as_ref().err().and_then(|error| LayerError::of(error.as_ref())) {
        Some(LayerError::Open(_) | LayerError::DeadlinePassed) => refused(ErrorClass::Transient),
        Some(LayerError::Full(_)) => refused(ErrorClass::Overload),
        Some(LayerError::Timeout { .. }) => classifier.judge_timeout(),
        None => classifier.judge(result),
    }
}

fn is_refused<T>(result: &Result<T, BoxError>) -> bool {
    let said = result.as_ref().err().and_then(|error| LayerError::of(error.as_ref()));
    said.is_some_and(LayerError::is_rejection)
}

fn is_timeout<T>(result: &Result<T, BoxError>) -> bool {
    let said = result.as_ref().err().and_then(|error| LayerError::of(error.as_ref()));
    matches!(said, Some(LayerError::Timeout { .. }))
}
