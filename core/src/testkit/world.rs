//! What all sessions of one fake server share: rules, script, data, counters, and who is connected. It moves no bytes.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI32, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use tokio::sync::{Notify, broadcast, watch};
use tokio_postgres::types::Type;

use super::{data::Data, notices::Notice, reply::Reply, script::Script};

/// Statements without an answer that are kept for the test to look at.
const UNANSWERED_MAX: usize = 1_000;

/// How the server meets its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    Up,
    /// Nobody there: connections are refused.
    Away,
    /// Stopped in its tracks: connections are taken, nothing is answered until it goes on.
    Silent,
    /// New sessions are refused with a FATAL error of this code.
    Refusing(&'static str),
}

/// What a session is told from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    GoOn,
    Reset,
    Fatal(String),
}

/// Primary or standby.
#[derive(Debug, Clone, Copy)]
pub(super) struct Role {
    pub(super) in_recovery: bool,
    pub(super) read_only: bool,
    pub(super) timeline: i32,
    pub(super) crashes: u64,
}

#[derive(Debug)]
pub(super) struct SessionEntry {
    secret: i32,
    born: SystemTime,
    orders: watch::Sender<Order>,
    cancel: Arc<Notify>,
}

/// What a new session gets.
pub(super) struct Registered {
    pub(super) process: i32,
    pub(super) secret: i32,
    pub(super) born: SystemTime,
    pub(super) orders: watch::Receiver<Order>,
    pub(super) cancel: Arc<Notify>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connections: AtomicU64,
    pub(super) statements: AtomicU64,
    pub(super) messages: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) rollbacks: AtomicU64,
    pub(super) cancels: AtomicU64,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) columns: HashMap<String, Type>,
    pub(super) settings: HashMap<String, String>,
    pub(super) password: Option<String>,
    pub(super) system_identifier: i64,
    pub(super) started: SystemTime,
    pub(super) rules: Mutex<Vec<(String, Reply)>>,
    pub(super) script: Mutex<Script>,
    pub(super) data: Mutex<Data>,
    /// Woken whenever a transaction ends.
    pub(super) released: Notify,
    pub(super) mode: watch::Sender<Mode>,
    pub(super) role: Mutex<Role>,
    pub(super) counters: Counters,
    pub(super) notices: broadcast::Sender<Notice>,
    pub(super) unanswered: Mutex<Vec<String>>,
    pub(super) sessions: Mutex<HashMap<i32, SessionEntry>>,
    pub(super) next_process: AtomicI32,
}

/// Nothing here is left half-changed by a panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(super) fn register(&self) -> Registered {
        let process = self.next_process.fetch_add(1, Ordering::Relaxed);
        // A secret that a request for another process cannot hit by chance.
        let secret = process.wrapping_mul(-1_640_531_527);
        let (sender, orders) = watch::channel(Order::GoOn);
        let (cancel, born) = (Arc::new(Notify::new()), SystemTime::now());
        let entry = SessionEntry { secret, born, orders: sender, cancel: Arc::clone(&cancel) };
        lock(&self.sessions).insert(process, entry);
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        Registered { process, secret, born, orders, cancel }
    }

    pub(super) fn deregister(&self, process: i32) {
        lock(&self.sessions).remove(&process);
    }

    /// When the session of the process began.
    pub(super) fn alive(&self, process: i32) -> Option<SystemTime> {
        lock(&self.sessions).get(&process).map(|entry| entry.born)
    }

    /// What a cancel request does: it interrupts the statement that runs at this moment, if there is one.
    pub(super) fn cancel(&self, process: i32, secret: Option<i32>) {
        if let Some(entry) = lock(&self.sessions).get(&process)
            && secret.is_none_or(|secret| secret == entry.secret)
        {
            entry.cancel.notify_waiters();
        }
    }

    pub(super) fn order(&self, process: i32, order: Order) {
        if let Some(entry) = lock(&self.sessions).get(&process) {
            entry.orders.send_replace(order);
        }
    }

    pub(super) fn order_all(&self, order: &Order) {
        for entry in lock(&self.sessions).values() {
            entry.orders.send_replace(order.clone());
        }
    }

    /// The reply to a statement in normal form: that of the longest beginning.
    pub(super) fn rule(&self, normal: &str) -> Option<Reply> {
        let rules = lock(&self.rules);
        let met = rules.iter().filter(|(beginning, _)| normal.starts_with(beginning.as_str()));
        met.max_by_key(|(beginning, _)| beginning.len()).map(|(_, reply)| reply.clone())
    }

    pub(super) fn note_unanswered(&self, sql: &str) {
        let mut unanswered = lock(&self.unanswered);
        if unanswered.len() < UNANSWERED_MAX {
            unanswered.push(sql.to_owned());
        }
    }

    pub(super) fn role(&self) -> Role {
        *lock(&self.role)
    }
}
