//! The sub-command `journal`: looks at the journal of a server that may be stopped, running or unable to start, and says
//! what it sees; `letters` sees to what was rejected. What `inspect` prints holds no key and no content of a write.

mod letters;
mod text;

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Subcommand, ValueEnum};
use ridethrough::journal::{
    self, Aside, AsideGroup, CursorState, JournalError, SegmentState, SegmentSurvey, Survey,
};
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    cli::{CLEAN, INTERNAL_FAULT, WRONG_CONFIGURATION},
    config::Config,
};

/// What to do with the journal.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum JournalCommand {
    /// Say what lies in the journal of --data-dir: files, position, waiting writes by command, damage. Changes nothing
    /// and needs no database; exit 0 sound (a torn tail too), 1 no journal there, 70 damaged
    Inspect {
        /// Form of the answer on standard output
        #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
        format: Format,
    },
    /// Write out what is set aside, rejected or held, one JSON object a line with everything that was accepted. Changes
    /// nothing; exit 0 all written, 1 no journal, no such key or a file that cannot be made, 70 damaged (what can be read
    /// is written)
    Export {
        /// Only the write with this idempotency key
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
        /// Into this file, which must not exist yet, instead of standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Give rejected writes back: they wait again, behind all others, until a server that starts with this folder applies
    /// them. The server must be stopped; exit 0 done, 1 no journal, no such key or in use, 70 a fault
    #[command(group = clap::ArgGroup::new("which").required(true))]
    Retry {
        /// The write with this idempotency key
        #[arg(long, value_name = "KEY", group = "which")]
        key: Option<String>,
        /// All rejected writes
        #[arg(long, group = "which")]
        all: bool,
    },
    /// Forget rejected writes for good. Export them first. The server must be stopped; exit 0 done, 1 no journal, no such
    /// key or in use, 70 a fault
    #[command(group = clap::ArgGroup::new("which").required(true))]
    Discard {
        /// The write with this idempotency key
        #[arg(long, value_name = "KEY", group = "which")]
        key: Option<String>,
        /// All rejected writes; needs --yes
        #[arg(long, group = "which", requires = "yes")]
        all: bool,
        /// Yes, what --all names is to be forgotten
        #[arg(long)]
        yes: bool,
    },
}

/// For whom the answer is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// For machines: one object
    Json,
}

/// Runs the sub-command. Answers the exit code.
pub(crate) fn run(command: &JournalCommand, config: &Config) -> u8 {
    let out = &mut std::io::stdout().lock();
    let done = match command {
        JournalCommand::Inspect { format } => inspect(config, *format, out),
        JournalCommand::Export { key, out: file } => {
            letters::export(config, key.as_deref(), file.as_deref(), out)
        }
        JournalCommand::Retry { key, .. } => letters::retry(config, key.as_deref(), out),
        JournalCommand::Discard { key, .. } => letters::discard(config, key.as_deref(), out),
    };
    done.unwrap_or_else(|(code, reason)| {
        let _ = writeln!(std::io::stderr().lock(), "ridethrough-server: {reason}");
        code
    })
}

/// Looks, and writes the answer. Answers the exit code; where nothing could be looked at, with the reason.
fn inspect(config: &Config, format: Format, out: &mut dyn Write) -> Result<u8, (u8, String)> {
    let folder = config.journal().dir;
    let survey = journal::inspect(&folder).map_err(|error| not_looked_at(config, &error))?;
    let answer = match format {
        Format::Text => text::report(&folder, &survey),
        Format::Json => format!("{:#}\n", object(&folder, &survey)),
    };
    // A reader that went away changes nothing about the exit code.
    let _ = out.write_all(answer.as_bytes());
    Ok(if survey.is_sound() { CLEAN } else { INTERNAL_FAULT })
}

/// The exit code for a journal that could not be looked at, and why.
fn not_looked_at(config: &Config, error: &JournalError) -> (u8, String) {
    match error {
        JournalError::Absent { folder } => (WRONG_CONFIGURATION, no_journal(&config.server.data_dir, folder)),
        other => (INTERNAL_FAULT, other.to_string()),
    }
}

