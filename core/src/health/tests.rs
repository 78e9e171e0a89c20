//! The table of the health page, row by row, and what holds for every combination of part states.

use super::*;

const LIVES: [Life; 4] = [Life::Starting, Life::Running, Life::Draining, Life::Broken];
const DATABASES: [DatabasePart; 7] = [
    DatabasePart::Unknown,
    DatabasePart::Up,
    DatabasePart::Slow,
    DatabasePart::ReadOnly,
    DatabasePart::Standby,
    DatabasePart::Away,
    DatabasePart::Refused,
];
const CACHES: [CachePart; 2] = [CachePart::Cold, CachePart::Warm];
const JOURNALS: [JournalPart; 4] =
    [JournalPart::Ok, JournalPart::Backlog, JournalPart::Full, JournalPart::Failed];
const SCHEMAS: [SchemaPart; 4] =
    [SchemaPart::Unknown, SchemaPart::Ok, SchemaPart::Pending, SchemaPart::Mismatch];

fn parts(was_ready: bool, database: DatabasePart, cache: CachePart, journal: JournalPart) -> Parts {
    Parts { life: Life::Running, was_ready, database, cache, journal, schema: SchemaPart::Ok }
}

/// (live, ready, started, status, mode, reads, writes).
type Answers = (bool, bool, bool, Status, Mode, Reads, Writes);
/// The number of a row, parts that it is about, and what it says.
type Row = (u8, Parts, Answers);

#[expect(clippy::too_many_lines, reason = "a table of twenty rows, one line each")]
fn table() -> Vec<Row> {
    use CachePart::{Cold, Warm};
    use DatabasePart::{Away, ReadOnly, Refused, Slow, Standby, Unknown, Up};
    use JournalPart::{Backlog, Failed, Full, Ok};
    use Status::{Fail, Pass, Warn};
    let of = parts;
    let starting =
        Parts { life: Life::Starting, schema: SchemaPart::Unknown, ..of(false, Unknown, Cold, Ok) };
    let unseen = Parts { schema: SchemaPart::Unknown, ..of(false, Away, Cold, Ok) };
    let not_asked = Parts { database: Unknown, ..unseen };
    let pending = Parts { schema: SchemaPart::Pending, ..of(true, Up, Warm, Ok) };
    let mismatch = Parts { schema: SchemaPart::Mismatch, ..of(true, Up, Warm, Ok) };
    let draining = Parts { life: Life::Draining, ..of(true, Up, Warm, Ok) };
    let broken = Parts { life: Life::Broken, ..of(true, Up, Warm, Ok) };
    vec![
        (1, starting, (true, false, false, Fail, Mode::Starting, Reads::None, Writes::None)),
        (2, of(false, Up, Cold, Ok), (true, true, true, Pass, Mode::Normal, Reads::Fresh, Writes::Committed)),
        (3, unseen, (true, false, true, Fail, Mode::Warming, Reads::None, Writes::Journaled)),
        (3, not_asked, (true, false, true, Fail, Mode::Warming, Reads::None, Writes::Journaled)),
        (
            4,
            of(false, Away, Warm, Ok),
            (true, true, true, Warn, Mode::Degraded, Reads::Stale, Writes::Journaled),
        ),
        (5, of(true, Up, Warm, Ok), (true, true, true, Pass, Mode::Normal, Reads::Fresh, Writes::Committed)),
        (
            6,
            of(true, Up, Warm, Backlog),
            (true, true, true, Pass, Mode::Recovering, Reads::Fresh, Writes::Journaled),
        ),
        (
            7,
            of(true, Slow, Warm, Ok),
            (true, true, true, Warn, Mode::Degraded, Reads::Fresh, Writes::Committed),
        ),
        (
            8,
            of(true, Away, Warm, Ok),
            (true, true, true, Warn, Mode::Degraded, Reads::Stale, Writes::Journaled),
        ),
        (9, of(true, Away, Warm, Full), (true, true, true, Warn, Mode::ReadOnly, Reads::Stale, Writes::None)),
        (
            10,
            of(true, Away, Cold, Ok),
            (true, true, true, Warn, Mode::WriteOnly, Reads::None, Writes::Journaled),
        ),
        (11, of(true, Away, Cold, Full), (true, true, true, Warn, Mode::Empty, Reads::None, Writes::None)),
        (
            12,
            of(true, Up, Warm, Full),
            (true, true, true, Warn, Mode::NoJournal, Reads::Fresh, Writes::Committed),
        ),
        (
            12,
            of(true, Up, Cold, Failed),
            (true, true, true, Warn, Mode::NoJournal, Reads::Fresh, Writes::Committed),
        ),
        (
            13,
            of(true, Away, Warm, Failed),
            (true, true, true, Warn, Mode::ReadOnly, Reads::Stale, Writes::None),
        ),
        (
            14,
            of(true, ReadOnly, Cold, Ok),
            (true, true, true, Warn, Mode::Degraded, Reads::Fresh, Writes::Journaled),
        ),
        (
            14,
            of(true, Standby, Cold, Ok),
            (true, true, true, Warn, Mode::Degraded, Reads::Stale, Writes::Journaled),
        ),
        (
            14,
            of(false, Standby, Cold, Full),
            (true, true, true, Warn, Mode::ReadOnly, Reads::Stale, Writes::None),
        ),
        (
            15,
            of(true, Refused, Warm, Ok),
            (true, true, true, Warn, Mode::Degraded, Reads::Stale, Writes::Journaled),
        ),
        (16, pending, (true, true, true, Warn, Mode::MigrationPending, Reads::Fresh, Writes::Committed)),
        (17, mismatch, (true, false, true, Fail, Mode::Fenced, Reads::None, Writes::None)),
        (18, draining, (true, false, true, Fail, Mode::Draining, Reads::Fresh, Writes::Committed)),
        (19, broken, (false, false, true, Fail, Mode::Broken, Reads::None, Writes::None)),
    ]
}

