//! The life of the process: start order, the parts that run beside the requests, drain, exit code.
//!
//! Order: signals, metrics, admin port, journal, main port, database path, background parts, ready. What each part does
//! is its own business.

mod anew;
mod parts;
mod replica;

use std::{io::Write as _, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use ridethrough::{
    Db,
    db::{Background, Commands},
    drain::{Drain, Draining, InFlight},
    health::Life,
    http::{Probes, Verbosity},
    journal::{Journal, JournalError, JournalWriter},
    service::{self, Admin, AdminThread, Served, Signal, Signals, serve},
    vitals::{self, Vitals},
};
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle, time::timeout};
use tower::ServiceExt as _;

pub(crate) use self::anew::Anew;
use self::parts::WriterThread;
#[cfg(feature = "nats")]
use crate::nats::Publisher;
use crate::{
    app::{self, App, Pages},
    cli::{CLEAN, CUT, INTERNAL_FAULT, WRONG_CONFIGURATION},
    config::Config,
    edges::Edges,
    events,
    identity::{Identity, Keeper},
    migrate,
    todo::{SettledKeys, todo_commands},
    traces::Exporter,
};

/// How long each of the last parts may take to end: the journal has only to finish the sync in progress.
const PART_END_MAX: Duration = Duration::from_secs(5);
/// The same for everything together after a second signal.
const HURRIED_END_MAX: Duration = Duration::from_secs(1);
/// What is left after that is cut by the end of the process.
const RUNTIME_END_MAX: Duration = Duration::from_secs(1);

/// Why the process did not come up: the sentence for its operator, and the exit code.
pub(crate) struct NotStarted(u8, String);

impl NotStarted {
    fn wrong_configuration(reason: impl Into<String>) -> Self {
        Self(WRONG_CONFIGURATION, reason.into())
    }

    fn fault(reason: impl Into<String>) -> Self {
        Self(INTERNAL_FAULT, reason.into())
    }
}

/// Serves until it is told to stop. Answers the exit code.
pub(crate) fn run(config: Config, anew: Anew, exporter: Option<Exporter>) -> u8 {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return not_started(&NotStarted::fault(format!("no runtime: {error}"))),
    };
    let code = runtime.block_on(async {
        match start(&config, anew, exporter).await {
            Ok(running) => running.until_stopped().await,
            Err(reason) => not_started(&reason),
        }
    });
    runtime.shutdown_timeout(RUNTIME_END_MAX);
    code
}

fn not_started(NotStarted(code, reason): &NotStarted) -> u8 {
    let _ = writeln!(std::io::stderr().lock(), "ridethrough-server: {reason}");
    *code
}

/// Everything that runs, and what ends it.
struct Running {
    signals: Signals,
    anew: Anew,
    db: Db,
    /// Asks for a look at who may come in.
    reload: Option<Arc<Notify>>,
    vitals: Arc<Vitals>,
    journal: Journal,
    writes: InFlight,
    /// Ends the listener.
    front: Drain,
    /// Ends the parts that requests need to the last.
    back: Drain,
    serving: JoinHandle<Served>,
    background: Vec<JoinHandle<()>>,
    writer: WriterThread,
    _admin: AdminThread,
}

