//! Crashes, power cuts, failing syncs and full disks: at every step, what was acknowledged is there afterwards, and
//! what was refused is not.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::inspect::surveyed;
use super::{entry, one, open, pending, settle_through, together};
use crate::journal::disk::memory::{Fault, MemoryDisk, Survival};
use crate::journal::{AppendError, Journal, JournalConfig, JournalHealth, NewEntry};

const SURVIVALS: [Survival; 5] =
    [Survival::All, Survival::Nothing, Survival::Half, Survival::LaterHalf, Survival::WritesOnly];

/// What the callers of a run were told.
#[derive(Debug, Default)]
struct Told {
    durable: BTreeMap<u64, String>,
    unknown: Vec<String>,
    refused: Vec<String>,
    acknowledged: u64,
}

/// A run with batches, rotation, acknowledging, cursor and deletion; goes on after errors, as a server would.
fn representative_run(disk: &MemoryDisk) -> Told {
    let mut told = Told::default();
    let mut config = JournalConfig::new("/nowhere/journal");
    config.segment_bytes = 4096;
    let Ok((journal, mut writer, _)) = Journal::open_on(config, Arc::new(disk.clone())) else { return told };
    for round in 0..8_u64 {
        let entries: Vec<NewEntry> = (0..3)
            .map(|number| entry(&format!("{round}-{number}"), &"x".repeat(300 + 50 * number)))
            .collect();
        for (answer, entry) in together(&journal, &mut writer, &entries).into_iter().zip(entries) {
            match answer {
                Ok(done) => drop(told.durable.insert(done.sequence, entry.key)),
                Err(AppendError::Unknown) => told.unknown.push(entry.key),
                Err(_) => told.refused.push(entry.key),
            }
        }
        if round % 3 == 2 {
            told.acknowledged = told.durable.keys().copied().max().unwrap_or(0).min(3 * round - 2);
            settle_through(&journal, told.acknowledged);
            writer.housekeep();
        }
    }
    told
}

/// Opens the image twice, so that a repair that makes things worse shows, and compares with what was told.
fn check_image(image: &MemoryDisk, told: &Told, context: &str) {
    let survey = (!image.everything().is_empty()).then(|| surveyed(image));
    let (journal, writer, _) = open(image);
    if let Some(survey) = survey {
        assert!(survey.is_sound() && survey.pending == journal.backlog(), "{context}: {survey:?}");
    }
    let first = pending(&journal);
    drop((journal, writer));
    let after_repair = image.after_crash(Survival::Nothing);
    let (journal, mut writer, again) = open(&after_repair);
    assert_eq!(pending(&journal), first, "{context}: the second start sees something else");
    assert_eq!(again.torn_bytes, 0, "{context}: the cut was not durable");
    for (sequence, key) in &told.durable {
        let found = first.iter().find(|entry| entry.sequence == *sequence);
        match found {
            Some(entry) => assert_eq!(&entry.key, key, "{context}"),
            None => assert!(*sequence <= told.acknowledged, "{context}: entry {sequence} is lost"),
        }
    }
    for pair in first.windows(2) {
        assert_eq!(pair[0].sequence + 1, pair[1].sequence, "{context}: order");
    }
    for entry in &first {
        assert!(!told.refused.contains(&entry.key), "{context}: {} was refused and is here", entry.key);
        let known =
            told.durable.get(&entry.sequence) == Some(&entry.key) || told.unknown.contains(&entry.key);
        assert!(known, "{context}: nobody appended {} as {}", entry.key, entry.sequence);
    }
    let next = one(&journal, &mut writer, "after the crash").unwrap();
    assert!(told.durable.keys().all(|sequence| *sequence < next), "{context}: number {next} was given twice");
}

#[test]
fn a_power_cut_at_any_step_loses_nothing_acknowledged() {
    let whole = MemoryDisk::default();
    let told = representative_run(&whole);
    assert_eq!(told.durable.len(), 24);
    let steps = whole.steps();
    assert!(steps > 40, "the run is too small to mean anything: {steps} steps");
    for step in 0..=steps {
        let disk = MemoryDisk::default();
        disk.set_faults(&[Fault::PowerCut { step }]);
        let told = representative_run(&disk);
        for survival in SURVIVALS {
            check_image(&disk.after_crash(survival), &told, &format!("step {step} of {steps}, {survival:?}"));
        }
    }
}

#[test]
fn a_power_cut_during_recovery_loses_nothing_either() {
    let mut tried = 0;
    for crash in (0..=90).step_by(5) {
        let disk = MemoryDisk::default();
        disk.set_faults(&[Fault::PowerCut { step: crash }]);
        let told = representative_run(&disk);
        for survival in SURVIVALS {
            for step in 0..6 {
                let image = disk.after_crash(survival);
                image.set_faults(&[Fault::PowerCut { step }]);
                drop(Journal::open_on(JournalConfig::new("/nowhere/journal"), Arc::new(image.clone())));
                let context = format!("crash at {crash}, {survival:?}, then at {step} of recovery");
                check_image(&image.after_crash(Survival::Nothing), &told, &context);
                tried += 1;
            }
        }
    }
    assert!(tried > 400);
}

