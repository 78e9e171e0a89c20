//! `/livez`, `/readyz`, `/readyz/reads`, `/readyz/writes`, `/startupz`: from memory, 200 or 503, nothing else.
//!
//! A probe opens no connection and waits for nothing. It does not decide anything either: see `health`.

use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};

use super::{Body, retry_after_seconds};
use crate::health::{Health, Reads, Status, Writes};

/// What a probe renders: the decision and what explains it.
#[derive(Debug, Clone)]
pub struct HealthReport {
    /// The decision.
    pub health: Health,
    /// When the current mode began.
    pub since: SystemTime,
    /// When asking again is worth while; for `Retry-After` and the body.
    pub retry_after: Option<Duration>,
    /// Codes from a closed list, such as `("database", "away")`. Never text of an error.
    pub checks: Vec<(&'static str, &'static str)>,
}

/// How much a probe tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// Status, mode, readiness and what is served: for a port that everybody reaches.
    Brief,
    /// Everything, checks included: for the admin port.
    Full,
}

type Source = dyn Fn() -> HealthReport + Send + Sync;

/// The probes as a tower service. Paths that are no probe get 404. A router takes them in one line: in axum that is
/// `router.fallback_service(probes)`, or `router.nest_service("/health", probes)` below a path of their own.
///
/// ```
/// # use ridethrough::{http::{HealthReport, Probes, Verbosity}, health::*};
/// # let parts = Parts { life: Life::Running, was_ready: true, database: DatabasePart::Away,
/// #     cache: CachePart::Warm, journal: JournalPart::Ok, schema: SchemaPart::Ok };
/// let probes = Probes::new("1.4.2", Verbosity::Brief, move || HealthReport {
///     health: decide(&parts, &ReadyPolicy::default()),
///     since: std::time::SystemTime::now(),
///     retry_after: None,
///     checks: vec![("database", "away")],
/// });
/// let answer = probes.answer(&http::Method::GET, "/readyz").expect("a probe path");
/// assert_eq!(answer.status(), 200); // the database alone takes no readiness away
/// ```
#[derive(Clone)]
pub struct Probes {
    release: &'static str,
    verbosity: Verbosity,
    source: Arc<Source>,
}

#[derive(Debug, Clone, Copy)]
enum Probe {
    Live,
    Ready,
    ReadyReads,
    ReadyWrites,
    Startup,
}

impl Probe {
    fn of_path(path: &str) -> Option<Self> {
        Some(match path {
            "/livez" => Self::Live,
            "/readyz" => Self::Ready,
            "/readyz/reads" => Self::ReadyReads,
            "/readyz/writes" => Self::ReadyWrites,
            "/startupz" => Self::Startup,
            _ => return None,
        })
    }

    fn passes(self, health: &Health) -> bool {
        match self {
            Self::Live => health.live,
            Self::Ready => health.ready,
            Self::ReadyReads => health.ready && health.reads != Reads::None,
            Self::ReadyWrites => health.ready && health.writes != Writes::None,
            Self::Startup => health.started,
        }
    }
}

impl Probes {
    /// The paths of all probes, for routers.
    pub const PATHS: [&'static str; 5] =
        ["/livez", "/readyz", "/readyz/reads", "/readyz/writes", "/startupz"];

    /// Probes that render what `source` reports; it must answer from memory. `release` is the program's version.
    pub fn new(
        release: &'static str,
        verbosity: Verbosity,
        source: impl Fn() -> HealthReport + Send + Sync + 'static,
    ) -> Self {
        Self { release, verbosity, source: Arc::new(source) }
    }

    /// The same probes, telling as much as `verbosity` says.
    #[must_use]
    pub fn with_verbosity(&self, verbosity: Verbosity) -> Self {
        Self { verbosity, ..self.clone() }
    }

    /// What is reported now.
    #[must_use]
    pub fn health(&self) -> Health {
        (self.source)().health
    }

    /// The answer to one request, or `None` where the path is no probe. Methods other than GET and HEAD get 405.
    #[must_use]
    pub fn answer(&self, method: &Method, path: &str) -> Option<Response<Body>> {
        let probe = Probe::of_path(path)?;
        if !matches!(*method, Method::GET | Method::HEAD) {
            let refusal = Response::builder()
                .status(StatusCode::METHOD_NOT_ALLOWED)
                .header(header::ALLOW, "GET, HEAD")
                .body(Body::default());
            return refusal.ok();
        }
        let report = (self.source)();
        let passes = probe.passes(&report.health);
        let status = if passes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let mut answer = Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, "application/health+json")
            .header(header::CACHE_CONTROL, "no-store");
        if !passes {
            let wait = report.retry_after.unwrap_or(Duration::from_secs(1));
            answer = answer.header(header::RETRY_AFTER, retry_after_seconds(wait));
        }
        let text = self.render(&report).to_string();
        answer = answer.header(header::CONTENT_LENGTH, text.len());
        let body = if *method == Method::HEAD { Bytes::new() } else { Bytes::from(text) };
        answer.body(Body::new(body)).ok()
    }

