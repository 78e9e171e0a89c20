//! Replay on a real PostgreSQL: that many at once are what each is alone, that a bad entry holds up only its own thing, that
//! a backlog goes while others write, and that a journal has one owner.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use ridethrough::{
    DbConfig, Deadline,
    db::{
        Applied, ApplyError, BoxFuture, Command, Commands, NotKnown, Refusal, Statements, WriteError,
        WriteState, Written, to_microseconds,
    },
    health::{DatabasePart, JournalPart, SchemaPart},
    journal::NewEntry,
};
use ridethrough_tests::until;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    say,
    service::{Service, as_service, database, effects_of, never_opens, put},
};

const LIMIT: Duration = Duration::from_secs(20);
const OURS: Uuid = Uuid::from_u128(1);
const THEIRS: Uuid = Uuid::from_u128(2);

fn deadline() -> Deadline {
    Deadline::after(Instant::now(), LIMIT)
}

fn todo(number: u128) -> Uuid {
    Uuid::from_u128(0x1000 + number)
}

/// A command of the todo server, as it stands in the journal.
fn command(key: &str, name: &str, id: Uuid, rest: Value) -> Command {
    let mut payload = json!({ "id": id });
    if let (Some(payload), Some(rest)) = (payload.as_object_mut(), rest.as_object()) {
        payload.extend(rest.clone());
    }
    Command {
        key: key.to_owned(),
        name: name.to_owned(),
        version: 1,
        ordering_key: id.to_string(),
        payload: payload.to_string().into(),
        fingerprint: [3; 32],
        accepted_at: to_microseconds(SystemTime::now()),
    }
}

/// The same commands, of which the library is told that each is to be applied alone.
struct OneByOne(Arc<dyn Commands>);

impl Commands for OneByOne {
    fn apply<'c>(
        &'c self,
        statements: &'c Statements<'c>,
        command: &'c Command,
        replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        self.0.apply(statements, command, replayed)
    }
}

/// What replay finds: another's todo of version 3, ours of version 3, and one that is gone.
const STANDING: &str = "INSERT INTO todos (id, title, version, created_at, updated_at, written_by) \
    SELECT ('00000000-0000-0000-0000-00000000' || lpad(to_hex(4096 + n), 4, '0'))::uuid, 'was', 3, \
    now() - interval '1 hour', now() + make_interval(secs => CASE WHEN n % 3 = 0 THEN 3600 ELSE -60 END), \
    ('00000000-0000-0000-0000-00000000000' || (1 + n % 2))::uuid FROM generate_series(0, 39) AS n";

/// Every way in which a replayed command can end, each on a todo of its own; and some that follow each other.
fn table() -> Vec<Command> {
    let seen = |version: i64, pending: bool| json!({ "version": version, "pending": pending, "created_at": "2026-11-20T12:00:00Z" });
    let replace = |if_match: Value, seen: Value| json!({ "title": "new", "done": true, "if_match": if_match, "seen": seen });
    let conditions = [Value::Null, json!(3), json!(2)];
    let sights = [Value::Null, seen(3, false), seen(2, false), seen(3, true)];
    let mut commands = Vec::new();
    let mut number = 0;
    for condition in &conditions {
        for sight in &sights {
            for _ in 0..2 {
                let change = replace(condition.clone(), sight.clone());
                commands.push(command(&format!("replace-{number}"), "todo.replace", todo(number), change));
                number += 1;
            }
        }
        for _ in 0..2 {
            let condition = json!({ "if_match": condition });
            commands.push(command(&format!("remove-{number}"), "todo.remove", todo(number), condition));
            number += 1;
        }
    }
    let gone = todo(500);
    commands.push(command("replace-gone", "todo.replace", gone, replace(Value::Null, Value::Null)));
    commands.push(command("remove-gone", "todo.remove", gone, json!({ "if_match": 1 })));
    commands.push(command("create-again", "todo.create", todo(number), json!({ "title": "again" })));
    // One todo from its beginning to its end.
    let life = todo(600);
    commands.push(command("life-1", "todo.create", life, json!({ "title": "born" })));
    commands.push(command("life-2", "todo.replace", life, replace(Value::Null, seen(1, true))));
    commands.push(command("life-3", "todo.replace", life, replace(json!(2), seen(2, true))));
    commands.push(command("life-4", "todo.remove", life, json!({ "if_match": 7 })));
    commands.push(command("unreadable", "todo.create", todo(700), json!({ "title": 7 })));
    commands
}

