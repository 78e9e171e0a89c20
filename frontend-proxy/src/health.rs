//! Active checks: asks each backend regularly whether it is ready, and remembers the answer.
//!
//! The rule that turns answers into up and down is pure and takes `now`; choosing among the backends is not done here.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use ridethrough::breaker::BreakerState;
use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use crate::{backend::Backend, config::ChecksSection, meters};

/// A health document is under 2 KiB; more than this is none.
const DOCUMENT_BYTES_MAX: usize = 16 * 1024;
/// A request that fails asks for a check at once, but not more often than this.
const CHECK_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Good news counts for a breaker as often as it can need to close.
const GOOD_NEWS_MAX: u32 = 16;

/// What the checks say of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckState {
    /// Not checked yet: worth a try.
    Unknown,
    /// Ready.
    Up,
    /// Not ready, or not there.
    Down,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Check {
    /// Ready, with the mode it says it is in.
    Good { mode: Option<String> },
    /// Answers, but is not ready.
    NotReady { status: u16, mode: Option<String> },
    /// Nobody there, or no answer in time.
    Silent(&'static str),
}

/// Everything remembered of one backend.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) state: CheckState,
    /// When the state began.
    pub(crate) since: Instant,
    pub(crate) mode: Option<String>,
    /// Status or code of the last check.
    pub(crate) last_check: Option<String>,
    bad_in_a_row: u32,
    good_in_a_row: u32,
    next_check: Instant,
}

/// The memory of one backend, with the one answer that every request asks for beside the lock.
#[derive(Debug)]
pub(crate) struct HealthCell {
    down: AtomicBool,
    snapshot: Mutex<Snapshot>,
    /// Wakes those who wait for an answer, when it falls silent.
    pub(crate) fell_silent: Notify,
}

impl CheckState {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

impl Check {
    fn code(&self) -> String {
        match self {
            Self::Good { .. } => "200".to_owned(),
            Self::NotReady { status, .. } => status.to_string(),
            Self::Silent(code) => (*code).to_owned(),
        }
    }
}

impl Snapshot {
    fn new(now: Instant) -> Self {
        Self {
            state: CheckState::Unknown,
            since: now,
            mode: None,
            last_check: None,
            bad_in_a_row: 0,
            good_in_a_row: 0,
            next_check: now,
        }
    }

    /// Takes in one result; true where the state changed.
    fn record(&mut self, check: &Check, rules: &ChecksSection, now: Instant) -> bool {
        self.last_check = Some(check.code());
        let wanted = match check {
            Check::Good { mode } => {
                self.mode.clone_from(mode);
                self.bad_in_a_row = 0;
                self.good_in_a_row = self.good_in_a_row.saturating_add(1);
                (self.good_in_a_row >= rules.good_to_come_up).then_some(CheckState::Up)
            }
            Check::NotReady { .. } | Check::Silent(_) => {
                self.mode = match check {
                    Check::NotReady { mode, .. } => mode.clone(),
                    _ => None,
                };
                self.good_in_a_row = 0;
                self.bad_in_a_row = self.bad_in_a_row.saturating_add(1);
                (self.bad_in_a_row >= rules.bad_to_go_down).then_some(CheckState::Down)
            }
        };
        match wanted {
            Some(state) if state != self.state => {
                (self.state, self.since) = (state, now);
                true
            }
            _ => false,
        }
    }

