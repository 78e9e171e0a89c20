//! How an experiment ended, in a line and in sentences for the terminal. The words themselves are in `report`.

use std::io::IsTerminal;
use std::path::Path;

use crate::cli::print;
use crate::report;
use crate::verdict::{Outcome, Verdict};

/// How an experiment ended for the person who asked for it.
#[derive(Debug, Clone)]
pub(super) enum Ended {
    Judged(Box<Verdict>),
    Failed,
    Interrupted,
}

impl Ended {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Judged(verdict) => verdict.outcome,
            Self::Failed => Outcome::HarnessError,
            // Cut short, it proves nothing.
            Self::Interrupted => Outcome::Inconclusive,
        }
    }

    /// The verdict for a page over several runs; of a harness that failed before it could judge, one that says so.
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Judged(verdict) => Verdict::clone(verdict),
            Self::Failed | Self::Interrupted => Verdict::unjudged("it did not get as far as a verdict"),
        }
    }

    pub(super) fn is_interrupted(&self) -> bool {
        matches!(self, Self::Interrupted)
    }
}

/// One line about a run.
pub(super) fn line(name: &str, ended: &Ended) -> String {
    let word = ended.outcome().word();
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
}
