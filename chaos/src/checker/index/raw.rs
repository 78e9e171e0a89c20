//! Sorts the events of a history by their kind, once, and pairs beginnings with ends. Judges nothing but whether they
//! fit together.

use crate::checker::index::Map;
use crate::checker::index::write::{End, Op};
use crate::checker::two;
use crate::history::{
    Canary, Completion, Count, Counter, Event, FaultEnd, FaultStart, Fill, FinalRow, Journal, LedgerRow,
    Load, LossReport, Machine, Probe, ProcessExit, ProcessStart, Promotion, ReadinessDue, Run, Sabotage,
    Usage,
};

#[derive(Default)]
pub(crate) struct Raw<'a> {
    pub(crate) run: Option<&'a Run>,
    pub(crate) load: Option<&'a Load>,
    begun: Vec<Op<'a>>,
    ended: Vec<Ended<'a>>,
    pub(crate) canaries: Vec<&'a Canary>,
    pub(crate) fault_starts: Vec<&'a FaultStart>,
    pub(crate) fault_ends: Map<u32, &'a FaultEnd>,
    pub(crate) statuses: Map<&'a str, &'a str>,
    pub(crate) rows: Vec<&'a FinalRow>,
    /// When the rows were read, and how many there were.
    pub(crate) rows_end: Option<(u64, u64)>,
    pub(crate) journals: Map<&'a str, &'a Journal>,
    pub(crate) seen: Seen<'a>,
    pub(crate) broken: Option<&'a str>,
}

/// The end of one operation. Its number and its time stand here once more, because the lines are far apart in memory.
#[derive(Clone, Copy)]
struct Ended<'a> {
    number: u64,
    at_us: u64,
    end: End,
    done: &'a Completion,
}

impl<'a> Ended<'a> {
    fn of(end: End, done: &'a Completion) -> Self {
        Self { number: done.op, at_us: done.at_us, end, done }
    }
}

/// Lines that only one check each looks at, in the order of the file.
#[derive(Debug, Default)]
pub(crate) struct Seen<'a> {
    pub(crate) probes: Vec<&'a Probe>,
    pub(crate) starts: Vec<&'a ProcessStart>,
    pub(crate) exits: Vec<&'a ProcessExit>,
    /// What others used of the machine.
    pub(crate) machine: Vec<&'a Machine>,
    /// What servers held, in the order in which they were looked at.
    pub(crate) usage: Vec<&'a Usage>,
    pub(crate) ledger: Vec<&'a LedgerRow>,
    /// When the ledger was read, and how many rows there were.
    pub(crate) ledger_end: Option<(u64, u64)>,
    pub(crate) counters: Vec<&'a Counter>,
    pub(crate) promotions: Vec<&'a Promotion>,
    pub(crate) losses: Vec<&'a LossReport>,
    pub(crate) dues: Vec<&'a ReadinessDue>,
    pub(crate) counts: Vec<&'a Count>,
    pub(crate) fills: Vec<&'a Fill>,
    pub(crate) sabotages: Vec<&'a Sabotage>,
}

impl<'a> Raw<'a> {
    pub(crate) fn of(events: &'a [Event]) -> Self {
        let mut raw = Self::default();
        events.iter().for_each(|event| raw.add(event));
        raw
    }

    fn add(&mut self, event: &'a Event) {
        let seen = &mut self.seen;
        match event {
            Event::Run(run) => self.run = Some(run),
            Event::Load(load) => self.load = Some(load),
            Event::Invoke(invoke) => self.begun.push(Op::begun(invoke)),
            Event::Ok(done) => self.ended.push(Ended::of(End::Ok, done)),
            Event::Fail(done) => self.ended.push(Ended::of(End::Fail, done)),
            Event::Info(done) => self.ended.push(Ended::of(End::Info, done)),
            Event::Probe(probe) => seen.probes.push(probe),
            Event::Canary(canary) => self.canaries.push(canary),
            Event::FaultStart(start) => self.fault_starts.push(start),
            Event::FaultEnd(end) => {
                self.fault_ends.insert(end.id, end);
            }
            Event::ProcessStart(start) => seen.starts.push(start),
            Event::ProcessExit(exit) => seen.exits.push(exit),
            Event::Journal(journal) => self.journal(journal),
            Event::WriteStatus(status) => self.status(&status.key, &status.status),
            Event::FinalRow(row) => self.rows.push(row),
            Event::FinalRows(rows) => self.rows_end = Some((rows.at_us, rows.rows)),
            Event::LedgerRow(row) => seen.ledger.push(row),
            Event::LedgerRows(rows) => seen.ledger_end = Some((rows.at_us, rows.rows)),
            Event::Counter(counter) => seen.counters.push(counter),
            Event::Promotion(promotion) => seen.promotions.push(promotion),
            Event::LossReport(report) => seen.losses.push(report),
            Event::HarnessError(note) => self.broken = Some(&note.text),
            Event::Machine(part) => seen.machine.push(part),
            Event::Usage(usage) => seen.usage.push(usage),
            Event::ReadinessDue(due) => seen.dues.push(due),
            Event::Count(count) => seen.counts.push(count),
            Event::Fill(fill) => seen.fills.push(fill),
            Event::Sabotage(sabotage) => seen.sabotages.push(sabotage),
            Event::ServerState(_) | Event::Note(_) => {}
        }
    }

    fn journal(&mut self, journal: &'a Journal) {
        let last = self.journals.entry(&journal.process).or_insert(journal);
        if journal.at_us >= last.at_us {
            *last = journal;
        }
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

    /// Gives each operation its end, in the order of their numbers.
    pub(crate) fn pair(&mut self) -> Result<Vec<Op<'a>>, String> {
        let (begun, ended) = (&mut self.begun, &mut self.ended);
        let (mut ops, ()) =
            two::both(begun.len(), || in_order(begun), || ended.sort_unstable_by_key(|ended| ended.number));
        let twice = |pair: &[Op<'_>]| matches!(pair, [a, b] if a.number == b.number);
        if ops.windows(2).any(twice) {
            return Err("two operations of this history have the same number".into());
        }
        let mut ended = self.ended.iter().copied().peekable();
        for op in &mut ops {
            if let Some(Ended { at_us, end, done, .. }) = ended.next_if(|ended| ended.number == op.number) {
                (op.end, op.ended_us) = (Some((end, done)), Some(at_us));
            }
            if ended.peek().is_some_and(|ended| ended.number == op.number) {
                return Err(format!("operation {} of this history ended twice", op.number));
            }
        }
        match ended.next() {
            Some(Ended { number, .. }) => {
                Err(format!("operation {number} of this history ended and was never begun"))
            }
            None => Ok(ops),
        }
    }
}

/// By their numbers. Only those are sorted, because an operation is large.
fn in_order<'a>(begun: &[Op<'a>]) -> Vec<Op<'a>> {
    let mut places: Vec<(u64, usize)> = begun.iter().zip(0..).map(|(op, place)| (op.number, place)).collect();
    places.sort_unstable();
    places.iter().filter_map(|(_, place)| begun.get(*place).copied()).collect()
}
