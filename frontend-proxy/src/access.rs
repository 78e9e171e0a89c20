//! The line in the log about one request: written when it is dropped, so that a client that leaves is not left out. It
//! holds nothing that a user wrote but the ids that he may choose.

use http::{HeaderValue, StatusCode};
use tokio::time::Instant;

use crate::ladder::{CacheNote, Rung};

/// Logged where a client left before its answer; no such status is ever sent.
const CLIENT_LEFT: u16 = 499;

/// What is known of one request.
pub(crate) struct Line {
    pub(crate) is_wanted: bool,
    pub(crate) started: Instant,
    pub(crate) request_id: HeaderValue,
    pub(crate) trace_id: String,
    /// Out of a closed list.
    pub(crate) method: &'static str,
    /// How it was answered, by which backend, and the cache's part in it.
    pub(crate) end: Option<(StatusCode, Rung, Option<usize>, Option<CacheNote>)>,
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.is_wanted {
            return;
        }
        tracing::info!(
            target: "access",
            request_id = self.request_id.to_str().unwrap_or_default(),
            trace_id = self.trace_id,
            method = self.method,
            status = self.end.map_or(CLIENT_LEFT, |(status, ..)| status.as_u16()),
            rung = self.end.map(|(_, rung, ..)| rung.as_str()),
            backend = self.end.and_then(|(_, _, backend, _)| backend),
            cache = self.end.and_then(|(.., cache)| cache).map(|note| note.to_string()),
            microseconds = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
            "request"
        );
    }
}
