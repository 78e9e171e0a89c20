//! From a history to a verdict. Pure: it sees nothing but the events, asks no clock, opens no file, and the
//! same history always gives the same verdict.
//!
//! Each check stands in a file of its own kind. Writes: `writes` with `ledger` (W1, W2, W3), `order` (W4), `register` with
//! `zones` (W5), `unknown` (W6), `failover` (W7). Reads: `staleness` (S1, S2, S3), `reads` (S4, E2), `session` (S5).
//! Health: `health` (L1), `readiness` (L2, L3, L4). Time: `deadlines` (T1, T2), `recovery` (T3), `steady` (T4), `bounds`
//! (B1, B2, T5, T6; only where the run states them). `herd` (H1 to H5), `budget` (E1), `quiet` (E3), `honesty` (X1 to X4).
//! `machine` stretches limits of time, never of safety; [`synthetic`] makes histories to measure and to test with. `index` puts the events in order once, `band` sorts answers,
//! `numbers` counts, `two` shares long work between two threads. Cost grows with the length of the history and a logarithm of
//! it.
//!
//! What the history holds nothing about is *not measured*, never held. For those that every run must measure, and those
//! that its limits name, that makes the verdict inconclusive; the others are only shown.

use crate::checker::band::Banded;
use crate::checker::index::Index;
use crate::history::{Event, Limits};
use crate::verdict::{Check, Class, Numbers, Outcome, Span, State, Verdict, Witness};

mod band;
mod bounds;
mod budget;
mod deadlines;
mod failover;
mod fault;
mod health;
mod herd;
mod honesty;
mod index;
mod ledger;
mod machine;
mod numbers;
mod order;
mod quiet;
mod readiness;
mod reads;
mod recovery;
mod register;
mod session;
mod staleness;
mod steady;
pub mod synthetic;
mod two;
mod unknown;
mod writes;
mod zones;

pub use crate::checker::band::{Answered, Band, answered};

/// What every run of ours must have measured to be held; one with a fault on the database also T3.
const EVERY_RUN: [&str; 10] = ["W1", "W2", "W3", "S2", "E2", "L1", "E1", "X1", "X2", "X3"];

/// Must be measured where a run states bounds.
const BOUNDS: [&str; 4] = ["B1", "B2", "T5", "T6"];

/// The order in which checks are shown: what was promised about data first, the fitness of the run last.
const ORDER: [&str; 37] = [
    "W1", "W2", "W3", "W4", "W5", "W6", "W7", "S1", "S2", "S3", "S4", "S5", "E2", "L1", "L2", "L3", "L4",
    "T1", "T2", "T3", "T4", "T5", "T6", "B1", "B2", "H1", "H2", "H3", "H4", "H5", "E1", "E3", "X1", "X2",
    "X3", "X4", "",
];

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
    let mut checks = of_operations(&index, &bands, limits, &mut numbers);
    if !index.run.foreign {
        checks.extend(of_the_run(&index, &bands, limits, &mut numbers));
    }
    let is_outage = limits.fault_expected && limits.outage_expected;
    for check in &mut checks {
        let stated = limits.bounds.is_some() && BOUNDS.contains(&check.id.as_str());
        let usual = EVERY_RUN.contains(&check.id.as_str()) || (is_outage && check.id == "T3");
        check.required = stated
            || (usual && !index.run.foreign && !limits.waived.contains(&check.id))
            || limits.required.contains(&check.id);
    }
    checks.extend(unheard_of(&checks, limits));
    checks.sort_by_key(|check| ORDER.iter().position(|id| *id == check.id));
    let (outcome, reason) = conclude(&checks);
    Verdict { outcome, reason, checks, numbers, ..blank(events) }
}

/// What operations and final rows alone can tell, of any history.
fn of_operations(index: &Index<'_>, bands: &[Banded], limits: &Limits, numbers: &mut Numbers) -> Vec<Check> {
    let most = || {
        let mut checks = writes::check(index, limits, numbers);
        checks.push(order::check(index));
        checks.push(register::check(index, bands));
        checks.extend(staleness::check(index, bands, limits, numbers));
        checks.extend(reads::check(index, bands));
        checks
    };
    // The one that takes as long as all others together.
    let (mut checks, session) = two::both(index.ops.len(), most, || session::check(index, bands));
    checks.push(session);
    checks
}

