//! Group commit for anything that can make a batch durable: one thread, one sync for all that wait, tasks woken one by one.
//! It is the journal's own way, without what the journal does besides.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use tokio::sync::oneshot;

/// As many as the journal takes at once.
const BATCH: usize = 1024;

/// What makes a batch durable.
pub trait Sink: Send + 'static {
    /// Stores payloads under these numbers; they are durable when this returns.
    fn commit(&mut self, numbers: &[u64]);
    /// Begins from the start again, where that frees space.
    fn rewind(&mut self) {}
}

#[derive(Default)]
struct Queue {
    waiting: Vec<(u64, oneshot::Sender<()>)>,
    rewind: bool,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
}

/// The handle; its last clone ends the thread.
pub struct Group<S> {
    inner: Arc<Inner>,
    sink: std::marker::PhantomData<fn() -> S>,
}

impl<S> Clone for Group<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), sink: std::marker::PhantomData }
    }
}

struct Inner {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.work.notify_all();
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(!matches!(ended, Some(Err(_))), "the committing thread panicked");
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Sink> Group<S> {
    /// Starts the thread.
    pub fn new(sink: S) -> Self {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = Some(std::thread::spawn(move || run(&theirs, sink)));
        Self { inner: Arc::new(Inner { shared, thread }), sink: std::marker::PhantomData }
    }

    /// Returns once it is durable.
    pub async fn commit(&self, number: u64) {
        let told = self.enqueue(number);
        told.await.expect("the committing thread lives");
    }

    fn enqueue(&self, number: u64) -> oneshot::Receiver<()> {
        let (done, told) = oneshot::channel();
        let mut queue = self.inner.shared.queue();
        let idle = queue.waiting.is_empty();
        queue.waiting.push((number, done));
        drop(queue);
        if idle {
            self.inner.shared.work.notify_one();
        }
        told
    }

    /// Begins from the start before the next batch.
    pub fn rewind(&self) {
        self.inner.shared.queue().rewind = true;
    }
}

fn run(shared: &Shared, mut sink: impl Sink) {
    let (mut numbers, mut tell) = (Vec::new(), Vec::new());
    loop {
        let mut queue = shared.queue();
        while queue.waiting.is_empty() && !queue.closed {
            queue = shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if queue.waiting.is_empty() {
            return;
        }
        let count = queue.waiting.len().min(BATCH);
        for (number, done) in queue.waiting.drain(..count) {
            numbers.push(number);
            tell.push(done);
        }
        let rewind = std::mem::take(&mut queue.rewind);
        drop(queue);
        if rewind {
            sink.rewind();
        }
        sink.commit(&numbers);
        numbers.clear();
        for done in tell.drain(..) {
            let _ = done.send(());
        }
    }
}
