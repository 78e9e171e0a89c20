//! An answer on its way to several clients at once: one task pours in, each reader takes at its own pace.
//!
//! Up to a limit all of it is kept, for readers that come later and for the store. Past it only what some reader has
//! still to get is kept, and the source has to wait for the slowest. What is done with the whole is decided in `cache`.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::{sync::Notify, time::timeout};

use super::CutShort;

/// How far the source may be ahead of the slowest reader once not everything is kept.
const WINDOW_BYTES: usize = 256 * 1024;

/// The pouring side; dropped before [`Source::finish`], all readers see a connection that broke.
#[derive(Debug)]
#[must_use = "a source that is dropped cuts all its readers"]
pub(crate) struct Source {
    shared: Arc<Shared>,
    /// Bytes kept for later; past it nobody can join any more.
    bytes_max: usize,
}

/// Where readers join.
#[derive(Debug, Clone)]
pub(crate) struct Spring(Arc<Shared>);

/// One reader.
#[derive(Debug)]
pub(crate) struct Reader {
    shared: Arc<Shared>,
    number: usize,
    length: Option<u64>,
}

/// Bytes that all sources together may keep for later; past it they keep only what some reader has still to get.
#[derive(Debug)]
pub(crate) struct Room {
    used: AtomicUsize,
    max: usize,
}

#[derive(Debug)]
struct Shared {
    room: Arc<Room>,
    state: Mutex<State>,
    /// Wakes the source when a reader took something or left.
    taken: Notify,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Bytes>,
    /// Chunks that are gone from the front.
    gone: usize,
    bytes: usize,
    /// Not everything is kept any more.
    overflowed: bool,
    end: Option<End>,
    readers: Vec<Option<Place>>,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Whole,
    Broken,
}

#[derive(Debug, Default)]
struct Place {
    /// Counted from the first chunk there ever was.
    next: usize,
    waker: Option<Waker>,
    is_cut: bool,
}

impl Room {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max })
    }

    /// Bytes kept now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes room for `bytes`; false where that is more than there is.
    fn take(&self, bytes: usize) -> bool {
        self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= self.max
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let bytes = self.lock().bytes;
        self.room.give_back(bytes);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake_all(&mut self) {
        for place in self.readers.iter_mut().flatten() {
            if let Some(waker) = place.waker.take() {
                waker.wake();
            }
        }
    }

    /// Takes a chunk in.
    fn push(&mut self, chunk: Bytes, bytes_max: usize, room: &Room) {
        let has_room = room.take(chunk.len());
        self.bytes += chunk.len();
        self.chunks.push_back(chunk);
        self.overflowed |= self.bytes > bytes_max || !has_room;
    }

    /// Drops what every reader has got, once not everything is kept.
    fn drop_taken(&mut self, room: &Room) {
        let slowest =
            self.readers.iter().flatten().filter(|place| !place.is_cut).map(|place| place.next).min();
        let end = self.gone + self.chunks.len();
        while self.overflowed && self.gone < slowest.unwrap_or(end) {
            let dropped = self.chunks.pop_front().map_or(0, |chunk| chunk.len());
            self.bytes -= dropped;
            room.give_back(dropped);
            self.gone += 1;
        }
    }
}

impl Source {
    /// A source that keeps up to `bytes_max`, as long as there is room.
    pub(crate) fn new(bytes_max: usize, room: &Arc<Room>) -> Self {
        let shared = Shared { room: Arc::clone(room), state: Mutex::default(), taken: Notify::new() };
        Self { shared: Arc::new(shared), bytes_max }
    }

    pub(crate) fn spring(&self) -> Spring {
        Spring(Arc::clone(&self.shared))
    }

    /// Whether all of it is still here.
    pub(crate) fn keeps_all(&self) -> bool {
        !self.shared.lock().overflowed
    }

    /// Whether somebody reads.
    pub(crate) fn has_readers(&self) -> bool {
        self.shared.lock().readers.iter().flatten().any(|place| !place.is_cut)
    }

