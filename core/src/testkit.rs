//! A scripted fake PostgreSQL (feature `testkit`): test a service against an outage in milliseconds, without a database.
//!
//! [`FakePostgres`] speaks protocol 3 over streams in memory, so a test runs on tokio's paused clock: timeouts of seconds
//! pass at once, and always in the same order. It has real transactions (status bytes, 25P02, COMMIT answered by
//! ROLLBACK), the library's table of idempotency keys with its locks, and a script of faults for chosen moments. What
//! the library asks by itself it answers by itself; the statements of a service get their answers with [`Builder::on`].
//! Afterwards it tells what was really committed.
//!
//! It is no database: it keeps no rows of the service, and it looks at words where PostgreSQL parses. Tests against a real
//! PostgreSQL stay necessary, for the statements themselves.
//!
//! Unlike the rest of the library it spawns: one task for each connection, on the test's own runtime.
//!
//! # Example
//! The answer to COMMIT is lost. Was the order placed? A service that just tries again places it twice:
//!
//! ```
//! use ridethrough::testkit::{At, FakePostgres, Fault, Reply};
//! use tokio_postgres::{Client, Error};
//!
//! /// The function under test.
//! async fn place_order(client: &mut Client, item: &str) -> Result<(), Error> {
//!     let transaction = client.transaction().await?;
//!     transaction.execute("INSERT INTO orders (item) VALUES ($1)", &[&item]).await?;
//!     transaction.commit().await
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?.block_on(async {
//! let server = FakePostgres::builder()
//!     .on("INSERT INTO orders", Reply::touched(1))
//!     .fault(At::AfterCommit, Fault::Drop)
//!     .start();
//!
//! let mut client = server.client().await?;
//! let lost = place_order(&mut client, "milk").await.expect_err("the answer was lost");
//! assert!(lost.is_closed());
//! assert_eq!(server.committed("INSERT INTO orders"), 1, "and yet it happened");
//!
//! let mut client = server.client().await?;
//! place_order(&mut client, "milk").await?;
//! assert_eq!(server.committed("INSERT INTO orders"), 2, "twice");
//! # Ok::<(), Error>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod answers;
mod builder;
mod context;
#[cfg(test)]
mod crossed;
mod data;
mod execute;
mod journal;
mod notices;
mod operators;
mod reply;
mod script;
mod service;
mod session;
mod sql;
mod store;
mod stream;
mod strike;
mod text;
mod wire;
mod world;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
};
use tokio_postgres::{Client, Config, NoTls};

pub use self::{
    builder::Builder,
    journal::{TestJournal, journal_in_memory},
    reply::{Call, Cell, Reply, RowValues},
    script::{At, Fault},
    service::TestDb,
    store::MemoryStore,
    stream::ClientStream,
};
use self::{
    text::text_of,
    world::{Mode, Order, World, lock},
};

/// A fake PostgreSQL server. Clones are the same server; when the last is dropped, its connections end.
#[derive(Debug, Clone)]
pub struct FakePostgres {
    world: Arc<World>,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

/// What a server has counted since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Sessions begun, refused ones included.
    pub connections: u64,
    /// Sessions that exist now.
    pub open: u64,
    /// Messages of clients after startup: the moments of [`At::BeforeMessage`].
    pub messages: u64,
    /// Statements that arrived, those of transactions included.
    pub statements: u64,
    /// Transactions that were begun by BEGIN and committed.
    pub commits: u64,
    /// Transactions that were rolled back, lost connections included.
    pub rollbacks: u64,
    /// Cancel requests that arrived, whether or not they hit anything.
    pub cancels: u64,
}

impl FakePostgres {
    /// A server that takes everybody, version 15.18, to be changed before it starts.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// [`FakePostgres::builder`] started as it is.
    #[must_use]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A connection in memory, with the server's end served by a task of its own. In an [`outage`](Self::outage) it is
    /// reset at once. Must be called inside a tokio runtime.
    #[must_use]
    pub fn stream(&self) -> ClientStream {
        let (client, server) = stream::pair();
        let world = Arc::clone(&self.world);
        self.spawn(async move {
            if let Some(stream) = session::serve(world, server).await {
                stream.reset();
            }
        });
        client
    }

    /// As [`stream`](Self::stream), but as dialling behaves: refused in an outage.
    ///
    /// # Errors
    /// `ConnectionRefused` in an outage.
    pub fn dial(&self) -> io::Result<ClientStream> {
        if *self.world.mode.borrow() == Mode::Away {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(self.stream())
    }

    /// A client of the driver over a connection in memory, ready to use.
    ///
    /// # Errors
    /// Those of the driver: whatever the script does to the connection.
    ///
    /// # Cancel safety
    /// A dropped call closes its connection.
    pub async fn client(&self) -> Result<Client, tokio_postgres::Error> {
        let mut config = Config::new();
        config.user("app").dbname("app");
        if let Some(password) = &self.world.password {
            config.password(password);
        }
        let (client, connection) = config.connect_raw(self.stream(), NoTls).await?;
        self.spawn(async move {
            let _ = connection.await;
        });
        Ok(client)
    }

    /// Serves one connection of any kind to its end.
    ///
    /// # Cancel safety
    /// Dropping it ends the session, as a lost connection does.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) {
        let _ = session::serve(Arc::clone(&self.world), stream).await;
    }

    /// Listens on a free loopback port as well, for clients that only speak TCP; the address is the answer. Real sockets
    /// and a paused clock do not go together: the clock jumps ahead while bytes are on their way. In an outage
    /// connections are accepted and reset at once.
    ///
    /// # Errors
    /// Where no port can be had.
    ///
    /// # Cancel safety
    /// A dropped call listens nowhere.
    pub async fn listen(&self) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let world = Arc::clone(&self.world);
        self.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let world = Arc::clone(&world);
                sessions.spawn(async move {
                    if let Some(socket) = session::serve(world, socket).await {
                        // Closing with a linger time of zero sends RST.
                        let _ = socket.set_zero_linger();
                    }
                });
                while sessions.try_join_next().is_some() {}
            }
        });
        Ok(address)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