/// What a run left behind: each key with its outcome, and each todo.
async fn left_behind(commands: Arc<dyn Commands>) -> (Vec<String>, Vec<String>) {
    let (_folder, cluster) = database(&[]).await;
    let client = as_service(&cluster.url()).await;
    client.batch_execute(ridethrough_server::write_side::SCHEMA).await.expect("the tables can be made");
    client.batch_execute(STANDING).await.expect("todos can be made");
    let service = journaled(&cluster, commands, table()).await;
    service.has_settled().await;
    let texts = async |sql: &str| {
        let rows = client.query(sql, &[]).await.expect("the database answers");
        rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()
    };
    let outcomes = texts(
        "SELECT concat_ws(' ', key, command, outcome, reason, payload IS NULL, \
         regexp_replace(convert_from(answer, 'UTF8'), '\"(upd|cre)ated_at\":\"[^\"]*\"', '', 'g')) \
         FROM ridethrough_writes ORDER BY key",
    );
    let todos = "SELECT concat_ws(' ', id, title, done, version, written_by) FROM todos ORDER BY id";
    (outcomes.await, texts(todos).await)
}

/// A service that accepts the commands before it may use its database.
async fn journaled(
    cluster: &ridethrough_chaos::Cluster,
    service: Arc<dyn Commands>,
    commands: Vec<Command>,
) -> Service {
    let service = journaled_only(cluster, service, commands).await;
    service.db.set_schema(SchemaPart::Ok);
    service
}

/// The same, and it may not use its database yet.
async fn journaled_only(
    cluster: &ridethrough_chaos::Cluster,
    service: Arc<dyn Commands>,
    commands: Vec<Command>,
) -> Service {
    let service = Service::unseen(never_opens(cluster.url()), service);
    service.db.set_schema(SchemaPart::Unknown);
    let appends: Vec<_> = commands
        .into_iter()
        .map(|command| {
            let journal = service.journal.clone();
            // Each is queued at its first poll, so that they stand in this order.
            let mut append = Box::pin(async move { journal.append(entry(command)).await });
            let queued = poll_once(&mut append);
            tokio::spawn(async move {
                match queued {
                    Some(appended) => appended,
                    None => append.await,
                }
            })
        })
        .collect();
    for append in appends {
        append.await.expect("an append does not panic").expect("the journal takes it");
    }
    service
}

/// Polls once.
fn poll_once<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::Pin::new(future).poll(&mut context) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

