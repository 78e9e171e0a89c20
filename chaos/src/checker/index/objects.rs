//! What belongs to one object: its writes, the reads of it with the write that each shows, and the order in which the
//! writes took effect, as far as it is known. A todo is an object too: created first, updated second. Judges nothing.

use crate::checker::failover;
use crate::checker::index::{Index, Map, Op, Write};
use crate::checker::two;
use crate::history::Action;

/// What the answer to a read showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// The object as it is before any write.
    Initial,
    /// The value of the write at this place.
    Write(usize),
    /// A value that nobody wrote to this object.
    Nothing,
}

/// One answered read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Read {
    /// Place of the operation.
    pub(crate) op: usize,
    pub(crate) shown: Shown,
}

/// A write whose place in the order is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) n: i64,
    pub(crate) write: usize,
    /// The earliest acknowledgement among this write and all that come after it, and whose it is.
    pub(crate) acknowledged: Option<(u64, usize)>,
    /// The same of those that say `committed`.
    pub(crate) committed: Option<(u64, usize)>,
}

/// What an answer did not show although it had been acknowledged: the earliest write that comes after what it showed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Overtaken {
    pub(crate) acknowledged: Option<(u64, usize)>,
    pub(crate) committed: Option<(u64, usize)>,
}

/// Items of all objects in one piece of memory, those of one object side by side.
#[derive(Debug)]
pub(crate) struct Groups<T> {
    items: Vec<T>,
    starts: Vec<usize>,
}

impl<T> Default for Groups<T> {
    fn default() -> Self {
        Self { items: Vec::new(), starts: Vec::new() }
    }
}

impl<T: Copy> Groups<T> {
    /// Puts the items in the order of their groups and keeps it within one.
    pub(crate) fn of(groups: usize, items: &[(u32, T)]) -> Self {
        let mut starts = vec![0; groups + 1];
        for (group, _) in items {
            if let Some(count) = starts.get_mut(*group as usize + 1) {
                *count += 1;
            }
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        let mut next = starts.clone();
        // Filled with anything: every place is written once below.
        let mut sorted: Vec<T> = items.iter().map(|(_, item)| *item).collect();
        for (group, item) in items {
            let Some(at) = next.get_mut(*group as usize) else { continue };
            if let Some(slot) = sorted.get_mut(*at) {
                *slot = *item;
            }
            *at += 1;
        }
        Self { items: sorted, starts }
    }

    /// What comes in this group after the item with this number over all groups.
    fn after(&self, group: usize, item: usize) -> &[T] {
        let end = self.starts.get(group + 1).copied().unwrap_or(0);
        self.items.get(item + 1..end).unwrap_or_default()
    }

    pub(crate) fn get(&self, group: usize) -> &[T] {
        let bounds = self.starts.get(group).zip(self.starts.get(group + 1));
        bounds.and_then(|(from, until)| self.items.get(*from..*until)).unwrap_or_default()
    }
}

/// All objects of a history.
#[derive(Debug, Default)]
pub(crate) struct Objects<'a> {
    pub(crate) names: Vec<&'a str>,
    pub(crate) writes: Groups<usize>,
    pub(crate) reads: Groups<Read>,
    /// The writes with a known place, in their order.
    pub(crate) order: Groups<Step>,
    /// For each write, its place in the order of its object.
    pub(crate) n: Vec<Option<i64>>,
    /// Writes for which two sources state different places.
    pub(crate) torn: Vec<(usize, i64, i64)>,
    /// For each write with a known place, the number of its step over all objects.
    step_of: Vec<u32>,
    /// For each operation, the object that it reads and what it showed.
    of_op: Vec<Option<(u32, Shown)>>,
}

