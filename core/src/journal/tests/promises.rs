//! Behaviour of a journal whose disk works: order, keys, batches, bounds, space, ownership, closing.

use std::time::Duration;

use super::{entry, one, open, open_with, pending, settle_through, together};
use crate::journal::disk::memory::MemoryDisk;
use crate::journal::{
    AppendError, Appended, Journal, JournalConfig, JournalError, JournalHealth, NewEntry, WhenTooOld,
};

#[test]
fn what_was_appended_is_there_after_a_restart_in_order() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, recovery) = open(&disk);
    assert_eq!(recovery.entries, 0);
    assert_eq!(one(&journal, &mut writer, "a"), Ok(1));
    assert_eq!(one(&journal, &mut writer, "b"), Ok(2));
    let before = pending(&journal);
    drop((journal, writer));
    let (journal, _writer, recovery) = open(&disk);
    assert_eq!((recovery.entries, recovery.torn_bytes, recovery.cursor_lost), (2, 0, false));
    assert_eq!(pending(&journal), before);
    assert_eq!(before[0].key, "a");
    assert_eq!(before[1].payload, "payload of b");
    assert_eq!(before[1].kind, "todo.create");
    assert_eq!(before[1].accepted_at, entry("b", "").accepted_at);
    assert_eq!(journal.find("b").unwrap().sequence, 2);
    assert_eq!(journal.next().unwrap().unwrap().key, "a");
}

#[test]
fn a_thread_on_a_real_folder_serves_many_tasks() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("new/journal");
    let (journal, writer, _) = Journal::open(JournalConfig::new(&dir)).unwrap();
    let thread = std::thread::spawn(move || writer.run());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..50)
            .map(|task| {
                let journal = journal.clone();
                tokio::spawn(async move {
                    for round in 0..4 {
                        journal.append(entry(&format!("{task}-{round}"), "payload")).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    settle_through(&journal, 150);
    drop(journal);
    thread.join().unwrap();
    let (journal, _writer, recovery) = Journal::open(JournalConfig::new(&dir)).unwrap();
    assert_eq!(recovery.entries, 50);
    let sequences: Vec<u64> = pending(&journal).iter().map(|entry| entry.sequence).collect();
    assert_eq!(sequences, (151..=200).collect::<Vec<u64>>());
}

#[test]
fn one_sync_covers_all_appends_that_wait() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open_with(&disk, |config| config.segment_bytes = 1 << 20);
    let entries: Vec<NewEntry> = (0..100).map(|number| entry(&number.to_string(), "x")).collect();
    let before = disk.syncs();
    let answers = together(&journal, &mut writer, &entries);
    assert_eq!(answers, (1..=100).map(|sequence| Ok(Appended { sequence })).collect::<Vec<_>>());
    assert_eq!(disk.syncs() - before, 1);
}

#[test]
fn appends_of_one_key_at_once_make_one_entry_and_all_learn_of_it() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open(&disk);
    let answers =
        together(&journal, &mut writer, &[entry("k", "1"), entry("k", "2"), entry("k", "other body")]);
    assert_eq!(answers[0], Ok(Appended { sequence: 1 }));
    assert_eq!(answers[1], Err(AppendError::KeyPending { sequence: 1, same_fingerprint: true }));
    assert_eq!(answers[2], Err(AppendError::KeyPending { sequence: 1, same_fingerprint: false }));
    assert_eq!(pending(&journal).len(), 1);
    let late = together(&journal, &mut writer, &[entry("k", "1")]);
    assert_eq!(late[0], Err(AppendError::KeyPending { sequence: 1, same_fingerprint: true }));
}

#[test]
fn a_key_is_free_again_once_its_entry_is_acknowledged() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open(&disk);
    one(&journal, &mut writer, "k").unwrap();
    settle_through(&journal, 1);
    assert_eq!(journal.find("k"), None);
    assert_eq!(one(&journal, &mut writer, "k"), Ok(2));
}

#[test]
fn an_append_whose_caller_left_is_written_all_the_same() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open(&disk);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut append = Box::pin(journal.append(entry("left", "x")));
        tokio::select! {
            biased;
            _ = &mut append => unreachable!("the writer has not run"),
            () = tokio::task::yield_now() => {}
        }
    });
    assert_eq!(journal.find("left"), None, "not durable yet");
    writer.turn(Duration::ZERO);
    assert_eq!(journal.find("left").unwrap().sequence, 1);
}

