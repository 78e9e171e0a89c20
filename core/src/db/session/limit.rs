//! The time limit of what is asked on a session, by a timer that stays set from one question to the next.
//!
//! Setting a timer and clearing it takes the lock of the runtime's timers twice for each question. So one that is set
//! already is left as it is while it ends no later than what is asked may take, and is set anew where it ends too early:
//! once in the time of one question, however many are asked. It knows nothing of what is asked.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// The timer of one session. Left set, it may once wake the last task that waited by it, which does no harm.
#[derive(Debug)]
pub(crate) struct Limit(Pin<Box<Sleep>>);

impl Limit {
    /// A timer on the runtime that this is called in: that of the session's driver, because it dies with it.
    pub(super) fn new(now: Instant) -> Self {
        Self(Box::pin(sleep_until(now)))
    }

    /// What `asking` answers, or `None` where it has not by `until`.
    ///
    /// # Cancel safety
    /// Drops `asking`.
    pub(crate) async fn bound<F: Future>(&mut self, until: Instant, asking: F) -> Option<F::Output> {
        let mut asking = pin!(asking);
        let timer = &mut self.0;
        poll_fn(|context| {
            if let Poll::Ready(answer) = asking.as_mut().poll(context) {
                return Poll::Ready(Some(answer));
            }
            if timer.deadline() > until {
                timer.as_mut().reset(until);
            }
            while timer.as_mut().poll(context).is_ready() {
                if timer.deadline() >= until {
                    return Poll::Ready(None);
                }
                timer.as_mut().reset(until);
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn each_question_has_its_own_time_whatever_the_one_before_had() {
        let mut limit = Limit::new(Instant::now());
        for (seconds, pause) in [(5, 0), (1, 0), (2, 9), (3, 1)] {
            let until = Instant::now() + SECOND * seconds;
            assert_eq!(limit.bound(until, sleep(SECOND / 2)).await, Some(()), "cut short");
            assert_eq!(limit.bound(until, pending::<()>()).await, None);
            assert_eq!(Instant::now(), until);
            sleep(SECOND * pause).await;
        }
        // A dropped question leaves the timer set; the next one may have less time.
        drop(tokio::time::timeout(SECOND, limit.bound(Instant::now() + SECOND * 9, pending::<()>())).await);
        let until = Instant::now() + SECOND;
        assert_eq!(limit.bound(until, pending::<()>()).await, None);
        assert_eq!(Instant::now(), until);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_left_at_an_earlier_time_ends_no_later_question() {
        let (mut limit, start) = (Limit::new(Instant::now()), Instant::now());
        assert_eq!(limit.bound(start + SECOND, sleep(SECOND / 2)).await, Some(()));
        assert_eq!(limit.bound(start + SECOND * 3, pending::<()>()).await, None);
        assert_eq!(Instant::now(), start + SECOND * 3);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_there_is_taken_also_after_the_time() {
        let mut limit = Limit::new(Instant::now());
        assert_eq!(limit.bound(Instant::now() - SECOND, async { 7 }).await, Some(7));
    }
}
