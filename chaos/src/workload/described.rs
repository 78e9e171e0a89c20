//! Requests and answers of a service that a target describes: templates filled in, answers read by its pointers and
//! signs. What they mean stands in the target; right and wrong are for the checker.

use http::Method;

use crate::history::{Action, Completion, Event, Got, Recorder};
use crate::target::{Meaning, Operation, Traffic, text_at};
use crate::workload::client::{Exchange, Request};
use crate::workload::dialect::Wish;

/// The request for an operation; a create for what is not there yet, where the target has one.
pub(crate) fn request(traffic: &Traffic, wish: &Wish<'_>) -> Request {
    let (key, id) = wish.subject.map_or(("", ""), |subject| (subject.key.as_str(), subject.id.as_str()));
    let values = [
        ("key", key),
        ("id", id),
        ("value", wish.value.unwrap_or_default()),
        ("op", wish.key.unwrap_or_default()),
    ];
    let operation = operation(traffic, wish.action);
    let (path, headers, body) = operation.filled(&values);
    // It was checked when the target was read.
    let method = operation.method.parse().unwrap_or(Method::GET);
    // No key: what a real client would not send again by itself is not sent again here.
    Request { method, path, key: None, headers, body }
}

/// `Create` is what makes an object in the warm-up.
fn operation(traffic: &Traffic, action: Action) -> &Operation {
    let write = &traffic.write;
    match action {
        Action::Create => traffic.create.as_ref().unwrap_or(write),
        Action::Read | Action::List => traffic.read.as_ref().unwrap_or(write),
        Action::Update | Action::Set | Action::Append => write,
    }
}

/// The event for one exchange, with the time of now.
pub(crate) fn event(
    traffic: &Traffic,
    op: u64,
    action: Action,
    exchange: &Exchange,
    recorder: &Recorder,
) -> Event {
    let operation = operation(traffic, action);
    let status = exchange.status.filter(|_| exchange.got == Got::Answer);
    let meaning = status.map_or(Meaning::Unknown, |status| operation.meaning(status, &exchange.headers));
    let mut done = Completion {
        op,
        at_us: recorder.now_us(),
        sent_us: exchange.sent.map(|sent| recorder.us_of(sent)),
        got: exchange.got,
        status: exchange.status,
        resent: exchange.resent,
        error: exchange.error.clone(),
        ..Completion::default()
    };
    let good = matches!(meaning, Meaning::Acknowledged | Meaning::Accepted);
    done.freshness = operation.age_header.as_deref().and_then(|name| stale(exchange, name));
    // What is only accepted, or shown without the database, cannot know its place yet.
    if meaning == Meaning::Acknowledged && done.freshness.is_none() {
        let version = operation.version.as_deref().and_then(|pointer| text_at(&exchange.body, pointer));
        done.version = version.and_then(|text| text.parse().ok());
    }
    if action.is_write() {
        done.outcome = Some(meaning.word().to_owned());
        return match meaning {
            _ if done.sent_us.is_none() => Event::Fail(done),
            Meaning::Acknowledged | Meaning::Accepted => Event::Ok(done),
            Meaning::Refused => Event::Fail(done),
            Meaning::Unknown => Event::Info(done),
        };
    }
    if !good {
        return Event::Fail(done);
    }
    match operation.values(&exchange.body) {
        Ok(values) => done.values = Some(values),
        Err(reason) => done.error = Some(reason),
    }
    Event::Ok(done)
}

/// How old an answer calls itself, as the history says it; one without the header calls itself fresh. One of 0 seconds is a
/// copy, too (RFC 9111, 5.1): perhaps with a write in it that was only accepted.
fn stale(exchange: &Exchange, header: &str) -> Option<String> {
    let age = exchange.headers.get(header)?.to_str().ok()?;
    let seconds: u64 = age.trim().parse().ok()?;
    Some(format!("stale; age={seconds}; reason=told"))
}

/// The question what became of the write with this name.
pub(crate) fn question(traffic: &Traffic, key: &str) -> Option<Request> {
    let operation = traffic.status.as_ref()?;
    let (path, headers, body) = operation.filled(&[("op", key)]);
    let method = operation.method.parse().unwrap_or(Method::GET);
    Some(Request { method, path, key: None, headers, body })
}

/// The word in its answer.
pub(crate) fn told(traffic: &Traffic, exchange: &Exchange) -> Option<String> {
    text_at(&exchange.body, traffic.status.as_ref()?.value.as_deref()?)
}

