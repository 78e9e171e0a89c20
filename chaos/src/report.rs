//! Shows a verdict: sentences for the terminal, `report.html` for people, `verdict.json` for programs.
//! Judges nothing; every figure comes from the verdict, every drawing from the history.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::history::Event;
use crate::verdict::Verdict;

mod chart;
mod html;
mod lanes;
mod sentences;
mod svg;

pub use crate::report::sentences::{headline, sentences};

/// Name of the page.
pub const PAGE: &str = "report.html";
/// Name of the verdict for programs.
pub const VERDICT: &str = "verdict.json";

/// Why a report could not be written.
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
    /// The page could not be filled in; a fault of this program.
    #[error("cannot fill in the report: {0}")]
    Page(#[from] minijinja::Error),
    /// The verdict could not be written as JSON; a fault of this program.
    #[error("cannot write the verdict as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Writes `report.html` and `verdict.json` into a folder that exists, replacing older ones.
///
/// # Errors
/// [`ReportError`] with the file that could not be written.
pub fn write(folder: &Path, events: &[Event], verdict: &Verdict) -> Result<(), ReportError> {
    let mut json = serde_json::to_string_pretty(verdict)?;
    json.push('\n');
    write_file(folder.join(VERDICT), &json)?;
    write_file(folder.join(PAGE), &html::page(events, verdict)?)
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
