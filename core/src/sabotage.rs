//! Planted bugs: with the feature `sabotage` the environment can break a promise on purpose, so that the chaos suite
//! proves that it would notice. Without the feature, which is what ships, every question here is a constant no.

/// What can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// `skip-fsync`: the journal acknowledges without syncing.
    SkipFsync,
    /// `no-idempotency`: replay applies without asking whether the key was applied already.
    NoIdempotency,
    /// `volatile-disk`: journal bytes that were not synced vanish with the process, as in a power cut. Not a bug by
    /// itself; it makes `skip-fsync` visible.
    VolatileDisk,
}

/// Whether the bug is planted: never, without the feature `sabotage`.
#[cfg(not(feature = "sabotage"))]
pub const fn planted(_bug: Bug) -> bool {
    false
}

/// Whether `RIDETHROUGH_SABOTAGE`, a comma list read once, names the bug.
///
/// # Panics
/// Where the list holds an unknown name: a misspelt bug would make a test of the tests pass for nothing.
#[cfg(feature = "sabotage")]
pub fn planted(bug: Bug) -> bool {
    static PLANTED: std::sync::OnceLock<Vec<Bug>> = std::sync::OnceLock::new();
    PLANTED.get_or_init(|| parse(&std::env::var("RIDETHROUGH_SABOTAGE").unwrap_or_default())).contains(&bug)
}

#[cfg(feature = "sabotage")]
fn parse(list: &str) -> Vec<Bug> {
    let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
    names
        .map(|name| match name {
            "skip-fsync" => Bug::SkipFsync,
            "no-idempotency" => Bug::NoIdempotency,
            "volatile-disk" => Bug::VolatileDisk,
            other => panic!(
                "RIDETHROUGH_SABOTAGE names {other:?}; known are skip-fsync, no-idempotency and volatile-disk"
            ),
        })
        .collect()
}

#[cfg(all(test, feature = "sabotage"))]
mod tests {
    use super::{Bug, parse};

    #[test]
    fn a_list_names_bugs() {
        assert_eq!(parse(" skip-fsync,volatile-disk"), [Bug::SkipFsync, Bug::VolatileDisk]);
        assert_eq!(parse(""), []);
    }

    #[test]
    #[should_panic(expected = "known are")]
    fn a_misspelt_bug_is_refused() {
        parse("skip-fsink");
    }
}
