//! The body of a request, shared between its attempts: streams once, remembers its beginning, counts what came.
//!
//! It does not decide on a second attempt; it only says whether one could send the same bytes again.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

/// Bytes kept for a second attempt; past it the body goes on streaming and the second attempt is given up. Linkerd
/// and Pingora keep as much.
const REPLAY_BYTES_MAX: usize = 64 * 1024;
/// Frames kept: a client that sends a byte at a time must not make us keep 65,536 of them.
const REPLAY_FRAMES_MAX: usize = 256;

/// What all requests together keep for a second attempt; past it bodies stream on and are sent once only.
#[derive(Debug)]
pub(crate) struct KeptBytes {
    max: usize,
    now: AtomicUsize,
}

impl KeptBytes {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, now: AtomicUsize::new(0) }
    }

    fn take(&self, bytes: usize) -> bool {
        let sum = |now: usize| now.checked_add(bytes).filter(|sum| *sum <= self.max);
        self.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.now.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Why the body of a request ended too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("more than the limit")]
    TooLarge,
    #[error("the client broke off")]
    ClientBroke,
    #[error("another attempt took over")]
    TakenOver,
}

/// The proxy's hold on the body of one request.
#[derive(Debug)]
pub(crate) struct Upload(Option<Arc<Mutex<Shared<Incoming>>>>);

#[derive(Debug)]
struct Shared<B> {
    source: B,
    /// Out of which the beginning is kept, where it is.
    keep: Option<Arc<KeptBytes>>,
    kept: Vec<Bytes>,
    kept_trailers: Option<HeaderMap>,
    kept_bytes: usize,
    total: u64,
    bytes_max: u64,
    attempt: u32,
    ended: bool,
    failure: Option<UploadError>,
    /// Whether the last look found that the client has sent nothing.
    waits_for_client: bool,
    moved_at: Instant,
}

/// What is known of an upload while an answer is awaited.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UploadProgress {
    /// Everything was handed to the backend's connection.
    pub(crate) ended: bool,
    /// The client is the one everybody waits for.
    pub(crate) waits_for_client: bool,
    /// When something moved last; `None` where there is no body.
    pub(crate) moved_at: Option<Instant>,
}

impl UploadProgress {
    /// Whether something moved between the two looks.
    pub(crate) fn differs(&self, earlier: &Self) -> bool {
        (self.ended, self.waits_for_client, self.moved_at)
            != (earlier.ended, earlier.waits_for_client, earlier.moved_at)
    }
}

impl Upload {
    /// Takes the body of a request. Its beginning is kept for a second attempt where `keep` gives room for it.
    pub(crate) fn new(source: Incoming, keep: Option<Arc<KeptBytes>>, bytes_max: u64, now: Instant) -> Self {
        if source.is_end_stream() {
            return Self(None);
        }
        Self(Some(Arc::new(Mutex::new(Shared::new(source, keep, bytes_max, now)))))
    }

    /// Whether there is no body at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The body for the next attempt; what earlier attempts still read ends with an error.
    pub(crate) fn for_attempt(&self) -> RequestBody {
        match &self.0 {
            None => RequestBody::Empty,
            Some(shared) => {
                let mut locked = lock(shared);
                locked.attempt += 1;
                let attempt = locked.attempt;
                drop(locked);
                RequestBody::Streamed(Reader {
                    shared: Arc::clone(shared),
                    attempt,
                    next: 0,
                    trailers_sent: false,
                })
            }
        }
    }

    /// Whether another attempt would send the same bytes.
    pub(crate) fn is_replayable(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| lock(shared).is_replayable())
    }

    /// Why the body ended too early, where it did.
    pub(crate) fn failure(&self) -> Option<UploadError> {
        self.0.as_ref().and_then(|shared| lock(shared).failure)
    }

    pub(crate) fn progress(&self) -> UploadProgress {
        let Some(shared) = &self.0 else {
            return UploadProgress { ended: true, waits_for_client: false, moved_at: None };
        };
        let shared = lock(shared);
        UploadProgress {
            ended: shared.ended,
            waits_for_client: shared.waits_for_client,
            moved_at: Some(shared.moved_at),
        }
    }
}

/// The body as one attempt sends it.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// There is none.
    Empty,
    /// From the client, the beginning perhaps for the second time.
    Streamed(Reader<Incoming>),
}

