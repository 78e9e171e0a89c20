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
const JOURNALS: [JournalPart; 5] =
    [JournalPart::Ok, JournalPart::Backlog, JournalPart::Full, JournalPart::Failed, JournalPart::Blocked];
const SCHEMAS: [SchemaPart; 4] =
    [SchemaPart::Unknown, SchemaPart::Ok, SchemaPart::Pending, SchemaPart::Mismatch];

fn parts(was_ready: bool, database: DatabasePart, cache: CachePart, journal: JournalPart) -> Parts {
    Parts { life: Life::Running, was_ready, database, cache, journal, schema: SchemaPart::Ok }
}

/// (row, parts) to (live, ready, started, status, mode, reads, writes).
type Row = (u8, Parts, (bool, bool, bool, Status, Mode, Reads, Writes));

#[expect(clippy::too_many_lines, reason = "a table of twenty rows, one line each")]
fn table() -> Vec<Row> {
    use CachePart::{Cold, Warm};
    use DatabasePart::{Away, ReadOnly, Refused, Slow, Standby, Unknown, Up};
    use JournalPart::{Backlog, Blocked, Failed, Full, Ok};
    use Status::{Fail, Pass, Warn};
    let of = parts;
    let starting =
        Parts { life: Life::Starting, schema: SchemaPart::Unknown, ..of(false, Unknown, Cold, Ok) };
    let unseen = Parts { schema: SchemaPart::Unknown, ..of(false, Away, Cold, Ok) };
    let pending = Parts { schema: SchemaPart::Pending, ..of(true, Up, Warm, Ok) };
    let mismatch = Parts { schema: SchemaPart::Mismatch, ..of(true, Up, Warm, Ok) };
    let draining = Parts { life: Life::Draining, ..of(true, Up, Warm, Ok) };
    let broken = Parts { life: Life::Broken, ..of(true, Up, Warm, Ok) };
    vec![
        (1, starting, (true, false, false, Fail, Mode::Starting, Reads::None, Writes::None)),
        (2, of(false, Up, Cold, Ok), (true, true, true, Pass, Mode::Normal, Reads::Fresh, Writes::Committed)),
        (3, unseen, (true, false, true, Fail, Mode::Warming, Reads::None, Writes::Journaled)),
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
            12,
            of(true, Up, Warm, Blocked),
            (true, true, true, Warn, Mode::ReadOnly, Reads::Fresh, Writes::None),
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

#[test]
fn every_row_of_the_table() {
    for (row, parts, expected) in table() {
        let is = decide(&parts, &ReadyPolicy::default());
        let answers = (is.live, is.ready, is.started, is.status, is.mode, is.reads, is.writes);
        assert_eq!(answers, expected, "row {row}: {parts:?}");
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
