//! Answers that are served from the cache as the policy of their query says, through all of the database path.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use futures_util::future::join_all;
use ridethrough::{
    Deadline,
    cache::{CacheKey, Freshness, Principal, ReadPolicy, StaleReason},
    db::{DbConfig, Query, Read, Source, Statements},
    testkit::TestDb,
};
use tokio::time::{sleep, timeout};

use super::{
    kit::*,
    path::{Path, Shop},
};

const SECOND: Duration = Duration::from_secs(1);

/// How often it has been asked; the answer is one's own.
#[derive(Clone)]
struct Count {
    of: &'static str,
    policy: ReadPolicy,
}

impl Query for Count {
    type Answer = Bytes;

    fn name(&self) -> &'static str {
        "count"
    }

    fn cache_key(&self) -> CacheKey {
        CacheKey::of(&Principal::new(self.of), "count")
    }

    fn policy(&self) -> ReadPolicy {
        self.policy
    }

    async fn fetch<'c>(&'c self, statements: &'c Statements<'c>) -> Result<Option<Bytes>, Error> {
        let row = statements.row("SELECT count FROM counts WHERE name = $1", &[&self.of]).await?;
        let is_broken =
            self.of == "broken" && row.as_ref().is_some_and(|row| !row.get::<_, &str>(0).ends_with('1'));
        assert!(!is_broken, "an answer that the service did not think of");
        row.map(|row| row.try_get::<_, String>(0).map(Bytes::from)).transpose()
    }
}

struct Kit {
    server: FakePostgres,
    db: TestDb,
    asked: Arc<AtomicI64>,
}

impl Kit {
    async fn start() -> Self {
        Self::start_as(DbConfig::default()).await
    }

    async fn start_as(config: DbConfig) -> Self {
        let asked = Arc::new(AtomicI64::new(0));
        let counting = Arc::clone(&asked);
        let count = move |call: &ridethrough::testkit::Call<'_>| {
            let name = call.text(1).unwrap_or_default().to_owned();
            let count = counting.fetch_add(1, Ordering::SeqCst) + 1;
            if name == "nobody" { vec![] } else { vec![(format!("{name} {count}"),)] }
        };
        let server = FakePostgres::builder()
            .schema("CREATE TABLE counts (name text, count text)")
            .on("SELECT count FROM counts", Reply::computed(["count"], count))
            .start();
        let db = TestDb::start(&server, config, Arc::new(Shop)).await.unwrap();
        sleep(SECOND).await;
        Self { server, db, asked }
    }

    async fn read(&self, query: &Count) -> Result<Read<Bytes>, ridethrough::Error> {
        self.db.db.read(query, Deadline::after(Instant::now(), SECOND * 2)).await
    }

    async fn answer(&self, query: &Count) -> (String, Freshness) {
        let (value, freshness, _) = self.read(query).await.unwrap().into_parts();
        (value.map_or("nothing".to_owned(), |value| String::from_utf8(value.to_vec()).unwrap()), freshness)
    }

    fn asked(&self) -> i64 {
        self.asked.load(Ordering::SeqCst)
    }
}

fn count(fresh_for: u64, stale_while_revalidate: u64) -> Count {
    let seconds = Duration::from_secs;
    let (fresh_for, stale_while_revalidate) = (seconds(fresh_for), seconds(stale_while_revalidate));
    Count { of: "ada", policy: ReadPolicy { fresh_for, stale_while_revalidate, ..ReadPolicy::default() } }
}

fn is_stale(freshness: Freshness, because: StaleReason) -> bool {
    matches!(freshness, Freshness::Stale { reason, .. } if reason == because)
}

#[tokio::test(start_paused = true)]
async fn every_read_asks_unless_its_policy_says_otherwise() {
    let kit = Kit::start().await;
    for number in 1..5 {
        assert_eq!(kit.answer(&count(0, 0)).await, (format!("ada {number}"), Freshness::Fresh));
    }
}

