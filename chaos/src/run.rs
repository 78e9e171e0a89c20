//! One experiment: stack, load, faults and witnesses together, from an empty folder to a verdict.
//! The parts know nothing of each other; this is the only file that sees cluster, workload and nemesis.

mod attempts;
mod counts;
mod course;
mod fills;
mod finish;
mod line;
mod live;
mod progress;
mod readiness;
mod rows;
mod usage;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::canary::Canary;
use crate::checker;
use crate::cluster::Pair;
use crate::error::Error;
use crate::history::{self, Event, Note, Recorder};
use crate::machine;
use crate::nemesis;
use crate::report;
use crate::run::course::{Course, Outcome, record_database_start};
use crate::schedule::{self, Schedule};
use crate::stack::{self, Stack};
use crate::target::{Target, Workload};
use crate::verdict::Verdict;
use crate::workload::{self, Counts, Dialect, Driven};

pub use progress::Progress;

/// How long the stack may take to be ready for traffic.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// How long the canary may take to commit after the last fault was healed.
const BACK_LIMIT: Duration = Duration::from_secs(30);
/// How long the journals may take to be empty, and as long again for the questions about open writes.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);
/// How long they may take to be empty where the run states how long they should: a late end is a figure, too.
const BACKLOG_LIMIT: Duration = Duration::from_secs(240);
/// Nothing is sent in this time before the final rows are read, and then until no session of the service does anything.
const QUIESCE: Duration = Duration::from_secs(1);
/// The load begins this long after it is asked for (see `workload`).
const LEAD: Duration = Duration::from_millis(50);
/// An unplanned end of a process is timed to this.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What to run.
#[derive(Debug, Clone)]
pub struct Experiment {
    /// Everything that it does.
    pub schedule: Schedule,
    /// The stack, as far as the schedule leaves it open.
    pub stack: stack::Options,
    /// Where `schedule.toml`, `history.jsonl`, `verdict.json`, `report.html` and `logs/` go.
    pub out: PathBuf,
    /// The command that runs the same again, for the report.
    pub rerun: String,
    /// Leaves out the effect of every fault: the verdict must then be inconclusive.
    pub toothless: bool,
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
    experiment.schedule.check().map_err(|reason| Error::state("use the schedule", reason))?;
    experiment.schedule.write(&experiment.out)?;
    let path = experiment.out.join("history.jsonl");
    let (recorder, writer) = Recorder::create(&path).map_err(broken_history("write the history"))?;
    let recorder = progress.watching(recorder);
    recorder.record(Event::Run(Box::new(header(experiment))));
    let result = Box::pin(record(experiment, &recorder, progress)).await;
    if let Err(error) = &result {
        let note = Note { at_us: recorder.now_us(), text: format!("failed to {error}") };
        recorder.record(match error {
            // The harness did its part, and the service was never asked.
            Error::NoMeans { .. } => Event::Note(note),
            _ => Event::HarnessError(note),
        });
    }
    writer.finish().map_err(broken_history("write the history"))?;
    result?;
    progress.phase("judging the history", None);
    judge(&path, &experiment.out, None)
}

/// Judges a history by the limits in its header and writes its report beside it or elsewhere; the page holds it against
/// an earlier verdict where there is one.
///
/// # Errors
/// [`Error::History`] where the history cannot be read or the report not written.
pub fn judge(history: &Path, out: &Path, against: Option<&Verdict>) -> Result<Verdict, Error> {
    let (events, verdict) = check(history)?;
    report::write(out, &events, &verdict, against).map_err(broken_history("write the report"))?;
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
    progress.phase("starting PostgreSQL and the service", None);
    let stack = Stack::start(&options(experiment)).await?;
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
    if let Some(statements) =
        experiment.stack.target.as_ref().and_then(|target| target.database.observe.as_ref())
    {
        rows::observe(stack.cluster(), statements).await?;
    }
    let plan = load(experiment, stack);
    if experiment.schedule.limits.required.iter().any(|id| id == "H4") {
        fills::watch(stack);
    }
    progress.phase(&format!("warming up with {} objects", plan.load.warm_todos), None);
    let warmed = workload::warm_up(&plan, recorder).await;
    let warmed = warmed.map_err(|error| Error::state("warm up", error.to_string()))?;

    let mut observers = Observers::start(stack, recorder);
    if experiment.schedule.limits.bounds.is_some() {
        observers.endless.spawn(usage::watch(stack.servers().to_vec(), stack.targets(), recorder.clone()));
    }
    // Somebody else's service has no such listener, and its port may be another program's.
    let ours = stack.targets().into_iter().filter(|_| experiment.stack.target.is_none());
    for server in ours {
        observers.endless.spawn(workload::watch_state(server, recorder.clone()));
    }
    let total = Duration::from_millis(plan.load.load_ms);
    progress.phase("traffic, nothing broken", Some(total));
    let course = Course {
        faults: &experiment.schedule.faults,
        stack,
        recorder,
        progress,
        canary: observers.canary.clone(),
        counts: plan.counts.clone(),
        toothless: experiment.toothless,
    };
    let before =
        if counts_attempts(experiment, stack) { Some(attempts::mark(stack.cluster()).await?) } else { None };
    let start = Instant::now() + LEAD;
    let drive = async { Ok(workload::drive(plan.clone(), warmed, recorder.clone()).await) };
    let work = async { tokio::try_join!(drive, course.run(start, start + total)) };
    let (driven, outcome) = Box::pin(work).await?;
    wait_for_commit(&observers.canary, outcome.healed_at, stack).await?;
    if let Some(before) = before {
        let after = attempts::mark(stack.cluster()).await?;
        attempts::record(before, after, &observers.canary, driven.writes_sent, recorder);
    }

    progress.phase("waiting for empty journals", None);
    let is_bounded = experiment.schedule.limits.bounds.is_some();
    settle(&plan, recorder, &driven, if is_bounded { BACKLOG_LIMIT } else { SETTLE_LIMIT }).await;
    progress.phase("quiet time before the last look", None);
    tokio::time::sleep(QUIESCE).await;
    finish::quiet(stack.cluster()).await?;
    observers.stop().await;
    last_looks(experiment, stack, recorder, start, &outcome).await
}

