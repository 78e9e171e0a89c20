//! The ladder: where an answer to one request comes from, decided once, best rung first.
//!
//! A kept answer that is fresh; one that a backend confirmed; a stale one while a new one is fetched; a new one; a stale
//! one because there is none; and below all that the fallback, which is `proxy`'s. Each answer says on which rung it
//! stands: in `Cache-Status` (RFC 9211), `Proxy-Status` (RFC 9209), the access log and the metrics.

use std::{fmt, sync::Arc};

use http::{HeaderName, HeaderValue, Response};
use tokio::time::Instant;

use crate::{
    attempts::{Ended, Forward},
    backend::NoBackend,
    body::ProxyBody,
    cache::{Asked, Cache, Failing, Flown, Kept, Moment, Use, fetch::Wait},
    fallback::{self, Failure},
    proxy::Proxy,
    target::Refusal,
    upstream::AttemptError,
};

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const FRESHNESS: HeaderName = HeaderName::from_static("ridethrough-freshness");
const NAME: &str = "ridethrough-proxy";
/// How often a request looks again after waiting for somebody else's answer in vain. Then it asks for itself.
const LOOKS_MAX: u32 = 2;

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rung {
    /// Kept, within its lifetime.
    Fresh,
    /// Kept, and a backend has just said that it still holds.
    Revalidated,
    /// Kept and past its lifetime, while a new one is fetched beside.
    StaleWhileRevalidate,
    /// Kept and past its lifetime, because no backend gave a good one.
    StaleIfError,
    /// Kept and past its lifetime, which this client takes.
    MaxStale,
    /// From a backend, at the first attempt.
    Passed,
    /// From a backend, at a later attempt.
    Retried,
    /// Made here because no backend answered.
    Fallback,
    /// Made here because the backends have as much to do as they can take.
    Shed,
    /// Made here because of what the request was.
    Refused,
}

/// An answer and how it came about.
pub(crate) struct Answer {
    pub(crate) response: Response<ProxyBody>,
    pub(crate) rung: Rung,
    pub(crate) backend: Option<usize>,
    /// The cache's part in it; none where it had none.
    pub(crate) cache: Option<CacheNote>,
    /// What went wrong on the way to an answer that is good all the same.
    pub(crate) trouble: Option<Setback>,
}

/// Why a kept answer stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setback {
    Failed(Failure),
    /// The status of the answer that was not passed on.
    Erred(u16),
}

/// Why the request went on to a backend (RFC 9211 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Went {
    /// Nothing is kept.
    Miss,
    /// What is kept must be asked about.
    Stale,
    /// The client wants it asked about.
    Request,
}

/// The cache's part in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CacheNote {
    /// None where nothing was asked of a backend.
    pub(crate) went: Option<Went>,
    pub(crate) status: Option<u16>,
    /// Seconds of lifetime left.
    pub(crate) ttl: Option<i64>,
    pub(crate) stored: bool,
    /// Somebody else's request brought it.
    pub(crate) collapsed: bool,
}

impl Rung {
    pub(crate) const ALL: [Self; 10] = [
        Self::Fresh,
        Self::Revalidated,
        Self::StaleWhileRevalidate,
        Self::StaleIfError,
        Self::MaxStale,
        Self::Passed,
        Self::Retried,
        Self::Fallback,
        Self::Shed,
        Self::Refused,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Revalidated => "revalidated",
            Self::StaleWhileRevalidate => "stale-while-revalidate",
            Self::StaleIfError => "stale-if-error",
            Self::MaxStale => "max-stale",
            Self::Passed => "passed",
            Self::Retried => "retried",
            Self::Fallback => "fallback",
            Self::Shed => "shed",
            Self::Refused => "refused",
        }
    }

    /// Whether a kept answer is shown that is past its lifetime.
    fn is_stale(self) -> bool {
        matches!(self, Self::StaleWhileRevalidate | Self::StaleIfError | Self::MaxStale)
    }
}

impl Setback {
    /// What it means for a kept answer: that nobody is there frees more of them than an error, or a client in a hurry.
    pub(crate) fn failing(self) -> Failing {
        match self {
            Self::Failed(_) if !self.is_the_callers() => Failing::Away,
            Self::Failed(_) | Self::Erred(_) => Failing::Erring,
        }
    }

    /// Whether it was the caller's time that ran out.
    pub(crate) fn is_the_callers(self) -> bool {
        matches!(self, Self::Failed(Failure::Attempt(AttemptError::TimedOut { by_caller: true, .. })))
    }
}

impl fmt::Display for CacheNote {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.went {
            None => formatter.write_str("hit")?,
            Some(Went::Miss) => formatter.write_str("fwd=miss")?,
            Some(Went::Stale) => formatter.write_str("fwd=stale")?,
            Some(Went::Request) => formatter.write_str("fwd=request")?,
        }
        if let Some(status) = self.status {
            write!(formatter, "; fwd-status={status}")?;
        }
        if let Some(ttl) = self.ttl {
            write!(formatter, "; ttl={ttl}")?;
        }
        if self.stored {
            formatter.write_str("; stored")?;
        }
        if self.collapsed {
            formatter.write_str("; collapsed")?;
        }
        Ok(())
    }
}

