//! Looking at a journal's folder without an owner's rights: what is there, what waits, what is damaged. It changes
//! nothing, makes nothing and keeps no lock, and it never gives keys or payloads away, which are users' text.

mod aside;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::journal::aside::file::ASIDE_NAME;
use crate::journal::cursor::{CURSOR_NAME, Cursor};
use crate::journal::disk::{DiskView, LOCK_NAME, RealView};
use crate::journal::order::{self, Order, SEGMENT_FILE_BYTES_LIMIT};
use crate::journal::record::{self, Frame};
use crate::journal::scan::{Damage, Tail, scan};
use crate::journal::segment::{self, Header};
use crate::journal::{AsideEntry, Backlog, JournalError};

use self::aside::LookAside;
pub use self::aside::{AsideGroup, AsideSurvey};

/// Command names that are counted one by one; a service has some dozens, and a damaged folder could claim any number.
const KINDS_MAX: usize = 1_000;
/// A cursor has 40 bytes, and a file beyond this is none.
const CURSOR_FILE_BYTES_MAX: u64 = 4096;
/// How often a folder that its owner changes meanwhile is read before its apparent damage is believed.
const LOOKS_MAX: u32 = 3;

/// What lies in a journal's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// An owner had the folder while it was read: the figures are of one moment, and a torn tail may be an append in
    /// progress.
    pub in_use: bool,
    /// The segment files, oldest first.
    pub segments: Vec<SegmentSurvey>,
    /// The acknowledged position.
    pub cursor: CursorState,
    /// Files that were being made when a process ended; a start removes them.
    pub unfinished: u64,
    /// The pending entries that can be read. Where the cursor says nothing, all entries count as pending, as they do at
    /// a start.
    pub pending: Backlog,
    /// How many of them each command has, by its name.
    pub kinds: BTreeMap<String, u64>,
    /// Pending entries of further commands, where there are more than 1,000 names.
    pub kinds_beyond: u64,
    /// What is set aside.
    pub aside: AsideSurvey,
    /// What would be lost with each damaged file.
    pub losses: Vec<Loss>,
    /// Why a start would refuse the folder even without the damaged files; `None` where it would not.
    pub refused_without_damaged: Option<String>,
}

/// One segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentSurvey {
    /// The name of the file.
    pub name: String,
    /// The format version that its header states; `None` where the header cannot be read.
    pub format_version: Option<u16>,
    /// The sequence of the first record, as the name states it.
    pub first: u64,
    /// The sequence of the last record that can be read; `None` where there is none.
    pub last: Option<u64>,
    /// Records that can be read, from the first one on.
    pub records: u64,
    /// How many of them are pending.
    pub pending: u64,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Whether it can be trusted.
    pub state: SegmentState,
}

/// Whether a segment file can be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SegmentState {
    /// It is what was written.
    Sound,
    /// It ends in an append that was never acknowledged, which a start cuts off.
    Torn {
        /// Where the append begins, in bytes from the start of the file.
        offset: u64,
        /// Its length in bytes.
        bytes: u64,
    },
    /// A start refuses the folder for it.
    Damaged {
        /// Where the damage begins, in bytes from the start of the file.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The operating system does not give its content, so that a start fails too.
    Unreadable {
        /// What it said.
        what: String,
    },
}

/// The acknowledged position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CursorState {
    /// Nothing was ever acknowledged, or the file is gone.
    Missing,
    /// All entries up to this sequence are done with.
    At(u64),
    /// The file cannot be understood; a start gives every entry to replay again, which is harmless.
    Lost {
        /// Why.
        what: String,
    },
    /// The file can be understood, and proves that records are gone which were durable; a start refuses the folder.
    Contradicts {
        /// All entries up to this sequence are done with.
        through: u64,
        /// What it proves.
        what: String,
    },
    /// The operating system does not give its content, so that a start fails too.
    Unreadable {
        /// What it said.
        what: String,
    },
}

/// What goes with one damaged file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The name of the file.
    pub file: String,
    /// The first sequence that would be lost; `None` where everything in the file is done with.
    pub first: Option<u64>,
    /// The last one; `None` where nobody can say, since no later file follows.
    pub last: Option<u64>,
    /// How many of these entries come before the damage, so that they can be read with certainty.
    pub readable: u64,
}

