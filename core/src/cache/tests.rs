//! Tests of what the cache keeps, for how long, and what it lets in.

use super::{entry::AGAIN, *};

const SECOND: Duration = Duration::from_secs(1);

#[cfg_attr(
    not(feature = "postgres"),
    expect(clippy::needless_update, reason = "the field that is left out is there with the feature alone")
)]
fn cache() -> ReadCache {
    ReadCache::new(CacheConfig { bytes_max: 10_000, stale_max: SECOND * 60, ..CacheConfig::default() })
}

fn a() -> CacheKey {
    CacheKey::shared("a")
}

fn text(cached: Option<Cached>) -> Option<Bytes> {
    cached.and_then(|cached| cached.value().cloned())
}

fn value(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[test]
fn age_counts_from_the_question_not_from_the_answer() {
    let (cache, asked) = (cache(), Instant::now());
    cache.fill(asked, asked + SECOND).put(&a(), value("1"));
    assert_eq!(cache.peek(&a(), asked + SECOND * 3).unwrap().age(), SECOND * 3);
}

#[test]
fn expired_answers_are_not_served() {
    let (cache, now) = (cache(), Instant::now());
    cache.fill(now, now).put(&a(), value("1"));
    assert!(cache.peek(&a(), now + SECOND * 60).is_some());
    assert!(cache.peek(&a(), now + SECOND * 61).is_none());
    assert!(cache.is_warm(now + SECOND * 60) && !cache.is_warm(now + SECOND * 61));
}

#[test]
fn a_slow_old_answer_does_not_replace_a_newer_one() {
    let (cache, now) = (cache(), Instant::now());
    cache.fill(now + SECOND, now + SECOND).put(&a(), value("new"));
    cache.fill(now, now + SECOND * 2).put(&a(), value("old"));
    assert_eq!(text(cache.peek(&a(), now + SECOND * 2)).unwrap(), "new");
}

/// A read was sent while a write of the same key was under way, saw the row as it was before, and came back later
/// than the write: its answer must not undo the write in the cache.
#[test]
fn a_read_sent_before_a_write_was_answered_does_not_undo_it() {
    let (cache, now) = (cache(), Instant::now());
    cache.fill_by_write(now, now + SECOND * 2).put(&a(), value("written"));
    cache.fill(now + SECOND, now + SECOND * 3).put(&a(), value("before"));
    assert_eq!(text(cache.peek(&a(), now + SECOND * 3)).unwrap(), "written");
    cache.fill(now + SECOND * 2, now + SECOND * 3).put(&a(), value("after"));
    assert_eq!(text(cache.peek(&a(), now + SECOND * 3)).unwrap(), "after");
}

/// Between the look at what was known and the storing of a read's older answer an own write came, and was undone.
#[test]
fn a_write_that_comes_while_an_older_answer_is_being_stored_is_not_undone() {
    let (cache, now) = (cache(), Instant::now());
    cache.fill(now, now + SECOND * 2).put_tagged(&a(), value("before"), || {
        cache.fill_by_write(now + SECOND, now + SECOND * 2).put(&a(), value("written"));
        Tags::none()
    });
    assert_eq!(text(cache.peek(&a(), now + SECOND * 3)).unwrap(), "written");
}

#[cfg(feature = "postgres")]
#[test]
fn what_is_gone_goes_before_what_a_standby_may_still_have() {
    let (cache, now) = (cache(), Instant::now());
    let is_gone = |lag| cache.is_gone_before(&a(), 1, now + SECOND * 5, SECOND * lag);
    assert!(!is_gone(9), "nothing is known");
    cache.fill(now, now).put(&a(), value("here"));
    assert!(!is_gone(9), "there is a copy to show");
    cache.fill_by_write(now, now + SECOND).remove(&a());
    assert!(!is_gone(4) && is_gone(5) && is_gone(9));
    cache.fill(now + SECOND * 2, now + SECOND * 2).put_nothing(&a(), Tags::none);
    assert!(!is_gone(2) && is_gone(4));
}

/// A list was asked for, one of its items was deleted, and then the list's answer came and brought the item back.
#[test]
fn a_read_sent_before_a_removal_was_answered_does_not_undo_it() {
    let (cache, now) = (cache(), Instant::now());
    cache.fill(now, now).put(&a(), value("here"));
    cache.fill_by_write(now, now + SECOND * 2).remove(&a());
    cache.fill(now + SECOND, now + SECOND * 3).put(&a(), value("before"));
    assert!(cache.peek(&a(), now + SECOND * 3).is_none());
    cache.fill(now + SECOND * 3, now + SECOND * 3).put(&a(), value("anew"));
    assert!(cache.peek(&a(), now + SECOND * 3).is_some());
}

/// A busy key was written anew with every answer, which was most of what a read cost.
#[test]
fn the_same_answer_a_moment_later_changes_nothing_but_a_later_one_makes_it_younger() {
    let (cache, now) = (cache(), Instant::now());
    cache.fill(now, now).put(&a(), value("1"));
    cache.fill(now + AGAIN / 2, now + AGAIN).put(&a(), value("1"));
    assert_eq!(cache.peek(&a(), now + SECOND).unwrap().age(), SECOND);
    cache.fill(now + AGAIN, now + AGAIN).put(&a(), value("1"));
    assert_eq!(cache.peek(&a(), now + SECOND).unwrap().age(), SECOND - AGAIN);
    cache.fill(now + AGAIN + AGAIN / 2, now + SECOND).put(&a(), value("2"));
    assert_eq!(text(cache.peek(&a(), now + SECOND)).unwrap(), "2");
}

/// An answer that is only made younger, in its place, must keep out what a new one would have kept out.
#[test]
fn what_was_said_again_keeps_out_answers_to_earlier_questions() {
    let (cache, now) = (cache(), Instant::now());
    cache.fill(now, now).put(&a(), value("1"));
    cache.fill(now + AGAIN * 2, now + AGAIN * 2).put(&a(), value("1"));
    cache.fill(now + AGAIN, now + AGAIN * 3).put(&a(), value("2"));
    let cached = cache.peek(&a(), now + AGAIN * 3).unwrap();
    assert_eq!((text(Some(cached.clone())).unwrap(), cached.age()), (value("1"), AGAIN));
}

/// A list fills in its items without tags; the item's own query says the same and knows them.
#[cfg(feature = "postgres")]
#[test]
fn the_tags_that_come_with_the_same_answer_are_kept() {
    let (cache, now) = (cache(), Instant::now());
    cache.fill(now, now).put(&a(), value("1"));
    cache.fill(now + AGAIN, now + AGAIN).put_tagged(&a(), value("1"), || Tags::of(["t"]));
    let (_, entry) = cache.kept().next().unwrap();
    assert_eq!((&entry.known, &entry.tags), (&Known::Answer(value("1")), &Tags::of(["t"])));
}

/// Replay found that a write had been applied long ago and put its document into the cache as if it were true now.
#[test]
fn news_of_unknown_age_only_forgets() {
    let (cache, now) = (cache(), Instant::now());
    cache.fill(now, now).put(&a(), value("newer"));
    cache.forget_by_write(now, now + SECOND).put(&a(), value("older"));
    assert!(cache.peek(&a(), now + SECOND).is_none());
}

#[test]
fn weight_stays_within_its_bound() {
    let (cache, now) = (cache(), Instant::now());
    for key in 0..1_000 {
        cache.fill(now, now).put(&CacheKey::shared(format_args!("key {key}")), Bytes::from(vec![b'x'; 500]));
    }
    assert!(cache.size().1 <= 10_000);
}

#[test]
fn what_was_asked_before_the_doubt_only_helps_in_an_outage_and_what_was_asked_after_it_is_fresh() {
    let policy = ReadPolicy { fresh_for: SECOND * 10, ..ReadPolicy::default() };
    let (cache, now) = (cache(), Instant::now());
    let usable = |at| cache.peek(&a(), at).map(|cached| cached.usable(&policy));
    cache.fill(now, now).put(&a(), value("1"));
    assert_eq!(usable(now + SECOND), Some(Usable::Fresh));
    cache.doubt_before(now + SECOND);
    assert_eq!(usable(now + SECOND), Some(Usable::IfError));
    cache.doubt_before(now);
    assert_eq!(usable(now + SECOND), Some(Usable::IfError), "an older doubt takes nothing back");
    cache.fill(now + SECOND, now + SECOND).put(&a(), value("1"));
    assert_eq!(usable(now + SECOND), Some(Usable::Fresh));
}

#[cfg(feature = "postgres")]
#[test]
fn what_comes_back_after_a_restart_has_its_age_and_is_never_fresh() {
    let (before, now) = (cache(), Instant::now());
    before.fill(now, now).put_tagged(&a(), value("1"), || Tags::of(["t"]));
    before.fill(now, now).put_nothing(&CacheKey::shared("b"), Tags::none);
    before.fill(now, now).remove(&CacheKey::shared("c"));
    let (after, later) = (cache(), now + SECOND * 1_000);
    for (key, entry) in before.kept() {
        after.restore(key, entry.known.clone(), entry.tags.clone(), SECOND * 50, later);
    }
    assert_eq!(after.size().0, 2);
    let policy = ReadPolicy { fresh_for: SECOND * 60, negative_for: SECOND * 60, ..ReadPolicy::default() };
    for key in [a(), CacheKey::shared("b")] {
        let cached = after.peek(&key, later).unwrap();
        assert_eq!((cached.age(), cached.usable(&policy)), (SECOND * 50, Usable::IfError));
    }
    assert!(after.is_warm(later + SECOND * 10) && !after.is_warm(later + SECOND * 11));
    after.restore(a(), Known::Answer(value("0")), Tags::none(), SECOND, later);
    assert_eq!(text(after.peek(&a(), later)).unwrap(), "1", "what is known stays");
}

#[cfg(feature = "postgres")]
#[test]
fn a_write_without_tags_leaves_those_that_the_answer_had() {
    let (cache, now) = (cache(), Instant::now());
    cache.fill(now, now).put_tagged(&a(), value("1"), || Tags::of(["t"]));
    cache.fill_by_write(now, now + SECOND).put(&a(), value("2"));
    let (_, entry) = cache.kept().next().unwrap();
    assert_eq!((&entry.known, &entry.tags), (&Known::Answer(value("2")), &Tags::of(["t"])));
}

/// What one key shows to who asks again and again, whoever answers: the primary, standbys that are behind by less than
/// they are thought to be, or the cache, with own writes and those of others in between.
#[cfg(feature = "postgres")]
#[test]
fn a_later_read_never_shows_an_older_state() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..300 {
        let (cache, start) = (ReadCache::new(CacheConfig::default()), Instant::now());
        let at = |milliseconds: u64| start + Duration::from_millis(milliseconds);
        // When each version was committed, and how far each standby has come.
        let (mut versions, mut replayed) = (vec![0_u64], [0_u64; 2]);
        let version_at = |versions: &[u64], time| versions.partition_point(|commit| *commit <= time);
        let (mut now, mut shown) = (100_000_u64, 0_usize);
        for step in 0..80 {
            let (asked, seen) = (now + random.u64(0..700), random.u64(0..300));
            now = asked + seen + random.u64(0..300);
            if random.u8(0..3) == 0 {
                versions.push(asked.max(*versions.last().unwrap()));
            }
            let put = |fill: CacheFill<'_>, version: usize| {
                fill.put(&a(), Bytes::from(version.to_string()));
                version
            };
            let kept = || cache.peek(&a(), at(asked));
            let read = |cached: Cached| {
                std::str::from_utf8(cached.value().unwrap()).unwrap().parse::<usize>().unwrap()
            };
            let what = random.u8(0..6);
            let shows = match what {
                0 => put(cache.fill(at(asked), at(now)), version_at(&versions, asked + seen)),
                1 => {
                    versions.push((asked + seen).max(*versions.last().unwrap()));
                    put(cache.fill_by_write(at(asked), at(now)), versions.len())
                }
                2 => kept().map_or(shown, read),
                _ => {
                    let host = random.usize(0..2);
                    let (lag, behind) = (random.u64(300..4_000), random.u64(0..300));
                    let replay = &mut replayed[host];
                    *replay = (*replay).max(asked.saturating_sub(lag) + behind.min(lag));
                    let lag = Duration::from_millis(lag);
                    match kept().filter(|kept| kept.goes_before(host, at(asked), lag)) {
                        Some(kept) => read(kept),
                        None => put(
                            cache.fill(at(asked) - lag, at(now)).by_standby(Some(host)),
                            version_at(&versions, *replay),
                        ),
                    }
                }
            };
            assert!(
                shows >= shown,
                "{shown} then {shows} by {what}: round {round}, step {step}, seed {seed}"
            );
            shown = shows;
        }
    }
}

