//! What a run has seen so far, as the lines that a person watches: counts, a sparkline of each second, faults that are on,
//! and the state of each server. It reads the events that go into the history; it draws nothing (`progress`) and judges
//! nothing (`checker`), so an answer counts here as it calls itself.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::history::{Completion, Event, Probe, ServerState};
use crate::run::line::{Colour, Line};

/// Seconds that are remembered; no terminal is wide enough to show more.
const SECONDS_MAX: usize = 240;
/// A sparkline is no longer than this, and begins after the names of the lines.
const SPARK_MAX: usize = 60;
const NAME_WIDTH: usize = 10;
const SPARKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// More servers than this are only counted.
const SERVERS_MAX: usize = 4;

/// The counts of a run under way.
#[derive(Debug, Default)]
pub(super) struct Live {
    load_from_us: Option<u64>,
    planned: u64,
    sent: u64,
    good: u64,
    stale: u64,
    journaled: u64,
    errors: u64,
    /// The second that stands first in `seconds`.
    first_second: u64,
    seconds: VecDeque<Second>,
    /// Faults that are on, with the time at which they took hold.
    faults: BTreeMap<u32, (String, u64)>,
    servers: BTreeMap<String, Server>,
    database: Option<bool>,
    /// The latest time that any event told.
    now_us: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Second {
    good: u64,
    errors: u64,
}

#[derive(Debug, Default)]
struct Server {
    ready: Option<bool>,
    breaker: Option<String>,
    journal: Option<u64>,
}

/// What became of one request, by its own words.
#[derive(Clone, Copy)]
enum Kind {
    Good,
    Stale,
    Journaled,
    Error,
}

impl Live {
    /// Takes in one event. What came before the load is no part of it.
    pub(super) fn see(&mut self, event: &Event) {
        match event {
            Event::Load(load) => {
                self.load_from_us = Some(load.at_us);
                self.planned = load.reads + load.writes;
            }
            Event::Invoke(_) if self.load_from_us.is_some() => self.sent += 1,
            Event::Ok(done) => self.ended(done, kind(done)),
            Event::Fail(done) | Event::Info(done) => self.ended(done, Kind::Error),
            Event::FaultStart(start) => {
                self.faults.insert(start.id, (start.fault.clone(), start.at_us));
            }
            Event::FaultEnd(end) => drop(self.faults.remove(&end.id)),
            Event::Canary(canary) => {
                self.database = Some(canary.ok);
                self.now_us = self.now_us.max(canary.at_us);
            }
            Event::Probe(probe) => self.probed(probe),
            Event::ServerState(state) => self.told(state),
            Event::Journal(journal) => {
                self.server(&journal.process).journal = Some(journal.entries);
            }
            _ => {}
        }
    }

    fn ended(&mut self, done: &Completion, kind: Kind) {
        let Some(from_us) = self.load_from_us else { return };
        self.now_us = self.now_us.max(done.at_us);
        let count = match kind {
            Kind::Good => &mut self.good,
            Kind::Stale => &mut self.stale,
            Kind::Journaled => &mut self.journaled,
            Kind::Error => &mut self.errors,
        };
        *count += 1;
        let second = done.at_us.saturating_sub(from_us) / 1_000_000;
        if let Some(slot) = self.second(second) {
            if matches!(kind, Kind::Error) { slot.errors += 1 } else { slot.good += 1 }
        }
    }

    /// The place of a second; none for one that was forgotten.
    fn second(&mut self, second: u64) -> Option<&mut Second> {
        while second >= self.first_second + self.seconds.len() as u64 {
            self.seconds.push_back(Second::default());
            if self.seconds.len() > SECONDS_MAX {
                self.seconds.pop_front();
                self.first_second += 1;
            }
        }
        let place = second.checked_sub(self.first_second)?;
        self.seconds.get_mut(usize::try_from(place).ok()?)
    }

    fn probed(&mut self, probe: &Probe) {
        if probe.path == "/readyz" {
            self.server(&probe.process).ready = Some(probe.status == Some(200));
        }
    }

    fn told(&mut self, state: &ServerState) {
        let server = self.server(&state.process);
        server.breaker.clone_from(&state.breaker);
        server.journal = state.journal_entries.or(server.journal);
    }

    fn server(&mut self, name: &str) -> &mut Server {
        self.servers.entry(name.to_owned()).or_default()
    }

