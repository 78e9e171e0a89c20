//! Crashes, power cuts, failing syncs and full disks: at every step, what was acknowledged is there afterwards, and
//! what was refused is not.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::Arc;

use super::inspect::surveyed;
use super::{driven, entry, one, open, pending, together};
use crate::journal::disk::memory::{Fault, Image, MemoryDisk, Survival};
use crate::journal::{AppendError, Aside, Journal, JournalConfig, JournalHealth, JournalWriter, NewEntry};

const SURVIVALS: [Survival; 2] = [Survival::All, Survival::Nothing];
/// Images at random for each crash point, beside those that are tried at each.
const DRAWS: usize = 8;
/// Entries of one batch in the representative run.
const BATCH: u64 = 5;
/// Batches of the representative run.
const ROUNDS: u64 = 24;

/// What the callers of a run were told.
#[derive(Debug, Default)]
struct Told {
    durable: BTreeMap<u64, String>,
    unknown: Vec<String>,
    refused: Vec<String>,
    /// Up to here all entries were settled.
    settled: u64,
    /// Dead letters that are kept.
    aside: BTreeSet<u64>,
    /// Dead letters that were discarded.
    discarded: BTreeSet<u64>,
    /// Of these a call failed: kept, pending or gone.
    doubtful: BTreeSet<u64>,
}

/// A run with batches, rotation, settling out of order, setting aside, cursor and deletion; goes on after errors, as a
/// server would.
fn representative_run(disk: &MemoryDisk) -> Told {
    let mut told = Told::default();
    let mut config = JournalConfig::new("/nowhere/journal");
    config.segment_bytes = 4096;
    let Ok((journal, mut writer, _)) = Journal::open_on(config, Arc::new(disk.clone())) else { return told };
    for round in 0..ROUNDS {
        let entries: Vec<NewEntry> = (0..BATCH)
            .map(|number| NewEntry {
                ordering_key: format!("todo-{}", number % 2),
                ..entry(&format!("{round}-{number}"), &"x".repeat(300 + 50 * number as usize))
            })
            .collect();
        for (answer, entry) in together(&journal, &mut writer, &entries).into_iter().zip(entries) {
            match answer {
                Ok(done) => drop(told.durable.insert(done.sequence, entry.key)),
                Err(AppendError::Unknown) => told.unknown.push(entry.key),
                Err(_) => told.refused.push(entry.key),
            }
        }
        if round % 3 == 2 {
            tidy(&journal, &mut writer, &mut told, BATCH * round - 2);
        }
    }
    told
}

/// Sets one entry aside, discards the one before it, and settles all others up to `through`, the newest first, and one
/// beyond.
fn tidy(journal: &Journal, writer: &mut JournalWriter, told: &mut Told, through: u64) {
    let last = told.durable.keys().max().copied().unwrap_or(0);
    let through = through.min(last);
    let letter = through.saturating_sub(1);
    if letter > told.settled {
        if let Some(before) = told.aside.pop_first() {
            let gone = driven(writer, journal.discard(&told.durable[&before]));
            if gone.is_ok() {
                told.discarded.insert(before)
            } else {
                told.doubtful.insert(before)
            };
        }
        let why = Aside::Rejected { reason: "planned".to_owned() };
        let kept = driven(writer, journal.set_aside(&[letter], why));
        if kept.is_ok() {
            told.aside.insert(letter)
        } else {
            told.doubtful.insert(letter)
        };
    }
    let all: Vec<u64> = (told.settled + 1..=through).rev().filter(|sequence| *sequence != letter).collect();
    journal.settled(&all);
    journal.settled(&[through + 2]);
    if letter > told.settled {
        told.settled = if told.aside.contains(&letter) { through } else { letter - 1 };
    }
    writer.housekeep();
}

