//! W5: for each object, what was acknowledged and what fresh answers showed could have happened one after the other, as
//! the clock says. Builds the groups; `zones` orders them.

use crate::checker::band::{Banded, Freshness};
use crate::checker::failover;
use crate::checker::index::{Index, Map, Shown, Write};
use crate::checker::zones::{self, Zone};
use crate::checker::{Finding, at};
use crate::verdict::{Check, Class, Span};

/// Where an end of a zone comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// The operation at this place.
    Op(usize),
    /// The last look at the database.
    Rows,
    /// Nothing: the object was there before any operation, or nobody knows the end.
    Nobody,
}

/// One value of an object: its write and the fresh reads that showed it.
#[derive(Debug, Clone, Copy)]
struct Group {
    write: Option<usize>,
    first_end: (u64, By),
    last_begin: (u64, By),
    shown: bool,
}

impl Group {
    fn end(&mut self, us: u64, by: By) {
        if us < self.first_end.0 {
            self.first_end = (us, by);
        }
    }

    fn begin(&mut self, us: u64, by: By) {
        if us > self.last_begin.0 {
            self.last_begin = (us, by);
        }
    }

    fn read(&mut self, begin_us: u64, end_us: u64, by: By) {
        self.end(end_us, by);
        self.begin(begin_us, by);
        self.shown = true;
    }
}

pub(crate) fn check(index: &Index<'_>, bands: &[Banded]) -> Check {
    let mut finding = Finding::new("W5", "fresh answers and writes follow one order in time", Class::Safety);
    let mut course = Course {
        index,
        bands,
        groups: Vec::new(),
        group_of: vec![NONE; index.writes.len()],
        finals: finals(index),
    };
    for object in 0..index.objects.names.len() {
        let examined = course.gather(object);
        finding.examined(examined);
        course.judge(object, &mut finding);
    }
    if finding.check.examined == 0 {
        finding.not_measured("no fresh answer about an object that was written");
    }
    let (found, examined) = (finding.check.violations, finding.check.examined);
    finding.done(format!("{found} contradictions among {examined} fresh answers"))
}

/// No group: left out, or of another object.
const NONE: u32 = u32::MAX;

struct Course<'i, 'a> {
    index: &'i Index<'a>,
    bands: &'i [Banded],
    groups: Vec<Group>,
    /// For each write, its group while its object is looked at.
    group_of: Vec<u32>,
    /// For each object, the write that the database showed at the end, and when.
    finals: Vec<Option<(usize, u64)>>,
}

impl Course<'_, '_> {
    /// Builds the groups of one object; returns how many answers they hold.
    fn gather(&mut self, object: usize) -> u64 {
        let Self { index, bands, groups, group_of, finals } = self;
        let index: &Index<'_> = index;
        groups.clear();
        let before = (0, By::Nobody);
        groups.push(Group { write: None, first_end: before, last_begin: before, shown: false });
        for &place in index.objects.writes.get(object) {
            let (Some(write), Some(slot)) = (index.writes.get(place), group_of.get_mut(place)) else {
                continue;
            };
            *slot = NONE;
            if left_out(index, write) {
                continue;
            }
            *slot = u32::try_from(groups.len()).unwrap_or(NONE);
            groups.push(Group {
                write: Some(place),
                first_end: write.acknowledged.map_or((u64::MAX, By::Nobody), |(us, op)| (us, By::Op(op))),
                last_begin: (write.begun_us, By::Op(write.first)),
                shown: false,
            });
        }
        let mut examined = 0;
        for read in index.objects.reads.get(object) {
            let Some(op) = index.ops.get(read.op) else { continue };
            let Some(ended_us) = op.ended_us else { continue };
            let group = match read.shown {
                Shown::Initial => 0,
                Shown::Write(place) => group_of.get(place).copied().unwrap_or(NONE),
                Shown::Nothing => NONE,
            };
            let Some(group) = groups.get_mut(group as usize) else { continue };
            if bands.get(read.op).is_some_and(|banded| banded.freshness == Freshness::Fresh) {
                group.read(op.begun_us, ended_us, By::Op(read.op));
                examined += 1;
            }
        }
        if let Some((place, us)) = finals.get(object).copied().flatten() {
            let group = group_of.get(place).copied().unwrap_or(NONE);
            if let Some(group) = groups.get_mut(group as usize) {
                group.read(us, us, By::Rows);
            }
        }
        // An effect that nobody saw and nobody vouches for may never have been.
        groups.retain(|group| group.shown || group.first_end.0 < u64::MAX);
        examined
    }