impl<'a> Objects<'a> {
    /// `changes` is the number of what each write changes, `about` that of what each operation is sent about.
    pub(crate) fn of(index: &Index<'a>, changes: &[Option<u32>], about: &[Option<u32>]) -> Self {
        let names = index.names.all().to_vec();
        let number = |(place, number): (usize, &Option<u32>)| number.map(|number| (number, place));
        let writes: Vec<(u32, usize)> = changes.iter().enumerate().filter_map(number).collect();
        let of_op = two::map(&index.ops, |place, op| {
            let number = about.get(place).copied().flatten()?;
            Some((number, shown(index, op, number)?))
        });
        let read = |(op, read): (usize, &Option<(u32, Shown)>)| {
            read.map(|(number, shown)| (number, Read { op, shown }))
        };
        let reads: Vec<(u32, Read)> = of_op.iter().enumerate().filter_map(read).collect();
        let count = names.len();
        let Places { n, torn, .. } = Places::of(index, &reads);
        let mut order: Vec<(u32, Step)> = writes
            .iter()
            .filter_map(|&(object, write)| {
                let n = n.get(write).copied().flatten()?;
                Some((object, Step { n, write, acknowledged: None, committed: None }))
            })
            .collect();
        order.sort_unstable_by_key(|(object, step)| (*object, step.n, step.write));
        look_ahead(index, &mut order);
        let mut step_of = vec![u32::MAX; index.writes.len()];
        for ((_, step), number) in order.iter().zip(0..) {
            if let Some(slot) = step_of.get_mut(step.write) {
                *slot = number;
            }
        }
        Self {
            step_of,
            writes: Groups::of(count, &writes),
            reads: Groups::of(count, &reads),
            order: Groups::of(count, &order),
            names,
            n,
            torn,
            of_op,
        }
    }

    /// The number of this write's step, counted over all objects: one more than that of the step before it.
    pub(crate) fn step(&self, write: usize) -> Option<u32> {
        self.step_of.get(write).copied().filter(|step| *step != u32::MAX)
    }

    /// What the operation at this place read, and what it showed.
    pub(crate) fn read(&self, place: usize) -> Option<(usize, Shown)> {
        self.of_op.get(place).copied().flatten().map(|(object, shown)| (object as usize, shown))
    }

    /// Which writes to the object come after what was shown, as far as their places are known.
    pub(crate) fn overtaken(&self, object: usize, shown: Shown) -> Option<Overtaken> {
        let mut later = match shown {
            Shown::Initial => self.order.get(object),
            Shown::Write(write) => self.order.after(object, self.step(write)? as usize),
            Shown::Nothing => return None,
        };
        // Two writes with one place are an error that W4 finds; neither comes after the other.
        if let Some(n) = self.n_of(shown) {
            later = later.get(later.iter().take_while(|step| step.n <= n).count()..).unwrap_or_default();
        }
        let next = later.first();
        Some(next.map_or_else(Overtaken::default, |step| Overtaken {
            acknowledged: step.acknowledged,
            committed: step.committed,
        }))
    }

    /// The place in the order of what was shown, where it is known.
    pub(crate) fn n_of(&self, shown: Shown) -> Option<i64> {
        match shown {
            Shown::Initial => Some(i64::MIN),
            Shown::Write(place) => self.n.get(place).copied().flatten(),
            Shown::Nothing => None,
        }
    }
}

/// Fills in, from the last step of each object to its first, what comes from there on. A superseded write never comes, and
/// of one that a failover may have taken back nobody can say until when it stood.
fn look_ahead(index: &Index<'_>, order: &mut [(u32, Step)]) {
    let mut later: Option<(u32, Step)> = None;
    for (object, step) in order.iter_mut().rev() {
        let same = later.filter(|(of, _)| of == object).map(|(_, step)| step);
        let comes = |write: &&Write<'_>| {
            !matches!(write.status, Some("superseded" | "rejected")) && !failover::in_window(index, write)
        };
        let write = index.writes.get(step.write).filter(comes);
        let earliest = |own: Option<u64>, later: Option<(u64, usize)>| {
            own.map(|us| (us, step.write)).into_iter().chain(later).min()
        };
        step.acknowledged =
            earliest(write.and_then(Write::acknowledged_us), same.and_then(|step| step.acknowledged));
        let committed = write.and_then(|write| Some(write.committed?.0));
        step.committed = earliest(committed, same.and_then(|step| step.committed));
        later = Some((*object, *step));
    }
}

