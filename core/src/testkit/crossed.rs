//! Crash points of the journal, crossed with what the database knows of the entry in progress: not applied, applied, its
//! COMMIT lost, or still running in a session that the crash left behind. Then a new process replays, and each write
//! that was acknowledged must have happened once, in the order of its todo.

use std::{
    collections::BTreeMap,
    io::Write as _,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime},
};

use tokio::{
    task::{JoinHandle, yield_now},
    time::{sleep, timeout},
};
use tokio_postgres::Client;

use super::{At, FakePostgres, Fault, TestDb, TestJournal};
use crate::{
    db::{Applied, ApplyError, BoxFuture, Command, Commands, DbConfig, Statements},
    journal::{
        Journal, JournalConfig, JournalWriter, NewEntry,
        memory::{Fault as DiskFault, Image, MemoryDisk, Survival},
    },
};

const CLAIM: &str = "INSERT INTO ridethrough_writes (key, command, fingerprint, outcome, accepted_at) \
                     VALUES ($1, $2, $3, 'applied', $4) ON CONFLICT (key) DO NOTHING";
const FINGERPRINT: [u8; 32] = [9; 32];
/// Batches of a run, each of so many entries.
const BATCHES: usize = 4;
const BATCH: usize = 2;
/// Todos that the entries belong to, in turn.
const TODOS: usize = 2;

/// What the database knows of the oldest entry that is not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InProgress {
    NotApplied,
    Applied,
    AppliedWithTheNext,
    /// The next process loses its first COMMIT, too, before or after it counts.
    CommitLost(bool),
    /// A session that outlived its process commits after this long, or rolls back.
    Ghost {
        millis: u64,
        commits: bool,
    },
}

const STATES: [InProgress; 8] = [
    InProgress::NotApplied,
    InProgress::Applied,
    InProgress::AppliedWithTheNext,
    InProgress::CommitLost(false),
    InProgress::CommitLost(true),
    InProgress::Ghost { millis: 40, commits: true },
    InProgress::Ghost { millis: 40, commits: false },
    InProgress::Ghost { millis: 900, commits: true },
];

/// Each command leaves a statement of its own behind.
#[derive(Debug)]
struct Effects;

fn effect(key: &str) -> String {
    format!("INSERT INTO effects VALUES ('{key}')")
}

impl Commands for Effects {
    fn apply<'c>(
        &'c self,
        statements: &'c Statements<'c>,
        command: &'c Command,
        _replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        Box::pin(async move {
            statements.run(&effect(&command.key), &[]).await?;
            Ok(Applied::Done(bytes::Bytes::new()))
        })
    }
}

fn entry(number: usize) -> NewEntry {
    NewEntry {
        key: format!("write-{number:02}"),
        kind: "todo.replace".to_owned(),
        fingerprint: FINGERPRINT,
        accepted_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000),
        payload: vec![b'x'; 400].into(),
        version: 1,
        ordering_key: format!("todo-{}", number % TODOS),
        retried: false,
    }
}

/// What the callers of a run were told, and how far it was settled.
#[derive(Debug, Default)]
struct Told {
    durable: Vec<String>,
    unknown: Vec<String>,
    settled: usize,
}

/// Appends, settling one entry less than was appended, until all is done or the power goes.
fn run(disk: &MemoryDisk) -> Told {
    let mut told = Told::default();
    let mut config = JournalConfig::new("/nowhere");
    config.segment_bytes = 4096;
    let Ok((journal, mut writer, _)) = Journal::open_on(config, Arc::new(disk.clone())) else { return told };
    for batch in 0..BATCHES {
        let entries: Vec<NewEntry> = (0..BATCH).map(|one| entry(batch * BATCH + one)).collect();
        let keys: Vec<String> = entries.iter().map(|entry| entry.key.clone()).collect();
        for (key, durable) in keys.into_iter().zip(append(&journal, &mut writer, entries)) {
            if durable { told.durable.push(key) } else { told.unknown.push(key) }
        }
        while told.settled + 1 < told.durable.len() {
            told.settled += 1;
            journal.settled(&[told.settled as u64]);
        }
        writer.housekeep();
    }
    told
}