/// The script, and the state of the whole server, while a test runs.
impl FakePostgres {
    /// Puts a fault into the script, for the next such moment.
    pub fn fault(&self, at: At, fault: Fault) {
        self.fault_nth(at, 1, fault);
    }

    /// Puts a fault into the script, for the `nth` such moment from now, counted from 1.
    pub fn fault_nth(&self, at: At, nth: u64, fault: Fault) {
        lock(&self.world.script).add(at, nth, fault);
    }

    /// Puts a fault into the script, for every such moment from now.
    pub fn fault_always(&self, at: At, fault: Fault) {
        lock(&self.world.script).add_always(at, fault);
    }

    /// How many faults wait for a moment that did not come; a test that expects none of them checks for 0.
    #[must_use]
    pub fn faults_waiting(&self) -> usize {
        lock(&self.world.script).waiting()
    }

    /// Adds an answer; see [`Builder::on`]. Of two for the same beginning the later counts.
    pub fn on(&self, beginning: impl AsRef<str>, reply: Reply) {
        lock(&self.world.rules).push((sql::normal(beginning.as_ref()), reply));
    }

    /// The server is gone: connections break, transactions roll back, new connections are refused.
    pub fn outage(&self) {
        self.world.mode.send_replace(Mode::Away);
        self.world.order_all(&Order::Reset);
    }

    /// The server crashes and is back at once: connections break, open transactions roll back, and its statistics begin
    /// anew, by which the database path sees that transaction identifiers from before are not to be trusted.
    pub fn crash(&self) {
        lock(&self.world.role).crashes += 1;
        self.world.order_all(&Order::Reset);
    }

    /// The server stops in its tracks: nothing is answered, and new connections wait, until [`recover`](Self::recover). What
    /// was sent meanwhile is answered then.
    pub fn silence(&self) {
        self.world.mode.send_replace(Mode::Silent);
    }

