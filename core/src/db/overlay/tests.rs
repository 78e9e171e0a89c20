//! Tests of what is remembered of accepted writes, and of how it is found.

use bytes::Bytes;

use super::*;
use crate::db::Refusal;

const SECOND: Duration = Duration::from_secs(1);

fn applied() -> Settled {
    Settled::Applied(Bytes::new())
}

fn tags(name: &str) -> Tags {
    Tags::of([name])
}

impl Overlays {
    fn noted(&self, key: &'static str, tags: Tags, since: Instant) {
        self.note(key, Arc::new(key), tags, since, None);
    }

    fn keys(&self, tags: &Tags, as_of: Instant) -> Vec<String> {
        self.concerning(tags, as_of).iter().map(|write| write.key().to_owned()).collect()
    }
}

#[test]
fn writes_are_found_by_their_tags_in_the_order_in_which_they_were_accepted() {
    let (overlays, now) = (Overlays::default(), Instant::now());
    assert!(overlays.concerning(&tags("a"), now).is_empty());
    overlays.noted("1", Tags::of(["a", "all"]), now);
    overlays.noted("2", Tags::of(["b", "all"]), now);
    overlays.noted("3", tags("a"), now);
    overlays.noted("4", Tags::everything(), now);
    assert_eq!(overlays.keys(&tags("a"), now), ["1", "3", "4"]);
    assert_eq!(overlays.keys(&tags("all"), now), ["1", "2", "4"]);
    assert_eq!(overlays.keys(&Tags::of(["a", "all"]), now), ["1", "2", "3", "4"], "none of them twice");
    assert_eq!(overlays.keys(&Tags::everything(), now), ["1", "2", "3", "4"]);
    assert!(overlays.keys(&Tags::none(), now).is_empty());
    let pending = overlays.concerning(&tags("b"), now);
    assert_eq!(pending.iter().next().unwrap().promise::<&str>(), Some(&"2"));
    assert_eq!(pending.iter().next().unwrap().promise::<u8>(), None);
}

/// A list was asked for, a journaled write was then applied, and the answer, which was from before, took the item away
/// again that its author had seen.
#[test]
fn an_answer_from_before_a_write_was_settled_still_gets_it_and_a_later_one_does_not() {
    let (overlays, asked) = (Overlays::default(), Instant::now());
    overlays.noted("1", tags("a"), asked);
    overlays.settle("1", &applied(), asked + SECOND);
    let before = overlays.concerning(&tags("a"), asked);
    assert!(before.last().unwrap().is_settled());
    assert_eq!(overlays.keys(&tags("a"), asked + SECOND), Vec::<String>::new());
    overlays.noted("2", tags("a"), asked + SECOND);
    assert_eq!(overlays.keys(&tags("a"), asked), ["1", "2"]);
    assert_eq!(overlays.keys(&tags("a"), asked + SECOND), ["2"]);
}

#[test]
fn what_never_became_true_is_forgotten_at_once() {
    let (overlays, now) = (Overlays::default(), Instant::now());
    for (key, end) in [
        ("1", Settled::Refused(Refusal::new("no"))),
        ("2", Settled::Superseded(Bytes::from_static(b"theirs"))),
    ] {
        overlays.noted(key, tags("a"), now);
        overlays.settle(key, &end, now + SECOND);
        assert!(overlays.keys(&tags("a"), now).is_empty(), "{key}");
    }
}

/// The first of two waiting writes to one thing was applied while the second still waited, and readers saw the second one's
/// value vanish for a moment.
#[test]
fn settling_an_earlier_write_leaves_the_later_one_in_sight() {
    let (overlays, now) = (Overlays::default(), Instant::now());
    overlays.noted("1", tags("a"), now);
    overlays.noted("2", tags("a"), now);
    overlays.settle("1", &applied(), now);
    assert_eq!(overlays.keys(&tags("a"), now + SECOND), ["2"]);
    assert_eq!(overlays.find("2").unwrap().promise::<&str>(), Some(&"2"));
    assert!(overlays.find("1").is_none());
}

/// Readers that are still looking must not see the list change under them.
#[test]
fn what_was_handed_out_stays_as_it_was() {
    let (overlays, now) = (Overlays::default(), Instant::now());
    overlays.noted("1", tags("a"), now);
    let handed_out = overlays.concerning(&tags("a"), now);
    overlays.noted("2", tags("a"), now);
    overlays.settle("1", &applied(), now);
    assert_eq!(handed_out.iter().count(), 1);
}

/// Replay can be quicker than the note of what it replays; the note then stayed, and readers saw it for ever.
#[test]
fn an_empty_journal_ends_what_was_noted_before() {
    let (overlays, now) = (Overlays::default(), Instant::now());
    overlays.noted("1", tags("a"), now);
    overlays.noted("2", tags("a"), now + SECOND);
    overlays.journal_was_empty(now + SECOND);
    assert_eq!(overlays.keys(&tags("a"), now + SECOND), ["2"]);
}

#[test]
fn waiting_and_settled_writes_are_bounded_and_leave_nothing_behind() {
    let (overlays, now) = (Overlays::default(), Instant::now());
    for number in 0..=WRITES_MAX {
        overlays.note(&number.to_string(), Arc::new(()), Tags::of(["a", &number.to_string()]), now, None);
    }
    assert_eq!(overlays.concerning(&tags("a"), now).iter().count(), WRITES_MAX);
    for number in 0..=WRITES_MAX {
        overlays.settle(&number.to_string(), &applied(), now);
    }
    overlays.note("one more", Arc::new(()), tags("b"), now, None);
    overlays.settle("one more", &applied(), now);
    let notes = overlays.notes();
    assert_eq!((notes.settled.len(), notes.by_key.len()), (WRITES_MAX, 0));
    // The oldest one's own place is gone.
    assert_eq!(notes.by_tag.len(), WRITES_MAX - 1 + 2);
}
