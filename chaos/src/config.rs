//! The configuration: a TOML file, environment variables over it, wrong keys refused with the nearest known one.
//! It knows no flags; `cli/flags.rs` puts them over this.

pub(crate) mod text;

use std::{
    ffi::{OsStr, OsString},
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use toml::{Table, Value};

use crate::scenario::{self, Scenario};

pub(crate) use text::{duration, key_value};

/// Environment variables are `RIDETHROUGH_<SECTION>__<KEY>`.
const PREFIX: &str = "RIDETHROUGH_";
/// The sections of [`Config`]. A variable of any other is meant for another binary and is passed over.
const SECTIONS: [&str; 4] = ["run", "demo", "up", "stack"];
/// The older name of `stack.pg_bin`, which `make setup` uses too.
const PG_BIN: &str = "RIDETHROUGH_PG_BIN";

/// A configuration that cannot be used. The text is one line and says where and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file holds something that is no valid configuration.
    #[error("{}:{line}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Line in it, from 1.
        line: usize,
        /// What is wrong and what was perhaps meant.
        message: String,
    },
    /// An environment variable holds something that is no valid configuration.
    #[error("environment variable {name}: {message}")]
    Environment {
        /// The variable.
        name: String,
        /// What is wrong and what was perhaps meant.
        message: String,
    },
    /// A target that can be read and makes none.
    #[error("{}: {message}", path.display())]
    Target {
        /// The file.
        path: PathBuf,
        /// The key, and what is wrong with it.
        message: String,
    },
    /// Values that can be read and make no run.
    #[error("run.rate and run.duration: failed to {0}")]
    Load(String),
}

/// Everything that can be configured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[run]`: the load of `run` and `demo`.
    pub run: RunSection,
    /// `[demo]`: what `demo` has of its own.
    pub demo: DemoSection,
    /// `[up]`: the stack that is left running.
    pub up: UpSection,
    /// `[stack]`: what every stack is made of.
    pub stack: StackSection,
}

/// `[run]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSection {
    /// Fixes traffic and faults; TOML ends at 2^63 - 1. Default `None`: random, and printed.
    pub seed: Option<u64>,
    /// How long there is traffic, as text with a unit, 6 s to 1 h. Default `None`: 8 s, and 18 s
    /// of `demo`.
    #[serde(deserialize_with = "text::some_duration")]
    pub duration: Option<Duration>,
    /// Requests per second, 1 to 2,000. Default `None`: 150.
    pub rate: Option<u32>,
    /// Where the reports of `run` go. Default `target/chaos`.
    #[serde(deserialize_with = "text::path")]
    pub out: PathBuf,
    /// A file that describes the service to run against. Default `None`: our own.
    #[serde(deserialize_with = "text::some_path")]
    pub target: Option<PathBuf>,
}

impl Default for RunSection {
    fn default() -> Self {
        Self { seed: None, duration: None, rate: None, out: PathBuf::from("target/chaos"), target: None }
    }
}

/// `[demo]`. Its load is that of `[run]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DemoSection {
    /// Where the report goes. Default `target/demo`.
    #[serde(deserialize_with = "text::path")]
    pub out: PathBuf,
}

impl Default for DemoSection {
    fn default() -> Self {
        Self { out: PathBuf::from("target/demo") }
    }
}

/// `[up]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpSection {
    /// Where the proxy listens, and which `up` is meant by `break` and `heal`. Default `None`: 127.0.0.1:8080, and
    /// the only one that runs.
    pub listen: Option<SocketAddr>,
}

/// `[stack]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StackSection {
    /// The folder with `postgres` and `initdb`. Default `None`: the usual places.
    #[serde(deserialize_with = "text::some_path")]
    pub pg_bin: Option<PathBuf>,
    /// The folder with the server's and the proxy's binary. Default `None`: beside this program.
    #[serde(deserialize_with = "text::some_path")]
    pub bin_dir: Option<PathBuf>,
    /// Another server binary. Default `None`.
    #[serde(deserialize_with = "text::some_path")]
    pub server_bin: Option<PathBuf>,
    /// Added to the environment of each server, as texts `KEY=VALUE`. Default none.
    #[serde(deserialize_with = "text::key_values")]
    pub server_env: Vec<(String, String)>,
}

