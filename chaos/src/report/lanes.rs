//! The lanes below the band: faults, what the canary saw of the database, probes of each process, the breaker of each
//! server. Turns events into stretches of time; draws nothing.

use std::collections::BTreeMap;

use crate::history::{Event, Probe, ServerState};
use crate::verdict::Outage;

/// The lanes are looked at in steps of this length.
const STEP_US: u64 = 100_000;
/// Between two observations of one kind, so long a silence means nothing: the observer was late.
const SILENCE_MAX_US: u64 = 1_000_000;
/// A canary that commits within this time is no sign of a database that is away; the checker uses the same.
const CANARY_SLOW_US: u64 = 500_000;

/// One lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lane {
    pub(crate) name: String,
    pub(crate) stretches: Vec<Stretch>,
}

/// A stretch of time in which one thing held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) from_us: u64,
    pub(crate) until_us: u64,
    pub(crate) kind: Kind,
    pub(crate) label: String,
}

/// How a stretch is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Good,
    /// Neither good nor bad, such as a breaker on trial.
    Half,
    Bad,
    Fault,
    /// A fault that was begun and had not taken hold yet.
    Coming,
}

impl Kind {
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Good => "lane-good",
            Self::Half => "lane-half",
            Self::Bad => "lane-bad",
            Self::Fault => "lane-fault",
            Self::Coming => "lane-coming",
        }
    }
}

/// All lanes of a run, cut to this time.
pub(crate) fn all(events: &[Event], outages: &[Outage], from_us: u64, until_us: u64) -> Vec<Lane> {
    let mut lanes = vec![faults(events, until_us), database(events, outages)];
    lanes.extend(breakers(events));
    lanes.extend(probes(events));
    for lane in &mut lanes {
        for stretch in &mut lane.stretches {
            stretch.from_us = stretch.from_us.clamp(from_us, until_us);
            stretch.until_us = stretch.until_us.clamp(from_us, until_us);
        }
        lane.stretches.retain(|stretch| stretch.from_us < stretch.until_us);
    }
    lanes.retain(|lane| !lane.stretches.is_empty());
    lanes
}

fn faults(events: &[Event], until_us: u64) -> Lane {
    let ends: BTreeMap<u32, u64> = events
        .iter()
        .filter_map(|event| if let Event::FaultEnd(end) = event { Some((end.id, end.at_us)) } else { None })
        .collect();
    let mut stretches = Vec::new();
    for start in events
        .iter()
        .filter_map(|event| if let Event::FaultStart(start) = event { Some(start) } else { None })
    {
        // A failover does much before it is one, and users see that.
        let asked_us = start.asked_us.filter(|asked_us| asked_us + STEP_US <= start.at_us);
        stretches.extend(asked_us.map(|from_us| Stretch {
            from_us,
            until_us: start.at_us,
            kind: Kind::Coming,
            label: "on its way".into(),
        }));
        stretches.push(Stretch {
            from_us: start.at_us,
            until_us: ends.get(&start.id).copied().unwrap_or(until_us),
            kind: Kind::Fault,
            label: start.fault.clone(),
        });
    }
    Lane { name: "fault".into(), stretches }
}

fn database(events: &[Event], outages: &[Outage]) -> Lane {
    let times = events.iter().filter_map(|event| match event {
        Event::Canary(canary) => Some((canary.sent_us, canary.at_us, canary.ok)),
        _ => None,
    });
    let mut steps: BTreeMap<u64, bool> = BTreeMap::new();
    for (sent_us, at_us, ok) in times {
        // A canary that waited tells about the whole time it waited.
        for step in sent_us / STEP_US..=at_us / STEP_US {
            let good = ok && at_us - sent_us <= CANARY_SLOW_US;
            let slot = steps.entry(step).or_insert(good);
            *slot &= good;
        }
    }
    let mut stretches = join(&steps);
    for stretch in &mut stretches {
        let gone = |outage: &&Outage| {
            outage.from_us < stretch.until_us && outage.until_us.is_none_or(|us| us > stretch.from_us)
        };
        stretch.label = match stretch.kind {
            Kind::Good => "commits".into(),
            _ => outages.iter().find(gone).map_or("away".into(), away_label),
        };
    }
    Lane { name: "database".into(), stretches }
}