/// After ten minutes of an outage replay put 300,000 entries into the cache that nobody had asked for; they pushed out
/// what readers had, and the process grew by more than the journal takes.
#[cfg(feature = "postgres")]
#[test]
fn what_replay_applies_pushes_out_nothing_that_was_read() {
    let (cache, now) =
        (ReadCache::new(CacheConfig { bytes_max: 40_000, ..CacheConfig::default() }), Instant::now());
    let read: Vec<CacheKey> = (0..40).map(|number| CacheKey::shared(format_args!("read {number}"))).collect();
    for key in &read {
        cache.fill(now, now).put(key, value("1"));
    }
    let before = cache.size();
    for number in 0..1_000 {
        let replayed = cache.fill_by_write(now, now + SECOND).unasked();
        replayed.put(&CacheKey::shared(format_args!("replayed {number}")), value("1"));
    }
    assert_eq!(cache.size(), before);
    cache.fill_by_write(now, now + SECOND).unasked().put(&read[7], value("2"));
    assert_eq!(text(cache.peek(&read[7], now + SECOND)).unwrap(), "2", "what is kept is kept up to date");
}

#[cfg(feature = "postgres")]
#[test]
fn what_replay_applies_is_kept_while_there_is_room_to_spare() {
    let (cache, now) = (cache(), Instant::now());
    cache.fill_by_write(now, now + SECOND).unasked().put(&a(), value("1"));
    assert_eq!(text(cache.peek(&a(), now + SECOND)).unwrap(), "1");
}

