//! What is set aside survives restarts, power cuts and damage like everything else that was acknowledged: at every step
//! an entry is pending or aside, never both and never neither.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::inspect::surveyed;
use super::{driven, entry, open, open_with, pending, together};
use crate::journal::disk::memory::{Fault, Image, MemoryDisk, Survival};
use crate::journal::{Aside, AsideEntry, Journal, JournalConfig, JournalError, JournalWriter, NewEntry};

const SURVIVALS: [Survival; 2] = [Survival::All, Survival::Nothing];

fn rejected() -> Aside {
    Aside::Rejected { reason: "23505".to_owned() }
}

fn held() -> Aside {
    Aside::Held { reason: "unknown-command".to_owned() }
}

fn of(key: &str, ordering_key: &str) -> NewEntry {
    NewEntry { ordering_key: ordering_key.to_owned(), version: 3, ..entry(key, &format!("content of {key}")) }
}

fn kept(journal: &Journal) -> Vec<AsideEntry> {
    journal.aside(0, usize::MAX).unwrap()
}

fn keys_aside(journal: &Journal) -> Vec<String> {
    kept(journal).into_iter().map(|aside| aside.entry.key).collect()
}

/// Entries 1 to 6: a rejected, b held, c to f pending; b and d of one ordering key.
fn filled(disk: &MemoryDisk) -> (Journal, JournalWriter) {
    let (journal, mut writer, _) = open(disk);
    let entries: Vec<NewEntry> = ["a", "b", "c", "d", "e", "f"]
        .iter()
        .map(|key| of(key, if *key == "d" { "b" } else { key }))
        .collect();
    together(&journal, &mut writer, &entries);
    driven(&mut writer, journal.set_aside(&[1], rejected())).unwrap();
    driven(&mut writer, journal.set_aside(&[2], held())).unwrap();
    (journal, writer)
}

#[test]
fn what_is_aside_is_there_after_a_restart_with_everything_it_had() {
    let disk = MemoryDisk::default();
    let (journal, writer) = filled(&disk);
    let before = kept(&journal);
    assert_eq!((before[0].why.clone(), before[1].why.clone()), (rejected(), held()));
    assert_eq!(before[0].entry.payload, "content of a");
    drop((journal, writer));
    for survival in SURVIVALS {
        let image = disk.after_crash(survival);
        let survey = surveyed(&image);
        assert_eq!((survey.aside.rejected, survey.aside.held, survey.pending.entries), (1, 1, 4));
        let (journal, _writer, recovery) = open(&image);
        assert_eq!(kept(&journal), before, "{survival:?}");
        assert_eq!((recovery.entries, journal.backlog()), (4, survey.pending));
        let keys: Vec<String> = pending(&journal).into_iter().map(|entry| entry.key).collect();
        assert_eq!(keys, ["c", "e", "f"], "d waits behind b");
        assert_eq!(journal.release("b"), 1);
        let keys: Vec<String> = pending(&journal).into_iter().map(|entry| entry.key).collect();
        assert_eq!(keys, ["b", "c", "d", "e", "f"]);
    }
}

#[test]
fn the_position_passes_what_is_aside_and_its_space_returns() {
    let disk = MemoryDisk::default();
    let (journal, mut writer) = filled(&disk);
    journal.settled(&[3, 4, 5, 6]);
    writer.housekeep();
    assert_eq!(writer.stored_position(), 6);
    drop((journal, writer));
    let (journal, mut writer, recovery) = open(&disk);
    assert_eq!((recovery.entries, keys_aside(&journal)), (0, vec!["a".to_owned(), "b".to_owned()]));
    assert!(journal.find("b").is_some() && journal.find("a").is_none());
    assert_eq!(journal.release("b"), 1);
    assert_eq!(journal.backlog().entries, 1);
    journal.settled(&[2]);
    writer.housekeep();
    drop((journal, writer));
    let (journal, _writer, _) = open(&disk);
    assert_eq!(keys_aside(&journal), ["a"], "what was settled after its release is gone");
}

#[test]
fn what_is_gone_does_not_come_back_while_a_segment_still_has_it() {
    let disk = MemoryDisk::default();
    let (journal, mut writer) = filled(&disk);
    assert!(driven(&mut writer, journal.discard("a")).unwrap());
    let again = |disk: &MemoryDisk| {
        let (journal, _writer, _) = open(&disk.after_crash(Survival::Nothing));
        (keys_aside(&journal), pending(&journal).first().unwrap().sequence)
    };
    assert_eq!(again(&disk), (vec!["b".to_owned()], 3));
    drop((journal, writer));
    let (journal, mut writer, _) = open(&disk);
    driven(&mut writer, journal.set_aside(&[5], rejected())).unwrap();
    assert_eq!(again(&disk), (vec!["b".to_owned(), "e".to_owned()], 3));
}

