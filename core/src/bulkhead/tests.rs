//! Who gets in, who waits, who is shed; and that no permit is lost whatever is dropped when.

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
