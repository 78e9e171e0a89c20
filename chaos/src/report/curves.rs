//! The curves below the lanes: what waited in the journals, how many connections the servers held, and how often they
//! tried to open one. Turns what was observed into numbers per step; draws nothing, and has no curve for what nobody
//! told.

use std::collections::BTreeMap;

use crate::history::{Count, Counted, Event, ServerState};

/// A server that said nothing for so long is not counted with what it said last.
const SILENCE_MAX_US: u64 = 1_000_000;
/// Attempts are counted per second: fewer of them than that have no shape.
const ATTEMPTS_STEP_US: u64 = 1_000_000;

/// A number over time, all servers together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Curve {
    pub(crate) name: &'static str,
    /// Length of a step.
    pub(crate) step_us: u64,
    /// One number a step, from the beginning of the picture.
    pub(crate) values: Vec<u64>,
}

impl Curve {
    pub(crate) fn max(&self) -> u64 {
        self.values.iter().copied().max().unwrap_or(0)
    }
}

/// What one server said, by time.
type Said<'a> = BTreeMap<&'a str, Vec<(u64, u64)>>;

/// The curves of a run, cut to this time. `step_us` is the step of those that show a level.
pub(crate) fn all(events: &[Event], from_us: u64, until_us: u64, step_us: u64) -> Vec<Curve> {
    let frame = Frame { from_us, until_us };
    let level = |name, said: &Said<'_>| Curve { name, step_us, values: frame.levels(said, step_us) };
    let mut curves = Vec::new();
    let journals = said(events, journal_entries);
    if !journals.is_empty() {
        curves.push(level("in journals", &journals));
    }
    let connections = said(events, |event| match event {
        Event::ServerState(state) => Some((&state.process, state.at_us, state.connections?)),
        _ => None,
    });
    if !connections.is_empty() {
        curves.push(level("connections", &connections));
    }
    curves.extend(frame.attempts(events));
    curves
}

fn journal_entries(event: &Event) -> Option<(&str, u64, u64)> {
    match event {
        Event::ServerState(ServerState { process, at_us, journal_entries, .. }) => {
            Some((process, *at_us, (*journal_entries)?))
        }
        Event::Usage(usage) => Some((&usage.process, usage.at_us, usage.journal_entries?)),
        Event::Journal(journal) => Some((&journal.process, journal.at_us, journal.entries)),
        _ => None,
    }
}

fn said<'a>(events: &'a [Event], read: impl Fn(&'a Event) -> Option<(&'a str, u64, u64)>) -> Said<'a> {
    let mut said: Said<'a> = BTreeMap::new();
    for (process, at_us, value) in events.iter().filter_map(read) {
        said.entry(process).or_default().push((at_us, value));
    }
    said.values_mut().for_each(|looks| looks.sort_unstable());
    said
}

struct Frame {
    from_us: u64,
    until_us: u64,
}

impl Frame {
    fn steps(&self, step_us: u64) -> usize {
        let length = self.until_us.saturating_sub(self.from_us).div_ceil(step_us).max(1);
        usize::try_from(length).unwrap_or(1)
    }

    /// For each step, the sum of what each server had said last by its end.
    fn levels(&self, said: &Said<'_>, step_us: u64) -> Vec<u64> {
        let mut values = vec![0_u64; self.steps(step_us)];
        for looks in said.values() {
            let mut next = 0;
            for (step, value) in values.iter_mut().enumerate() {
                let end_us = self.from_us + (step as u64 + 1) * step_us;
                while looks.get(next).is_some_and(|(at_us, _)| *at_us <= end_us) {
                    next += 1;
                }
                let last = next.checked_sub(1).and_then(|last| looks.get(last));
                if let Some((_, entries)) = last.filter(|(at_us, _)| at_us + SILENCE_MAX_US >= end_us) {
                    *value += entries;
                }
            }
        }
        values
    }

    /// Attempts to connect in each second: as a proxy before the database counted them, else as the servers did.
    fn attempts(&self, events: &[Event]) -> Option<Curve> {
        let counted: Vec<(u64, u64)> = events
            .iter()
            .filter_map(|event| match event {
                Event::Count(Count { what: Counted::Connects, from_us, count, .. }) => {
                    Some((*from_us, *count))
                }
                _ => None,
            })
            .collect();
        let told = if counted.is_empty() { rises(events) } else { counted };
        if told.is_empty() {
            return None;
        }
        let mut values = vec![0_u64; self.steps(ATTEMPTS_STEP_US)];
        for (at_us, count) in told {
            let step = at_us.checked_sub(self.from_us).map(|us| us / ATTEMPTS_STEP_US);
            let slot = step.and_then(|step| values.get_mut(usize::try_from(step).ok()?));
            if let Some(slot) = slot {
                *slot += count;
            }
        }
        Some(Curve { name: "connects per s", step_us: ATTEMPTS_STEP_US, values })
    }
}

/// By how much each server's counter rose from one look to the next; a counter that fell began anew with its process.
fn rises(events: &[Event]) -> Vec<(u64, u64)> {
    let counters = said(events, |event| match event {
        Event::ServerState(state) => Some((&state.process, state.at_us, state.connect_attempts?)),
        _ => None,
    });
    let of_server = |looks: &Vec<(u64, u64)>| -> Vec<(u64, u64)> {
        let pairs = looks.windows(2).filter_map(|pair| match pair {
            [(_, before), (at_us, after)] => Some((*at_us, after.checked_sub(*before).unwrap_or(*after))),
            _ => None,
        });
        pairs.collect()
    };
    counters.values().flat_map(of_server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(process: &str, at_ms: u64, entries: u64, attempts: u64) -> Event {
        Event::ServerState(ServerState {
            process: process.into(),
            at_us: at_ms * 1_000,
            journal_entries: Some(entries),
            connect_attempts: Some(attempts),
            ..ServerState::default()
        })
    }

    #[test]
    fn servers_are_added_up_and_one_that_fell_silent_is_left_out() {
        let events = [state("a", 50, 3, 0), state("b", 60, 4, 0), state("b", 1_500, 5, 0)];
        let curves = all(&events, 0, 2_000_000, 500_000);
        assert_eq!((curves[0].name, &curves[0].values), ("in journals", &vec![7, 7, 5, 5]));
        assert_eq!(curves[0].max(), 7);
        assert!(!curves.iter().any(|curve| curve.name == "connections"), "nobody told");
    }

    #[test]
    fn attempts_are_the_rises_of_each_counter_and_a_restart_is_no_fall() {
        let events =
            [state("a", 0, 0, 10), state("a", 500, 0, 13), state("a", 1_200, 0, 2), state("b", 900, 0, 50)];
        let curves = all(&events, 0, 2_000_000, 500_000);
        let attempts = curves.iter().find(|curve| curve.name == "connects per s").unwrap();
        assert_eq!(attempts.values, [3, 2]);
    }

    #[test]
    fn what_a_proxy_counted_outranks_what_the_servers_say() {
        let count = Event::Count(Count {
            what: Counted::Connects,
            process: "a".into(),
            from_us: 1_100_000,
            at_us: 1_150_000,
            count: 4,
        });
        let events = [state("a", 0, 0, 10), state("a", 500, 0, 13), count];
        let curves = all(&events, 0, 2_000_000, 500_000);
        assert_eq!(curves.last().unwrap().values, [0, 4]);
    }
}
