//! Opening: read every segment, judge it, and only then repair what a crash may have left. It changes nothing when
//! anything is damaged, and it does not append.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::journal::JournalError;
use crate::journal::aside::file::{ASIDE_NAME, AsideFile};
use crate::journal::aside::record::AsideRecord;
use crate::journal::aside::{self, AsideIndex, AsideSlot};
use crate::journal::cursor::{CURSOR_NAME, Cursor};
use crate::journal::disk::{Disk, DiskFile};
use crate::journal::index::{Index, Keys, RecordFile, Slot};
use crate::journal::order::{self, Order};
use crate::journal::record;
use crate::journal::scan::{Damage, Scan, Tail};
use crate::journal::segment::{self, FileKind, Header, Segment};

mod pieces;

use crate::journal::recovery::pieces::Piece;

/// Room that is made at once for what the segments are likely to hold.
const ENTRIES_AHEAD_MAX: usize = 1_000_000;

/// A segment that takes no more appends.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) name: Arc<str>,
    /// The sequence of the last record.
    pub(crate) last: u64,
    pub(crate) bytes: u64,
}

/// The files that the writer starts from.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) sealed: VecDeque<Sealed>,
    pub(crate) active: Segment,
    /// The position that is on disk.
    pub(crate) stored_cursor: u64,
    pub(crate) aside: Option<AsideFile>,
}

/// What opening found.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) index: Index,
    pub(crate) start: Start,
    pub(crate) torn_bytes: u64,
    pub(crate) cursor_lost: bool,
}

/// Names files in errors.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    pub(crate) folder: PathBuf,
}

impl Paths {
    pub(crate) fn io(&self, action: &'static str, name: &str, source: io::Error) -> JournalError {
        JournalError::Io { action, path: self.folder.join(name), source }
    }

    pub(crate) fn damaged(&self, name: &str, offset: u64, what: impl Into<String>) -> JournalError {
        // The server keeps the journal in the folder `journal` of its data folder, and its commands take the latter.
        let data_dir = match (self.folder.file_name(), self.folder.parent()) {
            (Some(own), Some(parent)) if own == "journal" && !parent.as_os_str().is_empty() => parent,
            _ => &self.folder,
        };
        let data_dir = Path::to_path_buf(data_dir);
        JournalError::Damaged { file: self.folder.join(name), offset, what: what.into(), data_dir }
    }
}

/// Reads the folder and makes it ready for appends.
///
/// # Errors
/// [`JournalError::Damaged`] before anything was changed; [`JournalError::Io`] at any step.
pub(crate) fn recover(disk: &dyn Disk, paths: &Paths, segment_bytes: u64) -> Result<Recovered, JournalError> {
    let survey = Survey::read(disk, paths)?;
    survey.repair(disk, paths, segment_bytes)
}

/// What the folder holds, before anything is changed.
#[derive(Debug)]
struct Survey {
    index: Index,
    /// Of the entries that nobody finds yet.
    keys: Vec<Keys>,
    /// Sequence and key of each entry that an operator gave back.
    retried: Vec<(u64, String)>,
    segments: Vec<Surveyed>,
    unfinished: Vec<String>,
    order: Order,
    cursor: Option<Cursor>,
    cursor_lost: bool,
    aside: Option<FoundAside>,
}

#[derive(Debug)]
struct Surveyed {
    file: Arc<RecordFile>,
    header: Header,
    length: u64,
    scan: Scan,
}

impl Survey {
    fn read(disk: &dyn Disk, paths: &Paths) -> Result<Self, JournalError> {
        let names = disk.list().map_err(|error| paths.io("list", "", error))?;
        let mut firsts: Vec<u64> = names.iter().filter_map(|name| segment::first_in_name(name)).collect();
        firsts.sort_unstable();
        let unfinished = names.iter().filter(|name| segment::is_unfinished(name)).cloned().collect();
        let had_cursor = names.iter().any(|name| name == CURSOR_NAME);
        let cursor = match had_cursor {
            true => Cursor::load(disk).map_err(|error| paths.io("read", CURSOR_NAME, error))?,
            false => None,
        };
        let order = Order::new(cursor, firsts.first().copied());
        let mut index = Index::starting_at(order.start());
        let aside = match names.iter().any(|name| name == ASIDE_NAME) {
            true => Some(FoundAside::read(disk, paths, &mut index.aside)?),
            false => None,
        };
        let mut survey = Self {
            index,
            aside,
            keys: Vec::with_capacity(firsts.len()),
            retried: Vec::new(),
            segments: Vec::with_capacity(firsts.len()),
            unfinished,
            order,
            cursor,
            cursor_lost: had_cursor && cursor.is_none(),
        };
        let (start, naming) = (survey.order.start(), survey.index.naming().clone());
        let source = pieces::Source { disk, paths, firsts: &firsts, start, naming: &naming };
        pieces::read_all(source, &mut |place, piece| {
            survey.take(paths, piece, place + 1 == firsts.len())?;
            if place == 0 {
                // Segments are of one length, so the others hold about as many; growing step by step costs more.
                let entries = usize::try_from(survey.index.entries()).unwrap_or_default();
                survey.index.reserve(entries.saturating_mul(firsts.len() - 1).min(ENTRIES_AHEAD_MAX));
            }
            Ok(())
        })?;
        survey.lead();
        survey.check_cursor(paths)?;
        survey.check_aside(paths)?;
        Ok(survey)
    }