#[test]
fn a_failed_sync_poisons_and_nothing_after_it_is_acknowledged() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open(&disk);
    one(&journal, &mut writer, "before").unwrap();
    disk.set_faults(&[Fault::SyncFails { nth: disk.syncs() }]);
    let syncs = disk.syncs();
    let same_key = together(&journal, &mut writer, &[entry("during", "1"), entry("during", "2")]);
    assert_eq!(same_key, [Err(AppendError::Unknown), Err(AppendError::Unknown)]);
    assert_eq!(one(&journal, &mut writer, "after"), Err(AppendError::Poisoned));
    assert_eq!(disk.syncs(), syncs + 1, "the sync was not tried again");
    assert_eq!(journal.health(), JournalHealth::Failed);
    assert_eq!(journal.find("during"), None);
    assert_eq!(pending(&journal).len(), 1, "what was durable can still be replayed");
    assert_eq!(
        one(&journal, &mut writer, "before"),
        Err(AppendError::KeyPending { sequence: 1, same_fingerprint: true }),
        "and its promise stands"
    );
    let (journal, _writer, recovery) = open(&disk.after_crash(Survival::Nothing));
    assert_eq!(recovery.entries, 1);
    assert_eq!(pending(&journal)[0].key, "before");
}

/// After a failed sync the system shows the bytes and counts them as clean: a restart reads them, a second sync
/// succeeds, and a power cut then takes them away, although a caller may have been told that its key is pending.
#[test]
fn what_recovery_shows_after_a_failed_sync_is_durable() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open(&disk);
    one(&journal, &mut writer, "before").unwrap();
    disk.set_faults(&[Fault::SyncFails { nth: disk.syncs() }]);
    assert_eq!(one(&journal, &mut writer, "during"), Err(AppendError::Unknown));
    drop((journal, writer));
    let (journal, _writer, _) = open(&disk);
    assert_eq!(journal.find("during").unwrap().sequence, 2);
    let (journal, _writer, _) = open(&disk.after_crash(Survival::Nothing));
    assert_eq!(journal.find("during").unwrap().sequence, 2);
}

#[test]
fn a_full_disk_refuses_without_a_trace_and_recovers() {
    for room in [0, 100, 300] {
        let disk = MemoryDisk::default();
        let (journal, mut writer, _) = open(&disk);
        one(&journal, &mut writer, "before").unwrap();
        let length = disk.bytes("00000000000000000001.segment").len();
        disk.set_faults(&[Fault::Room { bytes: length + room }]);
        let entries = [entry("a", &"x".repeat(200)), entry("b", &"x".repeat(200))];
        let answers = together(&journal, &mut writer, &entries);
        assert_eq!(answers, [Err(AppendError::Full), Err(AppendError::Full)]);
        assert_eq!(journal.health(), JournalHealth::Full);
        for survival in SURVIVALS {
            let (journal, _writer, recovery) = open(&disk.after_crash(survival));
            assert_eq!((recovery.entries, recovery.torn_bytes), (1, 0), "{survival:?} with room {room}");
            assert_eq!(journal.find("a"), None);
        }
        writer.housekeep();
        assert_eq!(journal.health(), JournalHealth::Full, "the disk is still full");
        disk.set_faults(&[]);
        writer.housekeep();
        assert_eq!(journal.health(), JournalHealth::Ok, "there is room again");
        assert_eq!(one(&journal, &mut writer, "a"), Ok(2));
        let (journal, _writer, _) = open(&disk.after_crash(Survival::Nothing));
        assert_eq!(journal.find("a").unwrap().sequence, 2);
    }
}

#[test]
fn a_full_disk_at_rotation_refuses_and_recovers() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open(&disk);
    let large = "x".repeat(3000);
    together(&journal, &mut writer, &[entry("first", &large)]);
    disk.set_faults(&[Fault::Room { bytes: 10 }]);
    assert_eq!(together(&journal, &mut writer, &[entry("second", &large)]), [Err(AppendError::Full)]);
    assert_eq!(
        one(&journal, &mut writer, "small"),
        Err(AppendError::Full),
        "the old segment is not added to"
    );
    disk.set_faults(&[]);
    assert_eq!(one(&journal, &mut writer, "small"), Ok(2));
    let (journal, _writer, recovery) = open(&disk.after_crash(Survival::Nothing));
    assert_eq!(recovery.entries, 2);
    assert_eq!(journal.find("second"), None);
}

/// The new segment may be there under its name although making it failed: a record added to the old one would then
/// have its number taken twice.
#[test]
fn after_a_rotation_that_failed_half_way_the_old_segment_takes_nothing() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open(&disk);
    let large = "x".repeat(3000);
    together(&journal, &mut writer, &[entry("first", &large)]);
    disk.set_faults(&[Fault::FolderFull]);
    assert_eq!(together(&journal, &mut writer, &[entry("second", &large)]), [Err(AppendError::Full)]);
    disk.set_faults(&[]);
    assert_eq!(one(&journal, &mut writer, "small"), Ok(2));
    for survival in SURVIVALS {
        let (journal, _writer, _) = open(&disk.after_crash(survival));
        assert_eq!(journal.find("small").unwrap().sequence, 2, "{survival:?}");
    }
}

/// Each sync of the run fails once, in turn: the same promises as at a power cut.
#[test]
fn any_failing_sync_loses_nothing_acknowledged() {
    let whole = MemoryDisk::default();
    representative_run(&whole);
    for nth in 0..whole.syncs() {
        let disk = MemoryDisk::default();
        disk.set_faults(&[Fault::SyncFails { nth }]);
        let told = representative_run(&disk);
        for survival in [Survival::All, Survival::Nothing] {
            check_image(&disk.after_crash(survival), &told, &format!("sync {nth} fails, {survival:?}"));
        }
    }
}
