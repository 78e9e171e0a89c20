//! A disk in memory for tests: it counts steps, fails or loses power at a chosen one, and afterwards gives the images
//! that a real disk could show. It does not model time.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::journal::disk::{Disk, DiskFile, DiskView, FolderLock};

/// A change of content that is not synced.
#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Debug, Default, Clone)]
struct Content {
    durable: Vec<u8>,
    /// Changes whose sync failed: readable, and never written by a later sync, since the system counts them as clean.
    stranded: Vec<Change>,
    unsynced: Vec<Change>,
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
    }
}

impl Content {
    fn live(&self) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        self.stranded.iter().chain(&self.unsynced).for_each(|change| apply(&mut bytes, change));
        bytes
    }

    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            apply(&mut self.durable, &change);
        }
    }
}

type Node = Arc<Mutex<Content>>;

#[derive(Debug, Default)]
struct Folder {
    live: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    locked: bool,
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

/// How much of what was not synced survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Survival {
    /// The process died, the machine did not.
    All,
    /// The power went; the disk kept nothing it was not told to.
    Nothing,
    /// The power went; unsynced writes were kept up to half of the last one, names were kept.
    Half,
    /// The power went; of each unsynced write only the second half was kept, the first reads as zeros.
    LaterHalf,
    /// The power went; unsynced writes were kept, unsynced changes of length were not.
    WritesOnly,
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
        let names = if survival == Survival::Nothing { &folder.durable } else { &folder.live };
        let image = Self::default();
        for (name, node) in names {
            image.put(name, surviving(&node.lock().unwrap(), survival));
        }
        image
    }

    fn folder(&self) -> MutexGuard<'_, Folder> {
        self.world.folder.lock().unwrap()
    }
}

fn surviving(content: &Content, survival: Survival) -> Vec<u8> {
    let mut bytes = content.durable.clone();
    let changes: Vec<&Change> = content.stranded.iter().chain(&content.unsynced).collect();
    let count = changes.len();
    for (position, change) in changes.into_iter().enumerate() {
        match (survival, change) {
            (Survival::Nothing, _) | (Survival::WritesOnly, Change::Length(_)) => {}
            (Survival::Half, Change::Write { offset, bytes: new }) if position + 1 == count => {
                let half = Change::Write { offset: *offset, bytes: new[..new.len() / 2].to_vec() };
                apply(&mut bytes, &half);
            }
            (Survival::LaterHalf, Change::Write { offset, bytes: new }) => {
                let half = new.len() / 2;
                let later = Change::Write { offset: offset + half, bytes: new[half..].to_vec() };
                apply(&mut bytes, &later);
            }
            _ => apply(&mut bytes, change),
        }
    }
    bytes
}

impl World {
    fn step(&self) -> io::Result<()> {
        let step = self.steps.fetch_add(1, Ordering::SeqCst);
        let cut = |fault: &Fault| matches!(fault, Fault::PowerCut { step: at } if step >= *at);
        match self.faults.lock().unwrap().iter().any(cut) {
            true => Err(io::Error::other("the power is gone")),
            false => Ok(()),
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
        self.world.step()?;
        let node = Node::default();
        self.folder().live.insert(name.to_owned(), Arc::clone(&node));
        Ok(Arc::new(MemoryFile { world: Arc::clone(&self.world), node }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let node = self.folder().live.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(MemoryFile { world: Arc::clone(&self.world), node }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.world.step()?;
        let mut folder = self.folder();
        let node = folder.live.remove(from).ok_or(io::ErrorKind::NotFound)?;
        folder.live.insert(to.to_owned(), node);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.world.step()?;
        self.folder().live.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.world.step()?;
        if self.world.faults.lock().unwrap().contains(&Fault::FolderFull) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut folder = self.folder();
        folder.durable = folder.live.clone();
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
        self.world.step()?;
        let offset = usize::try_from(offset).unwrap();
        let room = self.world.room().unwrap_or(usize::MAX);
        let fits = bytes.len().min(room.saturating_sub(offset));
        let change = Change::Write { offset, bytes: bytes[..fits].to_vec() };
        self.node.lock().unwrap().unsynced.push(change);
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.world.step()?;
        self.node.lock().unwrap().unsynced.push(Change::Length(usize::try_from(length).unwrap()));
        Ok(())
    }

    fn reserve(&self, length: u64) {
        let length = usize::try_from(length).unwrap();
        let reserves = self.world.reserves.load(Ordering::SeqCst);
        let mut content = self.node.lock().unwrap();
        if reserves && content.live().len() < length && self.world.step().is_ok() {
            content.unsynced.push(Change::Length(length));
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
