//! A transaction loses its connection at the boundary of each of its messages, in both directions: what the caller was
//! told must be what the database holds, and where nobody knew, the same key finds out.

use std::{sync::Arc, time::Duration};

use ridethrough::{
    Deadline,
    db::{ApplyError, Outcome, Pooler, Statements, TransactionOptions, WriteError, Written},
};
use ridethrough_chaos::pgwire::{Action, Edge, Pattern, Proxy, Rule, Sender, Trigger, Which};
use ridethrough_tests::{pooler::PgBouncer, until, wire};
use tokio::time::Instant;

use crate::service::{Service, as_service, database, effects_of, never_opens};

/// Far above what a write with retries takes.
const LIMIT: Duration = Duration::from_secs(5);
/// A silent connection costs an attempt of this.
const ATTEMPT: Duration = Duration::from_millis(150);
/// What a caller gives a write whose end cannot be found out, because nobody gets through.
const CUT_OFF_LIMIT: Duration = Duration::from_millis(400);
/// How long the server keeps the transaction, and so the key, of a connection that fell silent.
const GHOST: Duration = Duration::from_millis(150);
/// When the server learns that a silent client is gone.
const SERVER_NOTICES: Duration = Duration::from_millis(150);
/// Writes at one boundary before the test gives up.
const TRIES: usize = 5;
/// No transaction of ours has more messages in one direction.
const MESSAGES_MAX: u64 = 60;
/// The fewest cuts that the enumeration must come to, or it did not reach what it is about.
const CUTS_MIN: usize = 600;

/// What a caller was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Committed,
    Accepted,
    Nothing,
    Unknown,
}

/// By which door the transactions of a round go in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// `Db::write`, under a key.
    Write,
    /// `Db::transaction`, without a key.
    Transaction { replayable: bool },
}

/// One transaction and what its caller was told.
#[derive(Debug)]
struct Case {
    key: String,
    told: Told,
    /// What the caller can ask the server about, where nobody knew.
    xid: Option<u64>,
}

/// How the service is set up for a round.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// Without a journal an unknown outcome reaches the caller.
    journal: bool,
    door: Door,
    attempts: u32,
    /// The connection has prepared its statements before.
    warm: bool,
    pooler: Pooler,
    endings: &'static [Action],
}

/// Where and how a transaction loses its connection: counted from BEGIN, which is the client's first message; the first
/// of its answer is the server's.
fn cut(sender: Sender, message: u64, edge: Edge, ending: &Action) -> Rule {
    let begin: Rule = "client Query(BEGIN): close".parse().expect("a rule");
    let (from, on, which) = (Some(begin.trigger.on), Pattern::any(sender), Which::Nth(message));
    Rule { trigger: Trigger { session: None, from, on, which, edge }, action: ending.clone() }
}

struct Bench {
    service: Service,
    wire: Proxy,
    told: Vec<Case>,
    door: Door,
}

impl Bench {
    async fn new(port: u16, url: &str, round: Round) -> Self {
        let wire = wire::to(port).await;
        let mut config = never_opens(wire.through(url).expect("the URL leads to the port"));
        config.write.attempts = round.attempts;
        config.pool.pooler = round.pooler;
        config.write.attempt = ATTEMPT;
        config.pool.lock = ATTEMPT / 2;
        config.pool.idle_in_transaction = GHOST;
        config.budget.floor_per_second = 1_000.0;
        // What is cut off is found again at once.
        config.probe.away_first = Duration::from_millis(20);
        config.probe.away_max = Duration::from_millis(50);
        // One call at a time gets the connection of the call before; small pools may not dial as often as is cut here.
        config.bulkhead.permits = 40;
        let service = Service::start(config).await;
        if !round.journal {
            service.journal.close();
        }
        Self { service, wire, told: Vec::new(), door: round.door }
    }

    /// Writes until the cut happens, or a transaction went through without it: then it has no such message. A write that
    /// met the end of the connection before tells neither.
    async fn reaches(&mut self, key: &str, cut: &Rule, warm: bool) -> bool {
        for number in 0..TRIES {
            if self.write(format!("{key}-{number}"), cut, warm).await {
                return true;
            }
            if self.told.last().is_some_and(|case| case.told == Told::Committed) {
                return false;
            }
        }
        panic!("{key}: neither cut nor committed in {TRIES} writes");
    }

    /// Writes under `key` while `cut` is planned; says whether it happened before the transaction was over.
    async fn write(&mut self, key: String, cut: &Rule, warm: bool) -> bool {
        if warm {
            // The connection of the write before may die only now: with a single attempt that is for the caller to mend.
            let committed = async || {
                let before = self.service.put(&format!("{key}-before"), LIMIT).await;
                matches!(before, Ok(Written::Committed { .. })).then_some(())
            };
            until("a write without a cut", LIMIT, committed).await;
        }
        let planted = self.wire.plant(cut.clone());
        let limit = if cut.action == Action::Shut { CUT_OFF_LIMIT } else { LIMIT };
        let (told, xid) = match self.door {
            Door::Write => (told(self.service.put(&key, limit).await), None),
            Door::Transaction { replayable } => transaction(&self.service, &key, replayable, limit).await,
        };
        let happened = planted.count() > 0;
        drop(planted);
        self.told.push(Case { key, told, xid });
        if told == Told::Accepted {
            // Before the next write, which would queue up behind it.
            self.service.has_settled().await;
        }
        happened
    }
}

