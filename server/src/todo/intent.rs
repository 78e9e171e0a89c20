//! What a user wants changed, and the command it becomes: identity, fingerprint, payload. Applying it is for `commands`.

use std::time::SystemTime;

use ridethrough::{
    db::{Command, to_microseconds},
    sabotage::{self, Bug},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::todo::{Title, Todo, encode};

/// Part of what is hashed, so that no other digest of the same key gives the same id.
const ID_DOMAIN: &[u8] = b"ridethrough todo id 1\0";

/// One change that a user asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Intent {
    Create { title: Title },
    Replace { id: Uuid, title: Title, done: bool, if_match: Option<i64> },
    Remove { id: Uuid, if_match: Option<i64> },
}

/// What the writer's replica knew of the todo when it accepted the write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) version: i64,
    /// It was to become true by a write that this replica had journaled and not applied.
    pub(crate) pending: bool,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) created_at: OffsetDateTime,
}

impl Seen {
    /// What the writer's replica knew of `todo`.
    pub(crate) fn of(todo: &Todo, pending: bool) -> Self {
        Self { version: todo.version, pending, created_at: todo.created_at }
    }
}

/// A creation. Like the other two it stands in the journal as it is here: what is written once must be readable for ever, so
/// fields are added, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Create {
    pub(crate) id: Uuid,
    pub(crate) title: Title,
}

/// A replacement of title and state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Replace {
    pub(crate) id: Uuid,
    pub(crate) title: Title,
    pub(crate) done: bool,
    pub(crate) if_match: Option<i64>,
    pub(crate) seen: Option<Seen>,
}

/// A removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remove {
    pub(crate) id: Uuid,
    pub(crate) if_match: Option<i64>,
}

/// Any of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Payload {
    Create(Create),
    Replace(Replace),
    Remove(Remove),
}

/// The id of the todo that a write under `key` creates: final, and the same at every replica that gets the key.
pub(crate) fn id_of_key(key: &str) -> Uuid {
    if sabotage::planted(Bug::NoIdempotency) {
        return Uuid::new_v4();
    }
    let digest = Sha256::new().chain_update(ID_DOMAIN).chain_update(key).finalize();
    let mut bytes = [0; 16];
    for (byte, from) in bytes.iter_mut().zip(digest.iter()) {
        *byte = *from;
    }
    Uuid::new_v8(bytes)
}

impl Intent {
    /// The todo that is there already, for all but a creation.
    pub(crate) fn target(&self) -> Option<Uuid> {
        match self {
            Self::Create { .. } => None,
            Self::Replace { id, .. } | Self::Remove { id, .. } => Some(*id),
        }
    }

    /// The version that its author makes a condition.
    pub(crate) fn if_match(&self) -> Option<i64> {
        match self {
            Self::Create { .. } => None,
            Self::Replace { if_match, .. } | Self::Remove { if_match, .. } => *if_match,
        }
    }

    /// What tells this request from another one under the same key: its meaning, not its bytes.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let (method, path, body) = match self {
            Self::Create { title } => ("POST", "/api/todos".to_owned(), encode(&title)),
            Self::Replace { id, title, done, if_match } => {
                ("PUT", format!("/api/todos/{id}"), encode(&(title, done, if_match)))
            }
            Self::Remove { id, if_match } => ("DELETE", format!("/api/todos/{id}"), encode(&if_match)),
        };
        // The lengths keep neighbouring parts apart.
        let mut digest = Sha256::new();
        for part in [method.as_bytes(), path.as_bytes(), &body] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    /// The command to write, accepted at `now` by a replica that knew `seen`.
    pub(crate) fn command(&self, key: &str, seen: Option<Seen>, now: SystemTime) -> (Command, Payload) {
        let payload = match self.clone() {
            Self::Create { title } => Payload::Create(Create { id: id_of_key(key), title }),
            Self::Replace { id, title, done, if_match } => {
                Payload::Replace(Replace { id, title, done, if_match, seen })
            }
            Self::Remove { id, if_match } => Payload::Remove(Remove { id, if_match }),
        };
        let (fingerprint, now) = (self.fingerprint(), to_microseconds(now));
        let command = match &payload {
            Payload::Create(create) => Command::typed(create, key, fingerprint, now),
            Payload::Replace(replace) => Command::typed(replace, key, fingerprint, now),
            Payload::Remove(remove) => Command::typed(remove, key, fingerprint, now),
        };
        (command.expect("our own types are valid JSON documents"), payload)
    }
}

