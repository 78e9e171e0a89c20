//! The planner uses the indexes and partitions that the schema has, for the very statements of the service: on tables large
//! enough that another way would be slow.

use ridethrough_server::write_side::{SCHEMA, SCHEMA_BESIDE, page_statements};
use tokio_postgres::Client;

use crate::service::{as_service, database};

/// 400 owners with 500 todos each, one of every minute over some months.
const ROWS: &str = "
    ALTER TABLE todos DISABLE TRIGGER USER;
    INSERT INTO todos (id, title, done, version, created_at, updated_at, owner)
    SELECT gen_random_uuid(), 'title ' || n, n % 7 = 0, 1, at, at,
        ('00000000-0000-8000-8000-' || lpad(to_hex(n % 400), 12, '0'))::uuid
    FROM (SELECT n, now() - n * interval '1 minute' AS at FROM generate_series(1, 200000) AS n) AS made;
    ALTER TABLE todos ENABLE TRIGGER USER;
    INSERT INTO todo_events (owner, todo, kind, version, at)
    SELECT ('00000000-0000-8000-8000-' || lpad(to_hex(n % 400), 12, '0'))::uuid, gen_random_uuid(), 'created', 1,
        now() + (n % 60) * interval '1 day' FROM generate_series(1, 120000) AS n;
    ANALYZE todos; ANALYZE todo_events";
const OWNER: &str = "'00000000-0000-8000-8000-000000000007'";

async fn filled() -> (ridethrough_chaos::RunFolder, ridethrough_chaos::Cluster, Client) {
    let (folder, cluster) = database(&[]).await;
    let client = as_service(&cluster.url()).await;
    client.batch_execute(SCHEMA).await.expect("the tables can be made");
    client.batch_execute(SCHEMA_BESIDE).await.expect("the index can be made");
    client.batch_execute(ROWS).await.expect("rows can be made");
    (folder, cluster, client)
}

async fn plan(client: &Client, sql: &str) -> String {
    let rows = client.query(&format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {sql}"), &[]).await;
    let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error}"));
    rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
}

/// The pages of an owner were read through the index of all todos, past those of everybody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_of_an_owner_are_read_in_order_and_nobody_elses_with_them() {
    let (_folder, _cluster, client) = filled().await;
    let at = "now() - interval '40 days'";
    let id = "'00000000-0000-8000-8000-000000000000'";
    for mode in ["force_custom_plan", "force_generic_plan"] {
        client.batch_execute(&format!("SET plan_cache_mode = {mode}")).await.expect("a setting");
        for (kind, sql) in page_statements() {
            let values = match kind {
                "first" => format!("{OWNER}, 51"),
                "after" => format!("{OWNER}, {at}, {id}, 51"),
                "done" => format!("{OWNER}, true, 51"),
                "range" => format!("{OWNER}, {at} - interval '20 days', {at}, 51"),
                "all" => format!("{OWNER}, {at}, {id}, true, {at} - interval '20 days', {at}, 51"),
                other => panic!("no values for {other}"),
            };
            client.batch_execute(&format!("PREPARE page_{kind} AS {sql}")).await.expect(kind);
            let plan = plan(&client, &format!("EXECUTE page_{kind}({values})")).await;
            client.batch_execute(&format!("DEALLOCATE page_{kind}")).await.expect(kind);
            assert!(plan.contains("todos_of_owner") && !plan.contains("Seq Scan"), "{mode} {kind}:\n{plan}");
            // Where rows are left out by `done`, all of the owner's few may be sorted instead.
            if !matches!(kind, "done" | "all") {
                let is_in_order = plan.contains("Index Scan using todos_of_owner") && !plan.contains("Sort");
                assert!(is_in_order && !plan.contains("Filter"), "{mode} {kind}:\n{plan}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happened_in_a_span_of_time_is_looked_for_in_its_months_alone() {
    let (_folder, _cluster, client) = filled().await;
    let month = "date_trunc('month', now()) + interval '1 month'";
    let sql = format!(
        "SELECT kind FROM todo_events WHERE owner = {OWNER} AND at >= {month} AND at < {month} + interval '3 days'"
    );
    let pruned = plan(&client, &sql).await;
    let name = "SELECT to_char(now() AT TIME ZONE 'UTC' + interval '1 month', 'YYYY_MM'), to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')";
    let row = client.query_one(name, &[]).await.expect("two months");
    let (next, this): (String, String) = (row.get(0), row.get(1));
    assert!(pruned.contains("Subplans Removed") || !pruned.contains(&this), "{pruned}");
    assert!(pruned.contains(&format!("todo_events_{next}")), "{pruned}");
    for other in [format!("todo_events_{this}"), "todo_events_default".to_owned()] {
        assert!(!pruned.contains(&other), "{other} is looked at:\n{pruned}");
    }
    assert!(pruned.contains("Index") && !pruned.contains("Seq Scan"), "{pruned}");
    let whole = plan(&client, &format!("SELECT kind FROM todo_events WHERE owner = {OWNER}")).await;
    assert!(whole.contains(&this) && whole.contains(&next), "this test sees no pruning:\n{whole}");
}
