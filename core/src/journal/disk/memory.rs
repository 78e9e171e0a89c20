//! A disk in memory for tests: it counts steps, and fails or loses power at a chosen one. What a real disk could show
//! after that is in `memory/images.rs`. It does not model time.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::journal::disk::{Disk, DiskFile, DiskView, FolderLock};

#[cfg(test)]
mod images;

pub(crate) use self::images::Image;

/// A change of content.
#[derive(Debug, Clone)]
enum Change {
    Write {
        offset: usize,
        bytes: Vec<u8>,
    },
    Length(usize),
    /// At least so long, as a write at the end makes a file.
    Grow(usize),
}

/// A change that is not synced, and the step that made it.
#[derive(Debug, Clone)]
struct Unsynced<T> {
    step: u64,
    change: T,
}

#[derive(Debug, Default, Clone)]
struct Content {
    durable: Vec<u8>,
    /// Changes whose sync failed: readable, and never written by a later sync, since the system counts them as clean.
    stranded: Vec<Unsynced<Change>>,
    unsynced: Vec<Unsynced<Change>>,
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { offset, bytes: new } => {
            if bytes.len() < offset + new.len() {
                bytes.resize(offset + new.len(), 0);
            }
            bytes[*offset..offset + new.len()].copy_from_slice(new);
        }
        Change::Length(length) => bytes.resize(*length, 0),
        Change::Grow(length) => bytes.resize(bytes.len().max(*length), 0),
    }
}

impl Content {
    fn live(&self) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        self.stranded.iter().chain(&self.unsynced).for_each(|one| apply(&mut bytes, &one.change));
        bytes
    }

    fn sync(&mut self) {
        for one in self.unsynced.drain(..) {
            apply(&mut self.durable, &one.change);
        }
    }
}

type Node = Arc<Mutex<Content>>;

type Names = BTreeMap<String, Node>;

/// A change of the folder.
#[derive(Debug, Clone)]
enum NameChange {
    Create { name: String, node: Node },
    Rename { from: String, to: String, node: Node },
    Remove { name: String },
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Create { name, node } => drop(names.insert(name.clone(), Arc::clone(node))),
            Self::Rename { from, to, node } => {
                names.remove(from);
                names.insert(to.clone(), Arc::clone(node));
            }
            Self::Remove { name } => drop(names.remove(name)),
        }
    }
}

#[derive(Debug, Default)]
struct Folder {
    live: Names,
    durable: Names,
    unsynced: Vec<Unsynced<NameChange>>,
    locked: bool,
}

impl Folder {
    fn change(&mut self, step: u64, change: NameChange) {
        change.apply(&mut self.live);
        self.unsynced.push(Unsynced { step, change });
    }
}

/// What goes wrong, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// From this step on nothing happens any more, and every call fails: the power is gone.
    PowerCut { step: u64 },
    /// This sync of a file fails once, and the unsynced bytes stay readable without ever becoming durable by a sync.
    SyncFails { nth: u64 },
    /// Files cannot hold more than this many bytes in all.
    Room { bytes: usize },
    /// There is no room for the folder's own changes: its syncs fail.
    FolderFull,
}

#[derive(Debug, Default)]
struct World {
    folder: Mutex<Folder>,
    faults: Mutex<Vec<Fault>>,
    steps: AtomicU64,
    syncs: AtomicU64,
    reserves: AtomicBool,
}

/// How much of what was not synced survives, in the two simple cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Survival {
    /// The process died, the machine did not.
    All,
    /// The power went; the disk kept nothing it was not told to.
    Nothing,
}

/// A folder in memory; clones are the same folder.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryDisk {
    world: Arc<World>,
}

impl MemoryDisk {
    pub(crate) fn set_faults(&self, faults: &[Fault]) {
        *self.world.faults.lock().unwrap() = faults.to_vec();
    }

    /// Whether files get the room that is asked for, as zeros at their ends.
    pub(crate) fn set_reserves(&self, reserves: bool) {
        self.world.reserves.store(reserves, Ordering::SeqCst);
    }

    /// Steps so far: every call that changes something.
    pub(crate) fn steps(&self) -> u64 {
        self.world.steps.load(Ordering::SeqCst)
    }

    /// Syncs of files so far.
    pub(crate) fn syncs(&self) -> u64 {
        self.world.syncs.load(Ordering::SeqCst)
    }

    /// The content of a file as a reader sees it.
    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        self.folder().live[name].lock().unwrap().live()
    }

    /// Replaces the content of a file durably, or makes the file.
    pub(crate) fn put(&self, name: &str, bytes: Vec<u8>) {
        let node = Arc::new(Mutex::new(Content { durable: bytes, ..Content::default() }));
        let mut folder = self.folder();
        folder.live.insert(name.to_owned(), Arc::clone(&node));
        folder.durable.insert(name.to_owned(), node);
    }

    /// Turns one bit of a file over, durably and under every open handle.
    pub(crate) fn flip(&self, name: &str, offset: usize) {
        let folder = self.folder();
        let mut content = folder.live[name].lock().unwrap();
        content.durable[offset] ^= 0x10;
    }

    /// Takes a name away, durably.
    pub(crate) fn lose(&self, name: &str) {
        let mut folder = self.folder();
        folder.live.remove(name);
        folder.durable.remove(name);
    }

    /// All names and contents, as a reader sees them.
    pub(crate) fn everything(&self) -> BTreeMap<String, Vec<u8>> {
        let folder = self.folder();
        folder.live.iter().map(|(name, node)| (name.clone(), node.lock().unwrap().live())).collect()
    }

    /// The folder that the next start finds; this one is left as it is.
    pub(crate) fn after_crash(&self, survival: Survival) -> Self {
        let folder = self.folder();
        let image = Self::default();
        let names = if survival == Survival::Nothing { &folder.durable } else { &folder.live };
        for (name, node) in names {
            let content = node.lock().unwrap();
            let kept = if survival == Survival::Nothing { content.durable.clone() } else { content.live() };
            image.put(name, kept);
        }
        image
    }

    fn folder(&self) -> MutexGuard<'_, Folder> {
        self.world.folder.lock().unwrap()
    }
}