/// What an answered read of the object with this number showed. A list is told by its last value: whether the ones before it are the
/// right ones is for `values`.
fn shown(index: &Index<'_>, op: &Op<'_>, number: u32) -> Option<Shown> {
    if op.write || !op.acknowledged() || op.invoke.action != Action::Read {
        return None;
    }
    let (_, done) = op.end?;
    let written = |object: Option<u32>, value: &str| match index.writer_to(object, value) {
        Some(place) => Shown::Write(place),
        None => Shown::Nothing,
    };
    if op.invoke.object.is_none() {
        return Some(written(None, &done.todos.first()?.title));
    }
    let last = done.values.as_ref()?.last();
    Some(last.map_or(Shown::Initial, |value| written(Some(number), value)))
}

/// The place of each write in the order of its object, and what contradicts it.
struct Places<'i, 'a> {
    index: &'i Index<'a>,
    n: Vec<Option<i64>>,
    torn: Vec<(usize, i64, i64)>,
}

impl<'i, 'a> Places<'i, 'a> {
    /// From the ledger; else as the acknowledgement or an answer that shows it states it; else from the longest list
    /// that anybody saw.
    fn of(index: &'i Index<'a>, reads: &[(u32, Read)]) -> Self {
        let mut places = Self { index, n: vec![None; index.writes.len()], torn: Vec::new() };
        places.read_ledger();
        for (place, write) in index.writes.iter().enumerate() {
            let of_todo = if write.action == Action::Create { 1 } else { 2 };
            let known = if write.object.is_none() { Some(of_todo) } else { write.stated };
            if let Some(known) = known {
                places.state(place, known);
            }
        }
        places.read_answers(reads);
        places
    }

    fn state(&mut self, place: usize, new: i64) {
        let Some(slot) = self.n.get_mut(place) else { return };
        if let Some(old) = slot.filter(|old| *old != new) {
            self.torn.push((place, old, new));
        }
        *slot = slot.or(Some(new));
    }

    fn read_ledger(&mut self) {
        for (row, writer) in &self.index.ledger {
            // The first effect counts; a second one is a double, which W2 finds.
            if let Some(slot) = writer.and_then(|place| self.n.get_mut(place)) {
                *slot = slot.or(row.n);
            }
        }
    }

    fn read_answers(&mut self, reads: &[(u32, Read)]) {
        let index = self.index;
        let mut longest: Map<u32, usize> = Map::new();
        for (object, read) in reads {
            let Some((_, done)) = index.ops.get(read.op).and_then(|op| op.end) else { continue };
            let (Some(values), Shown::Write(place)) = (&done.values, read.shown) else { continue };
            if let Some(stated) = done.version {
                self.state(place, stated);
            }
            if index.writes.get(place).is_some_and(|write| write.action == Action::Append) {
                let longer = |known: &usize| length(index, *known) >= values.len();
                if !longest.get(object).is_some_and(longer) {
                    longest.insert(*object, read.op);
                }
            }
        }
        for op in longest.into_values().filter_map(|place| index.ops.get(place)) {
            let values = op.end.and_then(|(_, done)| done.values.as_deref()).unwrap_or_default();
            let places = values.iter().map(|value| index.writer(op.invoke.object.as_deref(), value));
            let places: Vec<usize> = places.flatten().collect();
            // The whole list or nothing: a place counted in one list and one stated elsewhere need not begin alike.
            if places.iter().any(|&place| self.n.get(place).copied().flatten().is_some()) {
                continue;
            }
            for (number, &place) in (1..).zip(&places) {
                if let Some(slot) = self.n.get_mut(place) {
                    *slot = Some(number);
                }
            }
        }
    }
}

fn length(index: &Index<'_>, place: usize) -> usize {
    let values = index.ops.get(place).and_then(|op| op.end?.1.values.as_ref());
    values.map_or(0, Vec::len)
}
