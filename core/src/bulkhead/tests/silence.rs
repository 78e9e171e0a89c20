//! Who was refused for a crowd, and who because nobody was answered.

use super::*;

/// In the first moments of a hang writes that waited for a permit were refused as by an overloaded database, before any
/// call had run out of its time, and so were lost to the journal.
#[tokio::test(start_paused = true)]
async fn who_waits_in_vain_for_the_first_answer_of_many_met_silence() {
    let bulkhead = bulkhead(2, 8);
    let _hanging = (enter(&bulkhead).await.unwrap(), enter(&bulkhead).await.unwrap());
    let since = Instant::now();
    assert_eq!(enter(&bulkhead).await.unwrap_err(), BulkheadFull::Wait);
    assert!(bulkhead.met_silence(since, Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_vain_while_others_are_answered_met_a_crowd() {
    let bulkhead = bulkhead(1, 8);
    let mut held = Caller::new(&bulkhead, Priority::Interactive);
    let since = Instant::now();
    // Those who go before it are answered slowly, but they are.
    let mut waiting = Caller::new(&bulkhead, Priority::Batch);
    for _ in 0..5 {
        let mut next = Caller::new(&bulkhead, Priority::Interactive);
        tokio::time::advance(Duration::from_millis(200)).await;
        held.permit.take().unwrap().finish(Ended::Answered, Instant::now());
        if waiting.refused.is_none() {
            waiting.look();
        }
        assert!(next.look(), "the next one is in");
        held = next;
    }
    tokio::time::advance(Duration::from_millis(1)).await;
    waiting.look();
    assert_eq!(waiting.refused, Some(BulkheadFull::Wait));
    assert!(!bulkhead.met_silence(since, Instant::now()));
}

/// Calls that end without an answer are no sign of life.
#[tokio::test(start_paused = true)]
async fn calls_that_run_out_of_time_break_no_silence() {
    let bulkhead = bulkhead(2, 8);
    let (first, _second) = (enter(&bulkhead).await.unwrap(), enter(&bulkhead).await.unwrap());
    let since = Instant::now();
    let mut oldest = Caller::new(&bulkhead, Priority::Interactive);
    let mut newest = Caller::new(&bulkhead, Priority::Interactive);
    tokio::time::advance(Duration::from_millis(600)).await;
    first.finish(Ended::TimedOut, Instant::now());
    assert!(newest.look(), "the permit of the call that ran out of time is free");
    tokio::time::advance(Duration::from_millis(401)).await;
    oldest.look();
    assert_eq!(oldest.refused, Some(BulkheadFull::Wait));
    assert!(bulkhead.met_silence(since, Instant::now()));
}

/// The silence ends, and those who waited through it stand behind a crowd: the silence has used up their time.
#[tokio::test(start_paused = true)]
async fn who_waited_through_a_silence_that_has_ended_met_it() {
    let config = BulkheadConfig { permits: 1, queue: 8, ..BulkheadConfig::default() };
    let bulkhead = Bulkhead::new(config, Instant::now());
    let held = enter(&bulkhead).await.unwrap();
    let came_early = Instant::now();
    let mut early = Caller::new(&bulkhead, Priority::Interactive);
    tokio::time::advance(Duration::from_millis(499)).await;
    let mut last = Caller::new(&bulkhead, Priority::Interactive);
    tokio::time::advance(Duration::from_millis(1)).await;
    held.finish(Ended::Answered, Instant::now());
    assert!(last.look(), "the newest goes first");
    tokio::time::advance(Duration::from_millis(1)).await;
    let came_late = Instant::now();
    let mut late = Caller::new(&bulkhead, Priority::Interactive);
    early.look();
    assert_eq!(early.refused, Some(BulkheadFull::Wait));
    assert!(bulkhead.met_silence(came_early, Instant::now()));
    tokio::time::advance(Duration::from_millis(300)).await;
    last.permit.take().unwrap().finish(Ended::Answered, Instant::now());
    assert!(late.look() && !bulkhead.met_silence(came_late, Instant::now()));
}

/// What was answered before anybody waited is not known to the instant; a crowd that comes all at once proves nothing.
#[tokio::test(start_paused = true)]
async fn a_burst_on_a_bulkhead_at_rest_meets_no_silence() {
    let bulkhead = bulkhead(1, 2);
    tokio::time::advance(Duration::from_secs(60)).await;
    let held = enter(&bulkhead).await.unwrap();
    let since = Instant::now();
    let mut crowd: Vec<_> = (0..5).map(|_| Caller::new(&bulkhead, Priority::Interactive)).collect();
    for caller in &mut crowd {
        caller.look();
    }
    let refused = crowd.iter().filter(|caller| caller.refused == Some(BulkheadFull::Queue)).count();
    assert_eq!((refused, bulkhead.met_silence(since, Instant::now())), (3, false));
    drop((held, crowd));
}

/// Where the normal time of a call is known, a hundred milliseconds without any answer tell, so that those met silence too
/// who are put out of a queue that fills up within a wait.
#[tokio::test(start_paused = true)]
async fn a_known_service_time_makes_a_short_silence_tell() {
    let bulkhead = bulkhead(4, 8);
    for _ in 0..40 {
        let permit = enter(&bulkhead).await.unwrap();
        tokio::time::advance(Duration::from_millis(10)).await;
        permit.finish(Ended::Answered, Instant::now());
    }
    let median = bulkhead.service_time(Instant::now());
    assert!(median.is_some_and(|median| median < Duration::from_millis(20)), "{median:?}");
    let since = Instant::now();
    let hanging: Vec<_> = (0..4).map(|_| Caller::new(&bulkhead, Priority::Interactive)).collect();
    let mut crowd: Vec<_> = (0..8).map(|_| Caller::new(&bulkhead, Priority::Interactive)).collect();
    tokio::time::advance(Duration::from_millis(99)).await;
    assert!(!bulkhead.met_silence(since, Instant::now()));
    tokio::time::advance(Duration::from_millis(1)).await;
    crowd.push(Caller::new(&bulkhead, Priority::Interactive));
    for caller in &mut crowd {
        caller.look();
    }
    let refused = crowd.iter().filter(|caller| caller.refused == Some(BulkheadFull::Queue)).count();
    assert_eq!((refused, bulkhead.met_silence(since, Instant::now())), (1, true));
    drop(hanging);
}
