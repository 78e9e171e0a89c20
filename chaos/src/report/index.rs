//! The page over several runs: what became of each, and the matrix of scenarios and invariants. Fills the template;
//! each run's own page tells the rest.

use std::collections::BTreeMap;

use minijinja::value::Value;
use minijinja::{Environment, context};

use crate::report::html::{STYLE, outcome_class, told};
use crate::report::sentences::count;
use crate::report::{Entry, PAGE};
use crate::verdict::{Check, Outcome};

const INDEX: &str = include_str!("index.html");

/// The page over these runs.
pub(crate) fn page(entries: &[Entry<'_>]) -> Result<String, minijinja::Error> {
    let mut templates = Environment::new();
    // The suffix turns escaping on.
    templates.add_template("index.html", INDEX)?;
    let checks = checks(entries);
    let titles = checks.iter().map(|(id, title)| context! { id => *id, title => *title });
    templates.get_template("index.html")?.render(context! {
        style => Value::from_safe_string(STYLE.to_owned()),
        headline => headline(entries),
        checks => titles.collect::<Vec<_>>(),
        runs => entries.iter().map(|entry| run(entry, &checks)).collect::<Vec<_>>(),
    })
}

/// How many runs ended how.
pub(crate) fn headline(entries: &[Entry<'_>]) -> String {
    let many = |outcome| entries.iter().filter(|entry| entry.verdict.outcome == outcome).count();
    let outcomes = [Outcome::Held, Outcome::Violated, Outcome::Inconclusive, Outcome::HarnessError];
    let parts = outcomes.map(|outcome| (many(outcome), outcome.word()));
    let parts: Vec<String> =
        parts.iter().filter(|(many, _)| *many > 0).map(|(many, word)| format!("{many} {word}")).collect();
    let runs = if entries.len() == 1 { "1 run".to_owned() } else { format!("{} runs", entries.len()) };
    format!("{runs}: {}", parts.join(", "))
}

/// The checks of all runs, in the order in which the runs show them.
fn checks<'a>(entries: &[Entry<'a>]) -> Vec<(&'a str, &'a str)> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    // Runs leave some out, so the next one is put behind the last that both have.
    for entry in entries {
        let mut place = 0;
        for check in &entry.verdict.checks {
            match found.iter().position(|(id, _)| *id == check.id) {
                Some(known) => place = known + 1,
                None => {
                    found.insert(place.min(found.len()), (&check.id, &check.title));
                    place += 1;
                }
            }
        }
    }
    found
}

fn run(entry: &Entry<'_>, checks: &[(&str, &str)]) -> Value {
    let verdict = entry.verdict;
    let of_run: BTreeMap<&str, &Check> =
        verdict.checks.iter().map(|check| (check.id.as_str(), check)).collect();
    let numbers = &verdict.numbers;
    let (reads, writes) = (&numbers.reads, &numbers.writes);
    let shown = [
        ("planned", reads.planned + writes.planned),
        ("good", reads.good() + writes.good()),
        ("stale", reads.stale),
        ("journaled", writes.journaled),
        ("bad", reads.bad() + writes.bad()),
        ("lost", numbers.lost),
        ("doubled", numbers.doubled),
    ];
    let shown = shown.map(|(name, many)| vec![name.to_owned(), count(many)]);
    context! {
        name => entry.name,
        href => href(entry.name),
        class => outcome_class(verdict.outcome),
        word => verdict.outcome.word(),
        reason => verdict.reason.as_str(),
        numbers => shown.to_vec(),
        cells => checks.iter().map(|(id, _)| cell(of_run.get(id).copied())).collect::<Vec<_>>(),
    }
}

/// The page of a run, relative to this one. A folder's name may hold anything, so all but plain letters is encoded.
fn href(name: &str) -> String {
    let mut link = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => link.push(char::from(byte)),
            other => link.push_str(&format!("%{other:02X}")),
        }
    }
    if link.is_empty() { PAGE.to_owned() } else { format!("./{link}/{PAGE}") }
}

fn cell(check: Option<&Check>) -> Value {
    let (sign, word, class) = check.map_or(("", "not looked at", "soft"), told);
    context! { sign, word, class, measured => check.map(|check| check.measured.as_str()) }
}
