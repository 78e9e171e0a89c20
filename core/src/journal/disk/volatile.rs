//! A disk for tests and planted bugs: bytes that were not synced live in this process only, so that killing the
//! process loses what a power cut would lose. Names (create, rename, remove) go through at once; `memory.rs` models
//! the loss of those.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::journal::disk::{Disk, DiskFile, FolderLock, RealDisk};

/// [`RealDisk`] with a write-back memory in front of every file.
#[derive(Debug)]
pub(crate) struct VolatileDisk {
    real: RealDisk,
}

impl VolatileDisk {
    /// Opens the folder, and makes it where it is missing.
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        Ok(Self { real: RealDisk::new(folder)? })
    }
}

impl Disk for VolatileDisk {
    fn lock(&self) -> io::Result<FolderLock> {
        self.real.lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.real.list()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(VolatileFile { real: self.real.create(name)?, image: Mutex::default() }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let real = self.real.open(name)?;
        let length = usize::try_from(real.length()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = vec![0; length];
        real.read_exact_at(&mut bytes, 0)?;
        let image = Image { bytes, dirty_from: None };
        Ok(Arc::new(VolatileFile { real, image: Mutex::new(image) }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.real.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.real.remove(name)
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.real.sync_folder()
    }
}

/// The whole file as this process sees it; the real file holds what was synced.
#[derive(Debug, Default)]
struct Image {
    bytes: Vec<u8>,
    /// Everything before this offset is in the real file already.
    dirty_from: Option<usize>,
}

impl Image {
    fn soil(&mut self, offset: usize) {
        self.dirty_from = Some(self.dirty_from.map_or(offset, |dirty| dirty.min(offset)));
    }
}

#[derive(Debug)]
struct VolatileFile {
    real: Arc<dyn DiskFile>,
    image: Mutex<Image>,
}

impl VolatileFile {
    fn image(&self) -> MutexGuard<'_, Image> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl DiskFile for VolatileFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.image().bytes.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = place(offset)?;
        let image = self.image();
        let wanted = start.checked_add(buffer.len()).and_then(|end| image.bytes.get(start..end));
        buffer.copy_from_slice(wanted.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let start = place(offset)?;
        let end = start.checked_add(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        let mut image = self.image();
        if image.bytes.len() < end {
            let old_end = image.bytes.len();
            image.soil(old_end.min(start));
            image.bytes.resize(end, 0);
        }
        image.soil(start);
        if let Some(target) = image.bytes.get_mut(start..end) {
            target.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let length = place(length)?;
        let mut image = self.image();
        let old = image.bytes.len();
        image.soil(old.min(length));
        image.bytes.resize(length, 0);
        Ok(())
    }

    fn reserve(&self, _length: u64) {}

    fn zero(&self, _from: u64, _to: u64) {}

    fn sync_data(&self) -> io::Result<()> {
        let mut image = self.image();
        if let Some(dirty) = image.dirty_from {
            self.real.set_length(image.bytes.len() as u64)?;
            self.real.write_all_at(image.bytes.get(dirty..).unwrap_or_default(), dirty as u64)?;
            image.dirty_from = None;
        }
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}
