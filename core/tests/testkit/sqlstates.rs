//! The table of SQLSTATEs through the whole path: each code, as ERROR and as FATAL, in each phase. What class the caller is
//! told, what each circuit counts, whether the connection is kept, what is done again, and that what was told is true.

use super::path::*;
use Count::{Failure, Neutral, Success};
use ErrorClass::{Contention, Failover, Heal, Overload, Permanent, Transient, Unknown};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    Success,
    Failure,
    Neutral,
}

/// What a code means for a statement that failed with it.
#[derive(Debug, Clone, Copy)]
struct Row {
    codes: &'static [&'static str],
    /// `None` where the phase alone decides.
    class: Option<ErrorClass>,
    reads: Count,
    writes: Count,
    keeps: bool,
}

const fn row(codes: &'static [&'static str], class: Option<ErrorClass>, both: Count, keeps: bool) -> Row {
    Row { codes, class, reads: both, writes: both, keeps }
}

/// In the order of the design's table.
const TABLE: &[Row] = &[
    row(&["08001", "08003", "08004"], Some(Transient), Failure, false),
    row(&["08000", "08006"], None, Failure, false),
    row(&["08007", "40003"], Some(Unknown), Neutral, false),
    row(&["08P01"], Some(Permanent), Neutral, false),
    row(&["26000"], Some(Heal), Success, true),
    row(
        &[
            "0A000", "03000", "09000", "0B000", "0F000", "0L000", "0P000", "0Z000", "20000", "21000",
            "22P02", "24000", "27000", "2B000", "2D000", "2F000", "34000", "38000", "39000", "3B000",
            "3D001", "3F000", "42601", "44000", "54000", "HV000", "P0001", "23502", "23503", "23505",
            "23P01", "25001", "25P02", "40002", "55000", "55P02", "55P04",
        ],
        Some(Permanent),
        Success,
        true,
    ),
    Row { codes: &["25006"], class: Some(Failover), reads: Success, writes: Failure, keeps: false },
    row(&["25P03", "25P04", "57P05"], Some(Transient), Neutral, false),
    row(&["28000", "28P01", "3D000", "57P04", "XX001", "XX002"], Some(Permanent), Failure, false),
    row(&["40001", "40P01", "40000", "55P03", "55006", "72000"], Some(Contention), Success, true),
    row(&["53000", "53100", "53200", "53400"], Some(Overload), Neutral, true),
    row(&["53300"], Some(Overload), Neutral, false),
    row(&["57014"], Some(Overload), Success, true),
    row(&["57P01", "57P02", "58000", "58030", "58P01", "F0000", "XX000"], None, Failure, false),
    row(&["57P03"], Some(Transient), Failure, false),
];
/// One that nobody knows: it may be transient, and only a read finds out by asking again.
const UNKNOWN_CODE: &str = "ZZ999";

fn lost(phase: Phase) -> ErrorClass {
    match phase {
        Phase::NotSent | Phase::InTransaction => Transient,
        Phase::Sent | Phase::CommitSent => Unknown,
    }
}

/// Codes that say "never" about the next session too.
fn lasts(code: &str) -> bool {
    code.starts_with("28") || matches!(code, "3D000" | "57P04" | "XX001" | "XX002")
}

impl Row {
    fn class(&self, phase: Phase) -> ErrorClass {
        self.class.unwrap_or(lost(phase))
    }

    /// The session is over: a code that means "never" for a statement says nothing about the next one.
    fn fatal_class(&self, code: &str, phase: Phase) -> ErrorClass {
        match self.class(phase) {
            _ if phase == Phase::CommitSent => Unknown,
            Permanent if !lasts(code) => lost(phase),
            class => class,
        }
    }
}

fn rows() -> impl Iterator<Item = (&'static str, Row)> {
    TABLE.iter().flat_map(|row| row.codes.iter().map(|code| (*code, *row)))
}

/// Each code as an ERROR; as the end of the session one of each row, and those that last.
fn both_severities() -> impl Iterator<Item = (&'static str, Row, bool)> {
    let errors = rows().map(|(code, row)| (code, row, false));
    let first = one_of_each().map(|(code, row)| (code, row, true));
    let firsts = |code: &str| TABLE.iter().any(|row| row.codes.first() == Some(&code));
    let lasting = rows().filter(move |(code, _)| lasts(code) && !firsts(code));
    errors.chain(first).chain(lasting.map(|(code, row)| (code, row, true)))
}

/// One code of each row, for what takes long.
fn one_of_each() -> impl Iterator<Item = (&'static str, Row)> {
    TABLE.iter().filter_map(|row| Some((*row.codes.first()?, *row)))
}

