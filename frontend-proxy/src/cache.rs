//! The cache of answers: what is kept, found and forgotten, and who asks for whom.
//!
//! The rules are in `policy`, pure; this is the place where they meet the store and the questions on their way. Which
//! rung of the ladder an answer stands on is decided in `ladder`.

mod answer;
mod dates;
mod directives;
pub(crate) mod fetch;
mod flight;
mod key;
mod policy;
mod pour;
mod store;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Response, header};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::time::Instant;

pub(crate) use self::{
    fetch::Flown,
    policy::{Failing, Moment, Use},
    store::Kept,
};
use self::{
    flight::Flights,
    key::Selecting,
    policy::{Question, Rules},
    store::Store,
};
use crate::{
    attempts::Forward,
    body::{Room, Source},
    config::CacheSection,
    ladder::Setback,
};

/// For how long requests for something that was not kept ask at once, each for itself.
const PASS_FOR: Duration = Duration::from_secs(60);
/// For how long nobody pushes at a backend that failed, where a kept answer can stand in.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// So many such resources are remembered.
const PASSES_MAX: usize = 16 * 1024;

/// A question the cache may answer.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) question: Question,
    name: Arc<str>,
}

/// Everything that is kept.
#[derive(Debug)]
pub(crate) struct Cache {
    store: Store,
    flights: Flights,
    /// What was not kept lately, and until when it is not waited for.
    passes: quick_cache::sync::Cache<Arc<str>, Instant>,
    /// How asking for a resource failed lately, and until when nobody asks again who has something to stand in.
    setbacks: quick_cache::sync::Cache<Arc<str>, (Instant, Setback)>,
    rules: Rules,
    object_bytes_max: usize,
    /// For answers on their way.
    room: Arc<Room>,
}

impl Moment {
    /// Now, on both clocks.
    pub(crate) fn now() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { instant: Instant::now(), unix: i64::try_from(unix).unwrap_or(i64::MAX) }
    }
}

impl Kept {
    /// The answer to a request, its conditions and ranges met.
    pub(crate) fn respond(&self, method: &Method, request: &HeaderMap, now: Moment) -> Response<Full<Bytes>> {
        answer::respond(self, method, request, now.instant, now.unix)
    }
}

impl Cache {
    pub(crate) fn new(section: &CacheSection) -> Self {
        Self {
            store: Store::new(section.bytes),
            flights: Flights::default(),
            passes: quick_cache::sync::Cache::new(PASSES_MAX),
            setbacks: quick_cache::sync::Cache::new(PASSES_MAX),
            rules: Rules {
                heuristic_max: if section.heuristics { section.heuristic_max } else { Duration::ZERO },
                stale_when_away: section.stale_when_away,
            },
            object_bytes_max: usize::try_from(section.object_bytes_max).unwrap_or(usize::MAX),
            room: Room::new(usize::try_from(section.bytes / 2).unwrap_or(usize::MAX)),
        }
    }

    /// The question a request is, where a cache can have a part in it.
    pub(crate) fn ask(&self, forward: &Forward) -> Option<Asked> {
        let has_body = !forward.upload.is_empty();
        if forward.upgrade.is_some() || has_body {
            return None;
        }
        let question = Question::of(&forward.method, &forward.headers)?;
        Some(Asked { question, name: key::primary(&forward.headers, &forward.uri).into() })
    }

    /// The kept answer that this client may have, whatever its age.
    pub(crate) fn find(&self, asked: &Asked, forward: &Forward) -> Option<Arc<Kept>> {
        let kept = self.store.find(&asked.name, &forward.headers)?;
        kept.terms.is_open_to(&asked.question).then_some(kept)
    }

    /// `kept`, where it may stand in for an answer that did not come because of `setback`.
    pub(crate) fn stand_in(
        &self,
        asked: &Asked,
        kept: Option<&Arc<Kept>>,
        setback: Setback,
        now: Instant,
    ) -> Option<Arc<Kept>> {
        let may =
            |kept: &&Arc<Kept>| kept.terms.may_stand_in(&asked.question, setback.failing(), &self.rules, now);
        kept.filter(may).cloned()
    }

    /// Takes note of the answer to a request that changes things: what it changed is forgotten (RFC 9111 4.4).
    pub(crate) fn heard_of<B>(&self, forward: &Forward, response: &Response<B>) {
        let is_safe = matches!(forward.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
        let went_well = response.status().is_success() || response.status().is_redirection();
        if is_safe || !went_well {
            return;
        }
        let (now, name) = (Instant::now(), key::primary(&forward.headers, &forward.uri));
        for field in [header::LOCATION, header::CONTENT_LOCATION] {
            let reference = response.headers().get(field).and_then(|value| value.to_str().ok());
            if let Some(other) = reference.and_then(|reference| key::same_origin(&name, reference)) {
                self.forget(&other, now);
            }
        }
        self.forget(&name, now);
    }

    fn forget(&self, name: &str, now: Instant) {
        self.store.forget(name, now);
        self.flights.forget(name);
    }

    /// What is kept, for `/debug/state`.
    pub(crate) fn describe(&self) -> Value {
        json!({
            "resources": self.store.len(),
            "bytes": self.store.bytes(),
            "bytes_on_their_way": self.room.used(),
            "questions_on_their_way": self.flights.count(),
            "clients_waiting": self.flights.waiting(),
        })
    }

    /// How asking failed a moment ago, where it did: asking again so soon would only push at what is broken.
    pub(crate) fn setback(&self, asked: &Asked, now: Instant) -> Option<Setback> {
        let (until, setback) = self.setbacks.get(&asked.name)?;
        (now < until).then_some(setback)
    }

    /// Remembers that asking failed. What a client's own hurry ended says nothing about the backend.
    fn note_setback(&self, asked: &Asked, setback: Setback, now: Instant) {
        if setback.is_the_callers() {
            return;
        }
        self.setbacks.insert(Arc::clone(&asked.name), (now + ASK_AGAIN_AFTER, setback));
    }

    /// Where an answer is poured from that may be kept.
    fn source(&self) -> Source {
        Source::new(self.object_bytes_max, &self.room)
    }

    fn passes(&self, asked: &Asked, now: Instant) -> bool {
        self.passes.get(&asked.name).is_some_and(|until| now < until)
    }

    /// The same resource selected by the same fields, as far as is known which those are.
    fn flight_key(&self, asked: &Asked, request: &HeaderMap) -> (Arc<str>, Selecting) {
        (Arc::clone(&asked.name), self.store.selecting(&asked.name, request))
    }
}
