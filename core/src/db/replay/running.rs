//! The batches on their way, and the way to do something else meanwhile. It knows nothing of what they do.

use std::{collections::VecDeque, pin::pin};

use futures_util::{StreamExt as _, stream::FuturesUnordered};

/// Futures that end in any order. They go on only while somebody waits here.
pub(super) struct Running<F: Future> {
    batches: FuturesUnordered<F>,
    /// What ended beside something else.
    ended: VecDeque<F::Output>,
}

impl<F: Future> Running<F> {
    pub(super) fn new() -> Self {
        Self { batches: FuturesUnordered::new(), ended: VecDeque::new() }
    }

    pub(super) fn push(&mut self, batch: F) {
        self.batches.push(batch);
    }

    /// Those of which nobody has heard that they ended.
    pub(super) fn len(&self) -> usize {
        self.batches.len() + self.ended.len()
    }

    /// The next one that ended; `None` where there is none.
    pub(super) async fn next(&mut self) -> Option<F::Output> {
        match self.ended.pop_front() {
            Some(ended) => Some(ended),
            None => self.batches.next().await,
        }
    }

    /// Waits for something else while they go on: one that nobody polls keeps its locks at the server, in the way of
    /// users and of the journal's next owner.
    pub(super) async fn beside<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        loop {
            tokio::select! {
                biased;
                answer = &mut other => return answer,
                Some(ended) = self.batches.next() => self.ended.push_back(ended),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;

    /// Replay slept for up to a second after one batch had failed, and the transactions of the others stood still meanwhile
    /// with all their locks.
    #[tokio::test(start_paused = true)]
    async fn they_go_on_while_something_else_is_waited_for() {
        let started = Instant::now();
        let batch = |steps: u64| async move {
            for _ in 0..steps {
                sleep(Duration::from_millis(10)).await;
            }
            (steps, started.elapsed())
        };
        let mut running = Running::new();
        for steps in [3, 1, 200] {
            running.push(batch(steps));
        }
        let answer = running.beside(async {
            sleep(Duration::from_secs(1)).await;
            7
        });
        assert_eq!((answer.await, running.len()), (7, 3));
        for steps in [1, 3, 200] {
            let (ended, took) = running.next().await.unwrap();
            assert_eq!(ended, steps);
            assert!(took <= Duration::from_millis(10 * steps + steps), "{steps}: {took:?}");
        }
        assert!(running.next().await.is_none() && running.len() == 0);
    }
}
