//! The spans of this program for a collector, by OTLP over HTTP: which of them, under which trace, in which form. When they
//! are sent is the business of `queue`.

use std::{str::FromStr as _, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use opentelemetry::{
    Context,
    trace::{
        SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _,
    },
};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter as _},
};
use ridethrough::{http::TraceContext, service::LogLayer};
use tracing::{Level, Metadata, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{
    Layer as _,
    filter::{FilterFn, LevelFilter},
};

use super::{
    TracesSection,
    queue::{Collect, Sender, queue},
};
use crate::outward::{Address, Unusable};

const NAME: &str = "ridethrough-server";
/// The crates whose spans are sent. What others put into theirs nobody here has looked at.
const SPEAKERS: [&str; 2] = ["ridethrough", "ridethrough_server"];
/// Of a collector's answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The collector at the other end.
#[derive(Debug)]
pub(crate) struct Collector(SpanExporter);

impl Collect for Collector {
    async fn take(&self, spans: Vec<SpanData>) -> bool {
        self.0.export(spans).await.is_ok()
    }
}

/// What the exporter sends by. It has no time limit of its own: the queue has.
#[derive(Debug)]
struct Way(Address);

#[async_trait::async_trait]
impl HttpClient for Way {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        Ok(self.0.exchange(request.map(Full::new), ANSWER_BYTES_MAX).await?)
    }
}

/// The layer that sees the spans, and the part that sends them to `endpoint`.
///
/// # Errors
/// One sentence that names the key.
pub(super) fn open(section: &TracesSection, endpoint: &str) -> Result<(LogLayer, Sender<Collector>), String> {
    section.validate()?;
    let address = Address::of(endpoint, None).map_err(|unusable| match unusable {
        Unusable::Address => {
            "traces.endpoint must be an address without a password, such as http://127.0.0.1:4318/v1/traces"
        }
        Unusable::Certificates | Unusable::NoBundle => {
            "traces.endpoint begins with https://, and this system has no certificates to trust"
        }
    })?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Way(address))
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint)
        // Never reached: the queue gives a batch up first.
        .with_timeout(section.timeout + Duration::from_secs(60))
        .build();
    let mut exporter = exporter.map_err(|_| "traces.endpoint cannot be used".to_owned())?;
    let resource = Resource::builder().with_service_name(NAME).build();
    exporter.set_resource(&resource);
    let (queue, sender) = queue(section.queue_max, Collector(exporter), section.timeout);
    let provider = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(section.ratio))))
        .with_span_processor(queue)
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(NAME))
        .with_context_activation(false)
        .with_location(false)
        .with_target(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(FilterFn::new(is_sent).with_max_level_hint(LevelFilter::DEBUG));
    Ok((layer.boxed(), sender))
}

/// Spans are for traces at the level debug; those at info mark the lines of the log. Lines are not sent.
fn is_sent(metadata: &Metadata<'_>) -> bool {
    let krate = metadata.target().split("::").next().unwrap_or_default();
    metadata.is_span() && *metadata.level() == Level::DEBUG && SPEAKERS.contains(&krate)
}

/// Puts `span` into the sender's trace. Where he has none, the answer is the context of the trace that begins with it, and
/// none where nobody records spans.
pub(super) fn joined(span: &Span, sender: Option<TraceContext>) -> Option<TraceContext> {
    if span.is_disabled() {
        return sender;
    }
    if let Some(sender) = sender {
        let (trace, parent) = (TraceId::from(sender.trace()), SpanId::from(sender.span()));
        let flags = if sender.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::default() };
        // It was valid when it came in; the other library may think otherwise of a detail.
        let state = TraceState::from_str(sender.state()).unwrap_or_default();
        let parent = SpanContext::new(trace, parent, flags, true, state);
        // It fails where nobody records spans.
        let _ = span.set_parent(Context::new().with_remote_span_context(parent));
        return Some(sender);
    }
    let context = span.context();
    let begun = context.span().span_context().clone();
    let number = |bytes: [u8; 8]| u64::from_be_bytes(bytes);
    begun.is_valid().then(|| {
        let trace = u128::from_be_bytes(begun.trace_id().to_bytes());
        TraceContext::begin(trace, number(begun.span_id().to_bytes()), begun.is_sampled())
    })
}

#[cfg(test)]
mod tests;
