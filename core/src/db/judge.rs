//! The SQLSTATE table for other clients: what a code means when it came through sqlx or anything else. It adds no rule to
//! `classify`.

use super::classify;
use crate::{
    error::{ErrorClass, Phase},
    judgement::Judgement,
};

/// Judges an error that PostgreSQL reported with the SQLSTATE `code` in `phase`; `fatal` where its severity, in the field
/// that is safe from translation, is FATAL or PANIC.
///
/// Within a transaction it is the whole transaction that may be made again, its decisions included. A connection that broke
/// without a word has no code; that is `08006`.
///
/// ```
/// use ridethrough::{db, error::{ErrorClass, Phase}};
///
/// assert!(db::judge("40001", false, Phase::InTransaction).may_retry);
/// assert!(!db::judge("57P01", true, Phase::CommitSent).may_retry);
/// assert_eq!(db::judge("08006", false, Phase::Sent).class, Some(ErrorClass::Unknown));
/// ```
#[must_use]
pub fn judge(code: &str, fatal: bool, phase: Phase) -> Judgement {
    let verdict = classify::by_code(code, fatal, phase, false);
    let may_retry = match verdict.class {
        ErrorClass::Transient | ErrorClass::Contention | ErrorClass::Heal => true,
        // Either it may have had its effect, or the next attempt meets the same server with the same answer.
        ErrorClass::Unknown | ErrorClass::Permanent | ErrorClass::Overload | ErrorClass::Failover => false,
    };
    Judgement { class: Some(verdict.class), breaker: verdict.breaker, may_retry }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::CallResult;

    #[test]
    fn only_what_had_no_effect_is_made_again() {
        for phase in [Phase::Sent, Phase::CommitSent] {
            assert!(!judge("57P01", true, phase).may_retry, "{phase:?}");
            assert!(!judge("08007", false, phase).may_retry, "{phase:?}");
        }
        assert!(judge("57P01", true, Phase::InTransaction).may_retry);
        assert!(judge("57P03", true, Phase::NotSent).may_retry);
        assert!(
            !judge("53300", true, Phase::NotSent).may_retry,
            "a server without room gets no further call"
        );
    }

    #[test]
    fn a_statement_error_is_contact_with_a_living_server() {
        let judgement = judge("23505", false, Phase::Sent);
        assert_eq!((judgement.breaker, judgement.may_retry), (CallResult::Success, false));
    }
}
