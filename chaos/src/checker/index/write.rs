//! Operations with their ends, and writes as what they are to the service: one, however often it was sent. Judges
//! nothing.

use crate::checker::at;
use crate::checker::index::Map;
use crate::history::{Action, Completion, Invoke};
use crate::verdict::Span;

/// In Jepsen's sense: took effect, certainly did not, unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Ok,
    Fail,
    Info,
}

/// One operation with its end, where it has one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Op<'a> {
    pub(crate) invoke: &'a Invoke,
    pub(crate) end: Option<(End, &'a Completion)>,
    // What every check asks of every operation stands here once more: the lines of the history are far apart in memory.
    pub(crate) number: u64,
    pub(crate) planned_us: u64,
    pub(crate) begun_us: u64,
    pub(crate) ended_us: Option<u64>,
    pub(crate) measured: bool,
    pub(crate) write: bool,
}

impl<'a> Op<'a> {
    /// Before its end is known.
    pub(crate) fn begun(invoke: &'a Invoke) -> Self {
        Self {
            invoke,
            end: None,
            number: invoke.op,
            planned_us: invoke.planned_us,
            begun_us: invoke.at_us,
            ended_us: None,
            measured: invoke.measured,
            write: invoke.action.is_write(),
        }
    }

    /// A write that was acknowledged, or a read that was answered.
    pub(crate) fn acknowledged(&self) -> bool {
        matches!(self.end, Some((End::Ok, _)))
    }

    /// Its times, for a picture.
    pub(crate) fn span(&self) -> Span {
        let label = format!("{} (operation {})", verb(self.invoke.action), self.invoke.op);
        let until = if self.ended_us.is_some() { "ended" } else { "never ended" };
        Span {
            label,
            from_us: self.begun_us,
            from: "begun".into(),
            until_us: self.ended_us,
            until: until.into(),
        }
    }

    /// One readable line.
    pub(crate) fn line(&self) -> String {
        let Invoke { op, action, todo, object, value, key, to, session, at_us, .. } = self.invoke;
        let mut text = format!("operation {op}: {}", verb(*action));
        if !to.is_empty() {
            text.push_str(&format!(" to {to}"));
        }
        text.push_str(&format!(" begun at {}", at(*at_us)));
        let name = if todo.is_some() { "title" } else { "value" };
        for (name, part) in
            [("todo", todo), ("object", object), (name, value), ("key", key), ("session", session)]
        {
            if let Some(part) = part {
                text.push_str(&format!(", {name} {part}"));
            }
        }
        match self.end {
            None => text.push_str("; it never ended"),
            Some((end, done)) => text.push_str(&format!("; {}", end_words(end, done))),
        }
        text
    }
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::Create => "create",
        Action::Update => "update",
        Action::Read => "read",
        Action::List => "list",
        Action::Set => "set",
        Action::Append => "append",
    }
}

/// Values of a list that a line shows; the last ones tell.
const VALUES_SHOWN: usize = 5;

fn end_words(end: End, done: &Completion) -> String {
    let status = done.status.map_or_else(|| format!("{:?}", done.got), |status| status.to_string());
    let mut text = format!("{end:?} at {} with {status}", at(done.at_us));
    for part in [&done.outcome, &done.freshness, &done.replica, &done.error].into_iter().flatten() {
        text.push_str(&format!(", {part}"));
    }
    for todo in done.todos.iter().take(1) {
        text.push_str(&format!(", todo {} title {} version {}", todo.id, todo.title, todo.version));
    }
    if let Some(values) = &done.values {
        let skipped = values.len().saturating_sub(VALUES_SHOWN);
        let shown = values.get(skipped..).unwrap_or_default().join(", ");
        text.push_str(&format!(", showing [{}{shown}]", if skipped > 0 { "…, " } else { "" }));
    }
    if let Some(version) = done.version {
        text.push_str(&format!(", place {version}"));
    }
    text
}

/// One write, however often it was sent.
#[derive(Debug, Clone)]
pub(crate) struct Write<'a> {
    pub(crate) action: Action,
    pub(crate) value: &'a str,
    pub(crate) key: Option<&'a str>,
    /// The register or list it changes; of todos `todo` tells.
    pub(crate) object: Option<&'a str>,
    /// The todo it updates, or the id that its acknowledgement gave to what it created.
    pub(crate) todo: Option<&'a str>,
    /// The place of its first sending among the operations, and those of the repeated ones.
    pub(crate) first: usize,
    repeats: Vec<usize>,
    /// Whether every sending so far ended with the promise that it had no effect.
    pub(crate) refused: bool,
    /// When it was first begun.
    pub(crate) begun_us: u64,
    /// End of the first acknowledgement of any kind, and the place of its operation.
    pub(crate) acknowledged: Option<(u64, usize)>,
    /// End of the first acknowledgement that says `committed`, and the place of its operation.
    pub(crate) committed: Option<(u64, usize)>,
    /// Whether any acknowledgement came from a journal.
    pub(crate) journaled: bool,
    /// The place in the order of its object, as an acknowledgement stated it.
    pub(crate) stated: Option<i64>,
    /// The last word of a server about it, asked after the run.
    pub(crate) status: Option<&'a str>,
}

