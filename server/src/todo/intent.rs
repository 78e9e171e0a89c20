//! What a user wants changed, and the command it becomes: identity, fingerprint, payload. Applying it is for `commands`.

use std::time::SystemTime;

use bytes::Bytes;
use ridethrough::{
    db::{Command, to_microseconds},
    sabotage::{self, Bug},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Changes, CreateMany, Title, Todo, encode};
use crate::identity::Principal;

/// Part of what is hashed, so that no other digest of the same key gives the same id.
const ID_DOMAIN: &[u8] = b"ridethrough todo id 1\0";

/// One change that a user asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Intent {
    Create { title: Title },
    CreateMany { titles: Vec<Title> },
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

/// The newest form of the payloads below: with an owner. One of everybody's has none, and is written in the first form, so
/// that programs which know of no owners can apply it.
pub(super) const VERSION: u16 = 2;
const VERSION_WITHOUT_OWNER: u16 = 1;

/// A creation. Like the others it stands in the journal as it is here: what is written once must be readable for ever, so
/// fields are added, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Create {
    pub(crate) id: Uuid,
    #[serde(default, skip_serializing_if = "Principal::is_everybody")]
    pub(crate) owner: Principal,
    pub(crate) title: Title,
}

/// A replacement of title and state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Replace {
    pub(crate) id: Uuid,
    #[serde(default, skip_serializing_if = "Principal::is_everybody")]
    pub(crate) owner: Principal,
    pub(crate) title: Title,
    pub(crate) done: bool,
    pub(crate) if_match: Option<i64>,
    pub(crate) seen: Option<Seen>,
}

/// A removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remove {
    pub(crate) id: Uuid,
    #[serde(default, skip_serializing_if = "Principal::is_everybody")]
    pub(crate) owner: Principal,
    pub(crate) if_match: Option<i64>,
}

/// Any of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Payload {
    Create(Create),
    CreateMany(CreateMany),
    Replace(Replace),
    Remove(Remove),
}

/// The id of the todo that a write under `key` creates: final, and the same at every replica that gets the key.
pub(crate) fn id_of_key(key: &str) -> Uuid {
    if sabotage::planted(Bug::NoIdempotency) {
        return Uuid::new_v4();
    }
    Uuid::new_v8(digest(ID_DOMAIN, key))
}

/// The beginning of the digest of a key.
pub(super) fn digest(domain: &[u8], key: &str) -> [u8; 16] {
    let digest = Sha256::new().chain_update(domain).chain_update(key).finalize();
    let mut bytes = [0; 16];
    for (byte, from) in bytes.iter_mut().zip(digest.iter()) {
        *byte = *from;
    }
    bytes
}

impl Intent {
    /// The todo that is there already, for all but creations.
    pub(crate) fn target(&self) -> Option<Uuid> {
        match self {
            Self::Create { .. } | Self::CreateMany { .. } => None,
            Self::Replace { id, .. } | Self::Remove { id, .. } => Some(*id),
        }
    }

    /// The version that its author makes a condition.
    pub(crate) fn if_match(&self) -> Option<i64> {
        match self {
            Self::Create { .. } | Self::CreateMany { .. } => None,
            Self::Replace { if_match, .. } | Self::Remove { if_match, .. } => *if_match,
        }
    }

    /// What tells this request from another one under the same key: its meaning, not its bytes.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let (method, path, body) = match self {
            Self::Create { title } => ("POST", "/api/todos".to_owned(), encode(&title)),
            Self::CreateMany { titles } => ("POST", "/api/todos/batch".to_owned(), encode(&titles)),
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

    /// The command to write for `owner` under a key of his, accepted at `now` by a replica that knew `seen`.
    pub(crate) fn command(
        &self,
        owner: Principal,
        key: &str,
        seen: Option<Seen>,
        now: SystemTime,
    ) -> (Command, Payload) {
        let payload = match self.clone() {
            Self::Create { title } => Payload::Create(Create { id: id_of_key(key), owner, title }),
            Self::CreateMany { titles } => Payload::CreateMany(CreateMany::new(owner, key, titles)),
            Self::Replace { id, title, done, if_match } => {
                Payload::Replace(Replace { id, owner, title, done, if_match, seen })
            }
            Self::Remove { id, if_match } => Payload::Remove(Remove { id, owner, if_match }),
        };
        let (fingerprint, now) = (self.fingerprint(), to_microseconds(now));
        let command = match &payload {
            Payload::Create(create) => Command::typed(create, key, fingerprint, now),
            Payload::CreateMany(create) => Command::typed(create, key, fingerprint, now),
            Payload::Replace(replace) => Command::typed(replace, key, fingerprint, now),
            Payload::Remove(remove) => Command::typed(remove, key, fingerprint, now),
        };
        let mut command = command.expect("our own types are valid JSON documents");
        if owner.is_everybody() && command.version == VERSION {
            command.version = VERSION_WITHOUT_OWNER;
        }
        (command, payload)
    }
}

