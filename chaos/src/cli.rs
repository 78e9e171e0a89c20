//! The command line: sub-commands and exit codes. What the commands do is in `run.rs`, `up.rs`, `doctor.rs`.

mod compare;
mod ended;
mod experiments;
mod explore;
mod export;
mod flags;
mod interrupts;
pub(crate) mod list;
mod prepare;
mod proxy;
mod room;
mod self_test;
mod swarming;

use std::ffi::OsString;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::cli::explore::Explore;
use crate::cli::flags::{Parts, Which};
use crate::cli::room::Room;
use crate::config::{Config, ConfigError, StackSection};
use crate::error::Error;
use crate::guardian;
use crate::namespace;
use crate::run;
use crate::verdict::Outcome;
use crate::{cluster, doctor, stack, up};

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
    #[command(flatten)]
    Experiment(experiments::Command),
    /// Start the same stack, with all that faults act on, and leave it running until Ctrl-C.
    Up {
        /// Where the proxy listens [default: 127.0.0.1:8080] [key: up.listen].
        #[arg(long, value_name = "ADDR")]
        listen: Option<SocketAddr>,
        /// With a standby, for the faults of a failover; without the proxies before PostgreSQL, which lead to one host.
        #[arg(long)]
        standby: bool,
        #[command(flatten)]
        parts: Parts,
    },
    /// Lose the connection of one write at every message of its transaction, in every way, and show what was told.
    Explore(Explore),
    /// Prove that the suite can fail: plant one bug after another into the server, and see each found by its invariant.
    SelfTest(self_test::SelfTest),
    /// List scenarios and faults.
    List,
    /// Put a fault on a running `up`; without a name, show which can be put on that one.
    Break {
        /// A name, with parameters as in `db-kill:moment=commit` [default: `?`, for the list].
        fault: Option<String>,
        #[command(flatten)]
        which: Which,
    },
    /// Heal a fault of a running `up`, or every one.
    Heal {
        /// Its name [default: all that are on].
        fault: Option<String>,
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
        /// A folder with a `history.jsonl`, or with the folders of several runs.
        dir: PathBuf,
        /// An earlier run, for a section on what got better and worse: its verdict.json, its folder, or that of several.
        #[arg(long, value_name = "FILE|DIR")]
        against: Option<PathBuf>,
    },
    /// Say what got better and what got worse between two runs.
    ///
    /// Exit code 0: nothing got worse; 1: something did; 2: they have no run in common.
    Diff {
        /// The folder of the earlier run, or of several.
        run_a: PathBuf,
        /// The folder of the later one.
        run_b: PathBuf,
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
        Command::Experiment(command) => experiments::execute(command, config).await,
        Command::Up { listen, standby, parts } => {
            parts.put_over(&mut config.stack);
            let listen = listen.or(config.up.listen).unwrap_or(LISTEN);
            let fitting = up::fitting(standby);
            // Port 0 asks for a free one, which the stack chooses itself: it has to know it.
            let listen = Some(listen).filter(|listen| listen.port() != 0);
            let options = stack::Options { listen, fitting, ..stack_options(&config.stack) };
            up::up(&options, &mut Interrupts::listen()?).await.map(|()| 0)
        }
        Command::Explore(explore) => explore::run(explore, config).await,
        Command::SelfTest(flags) => self_test::run(flags, config).await,
        Command::List => {
            print(&list::all());
            Ok(0)
        }
        Command::Break { fault, which } => {
            let wish = match fault.as_deref().filter(|fault| *fault != "?") {
                Some(fault) => up::Wish::Break(fault.parse()?),
                None => up::Wish::Offer,
            };
            print(&up::ask(&wish, which.address(&config.up)).await?);
            Ok(0)
        }
        Command::Heal { fault, which } => {
            print(&up::ask(&up::Wish::heal(fault.as_deref())?, which.address(&config.up)).await?);
            Ok(0)
        }
        Command::Check { history } => {
            let (_, verdict) = run::check(&history)?;
            ended::tell(&verdict, None);
            Ok(verdict.outcome.exit_code())
        }
        Command::Export { history, format } => export::write(&history, format).map(|()| 0),
        Command::Report { dir, against } => compare::report(&dir, against.as_deref()),
        Command::Diff { run_a, run_b } => compare::diff(&run_a, &run_b),
        Command::Doctor { parts } => {
            parts.put_over(&mut config.stack);
            let room = Room::enter().await;
            let (text, fit) = doctor::examine(&stack_options(&config.stack), room.missing()).await;
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
    fn wrong_usage_is_a_harness_error_and_help_is_none() {
        let run = |args: &[&str]| main(args.iter().map(OsString::from)).unwrap();
        assert_eq!(run(&["ridethrough-chaos", "--nonsense"]), 3);
        assert_eq!(run(&["ridethrough-chaos", "--version"]), 0);
    }

    #[test]
    fn a_run_takes_scenarios_or_a_schedule_and_not_both() {
        let parsed = |args: &[&str]| Cli::try_parse_from([&["x"], args].concat()).is_ok();
        assert!(parsed(&["run", "db-kill", "db-hang"]) && parsed(&["run", "--schedule", "f"]));
        assert!(!parsed(&["run"]) && !parsed(&["run", "db-kill", "--schedule", "f"]));
        assert!(!parsed(&["run", "--schedule", "f", "--seed", "1"]), "the file has a seed of its own");
    }

    #[test]
    fn every_command_is_documented() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/laboratory.md");
        let page = std::fs::read_to_string(page).unwrap();
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            assert!(
                page.contains(&format!("\n| `{name}")) || page.contains(&format!(", `{name} [")),
                "{name}"
            );
        }
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
