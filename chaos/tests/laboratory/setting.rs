//! Settings that are changed for a while on a running PostgreSQL.

use std::time::Duration;

use ridethrough_chaos::cluster::Options;
use tokio::time::timeout;

use crate::{LIMIT, folder, session, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_limit_of_temporary_files_a_statement_fails_with_53400_until_the_limit_is_lifted() {
    let folder = folder();
    let cluster = start(&folder, Options::default()).await;
    let client = session(&cluster.url()).await;
    let sort = "SELECT count(*) FROM (SELECT n FROM generate_series(1, 200000) n ORDER BY n DESC OFFSET 0) s";
    client.batch_execute("SET work_mem = '64kB'").await.expect("a session can have less memory");
    let limit =
        cluster.change("temp_file_limit", "64kB").await.unwrap_or_else(|error| panic!("failed to {error}"));
    let error =
        timeout(LIMIT, client.query_one(sort, &[])).await.expect("it ends").expect_err("it needs more");
    assert_eq!(error.code().map(|code| code.code()), Some("53400"), "{error}");
    client.query_one("SELECT 1", &[]).await.expect("the session goes on");
    drop(limit);
    let again = async {
        while client.query_one(sort, &[]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, again).await.expect("the limit is lifted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setting_that_postgresql_does_not_take_is_refused_and_leaves_no_trace() {
    let folder = folder();
    let cluster = start(&folder, Options::default()).await;
    let file = cluster.data().join("postgresql.conf");
    let before = std::fs::read_to_string(&file).expect("it can be read");
    let wrong = [
        ("fsync", "off", "the command line"),
        ("no_such_setting", "1", "unrecognized"),
        ("statement_timeout", "soon", "could not be applied"),
        ("max_locks_per_transaction", "99", "a restart"),
        ("a; b", "1", "no name"),
    ];
    for (name, value, reason) in wrong {
        let error = cluster.change(name, value).await.expect_err(name).to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert_eq!(std::fs::read_to_string(&file).expect("it can be read"), before);
    let changed = cluster.change("statement_timeout", "1s").await;
    drop(changed.unwrap_or_else(|error| panic!("failed to {error}")));
}