/// Appends together; whether each is durable.
fn append(journal: &Journal, writer: &mut JournalWriter, entries: Vec<NewEntry>) -> Vec<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut waiting: Vec<_> = entries.into_iter().map(|entry| Box::pin(journal.append(entry))).collect();
        let mut answers = Vec::new();
        std::future::poll_fn(|context| {
            answers = waiting.iter_mut().map(|append| append.as_mut().poll(context)).collect();
            Poll::Ready(())
        })
        .await;
        writer.turn(Duration::ZERO);
        let mut durable = Vec::new();
        for (append, answer) in waiting.into_iter().zip(answers) {
            durable.push(match answer {
                Poll::Ready(answer) => answer.is_ok(),
                Poll::Pending => append.await.is_ok(),
            });
        }
        durable
    })
}

/// BEGIN, the keys, their effects; open until the caller ends it.
async fn begin(client: &Client, keys: &[String]) {
    client.batch_execute("BEGIN").await.unwrap();
    for key in keys {
        let at = SystemTime::UNIX_EPOCH;
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [key, &"todo.replace", &FINGERPRINT.as_slice(), &at];
        client.execute(CLAIM, &values).await.unwrap();
        client.batch_execute(&effect(key)).await.unwrap();
    }
}

/// Brings the database to where it was at the crash; the ghost, where there is one, goes on by itself.
async fn prepare(server: &FakePostgres, told: &Told, state: InProgress) -> Option<JoinHandle<()>> {
    let client = server.client().await.unwrap();
    for key in &told.durable[..told.settled] {
        begin(&client, std::slice::from_ref(key)).await;
        client.batch_execute("COMMIT").await.unwrap();
    }
    let rest = &told.durable[told.settled..];
    let first = &rest[..rest.len().min(1)];
    match state {
        InProgress::NotApplied => {}
        InProgress::Applied | InProgress::AppliedWithTheNext => {
            let count = if state == InProgress::Applied { 1 } else { 2 };
            begin(&client, &rest[..rest.len().min(count)]).await;
            client.batch_execute("COMMIT").await.unwrap();
        }
        InProgress::CommitLost(false) => server.fault(At::BeforeCommit, Fault::Drop),
        InProgress::CommitLost(true) => server.fault(At::AfterCommit, Fault::Drop),
        InProgress::Ghost { millis, commits } => {
            begin(&client, first).await;
            return Some(tokio::spawn(async move {
                sleep(Duration::from_millis(millis)).await;
                let end = if commits { "COMMIT" } else { "ROLLBACK" };
                // The new process may have ended this session.
                let _ = client.batch_execute(end).await;
            }));
        }
    }
    None
}

/// The next process.
fn start(server: &FakePostgres, disk: &MemoryDisk) -> TestDb {
    let mut config = JournalConfig::new("/nowhere");
    config.segment_bytes = 4096;
    let (journal, writer, _) = Journal::open_on(config, Arc::new(disk.clone())).unwrap();
    let kept = TestJournal::with_writer(journal, writer);
    TestDb::start_on_journal(server, DbConfig::default(), Arc::new(Effects), kept).unwrap()
}

