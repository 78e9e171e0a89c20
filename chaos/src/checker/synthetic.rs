//! Histories of any size whose verdict is known, made by a service that does everything right in no time: to measure how
//! long judging takes, and to plant one violation into many good operations. Judges nothing.

use fastrand::Rng;

use crate::history::{
    Action, Completion, Counter, Event, FORMAT, FinalRows, Invoke, LedgerRow, LedgerRows, Limits, Load,
    Probe, ProcessStart, Role, Run, WriteStatus,
};

/// The replicas; each client stays with one.
const SERVERS: [&str; 2] = ["server-1", "server-2"];
/// Health is asked for this often.
const PROBE_EVERY_US: u64 = 50_000;
/// The deadline of the plan: nothing here takes as long.
const LATENCY_US: std::ops::Range<u64> = 200..5_000;
/// An effect that nobody vouches for comes at the latest this long after its beginning.
const LATE_US: u64 = 50_000;
/// A labelled answer shows the object as it was at most this long ago.
const STALE_US: u64 = 3_000_000;

/// What to make. The same fields give the same history.
#[derive(Debug, Clone, PartialEq)]
pub struct Synthetic {
    /// Operations in all. Default 1,000,000.
    pub operations: usize,
    /// Clients that work at the same time, each one request after the other. Default 64.
    pub clients: usize,
    /// Registers that they share. Default 1,000.
    pub objects: usize,
    /// Share of writes whose end nobody tells; half of them take effect. Default 0.02.
    pub unknown_share: f64,
    /// Share of reads among the operations. Default 0.7.
    pub read_share: f64,
    /// Share of reads that are answered with an older value, and labelled. Default 0.1.
    pub stale_share: f64,
    /// Fixes everything else.
    pub seed: u64,
}

impl Default for Synthetic {
    fn default() -> Self {
        Self {
            operations: 1_000_000,
            clients: 64,
            objects: 1_000,
            unknown_share: 0.02,
            read_share: 0.7,
            stale_share: 0.1,
            seed: 1,
        }
    }
}

/// One operation before its result is known.
#[derive(Clone, Copy)]
struct Draft {
    op: u64,
    client: usize,
    object: usize,
    write: bool,
    unknown: bool,
    /// For a labelled read, how old the state is that it shows.
    age_us: Option<u64>,
    begin_us: u64,
    /// When it happens, at one point in time; for an unknown write that has no effect never.
    effect_us: Option<u64>,
    end_us: u64,
}

impl Synthetic {
    /// Makes the history: whole, in order, and held in everything that it holds something about.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        let mut drafts = self.drafts();
        let until_us = drafts.iter().map(|draft| draft.end_us).max().unwrap_or(0);
        let mut states: Vec<State> = vec![State::default(); self.objects.max(1)];
        drafts.sort_by_key(|draft| (draft.effect_us.unwrap_or(draft.end_us), draft.op));
        let mut events = self.header(&drafts, until_us);
        let mut operations: Vec<(u64, Event)> = Vec::with_capacity(2 * drafts.len());
        for draft in &drafts {
            operations.push((draft.begin_us, draft.invoke()));
            if let Some(state) = states.get_mut(draft.object) {
                operations.push((draft.end_us, draft.end(state)));
            }
        }
        operations.sort_by_key(|(us, _)| *us);
        events.extend(operations.into_iter().map(|(_, event)| event));
        // Long enough after the last effect for anybody to call it quiet.
        let at_us = until_us + 3_000_000;
        events.extend(drafts.iter().filter(|draft| draft.unknown).map(|draft| draft.status(at_us)));
        events.extend(last_look(&states, at_us));
        events
    }

    /// The limits that it keeps.
    #[must_use]
    pub fn limits(&self) -> Limits {
        // Chance may exceed each share a little, most in a short history.
        let roomy = |share: f64| share * 2.0 + 0.02;
        Limits {
            fault_expected: false,
            writes_bad_max: roomy(self.unknown_share),
            baseline_bad_max: roomy(self.unknown_share.max(self.stale_share)),
            unknown_share_max: Some(roomy(self.unknown_share)),
            max_stale_ms: Some(STALE_US / 1_000),
            ..Limits::default()
        }
    }

    fn drafts(&self) -> Vec<Draft> {
        let mut rng = Rng::with_seed(self.seed);
        let mut free: Vec<u64> = (0..self.clients.max(1)).map(|_| rng.u64(0..LATENCY_US.end)).collect();
        let mut drafts = Vec::with_capacity(self.operations);
        for op in 0..self.operations as u64 {
            // Clients take turns, so that numbers and times rise together as they do in a run.
            let client = op as usize % free.len();
            let Some(next) = free.get_mut(client) else { continue };
            let begin_us = *next + rng.u64(0..1_000);
            let end_us = begin_us + rng.u64(LATENCY_US);
            *next = end_us + 1;
            let write = rng.f64() >= self.read_share;
            let unknown = write && rng.f64() < self.unknown_share;
            let stale = !write && rng.f64() < self.stale_share;
            let effect_us = match (unknown, rng.bool()) {
                (true, true) => None,
                (true, false) => Some(begin_us + rng.u64(0..LATE_US)),
                (false, _) => Some(rng.u64(begin_us..=end_us)),
            };
            drafts.push(Draft {
                op,
                client,
                object: rng.usize(0..self.objects.max(1)),
                write,
                unknown,
                age_us: stale.then(|| rng.u64(0..STALE_US)),
                begin_us,
                effect_us,
                end_us,
            });
        }
        drafts
    }

    fn header(&self, drafts: &[Draft], until_us: u64) -> Vec<Event> {
        let writes = drafts.iter().filter(|draft| draft.write).count() as u64;
        let reads = drafts.len() as u64 - writes;
        let (scenario, limits) = ("synthetic".to_owned(), self.limits());
        let run = Run { format: FORMAT, seed: self.seed, scenario, limits, ..Run::default() };
        let mut events =
            vec![Event::Run(Box::new(run)), Event::Load(Load { at_us: 0, until_us, reads, writes })];
        for (server, pid) in SERVERS.iter().zip(1..) {
            let process = (*server).to_owned();
            events.push(Event::ProcessStart(ProcessStart { process, role: Role::Server, at_us: 0, pid }));
        }
        for at_us in (0..until_us).step_by(PROBE_EVERY_US as usize) {
            for (server, path) in SERVERS.iter().flat_map(|server| [(server, "/livez"), (server, "/readyz")])
            {
                events.push(Event::Probe(Probe {
                    process: (*server).to_owned(),
                    path: path.to_owned(),
                    planned_us: at_us,
                    at_us: at_us + 1_000,
                    status: Some(200),
                    error: None,
                }));
            }
        }
        events
    }
}

