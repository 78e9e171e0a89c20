//! Whether the segments of a folder are one journal: headers, places, gaps, ends, the cursor. Opening and inspecting
//! judge by the same words, which stand here. Pure: it reads no file and changes none.

use crate::journal::cursor::Cursor;
use crate::journal::scan::{Damage, Scan, Tail};
use crate::journal::segment::{HEADER_BYTES, Header};
use crate::sabotage::{self, Bug};

/// The longest segment file that is read, in bytes: the largest `segment_bytes` with one largest record on top. A file
/// beyond it was not written by this program.
pub(crate) const SEGMENT_FILE_BYTES_LIMIT: u64 = 96 * 1024 * 1024;

/// The sequence that the next segment begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// No segment was seen.
    Open,
    At(u64),
    /// The segment before is damaged, so nobody can say.
    Unknown,
}

/// The segments seen so far, oldest first, and what the next one must be.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    cursor: Option<Cursor>,
    /// The sequence of the first record that is not acknowledged.
    start: u64,
    journal_id: Option<[u8; 16]>,
    next: Next,
}

impl Order {
    /// Before the first segment; `oldest` is the sequence in its name.
    pub(crate) fn new(cursor: Option<Cursor>, oldest: Option<u64>) -> Self {
        let start = cursor.map_or(oldest.unwrap_or(1), |cursor| cursor.through.saturating_add(1));
        Self {
            cursor,
            start: start.max(1),
            journal_id: cursor.map(|cursor| cursor.journal_id),
            next: Next::Open,
        }
    }

    /// The sequence of the first record that is not acknowledged.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// The sequence of the next record, as far as the segments tell.
    pub(crate) fn next(&self) -> Option<u64> {
        match self.next {
            Next::At(next) => Some(next),
            Next::Open | Next::Unknown => None,
        }
    }

    /// The id that all files have.
    pub(crate) fn journal_id(&self) -> Option<[u8; 16]> {
        self.journal_id
    }

    /// Judges whether the next segment belongs where its file's name puts it.
    ///
    /// # Errors
    /// [`Damage`].
    pub(crate) fn admit(&self, header: &Header, first: u64) -> Result<(), Damage> {
        self.check_place(header, first).map_err(|what| Damage { offset: 0, what })
    }

    fn check_place(&self, header: &Header, first: u64) -> Result<(), String> {
        if header.first != first || first == 0 {
            return Err(format!(
                "the file's name says record {first}, its header says record {}",
                header.first
            ));
        }
        if self.journal_id.is_some_and(|id| id != header.journal_id) {
            return Err("the file belongs to another journal".to_owned());
        }
        self.check_gap(first)
    }

    /// Whether a segment that begins with `first` may come next.
    fn check_gap(&self, first: u64) -> Result<(), String> {
        let missing = match self.next {
            Next::At(next) if first < next => {
                return Err(format!("the segment repeats records from {first} on"));
            }
            // Segments are deleted one by one once all of their records are acknowledged, so a gap is legal there.
            _ if first <= self.start => return Ok(()),
            Next::Unknown => return Ok(()),
            Next::At(next) if first == next => return Ok(()),
            Next::At(next) => next,
            Next::Open => self.start,
        };
        Err(format!("records {missing} to {} are missing before this file", first - 1))
    }

    /// Takes an admitted segment into the order, whose records were walked to this end.
    ///
    /// # Errors
    /// [`Damage`] at the end where only the newest may be torn.
    pub(crate) fn join(&mut self, header: &Header, newest: bool, scan: &Scan) -> Result<(), Damage> {
        if let Tail::Torn { why, .. } = scan.tail
            && !newest
        {
            return Err(Damage { offset: scan.end, what: format!("{why}, and a newer segment exists") });
        }
        self.take(header, scan.next);
        Ok(())
    }

    /// Takes a sound segment into the order, whose last record comes before `next`.
    fn take(&mut self, header: &Header, next: u64) {
        self.journal_id = Some(header.journal_id);
        self.next = Next::At(next);
    }

    /// Goes on past a damaged segment, whose end nobody knows.
    pub(crate) fn pass_over(&mut self) {
        self.next = Next::Unknown;
    }

    /// Judges the end: what was acknowledged had been synced, so a cursor past the last record proves that synced bytes
    /// are gone, and entries that nobody applied may be gone with them.
    ///
    /// # Errors
    /// What the cursor proves.
    pub(crate) fn finish(&self) -> Result<(), String> {
        let Some(cursor) = self.cursor else { return Ok(()) };
        // The planted bug makes this damage the normal case; the suite is to see the loss itself.
        if self.next == Next::Unknown
            || cursor.through < self.next().unwrap_or(1)
            || sabotage::planted(Bug::SkipFsync)
        {
            return Ok(());
        }
        Err(format!("records up to {} were durable once, and the last one is missing", cursor.through))
    }

    /// Whether a start would take these segments, each with the sequence after its last record, and nothing else.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn rehearse(cursor: Option<Cursor>, segments: &[(Header, u64)]) -> Result<(), String> {
        let mut order = Self::new(cursor, segments.first().map(|(header, _)| header.first));
        for (header, next) in segments {
            order.check_place(header, header.first)?;
            order.take(header, *next);
        }
        order.finish()
    }
}

/// Reads the header of a segment.
///
/// # Errors
/// [`Damage`].
pub(crate) fn header(bytes: &[u8]) -> Result<Header, Damage> {
    let length = bytes.len() as u64;
    if length < HEADER_BYTES as u64 {
        return Err(Damage { offset: length, what: "the file ends within its header".to_owned() });
    }
    Header::decode(bytes).map_err(|fault| Damage { offset: 0, what: fault.to_string() })
}

/// Why a file of this length is no segment, before anything of it is read.
pub(crate) fn too_long(length: u64) -> Option<Damage> {
    (length > SEGMENT_FILE_BYTES_LIMIT).then(|| Damage {
        offset: SEGMENT_FILE_BYTES_LIMIT,
        what: format!("the file has {length} bytes, more than any segment ({SEGMENT_FILE_BYTES_LIMIT})"),
    })
}