/// Opens the image twice, so that a repair that makes things worse shows, and compares with what was told.
fn check_image(image: &MemoryDisk, told: &Told, context: &str) {
    let survey = (!image.everything().is_empty()).then(|| surveyed(image));
    let (journal, writer, _) = open(image);
    if let Some(survey) = survey {
        assert!(survey.is_sound() && survey.pending == journal.backlog(), "{context}: {survey:?}");
    }
    let first = pending(&journal);
    let aside: BTreeSet<u64> =
        journal.aside(0, usize::MAX).unwrap().into_iter().map(|one| one.entry.sequence).collect();
    drop((journal, writer));
    let after_repair = image.after_crash(Survival::Nothing);
    let (journal, mut writer, again) = open(&after_repair);
    assert_eq!(pending(&journal), first, "{context}: the second start sees something else");
    assert_eq!(again.torn_bytes, 0, "{context}: the cut was not durable");
    for pair in first.windows(2) {
        assert!(pair[0].sequence < pair[1].sequence, "{context}: order");
        let mut between = pair[0].sequence + 1..pair[1].sequence;
        let elsewhere = [&aside, &told.discarded, &told.doubtful];
        let lost = between.find(|one| !elsewhere.iter().any(|place| place.contains(one)));
        assert_eq!(lost, None, "{context}: lost");
    }
    let is_pending = |sequence: &u64| first.iter().any(|entry| entry.sequence == *sequence);
    let kept = |sequence: &u64| aside.contains(sequence) && !is_pending(sequence);
    assert!(told.aside.iter().all(kept), "{context}: of {:?} only {aside:?} is aside", told.aside);
    let gone = |sequence: &u64| !aside.contains(sequence) && !is_pending(sequence);
    assert!(told.discarded.iter().all(gone), "{context}: one of {:?} came back", told.discarded);
    let known = |sequence: &u64| told.aside.contains(sequence) || told.doubtful.contains(sequence);
    assert!(aside.iter().all(known), "{context}: nobody set {aside:?} aside");
    assert!(!aside.iter().any(is_pending), "{context}: aside and pending");
    // Exactly what was made durable, from the settled position at the latest, and at most one batch beyond.
    let last = told.durable.keys().max().copied().unwrap_or(0);
    let (from, to) = match (first.first(), first.last()) {
        (Some(first), Some(last)) => (first.sequence, last.sequence),
        _ => (last + 1, last),
    };
    // A call that failed may have set the very next one aside.
    let lost = (told.settled + 1..from).find(|one| !aside.contains(one) && !told.doubtful.contains(one));
    assert_eq!(lost, None, "{context}: lost, the first that waits is {from}");
    assert!((last..=last + BATCH).contains(&to), "{context}: the last entry is {to} and not {last}");
    for entry in &first {
        assert!(!told.refused.contains(&entry.key), "{context}: {} was refused and is here", entry.key);
        let known = match entry.sequence {
            sequence if sequence <= last => told.durable.get(&sequence) == Some(&entry.key),
            sequence => told.unknown.get((sequence - last - 1) as usize) == Some(&entry.key),
        };
        assert!(known, "{context}: nobody appended {} as {}", entry.key, entry.sequence);
    }
    let next = one(&journal, &mut writer, "after the crash").unwrap();
    assert!(told.durable.keys().all(|sequence| *sequence < next), "{context}: number {next} was given twice");
}

/// The seed of the images at random; printed, so that a failed run can be repeated.
fn random() -> fastrand::Rng {
    let given = std::env::var("RIDETHROUGH_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(fastrand::u32(..)));
    say(&format!("seed {seed}; again with RIDETHROUGH_TEST_SEED={seed}"));
    fastrand::Rng::with_seed(seed)
}

/// A disk that gives files the room that is asked for, in every second case.
fn disk_for(step: u64) -> MemoryDisk {
    let disk = MemoryDisk::default();
    disk.set_reserves(step.is_multiple_of(2));
    disk
}

fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

#[test]
fn a_crash_at_any_step_loses_nothing_acknowledged() {
    let (mut random, mut tried) = (random(), 0);
    let whole = disk_for(0);
    let told = representative_run(&whole);
    assert_eq!(told.durable.len() as u64, ROUNDS * BATCH);
    let kept_and_gone = (told.aside.len(), told.discarded.len());
    assert!(kept_and_gone.0 > 0 && kept_and_gone.1 > 2 && told.doubtful.is_empty(), "{kept_and_gone:?}");
    let steps = whole.steps();
    assert!(steps > 40, "the run is too small to mean anything: {steps} steps");
    for step in 0..=steps {
        let disk = disk_for(step);
        disk.set_faults(&[Fault::PowerCut { step }]);
        let told = representative_run(&disk);
        for Image { what, disk } in disk.images(&mut random, DRAWS) {
            check_image(&disk, &told, &format!("step {step} of {steps}, {what}"));
            tried += 1;
        }
    }
    say(&format!("{tried} crash points in {steps} steps"));
    assert!(tried > 1_500, "only {tried} crash points");
}

/// The start repairs, and dies at it: what it was about to repair is torn once more.
#[test]
fn a_crash_during_recovery_loses_nothing_either() {
    let (mut random, mut tried) = (random(), 0);
    let whole = disk_for(0);
    representative_run(&whole);
    for crash in 0..=whole.steps() {
        let disk = disk_for(crash);
        disk.set_faults(&[Fault::PowerCut { step: crash }]);
        let told = representative_run(&disk);
        let images = disk.images(&mut random, 0);
        if let Some(Image { what, disk }) = random.choice(&images) {
            let step = random.u64(..10);
            let again = disk.after_crash(Survival::All);
            again.set_faults(&[Fault::PowerCut { step }]);
            drop(Journal::open_on(JournalConfig::new("/nowhere/journal"), Arc::new(again.clone())));
            for image in again.images(&mut random, 0) {
                let context = format!("crash at {crash}, {what}, then at {step} of recovery, {}", image.what);
                check_image(&image.disk, &told, &context);
                tried += 1;
            }
        }
    }
    say(&format!("{tried} crash points in recovery"));
    assert!(tried > 400, "only {tried} crash points");
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
