//! The streams of one HTTP/2 connection: how many are open, which of them stand still, and whether a client only opens
//! them to close them again.
//!
//! Each stream is a task of its own, so what holds for one is watched from inside of its task. Limits that the
//! protocol knows (how many at once, windows, sizes) are given to the protocol's implementation.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use crate::drain::InFlight;

/// Streams that a client may give up before their answer, whatever else it does: a browser leaves a page with a
/// hundred pictures, and comes back.
const GIVEN_UP_MAX: usize = 200;

tokio::task_local! {
    /// How far the stream of this task is; told by the body of its answer.
    static PROGRESS: Arc<Progress>;
}

#[derive(Debug, Default)]
struct Progress {
    /// Whether the service has answered.
    is_answered: AtomicBool,
    /// Whether the stream waits for its client to take something.
    client_is_next: AtomicBool,
}

/// The streams of one connection. Clones mean the same ones.
#[derive(Debug, Clone)]
pub(super) struct Streams(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    open: InFlight,
    begun: AtomicUsize,
    given_up: AtomicUsize,
    abused: Notify,
    /// How long a client may take nothing of an answer.
    patience: Duration,
}

impl Streams {
    pub(super) fn new(patience: Duration) -> Self {
        Self(Arc::new(Shared {
            open: InFlight::default(),
            begun: AtomicUsize::new(0),
            given_up: AtomicUsize::new(0),
            abused: Notify::new(),
            patience,
        }))
    }

    /// Streams open now.
    pub(super) fn open(&self) -> usize {
        self.0.open.count()
    }

    /// Streams since the connection began.
    pub(super) fn begun(&self) -> usize {
        self.0.begun.load(Ordering::Relaxed)
    }

    /// Waits until the client has given up so many streams, and most of all, that it does nothing else: each costs it
    /// a few bytes, and us a request to whoever answers.
    ///
    /// # Cancel safety
    /// What happened meanwhile is seen by the next call.
    pub(super) async fn abused(&self) {
        self.0.abused.notified().await;
    }

    fn gave_up(&self) {
        let given_up = self.0.given_up.fetch_add(1, Ordering::Relaxed) + 1;
        if given_up > GIVEN_UP_MAX && given_up > self.begun() / 2 {
            self.0.abused.notify_one();
        }
    }
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        let (streams, working) = (self.clone(), self.0.open.begin());
        tokio::spawn(async move {
            if !run(stream, streams.0.patience).await {
                streams.gave_up();
            }
            drop(working);
        });
    }
}

/// Runs a stream until it ends, or until its client has taken nothing for as long as `patience`: dropped then, which
/// resets it. Gives whether there was an answer.
async fn run<F: Future>(stream: F, patience: Duration) -> bool {
    let progress = Arc::new(Progress::default());
    let mut stream = pin!(PROGRESS.scope(Arc::clone(&progress), stream));
    let mut limit = pin!(sleep(patience));
    poll_fn(|context| {
        if stream.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        // Before the limit it is the stream itself that was woken, so something moved.
        let is_late = limit.as_mut().poll(context).is_ready();
        if is_late && progress.client_is_next.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        limit.as_mut().reset(Instant::now() + patience);
        limit.as_mut().poll(context)
    })
    .await;
    progress.is_answered.load(Ordering::Relaxed)
}

pin_project! {
    /// The body of an answer, which tells its stream whose turn it is.
    pub(super) struct Watched<B> {
        #[pin]
        body: B,
    }
}

impl<B> Watched<B> {
    /// To be called within the task of the stream, when its answer is there.
    pub(super) fn new(body: B) -> Self {
        note(|progress| {
            progress.is_answered.store(true, Ordering::Relaxed);
            progress.client_is_next.store(true, Ordering::Relaxed);
        });
        Self { body }
    }
}

/// Outside of a stream there is nobody to tell.
fn note(what: impl FnOnce(&Progress)) {
    let _ = PROGRESS.try_with(|progress| what(progress));
}

impl<B: Body> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = self.project().body.poll_frame(context);
        note(|progress| progress.client_is_next.store(frame.is_ready(), Ordering::Relaxed));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_waits_for_its_client_is_given_up_and_one_that_waits_for_us_is_not() {
        let begun = Instant::now();
        let slow_service = async {
            sleep(PATIENCE * 3).await;
            let _ = Watched::new(());
        };
        assert!(run(slow_service, PATIENCE).await);
        assert_eq!(begun.elapsed(), PATIENCE * 3);

        let begun = Instant::now();
        let slow_client = async {
            let _ = Watched::new(());
            sleep(PATIENCE * 3).await;
        };
        assert!(run(slow_client, PATIENCE).await);
        assert_eq!(begun.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_a_little_now_and_then_is_served_to_the_end() {
        let begun = Instant::now();
        let patient = async {
            let _ = Watched::new(());
            for _ in 0..5 {
                sleep(PATIENCE / 2).await;
            }
        };
        assert!(run(patient, PATIENCE).await);
        assert_eq!(begun.elapsed(), PATIENCE / 2 * 5);
    }

    #[tokio::test]
    async fn giving_up_is_abuse_only_where_a_client_does_little_else() {
        use hyper::rt::Executor as _;
        let settle = async |streams: &Streams| {
            while streams.open() > 0 {
                tokio::task::yield_now().await;
            }
        };
        let is_abused = async |streams: &Streams| {
            let told = tokio::time::timeout(Duration::ZERO, streams.abused());
            told.await.is_ok()
        };
        let streams = Streams::new(PATIENCE);
        for _ in 0..GIVEN_UP_MAX * 2 {
            streams.execute(async {});
            for _ in 0..2 {
                streams.execute(async {
                    let _ = Watched::new(());
                });
            }
        }
        settle(&streams).await;
        assert!(!is_abused(&streams).await);
        let streams = Streams::new(PATIENCE);
        for _ in 0..=GIVEN_UP_MAX {
            streams.execute(async {});
        }
        settle(&streams).await;
        assert!(is_abused(&streams).await);
    }
}
