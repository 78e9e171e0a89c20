//! The faults of a schedule, put on and taken off when their moments come. What they are is in `nemesis.rs`; this file
//! watches the clock and the events, and writes into the history what it does.

use std::time::Duration;

use tokio::time::Instant;

use crate::canary::{self, Canary};
use crate::cluster::Window;
use crate::error::Error;
use crate::history::{
    Event, FaultEnd, FaultStart, Note, ProcessExit, ProcessStart, Promotion, Recorder, Role,
};
use crate::nemesis::{self, Absence, Bite, CanarySees, Fault, Healed, Scene};
use crate::run::Progress;
use crate::run::readiness::Away;
use crate::schedule::{After, Moment, Planned};
use crate::stack::{Service, Stack};
use crate::workload::Counts;

/// The name of the database in the history.
const DATABASE: &str = "postgresql";
/// Between two looks at the clock and the events.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What a course is made of.
pub(super) struct Course<'a> {
    pub(super) faults: &'a [Planned],
    pub(super) stack: &'a Stack,
    pub(super) recorder: &'a Recorder,
    pub(super) progress: &'a Progress,
    pub(super) canary: Canary,
    pub(super) counts: Counts,
    pub(super) toothless: bool,
}

/// What a course tells about itself when it is over.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// When the last fault began to be healed.
    pub(super) healed_at: Option<Instant>,
    /// When no session of the database could be answered.
    pub(super) away: Vec<Away>,
    /// Whether a standby took over.
    pub(super) failed_over: bool,
}

/// Where a fault stands.
#[derive(Debug)]
enum Place {
    Waiting,
    /// With the time at which it was begun to be put on.
    On(Instant, Bite),
    Over,
}

/// When each event came that a moment can wait for.
#[derive(Debug)]
struct Seen {
    load: Instant,
    begun: Vec<Option<Instant>>,
    healed: Vec<Option<Instant>>,
    canary_down: Option<Instant>,
    canary_up: Option<Instant>,
}

impl Seen {
    fn is_due(&self, moment: Moment, counts: &Counts, now: Instant) -> bool {
        let nth =
            |times: &[Option<Instant>], number: usize| times.get(number.checked_sub(1)?).copied().flatten();
        let came = match moment.after {
            After::Load => Some(self.load),
            After::Begun(number) => nth(&self.begun, number),
            After::Healed(number) => nth(&self.healed, number),
            After::CanaryDown => self.canary_down,
            After::CanaryUp => self.canary_up,
            After::Committed(count) => counts.committed_at(count),
            After::Journaled(count) => counts.journaled_at(count),
        };
        came.is_some_and(|came| came + moment.delay <= now)
    }

    /// Whether it would be healed before another fault that it shall outlast, and that is on. Where the load is over, all
    /// are healed, but in this order: the outer one may need what the inner one took away. Of two that wait for each other
    /// none waits.
    fn must_outlast(&self, until: Moment, faults: &[Planned]) -> bool {
        let After::Healed(number) = until.after else { return false };
        let Some(place) = number.checked_sub(1) else { return false };
        let at = |times: &[Option<Instant>]| times.get(place).copied().flatten();
        let waits_too = |other: &Planned| matches!(other.until.after, After::Healed(_));
        at(&self.begun).is_some() && at(&self.healed).is_none() && !faults.get(place).is_some_and(waits_too)
    }

    fn look(&mut self, canary: &Canary, now: Instant) {
        match canary.is_up() {
            Some(false) if self.canary_down.is_none() && now >= self.load => self.canary_down = Some(now),
            Some(true) if self.canary_down.is_some() && self.canary_up.is_none() => {
                self.canary_up = Some(now)
            }
            _ => {}
        }
    }
}