    /// The pause before the next check: short after bad news, and never in step with other proxies.
    fn pause(&self, rules: &ChecksSection, random: &mut fastrand::Rng) -> Duration {
        let whole = match self.bad_in_a_row {
            0 => rules.interval,
            bad => rules.interval_bad.saturating_mul(1 << (bad - 1).min(16)).min(rules.interval_bad_max),
        };
        whole.mul_f64(0.9 + 0.2 * random.f64())
    }
}

impl HealthCell {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            down: AtomicBool::new(false),
            snapshot: Mutex::new(Snapshot::new(now)),
            fell_silent: Notify::new(),
        }
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.lock().clone()
    }

    /// Time until the next check.
    pub(crate) fn next_check(&self, now: Instant) -> Duration {
        self.lock().next_check.saturating_duration_since(now)
    }

    /// How long it has been down; zero where it is not.
    pub(crate) fn down_for(&self, now: Instant) -> Duration {
        let snapshot = self.lock();
        match snapshot.state {
            CheckState::Down => now.saturating_duration_since(snapshot.since),
            CheckState::Unknown | CheckState::Up => Duration::ZERO,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Snapshot> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn set_down_for_test(&self, now: Instant) {
        let mut snapshot = self.lock();
        (snapshot.state, snapshot.since) = (CheckState::Down, now);
        self.down.store(true, Ordering::Relaxed);
    }
}

/// Checks one backend for as long as the process lives.
///
/// # Cancel safety
/// Dropping it stops the checks; what is known stays as it is.
pub(crate) async fn watch(backend: Arc<Backend>, rules: ChecksSection) {
    let mut random = fastrand::Rng::new();
    loop {
        let check = check(&backend, &rules).await;
        let pause = take_in(&backend, &rules, &check, Instant::now(), &mut random);
        backend.upstream.sweep(Instant::now());
        tokio::select! {
            () = sleep(pause) => {}
            () = asked_for(&backend) => {}
        }
    }
}

async fn asked_for(backend: &Backend) {
    sleep(CHECK_PAUSE_MIN).await;
    backend.check_now.notified().await;
}

/// Remembers a result, tells the breaker, and gives the pause before the next check.
fn take_in(
    backend: &Backend,
    rules: &ChecksSection,
    check: &Check,
    now: Instant,
    random: &mut fastrand::Rng,
) -> Duration {
    let mut snapshot = backend.health.lock();
    let changed = snapshot.record(check, rules, now);
    let pause = snapshot.pause(rules, random);
    snapshot.next_check = now + pause;
    let state = snapshot.state;
    drop(snapshot);
    backend.health.down.store(state == CheckState::Down, Ordering::Relaxed);
    match check {
        // It came back, on a connection of its own: no user has to find that out again.
        Check::Good { .. } if changed => {
            for _ in 0..GOOD_NEWS_MAX {
                if backend.breaker.state(now) == BreakerState::Closed {
                    break;
                }
                backend.breaker.probe_succeeded(now);
            }
        }
        Check::Good { .. } => backend.breaker.probe_succeeded(now),
        Check::Silent(_) if state == CheckState::Down => backend.breaker.probe_failed(now, now + pause),
        Check::Silent(_) | Check::NotReady { .. } => {}
    }
    if changed {
        meters::backend_state(backend.upstream.label, state);
        if state == CheckState::Down {
            backend.upstream.forget_connections();
        }
        if state == CheckState::Down && matches!(check, Check::Silent(_)) {
            backend.health.fell_silent.notify_waiters();
        }
        tracing::info!(
            backend = backend.upstream.label,
            state = state.as_str(),
            check = check.code(),
            "backend changed"
        );
    }
    pause
}

async fn check(backend: &Backend, rules: &ChecksSection) -> Check {
    timeout(rules.timeout, ask(backend, &rules.path)).await.unwrap_or(Check::Silent("timed-out"))
}

/// One check on a connection of its own, because whether one can be opened is half of the question.
async fn ask(backend: &Backend, path: &str) -> Check {
    let authority = &backend.upstream.authority;
    let Ok(stream) = TcpStream::connect((authority.host.as_str(), authority.port)).await else {
        return Check::Silent("no-connection");
    };
    let handshake = hyper::client::conn::http1::Builder::new()
        .max_buf_size(DOCUMENT_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await;
    let Ok((mut sender, connection)) = handshake else { return Check::Silent("no-connection") };
    let Some(request) = request(path, &authority.text) else { return Check::Silent("bad-path") };
    let exchange = async move {
        let answer = sender.send_request(request).await.ok()?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), DOCUMENT_BYTES_MAX).collect().await;
        let mode = body.ok().and_then(|body| mode(&body.to_bytes()));
        Some(if status.is_success() {
            Check::Good { mode }
        } else {
            Check::NotReady { status: status.as_u16(), mode }
        })
    };
    tokio::pin!(connection, exchange);
    // The connection is driven here rather than in a task, so that nothing outlives a check that timed out.
    let mut is_over = false;
    loop {
        tokio::select! {
            biased;
            result = &mut exchange => return result.unwrap_or(Check::Silent("no-answer")),
            _ = &mut connection, if !is_over => is_over = true,
        }
    }
}

fn request(path: &str, host: &str) -> Option<Request<Empty<bytes::Bytes>>> {
    Request::builder()
        .uri(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, HeaderValue::from_static("ridethrough-proxy-check"))
        .header(header::CONNECTION, HeaderValue::from_static("close"))
        .body(Empty::new())
        .ok()
}

/// The word after `mode`, where the body is a health document. Words that cannot be one are passed over.
fn mode(body: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(body).ok()?;
    let mode = document.get("mode")?.as_str()?;
    let is_word =
        (1..=32).contains(&mode.len()) && mode.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    is_word.then(|| mode.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Check {
        Check::Good { mode: Some("normal".into()) }
    }

    #[test]
    fn two_bad_checks_take_it_down_and_one_good_brings_it_up() {
        let (rules, now) = (ChecksSection::default(), Instant::now());
        let mut health = Snapshot::new(now);
        assert!(health.record(&good(), &rules, now));
        assert_eq!(health.state, CheckState::Up);
        assert!(!health.record(&Check::Silent("no-connection"), &rules, now));
        assert!(health.record(&Check::NotReady { status: 503, mode: None }, &rules, now));
        assert_eq!(health.state, CheckState::Down);
        assert!(health.record(&good(), &rules, now));
        assert_eq!(health.mode.as_deref(), Some("normal"));
    }

    #[test]
    fn a_single_bad_check_between_good_ones_changes_nothing() {
        let (rules, now) = (ChecksSection::default(), Instant::now());
        let mut health = Snapshot::new(now);
        health.record(&good(), &rules, now);
        for _ in 0..5 {
            assert!(!health.record(&Check::Silent("timed-out"), &rules, now));
            assert!(!health.record(&good(), &rules, now));
        }
    }

    #[test]
    fn bad_news_is_checked_sooner_and_pauses_stay_bounded() {
        let (rules, now) = (ChecksSection::default(), Instant::now());
        let mut random = fastrand::Rng::with_seed(1);
        let mut health = Snapshot::new(now);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            health.record(&Check::Silent("no-connection"), &rules, now);
            pauses.push(health.pause(&rules, &mut random).as_millis());
        }
        assert!(pauses[0] < 280 && (450..=550).contains(&pauses[1]), "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= 1_100), "{pauses:?}");
        let different: std::collections::HashSet<_> = pauses.iter().skip(2).collect();
        assert!(different.len() > 1, "no jitter: {pauses:?}");
    }

    #[test]
    fn the_mode_is_taken_from_any_document_that_has_one() {
        assert_eq!(mode(br#"{"status":"warn","mode":"read-only"}"#).as_deref(), Some("read-only"));
        for body in [&b"ok"[..], b"{}", br#"{"mode":7}"#, br#"{"mode":"<script>"}"#, b""] {
            assert_eq!(mode(body), None);
        }
    }
}
