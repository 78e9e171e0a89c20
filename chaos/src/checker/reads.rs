//! S2 and E2: labels are honest, and values are right. Looks at answers; what is in the database at the end
//! is for `writes`.

use std::collections::HashSet;

use crate::checker::band::{Band, Banded, Freshness};
use crate::checker::fault::Fault;
use crate::checker::index::{Index, Op, Write};
use crate::checker::{Finding, at};
use crate::history::{Action, Completion, Limits, Todo};
use crate::verdict::{Check, Class, Numbers};

/// Why the value of this answer cannot be right, if it cannot.
pub(crate) fn wrong(index: &Index<'_>, op: &Op<'_>) -> Option<String> {
    let (_, done) = op.end?;
    let invoke = op.invoke;
    if invoke.action == Action::Read && done.status == Some(404) && done.proxy_status.is_none() {
        return Some("a todo that exists was called unknown".into());
    }
    if !op.acknowledged() {
        return None;
    }
    if invoke.action == Action::List {
        if done.error.is_some() {
            return done.error.clone();
        }
        let mut ids = HashSet::new();
        if let Some(twice) = done.todos.iter().find(|todo| !ids.insert(todo.id.as_str())) {
            return Some(format!("the list holds todo {} twice", twice.id));
        }
        return done.todos.iter().find_map(|todo| wrong_todo(index, todo, done));
    }
    let Some(todo) = done.todos.first() else {
        return Some(done.error.clone().unwrap_or_else(|| "the answer holds no todo".into()));
    };
    if invoke.action != Action::Create && invoke.todo.as_deref() != Some(todo.id.as_str()) {
        return Some(format!("the answer is about another todo, {}", todo.id));
    }
    if invoke.value.as_ref().is_some_and(|value| todo.title != *value) {
        return Some(format!("the answer to the write shows the title {}", todo.title));
    }
    // A creation acknowledged with a second id is a double, not a wrong value; W2 finds it.
    if invoke.action == Action::Create { None } else { wrong_todo(index, todo, done) }
}

/// Why nobody may see this todo at the end of this operation.
fn wrong_todo(index: &Index<'_>, todo: &Todo, done: &Completion) -> Option<String> {
    let Some(write) = index.by_value.get(todo.title.as_str()).and_then(|&place| index.writes.get(place))
    else {
        return Some(format!("todo {} shows the title {}, which nobody wrote", todo.id, todo.title));
    };
    if write.begun_us(&index.ops) > done.at_us {
        return Some(format!("todo {} shows the title {} before it was written", todo.id, todo.title));
    }
    if write.todo.is_some_and(|id| id != todo.id) {
        return Some(format!("todo {} shows the title {} of another todo", todo.id, todo.title));
    }
    if todo.done != (write.action == Action::Update) {
        return Some(format!("todo {} shows the title of one write with the mark of another", todo.id));
    }
    None
}

/// E2: no wrong answers.
pub(crate) fn check_wrong(index: &Index<'_>, bands: &[Banded]) -> Check {
    let mut finding = Finding::new("E2", "no answer holds a wrong value", Class::Safety);
    for (op, banded) in index.ops.iter().zip(bands) {
        finding.examined(u64::from(op.acknowledged()));
        if let Some(why) = &banded.wrong {
            finding.violated(why.clone(), || {
                let writer = op.invoke.todo.as_deref().and_then(|todo| index.creator.get(todo));
                let writer = writer.and_then(|&place| index.writes.get(place));
                [op.line()]
                    .into_iter()
                    .chain(writer.into_iter().flat_map(|write| write.lines(&index.ops)))
                    .collect()
            });
        }
    }
    let (found, examined) = (finding.check.violations, finding.check.examined);
    finding.done(format!("{found} of {examined} answers wrong"))
}

