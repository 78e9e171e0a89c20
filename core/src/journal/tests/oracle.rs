//! The journal beside redb, with the same operations at random: after each, both must hold the same entries in the same
//! order, whatever was settled, and however often both were opened again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

use redb::{Database, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::{entry, open_with, pending, together};
use crate::journal::disk::memory::{MemoryDisk, Survival};
use crate::journal::{AppendError, Journal, JournalWriter, NewEntry};

const PENDING: TableDefinition<u64, &str> = TableDefinition::new("pending");
/// Settled, and not yet behind the stored position: given again after a restart.
const SETTLED: TableDefinition<u64, &str> = TableDefinition::new("settled");
/// The newest entry of each key: what a caller means by the key, though a restart can bring a settled one of it back.
const NEWEST: TableDefinition<&str, u64> = TableDefinition::new("newest");
const STEPS: usize = 400;
const SEEDS: usize = 4;

/// What the journal should hold.
struct Oracle {
    database: Option<Database>,
    path: std::path::PathBuf,
}

impl Oracle {
    fn database(&self) -> &Database {
        self.database.as_ref().unwrap()
    }

    fn change(&self, durability: Durability, change: impl FnOnce(&mut Tables)) {
        let mut transaction = self.database().begin_write().unwrap();
        transaction.set_durability(durability).unwrap();
        change(&mut Tables {
            pending: transaction.open_table(PENDING).unwrap(),
            settled: transaction.open_table(SETTLED).unwrap(),
            newest: transaction.open_table(NEWEST).unwrap(),
        });
        transaction.commit().unwrap();
    }

    fn pending(&self) -> Vec<(u64, String)> {
        let transaction = self.database().begin_read().unwrap();
        let table = transaction.open_table(PENDING).unwrap();
        let rows = table.iter().unwrap().map(|row| row.unwrap());
        rows.map(|(sequence, key)| (sequence.value(), key.value().to_owned())).collect()
    }

    fn newest(&self) -> BTreeMap<String, u64> {
        let transaction = self.database().begin_read().unwrap();
        let table = transaction.open_table(NEWEST).unwrap();
        let rows = table.iter().unwrap().map(|row| row.unwrap());
        rows.map(|(key, sequence)| (key.value().to_owned(), sequence.value())).collect()
    }

    /// What is settled beyond the first entry that waits comes back.
    fn reopen(&mut self, came_again: &BTreeSet<u64>) {
        self.change(Durability::Immediate, |tables| {
            let first = tables.pending.first().unwrap().map_or(u64::MAX, |(sequence, _)| sequence.value());
            let rows = tables.settled.extract_if(|_, _| true).unwrap();
            for row in rows {
                let (sequence, key) = row.unwrap();
                // What stood between entries that were moved is settled for good.
                if sequence.value() > first && came_again.contains(&sequence.value()) {
                    tables.pending.insert(sequence.value(), key.value()).unwrap();
                }
            }
        });
        self.database = None;
        self.database = Some(Database::open(&self.path).unwrap());
    }
}

struct Tables<'t> {
    pending: redb::Table<'t, u64, &'static str>,
    settled: redb::Table<'t, u64, &'static str>,
    newest: redb::Table<'t, &'static str, u64>,
}

fn append(oracle: &Oracle, journal: &Journal, writer: &mut JournalWriter, random: &mut fastrand::Rng) {
    // Few keys, so that some are pending already.
    let entries: Vec<NewEntry> = (0..random.usize(1..6))
        .map(|_| NewEntry {
            ordering_key: format!("todo-{}", random.u8(..3)),
            ..entry(&format!("key-{}", random.u8(..40)), &"x".repeat(random.usize(..400)))
        })
        .collect();
    let (waiting, newest) = (oracle.pending(), oracle.newest());
    let waits = |key: &str| waiting.iter().any(|(sequence, _)| newest.get(key) == Some(sequence));
    let answers = together(journal, writer, &entries);
    oracle.change(Durability::None, |tables| {
        for (answer, entry) in answers.into_iter().zip(&entries) {
            match answer {
                Ok(appended) => {
                    assert!(!waits(&entry.key), "{} was pending already", entry.key);
                    tables.pending.insert(appended.sequence, entry.key.as_str()).unwrap();
                    tables.newest.insert(entry.key.as_str(), appended.sequence).unwrap();
                }
                Err(AppendError::KeyPending { sequence, .. }) => {
                    let there = tables.pending.get(sequence).unwrap();
                    assert_eq!(there.map(|key| key.value().to_owned()), Some(entry.key.clone()));
                }
                Err(other) => panic!("{other}"),
            }
        }
    });
}