fn entry(command: Command) -> NewEntry {
    NewEntry {
        key: command.key,
        kind: command.name,
        fingerprint: command.fingerprint,
        accepted_at: command.accepted_at,
        payload: command.payload,
        version: command.version,
        ordering_key: command.ordering_key,
        retried: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_of_many_todos_at_once_comes_to_what_each_comes_to_alone() {
    let todos = || ridethrough_server::write_side::todo_commands(OURS);
    let (many, alone) = tokio::join!(left_behind(todos()), left_behind(Arc::new(OneByOne(todos()))));
    assert_eq!(many.0, alone.0);
    assert_eq!(many.1, alone.1);
    assert_eq!(many.0.len(), table().len());
    for outcome in ["applied", "superseded", "rejected not-found", "rejected unreadable-payload"] {
        assert!(many.0.iter().any(|row| row.contains(outcome)), "{outcome}: {:#?}", many.0);
    }
    assert_ne!(OURS, THEIRS);
}

/// Puts as `Put` does, and fails for some.
struct Picky;

impl Commands for Picky {
    fn apply<'c>(
        &'c self,
        statements: &'c Statements<'c>,
        command: &'c Command,
        _replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        Box::pin(async move {
            if command.key.starts_with("refused") {
                return Err(Refusal::new("picky").into());
            }
            let sql = if command.key.starts_with("hopeless") {
                "INSERT INTO effects (key, value) VALUES ($1, (1 / (length($1) - length($1)))::text)"
            } else {
                "INSERT INTO effects (key) VALUES ($1)"
            };
            statements.run(sql, &[&command.key]).await?;
            Ok(Applied::Done(Bytes::from_static(b"put")))
        })
    }

    fn apply_many<'c>(
        &'c self,
        statements: &'c Statements<'c>,
        commands: &'c [&'c Command],
    ) -> BoxFuture<'c, Result<Vec<Result<Applied, Refusal>>, ApplyError>> {
        Box::pin(async move {
            let mut ended = Vec::new();
            for command in commands {
                ended.push(match self.apply(statements, command, true).await {
                    Err(ApplyError::Refused(refusal)) => Err(refusal),
                    other => Ok(other?),
                });
            }
            Ok(ended)
        })
    }

    fn applies_many(&self, name: &str) -> bool {
        name == "effect.put"
    }

    fn knows(&self, command: &Command) -> Result<(), NotKnown> {
        if command.key.starts_with("unknown") { Err(NotKnown::Name) } else { Ok(()) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_isolates_bad_entries_and_keeps_the_order_of_each_thing() {
    let (_folder, cluster) = database(&[]).await;
    let mut commands = Vec::new();
    for number in 0..400 {
        let kind = match number {
            57 => "refused",
            133 => "hopeless",
            200 => "unknown",
            _ => "fine",
        };
        let ordering_key = (number % 100).to_string();
        commands.push(Command { ordering_key, ..put(&format!("{kind}-{number:03}")) });
    }
    let service = journaled(&cluster, Arc::new(Picky), commands).await;
    let client = as_service(&cluster.url()).await;
    let settled = async || (service.journal.backlog().entries == 0).then_some(());
    // What follows the unknown one for the same thing, 300, waits behind it.
    until("all is settled but what is held", LIMIT, async || {
        let counts = service.journal.aside_counts();
        (counts.held >= 1 && counts.rejected == 2 && service.journal.backlog().entries <= 1).then_some(())
    })
    .await;
    let rows = client.query("SELECT key FROM effects ORDER BY id", &[]).await.expect("it answers");
    let keys: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(keys.len(), 396, "refused, hopeless, unknown and what follows it");
    assert!(!keys.iter().any(|key| key == "fine-300"), "it waits behind the unknown one");
    for thing in 0..100 {
        let of_thing: Vec<&String> =
            keys.iter().filter(|key| key[key.len() - 2..] == format!("{thing:02}")).collect();
        assert!(of_thing.is_sorted_by_key(|key| key[key.len() - 3..].to_owned()), "{of_thing:?}");
    }
    assert!(service.journal.is_waiting("0") && !service.journal.is_waiting("1"));
    let status = service.db.write_status("refused-057", deadline()).await.expect("it answers");
    let status = status.expect("it is known");
    assert_eq!((status.state, status.reason.as_deref()), (WriteState::Rejected, Some("picky")));
    let _ = settled().await;
}

/// A dead letter that an operator gives back is tried again once, and may overwrite what was recorded of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_of_a_retried_dead_letter_overwrites_its_rejection() {
    let (_folder, cluster) = database(&[]).await;
    let client = as_service(&cluster.url()).await;
    client.batch_execute("ALTER TABLE effects ADD CHECK (key <> 'k')").await.expect("it answers");
    let service = journaled(&cluster, Arc::new(Picky), vec![put("k"), put("other")]).await;
    service.has_settled().await;
    let state = async || {
        let status = service.db.write_status("k", deadline()).await.expect("it answers");
        status.expect("it is known").state
    };
    assert_eq!((state().await, service.journal.aside_counts().rejected), (WriteState::Rejected, 1));
    client.batch_execute("ALTER TABLE effects DROP CONSTRAINT effects_key_check").await.expect("it answers");
    service.journal.retry("k").await.expect("the journal takes it").expect("there is a dead letter");
    service.has_settled().await;
    assert_eq!((state().await, effects_of(&client, "k").await), (WriteState::Applied, 1));
    assert_eq!(service.journal.aside_counts().rejected, 0);
}

/// While one backlog waited all writes were journaled behind it: 2,145 entries waited after 20 seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_of_a_backlog_ends_while_others_write() {
    /// The journal takes 4,096 appends at once.
    const DEPTH: u32 = 4_000;
    let (_folder, cluster) = database(&[]).await;
    let backlog =
        (0..DEPTH).map(|n| Command { ordering_key: n.to_string(), ..put(&format!("b-{n}")) }).collect();
    let service = Arc::new(journaled(&cluster, Arc::new(Picky), backlog).await);
    service.sees_database(LIMIT).await;
    let started = Instant::now();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let service = Arc::clone(&service);
            tokio::spawn(async move {
                let mut direct = 0;
                for number in 0.. {
                    if service.has_ended() {
                        break;
                    }
                    let key = format!("w-{writer}-{number}");
                    let command = Command { ordering_key: key.clone(), ..put(&key) };
                    match service.db.write(command, deadline()).await {
                        Ok(Written::Committed { .. }) => direct += 1,
                        other => panic!("a write beside the backlog was not committed: {other:?}"),
                    }
                }
                direct
            })
        })
        .collect();
    service.has_settled().await;
    let took = started.elapsed();
    service.end();
    let mut direct = 0;
    for writer in writers {
        direct += writer.await.expect("a writer does not panic");
    }
    say(&format!("replayed {DEPTH} entries in {took:?} beside {direct} direct writes"));
    assert!(direct > 0, "others were written directly meanwhile");
    assert!(took < LIMIT, "{took:?}");
}

