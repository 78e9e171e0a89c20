//! When something of a schedule is done: at a time of the load, or at an event and a time after it. Knows the text form;
//! who watches for the events is `run/course.rs`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A moment of a run. As text `4000 ms`, `fault 1 begun + 500 ms`, `canary down + 0 ms`, `journaled 50 + 0 ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// What it waits for.
    pub after: After,
    /// And how long from there.
    pub delay: Duration,
}

/// What a moment waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// The first planned request.
    Load,
    /// The fault with this number has taken hold.
    Begun(usize),
    /// The fault with this number is healed and its victim serves again.
    Healed(usize),
    /// The canary failed, for the first time since the load began.
    CanaryDown,
    /// The canary committed again after it had failed.
    CanaryUp,
    /// So many writes of the load were acknowledged as committed.
    Committed(u64),
    /// So many writes of the load were acknowledged from a journal.
    Journaled(u64),
}

impl Moment {
    /// So long after the first planned request.
    #[must_use]
    pub fn at(delay: Duration) -> Self {
        Self { after: After::Load, delay }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.after {
            After::Load => {}
            After::Begun(number) => write!(out, "fault {number} begun + ")?,
            After::Healed(number) => write!(out, "fault {number} healed + ")?,
            After::CanaryDown => write!(out, "canary down + ")?,
            After::CanaryUp => write!(out, "canary up + ")?,
            After::Committed(count) => write!(out, "committed {count} + ")?,
            After::Journaled(count) => write!(out, "journaled {count} + ")?,
        }
        write!(out, "{} ms", self.delay.as_millis())
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no moment; `4000 ms`, `fault 1 begun + 500 ms`, `fault 1 healed + 0 ms`, \
                 `canary down + 0 ms`, `canary up + 0 ms`, `committed 50 + 0 ms` and `journaled 50 + 0 ms` are"
            )
        };
        let (event, delay) = match text.split_once(" + ") {
            Some((event, delay)) => (Some(event), delay),
            None => (None, text),
        };
        let millis = delay.strip_suffix(" ms").and_then(|number| number.parse().ok()).ok_or_else(wrong)?;
        let after = match event.map(|event| event.split(' ').collect::<Vec<_>>()).as_deref() {
            None => Some(After::Load),
            Some(["fault", number, "begun"]) => number.parse().ok().map(After::Begun),
            Some(["fault", number, "healed"]) => number.parse().ok().map(After::Healed),
            Some(["canary", "down"]) => Some(After::CanaryDown),
            Some(["canary", "up"]) => Some(After::CanaryUp),
            Some(["committed", count]) => count.parse().ok().map(After::Committed),
            Some(["journaled", count]) => count.parse().ok().map(After::Journaled),
            Some(_) => None,
        };
        Ok(Self { after: after.ok_or_else(wrong)?, delay: Duration::from_millis(millis) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_is_read_as_it_is_written() {
        let all = [
            After::Load,
            After::Begun(2),
            After::Healed(3),
            After::CanaryDown,
            After::CanaryUp,
            After::Committed(4),
            After::Journaled(5),
        ];
        for after in all {
            let moment = Moment { after, delay: Duration::from_millis(1_500) };
            assert_eq!(moment.to_string().parse(), Ok(moment));
        }
    }

    #[test]
    fn nonsense_is_refused_with_what_is_understood() {
        for text in ["", "4000", "4 s", "fault x begun + 1 ms", "canary + 1 ms", "noon + 1 ms", "-1 ms"] {
            let error = text.parse::<Moment>().unwrap_err();
            assert!(error.contains("canary down"), "{error}");
        }
    }
}