fn away_label(outage: &Outage) -> String {
    outage.until_us.map_or("away to the end".into(), |until| {
        format!("away {:.1} s", until.saturating_sub(outage.from_us) as f64 / 1e6)
    })
}

/// One lane for each process and path probed.
fn probes(events: &[Event]) -> Vec<Lane> {
    let mut lanes: BTreeMap<(&str, &str), BTreeMap<u64, bool>> = BTreeMap::new();
    for event in events {
        let Event::Probe(Probe { process, path, planned_us, status, .. }) = event else { continue };
        let steps = lanes.entry((process, path)).or_default();
        *steps.entry(planned_us / STEP_US).or_insert(true) &= *status == Some(200);
    }
    lanes
        .into_iter()
        .map(|((process, path), steps)| {
            let word = path.trim_start_matches('/').trim_end_matches('z');
            let mut stretches = join(&steps);
            for stretch in &mut stretches {
                stretch.label =
                    if stretch.kind == Kind::Good { word.to_owned() } else { format!("not {word}") };
            }
            Lane { name: format!("{process} {word}"), stretches }
        })
        .collect()
}

/// What each server said of its breaker; no lane for one that says nothing.
fn breakers(events: &[Event]) -> Vec<Lane> {
    let mut lanes: BTreeMap<&str, Vec<(u64, &str)>> = BTreeMap::new();
    for event in events {
        let Event::ServerState(ServerState { process, at_us, breaker: Some(state), .. }) = event else {
            continue;
        };
        lanes.entry(process).or_default().push((*at_us, state));
    }
    lanes
        .into_iter()
        .map(|(process, mut looks)| {
            looks.sort_unstable();
            Lane { name: format!("{process} breaker"), stretches: hold(&looks) }
        })
        .collect()
}

/// A state holds from the look that saw it to the next look, or for the longest silence.
fn hold(looks: &[(u64, &str)]) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    for (place, (from_us, state)) in looks.iter().enumerate() {
        let next = looks.get(place + 1).map_or(from_us + STEP_US, |(us, _)| *us);
        let until_us = next.min(from_us + SILENCE_MAX_US);
        match stretches.last_mut() {
            Some(last) if last.label == *state && last.until_us == *from_us => last.until_us = until_us,
            _ => {
                let kind = match *state {
                    "closed" => Kind::Good,
                    "open" => Kind::Bad,
                    _ => Kind::Half,
                };
                stretches.push(Stretch { from_us: *from_us, until_us, kind, label: (*state).to_owned() });
            }
        }
    }
    stretches
}

