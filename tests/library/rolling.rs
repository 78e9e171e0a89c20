//! A rolling update: servers of the version before, which know of no owners, work beside servers of this one on the schema of
//! this one. Their statements are kept here as they were; their binary is not at hand.

use std::time::SystemTime;

use ridethrough::db::{Command, WriteState, to_microseconds};
use ridethrough_server::write_side::{SCHEMA, todo_commands};
use serde_json::json;
use uuid::Uuid;

use crate::{
    replay::{command, journaled},
    service::{as_service, database},
};

/// What the version with schema 1 sends, word for word.
mod before {
    pub(super) const INSERT: &str = "INSERT INTO todos (id, title, version, created_at, updated_at, written_by) \
        VALUES ($1, $2, 1, $3, $3, $4) ON CONFLICT (id) DO NOTHING RETURNING id, title, done, version, created_at, updated_at";
    pub(super) const INSERT_MANY: &str = "INSERT INTO todos (id, title, version, created_at, updated_at, written_by) \
        SELECT new.id, new.title, 1, new.at, new.at, $4 \
        FROM unnest($1::uuid[], $2::text[], $3::timestamptz[]) AS new (id, title, at) ORDER BY new.id \
        ON CONFLICT (id) DO NOTHING RETURNING id, title, done, version, created_at, updated_at";
    pub(super) const UPDATE: &str = "UPDATE todos SET title = $2, done = $3, version = version + 1, \
        updated_at = GREATEST(clock_timestamp(), updated_at), written_by = $4 \
        WHERE id = $1 AND ($5::bigint IS NULL OR version = $5) RETURNING id, title, done, version, created_at, updated_at";
    pub(super) const UPDATE_MANY: &str = "UPDATE todos SET title = new.title, done = new.done, version = todos.version + 1, \
        updated_at = GREATEST(clock_timestamp(), todos.updated_at), written_by = $4 \
        FROM unnest($1::uuid[], $2::text[], $3::bool[]) AS new (new_id, title, done) \
        WHERE id = new.new_id RETURNING id, todos.title, todos.done, version, created_at, updated_at";
    pub(super) const DELETE: &str =
        "DELETE FROM todos WHERE id = $1 AND ($2::bigint IS NULL OR version = $2)";
    pub(super) const DELETE_MANY: &str = "DELETE FROM todos USING unnest($1::uuid[], $2::bigint[]) AS old (old_id, if_match) \
        WHERE id = old.old_id AND (old.if_match IS NULL OR version = old.if_match) RETURNING id";
    pub(super) const READ: &str =
        "SELECT id, title, done, version, created_at, updated_at FROM todos WHERE id = $1";
    pub(super) const PAGE: &str = "SELECT id, title, done, version, created_at, updated_at FROM todos \
        WHERE (created_at, id) < ($1, $2) ORDER BY created_at DESC, id DESC LIMIT $3::bigint";
    pub(super) const APPLIED: &str = "SELECT version, checksum FROM ridethrough_migrations ORDER BY version";
}

const REPLICA: Uuid = Uuid::from_u128(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_version_before_and_this_one_work_side_by_side() {
    let (_folder, cluster) = database(&[]).await;
    let old = as_service(&cluster.url()).await;
    old.batch_execute(SCHEMA).await.expect("the tables can be made");
    old.batch_execute(
        "CREATE TABLE ridethrough_migrations (version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, \
         applied_at timestamptz NOT NULL DEFAULT now()); \
         ALTER TABLE ridethrough_migrations ADD COLUMN IF NOT EXISTS works_with integer",
    )
    .await
    .expect("the record can be made");
    let now = SystemTime::now();
    let (one, two, three) = (Uuid::from_u128(0xa1), Uuid::from_u128(0xa2), Uuid::from_u128(0xa3));
    assert_eq!(old.execute(before::INSERT, &[&one, &"old", &now, &REPLICA]).await.expect("inserts"), 1);
    let many = (vec![two, three], vec!["b", "c"], vec![now, now]);
    assert_eq!(
        old.execute(before::INSERT_MANY, &[&many.0, &many.1, &many.2, &REPLICA]).await.expect("inserts"),
        2
    );

    // This version changes what the old one made, with what the old one left in a journal and with its own commands.
    let change = |version: u16, key: &str, id: Uuid, title: &str| {
        let rest = json!({ "title": title, "done": true, "if_match": null, "seen": null });
        Command { version, ..command(key, "todo.replace", id, rest) }
    };
    let foreign = Uuid::from_u128(0xf0);
    let hers = json!({ "title": "hers", "owner": foreign });
    let accepted = to_microseconds(SystemTime::now());
    let commands: Vec<Command> = [
        change(1, "k1", one, "new"),
        Command { version: 2, ..command("k2", "todo.create", Uuid::from_u128(0xb1), hers) },
        change(1, "k3", Uuid::from_u128(0xb1), "stolen"),
        command("k4", "todo.remove", three, json!({ "if_match": null })),
    ]
    .into_iter()
    .map(|command| Command { accepted_at: accepted, ..command })
    .collect();
    let service = journaled(&cluster, todo_commands(REPLICA), commands).await;
    service.has_settled().await;
    for (key, state) in [
        ("k1", WriteState::Applied),
        ("k2", WriteState::Applied),
        // Without an owner it is everybody's, and finds none of hers.
        ("k3", WriteState::Rejected),
        ("k4", WriteState::Applied),
    ] {
        let sql = "SELECT outcome FROM ridethrough_writes WHERE key = $1";
        let outcome: String = old.query_one(sql, &[&key]).await.expect("it is settled").get(0);
        let expected = if state == WriteState::Applied { "applied" } else { "rejected" };
        assert_eq!(outcome, expected, "{key}");
    }

    // And the old one reads and changes what this one made.
    let row = old.query_one(before::READ, &[&one]).await.expect("one row");
    assert_eq!((row.get::<_, String>("title"), row.get::<_, i64>("version")), ("new".to_owned(), 2));
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
        [&one, &"again", &false, &REPLICA, &Some(2_i64)];
    assert_eq!(old.execute(before::UPDATE, &values).await.expect("updates"), 1);
    let changes = (vec![two], vec!["B"], vec![true]);
    let changed = old.execute(before::UPDATE_MANY, &[&changes.0, &changes.1, &changes.2, &REPLICA]).await;
    assert_eq!(changed.expect("updates"), 1);
    let later = SystemTime::now() + std::time::Duration::from_secs(3_600);
    assert_eq!(old.query(before::PAGE, &[&later, &Uuid::max(), &10_i64]).await.expect("a page").len(), 3);
    assert_eq!(old.execute(before::DELETE, &[&one, &None::<i64>]).await.expect("deletes"), 1);
    let ended = (vec![two], vec![None::<i64>]);
    assert_eq!(old.query(before::DELETE_MANY, &[&ended.0, &ended.1]).await.expect("deletes").len(), 1);
    assert!(old.query(before::APPLIED, &[]).await.is_ok());

    // Whoever made it, everything that happened is there.
    let sql = "SELECT string_agg(kind || ' ' || version, ', ' ORDER BY at, version) FROM todo_events WHERE todo = $1";
    let happened =
        async |id: Uuid| old.query_one(sql, &[&id]).await.expect("a text").get::<_, Option<String>>(0);
    assert_eq!(happened(one).await.as_deref(), Some("created 1, changed 2, changed 3, removed 3"));
    assert_eq!(happened(two).await.as_deref(), Some("created 1, changed 2, removed 2"));
    assert_eq!(happened(three).await.as_deref(), Some("created 1, removed 1"));
}
