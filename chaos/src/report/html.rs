//! Fills in the page: one file, no script, nothing loaded from elsewhere. Text is escaped by the template
//! engine; only the drawings, which escape their own text, and the style sheet go in as they are.

use minijinja::value::{Serde, Value};
use minijinja::{Environment, context};

use crate::checker::{Answered, Band, answered};
use crate::history::{Event, Load};
use crate::report::chart::{self, Counts, Parts, Row};
use crate::report::diff::diff;
use crate::report::sentences::{count, headline, millis, phase, seconds, sentences};
use crate::report::spans;
use crate::verdict::{Bands, Check, Class, Numbers, Outcome, Span, State, Verdict, Witness};

const PAGE: &str = include_str!("report.html");
/// What all pages look like. It holds no text of a run.
pub(crate) const STYLE: &str = include_str!("style.css");

/// The page for a run. `against` is the verdict of an earlier one.
pub(crate) fn page(
    events: &[Event],
    verdict: &Verdict,
    against: Option<&Verdict>,
) -> Result<String, minijinja::Error> {
    let mut templates = Environment::new();
    // The suffix turns escaping on.
    templates.add_template("report.html", PAGE)?;
    let numbers = &verdict.numbers;
    let broken = verdict.checks.iter().filter(|check| !check.witnesses.is_empty());
    let answered = answered(events);
    let parts = Parts::of(events, &answered, verdict);
    let drawing = parts.as_ref().map(|parts| Value::from_safe_string(chart::draw(parts, verdict)));
    let lanes = parts.as_ref().map(chart::rows).unwrap_or_default();
    let has_state = events.iter().any(|event| matches!(event, Event::ServerState(_)));
    templates.get_template("report.html")?.render(context! {
        style => Value::from_safe_string(STYLE.to_owned()),
        headline => headline(verdict),
        outcome => outcome_class(verdict.outcome),
        outcome_word => verdict.outcome.word(),
        verdict => Serde(verdict),
        sentences => sentences(verdict),
        drawing,
        has_state,
        lanes => lanes.iter().map(lane).collect::<Vec<_>>(),
        legend => legend(numbers),
        per_second => per_second(events, &answered),
        bands => Band::ALL.map(chart::label).to_vec(),
        latency => latency(verdict),
        checks => verdict.checks.iter().map(check).collect::<Vec<_>>(),
        cards => broken.map(card).collect::<Vec<_>>(),
        against => against.map(|before| differences(before, verdict)),
        facts => Serde(facts(verdict)),
    })
}

pub(crate) fn outcome_class(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Held => "held",
        Outcome::Violated => "violated",
        Outcome::Inconclusive | Outcome::HarnessError => "open",
    }
}

fn legend(numbers: &Numbers) -> Vec<Value> {
    let of = |bands: &Bands, band| match band {
        Band::Fresh => bands.fresh,
        Band::Stale => bands.stale,
        Band::Committed => bands.committed,
        Band::Journaled => bands.journaled,
        Band::Fallback => bands.fallback,
        Band::Refused => bands.refused,
        Band::Error => bands.error,
        Band::NoAnswer => bands.no_answer,
        Band::NeverSent => bands.never_sent,
        Band::Wrong => bands.wrong,
    };
    let meaning = |band| match band {
        Band::Fresh => "read from the database",
        Band::Stale => "an older copy, with its age",
        Band::Committed => "in the database",
        Band::Journaled => "safe on disk, applied later",
        Band::Fallback => "the proxy's own page",
        Band::Refused => "no connection, or cut",
        Band::Error => "an error status",
        Band::NoAnswer => "nothing by the deadline",
        Band::NeverSent => "no connection came free",
        Band::Wrong => "a value that cannot be right",
    };
    Band::ALL
        .into_iter()
        .map(|band| {
            let (reads, writes) = (of(&numbers.reads, band), of(&numbers.writes, band));
            context! {
                class => chart::class(band),
                label => chart::label(band),
                meaning => meaning(band),
                reads => count(reads),
                writes => count(writes),
                none => reads + writes == 0,
            }
        })
        .collect()
}

/// Rows of the table of counts; of a longer run each stands for more than a second.
const ROWS_MAX: u64 = 600;

/// The counts of the drawing, a row for each second, for those who cannot see it.
fn per_second(events: &[Event], answered: &[Answered]) -> Vec<Value> {
    const SECOND_US: u64 = 1_000_000;
    let Some(load) = chart::load(events) else { return Vec::new() };
    let every = load.until_us.saturating_sub(load.at_us).div_ceil(SECOND_US * ROWS_MAX).max(1);
    let counts = Counts::of(answered, load, every * SECOND_US);
    let mut took = took(answered, load, every * SECOND_US, counts.steps.len());
    (0..counts.steps.len())
        .map(|step| {
            let many: Vec<u64> = Band::ALL.iter().map(|band| counts.get(step, *band)).collect();
            let times = took.get_mut(step);
            let middle = times.as_ref().map_or(0, |times| times.len() / 2);
            let times = times.map(|times| {
                times.sort_unstable();
                (times.get(middle).copied(), times.last().copied())
            });
            let (p50, slowest) = times.unwrap_or_default();
            let words = |us: Option<u64>| us.map_or_else(String::new, millis);
            context! { second => step as u64 * every, counts => many, p50 => words(p50), slowest => words(slowest) }
        })
        .collect()
}

