//! The configuration: sections of the file, their defaults, and what makes no sense together.
//!
//! Reading the file and the environment is the library's business; flags are `main`'s.

mod fallback;

use std::{net::SocketAddr, time::Duration};

use http::HeaderValue;
use ridethrough::{
    breaker::BreakerConfig,
    budget::RetryBudgetConfig,
    duration_text,
    service::{FilterError, Limits, LogFormat, LogLevels, TlsFiles},
};
use serde::{Deserialize, Serialize};

pub(crate) use self::fallback::{FallbackRoute, FallbackSection};
use crate::{SPEAKERS, headers::Trusted};

/// More backends than this need a balancer in front; the set of those already asked is one machine word.
pub(crate) const BACKENDS_MAX: usize = 64;

/// Everything an operator can set.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// The proxy itself: addresses, limits of a request, log.
    pub(crate) proxy: ProxySection,
    /// What is spoken on the main listener.
    pub(crate) listen: ListenSection,
    /// Bounds of the main listener and of the drain.
    pub(crate) limits: Limits,
    /// Who answers, and how long we wait for it.
    pub(crate) backends: BackendsSection,
    /// The active health checks.
    pub(crate) checks: ChecksSection,
    /// The breaker of each backend.
    pub(crate) breaker: BreakerSection,
    /// How many second attempts the traffic earns.
    pub(crate) retry: RetryBudgetConfig,
    /// What is answered here, and how those who wait come back.
    pub(crate) fallback: FallbackSection,
    /// What is kept of answers, and for how long it may stand in.
    pub(crate) cache: CacheSection,
}

/// The section `[proxy]`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ProxySection {
    /// Address of the main listener. Default 127.0.0.1:8080.
    pub(crate) listen: SocketAddr,
    /// Address of the admin listener. Default 127.0.0.1:9081.
    pub(crate) admin_listen: SocketAddr,
    /// Form of a log line. Default text.
    pub(crate) log_format: LogFormat,
    /// Level, or targets with levels. Default `info`.
    pub(crate) log_filter: String,
    /// Whether each request is one log line. Default true.
    pub(crate) access_log: bool,
    /// Share of the traces that begin here, which say that they are to be recorded; one that a request brings along keeps its
    /// own word. Between 0 and 1. Default 1.
    pub(crate) trace_ratio: f64,
    /// Longest request target in bytes; above it 414. Default 8 KiB.
    pub(crate) target_bytes_max: usize,
    /// Longest request body in bytes; above it 413. Default 10 MiB.
    pub(crate) body_bytes_max: u64,
    /// A request body that brings nothing for this long is given up with 408. Default 30 s.
    #[serde(with = "duration_text")]
    pub(crate) body_idle: Duration,
    /// A request body that is not over after this is given up with 408. Default 10 min.
    #[serde(with = "duration_text")]
    pub(crate) body_total: Duration,
    /// Bytes of request bodies that all requests together keep for a second attempt; past it a body is sent once only.
    /// Default 64 MiB.
    pub(crate) replay_bytes_max: usize,
    /// Paths of the backends nobody reaches through here, with everything below them. Default /metrics and /debug.
    pub(crate) hidden_paths: Vec<String>,
    /// Networks and addresses of proxies in front of this one, such as `10.0.0.0/8`. What they say in `X-Forwarded-For`,
    /// `-Proto` and `-Host` is believed. Default none: whoever connects is the client.
    pub(crate) trusted: Vec<String>,
    /// Our name in `Via`; unset, one is made that is different for each process, so that two proxies in a row are no
    /// loop.
    pub(crate) via: Option<String>,
}

impl Default for ProxySection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 9081)),
            log_format: LogFormat::default(),
            log_filter: "info".to_owned(),
            access_log: true,
            trace_ratio: 1.0,
            target_bytes_max: 8 * 1024,
            body_bytes_max: 10 * 1024 * 1024,
            body_idle: Duration::from_secs(30),
            body_total: Duration::from_secs(600),
            replay_bytes_max: 64 * 1024 * 1024,
            hidden_paths: vec!["/metrics".to_owned(), "/debug".to_owned()],
            trusted: Vec::new(),
            via: None,
        }
    }
}

