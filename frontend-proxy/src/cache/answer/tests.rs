//! Conditions, ranges and 304s against one kept answer.

use std::time::Duration;

use http_body_util::BodyExt as _;

use super::{
    super::policy::{Moment, Question, Rules, admit},
    *,
};

/// Wed, 14 Nov 2026 08:00:00 GMT.
const UNIX: Unix = 1_794_643_200;
const RULES: Rules = Rules { heuristic_max: Duration::ZERO, stale_when_away: Duration::ZERO };

type Fields<'a> = &'a [(&'static str, &'a str)];

fn fields(fields: Fields<'_>) -> HeaderMap {
    let field = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
    };
    fields.iter().map(field).collect()
}

fn kept(now: Instant) -> Kept {
    let headers = fields(&[
        ("cache-control", "max-age=60"),
        ("etag", "\"a,b\""),
        ("last-modified", &dates::format(UNIX - 500)),
        ("date", &dates::format(UNIX)),
        ("content-length", "10"),
        ("x-kept", "1"),
    ]);
    let question = Question::of(&Method::GET, &HeaderMap::new()).unwrap();
    let received = Moment { instant: now, unix: UNIX };
    let terms = admit(&question, (StatusCode::OK, &headers), now, received, &RULES).unwrap();
    Kept {
        status: StatusCode::OK,
        headers,
        body: Bytes::from_static(b"0123456789"),
        terms,
        selecting: super::super::Selecting::default(),
    }
}

async fn answer(asked: Fields<'_>) -> (u16, String, HeaderMap) {
    let now = Instant::now();
    let response = respond(&kept(now), &Method::GET, &fields(asked), now + Duration::from_secs(7), UNIX + 7);
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), String::from_utf8(body.to_vec()).unwrap(), parts.headers)
}

