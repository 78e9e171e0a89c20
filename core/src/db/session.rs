//! A session: one connection to one host, with all that must be known to trust it with the next request.
//!
//! It is made by the dialler and lent by the pool; it decides neither when it is made nor when it ends.

mod ear;
#[cfg(test)]
pub(super) mod fake;
mod frames;
mod heard;
mod limit;

use std::{future::poll_fn, ops::Deref, sync::Arc, time::Duration};

use deadpool_postgres::ClientWrapper;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
    time::Instant,
};
use tokio_postgres::{AsyncMessage, Client, Config, SimpleQueryMessage, SimpleQueryRow};

pub(crate) use self::ear::{Ear, Mark};
pub(super) use self::heard::{Heard, Settled};
pub(crate) use self::limit::Limit;
use super::{
    config::{PoolConfig, Pooler},
    connector::BoxStream,
};

/// A session of the pool.
#[derive(Debug)]
pub(crate) struct Session {
    client: ClientWrapper,
    ear: Arc<Ear>,
    identity: Identity,
    limit: Limit,
    /// How many losses of the host had been confirmed when it was made.
    pub(super) epoch: u64,
    /// How many doubts had been raised about the host when it last answered.
    pub(super) doubts: u64,
    /// When it last came back from a user who was content with it.
    pub(super) idle_since: Instant,
    /// When it is old enough to be replaced.
    pub(super) retire_at: Instant,
    /// How long it may lie idle.
    pub(super) idle_max: Duration,
}

/// What a host said of itself at the start of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Identity {
    /// It is a standby.
    pub(crate) in_recovery: bool,
    /// Its transactions only read unless they ask for more.
    pub(crate) read_only: bool,
    /// The number that all copies of one database cluster share; `None` where the role may not ask.
    pub(crate) system_identifier: Option<u64>,
    /// Goes up with every promotion; `None` where the role may not ask. A standby's may lag by one checkpoint.
    pub(crate) timeline: Option<u32>,
    /// When the server was started, in microseconds since 1970; `None` where the role may not ask.
    pub(crate) started_us: Option<u64>,
    /// As `server_version_num`: 150018 is 15.18; 0 where it did not say.
    pub(crate) version: u32,
}

/// A connection that has been set up and belongs to nobody yet. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Dialled {
    client: Client,
    driver: Driver,
    pub(crate) ear: Arc<Ear>,
    pub(crate) identity: Identity,
}

/// The task that moves the bytes of one connection; ends with its handle.
#[derive(Debug)]
struct Driver(Option<JoinHandle<()>>);

/// What is done with each notice that a session hears: its channel and its text. It must be quick.
pub(super) type OnNotice = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// How the start of a session ended that did not succeed.
pub(super) type StartError = tokio_postgres::Error;

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}

impl Dialled {
    /// Greets the server over `stream`, proves who we are, sets the session up, and asks who it is: the last two in one
    /// round trip.
    pub(super) async fn greet(
        (stream, binding): (BoxStream, Option<Vec<u8>>),
        host: usize,
        config: &Config,
        setup: &Setup,
        on_notice: Option<OnNotice>,
    ) -> Result<Self, StartError> {
        let ear = Arc::new(Ear::new(host));
        let heard = Heard::new(stream, Arc::clone(&ear), binding);
        let (client, connection) = config.connect_raw(heard, Settled).await?;
        let task = tokio::spawn(async move {
            let ended = match on_notice {
                Some(on_notice) => hear_notices(connection, on_notice).await,
                None => connection.await,
            };
            if let Err(error) = ended {
                let code = error.code().map(|code| code.code().to_owned());
                tracing::debug!(code, host, "a database connection ended");
            }
        });
        let driver = Driver(Some(task));
        let identity = setup.run(&client).await?;
        Ok(Self { client, driver, ear, identity })
    }

    /// The driver's parts, for a connection outside of the pool.
    pub(crate) fn into_parts(mut self) -> (Client, JoinHandle<()>) {
        let task = self.driver.0.take().expect("a dialled connection has its task until it is taken apart");
        (self.client, task)
    }

    /// A session of the pool, made at `now`.
    pub(super) fn into_session(self, epoch: u64, doubts: u64, now: Instant, life: Life) -> Session {
        let (ear, identity) = (Arc::clone(&self.ear), self.identity);
        let (client, driver) = self.into_parts();
        Session {
            client: ClientWrapper::new(client, driver),
            ear,
            identity,
            limit: Limit::new(now),
            epoch,
            doubts,
            idle_since: now,
            retire_at: now + life.whole,
            idle_max: life.idle,
        }
    }
}

/// Moves the bytes as the connection does by itself, which throws notices away.
async fn hear_notices<S, T>(
    mut connection: tokio_postgres::Connection<S, T>,
    on_notice: OnNotice,
) -> Result<(), StartError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notification(notice) = message? {
            on_notice(notice.channel(), notice.payload());
        }
    }
    Ok(())
}

/// How long a session may live, and lie idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) whole: Duration,
    pub(super) idle: Duration,
}

impl Life {
    /// Spread by `random` (0 to 1), so that sessions made together do not end together: 80 to 90 % of the lifetime, and
    /// half to all of the idle time.
    pub(super) fn drawn(config: &PoolConfig, random: f64) -> Self {
        Self {
            whole: config.lifetime.mul_f64(0.8 + random / 10.0),
            idle: config.idle.mul_f64(0.5 + random / 2.0),
        }
    }
}

impl Session {
    /// What the host said of itself when the session began.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The client to ask with, and the timer to ask by.
    pub(crate) fn asking(&mut self) -> (&ClientWrapper, &mut Limit) {
        (&self.client, &mut self.limit)
    }

