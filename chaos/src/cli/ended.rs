//! How experiments ended: as an exit code, in a line, and in sentences for the terminal. The words themselves are in `report`.

use std::io::IsTerminal;
use std::path::Path;

use crate::cli::print;
use crate::report;
use crate::verdict::{Outcome, Verdict};

/// A broken promise outweighs a harness that failed elsewhere; both outweigh an open question.
pub(super) fn worst(codes: &[u8]) -> u8 {
    [1, 3, 2].into_iter().find(|code| codes.contains(code)).unwrap_or(0)
}

/// The same of what ended. What was skipped counts for nothing, unless there is nothing else.
pub(super) fn worst_of(codes: &[Option<u8>]) -> u8 {
    let judged: Vec<u8> = codes.iter().copied().flatten().collect();
    if judged.is_empty() && !codes.is_empty() { Outcome::Inconclusive.exit_code() } else { worst(&judged) }
}

/// How an experiment ended for the person who asked for it.
#[derive(Debug, Clone)]
pub(super) enum Ended {
    Judged(Box<Verdict>),
    /// This machine has not what it takes; with the reason.
    Skipped(String),
    Failed,
    Interrupted,
}

impl Ended {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Judged(verdict) => verdict.outcome,
            Self::Failed => Outcome::HarnessError,
            // Cut short or left out, it proves nothing.
            Self::Skipped(_) | Self::Interrupted => Outcome::Inconclusive,
        }
    }

    /// The exit code by itself; none where it was skipped.
    pub(super) fn code(&self) -> Option<u8> {
        let is_skipped = matches!(self, Self::Skipped(_));
        (!is_skipped).then(|| self.outcome().exit_code())
    }

    /// The verdict for a page over several runs; of a harness that failed before it could judge, one that says so.
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Judged(verdict) => Verdict::clone(verdict),
            Self::Skipped(why) => {
                let reason = format!("skipped: {why}");
                Verdict { outcome: Outcome::Inconclusive, ..Verdict::unjudged(&reason) }
            }
            Self::Failed | Self::Interrupted => Verdict::unjudged("it did not get as far as a verdict"),
        }
    }

    pub(super) fn is_interrupted(&self) -> bool {
        matches!(self, Self::Interrupted)
    }
}

/// One line about a run.
pub(super) fn line(name: &str, ended: &Ended) -> String {
    let word = if matches!(ended, Ended::Skipped(_)) { "skipped" } else { ended.outcome().word() };
    let rest = match ended {
        Ended::Judged(verdict) => {
            let numbers = &verdict.numbers;
            let why = if verdict.outcome == Outcome::Held { "" } else { verdict.reason.as_str() };
            format!(
                "{} of {} requests bad, {} journaled, {} lost, {} doubled  {why}",
                numbers.reads.bad() + numbers.writes.bad(),
                numbers.reads.planned + numbers.writes.planned,
                numbers.writes.journaled,
                numbers.lost,
                numbers.doubled,
            )
        }
        Ended::Skipped(why) => why.clone(),
        Ended::Failed => "the harness failed".to_owned(),
        Ended::Interrupted => "interrupted".to_owned(),
    };
    format!("{word:<13} {name:<26} {}\n", rest.trim_end())
}

/// The closing sentences, and where the report is.
pub(super) fn tell(verdict: &Verdict, out: Option<&Path>) {
    let colourful = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let colour = match verdict.outcome {
        Outcome::Held => "32",
        Outcome::Inconclusive => "33",
        Outcome::Violated | Outcome::HarnessError => "31",
    };
    let mut text = String::new();
    for sentence in report::sentences(verdict) {
        if colourful && sentence.starts_with("Verdict") {
            text += &format!("\x1b[1;{colour}m{sentence}\x1b[0m\n");
        } else {
            text += &format!("{sentence}\n");
        }
    }
    if let Some(out) = out {
        text += &format!("Report: {}\n", out.join(report::PAGE).display());
    }
    print(&text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_the_outcome_and_why() {
        assert!(line("x", &Ended::Failed).starts_with("harness error x "));
        assert!(line("x", &Ended::Interrupted).contains("interrupted"));
    }

    #[test]
    fn a_violation_outweighs_all_and_an_open_question_only_success() {
        assert_eq!(worst(&[0, 2, 3, 1]), 1);
        assert_eq!(worst(&[0, 2, 3]), 3);
        assert_eq!(worst(&[0, 2, 0]), 2);
        assert_eq!(worst(&[0, 0]), 0);
    }

    #[test]
    fn what_was_skipped_counts_only_where_there_is_nothing_else() {
        assert_eq!(worst_of(&[Some(0), None]), 0);
        assert_eq!(worst_of(&[None, Some(1)]), 1);
        assert_eq!(worst_of(&[None, None]), 2);
        assert_eq!(worst_of(&[]), 0);
        let skipped = Ended::Skipped("no compiler".into());
        assert_eq!((skipped.code(), skipped.outcome()), (None, Outcome::Inconclusive));
        assert!(
            line("fsync-fails", &skipped).starts_with("skipped ")
                && line("x", &skipped).contains("no compiler")
        );
    }
}
