//! The commands that run experiments: scenarios, a schedule again, fewer faults, many seeds. What one experiment does is in
//! `run.rs`; the command line is in `cli.rs`.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use tokio::time::Instant;

use crate::cli::compare::Earlier;
use crate::cli::ended::{Ended, line, tell, worst_of};
use crate::cli::flags::{Load, Of, Parts};
use crate::cli::prepare::{experiment, scheduled};
use crate::cli::room::Room;
use crate::cli::swarming::{self, Swarm};
use crate::cli::{Interrupts, eprint, print, stack_options};
use crate::config::Config;
use crate::error::Error;
use crate::postgres::Binaries;
use crate::report::{self, Entry};
use crate::run::{self, Experiment, Progress};
use crate::scenario::{self, Scenario};
use crate::schedule::Schedule;
use crate::shrink;
use crate::stack;
use crate::swarm;
use crate::verdict::{Class, Outcome, State, Verdict};

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Kill the database of a running stack under load, bring it back, and show what users got.
    Demo {
        #[command(flatten)]
        load: Load,
        /// Where the report goes [default: target/demo] [key: demo.out].
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        #[command(flatten)]
        parts: Parts,
    },
    /// Run scenarios one after another; `all` runs each there is.
    Run {
        /// Names as `list` shows them, or `all`.
        #[arg(required_unless_present = "schedule", value_name = "SCENARIO")]
        scenarios: Vec<String>,
        /// What a file says instead of a scenario; it fixes seed and load, too.
        #[arg(long, value_name = "FILE", conflicts_with_all = ["scenarios", "seed", "duration", "rate"])]
        schedule: Option<PathBuf>,
        #[command(flatten)]
        load: Load,
        /// Where the reports go, each in a folder named after its scenario [default: target/chaos] [key: run.out].
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Earlier runs, for what got better and worse: a verdict.json, the folder of a run, or that of several. Read
        /// before the first run, so that it may be the folder that is written to. Changes no exit code.
        #[arg(long, value_name = "FILE|DIR", conflicts_with = "schedule")]
        against: Option<PathBuf>,
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        parts: Parts,
    },
    /// Run again exactly what a run did, by the schedule in its folder.
    Replay {
        /// A folder with a `schedule.toml`, or such a file.
        dir: PathBuf,
        /// Where the report goes [default: DIR/replay].
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        parts: Parts,
    },
    /// Find the fewest faults of a run that still break the same promise, by running it with fewer and fewer.
    Shrink {
        /// The folder of a run whose verdict is violated.
        dir: PathBuf,
        /// At most so many runs.
        #[arg(long, value_name = "N", default_value_t = 30)]
        runs: u32,
        /// Where the runs and the smaller schedule go [default: DIR/shrunk].
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        parts: Parts,
    },
    /// Run schedules by chance, one a seed: other faults, rates and sizes each time.
    Swarm(Swarm),
}

/// Carries one out and gives the exit code.
pub(super) async fn execute(command: Command, mut config: Config) -> Result<u8, Error> {
    match command {
        Command::Demo { load, out, parts } => {
            // It is of our own service.
            config.run.target = None;
            load.put_over(&mut config.run);
            parts.put_over(&mut config.stack);
            let out = out.unwrap_or_else(|| config.demo.out.clone());
            demo(&config, out).await
        }
        Command::Run { scenarios, schedule, load, out, against, of, parts } => {
            of.put_over(&mut config.run);
            load.put_over(&mut config.run);
            parts.put_over(&mut config.stack);
            config.run.out = out.unwrap_or(config.run.out);
            match schedule {
                Some(file) => replay(&file, &config, config.run.out.join("schedule")).await,
                None => {
                    let earlier = against.as_deref().map(Earlier::read).transpose()?;
                    named(&scenarios, &config, earlier.as_ref()).await
                }
            }
        }
        Command::Replay { dir, out, of, parts } => {
            of.put_over(&mut config.run);
            parts.put_over(&mut config.stack);
            let out = out.unwrap_or_else(|| beside(&dir, "replay"));
            replay(&dir, &config, out).await
        }
        Command::Shrink { dir, runs, out, of, parts } => {
            of.put_over(&mut config.run);
            parts.put_over(&mut config.stack);
            let out = out.unwrap_or_else(|| dir.join("shrunk"));
            shrink(&dir, &config, runs, &out).await
        }
        Command::Swarm(flags) => swarming::run(flags, config).await,
    }
}

/// A folder in the one that was named, or in the one of the file that was named.
fn beside(named: &Path, name: &str) -> PathBuf {
    let folder = if named.is_dir() { Some(named) } else { named.parent() };
    folder.unwrap_or(named).join(name)
}

