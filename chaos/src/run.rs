//! One experiment: stack, load, faults and witnesses together, from an empty folder to a verdict.
//! The parts know nothing of each other; this is the only file that sees cluster, workload and nemesis.

mod finish;
mod progress;
mod usage;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::canary::Canary;
use crate::checker;
use crate::error::Error;
use crate::history::{self, Event, FaultEnd, FaultStart, Note, ProcessExit, ProcessStart, Recorder, Role};
use crate::machine;
use crate::nemesis::{self, Bite, Fault, Healed};
use crate::report;
use crate::scenario::{Moment, Scenario};
use crate::stack::{self, Stack};
use crate::verdict::Verdict;
use crate::workload::{self, Driven};

pub use progress::Progress;

/// How long the stack may take to be ready for traffic.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// How long the canary may take to commit after the last fault was healed.
const BACK_LIMIT: Duration = Duration::from_secs(30);
/// How long the journals may take to be empty, and as long again for the questions about open writes.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);
/// How long they may take to be empty where the run states how long they should: a late end is a figure, too.
const BACKLOG_LIMIT: Duration = Duration::from_secs(240);
/// Nothing is sent in this time before the final rows are read: what was still under way has ended then.
const QUIESCE: Duration = Duration::from_secs(3);
/// The load begins this long after it is asked for (see `workload`).
const LEAD: Duration = Duration::from_millis(50);
/// An unplanned end of a process is timed to this.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The name of the database in the history.
const DATABASE: &str = "postgresql";

/// What to run.
#[derive(Debug, Clone)]
pub struct Experiment {
    /// Its faults and limits.
    pub scenario: &'static Scenario,
    /// Fixes load and faults.
    pub seed: u64,
    /// The load.
    pub plan: history::Plan,
    /// The stack.
    pub stack: stack::Options,
    /// Where `history.jsonl`, `verdict.json`, `report.html` and `logs/` go.
    pub out: PathBuf,
    /// The command that runs the same again, for the report.
    pub rerun: String,
}

/// Runs an experiment and judges it. Its files are in `out` afterwards, also where it failed on the way.
///
/// # Errors
/// [`Error`] where the harness could not do its part; that says nothing about the service.
///
/// # Cancel safety
/// Dropping the future ends and removes everything it started; the history is left without an end.
pub async fn run(experiment: &Experiment, progress: &Progress) -> Result<Verdict, Error> {
    std::fs::create_dir_all(&experiment.out)
        .map_err(Error::io(format!("make the folder {}", experiment.out.display())))?;
    let path = experiment.out.join("history.jsonl");
    let (recorder, writer) = Recorder::create(&path).map_err(broken_history("write the history"))?;
    recorder.record(Event::Run(Box::new(header(experiment))));
    let result = Box::pin(record(experiment, &recorder, progress)).await;
    if let Err(error) = &result {
        let text = format!("failed to {error}");
        recorder.record(Event::HarnessError(Note { at_us: recorder.now_us(), text }));
    }
    writer.finish().map_err(broken_history("write the history"))?;
    result?;
    progress.phase("judging the history", None);
    judge(&path, &experiment.out)
}

/// Judges a history by the limits in its header and writes `report.html` and `verdict.json` beside it or elsewhere.
///
/// # Errors
/// [`Error::History`] where the history cannot be read or the report not written.
pub fn judge(history: &Path, out: &Path) -> Result<Verdict, Error> {
    let (events, verdict) = check(history)?;
    report::write(out, &events, &verdict).map_err(broken_history("write the report"))?;
    Ok(verdict)
}

/// Judges a history by the limits in its header; writes nothing.
///
/// # Errors
/// [`Error::History`] where it cannot be read.
pub fn check(history: &Path) -> Result<(Vec<Event>, Verdict), Error> {
    let events = history::read(history).map_err(broken_history("read the history"))?;
    let header = events.iter().find_map(|event| match event {
        Event::Run(run) => Some(run.as_ref()),
        _ => None,
    });
    let limits = header.map(|run| run.limits.clone()).unwrap_or_default();
    let verdict = checker::judge(&events, &limits);
    Ok((events, verdict))
}

async fn record(experiment: &Experiment, recorder: &Recorder, progress: &Progress) -> Result<(), Error> {
    progress.phase("starting PostgreSQL, the servers and the proxy", None);
    let stack = Stack::start(&experiment.stack).await?;
    let result = Box::pin(measure(experiment, &stack, recorder, progress)).await;
    finish::lives(&stack, recorder);
    let stopped = match &result {
        Ok(()) => {
            progress.phase("stopping the stack", None);
            let folder = stack.folder().clone();
            let stopped = stack.stop().await;
            finish::save_logs(folder.path(), &experiment.out);
            stopped
        }
        Err(_) => {
            finish::save_logs(stack.folder().path(), &experiment.out);
            return result;
        }
    };
    for (name, exit) in stopped?.exits {
        let text = format!("{name} was stopped and ended with {exit}");
        recorder.record(Event::Note(Note { at_us: recorder.now_us(), text }));
    }
    result
}

