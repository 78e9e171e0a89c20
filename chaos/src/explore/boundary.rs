//! The places at which a transaction can lose its connection, and the ways. It only names them; cutting is in `pgwire`.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::pgwire::{About, Action, Bite, Edge, Kind, Pattern, Recorded, Rule, Sender, Trigger, Which};

/// How a connection is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// An orderly end (FIN).
    Close,
    /// A reset (RST) towards the client.
    Reset,
    /// What this side sends does not arrive any more; the other direction goes on.
    Swallow,
    /// Nothing arrives any more, in both directions; nobody is told.
    Blackhole,
    /// An orderly end, and nobody gets through to the server until the client was told something.
    Shut,
    /// The server ends the session while it is at this place (`pg_terminate_backend`).
    Kill,
}

impl Way {
    /// All there are.
    pub const ALL: [Self; 6] =
        [Self::Close, Self::Reset, Self::Swallow, Self::Blackhole, Self::Shut, Self::Kill];

    /// Its name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Reset => "reset",
            Self::Swallow => "swallow",
            Self::Blackhole => "blackhole",
            Self::Shut => "shut",
            Self::Kill => "kill",
        }
    }

    /// What is done at the place; of a kill, the session is held there until it is dead.
    pub(super) fn action(self) -> Action {
        match self {
            Self::Close => Action::Close,
            Self::Reset => Action::Reset,
            Self::Swallow => Action::Swallow,
            Self::Blackhole => Action::Blackhole,
            Self::Shut => Action::Shut,
            Self::Kill => Action::Pause,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for Way {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|way| way.name() == name);
        found.ok_or_else(|| format!("no way to lose a connection; known are {}", known()))
    }
}

/// A place between two messages of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Boundary {
    /// Its place among all, from 1.
    pub(super) number: usize,
    sender: Sender,
    /// Which message of this sender, from 1.
    message: u64,
    edge: Edge,
    /// In words.
    pub(super) name: String,
}

impl Boundary {
    /// Does this there, in the next transaction that begins.
    pub(super) fn rule(&self, action: Action) -> Rule {
        let from = Pattern {
            sender: Sender::Client,
            kind: Kind::named(Sender::Client, "Query"),
            about: Some(About::Command(BEGIN.to_owned())),
        };
        let trigger = Trigger {
            session: None,
            from: Some(from),
            on: Pattern::any(self.sender),
            which: Which::Nth(self.message),
            edge: self.edge,
        };
        Rule { trigger, action }
    }

    /// Whether what bit was this place of this transaction, and not of another one that began at the same moment: the
    /// messages up to there are the same.
    pub(super) fn is_where(&self, bite: &Bite, recorded: &[Recorded], messages: &[Recorded]) -> bool {
        let in_session = |one: &&Recorded| Some(one.session) == bite.session;
        let since: Vec<&Recorded> =
            recorded.iter().filter(in_session).skip_while(|one| !begins(one)).collect();
        let mut left = self.message;
        let reached = since.iter().position(|one| {
            left -= u64::from(one.message.sender() == self.sender);
            left == 0
        });
        // What comes behind the place is what the cut made of it.
        let Some(until) = reached.and_then(|index| since.get(..=index)) else { return false };
        [Sender::Client, Sender::Server].into_iter().all(|of| {
            let seen = until.iter().filter(|one| one.message.sender() == of);
            let known = messages.iter().filter(|one| one.message.sender() == of);
            seen.zip(known).all(|(seen, known)| seen.message == known.message)
        })
    }
}

const BEGIN: &str = "BEGIN";

fn begins(one: &Recorded) -> bool {
    one.message.name() == "Query"
        && one.statement.as_ref().is_some_and(|text| text.trim_start().to_uppercase().starts_with(BEGIN))
}

/// The messages of the one transaction in a recording that was committed; none where there is none, or the session went
/// on to another one.
pub(super) fn transaction(recorded: &[Recorded]) -> Vec<Recorded> {
    let Some(session) = recorded.iter().find(|one| is_commit(one)).map(|one| one.session) else {
        return Vec::new();
    };
    let mut messages = Vec::new();
    for one in recorded.iter().filter(|one| one.session == session) {
        if begins(one) {
            messages.clear();
        } else if messages.is_empty() {
            continue;
        }
        messages.push(one.clone());
        if one.is_idle {
            if messages.iter().any(is_commit) {
                return messages;
            }
            messages.clear();
        }
    }
    Vec::new()
}

fn is_commit(one: &Recorded) -> bool {
    one.message.name() == "CommandComplete" && one.about.as_deref() == Some("COMMIT")
}

