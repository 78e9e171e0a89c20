//! Fills in the page: one file, no script, nothing loaded from elsewhere. Text is escaped by the template
//! engine; only the drawing, which escapes its own text, goes in as it is.

use minijinja::value::{Serde, Value};
use minijinja::{Environment, context};

use crate::checker::{Band, answered};
use crate::history::Event;
use crate::report::chart::{self, Counts};
use crate::report::sentences::{count, headline, millis, seconds, sentences};
use crate::verdict::{Bands, Check, Class, Numbers, Outcome, State, Verdict};

const PAGE: &str = include_str!("report.html");

/// The page for a run.
pub(crate) fn page(events: &[Event], verdict: &Verdict) -> Result<String, minijinja::Error> {
    let mut templates = Environment::new();
    // The suffix turns escaping on.
    templates.add_template("report.html", PAGE)?;
    let numbers = &verdict.numbers;
    let broken = verdict.checks.iter().filter(|check| !check.witnesses.is_empty());
    let drawing = chart::draw(events, verdict).map(Value::from_safe_string);
    templates.get_template("report.html")?.render(context! {
        headline => headline(verdict),
        outcome => outcome_class(verdict.outcome),
        outcome_word => verdict.outcome.word(),
        verdict => Serde(verdict),
        sentences => sentences(verdict),
        drawing,
        legend => legend(numbers),
        per_second => per_second(events),
        bands => Band::ALL.map(chart::label).to_vec(),
        latency => latency(verdict),
        checks => verdict.checks.iter().map(check).collect::<Vec<_>>(),
        broken => broken.map(|check| Value::from(Serde(check))).collect::<Vec<_>>(),
        facts => Serde(facts(verdict)),
    })
}

fn outcome_class(outcome: Outcome) -> &'static str {
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

/// The counts of the drawing, a row for each second, for those who cannot see it.
fn per_second(events: &[Event]) -> Vec<Value> {
    let Some(load) = chart::load(events) else { return Vec::new() };
    let counts = Counts::of(&answered(events), load, 1_000_000);
    (0..counts.steps.len())
        .map(|step| {
            let many: Vec<u64> = Band::ALL.iter().map(|band| counts.get(step, *band)).collect();
            context! { second => step, counts => many }
        })
        .collect()
}

fn latency(verdict: &Verdict) -> Vec<Value> {
    let phase = |phase: &str| match phase {
        "before" => "before the fault",
        "during" => "database gone",
        _ => "after its return",
    };
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

fn check(check: &Check) -> Value {
    let (sign, word, class) = match (check.state, check.class) {
        (State::Held, _) => ("✓", "held", "held"),
        (State::Violated, Class::Honesty) => ("?", "not met", "open"),
        (State::Violated, _) => ("✗", "violated", "violated"),
        (State::NotMeasured, _) => ("?", "not measured", "open"),
    };
    context! {
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
