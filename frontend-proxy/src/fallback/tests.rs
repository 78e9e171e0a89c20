//! What is said to whom, and that it promises nothing it does not know.

use std::path::PathBuf;

use http_body_util::BodyExt as _;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::{
    config::FallbackRoute,
    upstream::{AttemptError as E, DialError},
};

const AWAY: Trouble = Trouble::Failed(Failure::NoBackend(NoBackend::Away), Duration::from_millis(3_200));
const PAGE: (&str, &str) = ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8");

struct Said {
    head: Response<()>,
    text: String,
}

impl Said {
    fn field(&self, name: &str) -> &str {
        self.head.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A question; `..question()` leaves the rest as it mostly is.
struct Question<'a> {
    trouble: Trouble,
    method: Method,
    uri: &'a str,
    fields: &'a [(&'static str, &'a str)],
    may_have_acted: bool,
    form: Option<Form>,
}

fn question<'a>() -> Question<'a> {
    let (method, uri) = (Method::GET, "/");
    Question { trouble: AWAY, method, uri, fields: &[PAGE], may_have_acted: false, form: None }
}

async fn answer(fallback: &Fallback, question: Question<'_>) -> Said {
    let mut headers = HeaderMap::new();
    for (name, value) in question.fields {
        headers.insert(*name, value.parse().unwrap());
    }
    let asked = Asked {
        method: &question.method,
        uri: &question.uri.parse().unwrap(),
        headers: &headers,
        nature: Nature::of(&question.method, &headers),
        may_have_acted: question.may_have_acted,
        form: question.form.as_ref(),
    };
    said(fallback.answer(question.trouble, &asked, &mut fastrand::Rng::with_seed(1))).await
}

async fn said(response: Response<Full<Bytes>>) -> Said {
    let (head, body) = response.into_parts();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    Said { head: Response::from_parts(head, ()), text }
}

fn fallback() -> Fallback {
    Fallback::new(&FallbackSection::default(), Instant::now())
}

async fn say(question: Question<'_>) -> Said {
    answer(&fallback(), question).await
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize] as char;
            text.push(if place <= chunk.len() { digit } else { '=' });
        }
    }
    text
}

/// The policy once named the style sheet of the release before, and browsers showed a bare page.
#[tokio::test]
async fn the_policy_names_the_style_sheet_and_the_script_that_are_in_the_page() {
    let page = say(question()).await;
    let policy = page.field("content-security-policy");
    for (element, start, end) in [("style", "<style>", "</style>"), ("script", "<script", "</script>")] {
        let inside = page.text.split(start).nth(1).unwrap().split(end).next().unwrap();
        let inside = if element == "script" { inside.split_once('>').unwrap().1 } else { inside };
        let hash = base64(&Sha256::digest(inside.as_bytes()));
        assert!(policy.contains(&format!("{element}-src 'sha256-{hash}'")), "{element}: {hash}");
        assert_eq!(page.text.matches(start).count(), 1, "the policy knows one {element}");
    }
    for unsafe_word in ["unsafe", "*", "http:", "https:"] {
        assert!(!policy.contains(unsafe_word), "{policy}");
    }
}

#[tokio::test]
async fn the_page_is_small_and_loads_nothing_in_every_language() {
    for (language, direction) in [("en", "ltr"), ("de", "ltr"), ("fr", "ltr"), ("es", "ltr"), ("ar", "rtl")] {
        for trouble in [AWAY, Trouble::Refused(Refusal::Hidden)] {
            let fields = [PAGE, ("accept-language", language)];
            let said = say(Question { trouble, fields: &fields, ..question() }).await;
            assert!(said.text.len() < 14_000, "{} bytes", said.text.len());
            assert!(said.text.contains(&format!("<html lang=\"{language}\" dir=\"{direction}\"")));
            assert_eq!(said.field("content-language"), language);
            assert!(said.field("vary").contains("Accept-Language"));
            for loader in ["http://", "https://", "src=", "<link", "style=", "url(", "onclick"] {
                assert!(!said.text.contains(loader), "{loader}");
            }
        }
    }
}

