//! What a process may say: a WARN or ERROR line that a test did not expect is a failure, and so is any line that tells
//! a secret, a user's text, or how things look inside. It reads JSON log lines; who wrote them it does not know.

use std::path::Path;

use serde_json::Value;

/// A word of every title that the tests send: text of a user, which belongs into no log and no error.
pub const CANARY: &str = "quokkazanzibar";

/// Pieces of SQL. No sentence for people holds one of them.
const SQL: [&str; 9] = [
    "SELECT ",
    "INSERT INTO",
    "UPDATE todos",
    "DELETE FROM",
    "CREATE TABLE",
    "ON CONFLICT",
    "BEGIN;",
    "; COMMIT",
    "ridethrough_writes",
];

/// The name of what users write.
const USERS_TEXT: &str = "text of a user";

/// What must be said to nobody, each with the name by which a failure calls it.
#[derive(Debug, Clone, Default)]
pub struct Secrets(Vec<(&'static str, String)>);

impl Secrets {
    /// Those of a database URL, and what is forbidden everywhere.
    #[must_use]
    pub fn of_url(url: &str) -> Self {
        let mut secrets: Vec<(&'static str, String)> =
            SQL.iter().map(|piece| ("a piece of SQL", (*piece).to_owned())).collect();
        secrets.push((USERS_TEXT, CANARY.to_owned()));
        if let Some((user, host)) = url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')) {
            let password = user.split_once(':').map_or("", |(_, password)| password);
            secrets.push(("the database's password", password.to_owned()));
            let host = host.split('/').next().unwrap_or(host);
            secrets.push(("the database's address", host.to_owned()));
        }
        secrets.retain(|(_, text)| !text.is_empty());
        Self(secrets)
    }

    /// Adds the address of another way to the database.
    pub fn add_address(&mut self, address: std::net::SocketAddr) {
        self.0.push(("the database's address", address.to_string()));
    }

    /// Adds something that `what` calls in a failure.
    pub fn add(&mut self, what: &'static str, text: &str) {
        assert!(!text.is_empty(), "nothing cannot be looked for");
        self.0.push((what, text.to_owned()));
    }

    /// What `text` gives away.
    #[must_use]
    pub fn leaked_by(&self, text: &str) -> Option<&'static str> {
        self.all_leaked_by(text).next()
    }

    /// What a page of the list gives away. It shows its owner what waits though there is no list, and what was typed.
    #[must_use]
    pub fn leaked_by_page(&self, page: &str) -> Option<&'static str> {
        self.all_leaked_by(page).find(|name| *name != USERS_TEXT)
    }

    fn all_leaked_by(&self, text: &str) -> impl Iterator<Item = &'static str> {
        self.0.iter().filter(move |(_, secret)| text.contains(secret.as_str())).map(|(name, _)| *name)
    }
}

/// What is wrong with a JSON log: one sentence for each line. `expected` are pieces of WARN and ERROR lines that belong
/// to the test.
#[must_use]
pub fn complaints(name: &str, log: &Path, expected: &[String], secrets: &Secrets) -> Vec<String> {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut found = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        if let Some(what) = secrets.leaked_by(line) {
            found.push(format!("{name} logged {what}: {line}"));
        }
        let Ok(entry) = serde_json::from_str::<Value>(line) else {
            if !expected.iter().any(|piece| line.contains(piece.as_str())) {
                found.push(format!("{name} logged something that is no JSON: {line}"));
            }
            continue;
        };
        let level = entry.get("level").and_then(Value::as_str).unwrap_or_default();
        let quiet = matches!(level, "INFO" | "DEBUG" | "TRACE");
        if !quiet && !expected.iter().any(|piece| line.contains(piece.as_str())) {
            found.push(format!("{name} logged an unexpected {level}: {line}"));
        }
    }
    found
}
