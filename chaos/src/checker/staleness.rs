//! S1, S2, S3: answers are no older than they may be, no older than they say, and not old at all where they are called
//! fresh. Measures against the order of writes; what the values are worth is for `reads`.

use crate::checker::band::{Band, Banded, Freshness};
use crate::checker::fault::Fault;
use crate::checker::index::{Index, Op};
use crate::checker::{Finding, at};
use crate::history::{Action, Completion, Limits};
use crate::verdict::{Check, Class, Numbers};

pub(crate) fn check(
    index: &Index<'_>,
    bands: &[Banded],
    limits: &Limits,
    numbers: &mut Numbers,
) -> Vec<Check> {
    let mut course = Course {
        index,
        limits,
        bound: Finding::new("S1", "no answer is older than the service may be", Class::Safety),
        label: Finding::new("S2", "no answer claims to be fresher than it is", Class::Safety),
        fresh: Finding::new("S3", "no fresh answer misses a committed write", Class::Safety),
        oldest_us: 0,
    };
    if limits.max_stale_ms.is_none() {
        course.bound.not_measured("the run states no greatest age");
    }
    let good = |banded: &Banded| matches!(banded.band, Band::Fresh | Band::Stale);
    for (place, (op, banded)) in
        index.ops.iter().zip(bands).enumerate().filter(|(_, (_, banded))| good(banded))
    {
        course.answer(place, op, banded.freshness, numbers);
    }
    course.done(numbers)
}

struct Course<'i, 'a> {
    index: &'i Index<'a>,
    limits: &'i Limits,
    bound: Finding,
    label: Finding,
    fresh: Finding,
    /// The greatest age of an answer against the writes acknowledged before it.
    oldest_us: u64,
}

impl Course<'_, '_> {
    fn answer(&mut self, place: usize, op: &Op<'_>, claim: Freshness, numbers: &mut Numbers) {
        let (index, limits) = (self.index, self.limits);
        let Some((_, done)) = op.end else { return };
        if let Freshness::Stale { age_seconds } = claim {
            numbers.oldest_stale_seconds = numbers.oldest_stale_seconds.max(age_seconds);
        }
        let overtaken =
            index.objects.read(place).and_then(|(object, shown)| index.objects.overtaken(object, shown));
        let begun_before = |known: Option<(u64, usize)>| known.filter(|(us, _)| *us < op.begun_us);
        let acknowledged = overtaken.and_then(|next| begun_before(next.acknowledged));
        let committed = overtaken.and_then(|next| begun_before(next.committed));
        let lines = |write: Option<(u64, usize)>| {
            let write = write.and_then(|(_, place)| index.writes.get(place));
            [op.line()]
                .into_iter()
                .chain(write.into_iter().flat_map(|write| write.lines(&index.ops)))
                .collect()
        };
        let spans = |write: Option<(u64, usize)>| {
            let write = write.and_then(|(_, place)| index.writes.get(place));
            let write = write.into_iter().flat_map(|write| write.spans(&index.ops));
            write.chain([op.span()]).collect()
        };
        if overtaken.is_some() {
            let age_us = acknowledged.map_or(0, |(us, _)| op.begun_us - us);
            self.oldest_us = self.oldest_us.max(age_us);
            if let Some(max_ms) = limits.max_stale_ms {
                self.bound.examined(1);
                if age_us > (max_ms + limits.stale_slack_ms) * 1_000 {
                    let summary = format!("an answer was {} behind an acknowledged write", at(age_us));
                    self.bound.violated(summary, || lines(acknowledged));
                    self.bound.drawn(|| spans(acknowledged));
                }
            }
        }
        let behind_us = committed.map(|(us, _)| op.begun_us - us);
        if claim == Freshness::Fresh && overtaken.is_some() {
            self.fresh.examined(1);
            if let Some(us) = behind_us {
                let summary = format!("a fresh answer misses a write committed {} earlier", at(us));
                self.fresh.violated(summary, || lines(committed));
                self.fresh.drawn(|| spans(committed));
            } else if acknowledged.is_some() {
                numbers.fresh_before_replay += 1;
            }
        }
        // An answer of another tool says that it may be old, not how old.
        if index.run.foreign {
            return;
        }
        self.label.examined(1);
        let broken = behind_us
            .and_then(|us| older_than_said(claim, us, limits))
            .or_else(|| without_database(index, op, done, claim, limits));
        if let Some(summary) = broken {
            self.label.violated(summary, || lines(committed));
            self.label.drawn(|| spans(committed));
        }
    }

