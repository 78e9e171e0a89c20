//! Lanes over streams in memory: who gets on, what puts a lane in doubt, and what gives it back.

use std::{
    future::Future,
    pin::pin,
    sync::atomic::Ordering::SeqCst,
    task::{Context, Poll, Waker},
};

use tokio::time::{advance, sleep, timeout};

use super::*;
use crate::{
    bulkhead::{Bulkhead, BulkheadConfig, Priority},
    db::{
        connector::Connecting,
        guards::ended,
        reaper::Reaper,
        session::fake::{Fake, ToFake},
    },
    deadline::Deadline,
    drain::Drain,
};

const QUICK: Duration = Duration::from_micros(200);

/// Lanes that are tended, with the pool they belong to.
struct Street {
    fake: Arc<Fake>,
    pool: Pool,
    lanes: Lanes,
    may_dial: AtomicBool,
}

impl Street {
    fn new(count: usize, depth: usize) -> Arc<Self> {
        let fake = Arc::new(Fake::default());
        let connector = Connecting::through(Arc::new(ToFake(Arc::clone(&fake))));
        let config = PoolConfig { connector, lanes: count, lane_depth: depth, ..PoolConfig::default() };
        let (reaping, _) = Reaper::new();
        let target: tokio_postgres::Config = "postgres://app@memory/todos".parse().unwrap();
        let pool = Pool::new(target, &config, 4, &reaping);
        let lanes = Lanes::new(&config, Instant::now());
        Arc::new(Self { fake, pool, lanes, may_dial: true.into() })
    }

    /// With a tender, and `short` known to be that.
    async fn open(count: usize, depth: usize) -> (Arc<Self>, Drain) {
        let street = Self::new(count, depth);
        let (drain, draining) = Drain::new();
        let tended = Arc::clone(&street);
        tokio::spawn(async move {
            let may_dial = |_| tended.may_dial.load(SeqCst);
            tended.lanes.tended(&tended.pool, draining, may_dial).await;
        });
        street.know("short");
        assert!(street.seat().is_none(), "nobody wished for one before");
        street.settle().await;
        (street, drain)
    }

    fn know(&self, operation: &'static str) {
        (0..8).for_each(|_| self.lanes.saw(operation, QUICK, Instant::now()));
    }

    fn seat(&self) -> Option<Seat<'_>> {
        self.seat_with(None).ok()
    }

    fn seat_with(&self, permit: Option<Permit>) -> Result<Seat<'_>, Option<Permit>> {
        self.lanes.seat(&self.pool, "short", permit, Instant::now())
    }

    /// Until the tender has seen to what it was called for.
    async fn settle(&self) {
        sleep(Duration::from_millis(100)).await;
    }

    fn dials(&self) -> usize {
        self.fake.connects.load(SeqCst)
    }
}

async fn ask(seat: &Seat<'_>, sql: &str) -> Result<(), tokio_postgres::Error> {
    seat.client().simple_query(sql).await.map(drop)
}

async fn permit(bulkhead: &Arc<Bulkhead>) -> Permit {
    let now = Instant::now();
    let deadline = Deadline::after(now, Duration::from_secs(1));
    bulkhead.acquire(Priority::Interactive, deadline, now).await.unwrap().into_owned()
}

fn bulkhead() -> Arc<Bulkhead> {
    Bulkhead::new(BulkheadConfig::default(), Instant::now())
}

#[tokio::test(start_paused = true)]
async fn lanes_are_opened_once_somebody_wishes_for_them() {
    let street = Street::new(2, 8);
    let (_drain, draining) = Drain::new();
    let tended = Arc::clone(&street);
    tokio::spawn(async move { tended.lanes.tended(&tended.pool, draining, |_| true).await });
    sleep(Duration::from_secs(60)).await;
    assert_eq!(street.dials(), 0, "nobody asks anything short");
    street.know("short");
    assert!(street.seat().is_none());
    street.settle().await;
    assert_eq!((street.dials(), street.lanes.size()), (2, (2, 0)));
    assert_eq!(street.pool.size().0, 0, "they are none of the pool's");
}

#[tokio::test(start_paused = true)]
async fn questions_spread_over_the_lanes_up_to_the_depth() {
    let (street, _drain) = Street::open(2, 3).await;
    let seats: Vec<_> = std::iter::from_fn(|| street.seat()).collect();
    assert_eq!((seats.len(), street.lanes.size()), (6, (2, 6)));
    for seat in seats {
        ask(&seat, "").await.unwrap();
        seat.answered(Instant::now());
    }
    assert_eq!(street.lanes.size(), (2, 0));
    assert!(street.seat().is_some());
}

