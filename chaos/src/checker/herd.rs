//! H1 to H5: neither the outage nor its end sets off a stampede, counted at the proxies on both sides of the service.

use crate::checker::index::{Index, Map};
use crate::checker::{Finding, at};
use crate::history::{Count, Counted, Fill, Limits};
use crate::verdict::{Check, Class};

/// H1, H2: attempts are summed over spans of this length.
const SECOND_US: u64 = 1_000_000;
/// H2: no bin of 50 ms may hold more than this share of a second's attempts.
const BIN_SHARE: f64 = 0.3;
/// H2: below this many attempts in its second a bin's share says nothing.
const BURST_MIN: u64 = 20;
/// H2, H3: the time after the return that is looked at.
const AFTER_US: u64 = 5_000_000;
/// H3: a rate over less than this is none.
const BASELINE_US_MIN: u64 = 1_000_000;

pub(crate) fn check(index: &Index<'_>, limits: &Limits) -> Vec<Check> {
    let herd = Herd { index, limits };
    vec![herd.while_away(), herd.on_return(), herd.statements(), herd.fills(), herd.attempts()]
}

struct Herd<'i, 'a> {
    index: &'i Index<'a>,
    limits: &'i Limits,
}

impl<'a> Herd<'_, 'a> {
    fn counts(&self, what: Counted) -> Vec<&'a Count> {
        let mut counts: Vec<&Count> =
            self.index.seen.counts.iter().filter(|count| count.what == what).copied().collect();
        counts.sort_by_key(|count| (count.from_us, count.at_us));
        counts
    }

    /// From each fault that kept the servers from the database to its return: the canary's next commit, or, where the
    /// canary went another way, the end of the fault.
    fn outages(&self) -> impl Iterator<Item = (u64, u64)> {
        self.index.faults.iter().filter_map(|fault| {
            let up_us = match (fault.canary_failed, fault.start.way_gone) {
                (true, _) => fault.up_us?,
                (false, true) => fault.end_us?,
                (false, false) => return None,
            };
            Some((fault.start.at_us, up_us))
        })
    }

    fn while_away(&self) -> Check {
        let mut finding =
            Finding::new("H1", "who waits for the database does not hammer at it", Class::Liveness);
        let pause_us = self.limits.connect_pause_ms.map(|ms| ms.max(1) * 1_000);
        let mut by_replica: Map<&str, Vec<&Count>> = Map::new();
        for count in self.counts(Counted::Connects) {
            by_replica.entry(count.process.as_str()).or_default().push(count);
        }
        let mut most = 0;
        if let Some(pause_us) = pause_us {
            let allowed = SECOND_US.div_ceil(pause_us) + 1;
            for (from, until) in self.outages() {
                for (replica, counts) in &by_replica {
                    let inside: Vec<&Count> = counts
                        .iter()
                        .filter(|count| count.from_us >= from && count.at_us <= until)
                        .copied()
                        .collect();
                    // Of a span without an attempt nobody tells: that there was none is what was seen.
                    finding.examined(1);
                    let Some((sum, when, _)) = busiest(&inside) else { continue };
                    most = most.max(sum);
                    if sum > allowed {
                        let text =
                            format!("{replica} tried to connect {sum} times in a second, {allowed} allowed");
                        finding.violated(text, || vec![format!("in the second from {}", at(when))]);
                    }
                }
            }
        } else {
            finding.not_measured("the run states no pause between attempts");
        }
        if by_replica.is_empty() {
            finding.not_measured("nobody counted connections");
        } else if self.outages().next().is_none() {
            finding.not_measured("the database was never away and back");
        }
        finding.done(format!("at most {most} attempts of one replica in a second of the outage"))
    }

    fn on_return(&self) -> Check {
        let mut finding =
            Finding::new("H2", "the return of the database sets off no rush to connect", Class::Liveness);
        let counts = self.counts(Counted::Connects);
        let (mut most, mut share_most) = (0, 0.0_f64);
        if counts.is_empty() {
            finding.not_measured("nobody counted connections");
        } else if let Some(pool_max) = self.limits.pool_max {
            let allowed = pool_max * self.index.servers.len().max(1) as u64;
            for (_, up) in self.outages() {
                let inside = |count: &&&Count| count.from_us >= up && count.from_us < up + AFTER_US;
                let after: Vec<&Count> = counts.iter().filter(inside).copied().collect();
                finding.examined(1);
                let Some((sum, when, bin)) = busiest(&after) else { continue };
                most = most.max(sum);
                let share = bin as f64 / sum.max(1) as f64;
                let lines = || {
                    vec![format!(
                        "the canary committed again at {}; the second began at {}",
                        at(up),
                        at(when)
                    )]
                };
                if sum > allowed {
                    finding
                        .violated(format!("{sum} attempts to connect in a second, {allowed} allowed"), lines);
                }
                if sum >= BURST_MIN {
                    share_most = share_most.max(share);
                    if share > BIN_SHARE {
                        finding.violated(format!("{bin} of {sum} attempts of a second came at once"), lines);
                    }
                }
            }
        } else {
            finding.not_measured("the run states no size of the pools");
        }
        if finding.check.examined == 0 {
            finding.not_measured("the database was never away and back");
        }
        finding
            .done(format!("at most {most} attempts in a second, {:.0} % of them at once", share_most * 100.0))
    }

    fn statements(&self) -> Check {
        let mut finding =
            Finding::new("H3", "the return of the database brings no flood of statements", Class::Liveness);
        let counts = self.counts(Counted::Statements);
        let first = self.index.faults.first().map(|fault| fault.start.at_us);
        let baseline = first.and_then(|first| rate(&counts, self.index.load.at_us, first));
        let mut worst = 0.0_f64;
        match baseline {
            _ if counts.is_empty() => finding.not_measured("nobody counted statements"),
            None => finding.not_measured("no rate of statements before the first fault"),
            Some(before) => {
                for (_, up) in self.outages() {
                    let Some(after) = rate(&counts, up, up + AFTER_US) else { continue };
                    finding.examined(1);
                    let factor = after / before.max(f64::MIN_POSITIVE);
                    worst = worst.max(factor);
                    if factor > self.limits.statements_factor {
                        let text =
                            format!("{after:.0} statements per second after the return, {before:.0} before");
                        finding.violated(text, || vec![format!("the canary committed again at {}", at(up))]);
                    }
                }
            }
        }
        if finding.check.examined == 0 {
            finding.not_measured("the database was never away and back");
        }
        finding.done(format!("{worst:.2} times the baseline (limit {})", self.limits.statements_factor))
    }

    fn fills(&self) -> Check {
        let mut finding =
            Finding::new("H4", "a replica asks for the same thing once at a time", Class::Liveness);
        let mut fills: Vec<&Fill> = self.index.seen.fills.clone();
        fills.sort_by_key(|fill| (&fill.process, &fill.identity, fill.from_us, fill.at_us));
        let mut open: Option<&Fill> = None;
        for fill in fills {
            finding.examined(1);
            let same = open.filter(|open| open.process == fill.process && open.identity == fill.identity);
            if let Some(open) = same.filter(|open| fill.from_us < open.at_us) {
                let text =
                    format!("{} asked for {} again while it waited for it", fill.process, fill.identity);
                let line =
                    |fill: &Fill| format!("sent at {}, answered at {}", at(fill.from_us), at(fill.at_us));
                finding.violated(text, || vec![line(open), line(fill)]);
            }
            let longer = same.filter(|open| open.at_us > fill.at_us);
            open = Some(longer.unwrap_or(fill));
        }
        if finding.check.examined == 0 {
            finding.not_measured("nobody recorded reads that fill a cache");
        }
        let (found, examined) = (finding.check.violations, finding.check.examined);
        finding.done(format!("{found} of {examined} reads twice at a time"))
    }

    fn attempts(&self) -> Check {
        let mut finding = Finding::new("H5", "retries stay a small part of the traffic", Class::Liveness);
        let sum = |what| self.counts(what).iter().map(|count| count.count).sum::<u64>();
        let (requests, attempts) = (sum(Counted::Requests), sum(Counted::Attempts));
        finding.examined(requests);
        let ratio = attempts as f64 / requests.max(1) as f64;
        let limit = self.limits.attempts_per_request_max;
        let text =
            format!("{attempts} attempts at the servers for {requests} requests ({ratio:.3}, limit {limit})");
        if requests == 0 {
            finding.not_measured("nobody counted requests and attempts");
        } else if ratio > limit {
            finding.violated(text.clone(), Vec::new);
        }
        finding.done(text)
    }
}

