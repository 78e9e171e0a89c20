//! E2 and S4: values are right. Looks at answers; how old they are is for `staleness`, what is in the database at the
//! end for `writes`.

use std::collections::HashSet;

use crate::checker::Finding;
use crate::checker::band::Banded;
use crate::checker::index::{Index, Op, Shown, Write, is_journaled};
use crate::history::{Action, Completion, Todo};
use crate::verdict::{Check, Class};

/// Why an answer cannot be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It shows a value that it may not show.
    Value(String),
    /// It is not what was asked for.
    Answer(String),
}

impl Wrong {
    fn text(&self) -> &str {
        match self {
            Self::Value(text) | Self::Answer(text) => text,
        }
    }
}

/// Why this answer cannot be right, if it cannot.
pub(crate) fn wrong(index: &Index<'_>, place: usize, op: &Op<'_>) -> Option<Wrong> {
    let (_, done) = op.end?;
    let invoke = op.invoke;
    if invoke.object.is_some() {
        return if op.acknowledged() && invoke.action == Action::Read {
            values(index, place, op, done)
        } else {
            None
        };
    }
    if invoke.action == Action::Read && done.status == Some(404) && done.proxy_status.is_none() {
        return Some(Wrong::Answer("a todo that exists was called unknown".into()));
    }
    if !op.acknowledged() {
        return None;
    }
    if invoke.action == Action::List {
        if let Some(error) = &done.error {
            return Some(Wrong::Answer(error.clone()));
        }
        let mut ids = HashSet::new();
        if let Some(twice) = done.todos.iter().find(|todo| !ids.insert(todo.id.as_str())) {
            return Some(Wrong::Answer(format!("the list holds todo {} twice", twice.id)));
        }
        return done.todos.iter().find_map(|todo| wrong_todo(index, op, todo, done));
    }
    let Some(todo) = done.todos.first() else {
        if invoke.action == Action::Update && done.error.is_none() && is_journaled(done) {
            // Accepted by a replica that has never seen the todo; it may say so without making the rest up.
            return None;
        }
        let text = done.error.clone().unwrap_or_else(|| "the answer holds no todo".into());
        return Some(Wrong::Answer(text));
    };
    if invoke.action != Action::Create && invoke.todo.as_deref() != Some(todo.id.as_str()) {
        return Some(Wrong::Answer(format!("the answer is about another todo, {}", todo.id)));
    }
    if invoke.value.as_ref().is_some_and(|value| todo.title != *value) {
        return Some(Wrong::Answer(format!("the answer to the write shows the title {}", todo.title)));
    }
    // A creation acknowledged with a second id is a double, not a wrong value; W2 finds it.
    if invoke.action == Action::Create { None } else { wrong_todo(index, op, todo, done) }
}

/// Why nobody may see this todo at the end of this operation.
fn wrong_todo(index: &Index<'_>, op: &Op<'_>, todo: &Todo, done: &Completion) -> Option<Wrong> {
    let Todo { id, title, .. } = todo;
    let text = match index.title(title) {
        None => format!("todo {id} shows the title {title}, which nobody wrote"),
        Some(write) if write.todo.is_some_and(|of| of != id) => {
            format!("todo {id} shows the title {title} of another todo")
        }
        Some(write) if todo.done != (write.action == Action::Update) => {
            format!("todo {id} shows the title of one write with the mark of another")
        }
        Some(write) => {
            format!("todo {id} shows the title {title} {}", not_to_be_seen(index, op, write, done)?)
        }
    };
    Some(Wrong::Value(text))
}

/// Why nobody may see what this write wrote at the end of this operation.
fn not_to_be_seen(index: &Index<'_>, op: &Op<'_>, write: &Write<'_>, done: &Completion) -> Option<String> {
    if write.begun_us > done.at_us {
        return Some("before it was written".into());
    }
    if write.refused {
        return Some("of a write that was refused".into());
    }
    let asked = op.invoke.user.as_deref()?;
    let told = done.user.as_deref();
    let other = write.user(&index.ops).into_iter().chain(told).find(|user| *user != asked)?;
    Some(format!("of user {other} to user {asked}"))
}

/// Why nobody may see these values of a register or list.
fn values(index: &Index<'_>, place: usize, op: &Op<'_>, done: &Completion) -> Option<Wrong> {
    let object = op.invoke.object.as_deref()?;
    let Some(values) = &done.values else {
        let text = done.error.clone().unwrap_or_else(|| "the answer holds no value".into());
        return Some(Wrong::Answer(text));
    };
    if let [value] = values.as_slice() {
        // Found already when the reads were put in order.
        let write = match index.objects.read(place) {
            Some((_, Shown::Write(write))) => index.writes.get(write)?,
            _ => return Some(Wrong::Value(format!("{object} shows {value}, which nobody wrote to it"))),
        };
        let why = not_to_be_seen(index, op, write, done)?;
        return Some(Wrong::Value(format!("{object} shows {value} {why}")));
    }
    let mut before: Option<(u32, &str)> = None;
    let mut seen = HashSet::new();
    for value in values {
        let Some(place) = index.writer(Some(object), value) else {
            return Some(Wrong::Value(format!("{object} shows {value}, which nobody wrote to it")));
        };
        let write = index.writes.get(place)?;
        if let Some(why) = not_to_be_seen(index, op, write, done) {
            return Some(Wrong::Value(format!("{object} shows {value} {why}")));
        }
        if write.action != Action::Append || !seen.insert(place) {
            return Some(Wrong::Value(format!("{object} shows {value} among other values or twice")));
        }
        let step = index.objects.step(place);
        if let (Some((last, known)), Some(next)) = (before, step)
            && next != last + 1
        {
            let text = format!("{object} shows {value} right after {known}, which is not their order");
            return Some(Wrong::Value(text));
        }
        before = step.map(|step| (step, value.as_str()));
    }
    None
}

/// E2 and S4: no wrong answers, and no values in them that may not be there.
pub(crate) fn check(index: &Index<'_>, bands: &[Banded]) -> Vec<Check> {
    let mut any = Finding::new("E2", "no answer holds a wrong value", Class::Safety);
    let mut value =
        Finding::new("S4", "every value shown was written, whole, and for who sees it", Class::Safety);
    for (op, banded) in index.ops.iter().zip(bands) {
        let answered = u64::from(op.acknowledged());
        any.examined(answered);
        value.examined(if op.write { 0 } else { answered });
        let Some(wrong) = &banded.wrong else { continue };
        let lines = || {
            let writer = op.invoke.todo.as_deref().and_then(|todo| index.creator.get(todo));
            let shown = op.end.and_then(|(_, done)| done.values.as_ref()?.last());
            let shown = shown.and_then(|value| index.writer(op.invoke.object.as_deref(), value));
            let writes = writer.copied().into_iter().chain(shown).filter_map(|place| index.writes.get(place));
            [op.line()]
                .into_iter()
                .chain(writes.flat_map(|write| write.lines(&index.ops)))
                .collect::<Vec<_>>()
        };
        any.violated(wrong.text().to_owned(), lines);
        if let Wrong::Value(text) = wrong {
            value.violated(text.clone(), lines);
        }
    }
    let counted = |finding: &Finding, what: &str| {
        format!("{} of {} {what}", finding.check.violations, finding.check.examined)
    };
    if value.check.examined == 0 {
        value.not_measured("no read was answered");
    }
    let (text, values) = (counted(&any, "answers wrong"), counted(&value, "reads with a wrong value"));
    vec![any.done(text), value.done(values)]
}
