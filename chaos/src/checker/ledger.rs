//! The ledger's part in W1, W2 and W3: one row for each effect on a register or list, and a counter for each object.

use std::collections::HashSet;

use crate::checker::Finding;
use crate::checker::index::{Index, Map, Write};
use crate::history::LedgerRow;

/// Adds to each write the rows that its effect left.
pub(crate) fn count(index: &Index<'_>, shown: &mut [u64]) {
    for place in index.ledger.iter().filter_map(|(_, writer)| *writer) {
        if let Some(shown) = shown.get_mut(place) {
            *shown += 1;
        }
    }
}

/// W2: the database itself must have counted as many effects as there are different operations in the ledger.
pub(crate) fn miscounted(index: &Index<'_>, finding: &mut Finding) {
    if index.seen.counters.is_empty() {
        return;
    }
    let mut effects: Map<&str, i64> = Map::new();
    let mut seen = vec![false; index.writes.len()];
    let mut strangers = HashSet::new();
    for (row, writer) in &index.ledger {
        let new = match writer.and_then(|place| seen.get_mut(place)) {
            Some(seen) => !std::mem::replace(seen, true),
            None => strangers.insert((&row.object, &row.value)),
        };
        *effects.entry(&row.object).or_default() += i64::from(new);
    }
    for counter in &index.seen.counters {
        finding.examined(1);
        let distinct = effects.get(counter.object.as_str()).copied().unwrap_or(0);
        if distinct != counter.count {
            let (object, count) = (&counter.object, counter.count);
            finding.violated(format!("{object} counted {count} effects, of {distinct} operations"), || {
                let rows = index.seen.ledger.iter().filter(|row| row.object == *object);
                rows.rev().take(4).map(|row| line(row)).collect()
            });
        }
    }
}

/// W3: rows of nobody, or of a write that was refused. Returns how many.
pub(crate) fn strangers(index: &Index<'_>, finding: &mut Finding) -> u64 {
    let mut found = 0;
    for (row, writer) in &index.ledger {
        finding.examined(1);
        let write = writer.and_then(|place| index.writes.get(place));
        let summary = match write {
            None => format!("nobody wrote the row of {} in the ledger of {}", row.value, row.object),
            Some(write) if write.refused => {
                format!("the write of {} was refused, yet its effect is in the ledger", row.value)
            }
            Some(_) => continue,
        };
        found += 1;
        finding.violated(summary, || {
            let told = write.map(|write| write.lines(&index.ops)).unwrap_or_default();
            told.into_iter().chain([line(row)]).collect()
        });
    }
    found
}

/// The rows that the effect of a write left.
pub(crate) fn lines(index: &Index<'_>, write: &Write<'_>) -> Vec<String> {
    let own = |row: &&&LedgerRow| Some(row.object.as_str()) == write.object && row.value == write.value;
    index.seen.ledger.iter().filter(own).map(|row| line(row)).collect()
}

fn line(row: &LedgerRow) -> String {
    let place = row.n.map_or_else(|| "no known place".to_owned(), |n| format!("the place {n}"));
    format!("ledger of {}: {} has {place}", row.object, row.value)
}
