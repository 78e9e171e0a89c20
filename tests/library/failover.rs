//! A real failover: the machine of the primary is lost, Patroni promotes the standby, and the service writes on.

use std::time::Duration;

use ridethrough::{
    DbConfig,
    db::{SCHEMA_SQL, WriteError, Written},
};
use ridethrough_chaos::RunFolder;
use ridethrough_tests::{patroni::Patroni, until};
use tokio::time::{Instant, sleep};

use crate::service::{EFFECTS, Service, effects_of};

const LIMIT: Duration = Duration::from_secs(2);
/// Patroni misses a lost primary after 20 s.
const FAILOVER_LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_ride_through_a_failover_by_patroni() {
    let folder = RunFolder::create(None).expect("a run folder can be made");
    let patroni = match Patroni::start(&folder).await {
        Ok(patroni) => patroni,
        Err(missing) => return crate::say(&format!("skipped: {missing} is not installed")),
    };
    let admin = patroni.primary("postgres").await.expect("there is a primary");
    let password: tokio_postgres::Config = patroni.url("app", "app").parse().expect("a URL of PostgreSQL");
    let password = String::from_utf8_lossy(password.get_password().unwrap_or_default()).into_owned();
    admin.batch_execute(&format!("CREATE ROLE app LOGIN PASSWORD '{password}'")).await.expect("a role");
    admin.batch_execute("CREATE DATABASE app OWNER app").await.expect("a database");
    let admin = patroni.primary("app").await.expect("there is a primary");
    let tables = format!("SET ROLE app; {SCHEMA_SQL}{EFFECTS}");
    admin.batch_execute(&tables.replace("public.", "")).await.expect("tables");
    drop(admin);

    let config = DbConfig { url: patroni.url("app", "app"), ..DbConfig::default() };
    let service = Service::start(config).await;
    let mut told: Vec<(String, bool)> = Vec::new();
    let mut write = async |number: usize| {
        let key = format!("failover-{number}");
        let written = service.put(&key, LIMIT).await;
        let acknowledged = match &written {
            Ok(_) => true,
            Err(WriteError::Unknown(_)) => return None,
            Err(_) => false,
        };
        told.push((key, acknowledged));
        Some(matches!(written, Ok(Written::Committed { .. })))
    };
    assert_eq!(write(0).await, Some(true));
    let old = patroni.kill_primary().await;
    let killed = Instant::now();
    let (mut number, mut back) = (1, None);
    while back.is_none() && killed.elapsed() < FAILOVER_LIMIT {
        sleep(PAUSE).await;
        number += 1;
        back = (write(number).await == Some(true)).then(|| killed.elapsed());
    }
    let back = back.expect("no write is committed after the failover");
    service.has_settled().await;
    let settled = killed.elapsed();
    let new = until("the new primary", LIMIT * 5, async || patroni.primary("app").await).await;
    let row = new.query_one("SELECT inet_server_port()", &[]).await.expect("it answers");
    assert_ne!(row.get::<_, i32>(0), i32::from(old), "another server");
    for (key, acknowledged) in &told {
        assert_eq!(effects_of(&new, key).await, i64::from(*acknowledged), "{key}: told {acknowledged}");
    }
    let accepted = told.iter().filter(|(_, acknowledged)| *acknowledged).count();
    crate::say(&format!(
        "failover: {} writes, {accepted} accepted, backlog empty after {settled:?}, committed again after {back:?}",
        told.len()
    ));
    assert!(accepted > told.len() / 2, "{accepted} of {}", told.len());
}