/// `demo`.
async fn demo(config: &Config, out: PathBuf) -> Result<u8, Error> {
    let duration = config.run.duration.or(Some(scenario::DEMO_DURATION));
    let experiment = experiment(Scenario::find(scenario::DEMO)?, config, duration, out, "demo")?;
    Ok(one(&experiment, &Room::default(), true).await?.outcome().exit_code())
}

/// `run SCENARIO…`.
async fn named(names: &[String], config: &Config, earlier: Option<&Earlier>) -> Result<u8, Error> {
    let chosen: Vec<&'static Scenario> = if names.iter().any(|name| name == "all") {
        scenario::ALL.iter().filter(|scenario| scenario.in_all).collect()
    } else {
        names.iter().map(|name| Scenario::find(name)).collect::<Result<_, _>>()?
    };
    // Checked before the first one runs: a wrong option must not show after minutes.
    let experiments: Vec<Experiment> = chosen
        .iter()
        .map(|scenario| {
            let out = config.run.out.join(scenario.name);
            experiment(scenario, config, config.run.duration, out, &format!("run {}", scenario.name))
        })
        .collect::<Result<_, _>>()?;
    if experiments.len() > 1 {
        // What is missing for the first is missing for all; it is told once.
        possible(config)?;
    }
    let room = Room::enter_for(experiments.iter().map(|experiment| &experiment.schedule)).await;
    let began = Instant::now();
    let mut lines = Vec::new();
    let mut codes = Vec::new();
    let mut verdicts = Vec::new();
    for (experiment, scenario) in experiments.iter().zip(&chosen) {
        eprint(&format!("{}: {} (seed {})\n", scenario.name, scenario.about, experiment.schedule.seed));
        let ended = or_failed(experiment, one(experiment, &room, true).await);
        codes.push(ended.code());
        lines.push(line(&experiment.schedule.scenario, &ended));
        if ended.is_interrupted() {
            break;
        }
        if let (Some(earlier), Ended::Judged(_)) = (earlier, &ended) {
            print(&earlier.hold(scenario.name, &experiment.out)?);
        }
        verdicts.push((scenario.name, ended.verdict()));
    }
    let entries: Vec<Entry<'_>> = verdicts.iter().map(|(name, verdict)| Entry { name, verdict }).collect();
    told_to_others(&config.run.out, &entries)?;
    if experiments.len() > 1 {
        let (made, wanted) = (lines.len(), experiments.len());
        let many = if made == wanted { made.to_string() } else { format!("{made} of {wanted}") };
        print(&format!("\n{}{many} scenarios in {} s\n", lines.concat(), began.elapsed().as_secs()));
    }
    Ok(worst_of(&codes))
}

/// Whether there is all that every run takes: programs, and a place for the reports.
fn possible(config: &Config) -> Result<(), Error> {
    let options = stack_options(&config.stack);
    Binaries::find(options.cluster.pg_bin.as_deref())?;
    if config.run.target.is_none() {
        stack::binaries(&options)?;
    }
    let out = &config.run.out;
    std::fs::create_dir_all(out).map_err(Error::io(format!("make the folder {}", out.display())))
}

