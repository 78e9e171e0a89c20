//! B1, B2, T5, T6: over a long outage memory and journal stay within their bounds, and the backlog goes in time without
//! users noticing. Only runs that state bounds are looked at; what the bounds are is in `history/settings.rs`.

use std::collections::BTreeMap;

use crate::checker::index::Index;
use crate::checker::machine::{self, Stretch};
use crate::checker::numbers::percentile;
use crate::checker::{Finding, at};
use crate::history::{Bounds, Limits, Usage};
use crate::verdict::{Check, Class};

/// A backlog may take so many times as long as its depth at the stated rate.
const DRAIN_FACTOR: f64 = 1.5;
/// T6 looks at least this long at the answers after the return: fewer have no percentile.
const AFTER_US_MIN: u64 = 5_000_000;
const MIB: f64 = 1024.0 * 1024.0;

pub(crate) fn check(index: &Index<'_>, limits: &Limits) -> Vec<Check> {
    let Some(bounds) = &limits.bounds else { return Vec::new() };
    let fault = index.faults.iter().find(|fault| fault.canary_failed);
    let away = fault.and_then(|fault| Some((fault.start.at_us, fault.up_us?)));
    let mut servers: BTreeMap<&str, Vec<&Usage>> = BTreeMap::new();
    for usage in &index.seen.usage {
        servers.entry(usage.process.as_str()).or_default().push(usage);
    }
    let run = Run { index, limits, bounds, away, servers };
    vec![run.memory(), run.disk(), run.drain(), run.latency()]
}

struct Run<'a> {
    index: &'a Index<'a>,
    limits: &'a Limits,
    bounds: &'a Bounds,
    /// When the database went, and when it was back.
    away: Option<(u64, u64)>,
    servers: BTreeMap<&'a str, Vec<&'a Usage>>,
}

