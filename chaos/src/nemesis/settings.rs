//! Faults by PostgreSQL's configuration: read-only, and commits that wait for a standby which is not there.
//! Who may log in is in `access.rs`.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::cluster::{Changed, Cluster, connect};
use crate::error::Error;
use crate::nemesis::kind::{
    CanarySees, Domain, Guard, Healing, Kind, Means, Parameter, Scene, Values, boxed,
};
use crate::nemesis::lock::TABLE;
use crate::nemesis::undo::LIMIT;
use crate::nemesis::victim::{newcomer, newcomer_with, serves};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "D12",
        name: "read-only",
        about: "PostgreSQL takes no writes (25006), as a standby would",
        parameters: &[TABLE],
        needs: &[Means::Configuration],
        inject: |scene, with| boxed(ReadOnly::inject(scene, with)),
    },
    Kind {
        id: "D13",
        name: "sync-standby-missing",
        about: "every commit waits for a synchronous standby that is away; the rows are there all the same",
        parameters: &[Parameter {
            name: "end",
            default: "reload",
            domain: Domain::Words(&["reload", "cancel", "terminate"]),
            about: "how the waiting commits end: let go, cancelled (01000), or their sessions ended (57P01)",
        }],
        needs: &[Means::Configuration],
        inject: |scene, with| boxed(SyncMissing::inject(scene, with)),
    },
];

/// Every transaction is read-only.
#[derive(Debug)]
struct ReadOnly {
    cluster: Cluster,
    changed: Option<Changed>,
    met: Option<String>,
}

impl ReadOnly {
    async fn inject(scene: Scene, with: Values) -> Result<Self, Error> {
        let cluster = scene.cluster.clone();
        let changed = if scene.has_teeth() {
            Some(cluster.change("default_transaction_read_only", "on").await?)
        } else {
            None
        };
        let ask = format!("DELETE FROM public.{} WHERE false", with.word("table"));
        let met = newcomer_with(&cluster, &ask, "25006", scene.patience()).await;
        Ok(Self { cluster, changed, met })
    }
}

impl Guard for ReadOnly {
    fn canary(&self) -> CanarySees {
        CanarySees::SomeFail
    }

    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            drop(self.changed.take());
            serves(&self.cluster).await?;
            Ok(self.met.take().map(|met| format!("a session of the service met {met}")))
        })
    }
}

/// Commits wait for a standby.
#[derive(Debug)]
struct SyncMissing {
    cluster: Cluster,
    changed: Option<Changed>,
    end: &'static str,
    _tasks: JoinSet<()>,
}

/// The sessions whose commit waits.
const WAITING: &str = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'";

impl SyncMissing {
    async fn inject(scene: Scene, with: Values) -> Result<Self, Error> {
        let cluster = scene.cluster.clone();
        // Before commits wait, because a new session's own catalogue writes would not.
        let client = connect(&cluster.canary(), LIMIT).await?;
        let changed = if scene.has_teeth() {
            Some(cluster.change("synchronous_standby_names", "chaos_missing").await?)
        } else {
            None
        };
        // A commit of the harness's own, so that one waits also where the service writes nothing.
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _ = client.batch_execute("INSERT INTO public.canary DEFAULT VALUES").await;
        });
        let end = match with.word("end") {
            "cancel" => "pg_cancel_backend(pid)",
            "terminate" => "pg_terminate_backend(pid)",
            _ => "true",
        };
        // So that the commit has begun to wait before anybody looks.
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(Self { cluster, changed, end, _tasks: tasks })
    }
}

impl Guard for SyncMissing {
    fn canary(&self) -> CanarySees {
        CanarySees::SomeFail
    }

    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            let what = "end the commits that wait for a standby";
            let client = self.cluster.connect_admin(LIMIT).await?;
            let query = format!("SELECT count(*) FILTER (WHERE {}) {WAITING}", self.end);
            let asked = client.query_one(&query, &[]).await.map_err(Error::postgres(what))?;
            let waiting: i64 = asked.try_get(0).map_err(Error::postgres(what))?;
            drop(self.changed.take());
            serves(&self.cluster).await?;
            // A reader is served all the time, so the first one proves nothing about commits.
            newcomer(&self.cluster, "SELECT pg_current_xact_id()", LIMIT).await;
            let witness = format!("{waiting} commits waited for a standby when it was healed");
            Ok((waiting > 0).then_some(witness))
        })
    }
}
