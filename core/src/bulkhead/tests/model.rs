//! Random sequences of arrivals, departures, drops, pauses and changed limits against what must hold after each; and the
//! same in earnest on several threads.

use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Arrive(Priority, u64),
    /// Ends the call, or leaves the queue, whichever the caller at this place is in; without looking first or after it.
    Depart(usize, bool),
    Pause(u64),
    Limit(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let priority =
        prop::sample::select(vec![Priority::Probe, Priority::Interactive, Priority::Batch, Priority::Replay]);
    prop_oneof![
        5 => (priority, 1..400_u64).prop_map(|(priority, milliseconds)| Step::Arrive(priority, milliseconds)),
        5 => (any::<usize>(), any::<bool>()).prop_map(|(place, looks)| Step::Depart(place, looks)),
        2 => (1..150_u64).prop_map(Step::Pause),
        1 => (1..7_usize).prop_map(Step::Limit),
    ]
}

/// What must hold whenever everybody had a look.
fn check(bulkhead: &Arc<Bulkhead>, callers: &[Caller]) -> Result<(), TestCaseError> {
    let inside = callers.iter().filter(|caller| caller.permit.is_some());
    let waiting = callers.iter().filter(|caller| caller.entering.is_some()).count();
    let replaying =
        inside.clone().filter(|caller| caller.permit.as_ref().unwrap().priority == Priority::Replay);
    prop_assert_eq!(bulkhead.in_use(), inside.clone().count(), "permits counted and held differ");
    prop_assert_eq!(bulkhead.replaying.load(Relaxed), replaying.count());
    prop_assert_eq!(bulkhead.queued(), waiting, "places counted and held differ");
    let queue = bulkhead.queue();
    let wanted = queue.wants(bulkhead.replay_has_room());
    drop(queue);
    prop_assert!(
        !wanted || bulkhead.in_use() >= bulkhead.limit(),
        "somebody waits in front of a free permit"
    );
    prop_assert_eq!(bulkhead.word.has_flag(), wanted, "the flag and the queue differ");
    Ok(())
}

fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let bulkhead = bulkhead(6, 5);
        let mut callers: Vec<Caller> = Vec::new();
        for step in steps {
            let mut looks = true;
            match step {
                Step::Arrive(priority, milliseconds) => {
                    let deadline = Deadline::after(Instant::now(), Duration::from_millis(milliseconds));
                    callers.push(Caller::with_deadline(&bulkhead, priority, deadline));
                }
                Step::Depart(place, looks_after) if !callers.is_empty() => {
                    callers.swap_remove(place % callers.len());
                    looks = looks_after;
                }
                Step::Depart(..) => {}
                Step::Pause(milliseconds) => tokio::time::advance(Duration::from_millis(milliseconds)).await,
                Step::Limit(limit) => {
                    bulkhead.change_limit(bulkhead.limit(), limit, Instant::now());
                }
            }
            if looks {
                // Twice: a look can give a permit back to somebody who looked before.
                for _ in 0..2 {
                    for caller in &mut callers {
                        caller.look();
                    }
                }
                callers.retain(|caller| caller.refused.is_none());
                check(&bulkhead, &callers)?;
            }
        }
        drop(callers);
        assert_idle(&bulkhead);
        Ok(())
    })
}

proptest! {
    /// A failure prints the steps and the seed that makes them.
    #[test]
    fn permits_places_and_flag_agree_after_any_steps(steps in prop::collection::vec(step(), 1..120)) {
        run(steps)?;
    }
}

/// Many tasks on several threads enter, leave, hurry and vanish, while the limit changes under them.
#[test]
fn nothing_is_lost_between_threads() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
    runtime.block_on(async {
        let bulkhead = bulkhead(6, 20);
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..32).map(|task| {
            let (bulkhead, inside, most) = (Arc::clone(&bulkhead), Arc::clone(&inside), Arc::clone(&most));
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed ^ task);
                for _ in 0..300 {
                    one_call(&bulkhead, &inside, &most, &mut random).await;
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        assert!(most.load(Relaxed) <= 6, "{} inside at once", most.load(Relaxed));
        bulkhead.change_limit(bulkhead.limit(), 6, Instant::now());
        assert_idle(&bulkhead);
    });
}

async fn one_call(
    bulkhead: &Arc<Bulkhead>,
    inside: &AtomicUsize,
    most: &AtomicUsize,
    random: &mut fastrand::Rng,
) {
    let now = Instant::now();
    let priority =
        *random.choice([Priority::Replay, Priority::Batch, Priority::Interactive]).as_ref().unwrap();
    let deadline = Deadline::after(now, Duration::from_micros(random.u64(1..3_000)));
    let patience = Duration::from_micros(random.u64(0..2_000));
    if random.u8(..) < 8 {
        bulkhead.change_limit(bulkhead.limit(), random.usize(1..=6), now);
    }
    let entering = bulkhead.acquire(priority, deadline, now);
    let Ok(Ok(permit)) = tokio::time::timeout(patience, entering).await else { return };
    most.fetch_max(inside.fetch_add(1, Relaxed) + 1, Relaxed);
    for _ in 0..random.u8(0..4) {
        tokio::task::yield_now().await;
    }
    inside.fetch_sub(1, Relaxed);
    match random.bool() {
        true => drop(permit),
        false => permit.into_owned().finish(Ended::Answered, Instant::now()),
    }
}
