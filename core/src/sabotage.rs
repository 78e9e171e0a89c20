//! Planted bugs and planted deaths: with the feature `sabotage` the environment can break a promise on purpose, so that
//! the chaos suite proves that it would notice, and can end the process at a chosen step, as SIGKILL does. Without the
//! feature, which is what ships, every question here is a constant no.

/// What can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// `skip-fsync`: the journal acknowledges without syncing.
    SkipFsync,
    /// `early-ack`: the journal acknowledges first and writes a moment later.
    EarlyAck,
    /// `no-idempotency`: replay applies without asking whether the key was applied already.
    NoIdempotency,
    /// `replay-twice`: replay applies each command twice under its one key.
    ReplayTwice,
    /// `order-swapped`: replay applies the commands of one ordering key from the last to the first.
    OrderSwapped,
    /// `understated-age`: a kept answer calls itself brand-new, though stale.
    UnderstatedAge,
    /// `unlabelled-stale`: a kept answer calls itself fresh.
    UnlabelledStale,
    /// `anothers-answer`: the key of a kept answer forgets whose and which it is.
    AnothersAnswer,
    /// `liveness-asks-database`: a process without its database says that it is dead.
    LivenessAsksDatabase,
    /// `readiness-asks-database`: a process without its database refuses all traffic.
    ReadinessAsksDatabase,
    /// `retry-without-budget`: a lost race is run again until the deadline, whatever the traffic has earned.
    RetryWithoutBudget,
    /// `no-connect-deadline`: a connection that is being made may take for ever.
    NoConnectDeadline,
}

/// Whether the bug is planted: never, without the feature `sabotage`.
#[cfg(not(feature = "sabotage"))]
#[inline(always)]
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
const NAMES: [(&str, Bug); 12] = [
    ("skip-fsync", Bug::SkipFsync),
    ("early-ack", Bug::EarlyAck),
    ("no-idempotency", Bug::NoIdempotency),
    ("replay-twice", Bug::ReplayTwice),
    ("order-swapped", Bug::OrderSwapped),
    ("understated-age", Bug::UnderstatedAge),
    ("unlabelled-stale", Bug::UnlabelledStale),
    ("anothers-answer", Bug::AnothersAnswer),
    ("liveness-asks-database", Bug::LivenessAsksDatabase),
    ("readiness-asks-database", Bug::ReadinessAsksDatabase),
    ("retry-without-budget", Bug::RetryWithoutBudget),
    ("no-connect-deadline", Bug::NoConnectDeadline),
];

#[cfg(feature = "sabotage")]
fn parse(list: &str) -> Vec<Bug> {
    let known = |name: &str| NAMES.iter().find(|(known, _)| *known == name).map(|(_, bug)| *bug);
    let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
    names
        .map(|name| {
            known(name).unwrap_or_else(|| {
                panic!("RIDETHROUGH_SABOTAGE names {name:?}; known are {:?}", NAMES.map(|(name, _)| name))
            })
        })
        .collect()
}

/// A step of journal, write, replay or publication at which the process can be made to die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// `before-append`: a batch is about to be written to the journal.
    BeforeAppend,
    /// `before-sync`: it is written and not synced.
    BeforeSync,
    /// `before-answer`: it is synced, and nobody was told.
    BeforeAnswer,
    /// `before-rotation`: a new segment is about to be made.
    BeforeRotation,
    /// `before-cursor`: entries are settled, and the cursor is not stored.
    BeforeCursor,
    /// `before-removal`: the cursor is stored, and a segment behind it is about to be removed.
    BeforeRemoval,
    /// `before-aside`: entries are about to be set aside.
    BeforeAside,
    /// `after-aside`: they are, and nobody was told.
    AfterAside,
    /// `before-compaction`: the file of what is aside is about to be written anew.
    BeforeCompaction,
    /// `before-claim`: a transaction has begun, and its keys are not claimed.
    BeforeClaim,
    /// `after-claim`: the keys are claimed, and nothing is applied.
    AfterClaim,
    /// `before-commit`: all is applied, and COMMIT is not sent.
    BeforeCommit,
    /// `after-commit`: COMMIT is answered, and the journal does not know.
    AfterCommit,
    /// `after-publish`: a broker has events, and they are not taken out of the outbox.
    AfterPublish,
}

/// Nothing, without the feature `sabotage`.
#[cfg(not(feature = "sabotage"))]
#[inline(always)]
pub const fn reached(_step: Step) {}

/// Ends the process as SIGKILL does, where `RIDETHROUGH_FAILPOINT`, read once, names this step and this is the time that
/// it says: `before-sync:3` is the third time.
///
/// # Panics
/// Where it cannot be understood: a misspelt step would make a test pass for nothing.
#[cfg(feature = "sabotage")]
pub fn reached(step: Step) {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    };

    static PLANNED: OnceLock<Option<(Step, u64)>> = OnceLock::new();
    static TIMES: AtomicU64 = AtomicU64::new(0);
    let planned = PLANNED.get_or_init(|| failpoint(&std::env::var("RIDETHROUGH_FAILPOINT").ok()?));
    let Some((at, nth)) = *planned else { return };
    if at == step && TIMES.fetch_add(1, Ordering::SeqCst) + 1 == nth {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

#[cfg(feature = "sabotage")]
fn failpoint(text: &str) -> Option<(Step, u64)> {
    if text.is_empty() {
        return None;
    }
    let (name, nth) = text.split_once(':').unwrap_or((text, "1"));
    let step = match name {
        "before-append" => Step::BeforeAppend,
        "before-sync" => Step::BeforeSync,
        "before-answer" => Step::BeforeAnswer,
        "before-rotation" => Step::BeforeRotation,
        "before-cursor" => Step::BeforeCursor,
        "before-removal" => Step::BeforeRemoval,
        "before-aside" => Step::BeforeAside,
        "after-aside" => Step::AfterAside,
        "before-compaction" => Step::BeforeCompaction,
        "before-claim" => Step::BeforeClaim,
        "after-claim" => Step::AfterClaim,
        "before-commit" => Step::BeforeCommit,
        "after-commit" => Step::AfterCommit,
        "after-publish" => Step::AfterPublish,
        other => panic!("RIDETHROUGH_FAILPOINT names {other:?}, which is no step"),
    };
    Some((step, nth.parse().expect("RIDETHROUGH_FAILPOINT ends with a number")))
}

#[cfg(all(test, feature = "sabotage"))]
mod tests {
    use super::{Bug, NAMES, Step, failpoint, parse};

    #[test]
    fn a_failpoint_names_a_step_and_a_time() {
        assert_eq!(failpoint("before-sync:3"), Some((Step::BeforeSync, 3)));
        assert_eq!(failpoint("after-commit"), Some((Step::AfterCommit, 1)));
        assert_eq!(failpoint(""), None);
    }

    #[test]
    #[should_panic(expected = "which is no step")]
    fn a_misspelt_step_is_refused() {
        failpoint("before-sink:1");
    }

    #[test]
    fn a_list_names_bugs() {
        assert_eq!(parse(" skip-fsync,early-ack"), [Bug::SkipFsync, Bug::EarlyAck]);
        assert_eq!(parse(""), []);
    }

    #[test]
    fn no_bug_has_two_names_and_no_name_two_bugs() {
        for (place, (name, bug)) in NAMES.iter().enumerate() {
            assert!(NAMES[..place].iter().all(|(other, of)| other != name && of != bug), "{name}");
        }
    }

    #[test]
    #[should_panic(expected = "known are")]
    fn a_misspelt_bug_is_refused() {
        parse("skip-fsink");
    }
}
