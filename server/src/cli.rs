//! The command line: flags over environment over file, sub-commands, exit codes. It starts nothing by itself.

mod health;

use std::{ffi::OsString, io::Write as _, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, error::ErrorKind};
use ridethrough::service::{self, LogFormat};

use crate::{
    api,
    config::{self, Config},
    identity::tokens,
    journal::{self, JournalCommand},
    life::{self, Anew},
    migrate, traces,
};

/// Whose lines may be written to the log, beside the library's.
pub(crate) const SPEAKERS: [&str; 1] = ["ridethrough_server"];

/// Everything went as asked.
pub(crate) const CLEAN: u8 = 0;
/// Wrong configuration or usage; nothing was opened.
pub(crate) const WRONG_CONFIGURATION: u8 = 1;
/// Something was cut off while draining.
pub(crate) const CUT: u8 = 2;
/// A fault inside, or a journal that cannot be trusted.
pub(crate) const INTERNAL_FAULT: u8 = 70;

const EXIT_CODES: &str = "Exit codes: 0 clean; 1 wrong configuration or usage; 2 something was cut off while draining; \
                          70 a fault inside, or a journal that cannot be trusted (the message names file and offset)";

/// A todo service that keeps answering while its PostgreSQL is away.
///
/// Every key of the configuration file is also an environment variable RIDETHROUGH_SECTION__KEY; a flag wins over
/// the environment, and the environment over the file.
#[derive(Debug, Parser)]
#[command(name = "ridethrough-server", version, after_help = EXIT_CODES)]
struct Cli {
    /// Where PostgreSQL is: postgresql://USER:PASSWORD@HOST:PORT/DATABASE, several hosts separated by commas; also
    /// DATABASE_URL
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
    /// Folder of the journal; belongs to one server alone [default: ./data]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address for users; port 0 picks a free one [default: 127.0.0.1:8081]
    #[arg(long, global = true, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Address for probes, metrics and state [default: 127.0.0.1:9091]
    #[arg(long, global = true, value_name = "ADDR")]
    admin_listen: Option<SocketAddr>,
    /// Configuration file (TOML)
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Form of the log on standard error: json or text [default: text]
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Check the configuration, open nothing, and exit with 0 or 1
    CheckConfig,
    /// Bring the schema of the database up to date once, and exit: 0 done, 1 wrong configuration, 70 not done
    Migrate {
        /// Only say which steps are missing, and exit with 0 where none is, 1 where some are, 70 where that cannot be found
        /// out
        #[arg(long)]
        check: bool,
    },
    /// Print the OpenAPI document of the interface, and exit
    Openapi,
    /// Make a token for a principal: prints it, once, and the line that lets its bearer in, for identity.tokens_file
    Token {
        /// Who shall have it: 1 to 64 letters, digits and marks of . _ - @
        name: String,
    },
    /// Ask the server on this machine how it is, at its admin port: exits with 0 where it is well, 1 where not
    Health {
        /// What it is asked
        #[arg(long, value_enum, default_value = "ready")]
        probe: health::Probe,
    },
    /// Look at the writes that wait on this machine's disk, and see to those that were rejected
    #[command(subcommand)]
    Journal(JournalCommand),
}

/// Runs the program with the arguments and environment of this process, and answers its exit code: 0 clean, 1 wrong
/// configuration or usage, 2 something was cut off while draining, 70 a fault inside or a journal that cannot be
/// trusted.
#[must_use]
pub fn run() -> ExitCode {
    // The library takes the process's provider of cryptography; one that is there already is as good.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let code = match Cli::try_parse() {
        Ok(cli) => execute(cli, std::env::vars_os()),
        Err(error) => {
            let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // A reader that went away changes nothing about the exit code.
            let _ = error.print();
            if asked_for { CLEAN } else { WRONG_CONFIGURATION }
        }
    };
    ExitCode::from(code)
}

fn execute(cli: Cli, environment: impl Iterator<Item = (OsString, OsString)>) -> u8 {
    // Variables that are no text cannot be ours.
    let environment: Vec<(String, String)> = environment
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let config = match configure(&cli, &environment) {
        Ok(config) => config,
        Err(message) => return refuse(&message),
    };
    // Commands that end by themselves make no traces.
    let traces = if cli.command.is_none() { traces::open(&config.traces) } else { Ok(None) };
    let (layer, exporter) = match traces {
        Ok(traces) => traces.unzip(),
        Err(message) => return refuse(&message),
    };
    let layers = layer.into_iter().collect();
    let levels =
        match service::install_tracing_beside(config.log.format, &config.log.filter, &SPEAKERS, layers) {
            Ok(levels) => levels,
            Err(error) => return refuse(&format!("log.filter: {error}")),
        };
    silence_panic_texts();
    match cli.command.clone() {
        Some(Command::CheckConfig) => {
            let _ = writeln!(std::io::stdout().lock(), "the configuration is in order");
            CLEAN
        }
        Some(Command::Migrate { check }) => migrate::once(&config, check),
        Some(Command::Openapi) => print(&api::text()),
        Some(Command::Token { name }) => token(&name),
        Some(Command::Health { probe }) => health::run(probe, config.server.admin_listen),
        Some(Command::Journal(command)) => journal::run(&command, &config),
        None => {
            let anew = Anew::new(config.clone(), levels, move || configure(&cli, &environment));
            life::run(config, anew, exporter)
        }
    }
}