    /// Lets the entries be found, and takes out those that are aside.
    fn lead(&mut self) {
        let index = &mut self.index;
        index.lead_to(&std::mem::take(&mut self.keys));
        if let Some(aside) = &self.aside {
            self.retried.retain(|(sequence, _)| !aside.had.contains(sequence));
            self.retried.iter().for_each(|(_, key)| index.aside.retried(key));
            aside.had.iter().for_each(|sequence| index.left(*sequence));
        }
    }

    /// Takes the next segment.
    fn take(&mut self, paths: &Paths, piece: Piece, newest: bool) -> Result<(), JournalError> {
        let Piece { file, header, length, scan, entries, keys, retried } = piece;
        let damaged = |Damage { offset, what }| paths.damaged(&file.name, offset, what);
        let first = segment::first_in_name(&file.name).unwrap_or_default();
        self.order.admit(&header, first).map_err(damaged)?;
        let scan = scan.map_err(damaged)?;
        self.order.join(&header, newest, &scan).map_err(damaged)?;
        self.index.append(entries);
        self.keys.push(keys);
        self.retried.extend(retried);
        self.segments.push(Surveyed { file, header, length, scan });
        Ok(())
    }

    fn check_aside(&self, paths: &Paths) -> Result<(), JournalError> {
        let strange = |aside: &&FoundAside| {
            self.order.journal_id().is_some_and(|id| id != aside.surveyed.header.journal_id)
        };
        match self.aside.as_ref().filter(strange) {
            Some(_) => Err(paths.damaged(ASIDE_NAME, 0, "the file belongs to another journal")),
            None => Ok(()),
        }
    }

    fn check_cursor(&self, paths: &Paths) -> Result<(), JournalError> {
        self.order.finish().map_err(|what| match self.segments.last() {
            Some(newest) => paths.damaged(&newest.file.name, newest.scan.end, what),
            None => paths.damaged(CURSOR_NAME, 0, what),
        })
    }

    fn repair(self, disk: &dyn Disk, paths: &Paths, segment_bytes: u64) -> Result<Recovered, JournalError> {
        for name in &self.unfinished {
            disk.remove(name).map_err(|error| paths.io("remove", name, error))?;
        }
        let torn_bytes = match self.segments.last() {
            Some(newest) => newest.repair().map_err(|error| paths.io("repair", &newest.file.name, error))?,
            None => 0,
        };
        if let Some(aside) = &self.aside {
            aside.surveyed.repair().map_err(|error| paths.io("repair", ASIDE_NAME, error))?;
        }
        // The folder's own state may be newer than what is durable of it.
        disk.sync_folder().map_err(|error| paths.io("sync", "", error))?;
        let next = self.index.next_sequence();
        let id = self.order.journal_id();
        let continues = self.order.next() == Some(next);
        let mut sealed: VecDeque<Sealed> = self.segments.iter().map(Surveyed::seal).collect();
        let active = match self.segments.into_iter().next_back() {
            Some(newest) if continues => {
                sealed.pop_back();
                newest.file.file.reserve(segment_bytes);
                newest.reopen()
            }
            // The folder is new, or a planted bug lost records: numbers must not be given twice.
            _ => Segment::create(disk, next, id.unwrap_or_else(new_id), segment_bytes)
                .map_err(|error| paths.io("create", &segment::name(next), error))?,
        };
        let stored_cursor = self.cursor.map_or(0, |cursor| cursor.through);
        let aside = self.aside.map(FoundAside::reopen);
        let start = Start { sealed, active, stored_cursor, aside };
        Ok(Recovered { index: self.index, start, torn_bytes, cursor_lost: self.cursor_lost })
    }
}