#[tokio::test]
async fn conditions_are_met_as_the_origin_would() {
    let (same, earlier) = (dates::format(UNIX - 500), dates::format(UNIX - 501));
    let cases: [(Fields<'_>, u16); 10] = [
        (&[], 200),
        (&[("if-none-match", "\"a,b\"")], 304),
        (&[("if-none-match", "\"x\", W/\"a,b\"")], 304),
        (&[("if-none-match", "*")], 304),
        (&[("if-none-match", "\"a\", \"b\"")], 200),
        (&[("if-none-match", "a,b")], 200),
        (&[("if-none-match", "\"x\""), ("if-modified-since", &same)], 200),
        (&[("if-modified-since", &same)], 304),
        (&[("if-modified-since", &earlier)], 200),
        (&[("if-modified-since", "yesterday")], 200),
    ];
    for (asked, status) in cases {
        let (got, body, headers) = answer(asked).await;
        assert_eq!(got, status, "{asked:?}");
        assert_eq!(headers["age"], "7");
        assert!(headers.contains_key("etag") && headers.contains_key("date"));
        if status == 304 {
            assert!(
                body.is_empty() && !headers.contains_key("content-length") && !headers.contains_key("x-kept")
            );
        }
    }
}

#[tokio::test]
async fn ranges_come_out_of_the_whole() {
    let (same, other) = (dates::format(UNIX - 500), dates::format(UNIX - 400));
    let cases: [(Fields<'_>, u16, &str, &str); 18] = [
        (&[("range", "bytes=0-1")], 206, "01", "bytes 0-1/10"),
        (&[("range", "bytes=8-")], 206, "89", "bytes 8-9/10"),
        (&[("range", "bytes=-3")], 206, "789", "bytes 7-9/10"),
        (&[("range", "bytes=-30")], 206, "0123456789", "bytes 0-9/10"),
        (&[("range", "bytes=5-99999999999999999999999")], 206, "56789", "bytes 5-9/10"),
        (&[("range", "Bytes=0-0")], 206, "0", "bytes 0-0/10"),
        (&[("range", "bytes=10-")], 416, "", "bytes */10"),
        (&[("range", "bytes=-0")], 416, "", "bytes */10"),
        (&[("range", "bytes=5-4")], 416, "", "bytes */10"),
        (&[("range", "bytes=a-b")], 416, "", "bytes */10"),
        (&[("range", "bytes=-")], 416, "", "bytes */10"),
        (&[("range", "lines=1-2")], 200, "0123456789", ""),
        (&[("range", "bytes=0-1,3-4")], 200, "0123456789", ""),
        (&[("range", "bytes=0-1"), ("if-range", "\"a,b\"")], 206, "01", "bytes 0-1/10"),
        (&[("range", "bytes=0-1"), ("if-range", "W/\"a,b\"")], 200, "0123456789", ""),
        (&[("range", "bytes=0-1"), ("if-range", "\"x\"")], 200, "0123456789", ""),
        (&[("range", "bytes=0-1"), ("if-range", &same)], 206, "01", "bytes 0-1/10"),
        (&[("range", "bytes=0-1"), ("if-range", &other)], 200, "0123456789", ""),
    ];
    for (asked, status, body, range) in cases {
        let (got, got_body, headers) = answer(asked).await;
        assert_eq!((got, got_body.as_str()), (status, body), "{asked:?}");
        let got_range = headers.get("content-range").map_or("", |value| value.to_str().unwrap());
        assert_eq!(got_range, range, "{asked:?}");
        assert_eq!(headers["content-length"], body.len().to_string());
    }
}

#[tokio::test]
async fn an_answer_to_head_has_the_length_and_no_body() {
    let now = Instant::now();
    let response = respond(&kept(now), &Method::HEAD, &fields(&[("range", "bytes=0-1")]), now, UNIX);
    assert_eq!(
        (response.status(), &response.headers()["content-length"]),
        (StatusCode::OK, &HeaderValue::from(10))
    );
    assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
}

#[test]
fn what_belongs_to_one_client_or_one_exchange_is_not_kept() {
    let headers = fields(&[
        ("cache-control", "no-cache=\"x-a\", private=\"x-b\", max-age=5"),
        ("x-a", "1"),
        ("x-b", "1"),
        ("x-c", "1"),
        ("set-cookie", "a=b"),
        ("age", "5"),
        ("x-request-id", "1"),
        ("traceparent", "1"),
        ("proxy-authentication-info", "1"),
    ]);
    let kept = kept_fields(&headers, UNIX);
    let mut names: Vec<_> = kept.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["cache-control", "date", "x-c"]);
    assert_eq!(kept["date"], dates::format(UNIX));
}

#[test]
fn a_304_brings_news_but_never_of_the_bytes() {
    let kept = kept(Instant::now());
    let news = fields(&[
        ("cache-control", "max-age=99"),
        ("x-new", "1"),
        ("content-length", "3"),
        ("content-encoding", "gzip"),
        ("set-cookie", "a=b"),
        ("date", &dates::format(UNIX + 60)),
    ]);
    let merged = merged_fields(&kept, &news, UNIX + 60);
    assert_eq!(
        (&merged["cache-control"], &merged["x-new"], &merged["x-kept"]),
        (
            &HeaderValue::from_static("max-age=99"),
            &HeaderValue::from_static("1"),
            &HeaderValue::from_static("1")
        )
    );
    assert_eq!(merged["date"], dates::format(UNIX + 60));
    assert_eq!(merged["content-length"], "10");
    assert!(!merged.contains_key("content-encoding") && !merged.contains_key("set-cookie"));
    assert!(is_about(&kept, &news) && !is_about(&kept, &fields(&[("etag", "\"other\"")])));
}

#[test]
fn asking_about_a_kept_answer_replaces_what_the_client_wanted_to_know() {
    let mut request = fields(&[("if-none-match", "\"z\""), ("range", "bytes=0-1"), ("if-range", "\"z\"")]);
    assert!(ask_if_modified(&kept(Instant::now()), &mut request));
    assert_eq!(request["if-none-match"], "\"a,b\"");
    assert_eq!(request["if-modified-since"], dates::format(UNIX - 500));
    assert!(!request.contains_key("range") && !request.contains_key("if-range"));
    let mut bare = kept(Instant::now());
    bare.headers = HeaderMap::new();
    let mut request = fields(&[("if-none-match", "\"z\"")]);
    assert!(!ask_if_modified(&bare, &mut request));
    assert_eq!(request["if-none-match"], "\"z\"");
}
