//! One request from top to bottom. START HERE.
//!
//! Probes, then the gate, then up to three attempts at backends, then a fallback. The decisions themselves are made
//! elsewhere: `target` lets in, `backend` chooses, `retry` repeats, `fallback` speaks.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use ridethrough::{
    budget::RetryBudget,
    drain::InFlight,
    http::Probes,
    service::{Encrypted, Peer},
};
use tokio::time::Instant;

use crate::{
    access::Line,
    backend::{Backends, Choice, Excluded, NoBackend},
    body::{Download, KeptBytes, ProxyBody, Upload, UploadError},
    config::{Authority, Config, FallbackSection},
    fallback::{self, Asked, Failure, Fallback, Form, Kind, Outlook, TemplateProblem, Trouble},
    headers::{self, EXPECTED_TIMEOUT, Identity, Onward, TRACEPARENT, Trusted, X_REQUEST_ID},
    meters::{self, Meters, Rung, method_label},
    retry::{self, Nature, Next},
    target::{Gate, Refusal},
    tunnel,
    upstream::{AttemptError, Lease, Outgoing},
};

/// A caller that names a longer time than this names none.
const EXPECTED_TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

/// Everything a request meets on its way. Shared by all connections.
#[derive(Debug)]
pub(crate) struct Proxy {
    config: Config,
    gate: Gate,
    trusted: Trusted,
    /// Our line in `Via`, for requests that came over HTTP/1.1 and over HTTP/2.
    via: (HeaderValue, HeaderValue),
    pub(crate) backends: Backends,
    budget: RetryBudget,
    /// What all requests together keep for second attempts.
    kept_bytes: Arc<KeptBytes>,
    fallback: Fallback,
    probes: Probes,
    meters: Meters,
    /// Upgraded connections, which outlive their request.
    pub(crate) tunnels: InFlight,
}

/// An answer and how it came about.
struct Answer {
    response: Response<ProxyBody>,
    rung: Rung,
    backend: Option<usize>,
}

/// The parts of a request that stay the same through all attempts.
struct Forward {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    upload: Arc<Upload>,
    nature: Nature,
    /// Whether it is a form whose fields a page could keep.
    is_form: bool,
    /// Set where the request asks to become a websocket.
    upgrade: Option<OnUpgrade>,
    began: Instant,
    /// The caller's own time, where it named one.
    deadline: Option<Instant>,
}

/// Why the attempts ended without an answer.
enum Ended {
    Failed(Failure),
    Refused(Refusal),
}

/// An answer of a backend that may have to do, while a better one is looked for.
struct Spare {
    response: Response<Incoming>,
    lease: Lease,
    backend: usize,
}

impl Proxy {
    pub(crate) fn new(config: Config, authorities: Vec<Authority>, probes: Probes) -> Self {
        let now = Instant::now();
        let via_name = config.via_name(fastrand::u32(..));
        let gate = Gate {
            target_bytes_max: config.proxy.target_bytes_max,
            fields_max: config.limits.headers,
            body_bytes_max: config.proxy.body_bytes_max,
            hidden_paths: config.proxy.hidden_paths.clone(),
            via_name: via_name.clone(),
        };
        Self {
            gate,
            // Validated: a list that cannot be read is a wrong configuration.
            trusted: Trusted::read(&config.proxy.trusted).unwrap_or_default(),
            via: (Config::via_line("1.1", &via_name), Config::via_line("2", &via_name)),
            backends: Backends::new(authorities, &config, now),
            budget: RetryBudget::new(config.retry.clone(), now),
            kept_bytes: Arc::new(KeptBytes::new(config.proxy.replay_bytes_max)),
            fallback: Fallback::new(&config.fallback, now),
            probes,
            meters: Meters::default(),
            tunnels: InFlight::default(),
            config,
        }
    }

    /// The probes about the proxy itself.
    pub(crate) fn probes(&self) -> &Probes {
        &self.probes
    }

    /// Answers one request.
    ///
    /// # Cancel safety
    /// Dropped when the client goes away: the attempt in progress is dropped with it, which closes its connection.
    pub(crate) async fn handle(self: Arc<Self>, mut request: Request<Incoming>) -> Response<ProxyBody> {
        let started = Instant::now();
        if let Some(answer) = self.probes.answer(request.method(), request.uri().path()) {
            return answer.map(ProxyBody::from);
        }
        let outlook = || (!self.backends.any_up(started)).then(|| self.outlook(started));
        if let Some(answer) = self.fallback.status(request.method(), request.uri(), started, outlook) {
            return answer.map(ProxyBody::from);
        }
        let mut random = fastrand::Rng::new();
        let Identity { request_id, trace_id, trace } =
            headers::identify(request.headers_mut(), &mut random, |random| {
                random.f64() < self.config.proxy.trace_ratio
            });
        let method = request.method().clone();
        let mut line = Line {
            is_wanted: self.config.proxy.access_log,
            started,
            request_id: request_id.clone(),
            trace_id,
            method: method_label(&method),
            end: None,
        };
        let mut answer = self.answer(request, started, &mut random).await;
        let status = answer.response.status();
        self.meters.answered(&method, status, answer.rung, started.elapsed());
        line.end = Some((status, answer.rung, answer.backend));
        answer.response.headers_mut().entry(X_REQUEST_ID).or_insert(request_id);
        answer.response.headers_mut().entry(TRACEPARENT).or_insert(trace);
        answer.response
    }