    /// The lines below the first one, for a terminal of this width; none before the load begins.
    pub(super) fn lines(&self, width: usize) -> Vec<Line> {
        if self.load_from_us.is_none() {
            return Vec::new();
        }
        let mut lines = vec![self.counts()];
        let room = width.saturating_sub(NAME_WIDTH + 8).min(SPARK_MAX);
        lines.push(self.sparkline("good/s", room, Colour::Green, |second| second.good));
        lines.push(self.sparkline("errors/s", room, Colour::Red, |second| second.errors));
        lines.push(self.broken());
        lines.extend(self.states());
        lines.extend(self.journals());
        lines
    }

    fn counts(&self) -> Line {
        let mut line = named("requests");
        for (name, many) in [
            ("planned", self.planned),
            ("sent", self.sent),
            ("good", self.good),
            ("stale", self.stale),
            ("journaled", self.journaled),
        ] {
            line.add(Colour::Plain, &format!("{name} {many}  "));
        }
        let colour = if self.errors > 0 { Colour::Red } else { Colour::Plain };
        line.add(colour, &format!("errors {}", self.errors));
        line
    }

    fn sparkline(&self, name: &str, room: usize, colour: Colour, read: fn(&Second) -> u64) -> Line {
        let skipped = self.seconds.len().saturating_sub(room);
        let values: Vec<u64> = self.seconds.iter().skip(skipped).map(read).collect();
        let max = values.iter().copied().max().unwrap_or(0);
        let mut line = named(name);
        let (spark, last): (String, _) =
            (values.iter().map(|value| spark(*value, max)).collect(), values.last());
        line.add(if max > 0 { colour } else { Colour::Plain }, &spark);
        line.add(Colour::Plain, &format!(" {}", last.copied().unwrap_or(0)));
        line
    }

    fn broken(&self) -> Line {
        let mut line = named("faults");
        for (name, at_us) in self.faults.values() {
            let on = Duration::from_micros(self.now_us.saturating_sub(*at_us)).as_secs_f64();
            line.add(Colour::Magenta, &format!("{name} for {on:.1} s  "));
        }
        if self.faults.is_empty() {
            line.add(Colour::Plain, "none on  ");
        }
        match self.database {
            Some(true) => line.add(Colour::Plain, "(the database commits)"),
            Some(false) => line.add(Colour::Red, "(the database does not commit)"),
            None => {}
        }
        line
    }

    fn states(&self) -> Option<Line> {
        let mut line = named("servers");
        for (name, server) in self.servers.iter().take(SERVERS_MAX) {
            let (word, colour) = match server.ready {
                Some(true) => ("ready", Colour::Green),
                Some(false) => ("not ready", Colour::Red),
                None => ("not asked yet", Colour::Plain),
            };
            line.add(Colour::Plain, &format!("{name} "));
            line.add(colour, word);
            match server.breaker.as_deref() {
                Some("closed") => line.add(Colour::Plain, ", breaker closed"),
                Some(state) => line.add(Colour::Yellow, &format!(", breaker {state}")),
                None => {}
            }
            line.add(Colour::Plain, "   ");
        }
        let more = self.servers.len().saturating_sub(SERVERS_MAX);
        if more > 0 {
            line.add(Colour::Plain, &format!("and {more} more"));
        }
        (!self.servers.is_empty()).then_some(line)
    }

    fn journals(&self) -> Option<Line> {
        let mut line = named("journals");
        let told = || self.servers.iter().filter_map(|(name, server)| Some((name, server.journal?)));
        for (name, entries) in told().take(SERVERS_MAX) {
            let colour = if entries > 0 { Colour::Yellow } else { Colour::Plain };
            line.add(colour, &format!("{name} {entries}   "));
        }
        told().next().map(|_| line)
    }
}

fn named(name: &str) -> Line {
    let mut line = Line::default();
    line.add(Colour::Faint, &format!("{name:<NAME_WIDTH$}"));
    line
}

fn kind(done: &Completion) -> Kind {
    let is_journaled = done.outcome.as_deref().map_or(done.status == Some(202), |told| told == "journaled");
    match done.freshness.as_deref() {
        Some(told) if told.starts_with("stale") => Kind::Stale,
        None if is_journaled => Kind::Journaled,
        _ => Kind::Good,
    }
}

/// The lowest sign stands for nothing at all, so that one error among a thousand is seen.
fn spark(value: u64, max: u64) -> char {
    let steps = SPARKS.len() as u64 - 1;
    let place = if max == 0 { 0 } else { (value * steps).div_ceil(max) };
    SPARKS.get(usize::try_from(place).unwrap_or(0)).copied().unwrap_or('█')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Canary, FaultEnd, FaultStart, Invoke, Load};