fn settle(oracle: &Oracle, journal: &Journal, random: &mut fastrand::Rng) {
    let there = oracle.pending();
    let count = random.usize(..=there.len().min(8));
    // Mostly the oldest ones, as replay does, but in any order, and not without gaps.
    let mut chosen: Vec<_> = there.into_iter().take(12).collect();
    random.shuffle(&mut chosen);
    chosen.truncate(count);
    journal.settled(&chosen.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>());
    oracle.change(Durability::None, |tables| {
        for (sequence, key) in &chosen {
            tables.pending.remove(sequence).unwrap();
            tables.settled.insert(sequence, key.as_str()).unwrap();
        }
    });
}

fn compare(oracle: &Oracle, journal: &Journal, random: &mut fastrand::Rng, context: &str) {
    let expected = oracle.pending();
    let found: Vec<_> = pending(journal).into_iter().map(|one| (one.sequence, one.key)).collect();
    assert_eq!(found, expected, "{context}");
    assert_eq!(journal.backlog().entries, expected.len() as u64, "{context}");
    let some = random.usize(1..8);
    let batch = journal.batch(some, u64::MAX, &|_| false).unwrap();
    let first: Vec<_> = batch.into_iter().map(|one| (one.sequence, one.key)).collect();
    assert_eq!(first, expected[..some.min(expected.len())], "{context}: a batch is the oldest");
    for (key, sequence) in oracle.newest() {
        let waits = |sequence| expected.contains(&(sequence, key.clone()));
        match journal.find(&key) {
            Some(found) if waits(sequence) => assert_eq!(found.sequence, sequence, "{context}: {key}"),
            // An older one of the key that was settled came again after a restart; its database knows that it is done.
            Some(found) => assert!(waits(found.sequence), "{context}: {key}"),
            None => assert!(!waits(sequence), "{context}: {key}"),
        }
    }
}

#[test]
fn the_journal_holds_what_redb_holds_after_every_step() {
    let given = std::env::var("RIDETHROUGH_TEST_SEED").ok().and_then(|text| text.parse().ok());
    for _ in 0..SEEDS {
        let seed = given.unwrap_or_else(|| u64::from(fastrand::u32(..)));
        let _ = writeln!(std::io::stderr().lock(), "seed {seed}; again with RIDETHROUGH_TEST_SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("oracle");
        let mut oracle = Oracle { database: Some(Database::create(&path).unwrap()), path };
        oracle.change(Durability::Immediate, |_| {});
        let mut disk = MemoryDisk::default();
        let (mut journal, mut writer, _) = open_with(&disk, |_| {});
        for step in 0..STEPS {
            match random.u8(..10) {
                0..=4 => append(&oracle, &journal, &mut writer, &mut random),
                5..=7 => settle(&oracle, &journal, &mut random),
                8 => writer.housekeep(),
                _ => {
                    // As the writer does at its end; then the power may go.
                    writer.housekeep();
                    drop((journal, writer));
                    let left = if random.bool() { Survival::All } else { Survival::Nothing };
                    disk = disk.after_crash(left);
                    (journal, writer, _) = open_with(&disk, |_| {});
                    let came_again = pending(&journal).iter().map(|entry| entry.sequence).collect();
                    oracle.reopen(&came_again);
                }
            }
            compare(&oracle, &journal, &mut random, &format!("seed {seed}, step {step}"));
        }
    }
}
