//! Two verdicts held against each other: what got better, what got worse. Figures of time count only where they moved
//! by more than two runs of the same schedule do; promises and counts of lost or doubled writes always count.

use crate::report::sentences::{count, millis, phase, seconds};
use crate::verdict::{Check, Latency, Outcome, State, Verdict};

/// A time must have grown or shrunk by this share to count.
const TIME_SHARE: f64 = 0.25;
/// A share of bad requests must have moved by this much to count.
const BAD_SHARE: f64 = 0.001;
/// A percentile of fewer requests than this says nothing.
const SAMPLES_MIN: u64 = 100;
const MILLISECOND_US: u64 = 1_000;

/// What differs between an earlier and a later run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "whether something got worse is what it is for"]
pub struct Difference {
    /// What got better, a sentence each.
    pub better: Vec<String>,
    /// What got worse.
    pub worse: Vec<String>,
    /// What differs and is neither: most of all, what only one of the two could tell.
    pub other: Vec<String>,
}

impl Difference {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.better.is_empty() && self.worse.is_empty() && self.other.is_empty()
    }

    fn add(&mut self, turn: Turn, line: String) {
        match turn {
            Turn::Better => self.better.push(line),
            Turn::Worse => self.worse.push(line),
            Turn::Other => self.other.push(line),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Better,
    Worse,
    Other,
}

/// What differs in the later run.
pub fn diff(before: &Verdict, after: &Verdict) -> Difference {
    let mut found = Difference::default();
    if before.scenario != after.scenario {
        let line = format!("the scenarios differ: {} and {}", before.scenario, after.scenario);
        found.add(Turn::Other, line);
    }
    if before.outcome != after.outcome {
        let turn = match (before.outcome, after.outcome) {
            (_, Outcome::Violated) | (Outcome::Held, _) => Turn::Worse,
            (Outcome::Violated, _) | (_, Outcome::Held) => Turn::Better,
            _ => Turn::Other,
        };
        found.add(turn, format!("the verdict was {} and is {}", before.outcome.word(), after.outcome.word()));
    }
    checks(before, after, &mut found);
    counts(before, after, &mut found);
    shares(before, after, &mut found);
    times(before, after, &mut found);
    found
}

fn checks(before: &Verdict, after: &Verdict, found: &mut Difference) {
    for now in &after.checks {
        match before.check(&now.id) {
            Some(then) => check(then, now, found),
            None if now.state != State::NotMeasured => {
                found.add(Turn::Other, format!("{} ({}) is new: {}", now.id, now.title, word(now)));
            }
            None => {}
        }
    }
    for then in before.checks.iter().filter(|then| after.check(&then.id).is_none()) {
        if then.state != State::NotMeasured {
            found.add(Turn::Other, format!("{} ({}) is no longer looked at", then.id, then.title));
        }
    }
}

fn check(then: &Check, now: &Check, found: &mut Difference) {
    let (id, title) = (&now.id, &now.title);
    let turn = match (then.state, now.state) {
        (State::Violated, State::Violated) => {
            if now.violations != then.violations {
                let turn = if now.violations > then.violations { Turn::Worse } else { Turn::Better };
                let (was, is) = (count(then.violations), count(now.violations));
                found.add(turn, format!("{id} ({title}) was broken {was} times and is {is} times"));
            }
            return;
        }
        (then, now) if then == now => return,
        (_, State::Violated) => Turn::Worse,
        // Not knowing any more is a loss only where the run was to know.
        (State::Held, State::NotMeasured) if now.required => Turn::Worse,
        (State::Held, State::NotMeasured) | (State::Violated, State::NotMeasured) => Turn::Other,
        (_, State::Held) if then.state == State::NotMeasured && !now.required => Turn::Other,
        _ => Turn::Better,
    };
    let measured = &now.measured;
    found.add(turn, format!("{id} ({title}) was {} and is {}: {measured}", word(then), word(now)));
}

fn word(check: &Check) -> &'static str {
    match check.state {
        State::Held => "held",
        State::Violated => "broken",
        State::NotMeasured => "not measured",
    }
}

