//! Reads a history file back. Does not write one (`recorder`) and does not judge what it reads.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::history::{Event, FORMAT, Note};

/// Why a history could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// The file could not be opened or read.
    #[error("cannot read the history {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A whole line is no event.
    #[error("line {line} of {path} is no event of format {FORMAT}: {reason}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What the parser said.
        reason: String,
    },
    /// The first line is not the header of a run.
    #[error("{path} does not begin with the header of a run; it is no history, or its beginning is missing")]
    NoHeader {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a newer version.
    #[error("{path} has format {found}, this version reads up to {FORMAT}; use the version that wrote it")]
    Format {
        /// The file.
        path: PathBuf,
        /// The format it has.
        found: u32,
    },
}

/// Reads a history.
///
/// A last line without a line end that is no whole event is what a killed writer leaves behind: it is
/// left out, and an [`Event::Note`] at the end says so. Anything else that does not parse is an error.
///
/// # Errors
/// [`HistoryError`], with the number of the line where there is one.
pub fn read(path: &Path) -> Result<Vec<Event>, HistoryError> {
    let bytes = fs::read(path).map_err(|source| HistoryError::Io { path: path.to_owned(), source })?;
    let events = parse(&bytes, path)?;
    match events.first() {
        Some(Event::Run(run)) if run.format > FORMAT => {
            Err(HistoryError::Format { path: path.to_owned(), found: run.format })
        }
        Some(Event::Run(_)) => Ok(events),
        _ => Err(HistoryError::NoHeader { path: path.to_owned() }),
    }
}

fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Event>, HistoryError> {
    let torn_end = !bytes.is_empty() && !bytes.ends_with(b"\n");
    let mut lines = bytes.split(|&byte| byte == b'\n').enumerate().peekable();
    let mut events = Vec::new();
    while let Some((index, line)) = lines.next() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let last = lines.peek().is_none();
        match serde_json::from_slice::<Event>(line) {
            Ok(event) => events.push(event),
            Err(_) if last && torn_end => {
                let text = format!("line {} was cut off while it was written and is left out", index + 1);
                events.push(Event::Note(Note { at_us: 0, text }));
            }
            Err(error) => {
                return Err(HistoryError::Line {
                    path: path.to_owned(),
                    line: index + 1,
                    reason: error.to_string(),
                });
            }
        }
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Limits, Plan, Run};

    fn header() -> String {
        let run = Run {
            format: FORMAT,
            seed: 7,
            scenario: "db-kill".into(),
            started: String::new(),
            rerun: String::new(),
            plan: Plan::default(),
            limits: Limits::default(),
        };
        serde_json::to_string(&Event::Run(run)).unwrap()
    }

    fn read_text(text: &str) -> Result<Vec<Event>, HistoryError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn a_torn_last_line_is_noted_and_left_out() {
        let whole = format!("{}\n{{\"type\":\"note\",\"at_us\":5,\"text\":\"x\"}}\n", header());
        let torn = format!("{whole}{{\"type\":\"note\",\"at_");
        let events = read_text(&torn).unwrap();
        assert_eq!(events.len(), 3);
        assert!(matches!(&events[2], Event::Note(note) if note.text.contains("line 3")));
        assert_eq!(read_text(&whole).unwrap().len(), 2);
    }

    #[test]
    fn a_whole_last_line_without_a_line_end_counts() {
        let text = format!("{}\n{{\"type\":\"note\",\"at_us\":5,\"text\":\"x\"}}", header());
        assert_eq!(read_text(&text).unwrap().len(), 2);
    }

    #[test]
    fn a_bad_line_elsewhere_is_an_error_with_its_number() {
        let text = format!("{}\nnonsense\n{{\"type\":\"note\",\"at_us\":5,\"text\":\"x\"}}\n", header());
        assert!(matches!(read_text(&text), Err(HistoryError::Line { line: 2, .. })));
        let text = format!("{}\nnonsense\n", header());
        assert!(matches!(read_text(&text), Err(HistoryError::Line { line: 2, .. })));
    }

    #[test]
    fn a_missing_header_and_a_newer_format_are_refused() {
        let note = "{\"type\":\"note\",\"at_us\":5,\"text\":\"x\"}\n";
        assert!(matches!(read_text(note), Err(HistoryError::NoHeader { .. })));
        assert!(matches!(read_text(""), Err(HistoryError::NoHeader { .. })));
        let newer = header().replace("\"format\":1", "\"format\":2");
        assert!(matches!(read_text(&newer), Err(HistoryError::Format { found: 2, .. })));
    }
}