#[derive(Debug)]
pub(crate) struct Reader<B> {
    shared: Arc<Mutex<Shared<B>>>,
    attempt: u32,
    /// Kept frames that this attempt has sent.
    next: usize,
    trailers_sent: bool,
}

impl<B> Shared<B> {
    fn new(source: B, keep: Option<Arc<KeptBytes>>, bytes_max: u64, now: Instant) -> Self {
        Self {
            source,
            keep,
            kept: Vec::new(),
            kept_trailers: None,
            kept_bytes: 0,
            total: 0,
            bytes_max,
            attempt: 0,
            ended: false,
            failure: None,
            waits_for_client: false,
            moved_at: now,
        }
    }

    fn is_replayable(&self) -> bool {
        self.failure.is_none() && (self.keep.is_some() || (self.total == 0 && !self.ended))
    }

    fn remember(&mut self, data: &Bytes) {
        let Some(room) = &self.keep else { return };
        let is_too_much =
            self.kept_bytes + data.len() > REPLAY_BYTES_MAX || self.kept.len() >= REPLAY_FRAMES_MAX;
        if is_too_much || !room.take(data.len()) {
            self.forget();
            return;
        }
        self.kept_bytes += data.len();
        self.kept.push(data.clone());
    }

    fn forget(&mut self) {
        self.kept = Vec::new();
        if let Some(room) = self.keep.take() {
            room.give_back(std::mem::take(&mut self.kept_bytes));
        }
    }

    fn fail(&mut self, why: UploadError) -> UploadError {
        self.failure = Some(why);
        why
    }
}

impl<B> Drop for Shared<B> {
    fn drop(&mut self) {
        self.forget();
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Reader<B> {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let shared = Arc::clone(&self.shared);
        let mut shared = lock(&shared);
        if shared.attempt != self.attempt {
            return Poll::Ready(Some(Err(UploadError::TakenOver)));
        }
        if let Some(kept) = shared.kept.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(kept.clone()))));
        }
        if shared.ended {
            let trailers = shared.kept_trailers.clone().filter(|_| !self.trailers_sent);
            self.trailers_sent = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = Pin::new(&mut shared.source).poll_frame(context);
        shared.waits_for_client = frame.is_pending();
        let Poll::Ready(frame) = frame else { return Poll::Pending };
        shared.moved_at = Instant::now();
        match frame {
            None => {
                shared.ended = true;
                Poll::Ready(None)
            }
            Some(Err(_)) => Poll::Ready(Some(Err(shared.fail(UploadError::ClientBroke)))),
            Some(Ok(frame)) => Poll::Ready(Some(self.pass(&mut shared, frame))),
        }
    }

    fn is_end_stream(&self) -> bool {
        let shared = lock(&self.shared);
        let trailers_wait = shared.kept_trailers.is_some() && !self.trailers_sent;
        shared.ended && self.next >= shared.kept.len() && !trailers_wait
    }

    fn size_hint(&self) -> SizeHint {
        let shared = lock(&self.shared);
        // Before the first byte the source knows; later attempts are framed by the header field.
        if shared.total == 0 && !shared.ended { shared.source.size_hint() } else { SizeHint::default() }
    }
}

impl<B: Body<Data = Bytes>> Reader<B> {
    fn pass(&mut self, shared: &mut Shared<B>, frame: Frame<Bytes>) -> Result<Frame<Bytes>, UploadError> {
        if let Some(data) = frame.data_ref() {
            shared.total = shared.total.saturating_add(data.len() as u64);
            if shared.total > shared.bytes_max {
                return Err(shared.fail(UploadError::TooLarge));
            }
            shared.remember(data);
            if shared.keep.is_some() {
                self.next += 1;
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            shared.kept_trailers = shared.keep.is_some().then(|| trailers.clone());
            self.trailers_sent = true;
        }
        if shared.source.is_end_stream() {
            shared.ended = true;
        }
        Ok(frame)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Streamed(reader) => Pin::new(reader).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streamed(reader) => reader.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streamed(reader) => reader.size_hint(),
        }
    }
}

fn lock<B>(shared: &Mutex<Shared<B>>) -> MutexGuard<'_, Shared<B>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
