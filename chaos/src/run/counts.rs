//! What each server did at the database, as the proxies on its way counted it, written into the history when a run is over.
//! It judges none of it.

use std::time::Duration;

use tokio::time::Instant;

use crate::history::{Count, Counted, Event, Recorder};
use crate::stack::Stack;

/// As finely as a rush is looked for.
const CONNECTS_BIN: Duration = Duration::from_millis(50);
/// Fine enough for the short time before the first fault.
const STATEMENTS_BIN: Duration = Duration::from_millis(250);

/// Records all counts from the beginning of the load on; nothing where no proxy stands between.
pub(super) fn record(stack: &Stack, recorder: &Recorder, start: Instant) {
    let until = Instant::now();
    for line in stack.equipment().lines() {
        let Some(proxy) = line.messages() else { continue };
        let tell = |what, bin: Duration, (place, count): (u32, u64)| {
            let from = start + bin * place;
            recorder.record(Event::Count(Count {
                what,
                process: line.server().to_owned(),
                from_us: recorder.us_of(from),
                at_us: recorder.us_of(from + bin),
                count,
            }));
        };
        let connects = bins(&proxy.arrivals(), start, until, CONNECTS_BIN);
        // Of connections a span with none may be left out, as long as one line shows that somebody looked.
        let told = connects.into_iter().filter(|(place, count)| *place == 0 || *count > 0);
        told.for_each(|bin| tell(Counted::Connects, CONNECTS_BIN, bin));
        let statements = bins(&proxy.statements(), start, until, STATEMENTS_BIN);
        statements.into_iter().for_each(|bin| tell(Counted::Statements, STATEMENTS_BIN, bin));
    }
}

/// How many of these moments fall into each span of this length, from `start` to the last whole one before `until`.
fn bins(moments: &[Instant], start: Instant, until: Instant, bin: Duration) -> Vec<(u32, u64)> {
    let place = |at: Instant| {
        let since = at.checked_duration_since(start)?;
        u32::try_from(since.as_nanos() / bin.as_nanos().max(1)).ok()
    };
    let mut bins: Vec<(u32, u64)> = (0..place(until).unwrap_or(0)).map(|place| (place, 0)).collect();
    for at in moments {
        let slot = place(*at).and_then(|place| usize::try_from(place).ok());
        if let Some((_, count)) = slot.and_then(|slot| bins.get_mut(slot)) {
            *count += 1;
        }
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_counted_in_whole_spans_from_the_beginning_of_the_load() {
        let start = Instant::now() + Duration::from_secs(1);
        let at = |millis| start + Duration::from_millis(millis);
        let early = start - Duration::from_millis(1);
        let moments = [early, at(0), at(49), at(50), at(149), at(160)];
        let found = bins(&moments, start, at(160), CONNECTS_BIN);
        assert_eq!(found, [(0, 2), (1, 1), (2, 1)], "what is not a whole span is left out");
        assert_eq!(bins(&moments, start, start, CONNECTS_BIN), []);
    }
}
