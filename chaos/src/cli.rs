//! The command line: options, sub-commands, exit codes. What the commands do is in `run.rs`, `up.rs`, `doctor.rs`.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::Error;
use crate::guardian;
use crate::nemesis::Fault;
use crate::run::{self, Experiment, Progress};
use crate::scenario::{self, Scenario};
use crate::verdict::{Outcome, Verdict};
use crate::{cluster, doctor, report, stack, up};

/// A fault laboratory: runs a service on a private PostgreSQL, breaks the database, and proves what users got.
#[derive(Debug, Parser)]
#[command(name = "ridethrough-chaos", version, about)]
#[command(after_help = "Exit codes: 0 held, 1 violated, 2 inconclusive, 3 the harness failed.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Kill the database of a running stack under load, bring it back, and show what users got.
    Demo {
        #[command(flatten)]
        load: Load,
        /// Where the report goes.
        #[arg(long, value_name = "DIR", default_value = "target/demo")]
        out: PathBuf,
        #[command(flatten)]
        parts: Parts,
    },
    /// Start the same stack and leave it running until Ctrl-C.
    Up {
        /// Where the proxy listens.
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
        #[command(flatten)]
        parts: Parts,
    },
    /// Run scenarios one after another; `all` runs each there is.
    Run {
        /// Names as `list` shows them, or `all`.
        #[arg(required = true, value_name = "SCENARIO")]
        scenarios: Vec<String>,
        #[command(flatten)]
        load: Load,
        /// Where the reports go, each in a folder named after its scenario.
        #[arg(long, value_name = "DIR", default_value = "target/chaos")]
        out: PathBuf,
        #[command(flatten)]
        parts: Parts,
    },
    /// List scenarios and faults.
    List,
    /// Put a fault on a running `up`.
    Break {
        /// A name as `list` shows it.
        fault: String,
        #[command(flatten)]
        which: Which,
    },
    /// Heal every fault of a running `up`.
    Heal {
        #[command(flatten)]
        which: Which,
    },
    /// Judge a history file again; writes nothing.
    Check {
        /// A `history.jsonl`.
        history: PathBuf,
    },
    /// Judge the history in a folder again and write its report anew.
    Report {
        /// A folder with a `history.jsonl`.
        dir: PathBuf,
    },
    /// Show what this machine can inject, proven by doing it, and why not.
    Doctor {
        #[command(flatten)]
        parts: Parts,
    },
    /// Clean up after a harness; started by the harness itself.
    #[command(name = guardian::SUB_COMMAND, hide = true)]
    Guardian {
        /// The run folder.
        folder: PathBuf,
    },
}

/// What the stack is made of.
#[derive(Debug, Args)]
struct Parts {
    /// The folder with PostgreSQL's `postgres` and `initdb` [env: RIDETHROUGH_PG_BIN].
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    /// The folder with ridethrough-server and ridethrough-proxy [default: beside this program].
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Another server binary.
    #[arg(long, value_name = "PATH")]
    server_bin: Option<PathBuf>,
    /// Added to the environment of each server; repeatable.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    server_env: Vec<(String, String)>,
}

/// The traffic of a run.
#[derive(Debug, Args)]
struct Load {
    /// Fixes traffic and faults [default: random, printed].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Seconds of traffic, 6 to 3600 [default: 18]; the outage takes 8 of 18 parts.
    #[arg(long, value_name = "S")]
    duration: Option<u64>,
    /// Requests per second [default: 150].
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
}

/// Which running `up` is meant.
#[derive(Debug, Args)]
struct Which {
    /// The proxy's address; needed only where more than one runs.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

impl Parts {
    fn stack(&self) -> stack::Options {
        let guardian = Some(PathBuf::from(guardian::OWN_BINARY));
        stack::Options {
            server_bin: self.server_bin.clone(),
            bin_dir: self.bin_dir.clone(),
            server_env: self.server_env.clone(),
            cluster: cluster::Options {
                pg_bin: self.pg_bin.clone(),
                guardian,
                ..cluster::Options::default()
            },
            ..stack::Options::default()
        }
    }
}

/// Runs the command line and gives the exit code: 0 held or done, 1 violated, 2 inconclusive, 3 the harness failed.
///
/// # Errors
/// [`Error`] where the harness failed; to be printed and turned into exit code 3.
pub fn main(args: impl IntoIterator<Item = OsString>) -> Result<u8, Error> {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come as errors too. A closed output is no reason to fail.
            let _ = error.print();
            return Ok(if error.use_stderr() { Outcome::HarnessError.exit_code() } else { 0 });
        }
    };
    // Before any runtime: a guardian has to outlive signals and needs no threads.
    if let Command::Guardian { folder } = &cli.command {
        return Ok(guardian::watch(folder));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(Error::io("start the runtime"))?.block_on(Box::pin(execute(cli.command)))
}

