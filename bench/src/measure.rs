//! How something is measured here: contenders take turns in every round, and what counts is the ratio within one run.
//!
//! It knows nothing of what is measured, and judges nothing.

use std::{
    fmt::Write as _,
    sync::Barrier,
    time::{Duration, Instant},
};

/// One way of doing the thing that is compared.
pub struct Contender {
    name: &'static str,
    /// One round; answers the figure.
    run: Box<dyn FnMut() -> f64>,
    figures: Vec<f64>,
}

/// Contenders for one figure. The first is ours, and the others are shown in relation to it.
pub struct Comparison {
    title: String,
    unit: &'static str,
    contenders: Vec<Contender>,
}

impl Comparison {
    /// A comparison of figures in `unit`.
    pub fn new(title: impl Into<String>, unit: &'static str) -> Self {
        Self { title: title.into(), unit, contenders: Vec::new() }
    }

    /// Adds a contender.
    #[must_use]
    pub fn with(mut self, name: &'static str, run: impl FnMut() -> f64 + 'static) -> Self {
        self.contenders.push(Contender { name, run: Box::new(run), figures: Vec::new() });
        self
    }

    /// Runs `rounds` rounds after one that does not count; in every second round the order is turned round, so that
    /// nobody always goes first. Answers the table.
    pub fn run(mut self, rounds: usize) -> String {
        for round in 0..=rounds {
            let order: Vec<usize> = match round % 2 {
                0 => (0..self.contenders.len()).collect(),
                _ => (0..self.contenders.len()).rev().collect(),
            };
            for index in order {
                let contender = &mut self.contenders[index];
                let figure = (contender.run)();
                if round > 0 {
                    contender.figures.push(figure);
                }
            }
        }
        self.table()
    }

    fn table(self) -> String {
        let mut text = format!("{}\n", self.title);
        let ours = self.contenders.first().map_or(f64::NAN, |first| median(&first.figures));
        for contender in &self.contenders {
            let Contender { name, figures, .. } = contender;
            let (least, most) = figures.iter().fold((f64::MAX, f64::MIN), |(a, b), &x| (a.min(x), b.max(x)));
            let middle = median(figures);
            let _ = writeln!(
                text,
                "  {name:<44} {middle:>10.1} {}  ({least:.1} to {most:.1})  {:>6.2} of ours",
                self.unit,
                middle / ours
            );
        }
        text
    }
}

/// Time of the processors that this process has used.
pub fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// The middle figure.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Nanoseconds for one call, with `threads` threads calling `call` at once, `calls` times each. `call` is a type of its
/// own for each contender, so that nothing stands between the loop and what is measured.
pub fn nanoseconds<F: Fn() + Sync>(threads: usize, calls: u32, call: &F) -> f64 {
    let barrier = Barrier::new(threads);
    let took: Vec<Duration> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    let started = Instant::now();
                    for _ in 0..calls {
                        call();
                    }
                    started.elapsed()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a measuring thread does not panic")).collect()
    });
    let slowest = took.into_iter().max().unwrap_or_default();
    slowest.as_nanos() as f64 / f64::from(calls)
}
