//! Replay on a real PostgreSQL: that many at once are what each is alone, that a bad entry holds up only its own thing, and
//! that a backlog goes while others write. Who replays at all is in `owners`.

mod owners;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use ridethrough::{
    Deadline,
    db::{
        Applied, ApplyError, BoxFuture, Command, Commands, NotKnown, Refusal, Statements, WriteState,
        Written, to_microseconds,
    },
    health::{DatabasePart, SchemaPart},
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
pub(crate) fn command(key: &str, name: &str, id: Uuid, rest: Value) -> Command {
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
pub(crate) async fn journaled(
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
    accepted(&service, commands).await;
    service
}

/// Puts the commands into the journal, in this order.
async fn accepted(service: &Service, commands: Vec<Command>) {
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