async fn execute(command: Command) -> Result<u8, Error> {
    match command {
        Command::Demo { load, out, parts } => {
            let scenario = Scenario::find(scenario::DEMO)?;
            let verdict = one(&experiment(scenario, &load, out, &parts, "demo")?).await?;
            Ok(verdict.exit_code())
        }
        Command::Run { scenarios, load, out, parts } => run_all(&scenarios, &load, &out, &parts).await,
        Command::Up { listen, parts } => {
            let options = stack::Options { listen: Some(listen), ..parts.stack() };
            up::up(&options, &mut Interrupts::listen()?).await.map(|()| 0)
        }
        Command::List => {
            print(&list());
            Ok(0)
        }
        Command::Break { fault, which } => {
            let fault: Fault = fault.parse()?;
            print(&up::ask(&format!("break {fault}"), which.listen).await?);
            Ok(0)
        }
        Command::Heal { which } => {
            print(&up::ask("heal", which.listen).await?);
            Ok(0)
        }
        Command::Check { history } => {
            let (_, verdict) = run::check(&history)?;
            tell(&verdict, None);
            Ok(verdict.outcome.exit_code())
        }
        Command::Report { dir } => {
            let verdict = run::judge(&dir.join("history.jsonl"), &dir)?;
            tell(&verdict, Some(&dir));
            Ok(verdict.outcome.exit_code())
        }
        Command::Doctor { parts } => {
            let (text, fit) = doctor::examine(&parts.stack()).await;
            print(&text);
            Ok(if fit { 0 } else { Outcome::HarnessError.exit_code() })
        }
        Command::Guardian { folder } => Ok(guardian::watch(&folder)),
    }
}

async fn run_all(names: &[String], load: &Load, out: &Path, parts: &Parts) -> Result<u8, Error> {
    let chosen: Vec<&'static Scenario> = if names.iter().any(|name| name == "all") {
        scenario::ALL.iter().collect()
    } else {
        names.iter().map(|name| Scenario::find(name)).collect::<Result<_, _>>()?
    };
    // Checked before the first one runs: a wrong option must not show after minutes.
    let experiments: Vec<Experiment> = chosen
        .iter()
        .map(|scenario| {
            experiment(scenario, load, out.join(scenario.name), parts, &format!("run {}", scenario.name))
        })
        .collect::<Result<_, _>>()?;
    let mut outcomes = Vec::new();
    for experiment in &experiments {
        let ended = one(experiment).await;
        if let Err(error) = &ended {
            eprint(&format!("{}: failed to {error}\n", experiment.scenario.name));
        }
        let ended = ended.unwrap_or(Ended::Judged(Outcome::HarnessError));
        outcomes.push(ended.exit_code());
        if ended == Ended::Interrupted {
            break;
        }
    }
    Ok(worst(&outcomes))
}

/// A broken promise outweighs a harness that failed elsewhere; both outweigh an open question.
fn worst(codes: &[u8]) -> u8 {
    [1, 3, 2].into_iter().find(|code| codes.contains(code)).unwrap_or(0)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Judged(Outcome),
    Interrupted,
}

impl Ended {
    fn exit_code(self) -> u8 {
        match self {
            Self::Judged(outcome) => outcome.exit_code(),
            // Cut short, it proves nothing.
            Self::Interrupted => Outcome::Inconclusive.exit_code(),
        }
    }
}

