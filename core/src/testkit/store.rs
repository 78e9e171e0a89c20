//! A second [`Store`], in plain memory: for tests of services, without a disk, a task or a clock. It takes, gives and
//! refuses as the journal on a disk does, fails on command, and survives nothing.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use super::world::lock;
use crate::journal::{
    AppendError, Appended, Aside, AsideCounts, AsideEntry, Backlog, Entry, JournalConfig, JournalError,
    JournalHealth, NewEntry, Pending, Store, StoreFuture, WhenTooOld,
};

/// A store of accepted writes in memory. Clones are the same store.
///
/// Bounds are those of [`JournalConfig`]; what is about files there means nothing here.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    id: [u8; 16],
    config: JournalConfig,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// The sequence of the newest entry.
    last: u64,
    entries: BTreeMap<u64, Kept>,
    /// The entry of each key that waits.
    by_key: HashMap<String, u64>,
    /// The next append fails, and its entry is kept or not.
    fails_next: Option<bool>,
    failed: bool,
    is_full: bool,
}

/// An entry that is not done with.
#[derive(Debug)]
struct Kept {
    entry: Entry,
    bytes: u64,
    aside: Option<SetAside>,
}

#[derive(Debug)]
struct SetAside {
    why: Aside,
    since: SystemTime,
    /// It was held, and is pending again.
    is_released: bool,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(JournalConfig::new("memory"))
    }
}

/// What a test does to it.
impl MemoryStore {
    /// An empty store with these bounds.
    #[must_use]
    pub fn new(config: JournalConfig) -> Self {
        let mut id = [0; 16];
        fastrand::fill(&mut id);
        let state = Mutex::default();
        Self { shared: Arc::new(Shared { id, config, state, changed: watch::Sender::new(0) }) }
    }

    /// The next append is answered with [`AppendError::Unknown`], as after a failed sync, and nothing is taken any more.
    /// With `kept` its entry is there all the same.
    pub fn fail_next_append(&self, kept: bool) {
        self.state().fails_next = Some(kept);
    }

    /// Whether there is no room, whatever the bounds say.
    pub fn set_full(&self, is_full: bool) {
        self.state().is_full = is_full;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }

    fn take(&self, entry: NewEntry) -> Result<Appended, AppendError> {
        let config = &self.shared.config;
        entry.check(config.payload_bytes_max)?;
        let (mut state, bytes) = (self.state(), entry.bytes());
        if let Some(pending) = state.find(&entry.key) {
            let same_fingerprint = pending.fingerprint == entry.fingerprint;
            return Err(AppendError::KeyPending { sequence: pending.sequence, same_fingerprint });
        }
        if state.failed {
            return Err(AppendError::Poisoned);
        }
        let oldest = state.pending().next().map(|kept| kept.entry.accepted_at);
        let is_too_old = oldest.is_some_and(|oldest| oldest + config.age_max < entry.accepted_at);
        if config.when_too_old == WhenTooOld::Refuse && is_too_old {
            return Err(AppendError::TooOld);
        }
        let (entries, used) = state.size();
        if state.is_full || entries >= config.entries_max || used + bytes > config.bytes_max {
            return Err(AppendError::Full);
        }
        let fails = state.fails_next.take();
        state.failed = fails.is_some();
        if fails == Some(false) {
            return Err(AppendError::Unknown);
        }
        let sequence = state.keep(entry, bytes);
        drop(state);
        self.shared.changed.send_replace(sequence);
        if fails.is_some() { Err(AppendError::Unknown) } else { Ok(Appended { sequence }) }
    }

