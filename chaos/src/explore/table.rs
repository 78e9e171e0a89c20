//! What came of the runs: a row for each place and way, the verdict on it, and the whole as text and as JSON. It runs
//! nothing.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::explore::Wrote;
use crate::explore::boundary::{Boundary, Way};
use crate::verdict::Outcome;

/// The version of the JSON. Fields may be added; one that changes its meaning raises it.
const FORMAT: u32 = 1;

/// What the client was told about its write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Told {
    /// It is in the database.
    Committed,
    /// It will be.
    Journaled,
    /// It is not, and will not be.
    Failed,
    /// Nothing certain.
    Unknown,
}

/// How often the write was in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Truth {
    /// When the client was told.
    pub at_once: i64,
    /// When all that was begun was over.
    pub settled: i64,
    /// When it had been sent once more under the same key, where there is one.
    pub finally: i64,
}

/// What a service with keys says about the write afterwards.
#[derive(Debug, Clone, Serialize)]
pub(super) struct After {
    /// The status it gives.
    pub(super) status: String,
    pub(super) status_is_true: bool,
    /// What the same write under the same key gets.
    pub(super) again: String,
    pub(super) again_is_accepted: bool,
}

/// One run.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// The place, counted from 1 in the order of the messages.
    pub boundary: usize,
    /// The place in words.
    pub place: String,
    /// How the connection was lost there.
    pub way: Way,
    /// What the client was told; `None` where the run proved nothing.
    pub told: Option<Told>,
    /// What it saw, or why the run proved nothing.
    pub saw: String,
    /// What is the case; `None` where the run proved nothing.
    pub truth: Option<Truth>,
    /// How long the client waited, in milliseconds.
    pub took_ms: u64,
    /// The status and the repetition, of a service with keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<After>,
    /// What is wrong; empty where nothing false was told.
    pub wrong: Vec<String>,
}

impl Row {
    /// A run that proved nothing.
    pub(super) fn open(place: Boundary, way: Way, why: String) -> Self {
        let (boundary, place) = (place.number, place.name);
        Self {
            boundary,
            place,
            way,
            told: None,
            saw: why,
            truth: None,
            took_ms: 0,
            after: None,
            wrong: Vec::new(),
        }
    }

    pub(super) fn judged(
        place: Boundary,
        way: Way,
        wrote: Wrote,
        truth: Truth,
        after: Option<After>,
        took: Duration,
    ) -> Self {
        let wrong = judge(wrote.told, truth, after.as_ref());
        Self {
            boundary: place.number,
            place: place.name,
            way,
            told: Some(wrote.told),
            saw: wrote.saw,
            truth: Some(truth),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            after,
            wrong,
        }
    }

    /// Whether the client cannot know what became of its write, and it is there.
    fn is_hidden_commit(&self) -> bool {
        self.told == Some(Told::Unknown) && self.truth.is_some_and(|truth| truth.settled > 0)
    }

    fn verdict(&self) -> String {
        match (self.told, self.wrong.as_slice()) {
            (None, _) => "open".to_owned(),
            (Some(Told::Unknown), []) => "nothing false".to_owned(),
            (Some(_), []) => "true".to_owned(),
            (Some(_), wrong) => format!("FALSE: {}", wrong.join("; ")),
        }
    }
}

/// What of all that was said is false.
fn judge(told: Told, truth: Truth, after: Option<&After>) -> Vec<String> {
    let mut wrong = Vec::new();
    let Truth { at_once, settled, finally } = truth;
    match told {
        Told::Committed if at_once != 1 || settled != 1 => {
            wrong.push(format!("told committed, found {at_once} times, {settled} when settled"));
        }
        Told::Journaled if settled != 1 => {
            wrong.push(format!("told accepted, found {settled} times when settled"))
        }
        Told::Failed if settled != 0 => {
            wrong.push(format!("told failed, found {settled} times when settled"))
        }
        Told::Unknown if settled > 1 => wrong.push(format!("found {settled} times")),
        _ => {}
    }
    if let Some(after) = after {
        if !after.status_is_true {
            wrong.push(format!("its status says {}, found {settled} times", after.status));
        }
        if !after.again_is_accepted || finally != 1 {
            wrong.push(format!("sent again: {}, and found {finally} times", after.again));
        }
    }
    wrong
}