#[test]
fn replay_is_woken_and_batches_keep_order_and_limits() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open(&disk);
    let mut changed = journal.changed();
    assert!(!changed.has_changed().unwrap());
    let entries: Vec<NewEntry> = (0..5).map(|number| entry(&number.to_string(), "x")).collect();
    together(&journal, &mut writer, &entries);
    assert!(changed.has_changed().unwrap());
    assert_eq!(*changed.borrow_and_update(), 5);
    let keys =
        |entries: Vec<crate::journal::Entry>| entries.into_iter().map(|one| one.key).collect::<Vec<_>>();
    assert_eq!(keys(journal.batch(3, u64::MAX, &|_| false).unwrap()), ["0", "1", "2"]);
    assert_eq!(keys(journal.batch(3, 1, &|_| false).unwrap()), ["0"], "one entry always fits");
    settle_through(&journal, 2);
    assert_eq!(keys(journal.batch(9, u64::MAX, &|_| false).unwrap()), ["2", "3", "4"]);
    settle_through(&journal, 99);
    assert!(journal.next().unwrap().is_none());
    assert_eq!(journal.backlog(), crate::journal::Backlog::default());
    assert_eq!(one(&journal, &mut writer, "next"), Ok(6), "acknowledging ahead of the journal gives no gap");
}

#[test]
fn acknowledged_segments_are_deleted_and_a_large_active_one_too() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open(&disk);
    let long = "x".repeat(1500);
    for number in 0..9 {
        together(&journal, &mut writer, &[entry(&number.to_string(), &long)]);
    }
    let segments =
        |disk: &MemoryDisk| disk.everything().keys().filter(|name| name.ends_with(".segment")).count();
    assert_eq!(segments(&disk), 5, "two of these records fit into a segment");
    settle_through(&journal, 5);
    writer.housekeep();
    assert_eq!(segments(&disk), 3);
    settle_through(&journal, 9);
    writer.housekeep();
    assert_eq!(segments(&disk), 1, "all is acknowledged: one empty segment is left");
    drop((journal, writer));
    let (journal, mut writer, recovery) = open(&disk);
    assert_eq!(recovery.entries, 0);
    assert_eq!(one(&journal, &mut writer, "after"), Ok(10), "no number is given twice");
}

#[test]
fn a_lost_cursor_gives_the_entries_again_in_order() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open(&disk);
    for key in ["a", "b", "a2"] {
        one(&journal, &mut writer, key).unwrap();
    }
    settle_through(&journal, 2);
    one(&journal, &mut writer, "a").unwrap();
    writer.housekeep();
    drop((journal, writer));
    disk.flip("cursor", 20);
    let (journal, _writer, recovery) = open(&disk);
    assert!(recovery.cursor_lost);
    let keys: Vec<String> = pending(&journal).into_iter().map(|entry| entry.key).collect();
    assert_eq!(keys, ["a", "b", "a2", "a"]);
    assert_eq!(journal.find("a").unwrap().sequence, 4, "the later entry is what the key means");
    settle_through(&journal, 1);
    assert_eq!(journal.find("a").unwrap().sequence, 4);
}

#[test]
fn at_each_bound_an_append_is_refused_and_taken_again_later() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open_with(&disk, |config| {
        config.entries_max = 3;
        config.queue_max = 2;
        config.payload_bytes_max = 100;
    });
    let many: Vec<NewEntry> = (0..4).map(|number| entry(&number.to_string(), "x")).collect();
    let answers = together(&journal, &mut writer, &many);
    assert_eq!(answers[2], Err(AppendError::Busy));
    assert_eq!(one(&journal, &mut writer, "third"), Ok(3));
    assert_eq!(one(&journal, &mut writer, "fourth"), Err(AppendError::Full));
    assert_eq!(journal.health(), JournalHealth::Full);
    settle_through(&journal, 1);
    assert_eq!(journal.health(), JournalHealth::Ok);
    assert_eq!(one(&journal, &mut writer, "fourth"), Ok(4));
    for wrong in [entry("", "x"), entry(&"k".repeat(256), "x"), entry("k", &"x".repeat(101))] {
        let answer = together(&journal, &mut writer, &[wrong]).remove(0);
        assert!(matches!(answer, Err(AppendError::TooLarge { .. })), "{answer:?}");
    }
}

#[test]
fn bytes_of_pending_entries_are_bounded() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open_with(&disk, |config| config.bytes_max = 10_000);
    let long = "x".repeat(3000);
    let answers: Vec<_> = (0..4)
        .map(|number| together(&journal, &mut writer, &[entry(&number.to_string(), &long)]).remove(0))
        .collect();
    assert_eq!(answers[3], Err(AppendError::Full));
    assert!(journal.backlog().bytes <= 10_000);
    assert_eq!(journal.backlog().entries, 3);
}

#[test]
fn a_folder_has_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, writer, _) = Journal::open(JournalConfig::new(folder.path())).unwrap();
    let refused = Journal::open(JournalConfig::new(folder.path())).unwrap_err();
    assert!(matches!(refused, JournalError::Locked { .. }), "{refused}");
    assert!(refused.to_string().contains(folder.path().to_str().unwrap()));
    drop((journal, writer));
    drop(Journal::open(JournalConfig::new(folder.path())).unwrap());
}

