//! Opening a journal of a million entries, beside a raw scan of the same files: read each, walk the lengths, check each
//! checksum, keep nothing.

use std::{
    hint::black_box,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use ridethrough::journal::{Journal, JournalConfig, NewEntry};

use crate::{appends::PAYLOAD_BYTES, measure::Comparison};

const RECORDS: u64 = 1_000_000;
/// Appended at once while the journal is filled.
const TASKS: u64 = 1_024;
/// What `docs/journal-format.md` says of a segment and a record.
const HEADER_BYTES: usize = 52;
const SALT_AT: usize = 12;
const MAGIC: [u8; 4] = [0xA7, b'R', b'e', b'c'];

/// An entry as a service would append it.
pub fn entry(number: u64, payload: Bytes) -> NewEntry {
    NewEntry {
        key: format!("key-{number}"),
        kind: "todo.create".to_owned(),
        fingerprint: [7; 32],
        accepted_at: SystemTime::now(),
        payload,
        version: 1,
        ordering_key: String::new(),
        retried: false,
    }
}

/// The table, on the disk that holds `folder`.
pub fn table(folder: &Path, rounds: usize) -> String {
    let home = Arc::new(tempfile::tempdir_in(folder).expect("a folder can be made"));
    let config = JournalConfig {
        bytes_max: 4 << 30,
        entries_max: 2 * RECORDS,
        ..JournalConfig::new(home.path().join("journal"))
    };
    fill(config.clone());
    let (theirs, kept) = (config.dir.clone(), Arc::clone(&home));
    Comparison::new(format!("recovery of {RECORDS} records of {PAYLOAD_BYTES} bytes"), "ms")
        .with("ridethrough journal, opened", move || {
            let started = Instant::now();
            let (journal, writer, recovery) = Journal::open(config.clone()).expect("the journal is sound");
            let took = started.elapsed();
            assert_eq!(recovery.entries, RECORDS);
            drop((journal, writer, &kept));
            took.as_secs_f64() * 1e3
        })
        .with("raw scan with CRC-32C", move || {
            let started = Instant::now();
            let records: u64 = segments(&theirs).iter().map(|path| scan(path)).sum();
            let took = started.elapsed();
            assert_eq!(records, RECORDS);
            took.as_secs_f64() * 1e3
        })
        .run(rounds)
}

fn fill(config: JournalConfig) {
    let (journal, writer, _) = Journal::open(config).expect("a new journal can be opened");
    let writer = std::thread::spawn(move || writer.run());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
    let payload = Bytes::from(vec![b'x'; PAYLOAD_BYTES]);
    runtime.expect("a runtime can be built").block_on(async {
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let (journal, payload) = (journal.clone(), payload.clone());
                tokio::spawn(async move {
                    for number in (task..RECORDS).step_by(TASKS as usize) {
                        journal.append(entry(number, payload.clone())).await.expect("the journal takes it");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("an appending task does not panic");
        }
    });
    drop(journal);
    writer.join().expect("the journal's writer does not panic");
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(folder).expect("the folder can be listed");
    let mut paths: Vec<PathBuf> = listed
        .map(|item| item.expect("the folder can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "segment"))
        .collect();
    paths.sort();
    paths
}

/// The number of sound records from the start of the file on.
fn scan(path: &Path) -> u64 {
    let bytes = std::fs::read(path).expect("the file can be read");
    let salt = crc32c::crc32c(&bytes[SALT_AT..SALT_AT + 4]);
    let (mut rest, mut records) = (&bytes[HEADER_BYTES..], 0);
    while rest.get(..4) == Some(&MAGIC) {
        let length = u32::from_le_bytes(rest[4..8].try_into().expect("four bytes are four bytes")) as usize;
        let (record, after) = rest.split_at(length);
        let (covered, sum) = record.split_at(length - 4);
        assert_eq!(crc32c::crc32c_append(salt, covered).to_le_bytes(), *sum, "a record is spoilt");
        black_box(covered);
        records += 1;
        rest = after;
    }
    records
}