fn answers(parts: &Parts) -> Answers {
    let is = decide(parts, &ReadyPolicy::default());
    (is.live, is.ready, is.started, is.status, is.mode, is.reads, is.writes)
}

#[test]
fn every_row_of_the_table() {
    let rows = table();
    for (row, parts, expected) in &rows {
        assert_eq!(answers(parts), *expected, "row {row}: {parts:?}");
    }
    let told: std::collections::BTreeSet<u8> = rows.iter().map(|(row, ..)| *row).collect();
    assert_eq!(told, (1..=19).collect(), "a row is missing");
}

/// The page again, as a rule for whatever the parts are: the number of the row that it comes under, and what that says.
fn page(parts: &Parts) -> (u8, Answers) {
    let (reads, writes) = (reads_of(parts), writes_of(parts));
    let out = |row, mode| (row, (true, false, true, Status::Fail, mode, Reads::None, Writes::None));
    let well = |row, mode| (row, (true, true, true, Status::Pass, mode, reads, writes));
    let warn = |row, mode| (row, (true, true, true, Status::Warn, mode, reads, writes));
    match (parts.life, as_seen(parts), reads, parts.journal) {
        (Life::Broken, ..) => {
            (19, (false, false, true, Status::Fail, Mode::Broken, Reads::None, Writes::None))
        }
        (Life::Starting, ..) => {
            (1, (true, false, false, Status::Fail, Mode::Starting, Reads::None, Writes::None))
        }
        (Life::Draining, ..) => (18, (true, false, true, Status::Fail, Mode::Draining, reads, writes)),
        _ if parts.schema == SchemaPart::Mismatch => out(17, Mode::Fenced),
        (_, DatabasePart::Up | DatabasePart::Slow, ..) if parts.schema == SchemaPart::Pending => {
            warn(16, Mode::MigrationPending)
        }
        (_, DatabasePart::Up | DatabasePart::Slow, _, JournalPart::Full | JournalPart::Failed) => {
            warn(12, Mode::NoJournal)
        }
        (_, DatabasePart::Slow, ..) => warn(7, Mode::Degraded),
        (_, DatabasePart::Up, _, JournalPart::Backlog) => well(6, Mode::Recovering),
        (_, DatabasePart::Up, ..) => well(if parts.was_ready { 5 } else { 2 }, Mode::Normal),
        (_, _, Reads::None, _) if !parts.was_ready => {
            (3, (true, false, true, Status::Fail, Mode::Warming, reads, writes))
        }
        (_, _, Reads::None, _) if writes == Writes::None => warn(11, Mode::Empty),
        (_, _, Reads::None, _) => warn(10, Mode::WriteOnly),
        (_, DatabasePart::Away, _, JournalPart::Failed) => warn(13, Mode::ReadOnly),
        (_, DatabasePart::Away, _, JournalPart::Full) => warn(9, Mode::ReadOnly),
        (_, DatabasePart::Away, ..) => warn(if parts.was_ready { 8 } else { 4 }, Mode::Degraded),
        _ if writes == Writes::None => warn(14, Mode::ReadOnly),
        _ => warn(14, Mode::Degraded),
    }
}

/// What the database is good for: one whose schema nobody knows, or that lets nobody in, is as one that is away (row 15).
fn as_seen(parts: &Parts) -> DatabasePart {
    match (parts.database, parts.schema) {
        (DatabasePart::Up | DatabasePart::Slow, SchemaPart::Ok | SchemaPart::Pending)
        | (DatabasePart::ReadOnly | DatabasePart::Standby, SchemaPart::Ok) => parts.database,
        _ => DatabasePart::Away,
    }
}