impl<'a> Write<'a> {
    pub(crate) fn acknowledged_us(&self) -> Option<u64> {
        self.acknowledged.map(|(us, _)| us)
    }

    /// Its sendings, in the order of their numbers.
    pub(crate) fn sends<'o, 'b>(&'o self, ops: &'o [Op<'b>]) -> impl Iterator<Item = &'o Op<'b>> {
        [self.first].into_iter().chain(self.repeats.iter().copied()).filter_map(|place| ops.get(place))
    }

    /// Whose data it writes.
    pub(crate) fn user<'b>(&self, ops: &[Op<'b>]) -> Option<&'b str> {
        ops.get(self.first)?.invoke.user.as_deref()
    }

    /// Whether nobody told how it ended.
    pub(crate) fn unknown(&self, ops: &[Op<'_>]) -> bool {
        let open = |op: &Op<'_>| op.end.is_none_or(|(end, _)| end == End::Info);
        self.acknowledged.is_none() && self.sends(ops).any(open)
    }

    /// The times of its sendings, for a picture.
    pub(crate) fn spans(&self, ops: &[Op<'_>]) -> Vec<Span> {
        self.sends(ops).map(Op::span).collect()
    }

    pub(crate) fn lines(&self, ops: &[Op<'_>]) -> Vec<String> {
        let mut lines: Vec<String> = self.sends(ops).map(Op::line).collect();
        if let (Some(key), Some(status)) = (self.key, self.status) {
            lines.push(format!("asked after the run, a server called {key} {status}"));
        }
        lines
    }

    fn new(first: usize, invoke: &'a Invoke, statuses: &Map<&'a str, &'a str>) -> Result<Self, String> {
        let key = invoke.key.as_deref();
        let value = invoke.value.as_deref().ok_or_else(|| format!("write {} has no value", invoke.op))?;
        let object = invoke.object.as_deref();
        if object.is_none() && matches!(invoke.action, Action::Set | Action::Append) {
            return Err(format!("write {} names no object", invoke.op));
        }
        Ok(Self {
            action: invoke.action,
            value,
            key,
            object,
            todo: invoke.todo.as_deref(),
            first,
            repeats: Vec::new(),
            refused: true,
            begun_us: invoke.at_us,
            acknowledged: None,
            committed: None,
            journaled: false,
            stated: None,
            status: key.and_then(|key| statuses.get(key)).copied(),
        })
    }

    fn note_send(&mut self, place: usize, op: &Op<'a>) {
        if place != self.first {
            self.repeats.push(place);
        }
        self.refused &= matches!(op.end, Some((End::Fail, _)));
        self.begun_us = self.begun_us.min(op.invoke.at_us);
        let Some((End::Ok, done)) = op.end else { return };
        let new = (done.at_us, place);
        let earliest =
            |slot: &mut Option<_>| *slot = Some(slot.map_or(new, |old: (u64, usize)| old.min(new)));
        earliest(&mut self.acknowledged);
        if is_journaled(done) {
            self.journaled = true;
        } else {
            earliest(&mut self.committed);
            self.stated = self.stated.or(done.version);
        }
        if self.action == Action::Create && self.todo.is_none() {
            self.todo = done.todos.first().map(|todo| todo.id.as_str());
        }
    }
}

/// Gathers the writes by their idempotency keys; one without a key stands for itself.
pub(crate) fn group<'a>(ops: &[Op<'a>], statuses: &Map<&'a str, &'a str>) -> Result<Vec<Write<'a>>, String> {
    let count = ops.iter().filter(|op| op.write).count();
    let mut writes: Vec<Write<'a>> = Vec::with_capacity(count);
    let mut by_key: Map<&'a str, usize> = Map::with_capacity(count);
    for (place, op) in ops.iter().enumerate().filter(|(_, op)| op.write) {
        let next = writes.len();
        let at = op.invoke.key.as_deref().map_or(next, |key| *by_key.entry(key).or_insert(next));
        if at == next {
            writes.push(Write::new(place, op.invoke, statuses)?);
        }
        if let Some(write) = writes.get_mut(at) {
            write.note_send(place, op);
        }
    }
    Ok(writes)
}

/// Whether an acknowledgement came from a journal; a service without the header says it by 202.
pub(crate) fn is_journaled(done: &Completion) -> bool {
    done.outcome.as_deref().map_or(done.status == Some(202), |claim| claim == "journaled")
}
