//! Configuration: a TOML file, environment variables over it, unknown keys refused with the nearest known one.
//!
//! Command-line flags come last and are the binary's own business, and so is whether the values make sense together.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// Environment variables are `RIDETHROUGH_<SECTION>__<KEY>`, with more `__` for sections inside of sections.
const PREFIX: &str = "RIDETHROUGH_";

/// A configuration that cannot be used. The text says where and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read the configuration file {}: {source}", path.display())]
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
}

/// Reads `path`, if given, and puts the variables of `environment` over it.
///
/// Variables without a double underscore after the prefix are not ours to judge and are passed over.
///
/// # Errors
/// [`ConfigError`] names the file and line, or the variable, and the nearest known key where one is unknown.
pub fn load<T: DeserializeOwned>(
    path: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigError> {
    let mut table = match path {
        Some(path) => read::<T>(path)?,
        None => Table::new(),
    };
    for (name, text) in environment {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let place: Vec<String> = rest.split("__").map(str::to_ascii_lowercase).collect();
        if place.len() > 1 {
            table = overlay::<T>(table, &place, &text)
                .map_err(|message| ConfigError::Environment { name: name.clone(), message })?;
        }
    }
    T::deserialize(table).map_err(|error| ConfigError::Environment {
        name: format!("{PREFIX}*"),
        message: helpful(error.message()),
    })
}

/// The keys, in the order of their names, whose values are not the same in two configurations as JSON, such as
/// `limits.connections`: for a program that reads its own again.
#[must_use]
pub fn changed_keys(before: &serde_json::Value, after: &serde_json::Value) -> Vec<String> {
    fn collect(path: &str, before: &serde_json::Value, after: &serde_json::Value, found: &mut Vec<String>) {
        use serde_json::Value::{Null, Object};

        if let (Object(old), Object(new)) = (before, after) {
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                collect(&path, old.get(key).unwrap_or(&Null), new.get(key).unwrap_or(&Null), found);
            }
        } else if before != after {
            found.push(path.to_owned());
        }
    }
    let mut found = Vec::new();
    collect("", before, after, &mut found);
    found
}

/// Reads the file as `T` alone first, because only then does an error know its line.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Table, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    let wrong = |error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        ConfigError::File { path: path.to_owned(), line, message: helpful(error.message()) }
    };
    toml::from_str::<T>(&text).map_err(wrong)?;
    toml::from_str::<Table>(&text).map_err(wrong)
}

/// Puts one value in: as the TOML value it spells if that fits, else as text.
fn overlay<T: DeserializeOwned>(table: Table, place: &[String], text: &str) -> Result<Table, String> {
    let literal =
        toml::from_str::<Table>(&format!("value = {text}")).ok().and_then(|mut one| one.remove("value"));
    let mut refused = None;
    for value in literal.into_iter().chain([Value::String(text.to_owned())]) {
        let candidate = with(table.clone(), place, value)?;
        match T::deserialize(candidate.clone()) {
            Ok(_) => return Ok(candidate),
            Err(error) => refused = refused.or(Some(helpful(error.message()))),
        }
    }
    Err(refused.unwrap_or_default())
}

fn with(mut table: Table, place: &[String], value: Value) -> Result<Table, String> {
    match place {
        [] => {}
        [key] => {
            table.insert(key.clone(), value);
        }
        [section, rest @ ..] => {
            let inner = table.remove(section).unwrap_or_else(|| Value::Table(Table::new()));
            let Value::Table(inner) = inner else { return Err(format!("`{section}` is no section")) };
            table.insert(section.clone(), Value::Table(with(inner, rest, value)?));
        }
    }
    Ok(table)
}

/// The parser's message, with the nearest known key where one is unknown.
fn helpful(message: &str) -> String {
    let mut helpful = message.trim().to_owned();
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field")
        && let Some(unknown) = quoted.next()
        && let Some(nearest) =
            quoted.max_by_key(|known| (strsim::jaro_winkler(unknown, known) * 1000.0) as u32)
    {
        let _ = write!(helpful, "; did you mean `{nearest}`?");
    }
    helpful
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, time::Duration};

    use super::*;

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Config {
        database: Database,
    }

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Database {
        url: String,
        pool: u32,
        #[serde(with = "crate::duration_text")]
        timeout: Duration,
        inner: Inner,
    }

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Inner {
        depth: u8,
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let file = file("[database]\nurl = 'a'\npool = 3\ntimeout = '2s'\n");
        let environment =
            variables(&[("RIDETHROUGH_DATABASE__POOL", "9"), ("RIDETHROUGH_DATABASE__URL", "5432")]);
        let config: Config = load(Some(file.path()), environment).unwrap();
        let expected =
            Database { url: "5432".into(), pool: 9, timeout: Duration::from_secs(2), ..Database::default() };
        assert_eq!(config.database, expected);
    }

    #[test]
    fn a_section_inside_a_section_is_reached_too() {
        let config: Config = load(None, variables(&[("RIDETHROUGH_DATABASE__INNER__DEPTH", "7")])).unwrap();
        assert_eq!(config.database.inner.depth, 7);
    }

    #[test]
    fn an_unknown_key_is_refused_with_file_line_and_nearest_key() {
        let file = file("[database]\npool = 3\n\ntimout = '2s'\n");
        let error = load::<Config>(Some(file.path()), []).unwrap_err().to_string();
        assert!(error.contains(":4: unknown field `timout`"), "{error}");
        assert!(error.ends_with("did you mean `timeout`?"), "{error}");
    }

    #[test]
    fn an_unknown_variable_is_refused_by_name() {
        let error =
            load::<Config>(None, variables(&[("RIDETHROUGH_DATABASE__POOOL", "9")])).unwrap_err().to_string();
        assert!(error.contains("RIDETHROUGH_DATABASE__POOOL") && error.contains("`pool`"), "{error}");
    }

    #[test]
    fn a_wrong_value_names_what_is_wrong() {
        let file = file("[database]\ntimeout = '5'\n");
        let error = load::<Config>(Some(file.path()), []).unwrap_err().to_string();
        assert!(error.contains(":2:") && error.contains("250ms"), "{error}");
        let error = load::<Config>(None, variables(&[("RIDETHROUGH_DATABASE__POOL", "many")])).unwrap_err();
        assert!(error.to_string().contains("RIDETHROUGH_DATABASE__POOL"), "{error}");
    }

    #[test]
    fn variables_of_others_are_passed_over() {
        let environment = variables(&[("RIDETHROUGH_PG_BIN", "x"), ("HOME", "y")]);
        assert_eq!(load::<Config>(None, environment).unwrap(), Config::default());
    }

    #[test]
    fn what_differs_between_two_configurations_is_named_by_key() {
        let before = serde_json::json!({ "a": { "b": 1, "c": [1] }, "d": "x", "gone": 1 });
        let after = serde_json::json!({ "a": { "b": 2, "c": [1, 2] }, "d": "x", "new": { "e": 1 } });
        assert_eq!(changed_keys(&before, &after), ["a.b", "a.c", "gone", "new"]);
        assert_eq!(changed_keys(&before, &before), Vec::<String>::new());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load::<Config>(Some(Path::new("no/such.toml")), []).unwrap_err().to_string();
        assert!(error.contains("no/such.toml"), "{error}");
    }
}