    fn put_aside(&self, sequences: &[u64], why: &Aside) -> Result<(), JournalError> {
        let (config, mut state) = (&self.shared.config, self.state());
        let there: Vec<u64> =
            sequences.iter().copied().filter(|sequence| state.entries.contains_key(sequence)).collect();
        if there.is_empty() {
            return Ok(());
        }
        if state.failed {
            let source = io::Error::other("the store failed earlier");
            return Err(JournalError::Io { action: "write to", path: "memory".into(), source });
        }
        let counts = state.aside_counts();
        let bytes: u64 = there.iter().filter_map(|sequence| Some(state.entries.get(sequence)?.bytes)).sum();
        if counts.entries() + there.len() as u64 > config.aside_entries_max
            || counts.bytes + bytes > config.aside_bytes_max
        {
            return Err(JournalError::AsideFull { entries: counts.entries(), bytes: counts.bytes });
        }
        for sequence in there {
            state.set_aside(sequence, why);
        }
        Ok(())
    }
}

impl State {
    fn keep(&mut self, entry: NewEntry, bytes: u64) -> u64 {
        if entry.retried {
            // Rejected before and pending again, its dead letters are history.
            self.entries.retain(|_, kept| kept.entry.key != entry.key || !kept.is_rejected());
        }
        self.last += 1;
        let sequence = self.last;
        self.by_key.insert(entry.key.clone(), sequence);
        let NewEntry { key, kind, fingerprint, accepted_at, payload, version, ordering_key, retried } = entry;
        let entry =
            Entry { sequence, key, kind, fingerprint, accepted_at, payload, version, ordering_key, retried };
        self.entries.insert(sequence, Kept { entry, bytes, aside: None });
        sequence
    }

    fn find(&self, key: &str) -> Option<Pending> {
        let Entry { sequence, fingerprint, accepted_at, .. } =
            self.entries.get(self.by_key.get(key)?)?.entry.clone();
        Some(Pending { sequence, fingerprint, accepted_at })
    }

    fn pending(&self) -> impl Iterator<Item = &Kept> {
        self.entries.values().filter(|kept| kept.is_pending())
    }

    /// Pending entries and their bytes.
    fn size(&self) -> (u64, u64) {
        self.pending().fold((0, 0), |(entries, bytes), kept| (entries + 1, bytes + kept.bytes))
    }

    fn set_aside(&mut self, sequence: u64, why: &Aside) {
        let Some(kept) = self.entries.get_mut(&sequence) else { return };
        kept.aside = Some(SetAside { why: why.clone(), since: SystemTime::now(), is_released: false });
        if kept.is_rejected() {
            let key = kept.entry.key.clone();
            self.forget_key(&key, sequence);
        }
    }

    fn settle(&mut self, sequence: u64) {
        if let Some(kept) = self.entries.remove(&sequence) {
            self.forget_key(&kept.entry.key, sequence);
        }
    }

    fn forget_key(&mut self, key: &str, sequence: u64) {
        if self.by_key.get(key) == Some(&sequence) {
            self.by_key.remove(key);
        }
    }

    fn batch(&self, entries_max: usize, bytes_max: u64, skip: &dyn Fn(&str) -> bool) -> Vec<Entry> {
        let mut left_out: HashSet<&str> = HashSet::new();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        for kept in self.entries.values().filter(|kept| !kept.is_rejected()) {
            let ordering_key = kept.entry.ordering_key.as_str();
            if left_out.contains(ordering_key) {
                continue;
            }
            if !kept.is_pending() || skip(ordering_key) {
                left_out.insert(ordering_key);
                continue;
            }
            bytes += kept.bytes;
            if taken.len() >= entries_max.max(1) || (bytes > bytes_max && !taken.is_empty()) {
                break;
            }
            taken.push(kept.entry.clone());
        }
        taken
    }

    fn waiting(&self, entries_max: usize, bytes_max: u64) -> Vec<Entry> {
        let mut bytes = 0;
        let entries = self.entries.values().filter(|kept| !kept.is_rejected()).take(entries_max.max(1));
        let fitting = entries.take_while(|kept| {
            let is_first = bytes == 0;
            bytes += kept.bytes;
            is_first || bytes <= bytes_max
        });
        fitting.map(|kept| kept.entry.clone()).collect()
    }