#[test]
fn closing_finishes_what_is_queued_and_takes_nothing_more() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open(&disk);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let other = journal.clone();
        let queued = tokio::spawn(async move { other.append(entry("queued", "x")).await });
        tokio::task::yield_now().await;
        journal.close();
        assert_eq!(journal.append(entry("late", "x")).await, Err(AppendError::Closed));
        assert!(writer.turn(Duration::ZERO), "something was queued");
        assert!(!writer.turn(Duration::ZERO));
        assert_eq!(queued.await.unwrap(), Ok(Appended { sequence: 1 }));
    });
}

#[test]
fn nobody_waits_for_a_writer_that_never_ran() {
    let disk = MemoryDisk::default();
    let (journal, writer, _) = open(&disk);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let other = journal.clone();
        let queued = tokio::spawn(async move { other.append(entry("queued", "x")).await });
        tokio::task::yield_now().await;
        drop(writer);
        assert_eq!(queued.await.unwrap(), Err(AppendError::Closed));
        assert_eq!(journal.append(entry("late", "x")).await, Err(AppendError::Closed));
    });
}

/// What users wrote could be read by every account of the machine.
#[test]
fn the_files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = tempfile::tempdir().unwrap();
    let (_journal, _writer, _) = Journal::open(JournalConfig::new(folder.path())).unwrap();
    let rights = |file: std::fs::DirEntry| (file.file_name(), file.metadata().unwrap().permissions().mode());
    let open: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|file| rights(file.unwrap())).collect();
    let holds_writes = |name: &std::ffi::OsString| name != "lock";
    assert!(open.iter().any(|(name, _)| holds_writes(name)));
    for (name, mode) in open.iter().filter(|(name, _)| holds_writes(name)) {
        assert_eq!(mode & 0o777, 0o600, "{}", name.display());
    }
}

#[test]
fn a_wrong_setting_is_named() {
    let mut config = JournalConfig::new("/nowhere");
    config.segment_bytes = 1;
    let refused = config.validate().unwrap_err().to_string();
    assert!(refused.contains("segment_bytes") && refused.contains("4096"), "{refused}");
}

/// One entry that was accepted a day and an hour before all others of the tests.
fn old(key: &str) -> NewEntry {
    let entry = entry(key, "x");
    let accepted_at = entry.accepted_at - Duration::from_hours(25);
    NewEntry { accepted_at, ..entry }
}

#[test]
fn an_entry_that_waits_too_long_closes_the_journal_to_new_ones_where_that_is_wanted() {
    for (policy, answer) in [
        (WhenTooOld::Refuse, Err(AppendError::TooOld)),
        (WhenTooOld::Warn, Ok(2)),
        (WhenTooOld::SetAside, Ok(2)),
    ] {
        let disk = MemoryDisk::default();
        let (journal, mut writer, _) = open_with(&disk, |config| config.when_too_old = policy);
        together(&journal, &mut writer, &[old("old")]);
        assert_eq!(one(&journal, &mut writer, "new"), answer, "{policy:?}");
        journal.settled(&[1]);
        assert!(one(&journal, &mut writer, "newer").is_ok(), "{policy:?}");
    }
}

/// They were set aside without the database having been asked: whoever asked it for their outcome learned nothing, and some
/// had been applied.
#[test]
fn entries_that_wait_too_long_stay_until_the_database_can_be_asked() {
    for (policy, max_age) in
        [(WhenTooOld::SetAside, Some(Duration::from_hours(24))), (WhenTooOld::Warn, None)]
    {
        let disk = MemoryDisk::default();
        let (journal, mut writer, _) = open_with(&disk, |config| config.when_too_old = policy);
        together(&journal, &mut writer, &[old("a"), entry("b", "x")]);
        writer.housekeep();
        assert_eq!(pending(&journal).len(), 2, "{policy:?}");
        assert_eq!((journal.aside_counts().entries(), journal.max_age()), (0, max_age), "{policy:?}");
    }
}

#[test]
fn a_clean_end_leaves_no_reserved_room_and_a_start_finds_the_records_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let length = || {
        let file = std::fs::read_dir(folder.path()).unwrap().map(|item| item.unwrap());
        let segment =
            file.into_iter().find(|item| item.path().extension().is_some_and(|end| end == "segment"));
        segment.unwrap().metadata().unwrap().len()
    };
    let (journal, mut writer, _) = Journal::open(JournalConfig::new(folder.path())).unwrap();
    one(&journal, &mut writer, "a").unwrap();
    drop((journal, writer));
    let (journal, writer, recovery) = Journal::open(JournalConfig::new(folder.path())).unwrap();
    assert_eq!((recovery.entries, recovery.torn_bytes), (1, 0));
    drop(journal);
    writer.run();
    assert!(length() < 1000, "{}", length());
}
