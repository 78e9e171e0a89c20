//! The events of a history put in order once: operations with their ends, writes by key, what belongs to one object,
//! rows, faults with the outage the canary saw. Judges nothing but whether the history itself makes sense.

use crate::checker::fault::{self, Fault};
use crate::checker::index::names::Names;
use crate::checker::index::objects::Objects;
use crate::checker::index::raw::{Raw, Seen};
use crate::checker::two;
use crate::history::{Action, Event, FinalRow, LedgerRow, Load, Role, Run};
use crate::verdict::Outage;

mod names;
mod objects;
mod raw;
mod write;

pub(crate) use crate::checker::index::objects::{Groups, Shown, Step};
pub(crate) use crate::checker::index::write::{End, Op, Write, is_journaled};

/// A map for keys out of a file that nobody crafts to collide; the standard one costs a third of the whole judgement.
pub(crate) type Map<K, V> = hashbrown::HashMap<K, V>;

/// All of a history, in order.
#[derive(Debug)]
pub(crate) struct Index<'a> {
    pub(crate) run: &'a Run,
    pub(crate) load: &'a Load,
    pub(crate) ops: Vec<Op<'a>>,
    pub(crate) writes: Vec<Write<'a>>,
    pub(crate) objects: Objects<'a>,
    names: Names<'a>,
    /// The write with this value in this space: that of an object is one more than its number, and the titles of all
    /// todos are in space 0.
    by_value: Map<(u32, &'a str), usize>,
    /// The creating write of the todo with this id.
    pub(crate) creator: Map<&'a str, usize>,
    /// The one update of the todo with this id.
    pub(crate) update: Map<&'a str, usize>,
    pub(crate) rows: Vec<&'a FinalRow>,
    /// When the rows were read, where they were to the end.
    pub(crate) rows_us: Option<u64>,
    /// When the ledger was read, where it was to the end.
    pub(crate) ledger_us: Option<u64>,
    /// The rows of the ledger, each with the place of the write that made it.
    pub(crate) ledger: Vec<(&'a LedgerRow, Option<usize>)>,
    pub(crate) faults: Vec<Fault<'a>>,
    pub(crate) seen: Seen<'a>,
    /// Whether a server's last word about its journal was that it is not empty.
    pub(crate) journal_open: bool,
    /// The replicas, each once.
    pub(crate) servers: Vec<&'a str>,
}

impl<'a> Index<'a> {
    /// Puts the events in order, or says why the history makes no sense.
    pub(crate) fn build(events: &'a [Event]) -> Result<Self, String> {
        let mut raw = Raw::of(events);
        if let Some(text) = raw.broken {
            return Err(text.to_owned());
        }
        let run = raw.run.ok_or("the history has no header")?;
        let load = raw.load.ok_or("the load never began, so there is nothing to judge")?;
        let ops = raw.pair()?;
        let faults = fault::all(&mut raw.canaries, &mut raw.fault_starts, &raw.fault_ends);
        let grouped = || write::group(&ops, &raw.statuses);
        let (writes, (names, about)) = two::both(ops.len(), grouped, || Names::of(&ops));
        let writes = writes?;
        let whole = |end: Option<(u64, u64)>, rows: usize| {
            end.filter(|(_, announced)| *announced == rows as u64).map(|(us, _)| us)
        };
        let mut servers: Vec<&str> = raw
            .seen
            .starts
            .iter()
            .filter(|start| start.role == Role::Server)
            .map(|start| start.process.as_str())
            .collect();
        servers.sort_unstable();
        servers.dedup();
        let mut index = Self {
            run,
            load,
            names,
            by_value: Map::with_capacity(writes.len()),
            creator: Map::new(),
            update: Map::new(),
            rows_us: whole(raw.rows_end, raw.rows.len()),
            ledger_us: whole(raw.seen.ledger_end, raw.seen.ledger.len()),
            objects: Objects::default(),
            ops,
            writes,
            rows: raw.rows,
            ledger: Vec::new(),
            faults,
            seen: raw.seen,
            journal_open: raw.journals.values().any(|journal| journal.entries > 0),
            servers,
        };
        let changes = index.relate(&about)?;
        let writer = |_, row: &&'a LedgerRow| (*row, index.writer(Some(&row.object), &row.value));
        index.ledger = two::map(&index.seen.ledger, writer);
        index.objects = Objects::of(&index, &changes, &about);
        Ok(index)
    }

    /// The times in which the database was away, as the canary saw it.
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

    /// The place of the write of this value to this object; of a todo without.
    pub(crate) fn writer(&self, object: Option<&str>, value: &str) -> Option<usize> {
        let object = object.map_or(Some(None), |object| self.names.get(object).map(Some))?;
        self.writer_to(object, value)
    }

    /// The same, of an object by its number.
    fn writer_to(&self, object: Option<u32>, value: &str) -> Option<usize> {
        self.by_value.get(&(space(object), value)).copied()
    }

    /// The write of this title to any todo.
    pub(crate) fn title(&self, title: &str) -> Option<&Write<'a>> {
        self.writes.get(self.writer(None, title)?)
    }

    /// The replica that answered, as far as anybody can tell. A service of one is one replica.
    pub(crate) fn replica<'o>(&self, op: &Op<'o>) -> Option<&'o str>
    where
        'a: 'o,
    {
        if let Some(told) = op.end.and_then(|(_, done)| done.replica.as_deref()) {
            return Some(told);
        }
        match self.servers.as_slice() {
            [] => Some(""),
            [one] => Some(one),
            several => several.contains(&op.invoke.to.as_str()).then_some(op.invoke.to.as_str()),
        }
    }

    /// Whether a write acknowledged from a journal may be seen by users of one replica and not yet by those of another.
    pub(crate) fn several(&self) -> bool {
        self.servers.len() > 1
    }

    /// Finds out what belongs to each value and each todo; `about` is the number of each operation's object. Returns that
    /// of what each write changes, as far as it is known.
    fn relate(&mut self, about: &[Option<u32>]) -> Result<Vec<Option<u32>>, String> {
        let mut changes = Vec::with_capacity(self.writes.len());
        for (place, write) in self.writes.iter().enumerate() {
            let object = about.get(write.first).copied().flatten().filter(|_| write.object.is_some());
            changes.push(object.or_else(|| write.todo.map(|todo| self.names.number(todo))));
            if self.by_value.insert((space(object), write.value), place).is_some() {
                return Err(format!("{} was written under two keys; values must be unique", write.value));
            }
            let (None, Some(todo)) = (write.object, write.todo) else { continue };
            let map = if write.action == Action::Create { &mut self.creator } else { &mut self.update };
            // Two creations acknowledged with one id are for the checks on writes; the first is kept here.
            if map.contains_key(todo) && write.action == Action::Update {
                return Err(format!("the todo {todo} was updated by two writes; each gets at most one"));
            }
            map.entry(todo).or_insert(place);
        }
        Ok(changes)
    }
}

/// In which space an object with this number has its values, or, without one, a todo.
fn space(object: Option<u32>) -> u32 {
    object.map_or(0, |number| number + 1)
}
