//! Faults by ends and starts of PostgreSQL: stopped in order, restarted, flapping, slow to recover. Kills and hangs are in
//! `process.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::nemesis::kind::{
    Absence, CanarySees, Domain, Guard, Healing, Kind, Means, Parameter, Scene, Values, boxed,
};
use crate::nemesis::process::DATABASE;
use crate::nemesis::undo::{LIMIT, Where, execute};
use crate::nemesis::victim::{Met, SILENCE, Victim, newcomer_with, serves};
use crate::process::Exit;

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "D2",
        name: "db-stop",
        about: "PostgreSQL is stopped in order; healed by a start",
        parameters: &[Parameter {
            name: "mode",
            default: "fast",
            domain: Domain::Words(&["fast", "immediate", "smart"]),
            about: "fast ends sessions, immediate does not write back, smart waits for the sessions there are",
        }],
        needs: &[Means::DatabaseSignals],
        inject: |scene, with| boxed(DbStop::inject(scene, with)),
    },
    Kind {
        id: "D6",
        name: "slow-recovery",
        about: "SIGKILL of the postmaster with much to recover: the way back is long (57P03)",
        parameters: &[Parameter {
            name: "wal",
            default: "64",
            domain: Domain::Whole(1, 1_000),
            about: "megabytes of log to be read again",
        }],
        needs: &[Means::DatabaseSignals, Means::Sql],
        inject: |scene, with| boxed(SlowRecovery::inject(scene, with)),
    },
    Kind {
        id: "D19",
        name: "db-flapping",
        about: "PostgreSQL is killed and started again, over and over",
        parameters: &[
            Parameter {
                name: "down",
                default: "1500",
                domain: Domain::Whole(0, 60_000),
                about: "milliseconds from an end to the next start",
            },
            Parameter {
                name: "up",
                default: "1000",
                domain: Domain::Whole(0, 60_000),
                about: "milliseconds of service",
            },
            Parameter {
                name: "mode",
                default: "kill",
                domain: Domain::Words(&["kill", "fast"]),
                about: "killed, or stopped in order",
            },
            Parameter {
                name: "times",
                default: "0",
                domain: Domain::Whole(0, 1_000),
                about: "how often; 0 is until it is healed",
            },
        ],
        needs: &[Means::DatabaseSignals],
        inject: |scene, with| boxed(Flapping::inject(scene, with)),
    },
];

/// How long an orderly end may take.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// PostgreSQL was asked to stop.
#[derive(Debug)]
struct DbStop {
    cluster: Cluster,
    /// `None` while it still waits for its sessions.
    exit: Option<Exit>,
    is_smart: bool,
    met: Option<String>,
    /// Held open: a smart stop waits for it.
    victim: Option<Victim>,
    toothless: bool,
    healed: bool,
}

impl DbStop {
    async fn inject(scene: Scene, with: Values) -> Result<Self, Error> {
        let cluster = scene.cluster.clone();
        let mut victim = Victim::open(&cluster).await?;
        let mode = with.word("mode");
        let mut guard = Self {
            cluster: cluster.clone(),
            exit: None,
            is_smart: mode == "smart",
            met: None,
            victim: None,
            toothless: scene.toothless,
            healed: false,
        };
        let signal = match mode {
            "immediate" => Signal::QUIT,
            "smart" => Signal::TERM,
            _ => Signal::INT,
        };
        if scene.has_teeth() && !cluster.signal(signal) {
            guard.healed = true;
            return Err(Error::state("stop PostgreSQL", "it is not running"));
        }
        if guard.is_smart {
            let new = newcomer_with(&cluster, "SELECT 1", "57P03", scene.patience()).await;
            let old = victim.meets("SELECT 1", LIMIT).await;
            guard.met = new.filter(|_| old == Met::Answer);
            guard.met = guard.met.take().map(|met| format!("a new session met {met}, an old one went on"));
            guard.victim = Some(victim);
            return Ok(guard);
        }
        let limit = if scene.has_teeth() { STOP_LIMIT } else { SILENCE };
        guard.exit = cluster.ended(limit).await;
        let last = victim.ended(SILENCE).await;
        guard.met = guard.exit.zip(last).map(|(exit, last)| {
            format!("PostgreSQL ended with {exit}; the last word to a session was `{last}`")
        });
        Ok(guard)
    }
}

impl Guard for DbStop {
    fn database_gone(&self) -> bool {
        self.exit.is_some()
    }

    fn canary(&self) -> CanarySees {
        CanarySees::NoneCommits
    }

    fn absence(&self) -> Option<Absence> {
        let how = self.exit?.to_string();
        Some(Absence { process: DATABASE.to_owned(), database: true, how })
    }

    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            self.healed = true;
            if self.toothless {
                return Ok(None);
            }
            drop(self.victim.take());
            if self.exit.is_none() {
                // The sessions of the service would keep it waiting for ever.
                self.cluster.signal(Signal::INT);
                self.cluster.ended(STOP_LIMIT).await;
            }
            self.cluster.start_again().await?;
            Ok(self.met.take())
        })
    }
}

impl Drop for DbStop {
    fn drop(&mut self) {
        if !self.healed && !self.toothless {
            self.cluster.signal(Signal::KILL);
            self.cluster.start_again_unwatched();
        }
    }
}

/// PostgreSQL is dead and has much to recover.
#[derive(Debug)]
struct SlowRecovery {
    cluster: Cluster,
    megabytes: u64,
    toothless: bool,
    healed: bool,
}

