//! Looking at a folder: it tells what a start would find, changes nothing, and goes on where the start gives up. That it
//! foretells every start and every refusal is tried with each damage of `damage.rs`, too.

use std::cell::RefCell;
use std::io;
use std::path::Path;

use super::{entry, one, open, open_with, settle_through, together};
use crate::journal::cursor::CURSOR_NAME;
use crate::journal::disk::memory::{MemoryDisk, Survival};
use crate::journal::disk::{Disk, DiskView, LOCK_NAME};
use crate::journal::inspect::inspect_on;
use crate::journal::{
    CursorState, Journal, JournalConfig, JournalError, Loss, NewEntry, SegmentState, Survey, inspect, record,
};

const FIRST: &str = "00000000000000000001.segment";
const SECOND: &str = "00000000000000000002.segment";
const THIRD: &str = "00000000000000000003.segment";

/// The survey of a folder, which must leave it as it is.
pub(super) fn surveyed(disk: &MemoryDisk) -> Survey {
    let (before, steps) = (disk.everything(), disk.steps());
    let survey = inspect_on(disk, Path::new("/srv/data/journal")).unwrap();
    assert_eq!((disk.everything(), disk.steps()), (before, steps), "looking touches nothing");
    survey
}

fn sized(key: &str, kind: &str, bytes: usize) -> NewEntry {
    NewEntry { kind: kind.to_owned(), ..entry(key, &"x".repeat(bytes)) }
}

/// Three segments of one record each, the last with a second one.
fn three_segments() -> MemoryDisk {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open(&disk);
    for key in ["a", "b", "c"] {
        together(&journal, &mut writer, &[sized(key, "todo.create", 3000)]);
    }
    together(&journal, &mut writer, &[sized("d", "todo.delete", 0)]);
    drop((journal, writer));
    disk.after_crash(Survival::Nothing)
}

fn states(survey: &Survey) -> Vec<bool> {
    survey.segments.iter().map(|segment| segment.state.is_damage()).collect()
}

#[test]
fn a_healthy_folder_is_told_by_segment_position_and_command() {
    let disk = three_segments();
    let survey = surveyed(&disk);
    assert!(survey.is_sound() && !survey.in_use);
    let told: Vec<_> = survey
        .segments
        .iter()
        .map(|one| (one.name.as_str(), one.format_version, one.first, one.last, one.records, one.pending))
        .collect();
    let expected = [
        (FIRST, Some(1), 1, Some(1), 1, 1),
        (SECOND, Some(1), 2, Some(2), 1, 1),
        (THIRD, Some(1), 3, Some(4), 2, 2),
    ];
    assert_eq!(told, expected);
    for segment in &survey.segments {
        assert_eq!(segment.bytes, disk.bytes(&segment.name).len() as u64);
        assert_eq!(segment.state, SegmentState::Sound);
    }
    assert_eq!(survey.cursor, CursorState::Missing);
    assert_eq!(survey.kinds, [("todo.create".to_owned(), 3), ("todo.delete".to_owned(), 1)].into());
    assert_eq!(survey.pending.oldest_accepted_at, Some(record::time(1_795_000_000_123_456)));
    assert_eq!((survey.pending.entries, survey.kinds_beyond), (4, 0));
    assert_eq!((survey.losses, survey.refused_without_damaged), (Vec::new(), None));
}

#[test]
fn the_cursor_divides_what_is_done_from_what_waits() {
    let disk = three_segments();
    let (journal, mut writer, _) = open_with(&disk, |config| config.segment_bytes = 1 << 20);
    settle_through(&journal, 3);
    writer.housekeep();
    let survey = surveyed(&disk);
    assert!(survey.in_use, "its owner is there");
    assert_eq!(survey.pending, journal.backlog());
    assert_eq!(survey.cursor, CursorState::At(3));
    assert_eq!(survey.kinds, [("todo.delete".to_owned(), 1)].into());
    assert_eq!(survey.segments.last().unwrap().pending, 1);
    drop((journal, writer));
    assert!(!surveyed(&disk).in_use, "its owner is gone");
}