async fn replayed(process: &TestDb, context: &str) {
    let emptied = async {
        while process.journal().backlog().entries > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = timeout(Duration::from_secs(120), emptied).await.is_ok();
    assert!(in_time, "{context}: {:?} waits", process.journal().backlog());
}

/// W1 to W4: nothing acknowledged is lost, nothing happens twice, nothing happens that nobody sent, and the writes to one
/// todo happen in the order of their acknowledgement.
fn judge(server: &FakePostgres, told: &Told, context: &str) {
    let happened: Vec<String> = server
        .committed_statements("INSERT INTO effects")
        .into_iter()
        .map(|sql| sql.split('\'').nth(1).unwrap().to_owned())
        .collect();
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for key in &happened {
        *times.entry(key).or_default() += 1;
    }
    for key in &told.durable {
        assert!(times.contains_key(key.as_str()), "{context}: {key} is lost; {happened:?}");
    }
    for (key, times) in times {
        assert_eq!(times, 1, "{context}: {key} happened {times} times");
        let was_sent = told.durable.iter().chain(&told.unknown).any(|sent| sent == key);
        assert!(was_sent, "{context}: nobody sent {key}");
    }
    for todo in 0..TODOS {
        let number = |key: &String| key.rsplit('-').next().unwrap().parse::<usize>().unwrap();
        let order: Vec<usize> = happened.iter().map(number).filter(|one| one % TODOS == todo).collect();
        assert!(order.is_sorted(), "{context}: todo {todo} changed in the order {order:?}");
    }
}

fn random() -> fastrand::Rng {
    let given = std::env::var("RIDETHROUGH_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(fastrand::u32(..)));
    say(&format!("seed {seed}; again with RIDETHROUGH_TEST_SEED={seed}"));
    fastrand::Rng::with_seed(seed)
}

fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

#[test]
fn whatever_the_database_knew_at_the_crash_each_write_happens_once() {
    let mut random = random();
    let whole = MemoryDisk::default();
    assert_eq!(run(&whole).durable.len(), BATCHES * BATCH);
    let mut tried = 0;
    for step in 0..=whole.steps() {
        let disk = MemoryDisk::default();
        disk.set_faults(&[DiskFault::PowerCut { step }]);
        let told = run(&disk);
        let images = disk.images(&mut random, 2);
        for state in STATES {
            let Image { what, disk } = &images[random.usize(..images.len())];
            let context = format!("step {step}, {what}, {state:?}");
            paused().block_on(async {
                let server = FakePostgres::start();
                let ghost = prepare(&server, &told, state).await;
                let process = start(&server, disk);
                replayed(&process, &context).await;
                if let Some(ghost) = ghost {
                    ghost.await.unwrap();
                }
                judge(&server, &told, &context);
            });
            tried += 1;
        }
    }
    say(&format!("{tried} crash points crossed with the database"));
    assert!(tried > 200, "only {tried}");
}

/// The process dies at each message that the server handles while it replays; its sessions break, and the next process
/// goes on with what the disk kept.
#[test]
fn a_death_at_any_message_of_the_replay_neither_loses_nor_doubles() {
    let mut tried = 0;
    for (first, survival) in [(1, Survival::All), (2, Survival::Nothing)] {
        for messages in (first..).step_by(2) {
            let disk = MemoryDisk::default();
            run(&disk);
            // Without its cursor the journal is read from its oldest segment again, so that there is more to do.
            disk.lose("cursor");
            let told = Told { durable: waiting(&disk), ..Told::default() };
            let context = format!("death after {messages} messages, {survival:?}");
            let died = paused().block_on(async {
                let server = FakePostgres::start();
                let process = start(&server, &disk);
                let died = loop {
                    if server.counts().messages >= messages {
                        break true;
                    }
                    if process.journal().backlog().entries == 0 {
                        break false;
                    }
                    sleep(Duration::from_micros(1)).await;
                    yield_now().await;
                };
                let left = disk.after_crash(survival);
                drop(process);
                let process = start(&server, &left);
                replayed(&process, &context).await;
                judge(&server, &told, &context);
                died
            });
            if !died {
                break;
            }
            tried += 1;
        }
    }
    say(&format!("{tried} deaths during replay"));
    assert!(tried > 20, "only {tried}");
}

/// The keys that a start would find.
fn waiting(disk: &MemoryDisk) -> Vec<String> {
    let image = disk.after_crash(Survival::All);
    let (journal, _writer, _) = Journal::open_on(JournalConfig::new("/nowhere"), Arc::new(image)).unwrap();
    let entries = journal.batch(usize::MAX, u64::MAX, &|_| false).unwrap();
    entries.into_iter().map(|entry| entry.key).collect()
}