const TABLE: &str = "public.chaos_log";

impl SlowRecovery {
    async fn inject(scene: Scene, with: Values) -> Result<Self, Error> {
        let (cluster, megabytes) = (scene.cluster.clone(), with.whole("wal"));
        let mut guard = Self { cluster, megabytes, toothless: scene.toothless, healed: true };
        if scene.has_teeth() {
            // In steps, each within its limit; a row is a kilobyte.
            execute(&guard.cluster, Where::Beside, &format!("CREATE TABLE {TABLE} (text text)")).await?;
            for _ in 0..megabytes.div_ceil(16) {
                let rows = megabytes.min(16) * 1_000;
                let fill =
                    format!("INSERT INTO {TABLE} SELECT repeat('x', 990) FROM generate_series(1, {rows})");
                execute(&guard.cluster, Where::Beside, &fill).await?;
            }
            guard.healed = false;
            guard.cluster.kill().await?;
        }
        Ok(guard)
    }
}

impl Guard for SlowRecovery {
    fn canary(&self) -> CanarySees {
        CanarySees::NoneCommits
    }

    fn absence(&self) -> Option<Absence> {
        let how = "signal 9".to_owned();
        (!self.toothless).then(|| Absence { process: DATABASE.to_owned(), database: true, how })
    }

    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            self.healed = true;
            if self.toothless {
                return Ok(None);
            }
            let refused = newcomer_with(&self.cluster, "SELECT 1", "57P03", LIMIT);
            let (took, refused) = tokio::join!(self.cluster.start_again(), refused);
            let took = took?.as_millis();
            execute(&self.cluster, Where::Beside, &format!("DROP TABLE IF EXISTS {TABLE}")).await?;
            let refused = refused.unwrap_or_else(|| "nothing while it recovered".to_owned());
            let megabytes = self.megabytes;
            let recovered = redo(&self.cluster);
            Ok(recovered.map(|redo| {
                format!("serving {took} ms after the start with {megabytes} MB to recover ({redo}); a new session met {refused}")
            }))
        })
    }
}

/// PostgreSQL's own line about the last recovery.
fn redo(cluster: &Cluster) -> Option<String> {
    let log = crate::process::log_tail(cluster.log(), 200);
    let line = log.lines().rfind(|line| line.contains("redo done at"))?;
    line.split_once("LOG:").map(|(_, text)| text.trim().to_owned())
}

impl Drop for SlowRecovery {
    fn drop(&mut self) {
        if !self.healed {
            self.cluster.start_again_unwatched();
        }
    }
}

/// PostgreSQL goes and comes as long as this lives.
#[derive(Debug)]
struct Flapping {
    cluster: Cluster,
    stop: watch::Sender<bool>,
    tasks: JoinSet<Result<(), Error>>,
    times: Arc<AtomicU64>,
    healed: bool,
}

impl Flapping {
    async fn inject(scene: Scene, with: Values) -> Result<Self, Error> {
        let (stop, stopped) = watch::channel(false);
        let times = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let most = if scene.toothless { None } else { Some(with.whole("times")) };
        if let Some(most) = most {
            let cycle = Cycle {
                cluster: scene.cluster.clone(),
                stopped,
                down: with.millis("down"),
                up: with.millis("up"),
                fast: with.word("mode") == "fast",
                times: Arc::clone(&times),
            };
            tasks.spawn(cycle.run(if most == 0 { u64::MAX } else { most }));
        }
        // The first end is what it begins with.
        let gone = || (times.load(Ordering::Relaxed) > 0).then_some(());
        if scene.has_teeth() {
            crate::process::poll_until(STOP_LIMIT, gone).await;
        }
        Ok(Self { cluster: scene.cluster, stop, tasks, times, healed: false })
    }
}

struct Cycle {
    cluster: Cluster,
    stopped: watch::Receiver<bool>,
    down: Duration,
    up: Duration,
    fast: bool,
    times: Arc<AtomicU64>,
}

impl Cycle {
    async fn run(mut self, most: u64) -> Result<(), Error> {
        for _ in 0..most {
            if self.fast {
                self.cluster.stop().await?;
            } else {
                self.cluster.kill().await?;
            }
            self.times.fetch_add(1, Ordering::Relaxed);
            let enough = self.rest(self.down).await;
            self.cluster.start_again().await?;
            if enough || self.rest(self.up).await {
                break;
            }
        }
        Ok(())
    }

    /// Waits; true where it is enough meanwhile.
    async fn rest(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.stopped.wait_for(|stop| *stop)).await.is_ok()
    }
}

impl Guard for Flapping {
    fn canary(&self) -> CanarySees {
        CanarySees::SomeFail
    }

    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            let _ = self.stop.send(true);
            while let Some(ended) = self.tasks.join_next().await {
                ended.map_err(|error| Error::state("flap PostgreSQL", error.to_string()))??;
            }
            self.healed = true;
            serves(&self.cluster).await?;
            let times = self.times.load(Ordering::Relaxed);
            Ok((times > 0).then(|| format!("PostgreSQL went and came {times} times")))
        })
    }
}

impl Drop for Flapping {
    fn drop(&mut self) {
        if !self.healed {
            self.tasks.abort_all();
            if self.cluster.pid().is_none() {
                self.cluster.start_again_unwatched();
            }
        }
    }
}
