//! The rules of a shared cache: RFC 9111, 5861 and 9213. Pure: what was asked, what was answered and `now` go in.
//!
//! [`admit`] says whether an answer may be kept and on which [`Terms`]; the terms say how it may be used. What is kept,
//! and who is asked, is decided elsewhere.

use std::time::Duration;

use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use tokio::time::Instant;

use super::{
    dates::{self, Unix},
    directives::{AnswerControl, RequestControl},
    key::Vary,
};

/// One moment on both clocks: by the first time passes, by the second dates in fields are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) instant: Instant,
    pub(crate) unix: Unix,
}

/// The request, as far as the rules look at it.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) is_head: bool,
    pub(crate) control: RequestControl,
    pub(crate) has_authorization: bool,
    pub(crate) has_cookie: bool,
    /// It wants an answer under a condition, or a part of one: what comes may be no whole answer.
    pub(crate) is_partial: bool,
}

/// What an operator may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Longest lifetime made up from `Last-Modified`; zero where none is made up.
    pub(crate) heuristic_max: Duration,
    /// How long after its lifetime an answer that does not say so itself may stand in while nobody answers.
    pub(crate) stale_when_away: Duration,
}

/// Why an answer is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotKept {
    /// HEAD, a part, an interim answer, or framing that does not tell a whole from a half.
    NotWhole,
    /// `no-store`, on either side.
    NoStore,
    /// For one user: `private`, `Set-Cookie`, or asked for with credentials and not marked for everybody.
    Private,
    /// `Vary: *`, or fields that cannot be read.
    Varies,
    /// Nothing says that it could ever be used.
    Useless,
}

/// How an answer may be used, worked out once when it came.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Terms {
    received: Instant,
    /// How old it was then.
    initial_age: Duration,
    lifetime: Duration,
    /// The origin named the lifetime.
    is_explicit: bool,
    /// Everybody may have it, whoever asked for it first.
    is_for_everyone: bool,
    /// Also who shows credentials may have it.
    is_for_known: bool,
    /// Never without asking.
    asks_first: bool,
    /// Never after its lifetime.
    never_stale: bool,
    while_revalidate: Duration,
    if_error: Duration,
}

/// What to do with a kept answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Serve it: its lifetime goes on.
    Fresh,
    /// Serve it: this client takes stale answers.
    StaleAsWished,
    /// Serve it, and ask anew beside.
    StaleWhileRevalidate,
    /// Ask before anything is served.
    Ask,
}

/// How asking failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failing {
    /// There is no answer at all.
    Away,
    /// The answer was an error of the server.
    Erring,
}

/// Statuses that an error of the server may have for an older answer to stand in (RFC 5861 4).
pub(crate) fn is_failing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

impl Question {
    /// The question a request is, where a cache can have a part in it: a read without a body of its own.
    pub(crate) fn of(method: &Method, headers: &HeaderMap) -> Option<Self> {
        const NOT_OURS: [HeaderName; 2] = [header::IF_MATCH, header::IF_UNMODIFIED_SINCE];
        const PARTIAL: [HeaderName; 4] =
            [header::RANGE, header::IF_RANGE, header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE];
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        if !is_read || NOT_OURS.iter().any(|name| headers.contains_key(name)) {
            return None;
        }
        Some(Self {
            is_head: *method == Method::HEAD,
            control: RequestControl::of(headers),
            has_authorization: headers.contains_key(header::AUTHORIZATION),
            has_cookie: headers.contains_key(header::COOKIE),
            is_partial: PARTIAL.iter().any(|name| headers.contains_key(name)),
        })
    }

    /// Whether it says who asks.
    pub(crate) fn has_credentials(&self) -> bool {
        self.has_authorization || self.has_cookie
    }

    /// Whether the answer to it could be the answer to somebody else's question.
    pub(crate) fn may_be_shared(&self) -> bool {
        !(self.is_head
            || self.has_authorization
            || self.has_cookie
            || self.is_partial
            || self.control.no_store
            || self.control.only_if_cached)
    }
}