/// A todo was asked for while replay changed it, of which nothing was kept; the answer from before came later and would
/// have been the copy for the next outage.
#[cfg(feature = "postgres")]
#[test]
fn an_answer_from_before_a_replayed_write_is_kept_out_also_where_nothing_is_kept() {
    let (cache, now) =
        (ReadCache::new(CacheConfig { bytes_max: 10_000, ..CacheConfig::default() }), Instant::now());
    for number in 0..40 {
        cache.fill(now, now).put(&CacheKey::shared(number), value("1"));
    }
    cache.fill_by_write(now + SECOND, now + SECOND * 2).unasked().put(&a(), value("2"));
    cache.fill(now + SECOND, now + SECOND * 3).put(&a(), value("1"));
    assert!(cache.peek(&a(), now + SECOND * 3).is_none());
    cache.fill(now + SECOND * 2, now + SECOND * 3).put(&a(), value("2"));
    assert_eq!(text(cache.peek(&a(), now + SECOND * 3)).unwrap(), "2");
}

/// The answer of one row was a part of the message with a thousand, and kept all of it in memory.
#[test]
fn what_is_kept_is_in_memory_of_its_own() {
    let (cache, now) = (cache(), Instant::now());
    let message = Bytes::from(vec![b'x'; 100_000]);
    cache.fill(now, now).put(&a(), message.slice(..10));
    assert!(message.is_unique(), "nobody else holds it");
}

/// The last answer before a stop was as long as the one before it and came within a tenth of a second: the snapshot was not
/// written again, and showed the older one after the restart.
#[cfg(feature = "postgres")]
#[test]
fn another_answer_of_the_same_length_at_the_same_moment_is_another_revision() {
    let (cache, now) = (cache(), Instant::now());
    cache.fill(now, now).put(&a(), value("1"));
    let before = cache.revision();
    cache.fill(now, now).put(&a(), value("1"));
    assert_eq!(cache.revision(), before, "nothing new");
    cache.fill_by_write(now, now).put(&a(), value("2"));
    assert_ne!(cache.revision(), before);
}