/// The configuration after file, environment and flags, checked.
fn configure(cli: &Cli, environment: &[(String, String)]) -> Result<Config, String> {
    let general_url = environment.iter().find(|(name, _)| name == "DATABASE_URL").map(|(_, url)| url.clone());
    let special_url = environment.iter().any(|(name, _)| name == "RIDETHROUGH_DATABASE__URL");
    let mut config: Config = service::load(cli.config.as_deref(), environment.iter().cloned())
        .map_err(|error| error.to_string())?;
    let url = cli.database_url.clone().or(general_url.filter(|_| !special_url));
    config.database.url = url.unwrap_or(config.database.url);
    config.server.data_dir = cli.data_dir.clone().unwrap_or(config.server.data_dir);
    config.server.listen = cli.listen.unwrap_or(config.server.listen);
    config.server.admin_listen = cli.admin_listen.unwrap_or(config.server.admin_listen);
    config.log.format = cli.log_format.unwrap_or(config.log.format);
    // Whoever looks at a journal has a fault to mend already, and needs no database for it; nor does a token, the document,
    // or a question to a server that runs.
    let is_apart = matches!(
        cli.command,
        Some(Command::Journal(_) | Command::Token { .. } | Command::Openapi | Command::Health { .. })
    );
    if !is_apart {
        config::validate(&config)?;
    }
    Ok(config)
}

fn print(text: &[u8]) -> u8 {
    match std::io::stdout().lock().write_all(text) {
        Ok(()) => CLEAN,
        Err(_) => INTERNAL_FAULT,
    }
}

fn token(name: &str) -> u8 {
    if !tokens::is_name(name) {
        return refuse("a name has 1 to 64 letters, digits and marks of . _ - @");
    }
    let (token, line) = tokens::make(name);
    let text = format!("token (shown only now): {token}\nline for identity.tokens_file:\n{line}\n");
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => CLEAN,
        Err(_) => refuse("the token could not be printed, and is lost; make another one"),
    }
}

fn refuse(message: &str) -> u8 {
    let _ = writeln!(std::io::stderr().lock(), "ridethrough-server: {message}");
    WRONG_CONFIGURATION
}

/// A panic's text may quote what a user wrote; its place in the code is what a person needs to find the fault.
fn silence_panic_texts() {
    std::panic::set_hook(Box::new(|panic| {
        let (file, line) = panic.location().map_or(("unknown", 0), |place| (place.file(), place.line()));
        let file = file.rsplit_once("src/").map_or(file, |(_, inner)| inner);
        tracing::error!(file, line, "a task panicked");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Config, String> {
        let cli = Cli::try_parse_from(["ridethrough-server"].iter().chain(arguments)).unwrap();
        let environment: Vec<(String, String)> =
            environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        configure(&cli, &environment)
    }

    fn database(configured: Result<Config, String>) -> String {
        configured.ok().unwrap().database.validate().unwrap().get_dbname().unwrap().to_owned()
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_the_special_variable_over_the_general() {
        let general = ("DATABASE_URL", "postgresql://a@localhost/general");
        let special = ("RIDETHROUGH_DATABASE__URL", "postgresql://a@localhost/special");
        let flag = ["--database-url", "postgresql://a@localhost/flag"];
        assert_eq!(database(configured(&[], &[general])), "general");
        assert_eq!(database(configured(&[], &[general, special])), "special");
        assert_eq!(database(configured(&flag, &[general, special])), "flag");
    }

    #[test]
    fn without_a_database_the_message_says_how_to_name_one() {
        let message = configured(&[], &[]).err().unwrap();
        assert!(message.contains("--database-url") && message.contains("DATABASE_URL"), "{message}");
    }

    #[test]
    fn flags_may_follow_the_sub_command() {
        let cli = Cli::try_parse_from(["x", "migrate", "--database-url", "postgresql://h/d"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Migrate { check: false })));
        assert_eq!(cli.database_url.as_deref(), Some("postgresql://h/d"));
    }

    #[test]
    fn looking_at_a_journal_needs_no_database_but_the_same_configuration() {
        let wanted = ["journal", "inspect", "--format", "json", "--data-dir", "/srv/data"];
        let config = configured(&wanted, &[]).ok().unwrap();
        assert_eq!(config.server.data_dir, PathBuf::from("/srv/data"));
        let variable = ("RIDETHROUGH_SERVER__DATA_DIR", "/var/lib/todos");
        let config = configured(&["journal", "inspect"], &[variable]).ok().unwrap();
        assert_eq!(config.server.data_dir, PathBuf::from("/var/lib/todos"));
        let wrong = configured(&["journal", "inspect"], &[("RIDETHROUGH_SERVER__DATADIR", "x")]);
        assert!(wrong.err().unwrap().contains("RIDETHROUGH_SERVER__DATADIR"));
    }

    #[test]
    fn what_is_to_be_forgotten_must_be_named_or_confirmed() {
        let parsed = |arguments: &[&str]| {
            Cli::try_parse_from(["x", "journal"].iter().chain(arguments)).map_err(|error| error.to_string())
        };
        for wrong in [&["discard"][..], &["discard", "--all"], &["retry"], &["retry", "--all", "--key", "k"]]
        {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
        for right in
            [&["discard", "--all", "--yes"][..], &["discard", "--key", "k"], &["retry", "--all"], &["export"]]
        {
            assert!(parsed(right).is_ok(), "{right:?}");
        }
    }

    #[test]
    fn an_unknown_variable_of_ours_is_refused_by_name() {
        let url = ("DATABASE_URL", "postgresql://localhost/d");
        let message = configured(&[], &[url, ("RIDETHROUGH_LIMITS__DRAIN_DELY", "0s")]).err().unwrap();
        assert!(
            message.contains("RIDETHROUGH_LIMITS__DRAIN_DELY") && message.contains("`drain_delay`"),
            "{message}"
        );
    }
}