/// Whether the answer to `question`, asked at `asked` with its head here at `received`, may be kept, and how it may be
/// used then. `headers` are the answer's as they came.
///
/// # Errors
/// [`NotKept`] names the first rule against it.
pub(crate) fn admit(
    question: &Question,
    (status, headers): (StatusCode, &HeaderMap),
    asked: Instant,
    received: Moment,
    rules: &Rules,
) -> Result<Terms, NotKept> {
    let control = AnswerControl::of(headers);
    if question.is_head || !is_whole(status, headers) {
        return Err(NotKept::NotWhole);
    }
    let understood = control.must_understand && is_understood(status);
    if question.control.no_store || (control.no_store && !understood) {
        return Err(NotKept::NoStore);
    }
    let for_everyone = control.public || control.s_maxage.is_some() || control.is_targeted;
    let despite_credentials = for_everyone || control.must_revalidate;
    let sets_cookie =
        headers.contains_key(header::SET_COOKIE) && !control.withheld.contains(&header::SET_COOKIE);
    if control.private
        || sets_cookie
        || (question.has_authorization && !despite_credentials)
        || (question.has_cookie && !for_everyone)
    {
        return Err(NotKept::Private);
    }
    if Vary::of(headers) == Vary::Everything {
        return Err(NotKept::Varies);
    }
    let terms = Terms::of(&control, (status, headers), asked, received, rules);
    if terms.is_of_use(headers) { Ok(terms) } else { Err(NotKept::Useless) }
}

/// Whether all of it is there, and its end can be told from a connection that broke.
fn is_whole(status: StatusCode, headers: &HeaderMap) -> bool {
    let has_no_body = status == StatusCode::NO_CONTENT;
    let is_framed = has_no_body
        || headers.contains_key(header::CONTENT_LENGTH)
        || headers.contains_key(header::TRANSFER_ENCODING);
    let is_final = !status.is_informational() && status.as_u16() >= 200;
    is_final
        && is_framed
        && status != StatusCode::PARTIAL_CONTENT
        && status != StatusCode::NOT_MODIFIED
        && !headers.contains_key(header::TRAILER)
}

/// Statuses whose rules for caches are all followed here.
fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 203
            | 204
            | 300
            | 301
            | 302
            | 303
            | 307
            | 308
            | 400
            | 403
            | 404
            | 405
            | 410
            | 414
            | 421
            | 451
            | 500
            | 501
            | 502
            | 503
            | 504
    )
}

/// Statuses that may be kept although nothing names a lifetime (RFC 9110 15.1).
fn is_heuristic(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// The value of a field that must be there once.
fn single(headers: &HeaderMap, name: HeaderName) -> Option<&[u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first.as_bytes())
}

fn date(headers: &HeaderMap, name: HeaderName, now: Unix) -> Option<Unix> {
    dates::parse(single(headers, name)?, now)
}

/// Seconds from the earlier to the later; none where they stand the other way round.
fn between(earlier: Unix, later: Unix) -> Duration {
    Duration::from_secs(u64::try_from(later.saturating_sub(earlier)).unwrap_or(0))
}

/// The first value of `Age`, where it is a number; what it is not says nothing.
fn stated_age(headers: &HeaderMap) -> Duration {
    let first = headers.get(header::AGE).and_then(|value| value.to_str().ok());
    let digits = first.and_then(|text| text.split(',').next()).map(str::trim).unwrap_or_default();
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = if is_number { digits.parse().unwrap_or(u64::MAX) } else { 0 };
    Duration::from_secs(seconds.min(super::directives::SECONDS_MAX))
}

impl Terms {
    fn of(
        control: &AnswerControl,
        (status, headers): (StatusCode, &HeaderMap),
        asked: Instant,
        received: Moment,
        rules: &Rules,
    ) -> Self {
        let date_sent = date(headers, header::DATE, received.unix).unwrap_or(received.unix);
        let apparent = between(date_sent, received.unix);
        let delay = received.instant.saturating_duration_since(asked);
        let explicit = explicit_lifetime(control, headers, date_sent, received.unix);
        let lifetime = explicit.unwrap_or_else(|| {
            let may = is_heuristic(status) || control.public;
            let modified = date(headers, header::LAST_MODIFIED, received.unix).filter(|_| may);
            modified.map_or(Duration::ZERO, |at| (between(at, date_sent) / 10).min(rules.heuristic_max))
        });
        let seconds = |value: Option<u64>| Duration::from_secs(value.unwrap_or(0));
        let is_for_everyone = control.public || control.s_maxage.is_some() || control.is_targeted;
        Self {
            received: received.instant,
            initial_age: apparent.max(stated_age(headers) + delay),
            lifetime,
            is_explicit: explicit.is_some(),
            is_for_everyone,
            is_for_known: is_for_everyone || control.must_revalidate,
            asks_first: control.no_cache,
            never_stale: control.must_revalidate || control.proxy_revalidate || control.s_maxage.is_some(),
            while_revalidate: seconds(control.stale_while_revalidate),
            if_error: seconds(control.stale_if_error),
        }
    }