impl World {
    /// The number of this step, unless the power is gone.
    fn step(&self) -> io::Result<u64> {
        let step = self.steps.fetch_add(1, Ordering::SeqCst);
        let cut = |fault: &Fault| matches!(fault, Fault::PowerCut { step: at } if step >= *at);
        match self.faults.lock().unwrap().iter().any(cut) {
            true => Err(io::Error::other("the power is gone")),
            false => Ok(step),
        }
    }

    fn room(&self) -> Option<usize> {
        self.faults.lock().unwrap().iter().find_map(|fault| match fault {
            Fault::Room { bytes } => Some(*bytes),
            _ => None,
        })
    }
}

impl Disk for MemoryDisk {
    fn lock(&self) -> io::Result<FolderLock> {
        let mut folder = self.folder();
        if folder.locked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        folder.locked = true;
        Ok(Box::new(MemoryLock(Arc::clone(&self.world))))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.folder().live.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let step = self.world.step()?;
        let node = Node::default();
        self.folder().change(step, NameChange::Create { name: name.to_owned(), node: Arc::clone(&node) });
        Ok(Arc::new(MemoryFile { world: Arc::clone(&self.world), node }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let node = self.folder().live.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(MemoryFile { world: Arc::clone(&self.world), node }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let step = self.world.step()?;
        let mut folder = self.folder();
        let node = folder.live.get(from).cloned().ok_or(io::ErrorKind::NotFound)?;
        folder.change(step, NameChange::Rename { from: from.to_owned(), to: to.to_owned(), node });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let step = self.world.step()?;
        let mut folder = self.folder();
        if !folder.live.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        folder.change(step, NameChange::Remove { name: name.to_owned() });
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.world.step()?;
        if self.world.faults.lock().unwrap().contains(&Fault::FolderFull) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut folder = self.folder();
        folder.durable = folder.live.clone();
        folder.unsynced.clear();
        Ok(())
    }
}

impl DiskView for MemoryDisk {
    fn owned(&self) -> io::Result<bool> {
        Ok(self.folder().locked)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Disk::list(self)
    }

    fn read(&self, name: &str, bytes_max: u64) -> io::Result<(u64, Option<Vec<u8>>)> {
        let node = self.folder().live.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        let bytes = node.lock().unwrap().live();
        let length = bytes.len() as u64;
        Ok((length, (length <= bytes_max).then_some(bytes)))
    }
}

struct MemoryLock(Arc<World>);

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.0.folder.lock().unwrap().locked = false;
    }
}

#[derive(Debug)]
struct MemoryFile {
    world: Arc<World>,
    node: Node,
}

impl DiskFile for MemoryFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.node.lock().unwrap().live().len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.node.lock().unwrap().live();
        let start = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(bytes.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let step = self.world.step()?;
        let offset = usize::try_from(offset).unwrap();
        let room = self.world.room().unwrap_or(usize::MAX);
        let fits = bytes.len().min(room.saturating_sub(offset));
        let change = Change::Write { offset, bytes: bytes[..fits].to_vec() };
        self.node.lock().unwrap().unsynced.push(Unsynced { step, change });
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let step = self.world.step()?;
        let change = Change::Length(usize::try_from(length).unwrap());
        self.node.lock().unwrap().unsynced.push(Unsynced { step, change });
        Ok(())
    }

    fn reserve(&self, length: u64) {
        let length = usize::try_from(length).unwrap();
        let reserves = self.world.reserves.load(Ordering::SeqCst);
        let mut content = self.node.lock().unwrap();
        if reserves
            && content.live().len() < length
            && let Ok(step) = self.world.step()
        {
            content.unsynced.push(Unsynced { step, change: Change::Grow(length) });
        }
    }

    fn zero(&self, from: u64, to: u64) {
        if self.world.reserves.load(Ordering::SeqCst) {
            // What does not fit is no fault of whoever asked.
            let _ = self.write_all_at(&vec![0; usize::try_from(to - from).unwrap()], from);
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.world.step()?;
        let sync = self.world.syncs.fetch_add(1, Ordering::SeqCst);
        if self.world.faults.lock().unwrap().contains(&Fault::SyncFails { nth: sync }) {
            let mut content = self.node.lock().unwrap();
            let stranded = std::mem::take(&mut content.unsynced);
            content.stranded.extend(stranded);
            return Err(io::Error::other("this sync failed"));
        }
        self.node.lock().unwrap().sync();
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}
