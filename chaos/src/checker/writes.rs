//! W1, W2, W3: what was acknowledged is there, once, and nothing else is. Looks at writes and final rows only; what the
//! ledger says about registers and lists is gathered by `ledger`.

use crate::checker::index::{End, Index, Map, Write};
use crate::checker::{Finding, failover, ledger, unknown};
use crate::history::{Action, FinalRow, Limits};
use crate::verdict::{Check, Class, Numbers};

/// The final rows, related to the writes that made them.
struct Rows<'a> {
    /// For each write, how many rows show it, of the table of todos or of the ledger.
    shown: Vec<u64>,
    /// For each row, in order: its creating write and its applied update.
    origin: Vec<(Option<usize>, Option<usize>)>,
    by_id: Map<&'a str, &'a FinalRow>,
}

pub(crate) fn check(index: &Index<'_>, limits: &Limits, numbers: &mut Numbers) -> Vec<Check> {
    let rows = relate(index);
    let mut gone = Vec::new();
    let mut checks = vec![
        lost(index, &rows, &mut gone, numbers),
        doubled(index, &rows, numbers),
        phantom(index, &rows, numbers),
    ];
    let unread = unread(index);
    if let Some(why) = unread {
        for check in &mut checks {
            // Rows that were not read prove nothing, neither presence nor absence.
            let mut unread = Finding::new(&check.id, &check.title, Class::Safety);
            unread.not_measured(why);
            *check = unread.done(String::new());
        }
        (numbers.lost, numbers.doubled, numbers.phantom) = (0, 0, 0);
        gone.clear();
    }
    checks.push(unknown::check(index, limits, &rows.shown));
    checks.push(failover::check(index, limits, &gone));
    checks
}

/// Why the rows cannot tell what became of the writes, if they cannot.
fn unread(index: &Index<'_>) -> Option<&'static str> {
    let todos = index.writes.iter().any(|write| write.object.is_none());
    let ledger_cut = index.seen.ledger_end.is_some() && index.ledger_us.is_none();
    if index.rows_us.is_none() && (todos || index.ledger_us.is_none()) || ledger_cut {
        return Some("the final rows were not read to the end");
    }
    None
}

fn relate<'a>(index: &Index<'a>) -> Rows<'a> {
    let mut rows = Rows {
        shown: vec![0; index.writes.len()],
        origin: Vec::with_capacity(index.rows.len()),
        by_id: index.rows.iter().map(|row| (row.id.as_str(), *row)).collect(),
    };
    for row in &index.rows {
        let writer = index.writer(None, &row.title);
        let kind = writer.and_then(|at| index.writes.get(at)).map(|write| write.action);
        let (creator, update) = match kind {
            Some(Action::Update) => (index.creator.get(row.id.as_str()).copied(), writer),
            _ => (writer, None),
        };
        for at in [creator, update].into_iter().flatten() {
            if let Some(shown) = rows.shown.get_mut(at) {
                *shown += 1;
            }
        }
        rows.origin.push((creator, update));
    }
    ledger::count(index, &mut rows.shown);
    rows
}

