//! Which trace a request belongs to, and, with the feature `otel`, who is told of its spans. What a span holds is decided
//! where it is made: names, numbers and words of this program, never what a user wrote.

#[cfg(feature = "otel")]
mod otlp;
#[cfg(feature = "otel")]
mod queue;
#[cfg(feature = "otel")]
#[cfg(test)]
pub(crate) mod sink;

use std::time::Duration;

use ridethrough::{drain::Draining, http::TraceContext, service::LogLayer};
use serde::{Deserialize, Serialize};
use tracing::Span;
use uuid::Uuid;

/// Where the spans of requests are sent.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TracesSection {
    /// Takes them by OTLP over HTTP, such as `http://127.0.0.1:4318/v1/traces`; with the feature `otel`. Default nobody.
    pub(crate) endpoint: Option<String>,
    /// Share of the traces begun here that are recorded; one that a request brings along is recorded where its sender
    /// records it. Between 0 and 1. Default 1.
    pub(crate) ratio: f64,
    /// Spans that wait to be sent, 1 to 1,000,000; more are dropped and counted. Default 4096.
    pub(crate) queue_max: usize,
    /// For sending once, up to 1 min. What is not taken by then is lost and counted. Default 5 s.
    #[serde(with = "ridethrough::duration_text")]
    pub(crate) timeout: Duration,
}

impl Default for TracesSection {
    fn default() -> Self {
        Self { endpoint: None, ratio: 1.0, queue_max: 4096, timeout: Duration::from_secs(5) }
    }
}

impl TracesSection {
    /// Checks what can be checked without opening anything.
    ///
    /// # Errors
    /// One sentence that names the key.
    pub(crate) fn validate(&self) -> Result<(), String> {
        if self.endpoint.is_some() && !cfg!(feature = "otel") {
            return Err(
                "traces.endpoint is set, and this program was built without the feature otel".to_owned()
            );
        }
        if !(0.0..=1.0).contains(&self.ratio) {
            return Err("traces.ratio must be between 0 and 1".to_owned());
        }
        if !(1..=1_000_000).contains(&self.queue_max) {
            return Err("traces.queue_max must be between 1 and 1000000".to_owned());
        }
        if self.timeout.is_zero() || self.timeout > Duration::from_secs(60) {
            return Err("traces.timeout must be more than 0s and at most 1m".to_owned());
        }
        Ok(())
    }
}

/// What must run beside the requests, so that spans are sent.
pub(crate) struct Exporter(#[cfg(feature = "otel")] queue::Sender<otlp::Collector>);

impl Exporter {
    /// Sends until the drain, and then for a moment what is left.
    ///
    /// # Cancel safety
    /// What waits is lost.
    pub(crate) async fn run(self, draining: Draining) {
        #[cfg(feature = "otel")]
        self.0.run(draining).await;
        #[cfg(not(feature = "otel"))]
        drop(draining);
    }
}

/// What sees the spans, and what sends them; nothing where nobody is to be told.
///
/// # Errors
/// One sentence that names the key.
#[cfg(feature = "otel")]
pub(crate) fn open(section: &TracesSection) -> Result<Option<(LogLayer, Exporter)>, String> {
    let Some(endpoint) = &section.endpoint else { return Ok(None) };
    let (layer, sender) = otlp::open(section, endpoint)?;
    Ok(Some((layer, Exporter(sender))))
}

#[cfg(not(feature = "otel"))]
pub(crate) fn open(section: &TracesSection) -> Result<Option<(LogLayer, Exporter)>, String> {
    section.validate().map(|()| None)
}

/// The trace context of an answer, for the request's `span`: the sender's, else that of a trace that begins here.
pub(crate) fn joined(span: &Span, sender: Option<TraceContext>) -> TraceContext {
    #[cfg(feature = "otel")]
    let sender = otlp::joined(span, sender);
    #[cfg(not(feature = "otel"))]
    let _ = span;
    sender.unwrap_or_else(begun)
}

/// Recorded by nobody.
fn begun() -> TraceContext {
    // Made of two, because a part of an id says how it was made.
    let (one, other) = (Uuid::new_v4().as_u128(), Uuid::new_v4().as_u128());
    TraceContext::begin(one ^ other.rotate_left(64), other as u64, false)
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn wrong_values_name_their_key() {
        let usual = TracesSection::default;
        let wrong = [
            ("traces.ratio", TracesSection { ratio: 1.1, ..usual() }),
            ("traces.ratio", TracesSection { ratio: f64::NAN, ..usual() }),
            ("traces.queue_max", TracesSection { queue_max: 0, ..usual() }),
            ("traces.timeout", TracesSection { timeout: Duration::from_secs(61), ..usual() }),
        ];
        for (key, section) in wrong {
            assert!(section.validate().unwrap_err().starts_with(key), "{section:?}");
        }
        let somewhere =
            TracesSection { endpoint: Some("http://127.0.0.1:4318/v1/traces".to_owned()), ..usual() };
        assert_eq!(somewhere.validate().is_ok(), cfg!(feature = "otel"));
    }

    #[test]
    fn a_trace_that_begins_here_is_another_each_time() {
        let (one, other) = (joined(&Span::none(), None), joined(&Span::none(), None));
        assert_ne!(one, other);
        assert_eq!(joined(&Span::none(), Some(one.clone())), one);
    }
}
