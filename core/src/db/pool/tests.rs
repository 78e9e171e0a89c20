//! The pool over streams in memory: what is handed out, what comes back, and how often it dials.

use std::sync::atomic::Ordering::SeqCst;

use tokio::time::sleep;

use super::*;
use crate::{
    bulkhead::{Bulkhead, BulkheadConfig, Priority},
    db::{
        connector::Connecting,
        reaper::Reaper,
        session::fake::{Fake, ToFake},
    },
    deadline::Deadline,
};

fn pool(fake: &Arc<Fake>, size: usize) -> Pool {
    let connector = Connecting::through(Arc::new(ToFake(Arc::clone(fake))));
    let config = PoolConfig { connector, ..PoolConfig::default() };
    let (reaping, _) = Reaper::new();
    let target: tokio_postgres::Config = "postgres://app@memory/todos".parse().unwrap();
    Pool::new(target, &config, size, &reaping)
}

fn within(limit: Duration) -> AttemptTime {
    AttemptTime::new(Deadline::after(Instant::now(), limit), limit)
}

async fn lent(pool: &Pool) -> Loan {
    pool.checkout(&within(Duration::from_secs(3))).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_session_is_used_again_and_knows_its_host() {
    let fake = Arc::new(Fake::default());
    let pool = pool(&fake, 4);
    for _ in 0..3 {
        let loan = lent(&pool).await;
        let identity = *loan.identity();
        assert!(identity.in_recovery && identity.read_only);
        assert_eq!((identity.system_identifier, identity.timeline), (Some(u64::MAX - 1), Some(7)));
        assert_eq!(identity.version, 150_018);
        loan.give_back();
    }
    assert_eq!((fake.connects.load(SeqCst), pool.size()), (1, (1, 1)));
}

#[tokio::test(start_paused = true)]
async fn the_newest_idle_session_is_used_first() {
    let fake = Arc::new(Fake::default());
    let pool = pool(&fake, 4);
    let (first, second) = (lent(&pool).await, lent(&pool).await);
    let newest = second.process_id();
    first.give_back();
    second.give_back();
    assert_eq!(lent(&pool).await.process_id(), newest);
}

/// A server that was restarted while nobody asked: the first user must not be the one to find out.
#[tokio::test(start_paused = true)]
async fn sessions_that_died_idle_are_never_handed_out() {
    let fake = Arc::new(Fake::default());
    let pool = pool(&fake, 8);
    let loans = [lent(&pool).await, lent(&pool).await, lent(&pool).await];
    loans.into_iter().for_each(Loan::give_back);
    fake.all_die.notify_waiters();
    sleep(Duration::from_millis(10)).await;
    lent(&pool).await.simple_query("").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_a_confirmed_loss_idle_sessions_go_at_once_and_busy_ones_when_they_return() {
    let fake = Arc::new(Fake::default());
    let pool = pool(&fake, 4);
    let (idle, busy) = (lent(&pool).await, lent(&pool).await);
    idle.give_back();
    pool.invalidate();
    assert_eq!(pool.size().0, 1);
    // What runs on a busy one is left alone.
    busy.simple_query("").await.unwrap();
    busy.give_back();
    assert_eq!(pool.size().0, 0);
}

#[tokio::test(start_paused = true)]
async fn while_the_host_is_away_it_is_dialled_once_for_each_step() {
    let fake = Arc::new(Fake::default());
    let pool = pool(&fake, 8);
    fake.is_away.store(true, SeqCst);
    let start = Instant::now();
    let mut refused = 0;
    while start.elapsed() < Duration::from_secs(5) {
        let none = pool.checkout(&within(Duration::from_millis(750))).await.unwrap_err();
        assert_eq!(none.error.class(), ErrorClass::Transient);
        refused += u32::from(none.breaker == CallResult::Neutral);
        sleep(Duration::from_millis(2)).await;
    }
    let dials = fake.connects.load(SeqCst);
    assert!((5..=12).contains(&dials), "{dials} dials in five seconds");
    assert!(refused > 2_000, "{refused} callers were told at once");
    fake.is_away.store(false, SeqCst);
    // The prober sees it first, and the pool need not wait for its next step.
    pool.dialler().dial(Duration::from_secs(1)).await.unwrap();
    lent(&pool).await.give_back();
}

#[tokio::test(start_paused = true)]
async fn a_server_without_room_is_overloaded_and_not_away() {
    let fake = Arc::new(Fake::default());
    let pool = pool(&fake, 8);
    fake.is_full.store(true, SeqCst);
    let none = pool.checkout(&within(Duration::from_secs(1))).await.unwrap_err();
    assert_eq!((none.error.class(), none.breaker), (ErrorClass::Overload, CallResult::Neutral));
}

#[tokio::test(start_paused = true)]
async fn the_pool_fills_gently_after_an_outage() {
    let fake = Arc::new(Fake::default());
    let pool = Arc::new(pool(&fake, 40));
    let start = Instant::now();
    let asking: Vec<_> = (0..40)
        .map(|_| {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move { pool.checkout(&within(Duration::from_secs(3))).await })
        })
        .collect();
    sleep(Duration::from_millis(49)).await;
    assert!(fake.connects.load(SeqCst) <= 12, "{} dials in 50 ms", fake.connects.load(SeqCst));
    let mut loans = Vec::new();
    for asked in asking {
        loans.push(asked.await.unwrap().unwrap());
    }
    let (dials, took) = (fake.connects.load(SeqCst), start.elapsed());
    assert_eq!(dials, 40);
    assert!((Duration::from_millis(150)..Duration::from_secs(1)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_words_of_a_dying_server_are_there_for_the_last_user() {
    let fake = Arc::new(Fake::default());
    let pool = pool(&fake, 2);
    let loan = lent(&pool).await;
    let mark = loan.mark();
    assert!(!loan.sent_since(mark) && !loan.sent_anything());
    let error = loan.simple_query("die").await.unwrap_err();
    assert!(
        error.is_closed() && loan.sent_since(mark) && loan.sent_anything() && loan.last_words().is_none()
    );
    // Nothing can be sent on it any more, and the next statement provably was not.
    let mark = loan.mark();
    assert!(loan.simple_query("").await.is_err() && loan.seal_unless_sent(mark));
}

/// Every moment at which a checkout can be dropped: nothing may be left of it.
#[tokio::test(start_paused = true)]
async fn a_dropped_checkout_leaves_nothing_behind() {
    for polls in 0..60 {
        let fake = Arc::new(Fake::default());
        let pool = pool(&fake, 1);
        let now = Instant::now();
        let bulkhead = Bulkhead::new(BulkheadConfig { permits: 1, ..BulkheadConfig::default() }, now);
        let deadline = Deadline::after(now, Duration::from_secs(1));
        let permit = bulkhead.acquire(Priority::Interactive, deadline, now).await.unwrap().into_owned();
        let time = within(Duration::from_secs(1));
        {
            let mut checkout = Box::pin(pool.checkout_with(&time, Some(permit), now));
            for _ in 0..polls {
                tokio::select! {
                    biased;
                    _ = &mut checkout => break,
                    () = tokio::task::yield_now() => {}
                }
            }
        }
        assert_eq!(bulkhead.in_use(), 0, "a permit leaked after {polls} polls");
        lent(&pool).await.give_back();
    }
}

/// What the driver cannot put into bytes (a zero in the text, 70 000 values) was judged as a broken connection: three
/// such requests in a row opened the breaker for everybody, and a write with one was tried again.
#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_said_is_no_fault_of_the_server() {
    let fake = Arc::new(Fake::default());
    let pool = pool(&fake, 4);
    for phase in [Phase::Sent, Phase::InTransaction] {
        let loan = lent(&pool).await;
        let source = loan.simple_query("SELECT '\0'").await.unwrap_err();
        let (error, verdict) = loan.judge(source, Stage::Query, phase);
        assert_eq!(
            (error.class(), verdict.breaker),
            (ErrorClass::Permanent, CallResult::Success),
            "{phase:?}"
        );
        loan.settle(verdict);
    }
    let loan = lent(&pool).await;
    let source = loan.simple_query("die").await.unwrap_err();
    let (_, verdict) = loan.judge(source, Stage::Query, Phase::Sent);
    assert_eq!(verdict.breaker, CallResult::Failure);
}