/// The id that the answer to a `create` gave.
pub(crate) fn id(traffic: &Traffic, exchange: &Exchange) -> Option<String> {
    text_at(&exchange.body, traffic.create.as_ref()?.id.as_deref()?)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue};
    use tokio::time::Instant;

    use super::*;
    use crate::workload::dialect::Subject;

    const TRAFFIC: &str = r#"
        workload = "register"
        [create]
        method = "POST"
        path = "/things"
        id = "/thing/id"
        [write]
        method = "PUT"
        path = "/things/{{id}}?name={{key}}"
        headers = { Idempotency-Key = "{{op}}" }
        body = '{"v": "{{value}}"}'
        version = "/n"
        [read]
        method = "GET"
        path = "/things/{{id}}"
        value = "/v"
        version = "/n"
        age_header = "x-age"
    "#;

    fn traffic() -> Traffic {
        toml::from_str(TRAFFIC).unwrap()
    }

    fn exchange(status: u16, body: &'static str) -> Exchange {
        Exchange {
            got: Got::Answer,
            sent: Some(Instant::now()),
            status: Some(status),
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
            resent: false,
            error: None,
        }
    }

    fn told(action: Action, exchange: &Exchange) -> Event {
        let folder = tempfile::tempdir().unwrap();
        let (recorder, _writer) = Recorder::create(&folder.path().join("history.jsonl")).unwrap();
        event(&traffic(), 1, action, exchange, &recorder)
    }

    #[test]
    fn a_request_is_filled_in_and_not_sent_again_unasked() {
        let subject = Subject { key: "k".into(), id: "7".into() };
        let wish = Wish {
            action: Action::Set,
            subject: Some(&subject),
            value: Some("{{id}}"),
            key: Some("op-1"),
            user: 0,
        };
        let request = request(&traffic(), &wish);
        assert_eq!((request.method, request.path.as_str()), (Method::PUT, "/things/7?name=k"));
        assert_eq!(request.headers, [("idempotency-key".to_owned(), "op-1".to_owned())]);
        assert_eq!((request.body.as_str(), request.key), (r#"{"v": "{{id}}"}"#, None));
    }

    #[tokio::test]
    async fn a_write_is_what_its_answer_means_and_unknown_without_one() {
        let Event::Ok(done) = told(Action::Set, &exchange(200, r#"{"n": 3}"#)) else { panic!("not ok") };
        assert_eq!((done.outcome.as_deref(), done.version), (Some("committed"), Some(3)));
        let Event::Ok(done) = told(Action::Set, &exchange(202, r#"{"n": 3}"#)) else { panic!("not ok") };
        assert_eq!((done.outcome.as_deref(), done.version), (Some("journaled"), None));
        assert!(matches!(told(Action::Set, &exchange(409, "")), Event::Fail(_)));
        assert!(matches!(told(Action::Set, &exchange(503, "")), Event::Info(_)));
        let cut = Exchange { got: Got::Cut, ..exchange(200, "") };
        assert!(
            matches!(told(Action::Set, &cut), Event::Info(_)),
            "a status without the whole answer is none"
        );
        let never = Exchange { got: Got::NeverSent, sent: None, status: None, ..exchange(200, "") };
        assert!(matches!(told(Action::Set, &never), Event::Fail(_)));
    }

    #[tokio::test]
    async fn a_read_shows_its_values_and_says_how_old_they_are() {
        let mut old = exchange(200, r#"{"v": "a", "n": 3}"#);
        old.headers.insert("x-age", HeaderValue::from_static("2"));
        let Event::Ok(done) = told(Action::Read, &old) else { panic!("not ok") };
        assert_eq!(done.values, Some(vec!["a".to_owned()]));
        assert_eq!(done.freshness.as_deref(), Some("stale; age=2; reason=told"));
        old.headers.remove("x-age");
        let Event::Ok(done) = told(Action::Read, &old) else { panic!("not ok") };
        assert_eq!((done.freshness, done.version), (None, Some(3)));
        assert!(matches!(told(Action::Read, &exchange(500, "")), Event::Fail(_)));
        let Event::Ok(done) = told(Action::Read, &exchange(200, "<html>")) else { panic!("not ok") };
        assert!(done.values.is_none() && done.error.is_some(), "an answer that the checker calls wrong");
    }

    /// Our own server lays a write that it has accepted over what it has just read, and says `Age: 0`. That was called fresh,
    /// and the place which the write was to get was taken for the one it has: S5 and W4 were broken by it.
    #[tokio::test]
    async fn an_answer_of_no_age_is_a_copy_and_its_place_no_place_yet() {
        let mut pending = exchange(200, r#"{"v": "a", "n": 3}"#);
        pending.headers.insert("x-age", HeaderValue::from_static("0"));
        let Event::Ok(done) = told(Action::Read, &pending) else { panic!("not ok") };
        assert_eq!((done.freshness.as_deref(), done.version), (Some("stale; age=0; reason=told"), None));
    }

    #[test]
    fn what_was_created_is_known_by_the_id_in_the_answer() {
        assert_eq!(id(&traffic(), &exchange(201, r#"{"thing": {"id": 12}}"#)).as_deref(), Some("12"));
        assert_eq!(id(&traffic(), &exchange(201, "{}")), None);
    }
}