/// What the database holds at the end, and what observers beside the users counted.
async fn last_looks(
    experiment: &Experiment,
    stack: &Stack,
    recorder: &Recorder,
    start: Instant,
    outcome: &Outcome,
) -> Result<(), Error> {
    counts::record(stack, recorder, start);
    fills::record(stack, recorder, start).await?;
    let target = experiment.stack.target.as_ref();
    if let Some(target) = target.filter(|target| target.traffic.workload != Workload::Todo) {
        return rows::of_target(stack.cluster(), &target.database, recorder).await;
    }
    if target.is_none() {
        readiness::record(stack, &outcome.away, recorder);
        if outcome.failed_over {
            finish::losses(stack, recorder).await;
        }
    }
    let query = target.map_or(finish::OWN_TODOS, |target| &target.database.rows);
    finish::final_rows(stack.cluster(), query, recorder).await
}

/// Whom to send what.
fn load(experiment: &Experiment, stack: &Stack) -> workload::Plan {
    workload::Plan {
        seed: experiment.schedule.seed,
        load: experiment.schedule.load.clone(),
        doors: stack.doors(),
        servers: stack.targets(),
        dialect: match experiment.stack.target.as_ref().map(|target| &target.traffic) {
            Some(traffic) if traffic.workload != Workload::Todo => {
                Dialect::Described(Arc::new(traffic.clone()))
            }
            Some(_) | None => Dialect::Todos,
        },
        counts: Counts::default(),
    }
}

/// The stack as the schedule wants it.
fn options(experiment: &Experiment) -> stack::Options {
    let mut options = experiment.stack.clone();
    let parts = &experiment.schedule.stack;
    options.servers = parts.servers;
    options.forgetful_disks = parts.forgetful_disks;
    options.fitting = nemesis::fitting(experiment.schedule.faults.iter().map(|planned| &planned.fault));
    // Whose way to the database leads through a proxy anyway is counted there.
    options.fitting.messages |= parts.counted || options.fitting.bytes;
    options.server_env.extend(schedule::pairs(&parts.server_env));
    options.cluster.settings.extend(schedule::pairs(&parts.settings));
    options
}

/// H5 is measured where servers are counted at all, or where the run asks for it; of somebody else's service, which may
/// write as often as it likes for one request, only where its target says how often.
fn counts_attempts(experiment: &Experiment, stack: &Stack) -> bool {
    let is_told = |target: &Arc<Target>| target.limits.attempts_per_request_max.is_some();
    let is_counted = !stack.equipment().lines().is_empty();
    experiment.schedule.limits.required.iter().any(|id| id == "H5")
        || (is_counted && experiment.stack.target.as_ref().is_none_or(is_told))
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
        let (pair, cluster) = (stack.equipment().pair().cloned(), stack.cluster().clone());
        let which = move || pair.as_ref().map_or(&cluster, Pair::current).clone();
        let (canary, work) = Canary::following(which, move |one| {
            told.record(Event::Canary(history::Canary {
                sent_us: told.us_of(one.began),
                at_us: told.us_of(one.ended),
                ok: one.error.is_none(),
                error: one.error.clone(),
            }));
        });
        endless.spawn(work);
        let services: Vec<_> = stack.servers().iter().chain(stack.proxy()).cloned().collect();
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

fn header(experiment: &Experiment) -> history::Run {
    let now = time::OffsetDateTime::now_utc().replace_nanosecond(0).ok();
    let started = now.and_then(|now| now.format(&time::format_description::well_known::Rfc3339).ok());
    let schedule = &experiment.schedule;
    history::Run {
        format: history::FORMAT,
        seed: schedule.seed,
        scenario: schedule.scenario.clone(),
        started: started.unwrap_or_default(),
        rerun: experiment.rerun.clone(),
        plan: schedule.load.clone(),
        limits: schedule.limits.clone(),
        foreign: false,
    }
}

fn broken_history<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::History { what: what.to_owned(), reason: error.to_string() }
}