fn is_fenced(service: &Service) -> bool {
    let (.., journal, _) = service.db.parts(Instant::now());
    journal == JournalPart::Blocked
}

/// A process that was stopped for long, or runs on a copied folder, replayed beside the owner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_has_one_owner_and_the_fenced_one_accepts_nothing_more() {
    let (_folder, cluster) = database(&[]).await;
    let service = journaled(&cluster, Arc::new(Picky), vec![put("mine")]).await;
    service.has_settled().await;
    let client = as_service(&cluster.url()).await;
    let taken = client.execute("UPDATE ridethrough_journals SET epoch = epoch + 1", &[]).await;
    assert_eq!(taken.expect("it answers"), 1, "the owner took an epoch");
    let late = Command { ordering_key: "late".to_owned(), ..put("late") };
    service.journal.append(entry(late)).await.expect("the journal takes it");
    let fenced = async || is_fenced(&service).then_some(());
    until("the owner learns that it is none any more", LIMIT, fenced).await;
    assert_eq!((effects_of(&client, "mine").await, effects_of(&client, "late").await), (1, 0));
    // A direct write needs no journal; one that would be journaled behind the other is refused.
    let behind = service.db.write(Command { ordering_key: "late".to_owned(), ..put("behind") }, deadline());
    let refused = behind.await;
    assert!(matches!(refused, Err(WriteError::Rejected(_))), "{refused:?}");
    let direct = service.db.write(Command { ordering_key: "d".to_owned(), ..put("d") }, deadline()).await;
    assert!(matches!(direct, Ok(Written::Committed { .. })), "{direct:?}");
    assert_eq!(*service.db.database().borrow(), DatabasePart::Up);
}

