//! From the results of one probe to what is believed: only so many equal results in a row change it. It sends nothing
//! and knows no clock.

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Has it finished starting?
    Startup,
    /// Would a restart help?
    Liveness,
    /// Is sending it traffic better than sending it none?
    Readiness,
}

/// How many equal results in a row are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Failures. Kubernetes' default is 3.
    pub failures: u32,
    /// Successes; 1 where it is not about readiness.
    pub successes: u32,
}

/// One probe of one container.
#[derive(Debug, Clone)]
pub struct Worker {
    thresholds: Thresholds,
    /// What is believed; nothing before the first result of a startup probe.
    belief: Option<bool>,
    last: bool,
    run: u32,
    /// Condemned: no result changes anything before there is a new container.
    on_hold: bool,
    kind: Kind,
}

impl Worker {
    /// Of a new container: it is alive, not ready, and nobody knows whether it has started.
    #[must_use]
    pub fn new(kind: Kind, thresholds: Thresholds) -> Self {
        let belief = match kind {
            Kind::Startup => None,
            Kind::Liveness => Some(true),
            Kind::Readiness => Some(false),
        };
        Self { thresholds, belief, last: false, run: 0, on_hold: false, kind }
    }

    /// Takes one result in; gives what is believed from now on where that is new.
    pub fn take(&mut self, is_good: bool) -> Option<bool> {
        if self.on_hold {
            return None;
        }
        self.run = if self.run > 0 && self.last == is_good { self.run.saturating_add(1) } else { 1 };
        self.last = is_good;
        let Thresholds { failures, successes } = self.thresholds;
        let needed = if is_good { successes } else { failures };
        if self.run < needed || self.belief == Some(is_good) {
            return None;
        }
        self.belief = Some(is_good);
        self.on_hold = !is_good && self.kind != Kind::Readiness;
        self.belief
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is believed after each result: `+` or `-` where that is new, `.` where it is not.
    fn told(kind: Kind, failures: u32, successes: u32, results: &str) -> String {
        let mut worker = Worker::new(kind, Thresholds { failures, successes });
        let told = |result| match worker.take(result == '+') {
            Some(true) => '+',
            Some(false) => '-',
            None => '.',
        };
        results.chars().map(told).collect()
    }

    #[test]
    fn only_so_many_equal_results_in_a_row_change_what_is_believed() {
        for (kind, failures, successes, results, expected) in [
            // Alive until three failures in a row; condemned once, whatever comes.
            (Kind::Liveness, 3, 1, "++--+--+---", "..........-"),
            (Kind::Liveness, 3, 1, "---+++---", "..-......"),
            (Kind::Liveness, 1, 1, "-", "-"),
            // Not ready at first, and then as often as it changes.
            (Kind::Readiness, 3, 1, "--+--+---+", "..+.....-+"),
            (Kind::Readiness, 2, 2, "+-++--", "...+.-"),
            (Kind::Readiness, 1, 1, "-+-+", ".+-+"),
            // Unknown at first.
            (Kind::Startup, 3, 1, "--+", "..+"),
            (Kind::Startup, 3, 1, "---+", "..-."),
        ] {
            assert_eq!(told(kind, failures, successes, results), expected, "{kind:?}: {results}");
        }
    }
}
