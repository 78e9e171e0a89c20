//! File descriptors: as many as the system gives this process, and never all of them to clients.
//!
//! A process that has none left cannot ask its database or its backends either, and takes them for dead.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For everything that is no connection of a client and none made for one: files, probes, the admin port.
const RESERVED: u64 = 64;

/// Raises the limit of open files to the highest that this process may set, and gives it; `None` where there is none.
pub(super) fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    // Refused, it stays as it was, which is then what counts.
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}

/// How many connections clients may have, who want `wanted`, out of `files`. Each may need another one behind us.
pub(super) fn connections_max(wanted: usize, files: Option<u64>) -> usize {
    let Some(files) = files else { return wanted };
    let left = files - RESERVED.min(files / 2);
    usize::try_from(left / 2).unwrap_or(usize::MAX).clamp(1, wanted.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_never_get_all_files() {
        for (wanted, files, expected) in [
            (10_000, None, 10_000),
            (10_000, Some(1_048_576), 10_000),
            (10_000, Some(1_024), 480),
            (100, Some(1_024), 100),
            (10_000, Some(48), 12),
            (10_000, Some(0), 1),
        ] {
            assert_eq!(connections_max(wanted, files), expected, "{wanted} of {files:?}");
        }
    }

    #[test]
    fn raising_gives_what_is_in_force() {
        let raised = raise();
        assert_eq!(getrlimit(Resource::Nofile).current, raised);
    }
}
