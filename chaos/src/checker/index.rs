//! The events of a history put in order once: operations with their ends, writes by key, rows, faults with
//! the outage the canary saw. Judges nothing but whether the history itself makes sense.

use std::collections::HashMap;

use crate::checker::at;
use crate::checker::fault::{self, Fault};
use crate::history::{
    Action, Canary, Completion, Event, FaultEnd, FaultStart, FinalRow, Invoke, Journal, Load, Machine, Probe,
    ProcessExit, ProcessStart, Run, Usage,
};
use crate::verdict::Outage;

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
}

impl Op<'_> {
    /// A write that was acknowledged, or a read that was answered.
    pub(crate) fn acknowledged(&self) -> bool {
        matches!(self.end, Some((End::Ok, _)))
    }

    /// One readable line.
    pub(crate) fn line(&self) -> String {
        let Invoke { op, action, todo, value, key, to, at_us, .. } = self.invoke;
        let mut text = format!("operation {op}: {} to {to} begun at {}", verb(*action), at(*at_us));
        for (name, part) in [("todo", todo), ("title", value), ("key", key)] {
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
    }
}

fn end_words(end: End, done: &Completion) -> String {
    let status = done.status.map_or_else(|| format!("{:?}", done.got), |status| status.to_string());
    let mut text = format!("{end:?} at {} with {status}", at(done.at_us));
    for part in [&done.outcome, &done.freshness, &done.error].into_iter().flatten() {
        text.push_str(&format!(", {part}"));
    }
    for todo in done.todos.iter().take(1) {
        text.push_str(&format!(", todo {} title {} version {}", todo.id, todo.title, todo.version));
    }
    text
}

/// One write, however often it was sent.
#[derive(Debug, Clone)]
pub(crate) struct Write<'a> {
    pub(crate) action: Action,
    pub(crate) value: &'a str,
    pub(crate) key: Option<&'a str>,
    /// The todo it updates, or the id that its acknowledgement gave to what it created.
    pub(crate) todo: Option<&'a str>,
    pub(crate) sends: Vec<usize>,
    /// End of the first acknowledgement of any kind.
    pub(crate) acknowledged_us: Option<u64>,
    /// End of the first acknowledgement that says `committed`.
    pub(crate) committed_us: Option<u64>,
    /// Whether any acknowledgement came from a journal.
    pub(crate) journaled: bool,
    /// The last word of a server about it, asked after the run.
    pub(crate) status: Option<&'a str>,
}