#[test]
fn a_dead_letter_that_was_given_back_is_history_at_once_and_after_a_power_cut() {
    let disk = MemoryDisk::default();
    let (journal, mut writer) = filled(&disk);
    assert_eq!(driven(&mut writer, journal.retry("a")).unwrap().unwrap().sequence, 7);
    assert_eq!(keys_aside(&journal), ["b"]);
    {
        let (journal, _writer, _) = open(&disk.after_crash(Survival::Nothing));
        assert_eq!(keys_aside(&journal), ["b"]);
        assert!(pending(&journal).last().unwrap().retried);
    }
    driven(&mut writer, journal.set_aside(&[7], rejected())).unwrap();
    let letters = |journal: &Journal| {
        kept(journal).into_iter().map(|aside| (aside.entry.sequence, aside.entry.retried)).collect::<Vec<_>>()
    };
    let (image, _writer, _) = open(&disk.after_crash(Survival::Nothing));
    assert_eq!(letters(&image), [(2, false), (7, true)]);
    assert_eq!(letters(&journal), [(2, false), (7, true)]);
}

#[test]
fn the_file_is_written_anew_once_most_of_it_is_gone() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open_with(&disk, |config| config.segment_bytes = 8 << 20);
    let large = "x".repeat(300_000);
    let entries: Vec<NewEntry> = (1..=9).map(|number| entry(&number.to_string(), &large)).collect();
    together(&journal, &mut writer, &entries);
    driven(&mut writer, journal.set_aside(&[2, 3, 4, 5, 6, 7, 8, 9], rejected())).unwrap();
    let before = disk.bytes("aside").len();
    for key in ["2", "3", "4", "5", "6", "7"] {
        assert!(driven(&mut writer, journal.discard(key)).unwrap());
    }
    assert!(disk.bytes("aside").len() < before * 2 / 3, "{}", disk.bytes("aside").len());
    assert_eq!(keys_aside(&journal), ["8", "9"]);
    for survival in SURVIVALS {
        let (journal, _writer, _) = open(&disk.after_crash(survival));
        assert_eq!(keys_aside(&journal), ["8", "9"], "{survival:?}");
        assert_eq!(pending(&journal).len(), 1, "what was discarded is not pending: {survival:?}");
    }
}

#[test]
fn at_its_bounds_nothing_more_is_set_aside_and_nothing_is_lost() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open_with(&disk, |config| config.aside_entries_max = 1);
    together(&journal, &mut writer, &[of("a", "a"), of("b", "b")]);
    let refused = driven(&mut writer, journal.set_aside(&[1, 2], rejected())).unwrap_err();
    assert!(matches!(refused, JournalError::AsideFull { entries: 0, .. }), "{refused}");
    driven(&mut writer, journal.set_aside(&[1], rejected())).unwrap();
    assert!(driven(&mut writer, journal.set_aside(&[2], rejected())).is_err());
    assert_eq!((pending(&journal).len(), keys_aside(&journal).len()), (1, 1));
    assert!(driven(&mut writer, journal.discard("a")).unwrap());
    driven(&mut writer, journal.set_aside(&[2], rejected())).unwrap();
}

#[test]
fn damage_in_the_file_is_refused_with_its_place_and_a_torn_tail_is_cut() {
    let disk = MemoryDisk::default();
    drop(filled(&disk));
    let bytes = disk.bytes("aside");
    let try_open = |bytes: Vec<u8>| {
        let disk = disk.after_crash(Survival::All);
        disk.put("aside", bytes.clone());
        let survey = surveyed(&disk);
        let opened = Journal::open_on(JournalConfig::new("/nowhere/journal"), Arc::new(disk.clone()));
        assert_eq!(survey.is_sound(), opened.is_ok(), "{survey:?}");
        assert!(opened.is_ok() || disk.bytes("aside") == bytes, "nothing was changed");
        opened.map(|(journal, ..)| (keys_aside(&journal), pending(&journal).len()))
    };
    let mut flipped = bytes.clone();
    flipped[60] ^= 1;
    let refused = try_open(flipped).unwrap_err().to_string();
    assert!(refused.contains("/nowhere/journal/aside") && refused.contains("byte 52"), "{refused}");
    for place in [0, 20, 50] {
        let mut flipped = bytes.clone();
        flipped[place] ^= 1;
        assert!(try_open(flipped).is_err(), "header, byte {place}");
    }
    let torn = bytes[..bytes.len() - 5].to_vec();
    assert_eq!(try_open(torn).unwrap(), (vec!["a".to_owned()], 5), "b is pending again");
}

