//! The library's own table, and what a database may keep from the role that uses it.

use std::time::Duration;

use ridethrough::db::{SCHEMA_SQL, Written};
use ridethrough_tests::{wire, within};
use tokio::time::Instant;

use crate::service::{Service, as_service, database, effects_of, never_opens};

const LIMIT: Duration = Duration::from_secs(20);

/// A migration ran beside a service that made the table itself, and failed with 23505, which it took for a matter of a
/// person: `IF NOT EXISTS` does not see what another session is just creating.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_can_make_the_table_at_once() {
    const AT_ONCE: usize = 8;
    const ROUNDS: usize = 20;
    let (_folder, cluster) = database(&[]).await;
    let mut clients = Vec::new();
    for _ in 0..AT_ONCE {
        clients.push(as_service(&cluster.url()).await);
    }
    for round in 0..ROUNDS {
        let owner = clients.first().expect("there are some");
        owner.batch_execute("DROP TABLE ridethrough_writes").await.expect("the service owns its table");
        let making = clients.drain(..).map(|client| {
            tokio::spawn(async move {
                let made = client.batch_execute(SCHEMA_SQL).await;
                (client, made)
            })
        });
        let making: Vec<_> = making.collect();
        for made in making {
            let (client, made) = within("the table is made", LIMIT, made).await.expect("no panic");
            assert!(made.is_ok(), "round {round}: {made:?}");
            clients.push(client);
        }
    }
}

/// Where the role may not end sessions (42501), as with some providers, the attempt after a lost one failed with that, for
/// good. What the lost one left behind ends by its own limits soon after it, and can be waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_attempt_left_behind_is_waited_for_where_it_may_not_be_ended() {
    /// The first answer after that to the claim, where the statements were prepared before: nobody else gets the key.
    const CLAIMED: &str = "from client Query(BEGIN) server any #9 before: blackhole";
    const UNCOMMITTED: &str = "client Query(COMMIT) before: blackhole";
    /// A silent session keeps the key for an attempt of a second and some more.
    const KEPT: Duration = Duration::from_millis(1_200);
    let (_folder, cluster) = database(&[]).await;
    let admin = cluster.connect(LIMIT).await.expect("the database answers");
    let revoked = "REVOKE EXECUTE ON FUNCTION pg_terminate_backend(integer, bigint) FROM PUBLIC";
    admin.batch_execute(revoked).await.expect("a superuser can revoke");
    let wire = wire::to(cluster.port()).await;
    let url = wire.through(&cluster.url()).expect("the URL leads to the cluster");
    let service = Service::start(never_opens(url)).await;
    // Without a journal every write goes to the database.
    service.journal.close();
    let put = async |key: &str| {
        let (began, written) = (Instant::now(), service.put(key, LIMIT).await);
        assert!(matches!(written, Ok(Written::Committed { .. })), "{key}: {written:?}");
        assert_eq!(effects_of(&admin, key).await, 1, "{key}");
        began.elapsed()
    };
    put("before").await;
    let cut = wire.plant(CLAIMED.parse().expect("a rule"));
    let claimed = put("claimed").await;
    // A session that was destroyed left its statements behind.
    put("between").await;
    let second = wire.plant(UNCOMMITTED.parse().expect("a rule"));
    let uncommitted = put("uncommitted").await;
    crate::say(&format!("waited for {claimed:?} and {uncommitted:?}"));
    let cuts = cut.count() + second.count();
    assert_eq!(cuts, 2, "something was not cut, so nothing was shown");
    assert!(claimed >= KEPT && uncommitted >= KEPT, "nothing kept the key: {claimed:?}, {uncommitted:?}");
}
