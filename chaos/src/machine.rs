//! How much of the machine was taken by programs that are no part of the run. Measured all the time, because a limit
//! in milliseconds means something else on a machine that somebody else uses as well.
//! It judges nothing; `checker/machine.rs` says what follows for a limit.

use std::time::Duration;

use tokio::time::Instant;

use crate::process::Table;

/// One measurement covers this. Shorter would be coarse: the kernel counts in hundredths of a second.
const EVERY: Duration = Duration::from_millis(500);

/// The use of the machine in a span of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Use {
    /// Its beginning.
    pub(crate) from: Instant,
    /// Its end.
    pub(crate) until: Instant,
    /// The share of all processors' time that other programs used, or a hypervisor gave to others, 0 to 1.
    pub(crate) others: f64,
}

/// Measures until it is dropped, and hands each measurement to `tell`. Where the kernel does not count, it waits
/// and tells nothing.
///
/// # Cancel safety
/// Dropping it loses the measurement under way.
pub(crate) async fn watch(mut tell: impl FnMut(Use)) {
    let mut last = (Instant::now(), Ticks::now());
    loop {
        tokio::time::sleep(EVERY).await;
        let now = (Instant::now(), Ticks::now());
        if let ((from, Some(before)), (until, Some(after))) = (last, now) {
            tell(Use { from, until, others: others(before, after) });
        }
        last = now;
    }
}

/// Processor time since boot, in the kernel's ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    /// All time of all processors, idle time included.
    all: u64,
    /// Spent in programs, or taken by the hypervisor. Interrupts belong to nobody and are left out.
    busy: u64,
    /// Spent in this process and its descendants, the reaped ones included.
    ours: u64,
}

impl Ticks {
    fn now() -> Option<Self> {
        let (all, busy) = parse(&std::fs::read_to_string("/proc/stat").ok()?)?;
        let table = Table::read();
        let own = std::process::id();
        let descendants = table.descendants([own]).into_iter();
        let ours = descendants
            .chain(table.entries().filter(|entry| entry.pid == own))
            .map(|entry| entry.ticks)
            .sum();
        Some(Self { all, busy, ours })
    }
}

fn others(before: Ticks, after: Ticks) -> f64 {
    let all = after.all.saturating_sub(before.all);
    let busy = after.busy.saturating_sub(before.busy);
    let ours = after.ours.saturating_sub(before.ours);
    if all == 0 {
        return 0.0;
    }
    (busy.saturating_sub(ours) as f64 / all as f64).clamp(0.0, 1.0)
}

/// The first line: `cpu user nice system idle iowait irq softirq steal …`.
fn parse(stat: &str) -> Option<(u64, u64)> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
    let fields: Vec<u64> = fields.take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    let [user, nice, system, idle, iowait, irq, softirq, steal] = fields.try_into().ok()?;
    let busy = user + nice + system + steal;
    Some((busy + idle + iowait + irq + softirq, busy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_ours_nor_idle_is_used_by_others() {
        let before = Ticks { all: 1_000, busy: 500, ours: 100 };
        let after = Ticks { all: 1_100, busy: 580, ours: 130 };
        assert!((others(before, after) - 0.5).abs() < 1e-9);
        // Counted at slightly different moments, our share can seem larger than all that was used.
        let after = Ticks { all: 1_100, busy: 520, ours: 130 };
        assert!(others(before, after).abs() < 1e-9);
    }

    #[test]
    fn the_kernel_s_line_is_read() {
        assert_eq!(parse("cpu  10 1 5 100 4 2 3 6 0 0\ncpu0 1 1"), Some((131, 22)));
        assert_eq!(parse("intr 5"), None);
    }

    #[test]
    fn our_own_work_is_ours() {
        let before = Ticks::now().unwrap();
        let mut sum = 0_u64;
        while Ticks::now().unwrap().ours < before.ours + 5 {
            sum = (0..1_000_000_u64).fold(sum, |sum, step| sum.wrapping_mul(31).wrapping_add(step));
        }
        assert!(sum != 1, "the work must not be left out");
    }
}
