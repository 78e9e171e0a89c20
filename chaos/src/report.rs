//! Shows a verdict: sentences for the terminal, `report.html` for people, `verdict.json`, `junit.xml` and `summary.md` for
//! programs; over several runs `index.html` with the matrix of scenarios and invariants; and what differs between two.
//! Judges nothing; every figure comes from the verdict, every drawing from the history.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::history::Event;
use crate::verdict::{SCHEMA, Verdict};

mod chart;
mod curves;
mod diff;
mod heat;
mod html;
mod index;
mod junit;
mod lanes;
mod markdown;
mod sentences;
mod spans;
mod svg;

pub use crate::report::diff::{Difference, diff};
pub use crate::report::sentences::{headline, sentences};

/// Name of the page.
pub const PAGE: &str = "report.html";
/// Name of the page over several runs.
pub const INDEX: &str = "index.html";
/// Name of the verdict for programs.
pub const VERDICT: &str = "verdict.json";
/// Name of the verdict for CI servers.
pub const JUNIT: &str = "junit.xml";
/// Name of the summary.
pub const SUMMARY: &str = "summary.md";
/// What a run carried out, beside its report.
const SCHEDULE: &str = "schedule.toml";

/// Why a report could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A verdict could not be read.
    #[error("cannot read {path}: {reason}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The page could not be filled in; a fault of this program.
    #[error("cannot fill in the report: {0}")]
    Page(#[from] minijinja::Error),
    /// The verdict could not be written as JSON; a fault of this program.
    #[error("cannot write the verdict as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// One run among several: its folder below theirs, and its verdict. A run that stands alone has no name.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The folder's name; empty for a run that stands alone.
    pub name: &'a str,
    /// What became of it.
    pub verdict: &'a Verdict,
}

impl Entry<'_> {
    /// The name of its scenario; of a harness that failed before it wrote one, that of its folder.
    fn scenario(&self) -> &str {
        if self.verdict.scenario.is_empty() { self.name } else { &self.verdict.scenario }
    }

    /// Where its schedule is, seen from the folder of all.
    fn schedule(&self) -> String {
        if self.name.is_empty() { SCHEDULE.to_owned() } else { format!("{}/{SCHEDULE}", self.name) }
    }
}

/// Writes `report.html`, `verdict.json`, `junit.xml` and `summary.md` into a folder that exists, replacing older ones.
/// `against` is an earlier verdict that the page holds this one against.
///
/// # Errors
/// [`ReportError`] with the file that could not be written.
pub fn write(
    folder: &Path,
    events: &[Event],
    verdict: &Verdict,
    against: Option<&Verdict>,
) -> Result<(), ReportError> {
    let mut json = serde_json::to_string_pretty(verdict)?;
    json.push('\n');
    write_file(folder.join(VERDICT), &json)?;
    let alone = [Entry { name: "", verdict }];
    write_file(folder.join(JUNIT), &junit::xml(&alone))?;
    write_file(folder.join(SUMMARY), &markdown::text(&alone))?;
    write_file(folder.join(PAGE), &html::page(events, verdict, against)?)
}

/// Writes what stands over several runs into the folder that holds theirs: `index.html`, `junit.xml` and `summary.md`.
///
/// # Errors
/// [`ReportError`] with the file that could not be written.
pub fn write_all(folder: &Path, entries: &[Entry<'_>]) -> Result<(), ReportError> {
    write_file(folder.join(JUNIT), &junit::xml(entries))?;
    write_file(folder.join(SUMMARY), &markdown::text(entries))?;
    write_file(folder.join(INDEX), &index::page(entries)?)
}

/// Appends the summary of these runs to a file that others append to as well, such as the one that
/// `GITHUB_STEP_SUMMARY` names.
///
/// # Errors
/// [`ReportError::Io`] where it cannot be written.
pub fn append_summary(file: &Path, entries: &[Entry<'_>]) -> Result<(), ReportError> {
    let text = format!("{}\n", markdown::text(entries));
    let opened = fs::OpenOptions::new().create(true).append(true).open(file);
    opened
        .and_then(|mut out| out.write_all(text.as_bytes()))
        .map_err(|source| ReportError::Io { path: file.to_owned(), source })
}

/// The verdict in a file or in the folder of a run, or those in the folders of the runs below it by their names.
///
/// # Errors
/// [`ReportError::Read`] where there is none, or one of them is none that this program can read.
pub fn read(folder: &Path) -> Result<Vec<(String, Verdict)>, ReportError> {
    let alone = if folder.is_file() { folder.to_owned() } else { folder.join(VERDICT) };
    if alone.is_file() {
        return Ok(vec![(String::new(), read_file(&alone)?)]);
    }
    let broken = |reason: String| ReportError::Read { path: folder.to_owned(), reason };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| broken(error.to_string()))?.flatten() {
        let path = entry.path().join(VERDICT);
        if path.is_file() {
            found.push((entry.file_name().to_string_lossy().into_owned(), read_file(&path)?));
        }
    }
    if found.is_empty() {
        return Err(broken(format!("neither it nor a folder in it holds a {VERDICT}")));
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(found)
}

fn read_file(path: &Path) -> Result<Verdict, ReportError> {
    let broken = |reason: String| ReportError::Read { path: path.to_owned(), reason };
    let text = fs::read(path).map_err(|error| broken(error.to_string()))?;
    // Looked at first: a newer verdict may have other fields, and must not be called damaged for it.
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
    let schema = value.get("schema").and_then(serde_json::Value::as_u64);
    if schema.is_none_or(|schema| schema > u64::from(SCHEMA)) {
        let schema = schema.map_or_else(|| "none".to_owned(), |schema| schema.to_string());
        return Err(broken(format!("its schema is {schema}, this program reads up to {SCHEMA}")));
    }
    serde_json::from_value(value).map_err(|error| broken(error.to_string()))
}

fn write_file(path: PathBuf, text: &str) -> Result<(), ReportError> {
    // Written beside and renamed, so that nobody ever opens half a report.
    let beside = path.with_extension("part");
    fs::write(&beside, text)
        .and_then(|()| fs::rename(&beside, &path))
        .map_err(|source| ReportError::Io { path, source })
}

#[cfg(test)]
mod tests;
