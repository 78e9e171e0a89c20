//! What a limit in milliseconds becomes while other programs use the machine. Safety has no such limit; only checks
//! on time ask here.

use crate::history::Machine;

/// A share below this is the noise of an idle machine.
const OTHERS_MIN: f64 = 0.2;
/// A machine that leaves less than this to the run cannot tell anything about its speed.
const LEFT_MIN: f64 = 0.2;
/// A stall shows in answers up to this long after it.
const AFTER_US: u64 = 1_000_000;

/// By how much limits stretch in a span of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Stretch {
    /// By this factor, at least 1.
    By(f64),
    /// The machine was not there for the run.
    Unfit,
}

/// Looks the span up, with a second before it. Where nothing was measured, nothing stretches.
pub(crate) fn stretch(uses: &[&Machine], from_us: u64, until_us: u64) -> Stretch {
    let from_us = from_us.saturating_sub(AFTER_US);
    let touching = uses.iter().filter(|part| part.at_us >= from_us && part.from_us <= until_us);
    let others = touching.map(|part| part.others).fold(0.0, f64::max);
    if others < OTHERS_MIN {
        Stretch::By(1.0)
    } else if 1.0 - others < LEFT_MIN {
        Stretch::Unfit
    } else {
        // With half of the machine, the same work takes twice the time.
        Stretch::By(1.0 / (1.0 - others))
    }
}

/// For people: how much others used at the worst, where that mattered.
pub(crate) fn remark(uses: &[&Machine]) -> String {
    let worst = uses.iter().map(|part| part.others).fold(0.0, f64::max);
    if worst < OTHERS_MIN {
        return String::new();
    }
    format!(", stretched while other programs used up to {:.0} % of the machine", worst * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(from_us: u64, at_us: u64, others: f64) -> Machine {
        Machine { from_us, at_us, others }
    }

    #[test]
    fn an_idle_machine_stretches_nothing() {
        let uses = [used(0, 500_000, 0.19)];
        assert_eq!(stretch(&uses.iter().collect::<Vec<_>>(), 0, 500_000), Stretch::By(1.0));
        assert_eq!(stretch(&[], 0, 500_000), Stretch::By(1.0));
    }

    #[test]
    fn half_a_machine_doubles_a_limit_for_a_second_more() {
        let uses = [used(0, 500_000, 0.5), used(500_000, 1_000_000, 0.0)];
        let uses: Vec<&Machine> = uses.iter().collect();
        assert_eq!(stretch(&uses, 600_000, 700_000), Stretch::By(2.0));
        assert_eq!(stretch(&uses, 1_600_000, 1_700_000), Stretch::By(1.0));
    }

    #[test]
    fn a_machine_that_others_fill_tells_nothing() {
        let uses = [used(0, 500_000, 0.85)];
        assert_eq!(stretch(&uses.iter().collect::<Vec<_>>(), 0, 1), Stretch::Unfit);
    }
}
