//! Looking up host names, one lookup at a time for each: whoever asks while one is under way gets the answer of that one.
//!
//! A lookup is a thread in the resolver of the system, which nothing can cancel: given up by its caller it goes on until the
//! resolver gives up, and every retry against a name server that says nothing would leave one more of them behind.
//!
//! It keeps no answer: a name can lead to another host at any moment.

use std::{
    collections::HashMap,
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::future::{BoxFuture, FutureExt as _, Shared};

/// A name and the port that its addresses are wanted with.
type Asked = (String, u16);
type Found = Result<Vec<SocketAddr>, Arc<io::Error>>;
type Lookup = Shared<BoxFuture<'static, Found>>;

/// The lookups that are under way, or were when their last caller gave up: at most one for each host that was dialled.
#[derive(Default)]
pub(super) struct Lookups(Mutex<HashMap<Asked, Lookup>>);

impl fmt::Debug for Lookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookups").finish_non_exhaustive()
    }
}

impl Lookups {
    /// The addresses of `asked`, from the lookup that is under way, or else from a new one with `look_up`.
    ///
    /// # Errors
    /// What the lookup failed with.
    ///
    /// # Cancel safety
    /// A lookup that is given up goes on, and the next caller joins it.
    pub(super) async fn find<F, L>(&self, asked: Asked, look_up: F) -> io::Result<Vec<SocketAddr>>
    where
        F: FnOnce(Asked) -> L,
        L: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        let lookup = self.joined_or_begun(&asked, look_up);
        let found = lookup.clone().await;
        let mut under_way = self.under_way();
        if under_way.get(&asked).is_some_and(|other| other.ptr_eq(&lookup)) {
            under_way.remove(&asked);
        }
        drop(under_way);
        found.map_err(|error| io::Error::new(error.kind(), error))
    }

    fn joined_or_begun<F, L>(&self, asked: &Asked, look_up: F) -> Lookup
    where
        F: FnOnce(Asked) -> L,
        L: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        let mut under_way = self.under_way();
        if let Some(lookup) = under_way.get(asked) {
            // One that ended while nobody waited for it is of unknown age.
            if lookup.clone().now_or_never().is_none() {
                return lookup.clone();
            }
        }
        let lookup = look_up(asked.clone()).map(|found| found.map_err(Arc::new)).boxed().shared();
        under_way.insert(asked.clone(), lookup.clone());
        lookup
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Asked, Lookup>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        time::Duration,
    };

    use tokio::{
        sync::watch,
        time::{sleep, timeout},
    };

    use super::*;

    /// A name server that answers when it is told to, and counts how often it was asked.
    struct NameServer {
        asked: AtomicUsize,
        answers: watch::Sender<bool>,
    }

    impl NameServer {
        fn silent() -> Arc<Self> {
            Arc::new(Self { asked: AtomicUsize::new(0), answers: watch::Sender::new(false) })
        }

        async fn find(self: &Arc<Self>, lookups: &Lookups, name: &str) -> io::Result<Vec<SocketAddr>> {
            let server = Arc::clone(self);
            let answer = move |(_, port)| async move {
                let number = server.asked.fetch_add(1, SeqCst);
                let mut answers = server.answers.subscribe();
                // As a thread of the resolver does, it goes on whether or not somebody waits.
                let thread =
                    tokio::spawn(async move { answers.wait_for(|answers| *answers).await.map(|_| ()) });
                thread.await?.map_err(io::Error::other)?;
                Ok(vec![([10, 0, 0, u8::try_from(number).unwrap()], port).into()])
            };
            lookups.find((name.to_owned(), 5432), answer).await
        }
    }

    /// Each dial against a silent name server left a thread behind for as long as the resolver waits, which can be half a
    /// minute, and the prober dials several times in a second.
    #[tokio::test(start_paused = true)]
    async fn retries_against_a_silent_name_server_join_the_lookup_that_is_under_way() {
        let (server, lookups) = (NameServer::silent(), Lookups::default());
        for _ in 0..10 {
            let dialled = timeout(Duration::from_secs(1), server.find(&lookups, "db"));
            assert!(dialled.await.is_err(), "a silent name server answered");
        }
        assert_eq!(server.asked.load(SeqCst), 1);
        let both = futures_util::future::join(server.find(&lookups, "db"), server.find(&lookups, "db"));
        let answered = async {
            sleep(Duration::from_millis(1)).await;
            server.answers.send_replace(true);
        };
        let ((one, other), ()) = futures_util::future::join(both, answered).await;
        assert_eq!((one.unwrap(), server.asked.load(SeqCst)), (other.unwrap(), 1));
        assert!(lookups.under_way().is_empty());
    }

    /// An answer that came while nobody waited can be from before a failover that moved the name.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_waited_for_is_asked_for_anew() {
        let (server, lookups) = (NameServer::silent(), Lookups::default());
        assert!(timeout(Duration::from_secs(1), server.find(&lookups, "db")).await.is_err());
        server.answers.send_replace(true);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(server.find(&lookups, "db").await.unwrap(), [([10, 0, 0, 1], 5432).into()]);
        assert_eq!(server.asked.load(SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn one_silent_name_does_not_hold_up_another() {
        let (server, lookups) = (NameServer::silent(), Lookups::default());
        assert!(timeout(Duration::from_secs(1), server.find(&lookups, "silent")).await.is_err());
        server.answers.send_replace(true);
        assert!(server.find(&lookups, "db").await.is_ok());
    }
}
