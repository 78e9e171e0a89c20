//! What the log says of requests: one line each, whoever ends them, with ids and without what was asked for.

use std::{
    fmt::{Debug, Write as _},
    sync::{Arc, Mutex},
};

use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tracing::{
    Event,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer, Registry,
    layer::{Context, SubscriberExt as _},
};

use super::harness::*;

/// The lines about requests, as `name=value` after one another.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}

impl Layer<Registry> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, Registry>) {
        if event.metadata().target() == "access" {
            let mut fields = Fields(String::new());
            event.record(&mut fields);
            self.0.lock().unwrap().push(fields.0);
        }
    }
}

impl Lines {
    async fn after(&self, count: usize) -> Vec<String> {
        soon("the line about the request", async {
            while self.0.lock().unwrap().len() < count {
                tokio::task::yield_now().await;
            }
        })
        .await;
        self.0.lock().unwrap().clone()
    }
}

/// A client that left before its answer was told by nobody: the line was written after the answer.
#[tokio::test]
async fn each_request_is_one_line_also_where_the_client_leaves() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(lines.clone()));
    let stub = Stub::start(|head, mut stream, _| async move {
        if head.starts_with("GET /answered") {
            stream.write_all(OK_CLOSE.as_bytes()).await.unwrap();
        } else {
            let _ = read_until(&mut stream, "never").await;
        }
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let traced = format!("traceparent: {trace}");
    let answered = ask(proxy.address, "GET /answered?quokkazanzibar", &["x-request-id: r-1", &traced]).await;
    assert_eq!((answered.status(), answered.field("traceparent")), (200, trace.to_owned()));
    let line = lines.after(1).await.remove(0);
    for wanted in [
        "request_id=\"r-1\"",
        "trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\"",
        "method=\"GET\"",
        "status=200",
        "rung=\"passed\"",
        "backend=0",
    ] {
        assert!(line.contains(wanted), "no {wanted} in {line}");
    }

    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    let request = b"QUOKKAZANZIBAR /left/quokkazanzibar HTTP/1.1\r\nHost: a\r\n\r\n";
    client.write_all(request).await.unwrap();
    soon("the request at the backend", async {
        while stub.seen.count() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(client);
    let said = lines.after(2).await;
    assert!(said[1].contains("status=499") && said[1].contains("method=\"other\""), "{said:?}");
    assert!(!said.concat().to_ascii_lowercase().contains("quokkazanzibar"), "{said:?}");
}
