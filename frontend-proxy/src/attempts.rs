//! The attempts for one request: whom to ask, when to ask again, and what came of it in the end.
//!
//! The rules are elsewhere: `backend` chooses, `retry` repeats, `upstream` carries. What is made of an answer, or of none,
//! is decided by `proxy` and `ladder`.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, Version};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use ridethrough::service::Interim;
use tokio::time::Instant;

use crate::{
    backend::{Choice, Excluded, NoBackend},
    body::{Download, ProxyBody, Upload, UploadError},
    fallback::{self, Failure},
    headers::{self, EXPECTED_TIMEOUT},
    ladder::{Answer, Rung},
    meters,
    proxy::Proxy,
    retry::{self, Nature, Next},
    target::Refusal,
    tunnel,
    upstream::{AttemptError, Lease, Outgoing},
};

/// The parts of a request that stay the same through all attempts.
pub(crate) struct Forward {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) upload: Arc<Upload>,
    pub(crate) nature: Nature,
    /// Whether it is a form whose fields a page could keep.
    pub(crate) is_form: bool,
    /// Set where the request asks to become a websocket.
    pub(crate) upgrade: Option<OnUpgrade>,
    pub(crate) began: Instant,
    /// The caller's own time, where it named one.
    pub(crate) deadline: Option<Instant>,
    /// Where interim answers go; none where the client takes none.
    pub(crate) interim: Option<Interim>,
}

/// Why the attempts ended without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Failed(Failure),
    Refused(Refusal),
}

/// An answer of a backend, its body still to come.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Lease,
    pub(crate) rung: Rung,
    pub(crate) backend: usize,
}

impl Forward {
    /// The same request without a body and without ties to its client: others may wait for its answer too.
    pub(crate) fn detached(&self) -> Self {
        Self {
            method: self.method.clone(),
            uri: self.uri.clone(),
            headers: self.headers.clone(),
            upload: Arc::clone(&self.upload),
            nature: self.nature,
            is_form: self.is_form,
            upgrade: None,
            began: self.began,
            deadline: None,
            interim: self.interim.clone(),
        }
    }
}

