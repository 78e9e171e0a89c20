//! Who gets in, who waits, who is shed; and that no permit is lost whatever is dropped when.

mod model;
mod silence;

use std::collections::VecDeque;

use super::*;

fn bulkhead(permits: usize, queue: usize) -> Arc<Bulkhead> {
    let config = BulkheadConfig { permits, queue, wait: Duration::from_secs(1), ..BulkheadConfig::default() };
    Bulkhead::new(config, Instant::now())
}

fn soon() -> Deadline {
    Deadline::after(Instant::now(), Duration::from_secs(5))
}

async fn enter(bulkhead: &Arc<Bulkhead>) -> Result<Permit<&Arc<Bulkhead>>, BulkheadFull> {
    bulkhead.acquire(Priority::Interactive, soon(), Instant::now()).await
}

#[tokio::test(start_paused = true)]
async fn a_full_bulkhead_refuses_after_the_wait() {
    let bulkhead = bulkhead(1, 1);
    let _held = enter(&bulkhead).await.unwrap();
    let started = Instant::now();
    assert_eq!(enter(&bulkhead).await.unwrap_err(), BulkheadFull::Wait);
    assert_eq!(started.elapsed(), Duration::from_secs(1));
    assert_eq!(bulkhead.queued(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once() {
    let bulkhead = bulkhead(1, 0);
    let _held = enter(&bulkhead).await.unwrap();
    let started = Instant::now();
    assert_eq!(enter(&bulkhead).await.unwrap_err(), BulkheadFull::Queue);
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_the_wait_first() {
    let bulkhead = bulkhead(1, 1);
    let _held = enter(&bulkhead).await.unwrap();
    let started = Instant::now();
    let deadline = Deadline::after(started, Duration::from_millis(10));
    let refused = bulkhead.acquire(Priority::Interactive, deadline, started).await.unwrap_err();
    assert_eq!(refused, BulkheadFull::Wait);
    assert_eq!(started.elapsed(), Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_waiter_leaves_the_queue() {
    let bulkhead = bulkhead(1, 1);
    let held = enter(&bulkhead).await.unwrap();
    let waiter = tokio::time::timeout(Duration::from_millis(5), enter(&bulkhead)).await;
    assert!(waiter.is_err());
    assert_eq!(bulkhead.queued(), 0);
    drop(held);
    assert_eq!(bulkhead.in_use(), 0);
    assert!(enter(&bulkhead).await.is_ok());
}

type Entering = std::pin::Pin<Box<dyn Future<Output = Result<Permit, BulkheadFull>> + Send>>;

/// A caller that is polled by hand, so that a test says when it looks.
struct Caller {
    entering: Option<Entering>,
    permit: Option<Permit>,
    refused: Option<BulkheadFull>,
}

impl Caller {
    fn with_deadline(bulkhead: &Arc<Bulkhead>, priority: Priority, deadline: Deadline) -> Self {
        let entering = Box::pin(Arc::clone(bulkhead).acquire_owned(priority, deadline, Instant::now()));
        let mut caller = Self { entering: Some(entering), permit: None, refused: None };
        caller.look();
        caller
    }

    fn new(bulkhead: &Arc<Bulkhead>, priority: Priority) -> Self {
        Self::with_deadline(bulkhead, priority, soon())
    }

    /// Polls once, and says whether it is in.
    fn look(&mut self) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        if let Some(entering) = &mut self.entering
            && let std::task::Poll::Ready(end) = entering.as_mut().poll(&mut context)
        {
            self.entering = None;
            self.refused = end.as_ref().err().copied();
            self.permit = end.ok();
        }
        self.permit.is_some()
    }
}

/// Nothing is left behind, and the whole limit can be used again.
fn assert_idle(bulkhead: &Arc<Bulkhead>) {
    assert_eq!((bulkhead.in_use(), bulkhead.queued()), (0, 0));
    assert_eq!(bulkhead.replaying.load(Relaxed), 0);
    let all: Vec<_> = (0..bulkhead.limit()).map(|_| Caller::new(bulkhead, Priority::Batch)).collect();
    assert!(all.iter().all(|caller| caller.permit.is_some()), "a permit is lost, or the queue's flag stuck");
}

#[tokio::test(start_paused = true)]
async fn the_first_to_come_is_the_first_served_while_the_queue_flows() {
    let bulkhead = bulkhead(1, 8);
    let held = Caller::new(&bulkhead, Priority::Interactive);
    let mut first = Caller::new(&bulkhead, Priority::Interactive);
    let mut second = Caller::new(&bulkhead, Priority::Interactive);
    drop(held);
    assert_eq!((first.look(), second.look()), (true, false));
}

#[tokio::test(start_paused = true)]
async fn the_newest_goes_first_once_the_queue_stands() {
    let bulkhead = bulkhead(1, 8);
    let held = Caller::new(&bulkhead, Priority::Interactive);
    let mut oldest = Caller::new(&bulkhead, Priority::Interactive);
    tokio::time::advance(queue::OVERLOADED_AFTER + Duration::from_millis(1)).await;
    let mut newest = Caller::new(&bulkhead, Priority::Interactive);
    drop(held);
    assert_eq!((oldest.look(), newest.look()), (false, true));
}

/// Sixty-four callers shared thirty-two permits of a database that answered within a millisecond. Somebody always waited,
/// and so after 100 ms the newest went first for ever: the oldest starved for half a second and were refused.
#[tokio::test(start_paused = true)]
async fn a_queue_that_is_never_empty_but_quick_stays_in_order() {
    let bulkhead = bulkhead(1, 8);
    let mut inside = Caller::new(&bulkhead, Priority::Interactive);
    let mut waiting: VecDeque<_> = (0..2).map(|_| Caller::new(&bulkhead, Priority::Interactive)).collect();
    let mut call = async |time: Duration| {
        tokio::time::advance(time).await;
        inside.permit = None;
        let is_in_order = waiting[0].look();
        let turn = if is_in_order { 0 } else { waiting.len() - 1 };
        inside = waiting.remove(turn).unwrap();
        assert!(inside.look());
        waiting.push_back(Caller::new(&bulkhead, Priority::Interactive));
        is_in_order
    };
    for _ in 0..500 {
        assert!(call(Duration::from_millis(1)).await, "the newest went first though nobody waited for long");
    }
    assert!(!call(queue::OVERLOADED_AFTER * 2).await, "the oldest went first though all had waited for long");
    let back_in_order = [call(Duration::from_millis(1)).await, call(Duration::from_millis(1)).await];
    let in_order = [call(Duration::from_millis(1)).await, call(Duration::from_millis(1)).await];
    assert!(!back_in_order[0] && in_order == [true; 2], "{back_in_order:?} {in_order:?}");
}

#[tokio::test(start_paused = true)]
async fn the_newest_goes_first_once_the_queue_is_more_than_half_full() {
    let bulkhead = bulkhead(1, 4);
    let held = Caller::new(&bulkhead, Priority::Interactive);
    let mut callers: Vec<_> = (0..3).map(|_| Caller::new(&bulkhead, Priority::Interactive)).collect();
    drop(held);
    assert_eq!(callers.iter_mut().map(Caller::look).collect::<Vec<_>>(), [false, false, true]);
}

#[tokio::test(start_paused = true)]
async fn higher_priority_goes_first() {
    let bulkhead = bulkhead(1, 16);
    let mut held = Some(Caller::new(&bulkhead, Priority::Interactive));
    let order = [Priority::Replay, Priority::Batch, Priority::Interactive, Priority::Probe];
    let mut callers = order.map(|priority| Caller::new(&bulkhead, priority));
    for served in (0..order.len()).rev() {
        drop(held.take());
        for (place, caller) in callers.iter_mut().enumerate() {
            assert_eq!(
                caller.look(),
                place == served,
                "{:?} when it was the turn of {:?}",
                order[place],
                order[served]
            );
        }
        callers[served].permit = None;
    }
    drop(callers);
    assert_idle(&bulkhead);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_sheds_the_oldest_of_the_lowest_priority() {
    let bulkhead = bulkhead(1, 2);
    let _held = Caller::new(&bulkhead, Priority::Interactive);
    let mut old_batch = Caller::new(&bulkhead, Priority::Batch);
    let mut new_batch = Caller::new(&bulkhead, Priority::Batch);
    let interactive = Caller::new(&bulkhead, Priority::Interactive);
    old_batch.look();
    new_batch.look();
    assert_eq!((old_batch.refused, new_batch.refused), (Some(BulkheadFull::Queue), None));
    let _interactive_too = Caller::new(&bulkhead, Priority::Interactive);
    let late_batch = Caller::new(&bulkhead, Priority::Batch);
    assert_eq!(late_batch.refused, Some(BulkheadFull::Queue), "a newcomer below all others got a place");
    assert_eq!(interactive.refused, None);
}

#[tokio::test(start_paused = true)]
async fn expired_waiters_are_shed_before_live_ones() {
    let bulkhead = bulkhead(1, 2);
    let _held = Caller::new(&bulkhead, Priority::Interactive);
    let mut live = Caller::new(&bulkhead, Priority::Batch);
    let short = Deadline::after(Instant::now(), Duration::from_millis(10));
    let mut expired = Caller::with_deadline(&bulkhead, Priority::Interactive, short);
    tokio::time::advance(Duration::from_millis(20)).await;
    let newcomer = Caller::new(&bulkhead, Priority::Interactive);
    assert!(!live.look() && !expired.look());
    assert_eq!((live.refused, newcomer.refused), (None, None));
    assert!(expired.refused.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_free_permit_never_goes_to_an_expired_waiter() {
    let bulkhead = bulkhead(1, 8);
    let held = Caller::new(&bulkhead, Priority::Interactive);
    let short = Deadline::after(Instant::now(), Duration::from_millis(10));
    let mut expired = Caller::with_deadline(&bulkhead, Priority::Interactive, short);
    let mut live = Caller::new(&bulkhead, Priority::Batch);
    tokio::time::advance(Duration::from_millis(20)).await;
    drop(held);
    assert!(live.look() && !expired.look());
    assert_eq!(expired.refused, Some(BulkheadFull::Wait));
}

#[tokio::test(start_paused = true)]
async fn replay_gets_a_fifth_and_holds_nobody_up() {
    let bulkhead = bulkhead(10, 16);
    let mut replays: Vec<_> = (0..3).map(|_| Caller::new(&bulkhead, Priority::Replay)).collect();
    assert_eq!(replays.iter().filter(|caller| caller.permit.is_some()).count(), 2);
    assert!(
        bulkhead.word.enter().is_some_and(|_| !bulkhead.word.leave()),
        "replay that waits for replay raised the flag"
    );
    replays[0].permit = None;
    assert!(replays[2].look(), "replay did not get its share back");
    drop(replays);
    assert_idle(&bulkhead);
}

#[tokio::test(start_paused = true)]
async fn replay_yields_to_live_traffic() {
    let bulkhead = bulkhead(1, 16);
    let mut replay = Caller::new(&bulkhead, Priority::Replay);
    assert!(replay.permit.is_some(), "a limit of one leaves replay nothing");
    let mut next_replay = Caller::new(&bulkhead, Priority::Replay);
    let mut live = Caller::new(&bulkhead, Priority::Interactive);
    replay.permit = None;
    assert_eq!((next_replay.look(), live.look()), (false, true));
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_call_keeps_its_permit_on_another_task() {
    let bulkhead = bulkhead(1, 0);
    let permit = enter(&bulkhead).await.unwrap().into_owned();
    permit.report(Ended::TimedOut, Instant::now());
    let draining = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        drop(permit);
    });
    assert_eq!(enter(&bulkhead).await.unwrap_err(), BulkheadFull::Queue);
    draining.await.unwrap();
    assert_idle(&bulkhead);
}

/// Calls that take `took` each, one after the other, while the rest of the limit is in use or free.
async fn calls(bulkhead: &Arc<Bulkhead>, count: usize, took: Duration, is_busy: bool) {
    for _ in 0..count {
        let others = if is_busy { bulkhead.limit() - 1 } else { 0 };
        let held: Vec<_> = (0..others).map(|_| Caller::new(bulkhead, Priority::Batch)).collect();
        let permit = enter(bulkhead).await.unwrap();
        tokio::time::advance(took).await;
        permit.finish(Ended::Answered, Instant::now());
        drop(held);
    }
}

#[tokio::test(start_paused = true)]
async fn too_little_time_for_the_median_call_is_refused_at_once() {
    let bulkhead = bulkhead(8, 8);
    calls(&bulkhead, 40, Duration::from_millis(20), false).await;
    let now = Instant::now();
    assert!(
        bulkhead
            .service_time(now)
            .is_some_and(|time| time.abs_diff(Duration::from_millis(20)).as_millis() <= 2)
    );
    let in_time = |milliseconds| {
        bulkhead.acquire(
            Priority::Interactive,
            Deadline::after(now, Duration::from_millis(milliseconds)),
            now,
        )
    };
    assert_eq!(in_time(10).await.unwrap_err(), BulkheadFull::Deadline);
    assert!(in_time(30).await.is_ok());
}

/// A median that is believed for ever would refuse everybody after an outage, and then nobody could measure it again.
#[tokio::test(start_paused = true)]
async fn an_old_service_time_refuses_nobody() {
    let bulkhead = bulkhead(8, 8);
    calls(&bulkhead, 40, Duration::from_millis(20), false).await;
    tokio::time::advance(BELIEVED).await;
    let now = Instant::now();
    assert_eq!(bulkhead.service_time(now), None);
    let deadline = Deadline::after(now, Duration::from_millis(1));
    assert!(bulkhead.acquire(Priority::Interactive, deadline, now).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_limit_follows_what_permits_report() {
    let bulkhead = bulkhead(32, 8);
    calls(&bulkhead, 100, Duration::from_millis(10), true).await;
    assert_eq!(bulkhead.limit(), 32);
    calls(&bulkhead, 1, Duration::from_secs(3), true).await;
    calls(&bulkhead, 100, Duration::from_millis(10), true).await;
    assert_eq!(bulkhead.limit(), 32, "one slow statement made the limit smaller");
    calls(&bulkhead, 100, Duration::from_millis(80), true).await;
    assert!(bulkhead.limit() < 32, "slowness under load changed nothing");
    calls(&bulkhead, 300, Duration::from_millis(10), false).await;
    assert!(bulkhead.limit() >= 16, "{} after three seconds of calm", bulkhead.limit());
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_does_not_adapt_stays() {
    let config = BulkheadConfig { permits: 8, adaptive: false, ..BulkheadConfig::default() };
    let bulkhead = Bulkhead::new(config, Instant::now());
    for _ in 0..100 {
        let permit = enter(&bulkhead).await.unwrap();
        tokio::time::advance(Duration::from_millis(20)).await;
        permit.finish(Ended::Overloaded, Instant::now());
    }
    assert_eq!(bulkhead.limit(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_larger_limit_lets_the_waiting_in_at_once() {
    let bulkhead = bulkhead(4, 8);
    bulkhead.change_limit(4, 1, Instant::now());
    let _held = Caller::new(&bulkhead, Priority::Interactive);
    let mut waiting = [(); 2].map(|()| Caller::new(&bulkhead, Priority::Interactive));
    assert!(!waiting.iter_mut().any(Caller::look));
    bulkhead.change_limit(1, 3, Instant::now());
    assert!(waiting.iter_mut().all(Caller::look));
}

/// When a waiter is dropped, against what happened to it before.
#[tokio::test(start_paused = true)]
async fn a_dropped_call_leaves_nothing_behind_whenever_it_is_dropped() {
    let priorities = [Priority::Probe, Priority::Interactive, Priority::Batch, Priority::Replay];
    for priority in priorities {
        for is_granted in [false, true] {
            for is_polled in [false, true] {
                for stands in [false, true] {
                    for next in priorities {
                        let bulkhead = bulkhead(1, 8);
                        let mut held = Some(Caller::new(&bulkhead, Priority::Interactive));
                        let mut dropped = Caller::new(&bulkhead, priority);
                        if stands {
                            tokio::time::advance(queue::OVERLOADED_AFTER * 2).await;
                        }
                        if is_granted {
                            held = None;
                        }
                        if is_polled {
                            assert_eq!(dropped.look(), is_granted);
                        }
                        let mut next = Caller::new(&bulkhead, next);
                        drop(dropped);
                        assert_eq!(
                            next.look(),
                            is_granted,
                            "the next waiter did not get what was given back"
                        );
                        drop((next, held));
                        assert_idle(&bulkhead);
                    }
                }
            }
        }
    }
}