/// The section `[listen]`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ListenSection {
    /// HTTP/2 beside HTTP/1.1: by ALPN under TLS, without it for clients that know. Default true.
    pub(crate) http2: bool,
    /// Certificate and key in PEM; both set, the main listener speaks TLS only. SIGHUP reads them again, and so does a
    /// change of the files. Default none.
    pub(crate) tls: TlsFiles,
}

impl Default for ListenSection {
    fn default() -> Self {
        Self { http2: true, tls: TlsFiles::default() }
    }
}

/// The section `[backends]`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BackendsSection {
    /// Addresses, such as `http://127.0.0.1:3000`. At least one.
    pub(crate) urls: Vec<String>,
    /// Time for a TCP connection. Default 1 s.
    #[serde(with = "duration_text")]
    pub(crate) connect: Duration,
    /// Time for the head of an answer, counted from the end of the request. Default 10 s.
    #[serde(with = "duration_text")]
    pub(crate) head: Duration,
    /// An answer that brings nothing for this long is given up. Default 30 s.
    #[serde(with = "duration_text")]
    pub(crate) body_idle: Duration,
    /// An upgraded connection on which nothing moves for this long is closed. Default 5 min.
    #[serde(with = "duration_text")]
    pub(crate) tunnel_idle: Duration,
    /// An unused connection is closed after this; keep it below the backend's own limit. Default 4 s.
    #[serde(with = "duration_text")]
    pub(crate) idle: Duration,
    /// Unused connections kept for each backend. Default 128.
    pub(crate) idle_max: usize,
    /// Requests in flight at one backend; above it the next one is asked. Default 1024.
    pub(crate) in_flight_max: usize,
}

impl Default for BackendsSection {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            connect: Duration::from_secs(1),
            head: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            tunnel_idle: Duration::from_secs(300),
            idle: Duration::from_secs(4),
            idle_max: 128,
            in_flight_max: 1024,
        }
    }
}

/// The section `[checks]`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ChecksSection {
    /// What is asked. Default /readyz.
    pub(crate) path: String,
    /// Pause between checks while the backend is up. Default 500 ms.
    #[serde(with = "duration_text")]
    pub(crate) interval: Duration,
    /// First pause after a bad check; doubles up to `interval_bad_max`. Default 250 ms.
    #[serde(with = "duration_text")]
    pub(crate) interval_bad: Duration,
    /// Longest pause while the backend is down. Default 1 s.
    #[serde(with = "duration_text")]
    pub(crate) interval_bad_max: Duration,
    /// Time for one check, connection included. Default 1 s.
    #[serde(with = "duration_text")]
    pub(crate) timeout: Duration,
    /// Bad checks in a row that take a backend down. Default 2.
    pub(crate) bad_to_go_down: u32,
    /// Good checks in a row that bring it up. Default 1.
    pub(crate) good_to_come_up: u32,
}

impl Default for ChecksSection {
    fn default() -> Self {
        Self {
            path: "/readyz".to_owned(),
            interval: Duration::from_millis(500),
            interval_bad: Duration::from_millis(250),
            interval_bad_max: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            bad_to_go_down: 2,
            good_to_come_up: 1,
        }
    }
}

/// The section `[breaker]`: the part of the library's settings that matters for a backend, with defaults of its own.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BreakerSection {
    /// Failures in a row that trip. Default 3.
    pub(crate) consecutive_failures: u32,
    /// How long it stays open where no check ends it earlier. Default 1 s, doubled by each failed trial.
    #[serde(with = "duration_text")]
    pub(crate) open: Duration,
    /// No open interval is longer than this. Default 5 s.
    #[serde(with = "duration_text")]
    pub(crate) open_max: Duration,
    /// Trials at once while half-open. Default 8: a check has passed by then, and whoever is not let through sees an
    /// error.
    pub(crate) trials: u32,
    /// Trials that must succeed to close. Default 2.
    pub(crate) successes_to_close: u32,
}

