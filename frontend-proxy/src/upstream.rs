//! One attempt at one backend: a connection from the pool or a new one, the request out, the head of the answer in.
//!
//! It says exactly what happened, above all whether anything was sent and whether anything came back. What follows
//! from that, a second attempt or a fallback, is decided in `retry` and `proxy`.

mod connection;
mod pool;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, Method, Request, Response, Uri, Version};
use hyper::body::Incoming;
use ridethrough::service::Interim;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

pub(crate) use self::connection::DialError;
use self::{
    connection::{Connection, dial},
    pool::Pool,
};
use crate::{
    body::{RequestBody, Upload, UploadError},
    config::{Authority, BackendsSection},
    headers,
};

/// The way to one backend: its address, its idle connections, what is in flight.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// The label in metrics, logs and `/debug/state`.
    pub(crate) label: &'static str,
    pub(crate) authority: Authority,
    limits: BackendsSection,
    pool: Pool,
    in_flight: AtomicUsize,
}

/// A connection that carries one exchange. Dropped, it is closed: only [`Lease::give_back`] keeps it.
#[derive(Debug)]
#[must_use = "a lease that is dropped closes its connection"]
pub(crate) struct Lease {
    connection: Connection,
    upload: Arc<Upload>,
    in_flight: InFlight,
    /// How long the backend keeps the connection unused, where it says so.
    kept_there: Option<Duration>,
}

/// Counts a request at a backend until dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Upstream>);

/// What to send. Borrowed, because a second attempt sends it again.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) upload: &'a Arc<Upload>,
    /// Refuse idle connections: the attempt must not meet the same race again.
    pub(crate) fresh: bool,
    /// The caller's time; the limits of each stage come on top.
    pub(crate) deadline: Option<Instant>,
    /// A request body that brings nothing for this long is given up.
    pub(crate) body_idle: Duration,
    /// A request body that is not over by then is given up.
    pub(crate) body_deadline: Instant,
    /// Takes the interim answers, where the client can.
    pub(crate) interim: Option<&'a Interim>,
    /// Ends the wait for an answer: somebody else could give it, and this backend has fallen silent.
    pub(crate) give_up: Option<&'a Notify>,
}

/// How an attempt ended that brought no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AttemptError {
    #[error("no connection: {0}")]
    Dial(#[from] DialError),
    /// Closed before any byte of the answer.
    #[error("the connection closed before any byte of the answer")]
    Closed { sent: bool, reused: bool },
    /// Something came that is no answer, or the answer broke off within its head.
    #[error("no valid answer")]
    Invalid,
    /// No head of an answer in time. `by_caller`: it was the caller's time that ran out, not our limit.
    #[error("no answer in time")]
    TimedOut { sent: bool, by_caller: bool },
    /// The backend fell silent while its answer was awaited, and another one is there.
    #[error("the backend fell silent")]
    Silent { sent: bool },
    /// The request's own body failed.
    #[error("the body of the request failed: {0}")]
    Upload(UploadError),
    /// The client stopped sending.
    #[error("the client stopped sending")]
    UploadIdle,
}

impl AttemptError {
    /// Whether the backend can have acted on the request.
    pub(crate) fn may_have_acted(self) -> bool {
        match self {
            Self::Dial(_) => false,
            Self::Closed { sent, .. } | Self::TimedOut { sent, .. } | Self::Silent { sent } => sent,
            Self::Invalid | Self::Upload(_) | Self::UploadIdle => true,
        }
    }
}

impl AttemptError {
    /// The word used in metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Dial(DialError::Refused) => "refused",
            Self::Dial(_) => "no-connection",
            Self::Closed { .. } => "closed",
            Self::Invalid => "invalid",
            Self::TimedOut { .. } => "timed-out",
            Self::Silent { .. } => "silent",
            Self::Upload(_) | Self::UploadIdle => "client",
        }
    }
}

impl Upstream {
    pub(crate) fn new(label: &'static str, authority: Authority, limits: &BackendsSection) -> Arc<Self> {
        let pool = Pool::new(limits.idle_max, limits.idle);
        Arc::new(Self { label, authority, limits: limits.clone(), pool, in_flight: AtomicUsize::new(0) })
    }