/// What takes faults, probes and a plan.
fn of_the_run(index: &Index<'_>, bands: &[Banded], limits: &Limits, numbers: &mut Numbers) -> Vec<Check> {
    let mut checks = vec![
        health::check(index, limits, numbers),
        recovery::check(index, bands, limits, numbers),
        steady::check(index, bands, limits),
        budget::check(index, bands, numbers, limits),
        quiet::check(index, limits),
    ];
    checks.extend(readiness::check(index, limits));
    checks.extend(deadlines::check(index, bands, limits));
    checks.extend(bounds::check(index, limits));
    checks.extend(herd::check(index, limits));
    checks.extend(honesty::check(index, bands, limits, numbers));
    checks
}

/// A name in the limits that no check has must not pass for one that was made.
fn unheard_of(checks: &[Check], limits: &Limits) -> Vec<Check> {
    let unknown = limits.required.iter().filter(|id| !checks.iter().any(|check| check.id == **id));
    let made = |id: &String| {
        let mut finding = Finding::new(id, "required by the run", Class::Honesty);
        finding.not_measured("no check of this history has this name");
        Check { required: true, ..finding.done(String::new()) }
    };
    unknown.map(made).collect()
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
    let open: Vec<&str> = checks
        .iter()
        .filter(|check| check.state == State::NotMeasured && check.required)
        .map(|check| check.id.as_str())
        .collect();
    if !open.is_empty() {
        let open = open.join(", ");
        return (Outcome::Inconclusive, format!("the history does not hold what is needed for {open}"));
    }
    let held = checks.iter().filter(|check| check.state == State::Held && check.examined > 0).count();
    if held == 0 {
        return (Outcome::Inconclusive, "the history holds nothing that could be judged".into());
    }
    (Outcome::Held, format!("all {held} checks that could be made held"))
}

fn blank(events: &[Event]) -> Verdict {
    let run = events.iter().find_map(|event| if let Event::Run(run) = event { Some(run) } else { None });
    Verdict {
        scenario: run.map(|run| run.scenario.clone()).unwrap_or_default(),
        seed: run.map(|run| run.seed).unwrap_or_default(),
        started: run.map(|run| run.started.clone()).unwrap_or_default(),
        took_us: took_us(events),
        rerun: run.map(|run| run.rerun.clone()).unwrap_or_default(),
        ..Verdict::unjudged("")
    }
}

/// When the last thing was written down that comes after the load; nobody looks through a long history for it.
fn took_us(events: &[Event]) -> Option<u64> {
    events.iter().rev().find_map(|event| match event {
        Event::Note(note) | Event::HarnessError(note) => Some(note.at_us),
        Event::FinalRows(rows) => Some(rows.at_us),
        Event::LedgerRows(rows) => Some(rows.at_us),
        Event::Load(load) => Some(load.until_us),
        _ => None,
    })
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
        let (examined, violations, required) = (0, 0, false);
        Self { check: Check { id, title, class, state, required, examined, violations, measured, witnesses } }
    }

    fn examined(&mut self, count: u64) {
        self.check.examined += count;
    }

    /// Notes a violation. The lines are made only where they will be shown.
    fn violated(&mut self, summary: String, lines: impl FnOnce() -> Vec<String>) {
        self.check.violations += 1;
        self.check.state = State::Violated;
        if self.check.witnesses.len() < WITNESSES_MAX {
            self.check.witnesses.push(Witness { summary, lines: lines(), spans: Vec::new() });
        }
    }

    /// The times behind the violation noted last, for its picture.
    fn drawn(&mut self, spans: impl FnOnce() -> Vec<Span>) {
        let shown = self.check.violations <= WITNESSES_MAX as u64;
        if let Some(witness) = self.check.witnesses.last_mut().filter(|_| shown) {
            witness.spans = spans();
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