/// Each of these is one too many, so every change counts.
fn counts(before: &Verdict, after: &Verdict, found: &mut Difference) {
    let of = |verdict: &Verdict| {
        let numbers = &verdict.numbers;
        [
            ("acknowledged writes lost", numbers.lost),
            ("writes doubled", numbers.doubled),
            ("rows that nobody wrote", numbers.phantom),
            ("wrong answers", numbers.reads.wrong + numbers.writes.wrong),
            ("acknowledged writes left in a journal", numbers.pending),
        ]
    };
    for ((name, was), (_, is)) in of(before).into_iter().zip(of(after)) {
        if was != is {
            let turn = if is > was { Turn::Worse } else { Turn::Better };
            found.add(turn, format!("{name}: {} before, {} now", count(was), count(is)));
        }
    }
}

fn shares(before: &Verdict, after: &Verdict, found: &mut Difference) {
    let bad = |verdict: &Verdict, kind: &str| {
        let bands = if kind == "reads" { &verdict.numbers.reads } else { &verdict.numbers.writes };
        (bands.planned > 0).then(|| bands.bad() as f64 / bands.planned as f64)
    };
    for kind in ["reads", "writes"] {
        let (Some(was), Some(is)) = (bad(before, kind), bad(after, kind)) else { continue };
        if (was - is).abs() >= BAD_SHARE {
            let turn = if is > was { Turn::Worse } else { Turn::Better };
            let (was, is) = (was * 100.0, is * 100.0);
            found.add(turn, format!("bad {kind}: {was:.2} % before, {is:.2} % now"));
        }
    }
}

fn times(before: &Verdict, after: &Verdict, found: &mut Difference) {
    let (then, now) = (&before.numbers, &after.numbers);
    let recoveries = [
        ("the first fresh answer after the return", then.first_fresh_us, now.first_fresh_us),
        ("the first committed write after the return", then.first_committed_us, now.first_committed_us),
    ];
    for (name, was, is) in recoveries {
        match (was, is) {
            (Some(was), Some(is)) => {
                if let Some(turn) = moved(was, is, 100 * MILLISECOND_US) {
                    found.add(turn, format!("{name}: after {} before, {} now", seconds(was), seconds(is)));
                }
            }
            (Some(was), None) => {
                found.add(Turn::Worse, format!("{name}: after {} before, none now", seconds(was)));
            }
            (None, Some(is)) => {
                found.add(Turn::Better, format!("{name}: none before, after {} now", seconds(is)));
            }
            (None, None) => {}
        }
    }
    let ages = (then.oldest_stale_seconds * 1_000_000, now.oldest_stale_seconds * 1_000_000);
    if let Some(turn) = moved(ages.0, ages.1, 1_000 * MILLISECOND_US) {
        let (was, is) = (then.oldest_stale_seconds, now.oldest_stale_seconds);
        found.add(turn, format!("the oldest stale answer: {was} s before, {is} s now"));
    }
    if then.live_probes > 0
        && now.live_probes > 0
        && let Some(turn) = moved(then.live_worst_us, now.live_worst_us, 50 * MILLISECOND_US)
    {
        let (was, is) = (millis(then.live_worst_us), millis(now.live_worst_us));
        found.add(turn, format!("the slowest liveness answer: {was} before, {is} now"));
    }
    for is in &now.latency {
        let same = |row: &&Latency| row.phase == is.phase && row.kind == is.kind;
        if let Some(was) = then.latency.iter().find(same) {
            latency(was, is, found);
        }
    }
}

fn latency(was: &Latency, is: &Latency, found: &mut Difference) {
    if was.n.min(is.n) < SAMPLES_MIN {
        return;
    }
    let percentiles = [
        ("p50", was.p50_us, is.p50_us, 2 * MILLISECOND_US),
        ("p99", was.p99_us, is.p99_us, 10 * MILLISECOND_US),
    ];
    for (name, was_us, is_us, floor_us) in percentiles {
        if let Some(turn) = moved(was_us, is_us, floor_us) {
            let (kind, phase) = (&is.kind, phase(&is.phase));
            found.add(
                turn,
                format!("{name} of {kind} {phase}: {} before, {} now", millis(was_us), millis(is_us)),
            );
        }
    }
}

