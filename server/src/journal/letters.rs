//! Seeing to writes that were set aside: `export` reads only, `retry` and `discard` own the folder while they work. Keys
//! and contents go where the operator asked for them, and into no log.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use ridethrough::journal::{self, AppendError, Appended, AsideEntry, Journal, JournalError, RetryError};
use serde_json::{json, value::RawValue};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::task::JoinSet;

use super::{aside_words, not_looked_at};
use crate::{
    cli::{CLEAN, INTERNAL_FAULT, WRONG_CONFIGURATION},
    config::Config,
};

/// Dead letters that are given back at the same time: as many share a sync, and far fewer than may wait for one.
const AT_ONCE: usize = 512;

type Done = Result<u8, (u8, String)>;

/// Writes what is set aside as JSON lines.
pub(super) fn export(config: &Config, key: Option<&str>, file: Option<&Path>, out: &mut dyn Write) -> Done {
    let (survey, entries) =
        journal::export(&config.journal().dir).map_err(|error| not_looked_at(config, &error))?;
    // What only made room in the segments waits like any other, and no operator need see to it.
    let aside = entries.iter().filter(|aside| !aside.why.is_moved());
    let wanted = aside.filter(|aside| key.is_none_or(|key| aside.entry.key == key));
    let lines: Vec<String> = wanted.map(|aside| format!("{}\n", line(aside))).collect();
    if let Some(key) = key.filter(|_| lines.is_empty()) {
        return Err((WRONG_CONFIGURATION, none_of_key(key)));
    }
    let text = lines.concat();
    match file {
        None => match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // Whoever reads has seen enough, as `head` does.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written.map_err(|error| (INTERNAL_FAULT, format!("standard output: {error}")))?,
        },
        Some(path) => {
            write_new(path, &text)?;
            let _ = writeln!(out, "wrote {} to {}", counted(lines.len() as u64), path.display());
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

/// Durable when this returns: what was exported may be discarded next. Only the operator may read what users wrote.
fn write_new(path: &Path, text: &str) -> Result<(), (u8, String)> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = made.map_err(|error| (WRONG_CONFIGURATION, not_made(path, &error)))?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| {
        // A part of it would stand in the way of the next try, or be taken for all of it.
        let _ = fs::remove_file(path);
        (INTERNAL_FAULT, format!("{}: {error}", path.display()))
    })
}

fn not_made(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::AlreadyExists => format!(
            "--out {path}: the file exists already, and an export writes over none; name another one, or move it away"
        ),
        _ => format!("--out {path}: the file cannot be made: {error}"),
    }
}

pub(super) fn line(aside: &AsideEntry) -> String {
    let AsideEntry { entry, why, since } = aside;
    let (is, reason) = aside_words(why);
    let line = json!({
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
    });
    // The payload goes in as it is: parsed and written anew, long numbers would lose digits and repeated names a value.
    let line = line.to_string();
    let members = line.strip_suffix('}').unwrap_or(&line);
    format!("{members},\"payload\":{}}}", payload(&entry.payload))
}

/// JSON as it was written, else text, else hexadecimal digits; on one line.
fn payload(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else { return json!({"hex": hex(bytes)}).to_string() };
    let is_one_line = !text.contains(['\n', '\r']);
    match serde_json::from_str::<&RawValue>(text) {
        Ok(raw) if is_one_line => format!("{{\"json\":{raw}}}"),
        _ => json!({"text": text}).to_string(),
    }
}

/// A time in UTC with its fractions; `None` where it lies beyond the calendar.
fn exact(time: SystemTime) -> Option<String> {
    let nanos = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i128::try_from(after.as_nanos()).ok()?,
        Err(before) => -i128::try_from(before.duration().as_nanos()).ok()?,
    };
    OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?.format(&Rfc3339).ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Gives one rejected write back, or all.
