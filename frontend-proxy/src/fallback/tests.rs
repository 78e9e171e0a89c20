//! What the fallback says, to whom, and that it promises nothing it does not know.

use http_body_util::BodyExt as _;
use sha2::{Digest as _, Sha256};

use super::*;

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

async fn say(
    trouble: Trouble,
    method: Method,
    fields: &[(&'static str, &str)],
    may_have_acted: bool,
) -> Said {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.insert(*name, value.parse().unwrap());
    }
    let nature = Nature::of(&method, &headers);
    let asked = Asked { method: &method, headers: &headers, nature, may_have_acted };
    let (head, body) = Fallback::new().answer(trouble, &asked, &mut fastrand::Rng::with_seed(1)).into_parts();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    Said { head: Response::from_parts(head, ()), text }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63] as char;
            text.push(if place <= chunk.len() { digit } else { '=' });
        }
    }
    text
}

/// The browser compares this hash; with a wrong one the page has no style, and nothing else would notice.
#[tokio::test]
async fn the_policy_allows_exactly_the_style_sheet_of_the_page() {
    let said = say(AWAY, Method::GET, &[PAGE], false).await;
    let (_, rest) = said.text.split_once("<style>").unwrap();
    let (style, _) = rest.split_once("</style>").unwrap();
    let hash = base64(&Sha256::digest(style.as_bytes()));
    let policy = said.field("content-security-policy");
    assert!(
        policy.contains(&format!("'sha256-{hash}'")),
        "the style sheet has the hash {hash}, not: {policy}"
    );
    assert!(policy.starts_with("default-src 'none';"));
}

#[tokio::test]
async fn pages_are_small_and_load_nothing() {
    for language in ["en", "de"] {
        for trouble in [AWAY, Trouble::Refused(Refusal::Hidden)] {
            let said = say(trouble, Method::GET, &[PAGE, ("accept-language", language)], false).await;
            assert!(said.text.len() < 14_000, "{} bytes", said.text.len());
            assert!(said.text.contains(&format!("<html lang=\"{language}\"")));
            for loader in ["<script", "http://", "https://", "src=", "<link", "http-equiv", "style=", "url("]
            {
                assert!(!said.text.contains(loader), "{loader}");
            }
        }
    }
}

#[tokio::test]
async fn people_and_programs_are_told_apart() {
    let cases: [(&[(&str, &str)], bool); 9] = [
        (&[PAGE], true),
        (&[("accept", "text/html")], true),
        (&[("accept", "*/*")], false),
        (&[], false),
        (&[("accept", "application/json")], false),
        (&[("accept", "application/json, text/html;q=0.5")], false),
        (&[("accept", "text/html;q=0")], false),
        (&[PAGE, ("sec-fetch-mode", "cors")], false),
        (&[PAGE, ("sec-fetch-mode", "navigate")], true),
    ];
    for (fields, is_page) in cases {
        let said = say(AWAY, Method::GET, fields, false).await;
        assert_eq!(said.field("content-type").starts_with("text/html"), is_page, "{fields:?}");
        assert_eq!(said.head.status(), 503);
        assert_eq!(said.field("retry-after"), "4");
        assert_eq!(said.field("proxy-status"), "ridethrough-proxy; error=destination_unavailable");
        assert_eq!(said.field("cache-control"), "no-store");
    }
}

#[tokio::test]
async fn a_write_is_told_what_is_known_of_it_and_no_more() {
    let key = ("idempotency-key", "k-1");
    for (fields, acted, outcome, sentence) in [
        (vec![PAGE], false, "rejected", "Nothing was stored"),
        (vec![PAGE], true, "unknown", "Please look before you enter it again"),
        (vec![PAGE, key], true, "unknown", "Trying again with the same key is safe"),
    ] {
        let said = say(AWAY, Method::POST, &fields, acted).await;
        assert_eq!(said.field("ridethrough-outcome"), outcome);
        assert!(said.text.contains(sentence), "{}", said.text);
        assert_eq!(said.field("refresh"), "");
    }
    let unsure = say(AWAY, Method::POST, &[PAGE], true).await;
    assert!(!unsure.text.contains("reload"), "nobody is told to send again what may be stored");
    let read = say(AWAY, Method::GET, &[], true).await;
    assert_eq!((read.field("ridethrough-outcome"), read.text.contains("outcome")), ("", false));
}

#[tokio::test]
async fn a_page_shows_the_id_of_the_request_and_nothing_else_of_it() {
    let fields = [PAGE, ("x-request-id", "id-1&2"), ("cookie", "secret"), ("user-agent", "secret")];
    let said = say(AWAY, Method::GET, &fields, false).await;
    assert!(said.text.contains("id-1&amp;2"), "it is escaped");
    assert!(!said.text.contains("secret"));
}

#[tokio::test]
async fn each_failure_has_its_status_and_its_token() {
    use crate::upstream::AttemptError as E;
    for (error, status, token) in [
        (E::Dial(DialError::Refused), 503, "connection_refused"),
        (E::Dial(DialError::TimedOut), 504, "connection_timeout"),
        (E::Dial(DialError::Name), 503, "dns_error"),
        (E::Dial(DialError::Unroutable), 503, "destination_ip_unroutable"),
        (E::Closed { sent: true, reused: true }, 502, "connection_terminated"),
        (E::Invalid, 502, "http_protocol_error"),
        (E::TimedOut { sent: true, by_caller: false }, 504, "http_response_timeout"),
    ] {
        let trouble = Trouble::Failed(Failure::Attempt(error), Duration::from_secs(1));
        let said = say(trouble, Method::GET, &[], true).await;
        assert_eq!(said.head.status(), status, "{error:?}");
        assert_eq!(said.field("proxy-status"), format!("ridethrough-proxy; error={token}"));
    }
}

#[tokio::test]
async fn a_refusal_is_no_outage() {
    let said = say(Trouble::Refused(Refusal::Host), Method::GET, &[PAGE], false).await;
    assert_eq!(
        (said.head.status().as_u16(), said.field("retry-after"), said.field("refresh")),
        (400, "", "")
    );
    assert_eq!(said.field("connection"), "close");
    let said = say(Trouble::Refused(Refusal::Method), Method::TRACE, &[], false).await;
    assert_eq!(said.head.status(), 405);
    assert!(said.field("allow").contains("GET"));
}

#[test]
fn the_wait_is_never_a_constant_and_grows_wider_with_the_outage() {
    let mut random = fastrand::Rng::with_seed(2);
    let mut waits = |down_for| -> Vec<u64> {
        (0..200)
            .map(|_| retry_after_seconds(retry_after(Duration::from_millis(700), down_for, &mut random)))
            .collect()
    };
    let (early, late) = (waits(Duration::ZERO), waits(Duration::from_secs(600)));
    assert!(early.iter().all(|wait| (1..=3).contains(wait)), "seed 2: {early:?}");
    assert!(early.iter().any(|wait| *wait != early[0]));
    assert!(late.iter().all(|wait| (1..=16).contains(wait)) && late.iter().any(|wait| *wait > 10));
}
