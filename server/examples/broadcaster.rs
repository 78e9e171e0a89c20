//! A consumer of the events that the server publishes (feature `nats`): posts each as a webhook, one after the other, so that
//! those of one todo keep their order.
//!
//!     NATS_URL=nats://127.0.0.1:4222 NATS_CREDENTIALS_FILE=broadcaster.credentials \
//!         WEBHOOK_URL=http://127.0.0.1:9000/hook \
//!         cargo run -p ridethrough-server --features nats --example broadcaster -- 127.0.0.1:9092
//!
//! Metrics and probes are on that address: `broadcaster_messages_processed_total` and `broadcaster_webhook_errors_total`
//! beside those of the library. An event is acknowledged once its receiver has answered 2xx, so it arrives at least once; the
//! header `Idempotency-Key` is its id, by which a receiver knows it again. A receiver that is away is waited for; one that
//! answers 4xx will never take that event, so it is given up. It speaks plain HTTP: what encrypts stands before the receiver.

use std::{
    env,
    error::Error,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_nats::{
    ConnectOptions,
    jetstream::{self, AckKind, Message, consumer::PullConsumer},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use ridethrough::{
    Deadline,
    error::ErrorClass,
    guard::{Guard, GuardConfig, GuardError},
    health::{Health, Reads, Status, Writes},
    http::{HealthReport, Probes, Verbosity},
    judgement::{Judgement, Repeatable},
    mode::Mode,
    service::{self, Admin, LogFormat, Signal, Signals},
};
use serde_json::Value;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

const STREAM: &str = "TODOS";
const CONSUMER: &str = "broadcaster";
/// The broker lets this role hear nothing else (`deploy/nats/server.conf`).
const INBOX: &str = "_INBOX_broadcaster";
/// For one event with its retries; less than the consumer's `ack_wait`, after which the broker would send it once more.
const POST_MAX: Duration = Duration::from_secs(4);
const ATTEMPT_MAX: Duration = Duration::from_secs(1);
/// After an event that could not be posted, and between attempts to reach the broker.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long one question for more waits at the broker.
const ASK_MAX: Duration = Duration::from_secs(5);
const PROCESSED: &str = "broadcaster_messages_processed_total";
const ERRORS: &str = "broadcaster_webhook_errors_total";

/// Where events are posted, and the guards around it.
struct Webhook {
    url: Uri,
    authority: String,
    guard: Guard,
}

/// The receiver did not take an event.
enum NotTaken {
    Unreachable,
    Status(StatusCode),
}

impl Webhook {
    fn new(url: &str) -> Result<Self, Box<dyn Error>> {
        let url: Uri = url.parse()?;
        let authority = url.authority().filter(|_| url.scheme_str() == Some("http"));
        let authority = authority.ok_or("WEBHOOK_URL must begin with http:// and a host")?;
        let authority = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        let config = GuardConfig { attempt: ATTEMPT_MAX, ..GuardConfig::default() };
        Ok(Self { url, authority, guard: Guard::new("webhook", config) })
    }

    /// One attempt. Dropped, it closes its connection.
    async fn post(&self, id: &str, event: Bytes) -> Result<(), NotTaken> {
        let stream = TcpStream::connect(&self.authority).await.map_err(|_| NotTaken::Unreachable)?;
        let connected = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = connected.map_err(|_| NotTaken::Unreachable)?;
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::post(path)
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header("Idempotency-Key", id)
            .body(Full::new(event))
            .map_err(|_| NotTaken::Unreachable)?;
        let status = tokio::select! {
            biased;
            answer = sender.send_request(request) => answer.map_err(|_| NotTaken::Unreachable)?.status(),
            _ = connection => return Err(NotTaken::Unreachable),
        };
        if status.is_success() { Ok(()) } else { Err(NotTaken::Status(status)) }
    }

    /// Posts one event until its receiver has taken it, or never will.
    async fn deliver(&self, message: &Message) -> Result<(), async_nats::Error> {
        let headers = message.headers.as_ref();
        let id = headers.and_then(|headers| headers.get(async_nats::header::NATS_MESSAGE_ID));
        let id = id.map_or("", |id| id.as_str());
        loop {
            let deadline = Deadline::after(Instant::now(), POST_MAX);
            let posted =
                self.guard.call(deadline, |_| self.post(id, message.payload.clone()), &Repeatable(judge));
            let Err(failed) = posted.await else {
                metrics::counter!(PROCESSED, "outcome" => "posted").increment(1);
                return message.ack_with(AckKind::Ack).await;
            };
            let (reason, is_final) = reason(&failed);
            metrics::counter!(ERRORS, "reason" => reason).increment(1);
            if is_final {
                tracing::error!(id, "the receiver refuses this event for good; it is given up");
                metrics::counter!(PROCESSED, "outcome" => "given-up").increment(1);
                return message.ack_with(AckKind::Term).await;
            }
            // Somebody is at it: the broker need not send it to another one.
            message.ack_with(AckKind::Progress).await?;
            sleep(failed.retry_after().unwrap_or_default().clamp(PAUSE, PAUSE_MAX)).await;
        }
    }
}

/// An event that is posted twice does no harm, so whatever may pass is tried again.
fn judge(result: &Result<(), NotTaken>) -> Judgement {
    match result {
        Ok(()) => Judgement::SUCCESS,
        Err(NotTaken::Unreachable) => Judgement::of(ErrorClass::Unknown),
        Err(NotTaken::Status(status)) if may_pass(*status) => Judgement::of(ErrorClass::Transient),
        Err(NotTaken::Status(_)) => Judgement::of(ErrorClass::Permanent),
    }
}

fn may_pass(status: StatusCode) -> bool {
    use StatusCode as Code;
    !status.is_client_error()
        || matches!(status, Code::REQUEST_TIMEOUT | Code::TOO_EARLY | Code::TOO_MANY_REQUESTS)
}

/// The label of a failure, and whether it is for good.
fn reason(failed: &GuardError<NotTaken>) -> (&'static str, bool) {
    match failed {
        GuardError::Failed { source: NotTaken::Unreachable, .. } => ("unreachable", false),
        GuardError::Failed { source: NotTaken::Status(status), .. } if may_pass(*status) => ("status", false),
        GuardError::Failed { source: NotTaken::Status(_), .. } => ("refused", true),
        GuardError::Timeout { .. } => ("timeout", false),
        _ => ("held-back", false),
    }
}

/// One connection to the broker, until it breaks.
async fn consume(webhook: &Webhook, is_connected: &AtomicBool) -> Result<(), async_nats::Error> {
    let options = match env::var("NATS_CREDENTIALS_FILE") {
        Ok(file) => {
            let text = tokio::fs::read_to_string(file).await?;
            let (user, password) = text.trim().split_once(':').ok_or("that file has no user:password")?;
            ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned())
        }
        Err(_) => ConnectOptions::new(),
    };
    let client = options.name(CONSUMER).custom_inbox_prefix(INBOX).connect(env::var("NATS_URL")?).await?;
    let consumer: PullConsumer = jetstream::new(client).get_consumer_from_stream(CONSUMER, STREAM).await?;
    is_connected.store(true, Ordering::Relaxed);
    loop {
        // One at a time: the next one is not asked for before this one is done.
        let mut messages = consumer.batch().max_messages(1).expires(ASK_MAX).messages().await?;
        // The broker may be gone with the question.
        while let Ok(Some(message)) = timeout(ASK_MAX + PAUSE_MAX, messages.next()).await {
            webhook.deliver(&message?).await?;
        }
    }
}

/// Ready is who has a broker; it is alive in any case.
fn report(is_connected: bool, since: SystemTime) -> HealthReport {
    let (status, mode, broker) = match is_connected {
        true => (Status::Pass, Mode::Normal, "up"),
        false => (Status::Fail, Mode::Degraded, "away"),
    };
    let (reads, writes) = (Reads::None, Writes::None);
    let health = Health { live: true, ready: is_connected, started: true, status, mode, reads, writes };
    HealthReport { health, since, retry_after: None, checks: vec![("broker", broker)] }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address: SocketAddr = env::args().nth(1).ok_or("say on which address metrics are told")?.parse()?;
    let webhook = Webhook::new(&env::var("WEBHOOK_URL")?)?;
    let mut signals = Signals::new()?;
    let filter = env::var("BROADCASTER_LOG").unwrap_or("info".to_owned());
    service::install_tracing(LogFormat::Json, &filter, &[CONSUMER])?;
    let is_connected = Arc::new(AtomicBool::new(false));
    let (seen, since) = (Arc::clone(&is_connected), SystemTime::now());
    let probes = Probes::new(env!("CARGO_PKG_VERSION"), Verbosity::Full, move || {
        report(seen.load(Ordering::Relaxed), since)
    });
    let handle = service::install_metrics()?;
    metrics::describe_counter!(PROCESSED, "Events that were posted, or given up.");
    metrics::describe_counter!(ERRORS, "Failures to post an event, retries left aside, by reason.");
    for outcome in ["posted", "given-up"] {
        metrics::counter!(PROCESSED, "outcome" => outcome).increment(0);
    }
    for reason in ["unreachable", "status", "refused", "timeout", "held-back"] {
        metrics::counter!(ERRORS, "reason" => reason).increment(0);
    }
    let admin = Admin::new(&probes, handle, || Value::Null, || Value::Null).start(address)?;
    tracing::info!(admin = %admin.address, "listening");
    let consuming = async {
        loop {
            let ended = consume(&webhook, &is_connected).await;
            is_connected.store(false, Ordering::Relaxed);
            if let Err(error) = ended {
                tracing::warn!(%error, "the broker is away; it is tried again");
            }
            sleep(PAUSE).await;
        }
    };
    let stopped = async { while signals.next().await != Signal::Stop {} };
    // What is in progress was not acknowledged, so the broker sends it to the next one.
    tokio::select! {
        () = consuming => {}
        () = stopped => tracing::info!("stopped"),
    }
    Ok(())
}
