//! Pouring an answer to everybody who reads it, and into the store once all of it came.
//!
//! What is poured and for whom is decided in `fetch`.

use std::{pin::pin, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header, response::Parts};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::{
    Cache, answer,
    fetch::Trip,
    flight::{Head, Seat},
    key::Vary,
    policy::{Moment, Terms},
    store::Kept,
};
use crate::{
    attempts::Arrived,
    body::{Download, ProxyBody, Reader, Source},
    headers,
    ladder::{Answer, CacheNote, Rung},
    proxy::Proxy,
};

/// So much of an answer that nobody wants is read, to keep its connection.
const LEFT_OVER_BYTES_MAX: usize = 64 * 1024;

/// An answer that may be kept, its body still to come.
pub(super) struct Keepable {
    pub(super) arrived: Arrived,
    pub(super) terms: Terms,
    pub(super) asked_at: Instant,
    pub(super) received: Moment,
}

/// An answer on its way into the store.
pub(super) struct Pouring {
    body: Download,
    source: Source,
    name: Arc<str>,
    asked_at: Instant,
    pub(super) kept: Kept,
    length: Option<u64>,
}

impl Proxy {
    /// Reads the rest of an answer that is not passed on, so that its connection can be used again.
    pub(super) fn let_run_out(&self, arrived: Arrived) {
        let Arrived { response, lease, .. } = arrived;
        let body = Download::new(response.into_body(), lease, self.config.backends.body_idle, None);
        tokio::spawn(async move {
            let mut body = pin!(body);
            let mut read = 0;
            while let Some(Ok(frame)) = body.frame().await {
                read += frame.data_ref().map_or(0, Bytes::len);
                if read > LEFT_OVER_BYTES_MAX {
                    return;
                }
            }
        });
    }

    /// Splits an answer into what the one who asked gets, what others get, and what is kept.
    pub(super) fn keep(&self, cache: &Cache, keepable: Keepable, trip: &Trip<'_>) -> (Answer, Pouring, Head) {
        let Keepable { arrived, terms, asked_at, received } = keepable;
        let Arrived { mut response, lease, rung, backend } = arrived;
        headers::prepare_response(response.headers_mut(), false);
        let selecting = Vary::of(response.headers()).select(&trip.forward.headers);
        let length = content_length(response.headers());
        let (Parts { status, headers, .. }, body) = response.into_parts();
        let kept_headers = answer::kept_fields(&headers, received.unix);
        let source = cache.source();
        let spring = source.spring();
        let reader = spring.reader(length);
        let note = CacheNote {
            went: Some(trip.went()),
            status: Some(status.as_u16()),
            ttl: None,
            stored: true,
            collapsed: false,
        };
        let answer = streaming(status, headers, reader, (rung, backend, note));
        let head = Head {
            status,
            headers: kept_headers.clone(),
            terms: terms.clone(),
            selecting: selecting.clone(),
            length,
            spring,
            backend,
        };
        let kept = Kept { status, headers: kept_headers, body: Bytes::new(), terms, selecting };
        let body = Download::new(body, lease, self.config.backends.body_idle, None);
        let pouring = Pouring { body, source, name: Arc::clone(&trip.asked.name), asked_at, kept, length };
        (answer, pouring, head)
    }

    /// Pours an answer to its readers, and into the store when all of it came.
    ///
    /// # Cancel safety
    /// Dropped, its readers see a connection that broke, and nothing is kept.
    pub(super) async fn pour(self: Arc<Self>, pouring: Pouring, seat: Option<Seat>) {
        let Pouring { body, source, name, asked_at, mut kept, length } = pouring;
        let mut body = pin!(body);
        let patience = self.config.backends.body_idle;
        while let Some(frame) = body.frame().await {
            // Dropping the source tells the readers that it broke off.
            let Ok(frame) = frame else { return };
            let Ok(chunk) = frame.into_data() else { continue };
            if body.is_end_stream() {
                source.hold(chunk);
                break;
            }
            source.pour(chunk, patience).await;
            if !source.keeps_all() && !source.has_readers() {
                return;
            }
        }
        if let (Some(whole), Some(cache)) = (source.whole(), &self.cache)
            && length.is_none_or(|length| length == whole.len() as u64)
        {
            if kept.status != StatusCode::NO_CONTENT {
                kept.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(whole.len()));
            }
            kept.body = whole;
            cache.store.put(&name, Arc::new(kept), asked_at);
            cache.passes.remove(&name);
        }
        // Kept before the last reader has got all of it: whoever comes after that finds it.
        source.finish();
        drop(seat);
    }
}

/// The length an answer says it has.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// An answer that streams.
pub(super) fn streaming(
    status: StatusCode,
    headers: HeaderMap,
    reader: Option<Reader>,
    (rung, backend, note): (Rung, usize, CacheNote),
) -> Answer {
    let body = reader.map_or_else(ProxyBody::empty, |body| ProxyBody::Shared { body });
    let mut response = Response::new(body);
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    Answer { response, rung, backend: Some(backend), cache: Some(note), trouble: None }
}