/// All runs.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Table {
    /// The version of this form.
    pub format: u32,
    /// `service`, or `raw` for a plain driver.
    pub mode: &'static str,
    /// Places in the transaction.
    pub boundaries: usize,
    /// Runs that there should be.
    pub planned: usize,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// What the server was told so that a run is short, as environment.
    pub settings: Vec<(String, String)>,
    /// The runs, in the order of places and ways.
    pub rows: Vec<Row>,
}

impl Table {
    pub(super) fn new(
        (mode, settings): (&'static str, Vec<(String, String)>),
        boundaries: &[Boundary],
        planned: usize,
        mut rows: Vec<Row>,
        took: Duration,
    ) -> Self {
        rows.sort_by_key(|row| (row.boundary, row.way.name()));
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        Self { format: FORMAT, mode, boundaries: boundaries.len(), planned, took_ms, settings, rows }
    }

    /// Violated where something false was told; inconclusive where a run is missing or proved nothing.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        if self.rows.iter().any(|row| !row.wrong.is_empty()) {
            Outcome::Violated
        } else if self.rows.is_empty()
            || self.rows.len() < self.planned
            || self.rows.iter().any(|row| row.told.is_none())
        {
            Outcome::Inconclusive
        } else {
            Outcome::Held
        }
    }

    /// The table and what follows from it, for people.
    #[must_use]
    pub fn text(&self) -> String {
        let number = |count: Option<i64>| count.map_or("-".to_owned(), |count| count.to_string());
        let head = [
            "#",
            "boundary",
            "way",
            "the client saw",
            "ms",
            "there",
            "settled",
            "status",
            "again",
            "verdict",
        ];
        let mut lines = vec![head.map(str::to_owned).to_vec()];
        for row in &self.rows {
            let after =
                |of: fn(&After) -> &String| row.after.as_ref().map_or("-".to_owned(), |a| of(a).clone());
            lines.push(vec![
                row.boundary.to_string(),
                row.place.clone(),
                row.way.name().to_owned(),
                row.saw.clone(),
                row.took_ms.to_string(),
                number(row.truth.map(|truth| truth.at_once)),
                number(row.truth.map(|truth| truth.settled)),
                after(|after| &after.status),
                after(|after| &after.again),
                row.verdict(),
            ]);
        }
        aligned(&lines) + "\n" + &self.sentences()
    }

    /// What follows from the table.
    #[must_use]
    pub fn sentences(&self) -> String {
        let count = |of: fn(&Row) -> bool| self.rows.iter().filter(|row| of(row)).count();
        let wrong = count(|row| !row.wrong.is_empty());
        let open = self.planned.saturating_sub(count(|row| row.told.is_some()));
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{} runs at {} boundaries in {:.1} s: told committed {}, accepted {}, failed {}, nothing certain {}.",
            self.rows.len(),
            self.boundaries,
            Duration::from_millis(self.took_ms).as_secs_f64(),
            count(|row| row.told == Some(Told::Committed)),
            count(|row| row.told == Some(Told::Journaled)),
            count(|row| row.told == Some(Told::Failed)),
            count(|row| row.told == Some(Told::Unknown)),
        );
        let hidden = count(Row::is_hidden_commit);
        if hidden > 0 {
            let _ = writeln!(
                text,
                "In {hidden} runs the client got an error though its write is there: who takes that for a failure, or \
                 sends it again without a key, is wrong."
            );
        }
        if open > 0 {
            let _ = writeln!(text, "{open} runs proved nothing.");
        }
        text += &match (wrong, open) {
            (0, 0) => "Verdict: no boundary where the user was told something false.\n".to_owned(),
            (0, _) => "Verdict: inconclusive; nothing false was seen.\n".to_owned(),
            (count, _) => format!("Verdict: in {count} runs the user was told something false.\n"),
        };
        text
    }
}

