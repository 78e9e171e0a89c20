//! The reaper over streams in memory: what it gives back, what it ends, and when the permit is free.

use std::sync::atomic::Ordering::SeqCst;

use tokio::time::sleep;

use super::*;
use crate::{
    bulkhead::{Bulkhead, BulkheadConfig, Priority},
    db::{
        config::{PoolConfig, Pooler},
        connector::Connecting,
        guards::AttemptTime,
        pool::{Loan, Pool},
        session::fake::{Fake, ToFake},
    },
    deadline::Deadline,
    drain::Drain,
};

const MS: Duration = Duration::from_millis(1);

/// A pool of two with a bulkhead of two, and the reaper at work.
struct Scene {
    fake: Arc<Fake>,
    pool: Pool,
    bulkhead: std::sync::Arc<Bulkhead>,
    drain: Drain,
}

impl Scene {
    fn new(config: PoolConfig) -> Self {
        let fake = Arc::new(Fake::default());
        let connector = Connecting::through(Arc::new(ToFake(Arc::clone(&fake))));
        let config = PoolConfig { connector, ..config };
        let (reaping, reaper) = Reaper::new();
        let target: tokio_postgres::Config = "postgres://app@memory/todos".parse().unwrap();
        let pool = Pool::new(target, &config, 2, &reaping);
        let (drain, draining) = Drain::new();
        tokio::spawn(reaper.run(draining));
        let bulkhead =
            Bulkhead::new(BulkheadConfig { permits: 2, ..BulkheadConfig::default() }, Instant::now());
        Self { fake, pool, bulkhead, drain }
    }

    async fn lent(&self) -> Loan {
        tokio::task::yield_now().await;
        let deadline = Deadline::after(Instant::now(), Duration::from_secs(2));
        let permit = self
            .bulkhead
            .acquire(Priority::Interactive, deadline, Instant::now())
            .await
            .unwrap()
            .into_owned();
        let time = AttemptTime::new(deadline, Duration::from_secs(1));
        self.pool.checkout_with(&time, Some(permit), Instant::now()).await.unwrap()
    }

    /// Asks, and goes away after 100 ms.
    async fn abandoned(&self, questions: &[&str], is_committing: bool) {
        let loan = self.lent().await;
        if is_committing {
            loan.begin_commit();
        }
        let asking = async {
            for question in questions {
                let _ = loan.simple_query(question).await;
            }
            std::future::pending::<()>().await;
        };
        assert!(timeout(100 * MS, asking).await.is_err());
        loan.abandon();
    }