impl Config {
    /// Reads `path`, if given, and puts the variables of `environment` over it.
    ///
    /// # Errors
    /// [`ConfigError`] names the file and line, or the variable, and the nearest known key where one is unknown.
    pub fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let (mut config, mut table) = match path {
            Some(path) => read(path)?,
            None => (Self::default(), Table::new()),
        };
        let mut pg_bin = None;
        let mut pg_bin_key = false;
        for (name, value) in environment {
            if name == PG_BIN && !value.is_empty() {
                pg_bin = Some(PathBuf::from(value));
            } else if let Some((section, key)) = own_place(&name) {
                (config, table) = overlay(table, &section, &key, &value).map_err(|message| {
                    ConfigError::Environment { name: name.to_string_lossy().into_owned(), message }
                })?;
                pg_bin_key |= section == "stack" && key == "pg_bin";
            }
        }
        // A variable like the others, so it wins over the file; the one that names the key is the more exact.
        if !pg_bin_key && pg_bin.is_some() {
            config.stack.pg_bin = pg_bin;
        }
        Ok(config)
    }

    /// Whether the values make a run. Reading does not ask this, because a flag may still put one right.
    ///
    /// # Errors
    /// [`ConfigError::Load`] for a rate or duration out of bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        let plan = |scenario: &Scenario| scenario.schedule(0, self.run.duration, self.run.rate);
        let planned = Scenario::find(scenario::DEMO).and_then(plan);
        planned.map(|_| ()).map_err(|error| ConfigError::Load(error.to_string()))
    }
}

/// Section and key a variable stands for; `None` where it is not for this binary.
fn own_place(name: &OsStr) -> Option<(String, String)> {
    let place = name.to_str()?.strip_prefix(PREFIX)?.to_ascii_lowercase();
    let (section, key) = place.split_once("__")?;
    SECTIONS.contains(&section).then(|| (section.to_owned(), key.to_owned()))
}

/// Reads the file as a configuration by itself, because only then does an error know its line.
fn read(path: &Path) -> Result<(Config, Table), ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    let wrong = |error| misread(path, &text, &error);
    let config = toml::from_str(&text).map_err(wrong)?;
    Ok((config, toml::from_str(&text).map_err(wrong)?))
}

/// Where the text of a file is no valid configuration, and what was perhaps meant.
pub(crate) fn misread(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    ConfigError::File { path: path.to_owned(), line, message: helpful(error.message()) }
}

/// Puts one variable in: as the TOML value it spells if that fits, else as text.
fn overlay(table: Table, section: &str, key: &str, value: &OsStr) -> Result<(Config, Table), String> {
    let text = value.to_str().ok_or("its value is not UTF-8")?;
    let spelled = toml::from_str::<Table>(&format!("value = {text}")).ok();
    let literal = spelled.and_then(|mut one| one.remove("value"));
    let mut refused = None;
    for value in literal.into_iter().chain([Value::String(text.to_owned())]) {
        let mut candidate = table.clone();
        let inner = candidate.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(inner) = inner {
            inner.insert(key.to_owned(), value);
        }
        match Config::deserialize(candidate.clone()) {
            Ok(config) => return Ok((config, candidate)),
            Err(error) => refused = refused.or(Some(helpful(error.message()))),
        }
    }
    Err(refused.unwrap_or_default())
}