    async fn answer(&self, request: Request<Incoming>, now: Instant, random: &mut fastrand::Rng) -> Answer {
        let nature = Nature::of(request.method(), request.headers());
        let host = match self.gate.admit(&request) {
            Ok(host) => host,
            Err(refusal) => {
                let (parts, _body) = request.into_parts();
                let asked = Asked {
                    method: &parts.method,
                    uri: &parts.uri,
                    headers: &parts.headers,
                    nature,
                    may_have_acted: false,
                    form: None,
                };
                return self.made_here(Trouble::Refused(refusal), &asked, random);
            }
        };
        let mut forward = self.prepare(request, &host, nature, now, random);
        let (ended, may_have_acted) = self.attempts(&mut forward, now, random).await;
        let trouble = match ended {
            Ok(answer) => return answer,
            Err(Ended::Refused(refusal)) => Trouble::Refused(refusal),
            Err(Ended::Failed(failure)) => {
                let now = Instant::now();
                Trouble::Failed(failure, self.fallback.wait(self.outlook(now), now, random))
            }
        };
        let form = match trouble {
            Trouble::Failed(..) if forward.is_form => {
                Form::read(&forward.upload, self.config.fallback.form_bytes_max).await
            }
            _ => None,
        };
        let asked = Asked {
            method: &forward.method,
            uri: &forward.uri,
            headers: &forward.headers,
            nature,
            may_have_acted,
            form: form.as_ref(),
        };
        self.made_here(trouble, &asked, random)
    }

    /// When a backend may be there again.
    fn outlook(&self, now: Instant) -> Outlook {
        let backends = &self.backends;
        Outlook { next_chance: backends.next_chance(now), down_for: backends.all_down_for(now) }
    }

    /// Reads the operator's pages again; the ones there were stay where one cannot be used.
    ///
    /// # Errors
    /// [`TemplateProblem`] names the file and the line.
    pub(crate) fn reload_pages(&self, section: &FallbackSection) -> Result<(), TemplateProblem> {
        self.fallback.reload(section)
    }

    fn made_here(&self, trouble: Trouble, asked: &Asked<'_>, random: &mut fastrand::Rng) -> Answer {
        let rung = match trouble {
            Trouble::Failed(..) => Rung::Fallback,
            Trouble::Refused(_) => Rung::Refused,
        };
        let response = self.fallback.answer(trouble, asked, random).map(ProxyBody::from);
        Answer { response, rung, backend: None }
    }

    /// Makes a request ready to leave.
    fn prepare(
        &self,
        mut request: Request<Incoming>,
        host: &HeaderValue,
        nature: Nature,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Forward {
        let websocket = request.method() == Method::GET && headers::asks_for_websocket(request.headers());
        let upgrade = websocket.then(|| hyper::upgrade::on(&mut request));
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
        let is_encrypted = request.extensions().get::<Encrypted>().is_some();
        let origin = self.trusted.origin(peer, is_encrypted, request.headers());
        let deadline = headers::expected_timeout_ms(request.headers())
            .map(|milliseconds| now + Duration::from_millis(milliseconds).min(EXPECTED_TIMEOUT_MAX));
        let (mut parts, body) = request.into_parts();
        let via = if parts.version == Version::HTTP_2 { &self.via.1 } else { &self.via.0 };
        let onward = Onward { origin: &origin, host, via, websocket };
        headers::prepare_request(&mut parts.headers, &onward);
        let is_form = Form::is_small(&parts.method, &parts.headers, self.config.fallback.form_bytes_max)
            && Kind::of(&parts.method, &parts.headers) == Kind::Page;
        if is_form {
            fallback::give_key(&mut parts.uri, &mut parts.headers, random);
        }
        let keep = (nature.is_idempotent || is_form).then(|| Arc::clone(&self.kept_bytes));
        let upload = Upload::new(body, keep, self.config.proxy.body_bytes_max, now);
        Forward {
            method: parts.method,
            uri: origin_form(parts.uri),
            headers: parts.headers,
            upload: Arc::new(upload),
            nature,
            is_form,
            upgrade,
            began: now,
            deadline,
        }
    }

    /// Tries backends until one answers or the rules end it. The second part says whether any can have acted.
    async fn attempts(
        &self,
        forward: &mut Forward,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> (Result<Answer, Ended>, bool) {
        self.budget.deposit(now);
        let mut avoid = Excluded::default();
        let mut spare: Option<Spare> = None;
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
                    let again =
                        retry::after_answer(forward.nature, attempt, response.status(), is_replayable);
                    if again && self.may_repeat(forward) {
                        spare = Some(Spare { response, lease, backend: index });
                        only_elsewhere = true;
                        continue;
                    }
                    // True of the second attempt alone: the first may still be carried out where it went.
                    if may_have_acted && speaks_for_itself(&response) {
                        break;
                    }
                    let rung = if attempt == 1 { Rung::Passed } else { Rung::Retried };
                    return (Ok(self.pass(forward, response, lease, rung, index)), true);
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
        if let Some(Spare { response, lease, backend }) = spare {
            return (Ok(self.pass(forward, response, lease, Rung::Passed, backend)), true);
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

    /// Hands an answer of a backend on.
    fn pass(
        &self,
        forward: &mut Forward,
        mut response: Response<Incoming>,
        lease: Lease,
        rung: Rung,
        backend: usize,
    ) -> Answer {
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
        Answer { response, rung, backend: Some(backend) }
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

/// The target as a backend gets it: path and query as they came, without scheme and host.
fn origin_form(uri: Uri) -> Uri {
    if uri.authority().is_none() {
        return uri;
    }
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = uri.into_parts().path_and_query;
    Uri::from_parts(parts).unwrap_or_default()
}

/// When the current mode began, for the probes: the proxy itself changes little.
pub(crate) fn wall_clock(started: Instant) -> SystemTime {
    SystemTime::now().checked_sub(started.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH)
}
