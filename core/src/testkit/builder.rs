//! What a fake server is started with. It serves nobody.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI32, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::sync::{Notify, watch};
use tokio_postgres::types::Type;

use super::{
    FakePostgres,
    context::STARTED_AT,
    data::Data,
    reply::Reply,
    script::{At, Fault, Script},
    sql,
    world::{Counters, Mode, Role, World},
};
use crate::db::SCHEMA_SQL;

/// What a server is started with. Made by [`FakePostgres::builder`].
#[derive(Debug)]
#[must_use = "a builder serves nobody until it is started"]
pub struct Builder {
    rules: Vec<(String, Reply)>,
    script: Script,
    columns: HashMap<String, Type>,
    settings: HashMap<String, String>,
    password: Option<String>,
    system_identifier: i64,
}

impl Builder {
    pub(super) fn new() -> Self {
        let settings = [
            ("server_version", "15.18"),
            ("server_version_num", "150018"),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("standard_conforming_strings", "on"),
            ("integer_datetimes", "on"),
            ("DateStyle", "ISO, MDY"),
            ("TimeZone", "UTC"),
            ("synchronous_commit", "on"),
            ("wal_segment_size", "16MB"),
        ];
        let mut columns = sql::columns(SCHEMA_SQL);
        columns.extend([("pid".to_owned(), Type::INT4), ("backend_start".to_owned(), Type::TIMESTAMPTZ)]);
        Self {
            rules: Vec::new(),
            script: Script::default(),
            columns,
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            password: None,
            system_identifier: 7_300_000_000_000_000_001,
        }
    }

    /// Answers statements that begin with this (blanks and letter case aside). Where several beginnings fit, the longest
    /// counts. A SELECT or RETURNING that neither this nor the server itself answers fails with 42883; other statements
    /// count as having touched one row.
    pub fn on(mut self, beginning: impl AsRef<str>, reply: Reply) -> Self {
        self.rules.push((sql::normal(beginning.as_ref()), reply));
        self
    }

    /// Tells the types of columns by their CREATE TABLE statements, so that parameters compared with them or inserted
    /// into them get their type. Else [`Reply::taking`] says it, or they are text.
    pub fn schema(mut self, sql: &str) -> Self {
        self.columns.extend(sql::columns(sql));
        self
    }

    /// Puts a fault into the script, for the next such moment.
    pub fn fault(self, at: At, fault: Fault) -> Self {
        self.fault_nth(at, 1, fault)
    }

    /// Puts a fault into the script, for the `nth` such moment, counted from 1.
    pub fn fault_nth(mut self, at: At, nth: u64, fault: Fault) -> Self {
        self.script.add(at, nth, fault);
        self
    }

    /// Puts a fault into the script, for every such moment.
    pub fn fault_always(mut self, at: At, fault: Fault) -> Self {
        self.script.add_always(at, fault);
        self
    }

    /// Asks clients for this password, and refuses others with 28P01. Default: takes everybody.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// A setting as `SHOW` and `current_setting` give it, such as `server_version`.
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.insert(name.into(), value.into());
        self
    }

    /// The identity of the database cluster, to tell one server from another.
    pub fn system_identifier(mut self, identifier: i64) -> Self {
        self.system_identifier = identifier;
        self
    }

    /// Starts the server.
    #[must_use]
    pub fn start(self) -> FakePostgres {
        // No two servers were started in the same moment.
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let role = Role { in_recovery: false, read_only: false, timeline: 1, crashes: 0 };
        let world = World {
            columns: self.columns,
            settings: self.settings,
            password: self.password,
            system_identifier: self.system_identifier,
            started: SystemTime::UNIX_EPOCH
                + Duration::from_secs(STARTED_AT)
                + Duration::from_micros(STARTED.fetch_add(1, Ordering::Relaxed)),
            rules: Mutex::new(self.rules),
            script: Mutex::new(self.script),
            data: Mutex::new(Data::default()),
            released: Notify::new(),
            mode: watch::Sender::new(Mode::Up),
            role: Mutex::new(role),
            counters: Counters::default(),
            notices: super::notices::channel(),
            unanswered: Mutex::default(),
            sessions: Mutex::default(),
            next_process: AtomicI32::new(1_001),
        };
        FakePostgres { world: Arc::new(world), tasks: Arc::default() }
    }
}