fn counted(before: Counted, after: Counted) -> Count {
    match (after.0 - before.0, after.1 - before.1) {
        (0, 0) => Neutral,
        (_, 0) => Success,
        (0, _) => Failure,
        both => panic!("one call counted as {both:?}"),
    }
}

/// Whether the connection that is idle now is still there after `call`.
async fn keeps(path: &Path, call: impl Future<Output = ()>) -> bool {
    let before = path.server.counts().connections;
    call.await;
    path.at_rest("after the call").await;
    path.read().await.expect("the next call works");
    path.server.counts().connections == before
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails() {
    for (code, row, fatal) in both_severities() {
        let path = Path::new(Path::once()).await;
        path.read().await.unwrap();
        let (before, _) = path.counted();
        let fault = if fatal { Fault::Fatal(code) } else { Fault::Error(code) };
        path.server.fault(At::statement("SELECT title"), fault);
        let story = format!("{code} fatal {fatal}");
        let class = if fatal { row.fatal_class(code, Phase::Sent) } else { row.class(Phase::Sent) };
        let kept = keeps(&path, async {
            let error = path.read().await.expect_err(&story);
            assert_eq!((error.class(), error.phase()), (class, Phase::Sent), "{story}");
            assert_eq!(error.code(), Some(code), "{story}");
            assert_eq!(counted(before, path.counted().0), row.reads, "{story}");
        });
        assert_eq!(kept.await, row.keeps && !fatal, "{story}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_is_asked_again_where_that_can_help() {
    for (code, row) in rows() {
        let path = Path::new(Path::quiet()).await;
        path.read().await.unwrap();
        path.server.fault(At::statement("SELECT title"), Fault::Error(code));
        let again = matches!(row.class(Phase::Sent), Transient | Contention | Heal | Failover | Unknown);
        assert_eq!(path.read().await.is_ok(), again, "{code}");
    }
    let path = Path::new(Path::quiet()).await;
    path.server.fault(At::statement("SELECT title"), Fault::Error(UNKNOWN_CODE));
    assert!(path.read().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_fails_before_its_commit() {
    for (code, row, fatal) in both_severities() {
        let path = Path::new(Path::once()).await;
        path.read().await.unwrap();
        let (_, before) = path.counted();
        let fault = if fatal { Fault::Fatal(code) } else { Fault::Error(code) };
        path.server.fault(At::statement("INSERT INTO orders"), fault);
        let story = format!("{code} fatal {fatal}");
        let phase = Phase::InTransaction;
        let class = if fatal { row.fatal_class(code, phase) } else { row.class(phase) };
        let kept = keeps(&path, async {
            let outcome = path.transaction(TransactionOptions::new("order").replayable()).await;
            let Outcome::RolledBack(error) = outcome else { panic!("{story}: {outcome:?}") };
            assert_eq!((error.class(), error.phase()), (class, phase), "{story}");
            assert_eq!(counted(before, path.counted().1), row.writes, "{story}");
        });
        assert_eq!(kept.await, row.keeps && !fatal, "{story}");
        assert_eq!(path.orders(), 0, "{story}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_runs_again_only_where_it_may_and_where_that_can_help() {
    for (code, row) in one_of_each() {
        for replayable in [false, true] {
            let path = Path::new(Path::quiet()).await;
            path.server.fault(At::statement("INSERT INTO orders"), Fault::Error(code));
            let options = TransactionOptions { replayable, ..TransactionOptions::new("order") };
            let outcome = path.transaction(options).await;
            let helps = matches!(row.class(Phase::InTransaction), Transient | Contention | Heal | Failover);
            let committed = matches!(outcome, Outcome::Committed(_));
            assert_eq!(committed, helps && replayable, "{code} {replayable}: {outcome:?}");
            assert_eq!(path.orders(), usize::from(committed), "{code} {replayable}");
        }
    }
}

/// An ERROR in the answer to COMMIT is an answer: rolled back. A FATAL one is none, and has to be found out.
#[tokio::test(start_paused = true)]
async fn a_commit_that_fails_is_told_as_it_was() {
    for (code, row) in one_of_each() {
        for (at, fatal) in [(At::BeforeCommit, false), (At::BeforeCommit, true), (At::AfterCommit, true)] {
            let story = format!("{code} {at:?} fatal {fatal}");
            let path = Path::new(Path::once()).await;
            path.read().await.unwrap();
            let fault = if fatal { Fault::Fatal(code) } else { Fault::Error(code) };
            path.server.fault(at.clone(), fault);
            let outcome = path.transaction(TransactionOptions::new("order")).await;
            let happened = at == At::AfterCommit;
            assert_eq!(path.orders(), usize::from(happened), "{story}");
            match outcome {
                Outcome::Committed(_) => assert!(happened, "{story}"),
                Outcome::RolledBack(error) => {
                    assert!(!happened, "{story}: {error}");
                    // What was looked into is known by now.
                    let looked_into = fatal || row.class(Phase::CommitSent) == Unknown;
                    let class = if looked_into { Transient } else { row.class(Phase::CommitSent) };
                    assert_eq!(error.class(), class, "{story}");
                }
                Outcome::Unknown(unresolved) => panic!("{story}: {unresolved:?}"),
            }
            path.at_rest(&story).await;
        }
    }
}

/// A write under a key, in whatever phase it failed: what was told is true then, and once the journal is empty too.
#[tokio::test(start_paused = true)]
async fn a_write_under_a_key_is_told_as_it_was() {
    let moments = [
        At::Connect,
        At::statement("BEGIN"),
        At::statement("INSERT INTO orders"),
        At::BeforeCommit,
        At::AfterCommit,
    ];
    for (code, _) in one_of_each() {
        for at in &moments {
            for (fatal, config) in [(true, Path::quiet()), (false, Path::once())] {
                // After COMMIT there are no errors but fatal ones.
                if *at == At::AfterCommit && !fatal {
                    continue;
                }
                let story = format!("{code} {at:?} fatal {fatal}");
                let path = Path::new(config).await;
                path.server.fault(at.clone(), if fatal { Fault::Fatal(code) } else { Fault::Error(code) });
                let told = path.write("k").await;
                assert_eq!(path.server.faults_waiting(), 0, "{story}: the fault did not strike");
                if let Ok(Written::Committed { .. }) = told {
                    assert_eq!(path.orders(), 1, "{story}");
                }
                path.replayed(&story).await;
                match told {
                    Ok(_) => assert_eq!(path.orders(), 1, "{story}: {told:?}"),
                    Err(WriteError::Rejected(error)) => assert_eq!(path.orders(), 0, "{story}: {error}"),
                    Err(error) => panic!("{story}: {error}"),
                }
                assert_eq!(path.server.applied("order.place"), path.orders(), "{story}");
                path.at_rest(&story).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_cannot_be_made_was_never_asked_anything() {
    for (code, row) in rows() {
        let path = Path::new(Path::once()).await;
        let (before, _) = path.counted();
        path.server.fault(At::Connect, Fault::Fatal(code));
        let error = path.read().await.expect_err(code);
        // Some proxies speak of a lack of room in this way.
        let class = if code == "XX000" { Overload } else { row.fatal_class(code, Phase::NotSent) };
        assert_eq!((error.class(), error.phase()), (class, Phase::NotSent), "{code}");
        let reads = if matches!(code, "XX000" | "25006") { Neutral } else { row.reads };
        assert_eq!(counted(before, path.counted().0), reads, "{code}");
        path.at_rest(code).await;
    }
}

/// 57P03: a server that starts up, or recovers after a crash, answers everybody with it until it is done.
#[tokio::test(start_paused = true)]
async fn a_server_that_starts_up_is_waited_for() {
    let path = Path::new(DbConfig::default()).await;
    path.read().await.unwrap();
    path.server.fault_always(At::Connect, Fault::STARTING_UP);
    path.server.crash();
    let error = path.read().await.unwrap_err();
    assert_eq!((error.class(), error.phase()), (Transient, Phase::NotSent), "{error}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    path.read().await.unwrap_err();
    let told = path.write("k").await;
    assert!(matches!(told, Ok(Written::Journaled { .. })), "{told:?}");
    path.server.recover();
    path.replayed("it has started").await;
    assert_eq!(path.orders(), 1);
    assert!(path.read().await.is_ok());
}

/// The library's own question finds nobody, or finds silence: rows of the table that have no code.
#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_has_no_code() {
    for fault in [Fault::Drop, Fault::Reset, Fault::Cut(3)] {
        for at in [At::Connect, At::statement("SELECT title"), At::AfterMessage] {
            // What cuts an answer needs one.
            if matches!(fault, Fault::Cut(_)) && at != At::AfterMessage {
                continue;
            }
            let story = format!("{at:?} {fault:?}");
            let path = Path::new(Path::once()).await;
            if at != At::Connect {
                path.read().await.unwrap();
            }
            let (before, _) = path.counted();
            path.server.fault(at.clone(), fault.clone());
            let error = path.read().await.expect_err(&story);
            let phase = if at == At::Connect { Phase::NotSent } else { Phase::Sent };
            assert_eq!((error.phase(), error.class(), error.code()), (phase, lost(phase), None), "{story}");
            assert_eq!(counted(before, path.counted().0), Failure, "{story}");
        }
    }
    let path = Path::new(Path::once()).await;
    path.server.outage();
    let refused = path.read().await.unwrap_err();
    assert_eq!((refused.phase(), refused.class()), (Phase::NotSent, Transient));
}