/// The parser's message on one line, with the nearest known key where one is unknown.
fn helpful(message: &str) -> String {
    let lines: Vec<&str> = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut helpful = lines.join(", ");
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field")
        && let Some(unknown) = quoted.next()
        && let Some(nearest) = quoted.max_by(|one, other| {
            strsim::jaro_winkler(unknown, one).total_cmp(&strsim::jaro_winkler(unknown, other))
        })
    {
        let _ = write!(helpful, "; did you mean `{nearest}`?");
    }
    helpful
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let file = file(text);
        let environment = environment.iter().map(|(name, value)| (name.into(), value.into()));
        Config::load(Some(file.path()), environment).map_err(|error| error.to_string())
    }

    #[test]
    fn every_key_is_read_from_the_file() {
        let text = "[run]\nseed = 7\nduration = '8s'\nrate = 20\nout = 'a'\ntarget = 't'\n[demo]\nout = 'b'\n\
                    [up]\nlisten = '127.0.0.1:9'\n\
                    [stack]\npg_bin = 'c'\nbin_dir = 'd'\nserver_bin = 'e'\nserver_env = ['F=1', 'G=x=y']\n";
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let expected = Config {
            run: RunSection {
                seed: Some(7),
                duration: Some(Duration::from_secs(8)),
                rate: Some(20),
                out: "a".into(),
                target: Some("t".into()),
            },
            demo: DemoSection { out: "b".into() },
            up: UpSection { listen: Some(([127, 0, 0, 1], 9).into()) },
            stack: StackSection {
                pg_bin: Some("c".into()),
                bin_dir: Some("d".into()),
                server_bin: Some("e".into()),
                server_env: vec![pair("F", "1"), pair("G", "x=y")],
            },
        };
        assert_eq!(load(text, &[]), Ok(expected));
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let environment = [
            ("RIDETHROUGH_RUN__RATE", "30"),
            ("RIDETHROUGH_RUN__DURATION", "6500ms"),
            ("RIDETHROUGH_STACK__BIN_DIR", "12"),
            ("RIDETHROUGH_STACK__SERVER_ENV", "A=b"),
        ];
        let config =
            load("[run]\nrate = 20\nseed = 7\n[stack]\nserver_env = ['C=d']\n", &environment).unwrap();
        assert_eq!((config.run.rate, config.run.seed), (Some(30), Some(7)));
        assert_eq!(config.run.duration, Some(Duration::from_millis(6_500)));
        assert_eq!(config.stack.bin_dir, Some("12".into()));
        assert_eq!(config.stack.server_env, [("A".to_owned(), "b".to_owned())]);
    }

    #[test]
    fn an_unknown_key_is_refused_with_file_line_and_nearest_key() {
        let error = load("[run]\nseed = 3\n\nrtae = 20\n", &[]).unwrap_err();
        assert!(error.contains(":4: unknown field `rtae`"), "{error}");
        assert!(error.ends_with("did you mean `rate`?"), "{error}");
        let error = load("[stak]\n", &[]).unwrap_err();
        assert!(error.contains(":1:") && error.ends_with("did you mean `stack`?"), "{error}");
    }

    #[test]
    fn an_unknown_variable_of_an_own_section_is_refused_by_name() {
        for name in ["RIDETHROUGH_RUN__DURATON", "RIDETHROUGH_RUN__DURATION__MAX"] {
            let error = load("", &[(name, "8s")]).unwrap_err();
            assert!(error.contains(name) && error.ends_with("did you mean `duration`?"), "{error}");
        }
    }

    /// The same shell often starts a server by hand and the harness after it.
    #[test]
    fn variables_of_other_binaries_are_passed_over() {
        let environment = [
            ("RIDETHROUGH_LIMITS__DRAIN_DELAY", "0s"),
            ("RIDETHROUGH_DATABASE__POOL", "9"),
            ("RIDETHROUGH_SABOTAGE", "skip-fsync"),
            ("HOME", "x"),
        ];
        assert_eq!(load("", &environment), Ok(Config::default()));
    }

    #[test]
    fn the_short_name_of_the_database_binaries_stands_between_key_and_file() {
        let (short, key) = (("RIDETHROUGH_PG_BIN", "short"), ("RIDETHROUGH_STACK__PG_BIN", "key"));
        let found = |environment: &[_]| load("[stack]\npg_bin = 'file'\n", environment).unwrap().stack.pg_bin;
        assert_eq!(found(&[]), Some("file".into()));
        assert_eq!(found(&[("RIDETHROUGH_PG_BIN", "")]), Some("file".into()));
        assert_eq!(found(&[short]), Some("short".into()));
        assert_eq!(found(&[key, short]), Some("key".into()));
        assert_eq!(found(&[short, key]), Some("key".into()));
    }

    #[test]
    fn a_wrong_value_names_what_is_wrong() {
        let error = load("[run]\nduration = 8\n", &[]).unwrap_err();
        assert!(error.contains(":2:") && error.contains("8s"), "{error}");
        let error = load("", &[("RIDETHROUGH_RUN__DURATION", "8")]).unwrap_err();
        assert!(error.contains("RIDETHROUGH_RUN__DURATION") && error.contains("8s"), "{error}");
        assert!(load("", &[("RIDETHROUGH_RUN__RATE", "many")]).is_err());
        assert!(load("", &[("RIDETHROUGH_STACK__PG_BIN", "")]).is_err());
        // As text it holds an equals sign too, but it was meant as a list.
        assert!(load("", &[("RIDETHROUGH_STACK__SERVER_ENV", "['A=b', 2]")]).is_err());
    }

    #[test]
    fn what_is_wrong_fits_on_one_line() {
        for text in
            ["[run\nrate = 1\n", "[run]\nrate = \n", "[run]\nrate = 1\nrate = 2\n", "run = 1\n", "a = { b"]
        {
            let error = load(text, &[]).unwrap_err();
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        let error = Config::load(Some(Path::new("no/such.toml")), []).unwrap_err().to_string();
        assert!(error.starts_with("no/such.toml: "), "{error}");
    }

    #[test]
    fn values_that_make_no_run_are_found_by_the_check_alone() {
        let config = load("[run]\nrate = 0\n", &[]).unwrap();
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains("run.rate") && error.contains("not between"), "{error}");
        assert!(load("[run]\nduration = '2s'\n", &[]).unwrap().check().is_err());
        assert!(Config::default().check().is_ok());
    }
}