    /// Whether it can ever be served or confirmed.
    fn is_of_use(&self, headers: &HeaderMap) -> bool {
        let can_be_confirmed =
            headers.contains_key(header::ETAG) || headers.contains_key(header::LAST_MODIFIED);
        let is_ever_fresh = self.lifetime > self.initial_age && !self.asks_first;
        is_ever_fresh
            || can_be_confirmed
            || (self.if_error > Duration::ZERO && !self.never_stale)
            || (self.is_explicit && self.lifetime > Duration::ZERO && !self.asks_first)
    }

    /// How old the answer is at `now`.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        self.initial_age + now.saturating_duration_since(self.received)
    }

    /// What is left of its lifetime at `now`, in seconds; negative where it is over.
    pub(crate) fn ttl(&self, now: Instant) -> i64 {
        let whole = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        whole(self.lifetime).saturating_sub(whole(self.age(now)))
    }

    /// Whether this client may have it at all. Who shows who they are gets only what was marked for everybody, or at
    /// the least was given a lifetime by the origin.
    pub(crate) fn is_open_to(&self, question: &Question) -> bool {
        (!question.has_authorization || self.is_for_known) && (!question.has_cookie || self.is_explicit)
    }

    /// What to do with it at `now`.
    pub(crate) fn judge(&self, question: &Question, now: Instant) -> Use {
        let (control, age) = (&question.control, self.age(now));
        let seconds = Duration::from_secs;
        let is_young_enough = control.max_age.is_none_or(|limit| age <= seconds(limit));
        if self.asks_first || control.no_cache || control.no_store || !is_young_enough {
            return Use::Ask;
        }
        let margin = seconds(control.min_fresh.unwrap_or(0));
        if self.lifetime > age {
            return if self.lifetime >= age + margin { Use::Fresh } else { Use::Ask };
        }
        let stale_for = age - self.lifetime;
        if self.never_stale || control.min_fresh.is_some() {
            Use::Ask
        } else if stale_for < self.while_revalidate {
            Use::StaleWhileRevalidate
        } else if control.max_stale.is_some_and(|limit| stale_for <= seconds(limit)) {
            Use::StaleAsWished
        } else {
            Use::Ask
        }
    }

    /// Whether it may stand in at `now` for an answer that did not come. What a request asks of freshness is a wish; an
    /// old answer serves people better than none.
    pub(crate) fn may_stand_in(
        &self,
        question: &Question,
        failing: Failing,
        rules: &Rules,
        now: Instant,
    ) -> bool {
        let age = self.age(now);
        if self.asks_first {
            return false;
        }
        if self.lifetime > age {
            return true;
        }
        let wished = Duration::from_secs(question.control.stale_if_error.unwrap_or(0));
        let default = match failing {
            Failing::Away => rules.stale_when_away,
            Failing::Erring => Duration::ZERO,
        };
        !self.never_stale && age - self.lifetime < self.if_error.max(wished).max(default)
    }
}

/// The lifetime that the origin named, whatever it is.
fn explicit_lifetime(
    control: &AnswerControl,
    headers: &HeaderMap,
    date_sent: Unix,
    now: Unix,
) -> Option<Duration> {
    if let Some(seconds) = control.s_maxage.or(control.max_age) {
        return Some(Duration::from_secs(seconds));
    }
    let names_expiry = headers.contains_key(header::EXPIRES) && !control.is_targeted;
    names_expiry.then(|| {
        let expires = date(headers, header::EXPIRES, now);
        expires.map_or(Duration::ZERO, |at| between(date_sent, at))
    })
}

#[cfg(test)]
mod tests;