async fn measure(
    experiment: &Experiment,
    stack: &Stack,
    recorder: &Recorder,
    progress: &Progress,
) -> Result<(), Error> {
    record_database_start(stack, recorder);
    progress.phase("waiting until the stack is ready", None);
    stack.ready(READY_LIMIT).await?;
    let plan = workload::Plan {
        seed: experiment.seed,
        load: experiment.plan.clone(),
        proxy: stack.proxy().main(),
        servers: stack.targets(),
    };
    progress.phase(&format!("warming up with {} todos", plan.load.warm_todos), None);
    let warmed = workload::warm_up(&plan, recorder).await;
    let warmed = warmed.map_err(|error| Error::state("warm up", error.to_string()))?;

    let mut observers = Observers::start(stack, recorder);
    if experiment.scenario.limits().bounds.is_some() {
        observers.endless.spawn(usage::watch(stack.servers().to_vec(), stack.targets(), recorder.clone()));
    }
    let total = Duration::from_millis(plan.load.load_ms);
    progress.phase("traffic, nothing broken", Some(total));
    let course = Course { experiment, stack, recorder, progress, canary: observers.canary.clone() };
    let drive = async { Ok(workload::drive(plan.clone(), warmed, recorder.clone()).await) };
    let (driven, healed_at) = Box::pin(async { tokio::try_join!(drive, course.run()) }).await?;
    wait_for_commit(&observers.canary, healed_at, stack).await?;

    progress.phase("waiting for empty journals", None);
    let is_bounded = experiment.scenario.limits().bounds.is_some();
    settle(&plan, recorder, &driven, if is_bounded { BACKLOG_LIMIT } else { SETTLE_LIMIT }).await;
    progress.phase("quiet time before the last look", Some(QUIESCE));
    tokio::time::sleep(QUIESCE).await;
    observers.stop().await;
    finish::final_rows(stack.cluster(), recorder).await
}

async fn settle(plan: &workload::Plan, recorder: &Recorder, driven: &Driven, journals: Duration) {
    let settled = workload::settle(plan, recorder, driven, journals, SETTLE_LIMIT).await;
    if !settled.journals_empty || settled.open > 0 {
        let journals = if settled.journals_empty { "empty" } else { "not empty" };
        let text = format!("after the time for it the journals are {journals}, {} writes open", settled.open);
        recorder.record(Event::Note(Note { at_us: recorder.now_us(), text }));
    }
}

/// The database must be back before anything about its rows can be said.
async fn wait_for_commit(canary: &Canary, healed_at: Option<Instant>, stack: &Stack) -> Result<(), Error> {
    let from = healed_at.unwrap_or_else(Instant::now);
    let back = crate::process::poll_until(BACK_LIMIT, || canary.first_commit(from)).await;
    match (back, stack.cluster().pid()) {
        (Some(_), Some(_)) => Ok(()),
        (_, pid) => Err(Error::Start {
            name: "PostgreSQL".to_owned(),
            reason: match pid {
                Some(_) => format!("no commit {} s after the last fault was healed", BACK_LIMIT.as_secs()),
                None => "it died by itself".to_owned(),
            },
            log: crate::process::log_tail(stack.cluster().log(), 12),
        }),
    }
}

/// The tasks that watch a run. They end with it, however it ends.
struct Observers {
    canary: Canary,
    stop: watch::Sender<bool>,
    probes: JoinSet<()>,
    endless: JoinSet<()>,
}

