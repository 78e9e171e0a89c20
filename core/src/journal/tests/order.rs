//! Ordering keys: what settles early, what is skipped, and what waits aside; all in the order of appending.

use super::{driven, entry, now, one, open, pending, together};
use crate::journal::disk::memory::MemoryDisk;
use crate::journal::heads::Heads;
use crate::journal::{Aside, Entry, Journal, JournalWriter, NewEntry};

fn of(key: &str, ordering_key: &str) -> NewEntry {
    NewEntry { ordering_key: ordering_key.to_owned(), ..entry(key, "x") }
}

fn keys(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.key.as_str()).collect()
}

/// Entries a1 b1 a2 c1 b2 a3, of the ordering keys a, b and c, with sequences 1 to 6.
fn three_orders(disk: &MemoryDisk) -> (Journal, JournalWriter) {
    let (journal, mut writer, _) = open(disk);
    let entries: Vec<NewEntry> =
        ["a1", "b1", "a2", "c1", "b2", "a3"].iter().map(|key| of(key, &key[..1])).collect();
    together(&journal, &mut writer, &entries);
    (journal, writer)
}

fn held() -> Aside {
    Aside::Held { reason: "unknown-command".to_owned() }
}

#[test]
fn entries_settle_in_any_order_and_the_position_waits_for_the_first() {
    let disk = MemoryDisk::default();
    let (journal, mut writer) = three_orders(&disk);
    journal.settled(&[2, 4, 5]);
    assert_eq!(keys(&pending(&journal)), ["a1", "a2", "a3"]);
    assert_eq!((journal.backlog().entries, journal.find("b1")), (3, None));
    assert!(!journal.is_waiting("b") && journal.is_waiting("a"));
    journal.settled(&[3, 3]);
    assert_eq!(keys(&pending(&journal)), ["a1", "a3"]);
    writer.housekeep();
    drop((journal, writer));
    let (journal, mut writer, recovery) = open(&disk);
    assert_eq!(recovery.entries, 6, "behind the position all come again");
    journal.settled(&[1, 2, 3]);
    writer.housekeep();
    drop((journal, writer));
    let (journal, _writer, _) = open(&disk);
    assert_eq!(keys(&pending(&journal)), ["c1", "b2", "a3"]);
}

#[test]
fn a_skipped_ordering_key_is_left_out_whole_and_the_others_go_on() {
    let disk = MemoryDisk::default();
    let (journal, _writer) = three_orders(&disk);
    let batch = journal.batch(9, u64::MAX, &|ordering_key| ordering_key == "a").unwrap();
    assert_eq!(keys(&batch), ["b1", "c1", "b2"]);
    assert_eq!(keys(&journal.batch(3, u64::MAX, &|_| false).unwrap()), ["a1", "b1", "a2"]);
    assert!(journal.batch(9, u64::MAX, &|_| true).unwrap().is_empty());
}

#[test]
fn an_ordering_key_waits_from_the_moment_its_entry_is_queued() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open(&disk);
    now(async {
        let mut append = Box::pin(journal.append(of("k", "order")));
        tokio::select! {
            biased;
            _ = &mut append => unreachable!("the writer has not run"),
            () = tokio::task::yield_now() => {}
        }
        assert!(journal.is_waiting("order") && !journal.is_waiting("k"));
        writer.turn(std::time::Duration::ZERO);
        append.await.unwrap();
    });
    assert!(journal.is_waiting("order"));
    journal.settled(&[1]);
    assert!(!journal.is_waiting("order"));
}