#[tokio::test(start_paused = true)]
async fn a_young_answer_is_served_unasked_and_labelled_with_its_age() {
    let kit = Kit::start().await;
    assert_eq!(kit.answer(&count(10, 0)).await, ("ada 1".to_owned(), Freshness::Fresh));
    sleep(SECOND * 3).await;
    let (value, freshness, source) = kit.read(&count(10, 0)).await.unwrap().into_parts();
    let (Freshness::Stale { age, reason: StaleReason::Kept }, Source::Cache { age: told }) =
        (freshness, source)
    else {
        panic!("{freshness:?} {source:?}")
    };
    assert_eq!(value.unwrap(), "ada 1");
    assert!(age == told && age >= SECOND * 3 && age < SECOND * 4, "{age:?}");
    sleep(SECOND * 8).await;
    assert_eq!(kit.answer(&count(10, 0)).await, ("ada 2".to_owned(), Freshness::Fresh));
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_is_served_at_once_and_asked_anew_once_beside() {
    let kit = Kit::start().await;
    kit.answer(&count(1, 60)).await;
    sleep(SECOND * 5).await;
    let answers = join_all((0..20).map(|_| async { kit.answer(&count(1, 60)).await })).await;
    for (value, freshness) in answers {
        assert!(value == "ada 1" && is_stale(freshness, StaleReason::Revalidating), "{value} {freshness}");
    }
    sleep(SECOND / 2).await;
    let (value, freshness) = kit.answer(&count(1, 60)).await;
    assert!(value == "ada 2" && is_stale(freshness, StaleReason::Kept), "{value} {freshness}");
    assert_eq!(kit.asked(), 2);
}

/// The query of one kind of answer panicked, which was its request's trouble as long as readers asked it; in the background
/// it ended the part that asks, and a service that watches its parts with it.
#[tokio::test(start_paused = true)]
async fn a_question_that_panics_does_not_end_the_asking_of_others() {
    let kit = Kit::start().await;
    let broken = Count { of: "broken", ..count(1, 60) };
    kit.answer(&broken).await;
    kit.answer(&count(1, 60)).await;
    sleep(SECOND * 5).await;
    kit.answer(&broken).await;
    sleep(SECOND).await;
    kit.answer(&count(1, 60)).await;
    sleep(SECOND / 2).await;
    let (_, freshness) = kit.answer(&count(1, 60)).await;
    assert!(is_stale(freshness, StaleReason::Kept), "it was asked anew: {freshness}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_about_to_lose_its_freshness_is_asked_for_ahead() {
    let kit = Kit::start().await;
    kit.answer(&count(10, 0)).await;
    for _ in 0..200 {
        sleep(Duration::from_millis(100)).await;
        let (_, freshness) = kit.answer(&count(10, 0)).await;
        assert!(is_stale(freshness, StaleReason::Kept), "a key that is read all the time never goes cold");
    }
    assert!((2..=4).contains(&kit.asked()), "{} in twenty seconds", kit.asked());
}

#[tokio::test(start_paused = true)]
async fn many_who_want_the_same_at_once_are_one_question() {
    let kit = Kit::start().await;
    kit.server.fault(At::statement("SELECT count"), Fault::Delay(Duration::from_millis(100)));
    let answers = join_all((0..50).map(|_| async { kit.answer(&count(5, 0)).await })).await;
    assert_eq!(kit.asked(), 1);
    assert!(answers.iter().all(|(value, _)| value == "ada 1"), "{answers:?}");
    let fresh = answers.iter().filter(|(_, freshness)| *freshness == Freshness::Fresh).count();
    assert_eq!(fresh, 1, "the others get an answer that may be older than their question, and are told so");
}

/// After a restart everybody asked for the same page at once, and the database that had just come back was asked by each.
#[tokio::test(start_paused = true)]
async fn what_many_want_of_a_cold_cache_is_asked_twice_and_is_true_for_each() {
    let kit = &Kit::start().await;
    kit.server.fault_always(At::statement("SELECT count"), Fault::Delay(Duration::from_millis(100)));
    let answers = join_all((0..50).map(|number| async move {
        sleep(Duration::from_millis(number)).await;
        kit.answer(&count(0, 0)).await
    }));
    let answers = answers.await;
    assert_eq!(kit.asked(), 2);
    let (first, others) = answers.split_first().unwrap();
    assert_eq!(first, &("ada 1".to_owned(), Freshness::Fresh));
    for other in others {
        assert_eq!(other, &("ada 2".to_owned(), Freshness::Fresh), "asked for after it came");
    }
    // Warm, each asks for itself, as without it.
    join_all((0..5).map(|_| async { kit.answer(&count(0, 0)).await })).await;
    assert_eq!(kit.asked(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_cold_reader_that_fails_leaves_the_lead_to_the_next() {
    let kit = Kit::start_as(Path::once()).await;
    let before = kit.asked();
    kit.server.fault(At::statement("SELECT count"), Fault::Error("22012"));
    let answers = join_all((0..50).map(|_| async { kit.read(&count(0, 0)).await })).await;
    let failed = answers.iter().filter(|read| read.is_err()).count();
    assert_eq!((failed, kit.asked() - before), (1, 1));
}

/// A reader that asks for all others goes away at any moment: another one takes over.
#[tokio::test(start_paused = true)]
async fn no_key_is_stuck_behind_a_reader_that_has_left() {
    let kit = Kit::start().await;
    for (of, leaves_after) in [("a", 0), ("b", 1), ("c", 20), ("d", 60)] {
        let query = Count { of, ..count(5, 0) };
        kit.server.fault(At::statement("SELECT count"), Fault::Delay(Duration::from_millis(50)));
        let leader = timeout(Duration::from_millis(leaves_after), kit.read(&query));
        let others = join_all((0..10).map(|_| async { kit.answer(&query).await }));
        let (_, others) = tokio::join!(leader, others);
        assert!(others.iter().all(|(value, _)| value.starts_with(query.of)), "{others:?}");
        sleep(SECOND).await;
    }
    assert!(
        kit.asked() <= 8,
        "{} questions for four keys, each of whose first readers may have left",
        kit.asked()
    );
}

/// The one that asked for all failed, and all others asked at once, which a database in trouble could do without.
#[tokio::test(start_paused = true)]
async fn where_the_one_that_asks_fails_the_next_one_asks_and_the_others_wait_on() {
    let kit = Kit::start_as(Path::once()).await;
    for (of, fault) in [("a", Fault::Error("22012")), ("b", Fault::Reset), ("c", Fault::Fatal("57P01"))] {
        let query = Count { of, ..count(5, 0) };
        let before = kit.asked();
        kit.server.fault(At::statement("SELECT count"), fault.clone());
        let answers = join_all((0..50).map(|_| async { kit.read(&query).await })).await;
        let failed = answers.iter().filter(|read| read.is_err()).count();
        assert_eq!((failed, kit.asked() - before), (1, 1), "{fault:?}");
        sleep(SECOND * 30).await;
    }
}

/// Nobody waits for others beyond his own deadline, and nobody asks beside a question that hangs.
#[tokio::test(start_paused = true)]
async fn who_waits_for_an_answer_that_does_not_come_is_let_go_at_his_deadline() {
    let kit = Kit::start_as(Path::once()).await;
    let before = kit.server.counts();
    kit.server.fault_always(At::statement("SELECT count"), Fault::Silence);
    let started = Instant::now();
    let waited = join_all((0..50).map(|_| async {
        assert!(kit.read(&count(5, 0)).await.is_err());
        started.elapsed()
    }));
    let longest = waited.await.into_iter().max().unwrap();
    assert!(longest < SECOND * 2 + SECOND / 10, "{longest:?}");
    let asked = kit.server.counts().statements - before.statements;
    assert!(asked <= 16, "{asked} statements in two seconds, one question after the other");
}

/// In an outage one asks, and the others take what is kept at once, for the reason that it found.
#[tokio::test(start_paused = true)]
async fn where_the_one_that_asks_gets_an_old_answer_the_others_take_it_too() {
    let kit = Kit::start_as(Path::once()).await;
    kit.answer(&count(1, 0)).await;
    sleep(SECOND * 5).await;
    let before = kit.asked();
    kit.server.fault(At::statement("SELECT count"), Fault::Fatal("57P01"));
    let answers = join_all((0..50).map(|_| async { kit.answer(&count(1, 0)).await })).await;
    for (value, freshness) in answers {
        assert!(value == "ada 1" && is_stale(freshness, StaleReason::DatabaseAway), "{value} {freshness}");
    }
    assert_eq!(kit.asked() - before, 0, "the one question failed");
}

/// One reader with next to no time left took the old answer, and all who waited with it were told that the database is slow:
/// it was not, and they had time to ask.
#[tokio::test(start_paused = true)]
async fn who_has_no_time_to_ask_does_not_decide_for_those_who_have() {
    let kit = Kit::start_as(Path::once()).await;
    kit.answer(&count(1, 0)).await;
    sleep(SECOND * 5).await;
    kit.server.fault(At::statement("SELECT count"), Fault::Delay(SECOND / 5));
    let query = count(1, 0);
    let hurried = kit.db.db.read(&query, Deadline::after(Instant::now(), SECOND / 20));
    let (hurried, patient) = tokio::join!(hurried, join_all((0..5).map(|_| kit.answer(&query))));
    assert!(is_stale(hurried.unwrap().freshness(), StaleReason::Slow));
    assert!(patient.iter().all(|(value, _)| value != "ada 1"), "{patient:?}");
}

#[tokio::test(start_paused = true)]
async fn an_outage_takes_no_good_answer_away_and_is_not_asked_into() {
    let kit = Kit::start().await;
    kit.answer(&count(1, 2)).await;
    kit.server.outage();
    sleep(SECOND * 2).await;
    assert!(is_stale(kit.answer(&count(1, 2)).await.1, StaleReason::Revalidating));
    for _ in 0..10 {
        sleep(SECOND * 10).await;
        let (value, freshness) = kit.answer(&count(1, 2)).await;
        assert!(value == "ada 1" && is_stale(freshness, StaleReason::DatabaseAway), "{value} {freshness}");
    }
    let policy = ReadPolicy { stale_if_error: SECOND, ..ReadPolicy::default() };
    assert!(kit.read(&Count { policy, ..count(0, 0) }).await.is_err(), "expired for this one");
    kit.server.recover();
    sleep(SECOND * 10).await;
    assert_eq!(kit.answer(&count(1, 2)).await, ("ada 2".to_owned(), Freshness::Fresh));
}

#[tokio::test(start_paused = true)]
async fn that_there_is_no_such_thing_is_kept_for_its_own_short_time() {
    let kit = Kit::start().await;
    let nobody = Count { of: "nobody", ..count(0, 0) };
    assert_eq!(kit.answer(&nobody).await, ("nothing".to_owned(), Freshness::Fresh));
    kit.server.outage();
    sleep(SECOND * 2).await;
    let (value, freshness) = kit.answer(&nobody).await;
    assert!(value == "nothing" && is_stale(freshness, StaleReason::DatabaseAway), "{value} {freshness}");
    sleep(SECOND * 4).await;
    assert!(kit.read(&nobody).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_one_principal_never_reaches_another() {
    let kit = Kit::start().await;
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let names = ["", "a", "ab", "a/", "a\0", "\u{1}", "count", "a\u{0}count", "nobody "];
    for step in 0..300 {
        let of = names[random.usize(..names.len())];
        let query = Count { of, ..count(random.u64(0..3), random.u64(0..3)) };
        match random.u8(0..20) {
            0 => kit.server.outage(),
            1..4 => kit.server.recover(),
            _ => sleep(Duration::from_millis(random.u64(0..400))).await,
        }
        if let Ok(read) = kit.read(&query).await {
            let value = read.into_parts().0.unwrap();
            let (name, _) = std::str::from_utf8(&value).unwrap().rsplit_once(' ').unwrap();
            assert_eq!(name, of, "step {step}, seed {seed}");
        }
    }
}
