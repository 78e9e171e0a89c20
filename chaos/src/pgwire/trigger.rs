//! When something is done to a connection: at which message of which session, and on which side of it. A trigger only
//! describes; counting is in `plan`.

use std::fmt;
use std::str::FromStr;

use crate::pgwire::cut::{Action, is_notice};
use crate::pgwire::frame::{Frame, Kind, MESSAGE_BYTES_MAX, Sender};
use crate::pgwire::message;
use crate::pgwire::sql::Statement;
use crate::pgwire::words::{Word, Words, in_quotes};

/// What is done, and when. In text, with all parts in brackets left out where they are not needed:
///
/// ```text
/// [session N] [from MESSAGE] MESSAGE [#N | every] [before | after | byte N]: ACTION
/// MESSAGE = client|server NAME|any [(COMMAND | "text")]
/// ```
///
/// - `server CommandComplete(COMMIT) #17 before: reset`
/// - `client Parse("insert into todos"): say ERROR 40001 "could not serialize access"`
/// - `session 3 server ReadyForQuery byte 3: close`
/// - `from client Query(BEGIN) server any #5 after: swallow` counts from a BEGIN on, in its session, until its
///   transaction is over.
/// - `client Startup every: say FATAL 57P03 "the database system is starting up"`
///
/// A command is the first word of a statement in the text that the message belongs to; of a `CommandComplete` that of its
/// tag, of an error or a notice its SQLSTATE. `#1` and `before` are the defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// When.
    pub trigger: Trigger,
    /// What.
    pub action: Action,
}

/// At which message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    /// Only in this session, counted from 1 as they begin. Default: in any.
    pub session: Option<u64>,
    /// Count from this message on, in its session, until the server is ready and in no transaction. Default: count all.
    pub from: Option<Pattern>,
    /// Which messages count.
    pub on: Pattern,
    /// Which of them it is.
    pub which: Which,
    /// On which side of it.
    pub edge: Edge,
}

/// Which of the messages that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// One, counted from 1.
    Nth(u64),
    /// All of them.
    Every,
}

/// On which side of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// Before it arrives.
    Before,
    /// When it has arrived.
    After,
    /// When so many of its bytes have arrived, 1 or more.
    Byte(usize),
}

/// Which messages are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// Who sends them.
    pub sender: Sender,
    /// Their kind; `None` is any.
    pub kind: Option<Kind>,
    /// What they are about; `None` is anything.
    pub about: Option<About>,
}

/// What a message is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// A command, in capitals, or an SQLSTATE.
    Command(String),
    /// A part of the statement's text, in whatever case.
    Text(String),
}

/// A message that passes, with what is known of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passing<'p> {
    /// Which session, where it has begun.
    pub(super) session: Option<u64>,
    pub(super) frame: &'p Frame,
    pub(super) statement: Option<&'p Statement>,
}

impl Pattern {
    /// Any message of a sender.
    #[must_use]
    pub fn any(sender: Sender) -> Self {
        Self { sender, kind: None, about: None }
    }

    pub(super) fn matches(&self, passing: Passing<'_>) -> bool {
        let frame = passing.frame;
        frame.kind.sender() == self.sender
            && self.kind.is_none_or(|kind| kind == frame.kind)
            && self.about.as_ref().is_none_or(|about| about.matches(passing))
    }

    fn read(words: &mut Words) -> Result<Self, String> {
        let sender = match words.plain("client or server")?.as_str() {
            "client" => Sender::Client,
            "server" => Sender::Server,
            other => return Err(format!("client or server expected, found `{other}`")),
        };
        let name = words.plain("the name of a message")?;
        let kind = match name.as_str() {
            "any" => None,
            name => Some(Kind::named(sender, name).ok_or_else(|| {
                let known: Vec<&str> = Kind::names(sender).collect();
                format!("a {sender} sends no `{name}`; known are any, {}", known.join(", "))
            })?),
        };
        let about = if words.takes_mark('(') {
            let about = match words.any("a command, or a text in quotes")? {
                Word::Plain(command) => About::Command(command.to_uppercase()),
                Word::Quoted(text) => About::Text(text),
                Word::Mark(mark) => return Err(format!("`{mark}` is no command")),
            };
            words.mark(')')?;
            Some(about)
        } else {
            None
        };
        Ok(Self { sender, kind, about })
    }
}

impl About {
    fn matches(&self, passing: Passing<'_>) -> bool {
        let word = match self {
            Self::Text(text) => return passing.statement.is_some_and(|statement| statement.holds(text)),
            Self::Command(word) => word,
        };
        if let Some(tag) = message::tag(passing.frame) {
            return tag.split(' ').next() == Some(word);
        }
        if let Some(code) = message::code(passing.frame) {
            return code == *word;
        }
        passing.statement.is_some_and(|statement| statement.has_verb(word))
    }
}

