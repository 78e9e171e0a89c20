//! What happens to header fields on their way through.

use super::*;

fn fields(list: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in list {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

fn onward(headers: &mut HeaderMap, client: Option<&str>, websocket: bool) {
    let (host, via) = (HeaderValue::from_static("a:80"), HeaderValue::from_static("1.1 me"));
    let client = client.map(|address| address.parse().unwrap());
    let origin = Trusted::default().origin(client, false, headers);
    prepare_request(headers, &Onward { origin: &origin, host: &host, via: &via, websocket });
}

#[test]
fn fields_of_one_connection_are_taken_out_and_trailer_stays() {
    let mut headers = fields(&[
        ("connection", "X-One, close"),
        ("connection", "x-two,,trailer"),
        ("x-one", "1"),
        ("x-two", "2"),
        ("x-three", "3"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authenticate", "Basic"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "trailers"),
        ("trailer", "x-sum"),
    ]);
    strip_hop_by_hop(&mut headers);
    assert_eq!(names(&headers), ["trailer", "x-three"]);
}

#[test]
fn an_answer_cannot_have_its_length_stripped() {
    let mut headers = fields(&[("connection", "content-length, set-cookie2"), ("content-length", "5")]);
    prepare_response(&mut headers, false);
    assert_eq!(names(&headers), ["content-length"]);
}

#[test]
fn what_a_client_claims_of_itself_is_overwritten() {
    let mut headers = fields(&[
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-for", "7.7.7.7"),
        ("forwarded", "for=6.6.6.6"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-port", "1"),
        ("x-real-ip", "6.6.6.6"),
        ("proxy", "http://evil"),
        ("expect", "100-continue"),
    ]);
    onward(&mut headers, Some("::1"), false);
    assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
    assert_eq!(headers["x-forwarded-for"], "::1");
    assert_eq!(headers["forwarded"], "for=\"[::1]\";host=\"a:80\";proto=http");
    assert_eq!(headers["x-forwarded-proto"], "http");
    assert_eq!(
        names(&headers),
        ["forwarded", "host", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"]
    );
    let mut unknown = fields(&[("x-forwarded-for", "6.6.6.6")]);
    onward(&mut unknown, None, false);
    assert_eq!(unknown.get("x-forwarded-for"), None);
}

#[test]
fn via_grows_and_te_keeps_trailers_only() {
    let mut headers = fields(&[("via", "1.0 first"), ("te", "gzip;q=0.5, Trailers"), ("connection", "te")]);
    onward(&mut headers, None, false);
    let via: Vec<_> = headers.get_all("via").iter().collect();
    assert_eq!(via, ["1.0 first", "1.1 me"]);
    assert_eq!(headers["te"], "trailers");
    let mut without = fields(&[("te", "gzip")]);
    onward(&mut without, None, false);
    assert_eq!(without.get("te"), None);
}

#[test]
fn only_a_websocket_is_an_upgrade() {
    let asks = |connection: &str, upgrade: &str| {
        asks_for_websocket(&fields(&[("connection", connection), ("upgrade", upgrade)]))
    };
    assert!(asks("keep-alive, Upgrade", "WebSocket"));
    assert!(!asks("keep-alive", "websocket"));
    assert!(!asks("upgrade", "h2c"));
    let mut headers = fields(&[("connection", "upgrade"), ("upgrade", "websocket")]);
    onward(&mut headers, None, true);
    assert_eq!(
        (&headers["connection"], &headers["upgrade"]),
        (&"upgrade".parse().unwrap(), &"websocket".parse().unwrap())
    );
}

#[test]
fn a_cookie_in_crumbs_is_put_together() {
    let mut headers = fields(&[("cookie", "a=1"), ("x", "1"), ("cookie", "b=2; c=3"), ("cookie", "d=4")]);
    onward(&mut headers, None, false);
    let cookies: Vec<_> = headers.get_all("cookie").iter().collect();
    assert_eq!(cookies, ["a=1; b=2; c=3; d=4"]);
}

#[test]
fn an_answer_ends_in_one_way() {
    for (list, clear) in [
        (&[][..], true),
        (&[("content-length", "5")], true),
        (&[("transfer-encoding", "Chunked")], true),
        (&[("content-length", "5"), ("transfer-encoding", "chunked")], false),
        (&[("content-length", "5"), ("content-length", "5")], false),
        (&[("content-length", "5, 5")], false),
        (&[("content-length", "+5")], false),
        (&[("transfer-encoding", "gzip, chunked")], false),
        (&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], false),
        (&[("transfer-encoding", "identity")], false),
    ] {
        assert_eq!(framing_is_clear(&fields(list)), clear, "{list:?}");
    }
}

#[test]
fn a_backend_says_how_long_it_keeps_a_connection() {
    for (value, seconds) in [
        ("timeout=5", Some(5)),
        ("max=100, timeout = 7", Some(7)),
        ("timeout=soon", None),
        ("max=1", None),
        ("", None),
    ] {
        assert_eq!(
            keep_alive(&fields(&[("keep-alive", value)])).map(|limit| limit.as_secs()),
            seconds,
            "{value}"
        );
    }
}

#[test]
fn valid_ids_are_kept_and_others_are_made() {
    let mut random = fastrand::Rng::with_seed(8);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut headers = fields(&[("x-request-id", "abc-1"), ("traceparent", trace), ("tracestate", "a=b")]);
    assert_eq!(identify(&mut headers, &mut random, |_| true).request_id, "abc-1");
    assert_eq!(
        (&headers["traceparent"], headers.contains_key("tracestate")),
        (&trace.parse().unwrap(), true)
    );

    for bad in ["", "a b", "<script>", &"a".repeat(129)] {
        let mut headers = fields(&[("x-request-id", bad), ("traceparent", "00-xyz"), ("tracestate", "a=b")]);
        let id = identify(&mut headers, &mut random, |_| true).request_id;
        assert_eq!((id.len(), &headers["x-request-id"]), (32, &id), "{bad}");
        assert!(
            TraceContext::of(&headers).is_some_and(|made| made.is_sampled()),
            "{:?}",
            headers["traceparent"]
        );
        assert!(!headers.contains_key("tracestate"), "it belongs to a trace that is not ours");
    }
}

#[test]
fn the_callers_time_is_a_positive_number() {
    for (value, milliseconds) in
        [("250", Some(250)), ("0", None), ("-1", None), ("soon", None), ("1.5", None)]
    {
        assert_eq!(expected_timeout_ms(&fields(&[("x-envoy-expected-rq-timeout-ms", value)])), milliseconds);
    }
    assert_eq!(expected_timeout_ms(&HeaderMap::new()), None);
}