impl Survey {
    /// Whether a start would take the folder, a torn tail included.
    pub fn is_sound(&self) -> bool {
        let cursor =
            matches!(self.cursor, CursorState::Missing | CursorState::At(_) | CursorState::Lost { .. });
        cursor
            && !self.segments.iter().any(|segment| segment.state.is_damage())
            && !self.aside.state.as_ref().is_some_and(SegmentState::is_damage)
    }
}

impl SegmentState {
    /// Whether a start refuses the folder for it.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Unreadable { .. })
    }
}

/// Reads a journal's folder and says what is there; blocks while it reads, one segment in memory at a time.
///
/// It works beside an owner of the folder, and on a copy that cannot be written to.
///
/// # Errors
/// [`JournalError::Absent`] where there is no journal; [`JournalError::Io`] where the folder or its lock cannot be
/// looked at. Damage is no error here: the survey tells it.
pub fn inspect(folder: &Path) -> Result<Survey, JournalError> {
    inspect_on(&RealView::new(folder), folder)
}

/// The same, with the entries that are set aside, content included.
///
/// # Errors
/// As [`inspect`].
pub fn export(folder: &Path) -> Result<(Survey, Vec<AsideEntry>), JournalError> {
    look_on(&RealView::new(folder), folder)
}

pub(crate) fn inspect_on(view: &dyn DiskView, folder: &Path) -> Result<Survey, JournalError> {
    look_on(view, folder).map(|(survey, _)| survey)
}

fn look_on(view: &dyn DiskView, folder: &Path) -> Result<(Survey, Vec<AsideEntry>), JournalError> {
    let io = |action, source| JournalError::Io { action, path: folder.to_path_buf(), source };
    let owned = || view.owned().map_err(|error| io("ask for the lock of", error));
    let mut looks = 0;
    loop {
        let names = view.list().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                JournalError::Absent { folder: folder.to_path_buf() }
            }
            _ => io("list", error),
        })?;
        if !names.iter().any(|name| is_ours(name)) {
            return Err(JournalError::Absent { folder: folder.to_path_buf() });
        }
        let before = owned()?;
        let (mut survey, aside) = Look::new(view, &names).finish();
        survey.in_use = owned()? || before;
        looks += 1;
        // An owner deletes and begins segments between the listing and the reading, which looks like damage.
        if survey.is_sound() || !survey.in_use || looks == LOOKS_MAX {
            return Ok((survey, aside));
        }
    }
}

fn is_ours(name: &str) -> bool {
    name == CURSOR_NAME
        || name == ASIDE_NAME
        || name == LOCK_NAME
        || segment::is_unfinished(name)
        || segment::first_in_name(name).is_some()
}

/// One pass over the folder.
struct Look<'a> {
    view: &'a dyn DiskView,
    cursor: Option<Cursor>,
    order: Order,
    /// The segments that are sound so far, each with the sequence after its last record.
    sound: Vec<(Header, u64)>,
    aside: Option<LookAside>,
    survey: Survey,
}

impl<'a> Look<'a> {
    fn new(view: &'a dyn DiskView, names: &[String]) -> Self {
        let mut firsts: Vec<u64> = names.iter().filter_map(|name| segment::first_in_name(name)).collect();
        firsts.sort_unstable();
        let (cursor, state) = match names.iter().any(|name| name == CURSOR_NAME) {
            true => read_cursor(view),
            false => (None, CursorState::Missing),
        };
        let survey = Survey {
            in_use: false,
            segments: Vec::with_capacity(firsts.len()),
            cursor: state,
            unfinished: names.iter().filter(|name| segment::is_unfinished(name)).count() as u64,
            pending: Backlog::default(),
            kinds: BTreeMap::new(),
            kinds_beyond: 0,
            aside: AsideSurvey::default(),
            losses: Vec::new(),
            refused_without_damaged: None,
        };
        let order = Order::new(cursor, firsts.first().copied());
        let aside = names.iter().any(|name| name == ASIDE_NAME).then(|| LookAside::new(view));
        let mut look = Self { view, cursor, order, sound: Vec::new(), aside, survey };
        for (position, first) in firsts.iter().enumerate() {
            look.take(*first, position + 1 == firsts.len());
        }
        look
    }