    fn done(mut self, numbers: &Numbers) -> Vec<Check> {
        if self.label.check.examined == 0 {
            self.label.not_measured("no answer carries a label");
        }
        if self.fresh.check.examined == 0 {
            self.fresh.not_measured("no fresh answer shows a value with a known place");
        }
        if self.bound.check.examined == 0 {
            self.bound.not_measured("no answer shows a value with a known place");
        }
        let limit = self.limits.max_stale_ms.map_or(0, |ms| ms * 1_000);
        let bound = format!("the oldest answer was {} behind (limit {})", at(self.oldest_us), at(limit));
        let label = &self.label.check;
        let label = format!(
            "{} of {} labels dishonest; the oldest answer said {} s",
            label.violations, label.examined, numbers.oldest_stale_seconds
        );
        let fresh = &self.fresh.check;
        let fresh = format!("{} of {} fresh answers behind", fresh.violations, fresh.examined);
        vec![self.bound.done(bound), self.label.done(label), self.fresh.done(fresh)]
    }
}

/// An answer from before a committed write must be labelled, and with its true age at the least. A journaled write is
/// no measure here: until it is replayed, the database truly holds the old value.
fn older_than_said(claim: Freshness, behind_us: u64, limits: &Limits) -> Option<String> {
    match claim {
        Freshness::Fresh => Some(format!(
            "an answer called fresh does not show a write acknowledged as committed {} earlier",
            at(behind_us)
        )),
        Freshness::Stale { age_seconds } => understated(age_seconds, behind_us, limits),
    }
}

/// While no database session can be answered, nothing is fresh, and every copy is older than the fault.
fn without_database(
    index: &Index<'_>,
    op: &Op<'_>,
    done: &Completion,
    claim: Freshness,
    limits: &Limits,
) -> Option<String> {
    let inside = |fault: &&Fault<'_>| {
        fault.severed.is_some_and(|(from, until)| op.begun_us >= from && done.at_us <= until)
    };
    let fault = index.faults.iter().find(inside)?;
    match claim {
        Freshness::Fresh => Some(format!(
            "an answer was called fresh while {} kept every session from the database",
            fault.start.fault
        )),
        Freshness::Stale { age_seconds } if !shows_journaled(index, op, done) => {
            understated(age_seconds, op.begun_us - fault.start.at_us, limits)
        }
        Freshness::Stale { .. } => None,
    }
}

/// Whether the age is a matter of the journal: many todos at once, or a value that was only journaled.
fn shows_journaled(index: &Index<'_>, op: &Op<'_>, done: &Completion) -> bool {
    let value = done.values.as_ref().and_then(|values| values.last());
    let write = value.and_then(|value| index.writer(op.invoke.object.as_deref(), value));
    op.invoke.action == Action::List
        || write.and_then(|place| index.writes.get(place)).is_some_and(|write| write.journaled)
        || done.todos.iter().any(|todo| index.title(&todo.title).is_none_or(|write| write.journaled))
}

fn understated(age_seconds: u64, true_us: u64, limits: &Limits) -> Option<String> {
    let claimed_us = age_seconds.saturating_mul(1_000_000).saturating_add(limits.stale_slack_ms * 1_000);
    (claimed_us < true_us)
        .then(|| format!("an answer labelled {age_seconds} s old was at least {} old", at(true_us)))
}
