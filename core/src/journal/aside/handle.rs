//! The part of the handle for what is set aside: putting there, listing, giving back, forgetting. The writer does the
//! writing.

use tokio::sync::oneshot;

use crate::journal::aside::{AsideCounts, AsideEntry, AsideSlot};
use crate::journal::index::Place;
use crate::journal::state::{Chore, SetAside};
use crate::journal::{Appended, Aside, Entry, Journal, JournalError, NewEntry, RetryError, read};

impl Journal {
    /// Takes entries out of the backlog and keeps them, durably before this returns; sequences that are not pending are
    /// passed over. After a crash in between they are pending again or aside, never both.
    ///
    /// Of a held entry's ordering key nothing is given until it is [released](Self::release).
    ///
    /// # Errors
    /// [`JournalError`]; the entries are then still pending.
    ///
    /// # Cancel safety
    /// A future dropped early leaves the entries pending or aside.
    pub async fn set_aside(&self, sequences: &[u64], why: Aside) -> Result<(), JournalError> {
        let (reply, answer) = oneshot::channel();
        let chore = SetAside { sequences: sequences.to_vec(), why, reply };
        self.handles.shared.enqueue_chore(Chore::SetAside(chore))?;
        // A closed channel means that the writer is gone.
        answer.await.unwrap_or(Err(JournalError::Closed))
    }

    /// How much is set aside.
    pub fn aside_counts(&self) -> AsideCounts {
        self.handles.shared.with_index(|index| index.aside.counts())
    }

    /// The entries that are set aside, in order and with their content, `entries_max` at most, from this sequence on;
    /// blocks for the reads. Released entries are among them until they are settled.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn aside(&self, from: u64, entries_max: usize) -> Result<Vec<AsideEntry>, JournalError> {
        let asides: Vec<(u64, AsideSlot)> = self.handles.shared.with_index(|index| {
            let wanted = index.aside.from(from).take(entries_max);
            wanted.map(|(sequence, aside)| (sequence, aside.clone())).collect()
        });
        let place =
            |(sequence, aside): &(u64, AsideSlot)| Place { sequence: *sequence, slot: aside.slot.clone() };
        let entries = read::read(&self.handles.paths, &asides.iter().map(place).collect::<Vec<Place>>())?;
        let reasons = asides.into_iter().map(|(_, AsideSlot { why, since, .. })| (why, since));
        let whole = entries.into_iter().zip(reasons);
        Ok(whole.map(|(entry, (why, since))| AsideEntry { entry, why, since }).collect())
    }

    /// The keys of all dead letters, in the order of their entries.
    pub fn rejected_keys(&self) -> Vec<String> {
        self.handles
            .shared
            .with_index(|index| index.aside.letters().map(|(_, key)| key.to_string()).collect())
    }

    /// Makes the held entries of an ordering key pending again, before newer ones of that key; how many were not before. A
    /// restart holds those again that were not settled.
    pub fn release(&self, ordering_key: &str) -> u64 {
        self.handles.shared.release(ordering_key)
    }

    /// Appends the dead letter of this key again, marked as [`retried`](Entry::retried); `None` where there is none.
    ///
    /// # Errors
    /// [`RetryError`]; the dead letter is then still there.
    ///
    /// # Cancel safety
    /// As [`append`](Self::append); the dead letter goes once the new entry is durable.
    pub async fn retry(&self, key: &str) -> Result<Option<Appended>, RetryError> {
        let Some(sequence) = self.handles.shared.with_index(|index| index.aside.rejected(key)) else {
            return Ok(None);
        };
        let Some(AsideEntry { entry, .. }) = self.aside(sequence, 1)?.pop() else { return Ok(None) };
        let Entry { key, kind, fingerprint, accepted_at, payload, version, ordering_key, .. } = entry;
        let retried = true;
        let entry = NewEntry { key, kind, fingerprint, accepted_at, payload, version, ordering_key, retried };
        Ok(Some(self.append(entry).await?))
    }

    /// Forgets the dead letter of this key for good, durably before this returns; whether there was one.
    ///
    /// # Errors
    /// [`JournalError`]; the dead letter may then come back with a restart.
    ///
    /// # Cancel safety
    /// A future dropped early leaves the dead letter there or gone.
    pub async fn discard(&self, key: &str) -> Result<bool, JournalError> {
        let Some(sequence) = self.handles.shared.with_index(|index| index.aside.rejected(key)) else {
            return Ok(false);
        };
        self.settled(&[sequence]);
        self.save_gone().await?;
        Ok(true)
    }

    /// Forgets all dead letters for good, durably before this returns; how many there were.
    ///
    /// # Errors
    /// [`JournalError`]; the dead letters may then come back with a restart.
    ///
    /// # Cancel safety
    /// A future dropped early leaves all of them there or gone.
    pub async fn discard_all(&self) -> Result<u64, JournalError> {
        let letters: Vec<u64> = self
            .handles
            .shared
            .with_index(|index| index.aside.letters().map(|(sequence, _)| sequence).collect());
        self.settled(&letters);
        self.save_gone().await?;
        Ok(letters.len() as u64)
    }

    async fn save_gone(&self) -> Result<(), JournalError> {
        let (reply, answer) = oneshot::channel();
        self.handles.shared.enqueue_chore(Chore::SaveGone(reply))?;
        answer.await.unwrap_or(Err(JournalError::Closed))
    }
}
