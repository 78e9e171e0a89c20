//! The command line: sub-commands and exit codes. What the commands do is in `run.rs`, `up.rs`, `doctor.rs`.

mod explore;
mod export;
mod flags;
mod interrupts;
mod proxy;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use crate::cli::explore::Explore;
use crate::cli::flags::{Load, Parts, Which};
use crate::config::{Config, ConfigError, StackSection};
use crate::error::Error;
use crate::guardian;
use crate::namespace;
use crate::nemesis::Fault;
use crate::run::{self, Experiment, Progress};
use crate::scenario::{self, Scenario};
use crate::verdict::{Outcome, Verdict};
use crate::{cluster, doctor, report, stack, up};

pub(crate) use interrupts::Interrupts;

/// Where `up` listens unless told otherwise.
const LISTEN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080));

/// A fault laboratory: runs a service on a private PostgreSQL, breaks the database, and proves what users got.
#[derive(Debug, Parser)]
#[command(name = "ridethrough-chaos", version, about)]
#[command(after_help = "\
Keys: `[key: run.rate]` in the help of a command stands for `rate` under `[run]` in the file of --config, and for the \
environment variable RIDETHROUGH_RUN__RATE. Flags win over the environment, the environment over the file.

Exit codes: 0 held, 1 violated, 2 inconclusive, 3 the harness failed or cannot use what it was given; of check-config \
1 for a wrong configuration.")]
struct Cli {
    /// Configuration file (TOML); every key is also `RIDETHROUGH_<SECTION>__<KEY>` in the environment.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
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
    /// Start the same stack and leave it running until Ctrl-C.
    Up {
        /// Where the proxy listens [default: 127.0.0.1:8080] [key: up.listen].
        #[arg(long, value_name = "ADDR")]
        listen: Option<SocketAddr>,
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
        /// Where the reports go, each in a folder named after its scenario [default: target/chaos] [key: run.out].
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        #[command(flatten)]
        parts: Parts,
    },
    /// Lose the connection of one write at every message of its transaction, in every way, and show what was told.
    Explore(Explore),
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
        /// A `history.jsonl`, or the operations of another tool, one JSON object per line.
        history: PathBuf,
    },
    /// Write the operations of a history to standard output, for other tools.
    Export {
        /// A `history.jsonl`.
        history: PathBuf,
        /// The form: JSON lines that `check` reads too, or EDN for Elle.
        #[arg(long, value_name = "FORMAT", default_value = "jsonl")]
        format: export::Form,
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
    /// Run the fault proxy alone, with toxiproxy's HTTP interface.
    Proxy(proxy::Options),
    /// Check the configuration and say what is wrong with it.
    CheckConfig,
    /// Clean up after a harness; started by the harness itself.
    #[command(name = guardian::SUB_COMMAND, hide = true)]
    Guardian {
        /// The run folder.
        folder: PathBuf,
    },
    #[command(name = namespace::SUB_COMMAND, hide = true)]
    NamespaceProbe,
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
    let config = Config::load(cli.config.as_deref(), std::env::vars_os());
    if let Command::CheckConfig = cli.command {
        return Ok(check_config(config));
    }
    let config = config?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(Error::io("start the runtime"))?.block_on(Box::pin(execute(cli.command, config)))
}

/// Exit code 1 for a wrong configuration, as of the other binaries: here nothing can be violated.
fn check_config(config: Result<Config, ConfigError>) -> u8 {
    match config.and_then(|config| config.check()) {
        Ok(()) => {
            print("the configuration is in order\n");
            0
        }
        Err(error) => {
            eprint(&format!("ridethrough-chaos: {error}\n"));
            1
        }
    }
}

async fn execute(command: Command, mut config: Config) -> Result<u8, Error> {
    match command {
        Command::Demo { load, out, parts } => {
            load.put_over(&mut config.run);
            parts.put_over(&mut config.stack);
            let out = out.unwrap_or_else(|| config.demo.out.clone());
            let scenario = Scenario::find(scenario::DEMO)?;
            let verdict = one(&experiment(scenario, &config, out, "demo")?).await?;
            Ok(verdict.exit_code())
        }
        Command::Run { scenarios, load, out, parts } => {
            load.put_over(&mut config.run);
            parts.put_over(&mut config.stack);
            config.run.out = out.unwrap_or(config.run.out);
            run_all(&scenarios, &config).await
        }
        Command::Up { listen, parts } => {
            parts.put_over(&mut config.stack);
            let listen = listen.or(config.up.listen).unwrap_or(LISTEN);
            let options = stack::Options { listen: Some(listen), ..stack_options(&config.stack) };
            up::up(&options, &mut Interrupts::listen()?).await.map(|()| 0)
        }
        Command::Explore(explore) => explore::run(explore, config).await,
        Command::List => {
            print(&list());
            Ok(0)
        }
        Command::Break { fault, which } => {
            let fault: Fault = fault.parse()?;
            print(&up::ask(&format!("break {fault}"), which.address(&config.up)).await?);
            Ok(0)
        }
        Command::Heal { which } => {
            print(&up::ask("heal", which.address(&config.up)).await?);
            Ok(0)
        }
        Command::Check { history } => {
            let (_, verdict) = run::check(&history)?;
            tell(&verdict, None);
            Ok(verdict.outcome.exit_code())
        }
        Command::Export { history, format } => export::write(&history, format).map(|()| 0),
        Command::Report { dir } => {
            let verdict = run::judge(&dir.join("history.jsonl"), &dir)?;
            tell(&verdict, Some(&dir));
            Ok(verdict.outcome.exit_code())
        }
        Command::Doctor { parts } => {
            parts.put_over(&mut config.stack);
            let (text, fit) = doctor::examine(&stack_options(&config.stack)).await;
            print(&text);
            Ok(if fit { 0 } else { Outcome::HarnessError.exit_code() })
        }
        Command::Proxy(options) => proxy::run(options, &mut Interrupts::listen()?).await.map(|()| 0),
        Command::CheckConfig => Ok(check_config(Ok(config))),
        Command::Guardian { folder } => Ok(guardian::watch(&folder)),
        Command::NamespaceProbe => {
            print(&format!("{}\n", namespace::try_all()?));
            Ok(0)
        }
    }
}

