//! The roles of `server/sql/roles.sql`: the service's serves everything, through an outage too, and can do nothing else.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use ridethrough_tests::{
    launch::{self, Blueprint, Exit},
    stack::{Lab, Server},
    until,
};
use tokio_postgres::{Client, NoTls};

use crate::steps::{id, outage, title};

const PASSWORD: &str = "sesame-of-the-roles";

/// Runs the script as a superuser who comes in by a password.
async fn script(lab: &Lab, number: u8) {
    let boss = lab.cluster().url();
    let (_, rest) = boss.rsplit_once('@').expect("the URL has a host");
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../server/sql/roles.sql");
    let args = ["-v", "app=serves", "-q", "-f"].map(OsString::from).into_iter().chain([file.into()]);
    let url = format!("postgres://boss:{PASSWORD}@{rest}");
    let run = Blueprint {
        name: format!("psql-{number}"),
        program: lab.cluster().binaries().folder().join("psql"),
        args: args.chain(["-d".into(), url.into()]).collect(),
        env: Vec::new(),
    };
    let output = lab.run(&run).await;
    assert_eq!(output.exit, Exit::Code(0), "{}", output.stderr);
}

fn url(lab: &Lab, role: &str) -> String {
    let service = lab.cluster().url();
    let (_, rest) = service.rsplit_once('@').expect("the URL has a host");
    format!("postgres://{role}:{PASSWORD}@{rest}")
}

async fn connected(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("the role may come in");
    tokio::spawn(connection);
    client
}

async fn migrate(lab: &Lab, name: &str, role: &str, check: bool) -> (Exit, String) {
    let mut args = vec![OsString::from("migrate")];
    args.extend(check.then(|| "--check".into()));
    let env = vec![("DATABASE_URL".to_owned(), url(lab, role))];
    let program = launch::program("ridethrough-server");
    let output = lab.run(&Blueprint { name: name.to_owned(), program, args, env }).await;
    (output.exit, output.stdout)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_services_role_serves_everything_and_can_do_nothing_else() {
    let lab = Lab::start().await;
    let boss = lab.sql().await;
    let make = format!("CREATE ROLE boss SUPERUSER LOGIN PASSWORD '{PASSWORD}'");
    boss.batch_execute(&make).await.expect("a superuser makes roles");
    script(&lab, 1).await;
    for role in ["todos_migrator", "serves", "todos_readonly"] {
        let set = format!("ALTER ROLE {role} PASSWORD '{PASSWORD}'");
        boss.batch_execute(&set).await.expect("the role is there");
    }
    let (exit, said) = migrate(&lab, "check-1", "todos_migrator", true).await;
    assert!(exit == Exit::Code(1) && said.contains("missing: 2 owners-and-events (needed)"), "{said}");
    assert_eq!(migrate(&lab, "migrate", "todos_migrator", false).await.0, Exit::Code(0));
    let (exit, said) = migrate(&lab, "check-2", "todos_migrator", true).await;
    assert!(exit == Exit::Code(0) && said.contains("up to date"), "{said}");
    script(&lab, 2).await;
    script(&lab, 3).await;

    let how = |name: &'static str| {
        let env = vec![
            ("RIDETHROUGH_DATABASE__NOTICES", "true".to_owned()),
            ("RIDETHROUGH_DATABASE__MIGRATE", name.to_owned()),
            ("RIDETHROUGH_EVENTS__EVERY", "1s".to_owned()),
            ("RIDETHROUGH_EVENTS__RETENTION", "28d".to_owned()),
        ];
        Server { url: Some(url(&lab, "serves")), env, ..Server::default() }
    };
    let auto = lab.server_as("server-1", how("auto")).await;
    let never = lab.server_as("server-2", how("never")).await;
    let mut todos = Vec::new();
    for server in [&auto, &never] {
        server.ready().await;
        server.mode_becomes("normal").await;
        let name = server.name();
        let made = server.main().create(&format!("{name}-a"), &title("a")).await.expect(201).acknowledged();
        let gone = server.main().create(&format!("{name}-b"), &title("b")).await.expect(201).acknowledged();
        let _ = server.main().replace(&format!("{name}-c"), &id(&made), &title("c")).await.expect(200);
        let _ = server.main().remove(&format!("{name}-d"), &id(&gone)).await.expect(204);
        assert_eq!(server.main().get("/api/todos").await.expect(200).freshness(), "fresh");
        assert_eq!(server.main().write_status(&format!("{name}-a")).await, "applied");
        todos.push(id(&made));
    }
    outage(&lab, &[&auto, &never]).await;
    for (server, todo) in [&auto, &never].into_iter().zip(&todos) {
        let name = server.name();
        let _ = server.main().create(&format!("{name}-e"), &title(name)).await.expect(202).acknowledged();
        let _ = server.main().replace(&format!("{name}-f"), todo, &title("f")).await.expect(202);
    }
    lab.database_returns().await;
    for server in [&auto, &never] {
        server.journal_is_empty().await;
        let name = server.name();
        assert_eq!(server.main().write_status(&format!("{name}-e")).await, "applied");
        let hears = async || {
            let metrics = server.admin().get("/metrics").await.expect(200).text();
            metrics.contains("ridethrough_listening 1").then_some(())
        };
        until("notices are heard", Duration::from_secs(20), hears).await;
    }
    old_events_go(&lab).await;
    may_do_nothing_else(&lab).await;
    lab.finish().await;
}

