//! Looking at the file `aside`, by the rules of opening: what is kept, by command and reason, and what is damaged. It
//! changes nothing, and gives no keys away.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;

use crate::journal::aside::file::ASIDE_NAME;
use crate::journal::aside::record::{self as aside_record, AsideRecord};
use crate::journal::disk::DiskView;
use crate::journal::inspect::SegmentState;
use crate::journal::order::{self, SEGMENT_FILE_BYTES_LIMIT};
use crate::journal::record::time;
use crate::journal::scan::{Damage, Tail};
use crate::journal::segment::{FileKind, Header};
use crate::journal::{Aside, AsideEntry, read};

/// Groups that are told one by one.
const GROUPS_MAX: usize = 1_000;

/// What is set aside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AsideSurvey {
    /// Whether the file can be trusted; `None` where nothing was ever set aside.
    pub state: Option<SegmentState>,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Dead letters.
    pub rejected: u64,
    /// Entries that wait for a program that knows them.
    pub held: u64,
    /// Entries that only made room in the segments: they wait to be applied, like those that are pending there, unless they
    /// follow a held one.
    pub moved: u64,
    /// The same by command, version and reason, at most 1,000 groups.
    pub groups: Vec<AsideGroup>,
    /// Entries of further groups.
    pub beyond: u64,
}

/// Entries that are aside for the same reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsideGroup {
    /// The name of the command.
    pub kind: String,
    /// The version of the payload.
    pub version: u16,
    /// Why.
    pub why: Aside,
    /// How many.
    pub entries: u64,
    /// How many ordering keys they have.
    pub ordering_keys: u64,
}

/// Command, version, whether held, and reason.
type Group = (String, u16, bool, String);
/// How many entries, and their ordering keys.
type Members<'a> = (u64, BTreeSet<&'a str>);

/// The content of the file.
#[derive(Debug, Default)]
pub(super) struct LookAside {
    kept: BTreeMap<u64, AsideEntry>,
    /// The dead letters of each key.
    rejected: HashMap<String, Vec<u64>>,
    had: HashSet<u64>,
    journal_id: Option<[u8; 16]>,
    survey: AsideSurvey,
}

impl LookAside {
    /// Reads the file.
    pub(super) fn new(view: &dyn DiskView) -> Self {
        let mut look = Self::default();
        let state = match view.read(ASIDE_NAME, SEGMENT_FILE_BYTES_LIMIT) {
            Err(error) => SegmentState::Unreadable { what: error.to_string() },
            Ok((length, None)) => {
                look.survey.bytes = length;
                order::too_long(length).map_or(SegmentState::Sound, SegmentState::of)
            }
            Ok((length, Some(bytes))) => {
                look.survey.bytes = length;
                look.walk(&bytes).unwrap_or_else(SegmentState::of)
            }
        };
        look.survey.state = Some(state);
        look
    }

    fn walk(&mut self, bytes: &[u8]) -> Result<SegmentState, Damage> {
        let header = Header::decode_as(FileKind::Aside, bytes)
            .map_err(|fault| Damage { offset: 0, what: fault.to_string() })?;
        self.journal_id = Some(header.journal_id);
        let scan = aside_record::walk(bytes, &header, |_, frame, what| match what {
            AsideRecord::Kept { sequence, since_micros, why, payload } => {
                if frame.retried {
                    self.retried(frame.key);
                }
                let entry = read::of_frame(&frame, sequence, Bytes::copy_from_slice(payload));
                if matches!(why, Aside::Rejected { .. }) {
                    self.rejected.entry(entry.key.clone()).or_default().push(sequence);
                }
                self.kept.insert(sequence, AsideEntry { entry, why, since: time(since_micros) });
                self.had.insert(sequence);
            }
            AsideRecord::Gone(sequences) => {
                for sequence in &sequences {
                    self.kept.remove(sequence);
                }
                self.had.extend(sequences);
            }
        })?;
        Ok(match scan.tail {
            Tail::Torn { bytes, .. } => SegmentState::Torn { offset: scan.end, bytes },
            Tail::Clean | Tail::Padding => SegmentState::Sound,
        })
    }

    /// Whether the entry is, or was, set aside, and so is not pending.
    pub(super) fn had(&self, sequence: u64) -> bool {
        self.had.contains(&sequence)
    }

    /// An entry that was rejected before is pending again.
    pub(super) fn retried(&mut self, key: &str) {
        for sequence in self.rejected.remove(key).unwrap_or_default() {
            // Since it was rejected it may have been set aside for another reason.
            let is_letter = |kept: &AsideEntry| matches!(kept.why, Aside::Rejected { .. });
            if self.kept.get(&sequence).is_some_and(is_letter) {
                self.kept.remove(&sequence);
            }
        }
    }

    /// The answer, in a folder whose segments have this id, and the entries themselves.
    pub(super) fn finish(self, journal_id: Option<[u8; 16]>) -> (AsideSurvey, Vec<AsideEntry>) {
        let mut survey = self.survey;
        if let (Some(own), Some(id)) = (self.journal_id, journal_id)
            && own != id
        {
            let what = "the file belongs to another journal".to_owned();
            survey.state = Some(SegmentState::Damaged { offset: 0, what });
        }
        let mut groups: BTreeMap<Group, Members<'_>> = BTreeMap::new();
        let entries: Vec<AsideEntry> = self.kept.into_values().collect();
        for AsideEntry { entry, why, .. } in &entries {
            let (is_held, reason) = match why {
                Aside::Rejected { reason } => (false, reason.clone()),
                Aside::Held { reason } => (true, reason.clone()),
            };
            let count = match why {
                Aside::Rejected { .. } => &mut survey.rejected,
                Aside::Held { .. } if why.is_moved() => &mut survey.moved,
                Aside::Held { .. } => &mut survey.held,
            };
            *count += 1;
            let group = (entry.kind.clone(), entry.version, is_held, reason);
            if groups.len() >= GROUPS_MAX && !groups.contains_key(&group) {
                survey.beyond += 1;
                continue;
            }
            let (count, ordering_keys) = groups.entry(group).or_default();
            *count += 1;
            ordering_keys.insert(&entry.ordering_key);
        }
        let told = |((kind, version, is_held, reason), (entries, ordering_keys)): (Group, Members<'_>)| {
            let why = if is_held { Aside::Held { reason } } else { Aside::Rejected { reason } };
            AsideGroup { kind, version, why, entries, ordering_keys: ordering_keys.len() as u64 }
        };
        survey.groups = groups.into_iter().map(told).collect();
        (survey, entries)
    }
}