impl Rule {
    /// What the text cannot say wrong by its form alone.
    fn check(self) -> Result<Self, String> {
        let Trigger { on, edge, which, .. } = &self.trigger;
        let (whole, of) = self.action.stands_before();
        if whole && *edge != Edge::Before {
            return Err(format!("`{}` stands before a message", self.action));
        }
        if of.is_some_and(|of| of != on.sender) {
            return Err(format!("`{}` cannot be done at a message of the {}", self.action, on.sender));
        }
        if *which == Which::Nth(0) || self.trigger.session == Some(0) {
            return Err("messages and sessions are counted from 1".to_owned());
        }
        if let Edge::Byte(byte) = edge
            && !(1..=MESSAGE_BYTES_MAX).contains(byte)
        {
            return Err(format!("byte {byte}; 1 to {MESSAGE_BYTES_MAX} are possible"));
        }
        if let Action::Say(said) = &self.action
            && !is_notice(said)
            && let Some(kind) = on.kind.filter(|kind| kind.sender() == Sender::Client)
            && !matches!(
                kind.name(),
                "Startup" | "Query" | "Parse" | "Bind" | "Describe" | "Execute" | "Sync"
            )
        {
            return Err(format!("the server answers no {kind} with an error"));
        }
        Ok(self)
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = Words::of(text)?;
        let session = words.takes("session").then(|| words.number("the number of a session")).transpose()?;
        let from = words.takes("from").then(|| Pattern::read(&mut words)).transpose()?;
        let on = Pattern::read(&mut words)?;
        let which = if words.takes_mark('#') {
            Which::Nth(words.number("a number")?)
        } else if words.takes("every") {
            Which::Every
        } else {
            Which::Nth(1)
        };
        let edge = if words.takes("after") {
            Edge::After
        } else if words.takes("byte") {
            Edge::Byte(words.number("the number of a byte")?)
        } else {
            words.takes("before");
            Edge::Before
        };
        words.mark(':')?;
        let action = Action::read(&mut words)?;
        words.end()?;
        Self { trigger: Trigger { session, from, on, which, edge }, action }.check()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trigger { session, from, on, which, edge } = &self.trigger;
        if let Some(session) = session {
            write!(out, "session {session} ")?;
        }
        if let Some(from) = from {
            write!(out, "from {from} ")?;
        }
        write!(out, "{on}")?;
        match which {
            Which::Nth(number) => write!(out, " #{number}")?,
            Which::Every => write!(out, " every")?,
        }
        match edge {
            Edge::Before => write!(out, " before")?,
            Edge::After => write!(out, " after")?,
            Edge::Byte(byte) => write!(out, " byte {byte}")?,
        }
        write!(out, ": {}", self.action)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.sender, self.kind.map_or("any", Kind::name))?;
        match &self.about {
            None => Ok(()),
            Some(About::Command(word)) => write!(out, "({word})"),
            Some(About::Text(text)) => write!(out, "({})", in_quotes(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgwire::frame::tests::{FROM_SERVER, frames};

    #[test]
    fn a_rule_is_read_as_it_is_written() {
        for text in [
            "server CommandComplete(COMMIT) #17 before: reset",
            "client Parse(\"insert into \\\"todos\\\"\") #1 before: say ERROR 40001 \"could not serialize access\"",
            "session 3 server ReadyForQuery #1 byte 3: close",
            "from client Query(BEGIN) server any #5 after: swallow",
            "client Startup every before: say FATAL 57P03 \"the database system is starting up\"",
            "server DataRow #1 before: say WARNING 57P01 \"terminating\"",
            "client CancelRequest #1 before: hold 300ms",
            "client Query(COMMIT) #1 before: abort",
            "server Authentication #2 before: garbage 16",
            "client any #1 before: vanish 150ms",
        ] {
            let rule: Rule = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(rule.to_string(), text);
        }
        let short: Rule = "server ReadyForQuery: pause".parse().unwrap();
        assert_eq!(short.to_string(), "server ReadyForQuery #1 before: pause");
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_the_reason() {
        for (text, reason) in [
            ("server Query: close", "a server sends no `Query`"),
            ("client Query: explode", "`explode` cannot be done"),
            ("client Query close", "`:` expected"),
            ("client Query: say ERROR 4001 \"x\"", "no SQLSTATE"),
            ("client Query: say LOUD 40001 \"x\"", "no severity"),
            ("client Query after: say ERROR 40001 \"x\"", "stands before a message"),
            ("client Terminate: say ERROR 40001 \"x\"", "answers no client Terminate"),
            ("server DataRow: abort", "cannot be done at a message of the server"),
            ("client Query: say WARNING 01000 \"x\"", "cannot be done at a message of the client"),
            ("client Query #0: close", "counted from 1"),
            ("client Query: hold 3", "no duration"),
            ("client Query(\"x): close", "not closed"),
            ("client Query: close now", "the end expected, found `now`"),
            ("client Query byte 0: close", "byte 0"),
            ("", "found the end"),
        ] {
            let error = text.parse::<Rule>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_command_is_looked_for_where_it_stands() {
        let pattern =
            |text: &str| -> Pattern { format!("{text}: close").parse::<Rule>().unwrap().trigger.on };
        let answers = frames(Sender::Server, FROM_SERVER);
        let complete = answers.iter().find(|frame| message::tag(frame).is_some()).unwrap();
        let statement = Statement::of(b"insert into t select 1; select 2; commit");
        let passing = Passing { session: Some(1), frame: complete, statement: Some(&statement) };
        for (text, matches) in [
            ("server CommandComplete(select)", true),
            ("server CommandComplete(COMMIT)", false),
            ("server any(\"INSERT INTO t\")", true),
            ("server any", true),
            ("client any", false),
            ("server DataRow", false),
        ] {
            assert_eq!(pattern(text).matches(passing), matches, "{text}");
        }
        let ready = answers.last().unwrap();
        assert!(pattern("server ReadyForQuery(COMMIT)").matches(Passing { frame: ready, ..passing }));
    }
}