/// What each kind of request gets when nobody answers: its status, its type, and how its body begins.
#[tokio::test]
async fn each_kind_of_request_gets_what_it_can_read() {
    let problem = ("application/problem+json", "{\"");
    type Case<'a> = (&'a [(&'static str, &'a str)], u16, (&'a str, &'a str));
    let cases: [Case<'_>; 11] = [
        (&[PAGE], 503, ("text/html; charset=utf-8", "<!doctype html>")),
        (&[PAGE, ("user-agent", "Googlebot")], 503, ("text/html; charset=utf-8", "<!doctype html>")),
        (&[("accept", "*/*")], 503, problem),
        (&[("sec-fetch-dest", "image"), ("accept", "image/avif,*/*")], 503, ("image/svg+xml", "<svg ")),
        (&[("sec-fetch-dest", "image"), ("accept", "image/png")], 503, ("", "")),
        (&[("sec-fetch-dest", "style"), PAGE], 503, ("text/css; charset=utf-8", "/* the service is away: ")),
        (
            &[("sec-fetch-dest", "script")],
            503,
            ("text/javascript; charset=utf-8", "/* the service is away: "),
        ),
        (&[("sec-fetch-dest", "font")], 503, ("", "")),
        (&[("content-type", "application/grpc")], 200, ("application/grpc", "")),
        (&[("connection", "upgrade"), ("upgrade", "websocket")], 503, problem),
        (&[("accept", "text/event-stream")], 200, ("text/event-stream", "retry: 3200\nevent: ")),
    ];
    for (fields, status, (content_type, start)) in cases {
        let said = say(Question { fields, ..question() }).await;
        assert_eq!(said.head.status(), status, "{fields:?}");
        assert_eq!(said.field("content-type"), content_type, "{fields:?}");
        assert!(said.text.starts_with(start), "{fields:?}: {}", said.text);
        assert_eq!(said.field("retry-after"), if status == 503 { "4" } else { "" }, "{fields:?}");
        assert_eq!(said.field("proxy-status"), "ridethrough-proxy; error=destination_unavailable");
        assert_eq!(said.field("cache-control"), "no-store");
        assert_eq!(said.text.contains("<html"), start.starts_with("<!"), "{fields:?}");
        // Nothing of ours was asked for in parts, and nothing of it can be unchanged.
        let partly = [fields, &[("range", "bytes=0-1"), ("if-none-match", "*")]].concat();
        let partly = say(Question { fields: &partly, ..question() }).await;
        assert_eq!((partly.head.status().as_u16(), &partly.text), (status, &said.text));
        let head = say(Question { method: Method::HEAD, fields, ..question() }).await;
        assert_eq!(head.text, "");
        if status == 503 {
            assert_eq!(head.field("content-length"), said.text.len().to_string(), "{fields:?}");
        }
    }
}

#[tokio::test]
async fn a_call_of_grpc_ends_in_its_head() {
    let cases = [
        (AWAY, "14"),
        (Trouble::Failed(Failure::Attempt(E::TimedOut { sent: true, by_caller: true }), Duration::ZERO), "4"),
        (Trouble::Refused(Refusal::BodyTooLarge), "8"),
        (Trouble::Refused(Refusal::Hidden), "12"),
        (Trouble::Refused(Refusal::Host), "13"),
    ];
    for (trouble, code) in cases {
        for content_type in ["application/grpc", "application/grpc-web+proto"] {
            let fields = [("content-type", content_type)];
            let said = say(Question { trouble, method: Method::POST, fields: &fields, ..question() }).await;
            assert_eq!((said.head.status().as_u16(), said.field("grpc-status")), (200, code));
            assert!(!said.field("grpc-message").is_empty() && said.text.is_empty());
            assert!(said.field("content-type").starts_with(content_type));
            let is_worth_while = matches!(trouble, Trouble::Failed(..));
            assert_eq!(!said.field("grpc-retry-pushback-ms").is_empty(), is_worth_while);
        }
    }
}

/// An `EventSource` that hears an event without an id forgets the one it was at, and misses what came between.
#[tokio::test]
async fn an_event_stream_keeps_its_place_and_comes_back() {
    let stream = ("accept", "text/event-stream");
    let said = say(Question { fields: &[stream, ("last-event-id", "41")], ..question() }).await;
    assert!(said.text.contains("\nid: 41\nevent: ridethrough-unavailable\ndata: {\""), "{}", said.text);
    assert!(said.text.ends_with("}\n\n"));
    let refused = Trouble::Refused(Refusal::Hidden);
    let said = say(Question { trouble: refused, fields: &[stream], ..question() }).await;
    assert_eq!(said.head.status(), 404, "it may give up");
}

