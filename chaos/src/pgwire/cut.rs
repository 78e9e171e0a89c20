//! What can be done to a connection at one of its messages, and how that is written. When it is done is up to `trigger`.

use std::fmt;
use std::time::Duration;

use crate::pgwire::frame::Sender;
use crate::pgwire::message::Said;
use crate::pgwire::words::{Words, in_quotes};

/// Garbage is meant to be met by a parser, not to fill memory.
const GARBAGE_BYTES_MAX: usize = 64 * 1024;

/// What is done to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// `close`: both sides see an orderly end (FIN).
    Close,
    /// `reset`: the client sees a reset (RST). The server sees an orderly end, because a reset could overtake what it has
    /// received and not yet read, and what has arrived must count as arrived.
    Reset,
    /// `swallow`: nothing of this sender arrives any more; the other direction goes on. A server whose answers are
    /// swallowed commits, and its client waits.
    Swallow,
    /// `blackhole`: both sides stay open and carry nothing any more, until the rule is taken back; then they end.
    Blackhole,
    /// `vanish 150ms`: as `blackhole` to the client; the server's side ends after that time, as by its keepalives.
    Vanish(Duration),
    /// `shut`: both sides see an orderly end, and nobody gets through any more until the rule is taken back.
    Shut,
    /// `hold 300ms`: this direction comes late by that time.
    Hold(Duration),
    /// `pause`: this direction stops until the rule is taken back, and then goes on.
    Pause,
    /// `repeat`: the message arrives twice.
    Repeat,
    /// `abort`: the transaction fails at the server before the message arrives, which the client is not told.
    Abort,
    /// `garbage 16`: that many bytes that are no message.
    Garbage(usize),
    /// `say ERROR 40001 "text"`: an error in the place of the message, as from the server; of severity FATAL or PANIC the
    /// connection ends with it. `say WARNING 57P01 "text"` is a notice before or after the message.
    ///
    /// In the place of a client's message the server itself is made to fail there, so that both agree on the transaction.
    /// In the place of a server's message the server goes on, and the rest of its answer is withheld.
    Say(Said),
}

/// Names without a value.
const PLAIN: [(&str, Action); 8] = [
    ("close", Action::Close),
    ("reset", Action::Reset),
    ("swallow", Action::Swallow),
    ("blackhole", Action::Blackhole),
    ("shut", Action::Shut),
    ("pause", Action::Pause),
    ("repeat", Action::Repeat),
    ("abort", Action::Abort),
];

impl Action {
    /// Whether nothing comes after it on its connection.
    #[must_use]
    pub fn ends_connection(&self) -> bool {
        match self {
            Self::Close | Self::Reset | Self::Blackhole | Self::Vanish(_) | Self::Shut => true,
            Self::Say(said) => said.severity.ends_session(),
            _ => false,
        }
    }

    /// Whether it has to stand before a message as a whole, and of which sender.
    pub(super) fn stands_before(&self) -> (bool, Option<Sender>) {
        match self {
            Self::Abort => (true, Some(Sender::Client)),
            Self::Say(said) => (!is_notice(said), is_notice(said).then_some(Sender::Server)),
            Self::Repeat => (true, None),
            _ => (false, None),
        }
    }

    pub(super) fn read(words: &mut Words) -> Result<Self, String> {
        let name = words.plain("what to do")?;
        if let Some((_, action)) = PLAIN.iter().find(|(known, _)| *known == name) {
            return Ok(action.clone());
        }
        match name.as_str() {
            "hold" => duration(words).map(Self::Hold),
            "vanish" => duration(words).map(Self::Vanish),
            "garbage" => match words.number("a number of bytes")? {
                count if (1..=GARBAGE_BYTES_MAX).contains(&count) => Ok(Self::Garbage(count)),
                count => Err(format!("{count} bytes of garbage; 1 to {GARBAGE_BYTES_MAX} are possible")),
            },
            "say" => {
                let severity = words.plain("a severity")?.parse()?;
                let code = words.plain("an SQLSTATE")?;
                if code.len() != 5 || !code.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()) {
                    return Err(format!("`{code}` is no SQLSTATE: five capitals or digits"));
                }
                Ok(Self::Say(Said { severity, code, message: words.quoted("what the server says")? }))
            }
            _ => {
                let known: Vec<&str> = PLAIN.iter().map(|(known, _)| *known).collect();
                Err(format!(
                    "`{name}` cannot be done; known are {}, hold, vanish, garbage, say",
                    known.join(", ")
                ))
            }
        }
    }
}

pub(super) fn is_notice(said: &Said) -> bool {
    !said.severity.ends_session() && said.severity != crate::pgwire::message::Severity::Error
}

fn duration(words: &mut Words) -> Result<Duration, String> {
    let text = words.plain("a duration such as 300ms")?;
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().map_err(|_| format!("`{text}` is no duration"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        _ => Err(format!("`{text}` is no duration: a number with ms or s")),
    }
}

impl fmt::Display for Action {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = PLAIN.iter().find(|(_, action)| action == self) {
            return out.write_str(name);
        }
        match self {
            Self::Hold(time) => write!(out, "hold {}ms", time.as_millis()),
            Self::Vanish(time) => write!(out, "vanish {}ms", time.as_millis()),
            Self::Garbage(count) => write!(out, "garbage {count}"),
            Self::Say(said) => {
                write!(out, "say {} {} {}", said.severity, said.code, in_quotes(&said.message))
            }
            _ => Ok(()),
        }
    }
}
