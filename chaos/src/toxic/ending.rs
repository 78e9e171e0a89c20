//! The toxics that end connections, or delay their end: `slow_close`, `timeout`, `reset_peer`, `limit_data`.

use std::time::Duration;

use crate::toxic::kind::{LimitData, ResetPeer, SlowClose, Timeout};
use crate::toxic::rule::{Context, Head, Rule, Step, Stop, millis, once_due};

/// `slow_close`.
#[derive(Debug)]
pub(super) struct Ended {
    delay: Duration,
}

impl Ended {
    pub(super) fn new(attributes: &SlowClose) -> Self {
        Self { delay: millis(attributes.delay) }
    }
}

impl Rule for Ended {
    fn judge(&mut self, head: Head, context: &mut Context<'_>) -> Step {
        match head {
            Head::Empty => Step::Wait(None),
            Head::Data { .. } => Step::Pass,
            Head::End { arrived } => once_due(arrived + self.delay, context.now, Step::Pass),
        }
    }
}

/// `timeout`.
#[derive(Debug)]
pub(super) struct Silenced {
    timeout: Option<Duration>,
}

impl Silenced {
    pub(super) fn new(attributes: &Timeout) -> Self {
        Self { timeout: (attributes.timeout > 0).then(|| millis(attributes.timeout)) }
    }
}

impl Rule for Silenced {
    fn judge(&mut self, head: Head, context: &mut Context<'_>) -> Step {
        let due = self.timeout.map(|timeout| context.since + timeout);
        match head {
            _ if due.is_some_and(|due| context.now >= due) => Step::Stop(Stop::Close),
            Head::Empty => Step::Wait(due),
            Head::Data { .. } => Step::Drop,
            Head::End { .. } => Step::Pass,
        }
    }
}

/// `reset_peer`.
#[derive(Debug)]
pub(super) struct Reset {
    timeout: Duration,
}

impl Reset {
    pub(super) fn new(attributes: &ResetPeer) -> Self {
        Self { timeout: millis(attributes.timeout) }
    }
}

impl Rule for Reset {
    fn judge(&mut self, head: Head, context: &mut Context<'_>) -> Step {
        match head {
            // A connection that says nothing is not looked at, so that one can be opened and then lost.
            Head::Empty => Step::Wait(None),
            Head::Data { arrived, .. } | Head::End { arrived } => {
                // What waits since before the toxic came counts from its coming.
                once_due(arrived.max(context.since) + self.timeout, context.now, Step::Stop(Stop::Reset))
            }
        }
    }
}

/// `limit_data`.
#[derive(Debug)]
pub(super) struct Limited {
    bytes: u64,
}

impl Limited {
    pub(super) fn new(attributes: &LimitData) -> Self {
        Self { bytes: u64::try_from(attributes.bytes).unwrap_or(0) }
    }
}

impl Rule for Limited {
    fn judge(&mut self, head: Head, context: &mut Context<'_>) -> Step {
        let left = usize::try_from(self.bytes.saturating_sub(context.passed)).unwrap_or(usize::MAX);
        match head {
            Head::End { .. } => Step::Pass,
            // With a limit of nothing the connection lives until somebody speaks.
            Head::Empty if left > 0 || context.passed == 0 => Step::Wait(None),
            Head::Data { bytes, .. } if bytes <= left => Step::Pass,
            Head::Data { .. } if left > 0 => Step::Part(left),
            Head::Empty | Head::Data { .. } => Step::Stop(Stop::Close),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::toxic::rule::ask;

    const CLOSE: Step = Step::Stop(Stop::Close);
    const RESET: Step = Step::Stop(Stop::Reset);

    #[test]
    fn slow_close_delays_the_end_and_no_data() {
        let start = Instant::now();
        let due = start + Duration::from_millis(300);
        let mut rule = Ended::new(&SlowClose { delay: 300 });
        assert_eq!(ask(&mut rule, Head::Data { bytes: 1, arrived: start }, start, start, 0), Step::Pass);
        let end = Head::End { arrived: start };
        assert_eq!(ask(&mut rule, end, start, start, 0), Step::Wait(Some(due)));
        assert_eq!(ask(&mut rule, end, start, due, 0), Step::Pass);
    }

    #[test]
    fn timeout_drops_data_and_closes_when_it_is_over() {
        let start = Instant::now();
        let due = start + Duration::from_millis(300);
        let data = Head::Data { bytes: 1, arrived: start };
        let mut rule = Silenced::new(&Timeout { timeout: 300 });
        assert_eq!(ask(&mut rule, Head::Empty, start, start, 0), Step::Wait(Some(due)));
        // Data that keeps coming does not put the close off.
        assert_eq!(ask(&mut rule, data, start, due - Duration::from_millis(1), 0), Step::Drop);
        assert_eq!(ask(&mut rule, Head::Empty, start, due, 0), CLOSE);
        assert_eq!(ask(&mut rule, data, start, due, 0), CLOSE);

        let mut forever = Silenced::new(&Timeout { timeout: 0 });
        let later = start + Duration::from_secs(86_400);
        assert_eq!(ask(&mut forever, Head::Empty, start, later, 0), Step::Wait(None));
        assert_eq!(ask(&mut forever, data, start, later, 0), Step::Drop);
        assert_eq!(ask(&mut forever, Head::End { arrived: start }, start, later, 0), Step::Pass);
    }

    #[test]
    fn reset_waits_for_data_and_then_for_its_timeout() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let data = Head::Data { bytes: 1, arrived: at(50) };
        let mut rule = Reset::new(&ResetPeer { timeout: 100 });
        assert_eq!(ask(&mut rule, Head::Empty, start, at(900), 0), Step::Wait(None));
        assert_eq!(ask(&mut rule, data, start, at(50), 0), Step::Wait(Some(at(150))));
        assert_eq!(ask(&mut rule, data, start, at(150), 0), RESET);
        assert_eq!(ask(&mut Reset::new(&ResetPeer { timeout: 0 }), data, start, at(50), 0), RESET);
        assert_eq!(ask(&mut rule, Head::End { arrived: at(0) }, start, at(100), 0), RESET);
    }

    #[test]
    fn the_limit_counts_bytes_and_closes_behind_the_last_one() {
        let now = Instant::now();
        let data = |bytes| Head::Data { bytes, arrived: now };
        let mut rule = Limited::new(&LimitData { bytes: 100 });
        assert_eq!(ask(&mut rule, data(90), now, now, 0), Step::Pass);
        assert_eq!(ask(&mut rule, Head::Empty, now, now, 90), Step::Wait(None));
        assert_eq!(ask(&mut rule, data(20), now, now, 90), Step::Part(10));
        assert_eq!(ask(&mut rule, data(10), now, now, 100), CLOSE);
        assert_eq!(ask(&mut rule, Head::Empty, now, now, 100), CLOSE);

        let mut nothing = Limited::new(&LimitData { bytes: 0 });
        assert_eq!(ask(&mut nothing, Head::Empty, now, now, 0), Step::Wait(None));
        assert_eq!(ask(&mut nothing, data(1), now, now, 0), CLOSE);
    }
}