#[tokio::test]
async fn a_write_is_told_what_is_known_of_it_and_no_more() {
    let key = ("idempotency-key", "k-1");
    for (fields, may_have_acted, outcome, sentence) in [
        (&[PAGE][..], false, "rejected", "Nothing was stored"),
        (&[PAGE], true, "unknown", "Please look before you enter it again"),
        (&[PAGE, key], true, "unknown", "Trying again with the same key is safe"),
    ] {
        let said = say(Question { method: Method::POST, fields, may_have_acted, ..question() }).await;
        assert_eq!(said.field("ridethrough-outcome"), outcome);
        assert!(said.text.contains(sentence), "{}", said.text);
        assert!(!said.text.contains("http-equiv") && !said.text.contains("data-reloads"));
    }
    let unsure = say(Question { method: Method::POST, may_have_acted: true, ..question() }).await;
    assert!(!unsure.text.contains("reload this"), "nobody is told to send again what may be stored");
    let read = say(Question { fields: &[], may_have_acted: true, ..question() }).await;
    assert_eq!((read.field("ridethrough-outcome"), read.text.contains("outcome")), ("", false));
}

#[tokio::test]
async fn what_was_typed_is_kept_escaped_and_without_secrets() {
    let typed = b"title=%3Cscript%3Ealert(1)%3C/script%3E&note=a%22b%0Ac&key=k-1&password=hunter2";
    let form = || Form::of(typed);
    let said = say(Question { method: Method::POST, form: form(), ..question() }).await;
    assert!(said.text.contains("<form class=\"kept\" method=\"post\" action=\"\""), "{}", said.text);
    assert!(said.text.contains("<dd><bdi>&lt;script&gt;alert(1)&lt;"), "{}", said.text);
    assert!(said.text.contains("name=\"note\" value=\"a&quot;b\nc\""), "{}", said.text);
    assert!(said.text.contains("name=\"key\" value=\"k-1\""), "the key of the write goes along");
    assert!(!said.text.contains(">k-1<"), "and is not shown");
    assert!(!said.text.contains("hunter2") && said.text.contains("type=\"password\" name=\"password\""));
    assert!(said.text.contains("Passwords and the like are not kept"));
    assert_eq!(said.field("referrer-policy"), "same-origin", "else it would be refused as another site's");
    assert!(said.text.len() < 14_000);
    let unsure = Question { method: Method::POST, form: form(), may_have_acted: true, ..question() };
    let unsure = say(unsure).await;
    assert!(unsure.text.contains("Please look before you enter it again") && unsure.text.contains("<form"));
}

#[tokio::test]
async fn a_page_shows_the_id_of_the_request_and_nothing_else_of_it() {
    let fields = [PAGE, ("x-request-id", "id-1&2"), ("cookie", "secret"), ("user-agent", "secret")];
    let said = say(Question { uri: "/secret?secret", fields: &fields, ..question() }).await;
    assert!(said.text.contains("id-1&amp;2"), "it is escaped");
    assert!(!said.text.contains("secret"));
}

#[tokio::test]
async fn only_what_was_looked_at_loads_again_by_itself() {
    let read = say(question()).await;
    assert!(read.text.contains("<noscript><meta http-equiv=\"refresh\" content=\"4\"></noscript>"));
    assert!(read.text.contains("data-wait=\"3200\"") && read.text.contains(" data-reloads>"));
    assert!(read.text.contains("data-status=\"&#x2f;.ridethrough&#x2f;status\""), "{}", read.text);
    let refused = say(Question { trouble: Trouble::Refused(Refusal::Hidden), ..question() }).await;
    assert!(!refused.text.contains("<script") && !refused.text.contains("http-equiv"));
}

