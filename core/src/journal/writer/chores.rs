//! What the writer does for entries that are set aside: write first, then tell the index. It decides nothing about which
//! they are.

use std::io;
use std::time::SystemTime;

use crate::journal::aside::AsideSlot;
use crate::journal::aside::file::{AppendFault, AsideFile, Written};
use crate::journal::index::{Place, Slot};
use crate::journal::read;
use crate::journal::state::{Chore, SetAside};
use crate::journal::writer::JournalWriter;
use crate::journal::{Aside, Entry, JournalError, record};
use crate::sabotage::{self, Step};

impl JournalWriter {
    pub(super) fn do_chore(&mut self, chore: Chore) {
        match chore {
            Chore::SetAside(SetAside { sequences, why, reply }) => {
                // Whoever asked may be gone; the entries are aside all the same.
                let _ = reply.send(self.set_aside(&sequences, &why));
            }
            Chore::SaveGone(reply) => {
                let _ = reply.send(self.save_gone());
            }
        }
    }

    pub(super) fn set_aside(&mut self, sequences: &[u64], why: &Aside) -> Result<(), JournalError> {
        self.keep_aside(sequences, why, 1)
    }

    /// Writes entries to the file aside, which may fill a part of its bounds, and tells the index.
    pub(super) fn keep_aside(
        &mut self,
        sequences: &[u64],
        why: &Aside,
        part: u64,
    ) -> Result<(), JournalError> {
        let places: Vec<Place> = self
            .shared
            .with_index(|index| sequences.iter().filter_map(|sequence| index.place(*sequence)).collect());
        if places.is_empty() {
            return Ok(());
        }
        self.check_room(&places, part)?;
        let entries = read::read(&self.paths, &places)?;
        // As exactly as the file tells it after a restart.
        let since = record::time(record::micros(SystemTime::now()));
        sabotage::reached(Step::BeforeAside);
        let kept = self.aside_file().and_then(|file| file.keep(&entries, why, since));
        let written = kept.map_err(|fault| self.aside_fault(fault))?;
        sabotage::reached(Step::AfterAside);
        self.shared.with_index(|index| {
            for (place, written) in places.into_iter().zip(written) {
                let aside = AsideSlot { slot: moved(&place.slot, &written), why: why.clone(), since };
                index.set_aside(written.sequence, aside);
            }
        });
        Ok(())
    }

    fn check_room(&self, places: &[Place], part: u64) -> Result<(), JournalError> {
        let config = &self.shared.config;
        let counts = self.shared.with_index(|index| index.aside.counts());
        let bytes: u64 = places.iter().map(|place| u64::from(place.slot.length)).sum();
        let entries = counts.entries() + places.len() as u64;
        if entries > config.aside_entries_max / part || counts.bytes + bytes > config.aside_bytes_max / part {
            return Err(JournalError::AsideFull { entries: counts.entries(), bytes: counts.bytes });
        }
        Ok(())
    }

    /// The file, made where it is missing.
    fn aside_file(&mut self) -> Result<&mut AsideFile, AppendFault> {
        if self.shared.is_failed() {
            return Err(AppendFault::Refused(io::Error::other("the journal failed earlier")));
        }
        let file = match self.aside.take() {
            Some(file) => file,
            None => AsideFile::create(self.disk.as_ref(), self.active.segment.header.journal_id)
                .map_err(AppendFault::Refused)?,
        };
        Ok(self.aside.insert(file))
    }

    fn aside_fault(&self, fault: AppendFault) -> JournalError {
        let source = match fault {
            AppendFault::Refused(error) => error,
            AppendFault::Failed(error) => {
                self.poison(&error, "sync what is set aside");
                error
            }
        };
        self.paths.io("write", crate::journal::aside::file::ASIDE_NAME, source)
    }

    /// Makes durable which entries are aside no more, so that a restart does not bring them back; and writes the file
    /// anew where most of it is of such.
    pub(super) fn save_gone(&mut self) -> Result<(), JournalError> {
        let gone = self.shared.with_index(|index| index.aside.take_gone());
        if gone.is_empty() {
            return Ok(());
        }
        let forgotten = self.aside_file().and_then(|file| file.forget(&gone));
        if let Err(fault) = forgotten {
            self.shared.with_index(|index| index.aside.gone_again(gone));
            return Err(self.aside_fault(fault));
        }
        self.write_anew()
    }

    fn write_anew(&mut self) -> Result<(), JournalError> {
        let kept_bytes = self.shared.with_index(|index| index.aside.counts().bytes);
        let Some(file) = self.aside.as_ref().filter(|file| file.is_mostly_gone(kept_bytes)) else {
            return Ok(());
        };
        let gone = file.gone_after(self.stored_cursor);
        let (places, reasons): (Vec<Place>, Vec<(Aside, i64)>) = self.shared.with_index(|index| {
            let one = |(sequence, aside): (u64, &AsideSlot)| {
                let place = Place { sequence, slot: aside.slot.clone() };
                (place, (aside.why.clone(), record::micros(aside.since)))
            };
            index.aside.from(0).map(one).unzip()
        });
        let entries = read::read(&self.paths, &places)?;
        let kept: Vec<(Entry, Aside, i64)> =
            entries.into_iter().zip(reasons).map(|(entry, (why, since))| (entry, why, since)).collect();
        sabotage::reached(Step::BeforeCompaction);
        let id = self.active.segment.header.journal_id;
        let anew = AsideFile::create_with(self.disk.as_ref(), id, &kept, gone);
        let (file, written) = anew.map_err(|error| self.aside_fault(AppendFault::Refused(error)))?;
        self.aside = Some(file);
        self.shared.with_index(|index| {
            for written in &written {
                index.aside.relocate(written.sequence, |slot| moved(slot, written));
            }
        });
        Ok(())
    }
}

fn moved(slot: &Slot, written: &Written) -> Slot {
    let (offset, length) = (written.offset, written.length);
    Slot { file: std::sync::Arc::clone(&written.file), offset, length, ..slot.clone() }
}
