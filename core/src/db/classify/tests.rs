//! The table of SQLSTATEs, row by row and phase by phase, and what a heard cause adds to it.

use std::time::SystemTime;

use super::*;
use crate::error::ErrorClass::{Contention, Failover, Heal, Overload, Permanent, Transient, Unknown};
use CallResult::{Failure, Neutral, Success};
use Connection::{Destroy, Keep};

const PHASES: [Phase; 4] = [Phase::NotSent, Phase::Sent, Phase::InTransaction, Phase::CommitSent];
/// A lost answer, by phase.
const LOST: [ErrorClass; 4] = [Transient, Unknown, Transient, Unknown];
const RETRIED_AS_A_READ: [ErrorClass; 4] = [Permanent, Transient, Permanent, Permanent];

/// Codes, class by phase, what reads and writes count, the connection.
type Row = (&'static [&'static str], [ErrorClass; 4], (CallResult, CallResult), Connection);

const fn in_all(class: ErrorClass) -> [ErrorClass; 4] {
    [class; 4]
}

const BOTH_OK: (CallResult, CallResult) = (Success, Success);
const BOTH_FAIL: (CallResult, CallResult) = (Failure, Failure);
const BOTH_NEUTRAL: (CallResult, CallResult) = (Neutral, Neutral);

/// In the order of the design's table. What differs from it is in the decision of 2026-11-21 on causes and classes.
const TABLE: &[Row] = &[
    (&["00000", "01000", "02000"], in_all(Permanent), BOTH_OK, Keep),
    (&["08001", "08004", "08003"], in_all(Transient), BOTH_FAIL, Destroy),
    (&["08000", "08006"], LOST, BOTH_FAIL, Destroy),
    (&["08007", "40003"], in_all(Unknown), BOTH_NEUTRAL, Destroy),
    (&["08P01"], in_all(Permanent), BOTH_NEUTRAL, Destroy),
    (&["26000"], in_all(Heal), BOTH_OK, Keep),
    (
        &[
            "0A000", "03000", "09000", "0B000", "0F000", "0L000", "0P000", "0Z000", "20000", "21000",
            "22P02", "24000", "27000", "2B000", "2D000", "2F000", "34000", "38000", "39000", "3B000",
            "3D001", "3F000", "42601", "42P01", "44000", "54000", "HV000", "P0001",
        ],
        in_all(Permanent),
        BOTH_OK,
        Keep,
    ),
    (&["23505", "23P01"], in_all(Permanent), BOTH_OK, Keep),
    (&["23502", "23503", "23514"], in_all(Permanent), BOTH_OK, Keep),
    (&["25006"], in_all(Failover), (Success, Failure), Destroy),
    (&["25P02"], in_all(Permanent), BOTH_OK, Keep),
    (&["25P03", "25P04"], in_all(Transient), BOTH_NEUTRAL, Destroy),
    (&["25001", "25P01"], in_all(Permanent), BOTH_OK, Keep),
    (&["28000", "28P01"], in_all(Permanent), BOTH_FAIL, Destroy),
    (&["3D000", "57P04"], in_all(Permanent), BOTH_FAIL, Destroy),
    (&["40001", "40P01", "40000"], in_all(Contention), BOTH_OK, Keep),
    (&["40002"], in_all(Permanent), BOTH_OK, Keep),
    (&["53000", "53100", "53200", "53400"], in_all(Overload), BOTH_NEUTRAL, Keep),
    (&["53300"], in_all(Overload), BOTH_NEUTRAL, Destroy),
    (&["55P03", "55006"], in_all(Contention), BOTH_OK, Keep),
    (&["55000", "55P02", "55P04"], in_all(Permanent), BOTH_OK, Keep),
    (&["57014"], in_all(Overload), BOTH_OK, Keep),
    (&["57P01", "57P02"], LOST, BOTH_FAIL, Destroy),
    (&["57P03"], in_all(Transient), BOTH_FAIL, Destroy),
    (&["57P05"], in_all(Transient), BOTH_NEUTRAL, Destroy),
    (&["58000", "58030", "58P01"], LOST, BOTH_FAIL, Destroy),
    (&["72000"], in_all(Contention), BOTH_OK, Keep),
    (&["F0000", "F0001"], LOST, BOTH_FAIL, Destroy),
    (&["XX001", "XX002"], in_all(Permanent), BOTH_FAIL, Destroy),
    (&["ZZ999", "57000"], RETRIED_AS_A_READ, BOTH_NEUTRAL, Keep),
];

fn code_in(code: &str, fatal: bool, phase: Phase) -> Verdict {
    by_code(code, fatal, phase, false)
}