impl Default for BreakerSection {
    fn default() -> Self {
        Self {
            consecutive_failures: 3,
            open: Duration::from_secs(1),
            open_max: Duration::from_secs(5),
            trials: 8,
            successes_to_close: 2,
        }
    }
}

impl BreakerSection {
    /// The library's settings; a trial is given up when the head of its answer is.
    pub(crate) fn for_backend(&self, head: Duration) -> BreakerConfig {
        BreakerConfig {
            consecutive_failures: self.consecutive_failures,
            open: self.open,
            open_max: self.open_max,
            trials: self.trials,
            ramp_max: self.trials,
            successes_to_close: self.successes_to_close,
            trial_lease: head + Duration::from_secs(1),
            ..BreakerConfig::default()
        }
    }
}

/// The section `[cache]`. What may be kept, and for whom, is said by the backends' `Cache-Control`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CacheSection {
    /// Whether answers are kept at all. Default true: only what may be is.
    pub(crate) enabled: bool,
    /// Memory for kept answers, in bytes. Default 64 MiB.
    pub(crate) bytes: u64,
    /// Largest answer that is kept, in bytes. Default 1 MiB.
    pub(crate) object_bytes_max: u64,
    /// Whether an answer without a lifetime gets one from `Last-Modified`: a tenth of the time since. Default true.
    pub(crate) heuristics: bool,
    /// The longest lifetime made up so. Default 1 h.
    #[serde(with = "duration_text")]
    pub(crate) heuristic_max: Duration,
    /// How long an answer that says nothing of it may stand in past its lifetime while no backend answers. Default 1 h.
    #[serde(with = "duration_text")]
    pub(crate) stale_when_away: Duration,
}

impl Default for CacheSection {
    fn default() -> Self {
        Self {
            enabled: true,
            bytes: 64 * 1024 * 1024,
            object_bytes_max: 1024 * 1024,
            heuristics: true,
            heuristic_max: Duration::from_secs(3_600),
            stale_when_away: Duration::from_secs(3_600),
        }
    }
}

/// What is wrong with a configuration. The text names the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ConfigProblem {
    #[error("no backend: name at least one with --backend http://HOST:PORT or backends.urls")]
    NoBackend,
    #[error("backends.urls: {0} backends are too many; at most {BACKENDS_MAX}")]
    TooManyBackends(usize),
    #[error("backend `{url}`: {reason}")]
    BackendUrl { url: String, reason: &'static str },
    #[error("limits.{field}: {problem}")]
    Limits { field: &'static str, problem: &'static str },
    #[error("proxy.log_filter: {0}")]
    LogFilter(FilterError),
    #[error("{key}: {reason}")]
    Value { key: &'static str, reason: &'static str },
}

/// Where one backend listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authority {
    /// Name or address, without brackets.
    pub(crate) host: String,
    /// Port; 80 where the address has none.
    pub(crate) port: u16,
    /// As it was written: for `Host` and for people.
    pub(crate) text: String,
}

impl Authority {
    /// Reads `http://HOST[:PORT]`.
    pub(crate) fn of_url(url: &str) -> Result<Self, ConfigProblem> {
        let wrong = |reason| ConfigProblem::BackendUrl { url: without_secret(url), reason };
        if url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://")) {
            return Err(wrong("https towards a backend is not supported yet; write http://HOST:PORT"));
        }
        let Some(rest) = url.strip_prefix("http://") else {
            return Err(wrong("it must start with http://, such as http://127.0.0.1:3000"));
        };
        let text = rest.strip_suffix('/').unwrap_or(rest);
        if text.contains(['/', '?', '#']) {
            return Err(wrong("a path is not supported; requests keep their own"));
        }
        if text.contains('@') {
            return Err(wrong("a user name is not supported"));
        }
        let authority: http::uri::Authority = text.parse().map_err(|_| wrong("it has no valid host"))?;
        let port = match text.strip_prefix(authority.host()).unwrap_or_default() {
            "" => Some(80),
            rest => rest.strip_prefix(':').and_then(|port| port.parse().ok()).filter(|port| *port != 0),
        };
        let port = port.ok_or_else(|| wrong("the port must be a number from 1 to 65535"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(wrong("it has no valid host"));
        }
        Ok(Self { host, port, text: text.to_owned() })
    }
}

