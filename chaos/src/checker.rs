//! From a history to a verdict. Pure: it sees nothing but the events, asks no clock, opens no file, and the
//! same history always gives the same verdict.
//!
//! Each check stands in a file of its own kind: `writes` (W1, W2, W3), `reads` (S2, E2), `health` (L1),
//! `recovery` (T3), `budget` (E1), `honesty` (X1, X2, X3), `bounds` (B1, B2,
//! T5, T6; only where the run states them). `machine` stretches limits of time. `index` puts the events in order once, `band`
//! sorts answers, `numbers` counts. Cost grows with the length of the history and a logarithm of it.

use crate::checker::index::Index;
use crate::history::{Event, Limits};
use crate::verdict::{Check, Class, Numbers, Outcome, SCHEMA, State, Verdict, Witness};

mod band;
mod bounds;
mod budget;
mod fault;
mod health;
mod honesty;
mod index;
mod machine;
mod numbers;
mod reads;
mod recovery;
mod writes;

pub use crate::checker::band::{Answered, Band, answered};

/// More witnesses than this help nobody; the count says how many there were.
const WITNESSES_MAX: usize = 5;

/// Judges a run by its history and the given limits (usually those in its header).
#[must_use]
pub fn judge(events: &[Event], limits: &Limits) -> Verdict {
    let index = match Index::build(events) {
        Ok(index) => index,
        Err(reason) => return harness_error(events, reason),
    };
    let mut numbers = Numbers::default();
    let bands = band::all(&index);
    numbers::count(&index, &bands, &mut numbers);
    let mut checks = writes::check(&index, &mut numbers);
    checks.push(reads::check_staleness(&index, &bands, limits, &mut numbers));
    checks.push(health::check(&index, limits, &mut numbers));
    checks.push(recovery::check(&index, &bands, limits, &mut numbers));
    checks.extend(bounds::check(&index, limits));
    checks.push(budget::check(&numbers, limits));
    checks.push(reads::check_wrong(&index, &bands));
    checks.extend(honesty::check(&index, &bands, limits, &numbers));
    let (outcome, reason) = conclude(&checks);
    Verdict { outcome, reason, checks, numbers, ..blank(events) }
}

/// A safety check that is violated decides, whatever else happened. Else the run must have been fit to prove
/// anything. Only then the checks on time and share count.
fn conclude(checks: &[Check]) -> (Outcome, String) {
    let ids = |class: Option<Class>, state| {
        let found: Vec<&str> = checks
            .iter()
            .filter(|check| check.state == state && class.is_none_or(|class| check.class == class))
            .map(|check| check.id.as_str())
            .collect();
        (!found.is_empty()).then(|| found.join(", "))
    };
    if let Some(broken) = ids(Some(Class::Safety), State::Violated) {
        let also = ids(Some(Class::Liveness), State::Violated).map(|also| format!("; also {also}"));
        return (Outcome::Violated, format!("broken: {broken}{}", also.unwrap_or_default()));
    }
    if let Some(unmet) = ids(Some(Class::Honesty), State::Violated) {
        return (Outcome::Inconclusive, format!("the run was not fit to prove anything: {unmet}"));
    }
    if let Some(broken) = ids(Some(Class::Liveness), State::Violated) {
        return (Outcome::Violated, format!("broken: {broken}"));
    }
    if let Some(open) = ids(None, State::NotMeasured) {
        return (Outcome::Inconclusive, format!("the history does not hold what is needed for {open}"));
    }
    (Outcome::Held, "every check was made and held".into())
}

fn blank(events: &[Event]) -> Verdict {
    let run = events.iter().find_map(|event| if let Event::Run(run) = event { Some(run) } else { None });
    Verdict {
        schema: SCHEMA,
        outcome: Outcome::HarnessError,
        reason: String::new(),
        scenario: run.map(|run| run.scenario.clone()).unwrap_or_default(),
        seed: run.map(|run| run.seed).unwrap_or_default(),
        started: run.map(|run| run.started.clone()).unwrap_or_default(),
        rerun: run.map(|run| run.rerun.clone()).unwrap_or_default(),
        checks: Vec::new(),
        numbers: Numbers::default(),
    }
}

fn harness_error(events: &[Event], reason: String) -> Verdict {
    Verdict { reason, ..blank(events) }
}

/// Gathers the findings of one check.
struct Finding {
    check: Check,
}

impl Finding {
    fn new(id: &str, title: &str, class: Class) -> Self {
        let (id, title) = (id.to_owned(), title.to_owned());
        let (state, measured) = (State::Held, String::new());
        let witnesses = Vec::new();
        Self { check: Check { id, title, class, state, examined: 0, violations: 0, measured, witnesses } }
    }

    fn examined(&mut self, count: u64) {
        self.check.examined += count;
    }

    /// Notes a violation. The lines are made only where they will be shown.
    fn violated(&mut self, summary: String, lines: impl FnOnce() -> Vec<String>) {
        self.check.violations += 1;
        self.check.state = State::Violated;
        if self.check.witnesses.len() < WITNESSES_MAX {
            self.check.witnesses.push(Witness { summary, lines: lines() });
        }
    }

    /// Says why the history cannot tell. A violation already found stays one.
    fn not_measured(&mut self, why: &str) {
        if self.check.state == State::Held {
            self.check.state = State::NotMeasured;
            self.check.measured = why.to_owned();
        }
    }

    fn done(mut self, measured: String) -> Check {
        if self.check.measured.is_empty() {
            self.check.measured = measured;
        }
        self.check
    }
}

/// A time of the run, for people.
fn at(us: u64) -> String {
    format!("{:.3} s", us as f64 / 1e6)
}

#[cfg(test)]
mod tests;
