//! Faults on requests to cancel a statement, which come on a connection of their own: lost, or so late that another statement
//! runs. Our own servers send none (PostgreSQL's `statement_timeout` ends what takes too long); who uses libpq may.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::{Config, NoTls};

use crate::cluster::Cluster;
use crate::error::{Error, describe_postgres};
use crate::nemesis::kind::{Domain, Guard, Healing, Kind, Means, Parameter, Scene, Values, boxed};
use crate::nemesis::message::proxies;
use crate::nemesis::undo::LIMIT;
use crate::nemesis::victim::{Met, serves};
use crate::pgwire::{Planted, Rule};
use crate::stack::Line;

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "N7",
        name: "cancel-lost",
        about: "requests to cancel a statement are lost on their way: it runs on",
        parameters: &[],
        needs: &[Means::Messages],
        inject: |scene, _| boxed(Cancels::inject(scene, None)),
    },
    Kind {
        id: "N7",
        name: "cancel-late",
        about: "requests to cancel a statement arrive late, and hit the one that runs then",
        parameters: &[Parameter {
            name: "late",
            default: "300",
            domain: Domain::Whole(50, 2_000),
            about: "milliseconds by which they come late",
        }],
        needs: &[Means::Messages],
        inject: |scene, with: Values| boxed(Cancels::inject(scene, Some(with.millis("late")))),
    },
];

/// A request to cancel is sent when a statement has run for so long.
const RUNNING: Duration = Duration::from_millis(100);
/// A statement that outlives its cancel request, as long as that is not late.
const STATEMENT: &str = "SELECT pg_sleep(0.25)";

/// One rule on the way of every server.
#[derive(Debug)]
struct Cancels {
    cluster: Cluster,
    planted: Vec<Planted>,
    /// What statements of the harness's own met, each with a request to cancel it.
    met: Vec<Met>,
    is_late: bool,
}

impl Cancels {
    async fn inject(scene: Scene, late: Option<Duration>) -> Result<Self, Error> {
        let action = late.map_or("swallow".to_owned(), |late| format!("hold {}ms", late.as_millis()));
        let rule = format!("client CancelRequest every: {action}");
        let rule: Rule =
            rule.parse().map_err(|reason: String| Error::state("plan a fault on messages", reason))?;
        let (mut planted, mut asked) = (Vec::new(), JoinSet::new());
        for (line, proxy) in proxies(&scene)? {
            if scene.has_teeth() {
                planted.push(proxy.plant(rule.clone()));
            }
            let wait = late.unwrap_or_default();
            asked.spawn(async move { tokio::time::timeout(LIMIT, second(&line, wait)).await });
        }
        let mut guard = Self { cluster: scene.cluster, planted, met: Vec::new(), is_late: late.is_some() };
        while let Some(one) = asked.join_next().await {
            guard.met.push(one.ok().and_then(Result::ok).unwrap_or(Met::Silence));
        }
        Ok(guard)
    }

    fn lost(&self) -> u64 {
        self.planted.iter().map(Planted::count).sum()
    }
}

/// What the second of two statements met where the first was to be cancelled; it is still there when a late request comes.
async fn second(line: &Line, late: Duration) -> Met {
    let work = async {
        let config: Config = line.url().parse()?;
        let (client, connection) = config.connect(NoTls).await?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let token = client.cancel_token();
        let cancel = async {
            tokio::time::sleep(RUNNING).await;
            token.cancel_query(NoTls).await
        };
        // Cancelled or not, it is over when the second one begins. A request that is lost is not told.
        let (_, _) = tokio::join!(client.batch_execute(STATEMENT), cancel);
        client.batch_execute(&format!("SELECT pg_sleep({})", (late + RUNNING).as_secs_f64())).await
    };
    match work.await {
        Ok(()) => Met::Answer,
        Err(error) => Met::Error(describe_postgres(&error)),
    }
}

impl Guard for Cancels {
    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            let (lost, met) = (self.lost(), std::mem::take(&mut self.met));
            self.planted.clear();
            serves(&self.cluster).await?;
            let cancelled = met.into_iter().filter_map(|met| met.with("57014")).count();
            Ok(match (lost, self.is_late, cancelled) {
                (0, ..) | (_, true, 0) => None,
                (_, true, hit) => Some(format!("{lost} requests came late, {hit} hit another statement")),
                (_, false, _) => Some(format!("{lost} requests to cancel a statement were lost")),
            })
        })
    }
}