#[tokio::test(start_paused = true)]
async fn without_lanes_and_behind_a_pooler_nobody_shares() {
    for config in [
        PoolConfig { lanes: 0, ..PoolConfig::default() },
        PoolConfig { pooler: Pooler::PgBouncer, ..PoolConfig::default() },
    ] {
        let lanes = Lanes::new(&config, Instant::now());
        let street = Street { lanes, ..Arc::into_inner(Street::new(1, 1)).unwrap() };
        street.know("short");
        assert!(street.seat().is_none());
        let (_drain, draining) = Drain::new();
        street.lanes.tended(&street.pool, draining, |_| true).await;
        assert_eq!(street.dials(), 0);
    }
}

/// Somebody went away while the server was busy for them: nobody lines up behind that, the lane comes back once an empty
/// query was answered, and only then is their place in the bulkhead free.
#[tokio::test(start_paused = true)]
async fn a_lane_in_doubt_takes_nobody_until_it_is_proven() {
    let (street, _drain) = Street::open(1, 8).await;
    let bulkhead = bulkhead();
    let seat = street.seat_with(Some(permit(&bulkhead).await)).unwrap();
    assert!(timeout(QUICK, ask(&seat, "slow COMMIT")).await.is_err());
    drop(seat);
    assert!(street.seat().is_none());
    assert_eq!((street.lanes.size(), bulkhead.in_use()), ((1, 0), 1));
    sleep(Duration::from_millis(800)).await;
    assert!(street.seat().is_some());
    assert_eq!((street.dials(), bulkhead.in_use()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_cannot_prove_itself_is_replaced_and_nothing_is_cancelled() {
    let (street, _drain) = Street::open(1, 8).await;
    let bulkhead = bulkhead();
    let (seat, neighbour) =
        (street.seat_with(Some(permit(&bulkhead).await)).unwrap(), street.seat().unwrap());
    assert!(timeout(QUICK, ask(&seat, "hang")).await.is_err());
    drop(seat);
    sleep(Duration::from_secs(2)).await;
    assert_eq!((street.dials(), street.fake.cancels.load(SeqCst)), (2, 0));
    assert_eq!(bulkhead.in_use(), 1, "the server is busy until the old connection ends");
    drop(neighbour);
    assert_eq!((street.lanes.size(), bulkhead.in_use()), ((1, 0), 0));
    let seat = street.seat().unwrap();
    ask(&seat, "").await.unwrap();
    seat.answered(Instant::now());
}

/// Who gets on while the tender asks, and leaves again, may have asked behind the tender's question.
#[tokio::test(start_paused = true)]
async fn a_proof_says_nothing_about_who_left_after_it_began() {
    let (street, _drain) = Street::open(1, 8).await;
    let lane = Arc::clone(&street.lanes.open.read().unwrap()[0]);
    {
        let mut proof = pin!(lane.proves_itself());
        assert!(matches!(proof.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
        drop(street.seat().unwrap());
        assert!(proof.await);
    }
    assert!(lane.is_in_doubt() && street.seat().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_stands_still_takes_nobody() {
    let (street, _drain) = Street::open(1, 8).await;
    let seat = street.seat().unwrap();
    advance(STALLED / 2).await;
    let second = street.seat();
    assert!(second.is_some());
    advance(STALLED).await;
    assert!(street.seat().is_none());
    street.know("other");
    let other = || street.lanes.seat(&street.pool, "other", None, Instant::now()).ok();
    assert!(other().is_none());
    seat.answered(Instant::now());
    assert!(other().is_some(), "it moved");
    assert!(street.seat().is_none(), "the slow one stays away");
}

/// Thirty questions were on a connection that broke, and the breaker opened on what was one event.
#[tokio::test(start_paused = true)]
async fn one_loss_is_one_failure_however_many_shared_it() {
    let (street, _drain) = Street::open(1, 8).await;
    let seats = [street.seat().unwrap(), street.seat().unwrap(), street.seat().unwrap()];
    street.fake.all_die.notify_waiters();
    let mut told = Vec::new();
    for seat in seats {
        let source = ask(&seat, "").await.unwrap_err();
        let (error, verdict) = seat.failed(source, &street.pool, ended, Instant::now());
        assert_eq!(error.class(), ErrorClass::Unknown, "each of them may be asked again");
        told.push(verdict.breaker);
    }
    assert_eq!(told, [CallResult::Failure, CallResult::Neutral, CallResult::Neutral]);
    street.settle().await;
    assert_eq!((street.dials(), street.lanes.size()), (2, (1, 0)));
}

#[tokio::test(start_paused = true)]
async fn one_silence_is_one_failure_and_the_next_one_is_another() {
    let (street, _drain) = Street::open(1, 8).await;
    for _ in 0..2 {
        let seats = [street.seat().unwrap(), street.seat().unwrap()];
        let told = seats.map(|seat| seat.expired(CallResult::Failure, Instant::now()));
        assert_eq!(told, [CallResult::Failure, CallResult::Neutral]);
        street.settle().await;
    }
    assert_eq!(street.dials(), 1);
}

/// A hurried caller says nothing about the server, and must not keep one with all its time from saying it.
#[tokio::test(start_paused = true)]
async fn a_hurried_caller_tells_nothing() {
    let (street, _drain) = Street::open(1, 8).await;
    let (hurried, patient) = (street.seat().unwrap(), street.seat().unwrap());
    assert_eq!(hurried.expired(CallResult::Neutral, Instant::now()), CallResult::Neutral);
    assert_eq!(patient.expired(CallResult::Failure, Instant::now()), CallResult::Failure);
}

#[tokio::test(start_paused = true)]
async fn a_statement_error_leaves_the_lane_open() {
    let (street, _drain) = Street::open(1, 8).await;
    let seat = street.seat().unwrap();
    let hanging = ask(&seat, "hang");
    let cancel = async {
        let key = seat.lane.session.ear().cancel_key();
        assert!(key.is_some());
        street.pool.dialler().cancel(seat.lane.session.ear()).await;
    };
    let (failed, ()) = tokio::join!(hanging, cancel);
    let (error, verdict) = seat.failed(failed.unwrap_err(), &street.pool, ended, Instant::now());
    assert_eq!((error.code(), verdict.breaker), (Some("57014"), CallResult::Success));
    assert!(street.seat().is_some());
}

#[tokio::test(start_paused = true)]
async fn after_a_confirmed_loss_nobody_gets_on_an_old_lane() {
    let (street, _drain) = Street::open(2, 8).await;
    street.may_dial.store(false, SeqCst);
    street.pool.invalidate();
    assert!(street.seat().is_none());
    sleep(Duration::from_secs(5)).await;
    assert_eq!(
        (street.dials(), street.lanes.size()),
        (2, (0, 0)),
        "and none is opened while the host is away"
    );
    street.may_dial.store(true, SeqCst);
    sleep(Duration::from_secs(1)).await;
    assert_eq!((street.dials(), street.lanes.size()), (4, (2, 0)));
    assert!(street.seat().is_some());
}

/// The network went away without a word while nobody asked: the first question must not be the one to find out.
#[tokio::test(start_paused = true)]
async fn idle_lanes_are_looked_at_and_unused_ones_closed() {
    let (street, drain) = Street::open(2, 8).await;
    street.fake.all_die.notify_waiters();
    sleep(Duration::from_secs(1)).await;
    assert_eq!((street.dials(), street.lanes.size()), (4, (2, 0)));
    sleep(Duration::from_secs(60)).await;
    assert!(street.seat().is_some(), "a minute of peace does no harm");
    sleep(street.lanes.idle + Duration::from_secs(2)).await;
    assert_eq!((street.dials(), street.lanes.size()), (4, (0, 0)));
    street.know("short");
    assert!(street.seat().is_none());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(street.lanes.size(), (2, 0));
    drop(drain);
}

#[tokio::test(start_paused = true)]
async fn a_drain_closes_the_lanes_and_frees_what_is_owed() {
    let (street, drain) = Street::open(1, 8).await;
    let bulkhead = bulkhead();
    let seat = street.seat_with(Some(permit(&bulkhead).await)).unwrap();
    assert!(timeout(QUICK, ask(&seat, "hang")).await.is_err());
    drop(seat);
    assert_eq!(bulkhead.in_use(), 1);
    drain.begin();
    street.settle().await;
    assert_eq!((street.lanes.size(), bulkhead.in_use()), ((0, 0), 0));
}

/// Dropped after any number of polls, a question leaves neither a seat nor a permit behind.
#[tokio::test(start_paused = true)]
async fn a_question_dropped_at_any_point_leaks_nothing() {
    let (street, _drain) = Street::open(1, 2).await;
    let bulkhead = bulkhead();
    for polls in 0..4 {
        let permit = permit(&bulkhead).await;
        let mut asking = Box::pin(async {
            let seat = street.seat_with(Some(permit)).ok().unwrap();
            ask(&seat, "").await.unwrap();
            seat.answered(Instant::now());
        });
        for _ in 0..polls {
            if asking.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(asking);
        street.settle().await;
        assert_eq!((street.lanes.size(), bulkhead.in_use()), ((1, 0), 0), "after {polls} polls");
        drop((street.seat().unwrap(), street.seat()));
        street.settle().await;
    }
    assert_eq!(street.dials(), 1);
}