    /// Hands a chunk on; waits where the slowest reader is too far behind, and cuts it off after `patience`.
    ///
    /// # Cancel safety
    /// The chunk is handed on before anything is waited for.
    pub(crate) async fn pour(&self, chunk: Bytes, patience: Duration) {
        {
            let mut state = self.shared.lock();
            state.push(chunk, self.bytes_max, &self.shared.room);
            state.drop_taken(&self.shared.room);
            state.wake_all();
        }
        while self.is_too_far_ahead() {
            if timeout(patience, self.shared.taken.notified()).await.is_err() {
                self.cut_the_slowest();
            }
        }
    }

    fn is_too_far_ahead(&self) -> bool {
        let mut state = self.shared.lock();
        state.drop_taken(&self.shared.room);
        state.overflowed
            && state.bytes > WINDOW_BYTES
            && state.readers.iter().flatten().any(|place| !place.is_cut)
    }

    fn cut_the_slowest(&self) {
        let mut state = self.shared.lock();
        let slowest = state.gone;
        for place in state.readers.iter_mut().flatten().filter(|place| place.next <= slowest) {
            place.is_cut = true;
            if let Some(waker) = place.waker.take() {
                waker.wake();
            }
        }
        state.drop_taken(&self.shared.room);
    }

    /// Takes the last chunk; nobody gets it before [`Source::finish`].
    pub(crate) fn hold(&self, chunk: Bytes) {
        let mut state = self.shared.lock();
        state.push(chunk, self.bytes_max, &self.shared.room);
    }

    /// Everything came.
    pub(crate) fn finish(self) {
        let mut state = self.shared.lock();
        state.end = Some(End::Whole);
        state.wake_all();
    }

    /// What came so far in one piece, where all of it was kept.
    pub(crate) fn whole(&self) -> Option<Bytes> {
        let state = self.shared.lock();
        if state.overflowed {
            return None;
        }
        // A copy, because what came may hold on to buffers much larger than itself.
        let mut whole = BytesMut::with_capacity(state.bytes);
        for chunk in &state.chunks {
            whole.extend_from_slice(chunk);
        }
        Some(whole.freeze())
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.end.get_or_insert(End::Broken);
        state.wake_all();
    }
}

impl Spring {
    /// A reader of everything from the first byte; none where that is gone already. `length` is the answer's, where it
    /// says so.
    pub(crate) fn reader(&self, length: Option<u64>) -> Option<Reader> {
        let mut state = self.0.lock();
        if state.overflowed {
            return None;
        }
        let number = state.readers.iter().position(Option::is_none).unwrap_or(state.readers.len());
        match state.readers.get_mut(number) {
            Some(free) => *free = Some(Place::default()),
            None => state.readers.push(Some(Place::default())),
        }
        drop(state);
        Some(Reader { shared: Arc::clone(&self.0), number, length })
    }
}