impl Run<'_> {
    fn memory(&self) -> Check {
        let Bounds { entry_memory_bytes, memory_slack_bytes, .. } = *self.bounds;
        let mut finding = self.finding("B1", "memory grows by what waits and no more");
        let mut measured = Vec::new();
        for (name, usage) in self.servers.iter().filter(|_| self.away.is_some()) {
            let went = self.away.map_or(0, |(went, _)| went);
            let of = |part: &mut dyn Iterator<Item = &&Usage>| part.map(|one| one.memory_bytes).max();
            let before = of(&mut usage.iter().filter(|one| one.at_us < went));
            let most = of(&mut usage.iter());
            let Some((before, most)) = before.zip(most) else { continue };
            finding.examined(usage.len() as u64);
            let (grown, depth) = (most.saturating_sub(before), depth(usage));
            let allowed = depth * entry_memory_bytes + memory_slack_bytes;
            let text = format!(
                "{name} grew from {} by {} with {depth} entries (limit {})",
                mib(before),
                mib(grown),
                mib(allowed)
            );
            if grown > allowed {
                finding.violated(text.clone(), Vec::new);
            }
            measured.push(text);
        }
        done(finding, &measured)
    }

    fn disk(&self) -> Check {
        let limit = self.bounds.journal_bytes_max;
        let mut finding = self.finding("B2", "the journal stays within its size on disk");
        let mut measured = Vec::new();
        for (name, usage) in &self.servers {
            finding.examined(usage.len() as u64);
            let most = usage.iter().map(|one| one.journal_bytes).max().unwrap_or(0);
            let last = usage.last().map_or(0, |one| one.journal_bytes);
            let text = format!(
                "{name} took {} at the most, {} at the end (limit {})",
                mib(most),
                mib(last),
                mib(limit)
            );
            if most > limit {
                finding.violated(text.clone(), Vec::new);
            }
            measured.push(text);
        }
        done(finding, &measured)
    }

    fn drain(&self) -> Check {
        let mut finding = self.finding("T5", "the backlog is gone in time");
        let mut measured = Vec::new();
        for (name, usage) in self.servers.iter().filter(|_| self.away.is_some()) {
            let back = self.away.map_or(0, |(_, back)| back);
            let depth = depth(usage);
            finding.examined(1);
            let Some(took) = emptied(usage, back).map(|us| us - back) else {
                finding.violated(format!("{name} never got rid of {depth} entries"), Vec::new);
                continue;
            };
            let seconds = depth as f64 / self.bounds.replay_per_second * DRAIN_FACTOR;
            // No sooner than the first fresh answer is due.
            let plain_us = ((seconds * 1e6) as u64).max(self.limits.recovery_ms * 1_000);
            let text = format!("{name} replayed {depth} entries in {} (limit {})", at(took), at(plain_us));
            match machine::stretch(&self.index.seen.machine, back, back + took) {
                Stretch::By(factor) if took as f64 > plain_us as f64 * factor => {
                    finding.violated(text.clone(), Vec::new);
                }
                Stretch::Unfit if took > plain_us => {
                    finding.not_measured(&format!("{text}, while others used nearly all of the machine"));
                }
                _ => {}
            }
            measured.push(text);
        }
        done(finding, &measured)
    }

    fn latency(&self) -> Check {
        let mut finding = self.finding("T6", "answers stay quick while the backlog goes");
        let mut measured = Vec::new();
        if let Some((went, back)) = self.away {
            let ends = self.servers.values().filter_map(|usage| emptied(usage, back));
            let until = ends.max().unwrap_or(back).max(back + AFTER_US_MIN);
            for (kind, writes) in [("reads", false), ("writes", true)] {
                let (before, n) = self.p99(writes, 0, went);
                let (after, n_after) = self.p99(writes, back, until);
                finding.examined(n + n_after);
                let plain = before as f64 * self.bounds.drain_p99_factor;
                let text = format!(
                    "{kind} p99 {} before ({n}), {} meanwhile ({n_after}; limit {})",
                    at(before),
                    at(after),
                    at(plain as u64)
                );
                match machine::stretch(&self.index.seen.machine, back, until) {
                    Stretch::By(factor) if after as f64 > plain * factor => {
                        finding.violated(text.clone(), Vec::new);
                    }
                    Stretch::Unfit if after as f64 > plain => {
                        finding.not_measured(&format!("{text}, while others used nearly all of the machine"));
                    }
                    _ => {}
                }
                measured.push(text);
            }
        }
        done(finding, &measured)
    }

    /// The 99th percentile of answers to requests that were planned in this time, and how many there were.
    fn p99(&self, writes: bool, from_us: u64, until_us: u64) -> (u64, u64) {
        let ops =
            self.index.ops.iter().filter(|op| {
                op.measured && op.write == writes && (from_us..until_us).contains(&op.planned_us)
            });
        let deadline_us = self.index.run.plan.deadline_ms * 1_000;
        let mut took: Vec<u64> =
            ops.map(|op| op.ended_us.map_or(deadline_us, |us| us.saturating_sub(op.planned_us))).collect();
        took.sort_unstable();
        (percentile(&took, 0.99), took.len() as u64)
    }

    fn finding(&self, id: &str, title: &str) -> Finding {
        let mut finding = Finding::new(id, title, Class::Liveness);
        if self.servers.is_empty() {
            finding.not_measured("nobody looked at the servers");
        } else if self.away.is_none() {
            finding.not_measured("the canary never saw the database away and back");
        }
        finding
    }
}

fn done(finding: Finding, measured: &[String]) -> Check {
    finding.done(measured.join("; "))
}

/// The most that waited at one time.
fn depth(usage: &[&Usage]) -> u64 {
    usage.iter().filter_map(|one| one.journal_entries).max().unwrap_or(0)
}

/// When nothing waited any more, from this moment on.
fn emptied(usage: &[&Usage], from_us: u64) -> Option<u64> {
    let mut later = usage.iter().filter(|one| one.at_us >= from_us);
    later.find(|one| one.journal_entries == Some(0)).map(|one| one.at_us)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MIB)
}
