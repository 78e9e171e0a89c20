//! The toxic `slicer`: data is cut into small packets, with a pause after each. It keeps all bytes and their order.

use std::time::Duration;

use tokio::time::Instant;

use crate::toxic::kind::Slicer;
use crate::toxic::rule::{Context, Head, Rule, Step, micros, once_due};

#[derive(Debug)]
pub(super) struct Sliced {
    average: i64,
    variation: i64,
    pause: Duration,
    /// Parts of the head that are still to be cut or sent, the next one last. It halves what it cuts, so it is short.
    parts: Vec<i64>,
    /// No packet before then.
    next: Option<Instant>,
}

impl Sliced {
    pub(super) fn new(attributes: &Slicer) -> Self {
        Self {
            average: attributes.average_size.max(1),
            variation: attributes.size_variation.max(0),
            pause: micros(attributes.delay),
            parts: Vec::new(),
            next: None,
        }
    }

    /// The length of the next packet of what is left of the head, at least 1.
    fn cut(&mut self, bytes: i64, random: &mut fastrand::Rng) -> i64 {
        let mut part = self.parts.pop().unwrap_or(bytes);
        // In halves, so that no end of the data gets all the small or large packets.
        while part - self.average > self.variation {
            let shift = if self.variation == 0 { 0 } else { random.i64(-self.variation..self.variation) };
            let half = (part / 2).saturating_add(shift).clamp(1, part - 1);
            self.parts.push(part - half);
            part = half;
        }
        part
    }
}

impl Rule for Sliced {
    fn judge(&mut self, head: Head, context: &mut Context<'_>) -> Step {
        let bytes = match head {
            Head::Empty => return Step::Wait(None),
            Head::End { .. } => return Step::Pass,
            Head::Data { bytes, .. } => bytes,
        };
        if let Some(next) = self.next
            && let wait @ Step::Wait(_) = once_due(next, context.now, Step::Pass)
        {
            return wait;
        }
        self.next = (!self.pause.is_zero()).then(|| context.now + self.pause);
        let cut = self.cut(i64::try_from(bytes).unwrap_or(i64::MAX), context.random);
        match usize::try_from(cut) {
            Ok(cut) if cut < bytes => Step::Part(cut),
            _ => Step::Pass,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slices(attributes: &Slicer, bytes: usize, seed: u64) -> Vec<usize> {
        let now = Instant::now();
        let mut rule = Sliced::new(attributes);
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut left, mut sizes) = (bytes, Vec::new());
        while left > 0 {
            let head = Head::Data { bytes: left, arrived: now };
            let size =
                match rule.judge(head, &mut Context { now, since: now, passed: 0, random: &mut random }) {
                    Step::Pass => left,
                    Step::Part(size) => size,
                    other => panic!("{other:?}"),
                };
            sizes.push(size);
            left -= size;
        }
        assert!(rule.parts.is_empty(), "what is cut is all of the head");
        sizes
    }

    #[test]
    fn packets_of_one_byte_are_of_one_byte() {
        for average_size in [1, 0, -4] {
            let attributes = Slicer { average_size, ..Slicer::default() };
            assert_eq!(slices(&attributes, 1_000, 1), vec![1; 1_000]);
        }
    }

    #[test]
    fn packets_vary_around_the_average_and_a_seed_repeats_them() {
        let attributes = Slicer { average_size: 100, size_variation: 20, delay: 0 };
        let sizes = slices(&attributes, 10_000, 3);
        assert_eq!(sizes.iter().sum::<usize>(), 10_000);
        assert!(sizes.iter().all(|size| *size <= 120), "{sizes:?}");
        assert!(sizes.iter().any(|size| *size != sizes[0]));
        assert_eq!(slices(&attributes, 10_000, 3), sizes);
        assert_ne!(slices(&attributes, 10_000, 4), sizes);
    }

    #[test]
    fn a_variation_beyond_the_average_still_cuts_whole_bytes() {
        for variation in [500, i64::MAX] {
            let attributes = Slicer { average_size: 10, size_variation: variation, delay: 0 };
            assert_eq!(slices(&attributes, 5_000, 5).iter().sum::<usize>(), 5_000);
        }
    }

    #[test]
    fn there_is_a_pause_after_each_packet() {
        let start = Instant::now();
        let mut rule = Sliced::new(&Slicer { average_size: 1, size_variation: 0, delay: 1_500 });
        let due = start + Duration::from_micros(1_500);
        let mut judge = |bytes, now| {
            let random = &mut fastrand::Rng::with_seed(1);
            let head = Head::Data { bytes, arrived: start };
            rule.judge(head, &mut Context { now, since: start, passed: 0, random })
        };
        assert_eq!(judge(2, start), Step::Part(1));
        assert_eq!(judge(1, start), Step::Wait(Some(due)));
        assert_eq!(judge(1, due), Step::Pass);
    }
}