/// An outcome can be asked for as long as the retention says; what is older than that is neither kept nor applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_applies_nothing_that_is_older_than_the_outcomes_that_are_kept() {
    let (_folder, cluster) = database(&[]).await;
    let old = SystemTime::now() - DbConfig::default().write.retention;
    let old = Command { accepted_at: to_microseconds(old), ordering_key: "old".to_owned(), ..put("old") };
    let service = journaled(&cluster, Arc::new(Picky), vec![old, put("new")]).await;
    service.has_settled().await;
    let client = as_service(&cluster.url()).await;
    assert_eq!((effects_of(&client, "old").await, effects_of(&client, "new").await), (0, 1));
    let status = service.db.write_status("old", deadline()).await.expect("it answers").expect("it is known");
    assert_eq!(status.reason.as_deref(), Some("older-than-retention"));
    assert_eq!(service.journal.aside_counts().rejected, 1);
    service.journal.retry("old").await.expect("the journal takes it").expect("there is a dead letter");
    service.has_settled().await;
    assert_eq!(effects_of(&client, "old").await, 1, "an operator vouched for it");
}

/// A batch that lost a race fell apart, and its entries were judged alone: then the one of which nobody can tell any more
/// whether it was applied was applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_of_what_is_too_old_does_not_apply_it_after_a_lost_race_either() {
    const LOSES_ONCE: &str = "CREATE SEQUENCE attempts; \
        CREATE FUNCTION lose_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
        IF nextval('attempts') = 1 THEN RAISE EXCEPTION 'planned' USING ERRCODE = '40001'; END IF; \
        RETURN NEW; END $$; \
        CREATE TRIGGER lose_once BEFORE INSERT ON ridethrough_writes FOR EACH ROW EXECUTE FUNCTION lose_once()";
    let (_folder, cluster) = database(&[]).await;
    let client = as_service(&cluster.url()).await;
    client.batch_execute(LOSES_ONCE).await.expect("it answers");
    let old = SystemTime::now() - DbConfig::default().write.retention;
    let old = Command { accepted_at: to_microseconds(old), ..put("old") };
    let service = journaled(&cluster, Arc::new(Picky), vec![old]).await;
    service.has_settled().await;
    let attempts = client.query_one("SELECT last_value FROM attempts", &[]).await.expect("it answers");
    assert!(attempts.get::<_, i64>(0) > 1, "no race was lost, so nothing was shown");
    assert_eq!(effects_of(&client, "old").await, 0);
    let status = service.db.write_status("old", deadline()).await.expect("it answers").expect("it is known");
    assert_eq!(status.reason.as_deref(), Some("older-than-retention"));
    assert_eq!(service.journal.aside_counts().rejected, 1);
}

/// Two processes on copies of one folder, each of which has all the entries and a database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_of_a_copied_journal_doubles_nothing_and_fences_one_of_the_two() {
    const DEPTH: usize = 3_000;
    const THINGS: usize = 60;
    let (_folder, cluster) = database(&[]).await;
    let things = |number: usize| Command {
        ordering_key: (number % THINGS).to_string(),
        ..put(&format!("k-{number:04}"))
    };
    let first = journaled_only(&cluster, Arc::new(Picky), (0..DEPTH).map(things).collect()).await;
    let second = Service::unseen_in(first.copied_journal(), never_opens(cluster.url()), Arc::new(Picky));
    assert_eq!(second.journal.backlog().entries, DEPTH as u64, "the copy has them too");
    first.db.set_schema(SchemaPart::Ok);
    let both = [&first, &second];
    until("one of them stops, and the other one ends", LIMIT, async || {
        let fenced = both.iter().filter(|service| is_fenced(service)).count();
        let is_done =
            both.iter().any(|service| !is_fenced(service) && service.journal.backlog().entries == 0);
        (fenced == 1 && is_done).then_some(())
    })
    .await;
    let client = as_service(&cluster.url()).await;
    let rows = client.query("SELECT key FROM effects ORDER BY id", &[]).await.expect("it answers");
    let keys: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(keys.iter().collect::<std::collections::HashSet<_>>().len(), DEPTH, "none is lost");
    assert_eq!(keys.len(), DEPTH, "none is doubled");
    let mut last = [0; THINGS];
    for key in &keys {
        let number: usize = key[2..].parse().expect("the keys are numbered");
        assert!(last[number % THINGS] <= number, "{key} came late");
        last[number % THINGS] = number;
    }
    let left = both.map(|service| (is_fenced(service), service.journal.backlog().entries));
    say(&format!("of two owners: {left:?} (fenced, entries left)"));
}