    /// Requests in flight now.
    pub(crate) fn load(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether one more request may be sent here.
    pub(crate) fn has_room(&self) -> bool {
        self.load() < self.limits.in_flight_max
    }

    /// Unused connections now.
    pub(crate) fn idle_connections(&self) -> usize {
        self.pool.len()
    }

    /// Closes connections that were unused for too long.
    pub(crate) fn sweep(&self, now: Instant) {
        self.pool.sweep(now);
    }

    /// Closes every unused connection: the backend is away, or another one by now.
    pub(crate) fn forget_connections(&self) {
        self.pool.clear();
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// # Errors
    /// [`AttemptError`] says what happened and whether anything was sent.
    ///
    /// # Cancel safety
    /// Dropping it closes the connection, which tells the backend; nothing is given back to the pool.
    pub(crate) async fn exchange(
        self: &Arc<Self>,
        outgoing: Outgoing<'_>,
    ) -> Result<(Response<Incoming>, Lease), AttemptError> {
        let in_flight = InFlight::begin(self);
        let mut connection = self.connection(&outgoing).await?;
        let before = connection.tally();
        let body = outgoing.upload.for_attempt();
        let request = request(&outgoing, body);
        let (upload, reused) = (outgoing.upload, connection.is_reused());
        let sending = connection.send(request);
        let answer = self.await_head(sending, &outgoing).await;
        let moved = connection.tally().since(before);
        let sent = moved.written > 0;
        match answer {
            Ok(Ok(answer)) if !headers::framing_is_clear(answer.headers()) => Err(AttemptError::Invalid),
            Ok(Ok(answer)) => {
                let kept_there = headers::keep_alive(answer.headers());
                Ok((answer, Lease { connection, upload: Arc::clone(upload), in_flight, kept_there }))
            }
            Ok(Err(_)) if upload.failure().is_some() => {
                Err(AttemptError::Upload(upload.failure().unwrap_or(UploadError::ClientBroke)))
            }
            Ok(Err(_)) if moved.read == 0 => Err(AttemptError::Closed { sent, reused }),
            Ok(Err(_)) => Err(AttemptError::Invalid),
            Err(Overdue::Backend) => Err(AttemptError::TimedOut { sent, by_caller: false }),
            Err(Overdue::Caller) => Err(AttemptError::TimedOut { sent, by_caller: true }),
            Err(Overdue::Client | Overdue::ClientAtAll) => Err(AttemptError::UploadIdle),
            Err(Overdue::Silent) => Err(AttemptError::Silent { sent }),
        }
    }

    async fn connection(&self, outgoing: &Outgoing<'_>) -> Result<Connection, AttemptError> {
        while !outgoing.fresh
            && let Some(mut idle) = self.pool.take(Instant::now())
        {
            // Given back a moment ago, it may have a last word to read before it is free; closed, it says so at once.
            let limit = Instant::now() + self.limits.connect;
            if matches!(timeout_at(limit, idle.ready()).await, Ok(true)) {
                return Ok(idle);
            }
        }
        let now = Instant::now();
        let limit = now + self.limits.connect;
        let (until, by_caller) = match outgoing.deadline {
            Some(deadline) if deadline < limit => (deadline, true),
            _ => (limit, false),
        };
        match timeout_at(until, dial(&self.authority)).await {
            Ok(connection) => Ok(connection?),
            Err(_) if by_caller => Err(AttemptError::TimedOut { sent: false, by_caller: true }),
            Err(_) => Err(AttemptError::Dial(DialError::TimedOut)),
        }
    }

    /// Waits for `sending`. The limit for the head starts when the request has been sent, so that a slow upload does
    /// not count against the backend.
    async fn await_head<F: Future>(&self, sending: F, outgoing: &Outgoing<'_>) -> Result<F::Output, Overdue> {
        let mut sending = std::pin::pin!(sending);
        let mut silence = std::pin::pin!(async {
            match outgoing.give_up {
                Some(silence) => silence.notified().await,
                None => std::future::pending().await,
            }
        });
        let start = Instant::now();
        loop {
            let progress = outgoing.upload.progress();
            let moved_at = progress.moved_at.map_or(start, |moved| moved.max(start));
            let client_is_slow = !progress.ended && progress.waits_for_client;
            let (limit, why) = if client_is_slow {
                (moved_at + outgoing.body_idle, Overdue::Client)
            } else {
                (moved_at + self.limits.head, Overdue::Backend)
            };
            let (limit, why) = if !progress.ended && outgoing.body_deadline < limit {
                (outgoing.body_deadline, Overdue::ClientAtAll)
            } else {
                (limit, why)
            };
            let (limit, why) = match outgoing.deadline {
                Some(deadline) if deadline < limit => (deadline, Overdue::Caller),
                _ => (limit, why),
            };
            let answer = tokio::select! {
                biased;
                answer = timeout_at(limit, sending.as_mut()) => answer,
                () = silence.as_mut() => return Err(Overdue::Silent),
            };
            match answer {
                Ok(answer) => return Ok(answer),
                // While we slept something may have moved, which starts the limit anew.
                Err(_) if !why.is_final() && outgoing.upload.progress().differs(&progress) => {}
                Err(_) => return Err(why),
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overdue {
    Backend,
    Client,
    /// The client goes on sending, and has done so for too long.
    ClientAtAll,
    Caller,
    Silent,
}

impl Overdue {
    /// Whether something that moves makes no difference.
    fn is_final(self) -> bool {
        matches!(self, Self::Caller | Self::ClientAtAll)
    }
}

fn request(outgoing: &Outgoing<'_>, body: RequestBody) -> Request<RequestBody> {
    let mut request = Request::new(body);
    *request.method_mut() = outgoing.method.clone();
    *request.uri_mut() = outgoing.uri.clone();
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = outgoing.headers.clone();
    if let Some(interim) = outgoing.interim.cloned() {
        hyper::ext::on_informational(&mut request, move |hints| {
            let mut headers = hints.headers().clone();
            headers::strip_hop_by_hop(&mut headers);
            interim.send(hints.status(), &headers);
        });
    }
    request
}

impl InFlight {
    fn begin(upstream: &Arc<Upstream>) -> Self {
        upstream.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(upstream))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lease {
    /// The answer was read to its end: keeps the connection for the next request, if the request had ended too.
    pub(crate) fn give_back(self) {
        let Self { connection, upload, in_flight, kept_there } = self;
        if upload.progress().ended {
            in_flight.0.pool.put(connection, kept_there, Instant::now());
        }
    }

    /// The connection became something else: only the count of what is in flight goes on.
    pub(crate) fn into_in_flight(self) -> InFlight {
        self.in_flight
    }

    pub(crate) fn backend_label(&self) -> &'static str {
        self.in_flight.0.label
    }
}

/// Turns a failed connect into one of few words.
fn dial_error(error: &io::Error) -> DialError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => DialError::Refused,
        io::ErrorKind::TimedOut => DialError::TimedOut,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => DialError::Unroutable,
        _ => DialError::Failed,
    }
}
