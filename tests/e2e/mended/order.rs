//! Writes to one todo at one replica take effect in the order of their acknowledgement, also where some are direct and
//! some are journaled at the same moment.

use std::{collections::BTreeMap, time::Duration};

use ridethrough_tests::{
    app::App,
    http::Answer,
    seed,
    stack::{Lab, Server},
    until, within,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{STATEMENT_LIMIT, execute};
use crate::steps::{member, stored_todo, title};

/// A replacement, from its sending to its answer.
#[derive(Debug)]
struct Put {
    key: String,
    sent: Instant,
    answered: Instant,
    answer: Answer,
}

impl Put {
    async fn send(server: &App, todo: &str, key: String) -> Self {
        let sent = Instant::now();
        let answer = server.main().replace(&key, todo, &title(&key)).await;
        Self { key, sent, answered: Instant::now(), answer }
    }

    fn is_acknowledged(&self) -> bool {
        matches!(self.answer.status, 200 | 202)
    }
}

fn send_at_once(server: &App, todo: &str, prefix: &str, count: usize) -> JoinSet<Put> {
    let mut sent = JoinSet::new();
    for number in 0..count {
        let (server, todo, key) = (server.clone(), todo.to_owned(), format!("{prefix}-{number}"));
        sent.spawn(async move { Put::send(&server, &todo, key).await });
    }
    sent
}

/// The server's sessions that wait for a lock, once there are so many.
async fn waiting_for_a_lock(observer: &tokio_postgres::Client, count: usize) -> Vec<i32> {
    let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'ridethrough' AND wait_event_type = 'Lock'";
    until(&format!("{count} sessions wait"), Duration::from_secs(4), async || {
        let rows = within(sql, STATEMENT_LIMIT, observer.query(sql, &[])).await.expect("sessions");
        (rows.len() >= count).then(|| rows.iter().map(|row| row.get(0)).collect())
    })
    .await
}

async fn terminate(observer: &tokio_postgres::Client, pid: i32) {
    execute(observer, &format!("SELECT pg_terminate_backend({pid})")).await;
}

/// The version that a write made, as its status tells; nothing where it never happened.
async fn version_made_by(server: &App, key: &str) -> Option<i64> {
    let answer = server.main().get(&format!("/api/writes/{key}")).await;
    if answer.status == 404 {
        return None;
    }
    let status = answer.expect(200).json();
    assert_eq!(member(&status, "status"), "applied", "one replica's own writes supersede none: {status}");
    member(&member(&status, "outcome"), "version").as_i64()
}

/// One attempt and no retry, so that a session that is ended means the journal at once; a lock is waited for longer than
/// the test holds it; and no breaker that would send everything into the journal.
fn patient() -> Server {
    let env = [
        ("RIDETHROUGH_DATABASE__WRITE__ATTEMPTS", "1"),
        ("RIDETHROUGH_DATABASE__WRITE__ATTEMPT", "9s"),
        ("RIDETHROUGH_DATABASE__WRITE__DEADLINE", "12s"),
        ("RIDETHROUGH_DATABASE__POOL__LOCK", "8s"),
        ("RIDETHROUGH_DATABASE__POOL__STATEMENT", "10s"),
        ("RIDETHROUGH_DATABASE__BREAKER__CONSECUTIVE_FAILURES", "1000"),
        ("RIDETHROUGH_DATABASE__BREAKER__FAILURE_RATIO", "1.0"),
    ];
    Server { env: env.map(|(name, value)| (name, value.to_owned())).to_vec(), ..Server::default() }
}

/// A write whose connection broke went to the journal and was acknowledged while an earlier direct write to the same
/// todo was still in progress. That one was committed and acknowledged next, and then replay put the older write over
/// it: the last acknowledged change was gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journaled_write_is_acknowledged_only_after_the_direct_ones_it_would_undo() {
    const ROUNDS: usize = 6;
    /// Long enough for an acknowledgement that should not come.
    const SILENCE: Duration = Duration::from_millis(400);

    let mut random = fastrand::Rng::with_seed(seed());
    let lab = Lab::start().await;
    let server = lab.server_as("server-1", patient()).await;
    server.ready().await;
    let todo = stored_todo(&server, "before").await;
    let (holder, observer) = (lab.sql().await, lab.sql().await);
    let mut version = 1;
    for round in 0..ROUNDS {
        let (direct_count, journaled_count) = (random.usize(1..4), random.usize(1..3));
        execute(&holder, &format!("BEGIN; SELECT FROM todos WHERE id = '{todo}' FOR UPDATE")).await;
        let direct = send_at_once(&server, &todo, &format!("direct-{round}"), direct_count);
        let in_progress = waiting_for_a_lock(&observer, direct_count).await;
        let mut journaled = send_at_once(&server, &todo, &format!("journaled-{round}"), journaled_count);
        for pid in waiting_for_a_lock(&observer, direct_count + journaled_count).await {
            if !in_progress.contains(&pid) {
                terminate(&observer, pid).await;
            }
        }
        let appended = async || (server.backlog().await == journaled_count as u64).then_some(());
        until("they are in the journal", Duration::from_secs(4), appended).await;
        let early = timeout(SILENCE, journaled.join_next()).await;
        assert!(early.is_err(), "acknowledged while direct writes were in progress: {early:?}");
        execute(&holder, "ROLLBACK").await;

        for put in direct.join_all().await {
            version += 1;
            let answer = put.answer.expect(200).acknowledged();
            let made = version_made_by(&server, &put.key).await.expect("a committed write happened");
            assert_eq!(member(&answer.json(), "version"), made);
        }
        let last_direct = version;
        let answers = journaled.join_all().await;
        server.journal_is_empty().await;
        for put in answers {
            version += 1;
            let _ = put.answer.expect(202).acknowledged();
            let made = version_made_by(&server, &put.key).await.expect("a journaled write happened");
            assert!(
                made > last_direct,
                "{} made version {made}, and {last_direct} was acknowledged before",
                put.key
            );
        }
        let (_, stored) = lab.stored(&todo).await.expect("it is stored");
        assert_eq!(stored, version, "each write happened once");
        server.mode_becomes("normal").await;
    }
    lab.finish().await;
}

