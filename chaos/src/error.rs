//! What can go wrong while a laboratory is set up, run and taken down.
//! Says what failed and what to do; it does not judge a run (that is the verdict).

use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;

/// An error of the harness itself: never a statement about the system under test.
///
/// Texts are lower case without a full stop, fit to follow "failed to".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No folder holds PostgreSQL's server binaries.
    #[error(
        "find PostgreSQL: no folder holds both `postgres` and `initdb` (looked at: {looked_at}); run `make setup`, \
         install the package `postgresql`, or name the folder with --pg-bin or RIDETHROUGH_PG_BIN"
    )]
    NoPostgres {
        /// The folders that were looked at, joined by commas.
        looked_at: String,
    },
    /// A binary of this workspace is not where it was expected.
    #[error(
        "find the binary `{name}`: it is not at {}; build it with `{build}`, or name it with {option}; \
         a service of your own takes neither, only a file that describes it (`run SCENARIO --target FILE`)",
        path.display()
    )]
    NoBinary {
        /// The file name of the binary.
        name: String,
        /// Where it was looked for.
        path: PathBuf,
        /// The command that makes it.
        build: String,
        /// The option that names it.
        option: &'static str,
    },
    /// The operating system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, fit to follow "failed to".
        what: String,
        /// The refusal.
        source: io::Error,
    },
    /// A process did not come up.
    #[error("start {name}: {reason}{log}")]
    Start {
        /// The process, in the words of the stack ("server 1").
        name: String,
        /// Why it is given up.
        reason: String,
        /// The last lines of its log, each on a line of its own; empty where there are none.
        log: String,
    },
    /// Something did not happen within its limit.
    #[error("{what}: it did not happen within {} ms", limit.as_millis())]
    Late {
        /// What was waited for, fit to follow "failed to".
        what: String,
        /// How long was waited.
        limit: std::time::Duration,
    },
    /// This machine has not what a fault takes: whatever needs it is skipped, which says nothing about the victim.
    #[error("use {means}: {reason}")]
    NoMeans {
        /// What it takes ("the preload shim").
        means: &'static str,
        /// What is missing, or what was refused.
        reason: String,
    },
    /// A fault or a step was asked for in a state that does not allow it.
    #[error("{what}: {reason}")]
    State {
        /// What was asked for.
        what: String,
        /// Why it cannot be done now.
        reason: String,
    },
    /// PostgreSQL refused a statement of the harness.
    #[error("{what}: {}", describe_postgres(source))]
    Postgres {
        /// What was being done.
        what: String,
        /// The driver's error.
        source: tokio_postgres::Error,
    },
    /// A name on the command line is not known.
    #[error("find {what} `{name}`: {}known are {known}", nearest(name, known))]
    Unknown {
        /// What kind of thing was named ("the scenario").
        what: &'static str,
        /// The name.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// The configuration cannot be used.
    #[error("use the configuration: {0}")]
    Configuration(#[from] ConfigError),
    /// The history could not be written or read.
    #[error("{what}: {reason}")]
    History {
        /// What was being done.
        what: String,
        /// Why it failed.
        reason: String,
    },
}

impl Error {
    /// Wraps an error of the operating system; `what` follows "failed to".
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Wraps an error of the driver; `what` follows "failed to".
    pub(crate) fn postgres(what: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let what = what.into();
        move |source| Self::Postgres { what, source }
    }

    /// Something that this machine cannot do.
    pub(crate) fn no_means(means: &'static str, reason: impl Into<String>) -> Self {
        Self::NoMeans { means, reason: reason.into() }
    }

    /// A step that the present state does not allow.
    pub(crate) fn state(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::State { what: what.into(), reason: reason.into() }
    }
}

/// The known name that was probably meant, as a question.
fn nearest(name: &str, known: &str) -> String {
    let likeness = |known: &str| strsim::jaro_winkler(name, known);
    let best = known.split(", ").max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
    let meant = best.filter(|best| likeness(best) > 0.8);
    meant.map_or_else(String::new, |meant| format!("did you mean `{meant}`? "))
}

/// The driver's `Display` hides the server's message ("db error"); this shows code and message.
pub(crate) fn describe_postgres(error: &tokio_postgres::Error) -> String {
    if let Some(server) = error.as_db_error() {
        return format!("{} {}", server.code().code(), server.message());
    }
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_was_typed_wrong_is_asked_about_and_nonsense_is_not() {
        let told = |name: &str| {
            let (name, known) = (name.to_owned(), "db-kill, db-hang, failover".to_owned());
            Error::Unknown { what: "the fault", name, known }.to_string()
        };
        assert!(told("db-kil").contains("did you mean `db-kill`?"));
        assert!(told("fail-over").contains("did you mean `failover`?"));
        assert!(!told("everything").contains("did you mean"));
    }
}
