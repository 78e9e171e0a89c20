//! What is too much, at the router: refused with the reason, the time to come back, and, for a write, what became of it.
//! What a connection may do is tested at a socket, end to end.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http::Request;

use super::*;
use crate::config::LimitsSection;

fn limited(limit: impl FnOnce(&mut LimitsSection)) -> Stack {
    stack_with(Identity::open(&IdentitySection::default(), std::path::Path::new(".")).unwrap().0, limit)
}

fn kind(answer: &Answer) -> String {
    answer.json()["type"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn at_the_bound_of_requests_all_are_refused_but_probes() {
    let stack = limited(|limits| limits.requests = 0);
    let read = stack.get("/api/todos").await;
    assert_eq!((read.status, kind(&read).as_str()), (503, "/problems/overloaded"));
    assert!(read.header("retry-after").parse::<u64>().unwrap() > 0);
    let write = stack.write(Method::POST, "/api/todos", "{\"title\":\"a\"}", &[]).await;
    assert_eq!((write.status, write.header(OUTCOME)), (503, "rejected"));
    assert_eq!((stack.get("/docs").await.status, stack.get("/livez").await.status), (503, 200));
    assert_eq!(stack.backlog(), 0);
}

#[tokio::test]
async fn a_request_gives_its_place_back() {
    let stack = limited(|limits| limits.requests = 1);
    for _ in 0..3 {
        assert_eq!(stack.write(Method::POST, "/api/todos", "{\"title\":\"a\"}", &[]).await.status, 202);
        assert_eq!(stack.get("/docs").await.status, 200);
    }
}

#[tokio::test]
async fn bodies_share_their_room_and_give_it_back() {
    let stack = limited(|limits| limits.bodies_bytes = 40);
    for _ in 0..3 {
        assert_eq!(stack.write(Method::POST, "/api/todos", "{\"title\":\"a\"}", &[]).await.status, 202);
    }
    let body = format!("{{\"title\":\"{}\"}}", "a".repeat(40));
    let refused = stack.write(Method::POST, "/api/todos", &body, &[]).await;
    assert_eq!((refused.status, kind(&refused).as_str()), (503, "/problems/overloaded"));
    assert_eq!(refused.header(OUTCOME), "rejected");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() > 0);
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_back() {
    let stack = limited(|limits| (limits.rate.per_second, limits.rate.burst) = (Some(1), Some(2)));
    assert_eq!(stack.write(Method::POST, "/api/todos", "{\"title\":\"a\"}", &[]).await.status, 202);
    assert_ne!(stack.get("/api/todos").await.status, 429);
    let refused = stack.get("/").await;
    assert_eq!((refused.status, kind(&refused).as_str()), (429, "/problems/too-many-requests"));
    assert_eq!(refused.header("retry-after"), "1");
    let write = stack.write(Method::POST, "/api/todos", "{\"title\":\"a\"}", &[]).await;
    assert_eq!((write.status, write.header(OUTCOME)), (429, "rejected"));
    // What is nobody's is asked for by nobody in particular.
    assert_eq!((stack.get("/openapi.json").await.status, stack.get("/readyz").await.status), (200, 200));
}

#[tokio::test]
async fn an_address_beyond_the_bound_is_refused() {
    let stack = stack();
    let address =
        |bytes: usize| format!("/api/todos?after={}", "a".repeat(bytes - "/api/todos?after=".len()));
    assert_eq!(stack.get(&address(8_192)).await.status, 400);
    let refused = stack.get(&address(8_193)).await;
    assert_eq!((refused.status, kind(&refused).as_str()), (414, "/problems/uri-too-long"));
}

struct Never;

impl HttpBody for Never {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_comes_is_cut_off_and_takes_no_place_meanwhile() {
    let stack = limited(|limits| (limits.requests, limits.body) = (1, Duration::from_secs(10)));
    let slow = Request::post("/api/todos").header("content-type", "application/json").body(Body::new(Never));
    let slow = stack.router.clone().oneshot(slow.unwrap());
    let (slow, quick) = tokio::join!(slow, stack.get("/docs"));
    let slow = slow.unwrap();
    assert_eq!((slow.status().as_u16(), slow.headers()[OUTCOME].as_bytes()), (408, &b"rejected"[..]));
    assert_eq!(quick.status, 200);
}