    fn render(&self, report: &HealthReport) -> Value {
        let health = &report.health;
        let mut body = json!({
            "status": health.status.as_str(),
            "mode": health.mode.as_str(),
            "ready": health.ready,
            "serves": { "reads": health.reads.as_str(), "writes": health.writes.as_str() },
        });
        if let (Verbosity::Full, Some(body)) = (self.verbosity, body.as_object_mut()) {
            let since = report.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let checks: Value = report.checks.iter().map(|(check, code)| (*check, *code)).collect();
            body.insert("live".into(), health.live.into());
            body.insert("started".into(), health.started.into());
            body.insert("since".into(), since.into());
            body.insert("releaseId".into(), self.release.into());
            // Whoever is well need not be asked again.
            let wait = report.retry_after.filter(|_| health.status != Status::Pass);
            body.insert("retryAfterSeconds".into(), wait.map(retry_after_seconds).into());
            body.insert("checks".into(), checks);
        }
        body
    }
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probes").field("release", &self.release).field("verbosity", &self.verbosity).finish()
    }
}

impl<B> tower_service::Service<Request<B>> for Probes {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let answer = self.answer(request.method(), request.uri().path());
        ready(Ok(answer.unwrap_or_else(|| {
            let mut missing = Response::new(Body::default());
            *missing.status_mut() = StatusCode::NOT_FOUND;
            missing
        })))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::health::{CachePart, DatabasePart, JournalPart, Life, Parts, ReadyPolicy, SchemaPart, decide};

    fn probes(life: Life, verbosity: Verbosity) -> Probes {
        let parts = Parts {
            life,
            was_ready: true,
            database: DatabasePart::Away,
            cache: CachePart::Cold,
            journal: JournalPart::Ok,
            schema: SchemaPart::Ok,
        };
        Probes::new("test", verbosity, move || HealthReport {
            health: decide(&parts, &ReadyPolicy::default()),
            since: UNIX_EPOCH,
            retry_after: Some(Duration::from_millis(1_200)),
            checks: vec![("database", "away")],
        })
    }

    async fn body(answer: Response<Body>) -> Value {
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn a_cold_replica_in_an_outage_is_ready_for_writes_only() {
        let probes = probes(Life::Running, Verbosity::Brief);
        let status = |path| probes.answer(&Method::GET, path).unwrap().status().as_u16();
        assert_eq!(Probes::PATHS.map(status), [200, 200, 503, 200, 200]);
    }

    #[test]
    fn a_draining_process_is_alive_but_not_ready() {
        let probes = probes(Life::Draining, Verbosity::Brief);
        let status = |path| probes.answer(&Method::GET, path).unwrap().status().as_u16();
        assert_eq!(Probes::PATHS.map(status), [200, 503, 503, 503, 200]);
    }

    #[tokio::test]
    async fn only_the_full_body_has_checks() {
        let brief = probes(Life::Running, Verbosity::Brief);
        let full = brief.with_verbosity(Verbosity::Full);
        let brief = body(brief.answer(&Method::GET, "/readyz").unwrap()).await;
        let full = body(full.answer(&Method::GET, "/readyz").unwrap()).await;
        assert_eq!(brief["mode"], "write-only");
        assert_eq!(brief.get("checks"), None);
        assert_eq!(full["checks"]["database"], "away");
    }

    #[tokio::test]
    async fn what_is_asked_for_in_the_query_changes_nothing() {
        use tower_service::Service as _;

        let mut brief = probes(Life::Running, Verbosity::Brief);
        let request = Request::get("/readyz?verbose").body(()).unwrap();
        let answer = body(brief.call(request).await.unwrap()).await;
        let members: Vec<&String> = answer.as_object().unwrap().keys().collect();
        assert_eq!(members, ["mode", "ready", "serves", "status"]);
    }

    #[tokio::test]
    async fn the_longest_answer_is_short() {
        let parts = Parts {
            life: Life::Running,
            was_ready: true,
            database: DatabasePart::ReadOnly,
            cache: CachePart::Cold,
            journal: JournalPart::Backlog,
            schema: SchemaPart::Mismatch,
        };
        let probes =
            Probes::new("100.200.300-prerelease.1234567890", Verbosity::Full, move || HealthReport {
                health: decide(&parts, &ReadyPolicy::default()),
                since: std::time::SystemTime::now(),
                retry_after: Some(Duration::from_micros(86_399_999_999)),
                checks: parts.codes().into_iter().chain([("dead", "journal writer")]).collect(),
            });
        for path in Probes::PATHS {
            let answer = body(probes.answer(&Method::GET, path).unwrap()).await;
            assert_eq!(answer["retryAfterSeconds"], 86_400, "{answer}");
            assert!(answer.to_string().len() < 2_048, "{answer}");
        }
    }

    #[test]
    fn a_failing_probe_says_when_to_come_back() {
        let answer = probes(Life::Draining, Verbosity::Brief).answer(&Method::GET, "/readyz").unwrap();
        assert_eq!(answer.headers()[header::RETRY_AFTER], "2");
        assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");
    }

    #[test]
    fn head_has_the_length_and_no_body_and_other_methods_are_refused() {
        let probes = probes(Life::Running, Verbosity::Brief);
        let head = probes.answer(&Method::HEAD, "/livez").unwrap();
        assert_eq!(head.status(), 200);
        assert_ne!(head.headers()[header::CONTENT_LENGTH], "0");
        assert_eq!(probes.answer(&Method::POST, "/livez").unwrap().status(), 405);
        assert!(probes.answer(&Method::GET, "/livez/").is_none());
    }
}