impl Payload {
    /// What will be true of each todo once the command is applied, with version 0 where that is not known.
    pub(crate) fn changes(&self, accepted_at: SystemTime) -> Changes {
        let accepted_at = OffsetDateTime::from(accepted_at);
        match self.clone() {
            Self::Create(Create { id, title, .. }) => {
                Changes::one(id, Some(Todo::new(id, title, accepted_at)))
            }
            Self::CreateMany(create) => create.changes(accepted_at),
            Self::Replace(Replace { id, title, done, seen, .. }) => {
                let (version, created_at) =
                    seen.map_or((0, accepted_at), |seen| (seen.version + 1, seen.created_at));
                let becomes = Todo { id, title, done, version, created_at, updated_at: accepted_at };
                Changes::one(id, Some(becomes))
            }
            Self::Remove(Remove { id, .. }) => Changes::one(id, None),
        }
    }

    /// What its author is shown of it while it waits; nothing where that is nothing, or not known.
    pub(crate) fn document(&self, accepted_at: SystemTime) -> Option<Bytes> {
        self.changes(accepted_at).document()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::todo::tests::todo;

    const EVERYBODY: Principal = Principal::EVERYBODY;

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
            Intent::CreateMany { titles: vec![title("a")] },
            Intent::CreateMany { titles: vec![title("a"), title("b")] },
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
        let (command, payload) =
            replace("a", true, Some(4)).command(EVERYBODY, "k", Some(seen), SystemTime::now());
        let read: Replace = serde_json::from_slice(&command.payload).unwrap();
        assert_eq!(Payload::Replace(read), payload);
        let written = br#"{"id":"00000000-0000-0000-0000-000000000001"}"#;
        let expected = Remove { id: Uuid::from_u128(1), owner: EVERYBODY, if_match: None };
        assert_eq!(serde_json::from_slice::<Remove>(written).unwrap(), expected);
    }

    /// Where a program is started again that knows of no owners, it must be able to apply what waits, and must not apply what
    /// it would give to everybody.
    #[test]
    fn what_has_an_owner_is_for_programs_that_know_owners() {
        let ada = Principal::named("ada");
        for intent in [
            Intent::Create { title: title("a") },
            replace("a", true, None),
            Intent::Remove { id: Uuid::from_u128(1), if_match: None },
        ] {
            let (everybodys, _) = intent.command(EVERYBODY, "k", None, SystemTime::now());
            let text = String::from_utf8(everybodys.payload.to_vec()).unwrap();
            assert!(everybodys.version == 1 && !text.contains("owner"), "{text}");
            let (hers, _) = intent.command(ada, "k", None, SystemTime::now());
            assert_eq!(hers.version, 2);
            assert_ne!(hers.ordering_key, everybodys.ordering_key);
        }
        let old = br#"{"id":"00000000-0000-0000-0000-000000000001","title":"a"}"#;
        assert_eq!(serde_json::from_slice::<Create>(old).unwrap().owner, EVERYBODY);
    }

    /// Commands are in order with each other where they change the same todo.
    #[test]
    fn a_command_is_ordered_by_its_todo() {
        let (create, payload) =
            Intent::Create { title: title("a") }.command(EVERYBODY, "order-17", None, SystemTime::now());
        assert_eq!(create.ordering_key, id_of_key("order-17").to_string());
        assert!(matches!(payload, Payload::Create(_)));
        let id = id_of_key("order-17");
        let (remove, _) =
            Intent::Remove { id, if_match: None }.command(EVERYBODY, "k", None, SystemTime::now());
        assert_eq!(remove.ordering_key, create.ordering_key);
    }

    #[test]
    fn the_promise_counts_on_from_what_was_seen() {
        let known = todo(1, 4);
        let seen = Some(Seen::of(&known, false));
        let (command, payload) = replace("new", true, None).command(EVERYBODY, "k", seen, SystemTime::now());
        let becomes = |payload: &Payload| {
            payload.changes(command.accepted_at).iter().next().unwrap().becomes.clone().unwrap()
        };
        let promised = becomes(&payload);
        assert_eq!((promised.version, promised.created_at, promised.done), (5, known.created_at, true));
        let (_, blind) = replace("new", true, None).command(EVERYBODY, "k", None, SystemTime::now());
        assert_eq!((becomes(&blind).version, blind.document(command.accepted_at)), (0, None));
    }
}