/// Which way a time went, where it went far enough: by a share of the larger one and by no less than `floor_us`.
fn moved(was: u64, is: u64, floor_us: u64) -> Option<Turn> {
    let far = was.abs_diff(is);
    let enough = far >= floor_us && far as f64 >= TIME_SHARE * was.max(is) as f64;
    enough.then_some(if is > was { Turn::Worse } else { Turn::Better })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::judge;
    use crate::history::Limits;
    use crate::verdict::{Bands, Class};

    fn verdict() -> Verdict {
        let check = |id: &str| Check {
            id: id.into(),
            title: "a promise".into(),
            class: Class::Safety,
            state: State::Held,
            required: true,
            examined: 10,
            violations: 0,
            measured: "0 of 10".into(),
            witnesses: Vec::new(),
        };
        let mut verdict = judge(&[], &Limits::default());
        verdict.outcome = Outcome::Held;
        verdict.checks = vec![check("W1"), check("T3")];
        verdict.numbers.reads = Bands { planned: 1_000, fresh: 1_000, ..Bands::default() };
        verdict.numbers.first_fresh_us = Some(400_000);
        verdict.numbers.latency = vec![Latency {
            phase: "during".into(),
            kind: "reads".into(),
            n: 1_000,
            p50_us: 3_000,
            p99_us: 20_000,
            max_us: 30_000,
        }];
        verdict
    }

    fn set(verdict: &mut Verdict, id: &str, state: State, violations: u64) {
        let check = verdict.checks.iter_mut().find(|check| check.id == id).unwrap();
        (check.state, check.violations) = (state, violations);
    }

    #[test]
    fn two_runs_of_the_same_do_not_differ() {
        let (before, mut after) = (verdict(), verdict());
        after.numbers.latency[0].p99_us = 24_000;
        after.numbers.first_fresh_us = Some(470_000);
        assert_eq!(diff(&before, &after), Difference::default());
    }

    #[test]
    fn what_turns_back_is_better_one_way_and_worse_the_other() {
        let (good, mut bad) = (verdict(), verdict());
        bad.outcome = Outcome::Violated;
        set(&mut bad, "W1", State::Violated, 3);
        bad.numbers.lost = 3;
        bad.numbers.reads = Bands { planned: 1_000, fresh: 900, error: 100, ..Bands::default() };
        bad.numbers.latency[0].p99_us = 900_000;
        bad.numbers.first_fresh_us = None;
        let worse = diff(&good, &bad);
        let better = diff(&bad, &good);
        assert_eq!((worse.worse.len(), worse.better.len(), worse.other.len()), (6, 0, 0), "{worse:?}");
        assert_eq!((better.better.len(), better.worse.len(), better.other.len()), (6, 0, 0), "{better:?}");
        for part in
            ["held and is violated", "W1 (a promise)", "lost: 0 before, 3 now", "10.00 % now", "none now"]
        {
            assert!(worse.worse.iter().any(|line| line.contains(part)), "{part} in {worse:?}");
        }
    }

    #[test]
    fn a_promise_that_is_no_longer_measured_counts_only_where_the_run_was_to_measure_it() {
        let (before, mut after) = (verdict(), verdict());
        set(&mut after, "W1", State::NotMeasured, 0);
        assert_eq!(diff(&before, &after).worse.len(), 1);
        after.checks[0].required = false;
        let found = diff(&before, &after);
        assert_eq!((found.worse.len(), found.other.len()), (0, 1));
    }

    #[test]
    fn more_violations_of_a_broken_promise_are_worse() {
        let (mut before, mut after) = (verdict(), verdict());
        set(&mut before, "W1", State::Violated, 2);
        set(&mut after, "W1", State::Violated, 5);
        assert_eq!(diff(&before, &after).worse, ["W1 (a promise) was broken 2 times and is 5 times"]);
    }

    #[test]
    fn a_percentile_of_few_requests_says_nothing() {
        let (before, mut after) = (verdict(), verdict());
        after.numbers.latency[0].n = 99;
        after.numbers.latency[0].p99_us = 2_000_000;
        assert!(diff(&before, &after).is_empty());
    }
}