fn stack_options(section: &StackSection) -> stack::Options {
    stack::Options {
        server_bin: section.server_bin.clone(),
        bin_dir: section.bin_dir.clone(),
        server_env: section.server_env.clone(),
        cluster: cluster::Options {
            pg_bin: section.pg_bin.clone(),
            guardian: Some(PathBuf::from(guardian::OWN_BINARY)),
            ..cluster::Options::default()
        },
        ..stack::Options::default()
    }
}

async fn run_all(names: &[String], config: &Config) -> Result<u8, Error> {
    let chosen: Vec<&'static Scenario> = if names.iter().any(|name| name == "all") {
        scenario::ALL.iter().collect()
    } else {
        names.iter().map(|name| Scenario::find(name)).collect::<Result<_, _>>()?
    };
    // Checked before the first one runs: a wrong option must not show after minutes.
    let experiments: Vec<Experiment> = chosen
        .iter()
        .map(|scenario| {
            let out = config.run.out.join(scenario.name);
            experiment(scenario, config, out, &format!("run {}", scenario.name))
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
    config: &Config,
    out: PathBuf,
    command: &str,
) -> Result<Experiment, Error> {
    // Small enough to be read out and typed in again.
    let seed = config.run.seed.unwrap_or_else(|| u64::from(fastrand::u32(..)));
    let mut rerun = format!("ridethrough-chaos {command} --seed {seed}");
    if let Some(duration) = config.run.duration {
        rerun += &format!(" --duration {}", flags::as_flag(duration));
    }
    if let Some(rate) = config.run.rate {
        rerun += &format!(" --rate {rate}");
    }
    let plan = scenario.plan(config.run.duration, config.run.rate)?;
    let stack = stack::Options { servers: scenario.servers(), ..stack_options(&config.stack) };
    Ok(Experiment { scenario, seed, plan, stack, out, rerun })
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

fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that went away is no failure of the run; the exit code still tells.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn eprint(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
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
        let Command::Run { load, .. } = cli.command else { panic!("not a run") };
        let mut config = Config::default();
        config.run.rate = Some(90);
        config.run.duration = Some(std::time::Duration::from_millis(6_500));
        load.put_over(&mut config.run);
        let scenario = Scenario::find("db-hang").unwrap();
        let experiment = experiment(scenario, &config, PathBuf::new(), "run db-hang").unwrap();
        assert_eq!(experiment.rerun, "ridethrough-chaos run db-hang --seed 7 --duration 6500ms --rate 20");
        assert_eq!((experiment.seed, experiment.plan.rate_per_second), (7, 20));
        assert_eq!(experiment.plan.load_ms, 6_500);
    }

    #[test]
    fn the_file_can_be_named_before_and_after_the_command() {
        for args in [["x", "--config", "f", "check-config"], ["x", "check-config", "--config", "f"]] {
            assert_eq!(Cli::try_parse_from(args).unwrap().config, Some("f".into()));
        }
    }

    #[test]
    fn a_check_gives_1_for_what_cannot_be_read_or_cannot_run() {
        let checked =
            |name: &str, value: &str| check_config(Config::load(None, [(name.into(), value.into())]));
        assert_eq!(checked("RIDETHROUGH_RUN__RATE", "20"), 0);
        assert_eq!(checked("RIDETHROUGH_RUN__RTAE", "20"), 1);
        assert_eq!(checked("RIDETHROUGH_RUN__RATE", "0"), 1);
    }

    #[test]
    fn the_help_names_every_key() {
        let mut cli = Cli::command();
        let mut help = |name: &str| cli.find_subcommand_mut(name).unwrap().render_long_help().to_string();
        let help = ["demo", "run", "up"].map(&mut help).concat();
        let stack = ["stack.pg_bin", "stack.bin_dir", "stack.server_bin", "stack.server_env"];
        let load = ["run.seed", "run.duration", "run.rate", "run.out", "demo.out", "up.listen"];
        for key in stack.into_iter().chain(load) {
            assert!(help.contains(&format!("[key: {key}")), "{key}");
        }
    }
}
