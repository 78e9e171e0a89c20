//! The latency strip: for each column of the band, how many of its requests took how long. A class of latency is a row;
//! the more of the column's requests fall into it, the stronger its colour. Counts; draws nothing.

use crate::checker::{Answered, Band};
use crate::history::Load;

/// The upper bound of each row but the last, in microseconds: three to ten times the one before, so that eight rows
/// reach from a cache to a deadline.
const BOUNDS_US: [u64; 7] = [3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000];
/// Rows of the strip.
pub(crate) const ROWS: usize = BOUNDS_US.len() + 1;
/// A cell gets the first shade whose share it does not exceed.
const SHADES: [f64; 4] = [0.05, 0.2, 0.5, 0.8];
/// How many shades there are.
pub(crate) const SHADES_COUNT: usize = SHADES.len() + 1;

/// How many requests of each step fall into each row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heat {
    steps: Vec<[u64; ROWS]>,
}

impl Heat {
    /// Sorts what was sent, by the step in which it was planned. What never got an answer stands in the last row.
    pub(crate) fn of(answered: &[Answered], load: &Load, step_us: u64) -> Self {
        let length = load.until_us.saturating_sub(load.at_us).div_ceil(step_us).max(1);
        let mut steps = vec![[0; ROWS]; usize::try_from(length).unwrap_or(1)];
        let last = steps.len() - 1;
        for one in answered {
            let step = usize::try_from(one.planned_us.saturating_sub(load.at_us) / step_us).unwrap_or(last);
            let cell = steps.get_mut(step.min(last)).and_then(|rows| rows.get_mut(row(one)));
            if let Some(cell) = cell {
                *cell += 1;
            }
        }
        Self { steps }
    }

    /// The cells that hold anything: step, row, shade. The shades begin at 0, the faintest.
    pub(crate) fn cells(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        self.steps.iter().enumerate().flat_map(|(step, rows)| {
            let all: u64 = rows.iter().sum();
            rows.iter().enumerate().filter(|(_, many)| **many > 0).map(move |(row, many)| {
                let share = *many as f64 / all as f64;
                (step, row, SHADES.iter().position(|bound| share <= *bound).unwrap_or(SHADES.len()))
            })
        })
    }
}

fn row(one: &Answered) -> usize {
    let took_us = one.ended_us.map(|ended| ended.saturating_sub(one.planned_us));
    match (one.band, took_us) {
        (Band::NoAnswer | Band::NeverSent, _) | (_, None) => BOUNDS_US.len(),
        (_, Some(us)) => BOUNDS_US.iter().position(|bound| us < *bound).unwrap_or(BOUNDS_US.len()),
    }
}

/// The lower bound of a row in words.
pub(crate) fn label(row: usize) -> &'static str {
    ["0", "3 ms", "10 ms", "30 ms", "100 ms", "300 ms", "1 s", "3 s"].get(row).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(planned_ms: u64, took_ms: Option<u64>, band: Band) -> Answered {
        let ended_us = took_ms.map(|took| (planned_ms + took) * 1_000);
        Answered { planned_us: planned_ms * 1_000, ended_us, write: false, band }
    }

    #[test]
    fn a_request_stands_in_the_step_it_was_planned_for_and_the_row_of_its_latency() {
        let load = Load { at_us: 0, until_us: 200_000, reads: 4, writes: 0 };
        let answered = [
            one(0, Some(1), Band::Fresh),
            one(50, Some(400), Band::Stale),
            one(150, None, Band::NoAnswer),
            // Given up at its deadline: that it ended then says nothing about how long its answer would have taken.
            one(150, Some(20), Band::NoAnswer),
        ];
        let heat = Heat::of(&answered, &load, 100_000);
        let cells: Vec<_> = heat.cells().collect();
        assert_eq!(cells, [(0, 0, 2), (0, 5, 2), (1, 7, 4)]);
        assert_eq!((label(5), label(ROWS - 1)), ("300 ms", "3 s"));
    }

    #[test]
    fn a_rare_slow_request_has_the_faintest_shade_and_is_still_seen() {
        let load = Load { at_us: 0, until_us: 100_000, reads: 100, writes: 0 };
        let mut answered = vec![one(0, Some(1), Band::Fresh); 99];
        answered.push(one(0, Some(5_000), Band::Fresh));
        let heat = Heat::of(&answered, &load, 100_000);
        assert_eq!(heat.cells().collect::<Vec<_>>(), [(0, 0, 4), (0, 7, 0)]);
    }
}
