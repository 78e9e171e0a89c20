//! Faults by starts of PostgreSQL: one that takes its time, and a restart of primary and standby one after the other, as for
//! an upgrade. Ends and quick restarts are in `restart.rs`.

use crate::cluster::{Cluster, Hang, Pair};
use crate::error::Error;
use crate::nemesis::kind::{Absence, CanarySees, Guard, Healing, Kind, Means, Scene, boxed};
use crate::nemesis::process::DATABASE;
use crate::nemesis::undo::LIMIT;
use crate::nemesis::victim::newcomer_with;
use crate::process::Exit;

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "D19",
        name: "slow-start",
        about: "PostgreSQL is killed and started, and does not come to an end with starting (57P03)",
        parameters: &[],
        needs: &[Means::DatabaseSignals],
        inject: |scene, _| boxed(SlowStart::inject(scene)),
    },
    Kind {
        id: "D19",
        name: "db-rolling-restart",
        about: "the standby is stopped in order and started, and then the primary; healed by its start",
        parameters: &[],
        needs: &[Means::Standby, Means::DatabaseSignals],
        inject: |scene, _| boxed(RollingRestart::inject(scene)),
    },
];

/// PostgreSQL is starting.
#[derive(Debug)]
struct SlowStart {
    cluster: Cluster,
    held: Option<Hang>,
    met: Option<String>,
    healed: bool,
}

impl SlowStart {
    async fn inject(scene: Scene) -> Result<Self, Error> {
        let mut guard = Self { cluster: scene.cluster.clone(), held: None, met: None, healed: true };
        if scene.has_teeth() {
            guard.healed = false;
            guard.cluster.kill().await?;
            guard.held = Some(guard.cluster.start_held().await?);
        }
        guard.met = newcomer_with(&guard.cluster, "SELECT 1", "57P03", scene.patience()).await;
        Ok(guard)
    }
}

impl Guard for SlowStart {
    fn canary(&self) -> CanarySees {
        CanarySees::NoneCommits
    }

    fn absence(&self) -> Option<Absence> {
        let how = "signal 9".to_owned();
        self.held.as_ref().map(|_| Absence { process: DATABASE.to_owned(), database: true, how })
    }

    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            self.healed = true;
            let Some(held) = self.held.take() else { return Ok(None) };
            let is_held = held.stopped_now() > 0;
            drop(held);
            let took = self.cluster.revive().await?.as_millis();
            let met = self.met.take().filter(|_| is_held);
            Ok(met.map(|met| {
                format!("the start was held to the end, a new session met {met}; serving {took} ms after")
            }))
        })
    }
}

impl Drop for SlowStart {
    fn drop(&mut self) {
        drop(self.held.take());
        if !self.healed && self.cluster.pid().is_none() {
            self.cluster.start_again_unwatched();
        }
    }
}

/// The standby was restarted, and the primary is down.
#[derive(Debug)]
struct RollingRestart {
    pair: Pair,
    exits: Option<(Exit, Exit)>,
    healed: bool,
}

impl RollingRestart {
    async fn inject(scene: Scene) -> Result<Self, Error> {
        let Some(pair) = scene.equipment.pair().cloned() else {
            return Err(Error::state("restart the databases", "there is no standby"));
        };
        let mut guard = Self { pair, exits: None, healed: true };
        if scene.has_teeth() {
            let (standby, primary) = (guard.pair.standby(), guard.pair.primary());
            guard.healed = false;
            let first = standby.stop().await?;
            standby.start_again().await?;
            let second = primary.stop().await?;
            guard.exits = Some((first, second));
        }
        Ok(guard)
    }
}

impl Guard for RollingRestart {
    fn canary(&self) -> CanarySees {
        CanarySees::NoneCommits
    }

    fn absence(&self) -> Option<Absence> {
        let (_, exit) = self.exits?;
        Some(Absence { process: DATABASE.to_owned(), database: true, how: exit.to_string() })
    }

    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            self.healed = true;
            let Some((first, second)) = self.exits else { return Ok(None) };
            let took = self.pair.primary().start_again().await?.as_millis();
            // What proves it on the other side: the standby takes sessions again, too.
            self.pair.standby().connect(LIMIT).await?;
            Ok(Some(format!(
                "the standby ended with {first} and the primary with {second}, which served {took} ms after its start"
            )))
        })
    }
}

impl Drop for RollingRestart {
    fn drop(&mut self) {
        if !self.healed {
            for cluster in [self.pair.standby(), self.pair.primary()] {
                if cluster.pid().is_none() {
                    cluster.start_again_unwatched();
                }
            }
        }
    }
}