/// Nobody could be asked: 503. No connection, no whole answer: 502. Our time ran out: 504 (RFC 9209, 2.3).
#[tokio::test]
async fn each_failure_has_its_status_and_its_token() {
    let failures = [
        (Failure::NoBackend(NoBackend::Away), 503, "destination_unavailable"),
        (Failure::NoBackend(NoBackend::Full), 503, "connection_limit_reached"),
        (Failure::Attempt(E::Dial(DialError::Refused)), 502, "connection_refused"),
        (Failure::Attempt(E::Dial(DialError::Name)), 502, "dns_error"),
        (Failure::Attempt(E::Dial(DialError::Unroutable)), 502, "destination_ip_unroutable"),
        (Failure::Attempt(E::Dial(DialError::Failed)), 503, "destination_unavailable"),
        (Failure::Attempt(E::Dial(DialError::TimedOut)), 504, "connection_timeout"),
        (Failure::Attempt(E::Closed { sent: true, reused: true }), 502, "connection_terminated"),
        (Failure::Attempt(E::Invalid), 502, "http_protocol_error"),
        (Failure::Attempt(E::TimedOut { sent: true, by_caller: false }), 504, "http_response_timeout"),
        (Failure::Attempt(E::Silent { sent: true }), 504, "http_response_timeout"),
    ];
    for (failure, status, token) in failures {
        let trouble = Trouble::Failed(failure, Duration::from_secs(1));
        let said = say(Question { trouble, fields: &[], ..question() }).await;
        assert_eq!(said.head.status(), status, "{failure:?}");
        assert_eq!(said.field("proxy-status"), format!("ridethrough-proxy; error={token}"));
        assert_eq!(said.field("retry-after"), "1", "{failure:?}");
    }
    let refusals = [
        (Refusal::Method, 405, "http_request_denied"),
        (Refusal::Host, 400, "http_request_error"),
        (Refusal::Target, 400, "http_request_error"),
        (Refusal::ControlCharacter, 400, "http_request_error"),
        (Refusal::TargetTooLong, 414, "http_request_error"),
        (Refusal::TooManyFields, 431, "http_request_error"),
        (Refusal::ConnectionOption, 400, "http_request_error"),
        (Refusal::Loop, 508, "proxy_loop_detected"),
        (Refusal::Hidden, 404, "http_request_denied"),
        (Refusal::BodyTooLarge, 413, "http_request_error"),
        (Refusal::BodyTooSlow, 408, "http_request_error"),
        (Refusal::BodyBroken, 400, "http_request_error"),
    ];
    for (refusal, status, token) in refusals {
        let trouble = Trouble::Refused(refusal);
        let said = say(Question { trouble, fields: &[], ..question() }).await;
        assert_eq!((said.head.status().as_u16(), said.field("retry-after")), (status, ""), "{refusal:?}");
        assert_eq!(said.field("proxy-status"), format!("ridethrough-proxy; error={token}"));
        assert_eq!(said.field("connection"), if refusal == Refusal::Hidden { "" } else { "close" });
        assert_eq!(said.field("allow").contains("GET"), status == 405);
    }
}

#[tokio::test]
async fn the_status_says_whether_a_backend_is_there_and_when_to_ask_again() {
    let (fallback, now) = (fallback(), Instant::now());
    let away = || Some(Outlook { next_chance: Duration::from_secs(3), down_for: Duration::from_secs(9) });
    let ask = |method: Method, uri: &str, outlook: Option<Outlook>| {
        fallback.status(&method, &uri.parse().unwrap(), now, || outlook)
    };
    assert!(ask(Method::GET, "/.ridethrough/status/x", None).is_none(), "it is the backend's");
    let uri = "/.ridethrough/status?waiter=00000000000000ff&round=2";
    let there = said(ask(Method::GET, uri, None).unwrap()).await;
    assert_eq!(there.text, "{\"available\":true,\"wait_ms\":0}");
    assert_eq!((there.field("cache-control"), there.field("retry-after")), ("no-store", ""));
    let gone = said(ask(Method::GET, uri, away()).unwrap()).await;
    let state: serde_json::Value = serde_json::from_str(&gone.text).unwrap();
    assert_eq!(state["available"], false);
    let wait = state["wait_ms"].as_u64().unwrap();
    assert!((3_000..=7_000).contains(&wait), "{state}");
    assert_eq!(gone.field("retry-after"), wait.div_ceil(1_000).to_string());
    assert_eq!(said(ask(Method::GET, uri, away()).unwrap()).await.text, gone.text, "it has its slot");
    for uri in ["/.ridethrough/status", "/.ridethrough/status?waiter=x&round=-1&&="] {
        assert_eq!(ask(Method::GET, uri, away()).unwrap().status(), 200, "{uri}");
    }
    let head = said(ask(Method::HEAD, uri, away()).unwrap()).await;
    assert_eq!((head.text.len(), head.field("content-length")), (0, gone.text.len().to_string().as_str()));
    let posted = ask(Method::POST, uri, None).unwrap();
    assert_eq!((posted.status().as_u16(), posted.headers()["allow"].to_str().unwrap()), (405, "GET, HEAD"));
}

