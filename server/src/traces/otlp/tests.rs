//! The exporter before a collector that answers, refuses, hangs and dies.

use std::time::Duration;

use opentelemetry::{
    InstrumentationScope,
    trace::{SpanKind, Status},
};
use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};
use tokio::time::timeout;

use super::*;
use crate::traces::sink::{Manner, Sink};

fn span(name: &'static str) -> SpanData {
    let (trace, id) = (TraceId::from(7_u128), SpanId::from(9_u64));
    let now = std::time::SystemTime::UNIX_EPOCH;
    SpanData {
        span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::NONE),
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: name.into(),
        start_time: now,
        end_time: now,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::default(),
    }
}

#[tokio::test]
async fn a_collector_takes_spans_when_it_answers_and_only_then() {
    let limit = Duration::from_secs(10);
    let sink = Sink::start(Manner::Answers).await;
    let (_, sender) = {
        let section = TracesSection { endpoint: Some(sink.endpoint()), ..TracesSection::default() };
        open(&section, &sink.endpoint()).unwrap()
    };
    let collector = sender.into_collector();
    let take = async |name| timeout(limit, collector.take(vec![span(name), span(name)])).await.unwrap();
    assert!(take("first").await);
    let names: Vec<String> = sink.spans().into_iter().map(|sent| sent.name).collect();
    assert_eq!(names, ["first", "first"]);
    assert!(String::from_utf8_lossy(&sink.raw()).contains(NAME), "it says who sends");

    let address = sink.dies().await;
    assert!(!take("nobody is there").await);
    let sink = Sink::start_at(address, Manner::Refuses).await;
    assert!(!take("refused").await);
    let _ = sink.dies().await;
    let sink = Sink::start_at(address, Manner::Hangs).await;
    // It is the queue that gives it up.
    assert!(timeout(Duration::from_millis(50), collector.take(vec![span("hangs")])).await.is_err());
    let _ = sink.dies().await;
    let sink = Sink::start_at(address, Manner::Answers).await;
    assert!(take("again").await);
    assert_eq!(sink.spans().len(), 2);
}

#[test]
fn an_address_that_cannot_be_used_is_refused_without_its_password() {
    for wrong in
        ["127.0.0.1:4318", "ftp://collector/v1", "http://me:canary@collector:4318/v1/traces", "http:///"]
    {
        let section = TracesSection { endpoint: Some(wrong.to_owned()), ..TracesSection::default() };
        let message = open(&section, wrong).err().unwrap();
        assert!(message.starts_with("traces.endpoint") && !message.contains("canary"), "{wrong}: {message}");
    }
}
