//! Entries that do not go through while all around them are settled: what they cost, and that they keep their order.

use super::inspect::surveyed;
use super::{driven, entry, open, open_with, pending, together};
use crate::journal::disk::memory::{Fault, Image, MemoryDisk, Survival};
use crate::journal::{Aside, Journal, JournalHealth, JournalWriter, NewEntry};

fn of(key: String, ordering_key: &str) -> NewEntry {
    NewEntry { ordering_key: ordering_key.to_owned(), ..entry(&key, "some content of some length") }
}

/// Rounds of entries that are settled at once, with one between them that is not. Answers the keys of those that stay and
/// were acknowledged.
fn rounds(journal: &Journal, writer: &mut JournalWriter, rounds: u32) -> Vec<String> {
    let mut stuck = Vec::new();
    for round in 0..rounds {
        let key = format!("stuck-{round}");
        let mut entries = vec![of(key.clone(), "stuck")];
        entries.extend((0..30).map(|number| of(format!("{round}-{number}"), &number.to_string())));
        let answers = together(journal, writer, &entries);
        if answers[0].is_ok() {
            stuck.push(key);
        }
        let done: Vec<u64> = answers[1..].iter().flatten().map(|done| done.sequence).collect();
        journal.settled(&done);
        writer.housekeep();
    }
    stuck
}

fn keys(entries: Vec<crate::journal::Entry>) -> Vec<String> {
    entries.into_iter().map(|entry| entry.key).collect()
}

/// One ordering key whose entries did not go through kept every segment since the first of them, full of settled entries:
/// the journal was full for all others, and its index grew with them.
#[test]
fn an_ordering_key_that_does_not_go_through_does_not_fill_the_disk() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open_with(&disk, |config| config.bytes_max = 32 * 1024);
    let stuck = rounds(&journal, &mut writer, 60);
    assert_eq!((stuck.len(), journal.health()), (60, JournalHealth::Ok));
    let segments = |disk: &MemoryDisk| {
        disk.everything().into_iter().filter(|(name, _)| name.ends_with(".segment")).count()
    };
    assert!(segments(&disk) <= 5, "{}", segments(&disk));
    assert!(writer.stored_position() > 1_500, "{}", writer.stored_position());
    assert_eq!(journal.backlog().entries, 60);
    assert!(journal.find("stuck-0").is_some() && journal.is_waiting("stuck"));
    assert_eq!(keys(pending(&journal)), stuck, "in the order of appending");
    assert_eq!(keys(journal.batch(7, u64::MAX, &|_| false).unwrap()), stuck[..7]);
    assert!(journal.batch(7, u64::MAX, &|key| key == "stuck").unwrap().is_empty());
    drop((journal, writer));
    for survival in [Survival::All, Survival::Nothing] {
        let (journal, mut writer, _) = open(&disk.after_crash(survival));
        assert!(journal.is_waiting("stuck") && journal.backlog().entries >= 60, "{survival:?}");
        assert_eq!(journal.release("stuck"), 0, "they are pending as before");
        let mut entries = pending(&journal);
        journal.settled(&entries.iter().map(|entry| entry.sequence).collect::<Vec<u64>>());
        entries.retain(|entry| entry.ordering_key == "stuck");
        assert_eq!(keys(entries), stuck, "{survival:?}");
        writer.housekeep();
        let counts = journal.aside_counts();
        assert_eq!((counts.entries(), journal.backlog().entries), (0, 0));
        assert!(!journal.is_waiting("stuck") && journal.find("stuck-0").is_none());
    }
}

#[test]
fn what_is_moved_leaves_room_for_dead_letters_and_then_the_bound_of_the_disk_holds() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open_with(&disk, |config| {
        config.bytes_max = 32 * 1024;
        config.aside_entries_max = 20;
    });
    let stuck = rounds(&journal, &mut writer, 60);
    assert!(stuck.len() < 60, "appends were refused in the end");
    let counts = journal.aside_counts();
    assert!((1..=10).contains(&counts.moved) && counts.held == 0, "{counts:?}");
    let survey = surveyed(&disk);
    assert_eq!((survey.aside.moved, survey.aside.held), (counts.moved, 0), "nobody need see to them");
    assert_eq!(keys(pending(&journal)), stuck);
    let last = pending(&journal).last().unwrap().sequence;
    driven(&mut writer, journal.set_aside(&[last], Aside::Rejected { reason: "23505".to_owned() })).unwrap();
}

/// What is given back waits again behind an older one that is held once more: it was given, and overtook it.
#[test]
fn what_was_released_waits_behind_an_older_one_that_is_held_again() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open(&disk);
    together(&journal, &mut writer, &[of("a".into(), "x"), of("b".into(), "x"), of("c".into(), "x")]);
    let held = || Aside::Held { reason: "newer-version".to_owned() };
    driven(&mut writer, journal.set_aside(&[1, 2], held())).unwrap();
    assert_eq!(journal.release("x"), 2);
    assert_eq!(keys(pending(&journal)), ["a", "b", "c"]);
    driven(&mut writer, journal.set_aside(&[1], held())).unwrap();
    assert!(pending(&journal).is_empty(), "b and c come after a");
    assert_eq!(journal.backlog().entries, 1, "c, of those that are not held");
    assert_eq!(journal.release("x"), 2);
    assert_eq!(keys(pending(&journal)), ["a", "b", "c"]);
    journal.settled(&[1, 3]);
    assert_eq!(keys(pending(&journal)), ["b"]);
}

#[test]
fn a_skipped_ordering_key_stays_skipped_for_the_whole_batch() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open(&disk);
    together(&journal, &mut writer, &[of("a".into(), "x"), of("b".into(), "x")]);
    driven(&mut writer, journal.set_aside(&[1], Aside::Held { reason: "r".to_owned() })).unwrap();
    journal.release("x");
    let asked = std::cell::Cell::new(0);
    let skip = |_: &str| asked.replace(asked.get() + 1) == 0;
    assert!(journal.batch(9, u64::MAX, &skip).unwrap().is_empty(), "b must not overtake a");
}

#[test]
fn a_power_cut_while_entries_are_moved_loses_and_doubles_none() {
    let whole = MemoryDisk::default();
    let (journal, mut writer, _) = open(&whole);
    let stuck = rounds(&journal, &mut writer, 8);
    assert!(stuck.len() == 8 && journal.aside_counts().moved > 0, "the run moves some");
    let mut tried = 0;
    for step in 0..=whole.steps() {
        let disk = MemoryDisk::default();
        disk.set_faults(&[Fault::PowerCut { step }]);
        let mut config = crate::journal::JournalConfig::new("/nowhere/journal");
        config.segment_bytes = 4096;
        let opened = Journal::open_on(config, std::sync::Arc::new(disk.clone()));
        let acknowledged =
            opened.map(|(journal, mut writer, _)| rounds(&journal, &mut writer, 8)).unwrap_or_default();
        for Image { what, disk: image } in disk.images(&mut fastrand::Rng::with_seed(step), 2) {
            let (journal, _writer, _) = open(&image);
            let mut found = keys(pending(&journal));
            found.retain(|key| key.starts_with("stuck"));
            let context = format!("step {step}, {what}");
            assert!(found.starts_with(&acknowledged), "{context}: {found:?}, told {acknowledged:?}");
            assert!(found.len() <= acknowledged.len() + 1, "{context}: {found:?}");
            tried += 1;
        }
    }
    assert!(tried > 100, "{tried}");
}
