//! What every [`Store`] must do, tried on both that there are: the journal, over a disk in memory, and the one that is
//! nothing but memory. Whatever only one of them can do is not tried here.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::sleep;

use super::MemoryStore;
use crate::{
    journal::{
        AppendError, Aside, Entry, Journal, JournalConfig, JournalError, JournalHealth, NewEntry, Store,
        WhenTooOld,
        memory::{Fault, MemoryDisk},
    },
    testkit::TestJournal,
};

/// A store, and how to break it.
struct Bench {
    name: &'static str,
    store: Arc<dyn Store>,
    fail_next_append: Box<dyn Fn()>,
    set_full: Box<dyn Fn(bool)>,
    _writer: Option<TestJournal>,
}

fn on_disk(config: JournalConfig) -> Bench {
    let disk = MemoryDisk::default();
    let (journal, writer, _) = Journal::open_on(config, Arc::new(disk.clone())).unwrap();
    let store = Arc::new(journal.clone());
    let failing = disk.clone();
    Bench {
        name: "journal",
        store,
        fail_next_append: Box::new(move || {
            failing.set_faults(&[Fault::SyncFails { nth: failing.syncs() }]);
        }),
        set_full: Box::new(move |is_full| {
            let full = [Fault::Room { bytes: 0 }];
            disk.set_faults(if is_full { &full } else { &[] });
        }),
        _writer: Some(TestJournal::with_writer(journal, writer)),
    }
}

fn in_memory(config: JournalConfig) -> Bench {
    let store = MemoryStore::new(config);
    let (failing, filled) = (store.clone(), store.clone());
    Bench {
        name: "memory",
        store: Arc::new(store),
        fail_next_append: Box::new(move || failing.fail_next_append(false)),
        set_full: Box::new(move |is_full| filled.set_full(is_full)),
        _writer: None,
    }
}

fn both(change: impl Fn(&mut JournalConfig)) -> [Bench; 2] {
    let mut config = JournalConfig::new("/nowhere/store");
    change(&mut config);
    [on_disk(config.clone()), in_memory(config)]
}

fn of(key: &str, ordering_key: &str) -> NewEntry {
    NewEntry {
        key: key.to_owned(),
        kind: "todo.create".to_owned(),
        fingerprint: [1; 32],
        accepted_at: SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_000_000_123_456),
        payload: format!("content of {key}").into(),
        version: 2,
        ordering_key: ordering_key.to_owned(),
        retried: false,
    }
}

/// Appends entries that are given as `key` or `key/ordering key`.
async fn appended(bench: &Bench, entries: &[&str]) {
    for (number, entry) in (1..).zip(entries) {
        let (key, ordering_key) = entry.split_once('/').unwrap_or((entry, entry));
        let done = bench.store.append(of(key, ordering_key)).await;
        assert_eq!(done.unwrap().sequence, number, "{}: {entry}", bench.name);
    }
}

fn all(bench: &Bench) -> Vec<Entry> {
    bench.store.batch(usize::MAX, u64::MAX, &|_| false).unwrap()
}

fn keys(entries: Vec<Entry>) -> Vec<String> {
    entries.into_iter().map(|entry| entry.key).collect()
}

fn kept(bench: &Bench) -> Vec<(u64, Aside)> {
    let aside = bench.store.aside(0, usize::MAX).unwrap();
    aside.into_iter().map(|aside| (aside.entry.sequence, aside.why)).collect()
}

fn rejected() -> Aside {
    Aside::Rejected { reason: "23505".to_owned() }
}

fn held() -> Aside {
    Aside::Held { reason: "unknown-command".to_owned() }
}