    fn seen(&self) -> (usize, usize, (usize, usize), usize) {
        let count = |counter: &std::sync::atomic::AtomicUsize| counter.load(SeqCst);
        (count(&self.fake.connects), count(&self.fake.cancels), self.pool.size(), self.bulkhead.in_use())
    }
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_statement_is_cancelled_and_its_session_used_again() {
    let scene = Scene::new(PoolConfig::default());
    scene.abandoned(&["hang"], false).await;
    assert_eq!(scene.bulkhead.in_use(), 1, "the permit was free before the server was");
    sleep(50 * MS).await;
    // One connection was the session's, one the cancel request's.
    assert_eq!(scene.seen(), (2, 1, (1, 1), 0));
    scene.lent().await.give_back();
    assert_eq!(scene.fake.connects.load(SeqCst), 2);
}

/// The reaper looked, saw nothing under way, and sent no cancel request; the statement was still in the driver's queue, and
/// ran to its end while the permit stayed taken.
#[tokio::test(start_paused = true)]
async fn a_statement_that_was_still_on_its_way_is_cancelled_too() {
    let scene = Scene::new(PoolConfig::default());
    let loan = scene.lent().await;
    {
        let mut asking = std::pin::pin!(loan.simple_query("hang"));
        // Polled once, it is handed to the driver, whose turn has not come.
        tokio::select! {
            biased;
            _ = &mut asking => unreachable!("nobody answers"),
            () = std::future::ready(()) => {}
        }
    }
    assert!(!loan.sent_anything());
    drop(loan);
    sleep(50 * MS).await;
    assert_eq!(scene.seen(), (2, 1, (1, 1), 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_over_in_a_moment_is_not_cancelled() {
    let scene = Scene::new(PoolConfig::default());
    drop(scene.lent().await);
    sleep(50 * MS).await;
    assert_eq!(scene.seen(), (1, 0, (1, 1), 0));
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_transaction_is_rolled_back() {
    for questions in [&["BEGIN"][..], &["BEGIN", "hang"]] {
        let scene = Scene::new(PoolConfig::default());
        scene.abandoned(questions, false).await;
        sleep(50 * MS).await;
        assert_eq!((scene.pool.size(), scene.bulkhead.in_use()), ((1, 1), 0), "{questions:?}");
        let loan = scene.lent().await;
        assert_eq!(scene.fake.connects.load(SeqCst), questions.len(), "{questions:?}");
        loan.give_back();
    }
}

/// A cancelled COMMIT may have happened all the same, so it must never be cancelled.
#[tokio::test(start_paused = true)]
async fn an_abandoned_commit_is_waited_for_and_never_cancelled() {
    let scene = Scene::new(PoolConfig::default());
    scene.abandoned(&["BEGIN", "slow COMMIT"], true).await;
    sleep(300 * MS).await;
    assert_eq!(scene.seen(), (1, 0, (1, 0), 1));
    sleep(400 * MS).await;
    assert_eq!(scene.seen(), (1, 0, (1, 1), 0));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_does_not_come_to_rest_is_destroyed_in_bounded_time() {
    let scene = Scene::new(PoolConfig::default());
    scene.fake.is_deaf.store(true, SeqCst);
    scene.abandoned(&["hang"], false).await;
    sleep(LIMIT - 10 * MS).await;
    assert_eq!(scene.bulkhead.in_use(), 1);
    sleep(20 * MS).await;
    assert_eq!((scene.pool.size(), scene.bulkhead.in_use()), ((0, 0), 0));
}

#[tokio::test(start_paused = true)]
async fn a_confirmed_loss_frees_the_permits_at_once() {
    let scene = Scene::new(PoolConfig::default());
    scene.fake.is_deaf.store(true, SeqCst);
    scene.abandoned(&["hang"], false).await;
    sleep(10 * MS).await;
    scene.pool.invalidate();
    sleep(MS).await;
    assert_eq!((scene.pool.size(), scene.bulkhead.in_use()), ((0, 0), 0));
}

#[tokio::test(start_paused = true)]
async fn behind_a_pooler_nothing_is_cancelled_and_the_session_is_destroyed() {
    let scene = Scene::new(PoolConfig { pooler: Pooler::PgBouncer, ..PoolConfig::default() });
    scene.abandoned(&["hang"], false).await;
    assert_eq!(scene.seen(), (1, 0, (0, 0), 0));
}

#[tokio::test(start_paused = true)]
async fn without_a_reaper_the_session_is_destroyed() {
    let scene = Scene::new(PoolConfig::default());
    scene.lent().await.give_back();
    scene.drain.begin();
    sleep(MS).await;
    scene.abandoned(&["hang"], false).await;
    assert_eq!((scene.pool.size(), scene.bulkhead.in_use()), ((0, 0), 0));
}

#[tokio::test(start_paused = true)]
async fn sessions_idle_for_long_are_closed_and_one_stays_warm() {
    let scene = Scene::new(PoolConfig { idle: Duration::from_secs(10), ..PoolConfig::default() });
    let loans = [scene.lent().await, scene.lent().await];
    loans.into_iter().for_each(Loan::give_back);
    sleep(Duration::from_secs(4)).await;
    assert_eq!(scene.pool.size().0, 2);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(scene.pool.size().0, 1);
}

/// A seed of the dropped calls (246) showed a session that the server had ended while it was idle, and that the pool counted
/// for as long as nobody took it. It kept nobody from a connection, so it was no leak of capacity; but whoever looked at the
/// metric saw connections that there were not.
#[tokio::test(start_paused = true)]
async fn a_session_that_died_idle_takes_no_place_and_is_soon_not_counted() {
    let scene = Scene::new(PoolConfig::default());
    let loans = [scene.lent().await, scene.lent().await];
    loans.into_iter().for_each(Loan::give_back);
    scene.fake.all_die.notify_waiters();
    sleep(MS).await;
    let all_places = [scene.lent().await, scene.lent().await];
    assert_eq!(scene.pool.size(), (2, 0));
    all_places.into_iter().for_each(Loan::give_back);
    scene.fake.all_die.notify_waiters();
    sleep(TEND_EVERY + MS).await;
    assert_eq!(scene.pool.size(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn old_sessions_are_replaced_one_after_the_other() {
    let scene = Scene::new(PoolConfig { lifetime: Duration::from_secs(100), ..PoolConfig::default() });
    let loans = [scene.lent().await, scene.lent().await];
    loans.into_iter().for_each(Loan::give_back);
    sleep(Duration::from_secs(79)).await;
    assert_eq!(scene.pool.size().0, 2);
    sleep(Duration::from_secs(13)).await;
    assert_eq!(scene.pool.size().0, 0);
}

/// When the drain began, the sessions that the reaper was busy with went back to the pool as they were. A request that was
/// still being served got one in the middle of an abandoned transaction, and its COMMIT would have committed that too.
#[tokio::test(start_paused = true)]
async fn a_drain_destroys_what_the_reaper_is_busy_with() {
    let scene = Scene::new(PoolConfig::default());
    scene.fake.is_deaf.store(true, SeqCst);
    scene.abandoned(&["BEGIN", "hang"], false).await;
    sleep(50 * MS).await;
    assert_eq!((scene.pool.size(), scene.bulkhead.in_use()), ((1, 0), 1));
    scene.drain.begin();
    sleep(MS).await;
    assert_eq!((scene.pool.size(), scene.bulkhead.in_use()), ((0, 0), 0));
}

/// A cancel request was sent and its end not seen in time; meanwhile the statement ended by itself and the session was
/// lent again. Then the request took effect, on the statement of the next user.
#[tokio::test(start_paused = true)]
async fn a_session_is_not_lent_again_while_a_cancel_request_may_be_under_way() {
    let scene = Scene::new(PoolConfig::default());
    scene.fake.is_slow_to_cancel.store(true, SeqCst);
    scene.abandoned(&["slow COMMIT"], false).await;
    sleep(1_400 * MS).await;
    assert_eq!((scene.pool.size(), scene.bulkhead.in_use()), ((0, 0), 0));
}

/// A read that failed inside of a transaction (25P02) gave its session back as it was, and so did one that had begun a
/// transaction and forgotten it: whoever came next was inside of it.
#[tokio::test(start_paused = true)]
async fn a_session_given_back_inside_of_a_transaction_is_not_lent_again() {
    let scene = Scene::new(PoolConfig::default());
    let loan = scene.lent().await;
    loan.simple_query("BEGIN").await.unwrap();
    loan.give_back();
    assert_eq!((scene.pool.size(), scene.bulkhead.in_use()), ((0, 0), 0));
}