/// Columns as wide as their widest cell.
fn aligned(lines: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for line in lines {
        widths.resize(widths.len().max(line.len()), 0);
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(at_once: i64, settled: i64) -> Truth {
        Truth { at_once, settled, finally: 1 }
    }

    fn row(told: Option<Told>, wrong: &[&str]) -> Row {
        Row {
            boundary: 1,
            place: "before client Query".to_owned(),
            way: Way::Close,
            told,
            saw: "201 committed".to_owned(),
            truth: told.map(|_| truth(1, 1)),
            took_ms: 3,
            after: None,
            wrong: wrong.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    fn table(rows: Vec<Row>) -> Table {
        Table {
            format: FORMAT,
            mode: "service",
            boundaries: 1,
            planned: 2,
            took_ms: 1_500,
            settings: Vec::new(),
            rows,
        }
    }

    #[test]
    fn what_was_told_is_held_against_what_is_there() {
        for (told, at_once, settled, is_true) in [
            (Told::Committed, 1, 1, true),
            (Told::Committed, 0, 1, false),
            (Told::Committed, 1, 2, false),
            (Told::Journaled, 0, 1, true),
            (Told::Journaled, 0, 0, false),
            (Told::Failed, 0, 0, true),
            (Told::Failed, 0, 1, false),
            (Told::Unknown, 0, 0, true),
            (Told::Unknown, 0, 1, true),
            (Told::Unknown, 1, 2, false),
        ] {
            let wrong = judge(told, truth(at_once, settled), None);
            assert_eq!(wrong.is_empty(), is_true, "{told:?} {at_once} {settled}: {wrong:?}");
        }
    }

    #[test]
    fn a_status_that_lies_and_a_repetition_that_doubles_are_false() {
        let after = |status_is_true, again_is_accepted| After {
            status: "applied".to_owned(),
            status_is_true,
            again: "201 committed".to_owned(),
            again_is_accepted,
        };
        assert!(judge(Told::Unknown, truth(0, 1), Some(&after(true, true))).is_empty());
        assert_eq!(judge(Told::Unknown, truth(0, 1), Some(&after(false, true))).len(), 1);
        assert_eq!(judge(Told::Unknown, truth(0, 1), Some(&after(true, false))).len(), 1);
        let doubled = Truth { finally: 2, ..truth(1, 1) };
        assert_eq!(judge(Told::Committed, doubled, Some(&after(true, true))).len(), 1);
    }

    #[test]
    fn a_run_that_proved_nothing_makes_the_whole_inconclusive_and_a_lie_violates_it() {
        let fine = row(Some(Told::Committed), &[]);
        assert_eq!(table(vec![fine.clone(), fine.clone()]).outcome(), Outcome::Held);
        assert_eq!(table(vec![fine.clone()]).outcome(), Outcome::Inconclusive, "one is missing");
        assert_eq!(table(vec![fine.clone(), row(None, &[])]).outcome(), Outcome::Inconclusive);
        let lie = row(Some(Told::Committed), &["told committed, found 0 times"]);
        assert_eq!(table(vec![lie, row(None, &[])]).outcome(), Outcome::Violated);
        assert_eq!(table(Vec::new()).outcome(), Outcome::Inconclusive);
    }

    #[test]
    fn the_text_ends_with_the_verdict() {
        let text = table(vec![row(Some(Told::Unknown), &[]), row(Some(Told::Committed), &[])]).text();
        assert!(text.contains("nothing false") && text.contains("before client Query"), "{text}");
        assert!(text.contains("In 1 runs the client got an error though its write is there"), "{text}");
        assert!(text.ends_with("no boundary where the user was told something false.\n"), "{text}");
        let open = table(vec![row(None, &[])]).text();
        assert!(open.contains("2 runs proved nothing") && open.contains("inconclusive"), "{open}");
    }
}