#[test]
fn a_torn_tail_is_sound_and_told_with_its_bytes() {
    let disk = three_segments();
    let whole = disk.bytes(THIRD);
    disk.put(THIRD, whole[..whole.len() - 5].to_vec());
    let survey = surveyed(&disk);
    assert!(survey.is_sound());
    let length = record::frame_bytes(&sized("d", "todo.delete", 0)) as u64;
    let torn = SegmentState::Torn { offset: whole.len() as u64 - length, bytes: length - 5 };
    assert_eq!(survey.segments[2].state, torn);
    assert_eq!((survey.segments[2].last, survey.pending.entries), (Some(3), 3));
}

#[test]
fn a_damaged_segment_does_not_hide_the_others_and_its_loss_is_told() {
    let disk = three_segments();
    disk.flip(SECOND, 200);
    let survey = surveyed(&disk);
    assert_eq!(states(&survey), [false, true, false]);
    assert_eq!(survey.pending.entries, 3, "those that can be read");
    let loss = Loss { file: SECOND.to_owned(), first: Some(2), last: Some(2), readable: 0 };
    assert_eq!(survey.losses, [loss]);
    assert!(survey.refused_without_damaged.unwrap().contains("records 2 to 2 are missing"));
    disk.lose(SECOND);
    assert_eq!(states(&surveyed(&disk)), [false, true], "as foretold");
}

#[test]
fn a_damaged_newest_segment_can_be_set_aside_but_nobody_knows_how_much_it_held() {
    let disk = three_segments();
    disk.flip(THIRD, 100);
    let survey = surveyed(&disk);
    let loss = Loss { file: THIRD.to_owned(), first: Some(3), last: None, readable: 0 };
    assert_eq!((survey.losses, survey.refused_without_damaged), (vec![loss], None));
    disk.lose(THIRD);
    assert!(surveyed(&disk).is_sound(), "as foretold");
    drop(open(&disk));
}

#[test]
fn damage_in_what_is_done_with_costs_nothing() {
    let disk = three_segments();
    let (first, second) = (disk.bytes(FIRST), disk.bytes(SECOND));
    let (journal, mut writer, _) = open(&disk);
    settle_through(&journal, 2);
    writer.housekeep();
    drop((journal, writer));
    // A crash may bring deleted files back.
    disk.put(FIRST, first);
    disk.put(SECOND, second);
    assert!(surveyed(&disk).is_sound());
    disk.flip(FIRST, 200);
    let survey = surveyed(&disk);
    assert_eq!(states(&survey), [true, false, false]);
    let nothing = Loss { file: FIRST.to_owned(), first: None, last: None, readable: 0 };
    assert_eq!((survey.losses, survey.refused_without_damaged), (vec![nothing], None));
    disk.lose(FIRST);
    drop(open(&disk));
}

#[test]
fn a_folder_in_use_is_read_again_before_its_damage_is_believed() {
    /// Lists a segment that is deleted before it can be read, as an owner may do it, this many times.
    #[derive(Debug)]
    struct Moving(MemoryDisk, RefCell<u32>, bool);

    impl DiskView for Moving {
        fn owned(&self) -> io::Result<bool> {
            Ok(self.2)
        }
        fn list(&self) -> io::Result<Vec<String>> {
            let mut names = Disk::list(&self.0)?;
            if self.1.replace_with(|times| times.saturating_sub(1)) > 0 {
                names.push("00000000000000000000.segment".to_owned());
            }
            Ok(names)
        }
        fn read(&self, name: &str, bytes_max: u64) -> io::Result<(u64, Option<Vec<u8>>)> {
            self.0.read(name, bytes_max)
        }
    }

    let look = |times, owned| inspect_on(&Moving(three_segments(), times, owned), Path::new("/j")).unwrap();
    assert!(look(RefCell::new(1), true).is_sound());
    assert!(look(RefCell::new(2), true).is_sound());
    assert!(!look(RefCell::new(3), true).is_sound(), "it ends");
    assert!(!look(RefCell::new(1), false).is_sound(), "nobody else moves the files");
}