impl Write<'_> {
    /// When it was first begun.
    pub(crate) fn begun_us(&self, ops: &[Op<'_>]) -> u64 {
        self.sends.iter().filter_map(|&at| ops.get(at)).map(|op| op.invoke.at_us).min().unwrap_or(0)
    }

    /// Whether every sending ended with the promise that it had no effect.
    pub(crate) fn rejected(&self, ops: &[Op<'_>]) -> bool {
        self.sends.iter().all(|&at| matches!(ops.get(at), Some(Op { end: Some((End::Fail, _)), .. })))
    }

    pub(crate) fn lines(&self, ops: &[Op<'_>]) -> Vec<String> {
        let mut lines: Vec<String> = self.sends.iter().filter_map(|&at| ops.get(at)).map(Op::line).collect();
        if let (Some(key), Some(status)) = (self.key, self.status) {
            lines.push(format!("asked after the run, a server called {key} {status}"));
        }
        lines
    }
}

/// All of a history, in order.
#[derive(Debug)]
pub(crate) struct Index<'a> {
    pub(crate) run: &'a Run,
    pub(crate) load: &'a Load,
    pub(crate) ops: Vec<Op<'a>>,
    pub(crate) writes: Vec<Write<'a>>,
    /// The write with this unique title.
    pub(crate) by_value: HashMap<&'a str, usize>,
    /// The creating write of the todo with this id.
    pub(crate) creator: HashMap<&'a str, usize>,
    /// The one update of the todo with this id.
    pub(crate) update: HashMap<&'a str, usize>,
    pub(crate) rows: Vec<&'a FinalRow>,
    pub(crate) rows_complete: bool,
    pub(crate) faults: Vec<Fault<'a>>,
    pub(crate) probes: Vec<&'a Probe>,
    pub(crate) starts: Vec<&'a ProcessStart>,
    pub(crate) exits: Vec<&'a ProcessExit>,
    /// What others used of the machine.
    pub(crate) machine: Vec<&'a Machine>,
    /// What servers held, in the order in which they were looked at.
    pub(crate) usage: Vec<&'a Usage>,
    /// Whether a server's last word about its journal was that it is not empty.
    pub(crate) journal_open: bool,
}

#[derive(Default)]
struct Raw<'a> {
    run: Option<&'a Run>,
    load: Option<&'a Load>,
    invokes: Vec<&'a Invoke>,
    ends: HashMap<u64, (End, &'a Completion)>,
    ends_seen: u64,
    canaries: Vec<&'a Canary>,
    fault_starts: Vec<&'a FaultStart>,
    fault_ends: HashMap<u32, &'a FaultEnd>,
    statuses: HashMap<&'a str, &'a str>,
    rows: Vec<&'a FinalRow>,
    rows_announced: Option<u64>,
    probes: Vec<&'a Probe>,
    starts: Vec<&'a ProcessStart>,
    exits: Vec<&'a ProcessExit>,
    journals: HashMap<&'a str, &'a Journal>,
    machine: Vec<&'a Machine>,
    usage: Vec<&'a Usage>,
    broken: Option<&'a str>,
}

impl<'a> Index<'a> {
    /// Puts the events in order, or says why the history makes no sense.
    pub(crate) fn build(events: &'a [Event]) -> Result<Self, String> {
        let mut raw = Raw::default();
        events.iter().for_each(|event| raw.add(event));
        if let Some(text) = raw.broken {
            return Err(text.to_owned());
        }
        let run = raw.run.ok_or("the history has no header")?;
        let load = raw.load.ok_or("the load never began, so there is nothing to judge")?;
        let ops = pair(&mut raw)?;
        let faults = fault::all(&mut raw.canaries, &mut raw.fault_starts, &raw.fault_ends);
        let writes = group(&ops, &raw.statuses)?;
        let mut index = Self {
            run,
            load,
            by_value: HashMap::with_capacity(writes.len()),
            creator: HashMap::with_capacity(writes.len()),
            update: HashMap::new(),
            rows_complete: raw.rows_announced == Some(raw.rows.len() as u64),
            ops,
            writes,
            rows: raw.rows,
            faults,
            probes: raw.probes,
            starts: raw.starts,
            exits: raw.exits,
            machine: raw.machine,
            usage: raw.usage,
            journal_open: raw.journals.values().any(|journal| journal.entries > 0),
        };
        index.relate()?;
        Ok(index)
    }

    /// Whether the database was away at this time, as the canary saw it.
    pub(crate) fn outages(&self) -> Vec<Outage> {
        self.faults
            .iter()
            .filter(|fault| fault.canary_failed)
            .map(|fault| Outage {
                fault: fault.start.fault.clone(),
                from_us: fault.start.at_us,
                until_us: fault.up_us,
            })
            .collect()
    }

    fn relate(&mut self) -> Result<(), String> {
        for (place, write) in self.writes.iter().enumerate() {
            if self.by_value.insert(write.value, place).is_some() {
                return Err(format!(
                    "the title {} was written under two keys; values must be unique",
                    write.value
                ));
            }
            let Some(todo) = write.todo else { continue };
            let map = if write.action == Action::Create { &mut self.creator } else { &mut self.update };
            // Two creations acknowledged with one id are for the checks on writes; the first is kept here.
            if map.contains_key(todo) && write.action == Action::Update {
                return Err(format!("the todo {todo} was updated by two writes; each gets at most one"));
            }
            map.entry(todo).or_insert(place);
        }
        Ok(())
    }
}

impl<'a> Raw<'a> {
    fn add(&mut self, event: &'a Event) {
        match event {
            Event::Run(run) => self.run = Some(run),
            Event::Load(load) => self.load = Some(load),
            Event::Invoke(invoke) => self.invokes.push(invoke),
            Event::Ok(done) => self.end(End::Ok, done),
            Event::Fail(done) => self.end(End::Fail, done),
            Event::Info(done) => self.end(End::Info, done),
            Event::Probe(probe) => self.probes.push(probe),
            Event::Canary(canary) => self.canaries.push(canary),
            Event::FaultStart(start) => self.fault_starts.push(start),
            Event::FaultEnd(end) => {
                self.fault_ends.insert(end.id, end);
            }
            Event::ProcessStart(start) => self.starts.push(start),
            Event::ProcessExit(exit) => self.exits.push(exit),
            Event::Journal(journal) => {
                let last = self.journals.entry(&journal.process).or_insert(journal);
                if journal.at_us >= last.at_us {
                    *last = journal;
                }
            }
            Event::WriteStatus(status) => self.status(&status.key, &status.status),
            Event::FinalRow(row) => self.rows.push(row),
            Event::FinalRows(rows) => self.rows_announced = Some(rows.rows),
            Event::HarnessError(note) => self.broken = Some(&note.text),
            Event::Machine(part) => self.machine.push(part),
            Event::Usage(usage) => self.usage.push(usage),
            Event::Note(_) => {}
        }
    }

    fn end(&mut self, end: End, done: &'a Completion) {
        self.ends_seen += 1;
        self.ends.insert(done.op, (end, done));
    }

    /// A server that knows the end of a write outranks one that does not.
    fn status(&mut self, key: &'a str, status: &'a str) {
        let rank = |status: &str| match status {
            "applied" => 4,
            "superseded" | "rejected" => 3,
            "pending" => 2,
            "unknown" => 1,
            _ => 0,
        };
        let slot = self.statuses.entry(key).or_insert(status);
        // A later word about a pending write replaces it; a final one stays.
        if rank(status) >= rank(slot) {
            *slot = status;
        }
    }
}

fn pair<'a>(raw: &mut Raw<'a>) -> Result<Vec<Op<'a>>, String> {
    if raw.ends_seen != raw.ends.len() as u64 {
        return Err("an operation of this history ended twice".into());
    }
    let mut paired = 0;
    let mut ops: Vec<Op<'a>> = Vec::with_capacity(raw.invokes.len());
    for invoke in &raw.invokes {
        let end = raw.ends.get(&invoke.op).copied();
        paired += usize::from(end.is_some());
        ops.push(Op { invoke, end });
    }
    if paired != raw.ends.len() {
        return Err("an operation of this history ended that was never begun, or began twice".into());
    }
    ops.sort_by_key(|op| op.invoke.op);
    if ops.windows(2).any(|pair| matches!(pair, [a, b] if a.invoke.op == b.invoke.op)) {
        return Err("two operations of this history have the same number".into());
    }
    Ok(ops)
}