/// Before each message, and after the last one of each sender.
pub(super) fn all(messages: &[Recorded]) -> Vec<Boundary> {
    let mut counts = [0_u64; 2];
    let mut boundaries = Vec::new();
    let last = |of: Sender| messages.iter().rposition(|one| one.message.sender() == of);
    for (index, one) in messages.iter().enumerate() {
        let sender = one.message.sender();
        let [client, server] = &mut counts;
        let count = if sender == Sender::Client { client } else { server };
        *count += 1;
        let message = *count;
        let edges =
            if last(sender) == Some(index) { &[Edge::Before, Edge::After][..] } else { &[Edge::Before] };
        for edge in edges {
            let side = if *edge == Edge::Before { "before" } else { "after" };
            let name = format!("{side} {}{}", one.message, about(one));
            boundaries.push(Boundary { number: boundaries.len() + 1, sender, message, edge: *edge, name });
        }
    }
    boundaries
}

/// The beginning of what a message is about.
fn about(one: &Recorded) -> String {
    const CHARACTERS_MAX: usize = 24;
    let Some(text) = one.about.as_ref().or(one.statement.as_ref()) else { return String::new() };
    let mut words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.chars().count() > CHARACTERS_MAX {
        words = words.chars().take(CHARACTERS_MAX).collect::<String>() + "…";
    }
    format!(" ({words})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(session: u64, of: Sender, name: &str, text: &str) -> Recorded {
        let (about, statement) = match name {
            "CommandComplete" => (Some(text.to_owned()), None),
            _ => (None, Some(text.to_owned())),
        };
        let is_idle = name == "ReadyForQuery" && text == "idle";
        Recorded { session, message: Kind::named(of, name).unwrap(), length: 5, about, statement, is_idle }
    }

    fn conversation() -> Vec<Recorded> {
        let (client, server) = (Sender::Client, Sender::Server);
        vec![
            recorded(2, client, "Query", "SELECT 1"),
            recorded(1, client, "Query", "SELECT 2"),
            recorded(1, server, "ReadyForQuery", "idle"),
            recorded(1, client, "Query", "BEGIN; SELECT 1"),
            recorded(1, server, "ReadyForQuery", ""),
            recorded(2, server, "ReadyForQuery", "idle"),
            recorded(1, client, "Query", "SELECT 1; COMMIT"),
            recorded(1, server, "CommandComplete", "COMMIT"),
            recorded(1, server, "ReadyForQuery", "idle"),
            recorded(1, client, "Query", "SELECT 3"),
        ]
    }

    #[test]
    fn the_places_are_before_each_message_and_behind_the_last_ones() {
        let messages = transaction(&conversation());
        assert_eq!(messages.len(), 5);
        let boundaries = all(&messages);
        let names: Vec<&str> = boundaries.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "before client Query (BEGIN; SELECT 1)",
                "before server ReadyForQuery ()",
                "before client Query (SELECT 1; COMMIT)",
                "after client Query (SELECT 1; COMMIT)",
                "before server CommandComplete (COMMIT)",
                "before server ReadyForQuery (idle)",
                "after server ReadyForQuery (idle)",
            ]
        );
        let rule = boundaries[4].rule(Action::Close).to_string();
        assert_eq!(rule, "from client Query(BEGIN) server any #2 before: close");
        assert_eq!(rule.parse::<Rule>().unwrap().to_string(), rule);
    }

    #[test]
    fn a_cut_of_another_transaction_does_not_count() {
        let conversation = conversation();
        let messages = transaction(&conversation);
        let place = &all(&messages)[2];
        let mut bite = Bite {
            at: tokio::time::Instant::now(),
            session: Some(1),
            process: None,
            message: Kind::named(Sender::Client, "Query").unwrap(),
        };
        assert!(place.is_where(&bite, &conversation, &messages));
        bite.session = Some(2);
        assert!(!place.is_where(&bite, &conversation, &messages));
        bite.session = Some(1);
        let mut other = conversation.clone();
        other[6].message = Kind::named(Sender::Client, "Parse").unwrap();
        assert!(!place.is_where(&bite, &other, &messages));
        let mut killed = conversation.clone();
        killed[7].message = Kind::named(Sender::Server, "ErrorResponse").unwrap();
        assert!(place.is_where(&bite, &killed, &messages), "what comes behind the place may differ");
        assert!(!place.is_where(&bite, &conversation[..5], &messages), "it did not come so far");
        assert!(transaction(&conversation[..6]).is_empty(), "nothing was committed");
    }
}