/// One register: its effects in their order, with the time of each.
#[derive(Debug, Clone, Default)]
struct State {
    name: String,
    effects: Vec<(u64, String)>,
}

impl Draft {
    fn object(&self) -> String {
        format!("r{}", self.object)
    }

    fn value(&self) -> String {
        format!("v{}", self.op)
    }

    fn invoke(&self) -> Event {
        Event::Invoke(Invoke {
            op: self.op,
            action: if self.write { Action::Set } else { Action::Read },
            planned_us: self.begin_us,
            at_us: self.begin_us,
            measured: true,
            object: Some(self.object()),
            value: self.write.then(|| self.value()),
            key: self.write.then(|| format!("k{}", self.op)),
            to: "proxy".into(),
            // A labelled answer may go back behind what its session saw; it is no part of one here.
            session: self.age_us.is_none().then(|| format!("c{}", self.client)),
            ..Invoke::default()
        })
    }

    /// What a server knows of it afterwards.
    fn status(&self, at_us: u64) -> Event {
        let status = if self.effect_us.is_some() { "applied" } else { "absent" };
        let (key, status, process) = (format!("k{}", self.op), status.to_owned(), String::new());
        Event::WriteStatus(WriteStatus { key, at_us, status, process, reason: None })
    }

    /// What comes of it, at the point in time at which it happens.
    fn end(&self, state: &mut State) -> Event {
        let (op, at_us, status) = (self.op, self.end_us, Some(200));
        let replica = SERVERS.get(self.client % SERVERS.len()).map(|server| (*server).to_owned());
        let mut done =
            Completion { op, at_us, status, replica, sent_us: Some(self.begin_us), ..Completion::default() };
        if state.name.is_empty() {
            state.name = self.object();
        }
        if self.write {
            if let Some(us) = self.effect_us {
                state.effects.push((us, self.value()));
            }
            if self.unknown {
                return Event::Info(Completion { status: Some(503), ..done });
            }
            done.outcome = Some("committed".into());
            done.version = i64::try_from(state.effects.len()).ok();
            return Event::Ok(done);
        }
        let until = self.effect_us.unwrap_or(self.end_us) - self.age_us.unwrap_or(0).min(self.begin_us);
        let shown = state.effects.partition_point(|(us, _)| *us <= until);
        let value = shown.checked_sub(1).and_then(|last| state.effects.get(last));
        done.values = Some(value.map(|(_, value)| value.clone()).into_iter().collect());
        done.freshness = Some(match self.age_us {
            Some(age) => format!("stale; age={}; reason=database_away", age.div_ceil(1_000_000)),
            None => "fresh".to_owned(),
        });
        Event::Ok(done)
    }
}

/// The ledger, the counters, and the empty table of todos.
fn last_look(states: &[State], at_us: u64) -> Vec<Event> {
    let mut events = Vec::new();
    for State { name, effects } in states {
        for ((_, value), n) in effects.iter().zip(1..) {
            let (object, value) = (name.clone(), value.clone());
            events.push(Event::LedgerRow(LedgerRow { object, value, n: Some(n) }));
        }
        if !effects.is_empty() {
            let count = i64::try_from(effects.len()).unwrap_or(i64::MAX);
            events.push(Event::Counter(Counter { object: name.clone(), count }));
        }
    }
    let rows = states.iter().map(|state| state.effects.len() as u64).sum();
    events.push(Event::LedgerRows(LedgerRows { at_us, rows }));
    events.push(Event::FinalRows(FinalRows { at_us, rows: 0 }));
    events
}