    /// New sessions are refused with a FATAL error of this code, such as 57P03 or 53300; those that exist go on.
    pub fn refuse(&self, code: &'static str) {
        self.world.mode.send_replace(Mode::Refusing(code));
    }

    /// All is well again: ends outage, silence, refusal and read-only state, and clears the script. A standby stays one.
    pub fn recover(&self) {
        lock(&self.world.script).clear();
        lock(&self.world.role).read_only = false;
        self.world.mode.send_replace(Mode::Up);
    }

    /// Ends every session with a FATAL error of this code, such as 57P01, busy or idle.
    pub fn terminate_all(&self, code: impl Into<String>) {
        self.world.order_all(&Order::Fatal(code.into()));
    }

    /// Tells all sessions that listen on the channel, as another client would.
    pub fn notify(&self, channel: impl Into<String>, payload: impl Into<String>) {
        let notice = notices::Notice { process: 0, channel: channel.into(), payload: payload.into() };
        // Nobody listens at all.
        let _ = self.world.notices.send(notice);
    }

    /// Writes fail with 25006 until [`recover`](Self::recover).
    pub fn make_read_only(&self) {
        lock(&self.world.role).read_only = true;
    }

    /// A standby: in recovery, and read-only, until [`promote`](Self::promote).
    pub fn make_standby(&self) {
        lock(&self.world.role).in_recovery = true;
    }

    /// A primary on the next timeline.
    pub fn promote(&self) {
        let mut role = lock(&self.world.role);
        role.in_recovery = false;
        role.timeline += 1;
    }
}

/// What a test looks at afterwards.
impl FakePostgres {
    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let counters = &self.world.counters;
        Counts {
            connections: counters.connections.load(Ordering::Relaxed),
            open: lock(&self.world.sessions).len() as u64,
            messages: counters.messages.load(Ordering::Relaxed),
            statements: counters.statements.load(Ordering::Relaxed),
            commits: counters.commits.load(Ordering::Relaxed),
            rollbacks: counters.rollbacks.load(Ordering::Relaxed),
            cancels: counters.cancels.load(Ordering::Relaxed),
        }
    }

    /// How many statements that change something and begin with this were executed and committed.
    #[must_use]
    pub fn committed(&self, beginning: impl AsRef<str>) -> usize {
        let beginning = sql::normal(beginning.as_ref());
        lock(&self.world.data).committed().filter(|sql| sql.starts_with(&beginning)).count()
    }

    /// The statements that change something, begin with this and are committed, in the order in which their transactions
    /// were; blanks and letter case are as the server compares them.
    #[must_use]
    pub fn committed_statements(&self, beginning: impl AsRef<str>) -> Vec<String> {
        let beginning = sql::normal(beginning.as_ref());
        let data = lock(&self.world.data);
        data.committed().filter(|sql| sql.starts_with(&beginning)).map(str::to_owned).collect()
    }

    /// The idempotency keys that are committed, in order of their names.
    #[must_use]
    pub fn committed_keys(&self) -> Vec<String> {
        lock(&self.world.data).keys().map(|(key, _)| key.to_owned()).collect()
    }

    /// The idempotency keys whose transaction was rolled back, one for each time, oldest first.
    #[must_use]
    pub fn rolled_back_keys(&self) -> Vec<String> {
        lock(&self.world.data).rolled_back()
    }

    /// How many commands of this name are committed with the outcome `applied`.
    #[must_use]
    pub fn applied(&self, command: &str) -> usize {
        let data = lock(&self.world.data);
        let is = |row: &data::Row, column, wanted: &str| {
            row.get(column).and_then(text_of).is_some_and(|text| text == wanted)
        };
        data.keys().filter(|(_, row)| is(row, "command", command) && is(row, "outcome", "applied")).count()
    }

    /// Statements that nobody had an answer to, as they came: the first place to look when a test fails.
    #[must_use]
    pub fn unanswered(&self) -> Vec<String> {
        lock(&self.world.unanswered).clone()
    }
}
