//! The binary `ridethrough-proxy`: reads the configuration, opens the listeners, serves, drains.
//!
//! It decides nothing about a request; see `proxy`.

mod access;
mod attempts;
mod backend;
mod body;
mod cache;
mod cli;
mod config;
mod fallback;
mod headers;
mod health;
mod ladder;
mod meters;
mod proxy;
mod retry;
mod target;
#[cfg(test)]
mod tests;
mod tunnel;
mod upstream;

use std::{io::Write as _, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser as _;
use ridethrough::{
    drain::{Drain, Draining},
    health::{Health, Reads, Status, Writes},
    http::{HealthReport, Probes, Verbosity},
    mode::Mode,
    service::{
        Admin, Certificate, Entrance, LogLevels, Signal, Signals, TlsProblem, Watchdog, changed_keys,
        install_metrics, install_tracing, serve,
    },
};
use serde_json::json;
use tokio::{
    net::TcpListener,
    time::{Instant, timeout},
};

use crate::{
    cli::{Cli, Command, Unusable},
    config::{Authority, Config, ListenSection},
    proxy::Proxy,
};

/// Whose lines may be written to the log, beside the library's; the second is of the lines about requests.
const SPEAKERS: [&str; 2] = ["ridethrough_proxy", "access"];
/// Wrong configuration or usage, before anything was opened.
const EXIT_CONFIGURATION: u8 = 1;
/// Something was cut off while draining.
const EXIT_CUT: u8 = 2;
/// For the configuration, when it is read again: a disk that hangs must not keep signals waiting.
const READ_AGAIN_MAX: Duration = Duration::from_secs(5);
/// A fault of the program or its surroundings.
const EXIT_FAULT: u8 = 70;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => {
            let _ = message.print();
            return ExitCode::from(if message.use_stderr() { EXIT_CONFIGURATION } else { 0 });
        }
    };
    let (config, backends) = match cli.configuration(environment()) {
        Ok(configuration) => configuration,
        Err(problem) => {
            complain(&problem.to_string());
            return ExitCode::from(EXIT_CONFIGURATION);
        }
    };
    let certificate = match certificate(&config.listen) {
        Ok(certificate) => certificate,
        Err(problem) => {
            complain(&format!("listen.tls: {problem}"));
            return ExitCode::from(EXIT_CONFIGURATION);
        }
    };
    if matches!(cli.command, Some(Command::CheckConfig)) {
        return match say("the configuration is in order") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(EXIT_FAULT),
        };
    }
    let levels = match install_tracing(config.proxy.log_format, &config.proxy.log_filter, &SPEAKERS) {
        Ok(levels) => levels,
        Err(error) => {
            complain(&format!("proxy.log_filter: {error}"));
            return ExitCode::from(EXIT_CONFIGURATION);
        }
    };
    let started_with = serde_json::to_value(&config).unwrap_or_default();
    match run(config, backends, Anew { cli, levels, started_with, certificate }) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(EXIT_CUT),
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::from(if error.is::<WrongAddress>() { EXIT_CONFIGURATION } else { EXIT_FAULT })
        }
    }
}

/// The certificate to show, where there is to be TLS.
fn certificate(listen: &ListenSection) -> Result<Option<Arc<Certificate>>, TlsProblem> {
    if !listen.tls.are_given() {
        return Ok(None);
    }
    // An error means that there is one already, which does as well.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    Ok(Some(Arc::new(Certificate::load(listen.tls.clone(), listen.http2)?)))
}

/// An address that cannot be listened on: somebody else has it, or it is not ours. A matter of configuration.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongAddress(String);

/// Variables that are no text are not ours.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "ridethrough-proxy: {text}");
}

fn say(text: &str) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{text}")?;
    output.flush()
}

/// Serves until told to stop; gives the number of connections that were cut.
#[tokio::main]
async fn run(config: Config, backends: Vec<Authority>, anew: Anew) -> anyhow::Result<usize> {
    let signals = Signals::new().context("failed to take over the signals")?;
    let recorder = install_metrics().context("failed to install the metrics")?;
    meters::describe();
    let listener = TcpListener::bind(config.proxy.listen)
        .await
        .map_err(|error| WrongAddress(format!("failed to listen on {}: {error}", config.proxy.listen)))?;
    let main_address = listener.local_addr().context("failed to read the main listener's address")?;

    let watchdog = Arc::new(Watchdog::new(Instant::now()));
    let (drain, draining) = Drain::new();
    let proxy = Arc::new_cyclic(|proxy| {
        let proxy = std::sync::Weak::<Proxy>::clone(proxy);
        let probes = probes(proxy, Arc::clone(&watchdog), draining.clone());
        Proxy::new(config.clone(), backends, probes)
    });

    let state = {
        let proxy = Arc::clone(&proxy);
        move || {
            let cache = proxy.cache.as_ref().map(cache::Cache::describe);
            let backends = proxy.backends.describe(Instant::now());
            json!({ "backends": backends, "tunnels": proxy.tunnels.count(), "cache": cache })
        }
    };
    let shown = anew.started_with.clone();
    let admin = Admin::new(proxy.probes(), recorder, state, move || shown.clone())
        .with_log_levels(anew.levels.clone())
        .start(config.proxy.admin_listen)
        .map_err(|error| WrongAddress(error.to_string()))?;

    let beating = Arc::clone(&watchdog);
    tokio::spawn(async move { beating.keep_beating().await });
    for backend in proxy.backends.iter() {
        let checks = health::watch(Arc::clone(backend), config.checks.clone());
        tokio::spawn(end_is_noticed("health checks", checks, Arc::clone(&watchdog)));
    }
    let certificate = anew.certificate.clone();
    if let Some(certificate) = certificate.clone() {
        tokio::spawn(end_is_noticed("certificate", certificate.follow(), Arc::clone(&watchdog)));
    }
    tokio::spawn(obey(signals, drain, anew, Arc::clone(&proxy)));

    say(&format!("listening main={main_address} admin={}", admin.address))
        .context("failed to say where we listen")?;
    tracing::info!(main = %main_address, admin = %admin.address, backends = config.backends.urls.len(), "serving");
    let handler = Arc::clone(&proxy);
    let entrance = Entrance { listener, http2: config.listen.http2, tls: certificate };
    let served =
        serve(entrance, move |request| Arc::clone(&handler).handle(request), &config.limits, draining).await;
    let cut = served.cut + proxy.tunnels.count();
    tracing::info!(cut, "stopped");
    Ok(cut)
}

