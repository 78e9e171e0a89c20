//! What a disk may show after the power went: of what was not synced, any part, in any order, torn anywhere. It changes
//! nothing and judges nothing.
//!
//! Changes are taken apart into pieces that a disk keeps or loses as one: a sector of a write, a growth of a file, a change
//! of the folder. An image keeps some of the pieces, and one of them perhaps only up to some byte.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Change, MemoryDisk, NameChange, Names, Node, Survival, Unsynced, apply};

/// What a disk writes as one at the least, in bytes.
const SECTOR_BYTES: usize = 512;
/// A long write is taken apart into about this many pieces, of whole sectors.
const PIECES_A_WRITE: usize = 8;

/// A folder that a start may find.
#[derive(Debug)]
pub(crate) struct Image {
    /// What was kept, for messages.
    pub(crate) what: String,
    /// The folder.
    pub(crate) disk: MemoryDisk,
}

/// Which pieces are kept, and up to which byte the one that was being written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kept {
    pieces: Vec<bool>,
    torn: Option<(usize, usize)>,
}

#[derive(Debug)]
enum Piece {
    Content(Node, Change),
    Name(NameChange),
}

impl MemoryDisk {
    /// The images after a crash of the process (one), and after a power cut: everything, nothing, each prefix and each
    /// suffix of the pieces, all but one, each write torn at some bytes, and `draws` others at random.
    pub(crate) fn images(&self, random: &mut fastrand::Rng, draws: usize) -> Vec<Image> {
        let pieces = self.pieces();
        let count = pieces.len();
        let mut all = BTreeSet::new();
        let mut keep = |torn, keeps: &dyn Fn(usize) -> bool| {
            all.insert(Kept { pieces: (0..count).map(keeps).collect(), torn });
        };
        for place in 0..=count {
            keep(None, &|piece| piece < place);
            keep(None, &|piece| piece >= place);
            keep(None, &|piece| piece != place);
        }
        for (place, piece) in pieces.iter().enumerate() {
            for bytes in torn_at(piece) {
                keep(Some((place, bytes)), &|piece| piece < place);
                keep(Some((place, bytes)), &|piece| piece != place);
            }
        }
        if count > 1 {
            for _ in 0..draws {
                let mask: Vec<bool> = (0..count).map(|_| random.bool()).collect();
                let place = random.usize(..count);
                let torn = torn_at(&pieces[place]).first().map(|_| (place, random.usize(..SECTOR_BYTES)));
                keep(torn, &|piece| mask[piece]);
            }
        }
        let after_kill = Image { what: "process killed".to_owned(), disk: self.after_crash(Survival::All) };
        let mut images = vec![after_kill];
        images.extend(all.into_iter().map(|kept| {
            let what = format!("power cut, pieces {:?}, torn {:?}", flags(&kept.pieces), kept.torn);
            Image { what, disk: self.image(&pieces, &kept) }
        }));
        images
    }

    /// All that is not synced, in the order in which it was done.
    fn pieces(&self) -> Vec<Piece> {
        let folder = self.folder();
        let mut pieces: Vec<(u64, Piece)> = Vec::new();
        for Unsynced { step, change } in &folder.unsynced {
            pieces.push((*step, Piece::Name(change.clone())));
        }
        let renamed = folder.unsynced.iter().filter_map(|one| match &one.change {
            NameChange::Create { node, .. } | NameChange::Rename { node, .. } => Some(node),
            NameChange::Remove { .. } => None,
        });
        let mut nodes: Vec<&Node> = Vec::new();
        for node in folder.durable.values().chain(folder.live.values()).chain(renamed) {
            if !nodes.iter().any(|known| Arc::ptr_eq(known, node)) {
                nodes.push(node);
            }
        }
        for node in nodes {
            let content = node.lock().unwrap();
            let mut length = content.durable.len();
            for Unsynced { step, change } in content.stranded.iter().chain(&content.unsynced) {
                for piece in apart(change, &mut length) {
                    pieces.push((*step, Piece::Content(Arc::clone(node), piece)));
                }
            }
        }
        pieces.sort_by_key(|(step, _)| *step);
        pieces.into_iter().map(|(_, piece)| piece).collect()
    }

    fn image(&self, pieces: &[Piece], kept: &Kept) -> Self {
        let mut names: Names = self.folder().durable.clone();
        let stays = |place: usize| kept.pieces[place] || kept.torn.is_some_and(|(torn, _)| torn == place);
        for (place, piece) in pieces.iter().enumerate() {
            if let Piece::Name(change) = piece
                && stays(place)
            {
                change.apply(&mut names);
            }
        }
        let image = Self::default();
        for (name, node) in &names {
            let mut bytes = node.lock().unwrap().durable.clone();
            for (place, piece) in pieces.iter().enumerate() {
                let Piece::Content(of, change) = piece else { continue };
                if !Arc::ptr_eq(of, node) || !stays(place) {
                    continue;
                }
                match (change, kept.torn) {
                    (Change::Write { offset, bytes: new }, Some((torn, at))) if torn == place => {
                        let begun = new[..at.min(new.len())].to_vec();
                        apply(&mut bytes, &Change::Write { offset: *offset, bytes: begun });
                    }
                    _ => apply(&mut bytes, change),
                }
            }
            image.put(name, bytes);
        }
        image
    }
}

/// The pieces of a change to a file of this length, which becomes the new one.
fn apart(change: &Change, length: &mut usize) -> Vec<Change> {
    let Change::Write { offset, bytes } = change else {
        if let Change::Length(new) | Change::Grow(new) = change {
            *length = *new;
        }
        return vec![change.clone()];
    };
    let mut pieces = Vec::new();
    let end = offset + bytes.len();
    if end > *length {
        pieces.push(Change::Grow(end));
        *length = end;
    }
    let size = (bytes.len() / PIECES_A_WRITE).next_multiple_of(SECTOR_BYTES).max(SECTOR_BYTES);
    let mut from = *offset;
    while from < end {
        let to = end.min((from / size + 1) * size);
        pieces.push(Change::Write { offset: from, bytes: bytes[from - offset..to - offset].to_vec() });
        from = to;
    }
    pieces
}

/// Where a piece may be torn.
fn torn_at(piece: &Piece) -> Vec<usize> {
    match piece {
        Piece::Content(_, Change::Write { bytes, .. }) => {
            let length = bytes.len();
            let places = [1, 8, length / 3, length / 2, length.saturating_sub(1)];
            BTreeSet::from(places).into_iter().filter(|at| (1..length).contains(at)).collect()
        }
        Piece::Content(..) | Piece::Name(_) => Vec::new(),
    }
}

fn flags(kept: &[bool]) -> String {
    kept.iter().map(|kept| if *kept { '1' } else { '0' }).collect()
}
