//! The body of a request over several attempts: the same bytes again, or honestly not.

use std::collections::VecDeque;

use super::*;

/// A body whose frames are there at once; `None` stands for a client that breaks off.
#[derive(Debug)]
struct Source(VecDeque<Option<Frame<Bytes>>>);

impl Body for Source {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        Poll::Ready(self.0.pop_front().map(|frame| frame.ok_or(UploadError::ClientBroke)))
    }
}

fn frames(parts: &[&str]) -> Vec<Option<Frame<Bytes>>> {
    parts.iter().map(|part| Some(Frame::data(Bytes::copy_from_slice(part.as_bytes())))).collect()
}

fn upload(frames: Vec<Option<Frame<Bytes>>>, keep: bool, bytes_max: u64) -> Arc<Mutex<Shared<Source>>> {
    let keep = keep.then(|| Arc::new(KeptBytes::new(usize::MAX)));
    Arc::new(Mutex::new(Shared::new(Source(frames.into()), keep, bytes_max, Instant::now())))
}

fn attempt<B>(shared: &Arc<Mutex<Shared<B>>>) -> Reader<B> {
    let mut locked = lock(shared);
    locked.attempt += 1;
    Reader { shared: Arc::clone(shared), attempt: locked.attempt, next: 0, trailers_sent: false }
}

/// The next piece an attempt sends: its text, or what it is in angle brackets.
fn next(reader: &mut Reader<Source>) -> String {
    let mut context = Context::from_waker(std::task::Waker::noop());
    match Pin::new(reader).poll_frame(&mut context) {
        Poll::Pending => "<pending>".to_owned(),
        Poll::Ready(None) => "<end>".to_owned(),
        Poll::Ready(Some(Err(error))) => format!("<{error}>"),
        Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
            Ok(data) => String::from_utf8(data.to_vec()).unwrap(),
            Err(_) => "<trailers>".to_owned(),
        },
    }
}

#[test]
fn a_second_attempt_sends_the_same_and_goes_on_where_the_first_stopped() {
    let shared = upload(frames(&["one", "two", "three"]), true, 100);
    let mut first = attempt(&shared);
    assert_eq!((next(&mut first), next(&mut first)), ("one".into(), "two".into()));
    assert!(lock(&shared).is_replayable());
    let mut second = attempt(&shared);
    let sent: Vec<String> = (0..4).map(|_| next(&mut second)).collect();
    assert_eq!(sent, ["one", "two", "three", "<end>"]);
    assert_eq!(next(&mut first), "<another attempt took over>");
}

#[test]
fn trailers_are_sent_once_by_each_attempt() {
    let mut with_trailers = frames(&["one"]);
    with_trailers.push(Some(Frame::trailers(HeaderMap::new())));
    let shared = upload(with_trailers, true, 100);
    for _ in 0..2 {
        let mut reader = attempt(&shared);
        let sent: Vec<String> = (0..3).map(|_| next(&mut reader)).collect();
        assert_eq!(sent, ["one", "<trailers>", "<end>"]);
        assert!(reader.is_end_stream());
    }
}

#[test]
fn a_body_past_the_limit_streams_on_but_cannot_be_sent_again() {
    let large = "a".repeat(REPLAY_BYTES_MAX);
    let shared = upload(frames(&[&large, "b", "c"]), true, u64::MAX);
    let mut first = attempt(&shared);
    assert_eq!(next(&mut first).len(), REPLAY_BYTES_MAX);
    assert!(lock(&shared).is_replayable());
    let rest: Vec<String> = (0..3).map(|_| next(&mut first)).collect();
    assert_eq!(rest, ["b", "c", "<end>"]);
    assert!(!lock(&shared).is_replayable());
    assert!(lock(&shared).kept.is_empty(), "what cannot be used is not kept");
}

#[test]
fn many_small_pieces_are_not_all_kept() {
    let shared = upload(frames(&["a"; REPLAY_FRAMES_MAX + 1]), true, u64::MAX);
    let mut first = attempt(&shared);
    while next(&mut first) != "<end>" {}
    assert!(!lock(&shared).is_replayable());
}

#[test]
fn what_must_not_be_repeated_can_be_until_its_first_byte_was_taken() {
    let shared = upload(frames(&["one"]), false, 100);
    assert!(lock(&shared).is_replayable());
    assert_eq!(next(&mut attempt(&shared)), "one");
    assert!(!lock(&shared).is_replayable());
}

#[test]
fn the_limit_counts_what_came_and_ends_it() {
    let shared = upload(frames(&["12345", "6"]), true, 5);
    let mut reader = attempt(&shared);
    assert_eq!(next(&mut reader), "12345");
    assert_eq!(next(&mut reader), "<more than the limit>");
    assert_eq!(lock(&shared).failure, Some(UploadError::TooLarge));
    assert!(!lock(&shared).is_replayable());
}

#[test]
fn a_client_that_breaks_off_is_remembered() {
    let mut breaking_off = frames(&["one"]);
    breaking_off.push(None);
    let shared = upload(breaking_off, true, 100);
    let mut reader = attempt(&shared);
    assert_eq!(next(&mut reader), "one");
    assert_eq!(next(&mut reader), "<the client broke off>");
    assert_eq!(lock(&shared).failure, Some(UploadError::ClientBroke));
}

#[test]
fn all_requests_together_keep_only_so_much_and_give_it_back() {
    let room = Arc::new(KeptBytes::new(5));
    let upload = |text: &str| {
        let source = Source(frames(&[text]).into());
        Arc::new(Mutex::new(Shared::new(source, Some(Arc::clone(&room)), 100, Instant::now())))
    };
    let (one, two) = (upload("1234"), upload("5678"));
    assert_eq!((next(&mut attempt(&one)), next(&mut attempt(&two))), ("1234".into(), "5678".into()));
    assert!(lock(&one).is_replayable() && !lock(&two).is_replayable());
    drop(one);
    let three = upload("12345");
    assert_eq!(next(&mut attempt(&three)), "12345");
    assert!(lock(&three).is_replayable());
    drop((two, three));
    assert_eq!(room.now.load(Ordering::Relaxed), 0);
}