/// Workers that replace one todo again and again, each one change after the other, while sessions end at random.
async fn contend(server: &App, todo: &str, round: usize) -> Vec<Put> {
    const WORKERS: usize = 8;
    const PUTS: usize = 8;

    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let (server, todo) = (server.clone(), todo.to_owned());
        workers.spawn(async move {
            let mut puts = Vec::new();
            for number in 0..PUTS {
                puts.push(Put::send(&server, &todo, format!("put-{round}-{worker}-{number}")).await);
            }
            puts
        });
    }
    workers.join_all().await.into_iter().flatten().collect()
}

/// Stops the writes at the lock of the row for a while, and ends some of their sessions meanwhile, until dropped.
async fn end_sessions(
    (holder, observer): (&tokio_postgres::Client, &tokio_postgres::Client),
    todo: &str,
    random: &mut fastrand::Rng,
) {
    loop {
        sleep(Duration::from_millis(random.u64(5..60))).await;
        execute(holder, &format!("BEGIN; SELECT FROM todos WHERE id = '{todo}' FOR UPDATE")).await;
        sleep(Duration::from_millis(random.u64(5..40))).await;
        for pid in waiting_for_a_lock(observer, 0).await {
            if random.bool() {
                terminate(observer, pid).await;
            }
        }
        // Those that are left stay in progress, while the others may be acknowledged by way of the journal.
        sleep(Duration::from_millis(random.u64(0..500))).await;
        execute(holder, "ROLLBACK").await;
    }
}

/// The same rule without a plan, as a crowd meets it: what was answered before another write was sent comes before it,
/// nothing acknowledged is lost, nothing rejected happens, and the last word stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writes_to_one_todo_take_effect_in_order_while_sessions_end_at_random() {
    const ROUNDS: usize = 6;
    /// Of two answers that come so far apart, the one was given before the other.
    const ANSWERS_APART: Duration = Duration::from_millis(250);

    let mut random = fastrand::Rng::with_seed(seed());
    let lab = Lab::start().await;
    lab.expect_outage();
    let server = lab.server("server-1").await;
    let todo = stored_todo(&server, "before").await;
    let (holder, observer) = (lab.sql().await, lab.sql().await);
    let (mut puts, mut journaled) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        let sent = tokio::select! {
            sent = contend(&server, &todo, round) => sent,
            () = end_sessions((&holder, &observer), &todo, &mut random) => Vec::new(),
        };
        // It may have been stopped while it held the lock.
        execute(&holder, "ROLLBACK").await;
        puts.extend(sent);
        let last = Put::send(&server, &todo, format!("last-{round}")).await;
        let _ = last.answer.clone().acknowledged();
        server.journal_is_empty().await;
        let stored = lab.stored(&todo).await.map(|(title, _)| title);
        assert_eq!(stored, Some(title(&last.key)), "round {round}");
        puts.push(last);
        server.mode_becomes("normal").await;
    }
    let mut made = BTreeMap::new();
    for put in &puts {
        journaled += usize::from(put.answer.status == 202);
        let version = version_made_by(&server, &put.key).await;
        match put.answer.header("ridethrough-outcome") {
            "committed" => assert_eq!(Some(member(&put.answer.json(), "version")), version.map(Into::into)),
            "journaled" => assert!(version.is_some(), "{} is lost", put.key),
            "rejected" => assert_eq!(version, None, "{} was rejected, and happened", put.key),
            _ => assert_eq!(put.answer.header("ridethrough-outcome"), "unknown", "{put:?}"),
        }
        if let Some(version) = version {
            assert_eq!(made.insert(version, put.key.as_str()), None, "two writes made version {version}");
        }
    }
    let acknowledged: Vec<&Put> = puts.iter().filter(|put| put.is_acknowledged()).collect();
    let version_of: BTreeMap<&str, i64> = made.iter().map(|(version, key)| (*key, *version)).collect();
    for first in &acknowledged {
        let comes_first =
            |second: &&&Put| first.answered < second.sent || first.answered + ANSWERS_APART < second.answered;
        for second in acknowledged.iter().filter(comes_first) {
            let (before, after) = (version_of[first.key.as_str()], version_of[second.key.as_str()]);
            assert!(
                before < after,
                "{} (v{before}) was answered before {} (v{after})",
                first.key,
                second.key
            );
        }
    }
    let stored = lab.stored(&todo).await.map(|(_, version)| version);
    assert_eq!(stored, i64::try_from(made.len()).ok().map(|count| count + 1), "each change happened once");
    assert!(journaled > 0 && journaled < puts.len(), "{journaled} of {} went to the journal", puts.len());
    lab.finish().await;
}