impl Proxy {
    /// Tries backends until one answers or the rules end it. The second part says whether any can have acted.
    pub(crate) async fn attempts(
        &self,
        forward: &mut Forward,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> (Result<Arrived, Ended>, bool) {
        self.budget.deposit(now);
        let mut avoid = Excluded::default();
        // An answer that may have to do, while a better one is looked for.
        let mut spare: Option<Arrived> = None;
        let mut last_error = None;
        let mut may_have_acted = false;
        let mut only_elsewhere = false;
        for attempt in 1..=retry::ATTEMPTS_MAX {
            let now = Instant::now();
            let choice = match self.backends.choose(avoid, now, random) {
                Ok(choice) if !(only_elsewhere && avoid.contains(choice.backend.index)) => choice,
                Ok(_) => break,
                Err(nobody) => {
                    last_error = last_error.or(Some(Failure::NoBackend(nobody)));
                    break;
                }
            };
            let index = choice.backend.index;
            let result = self.attempt(forward, choice, attempt > 1).await;
            avoid = avoid.with(index);
            let is_replayable = forward.upload.is_replayable();
            match result {
                Ok((response, lease)) => {
                    let rung = if attempt == 1 { Rung::Passed } else { Rung::Retried };
                    let again =
                        retry::after_answer(forward.nature, attempt, response.status(), is_replayable);
                    if again && self.may_repeat(forward) {
                        spare = Some(Arrived { response, lease, rung, backend: index });
                        only_elsewhere = true;
                        continue;
                    }
                    // True of the second attempt alone: the first may still be carried out where it went.
                    if may_have_acted && speaks_for_itself(&response) {
                        break;
                    }
                    return (Ok(Arrived { response, lease, rung, backend: index }), true);
                }
                Err(error) => {
                    may_have_acted |= error.may_have_acted();
                    last_error = Some(Failure::Attempt(error));
                    let next = retry::after_error(forward.nature, attempt, error, is_replayable);
                    if next == Next::GiveUp || spare.is_some() || !self.may_repeat(forward) {
                        break;
                    }
                    only_elsewhere = next == Next::Elsewhere;
                }
            }
        }
        if let Some(spare) = spare {
            return (Ok(spare), true);
        }
        let failure = last_error.unwrap_or(Failure::NoBackend(NoBackend::Away));
        (Err(refused_or_failed(failure)), may_have_acted)
    }

    /// Whether there is time and budget for another attempt; takes it out of the budget.
    fn may_repeat(&self, forward: &Forward) -> bool {
        let now = Instant::now();
        forward.deadline.is_none_or(|deadline| now < deadline) && self.budget.withdraw(now)
    }

    async fn attempt(
        &self,
        forward: &mut Forward,
        choice: Choice,
        fresh: bool,
    ) -> Result<(Response<Incoming>, Lease), AttemptError> {
        let now = Instant::now();
        let remaining = forward.deadline.map_or(self.config.backends.head, |deadline| {
            deadline.saturating_duration_since(now).min(self.config.backends.head)
        });
        let remaining = u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX).max(1);
        forward.headers.insert(EXPECTED_TIMEOUT, HeaderValue::from(remaining));
        // Only where another attempt is allowed and has somewhere to go is a wait cut short.
        let may_go_elsewhere = !fresh
            && (forward.nature.is_read || forward.nature.has_key)
            && self.backends.another_is_up(choice.backend.index);
        let outgoing = Outgoing {
            method: &forward.method,
            uri: &forward.uri,
            headers: &forward.headers,
            upload: &forward.upload,
            fresh,
            deadline: forward.deadline,
            body_idle: self.config.proxy.body_idle,
            body_deadline: forward.began + self.config.proxy.body_total,
            interim: forward.interim.as_ref(),
            give_up: may_go_elsewhere.then_some(&choice.backend.health.fell_silent),
        };
        let upstream = Arc::clone(&choice.backend.upstream);
        let mut result = upstream.exchange(outgoing).await;
        // Becoming something else is fine only where it was asked for.
        if matches!(&result, Ok((response, _)) if response.status() == StatusCode::SWITCHING_PROTOCOLS)
            && forward.upgrade.is_none()
        {
            result = Err(AttemptError::Invalid);
        }
        let error = result.as_ref().err().copied();
        meters::attempt(upstream.label, error.map_or("answered", AttemptError::word));
        choice.record(error, Instant::now());
        result
    }

    /// Hands an answer of a backend on as it comes.
    pub(crate) fn pass(&self, forward: &mut Forward, arrived: Arrived) -> Answer {
        let Arrived { mut response, lease, rung, backend } = arrived;
        let upgraded = (response.status() == StatusCode::SWITCHING_PROTOCOLS)
            .then(|| forward.upgrade.take())
            .flatten()
            .map(|client| (client, hyper::upgrade::on(&mut response)));
        headers::prepare_response(response.headers_mut(), upgraded.is_some());
        *response.version_mut() = Version::HTTP_11;
        let (mut parts, body) = response.into_parts();
        parts.extensions.clear();
        let response = match upgraded {
            Some((client, upstream)) => {
                let guard = (lease.into_in_flight(), self.tunnels.begin());
                tokio::spawn(tunnel::run(client, upstream, self.config.backends.tunnel_idle, guard));
                Response::from_parts(parts, ProxyBody::empty())
            }
            None => {
                let body = Download::new(body, lease, self.config.backends.body_idle, forward.deadline);
                Response::from_parts(parts, ProxyBody::Passed { body })
            }
        };
        Answer { response, rung, backend: Some(backend), cache: None, trouble: None }
    }
}

/// Whether a backend says that it did nothing because it could not: nothing that it looked up for this write.
fn speaks_for_itself(response: &Response<Incoming>) -> bool {
    let status = response.status();
    (status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS)
        && response.headers().get(fallback::OUTCOME).is_some_and(|outcome| outcome == "rejected")
}

/// A failed attempt that was the client's doing is no outage.
fn refused_or_failed(failure: Failure) -> Ended {
    match failure {
        Failure::Attempt(AttemptError::Upload(UploadError::TooLarge)) => {
            Ended::Refused(Refusal::BodyTooLarge)
        }
        Failure::Attempt(AttemptError::Upload(_)) => Ended::Refused(Refusal::BodyBroken),
        Failure::Attempt(AttemptError::UploadIdle) => Ended::Refused(Refusal::BodyTooSlow),
        failure => Ended::Failed(failure),
    }
}