/// What an operator and replay were told in a run.
#[derive(Debug, Default)]
struct Told {
    /// The last word on each key that was appended: `pending`, `aside`, `gone`; with two where nobody was told.
    keys: BTreeMap<String, Vec<&'static str>>,
}

impl Told {
    fn now(&mut self, key: &str, state: &'static str, known: bool) {
        let states = self.keys.entry(key.to_owned()).or_default();
        if known {
            states.clear();
        }
        states.push(state);
    }
}

/// With `reserves` files get the room they ask for, so that every record lies in zeros that were there before it.
fn run(disk: &MemoryDisk, reserves: bool) -> Told {
    let mut told = Told::default();
    disk.set_reserves(reserves);
    let mut config = JournalConfig::new("/nowhere/journal");
    config.segment_bytes = 4096;
    let Ok((journal, mut writer, _)) = Journal::open_on(config, Arc::new(disk.clone())) else { return told };
    for round in 0..3_u64 {
        let keys: Vec<String> = (0..4).map(|number| format!("{round}-{number}")).collect();
        let entries: Vec<NewEntry> = keys.iter().map(|key| of(key, key)).collect();
        let answers = together(&journal, &mut writer, &entries);
        for (key, answer) in keys.iter().zip(&answers) {
            match answer {
                Ok(_) => told.now(key, "pending", true),
                Err(_) => {
                    told.now(key, "pending", false);
                    told.now(key, "gone", false);
                }
            }
        }
        let sequences: Vec<u64> = answers.iter().flatten().map(|done| done.sequence).collect();
        let [first, second, third, _] = sequences[..] else { continue };
        for (sequence, key, why) in [(second, &keys[1], rejected()), (third, &keys[2], held())] {
            let done = driven(&mut writer, journal.set_aside(&[sequence], why)).is_ok();
            told.now(key, "aside", done);
        }
        if let Ok(true) = driven(&mut writer, journal.discard(&keys[1])) {
            told.now(&keys[1], "gone", true);
        } else {
            told.now(&keys[1], "gone", false);
        }
        journal.release(&keys[2]);
        journal.settled(&[first]);
        told.now(&keys[0], "gone", false);
        writer.housekeep();
    }
    told
}

#[test]
fn a_power_cut_at_any_step_leaves_each_entry_pending_or_aside_as_it_was_told() {
    let whole = MemoryDisk::default();
    run(&whole, true);
    let mut tried = 0;
    for (step, reserves) in (0..=whole.steps()).flat_map(|step| [(step, false), (step, true)]) {
        let disk = MemoryDisk::default();
        disk.set_faults(&[Fault::PowerCut { step }]);
        let told = run(&disk, reserves);
        for Image { what, disk: image } in disk.images(&mut fastrand::Rng::with_seed(step), 4) {
            let context = format!("step {step}, {what}, room {reserves}");
            let survey = (!image.everything().is_empty()).then(|| surveyed(&image));
            let (journal, writer, _) = open(&image);
            let aside = keys_aside(&journal);
            if let Some(survey) = survey {
                let counts = journal.aside_counts();
                assert_eq!(survey.pending, journal.backlog(), "{context}");
                assert_eq!(
                    (survey.aside.rejected, survey.aside.held),
                    (counts.rejected, counts.held),
                    "{context}"
                );
            }
            let waiting: Vec<String> = pending(&journal).into_iter().map(|entry| entry.key).collect();
            for (key, states) in &told.keys {
                let is = match (waiting.contains(key), aside.contains(key)) {
                    (true, true) => panic!("{context}: {key} is pending and aside"),
                    (true, false) => "pending",
                    (false, true) => "aside",
                    (false, false) => "gone",
                };
                assert!(states.contains(&is), "{context}: {key} is {is}, told {states:?}");
            }
            drop((journal, writer));
            let (journal, _writer, _) = open(&image.after_crash(Survival::Nothing));
            assert_eq!(keys_aside(&journal), aside, "{context}: the second start sees something else");
            tried += 1;
        }
    }
    assert!(tried > 200, "{tried}");
}