pub(super) fn retry(config: &Config, key: Option<&str>, out: &mut dyn Write) -> Done {
    let (count, waiting) = owning(config, async |journal| match key {
        None => give_back_all(journal).await,
        Some(key) => match journal.retry(key).await {
            Ok(Some(_)) => Ok((1, 0)),
            Ok(None) => Err((WRONG_CONFIGURATION, none_of_key(key))),
            // Whoever accepted the key anew has said it better.
            Err(RetryError::Append(AppendError::KeyPending { sequence, .. })) => {
                let key = key.escape_debug();
                let what = format!("{key}: a write with this key waits already, as number {sequence}");
                Err((WRONG_CONFIGURATION, what))
            }
            Err(error) => Err((INTERNAL_FAULT, error.to_string())),
        },
    })?;
    let _ = writeln!(out, "gave back {}; a server that starts with this folder applies them", counted(count));
    if waiting == 0 {
        return Ok(CLEAN);
    }
    let what = format!(
        "{} stayed rejected: with the same key a write waits already; try again once that is applied",
        counted(waiting)
    );
    Err((WRONG_CONFIGURATION, what))
}

/// Gives all rejected writes back, many with one sync. Answers how many, and how many could not be because a write with
/// the same key waits already.
async fn give_back_all(journal: &Journal) -> Result<(u64, u64), (u8, String)> {
    let (mut count, mut waiting) = (0, 0);
    // A key with several dead letters would come several times.
    let keys: std::collections::BTreeSet<String> = journal.rejected_keys().into_iter().collect();
    let mut keys = keys.into_iter();
    let mut running: JoinSet<Result<Option<Appended>, RetryError>> = JoinSet::new();
    loop {
        while running.len() < AT_ONCE
            && let Some(key) = keys.next()
        {
            let journal = journal.clone();
            running.spawn(async move { journal.retry(&key).await });
        }
        let Some(done) = running.join_next().await else { return Ok((count, waiting)) };
        match done {
            Ok(Ok(given_back)) => count += u64::from(given_back.is_some()),
            Ok(Err(RetryError::Append(AppendError::KeyPending { .. }))) => waiting += 1,
            Ok(Err(error)) => return Err((INTERNAL_FAULT, format!("after {}: {error}", counted(count)))),
            Err(error) => return Err((INTERNAL_FAULT, error.to_string())),
        }
    }
}

/// Forgets one rejected write, or all.
pub(super) fn discard(config: &Config, key: Option<&str>, out: &mut dyn Write) -> Done {
    let count = owning(config, async |journal| {
        let done = match key {
            None => journal.discard_all().await,
            Some(key) => journal.discard(key).await.map(u64::from),
        };
        match (done, key) {
            (Ok(0), Some(key)) => Err((WRONG_CONFIGURATION, none_of_key(key))),
            (done, _) => done.map_err(|error| (INTERNAL_FAULT, error.to_string())),
        }
    })?;
    let _ = writeln!(out, "discarded {}", counted(count));
    Ok(CLEAN)
}

/// Opens the journal as a server would, which must be stopped, and does the work.
fn owning<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Journal) -> Result<T, (u8, String)>,
) -> Result<T, (u8, String)> {
    let settings = config.journal();
    // Opening would make a folder that is missing.
    journal::inspect(&settings.dir).map_err(|error| not_looked_at(config, &error))?;
    is_owner(&settings.dir)?;
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

/// Files that another account makes here could not be opened by the server, which would then not start.
fn is_owner(folder: &Path) -> Result<(), (u8, String)> {
    let owner = fs::metadata(folder).map(|folder| folder.uid());
    let owner = owner.map_err(|error| (INTERNAL_FAULT, format!("{}: {error}", folder.display())))?;
    if owner == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let what = format!(
        "{} belongs to the account with the number {owner}; run this as that account, since the server could not \
         open what another one writes there",
        folder.display()
    );
    Err((WRONG_CONFIGURATION, what))
}

fn none_of_key(key: &str) -> String {
    format!(
        "no write with the key {} is rejected; `journal export` shows what is set aside",
        key.escape_debug()
    )
}

fn counted(number: u64) -> String {
    if number == 1 { "1 write".to_owned() } else { format!("{number} writes") }
}
