//! The admin port: probes, metrics, state and configuration, on a thread and runtime of its own.
//!
//! It answers while the main runtime is busy or stuck, which is when somebody looks. It changes nothing but which lines
//! are written to the log.

use std::{fmt, net::SocketAddr, sync::Arc, thread, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::Value;
use tokio::{net::TcpListener, time::timeout};

use super::{
    listener::{Limits, serve},
    log::LogLevels,
    process,
};
use crate::{
    drain::{Drain, Draining},
    http::{Body, Probes, Verbosity},
    metrics,
    mode::Mode,
};

/// Recorders need a regular sweep, else histograms grow without bound.
const METRICS_UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// For the body of a request; a filter is one line.
const BODY_MAX: Duration = Duration::from_secs(2);
const LOG_FILTER: &str = "/debug/log-filter";

type Page = dyn Fn() -> Value + Send + Sync;

/// What the admin port shows.
#[derive(Clone)]
pub struct Admin {
    probes: Probes,
    metrics: PrometheusHandle,
    state: Arc<Page>,
    config: Arc<Page>,
    levels: Option<LogLevels>,
}

/// The admin port did not come up.
#[derive(Debug, thiserror::Error)]
#[error("failed to serve the admin port on {address}: {source}")]
pub struct AdminError {
    address: SocketAddr,
    source: std::io::Error,
}

/// The running admin port; it ends with the process, or when dropped.
#[derive(Debug)]
#[must_use = "the admin port closes when this is dropped"]
pub struct AdminThread {
    /// The address it really listens on.
    pub address: SocketAddr,
    _drain: Drain,
}

impl Admin {
    /// `state` is asked on every look at `/debug/state`, and `config` on every look at `/debug/config`; both must answer from
    /// memory, and `config` must be redacted.
    pub fn new(
        probes: &Probes,
        metrics: PrometheusHandle,
        state: impl Fn() -> Value + Send + Sync + 'static,
        config: impl Fn() -> Value + Send + Sync + 'static,
    ) -> Self {
        let probes = probes.with_verbosity(Verbosity::Full);
        Self { probes, metrics, state: Arc::new(state), config: Arc::new(config), levels: None }
    }

    /// The same, which also shows the log's filter at `/debug/log-filter`, and puts the body of a PUT in force there, until
    /// another one or a restart.
    #[must_use]
    pub fn with_log_levels(self, levels: LogLevels) -> Self {
        Self { levels: Some(levels), ..self }
    }

    /// Binds `address` and serves it on a new thread.
    ///
    /// # Errors
    /// Where the address cannot be bound or the thread cannot be started.
    pub fn start(self, address: SocketAddr) -> Result<AdminThread, AdminError> {
        let failed = |source| AdminError { address, source };
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (drain, draining) = Drain::new();
        let run = move || runtime.block_on(self.run(listener, draining));
        thread::Builder::new().name("admin".into()).spawn(run).map_err(failed)?;
        Ok(AdminThread { address: bound, _drain: drain })
    }

    async fn run(self, listener: std::net::TcpListener, draining: Draining) {
        let Ok(listener) = TcpListener::from_std(listener) else { return };
        let metrics = self.metrics.clone();
        let upkeep = async move {
            let mut every = tokio::time::interval(METRICS_UPKEEP_EVERY);
            loop {
                every.tick().await;
                metrics.run_upkeep();
            }
        };
        let limits = Limits {
            connections: 100,
            drain_delay: Duration::ZERO,
            drain_in_flight: Duration::ZERO,
            ..Limits::default()
        };
        let service = move |request: Request<hyper::body::Incoming>| self.clone().answer(request);
        tokio::select! {
            _ = serve(listener, service, &limits, draining) => {}
            () = upkeep => {}
        }
    }

    async fn answer<B>(self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let (method, path) = (request.method(), request.uri().path());
        if let Some(answer) = self.probes.answer(method, path) {
            return answer;
        }
        match &self.levels {
            Some(levels) if path == LOG_FILTER && method == Method::PUT => {
                put_filter(levels, request.into_body()).await
            }
            levels => self.page(method, path, levels.as_ref()),
        }
    }

    fn page(&self, method: &Method, path: &str, levels: Option<&LogLevels>) -> Response<Body> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let said = "only GET and HEAD are served here, and PUT for the log's filter\n";
            return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", said.into());
        }
        match path {
            "/metrics" => {
                text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", self.metrics_text())
            }
            "/debug/state" => text(StatusCode::OK, "application/json", (self.state)().to_string()),
            "/debug/config" => text(StatusCode::OK, "application/json", (self.config)().to_string()),
            LOG_FILTER if levels.is_some() => {
                text(StatusCode::OK, "text/plain", levels.map(|levels| levels.filter() + "\n").unwrap_or_default())
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "text/plain",
                "here are /metrics, /debug/state, /debug/config, /debug/log-filter, /livez, /readyz, /startupz\n".into(),
            ),
        }
    }

    fn metrics_text(&self) -> String {
        #[cfg(feature = "postgres")]
        metrics::publish();
        let health = self.probes.health();
        metrics::ready(health.ready);
        for mode in Mode::ALL {
            metrics::mode(mode.as_str(), mode == health.mode);
        }
        self.metrics.render() + &process::render()
    }
}

/// Puts the filter in the body in force; what is wrong with one is told to its sender.
async fn put_filter<B>(levels: &LogLevels, body: B) -> Response<Body>
where
    B: http_body::Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let read = Limited::new(body, LogLevels::FILTER_BYTES_MAX).collect();
    let Ok(Ok(body)) = timeout(BODY_MAX, read).await else {
        return text(
            StatusCode::BAD_REQUEST,
            "text/plain",
            "a short body with the filter is expected\n".into(),
        );
    };
    let filter = String::from_utf8_lossy(&body.to_bytes()).trim().to_owned();
    match levels.reload(&filter) {
        Ok(()) => text(StatusCode::OK, "text/plain", filter + "\n"),
        Err(error) => text(StatusCode::BAD_REQUEST, "text/plain", format!("{error}\n")),
    }
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("probes", &self.probes).finish_non_exhaustive()
    }
}