/// A month that is long past is dropped, and so is what the net caught of it.
async fn old_events_go(lab: &Lab) {
    let boss = lab.sql().await;
    boss.batch_execute(
        "CREATE TABLE todo_events_2020_01 PARTITION OF todo_events FOR VALUES FROM ('2020-01-01') TO ('2020-02-01');
         ALTER TABLE todo_events_2020_01 OWNER TO todos_owner;
         INSERT INTO todo_events (owner, todo, kind, version, at)
         SELECT '00000000-0000-0000-0000-000000000000', gen_random_uuid(), 'created', 1, at::timestamptz
         FROM unnest(ARRAY['2020-01-15', '2021-01-15']) AS at, generate_series(1, 1500)",
    )
    .await
    .expect("a superuser makes partitions");
    let gone = async || {
        let left = lab.number("SELECT count(*) FROM todo_events WHERE at < '2022-01-01'", &[]).await;
        (left == 0).then_some(())
    };
    until("old events are gone", Duration::from_secs(30), gone).await;
    let months = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'todo_events'::regclass";
    assert_eq!(lab.number(months, &[]).await, 4, "three months and the net");
}

async fn may_do_nothing_else(lab: &Lab) {
    let serves = connected(&url(lab, "serves")).await;
    for sql in [
        "CREATE TABLE mine (id int)",
        "CREATE TEMP TABLE mine (id int)",
        "CREATE SCHEMA mine",
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "DROP TABLE todos",
        "DROP TABLE todo_events_default",
        "ALTER TABLE todos ADD COLUMN mine int",
        "ALTER TABLE todos DISABLE TRIGGER ALL",
        "TRUNCATE todos",
        "TRUNCATE todo_events",
        "INSERT INTO todo_events SELECT * FROM todo_events",
        "UPDATE todo_events SET version = 1",
        "DELETE FROM todo_events",
        "DELETE FROM todo_events_default",
        "INSERT INTO ridethrough_migrations (version, name, checksum) VALUES (9, '', '')",
        "DELETE FROM ridethrough_journals",
        "SELECT * FROM pg_authid",
        "SET ROLE todos_owner",
        "CREATE ROLE mine",
    ] {
        let refused = serves.batch_execute(sql).await.expect_err(sql);
        assert_eq!(refused.code().map(|code| code.code()), Some("42501"), "{sql}: {refused}");
    }
    // The functions that act for the owner keep to what they are for.
    for sql in ["SELECT todo_events_drop_month(now())", "SELECT todo_events_forget(now(), 1)"] {
        let refused = serves.batch_execute(sql).await.expect_err(sql);
        assert_eq!(refused.code().map(|code| code.code()), Some("22023"), "{sql}");
    }
    let far = "SELECT todo_events_make_month(now() + interval '2 years')";
    assert!(serves.batch_execute(far).await.is_err());
    let looks = connected(&url(lab, "todos_readonly")).await;
    assert!(looks.query("SELECT title FROM todos", &[]).await.is_ok());
    assert!(looks.query("SELECT kind FROM todo_events", &[]).await.is_ok());
    for sql in ["DELETE FROM todos", "SELECT * FROM ridethrough_writes", "SELECT todo_events_oldest()"] {
        assert!(looks.batch_execute(sql).await.is_err(), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_only_look_waits_for_the_schema_and_a_superuser_is_refused_where_that_is_wished() {
    let lab = Lab::start().await;
    let boss = lab.sql().await;
    let make = format!("CREATE ROLE boss SUPERUSER LOGIN PASSWORD '{PASSWORD}'");
    boss.batch_execute(&make).await.expect("a superuser makes roles");
    lab.expect_in_logs(&["the schema could not be checked"]);
    let never = vec![("RIDETHROUGH_DATABASE__MIGRATE", "never".to_owned())];
    let looking = lab.server_as("server-1", Server { env: never, ..Server::default() }).await;
    let refuse = vec![("RIDETHROUGH_DATABASE__SUPERUSER", "refuse".to_owned())];
    let as_boss = Server { url: Some(url(&lab, "boss")), env: refuse, ..Server::default() };
    let refusing = lab.server_as("server-2", as_boss).await;
    refusing.mode_becomes("fenced").await;
    assert_eq!(refusing.main().get("/readyz").await.status, 503);
    let made = "SELECT count(*) FROM pg_class WHERE relname = 'todos'";
    assert_eq!(lab.number(made, &[]).await, 0, "somebody made tables who must not");
    assert_eq!(looking.main().get("/readyz").await.status, 503);
    let _makes_them = lab.server("server-3").await;
    looking.ready().await;
    assert_eq!(looking.main().create("k", &title("a")).await.status, 201);
    // What can wait is missing now: it serves, and says so.
    let not_all = "DROP INDEX todos_of_owner; DELETE FROM ridethrough_migrations WHERE version = 3";
    boss.batch_execute(not_all).await.expect("a superuser may");
    lab.expect_in_logs(&["its schema is not complete"]);
    looking.terminate();
    assert_eq!(looking.ended(Duration::from_secs(20)).await, Exit::Code(0));
    looking.restart().await;
    looking.mode_becomes("migration-pending").await;
    looking.ready().await;
    assert_eq!(looking.main().get("/api/todos").await.expect(200).freshness(), "fresh");
    lab.finish().await;
}