#[test]
fn every_row_of_the_table_holds_in_every_phase() {
    for (codes, classes, (reads, writes), connection) in TABLE {
        for code in *codes {
            for (phase, class) in PHASES.iter().zip(classes) {
                let verdict = code_in(code, false, *phase);
                assert_eq!(verdict.class, *class, "{code} {phase:?}");
                assert_eq!(verdict.breaker_for(Circuit::Reads), *reads, "{code} {phase:?}");
                assert_eq!(verdict.breaker_for(Circuit::Writes), *writes, "{code} {phase:?}");
                assert_eq!(verdict.connection, *connection, "{code} {phase:?}");
            }
        }
    }
}

#[test]
fn a_fatal_one_ends_the_session_whatever_its_code() {
    for code in TABLE.iter().flat_map(|row| row.0) {
        for phase in PHASES {
            let verdict = code_in(code, true, phase);
            assert_eq!(verdict.connection, Destroy, "{code} {phase:?}");
            if phase == Phase::CommitSent {
                assert_eq!(verdict.class, Unknown, "{code}: a fatal answer to COMMIT is no answer");
            }
        }
    }
    // An ERROR at COMMIT, a deferred constraint say, is a definite abort.
    assert_eq!(code_in("23505", false, Phase::CommitSent).class, Permanent);
}

#[test]
fn the_phase_decides_what_a_broken_connection_means() {
    assert_eq!(PHASES.map(|phase| broken(phase).class), LOST);
    assert_eq!(PHASES.map(|phase| broken(phase).breaker), [Failure; 4]);
}

#[test]
fn who_has_to_act_is_told_apart() {
    let hints = [
        ("28P01", TripHint::Authentication),
        ("3D000", TripHint::Configuration),
        ("57P03", TripHint::Starting),
        ("53100", TripHint::DiskFull),
        ("XX001", TripHint::Damaged),
        ("57P01", TripHint::Nothing),
    ];
    let hint_of = super::hint;
    for (code, hint) in hints {
        assert_eq!(hint_of(code), hint, "{code}");
    }
}

/// PgBouncer ends sessions with FATAL 08P01 when it restarts: the statement was not wrong.
#[test]
fn a_session_that_was_ended_says_nothing_about_the_next_one() {
    for code in ["08P01", "ZZ999", "42601"] {
        assert_eq!(PHASES.map(|phase| code_in(code, true, phase).class), LOST, "{code}");
    }
    for code in ["28P01", "3D000", "57P04", "XX001"] {
        assert_eq!(code_in(code, true, Phase::InTransaction).class, Permanent, "{code}");
    }
    // An idle session that was ended before the request came.
    for code in ["57P05", "25P03", "57P03"] {
        assert_eq!(code_in(code, true, Phase::Sent).class, Transient, "{code}");
    }
}

#[test]
fn a_pooler_in_between_gives_its_own_meaning_to_one_code() {
    let behind = |phase| by_code("08P01", false, phase, true);
    assert_eq!(PHASES.map(|phase| behind(phase).class), LOST);
    assert_eq!(behind(Phase::Sent).breaker, Failure);
    assert_eq!(by_code("42601", false, Phase::Sent, true), code_in("42601", false, Phase::Sent));
}

#[test]
fn no_room_for_one_more_session_is_overload_and_no_fault() {
    let connecting = code_in("XX000", true, Phase::NotSent);
    assert_eq!((connecting.class, connecting.breaker), (Overload, Neutral));
    assert_eq!(
        PHASES.map(|phase| code_in("XX000", false, phase).class),
        [Overload, Unknown, Transient, Unknown]
    );
}

#[test]
fn the_cause_that_was_heard_tells_the_circuit_and_the_phase_tells_the_class() {
    let words = |code: &str, severity| LastWords {
        code: code.to_owned(),
        severity,
        at: SystemTime::UNIX_EPOCH,
        host: 0,
    };
    let told = |words: &LastWords, unsent, phase| {
        let hearing = Hearing { cause: Some(words), unsent, behind_pooler: false };
        ended_silently(if unsent { Phase::NotSent } else { phase }, hearing)
    };
    let idle = words("57P05", crate::error::Severity::Fatal);
    assert_eq!(told(&idle, true, Phase::CommitSent).class, Transient, "nothing was sent");
    assert_eq!(told(&idle, false, Phase::CommitSent).class, Unknown);
    assert_eq!(told(&idle, false, Phase::Sent).breaker, Neutral, "a session was ended, the server is well");
    let dropped = words("57P04", crate::error::Severity::Fatal);
    assert_eq!(told(&dropped, false, Phase::InTransaction).breaker, Failure);
    // A mere notice is no cause.
    let notice = words("57P05", crate::error::Severity::Notice);
    assert_eq!(told(&notice, false, Phase::Sent), broken(Phase::Sent));
}

#[test]
fn codes_that_are_no_codes_do_no_harm() {
    for code in ["", "\u{dc}", "0", "08", "2"] {
        let _ = code_in(code, false, Phase::Sent);
    }
}