    fn release(&mut self, ordering_key: &str) -> u64 {
        let mut released = 0;
        for kept in self.entries.values_mut().filter(|kept| kept.entry.ordering_key == ordering_key) {
            if let Some(SetAside { why: Aside::Held { .. }, is_released, .. }) = &mut kept.aside {
                released += u64::from(!std::mem::replace(is_released, true));
            }
        }
        released
    }

    fn aside_counts(&self) -> AsideCounts {
        let mut counts = AsideCounts::default();
        for kept in self.entries.values() {
            match &kept.aside {
                None => continue,
                Some(SetAside { why: Aside::Rejected { .. }, .. }) => counts.rejected += 1,
                Some(SetAside { why: Aside::Held { .. }, .. }) => counts.held += 1,
            }
            counts.bytes += kept.bytes;
        }
        counts
    }
}

impl Kept {
    fn is_rejected(&self) -> bool {
        matches!(self.aside, Some(SetAside { why: Aside::Rejected { .. }, .. }))
    }

    fn is_pending(&self) -> bool {
        self.aside.as_ref().is_none_or(|aside| aside.is_released)
    }
}

impl Store for MemoryStore {
    fn id(&self) -> [u8; 16] {
        self.shared.id
    }

    fn append(&self, entry: NewEntry) -> StoreFuture<'_, Result<Appended, AppendError>> {
        Box::pin(async { self.take(entry) })
    }

    fn find(&self, key: &str) -> Option<Pending> {
        self.state().find(key)
    }

    fn is_waiting(&self, ordering_key: &str) -> bool {
        let state = self.state();
        state.entries.values().any(|kept| kept.entry.ordering_key == ordering_key && !kept.is_rejected())
    }

    fn backlog(&self) -> Backlog {
        let state = self.state();
        let (entries, bytes) = state.size();
        let oldest_accepted_at = state.pending().next().map(|kept| kept.entry.accepted_at);
        Backlog { entries, bytes, oldest_accepted_at }
    }

    fn health(&self) -> JournalHealth {
        let state = self.state();
        let (entries, bytes) = state.size();
        let config = &self.shared.config;
        match (state.failed, state.is_full || entries >= config.entries_max || bytes >= config.bytes_max) {
            (true, _) => JournalHealth::Failed,
            (false, true) => JournalHealth::Full,
            (false, false) if config.is_in_reserve(entries, bytes) => JournalHealth::Reserved,
            (false, false) => JournalHealth::Ok,
        }
    }

    fn batch(
        &self,
        entries_max: usize,
        bytes_max: u64,
        skip: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Entry>, JournalError> {
        Ok(self.state().batch(entries_max, bytes_max, skip))
    }

    fn waiting(&self, entries_max: usize, bytes_max: u64) -> Result<Vec<Entry>, JournalError> {
        Ok(self.state().waiting(entries_max, bytes_max))
    }

    fn settled(&self, sequences: &[u64]) {
        let mut state = self.state();
        sequences.iter().for_each(|sequence| state.settle(*sequence));
    }

    fn set_aside<'a>(
        &'a self,
        sequences: &'a [u64],
        why: Aside,
    ) -> StoreFuture<'a, Result<(), JournalError>> {
        Box::pin(async move { self.put_aside(sequences, &why) })
    }

    fn aside_counts(&self) -> AsideCounts {
        self.state().aside_counts()
    }

    fn aside(&self, from: u64, entries_max: usize) -> Result<Vec<AsideEntry>, JournalError> {
        let state = self.state();
        let aside = state.entries.range(from..).filter_map(|(_, kept)| {
            let SetAside { why, since, .. } = kept.aside.as_ref()?;
            Some(AsideEntry { entry: kept.entry.clone(), why: why.clone(), since: *since })
        });
        Ok(aside.take(entries_max).collect())
    }

    fn release(&self, ordering_key: &str) -> u64 {
        let released = self.state().release(ordering_key);
        if released > 0 {
            self.shared.changed.send_modify(|_| {});
        }
        released
    }

    fn max_age(&self) -> Option<Duration> {
        self.shared.config.max_age()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }
}

#[cfg(test)]
mod tests;