#[test]
fn a_cursor_that_says_nothing_is_told_with_its_reason() {
    let disk = three_segments();
    for (bytes, reason) in [
        (vec![], "40 bytes"),
        (vec![0; 40], "does not begin"),
        (b"RTcursor\x01\0\0\0aaaaaaaaaaaaaaaa12345678abcd".to_vec(), "checksum"),
        (b"RTcursor\x07\0\0\0aaaaaaaaaaaaaaaa12345678abcd".to_vec(), "version 7"),
        (vec![1; 9000], "40 bytes"),
    ] {
        disk.put(CURSOR_NAME, bytes);
        let survey = surveyed(&disk);
        assert!(survey.is_sound());
        assert!(matches!(&survey.cursor, CursorState::Lost { what } if what.contains(reason)), "{survey:?}");
        assert_eq!(survey.pending.entries, 4);
    }
}

#[test]
fn a_crowd_of_command_names_is_counted_within_bounds() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open_with(&disk, |config| config.segment_bytes = 1 << 20);
    let crowd: Vec<NewEntry> =
        (0..1010).map(|number| sized(&format!("k{number}"), &format!("c{number}"), 0)).collect();
    together(&journal, &mut writer, &crowd);
    let survey = surveyed(&disk);
    assert_eq!((survey.pending.entries, survey.kinds.len(), survey.kinds_beyond), (1010, 1000, 10));
}

#[test]
fn an_empty_journal_is_sound_and_no_journal_is_said_to_be_none() {
    let disk = MemoryDisk::default();
    let absent = || inspect_on(&disk, Path::new("/j")).unwrap_err();
    assert!(matches!(absent(), JournalError::Absent { .. }));
    disk.put("notes.txt", Vec::new());
    assert!(matches!(absent(), JournalError::Absent { .. }));
    disk.put(LOCK_NAME, Vec::new());
    disk.put("cursor.unfinished", Vec::new());
    let survey = surveyed(&disk);
    assert!(survey.is_sound());
    assert_eq!((survey.unfinished, survey.pending.entries), (1, 0));
}

#[test]
fn a_real_folder_is_not_made_not_changed_and_its_lock_not_kept() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("journal");
    let absent = inspect(&folder).unwrap_err();
    assert!(matches!(absent, JournalError::Absent { .. }), "{absent}");
    assert!(!folder.exists(), "looking makes no folder");

    let (journal, mut writer, _) = Journal::open(JournalConfig::new(&folder)).unwrap();
    one(&journal, &mut writer, "a").unwrap();
    assert!(inspect(&folder).unwrap().in_use);
    drop((journal, writer));
    std::fs::remove_file(folder.join(LOCK_NAME)).unwrap();
    let everything = || {
        let mut all: Vec<_> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|item| {
                let item = item.unwrap();
                let modified = item.metadata().unwrap().modified().unwrap();
                (item.file_name(), std::fs::read(item.path()).unwrap(), modified)
            })
            .collect();
        all.sort();
        all
    };
    let before = everything();
    let survey = inspect(&folder).unwrap();
    assert_eq!(everything(), before);
    assert_eq!((survey.in_use, survey.pending.entries), (false, 1));
    drop(Journal::open(JournalConfig::new(&folder)).unwrap());
    inspect(&folder).unwrap();
    drop(Journal::open(JournalConfig::new(&folder)).unwrap());
}

#[test]
fn a_file_that_no_segment_can_be_is_not_read_into_memory() {
    let temp = tempfile::tempdir().unwrap();
    let length = 97 << 20;
    std::fs::File::create(temp.path().join(FIRST)).unwrap().set_len(length).unwrap();
    let survey = inspect(temp.path()).unwrap();
    assert_eq!(survey.segments[0].bytes, length);
    assert!(
        matches!(&survey.segments[0].state, SegmentState::Damaged { what, .. } if what.contains("any segment"))
    );
}

#[test]
fn a_segment_that_the_system_does_not_give_is_told_and_the_others_are_read() {
    let temp = tempfile::tempdir().unwrap();
    let disk = three_segments();
    for (name, bytes) in disk.everything() {
        std::fs::write(temp.path().join(name), bytes).unwrap();
    }
    std::fs::remove_file(temp.path().join(SECOND)).unwrap();
    std::fs::create_dir(temp.path().join(SECOND)).unwrap();
    let survey = inspect(temp.path()).unwrap();
    assert!(matches!(survey.segments[1].state, SegmentState::Unreadable { .. }), "{survey:?}");
    assert_eq!((states(&survey), survey.pending.entries), (vec![false, true, false], 3));
}
