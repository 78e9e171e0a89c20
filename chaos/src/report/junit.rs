//! The verdicts as JUnit XML, which CI servers read: a suite is a scenario, a case an invariant. A broken promise is a
//! failure; what kept a run from proving anything is an error; what a run had nothing for and did not need is skipped.

use std::fmt::Write;

use crate::report::Entry;
use crate::report::svg::escape;
use crate::verdict::{Check, Class, Outcome, State, Verdict, Witness};

/// How a case is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Passed,
    Failure,
    Error,
    Skipped,
}

impl Told {
    fn of(check: &Check) -> Self {
        match (check.state, check.class, check.required) {
            (State::Held, ..) => Self::Passed,
            (State::Violated, Class::Honesty, _) | (State::NotMeasured, _, true) => Self::Error,
            (State::Violated, ..) => Self::Failure,
            (State::NotMeasured, _, false) => Self::Skipped,
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    tests: usize,
    failures: usize,
    errors: usize,
    skipped: usize,
}

impl Sums {
    fn of(verdict: &Verdict) -> Self {
        let many = |told| verdict.checks.iter().filter(|check| Told::of(check) == told).count();
        let harness = usize::from(verdict.outcome == Outcome::HarnessError);
        let skipped = usize::from(was_skipped(verdict));
        Self {
            tests: verdict.checks.len() + 1,
            failures: many(Told::Failure),
            errors: many(Told::Error) + harness,
            skipped: many(Told::Skipped) + skipped,
        }
    }

    fn attributes(&self) -> String {
        let Self { tests, failures, errors, skipped } = self;
        format!(r#"tests="{tests}" failures="{failures}" errors="{errors}" skipped="{skipped}""#)
    }
}

/// Whether the run was left out for want of the means.
fn was_skipped(verdict: &Verdict) -> bool {
    verdict.outcome == Outcome::Inconclusive && verdict.checks.is_empty()
}

/// The whole file.
pub(crate) fn xml(entries: &[Entry<'_>]) -> String {
    let all = entries.iter().map(|entry| Sums::of(entry.verdict)).fold(Sums::default(), |a, b| Sums {
        tests: a.tests + b.tests,
        failures: a.failures + b.failures,
        errors: a.errors + b.errors,
        skipped: a.skipped + b.skipped,
    });
    let took_us = entries.iter().filter_map(|entry| entry.verdict.took_us).sum();
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"ridethrough-chaos\" {} time=\"{}\">\n",
        all.attributes(),
        seconds(took_us)
    );
    for entry in entries {
        suite(&mut out, entry);
    }
    out.push_str("</testsuites>\n");
    out
}

fn suite(out: &mut String, entry: &Entry<'_>) {
    let verdict = entry.verdict;
    let name = text(entry.scenario());
    let sums = Sums::of(verdict).attributes();
    let timestamp = if verdict.started.is_empty() {
        String::new()
    } else {
        format!(" timestamp=\"{}\"", text(&verdict.started))
    };
    // Writing to a string cannot fail.
    let time = seconds(verdict.took_us.unwrap_or(0));
    let _ =
        writeln!(out, "  <testsuite name=\"{name}\" {sums}{timestamp} time=\"{time}\">\n    <properties>");
    let seed = verdict.seed.to_string();
    let schedule = entry.schedule();
    for (property, value) in [("seed", seed.as_str()), ("schedule", &schedule), ("replay", &verdict.rerun)] {
        if !value.is_empty() {
            let _ = writeln!(out, "      <property name=\"{property}\" value=\"{}\"/>", text(value));
        }
    }
    out.push_str("    </properties>\n");
    // The run's time is its own: the invariants are judged afterwards, all together in some milliseconds. And a harness
    // that failed has no checks, nor has a run that was skipped; without this case the file would look green.
    let _ =
        write!(out, "    <testcase name=\"the harness did its part\" classname=\"{name}\" time=\"{time}\"");
    if verdict.outcome == Outcome::HarnessError {
        let reason = text(&verdict.reason);
        let _ = writeln!(out, "><error message=\"{reason}\" type=\"harness-error\"/></testcase>");
    } else if was_skipped(verdict) {
        let _ = writeln!(out, "><skipped message=\"{}\"/></testcase>", text(&verdict.reason));
    } else {
        out.push_str("/>\n");
    }
    for check in &verdict.checks {
        case(out, &name, check);
    }
    out.push_str("  </testsuite>\n");
}

fn case(out: &mut String, suite: &str, check: &Check) {
    let name = text(&format!("{} {}", check.id, check.title));
    let measured = text(&check.measured);
    let _ = write!(out, "    <testcase name=\"{name}\" classname=\"{suite}\" time=\"0.000\"");
    let element = match Told::of(check) {
        Told::Passed => {
            let _ = writeln!(out, "><system-out>{measured}</system-out></testcase>");
            return;
        }
        Told::Skipped => {
            let _ = writeln!(out, "><skipped message=\"{measured}\"/></testcase>");
            return;
        }
        Told::Failure => "failure",
        Told::Error => "error",
    };
    let kind = if check.state == State::NotMeasured { "not-measured" } else { "violated" };
    let proof = check.witnesses.iter().map(proof).collect::<Vec<_>>().join("\n");
    let _ = writeln!(
        out,
        "><{element} message=\"{measured}\" type=\"{kind}\">{}</{element}></testcase>",
        text(&proof)
    );
}

/// As the format has it.
fn seconds(us: u64) -> String {
    format!("{:.3}", us as f64 / 1e6)
}

fn proof(witness: &Witness) -> String {
    let mut lines = vec![witness.summary.clone()];
    lines.extend(witness.lines.iter().map(|line| format!("  {line}")));
    lines.join("\n")
}

/// Text that XML 1.0 may hold: it has no way at all to write most control characters.
fn text(text: &str) -> String {
    let allowed = |letter: &char| {
        matches!(letter, '\t' | '\n' | '\r') || (*letter >= ' ' && !matches!(letter, '\u{fffe}' | '\u{ffff}'))
    };
    let clean: String =
        text.chars().map(|letter| if allowed(&letter) { letter } else { '\u{fffd}' }).collect();
    escape(&clean)
}