impl Observers {
    fn start(stack: &Stack, recorder: &Recorder) -> Self {
        let mut endless = JoinSet::new();
        let told = recorder.clone();
        let (canary, work) = Canary::of(stack.cluster(), move |one| {
            told.record(Event::Canary(history::Canary {
                sent_us: told.us_of(one.began),
                at_us: told.us_of(one.ended),
                ok: one.error.is_none(),
                error: one.error.clone(),
            }));
        });
        endless.spawn(work);
        let services: Vec<_> = stack.servers().iter().chain([stack.proxy()]).cloned().collect();
        endless.spawn(async move {
            loop {
                // Looking is what times an end that nobody meant.
                services.iter().for_each(|service| drop(service.lives()));
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        let told = recorder.clone();
        endless.spawn(machine::watch(move |part| {
            let (from_us, at_us) = (told.us_of(part.from), told.us_of(part.until));
            told.record(Event::Machine(history::Machine { from_us, at_us, others: part.others }));
        }));
        let (stop, stopped) = watch::channel(false);
        let mut probes = JoinSet::new();
        probes.spawn(workload::probe_health(stack.targets(), recorder.clone(), stopped));
        Self { canary, stop, probes, endless }
    }

    /// Ends all watching: who still told something while the final rows fill the queue of the history would lose it.
    async fn stop(mut self) {
        let _ = self.stop.send(true);
        while self.probes.join_next().await.is_some() {}
        self.endless.shutdown().await;
    }
}

/// The faults of a scenario, put on and taken off in time.
struct Course<'a> {
    experiment: &'a Experiment,
    stack: &'a Stack,
    recorder: &'a Recorder,
    progress: &'a Progress,
    canary: Canary,
}

impl Course<'_> {
    /// Gives the time at which the last fault began to be healed.
    async fn run(&self) -> Result<Option<Instant>, Error> {
        let start = Instant::now() + LEAD;
        let scenario = self.experiment.scenario;
        let mut bites: Vec<Option<Bite>> = scenario.steps.iter().map(|_| None).collect();
        let mut last = None;
        for Moment { at, index, heal } in scenario.moments(&self.experiment.plan) {
            tokio::time::sleep_until(start + at).await;
            let (Some(step), Some(place)) = (scenario.steps.get(index), bites.get_mut(index)) else {
                continue;
            };
            let id = u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1);
            if !heal {
                *place = Some(self.put_on(id, step.fault).await?);
            } else if let Some(bite) = place.take() {
                last = Some(self.take_off(id, bite).await?);
            }
        }
        Ok(last)
    }

    async fn put_on(&self, id: u32, fault: Fault) -> Result<Bite, Error> {
        let servers = self.stack.servers();
        let chosen = usize::try_from(self.experiment.seed).unwrap_or(0) % servers.len().max(1);
        let Some(server) = servers.get(chosen) else {
            return Err(Error::state(format!("inject {fault}"), "the stack has no server"));
        };
        let before = self.recorder.now_us();
        let bite = nemesis::inject(fault, self.stack.cluster(), server).await?;
        if fault == Fault::DbKill {
            self.recorder.record(Event::ProcessExit(ProcessExit {
                process: DATABASE.to_owned(),
                role: Role::Database,
                at_us: before,
                planned: true,
                how: "signal 9".to_owned(),
            }));
        }
        self.recorder.record(Event::FaultStart(FaultStart {
            id,
            fault: fault.name().to_owned(),
            at_us: self.recorder.us_of(bite.began()),
            database_gone: bite.database_gone(),
            witness: None,
        }));
        self.progress.note(&format!("traffic, {fault} is on"));
        Ok(bite)
    }

    async fn take_off(&self, id: u32, bite: Bite) -> Result<Instant, Error> {
        let (fault, began) = (bite.fault(), bite.began());
        let Healed { at, witness } = bite.heal().await?;
        let witness = self.confirmed(fault, began, at, witness);
        if witness.is_none() {
            let text = format!("nothing proves that {fault} bit; {}", self.canary.seen(began, at));
            self.recorder.record(Event::Note(Note { at_us: self.recorder.now_us(), text }));
        }
        let at_us = self.recorder.us_of(at);
        self.recorder.record(Event::FaultEnd(FaultEnd { id, at_us, witness }));
        if fault == Fault::DbKill {
            record_database_start(self.stack, self.recorder);
        }
        self.progress.note(&format!("traffic, {fault} is healed"));
        Ok(at)
    }

    /// A fault on the database has bitten only if the canary agrees with the kernel.
    fn confirmed(
        &self,
        fault: Fault,
        began: Instant,
        until: Instant,
        witness: Option<String>,
    ) -> Option<String> {
        let witness = witness?;
        match fault {
            Fault::ServerKill => Some(witness),
            Fault::DbKill | Fault::DbHang => {
                let seen = self.canary.seen(began, until);
                (seen.committed == 0 && seen.failed > 0).then(|| format!("{witness}; {seen}"))
            }
        }
    }
}

fn record_database_start(stack: &Stack, recorder: &Recorder) {
    if let Some(pid) = stack.cluster().pid() {
        let (process, at_us) = (DATABASE.to_owned(), recorder.now_us());
        recorder.record(Event::ProcessStart(ProcessStart { process, role: Role::Database, at_us, pid }));
    }
}

fn header(experiment: &Experiment) -> history::Run {
    let now = time::OffsetDateTime::now_utc().replace_nanosecond(0).ok();
    let started = now.and_then(|now| now.format(&time::format_description::well_known::Rfc3339).ok());
    history::Run {
        format: history::FORMAT,
        seed: experiment.seed,
        scenario: experiment.scenario.name.to_owned(),
        started: started.unwrap_or_default(),
        rerun: experiment.rerun.clone(),
        plan: experiment.plan.clone(),
        limits: experiment.scenario.limits(),
        foreign: false,
    }
}

fn broken_history<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::History { what: what.to_owned(), reason: error.to_string() }
}
