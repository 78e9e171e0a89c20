//! A call dropped at every one of its awaits, in every situation it can be in: no permit, connection or lease leaks, nothing
//! happens twice, and the next call works.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use super::path::*;

/// Gives a future up after so many polls that found it pending.
struct DroppedAfter<F> {
    polls: usize,
    call: Pin<Box<F>>,
}

impl<F: Future> Future for DroppedAfter<F> {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        if self.call.as_mut().poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        self.polls -= 1;
        if self.polls == 0 { Poll::Ready(false) } else { Poll::Pending }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Read,
    Write,
    Transaction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Situation {
    FreshPool,
    WarmPool,
    DialInProgress,
    BulkheadQueue,
    HalfOpenTrial,
    ReaperBusy,
}

const CALLS: [Call; 3] = [Call::Read, Call::Write, Call::Transaction];
impl Situation {
    async fn arrange(self) -> Arc<Path> {
        let mut config = Path::once();
        if self == Self::BulkheadQueue {
            (config.bulkhead.permits, config.bulkhead.permits_min) = (1, 1);
        }
        if self == Self::HalfOpenTrial {
            config.breaker.consecutive_failures = 1;
        }
        let path = Arc::new(Path::new(config).await);
        let asked = At::statement("SELECT title");
        match self {
            Self::FreshPool => {}
            Self::WarmPool => drop(path.read().await.unwrap()),
            Self::DialInProgress => path.server.fault(At::Connect, Fault::Delay(Duration::from_millis(50))),
            Self::BulkheadQueue => {
                path.server.fault(asked, Fault::Delay(Duration::from_millis(100)));
                let holder = Arc::clone(&path);
                tokio::spawn(async move { holder.read().await.unwrap() });
                while path.server.faults_waiting() > 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            Self::HalfOpenTrial => {
                path.server.fault(asked, Fault::Drop);
                path.read().await.unwrap_err();
                path.server.fault(At::statement("INSERT INTO orders"), Fault::Drop);
                assert!(path.transaction(TransactionOptions::new("order")).await.error().is_some());
                let is = |state: &str| path.circuit("reads") == state && path.circuit("writes") == state;
                assert!(is("open"));
                while !is("half-open") {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            Self::ReaperBusy => {
                path.server.fault(asked, Fault::Silence);
                let soon = Deadline::after(Instant::now(), Duration::from_millis(100));
                path.shop.db.read(&Titles, soon).await.unwrap_err();
                assert_eq!(path.number("bulkhead", "in_use"), 1, "the reaper holds the permit");
            }
        }
        path
    }
}

async fn call(path: &Path, call: Call) {
    match call {
        Call::Read => drop(path.read().await),
        Call::Write => drop(path.write("k").await),
        Call::Transaction => drop(path.transaction(TransactionOptions::new("order")).await),
    }
}

/// Everything works at once, in the same time as ever.
async fn works(path: &Path, story: &str) {
    let (before, started) = (path.orders(), Instant::now());
    let read = path.read().await;
    assert!(read.is_ok(), "{story}: {read:?} {}", path.state());
    let outcome = path.transaction(TransactionOptions::new("order")).await;
    assert!(matches!(outcome, Outcome::Committed(_)), "{story}: {outcome:?}");
    assert!(started.elapsed() < Duration::from_millis(100), "{story}: {:?}", started.elapsed());
    assert_eq!(path.orders(), before + 1, "{story}");
}

/// Answers whether the call was over before it could be dropped.
async fn dropped(what: Call, situation: Situation, polls: usize) -> bool {
    let story = format!("{what:?} in {situation:?} dropped after {polls} polls");
    let path = situation.arrange().await;
    let is_over = DroppedAfter { polls, call: Box::pin(call(&path, what)) }.await;
    path.at_rest(&story).await;
    works(&path, &story).await;
    if what == Call::Write {
        assert!(path.write("k").await.is_ok(), "{story}");
        path.replayed(&story).await;
        assert_eq!(path.server.applied("order.place"), 1, "{story}");
        // One by the write, one by the transaction that works.
        assert_eq!(path.orders(), 2, "{story}");
    }
    path.at_rest(&story).await;
    // A server that is busy sees only then that its client has gone.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let of_the_prober = 1;
    let open = path.number("pool", "connections") + of_the_prober;
    assert_eq!(path.server.counts().open, open, "{story}: sessions that nobody knows of");
    is_over
}

async fn at_every_await(situation: Situation) {
    for what in CALLS {
        let mut polls = 1;
        while !dropped(what, situation, polls).await {
            polls += 1;
            assert!(polls < 500, "{what:?} never ends");
        }
        assert!(polls > 1, "{what:?} in {situation:?} waits at least for its answer");
    }
}

macro_rules! situations {
    ($($name:ident: $situation:ident,)*) => {
        $(#[tokio::test(start_paused = true)]
        async fn $name() {
            at_every_await(Situation::$situation).await;
        })*
    };
}

situations! {
    a_call_dropped_on_a_fresh_pool: FreshPool,
    a_call_dropped_on_a_warm_pool: WarmPool,
    a_call_dropped_while_it_dials: DialInProgress,
    a_call_dropped_in_the_queue_of_the_bulkhead: BulkheadQueue,
    a_call_dropped_as_a_trial: HalfOpenTrial,
    a_call_dropped_while_the_reaper_is_busy: ReaperBusy,
}

/// Several calls at once, each dropped somewhere, with faults in between: whatever the order, nothing leaks.
#[tokio::test(start_paused = true)]
async fn many_calls_dropped_anywhere_leave_nothing_behind() {
    let seed =
        std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    // The jitter of the breaker and of the pool too, so that a seed repeats a run.
    fastrand::seed(seed);
    for round in 0..20 {
        let mut config = Path::once();
        (config.bulkhead.permits, config.bulkhead.permits_min) = (3, 1);
        let path = Path::new(config).await;
        for _ in 0..4 {
            let fault = match random.usize(..4) {
                0 => Fault::Drop,
                1 => Fault::Silence,
                2 => Fault::Delay(Duration::from_millis(random.u64(1..300))),
                _ => Fault::StrayCancel,
            };
            path.server.fault_nth(At::BeforeMessage, random.u64(1..30), fault);
        }
        let calls = (0..12).map(|_| {
            let what = CALLS[random.usize(..CALLS.len())];
            DroppedAfter { polls: random.usize(1..20), call: Box::pin(call(&path, what)) }
        });
        futures_util::future::join_all(calls).await;
        let story = format!("seed {seed} round {round}");
        path.server.recover();
        path.at_rest(&story).await;
        path.replayed(&story).await;
        // After a failed dial nobody dials before the next step of the pool's backoff.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let read = path.read().await;
        assert!(read.is_ok(), "{story}: {read:?} {}", path.state());
        assert_eq!(path.server.applied("order.place"), path.server.committed_keys().len(), "{story}");
        path.at_rest(&story).await;
        // The reaper looks each second for sessions that the server ended while they were idle.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let (pooled, of_the_prober) = (path.number("pool", "connections"), 1);
        let counts = path.server.counts();
        assert_eq!(counts.open, pooled + of_the_prober, "{story}: {counts:?} {}", path.state());
    }
}