/// One entry that waited for an operator kept all outcomes from being removed, for as long as it waited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_removes_outcomes_after_the_retention_also_while_an_entry_waits_for_an_operator() {
    const OLD: &str = "INSERT INTO ridethrough_writes (key, command, fingerprint, outcome, accepted_at, settled_at) \
        SELECT 'old-' || n, 'effect.put', '\\x07', 'applied', now() - interval '2 hours', \
        now() - make_interval(mins => CASE WHEN n % 10 = 0 THEN 30 ELSE 90 END) FROM generate_series(1, 2500) AS n";
    let (_folder, cluster) = database(&[]).await;
    let client = as_service(&cluster.url()).await;
    client.batch_execute(OLD).await.expect("it answers");
    client.batch_execute("ALTER TABLE effects RENAME TO away").await.expect("it answers");
    let mut config = never_opens(cluster.url());
    config.write.retention = Duration::from_secs(3_600);
    let service = Service::start_with(config, Arc::new(Picky)).await;
    service.journal.append(entry(put("stuck"))).await.expect("the journal takes it");
    let kept = async || {
        let row = client.query_one("SELECT count(*) FROM ridethrough_writes", &[]).await.expect("it answers");
        row.get::<_, i64>(0)
    };
    until("what is older than the retention is removed", LIMIT, async || (kept().await == 250).then_some(()))
        .await;
    assert_eq!(service.journal.backlog().entries, 1, "the entry still waits");
    client.batch_execute("ALTER TABLE away RENAME TO effects").await.expect("it answers");
    service.has_settled().await;
    assert_eq!((effects_of(&client, "stuck").await, kept().await), (1, 251));
}

/// Replay looks its keys up and records them at the end, so that another replica can settle one in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_beside_direct_writes_of_the_same_keys_elsewhere_doubles_nothing() {
    const DEPTH: usize = 600;
    const WRITERS: usize = 4;
    let (_folder, cluster) = database(&[]).await;
    let writes: Vec<Command> = (0..DEPTH)
        .map(|number| Command { ordering_key: number.to_string(), ..put(&format!("k-{number:04}")) })
        .collect();
    let elsewhere = Arc::new(Service::start_with(never_opens(cluster.url()), Arc::new(Picky)).await);
    let service = journaled_only(&cluster, Arc::new(Picky), writes.clone()).await;
    service.db.set_schema(SchemaPart::Ok);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (elsewhere, writes) = (Arc::clone(&elsewhere), writes.clone());
            tokio::spawn(async move {
                let (mut first, mut repeated) = (0, 0);
                for command in writes.into_iter().skip(writer).step_by(WRITERS) {
                    match elsewhere.db.write(command, deadline()).await {
                        Ok(Written::Committed { repeated: false, .. }) => first += 1,
                        Ok(Written::Committed { repeated: true, .. }) => repeated += 1,
                        // Each waited for the other's lock; the caller may ask again.
                        Err(WriteError::Rejected(_)) => {}
                        other => panic!("a write of a key that is replayed elsewhere: {other:?}"),
                    }
                }
                (first, repeated)
            })
        })
        .collect();
    let (mut first, mut repeated) = (0, 0);
    for writer in writers {
        let ended = writer.await.expect("a writer does not panic");
        (first, repeated) = (first + ended.0, repeated + ended.1);
    }
    service.has_settled().await;
    say(&format!("of {DEPTH} writes {first} were first elsewhere and {repeated} were replayed before"));
    let client = as_service(&cluster.url()).await;
    let sql = "SELECT count(*), count(DISTINCT key) FROM effects";
    let row = client.query_one(sql, &[]).await.expect("it answers");
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (DEPTH as i64, DEPTH as i64));
}
