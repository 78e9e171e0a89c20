//! A NATS server with JetStream for a test, under the very configuration that `deploy/nats` has for operators: killed,
//! stopped, started again on the same data. It knows who may come in, not what is said.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use async_nats::{
    Client, ConnectOptions,
    jetstream::{self, consumer::pull, stream},
};
use ridethrough_chaos::RunFolder;
use rustix::process::Signal;

use crate::{
    daemon::{self, Daemon},
    launch::free_address,
    until,
};

const START_LIMIT: Duration = Duration::from_secs(20);
const END_LIMIT: Duration = Duration::from_secs(10);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Where the configuration has the data of a real broker.
const DATA: &str = "/var/lib/nats";
/// The stream and the durable consumer for which the configuration has subjects.
pub const STREAM: &str = "TODOS";
/// See [`STREAM`].
pub const CONSUMER: &str = "broadcaster";

/// A broker on a port of its own. Killed when it goes.
#[derive(Debug)]
pub struct Nats {
    folder: RunFolder,
    program: PathBuf,
    address: SocketAddr,
    args: Vec<String>,
    lives: usize,
    daemon: Option<Daemon>,
}

/// Who comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// The todo server.
    Publisher,
    /// The consumer.
    Broadcaster,
    /// A person.
    Operator,
}

impl User {
    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Publisher => "publisher",
            Self::Broadcaster => "broadcaster",
            Self::Operator => "operator",
        }
    }

    fn password(self) -> String {
        format!("sesame-of-the-{}", self.name())
    }

    fn inbox(self) -> &'static str {
        match self {
            Self::Publisher => "_INBOX_publisher",
            Self::Broadcaster => "_INBOX_broadcaster",
            Self::Operator => "_INBOX",
        }
    }
}

impl Nats {
    /// A broker below the run folder; not started. `None` where it is not installed.
    ///
    /// # Panics
    /// Where its folder cannot be made.
    #[must_use]
    pub fn below(folder: &RunFolder) -> Option<Self> {
        let program = daemon::find("nats-server")?;
        let home = daemon::home(folder, "nats");
        let configuration = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/nats/server.conf");
        let text = std::fs::read_to_string(configuration).expect("the configuration lies in the repository");
        let data = daemon::home(folder, "nats-data").display().to_string();
        assert!(text.contains(DATA), "the configuration keeps its data in {DATA}");
        daemon::write_private(&home.join("server.conf"), &text.replace(DATA, &data));
        let address = free_address();
        let args = [
            "-c".to_owned(),
            home.join("server.conf").display().to_string(),
            "-a".to_owned(),
            address.ip().to_string(),
            "-p".to_owned(),
            address.port().to_string(),
        ];
        let folder = folder.clone();
        Some(Self { folder, program, address, args: args.into(), lives: 0, daemon: None })
    }

    /// Has it speak TLS with this certificate and key from its next start on.
    pub fn encrypt(&mut self, certificate: &Path, key: &Path) {
        let paths = [certificate, key].map(|path| path.display().to_string());
        let [certificate, key] = paths;
        self.args.extend([
            "--tls".to_owned(),
            "--tlscert".to_owned(),
            certificate,
            "--tlskey".to_owned(),
            key,
        ]);
    }

    /// Starts it, and waits until it answers.
    ///
    /// # Panics
    /// Where it does not.
    ///
    /// # Cancel safety
    /// A drop leaves it starting.
    pub async fn start(&mut self) {
        self.lives += 1;
        let users = [User::Publisher, User::Broadcaster, User::Operator];
        let passwords =
            users.map(|user| (format!("NATS_{}_PASSWORD", user.name().to_uppercase()), user.password()));
        let env: Vec<(&str, &str)> =
            passwords.iter().map(|(name, password)| (name.as_str(), password.as_str())).collect();
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let name = format!("nats-{}", self.lives);
        let mut daemon = Daemon::start(&self.folder, &name, &self.program, &args, &env);
        daemon.listens(self.address, START_LIMIT).await;
        self.daemon = Some(daemon);
    }

    /// Ends it as a crash would.
    ///
    /// # Panics
    /// Where it lives on.
    ///
    /// # Cancel safety
    /// Once polled the kill has happened.
    pub async fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.signal(Signal::KILL);
            let _ = daemon.ended(END_LIMIT).await;
        }
    }

    /// Stops it in the middle of whatever it does; connections stay.
    pub fn hang(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(daemon) = &self.daemon {
            daemon.signal(signal);
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// A file with the credentials of a user.
    ///
    /// # Panics
    /// Where it cannot be written.
    #[must_use]
    pub fn credentials(&self, user: User) -> String {
        let file = self.folder.path().join(format!("{}.credentials", user.name()));
        std::fs::write(&file, format!("{}:{}\n", user.name(), user.password()))
            .expect("a file can be written");
        file.display().to_string()
    }

    /// A connection as a user, without TLS.
    ///
    /// # Panics
    /// Where it cannot be made.
    ///
    /// # Cancel safety
    /// A drop closes the connection.
    pub async fn client(&self, user: User) -> Client {
        until("a client comes in", CONNECT_LIMIT, async || {
            ConnectOptions::with_user_and_password(user.name().to_owned(), user.password())
                .custom_inbox_prefix(user.inbox())
                .connect(self.url())
                .await
                .ok()
        })
        .await
    }

    /// The stream and the consumer, as the documentation has an operator make them.
    ///
    /// # Panics
    /// Where they cannot be made.
    ///
    /// # Cancel safety
    /// What was made stays.
    pub async fn furnish(&self) {
        let context = jetstream::new(self.client(User::Operator).await);
        let config = stream::Config {
            name: STREAM.to_owned(),
            subjects: vec!["todos.>".to_owned()],
            storage: stream::StorageType::File,
            duplicate_window: Duration::from_secs(120),
            ..stream::Config::default()
        };
        // JetStream itself comes up a moment after the listener.
        until("JetStream makes a stream", START_LIMIT, async || {
            context.create_stream(config.clone()).await.ok()
        })
        .await;
        let consumer = pull::Config {
            durable_name: Some(CONSUMER.to_owned()),
            ack_wait: Duration::from_secs(5),
            max_ack_pending: 1,
            ..pull::Config::default()
        };
        let made = context.create_consumer_on_stream(consumer, STREAM).await;
        made.unwrap_or_else(|error| panic!("no consumer: {error}"));
    }
}