/// S2: the label on an answer never makes it younger than it is.
pub(crate) fn check_staleness(
    index: &Index<'_>,
    bands: &[Banded],
    limits: &Limits,
    numbers: &mut Numbers,
) -> Check {
    let mut finding = Finding::new("S2", "no answer claims to be fresher than it is", Class::Safety);
    let reads = index.ops.iter().zip(bands);
    for (op, _) in reads.filter(|(_, banded)| matches!(banded.band, Band::Fresh | Band::Stale)) {
        let Some((_, done)) = op.end else { continue };
        finding.examined(1);
        let claim = Freshness::of(done);
        if let Freshness::Stale { age_seconds } = claim {
            numbers.oldest_stale_seconds = numbers.oldest_stale_seconds.max(age_seconds);
        }
        let missing = missing_update(index, op, done);
        let broken = missing
            .and_then(|write| older_than_write(op, write, claim, limits))
            .or_else(|| without_database(index, op, done, claim, limits));
        if let Some(summary) = broken {
            finding.violated(summary, || {
                let write = missing.into_iter().flat_map(|write| write.lines(&index.ops));
                [op.line()].into_iter().chain(write).collect()
            });
        } else if claim == Freshness::Fresh && missing.is_some_and(|write| journaled_before(write, op)) {
            numbers.fresh_before_replay += 1;
        }
    }
    let (found, examined) = (finding.check.violations, finding.check.examined);
    let oldest = numbers.oldest_stale_seconds;
    finding.done(format!("{found} of {examined} labels dishonest; the oldest answer said {oldest} s"))
}

/// The update of the todo that this read did not show, if there is one.
fn missing_update<'i, 'a>(index: &'i Index<'a>, op: &Op<'a>, done: &Completion) -> Option<&'i Write<'a>> {
    let todo = op.invoke.todo.as_deref().filter(|_| op.invoke.action == Action::Read)?;
    let write = index.update.get(todo).and_then(|&place| index.writes.get(place))?;
    let shown = done.todos.first().is_some_and(|todo| todo.title == write.value);
    (!shown).then_some(write)
}

/// An answer from before a committed update must be labelled, and with its true age at the least. A
/// journaled update is no measure here: until it is replayed, the database truly holds the old value.
fn older_than_write(op: &Op<'_>, write: &Write<'_>, claim: Freshness, limits: &Limits) -> Option<String> {
    let behind_us = op.invoke.at_us.checked_sub(write.committed_us?)?;
    match claim {
        Freshness::Fresh => Some(format!(
            "an answer called fresh does not show an update acknowledged as committed {} earlier",
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
        fault.severed.is_some_and(|(from, until)| op.invoke.at_us >= from && done.at_us <= until)
    };
    let fault = index.faults.iter().find(inside)?;
    match claim {
        Freshness::Fresh => Some(format!(
            "an answer was called fresh while {} kept every session from the database",
            fault.start.fault
        )),
        Freshness::Stale { age_seconds } if !shows_journaled(index, op, done) => {
            understated(age_seconds, op.invoke.at_us - fault.start.at_us, limits)
        }
        Freshness::Stale { .. } => None,
    }
}

/// Whether the age is a matter of the journal: a list, or a value that was only journaled.
fn shows_journaled(index: &Index<'_>, op: &Op<'_>, done: &Completion) -> bool {
    op.invoke.action == Action::List
        || done.todos.iter().any(|todo| {
            let write = index.by_value.get(todo.title.as_str()).and_then(|&place| index.writes.get(place));
            write.is_none_or(|write| write.journaled)
        })
}

fn understated(age_seconds: u64, true_us: u64, limits: &Limits) -> Option<String> {
    let claimed_us = age_seconds.saturating_mul(1_000_000).saturating_add(limits.stale_slack_ms * 1_000);
    (claimed_us < true_us)
        .then(|| format!("an answer labelled {age_seconds} s old was at least {} old", at(true_us)))
}

fn journaled_before(write: &Write<'_>, op: &Op<'_>) -> bool {
    write.acknowledged_us.is_some_and(|us| us <= op.invoke.at_us)
}
