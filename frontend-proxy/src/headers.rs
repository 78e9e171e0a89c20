//! Header fields on their way through: hop-by-hop fields, `Via`, `Forwarded`, the ids of a request.
//!
//! Pure functions over header maps; `forwarded` has what a backend is told of the client. Whether a request is let through at all is decided in `target`.

mod forwarded;

use std::time::Duration;

use http::{
    HeaderMap, HeaderValue,
    header::{self, HeaderName},
};
use ridethrough::http::TraceContext;

pub(crate) use self::forwarded::{Origin, Trusted, X_FORWARDED_HOST, X_FORWARDED_PROTO};

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(crate) const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const PROXY: HeaderName = HeaderName::from_static("proxy");

/// Fields that belong to one connection, besides those that `Connection` names. `TE` and `Upgrade` are put back by
/// whoever understands them; `Trailer` describes the message and stays.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Fields about the client that only we may write, because a backend believes them.
const CLAIMS: [&str; 8] = [
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-server",
    "x-forwarded-scheme",
    "x-forwarded-ssl",
    "x-real-ip",
    "x-original-url",
    "x-rewrite-url",
];

/// Fields that `Connection` must not name: a proxy that strips them on demand changes what the request means.
const PROTECTED: [&str; 13] = [
    "host",
    "content-length",
    "content-type",
    "authorization",
    "cookie",
    "forwarded",
    "via",
    "idempotency-key",
    "if-match",
    "origin",
    "x-real-ip",
    "x-request-id",
    "traceparent",
];

/// Whether `Connection` names a field that no honest client names.
pub(crate) fn connection_names_protected(headers: &HeaderMap) -> bool {
    connection_options(headers).any(is_protected)
}

fn is_protected(option: &str) -> bool {
    PROTECTED.iter().any(|name| option.eq_ignore_ascii_case(name))
        || option.get(..12).is_some_and(|prefix| prefix.eq_ignore_ascii_case("x-forwarded-"))
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok()).flat_map(list)
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Takes out everything that belongs to one connection only. Protected fields stay even where `Connection` names
/// them, which can only happen in an answer: such a request is refused before.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = connection_options(headers)
            .filter(|option| !is_protected(option))
            .filter_map(|option| HeaderName::from_bytes(option.as_bytes()).ok())
            .filter(|name| *name != header::TRAILER)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Whether the client says it can take trailers.
pub(crate) fn accepts_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::TE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(list).any(|coding| coding.eq_ignore_ascii_case("trailers"))
}

/// Whether the request asks to become a websocket, in both of the fields that take part.
pub(crate) fn asks_for_websocket(headers: &HeaderMap) -> bool {
    connection_options(headers).any(|option| option.eq_ignore_ascii_case("upgrade"))
        && headers
            .get(header::UPGRADE)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Writes the two fields that take part in a websocket upgrade.
pub(crate) fn set_websocket(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// What a request needs to leave us.
#[derive(Debug)]
pub(crate) struct Onward<'a> {
    /// Where the request comes from.
    pub(crate) origin: &'a Origin,
    /// The host the client asked for.
    pub(crate) host: &'a HeaderValue,
    /// Our line in `Via`.
    pub(crate) via: &'a HeaderValue,
    /// Whether the request becomes a websocket.
    pub(crate) websocket: bool,
}

/// Makes the fields of a request fit for the backend.
pub(crate) fn prepare_request(headers: &mut HeaderMap, onward: &Onward<'_>) {
    let trailers = accepts_trailers(headers);
    strip_hop_by_hop(headers);
    // Our own listener answers `Expect`, and `Proxy` becomes a variable in CGI programs.
    headers.remove(header::EXPECT);
    headers.remove(PROXY);
    for claim in CLAIMS {
        headers.remove(claim);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if onward.websocket {
        set_websocket(headers);
    }
    headers.append(header::VIA, onward.via.clone());
    headers.insert(header::HOST, onward.host.clone());
    join_cookies(headers);
    onward.origin.write(headers, onward.host);
}

/// HTTP/2 may send a cookie in crumbs, which HTTP/1.1 has in one field.
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(b"; ".as_slice()))
    {
        headers.insert(header::COOKIE, whole);
    }
}

/// Makes the fields of an answer fit for the client.
pub(crate) fn prepare_response(headers: &mut HeaderMap, websocket: bool) {
    strip_hop_by_hop(headers);
    if websocket {
        set_websocket(headers);
    }
}

/// Whether an answer says in one way only where it ends. Of two ways the parser takes one, and the client behind us might
/// take the other.
pub(crate) fn framing_is_clear(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (lengths.next(), codings.next()) {
        (None, None) => true,
        (Some(length), None) => lengths.next().is_none() && length.as_bytes().iter().all(u8::is_ascii_digit),
        (None, Some(coding)) => {
            codings.next().is_none() && coding.as_bytes().eq_ignore_ascii_case(b"chunked")
        }
        (Some(_), Some(_)) => false,
    }
}

/// How long a backend keeps an unused connection, where it says so.
pub(crate) fn keep_alive(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    let (_, seconds) =
        list(value).filter_map(|item| item.split_once('=')).find(|(name, _)| name.trim() == "timeout")?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

/// Whether the request has been here before: our own name stands in `Via`.
pub(crate) fn is_loop(headers: &HeaderMap, own_name: &str) -> bool {
    let values = headers.get_all(header::VIA).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(list).any(|hop| hop.split_ascii_whitespace().nth(1) == Some(own_name))
}

/// The caller's remaining time, where it says so. Zero means no limit there, so it is none here.
pub(crate) fn expected_timeout_ms(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(EXPECTED_TIMEOUT)?.to_str().ok()?;
    value.parse().ok().filter(|milliseconds| *milliseconds > 0)
}

/// The ids of a request, as every answer to it carries them.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) request_id: HeaderValue,
    pub(crate) trace_id: String,
    pub(crate) trace: HeaderValue,
}

/// The ids of a request: kept where they are valid, made where not. `is_sampled` is asked where a trace begins.
pub(crate) fn identify(
    headers: &mut HeaderMap,
    random: &mut fastrand::Rng,
    is_sampled: impl FnOnce(&mut fastrand::Rng) -> bool,
) -> Identity {
    let context = TraceContext::of(headers).unwrap_or_else(|| {
        let sampled = is_sampled(random);
        TraceContext::begin(random.u128(1..), random.u64(1..), sampled)
    });
    context.insert_into(headers);
    let id_is_valid = headers.get(X_REQUEST_ID).is_some_and(|value| is_request_id(value.as_bytes()));
    if !id_is_valid {
        let made = HeaderValue::from_str(&format!("{:032x}", random.u128(1..)));
        headers.insert(X_REQUEST_ID, made.expect("hexadecimal digits are visible"));
    }
    let made = |name| headers.get(name).cloned().expect("it was valid or has just been made");
    Identity { request_id: made(X_REQUEST_ID), trace_id: context.trace_id(), trace: made(TRACEPARENT) }
}

fn is_request_id(id: &[u8]) -> bool {
    (1..=128).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:+/=@~".contains(byte))
}

#[cfg(test)]
mod tests;