/// Writes what others read about these runs, also where the harness failed in all of them: the page over all, and the
/// summary of the CI run where one is asked for.
fn told_to_others(out: &Path, entries: &[Entry<'_>]) -> Result<(), Error> {
    let failed = |error: report::ReportError| Error::state("write the report", error.to_string());
    if !entries.is_empty() {
        std::fs::create_dir_all(out).map_err(Error::io(format!("make the folder {}", out.display())))?;
        report::write_all(out, entries).map_err(failed)?;
    }
    if entries.len() > 1 {
        print(&format!("\nReport over all: {}\n", out.join(report::INDEX).display()));
    }
    match std::env::var_os("GITHUB_STEP_SUMMARY").filter(|file| !file.is_empty()) {
        Some(file) if !entries.is_empty() => {
            report::append_summary(Path::new(&file), entries).map_err(failed)
        }
        _ => Ok(()),
    }
}

/// `run --schedule FILE` and `replay DIR`: exactly what the file says.
async fn replay(file: &Path, config: &Config, out: PathBuf) -> Result<u8, Error> {
    let schedule = Schedule::read(file)?;
    eprint(&format!("{}: {} (seed {})\n", schedule.scenario, swarm::words(&schedule), schedule.seed));
    let experiment = scheduled(schedule, config, out)?;
    let room = Room::enter_for([&experiment.schedule]).await;
    Ok(one(&experiment, &room, true).await?.outcome().exit_code())
}

/// `shrink DIR`.
async fn shrink(dir: &Path, config: &Config, runs_max: u32, out: &Path) -> Result<u8, Error> {
    let schedule = Schedule::read(dir)?;
    let (_, verdict) = run::check(&dir.join("history.jsonl"))?;
    let broken = broken(&verdict);
    if broken.is_empty() {
        let reason = format!("its verdict is: {}", verdict.outcome.word());
        return Err(Error::state(format!("shrink {}", dir.display()), reason));
    }
    print(&format!(
        "{} broke {}; looking for fewer faults that do\n",
        swarm::words(&schedule),
        broken.join(", ")
    ));
    let room = Room::enter_for([&schedule]).await;
    let mut number = 0;
    let shrunk = shrink::shrink(&schedule, runs_max, async |candidate| {
        number += 1;
        let experiment = scheduled(candidate.clone(), config, out.join(number.to_string()))?;
        let ended = one(&experiment, &room, false).await?;
        let breaks = match &ended {
            Ended::Judged(verdict) => self::broken(verdict).iter().any(|id| broken.contains(id)),
            Ended::Interrupted => return Err(Error::state("shrink the schedule", "it was interrupted")),
            Ended::Skipped(why) => return Err(Error::state("shrink the schedule", why.clone())),
            Ended::Failed => false,
        };
        let found = if breaks { "still broken" } else { "not broken" };
        print(&format!("  {number:>3}  {found:<13} {}\n", swarm::words(candidate)));
        Ok(breaks)
    })
    .await?;
    std::fs::create_dir_all(out).map_err(Error::io(format!("make the folder {}", out.display())))?;
    shrunk.schedule.write(out)?;
    let least = if shrunk.is_least { "each of them is needed" } else { "the limit of runs was reached" };
    print(&format!(
        "{} of {} faults are left after {} runs; {least}: {}\nAgain: ridethrough-chaos replay {}\n",
        shrunk.schedule.faults.len(),
        schedule.faults.len(),
        shrunk.runs,
        swarm::words(&shrunk.schedule),
        out.display()
    ));
    Ok(0)
}

/// The checks that a run broke.
pub(super) fn broken(verdict: &Verdict) -> Vec<String> {
    let broken = verdict.checks.iter().filter(|check| {
        check.state == State::Violated
            && check.class != Class::Honesty
            && verdict.outcome == Outcome::Violated
    });
    broken.map(|check| check.id.clone()).collect()
}

pub(super) fn or_failed(experiment: &Experiment, ended: Result<Ended, Error>) -> Ended {
    ended.unwrap_or_else(|error| {
        eprint(&format!("{}: failed to {error}\n", experiment.schedule.scenario));
        Ended::Failed
    })
}

/// Runs one. What this machine has not the means for is skipped, which is no failure of the harness.
pub(super) async fn one(experiment: &Experiment, room: &Room, is_told: bool) -> Result<Ended, Error> {
    if let Some(why) = room.lacks(&experiment.schedule) {
        return Ok(skipped(&experiment.schedule, why.to_owned()));
    }
    let mut interrupts = Interrupts::listen()?;
    let progress = if is_told { Progress::on_stderr() } else { Progress::quiet() };
    let outcome = tokio::select! {
        outcome = Box::pin(run::run(experiment, &progress)) => Some(outcome),
        () = progress.keep_alive() => None,
        () = interrupts.next() => None,
    };
    progress.clear();
    match outcome {
        Some(Err(error @ Error::NoMeans { .. })) => {
            Ok(skipped(&experiment.schedule, format!("failed to {error}")))
        }
        Some(verdict) => {
            let verdict = verdict?;
            if is_told {
                tell(&verdict, Some(&experiment.out));
            }
            Ok(Ended::Judged(Box::new(verdict)))
        }
        None => {
            print("interrupted; everything that was started is stopped and removed, and nothing is proved\n");
            Ok(Ended::Interrupted)
        }
    }
}

fn skipped(schedule: &Schedule, why: String) -> Ended {
    eprint(&format!("{}: skipped, {why}\n", schedule.scenario));
    Ended::Skipped(why)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_rerun_line_names_seed_and_load() {
        let mut config = Config::default();
        config.run.seed = Some(7);
        config.run.rate = Some(20);
        config.run.duration = Some(Duration::from_millis(6_500));
        let scenario = Scenario::find("db-hang").unwrap();
        let made = experiment(scenario, &config, config.run.duration, PathBuf::new(), "run db-hang").unwrap();
        assert_eq!(made.rerun, "ridethrough-chaos run db-hang --seed 7 --duration 6500ms --rate 20");
        assert_eq!((made.schedule.seed, made.schedule.load.rate_per_second), (7, 20));
        assert_eq!(made.schedule.load.load_ms, 6_500);
    }
}