/// The most in any second, when it began, and the largest bin in it. The counts stand in the order of their time.
fn busiest(counts: &[&Count]) -> Option<(u64, u64, u64)> {
    let mut most: Option<(u64, u64, u64)> = None;
    let (mut sum, mut first) = (0, 0);
    for (place, count) in counts.iter().enumerate() {
        sum += count.count;
        while let Some(oldest) =
            counts.get(first).filter(|oldest| oldest.from_us + SECOND_US <= count.from_us)
        {
            sum -= oldest.count;
            first += 1;
        }
        if most.is_none_or(|(known, ..)| sum > known) {
            let span = counts.get(first..=place).unwrap_or_default();
            let mut bins: Map<u64, u64> = Map::new();
            span.iter().for_each(|count| *bins.entry(count.from_us).or_default() += count.count);
            let bin = bins.values().max().copied().unwrap_or(0);
            most = Some((sum, span.first().map_or(0, |count| count.from_us), bin));
        }
    }
    most
}

/// So many per second in this time, from the spans that lie wholly in it.
fn rate(counts: &[&Count], from_us: u64, until_us: u64) -> Option<f64> {
    let inside: Vec<&&Count> =
        counts.iter().filter(|count| count.from_us >= from_us && count.at_us <= until_us).collect();
    let from = inside.iter().map(|count| count.from_us).min()?;
    let until = inside.iter().map(|count| count.at_us).max()?;
    let sum: u64 = inside.iter().map(|count| count.count).sum();
    (until - from >= BASELINE_US_MIN).then(|| sum as f64 * 1e6 / (until - from) as f64)
}