/// How long the requests of each step took, of those that ended.
fn took(answered: &[Answered], load: &Load, step_us: u64, steps: usize) -> Vec<Vec<u64>> {
    let mut took = vec![Vec::new(); steps];
    for one in answered {
        let step = usize::try_from(one.planned_us.saturating_sub(load.at_us) / step_us).unwrap_or(steps);
        let slot = took.get_mut(step.min(steps.saturating_sub(1)));
        if let (Some(slot), Some(ended_us)) = (slot, one.ended_us) {
            slot.push(ended_us.saturating_sub(one.planned_us));
        }
    }
    took
}

fn lane(row: &Row) -> Value {
    let Row { lane, what, from, until } = row;
    context! { lane, what, from, until }
}

/// A broken check in full.
fn card(check: &Check) -> Value {
    let witnesses = check.witnesses.iter().enumerate();
    let shown = check.witnesses.len() as u64;
    let (_, word, class) = told(check);
    context! {
        id => check.id.as_str(),
        title => check.title.as_str(),
        measured => check.measured.as_str(),
        word,
        class,
        witnesses => witnesses.map(|(place, one)| witness(check, place, one)).collect::<Vec<_>>(),
        more => check.violations.saturating_sub(shown),
    }
}

fn witness(check: &Check, place: usize, witness: &Witness) -> Value {
    // Part of an id in the page, which has no room for just any text.
    let id: String = check.id.chars().filter(char::is_ascii_alphanumeric).collect();
    let picture = spans::draw(&witness.spans, &format!("times-{id}-{place}"));
    let row = |span: &Span| {
        let until = span.until_us.map_or_else(String::new, |us| format!(" {}", spans::time(us)));
        context! {
            label => span.label.as_str(),
            from => format!("{} {}", span.from, spans::time(span.from_us)),
            until => format!("{}{until}", span.until),
        }
    };
    context! {
        summary => witness.summary.as_str(),
        lines => witness.lines.clone(),
        picture => picture.map(Value::from_safe_string),
        spans => witness.spans.iter().map(row).collect::<Vec<_>>(),
    }
}

/// This run held against an earlier one.
fn differences(before: &Verdict, after: &Verdict) -> Value {
    let found = diff(before, after);
    let started = if before.started.is_empty() { "at an unknown time" } else { before.started.as_str() };
    let group =
        |name: &str, class: &str, lines: &Vec<String>| context! { name, class, lines => lines.clone() };
    context! {
        which => format!("{} with seed {}, begun {started}", before.scenario, before.seed),
        same => found.is_empty(),
        groups => vec![
            group("Worse", "worse", &found.worse),
            group("Better", "better", &found.better),
            group("Otherwise", "soft", &found.other),
        ],
    }
}

fn latency(verdict: &Verdict) -> Vec<Value> {
    let rows = verdict.numbers.latency.iter();
    rows.map(|row| {
        context! {
            phase => phase(&row.phase),
            kind => row.kind.as_str(),
            n => count(row.n),
            p50 => millis(row.p50_us),
            p99 => millis(row.p99_us),
            max => millis(row.max_us),
        }
    })
    .collect()
}

/// The sign, the word and the class of a check's end.
pub(crate) fn told(check: &Check) -> (&'static str, &'static str, &'static str) {
    match (check.state, check.class, check.required) {
        (State::Held, ..) => ("✓", "held", "held"),
        (State::Violated, Class::Honesty, _) => ("?", "not met", "open"),
        (State::Violated, ..) => ("✗", "violated", "violated"),
        (State::NotMeasured, _, true) => ("?", "not measured", "open"),
        (State::NotMeasured, ..) => ("·", "not measured", "soft"),
    }
}

fn check(check: &Check) -> Value {
    let (sign, word, class) = told(check);
    context! {
        must_be => check.required && check.state == State::NotMeasured,
        id => check.id.as_str(),
        title => check.title.as_str(),
        sign, word, class,
        examined => count(check.examined),
        violations => count(check.violations),
        measured => check.measured.as_str(),
    }
}

fn facts(verdict: &Verdict) -> Vec<(String, String)> {
    let numbers = &verdict.numbers;
    let or_none = |us: Option<u64>| us.map_or_else(|| "none".to_owned(), seconds);
    let rows = [
        ("Acknowledged writes", format!("{}, the warm-up included", count(numbers.acknowledged))),
        ("Lost", count(numbers.lost)),
        ("Doubled", count(numbers.doubled)),
        ("Rows nobody wrote", count(numbers.phantom)),
        ("Journaled updates that gave way to a later one", count(numbers.superseded)),
        ("Acknowledged and still in a journal at the end", count(numbers.pending)),
        (
            "Writes whose end no answer told",
            format!(
                "{}, of which {} could be accounted for later",
                count(numbers.unknown),
                count(numbers.unknown_resolved)
            ),
        ),
        ("Writes sent twice with one key", count(numbers.repeated)),
        ("Sent again over a new connection", count(numbers.resent)),
        ("Fresh answers from before a journaled update was applied", count(numbers.fresh_before_replay)),
        ("Oldest stale answer", format!("{} s", numbers.oldest_stale_seconds)),
        ("First fresh answer after the database was back", or_none(numbers.first_fresh_us)),
        ("First committed write after the database was back", or_none(numbers.first_committed_us)),
        (
            "Liveness probes",
            format!(
                "{}, the slowest answer after {}",
                count(numbers.live_probes),
                millis(numbers.live_worst_us)
            ),
        ),
        ("The load generator itself was late by (p99)", millis(numbers.sender_late_p99_us)),
    ];
    rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