impl Payload {
    pub(crate) fn id(&self) -> Uuid {
        match self {
            Self::Create(Create { id, .. })
            | Self::Replace(Replace { id, .. })
            | Self::Remove(Remove { id, .. }) => *id,
        }
    }

    /// The todo as it will be once the command is applied, with version 0 where that is not known; nothing where it will
    /// be gone.
    pub(crate) fn promised(&self, accepted_at: SystemTime) -> Option<Todo> {
        let accepted_at = OffsetDateTime::from(accepted_at);
        let (id, title, done, version, created_at) = match self.clone() {
            Self::Create(Create { id, title }) => (id, title, false, 1, accepted_at),
            Self::Replace(Replace { id, title, done, seen: Some(seen), .. }) => {
                (id, title, done, seen.version + 1, seen.created_at)
            }
            Self::Replace(Replace { id, title, done, seen: None, .. }) => (id, title, done, 0, accepted_at),
            Self::Remove(_) => return None,
        };
        Some(Todo { id, title, done, version, created_at, updated_at: accepted_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::todo::tests::todo;

    fn title(text: &str) -> Title {
        Title::new(text.to_owned()).unwrap()
    }

    fn replace(text: &str, done: bool, if_match: Option<i64>) -> Intent {
        Intent::Replace { id: Uuid::from_u128(1), title: title(text), done, if_match }
    }

    #[test]
    fn the_id_of_a_key_is_final_and_its_own() {
        assert_eq!(id_of_key("a"), id_of_key("a"));
        assert_ne!(id_of_key("a"), id_of_key("b"));
        assert_eq!(id_of_key("a").get_version_num(), 8);
        // Stored todos and journals depend on this value: it must never change.
        assert_eq!(id_of_key("order-17").to_string(), "011afc51-7149-8a32-b585-f7cf6bb0d65b");
    }

    #[test]
    fn fingerprints_differ_exactly_where_the_meaning_does() {
        let all = [
            Intent::Create { title: title("a") },
            Intent::Create { title: title("b") },
            replace("a", false, None),
            replace("a", true, None),
            replace("a", false, Some(1)),
            Intent::Replace { id: Uuid::from_u128(2), title: title("a"), done: false, if_match: None },
            Intent::Remove { id: Uuid::from_u128(1), if_match: None },
            Intent::Remove { id: Uuid::from_u128(1), if_match: Some(1) },
        ];
        for (left, one) in all.iter().enumerate() {
            for (right, other) in all.iter().enumerate() {
                assert_eq!(one.fingerprint() == other.fingerprint(), left == right, "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn a_payload_is_read_back_from_the_journal() {
        let seen = Seen { version: 4, pending: true, created_at: todo(1, 1).created_at };
        let (command, payload) = replace("a", true, Some(4)).command("k", Some(seen), SystemTime::now());
        let read: Replace = serde_json::from_slice(&command.payload).unwrap();
        assert_eq!(Payload::Replace(read), payload);
        let written = br#"{"id":"00000000-0000-0000-0000-000000000001"}"#;
        let expected = Remove { id: Uuid::from_u128(1), if_match: None };
        assert_eq!(serde_json::from_slice::<Remove>(written).unwrap(), expected);
    }

    /// Commands are in order with each other where they change the same todo.
    #[test]
    fn a_command_is_ordered_by_its_todo() {
        let (create, payload) =
            Intent::Create { title: title("a") }.command("order-17", None, SystemTime::now());
        assert_eq!(create.ordering_key, id_of_key("order-17").to_string());
        let id = payload.id();
        let (remove, _) = Intent::Remove { id, if_match: None }.command("k", None, SystemTime::now());
        assert_eq!(remove.ordering_key, create.ordering_key);
    }

    #[test]
    fn the_promise_counts_on_from_what_was_seen() {
        let known = todo(1, 4);
        let seen = Some(Seen::of(&known, false));
        let (command, payload) = replace("new", true, None).command("k", seen, SystemTime::now());
        let promised = payload.promised(command.accepted_at).unwrap();
        assert_eq!((promised.version, promised.created_at, promised.done), (5, known.created_at, true));
        let (_, blind) = replace("new", true, None).command("k", None, SystemTime::now());
        assert_eq!(blind.promised(command.accepted_at).unwrap().version, 0);
    }
}