    fn take(&mut self, first: u64, newest: bool) {
        let name = segment::name(first);
        let mut found = SegmentSurvey {
            name,
            format_version: None,
            first,
            last: None,
            records: 0,
            pending: 0,
            bytes: 0,
            state: SegmentState::Sound,
        };
        found.state = match self.view.read(&found.name, SEGMENT_FILE_BYTES_LIMIT) {
            Err(error) => SegmentState::Unreadable { what: error.to_string() },
            Ok((length, None)) => {
                found.bytes = length;
                order::too_long(length).map_or(SegmentState::Sound, SegmentState::of)
            }
            Ok((length, Some(bytes))) => {
                found.bytes = length;
                found.format_version = Header::version(&bytes);
                self.walk(&bytes, newest, &mut found).unwrap_or_else(SegmentState::of)
            }
        };
        if found.state.is_damage() {
            self.order.pass_over();
        }
        self.survey.segments.push(found);
    }

    fn walk(
        &mut self,
        bytes: &[u8],
        newest: bool,
        found: &mut SegmentSurvey,
    ) -> Result<SegmentState, Damage> {
        let header = order::header(bytes)?;
        self.order.admit(&header, found.first)?;
        let start = self.order.start();
        let (survey, aside) = (&mut self.survey, &mut self.aside);
        let scan = scan(bytes, header.seed(), header.first, |_, frame| {
            found.records += 1;
            found.last = Some(frame.sequence);
            let is_aside = aside.as_ref().is_some_and(|aside| aside.had(frame.sequence));
            if frame.sequence >= start && !is_aside {
                if let Some(aside) = aside.as_mut().filter(|_| frame.retried) {
                    aside.retried(frame.key);
                }
                found.pending += 1;
                survey.count(&frame);
            }
        })?;
        self.order.join(&header, newest, &scan)?;
        self.sound.push((header, scan.next));
        Ok(match scan.tail {
            Tail::Torn { bytes, .. } => SegmentState::Torn { offset: scan.end, bytes },
            Tail::Clean | Tail::Padding => SegmentState::Sound,
        })
    }

    fn finish(mut self) -> (Survey, Vec<AsideEntry>) {
        let through = self.cursor.map_or(0, |cursor| cursor.through);
        if let Err(what) = self.order.finish() {
            self.survey.cursor = CursorState::Contradicts { through, what };
        }
        let start = self.order.start();
        let mut follower = None;
        for segment in self.survey.segments.iter().rev() {
            if segment.state.is_damage() {
                self.survey.losses.push(segment.loss(start, follower));
            }
            follower = Some(segment.first);
        }
        let id = self.order.journal_id();
        let (aside, entries) = self.aside.map(|aside| aside.finish(id)).unwrap_or_default();
        self.survey.aside = aside;
        self.survey.losses.reverse();
        if !self.survey.losses.is_empty() {
            self.survey.refused_without_damaged = Order::rehearse(self.cursor, &self.sound).err();
        }
        (self.survey, entries)
    }
}

impl Survey {
    fn count(&mut self, frame: &Frame<'_>) {
        let pending = &mut self.pending;
        pending.entries += 1;
        pending.bytes += frame.length as u64;
        pending.oldest_accepted_at.get_or_insert_with(|| record::time(frame.accepted_micros));
        if let Some(count) = self.kinds.get_mut(frame.kind) {
            *count += 1;
        } else if self.kinds.len() < KINDS_MAX {
            self.kinds.insert(frame.kind.to_owned(), 1);
        } else {
            self.kinds_beyond += 1;
        }
    }
}

impl SegmentSurvey {
    /// What is lost without this file, where the first pending entry is `start` and the next file begins with
    /// `follower`.
    fn loss(&self, start: u64, follower: Option<u64>) -> Loss {
        let first = self.first.max(start);
        let last = follower.map(|follower| follower.saturating_sub(1));
        let nothing = last.is_some_and(|last| last < first);
        Loss {
            file: self.name.clone(),
            first: (!nothing).then_some(first),
            last: last.filter(|_| !nothing),
            readable: self.pending,
        }
    }
}

impl SegmentState {
    fn of(Damage { offset, what }: Damage) -> Self {
        Self::Damaged { offset, what }
    }
}

fn read_cursor(view: &dyn DiskView) -> (Option<Cursor>, CursorState) {
    match view.read(CURSOR_NAME, CURSOR_FILE_BYTES_MAX) {
        Err(error) => (None, CursorState::Unreadable { what: error.to_string() }),
        Ok((_, bytes)) => match Cursor::decode(&bytes.unwrap_or_default()) {
            Ok(cursor) => (Some(cursor), CursorState::At(cursor.through)),
            Err(fault) => (None, CursorState::Lost { what: fault.to_string() }),
        },
    }
}