/// Joins steps of one kind that follow each other.
fn join(steps: &BTreeMap<u64, bool>) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    for (step, good) in steps {
        let kind = if *good { Kind::Good } else { Kind::Bad };
        let (from_us, until_us) = (step * STEP_US, (step + 1) * STEP_US);
        match stretches.last_mut() {
            Some(last) if last.kind == kind && from_us - last.until_us <= SILENCE_MAX_US => {
                last.until_us = until_us
            }
            _ => stretches.push(Stretch { from_us, until_us, kind, label: String::new() }),
        }
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Canary, FaultStart};

    fn canary(sent_ms: u64, took_ms: u64, ok: bool) -> Event {
        Event::Canary(Canary {
            sent_us: sent_ms * 1_000,
            at_us: (sent_ms + took_ms) * 1_000,
            ok,
            error: None,
        })
    }

    fn probe(at_ms: u64, path: &str, status: Option<u16>) -> Event {
        let (planned_us, at_us) = (at_ms * 1_000, at_ms * 1_000);
        Event::Probe(Probe {
            process: "server-1".into(),
            path: path.into(),
            planned_us,
            at_us,
            status,
            error: None,
        })
    }

    fn parts(lane: &Lane) -> Vec<(u64, u64, Kind)> {
        lane.stretches.iter().map(|part| (part.from_us / 1_000, part.until_us / 1_000, part.kind)).collect()
    }

    #[test]
    fn the_database_lane_shows_when_nothing_commits_also_while_a_canary_waits() {
        let mut events: Vec<Event> = (0..10).map(|tick| canary(tick * 100, 2, true)).collect();
        events.extend([canary(1_000, 500, false), canary(1_510, 480, false), canary(2_000, 2, true)]);
        let outage = Outage { fault: "db-hang".into(), from_us: 1_000_000, until_us: Some(2_002_000) };
        let lanes = all(&events, &[outage], 0, 2_100_000);
        assert_eq!(
            parts(&lanes[0]),
            [(0, 1_000, Kind::Good), (1_000, 2_000, Kind::Bad), (2_000, 2_100, Kind::Good)]
        );
        assert_eq!(lanes[0].stretches[1].label, "away 1.0 s");
    }

    #[test]
    fn a_late_observer_splits_no_stretch_and_a_slow_commit_is_no_outage() {
        // On a busy machine a canary came a moment late, and one outage was drawn as two, each with its whole length.
        let ok = |at| canary(at, 2, true);
        let events = [ok(0), canary(100, 1, false), canary(350, 1, false), canary(400, 300, true), ok(900)];
        let lanes = all(&events, &[], 0, 1_000_000);
        assert_eq!(parts(&lanes[0]), [(0, 100, Kind::Good), (100, 400, Kind::Bad), (400, 1_000, Kind::Good)]);
    }

    #[test]
    fn a_probe_that_fails_colours_its_moment_and_no_other_lane() {
        let events =
            [probe(0, "/livez", Some(200)), probe(0, "/readyz", Some(503)), probe(100, "/readyz", None)];
        let lanes = all(&events, &[], 0, 1_000_000);
        assert_eq!(lanes.len(), 2);
        assert_eq!(
            (parts(&lanes[0]), lanes[0].stretches[0].label.as_str()),
            (vec![(0, 100, Kind::Good)], "live")
        );
        assert_eq!(
            (parts(&lanes[1]), lanes[1].stretches[0].label.as_str()),
            (vec![(0, 200, Kind::Bad)], "not ready")
        );
    }

    #[test]
    fn a_fault_without_an_end_lasts_to_the_end_and_nothing_sticks_out() {
        let start = FaultStart {
            id: 1,
            fault: "db-kill".into(),
            at_us: 500_000,
            asked_us: None,
            database_gone: true,
            way_gone: false,
            witness: None,
        };
        let events = [Event::FaultStart(start), probe(5_000, "/livez", Some(200))];
        let lanes = all(&events, &[], 600_000, 1_000_000);
        assert_eq!(lanes.len(), 1, "the probe lies outside");
        assert_eq!(parts(&lanes[0]), [(600, 1_000, Kind::Fault)]);
    }

    #[test]
    fn a_fault_that_takes_long_to_take_hold_is_shown_on_its_way() {
        // A failover was drawn from its end on, and the outage that it made stood beside no fault.
        let begun = |asked_ms: u64, at_ms: u64| {
            let (at_us, asked_us) = (at_ms * 1_000, Some(asked_ms * 1_000));
            Event::FaultStart(FaultStart {
                id: 1,
                fault: "failover".into(),
                at_us,
                asked_us,
                database_gone: true,
                way_gone: false,
                witness: None,
            })
        };
        let lanes = all(&[begun(200, 900)], &[], 0, 1_000_000);
        assert_eq!(parts(&lanes[0]), [(200, 900, Kind::Coming), (900, 1_000, Kind::Fault)]);
        assert_eq!(parts(&all(&[begun(890, 900)], &[], 0, 1_000_000)[0]), [(900, 1_000, Kind::Fault)]);
    }

    #[test]
    fn a_breaker_holds_its_state_until_it_says_another_or_falls_silent() {
        let said = |at_ms: u64, state: &str| {
            Event::ServerState(ServerState {
                process: "server-1".into(),
                at_us: at_ms * 1_000,
                breaker: Some(state.into()),
                ..ServerState::default()
            })
        };
        let events = [
            said(0, "closed"),
            said(200, "closed"),
            said(400, "open"),
            said(600, "half-open"),
            said(5_000, "closed"),
        ];
        let lanes = all(&events, &[], 0, 6_000_000);
        assert_eq!(lanes[0].name, "server-1 breaker");
        assert_eq!(
            parts(&lanes[0]),
            [
                (0, 400, Kind::Good),
                (400, 600, Kind::Bad),
                (600, 1_600, Kind::Half),
                (5_000, 5_100, Kind::Good)
            ]
        );
    }
}
