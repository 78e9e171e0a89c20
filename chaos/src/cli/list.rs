//! Scenarios and faults in words, for `list` and for `break ?`. What they do is in `scenario.rs` and `nemesis.rs`.

use crate::nemesis::{self, Kind};
use crate::scenario;

/// All there are.
pub(super) fn all() -> String {
    let mut scenarios = String::new();
    for scenario in scenario::ALL {
        let mark = if scenario.in_all { "" } else { " (not of `run all`)" };
        scenarios += &format!("  {:<26} {}{mark}\n", scenario.name, scenario.about);
    }
    let faults: String = nemesis::catalogue().map(fault).collect();
    let elsewhere: String = nemesis::elsewhere::ROWS
        .iter()
        .map(|row| format!("  {:<4} {}: {}\n", row.id, row.about, row.proved_by))
        .collect();
    format!(
        "Scenarios, for `run`:\n{scenarios}\nFaults, for `break` on a running `up`, as {FORM}:\n{faults}\nProved elsewhere:\n{elsewhere}"
    )
}

/// How a fault is written.
pub(crate) const FORM: &str = "NAME or NAME:PARAMETER=VALUE,…";

/// One fault with its parameters, a line each.
pub(crate) fn fault(kind: &Kind) -> String {
    let mut text = format!("  {:<4} {:<22} {}\n", kind.id, kind.name, kind.about);
    for one in kind.parameters {
        let (name, default, about, domain) = (one.name, one.default, one.about, one.domain);
        text += &format!("  {:<27} {name}={default}: {about} ({domain})\n", "");
    }
    text
}