async fn one(experiment: &Experiment) -> Result<Ended, Error> {
    let mut interrupts = Interrupts::listen()?;
    eprint(&format!(
        "{}: {} (seed {})\n",
        experiment.scenario.name, experiment.scenario.about, experiment.seed
    ));
    let progress = Progress::on_stderr();
    let outcome = tokio::select! {
        outcome = Box::pin(run::run(experiment, &progress)) => Some(outcome),
        () = progress.keep_alive() => None,
        () = interrupts.next() => None,
    };
    progress.clear();
    match outcome {
        Some(verdict) => {
            let verdict = verdict?;
            tell(&verdict, Some(&experiment.out));
            Ok(Ended::Judged(verdict.outcome))
        }
        None => {
            print("interrupted; everything that was started is stopped and removed, and nothing is proved\n");
            Ok(Ended::Interrupted)
        }
    }
}

fn experiment(
    scenario: &'static Scenario,
    load: &Load,
    out: PathBuf,
    parts: &Parts,
    command: &str,
) -> Result<Experiment, Error> {
    // Small enough to be read out and typed in again.
    let seed = load.seed.unwrap_or_else(|| u64::from(fastrand::u32(..)));
    let mut rerun = format!("ridethrough-chaos {command} --seed {seed}");
    if let Some(duration) = load.duration {
        rerun += &format!(" --duration {duration}");
    }
    if let Some(rate) = load.rate {
        rerun += &format!(" --rate {rate}");
    }
    let plan = scenario.plan(load.duration.map(Duration::from_secs), load.rate)?;
    Ok(Experiment { scenario, seed, plan, stack: parts.stack(), out, rerun })
}

/// The closing sentences, and where the report is.
fn tell(verdict: &Verdict, out: Option<&Path>) {
    let colourful = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let colour = match verdict.outcome {
        Outcome::Held => "32",
        Outcome::Inconclusive => "33",
        Outcome::Violated | Outcome::HarnessError => "31",
    };
    let mut text = String::new();
    for sentence in report::sentences(verdict) {
        if colourful && sentence.starts_with("Verdict") {
            text += &format!("\x1b[1;{colour}m{sentence}\x1b[0m\n");
        } else {
            text += &format!("{sentence}\n");
        }
    }
    if let Some(out) = out {
        text += &format!("Report: {}\n", out.join(report::PAGE).display());
    }
    print(&text);
}

fn list() -> String {
    let scenarios = scenario::ALL.map(|scenario| format!("  {:<22} {}\n", scenario.name, scenario.about));
    let faults = Fault::ALL.map(|fault| format!("  {:<22} {}\n", fault.name(), fault.about()));
    format!(
        "Scenarios, for `run`:\n{}\nFaults, for `break` on a running `up`:\n{}",
        scenarios.concat(),
        faults.concat()
    )
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}

fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that went away is no failure of the run; the exit code still tells.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn eprint(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// SIGINT and SIGTERM, one after another.
#[derive(Debug)]
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn listen() -> Result<Self, Error> {
        let on = |kind| signal(kind).map_err(Error::io("listen for signals"));
        Ok(Self { interrupt: on(SignalKind::interrupt())?, terminate: on(SignalKind::terminate())? })
    }

    /// The next of them.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_violation_outweighs_all_and_an_open_question_only_success() {
        assert_eq!(worst(&[0, 2, 3, 1]), 1);
        assert_eq!(worst(&[0, 2, 3]), 3);
        assert_eq!(worst(&[0, 2, 0]), 2);
        assert_eq!(worst(&[0, 0]), 0);
    }

    #[test]
    fn wrong_usage_is_a_harness_error_and_help_is_none() {
        let run = |args: &[&str]| main(args.iter().map(OsString::from)).unwrap();
        assert_eq!(run(&["ridethrough-chaos", "--nonsense"]), 3);
        assert_eq!(run(&["ridethrough-chaos", "--version"]), 0);
    }

    #[test]
    fn the_rerun_line_names_seed_and_load() {
        let cli = Cli::try_parse_from(["x", "run", "db-hang", "--seed", "7", "--rate", "20"]).unwrap();
        let Command::Run { load, parts, .. } = cli.command else { panic!("not a run") };
        let scenario = Scenario::find("db-hang").unwrap();
        let experiment = experiment(scenario, &load, PathBuf::new(), &parts, "run db-hang").unwrap();
        assert_eq!(experiment.rerun, "ridethrough-chaos run db-hang --seed 7 --rate 20");
        assert_eq!((experiment.seed, experiment.plan.rate_per_second), (7, 20));
    }

    #[test]
    fn environment_for_servers_needs_a_name() {
        assert_eq!(key_value("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(key_value("=x").is_err() && key_value("x").is_err());
    }
}