impl Answer {
    /// Writes into the answer where it came from. What caches before us wrote stays in front.
    pub(crate) fn label(&mut self) {
        let headers = self.response.headers_mut();
        if let Some(note) = &self.cache {
            let detail = if self.rung.is_stale() { "; detail=" } else { "" };
            let word = if self.rung.is_stale() { self.rung.as_str() } else { "" };
            headers.append(CACHE_STATUS, visible(format!("{NAME}; {note}{detail}{word}")));
        }
        let setback = match self.trouble {
            None => return,
            Some(Setback::Failed(failure)) => format!("{NAME}; error={}", fallback::error_token(failure)),
            Some(Setback::Erred(status)) => format!("{NAME}; received-status={status}"),
        };
        headers.append(PROXY_STATUS, visible(setback));
    }
}

fn visible(text: String) -> HeaderValue {
    HeaderValue::from_str(&text).expect("words and digits are visible characters")
}

impl Proxy {
    /// The answer to one request from the highest rung that holds. The second part says whether a backend can have acted
    /// on it.
    ///
    /// # Cancel safety
    /// Dropped when the client goes away. An attempt that others wait for too, or that fills the cache, goes on.
    pub(crate) async fn climb(
        self: &Arc<Self>,
        forward: &mut Forward,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> (Result<Answer, Ended>, bool) {
        let Some((cache, asked)) = self.cache.as_ref().and_then(|cache| Some((cache, cache.ask(forward)?)))
        else {
            let (ended, may_have_acted) = self.attempts(forward, now, random).await;
            if let (Ok(arrived), Some(cache)) = (&ended, &self.cache) {
                cache.heard_of(forward, &arrived.response);
            }
            return (ended.map(|arrived| self.pass(forward, arrived)), may_have_acted);
        };
        for look in 0..=LOOKS_MAX {
            let now = Moment::now();
            let kept = cache.find(&asked, forward);
            if let Some(kept) = &kept
                && let Some((rung, setback)) = self.rung_of(cache, &asked, kept, forward, now)
            {
                return (Ok(kept_answer(kept, forward, rung, None, setback, now)), false);
            }
            if asked.question.control.only_if_cached {
                return (Err(Ended::Refused(Refusal::OnlyIfCached)), false);
            }
            let wait = if look < LOOKS_MAX { Wait::ForOthers } else { Wait::ForNobody };
            match self.fetch(cache, &asked, kept.as_ref(), forward, wait).await {
                Flown::Again => {}
                Flown::Answered(answer) => return (Ok(*answer), true),
                Flown::Ended(ended, may_have_acted) => return (Err(ended), may_have_acted),
                Flown::Setback(kept, went, setback) => {
                    let answer = kept_answer(
                        &kept,
                        forward,
                        Rung::StaleIfError,
                        Some(went),
                        Some(setback),
                        Moment::now(),
                    );
                    return (Ok(answer), false);
                }
            }
        }
        let (ended, may_have_acted) = self.attempts(forward, now, random).await;
        (ended.map(|arrived| self.pass(forward, arrived)), may_have_acted)
    }

    /// The rung on which a kept answer can be served without asking; starts the asking beside, where that is due.
    fn rung_of(
        self: &Arc<Self>,
        cache: &Cache,
        asked: &Asked,
        kept: &Arc<Kept>,
        forward: &Forward,
        now: Moment,
    ) -> Option<(Rung, Option<Setback>)> {
        let used = kept.terms.judge(&asked.question, now.instant);
        match used {
            Use::Fresh => return Some((Rung::Fresh, None)),
            Use::StaleAsWished => return Some((Rung::MaxStale, None)),
            Use::StaleWhileRevalidate | Use::Ask => {}
        }
        // The checks know that nobody is there, and will know when somebody is; and who has just failed is not asked
        // again at once. No request has to find that out, and none pushes at what is broken.
        let setback = match cache.setback(asked, now.instant) {
            None if !self.backends.any_up(now.instant) => {
                Some(Setback::Failed(Failure::NoBackend(NoBackend::Away)))
            }
            setback => setback,
        };
        if used == Use::StaleWhileRevalidate {
            if setback.is_none() {
                self.refresh(asked, kept, forward);
            }
            return Some((Rung::StaleWhileRevalidate, setback));
        }
        cache.stand_in(asked, Some(kept), setback?, now.instant).map(|_| (Rung::StaleIfError, setback))
    }
}

/// A kept answer as the answer to this request.
pub(crate) fn kept_answer(
    kept: &Kept,
    forward: &Forward,
    rung: Rung,
    went: Option<Went>,
    setback: Option<Setback>,
    now: Moment,
) -> Answer {
    let status = match setback {
        Some(Setback::Erred(status)) => Some(status),
        _ => (rung == Rung::Revalidated).then_some(304),
    };
    let went = went.filter(|_| status.is_some());
    let note = CacheNote {
        went,
        status: status.filter(|_| went.is_some()),
        ttl: Some(kept.terms.ttl(now.instant)),
        ..CacheNote::default()
    };
    let mut response = kept.respond(&forward.method, &forward.headers, now).map(ProxyBody::from);
    // What a backend of ours said of itself was true when it said it.
    if rung.is_stale() && response.headers().contains_key(FRESHNESS) {
        let age = kept.terms.age(now.instant).as_secs();
        let stale = visible(format!("stale; age={age}; reason=service-away"));
        response.headers_mut().insert(FRESHNESS, stale);
    }
    Answer { response, rung, backend: None, cache: Some(note), trouble: setback }
}
