//! Answers made here: what is said when no backend answers, and when a request is refused.
//!
//! One description of what went wrong, rendered for whoever asks: a page for people, and for programs what each can
//! read. Of the request an answer has its id, the id of its last event, and what was typed into its form; of the
//! backends nothing. No request is made for it, so no credential goes anywhere.

mod described;
mod kept;
mod kind;
mod language;
mod machine;
mod page;
mod slots;
mod status;
mod templates;
mod texts;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use http_body_util::Full;
use ridethrough::http::retry_after_seconds;
use tokio::time::Instant;

pub(crate) use self::{
    described::error_token,
    kept::{Form, give_key},
    kind::Kind,
    templates::TemplateProblem,
};
use self::{
    described::{Described, describe},
    language::Language,
    page::{Content, Pages, Recovery},
    slots::{Slots, Waiter},
};
use crate::{
    backend::NoBackend,
    config::FallbackSection,
    headers::X_REQUEST_ID,
    retry::Nature,
    target::{self, Refusal},
    upstream::AttemptError,
};

/// The field that says what became of a write.
pub(crate) const OUTCOME: &str = "ridethrough-outcome";
const PROXY_STATUS: &str = "proxy-status";
/// What decides about the form of an answer.
const VARY: &str = "Accept, Accept-Language, Sec-Fetch-Dest";

/// Why there is no answer of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No backend may be asked.
    NoBackend(NoBackend),
    /// An attempt failed, and it was the last.
    Attempt(AttemptError),
}

/// How it stands with the backends, where none can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// Until one is worth asking again.
    pub(crate) next_chance: Duration,
    /// Since none is there.
    pub(crate) down_for: Duration,
}

/// What went wrong, on whichever side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// No backend answered; asking again after this is worth while.
    Failed(Failure, Duration),
    /// The request itself.
    Refused(Refusal),
}

/// What became of a write, as far as the proxy can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It never left: nothing was stored.
    Rejected,
    /// It left, and nobody said what became of it.
    Unknown,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Unknown => "unknown",
        }
    }
}

/// Makes the answers.
#[derive(Debug)]
pub(crate) struct Fallback {
    pages: Pages,
    slots: Slots,
    status_path: String,
}

/// The request, as far as the answer depends on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) nature: Nature,
    /// Whether a backend can have acted on it.
    pub(crate) may_have_acted: bool,
    /// What was typed, where it is a form and could be read.
    pub(crate) form: Option<&'a Form>,
}

impl Asked<'_> {
    fn outcome(&self) -> Option<Outcome> {
        let outcome = if self.may_have_acted { Outcome::Unknown } else { Outcome::Rejected };
        self.nature.is_write.then_some(outcome)
    }
}

impl Fallback {
    pub(crate) fn new(section: &FallbackSection, now: Instant) -> Self {
        Self {
            pages: Pages::new(&section.route),
            slots: Slots::new(section.asks_per_second, now),
            status_path: section.status_path.clone(),
        }
    }

    /// Reads the operator's pages again; the ones there were stay where one cannot be used.
    ///
    /// # Errors
    /// [`TemplateProblem`] names the file and the line.
    pub(crate) fn reload(&self, section: &FallbackSection) -> Result<(), TemplateProblem> {
        self.pages.reload(&section.route)
    }

    /// How long somebody should wait who asks for the first time.
    pub(crate) fn wait(&self, outlook: Outlook, now: Instant, random: &mut fastrand::Rng) -> Duration {
        let waiter = Waiter { token: random.u64(..), round: 0 };
        self.slots.give(waiter, outlook.next_chance, outlook.down_for, now)
    }

    /// The answer to a page that asks whether the service is back, if that is what `uri` asks. `outlook` is `None`
    /// where a backend is there.
    pub(crate) fn status(
        &self,
        method: &Method,
        uri: &Uri,
        now: Instant,
        outlook: impl FnOnce() -> Option<Outlook>,
    ) -> Option<Response<Full<Bytes>>> {
        if uri.path() != self.status_path {
            return None;
        }
        let wait = outlook().map(|outlook| {
            let waiter = status::waiter(uri.query(), &mut fastrand::Rng::new());
            self.slots.give(waiter, outlook.next_chance, outlook.down_for, now)
        });
        Some(without_body_for_head(status::answer(method, wait), method))
    }

    /// The answer to a request that brought `trouble`.
    pub(crate) fn answer(
        &self,
        trouble: Trouble,
        asked: &Asked<'_>,
        random: &mut fastrand::Rng,
    ) -> Response<Full<Bytes>> {
        let described = describe(trouble);
        let outcome = asked.outcome();
        let mut response = match Kind::of(asked.method, asked.headers) {
            Kind::Page => self.page(trouble, &described, asked, random),
            kind => machine::answer(kind, trouble, &described, outcome, asked.headers),
        };
        let headers = response.headers_mut();
        headers.insert(PROXY_STATUS, proxy_status(described.error));
        headers.insert(header::VARY, HeaderValue::from_static(VARY));
        if let Some(outcome) = outcome {
            headers.insert(OUTCOME, HeaderValue::from_static(outcome.as_str()));
        }
        if described.closes {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if described.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(
                header::ALLOW,
                HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            );
        }
        without_body_for_head(response, asked.method)
    }

    fn page(
        &self,
        trouble: Trouble,
        described: &Described,
        asked: &Asked<'_>,
        random: &mut fastrand::Rng,
    ) -> Response<Full<Bytes>> {
        let language = Language::of(asked.headers);
        let wait = match trouble {
            Trouble::Failed(_, wait) => Some(wait),
            Trouble::Refused(_) => None,
        };
        let recovery = wait.map(|wait| Recovery {
            status_path: &self.status_path,
            token: random.u64(..),
            wait,
            // Only a page that was merely looked at may be asked for again without asking the person.
            reloads: asked.nature.is_read,
        });
        let rendered = self.pages.render(&Content {
            language,
            trouble,
            status: described.status,
            path: &target::normalised(asked.uri.path()),
            outcome: asked.outcome(),
            has_key: asked.nature.has_key,
            form: asked.form,
            action: &kept::action(asked.uri, asked.headers),
            recovery,
            request_id: asked.headers.get(X_REQUEST_ID).and_then(|id| id.to_str().ok()),
        });
        let mut response = Response::new(Full::new(Bytes::from(rendered.html)));
        *response.status_mut() = described.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(header::CONTENT_LANGUAGE, HeaderValue::from_static(language.tag()));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(rendered.policy));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        // `no-referrer` would have the form that is sent again come from nowhere (`Origin: null`), and be refused as
        // another site's.
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
        if let Some(wait) = wait {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after_seconds(wait)));
        }
        response
    }
}

/// Whether the operator's pages can be used; nothing is kept of them.
///
/// # Errors
/// [`TemplateProblem`] names the file and the line.
pub(crate) fn check(section: &FallbackSection) -> Result<(), TemplateProblem> {
    Pages::new(&[]).reload(&section.route)
}

fn proxy_status(error: &'static str) -> HeaderValue {
    let text = format!("ridethrough-proxy; error={error}");
    HeaderValue::from_str(&text).expect("tokens are visible characters")
}

/// An answer to HEAD has the fields of the answer to GET, its length included, and no body.
fn without_body_for_head(mut response: Response<Full<Bytes>>, method: &Method) -> Response<Full<Bytes>> {
    use http_body::Body as _;
    if *method == Method::HEAD {
        let length = response.body().size_hint().exact().unwrap_or_default();
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        *response.body_mut() = Full::default();
    }
    response
}

#[cfg(test)]
mod tests;
