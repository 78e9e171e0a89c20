//! The verdict in sentences with numbers, for the end of a command and the top of the page.

use crate::verdict::{Bands, Check, Latency, Numbers, Outcome, State, Verdict};

/// The verdict in one sentence.
#[must_use]
pub fn headline(verdict: &Verdict) -> String {
    let numbers = &verdict.numbers;
    let answer = match verdict.outcome {
        Outcome::Held => "Held",
        Outcome::Violated => "Violated",
        Outcome::Inconclusive => "Inconclusive",
        Outcome::HarnessError => return format!("Harness error: {}.", verdict.reason),
    };
    let (reads, writes) = (&numbers.reads, &numbers.writes);
    let stale = match numbers.oldest_stale_seconds {
        oldest if reads.stale > 0 => format!("{} stale (at most {oldest} s)", count(reads.stale)),
        _ => "0 stale".to_owned(),
    };
    format!(
        "{answer}: {}; of {} planned requests users got {} fresh, {stale}, {} committed, {} journaled and {} bad; {} \
         acknowledged writes were lost, {} doubled.",
        gone(numbers),
        count(reads.planned + writes.planned),
        count(reads.fresh),
        count(writes.committed),
        count(writes.journaled),
        count(reads.bad() + writes.bad()),
        count(numbers.lost),
        count(numbers.doubled)
    )
}

/// A phase of the latencies, as people say it.
pub(crate) fn phase(name: &str) -> &'static str {
    match name {
        "before" => "before the fault",
        "during" => "while the database was gone",
        _ => "after its return",
    }
}

/// The verdict in sentences, one line each, the verdict itself last.
#[must_use]
pub fn sentences(verdict: &Verdict) -> Vec<String> {
    let numbers = &verdict.numbers;
    if verdict.outcome == Outcome::HarnessError {
        return vec![last_line(verdict)];
    }
    let (reads, writes) = (&numbers.reads, &numbers.writes);
    let mut lines = vec![
        format!("{}.", capital(&gone(numbers))),
        format!(
            "{} requests were planned: {} reads and {} writes.",
            count(reads.planned + writes.planned),
            count(reads.planned),
            count(writes.planned)
        ),
        format!(
            "Reads: {} fresh, {} stale{}, {}.",
            count(reads.fresh),
            count(reads.stale),
            if reads.stale > 0 {
                format!(" (the oldest said {} s)", numbers.oldest_stale_seconds)
            } else {
                String::new()
            },
            rest(reads)
        ),
        format!(
            "Writes: {} committed, {} journaled, {}.",
            count(writes.committed),
            count(writes.journaled),
            rest(writes)
        ),
        format!(
            "Of {} acknowledged writes, {} were lost and {} doubled.",
            count(numbers.acknowledged),
            count(numbers.lost),
            count(numbers.doubled)
        ),
    ];
    lines.extend(slowest(&numbers.latency));
    lines.extend(recovery(numbers));
    lines.extend(bounds(verdict));
    let told = |check: &&Check| {
        check.state == State::Violated || (check.state == State::NotMeasured && check.required)
    };
    lines.extend(verdict.checks.iter().filter(told).map(not_held));
    lines.extend(not_measured(verdict));
    lines.push(last_line(verdict));
    lines
}

fn gone(numbers: &Numbers) -> String {
    let [first, more @ ..] = numbers.outages.as_slice() else {
        return "the database was never seen to be gone".into();
    };
    let known: Option<u64> =
        numbers.outages.iter().map(|outage| Some(outage.until_us?.saturating_sub(outage.from_us))).sum();
    let times = if more.is_empty() { String::new() } else { format!(", {} times", numbers.outages.len()) };
    match known {
        Some(us) => format!("the database was gone for {} ({}{times})", seconds(us), first.fault),
        None => format!("the database went ({}{times}) and was not seen to come back", first.fault),
    }
}

/// The bands of those who got nothing; the rarer ones only where there are any.
fn rest(bands: &Bands) -> String {
    let always = [("fallback", bands.fallback), ("error", bands.error), ("no answer", bands.no_answer)];
    let rare = [("refused or cut", bands.refused), ("never sent", bands.never_sent), ("wrong", bands.wrong)];
    let shown = always.into_iter().chain(rare.into_iter().filter(|(_, many)| *many > 0));
    shown.map(|(name, many)| format!("{} {name}", count(many))).collect::<Vec<_>>().join(", ")
}