fn told(written: Result<Written, WriteError>) -> Told {
    match written {
        Ok(Written::Committed { .. } | Written::Superseded { .. }) => Told::Committed,
        Ok(Written::Journaled { .. }) => Told::Accepted,
        Err(WriteError::Unknown(_)) => Told::Unknown,
        Err(_) => Told::Nothing,
    }
}

/// As the command of the service, but as a transaction of the caller's own, without a key that keeps it from happening twice.
async fn transaction(service: &Service, key: &str, replayable: bool, limit: Duration) -> (Told, Option<u64>) {
    let options = TransactionOptions { replayable, ..TransactionOptions::new("effect") };
    let name = key.to_owned();
    let work = async move |statements: &Statements<'_>| {
        let there = "SELECT count(*) FROM effects WHERE key = $1";
        statements.row(there, &[&name]).await?;
        statements.run("INSERT INTO effects (key) VALUES ($1)", &[&name]).await?;
        Ok::<_, ApplyError>(())
    };
    let deadline = Deadline::after(Instant::now(), limit);
    match service.db.transaction(options, deadline, work).await {
        Outcome::Committed(()) => (Told::Committed, None),
        Outcome::RolledBack(_) => (Told::Nothing, None),
        Outcome::Unknown(unresolved) => (Told::Unknown, unresolved.xid),
    }
}

/// Cuts at every boundary until the transaction is over before the cut comes.
async fn every_boundary(bench: &mut Bench, name: &str, round: Round) -> usize {
    let mut cuts = 0;
    for ending in round.endings {
        for sender in [Sender::Client, Sender::Server] {
            let edges = [Edge::Before, Edge::After];
            'messages: for message in 1..=MESSAGES_MAX {
                for edge in edges {
                    let key = format!("{name}-{sender:?}-{message}-{edge:?}-{ending:?}").to_lowercase();
                    let cut = cut(sender, message, edge, ending);
                    if !bench.reaches(&key, &cut, round.warm).await {
                        break 'messages;
                    }
                    cuts += 1;
                }
            }
        }
    }
    cuts
}

/// The truth of the database against what was told; who was told nothing certain finds out afterwards: under a key by
/// doing it again, else by the number of the transaction.
async fn judge(service: &Service, url: &str, door: Door, cases: &[Case]) {
    let client = as_service(url).await;
    for Case { key, told, xid } in cases {
        let found = effects_of(&client, key).await;
        let right = match told {
            Told::Committed | Told::Accepted => found == 1,
            Told::Nothing => found == 0,
            Told::Unknown => found <= 1,
        };
        assert!(right, "{key}: told {told:?}, and found {found} times");
        if *told == Told::Unknown && door == Door::Write {
            let again = service.put(key, LIMIT).await;
            let Ok(Written::Committed { repeated, .. }) = again else { panic!("{key}: {again:?}") };
            assert_eq!(repeated, found == 1, "{key}: the same key must find out what happened");
            assert_eq!(effects_of(&client, key).await, 1, "{key}: applied twice");
        } else if *told == Told::Unknown {
            let xid = xid.expect("a transaction that was begun has a number").to_string();
            let sql = "SELECT pg_xact_status($1::text::xid8) = 'committed'";
            let row = client.query_one(sql, &[&xid]).await.expect("the server knows its number");
            assert_eq!(row.get::<_, bool>(0), found == 1, "{key}: {xid}");
        }
    }
}

const BOTH: &[Action] = &[Action::Close, Action::Reset];
const WRITE: Round =
    Round { journal: false, door: Door::Write, attempts: 1, warm: true, pooler: Pooler::None, endings: BOTH };
const TRANSACTION: Round = Round { door: Door::Transaction { replayable: false }, ..WRITE };

const ROUNDS: [(&str, Round); 5] = [
    ("plain", Round { journal: true, attempts: 3, ..WRITE }),
    ("once", WRITE),
    ("cold", Round { warm: false, endings: &[Action::Reset], ..WRITE }),
    ("transaction", TRANSACTION),
    ("replayed", Round { attempts: 3, door: Door::Transaction { replayable: true }, ..TRANSACTION }),
];
/// Rounds of hardly anything but waiting for who says nothing, which goes on beside the others.
const SILENT: [(&str, Round); 1] =
    [("silent", Round { journal: true, endings: &[Action::Vanish(SERVER_NOTICES)], ..WRITE })];