/// A password that somebody wrote into an address does not belong into a message.
fn without_secret(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 <= at => {
            format!("{}…{}", url.get(..scheme + 3).unwrap_or_default(), url.get(at..).unwrap_or_default())
        }
        _ => url.to_owned(),
    }
}

impl Config {
    /// The backends, once everything makes sense together.
    ///
    /// # Errors
    /// [`ConfigProblem`] names the first key that does not.
    pub(crate) fn validate(&self) -> Result<Vec<Authority>, ConfigProblem> {
        let wrong = |key, reason| Err(ConfigProblem::Value { key, reason });
        let backends: Vec<Authority> =
            self.backends.urls.iter().map(|url| Authority::of_url(url)).collect::<Result<_, _>>()?;
        match backends.len() {
            0 => return Err(ConfigProblem::NoBackend),
            count if count > BACKENDS_MAX => return Err(ConfigProblem::TooManyBackends(count)),
            _ => {}
        }
        for (key, duration) in self.durations() {
            if duration.is_zero() || duration > Duration::from_secs(86_400) {
                return wrong(key, "must be more than 0s and at most 1d");
            }
        }
        if let Err((field, problem)) = self.limits.validate() {
            return Err(ConfigProblem::Limits { field, problem });
        }
        if !self.checks.path.starts_with('/') || self.checks.path.parse::<http::Uri>().is_err() {
            return wrong("checks.path", "must be a path, such as /readyz");
        }
        if self.proxy.hidden_paths.iter().any(|path| !path.starts_with('/') || path.len() < 2) {
            return wrong("proxy.hidden_paths", "each must be a path below /, such as /metrics");
        }
        if !(0.0..=1.0).contains(&self.proxy.trace_ratio) {
            return wrong("proxy.trace_ratio", "must be between 0 and 1");
        }
        LogLevels::check(&self.proxy.log_filter, &SPEAKERS).map_err(ConfigProblem::LogFilter)?;
        let via = self.proxy.via.as_deref().unwrap_or("unset");
        if via.is_empty() || !via.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
            return wrong("proxy.via", "must be letters, digits, `-`, `.` or `_`");
        }
        if Trusted::read(&self.proxy.trusted).is_none() {
            return wrong("proxy.trusted", "each must be an address or a network, such as 10.0.0.0/8");
        }
        let tls = &self.listen.tls;
        if tls.are_given() && (tls.certificate.as_os_str().is_empty() || tls.key.as_os_str().is_empty()) {
            return wrong("listen.tls", "needs both, certificate and key");
        }
        if self.backends.in_flight_max == 0 || self.proxy.target_bytes_max == 0 {
            return wrong("backends.in_flight_max, proxy.target_bytes_max", "must be at least 1");
        }
        let (kept, largest) = (self.cache.bytes, self.cache.object_bytes_max);
        if !(1024 * 1024..=1 << 40).contains(&kept) || largest == 0 || largest > kept / 8 {
            return wrong(
                "cache.bytes, cache.object_bytes_max",
                "1 MiB to 1 TiB, and at most an eighth of that",
            );
        }
        let day = Duration::from_secs(86_400);
        if self.cache.heuristic_max > 7 * day || self.cache.stale_when_away > 30 * day {
            return wrong("cache.heuristic_max, cache.stale_when_away", "must be at most 7d and 30d");
        }
        if !(0.0..=1.0).contains(&self.retry.ratio) || !(0.0..=1e6).contains(&self.retry.floor_per_second) {
            return wrong("retry", "ratio must be 0.0 to 1.0, floor_per_second 0.0 or more");
        }
        self.fallback.validate()?;
        Ok(backends)
    }

    fn durations(&self) -> [(&'static str, Duration); 13] {
        let (backends, checks) = (&self.backends, &self.checks);
        [
            ("proxy.body_idle", self.proxy.body_idle),
            ("proxy.body_total", self.proxy.body_total),
            ("backends.connect", backends.connect),
            ("backends.head", backends.head),
            ("backends.body_idle", backends.body_idle),
            ("backends.tunnel_idle", backends.tunnel_idle),
            ("backends.idle", backends.idle),
            ("checks.interval", checks.interval),
            ("checks.interval_bad", checks.interval_bad),
            ("checks.interval_bad_max", checks.interval_bad_max),
            ("checks.timeout", checks.timeout),
            ("breaker.open", self.breaker.open),
            ("breaker.open_max", self.breaker.open_max),
        ]
    }

    /// Our name in `Via`: as configured, or made from `random`.
    pub(crate) fn via_name(&self, random: u32) -> String {
        self.proxy.via.clone().unwrap_or_else(|| format!("ridethrough-proxy-{random:08x}"))
    }

    /// The line added to `Via` for a request that came over this version of HTTP.
    pub(crate) fn via_line(version: &str, name: &str) -> HeaderValue {
        HeaderValue::from_str(&format!("{version} {name}"))
            .expect("validated: the name has only visible characters")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(url: &str) -> Config {
        let backends = BackendsSection { urls: vec![url.to_owned()], ..BackendsSection::default() };
        Config { backends, ..Config::default() }
    }

    #[test]
    fn good_addresses_are_read() {
        let cases = [
            ("http://127.0.0.1:3000", "127.0.0.1", 3000),
            ("http://app:80/", "app", 80),
            ("http://app", "app", 80),
            ("http://[::1]:99", "::1", 99),
        ];
        for (url, host, port) in cases {
            let backends = with(url).validate().unwrap();
            assert_eq!((backends[0].host.as_str(), backends[0].port), (host, port), "{url}");
        }
    }

    #[test]
    fn wrong_addresses_are_named_with_what_to_do() {
        let cases = [
            ("https://app:443", "https"),
            ("app:80", "http://"),
            ("http://app/path", "path"),
            ("http://", "host"),
            ("http://app:99999", "port"),
            ("http://app:0", "port"),
            ("http://app:", "port"),
            ("ftp://app", "http://"),
        ];
        for (url, word) in cases {
            let text = with(url).validate().unwrap_err().to_string();
            assert!(text.contains(url) && text.contains(word), "{url}: {text}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_not_repeated() {
        let text = with("http://me:secret@app:80").validate().unwrap_err().to_string();
        assert!(text.contains("user name") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn no_backend_is_a_wrong_configuration() {
        assert_eq!(Config::default().validate(), Err(ConfigProblem::NoBackend));
    }

    #[test]
    fn a_limit_that_makes_no_sense_is_named() {
        let mut config = with("http://a:1");
        config.backends.head = Duration::ZERO;
        assert!(config.validate().unwrap_err().to_string().starts_with("backends.head"));
        let mut config = with("http://a:1");
        config.proxy.log_filter = "info,hyper=trace".to_owned();
        assert!(config.validate().unwrap_err().to_string().starts_with("proxy.log_filter"));
        let mut config = with("http://a:1");
        config.proxy.trace_ratio = f64::NAN;
        assert!(config.validate().unwrap_err().to_string().starts_with("proxy.trace_ratio"));
        let mut config = with("http://a:1");
        config.proxy.via = Some("two words".to_owned());
        assert!(config.validate().unwrap_err().to_string().starts_with("proxy.via"));
        let mut config = with("http://a:1");
        config.proxy.trusted = vec!["10.0.0.0/33".to_owned()];
        assert!(config.validate().unwrap_err().to_string().starts_with("proxy.trusted"));
        let mut config = with("http://a:1");
        config.listen.tls.certificate = "a.pem".into();
        assert!(config.validate().unwrap_err().to_string().starts_with("listen.tls"));
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest() {
        let environment = [("RIDETHROUGH_BACKENDS__CONECT".to_owned(), "1s".to_owned())];
        let error = ridethrough::service::load::<Config>(None, environment).unwrap_err().to_string();
        assert!(error.contains("did you mean `connect`?"), "{error}");
    }
}