fn slowest(latency: &[Latency]) -> Option<String> {
    let reads = latency.iter().find(|latency| latency.phase == "during" && latency.kind == "reads")?;
    Some(format!(
        "While the database was gone, the slowest of {} reads took {}, the 99th percentile {}.",
        count(reads.n),
        millis(reads.max_us),
        millis(reads.p99_us)
    ))
}

/// A table of latencies and a line for each bound, of a run that states bounds.
fn bounds(verdict: &Verdict) -> Vec<String> {
    /// The checks of `checker/bounds.rs`.
    const BOUNDS: [&str; 4] = ["B1", "B2", "T5", "T6"];
    let checks: Vec<&Check> = BOUNDS.iter().filter_map(|id| verdict.check(id)).collect();
    if checks.is_empty() {
        return Vec::new();
    }
    let row = |cells: [&str; 6]| {
        let [phase, kind, n, p50, p99, max] = cells;
        format!("  {phase:<8}{kind:<8}{n:>10}{p50:>12}{p99:>12}{max:>12}")
    };
    let mut lines = vec![row(["phase", "kind", "answers", "p50", "p99", "max"])];
    lines.extend(verdict.numbers.latency.iter().map(|latency| {
        let Latency { phase, kind, n, p50_us, p99_us, max_us } = latency;
        row([phase, kind, &count(*n), &millis(*p50_us), &millis(*p99_us), &millis(*max_us)])
    }));
    lines.extend(checks.iter().map(|check| {
        let held = match check.state {
            State::Held => "held",
            State::Violated => "broken",
            State::NotMeasured => "not measured",
        };
        format!("{} {held}: {}; {}.", check.id, check.title, check.measured)
    }));
    lines
}

fn recovery(numbers: &Numbers) -> Option<String> {
    numbers.outages.first()?.until_us?;
    Some(match (numbers.first_fresh_us, numbers.first_committed_us) {
        (None, _) => "No fresh answer came after the database was back.".into(),
        (Some(fresh), None) => {
            format!("The first fresh answer came {} after the database was back.", seconds(fresh))
        }
        (Some(fresh), Some(committed)) => format!(
            "The first fresh answer came {} after the database was back, the first committed write {}.",
            seconds(fresh),
            seconds(committed)
        ),
    })
}

/// The checks that this run had nothing for and did not need.
fn not_measured(verdict: &Verdict) -> Option<String> {
    let left = verdict.checks.iter().filter(|check| check.state == State::NotMeasured && !check.required);
    let ids: Vec<&str> = left.map(|check| check.id.as_str()).collect();
    (!ids.is_empty()).then(|| format!("Not measured in this run: {}.", ids.join(", ")))
}

fn not_held(check: &Check) -> String {
    let Check { id, title, measured, .. } = check;
    match (check.state, check.witnesses.first()) {
        (State::NotMeasured, _) => format!("{id} ({title}) could not be measured: {measured}."),
        (_, Some(witness)) if check.violations == 1 => {
            format!("{id} ({title}) was broken: {}.", witness.summary)
        }
        (_, Some(witness)) => {
            let many = count(check.violations);
            format!("{id} ({title}) was broken {many} times, first: {}.", witness.summary)
        }
        (_, None) => format!("{id} ({title}) was broken: {measured}."),
    }
}

fn last_line(verdict: &Verdict) -> String {
    format!("Verdict: {} ({}).", verdict.outcome.word(), verdict.reason)
}

/// A count with a comma at every thousand.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Seconds with the digits that matter.
pub(crate) fn seconds(us: u64) -> String {
    let digits = if us < 1_000_000 { 2 } else { 1 };
    format!("{:.digits$} s", us as f64 / 1e6)
}

/// Milliseconds with the digits that matter.
pub(crate) fn millis(us: u64) -> String {
    let digits = usize::from(us < 100_000);
    format!("{:.digits$} ms", us as f64 / 1e3)
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