/// The file `aside` as it was found.
#[derive(Debug)]
struct FoundAside {
    surveyed: Surveyed,
    /// All sequences that are, or were, set aside.
    had: HashSet<u64>,
    gone: BTreeSet<u64>,
}

impl FoundAside {
    /// Reads the file, and puts what is kept in it into the index.
    fn read(disk: &dyn Disk, paths: &Paths, index: &mut AsideIndex) -> Result<Self, JournalError> {
        let mut bytes = Vec::new();
        let file = read_whole(disk, paths, ASIDE_NAME, &mut bytes)?;
        let header = Header::decode_as(FileKind::Aside, &bytes)
            .map_err(|fault| paths.damaged(ASIDE_NAME, 0, fault.to_string()))?;
        let records = Arc::new(RecordFile {
            name: ASIDE_NAME.into(),
            kind: FileKind::Aside,
            file,
            seed: header.seed(),
        });
        let (mut had, mut gone) = (HashSet::new(), BTreeSet::new());
        let walked = aside::record::walk(&bytes, &header, |offset, frame, what| match what {
            AsideRecord::Kept { sequence, since_micros, why, .. } => {
                let slot = Slot {
                    key: frame.key.into(),
                    ordering_key: frame.ordering_key.into(),
                    fingerprint: frame.fingerprint,
                    accepted_micros: frame.accepted_micros,
                    file: Arc::clone(&records),
                    offset,
                    length: u32::try_from(frame.length).expect("a decoded frame's length came from a u32"),
                };
                if frame.retried {
                    index.retried(frame.key);
                }
                index.insert(sequence, AsideSlot { slot, why, since: record::time(since_micros) });
                had.insert(sequence);
            }
            AsideRecord::Gone(sequences) => {
                sequences.iter().for_each(|sequence| index.forget(*sequence));
                had.extend(&sequences);
                gone.extend(sequences);
            }
        });
        let scan = walked.map_err(|Damage { offset, what }| paths.damaged(ASIDE_NAME, offset, what))?;
        let length = bytes.len() as u64;
        Ok(Self { surveyed: Surveyed { file: records, header, length, scan }, had, gone })
    }

    fn reopen(self) -> AsideFile {
        let Surveyed { file, scan, .. } = self.surveyed;
        AsideFile::found(file, scan.end, scan.next, self.gone)
    }
}

impl Surveyed {
    /// Cuts what follows the last good record, and makes the last batch durable for certain.
    ///
    /// A process may have ended between a write and its sync, or after a sync that failed: then the last batch can be
    /// read now and yet be lost in a power cut, and after a failed sync the system counts its pages as clean, so that
    /// another sync alone would do nothing. Writing the same bytes again makes the next sync honest. Earlier batches
    /// need nothing: the writer stops for good at the first sync that fails.
    fn repair(&self) -> io::Result<u64> {
        let file = &self.file.file;
        if self.length > self.scan.end {
            file.set_length(self.scan.end)?;
        }
        let doubtful = self.scan.end.saturating_sub(self.scan.last_batch);
        let mut bytes = vec![0; usize::try_from(doubtful).map_err(|_| io::ErrorKind::FileTooLarge)?];
        file.read_exact_at(&mut bytes, self.scan.last_batch)?;
        file.write_all_at(&bytes, self.scan.last_batch)?;
        file.sync_all()?;
        match self.scan.tail {
            Tail::Torn { bytes, .. } => Ok(bytes),
            Tail::Clean | Tail::Padding => Ok(0),
        }
    }

    fn seal(&self) -> Sealed {
        Sealed { name: Arc::clone(&self.file.name), last: self.scan.next - 1, bytes: self.scan.end }
    }

    fn reopen(self) -> Segment {
        Segment {
            name: Arc::clone(&self.file.name),
            file: Arc::clone(&self.file.file),
            header: self.header,
            length: self.scan.end,
        }
    }
}

fn new_id() -> [u8; 16] {
    fastrand::u128(..).to_le_bytes()
}

fn read_whole(
    disk: &dyn Disk,
    paths: &Paths,
    name: &str,
    bytes: &mut Vec<u8>,
) -> Result<Arc<dyn DiskFile>, JournalError> {
    let file = disk.open(name).map_err(|error| paths.io("open", name, error))?;
    let length = file.length().map_err(|error| paths.io("read", name, error))?;
    if let Some(Damage { offset, what }) = order::too_long(length) {
        return Err(paths.damaged(name, offset, what));
    }
    bytes.resize(usize::try_from(length).expect("a segment's length is below 96 MiB"), 0);
    file.read_exact_at(bytes, 0).map_err(|error| paths.io("read", name, error))?;
    Ok(file)
}