const CUT_OFF: [(&str, Round); 2] = [
    ("cut-off", Round { endings: &[Action::Shut], ..WRITE }),
    ("transaction-cut-off", Round { endings: &[Action::Shut], ..TRANSACTION }),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_cut_at_any_message_leaves_what_its_caller_was_told() {
    let (_folder, cluster) = database(&[]).await;
    let url = cluster.url();
    let one_by_one = async |rounds: &[(&str, Round)]| {
        let mut cuts = 0;
        for (name, round) in rounds {
            cuts += all_of(name, *round, &url, &url).await;
        }
        cuts
    };
    let (busy, silent, cut_off) =
        tokio::join!(one_by_one(&ROUNDS), one_by_one(&SILENT), one_by_one(&CUT_OFF));
    let cuts = busy + silent + cut_off;
    assert!(cuts >= CUTS_MIN, "only {cuts} cuts");
}

/// The pooler ends its own connection to the server when a client goes away in a transaction, and serves the next client
/// on another: process and number of a transaction must be the server's for its end to be found out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_cut_before_its_pooler_leaves_what_its_caller_was_told() {
    const SERVER_CONNECTIONS: usize = 3;
    const CUTS_EACH_MIN: usize = 60;
    let (folder, cluster) = database(&[]).await;
    let Some(pooler) = PgBouncer::before(&cluster.url(), &folder, SERVER_CONNECTIONS).await else {
        return crate::say("skipped: pgbouncer is not installed");
    };
    let pooled = |round| Round { pooler: Pooler::PgBouncer, ..round };
    for (name, round) in [("pooled", pooled(WRITE)), ("pooled-transaction", pooled(TRANSACTION))] {
        let cuts = all_of(name, round, pooler.url(), &cluster.url()).await;
        assert!(cuts >= CUTS_EACH_MIN, "{name}: only {cuts} cuts");
    }
}

/// One round through `url`, judged at `truth`; answers how many cuts there were.
async fn all_of(name: &str, round: Round, url: &str, truth: &str) -> usize {
    let began = Instant::now();
    let target: tokio_postgres::Config = url.parse().expect("a URL of PostgreSQL");
    let port = target.get_ports().first().copied().expect("the URL names a port");
    let mut bench = Bench::new(port, url, round).await;
    let cuts = every_boundary(&mut bench, name, round).await;
    bench.service.sees_database(LIMIT).await;
    judge(&bench.service, truth, round.door, &bench.told).await;
    let count = |told| bench.told.iter().filter(|case| case.told == told).count();
    let unknown = count(Told::Unknown);
    crate::say(&format!(
        "{name}: {cuts} cuts, committed {}, accepted {}, nothing {}, unknown {unknown}, {:?}",
        count(Told::Committed),
        count(Told::Accepted),
        count(Told::Nothing),
        began.elapsed()
    ));
    let is_cut_off = round.endings == [Action::Shut];
    assert!(!is_cut_off || unknown > 0, "{name}: no outcome was left unknown, so nothing was shown of those");
    cuts
}

/// Several writers at once, with cuts drawn from a seed: here it is chance which of them a cut hits, and in what state
/// the others are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_side_by_side_under_random_cuts_are_told_the_truth() {
    const WRITERS: usize = 4;
    const WRITES: usize = 100;
    let mut random = fastrand::Rng::with_seed(ridethrough_tests::seed());
    let (_folder, cluster) = database(&[]).await;
    let wire = wire::to(cluster.port()).await;
    let url = wire.through(&cluster.url()).expect("the URL leads to the cluster");
    let mut config = never_opens(url);
    config.write.attempt = ATTEMPT;
    config.pool.lock = ATTEMPT / 2;
    config.pool.idle_in_transaction = GHOST;
    let service = Arc::new(Service::start(config).await);
    // Without a journal every write goes to the database, and an unknown outcome reaches its caller.
    service.journal.close();
    let writers = (0..WRITERS).map(|writer| {
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            let mut ended = Vec::new();
            for number in 0..WRITES {
                let key = format!("writer-{writer}-{number}");
                let told = told(service.put(&key, LIMIT).await);
                ended.push(Case { key, told, xid: None });
            }
            ended
        })
    });
    let writers: Vec<_> = writers.collect();
    while writers.iter().any(|writer| !writer.is_finished()) {
        let sender = if random.bool() { Sender::Client } else { Sender::Server };
        let edge = if random.bool() { Edge::Before } else { Edge::After };
        let ending = if random.bool() { Action::Close } else { Action::Reset };
        let _planted = wire.plant(cut(sender, random.u64(1..=16), edge, &ending));
        tokio::time::sleep(Duration::from_millis(random.u64(1..10))).await;
    }
    let mut told = Vec::new();
    for writer in writers {
        told.extend(writer.await.expect("a writer does not panic"));
    }
    judge(&service, &cluster.url(), Door::Write, &told).await;
    let cuts = wire.counts().bites;
    crate::say(&format!("{cuts} cuts under {} writes", told.len()));
    assert!(cuts >= WRITES as u64 / 2, "only {cuts} cuts");
}
