//! Bodies on their way through: `Upload` towards the backend, `ProxyBody` towards the client.
//!
//! Nothing is collected: an upload keeps its first bytes only where a second attempt may need them, an answer keeps
//! none. What a broken body means for the request is decided in `proxy`.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::upstream::Lease;

mod shared;
mod upload;

pub(crate) use self::{
    shared::{Reader, Room, Source, Spring},
    upload::{KeptBytes, RequestBody, Upload, UploadError},
};

/// Why an answer was cut on its way to the client. The client sees a connection that ends too early, never a clean
/// end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CutShort {
    #[error("the backend broke off: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the backend sent nothing for too long")]
    Idle,
    #[error("the caller's time is over")]
    Deadline,
    #[error("what others wait for too broke off")]
    Unfinished,
    #[error("the client took it too slowly")]
    TooSlow,
}

pin_project! {
    /// The body of an answer of the proxy.
    #[project = ProxyBodyProjection]
    pub(crate) enum ProxyBody {
        /// Made here.
        Own { #[pin] body: Full<Bytes> },
        /// Passed on as it comes.
        Passed { #[pin] body: Download },
        /// Passed on to several, or into the cache too.
        Shared { #[pin] body: Reader },
    }
}

impl ProxyBody {
    /// No body at all.
    pub(crate) fn empty() -> Self {
        Self::from(Full::default())
    }
}

impl From<Full<Bytes>> for ProxyBody {
    fn from(body: Full<Bytes>) -> Self {
        Self::Own { body }
    }
}

pin_project! {
    /// A body that streams from a backend; gives the connection back when it ends well.
    pub(crate) struct Download {
        incoming: Incoming,
        lease: Option<Lease>,
        idle: Duration,
        // Set while the backend lets us wait.
        #[pin]
        silence: Option<Sleep>,
        // Whether something came since `silence` was set.
        moved: bool,
        #[pin]
        deadline: Option<Sleep>,
    }
}

impl Download {
    /// The body of an answer that came over `lease`. `deadline` is the caller's, where it named one.
    pub(crate) fn new(incoming: Incoming, lease: Lease, idle: Duration, deadline: Option<Instant>) -> Self {
        let mut lease = Some(lease);
        if incoming.is_end_stream() {
            give_back(&mut lease);
        }
        Self { incoming, lease, idle, silence: None, moved: false, deadline: deadline.map(sleep_until) }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        let mut this = self.project();
        if let Poll::Ready(frame) = Pin::new(&mut *this.incoming).poll_frame(context) {
            *this.moved = true;
            return match frame {
                Some(Ok(frame)) => {
                    if this.incoming.is_end_stream() {
                        give_back(this.lease);
                    }
                    Poll::Ready(Some(Ok(frame)))
                }
                Some(Err(error)) => cut(this.lease, CutShort::Broken(error)),
                None => {
                    give_back(this.lease);
                    Poll::Ready(None)
                }
            };
        }
        if let Some(deadline) = this.deadline.as_mut().as_pin_mut()
            && deadline.poll(context).is_ready()
        {
            return cut(this.lease, CutShort::Deadline);
        }
        if this.silence.is_none() {
            *this.moved = false;
            this.silence.set(Some(sleep(*this.idle)));
        }
        while let Some(mut silence) = this.silence.as_mut().as_pin_mut()
            && silence.as_mut().poll(context).is_ready()
        {
            if !std::mem::take(this.moved) {
                return cut(this.lease, CutShort::Idle);
            }
            silence.reset(Instant::now() + *this.idle);
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

fn give_back(lease: &mut Option<Lease>) {
    if let Some(lease) = lease.take() {
        lease.give_back();
    }
}

/// Ends an answer too early: its connection is closed, not given back.
fn cut(lease: &mut Option<Lease>, why: CutShort) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
    if let Some(lease) = lease.take() {
        tracing::warn!(backend = lease.backend_label(), reason = %why, "answer cut short");
    }
    Poll::Ready(Some(Err(why)))
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        match self.project() {
            ProxyBodyProjection::Own { body } => body.poll_frame(context).map_err(|never| match never {}),
            ProxyBodyProjection::Passed { body } => body.poll_frame(context),
            ProxyBodyProjection::Shared { body } => body.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own { body } => body.is_end_stream(),
            Self::Passed { body } => body.is_end_stream(),
            Self::Shared { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own { body } => body.size_hint(),
            Self::Passed { body } => body.size_hint(),
            Self::Shared { body } => body.size_hint(),
        }
    }
}