    fn done(at_ms: u64, freshness: Option<&str>, outcome: Option<&str>) -> Completion {
        Completion {
            at_us: at_ms * 1_000,
            freshness: freshness.map(Into::into),
            outcome: outcome.map(Into::into),
            ..Completion::default()
        }
    }

    fn live(events: &[Event]) -> Live {
        let mut live = Live::default();
        live.see(&Event::Load(Load { at_us: 0, until_us: 9_000_000, reads: 70, writes: 30 }));
        events.iter().for_each(|event| live.see(event));
        live
    }

    fn text(live: &Live) -> Vec<String> {
        live.lines(200).iter().map(|line| line.show(200, false)).collect()
    }

    #[test]
    fn requests_are_counted_by_what_they_call_themselves() {
        let live = live(&[
            Event::Invoke(Invoke::default()),
            Event::Ok(done(100, Some("fresh"), None)),
            Event::Ok(done(200, Some("stale; age=3; reason=outage"), None)),
            Event::Ok(done(300, None, Some("journaled"))),
            Event::Ok(done(400, None, Some("committed"))),
            Event::Fail(done(1_500, None, None)),
            Event::Info(done(1_600, None, None)),
        ]);
        let lines = text(&live);
        assert_eq!(lines[0], "requests  planned 100  sent 1  good 2  stale 1  journaled 1  errors 2");
        assert_eq!(lines[1], "good/s    █▁ 0");
        assert_eq!(lines[2], "errors/s  ▁█ 2");
    }

    #[test]
    fn the_warm_up_counts_for_nothing() {
        let mut live = Live::default();
        live.see(&Event::Invoke(Invoke::default()));
        live.see(&Event::Ok(done(100, Some("fresh"), None)));
        assert_eq!((live.sent, live.good, live.lines(80).len()), (0, 0, 0));
    }

    #[test]
    fn faults_servers_and_journals_show_as_they_are_now() {
        let start = FaultStart {
            id: 1,
            fault: "db-kill".into(),
            at_us: 1_000_000,
            asked_us: None,
            database_gone: true,
            way_gone: false,
            witness: None,
        };
        let canary = Canary { sent_us: 0, at_us: 3_500_000, ok: false, error: None };
        let probe = |path: &str, status| {
            let (process, path) = ("server-1".into(), path.into());
            Event::Probe(Probe { process, path, planned_us: 0, at_us: 0, status, error: None })
        };
        let state = ServerState {
            process: "server-1".into(),
            breaker: Some("open".into()),
            journal_entries: Some(12),
            ..ServerState::default()
        };
        let mut live = live(&[
            Event::FaultStart(start),
            Event::Canary(canary),
            probe("/readyz", Some(200)),
            probe("/livez", None),
            Event::ServerState(state),
        ]);
        let lines = text(&live);
        assert_eq!(lines[3], "faults    db-kill for 2.5 s  (the database does not commit)");
        assert_eq!(lines[4].trim_end(), "servers   server-1 ready, breaker open");
        assert_eq!(lines[5].trim_end(), "journals  server-1 12");
        live.see(&Event::FaultEnd(FaultEnd { id: 1, at_us: 4_000_000, witness: None }));
        assert!(text(&live)[3].contains("none on"));
    }

    #[test]
    fn an_endless_run_forgets_its_first_seconds_and_takes_a_late_answer_calmly() {
        let mut live = live(&[]);
        for second in 0..SECONDS_MAX as u64 + 60 {
            live.see(&Event::Ok(done(second * 1_000, Some("fresh"), None)));
        }
        live.see(&Event::Ok(done(0, Some("fresh"), None)));
        assert_eq!((live.seconds.len(), live.first_second), (SECONDS_MAX, 60));
        assert_eq!(
            live.lines(300)[1].show(300, false).chars().filter(|sign| *sign == '█').count(),
            SPARK_MAX
        );
    }
}