impl Body for Reader {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        let mut state = self.shared.lock();
        let State { chunks, gone, end, readers, .. } = &mut *state;
        let Some(place) = readers.get_mut(self.number).and_then(Option::as_mut) else {
            return Poll::Ready(None);
        };
        if place.is_cut {
            return Poll::Ready(Some(Err(CutShort::TooSlow)));
        }
        if let Some(chunk) = chunks.get(place.next - *gone) {
            place.next += 1;
            let frame = Frame::data(chunk.clone());
            drop(state);
            self.shared.taken.notify_one();
            return Poll::Ready(Some(Ok(frame)));
        }
        match end {
            Some(End::Whole) => Poll::Ready(None),
            Some(End::Broken) => Poll::Ready(Some(Err(CutShort::Unfinished))),
            None => {
                place.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.shared.lock();
        let place = state.readers.get(self.number).and_then(Option::as_ref);
        let has_all =
            place.is_none_or(|place| place.next >= state.gone + state.chunks.len() && !place.is_cut);
        has_all && matches!(state.end, Some(End::Whole))
    }

    fn size_hint(&self) -> SizeHint {
        // Exact only for as long as nothing was taken, which is when it is asked for.
        self.length.map(SizeHint::with_exact).unwrap_or_default()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(place) = state.readers.get_mut(self.number) {
            *place = None;
        }
        state.drop_taken(&self.shared.room);
        drop(state);
        self.shared.taken.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    async fn all(reader: Reader) -> Result<Bytes, CutShort> {
        reader.collect().await.map(http_body_util::Collected::to_bytes)
    }

    #[tokio::test]
    async fn readers_get_everything_whenever_they_come() {
        let source = Source::new(100, &Room::new(usize::MAX));
        let spring = source.spring();
        let early = spring.reader(None).unwrap();
        source.pour(Bytes::from_static(b"one "), PATIENCE).await;
        let mut middle = spring.reader(None).unwrap();
        let first = middle.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "one ", "a reader gets bytes as they come");
        source.pour(Bytes::from_static(b"two"), PATIENCE).await;
        assert_eq!(source.whole().unwrap(), "one two");
        source.finish();
        assert_eq!(all(early).await.unwrap(), "one two");
        assert_eq!(all(middle).await.unwrap(), "two");
        assert_eq!(all(spring.reader(None).unwrap()).await.unwrap(), "one two");
    }

    #[tokio::test]
    async fn a_source_that_breaks_off_never_ends_well() {
        let source = Source::new(100, &Room::new(usize::MAX));
        let reader = source.spring().reader(None).unwrap();
        source.pour(Bytes::from_static(b"half"), PATIENCE).await;
        drop(source);
        assert!(matches!(all(reader).await, Err(CutShort::Unfinished)));
    }

    #[tokio::test(start_paused = true)]
    async fn past_the_limit_the_source_waits_for_the_slowest_and_then_goes_on_without_it() {
        let chunk = Bytes::from(vec![7; 200 * 1024]);
        let source = Source::new(300 * 1024, &Room::new(usize::MAX));
        let spring = source.spring();
        let (mut quick, slow) = (spring.reader(None).unwrap(), spring.reader(None).unwrap());
        let pouring = async {
            for _ in 0..10 {
                source.pour(chunk.clone(), PATIENCE).await;
            }
            assert!(spring.reader(None).is_none() && !source.keeps_all());
            assert!(source.shared.lock().bytes <= WINDOW_BYTES + chunk.len());
            let whole = source.whole();
            source.finish();
            whole
        };
        let reading = async {
            let mut bytes = 0;
            while let Some(frame) = quick.frame().await {
                bytes += frame.unwrap().into_data().unwrap().len();
            }
            bytes
        };
        let (whole, bytes) = tokio::join!(pouring, reading);
        assert_eq!((whole, bytes), (None, 2_000 * 1024));
        assert!(matches!(all(slow).await, Err(CutShort::TooSlow)));
    }

    #[tokio::test]
    async fn a_reader_that_leaves_holds_nobody_up() {
        let source = Source::new(10, &Room::new(usize::MAX));
        let spring = source.spring();
        let (gone, stays) = (spring.reader(None).unwrap(), spring.reader(None).unwrap());
        let reading = tokio::spawn(all(stays));
        drop(gone);
        for _ in 0..10 {
            source.pour(Bytes::from(vec![1; 100 * 1024]), PATIENCE).await;
        }
        assert_eq!(source.whole(), None);
        source.finish();
        assert_eq!(reading.await.unwrap().unwrap().len(), 1_000 * 1024);
    }

    #[tokio::test]
    async fn all_sources_together_keep_no_more_than_there_is_room_for() {
        let room = Room::new(10);
        let (one, two) = (Source::new(100, &room), Source::new(100, &room));
        one.pour(Bytes::from_static(b"1234567"), PATIENCE).await;
        two.pour(Bytes::from_static(b"1234567"), PATIENCE).await;
        assert!(one.keeps_all() && !two.keeps_all());
        assert_eq!(room.used(), 7, "nobody reads the second one, so nothing of it is kept");
        one.finish();
        drop(two);
        assert_eq!(room.used(), 0);
    }
}
