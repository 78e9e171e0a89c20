//! What a collector is told of requests: one trace each, the sender's where he has one, and nothing that was sent.

use ridethrough::drain::Drain;
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;
use crate::traces::{
    TracesSection, open,
    sink::{Manner, Sent, Sink},
};

const CANARY: &str = "quokkazanzibar";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// What a collector is told of what `work` asks, with the share of new traces that is recorded.
async fn told(ratio: f64, work: impl AsyncFnOnce(&Stack)) -> (Vec<Sent>, Vec<u8>) {
    let sink = Sink::start(Manner::Answers).await;
    let section = TracesSection { endpoint: Some(sink.endpoint()), ratio, ..TracesSection::default() };
    let (layer, exporter) = open(&section).unwrap().unwrap();
    let stack = stack();
    {
        let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(vec![layer]));
        work(&stack).await;
    }
    let (drain, draining) = Drain::new();
    drain.begin();
    exporter.run(draining).await;
    (sink.spans(), sink.raw())
}

fn named<'s>(spans: &'s [Sent], name: &str) -> &'s Sent {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no span {name} in {spans:#?}"))
}

#[tokio::test]
async fn a_write_is_one_trace_of_its_sender_across_tasks_and_tells_nothing_of_what_was_sent() {
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let (spans, raw) = told(0.0, async |stack| {
        let body = format!("{{\"title\": \"{CANARY}\"}}");
        let headers = [
            ("traceparent", parent.as_str()),
            ("tracestate", "a=1,b=2"),
            ("idempotency-key", CANARY),
            ("authorization", "Bearer quokkazanzibar"),
            ("x-request-id", "r-1"),
        ];
        let answer = stack.write(Method::POST, &format!("/api/todos?{CANARY}"), &body, &headers).await;
        assert_eq!((answer.status, answer.header("traceparent")), (202, parent.as_str()), "{}", answer.text);
        assert_eq!(answer.header("tracestate"), "");
    })
    .await;
    let request = named(&spans, "POST /api/todos");
    assert_eq!((request.trace.as_str(), request.parent.as_str(), request.kind), (TRACE, PARENT, 2));
    assert_eq!(request.state, "a=1,b=2");
    assert!(request.attributes.contains(&("http.route".to_owned(), "/api/todos".to_owned())), "{request:?}");
    let append = named(&spans, "journal.append");
    assert_eq!((append.trace.as_str(), &append.parent), (TRACE, &request.span));
    assert!(!String::from_utf8_lossy(&raw).contains(CANARY), "{}", String::from_utf8_lossy(&raw));
}

#[tokio::test]
async fn the_sender_decides_what_is_recorded_and_the_ratio_what_begins_here() {
    let parent = format!("00-{TRACE}-{PARENT}-00");
    let (spans, _) = told(1.0, async |stack| {
        let request = Request::get("/api/todos").header("traceparent", &parent).body(Body::empty()).unwrap();
        assert_eq!(stack.send(request).await.header("traceparent"), parent);
    })
    .await;
    assert_eq!(spans, [], "its sender does not record it");
    let (spans, _) = told(0.0, async |stack| {
        let answer = stack.get("/api/todos").await;
        assert!(answer.header("traceparent").ends_with("-02"), "{}", answer.header("traceparent"));
    })
    .await;
    assert_eq!(spans, []);
    let mut begun = String::new();
    let (spans, _) = told(1.0, async |stack| {
        begun = stack.get("/api/todos").await.header("traceparent").to_owned();
        let _ = stack.get("/readyz").await;
    })
    .await;
    let request = named(&spans, "GET /api/todos");
    assert_eq!(begun, format!("00-{}-{}-03", request.trace, request.span));
    assert_eq!((request.parent.as_str(), spans.len()), ("", 1), "a probe belongs to no trace: {spans:?}");
}
