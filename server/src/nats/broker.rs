//! A connection to NATS JetStream, and events put onto it. It decides neither when nor how often: that is the publisher's.

use std::{io, path::Path, time::Duration};

use async_nats::{
    ConnectErrorKind, ConnectOptions, ReconnectToServer, ServerAddr,
    jetstream::{
        Context,
        context::{ContextBuilder, PublishErrorKind},
        message::PublishMessage,
    },
};

use super::{NatsSection, outbox::Event};

const CONNECT_MAX: Duration = Duration::from_secs(2);
const ACK_MAX: Duration = Duration::from_secs(2);
/// The broker lets this role hear nothing else (`deploy/nats/server.conf`).
const INBOX: &str = "_INBOX_publisher";
const JWT: &str = "BEGIN NATS USER JWT";

/// Why nothing was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection to any broker.
    Connect,
    /// The broker does not know who this is, or the file with that cannot be read.
    Credentials,
    /// TLS came to nothing.
    Tls,
    /// The broker did not confirm in time.
    Timeout,
    /// The connection broke.
    Lost,
    /// There is no such stream, or JetStream is away.
    NoStream,
    /// The broker said no.
    Refused,
}

impl Failure {
    /// The label in metrics and logs.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Credentials => "credentials",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Lost => "lost",
            Self::NoStream => "no-stream",
            Self::Refused => "refused",
        }
    }

    fn of_connecting(kind: ConnectErrorKind) -> Self {
        match kind {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => Self::Credentials,
            ConnectErrorKind::Tls => Self::Tls,
            ConnectErrorKind::TimedOut => Self::Timeout,
            _ => Self::Connect,
        }
    }

    fn of_publishing(kind: PublishErrorKind) -> Self {
        match kind {
            PublishErrorKind::TimedOut => Self::Timeout,
            PublishErrorKind::BrokenPipe => Self::Lost,
            PublishErrorKind::StreamNotFound => Self::NoStream,
            _ => Self::Refused,
        }
    }
}

/// One event that the broker has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) place: i64,
    /// It had it already.
    pub(super) known: bool,
}

/// A connection. One that failed is dropped and never used again: what it still held back would come late, behind events
/// that another connection, or another replica, has published since.
pub(super) struct Broker {
    context: Context,
    stream: String,
    subject_prefix: String,
}

impl Broker {
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    pub(super) async fn connect(section: &NatsSection) -> Result<Self, Failure> {
        let addresses: Vec<ServerAddr> =
            section.urls().map(str::parse).collect::<Result<_, _>>().map_err(|_| Failure::Connect)?;
        let options = match &section.credentials_file {
            Some(file) => credentials(file).await.map_err(|_| Failure::Credentials)?,
            None => ConnectOptions::new(),
        };
        let options = match &section.ca_file {
            Some(file) => options.add_root_certificates(file.clone()),
            None => options,
        };
        let options = options
            .name("ridethrough-server")
            .custom_inbox_prefix(INBOX)
            .connection_timeout(CONNECT_MAX)
            .ignore_discovered_servers()
            // By itself the client would come back for ever. It may try each once; then the publisher's breaker decides.
            .max_reconnects(addresses.len().max(1))
            .reconnect_to_server_callback(|servers, _| async move {
                let least_tried = servers.into_iter().min_by_key(|server| server.failed_attempts);
                least_tried.map(|server| ReconnectToServer { addr: server.addr, delay: Some(Duration::ZERO) })
            });
        let client =
            options.connect(addresses).await.map_err(|error| Failure::of_connecting(error.kind()))?;
        Ok(Self {
            context: ContextBuilder::new().timeout(ACK_MAX).build(client),
            stream: section.stream.clone(),
            subject_prefix: section.subject_prefix.clone(),
        })
    }

    /// Puts all events of a wave onto the wire and waits for the broker's word on each; `stored` gets what it confirmed,
    /// also where others failed.
    ///
    /// # Cancel safety
    /// What was on its way may be stored without anybody knowing; published again it has the same id.
    pub(super) async fn publish(&self, wave: &[&Event], stored: &mut Vec<Stored>) -> Result<(), Failure> {
        let mut waiting = Vec::with_capacity(wave.len());
        for event in wave {
            let subject = format!("{}.{}", self.subject_prefix, event.kind);
            let message = PublishMessage::build()
                .payload(event.payload().into())
                .message_id(event.id.to_string())
                .expected_stream(&self.stream);
            let sent = self.context.send_publish(subject, message).await;
            waiting.push((event.place, sent.map_err(|error| Failure::of_publishing(error.kind()))?));
        }
        let mut failure = None;
        for (place, acknowledged) in waiting {
            match acknowledged.await {
                Ok(ack) => stored.push(Stored { place, known: ack.duplicate }),
                Err(error) => failure = failure.or(Some(Failure::of_publishing(error.kind()))),
            }
        }
        failure.map_or(Ok(()), Err)
    }
}

/// What a file with credentials says.
async fn credentials(file: &Path) -> io::Result<ConnectOptions> {
    let text = tokio::fs::read_to_string(file).await?;
    if text.contains(JWT) {
        return ConnectOptions::with_credentials(&text);
    }
    let line = text.trim();
    match line.split_once(':') {
        Some((user, password)) => {
            Ok(ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned()))
        }
        None if line.starts_with("SU") => Ok(ConnectOptions::with_nkey(line.to_owned())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}
