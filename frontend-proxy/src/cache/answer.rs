//! From an answer to what is kept of it, and back: fields left out, a 304 taken in, conditions and ranges answered.
//!
//! Pure. Whether any of it may be done is `policy`'s business.

use std::ops::Range;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use tokio::time::Instant;

use super::{
    dates::{self, Unix},
    directives::AnswerControl,
    store::Kept,
};
use crate::headers::{TRACEPARENT, X_REQUEST_ID};

/// Fields of an answer that belong to one exchange or one client.
const NEVER_KEPT: [HeaderName; 9] = [
    HeaderName::from_static("proxy-authentication-info"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRAILER,
    header::AGE,
    header::SET_COOKIE,
    X_REQUEST_ID,
    TRACEPARENT,
    HeaderName::from_static("tracestate"),
];
/// Fields that describe the bytes that are kept; a 304 has none, so what it says of them is not taken over.
const OF_THE_BODY: [HeaderName; 4] =
    [header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::CONTENT_RANGE, header::TRANSFER_ENCODING];
/// What a 304 carries (RFC 9110 15.4.5).
const OF_NOT_MODIFIED: [HeaderName; 7] = [
    header::CACHE_CONTROL,
    header::CONTENT_LOCATION,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::LAST_MODIFIED,
    header::VARY,
];

/// The fields to keep of an answer whose hop-by-hop fields are gone already. `received` is the date where it has none.
pub(crate) fn kept_fields(headers: &HeaderMap, received: Unix) -> HeaderMap {
    let withheld = AnswerControl::of(headers).withheld;
    let mut kept = headers.clone();
    for name in NEVER_KEPT.iter().chain(&withheld) {
        kept.remove(name);
    }
    kept.entry(header::DATE).or_insert_with(|| {
        HeaderValue::from_str(&dates::format(received)).expect("a date has visible characters only")
    });
    kept
}

/// The fields of a kept answer with the news of a 304 taken in; its `Age` is there for the terms to be worked out from.
pub(crate) fn merged_fields(kept: &Kept, not_modified: &HeaderMap, received: Unix) -> HeaderMap {
    let news = kept_fields(not_modified, received);
    let mut headers = kept.headers.clone();
    for name in news.keys().filter(|name| !OF_THE_BODY.contains(name)) {
        headers.remove(name);
        for value in news.get_all(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    if let Some(age) = not_modified.get(header::AGE) {
        headers.insert(header::AGE, age.clone());
    }
    headers
}

/// Whether a 304 is about this answer: it names no other entity tag.
pub(crate) fn is_about(kept: &Kept, not_modified: &HeaderMap) -> bool {
    match (kept.headers.get(header::ETAG), not_modified.get(header::ETAG)) {
        (Some(ours), Some(theirs)) => opaque(ours.as_bytes()) == opaque(theirs.as_bytes()),
        _ => true,
    }
}

/// Makes a request ask whether `kept` is still right, in place of what its client wanted to know. False where there is
/// nothing to ask by; the request stays as it is then.
pub(crate) fn ask_if_modified(kept: &Kept, request: &mut HeaderMap) -> bool {
    let (tag, modified) = (kept.headers.get(header::ETAG), kept.headers.get(header::LAST_MODIFIED));
    if tag.is_none() && modified.is_none() {
        return false;
    }
    for name in [header::RANGE, header::IF_RANGE, header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE] {
        request.remove(name);
    }
    if let Some(tag) = tag {
        request.insert(header::IF_NONE_MATCH, tag.clone());
    }
    if let Some(modified) = modified {
        request.insert(header::IF_MODIFIED_SINCE, modified.clone());
    }
    true
}

/// The answer to `request` out of what is kept, as it is at `now`.
pub(crate) fn respond(
    kept: &Kept,
    method: &Method,
    request: &HeaderMap,
    now: Instant,
    unix: Unix,
) -> Response<Full<Bytes>> {
    let mut headers = kept.headers.clone();
    headers.insert(header::AGE, HeaderValue::from(kept.terms.age(now).as_secs()));
    let mut response = Response::new(Full::default());
    let is_plain = kept.status == StatusCode::OK;
    if is_plain && is_unchanged(kept, request, unix) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        let mut few = HeaderMap::new();
        for name in OF_NOT_MODIFIED.iter().chain([&header::AGE]) {
            for value in headers.get_all(name) {
                few.append(name.clone(), value.clone());
            }
        }
        *response.headers_mut() = few;
        return response;
    }
    *response.status_mut() = kept.status;
    let mut body = kept.body.clone();
    if is_plain && *method == Method::GET && range_applies(kept, request, unix) {
        match range(request, kept.body.len()) {
            Asked::Everything => {}
            Asked::Part(part) => {
                let (first, last, whole) = (part.start, part.end - 1, kept.body.len());
                headers.insert(header::CONTENT_RANGE, text(&format!("bytes {first}-{last}/{whole}")));
                body = kept.body.slice(part);
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            }
            Asked::Nothing => {
                headers.insert(header::CONTENT_RANGE, text(&format!("bytes */{}", kept.body.len())));
                headers.remove(header::CONTENT_TYPE);
                headers.remove(header::CONTENT_ENCODING);
                body = Bytes::new();
                *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            }
        }
    }
    if kept.status != StatusCode::NO_CONTENT {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    *response.headers_mut() = headers;
    if *method != Method::HEAD {
        *response.body_mut() = Full::new(body);
    }
    response
}

fn text(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("digits and words are visible characters")
}

/// An entity tag without its weakness.
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

fn date_of(headers: &HeaderMap, name: HeaderName, now: Unix) -> Option<Unix> {
    dates::parse(headers.get(name)?.as_bytes(), now)
}

/// Whether the client has this answer already, by its `If-None-Match`, else by its `If-Modified-Since`.
fn is_unchanged(kept: &Kept, request: &HeaderMap, now: Unix) -> bool {
    if request.contains_key(header::IF_NONE_MATCH) {
        let ours = kept.headers.get(header::ETAG).map(|tag| opaque(tag.as_bytes()));
        let lines = request.get_all(header::IF_NONE_MATCH).iter();
        return lines
            .flat_map(|line| tags(line.as_bytes()))
            .any(|tag| tag == b"*" || Some(opaque(tag)) == ours);
    }
    let since = date_of(request, header::IF_MODIFIED_SINCE, now);
    let modified = date_of(&kept.headers, header::LAST_MODIFIED, now)
        .or_else(|| date_of(&kept.headers, header::DATE, now));
    matches!((modified, since), (Some(modified), Some(since)) if modified <= since)
}

/// The entity tags of a list; a comma may stand inside of one.
fn tags(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    let parts = list.split(move |byte| {
        quoted ^= *byte == b'"';
        *byte == b',' && !quoted
    });
    parts.map(<[u8]>::trim_ascii).filter(|tag| !tag.is_empty())
}

/// Whether `Range` counts: there is no `If-Range`, or it names exactly this answer, by a strong tag or by a date that
/// is too old for a second change within it.
fn range_applies(kept: &Kept, request: &HeaderMap, now: Unix) -> bool {
    let Some(condition) = request.get(header::IF_RANGE) else { return request.contains_key(header::RANGE) };
    if condition.as_bytes().starts_with(b"\"") {
        return kept.headers.get(header::ETAG) == Some(condition);
    }
    let named = dates::parse(condition.as_bytes(), now);
    let modified = date_of(&kept.headers, header::LAST_MODIFIED, now);
    let sent = date_of(&kept.headers, header::DATE, now);
    matches!((named, modified, sent), (Some(named), Some(modified), Some(sent))
        if named == modified && sent - modified >= 60)
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Everything,
    Part(Range<usize>),
    Nothing,
}

/// The one range that is asked for. Several at once, or another unit, get everything, which is always allowed.
fn range(request: &HeaderMap, length: usize) -> Asked {
    let mut lines = request.get_all(header::RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Asked::Everything };
    let line = line.to_str().unwrap_or_default();
    let Some((unit, list)) = line.split_once('=') else { return Asked::Everything };
    if !unit.trim().eq_ignore_ascii_case("bytes") || list.contains(',') {
        return Asked::Everything;
    }
    let Some((first, last)) = list.trim().split_once('-') else { return Asked::Nothing };
    let number = |digits: &str| {
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse::<usize>().unwrap_or(usize::MAX))
    };
    let part = match (number(first), number(last), first.is_empty(), last.is_empty()) {
        (Some(first), Some(last), ..) if first <= last => first..last.saturating_add(1).min(length),
        (Some(first), None, _, true) => first..length,
        (None, Some(suffix), true, _) => length.saturating_sub(suffix)..length,
        _ => return Asked::Nothing,
    };
    if part.is_empty() { Asked::Nothing } else { Asked::Part(part) }
}

#[cfg(test)]
mod tests;
