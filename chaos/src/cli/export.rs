//! `export`: a history to standard output, and what it holds to standard error. The forms are in `history/export.rs`.

use std::io::{self, Write};
use std::path::Path;

use crate::error::Error;
use crate::history::{self, Format};

/// The forms by their names on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    /// One JSON object per line, as `check` reads it.
    Jsonl,
    /// A Jepsen history for Elle.
    Edn,
}

/// Writes the whole export, or says why not.
pub(super) fn write(path: &Path, form: Form) -> Result<(), Error> {
    let failed = |what: &str, reason: String| Error::History { what: what.to_owned(), reason };
    let events = history::read(path).map_err(|error| failed("read the history", error.to_string()))?;
    let format = match form {
        Form::Jsonl => Format::JsonLines,
        Form::Edn => Format::Edn,
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    match history::export(&events, format, &mut out) {
        Ok(told) => {
            let text = format!(
                "{} operations for the model {}, {} left out\n",
                told.operations,
                told.model.name(),
                told.left_out
            );
            let _ = io::stderr().lock().write_all(text.as_bytes());
            Ok(())
        }
        // A reader that saw enough, such as `head`, is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(failed("write the export", error.to_string())),
    }
}