/// Watches a part that should never end.
async fn end_is_noticed(part: &'static str, running: impl Future<Output = ()>, watchdog: Arc<Watchdog>) {
    struct Notice(&'static str, Arc<Watchdog>);
    impl Drop for Notice {
        fn drop(&mut self) {
            if std::thread::panicking() {
                self.1.part_died(self.0);
            }
        }
    }
    let notice = Notice(part, watchdog);
    running.await;
    notice.1.part_died(part);
}

/// What SIGHUP reads again.
struct Anew {
    cli: Cli,
    levels: LogLevels,
    /// The configuration that it was started with.
    started_with: serde_json::Value,
    certificate: Option<Arc<Certificate>>,
}

impl Anew {
    /// Puts in force what can change while the process runs: the certificate, the log's filter and the operator's pages.
    /// What cannot be read changes nothing.
    async fn read(&self, proxy: &Arc<Proxy>) {
        let (cli, proxy, certificate) = (self.cli.clone(), Arc::clone(proxy), self.certificate.clone());
        let reading = tokio::task::spawn_blocking(move || {
            if let Some(certificate) = certificate {
                certificate.reload_or_keep();
            }
            let (config, _) = cli.configuration(environment())?;
            proxy.reload_pages(&config.fallback)?;
            Ok::<_, Unusable>(config)
        });
        match timeout(READ_AGAIN_MAX, reading).await {
            Ok(Ok(Ok(config))) => {
                // What is wrong with a filter is said there.
                let _ = self.levels.reload(&config.proxy.log_filter);
                let read = serde_json::to_value(&config).unwrap_or_default();
                let mut keys = changed_keys(&self.started_with, &read);
                keys.retain(|key| key != "proxy.log_filter" && key != "fallback.route");
                if !keys.is_empty() {
                    tracing::warn!(keys = keys.join(" "), "these keys were changed too, and need a restart");
                }
            }
            Ok(Ok(Err(reason))) => {
                tracing::warn!(%reason, "the configuration cannot be used; what was read before stays in force");
            }
            _ => tracing::warn!("the configuration cannot be read; what was read before stays in force"),
        }
    }
}

/// The first stop drains, the second hurries.
async fn obey(mut signals: Signals, drain: Drain, anew: Anew, proxy: Arc<Proxy>) {
    let mut asked = false;
    loop {
        match signals.next().await {
            Signal::Reload => anew.read(&proxy).await,
            Signal::Stop if asked => drain.hurry(),
            Signal::Stop => {
                tracing::info!("draining");
                drain.begin();
                asked = true;
            }
        }
    }
}

/// The probes of the proxy itself. They never ask a backend, and no backend takes readiness away: a proxy that can
/// say so is better than a refused connection.
fn probes(proxy: std::sync::Weak<Proxy>, watchdog: Arc<Watchdog>, draining: Draining) -> Probes {
    let started = Instant::now();
    Probes::new(env!("CARGO_PKG_VERSION"), Verbosity::Brief, move || {
        let now = Instant::now();
        let any_up = proxy.upgrade().is_some_and(|proxy| proxy.backends.any_up(now));
        let complaint = watchdog.complaint(now);
        HealthReport {
            health: health_of_self(complaint.is_some(), draining.is_requested(), any_up),
            since: proxy::wall_clock(started),
            retry_after: None,
            checks: vec![
                ("runtime", complaint.unwrap_or("ok")),
                ("backends", if any_up { "up" } else { "none" }),
            ],
        }
    })
}

fn health_of_self(is_broken: bool, is_draining: bool, any_up: bool) -> Health {
    let (mode, status) = match (is_broken, is_draining, any_up) {
        (true, ..) => (Mode::Broken, Status::Fail),
        (_, true, _) => (Mode::Draining, Status::Fail),
        (_, _, true) => (Mode::Normal, Status::Pass),
        (_, _, false) => (Mode::Degraded, Status::Warn),
    };
    Health {
        live: !is_broken,
        ready: !is_broken && !is_draining,
        started: true,
        status,
        mode,
        reads: Reads::Fresh,
        writes: Writes::Committed,
    }
}

#[cfg(test)]
mod self_tests {
    use super::*;

    #[test]
    fn readiness_of_the_proxy_never_depends_on_its_backends() {
        for any_up in [true, false] {
            let health = health_of_self(false, false, any_up);
            assert!(health.live && health.ready && health.started, "any_up {any_up}");
            let draining = health_of_self(false, true, any_up);
            assert!(draining.live && !draining.ready);
            assert!(!health_of_self(true, false, any_up).live);
        }
        assert_eq!(health_of_self(false, false, false).mode, Mode::Degraded);
    }
}
