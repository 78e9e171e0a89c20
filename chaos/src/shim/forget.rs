//! A disk that forgets: what a program had not synced when it ended is undone when it starts again, as by a power cut. A
//! SIGKILL alone leaves all of it in the page cache. The C part is `shim/forget.c`; it has no rules and is on or not there.

use std::path::Path;

use crate::error::Error;
use crate::folder::RunFolder;

use super::{Shim, compiled};

const SOURCE: &str = include_str!("../../shim/forget.c");
const BELOW: &str = "RIDETHROUGH_FORGETS";
const LOG: &str = "RIDETHROUGH_FORGETS_LOG";

impl Shim {
    /// What a program is to be started with, each time, for its files below a folder to forget. `name` is unique in the
    /// run; the folder need not be there yet. Blocking: some 0.2 s for the first program of a run.
    ///
    /// The program must start no others: each start undoes what is not synced.
    ///
    /// # Errors
    /// [`Error::NoMeans`] where there is no C compiler, [`Error::Io`] where a folder cannot be made.
    pub fn forgetful(run: &RunFolder, name: &str, below: &Path) -> Result<[(String, String); 3], Error> {
        let library = compiled(run, "forget", SOURCE)?;
        let log = run.private(&format!("{name}.kept"))?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        // The shim compares with what the kernel calls an open file.
        let root = run.path().canonicalize().map_err(Error::io("find the run folder"))?;
        let below = root.join(below.strip_prefix(run.path()).unwrap_or(below));
        let pairs = [("LD_PRELOAD", text(&library)), (BELOW, text(&below)), (LOG, text(&log))];
        Ok(pairs.map(|(name, value)| (name.to_owned(), value)))
    }
}