/// A store may need a moment to see that things are well again.
async fn becomes(bench: &Bench, health: JournalHealth) {
    for _ in 0..1_000 {
        if bench.store.health() == health {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("{}: {:?}, not {health:?}", bench.name, bench.store.health());
}

#[tokio::test(start_paused = true)]
async fn entries_come_in_the_order_of_appending_again_and_again_until_they_are_settled() {
    for bench in both(|_| {}) {
        let mut changed = bench.store.changed();
        appended(&bench, &["a", "b", "c"]).await;
        assert!(changed.has_changed().unwrap(), "{}: replay is woken", bench.name);
        assert_eq!(*changed.borrow_and_update(), 3, "{}", bench.name);
        for _ in 0..2 {
            assert_eq!(keys(all(&bench)), ["a", "b", "c"], "{}", bench.name);
        }
        let NewEntry { key, kind, fingerprint, accepted_at, payload, version, ordering_key, retried } =
            of("a", "a");
        let sequence = 1;
        let whole =
            Entry { sequence, key, kind, fingerprint, accepted_at, payload, version, ordering_key, retried };
        assert_eq!(all(&bench).first(), Some(&whole), "{}: nothing of it is lost", bench.name);
        let backlog = bench.store.backlog();
        assert_eq!((backlog.entries, backlog.oldest_accepted_at), (3, Some(whole.accepted_at)));
        bench.store.settled(&[2]);
        assert_eq!(keys(all(&bench)), ["a", "c"], "{}: in any order", bench.name);
        bench.store.settled(&[3, 1, 1, 99]);
        assert_eq!((all(&bench).len(), bench.store.backlog().entries), (0, 0), "{}", bench.name);
        assert_eq!(bench.store.append(of("d", "d")).await.unwrap().sequence, 4, "{}: none twice", bench.name);
    }
    let [one, other] = both(|_| {});
    assert_ne!(one.store.id(), other.store.id());
}

#[tokio::test(start_paused = true)]
async fn a_key_has_one_pending_entry_and_a_repetition_is_told_from_another_request() {
    for bench in both(|config| config.entries_max = 2) {
        appended(&bench, &["a", "b"]).await;
        let other = NewEntry { fingerprint: [2; 32], ..of("a", "a") };
        for (again, same_fingerprint) in [(of("a", "a"), true), (other, false)] {
            let refused = bench.store.append(again).await;
            let pending = AppendError::KeyPending { sequence: 1, same_fingerprint };
            assert_eq!(refused, Err(pending), "{}: also where there is no room", bench.name);
        }
        assert_eq!(bench.store.find("a").unwrap().sequence, 1, "{}", bench.name);
        assert!(bench.store.find("c").is_none());
        assert!(bench.store.is_waiting("a") && !bench.store.is_waiting("c"), "{}", bench.name);
        bench.store.settled(&[1]);
        assert!(bench.store.find("a").is_none() && !bench.store.is_waiting("a"), "{}", bench.name);
        assert_eq!(bench.store.append(of("a", "a")).await.unwrap().sequence, 3, "{}", bench.name);
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_keeps_to_its_limits_and_never_gives_a_later_entry_of_what_it_left_out() {
    for bench in both(|_| {}) {
        appended(&bench, &["a1/a", "b1/b", "a2/a", "c1/c", "b2/b"]).await;
        let batch = |entries_max, bytes_max, skip: &str| {
            keys(bench.store.batch(entries_max, bytes_max, &|key| skip.contains(key)).unwrap())
        };
        assert_eq!(batch(3, u64::MAX, "-"), ["a1", "b1", "a2"], "{}", bench.name);
        assert_eq!(batch(0, 0, "-"), ["a1"], "{}: at least one", bench.name);
        assert_eq!(batch(9, u64::MAX, "a"), ["b1", "c1", "b2"], "{}", bench.name);
        assert_eq!(batch(9, u64::MAX, "abc"), [""; 0], "{}", bench.name);
        let two = bench.store.backlog().bytes * 2 / 5 + 1;
        assert_eq!(batch(9, two, "-").len(), 2, "{}: as many as fit", bench.name);
        // What is asked may change its mind in between.
        let asked = std::cell::Cell::new(0);
        let first_no = |_: &str| asked.replace(asked.get() + 1) == 0;
        let given = keys(bench.store.batch(9, u64::MAX, &first_no).unwrap());
        assert_eq!(given, ["b1", "c1", "b2"], "{}", bench.name);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_blocks_nobody_and_is_history_once_it_is_given_back() {
    for bench in both(|_| {}) {
        appended(&bench, &["a1/a", "a2/a"]).await;
        bench.store.set_aside(&[1, 77], rejected()).await.unwrap();
        assert_eq!((keys(all(&bench)), kept(&bench)), (vec!["a2".to_owned()], vec![(1, rejected())]));
        let counts = bench.store.aside_counts();
        assert_eq!(
            (counts.rejected, counts.held, bench.store.backlog().entries),
            (1, 0, 1),
            "{}",
            bench.name
        );
        assert!(bench.store.find("a1").is_none(), "{}: it waits no more", bench.name);
        let again = NewEntry { retried: true, ..of("a1", "a") };
        assert_eq!(bench.store.append(again).await.unwrap().sequence, 3, "{}", bench.name);
        assert_eq!((kept(&bench).len(), keys(all(&bench)).len()), (0, 2), "{}", bench.name);
        assert!(all(&bench).last().unwrap().retried, "{}", bench.name);
        bench.store.set_aside(&[3], rejected()).await.unwrap();
        bench.store.settled(&[3]);
        assert_eq!(kept(&bench), [], "{}: forgotten", bench.name);
    }
}

#[tokio::test(start_paused = true)]
async fn a_held_entry_holds_all_behind_it_and_comes_before_them_once_it_is_released() {
    for bench in both(|_| {}) {
        appended(&bench, &["a1/a", "b1/b", "a2/a"]).await;
        bench.store.set_aside(&[1], held()).await.unwrap();
        assert_eq!((keys(all(&bench)), kept(&bench)), (vec!["b1".to_owned()], vec![(1, held())]));
        assert!(bench.store.is_waiting("a"), "{}: new writes queue up behind it", bench.name);
        assert_eq!(bench.store.find("a1").unwrap().sequence, 1, "{}", bench.name);
        let mut changed = bench.store.changed();
        changed.mark_unchanged();
        assert_eq!((bench.store.release("a"), bench.store.release("a")), (1, 0), "{}", bench.name);
        assert!(changed.has_changed().unwrap(), "{}: replay is woken", bench.name);
        assert_eq!(keys(sorted(&bench)), ["a1", "b1", "a2"], "{}", bench.name);
        assert_eq!(bench.store.backlog().entries, 3, "{}", bench.name);
        bench.store.settled(&[1, 2, 3]);
        assert!(!bench.store.is_waiting("a") && kept(&bench).is_empty(), "{}", bench.name);
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_told_in_order_whether_or_not_it_is_held_back() {
    for bench in both(|_| {}) {
        appended(&bench, &["a1/a", "b1/b", "a2/a", "b2/b", "c1/c"]).await;
        bench.store.set_aside(&[3], held()).await.unwrap();
        bench.store.set_aside(&[5], rejected()).await.unwrap();
        bench.store.settled(&[2]);
        let waiting = |entries_max, bytes_max| keys(bench.store.waiting(entries_max, bytes_max).unwrap());
        assert_eq!(waiting(9, u64::MAX), ["a1", "a2", "b2"], "{}", bench.name);
        assert_eq!((waiting(2, u64::MAX).len(), waiting(9, 0)), (2, vec!["a1".to_owned()]), "{}", bench.name);
        // What is set aside may take more room than it did.
        let fitting = waiting(9, 2 * of("a1", "a").bytes()).len();
        assert!((1..=2).contains(&fitting), "{}: as many as fit", bench.name);
    }
}

#[tokio::test(start_paused = true)]
async fn at_its_bounds_it_refuses_without_a_trace_and_takes_again_what_fits() {
    let frame = of("a", "a").bytes();
    let entries = |config: &mut JournalConfig| config.entries_max = 2;
    let bytes = |config: &mut JournalConfig| config.bytes_max = 2 * frame;
    for bench in both(entries).into_iter().chain(both(bytes)) {
        appended(&bench, &["a", "b"]).await;
        assert_eq!(bench.store.append(of("c", "c")).await, Err(AppendError::Full), "{}", bench.name);
        assert_eq!(bench.store.health(), JournalHealth::Full, "{}", bench.name);
        assert!(bench.store.find("c").is_none() && !bench.store.is_waiting("c"), "{}", bench.name);
        bench.store.settled(&[1]);
        assert_eq!(bench.store.append(of("c", "c")).await.unwrap().sequence, 3, "{}", bench.name);
    }
}

#[tokio::test(start_paused = true)]
async fn it_says_when_only_its_reserve_is_left_and_takes_what_it_is_given_all_the_same() {
    let tenth = |config: &mut JournalConfig| {
        config.entries_max = 20;
        config.reserve_percent = 10;
    };
    for bench in both(tenth) {
        for number in 1..=20 {
            let before = bench.store.health();
            let wanted = if number > 18 { JournalHealth::Reserved } else { JournalHealth::Ok };
            assert_eq!(before, wanted, "{}: before number {number}", bench.name);
            bench.store.append(of(&number.to_string(), "")).await.unwrap();
        }
        assert_eq!(bench.store.health(), JournalHealth::Full, "{}", bench.name);
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_too_long_is_treated_as_the_policy_says() {
    let day = Duration::from_hours(24);
    let late = |key| NewEntry { accepted_at: of("", "").accepted_at + day * 2, ..of(key, key) };
    let policy = |policy| move |config: &mut JournalConfig| config.when_too_old = policy;
    for bench in both(policy(WhenTooOld::Refuse)) {
        appended(&bench, &["old"]).await;
        assert_eq!(bench.store.append(late("new")).await, Err(AppendError::TooOld), "{}", bench.name);
        bench.store.settled(&[1]);
        assert!(bench.store.append(late("new")).await.is_ok(), "{}", bench.name);
        assert_eq!(bench.store.max_age(), None, "{}", bench.name);
    }
    for (when, max_age) in [(WhenTooOld::Warn, None), (WhenTooOld::SetAside, Some(day))] {
        for bench in both(policy(when)) {
            appended(&bench, &["old"]).await;
            assert!(bench.store.append(late("new")).await.is_ok(), "{}: {when:?}", bench.name);
            assert_eq!(bench.store.max_age(), max_age, "{}: {when:?}", bench.name);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn where_no_more_fits_aside_all_that_was_to_go_there_stays_pending() {
    for bench in both(|config| config.aside_entries_max = 1) {
        appended(&bench, &["a", "b"]).await;
        let refused = bench.store.set_aside(&[1, 2], rejected()).await;
        assert!(matches!(refused, Err(JournalError::AsideFull { .. })), "{}: {refused:?}", bench.name);
        assert_eq!((keys(all(&bench)).len(), kept(&bench).len()), (2, 0), "{}", bench.name);
        bench.store.set_aside(&[1], rejected()).await.unwrap();
        assert!(bench.store.set_aside(&[2], rejected()).await.is_err(), "{}", bench.name);
        bench.store.settled(&[1]);
        bench.store.set_aside(&[2], rejected()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_store_could_keep_is_refused_by_name() {
    let long = |bytes| "x".repeat(bytes);
    let entries = [
        ("key", NewEntry { key: String::new(), ..of("", "a") }),
        ("key", of(&long(256), "a")),
        ("kind", NewEntry { kind: long(65), ..of("a", "a") }),
        ("ordering key", of("a", &long(256))),
        ("payload", NewEntry { payload: long(101).into(), ..of("a", "a") }),
    ];
    for bench in both(|config| config.payload_bytes_max = 100) {
        for (name, entry) in &entries {
            let refused = bench.store.append(entry.clone()).await;
            let is_it = matches!(refused, Err(AppendError::TooLarge { field, .. }) if field == *name);
            assert!(is_it, "{}: {name}: {refused:?}", bench.name);
        }
        assert_eq!(bench.store.backlog().entries, 0, "{}", bench.name);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_it_takes_nothing_more_and_what_it_has_can_still_be_replayed() {
    for bench in both(|_| {}) {
        appended(&bench, &["a"]).await;
        (bench.fail_next_append)();
        assert_eq!(bench.store.append(of("b", "b")).await, Err(AppendError::Unknown), "{}", bench.name);
        assert_eq!(bench.store.append(of("c", "c")).await, Err(AppendError::Poisoned), "{}", bench.name);
        let pending = AppendError::KeyPending { sequence: 1, same_fingerprint: true };
        assert_eq!(bench.store.append(of("a", "a")).await, Err(pending), "{}: it stands", bench.name);
        assert_eq!(bench.store.health(), JournalHealth::Failed, "{}", bench.name);
        assert!(bench.store.set_aside(&[1], rejected()).await.is_err(), "{}", bench.name);
        assert_eq!(keys(all(&bench)), ["a"], "{}", bench.name);
        bench.store.settled(&[1]);
        assert_eq!(bench.store.backlog().entries, 0, "{}", bench.name);
    }
}

#[tokio::test(start_paused = true)]
async fn without_room_it_refuses_without_a_trace_until_there_is_room_again() {
    for bench in both(|_| {}) {
        appended(&bench, &["a"]).await;
        (bench.set_full)(true);
        assert_eq!(bench.store.append(of("b", "b")).await, Err(AppendError::Full), "{}", bench.name);
        assert_eq!(bench.store.health(), JournalHealth::Full, "{}", bench.name);
        assert_eq!((keys(all(&bench)).len(), bench.store.find("b")), (1, None), "{}", bench.name);
        (bench.set_full)(false);
        becomes(&bench, JournalHealth::Ok).await;
        assert_eq!(bench.store.append(of("b", "b")).await.unwrap().sequence, 2, "{}", bench.name);
    }
}

/// One step of a random run.
async fn step(bench: &Bench, random: &mut fastrand::Rng) -> String {
    let key = random.u32(..40).to_string();
    let ordering_key = random.u32(..5).to_string();
    let head = all(bench).into_iter().find(|entry| entry.ordering_key == ordering_key);
    // Else one that is not there.
    let sequence = head.map_or(u64::MAX, |entry| entry.sequence);
    let set_aside = async |why| format!("{:?}", bench.store.set_aside(&[sequence], why).await.is_ok());
    match random.u32(..12) {
        0..5 => {
            let entry = NewEntry { retried: random.u32(..8) == 0, ..of(&key, &ordering_key) };
            format!("{:?}", bench.store.append(entry).await)
        }
        5..8 => {
            bench.store.settled(&[sequence]);
            String::new()
        }
        8 => set_aside(rejected()).await,
        9 => set_aside(held()).await,
        10 => bench.store.release(&ordering_key).to_string(),
        _ => {
            let batch = bench.store.batch(random.usize(1..20), u64::MAX, &|key| key == ordering_key).unwrap();
            assert!(is_in_order(&batch) && !batch.iter().any(|entry| entry.ordering_key == ordering_key));
            batch.len().to_string()
        }
    }
}

/// Whether entries of the same ordering key follow each other as they were appended.
fn is_in_order(entries: &[Entry]) -> bool {
    let mut last: HashMap<&str, u64> = HashMap::new();
    entries.iter().all(|entry| last.insert(&entry.ordering_key, entry.sequence) < Some(entry.sequence))
}

/// Between ordering keys there is no order to compare.
fn sorted(bench: &Bench) -> Vec<Entry> {
    let mut entries = all(bench);
    assert!(is_in_order(&entries), "{}", bench.name);
    entries.sort_unstable_by_key(|entry| entry.sequence);
    entries
}

#[tokio::test(start_paused = true)]
async fn both_answer_the_same_whatever_is_asked() {
    let seed = fastrand::u64(..);
    for run in 0..20 {
        let seed = seed.wrapping_add(run);
        let [one, other] = both(|config| config.entries_max = 30);
        let (mut first, mut second) = (fastrand::Rng::with_seed(seed), fastrand::Rng::with_seed(seed));
        for number in 0..300 {
            let context = format!("seed {seed}, step {number}");
            assert_eq!(step(&one, &mut first).await, step(&other, &mut second).await, "{context}");
            let seen = |bench: &Bench| {
                let waiting = (0..5).map(|key| bench.store.is_waiting(&key.to_string())).collect::<Vec<_>>();
                let found = (0..40).map(|key| bench.store.find(&key.to_string())).collect::<Vec<_>>();
                let counts = bench.store.aside_counts();
                let backlog = bench.store.backlog().entries;
                let health = bench.store.health();
                let not_done = bench.store.waiting(20, u64::MAX).unwrap();
                (
                    sorted(bench),
                    not_done,
                    kept(bench),
                    waiting,
                    found,
                    (counts.rejected, counts.held),
                    backlog,
                    health,
                )
            };
            assert_eq!(seen(&one), seen(&other), "{context}");
        }
    }
}
