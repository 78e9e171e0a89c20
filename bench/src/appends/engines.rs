//! Where a batch can be made durable beside the journal: a raw file, redb, fjall, SQLite; each with a sync for each batch.

use std::{fs::File, os::unix::fs::FileExt as _, path::Path};

use rustix::fs::{FallocateFlags, fallocate};

use super::{PAYLOAD_BYTES, group::Sink};

/// More than a round writes at any speed that was seen; beyond it the file is written over from its start.
const RAW_BYTES: u64 = 256 << 20;

/// How the raw file's space came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepared {
    /// By `fallocate`: the file system notes for each block that it was written to.
    Allocated,
    /// By writing zeros: a sync has no metadata to write at all.
    Written,
}

/// The least that durable appends can cost.
pub struct RawFile {
    file: File,
    prepared: Prepared,
    offset: u64,
    buffer: Vec<u8>,
}

impl RawFile {
    pub fn new(path: &Path, prepared: Prepared) -> Self {
        let file = File::create_new(path).expect("a file can be made");
        let raw = Self { file, prepared, offset: 0, buffer: Vec::new() };
        raw.allocate();
        if prepared == Prepared::Written {
            let zeros = vec![0; 1 << 20];
            for offset in (0..RAW_BYTES).step_by(zeros.len()) {
                raw.file.write_all_at(&zeros, offset).expect("the disk has room");
            }
        }
        raw.file.sync_all().expect("the disk works");
        raw
    }

    fn allocate(&self) {
        fallocate(&self.file, FallocateFlags::empty(), 0, RAW_BYTES).expect("the disk has room");
    }
}

impl Sink for RawFile {
    fn commit(&mut self, numbers: &[u64]) {
        self.buffer.resize(numbers.len() * PAYLOAD_BYTES, b'x');
        if self.offset + self.buffer.len() as u64 > RAW_BYTES {
            self.offset = 0;
        }
        self.file.write_all_at(&self.buffer, self.offset).expect("the disk works");
        self.file.sync_data().expect("the disk works");
        self.offset += self.buffer.len() as u64;
    }

    fn rewind(&mut self) {
        self.offset = 0;
        if self.prepared == Prepared::Allocated {
            self.file.set_len(0).expect("the file can be cut");
            self.allocate();
            self.file.sync_all().expect("the disk works");
        }
    }
}

const TABLE: redb::TableDefinition<u64, &[u8]> = redb::TableDefinition::new("entries");

/// redb, which syncs at every commit by default.
pub struct Redb(redb::Database);

impl Redb {
    pub fn new(path: &Path) -> Self {
        Self(redb::Database::create(path).expect("redb makes its file"))
    }
}

impl Sink for Redb {
    fn commit(&mut self, numbers: &[u64]) {
        let transaction = self.0.begin_write().expect("redb begins");
        {
            let mut table = transaction.open_table(TABLE).expect("redb has the table");
            for number in numbers {
                table.insert(number, [b'x'; PAYLOAD_BYTES].as_slice()).expect("redb inserts");
            }
        }
        transaction.commit().expect("redb commits");
    }
}

/// fjall, told to sync each batch.
pub struct Fjall {
    database: fjall::Database,
    entries: fjall::Keyspace,
}

impl Fjall {
    pub fn new(path: &Path) -> Self {
        let database = fjall::Database::builder(path).open().expect("fjall makes its folder");
        let entries = database
            .keyspace("entries", fjall::KeyspaceCreateOptions::default)
            .expect("fjall makes the keyspace");
        Self { database, entries }
    }
}

impl Sink for Fjall {
    fn commit(&mut self, numbers: &[u64]) {
        let mut batch = self.database.batch().durability(Some(fjall::PersistMode::SyncData));
        for number in numbers {
            batch.insert(&self.entries, number.to_be_bytes(), [b'x'; PAYLOAD_BYTES]);
        }
        batch.commit().expect("fjall commits");
    }
}

/// SQLite, with a write-ahead log that is synced at every commit.
pub struct Sqlite(rusqlite::Connection);

impl Sqlite {
    pub fn new(path: &Path) -> Self {
        let connection = rusqlite::Connection::open(path).expect("SQLite makes its file");
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
                 CREATE TABLE entries (number INTEGER PRIMARY KEY, payload BLOB NOT NULL)",
            )
            .expect("SQLite makes the table");
        Self(connection)
    }
}

impl Sink for Sqlite {
    fn commit(&mut self, numbers: &[u64]) {
        let transaction = self.0.transaction().expect("SQLite begins");
        {
            let mut insert = transaction
                .prepare("INSERT INTO entries (number, payload) VALUES (?1, ?2)")
                .expect("the statement is right");
            for number in numbers {
                insert.execute((*number as i64, [b'x'; PAYLOAD_BYTES])).expect("SQLite inserts");
            }
        }
        transaction.commit().expect("SQLite commits");
    }
}