#[test]
fn a_held_ordering_key_waits_in_order_until_it_is_released() {
    let disk = MemoryDisk::default();
    let (journal, mut writer) = three_orders(&disk);
    driven(&mut writer, journal.set_aside(&[1], held())).unwrap();
    assert_eq!(keys(&pending(&journal)), ["b1", "c1", "b2"]);
    assert_eq!((journal.backlog().entries, journal.aside_counts().held), (5, 1));
    assert!(journal.is_waiting("a") && journal.find("a1").is_some());
    together(&journal, &mut writer, &[of("a4", "a")]);
    assert_eq!(keys(&pending(&journal)), ["b1", "c1", "b2"]);
    assert_eq!((journal.release("a"), journal.release("none")), (1, 0));
    assert_eq!(keys(&pending(&journal)), ["a1", "b1", "a2", "c1", "b2", "a3", "a4"]);
    let batch = journal.batch(9, u64::MAX, &|ordering_key| ordering_key == "a").unwrap();
    assert_eq!(keys(&batch), ["b1", "c1", "b2"]);
    journal.settled(&[1]);
    assert_eq!(journal.aside_counts().held, 0);
    assert_eq!(keys(&journal.batch(2, u64::MAX, &|_| false).unwrap()), ["b1", "a2"]);
}

#[test]
fn a_dead_letter_blocks_nobody_and_can_be_given_back_or_discarded() {
    let disk = MemoryDisk::default();
    let (journal, mut writer) = three_orders(&disk);
    let rejected = || Aside::Rejected { reason: "23505".to_owned() };
    driven(&mut writer, journal.set_aside(&[1, 2, 99], rejected())).unwrap();
    assert_eq!(keys(&pending(&journal)), ["a2", "c1", "b2", "a3"]);
    assert_eq!((journal.aside_counts().rejected, journal.find("a1")), (2, None));
    let letters = journal.aside(0, 9).unwrap();
    assert_eq!(letters[0].why, rejected());
    assert_eq!((letters[0].entry.key.as_str(), letters[0].entry.sequence), ("a1", 1));
    assert_eq!(journal.aside(2, 9).unwrap().len(), 1);
    assert!(driven(&mut writer, journal.discard("b1")).unwrap());
    assert!(!driven(&mut writer, journal.discard("b1")).unwrap());
    let again = driven(&mut writer, journal.retry("a1")).unwrap().unwrap();
    assert_eq!(again.sequence, 7);
    let last = pending(&journal).pop().unwrap();
    assert!(last.retried && last.key == "a1" && last.ordering_key == "a" && last.version == 1);
    assert_eq!(journal.aside_counts().rejected, 0);
    assert!(driven(&mut writer, journal.retry("a1")).unwrap().is_none());
}

#[test]
fn many_entries_of_one_ordering_key_cost_a_skip_only_one_question() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open(&disk);
    let entries: Vec<NewEntry> = (0..500).map(|number| of(&number.to_string(), "busy")).collect();
    together(&journal, &mut writer, &entries);
    one(&journal, &mut writer, "other").unwrap();
    let asked = std::cell::Cell::new(0);
    let batch = journal
        .batch(9, u64::MAX, &|ordering_key| {
            asked.set(asked.get() + 1);
            ordering_key == "busy"
        })
        .unwrap();
    assert_eq!((keys(&batch), asked.get()), (vec!["other"], 2));
}

#[test]
fn heads_are_found_across_words_and_forgotten_in_order() {
    let mut heads = Heads::default();
    for sequence in [100, 163, 164, 1000] {
        heads.set(sequence);
    }
    let all = |heads: &Heads, from: u64| {
        let mut next = heads.at_or_after(from);
        std::iter::from_fn(|| {
            let found = next?;
            next = heads.at_or_after(found + 1);
            Some(found)
        })
        .collect::<Vec<u64>>()
    };
    assert_eq!(all(&heads, 0), [100, 163, 164, 1000]);
    assert!(heads.clear(163) && !heads.clear(163) && !heads.clear(5000) && !heads.clear(3));
    heads.forget_before(164);
    assert_eq!(all(&heads, 0), [164, 1000]);
    assert_eq!(heads.at_or_after(1001), None);
    heads.forget_before(10_000);
    assert_eq!(heads.at_or_after(0), None);
    heads.set(10_001);
    assert_eq!(all(&heads, 0), [10_001]);
}