impl Course<'_> {
    /// Carries out the schedule from `start` to `end`, the time of the load.
    pub(super) async fn run(&self, start: Instant, end: Instant) -> Result<Outcome, Error> {
        let count = self.faults.len();
        let mut seen = Seen {
            load: start,
            begun: vec![None; count],
            healed: vec![None; count],
            canary_down: None,
            canary_up: None,
        };
        let mut places: Vec<Place> = self.faults.iter().map(|_| Place::Waiting).collect();
        let mut outcome = Outcome::default();
        while !places.iter().all(|place| matches!(place, Place::Over)) {
            let now = Instant::now();
            seen.look(&self.canary, now);
            for (index, (planned, place)) in self.faults.iter().zip(&mut places).enumerate() {
                let id = u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1);
                match std::mem::replace(place, Place::Over) {
                    Place::Waiting if seen.is_due(planned.from, &self.counts, now) => {
                        let (asked, bite) = self.put_on(id, planned).await?;
                        outcome.failed_over |= bite.window().is_some();
                        *place = Place::On(asked, bite);
                        set(&mut seen.begun, index);
                    }
                    Place::Waiting if now >= end => self.never_came(id, planned),
                    Place::On(asked, bite)
                        if seen.is_due(planned.until, &self.counts, now)
                            || (now >= end && !seen.must_outlast(planned.until, self.faults)) =>
                    {
                        let gone_from = bite.database_gone().then_some(bite.began());
                        let healed_at = self.take_off(id, asked, bite).await?;
                        outcome.away.extend(gone_from.map(|from| (from, healed_at)));
                        outcome.healed_at = Some(healed_at);
                        set(&mut seen.healed, index);
                    }
                    other => *place = other,
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(outcome)
    }

    async fn put_on(&self, id: u32, planned: &Planned) -> Result<(Instant, Bite), Error> {
        let scene = Scene::of(self.stack, planned.server, self.toothless);
        let asked_us = self.recorder.now_us();
        let asked = Instant::now();
        let bite = nemesis::inject(&planned.fault, &scene).await?;
        if let Some(Absence { process, database, how }) = bite.absence() {
            let role = if database { Role::Database } else { Role::Server };
            let exit = ProcessExit { process, role, at_us: asked_us, planned: true, how };
            self.recorder.record(Event::ProcessExit(exit));
        }
        if let Some(window) = bite.window() {
            self.recorder.record(Event::Promotion(self.promotion(&window)));
        }
        self.recorder.record(Event::FaultStart(FaultStart {
            id,
            fault: planned.fault.to_string(),
            at_us: self.recorder.us_of(bite.began()),
            asked_us: Some(asked_us),
            database_gone: bite.database_gone(),
            way_gone: bite.way_gone(),
            witness: None,
        }));
        self.progress.note(&format!("traffic, {} is on", planned.fault));
        Ok((asked, bite))
    }

    fn promotion(&self, window: &Window) -> Promotion {
        let us = |at| self.recorder.us_of(at);
        Promotion {
            at_us: us(window.promoted),
            node: DATABASE.to_owned(),
            lost_from_us: us(window.from),
            lost_until_us: us(window.until),
            replayed_lsn: Some(window.fork.0),
            written_lsn: Some(window.end.0),
        }
    }

    async fn take_off(&self, id: u32, asked: Instant, bite: Bite) -> Result<Instant, Error> {
        let (fault, began) = (bite.fault().clone(), bite.began());
        let (canary, absence) = (bite.canary(), bite.absence());
        let Healed { at, witness } = bite.heal().await?;
        // What passes by itself may be over before anybody looks: then all of its time counts.
        let (from, until) =
            if canary == CanarySees::SomeFail { (asked, Instant::now()) } else { (began, at) };
        let seen = self.canary.seen(from, until);
        let witness = witness.and_then(|witness| confirmed(canary, &seen, witness));
        if witness.is_none() {
            self.unproved(&fault, &seen.to_string());
        }
        let at_us = self.recorder.us_of(at);
        self.recorder.record(Event::FaultEnd(FaultEnd { id, at_us, witness }));
        if let Some(absence) = absence {
            self.record_return(&absence);
        }
        self.progress.note(&format!("traffic, {fault} is healed"));
        Ok(at)
    }

    /// A fault whose moment never came has proved nothing, and the verdict must say so.
    fn never_came(&self, id: u32, planned: &Planned) {
        let at_us = self.recorder.now_us();
        let fault = planned.fault.to_string();
        self.unproved(&planned.fault, &format!("its moment, {}, never came", planned.from));
        let start = FaultStart {
            id,
            fault,
            at_us,
            asked_us: None,
            database_gone: false,
            way_gone: false,
            witness: None,
        };
        self.recorder.record(Event::FaultStart(start));
        self.recorder.record(Event::FaultEnd(FaultEnd { id, at_us, witness: None }));
    }

    fn unproved(&self, fault: &Fault, why: &str) {
        let text = format!("nothing proves that {fault} bit; {why}");
        self.recorder.record(Event::Note(Note { at_us: self.recorder.now_us(), text }));
    }

    fn record_return(&self, absence: &Absence) {
        if absence.database {
            return record_database_start(self.stack, self.recorder);
        }
        let back = self.stack.servers().iter().find(|server| server.name() == absence.process);
        if let Some(pid) = back.and_then(Service::pid) {
            let (process, at_us) = (absence.process.clone(), self.recorder.now_us());
            let start = ProcessStart { process, role: Role::Server, at_us, pid };
            self.recorder.record(Event::ProcessStart(start));
        }
    }
}

/// A fault on the database has bitten only if the canary agrees with the kernel.
fn confirmed(expected: CanarySees, seen: &canary::Seen, witness: String) -> Option<String> {
    let agrees = match expected {
        CanarySees::Anything => return Some(witness),
        CanarySees::SomeFail => seen.failed > 0,
        CanarySees::NoneCommits => seen.committed == 0 && seen.failed > 0,
    };
    agrees.then(|| format!("{witness}; {seen}"))
}

fn set(times: &mut [Option<Instant>], index: usize) {
    if let Some(time) = times.get_mut(index) {
        *time = Some(Instant::now());
    }
}

pub(super) fn record_database_start(stack: &Stack, recorder: &Recorder) {
    if let Some(pid) = stack.cluster().pid() {
        let (process, at_us) = (DATABASE.to_owned(), recorder.now_us());
        recorder.record(Event::ProcessStart(ProcessStart { process, role: Role::Database, at_us, pid }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(start: Instant) -> Seen {
        let (begun, healed) = (vec![None; 2], vec![None; 2]);
        Seen { load: start, begun, healed, canary_down: None, canary_up: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_moment_is_due_only_after_its_event_and_its_delay() {
        let start = Instant::now();
        let counts = Counts::default();
        let after = |millis| start + Duration::from_millis(millis);
        let mut seen = seen(start);
        let due = |seen: &Seen, text: &str, now| seen.is_due(text.parse().unwrap(), &counts, now);
        assert!(!due(&seen, "400 ms", after(399)) && due(&seen, "400 ms", after(400)));
        assert!(!due(&seen, "fault 1 begun + 100 ms", after(9_000)));
        seen.begun = vec![Some(after(500)), None];
        assert!(!due(&seen, "fault 1 begun + 100 ms", after(599)));
        assert!(due(&seen, "fault 1 begun + 100 ms", after(600)));
        assert!(!due(&seen, "fault 2 begun + 0 ms", after(9_000)));
        assert!(!due(&seen, "fault 0 begun + 0 ms", after(9_000)));
    }

    /// On a busy machine the load was over when the second of two faults was on. The first was healed first, waited for
    /// what the second had taken away, and the harness gave up.
    #[tokio::test(start_paused = true)]
    async fn at_the_end_of_the_load_a_fault_outlasts_the_one_that_it_was_to_outlast() {
        let planned = |until: &str| Planned {
            fault: "db-kill".parse().unwrap(),
            server: 0,
            from: "0 ms".parse().unwrap(),
            until: until.parse().unwrap(),
        };
        let faults = [planned("fault 2 healed + 300 ms"), planned("9000 ms")];
        let until = faults[0].until;
        let mut seen = seen(Instant::now());
        assert!(!seen.must_outlast(until, &faults), "the other one never came");
        seen.begun = vec![Some(Instant::now()); 2];
        assert!(seen.must_outlast(until, &faults) && !seen.must_outlast(faults[1].until, &faults));
        let each_other = [faults[0].clone(), planned("fault 1 healed + 0 ms")];
        assert!(!seen.must_outlast(until, &each_other));
        seen.healed = vec![None, Some(Instant::now())];
        assert!(!seen.must_outlast(until, &faults));
    }

    #[test]
    fn a_canary_that_goes_on_committing_refutes_a_fault_on_the_database() {
        let seen = |committed, failed| canary::Seen { committed, failed, first_failure: None };
        let told = |expected, seen: &canary::Seen| confirmed(expected, seen, "stopped".into());
        assert_eq!(told(CanarySees::NoneCommits, &seen(1, 9)), None);
        assert_eq!(told(CanarySees::NoneCommits, &seen(0, 0)), None, "it did not even try");
        assert!(told(CanarySees::NoneCommits, &seen(0, 1)).unwrap().starts_with("stopped; the canary"));
        assert_eq!(told(CanarySees::SomeFail, &seen(5, 0)), None);
        assert!(told(CanarySees::SomeFail, &seen(5, 1)).is_some());
        assert_eq!(told(CanarySees::Anything, &seen(5, 0)), Some("stopped".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn writes_are_counted_to_the_very_one() {
        let counts = Counts::default();
        let start = Instant::now();
        let seen = seen(start);
        let due = |text: &str| seen.is_due(text.parse().unwrap(), &counts, Instant::now());
        counts.journaled();
        assert!(due("journaled 1 + 0 ms") && !due("journaled 2 + 0 ms") && !due("committed 1 + 0 ms"));
        counts.journaled();
        assert!(due("journaled 2 + 0 ms") && !due("journaled 2 + 10 ms"));
        tokio::time::advance(Duration::from_millis(10)).await;
        assert!(due("journaled 2 + 10 ms"));
    }
}