/// A file that is gone when the test ends.
struct Template(PathBuf);

impl Template {
    fn new(name: &str, text: &str) -> Self {
        let file = format!("ridethrough-{name}-{}.html", std::process::id());
        let path = std::env::temp_dir().join(file);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn at(&self, path: &str, statuses: &[u16]) -> FallbackRoute {
        FallbackRoute { path: path.to_owned(), statuses: statuses.to_vec(), template: self.0.clone() }
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn with_pages(route: Vec<FallbackRoute>) -> FallbackSection {
    FallbackSection { route, ..FallbackSection::default() }
}

#[tokio::test]
async fn the_operators_page_is_chosen_by_path_and_status() {
    let shop = Template::new("shop", "<p lang={{ language }}>shop {{ lead }} {{ request_id }}{{ recovery }}");
    let cart = Template::new("cart", "<p>cart {{ status }}");
    let section = with_pages(vec![shop.at("/shop", &[]), cart.at("/shop/cart", &[503])]);
    check(&section).unwrap();
    let fallback = Fallback::new(&section, Instant::now());
    let late = Failure::Attempt(E::TimedOut { sent: true, by_caller: false });
    for (uri, trouble, start) in [
        ("/shop", AWAY, "<p lang=en>shop The service cannot"),
        ("/shop/a?b", AWAY, "<p lang=en>shop "),
        ("/a/../shop;x/", AWAY, "<p lang=en>shop "),
        ("/shop/cart", AWAY, "<p>cart 503"),
        ("/shop/cart", Trouble::Failed(late, Duration::from_secs(1)), "<p lang=en>shop "),
        ("/shop", Trouble::Refused(Refusal::BodyTooLarge), "<!doctype"),
        ("/shopping", AWAY, "<!doctype"),
        ("/", AWAY, "<!doctype"),
    ] {
        let fields = [PAGE, ("x-request-id", "<b>")];
        let said = answer(&fallback, Question { uri, trouble, fields: &fields, ..question() }).await;
        assert!(said.text.starts_with(start), "{uri}: {}", said.text);
        assert!(
            !said.text.contains("<b>")
                && !said.field("content-security-policy").contains("script-src 'unsafe")
        );
    }
    let data = answer(&fallback, Question { uri: "/shop", fields: &[], ..question() }).await;
    assert_eq!(data.field("content-type"), "application/problem+json", "a program gets no page");
}

#[tokio::test]
async fn a_page_that_cannot_be_used_is_named_with_its_line_and_the_last_good_one_stays() {
    let page = Template::new("mended", "<p>good");
    let section = with_pages(vec![page.at("/", &[])]);
    let fallback = Fallback::new(&section, Instant::now());
    for (text, line, word) in [
        ("<p>\n\n{{ titel }}", ":3: ", "undefined"),
        ("<p>\n{% if title %}", ":2: ", "unexpected end"),
        ("{% include 'other.html' %}", ":1: ", "include"),
    ] {
        std::fs::write(&page.0, text).unwrap();
        for problem in [fallback.reload(&section).unwrap_err(), check(&section).unwrap_err()] {
            let told = problem.to_string();
            assert!(told.contains(page.0.to_str().unwrap()), "{told}");
            assert!(told.contains(line) && told.contains(word), "{told}");
        }
        assert_eq!(answer(&fallback, question()).await.text, "<p>good");
    }
    std::fs::write(&page.0, "<p>better").unwrap();
    fallback.reload(&section).unwrap();
    assert_eq!(answer(&fallback, question()).await.text, "<p>better");
    // The built-in page is always there.
    let missing = with_pages(vec![FallbackRoute { template: "/nowhere/x".into(), ..page.at("/", &[]) }]);
    assert!(check(&missing).unwrap_err().to_string().contains("/nowhere/x"));
    let started = answer(&Fallback::new(&missing, Instant::now()), question()).await;
    assert!(started.text.contains("We will be right back"));
}
