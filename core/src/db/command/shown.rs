//! How commands, and what became of them, look in a log line: keys and contents are users' and are left out, as their length
//! is enough to find a fault.

use std::fmt::{Debug, Formatter, Result};

use super::{Applied, Command, Settled, WriteStatus, Written};

impl Debug for Command {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Command")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("payload_bytes", &self.payload.len())
            .field("accepted_at", &self.accepted_at)
            .finish_non_exhaustive()
    }
}

impl Debug for Applied {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Done(answer) => write!(f, "Done({} bytes)", answer.len()),
            Self::Superseded(answer) => write!(f, "Superseded({} bytes)", answer.len()),
        }
    }
}

impl Debug for Settled {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Applied(answer) => write!(f, "Applied({} bytes)", answer.len()),
            Self::Superseded(answer) => write!(f, "Superseded({} bytes)", answer.len()),
            Self::Refused(refusal) => f.debug_tuple("Refused").field(refusal).finish(),
        }
    }
}

impl Debug for Written {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Committed { answer, repeated } => f
                .debug_struct("Committed")
                .field("answer_bytes", &answer.len())
                .field("repeated", repeated)
                .finish(),
            Self::Superseded { answer } => {
                f.debug_struct("Superseded").field("answer_bytes", &answer.len()).finish()
            }
            Self::Journaled { sequence, repeated } => {
                f.debug_struct("Journaled").field("sequence", sequence).field("repeated", repeated).finish()
            }
        }
    }
}

impl Debug for WriteStatus {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("WriteStatus")
            .field("state", &self.state)
            .field("answer_bytes", &self.answer.as_ref().map(bytes::Bytes::len))
            .field("reason", &self.reason)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;

    use super::*;
    use crate::{
        cache::Freshness,
        db::{DbConfig, Read, Source, WriteState},
        journal::{Entry, NewEntry},
    };

    const CANARY: &str = "quokkazanzibar";

    /// Whoever writes `?command` into a log line tells nothing of a user by it.
    #[test]
    fn the_debug_form_of_what_holds_a_users_words_holds_none_of_them() {
        let (key, payload, at) =
            (|| CANARY.to_owned(), Bytes::from_static(CANARY.as_bytes()), SystemTime::now());
        let command = Command {
            key: key(),
            name: "order.place".to_owned(),
            version: 3,
            ordering_key: key(),
            payload: payload.clone(),
            fingerprint: [0; 32],
            accepted_at: at,
        };
        let entry = NewEntry {
            key: key(),
            kind: "order.place".to_owned(),
            fingerprint: [0; 32],
            accepted_at: at,
            payload: payload.clone(),
            version: 3,
            ordering_key: key(),
            retried: false,
        };
        let NewEntry { kind, fingerprint, accepted_at, version, retried, .. } = entry.clone();
        let appended = Entry {
            sequence: 7,
            key: key(),
            kind,
            fingerprint,
            accepted_at,
            payload: payload.clone(),
            version,
            ordering_key: key(),
            retried,
        };
        let status = WriteStatus { state: WriteState::Applied, answer: Some(payload.clone()), reason: None };
        let read = Read::new(Some(payload.clone()), Freshness::Fresh, Source::Primary);
        let config = DbConfig { url: format!("postgres://me:{CANARY}@localhost/d"), ..DbConfig::default() };
        let shown = [
            format!("{command:?}"),
            format!("{entry:?}"),
            format!("{appended:#?}"),
            format!("{:?}", Applied::Done(payload.clone())),
            format!("{:?}", Settled::Superseded(payload.clone())),
            format!("{:?}", Written::Committed { answer: payload.clone(), repeated: false }),
            format!("{status:?}"),
            format!("{read:?}"),
            format!("{config:?}"),
        ];
        for text in &shown {
            let bytes = payload.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
            assert!(!text.contains(CANARY) && !text.contains(&bytes), "{text}");
        }
        assert!(shown[0].contains("order.place") && shown[0].contains("payload_bytes: 14"), "{}", shown[0]);
    }
}