    /// What was sent and heard on it.
    pub(crate) fn ear(&self) -> &Arc<Ear> {
        &self.ear
    }

    /// Forgets the prepared statements.
    pub(crate) fn forget_statements(&self) {
        self.client.statement_cache.clear();
    }
}

impl Deref for Session {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.client
    }
}

/// What is said at the start of each session.
#[derive(Debug)]
pub(super) struct Setup {
    /// Settings, then the question who the host is.
    whole: String,
    /// The same with what every role may ask.
    modest: String,
    /// The role was found not to be allowed the whole.
    is_modest: std::sync::atomic::AtomicBool,
}

impl Setup {
    pub(super) fn new(config: &PoolConfig) -> Self {
        const ROLE: &str = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only'), \
                            current_setting('server_version_num')";
        // A standby learns of a new timeline by the checkpoints of its primary; a primary knows its own at once.
        const CLUSTER: &str = ", (SELECT system_identifier FROM pg_control_system()), \
                               CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint()) \
                               ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END, \
                               (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint";
        // What is set on a pooler's connection stays there for whoever gets it next.
        let settings = match config.pooler {
            Pooler::None => settings(config),
            Pooler::PgBouncer => String::new(),
        };
        Self {
            whole: format!("{settings}{ROLE}{CLUSTER}"),
            modest: format!("{settings}{ROLE}"),
            is_modest: false.into(),
        }
    }

    async fn run(&self, client: &Client) -> Result<Identity, StartError> {
        use std::sync::atomic::Ordering;
        if !self.is_modest.load(Ordering::Relaxed) {
            match client.simple_query(&self.whole).await {
                Ok(messages) => return Ok(identity(&messages)),
                // Not allowed, or a server that does not have them: a role must not be kept out for that.
                Err(error) if error.code().is_some_and(|code| code.code().starts_with("42")) => {
                    self.is_modest.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(identity(&client.simple_query(&self.modest).await?))
    }
}

/// Sets what this server knows: `client_connection_check_interval` came with version 14.
fn settings(config: &PoolConfig) -> String {
    let settings = [
        ("statement_timeout", config.statement),
        ("lock_timeout", config.lock),
        ("idle_in_transaction_session_timeout", config.idle_in_transaction),
        // A server notices that nobody waits for the answer any more, and stops working for it.
        ("client_connection_check_interval", Duration::from_secs(1)),
    ];
    let values: Vec<String> =
        settings.iter().map(|(name, limit)| format!("('{name}', '{}')", limit.as_millis())).collect();
    // Replay lets go of an entry when its COMMIT is answered, so that answer must mean that it is on disk.
    format!(
        "SELECT set_config(name, wanted, false) FROM (VALUES {}) AS wish(name, wanted) \
         WHERE name IN (SELECT name FROM pg_settings); \
         SELECT set_config('synchronous_commit', 'on', false) \
         WHERE current_setting('synchronous_commit') = 'off'; ",
        values.join(", ")
    )
}

/// The last row is the answer to who the host is.
fn identity(messages: &[SimpleQueryMessage]) -> Identity {
    let row = messages.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let text = |at: usize| row.and_then(|row: &SimpleQueryRow| row.try_get(at).ok().flatten());
    Identity {
        in_recovery: text(0) == Some("t"),
        read_only: text(1) == Some("on"),
        version: text(2).and_then(|version| version.parse().ok()).unwrap_or_default(),
        // The server shows it as a signed number, though it is none.
        system_identifier: text(3).and_then(|number| number.parse::<i64>().ok()).map(i64::cast_unsigned),
        timeline: text(4).and_then(|number| number.parse().ok()),
        started_us: text(5).and_then(|number| number.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_are_spread_within_their_bounds() {
        let config = PoolConfig::default();
        let (short, long) = (Life::drawn(&config, 0.0), Life::drawn(&config, 1.0));
        assert_eq!((short.whole, long.whole), (config.lifetime.mul_f64(0.8), config.lifetime.mul_f64(0.9)));
        assert_eq!((short.idle, long.idle), (config.idle / 2, config.idle));
    }

    #[test]
    fn nothing_is_set_behind_a_pooler() {
        let setup = Setup::new(&PoolConfig { pooler: Pooler::PgBouncer, ..PoolConfig::default() });
        assert!(setup.whole.starts_with("SELECT pg_is_in_recovery()"));
        assert!(!setup.whole.contains("set_config"));
    }

    /// The driver keeps what a server says before it is ready, and only the time of the dial put an end to that: a server
    /// that talks fast filled the memory of the service within one dial.
    #[tokio::test(start_paused = true)]
    async fn a_greeting_of_notices_without_end_is_given_up() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        const NOTICE: &[u8] = b"N\0\0\0\x23SNOTICE\0VNOTICE\0C00000\0Mhello\0\0";
        const ENOUGH: usize = 4 * 1024 * 1024;
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let talking = async {
            let mut start = [0; 1];
            theirs.read_exact(&mut start).await.unwrap();
            theirs.write_all(b"R\0\0\0\x08\0\0\0\0").await.unwrap();
            let mut said = 0;
            while said < ENOUGH && theirs.write_all(NOTICE).await.is_ok() {
                said += NOTICE.len();
            }
            said
        };
        let (config, setup) =
            ("host=db user=app sslmode=disable".parse().unwrap(), Setup::new(&PoolConfig::default()));
        let greeting = Dialled::greet((Box::new(ours), None), 0, &config, &setup, None);
        let greeting = tokio::time::timeout(Duration::from_secs(3), greeting);
        let (said, greeted) = futures_util::future::join(talking, greeting).await;
        let given_up = greeted.expect("only the time of the dial ended it");
        assert!(given_up.is_err() && said < ENOUGH / 4, "{said} bytes were taken");
    }
}
