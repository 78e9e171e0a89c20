//! Reads a history file back, ours or another tool's. Does not write one (`recorder`, `export`) and does not judge what
//! it reads.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::history::{Event, FORMAT, Note, foreign};

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
/// left out, and an [`Event::Note`] at the end says so. Anything else that does not parse is an error. A file whose
/// first line is an operation as the module [`foreign`] describes it is read as such, line for line.
///
/// # Errors
/// [`HistoryError`], with the number of the line where there is one.
pub fn read(path: &Path) -> Result<Vec<Event>, HistoryError> {
    let bytes = fs::read(path).map_err(|source| HistoryError::Io { path: path.to_owned(), source })?;
    if let Some(operations) = foreign::parse(&bytes) {
        return operations.map_err(|(line, reason)| HistoryError::Line {
            path: path.to_owned(),
            line,
            reason,
        });
    }
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
        match event(line) {
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

/// The lines there are most of are read straight into their struct: going by the tag costs three times as much, because
/// the parser then keeps the whole line aside first.
fn event(line: &[u8]) -> serde_json::Result<Event> {
    fn plain<T: DeserializeOwned>(line: &[u8], event: fn(T) -> Event) -> serde_json::Result<Event> {
        serde_json::from_slice(line).map(event)
    }
    let tag = line.strip_prefix(br#"{"type":""#).and_then(|rest| rest.split(|&byte| byte == b'"').next());
    match tag {
        Some(b"invoke") => plain(line, Event::Invoke),
        Some(b"ok") => plain(line, Event::Ok),
        Some(b"fail") => plain(line, Event::Fail),
        Some(b"info") => plain(line, Event::Info),
        Some(b"probe") => plain(line, Event::Probe),
        Some(b"final_row") => plain(line, Event::FinalRow),
        Some(b"ledger_row") => plain(line, Event::LedgerRow),
        _ => serde_json::from_slice(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Action, Completion, Invoke, LedgerRow, Run};

    fn header() -> String {
        let run = Run { format: FORMAT, seed: 7, scenario: "db-kill".into(), ..Run::default() };
        serde_json::to_string(&Event::Run(Box::new(run))).unwrap()
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

    #[test]
    fn the_short_way_and_the_long_way_give_the_same_event() {
        let invoke = Invoke { op: 3, action: Action::Set, session: Some("a".into()), ..Invoke::default() };
        let done = Completion { op: 3, values: Some(vec!["v".into()]), ..Completion::default() };
        let row = LedgerRow { object: "x".into(), value: "v".into(), n: Some(1) };
        let events =
            [Event::Invoke(invoke), Event::Ok(done.clone()), Event::Info(done), Event::LedgerRow(row)];
        for written in events {
            let line = serde_json::to_vec(&written).unwrap();
            assert_eq!(event(&line).unwrap(), written);
            assert_eq!(serde_json::from_slice::<Event>(&line).unwrap(), written);
        }
        assert_eq!(
            event(br#"{"op":3,"at_us":0,"got":"answer","type":"ok"}"#).unwrap(),
            Event::Ok(Completion { op: 3, ..Completion::default() })
        );
        assert!(event(br#"{"type":"ok","at_us":0}"#).is_err());
    }
}