fn reads_of(parts: &Parts) -> Reads {
    match (as_seen(parts), parts.cache) {
        (DatabasePart::Up | DatabasePart::Slow | DatabasePart::ReadOnly, _) => Reads::Fresh,
        (DatabasePart::Standby, _) | (_, CachePart::Warm) => Reads::Stale,
        _ => Reads::None,
    }
}

fn writes_of(parts: &Parts) -> Writes {
    let is_there = matches!(as_seen(parts), DatabasePart::Up | DatabasePart::Slow);
    match parts.journal {
        JournalPart::Ok if is_there => Writes::Committed,
        JournalPart::Ok | JournalPart::Backlog => Writes::Journaled,
        JournalPart::Full | JournalPart::Failed if is_there => Writes::Committed,
        JournalPart::Full | JournalPart::Failed => Writes::None,
    }
}

#[test]
fn whatever_the_parts_are_the_answer_is_that_of_the_row_they_come_under() {
    let mut seen = std::collections::BTreeSet::new();
    for parts in all_parts() {
        let (row, expected) = page(&parts);
        assert_eq!(answers(&parts), expected, "row {row}: {parts:?}");
        seen.insert(row);
    }
    // Row 15 says that it is as those without a database.
    assert_eq!(seen, (1..=19).filter(|row| *row != 15).collect());
}

#[test]
fn what_the_operator_demands_takes_readiness_for_faults_of_this_replica_alone() {
    let policies =
        [Require::Any, Require::Reads, Require::Writes, Require::All].into_iter().flat_map(|require| {
            [OnEmpty::Stay, OnEmpty::Leave].map(|on_empty| ReadyPolicy { require, on_empty })
        });
    for policy in policies {
        for parts in all_parts() {
            let (usual, is) = (decide(&parts, &ReadyPolicy::default()), decide(&parts, &policy));
            let own_disk = parts.journal == JournalPart::Failed && usual.writes == Writes::None;
            let is_forbidden = parts.was_ready
                && (own_disk && matches!(policy.require, Require::Writes | Require::All)
                    || usual.reads == Reads::None
                        && usual.writes == Writes::None
                        && policy.on_empty == OnEmpty::Leave);
            assert_eq!(is.ready, usual.ready && !is_forbidden, "{policy:?}: {parts:?}");
            assert_eq!(Health { ready: usual.ready, ..is }, usual, "{policy:?}: {parts:?}");
        }
    }
}

#[test]
fn policies_of_rows_11_and_13() {
    let empty = parts(true, DatabasePart::Away, CachePart::Cold, JournalPart::Full);
    let leave = ReadyPolicy { on_empty: OnEmpty::Leave, ..ReadyPolicy::default() };
    assert!(!decide(&empty, &leave).ready);
    let own_disk = parts(true, DatabasePart::Away, CachePart::Warm, JournalPart::Failed);
    for (require, ready) in
        [(Require::Any, true), (Require::Reads, true), (Require::Writes, false), (Require::All, false)]
    {
        let policy = ReadyPolicy { require, ..ReadyPolicy::default() };
        assert_eq!(decide(&own_disk, &policy).ready, ready, "{require:?}");
    }
}

fn all_parts() -> Vec<Parts> {
    let mut all = Vec::new();
    for life in LIVES {
        for database in DATABASES {
            for cache in CACHES {
                for journal in JOURNALS {
                    for schema in SCHEMAS {
                        for was_ready in [false, true] {
                            all.push(Parts { life, was_ready, database, cache, journal, schema });
                        }
                    }
                }
            }
        }
    }
    all
}

#[test]
fn liveness_and_startup_depend_on_nothing_but_the_process() {
    for parts in all_parts() {
        let is = decide(&parts, &ReadyPolicy::default());
        assert_eq!(is.live, parts.life != Life::Broken, "{parts:?}");
        assert_eq!(is.started, parts.life != Life::Starting, "{parts:?}");
    }
}

#[test]
fn the_database_alone_never_takes_readiness_from_a_ready_replica() {
    for parts in all_parts() {
        let well = Parts { database: DatabasePart::Up, ..parts };
        if parts.was_ready && decide(&well, &ReadyPolicy::default()).ready {
            assert!(decide(&parts, &ReadyPolicy::default()).ready, "{parts:?}");
        }
    }
}

#[test]
fn a_ready_new_replica_always_has_something_to_serve() {
    for parts in all_parts() {
        let is = decide(&parts, &ReadyPolicy::default());
        if is.ready && !parts.was_ready {
            assert_ne!(is.reads, Reads::None, "{parts:?}");
        }
    }
}