fn group<'a>(ops: &[Op<'a>], statuses: &HashMap<&'a str, &'a str>) -> Result<Vec<Write<'a>>, String> {
    let mut writes: Vec<Write<'a>> = Vec::new();
    let mut by_key: HashMap<&'a str, usize> = HashMap::new();
    for (place, op) in ops.iter().enumerate().filter(|(_, op)| op.invoke.action.is_write()) {
        let invoke = op.invoke;
        let key = invoke.key.as_deref();
        let value = invoke.value.as_deref().ok_or_else(|| format!("write {} has no value", invoke.op))?;
        let at = *key.and_then(|key| by_key.get(key)).unwrap_or(&writes.len());
        if at == writes.len() {
            writes.push(Write {
                action: invoke.action,
                value,
                key,
                todo: invoke.todo.as_deref(),
                sends: Vec::new(),
                acknowledged_us: None,
                committed_us: None,
                journaled: false,
                status: key.and_then(|key| statuses.get(key)).copied(),
            });
            by_key.extend(key.map(|key| (key, at)));
        }
        if let Some(write) = writes.get_mut(at) {
            write.sends.push(place);
            write.note_end(op);
        }
    }
    Ok(writes)
}

impl<'a> Write<'a> {
    fn note_end(&mut self, op: &Op<'a>) {
        let Some((End::Ok, done)) = op.end else { return };
        let earliest =
            |slot: &mut Option<u64>| *slot = Some(slot.map_or(done.at_us, |us| us.min(done.at_us)));
        earliest(&mut self.acknowledged_us);
        if is_journaled(done) {
            self.journaled = true;
        } else {
            earliest(&mut self.committed_us);
        }
        if self.action == Action::Create && self.todo.is_none() {
            self.todo = done.todos.first().map(|todo| todo.id.as_str());
        }
    }
}

/// Whether an acknowledgement came from a journal; a service without the header says it by 202.
pub(crate) fn is_journaled(done: &Completion) -> bool {
    done.outcome.as_deref().map_or(done.status == Some(202), |claim| claim == "journaled")
}