/// What the database says about one acknowledged write.
enum Fate {
    There,
    Superseded,
    Pending,
    /// It committed where only the old primary of a failover had it.
    Gone,
    Lost(&'static str),
}

fn lost(index: &Index<'_>, rows: &Rows<'_>, gone: &mut Vec<usize>, numbers: &mut Numbers) -> Check {
    let mut finding = Finding::new("W1", "no acknowledged write is lost", Class::Safety);
    for (at, write) in index.writes.iter().enumerate() {
        let promised = write.acknowledged.is_some() || write.status == Some("applied");
        // Without a ledger nothing tells what became of the values of a register that were written over.
        if !promised || (write.object.is_some() && index.ledger_us.is_none()) {
            continue;
        }
        finding.examined(1);
        numbers.acknowledged += u64::from(write.acknowledged.is_some());
        match fate(index, write, rows.shown.get(at).copied().unwrap_or(0), rows) {
            Fate::There => {}
            Fate::Superseded => numbers.superseded += 1,
            Fate::Pending => numbers.pending += 1,
            Fate::Gone => gone.push(at),
            Fate::Lost(why) => {
                numbers.lost += 1;
                finding.violated(format!("the write of {} was acknowledged, but {why}", write.value), || {
                    write.lines(&index.ops)
                });
                finding.drawn(|| write.spans(&index.ops));
            }
        }
    }
    if numbers.pending > 0 {
        let why = format!(
            "{} acknowledged writes were still in a journal when the rows were read",
            numbers.pending
        );
        finding.not_measured(&why);
    }
    let (examined, lost) = (finding.check.examined, numbers.lost);
    finding.done(format!("{lost} of {examined} acknowledged writes lost"))
}

fn fate(index: &Index<'_>, write: &Write<'_>, shown: u64, rows: &Rows<'_>) -> Fate {
    let row = write.todo.and_then(|todo| rows.by_id.get(todo));
    let undecided = !matches!(write.status, Some("applied" | "superseded" | "rejected"));
    let may_be_held = write.status == Some("pending") || (write.journaled && index.journal_open && undecided);
    let fate = match write.action {
        _ if shown == 0 && may_be_held => Fate::Pending,
        Action::Set | Action::Append if shown > 0 => Fate::There,
        Action::Set | Action::Append if write.status == Some("superseded") => Fate::Superseded,
        Action::Set | Action::Append => Fate::Lost("the ledger does not hold it"),
        Action::Create if shown == 0 => Fate::Lost("no row holds it"),
        Action::Create if write.todo.is_some() && row.is_none() => {
            Fate::Lost("no row has the id it was given")
        }
        Action::Create => Fate::There,
        _ if row.is_some_and(|row| row.title == write.value) => Fate::There,
        _ if write.status == Some("superseded") => Fate::Superseded,
        _ if row.is_none() => Fate::Lost("its todo is gone"),
        _ => Fate::Lost("its todo holds another title"),
    };
    match fate {
        Fate::Lost(_) if failover::in_window(index, write) => Fate::Gone,
        fate => fate,
    }
}

fn doubled(index: &Index<'_>, rows: &Rows<'_>, numbers: &mut Numbers) -> Check {
    let mut finding = Finding::new("W2", "no write takes effect twice", Class::Safety);
    let mut doubled = vec![false; index.writes.len()];
    for (at, write) in index.writes.iter().enumerate() {
        finding.examined(1);
        let shown = rows.shown.get(at).copied().unwrap_or(0);
        let summary = if shown > 1 {
            format!("the write of {} is in {shown} rows", write.value)
        } else if let Some((one, two)) = two_ids(index, write) {
            format!("the write of {} was acknowledged with two ids, {one} and {two}", write.value)
        } else {
            continue;
        };
        if let Some(mark) = doubled.get_mut(at) {
            *mark = true;
        }
        finding.violated(summary, || {
            let copies = index.rows.iter().filter(|row| row.title == write.value).map(|row| row_line(row));
            let copies = copies.chain(ledger::lines(index, write));
            write.lines(&index.ops).into_iter().chain(copies.take(4)).collect()
        });
    }
    for (row, (creator, update)) in index.rows.iter().zip(&rows.origin) {
        let applied = i64::from(update.is_some());
        if row.version == 1 + applied {
            continue;
        }
        let blamed = update.or(*creator);
        if let Some(mark) = blamed.and_then(|at| doubled.get_mut(at)) {
            *mark = true;
        }
        let summary = format!("todo {} has version {} after {applied} updates", row.id, row.version);
        finding.violated(summary, || {
            let lines = blamed.and_then(|at| index.writes.get(at)).map(|write| write.lines(&index.ops));
            lines.into_iter().flatten().chain([row_line(row)]).collect()
        });
    }
    ledger::miscounted(index, &mut finding);
    numbers.doubled = doubled.iter().filter(|mark| **mark).count() as u64;
    let (examined, doubled) = (finding.check.examined, numbers.doubled);
    finding.done(format!("{doubled} of {examined} writes took effect twice"))
}

/// Two different ids given to one created todo.
fn two_ids<'a>(index: &Index<'a>, write: &Write<'a>) -> Option<(&'a str, &'a str)> {
    let first = write.todo?;
    write
        .sends(&index.ops)
        .filter_map(|op| op.end)
        .filter(|(end, _)| *end == End::Ok)
        .filter_map(|(_, done)| done.todos.first())
        .find(|todo| todo.id != first)
        .map(|todo| (first, todo.id.as_str()))
}

fn phantom(index: &Index<'_>, rows: &Rows<'_>, numbers: &mut Numbers) -> Check {
    let mut finding =
        Finding::new("W3", "no row is there that nobody wrote or that was refused", Class::Safety);
    for (row, (creator, update)) in index.rows.iter().zip(&rows.origin) {
        finding.examined(1);
        let creation = creator.and_then(|at| index.writes.get(at));
        let change = update.and_then(|at| index.writes.get(at));
        let refused = [creation, change].into_iter().flatten().find(|write| write.refused);
        let summary = if let Some(write) = refused {
            format!("the write of {} was refused, yet its effect is in the database", write.value)
        } else if change.is_some_and(|write| write.todo != Some(row.id.as_str())) {
            format!("todo {} holds a title that was written to another todo", row.id)
        } else if creation.is_none() && change.is_none() {
            format!("nobody wrote the row {}", row.id)
        } else {
            continue;
        };
        numbers.phantom += 1;
        finding.violated(summary, || {
            let writes = [creation, change].into_iter().flatten();
            writes.flat_map(|write| write.lines(&index.ops)).chain([row_line(row)]).collect()
        });
    }
    numbers.phantom += ledger::strangers(index, &mut finding);
    let (examined, found) = (finding.check.examined, numbers.phantom);
    finding.done(format!("{found} of {examined} rows without a writer"))
}

fn row_line(row: &FinalRow) -> String {
    format!("final row {}: title {}, version {}, done {}", row.id, row.title, row.version, row.done)
}
