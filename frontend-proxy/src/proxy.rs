//! One request from top to bottom. START HERE.
//!
//! Probes, then the gate, then the ladder (kept answers and up to three attempts at backends), then a fallback. The
//! decisions themselves are made elsewhere: `target` lets in, `ladder` takes the best rung that holds, `attempts` asks,
//! `fallback` speaks.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderValue, Method, Request, Response, Uri, Version};
use hyper::body::Incoming;
use ridethrough::{
    budget::RetryBudget,
    drain::InFlight,
    http::Probes,
    service::{Encrypted, Interim, Peer},
};
use tokio::time::Instant;

use crate::{
    access::Line,
    attempts::{Ended, Forward},
    backend::{Backends, NoBackend},
    body::{KeptBytes, ProxyBody, Upload},
    cache::Cache,
    config::{Authority, Config, FallbackSection},
    fallback::{self, Asked, Failure, Fallback, Form, Kind, Outlook, TemplateProblem, Trouble},
    headers::{self, Identity, Onward, TRACEPARENT, Trusted, X_REQUEST_ID},
    ladder::{Answer, Rung},
    meters::{Meters, method_label},
    retry::Nature,
    target::Gate,
};

/// A caller that names a longer time than this names none.
const EXPECTED_TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

/// Everything a request meets on its way. Shared by all connections.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) config: Config,
    gate: Gate,
    trusted: Trusted,
    /// Our line in `Via`, for requests that came over HTTP/1.1 and over HTTP/2.
    via: (HeaderValue, HeaderValue),
    pub(crate) backends: Backends,
    pub(crate) budget: RetryBudget,
    /// What all requests together keep for second attempts.
    kept_bytes: Arc<KeptBytes>,
    /// Kept answers; none where the configuration wants none.
    pub(crate) cache: Option<Cache>,
    fallback: Fallback,
    probes: Probes,
    meters: Meters,
    /// Upgraded connections, which outlive their request.
    pub(crate) tunnels: InFlight,
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
            cache: config.cache.enabled.then(|| Cache::new(&config.cache)),
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
        line.end = Some((status, answer.rung, answer.backend, answer.cache));
        answer.label();
        answer.response.headers_mut().entry(X_REQUEST_ID).or_insert(request_id);
        answer.response.headers_mut().entry(TRACEPARENT).or_insert(trace);
        answer.response
    }

    async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Answer {
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
        let (ended, may_have_acted) = self.climb(&mut forward, now, random).await;
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
            Trouble::Failed(Failure::NoBackend(NoBackend::Full), _) => Rung::Shed,
            Trouble::Failed(..) => Rung::Fallback,
            Trouble::Refused(_) => Rung::Refused,
        };
        let response = self.fallback.answer(trouble, asked, random).map(ProxyBody::from);
        Answer { response, rung, backend: None, cache: None, trouble: None }
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
        let interim =
            request.extensions().get::<Interim>().filter(|_| request.version() == Version::HTTP_11).cloned();
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
            interim,
        }
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