async fn start(config: &Config, anew: Anew, exporter: Option<Exporter>) -> Result<Running, NotStarted> {
    let signals = Signals::new().map_err(|error| NotStarted::fault(format!("no signals: {error}")))?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "starting");
    let replica = replica::identify(&config.server.data_dir).map_err(|error| {
        NotStarted::wrong_configuration(format!(
            "server.data_dir {} cannot be used: {error}",
            config.server.data_dir.display()
        ))
    })?;
    let (identity, keeper) =
        Identity::open(&config.identity, &config.server.data_dir).map_err(NotStarted::wrong_configuration)?;
    let vitals = Arc::new(Vitals::new(config.ready));
    let probes = probes(&vitals);
    let admin = admin(config, &vitals, &probes, &anew)?;
    let (journal, writer) = open_journal(config).await?;
    let listener = bind(config.server.listen).await?;
    let main_address = listener.local_addr().map_err(|error| NotStarted::fault(error.to_string()))?;

    let settled = Arc::new(SettledKeys::default());
    let commands = Arc::new(todo_commands(replica, Arc::clone(&settled)));
    let database = open_database(config, journal.clone(), commands).await;
    let (db, background) = database?;
    let app = App {
        db: db.clone(),
        journal: journal.clone(),
        settled,
        writes: InFlight::default(),
        pages: Arc::new(Pages::new()),
        identity: Arc::new(identity),
        edges: Arc::new(Edges::new(config.limits.bounds(), &config.limits.rate, config.identity.mode)),
        probes,
    };
    let (front, front_draining) = Drain::new();
    let (back, back_draining) = Drain::new();
    let writer = WriterThread::start(writer, &vitals, back_draining.clone())
        .map_err(|error| NotStarted::fault(format!("no thread for the journal: {error}")))?;
    let writes = app.writes.clone();
    vitals.attach(db.clone());
    let mut background = spawn_background(&vitals, &db, background, config, &back_draining);
    let reload = keeper.as_ref().map(Keeper::asked);
    background.extend(keeper.map(|keeper| {
        tokio::spawn(vitals.watch("identity", keeper.run(back_draining.clone()), back_draining.clone()))
    }));
    background.extend(exporter.map(|exporter| {
        tokio::spawn(vitals.watch("traces", exporter.run(back_draining.clone()), back_draining.clone()))
    }));
    let serving = spawn_serving(listener, app::router(app), config, &vitals, front_draining);
    vitals.turn(Life::Running);
    announce(main_address, admin.address);
    Ok(Running {
        signals,
        anew,
        db,
        reload,
        vitals,
        journal,
        writes,
        front,
        back,
        serving,
        background,
        writer,
        _admin: admin,
    })
}

fn probes(vitals: &Arc<Vitals>) -> Probes {
    vitals.probes(env!("CARGO_PKG_VERSION"), Verbosity::Brief)
}

fn admin(
    config: &Config,
    vitals: &Arc<Vitals>,
    probes: &Probes,
    anew: &Anew,
) -> Result<AdminThread, NotStarted> {
    let metrics =
        service::install_metrics().map_err(|error| NotStarted::fault(format!("no metrics: {error}")))?;
    app::describe_metrics();
    let state = {
        let vitals = Arc::clone(vitals);
        move || vitals.state(env!("CARGO_PKG_VERSION"))
    };
    let admin = Admin::new(probes, metrics, state, anew.shown()).with_log_levels(anew.levels.clone());
    admin
        .start(config.server.admin_listen)
        .map_err(|error| NotStarted::wrong_configuration(error.to_string()))
}

/// Recovery reads the whole journal, so it stays off the runtime that answers probes.
async fn open_journal(config: &Config) -> Result<(Journal, JournalWriter), NotStarted> {
    let settings = config.journal();
    let opened = tokio::task::spawn_blocking(move || Journal::open(settings)).await;
    let (journal, writer, recovery) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(error @ (JournalError::Config { .. } | JournalError::Locked { .. }))) => {
            return Err(NotStarted::wrong_configuration(error.to_string()));
        }
        Ok(Err(error)) => return Err(NotStarted::fault(error.to_string())),
        Err(_) => return Err(NotStarted::fault("the recovery of the journal broke off")),
    };
    tracing::info!(
        entries = recovery.entries,
        torn_bytes = recovery.torn_bytes,
        took_ms = recovery.duration.as_millis() as u64,
        "journal recovered"
    );
    if recovery.cursor_lost {
        tracing::warn!(
            "the journal's cursor was unreadable; applied writes are looked up again, none is doubled"
        );
    }
    Ok((journal, writer))
}

