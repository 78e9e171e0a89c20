//! The toxic `latency`: each piece of data waits from when it arrived. It does not reorder.

use tokio::time::Instant;

use crate::toxic::kind::Latency;
use crate::toxic::rule::{Context, Head, Rule, Step, millis, once_due};

/// A week of jitter is enough, and twice of it fits.
const JITTER_MAX: i64 = 7 * 24 * 60 * 60 * 1_000;

#[derive(Debug)]
pub(super) struct Delayed {
    latency: i64,
    jitter: i64,
    /// When the head may go on. Drawn once, when it is first seen.
    due: Option<Instant>,
}

impl Delayed {
    pub(super) fn new(attributes: &Latency) -> Self {
        Self { latency: attributes.latency, jitter: attributes.jitter.clamp(0, JITTER_MAX), due: None }
    }

    fn draw(&self, random: &mut fastrand::Rng) -> i64 {
        if self.jitter == 0 {
            return self.latency;
        }
        self.latency.saturating_add(random.i64(-self.jitter..=self.jitter))
    }
}

impl Rule for Delayed {
    fn judge(&mut self, head: Head, context: &mut Context<'_>) -> Step {
        let arrived = match head {
            Head::Empty => return Step::Wait(None),
            // Behind its data it is late enough.
            Head::End { .. } => return Step::Pass,
            Head::Data { arrived, .. } => arrived,
        };
        let due = match self.due {
            Some(due) => due,
            None => arrived + millis(self.draw(context.random)),
        };
        let step = once_due(due, context.now, Step::Pass);
        self.due = (step != Step::Pass).then_some(due);
        step
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::toxic::rule::ask;

    #[test]
    fn data_waits_from_its_arrival_and_the_end_does_not() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut rule = Delayed::new(&Latency { latency: 100, jitter: 0 });
        let data = Head::Data { bytes: 5, arrived: at(10) };
        assert_eq!(ask(&mut rule, data, start, at(50), 0), Step::Wait(Some(at(110))));
        assert_eq!(ask(&mut rule, data, start, at(110), 0), Step::Pass);
        assert_eq!(ask(&mut rule, Head::End { arrived: at(10) }, start, at(10), 0), Step::Pass);
        assert_eq!(ask(&mut rule, Head::Empty, start, at(10), 0), Step::Wait(None));
    }

    #[test]
    fn jitter_goes_to_both_sides_and_is_drawn_once_for_each_piece() {
        let start = Instant::now();
        let mut rule = Delayed::new(&Latency { latency: 100, jitter: 20 });
        let mut random = fastrand::Rng::with_seed(1);
        let mut waits = Vec::new();
        for _ in 0..200 {
            let head = Head::Data { bytes: 1, arrived: start };
            let mut judge = |now| {
                let context = &mut Context { now, since: start, passed: 0, random: &mut random };
                rule.judge(head, context)
            };
            let Step::Wait(Some(due)) = judge(start) else { panic!("no wait") };
            assert_eq!(judge(start), Step::Wait(Some(due)), "the same wait when asked again");
            assert_eq!(judge(due), Step::Pass);
            waits.push((due - start).as_millis());
        }
        assert!(waits.iter().all(|wait| (80..=120).contains(wait)), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait < 90) && waits.iter().any(|wait| *wait > 110), "{waits:?}");
    }

    #[test]
    fn absurd_numbers_overflow_nothing() {
        let start = Instant::now();
        let head = Head::Data { bytes: 1, arrived: start };
        for (latency, jitter) in [(i64::MAX, i64::MAX), (i64::MIN, 1), (-5, -5)] {
            let mut rule = Delayed::new(&Latency { latency, jitter });
            let step = ask(&mut rule, head, start, start, 0);
            assert_eq!(step == Step::Pass, latency < 0, "{latency} {jitter}");
        }
    }
}
