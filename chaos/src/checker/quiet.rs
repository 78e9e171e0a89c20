//! E3: once all is quiet again, a server holds no more than before the fault: memory, descriptors, tasks.

use crate::checker::Finding;
use crate::checker::index::{Index, Map};
use crate::history::{Limits, Usage};
use crate::verdict::{Check, Class};

/// What a small count may grow by in any case: a share of next to nothing is nothing.
const MEMORY_SLACK: u64 = 8 * 1024 * 1024;
const COUNT_SLACK: u64 = 4;
/// The last look must come this long after the load.
const QUIET_US: u64 = 3_000_000;

pub(crate) fn check(index: &Index<'_>, limits: &Limits) -> Check {
    let mut finding =
        Finding::new("E3", "once all is quiet, a server holds no more than before", Class::Liveness);
    let mut measured = Vec::new();
    match (limits.quiet_growth_max, index.faults.first()) {
        (None, _) => finding.not_measured("the run states no growth"),
        (_, None) => finding.not_measured("there was no fault"),
        (Some(growth), Some(fault)) => {
            let mut servers: Map<&str, (Option<&Usage>, Option<&Usage>)> = Map::new();
            for usage in &index.seen.usage {
                let (before, after) = servers.entry(usage.process.as_str()).or_default();
                if usage.at_us < fault.start.at_us {
                    *before = Some(usage);
                } else if usage.at_us >= index.load.until_us + QUIET_US {
                    *after = Some(usage);
                }
            }
            let mut servers: Vec<_> = servers.into_iter().collect();
            servers.sort_unstable_by_key(|(name, _)| *name);
            for (name, looks) in servers {
                if let (Some(before), Some(after)) = looks {
                    finding.examined(1);
                    measured.extend(compare(name, before, after, growth, &mut finding));
                }
            }
        }
    }
    if finding.check.examined == 0 {
        finding.not_measured("no server was looked at before the fault and after the load");
    }
    finding.done(measured.join("; "))
}

fn compare(name: &str, before: &Usage, after: &Usage, growth: f64, finding: &mut Finding) -> Vec<String> {
    let parts = [
        ("bytes of memory", Some(before.memory_bytes), Some(after.memory_bytes), MEMORY_SLACK),
        ("descriptors", before.fds, after.fds, COUNT_SLACK),
        ("tasks", before.tasks, after.tasks, COUNT_SLACK),
    ];
    let mut measured = Vec::new();
    for (what, before, after, slack) in parts {
        let (Some(before), Some(after)) = (before, after) else { continue };
        let allowed = before + slack.max((before as f64 * growth) as u64);
        let text = format!("{name} held {before} {what} before and {after} after (limit {allowed})");
        if after > allowed {
            finding.violated(text.clone(), Vec::new);
        }
        measured.push(text);
    }
    measured
}