/// Reads the cache snapshot and what waits in the journal, so it stays off the runtime too.
async fn open_database(
    config: &Config,
    journal: Journal,
    commands: Arc<dyn Commands>,
) -> Result<(Db, Background), NotStarted> {
    let (database, cache) = (config.database.clone(), config.cache());
    let opened = tokio::task::spawn_blocking(move || Db::new(database, cache, journal, commands)).await;
    match opened {
        Ok(opened) => opened.map_err(|error| NotStarted::wrong_configuration(error.to_string())),
        Err(_) => Err(NotStarted::fault("the start of the database path broke off")),
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, NotStarted> {
    TcpListener::bind(address)
        .await
        .map_err(|error| NotStarted::wrong_configuration(format!("cannot listen on {address}: {error}")))
}

fn spawn_background(
    vitals: &Arc<Vitals>,
    db: &Db,
    background: Background,
    config: &Config,
    draining: &Draining,
) -> Vec<JoinHandle<()>> {
    tokio::spawn(vitals::keep_shown(Arc::clone(vitals)));
    let migrating = migrate::when_seen(db.clone(), config.database.clone(), draining.clone());
    let events = events::keep(db.clone(), config.events.clone(), draining.clone());
    let mut parts = Vec::from(background.parts(draining));
    parts.push(("migrations", Box::pin(migrating)));
    parts.push(("events", Box::pin(events)));
    #[cfg(feature = "nats")]
    if let Some(publisher) = Publisher::new(db, &config.nats) {
        parts.push(("publisher", Box::pin(publisher.run(draining.clone()))));
    }
    let watched = parts.into_iter().map(|(name, part)| vitals.watch(name, part, draining.clone()));
    watched.map(tokio::spawn).collect()
}

fn spawn_serving(
    listener: TcpListener,
    router: Router,
    config: &Config,
    vitals: &Arc<Vitals>,
    draining: Draining,
) -> JoinHandle<Served> {
    let limits = config.limits.listener();
    let watchdog = Arc::clone(&vitals.watchdog);
    tokio::spawn(async move {
        let accepting = tokio::spawn(async move {
            let answer = move |request: http::Request<_>| {
                let answered = router.clone().oneshot(request.map(Body::new));
                async move { answered.await.unwrap_or_else(|never| match never {}) }
            };
            serve(listener, answer, &limits, draining).await
        });
        accepting.await.unwrap_or_else(|_| {
            watchdog.part_died("listener");
            Served { cut: 0 }
        })
    })
}

/// The line that scripts wait for.
fn announce(main: SocketAddr, admin: SocketAddr) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "listening main={main} admin={admin}").and_then(|()| out.flush());
    tracing::info!(%main, %admin, "listening");
}

impl Running {
    async fn until_stopped(mut self) -> u8 {
        while self.signals.next().await != Signal::Stop {
            if let Some(reload) = &self.reload {
                reload.notify_one();
            }
            self.anew.read(&self.db, &self.vitals).await;
        }
        tracing::info!("draining");
        self.vitals.turn(Life::Draining);
        self.front.begin();
        let Self { mut signals, journal, writes, front, back, serving, background, writer, .. } = self;
        let back = Arc::new(back);
        let parts = Parts { back: Arc::clone(&back), background, journal, writer };
        let mut ending = pin!(end(serving, writes, parts));
        let second_signal = async { while signals.next().await != Signal::Stop {} };
        let cut = tokio::select! {
            cut = &mut ending => cut,
            () = second_signal => {
                tracing::warn!("a second signal; stopping at once");
                front.hurry();
                let cut = timeout(HURRIED_END_MAX, ending).await.unwrap_or(1);
                // Whatever is cut off now has not died by itself.
                back.begin();
                cut
            }
        };
        match cut {
            0 => tracing::info!("stopped"),
            cut => tracing::warn!(cut, "stopped; requests, writes or parts were cut off"),
        }
        if cut == 0 { CLEAN } else { CUT }
    }
}

/// What requests need to the last, and what ends it.
struct Parts {
    back: Arc<Drain>,
    background: Vec<JoinHandle<()>>,
    journal: Journal,
    writer: WriterThread,
}

/// Ends everything in order, the journal last. Answers how much did not end by itself.
async fn end(serving: JoinHandle<Served>, writes: InFlight, mut parts: Parts) -> usize {
    let mut cut = serving.await.map_or(0, |served| served.cut);
    // A client may leave a write behind; it has a deadline of its own, which is shorter than this.
    cut += writes.finish(PART_END_MAX).await;
    parts.back.begin();
    for part in parts.background {
        cut += usize::from(timeout(PART_END_MAX, part).await.is_err());
    }
    parts.journal.close();
    cut + usize::from(!parts.writer.ended(PART_END_MAX).await)
}
