//! How many attempts against PostgreSQL a piece of work makes, for the line that a service logs about it. It counts and
//! decides nothing.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

tokio::task_local! {
    static OF_THIS_TASK: Attempts;
}

/// The attempts of one piece of work. Clones count together.
///
/// ```
/// use ridethrough::attempts::Attempts;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let attempts = Attempts::default();
/// let work = async { "calls to a `Db`, such as `db.read(..)`" };
/// attempts.counted(work).await;
/// assert_eq!(attempts.count(), 0);
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Attempts(Arc<AtomicU32>);

impl Attempts {
    /// Those of the work that this is called in; none outside of any that is counted. What is spawned is counted again only
    /// where the spawned future is put into these.
    #[must_use]
    pub fn of_this_task() -> Option<Self> {
        OF_THIS_TASK.try_with(Clone::clone).ok()
    }

    /// The work, with its attempts counted here.
    pub fn counted<F: Future>(&self, work: F) -> impl Future<Output = F::Output> {
        OF_THIS_TASK.scope(self.clone(), work)
    }

    /// How many there were until now. An answer that others waited for too is counted for the one who asked.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

/// One attempt was made.
#[inline]
pub(crate) fn made() {
    // Outside of counted work nobody wants to know.
    let _ = OF_THIS_TASK.try_with(|attempts| attempts.0.fetch_add(1, Relaxed));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn attempts_are_counted_for_the_work_that_makes_them_also_where_it_spawns() {
        let (one, other) = (Attempts::default(), Attempts::default());
        made();
        let spawned = || {
            let attempts = Attempts::of_this_task().unwrap_or_default();
            tokio::spawn(async move { attempts.counted(async { made() }).await })
        };
        one.counted(async {
            made();
            spawned().await.unwrap();
            other.counted(async { made() }).await;
        })
        .await;
        spawned().await.unwrap();
        assert_eq!((one.count(), other.count()), (2, 1));
    }
}