fn no_journal(data_dir: &Path, folder: &Path) -> String {
    let hint = match data_dir.file_name() == folder.file_name() {
        true => "; give the folder that holds the journal's folder, not that folder itself",
        false => "",
    };
    format!(
        "no journal in {}: --data-dir (or server.data_dir, now {}) must be the data folder of a server that was \
         started there once{hint}",
        folder.display(),
        data_dir.display()
    )
}

fn object(folder: &Path, survey: &Survey) -> Value {
    let losses: Vec<Value> = survey
        .losses
        .iter()
        .map(|loss| json!({"file": loss.file, "first": loss.first, "last": loss.last, "readable": loss.readable}))
        .collect();
    json!({
        "folder": folder.display().to_string(),
        "sound": survey.is_sound(),
        "in_use": survey.in_use,
        "segments": survey.segments.iter().map(segment).collect::<Vec<_>>(),
        "cursor": cursor(&survey.cursor),
        "unfinished_files": survey.unfinished,
        "pending": {
            "entries": survey.pending.entries,
            "bytes": survey.pending.bytes,
            "oldest_accepted_at": survey.pending.oldest_accepted_at.and_then(rfc3339),
            "by_command": survey.kinds.iter().map(|(kind, count)| (kind.clone(), json!(count))).collect::<Map<_, _>>(),
            "of_further_commands": survey.kinds_beyond,
        },
        "set_aside": {
            "rejected": survey.aside.rejected,
            "held": survey.aside.held,
            "moved": survey.aside.moved,
            "bytes": survey.aside.bytes,
            "state": survey.aside.state.as_ref().map(state),
            "groups": survey.aside.groups.iter().map(group).collect::<Vec<_>>(),
            "of_further_groups": survey.aside.beyond,
        },
        "lost_without_damaged_files": losses,
        "refused_without_damaged_files": survey.refused_without_damaged,
    })
}

fn group(group: &AsideGroup) -> Value {
    let (is, reason) = aside_words(&group.why);
    json!({
        "is": is,
        "reason": reason,
        "command": group.kind,
        "version": group.version,
        "entries": group.entries,
        "ordering_keys": group.ordering_keys,
    })
}

/// What an entry is that is set aside, and the code of the reason.
fn aside_words(why: &Aside) -> (&'static str, &str) {
    match why {
        Aside::Rejected { reason } => ("rejected", reason),
        Aside::Held { reason } if why.is_moved() => ("moved", reason),
        Aside::Held { reason } => ("held", reason),
    }
}

fn state(state: &SegmentState) -> Value {
    match state {
        SegmentState::Sound => json!({"is": "sound"}),
        SegmentState::Torn { offset, bytes } => json!({"is": "torn", "offset": offset, "bytes": bytes}),
        SegmentState::Damaged { offset, what } => json!({"is": "damaged", "offset": offset, "what": what}),
        SegmentState::Unreadable { what } => json!({"is": "unreadable", "what": what}),
    }
}

fn segment(segment: &SegmentSurvey) -> Value {
    json!({
        "name": segment.name,
        "format_version": segment.format_version,
        "first": segment.first,
        "last": segment.last,
        "records": segment.records,
        "pending": segment.pending,
        "bytes": segment.bytes,
        "state": state(&segment.state),
    })
}

fn cursor(cursor: &CursorState) -> Value {
    match cursor {
        CursorState::Missing => json!({"is": "missing"}),
        CursorState::At(through) => json!({"is": "sound", "through": through}),
        CursorState::Lost { what } => json!({"is": "lost", "what": what}),
        CursorState::Contradicts { through, what } => {
            json!({"is": "contradicts", "through": through, "what": what})
        }
        CursorState::Unreadable { what } => json!({"is": "unreadable", "what": what}),
    }
}

/// A time in UTC; `None` where it lies beyond the calendar, which a record that somebody made up can state.
fn rfc3339(time: SystemTime) -> Option<String> {
    let seconds = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).ok()?,
        Err(before) => -i64::try_from(before.duration().as_secs()).ok()?,
    };
    OffsetDateTime::from_unix_timestamp(seconds).ok()?.format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests;