    fn judge(&self, object: usize, finding: &mut Finding) {
        let index = self.index;
        let name = index.objects.names.get(object).copied().unwrap_or_default();
        for group in &self.groups {
            let Some(write) = group.write.and_then(|place| index.writes.get(place)) else { continue };
            if group.first_end.0 < write.begun_us {
                let summary = format!("{name} showed {} before it was written", write.value);
                finding.violated(summary, || self.lines(group));
                finding.drawn(|| {
                    let mut spans = write.spans(&index.ops);
                    spans.push(self.span(group));
                    spans
                });
            }
        }
        let zones: Vec<Zone> = self
            .groups
            .iter()
            .map(|group| Zone { first_end: group.first_end.0, last_begin: group.last_begin.0 })
            .collect();
        for (one, other) in zones::conflicts(&zones) {
            let (Some(one), Some(other)) = (self.groups.get(one), self.groups.get(other)) else { continue };
            let summary = format!(
                "{name} held {} until after {}, and {} until after {}: each would have to come first",
                self.value(one),
                self.value(other),
                self.value(other),
                self.value(one)
            );
            finding.violated(summary, || [self.lines(one), self.lines(other)].concat());
            finding.drawn(|| vec![self.span(one), self.span(other)]);
        }
    }

    fn value(&self, group: &Group) -> &str {
        let write = group.write.and_then(|place| self.index.writes.get(place));
        write.map_or("nothing", |write| write.value)
    }

    /// The two times of a group, for a picture.
    fn span(&self, group: &Group) -> Span {
        Span {
            label: self.value(group).to_owned(),
            from_us: group.first_end.0,
            from: "in force by".into(),
            until_us: Some(group.last_begin.0),
            until: "still in force at".into(),
        }
    }

    /// The two times of a group, who stands for each, and its write.
    fn lines(&self, group: &Group) -> Vec<String> {
        let who = |by: By| match by {
            By::Op(place) => self.index.ops.get(place).map_or_else(String::new, |op| op.line()),
            By::Rows => "the rows read from the database after the run".to_owned(),
            By::Nobody => "no operation".to_owned(),
        };
        let (value, end, begin) = (self.value(group), group.first_end, group.last_begin);
        let mut lines = vec![
            format!("{value}: in force by {}, by {}", at(end.0), who(end.1)),
            format!("{value}: still in force at {}, by {}", at(begin.0), who(begin.1)),
        ];
        if let Some(write) = group.write.and_then(|place| self.index.writes.get(place)) {
            let told = |line: &String| !lines.iter().any(|known| known.ends_with(line.as_str()));
            let more: Vec<String> = write.lines(&self.index.ops).into_iter().filter(told).collect();
            lines.extend(more);
        }
        lines
    }
}

/// Writes that prove nothing about this order: refused ones, journaled ones that gave way, those that a failover may
/// have taken back, and, with several replicas, those that a journal acknowledged, also where a repetition was told
/// later that it is committed: the replica that holds it may show it to its users before the database has it.
fn left_out(index: &Index<'_>, write: &Write<'_>) -> bool {
    matches!(write.status, Some("superseded" | "rejected"))
        || (write.journaled && index.several())
        || write.refused
        || failover::in_window(index, write)
}

/// What the database held at the end, which is one more fresh answer: it shows where a value that was read is gone.
fn finals(index: &Index<'_>) -> Vec<Option<(usize, u64)>> {
    let objects = &index.objects;
    let mut finals = vec![None; objects.names.len()];
    if index.journal_open {
        return finals;
    }
    if let Some(us) = index.ledger_us {
        for (object, last) in finals.iter_mut().enumerate() {
            let of_object =
                |write: usize| index.writes.get(write).is_some_and(|write| write.object.is_some());
            let last_step = objects.order.get(object).last().filter(|step| of_object(step.write));
            *last = last_step.map(|step| (step.write, us));
        }
    }
    if let Some(us) = index.rows_us {
        let titles: Map<&str, &str> =
            index.rows.iter().map(|row| (row.id.as_str(), row.title.as_str())).collect();
        for (name, last) in objects.names.iter().zip(&mut finals) {
            let write = titles.get(name).and_then(|title| index.writer(None, title));
            *last = last.or_else(|| write.map(|write| (write, us)));
        }
    }
    finals
}
