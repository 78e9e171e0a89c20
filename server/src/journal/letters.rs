//! Seeing to writes that were set aside: `export` reads only, `retry` and `discard` own the folder while they work. Keys
//! and contents go where the operator asked for them, and into no log.

use std::{fs::File, io::Write, path::Path, time::SystemTime};

use ridethrough::journal::{self, AppendError, AsideEntry, Journal, JournalError, RetryError};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{aside_words, not_looked_at};
use crate::{
    cli::{CLEAN, INTERNAL_FAULT, WRONG_CONFIGURATION},
    config::Config,
};

type Done = Result<u8, (u8, String)>;

/// Writes what is set aside as JSON lines.
pub(super) fn export(config: &Config, key: Option<&str>, file: Option<&Path>, out: &mut dyn Write) -> Done {
    let (survey, entries) =
        journal::export(&config.journal().dir).map_err(|error| not_looked_at(config, &error))?;
    let wanted = entries.iter().filter(|aside| key.is_none_or(|key| aside.entry.key == key));
    let lines: Vec<String> = wanted.map(|aside| format!("{}\n", line(aside))).collect();
    if let Some(key) = key.filter(|_| lines.is_empty()) {
        return Err((WRONG_CONFIGURATION, none_of_key(key)));
    }
    let text = lines.concat();
    match file {
        None => out.write_all(text.as_bytes()).map_err(|error| (INTERNAL_FAULT, error.to_string()))?,
        Some(path) => {
            write_new(path, &text)
                .map_err(|error| (INTERNAL_FAULT, format!("{}: {error}", path.display())))?;
            let _ = writeln!(out, "wrote {} to {}", counted(lines.len()), path.display());
        }
    }
    if survey.is_sound() {
        return Ok(CLEAN);
    }
    Err((
        INTERNAL_FAULT,
        "the journal is damaged, so this may not be all of it; `journal inspect` says more".to_owned(),
    ))
}

/// Durable when this returns: what was exported may be discarded next.
fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn line(aside: &AsideEntry) -> Value {
    let AsideEntry { entry, why, since } = aside;
    let (is, reason) = aside_words(why);
    let payload = match serde_json::from_slice::<Value>(&entry.payload) {
        Ok(value) => json!({"json": value}),
        Err(_) => json!({"hex": hex(&entry.payload)}),
    };
    json!({
        "key": entry.key,
        "is": is,
        "reason": reason,
        "since": exact(*since),
        "command": entry.kind,
        "version": entry.version,
        "ordering_key": entry.ordering_key,
        "sequence": entry.sequence,
        "retried": entry.retried,
        "accepted_at": exact(entry.accepted_at),
        "fingerprint": hex(&entry.fingerprint),
        "payload": payload,
    })
}

/// A time in UTC with its fractions; `None` where it lies beyond the calendar.
fn exact(time: SystemTime) -> Option<String> {
    OffsetDateTime::from(time).format(&Rfc3339).ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Gives one rejected write back, or all.
pub(super) fn retry(config: &Config, key: Option<&str>, out: &mut dyn Write) -> Done {
    let count = owning(config, async |journal| {
        let mut count = 0;
        for key in keys(journal, key)? {
            match journal.retry(&key).await {
                Ok(given_back) => count += usize::from(given_back.is_some()),
                // Whoever accepted the key anew has said it better.
                Err(RetryError::Append(AppendError::KeyPending { sequence, .. })) => {
                    let what = format!("{key}: a write with this key waits already, as number {sequence}");
                    return Err((WRONG_CONFIGURATION, what));
                }
                Err(error) => return Err((INTERNAL_FAULT, format!("after {}: {error}", counted(count)))),
            }
        }
        Ok(count)
    })?;
    let _ = writeln!(out, "gave back {}; a server that starts with this folder applies them", counted(count));
    Ok(CLEAN)
}

/// Forgets one rejected write, or all.
pub(super) fn discard(config: &Config, key: Option<&str>, out: &mut dyn Write) -> Done {
    let count = owning(config, async |journal| {
        let mut count = 0;
        for key in keys(journal, key)? {
            let gone = journal.discard(&key).await;
            let gone =
                gone.map_err(|error| (INTERNAL_FAULT, format!("after {}: {error}", counted(count))))?;
            count += usize::from(gone);
        }
        Ok(count)
    })?;
    let _ = writeln!(out, "discarded {}", counted(count));
    Ok(CLEAN)
}

/// The keys of rejected writes: this one, which must be there, or all.
fn keys(journal: &Journal, key: Option<&str>) -> Result<Vec<String>, (u8, String)> {
    let letters = journal.rejected_keys();
    match key {
        None => Ok(letters),
        Some(key) if letters.iter().any(|letter| letter == key) => Ok(vec![key.to_owned()]),
        Some(key) => Err((WRONG_CONFIGURATION, none_of_key(key))),
    }
}

/// Opens the journal as a server would, which must be stopped, and does the work.
fn owning<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Journal) -> Result<T, (u8, String)>,
) -> Result<T, (u8, String)> {
    let settings = config.journal();
    // Opening would make a folder that is missing.
    journal::inspect(&settings.dir).map_err(|error| not_looked_at(config, &error))?;
    let (journal, writer, _) = Journal::open(settings).map_err(|error| match error {
        JournalError::Locked { .. } => (WRONG_CONFIGURATION, format!("{error}; stop the server first")),
        JournalError::Config { .. } => (WRONG_CONFIGURATION, error.to_string()),
        other => (INTERNAL_FAULT, other.to_string()),
    })?;
    let writer = std::thread::spawn(move || writer.run());
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let done = runtime.map_err(|error| (INTERNAL_FAULT, error.to_string()))?.block_on(work(&journal));
    drop(journal);
    match writer.join() {
        Ok(()) => done,
        Err(_) => Err((INTERNAL_FAULT, "the journal's writer panicked".to_owned())),
    }
}

fn none_of_key(key: &str) -> String {
    format!("no write with the key {} is set aside that this could be done with", key.escape_debug())
}

fn counted(number: usize) -> String {
    if number == 1 { "1 write".to_owned() } else { format!("{number} writes") }
}
