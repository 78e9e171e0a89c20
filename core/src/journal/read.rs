//! Reading entries back: from the places that the index names, few large reads for many entries, each record checked
//! again. It changes nothing and remembers nothing.

use std::sync::Arc;

use bytes::Bytes;

use crate::journal::aside::record::{self as aside_record, AsideRecord};
use crate::journal::index::Place;
use crate::journal::record::{self, Frame};
use crate::journal::recovery::Paths;
use crate::journal::segment::FileKind;
use crate::journal::{Entry, JournalError};

/// The most that is read at once, in bytes, where several records are.
const RUN_BYTES_MAX: u64 = 1024 * 1024;
/// Bytes between two wanted records that are read along, since another read costs more.
const GAP_BYTES_MAX: u64 = 16 * 1024;

/// Reads all of these.
///
/// # Errors
/// [`JournalError::Io`], or [`JournalError::Damaged`] where the disk no longer gives what was written.
pub(crate) fn read(paths: &Paths, places: &[Place]) -> Result<Vec<Entry>, JournalError> {
    let mut entries = Vec::with_capacity(places.len());
    for run in places.chunk_by(follows) {
        let mut rest = run;
        while let Some(first) = rest.first() {
            let fits =
                rest.iter().take_while(|place| end(place) - first.slot.offset <= RUN_BYTES_MAX).count();
            let (now, later) = rest.split_at_checked(fits.max(1)).unwrap_or((rest, &[]));
            read_run(paths, first, now, &mut entries)?;
            rest = later;
        }
    }
    Ok(entries)
}

fn end(place: &Place) -> u64 {
    place.slot.offset + u64::from(place.slot.length)
}

fn follows(one: &Place, next: &Place) -> bool {
    let gap = next.slot.offset.checked_sub(end(one));
    Arc::ptr_eq(&one.slot.file, &next.slot.file) && gap.is_some_and(|gap| gap <= GAP_BYTES_MAX)
}

/// Reads records of one file that lie close together.
fn read_run(paths: &Paths, first: &Place, run: &[Place], out: &mut Vec<Entry>) -> Result<(), JournalError> {
    let (file, start) = (&first.slot.file, first.slot.offset);
    let length = run.last().map_or(0, end).saturating_sub(start);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    let filled = file.file.read_exact_at(&mut bytes, start);
    filled.map_err(|error| paths.io("read", &file.name, error))?;
    let bytes = Bytes::from(bytes);
    for place in run {
        let from = usize::try_from(place.slot.offset - start).unwrap_or(usize::MAX);
        let here = bytes.get(from..).unwrap_or_default();
        out.push(
            entry(place, &bytes, here).map_err(|what| paths.damaged(&file.name, place.slot.offset, what))?,
        );
    }
    Ok(())
}

fn entry(place: &Place, bytes: &Bytes, here: &[u8]) -> Result<Entry, String> {
    let Place { sequence, slot } = place;
    let frame = record::decode(here, slot.file.seed).map_err(|fault| fault.to_string())?;
    let (found, payload) = match slot.file.kind {
        FileKind::Segment => (frame.sequence, frame.payload),
        FileKind::Aside => match aside_record::parse(frame.payload) {
            Some(AsideRecord::Kept { sequence, payload, .. }) => (sequence, payload),
            _ => (0, frame.payload),
        },
    };
    if found != *sequence || *frame.key != *slot.key {
        return Err(format!("record {found} stands where record {sequence} was written"));
    }
    Ok(of_frame(&frame, found, bytes.slice_ref(payload)))
}

/// The entry that a frame holds.
pub(crate) fn of_frame(frame: &Frame<'_>, sequence: u64, payload: Bytes) -> Entry {
    Entry {
        sequence,
        key: frame.key.to_owned(),
        kind: frame.kind.to_owned(),
        fingerprint: frame.fingerprint,
        accepted_at: record::time(frame.accepted_micros),
        payload,
        version: frame.version,
        ordering_key: frame.ordering_key.to_owned(),
        retried: frame.retried,
    }
}
