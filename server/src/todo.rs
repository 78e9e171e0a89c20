//! What a todo is: its fields, its limits, its JSON, its row. What can be done with one is in the files below.

mod batch;
mod commands;
mod cursor;
mod intent;
mod many;
mod queries;
mod settled;
mod waiting;

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use ridethrough::cache::{CacheKey, Tags};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

pub(crate) use self::{
    batch::{BATCH_ITEMS_MAX, CreateMany, batch_of},
    commands::{NOT_FOUND, VERSION_MISMATCH, todo_commands},
    cursor::Cursor,
    intent::{Create, Intent, Payload, Remove, Replace, Seen},
    queries::{Page, PageQuery, TodoQuery},
    settled::{Ended, SettledKeys},
    waiting::{Change, Changes},
};
use crate::identity::Principal;

/// The tag of all lists of one owner: any change of any of his todos may change them.
pub(crate) const TODOS: &str = "todos";

/// Longest title in characters; the table checks the same.
pub(crate) const TITLE_CHARACTERS_MAX: usize = 500;

/// What a user wrote. Its text is never part of a log line, so `Debug` shows none of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Title(String);

/// Why a text is no title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TitleInvalid {
    Empty,
    /// Nobody could see which todo it is. One that is stored already is still read.
    Blank,
    /// It has so many characters.
    TooLong(usize),
    /// The database stores no U+0000.
    Impossible,
}

impl fmt::Display for TitleInvalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("`title` must not be empty"),
            Self::Blank => f.write_str("`title` must not be only white space"),
            Self::TooLong(count) => {
                write!(f, "`title` has {count} characters; at most {TITLE_CHARACTERS_MAX} are allowed")
            }
            Self::Impossible => f.write_str("`title` must not hold the character U+0000"),
        }
    }
}

impl From<TitleInvalid> for Cow<'static, str> {
    fn from(invalid: TitleInvalid) -> Self {
        Cow::Owned(invalid.to_string())
    }
}

impl Title {
    /// A title that the table will take: a write that is journaled must not turn out to be impossible later.
    pub(crate) fn new(text: String) -> Result<Self, TitleInvalid> {
        match text.chars().count() {
            0 => Err(TitleInvalid::Empty),
            _ if text.trim().is_empty() => Err(TitleInvalid::Blank),
            count if count > TITLE_CHARACTERS_MAX => Err(TitleInvalid::TooLong(count)),
            _ if text.contains('\0') => Err(TitleInvalid::Impossible),
            _ => Ok(Self(text)),
        }
    }

    /// A title that somebody typed: blanks around it are none of it.
    pub(crate) fn typed(typed: &str) -> Result<Self, TitleInvalid> {
        let trimmed = typed.trim();
        // Where nothing is left, the refusal is about what was typed.
        Self::new(if trimmed.is_empty() { typed } else { trimmed }.to_owned())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Title {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Title(..)")
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Todo {
    pub(crate) id: Uuid,
    pub(crate) title: Title,
    pub(crate) done: bool,
    /// 1 at first, one more with each change. 0 where a journaled change was accepted without knowing what it changes.
    pub(crate) version: i64,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) updated_at: OffsetDateTime,
}

impl Todo {
    /// A new one.
    pub(crate) fn new(id: Uuid, title: Title, at: OffsetDateTime) -> Self {
        Self { id, title, done: false, version: 1, created_at: at, updated_at: at }
    }

    /// The columns that [`Todo::from_row`] reads.
    pub(crate) const COLUMNS: &str = "id, title, done, version, created_at, updated_at";

    pub(crate) fn from_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            title: Title(row.try_get("title")?),
            done: row.try_get("done")?,
            version: row.try_get("version")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        })
    }

    /// The document that users get, and that is cached as it is.
    pub(crate) fn encode(&self) -> Bytes {
        encode(self)
    }

    pub(crate) fn decode(document: &[u8]) -> Option<Self> {
        serde_json::from_slice(document).ok()
    }

    /// The version of a document, where it is known.
    pub(crate) fn version_of(document: &[u8]) -> Option<u64> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
        }
        let versioned = serde_json::from_slice::<Versioned>(document).ok();
        versioned.map(|versioned| versioned.version).filter(|version| *version > 0)
    }

    /// The key of the cache under which its owner finds the todo, and nobody else.
    pub(crate) fn cache_key(owner: Principal, id: Uuid) -> CacheKey {
        owner.cache_key(format_args!("todo/{id}"))
    }

    /// What a change of the todo changes.
    pub(crate) fn tags_of_change(owner: Principal, id: Uuid) -> Tags {
        Tags::of([own_tag(owner, id), owner.own(TODOS)])
    }

    /// By which a change of the todo, alone or with its batch, finds the answers that show it alone.
    pub(crate) fn tags(owner: Principal, id: Uuid) -> Tags {
        match batch_of(id) {
            Some(batch) => Tags::of([own_tag(owner, id), batch::tag(owner, batch)]),
            None => Tags::of([own_tag(owner, id)]),
        }
    }

    /// Commands with the same one take effect in the order of their acceptance: those of one todo, and with it those of the
    /// whole batch in which it was made.
    pub(crate) fn ordering_key(owner: Principal, id: Uuid) -> String {
        owner.own(batch_of(id).unwrap_or(id))
    }

    /// Where it stands in the order of the list.
    pub(crate) fn cursor(&self) -> Cursor {
        Cursor { created_at: self.created_at, id: self.id }
    }
}

fn own_tag(owner: Principal, id: Uuid) -> String {
    owner.own(format_args!("todo/{id}"))
}

/// A JSON document of our own types, all of which can be written as JSON.
pub(crate) fn encode(document: &impl Serialize) -> Bytes {
    serde_json::to_vec(document).expect("our own types are valid JSON documents").into()
}

#[cfg(test)]
pub(crate) mod tests {
    use time::macros::datetime;

    use super::*;

    pub(crate) fn todo(number: u128, version: i64) -> Todo {
        let at = datetime!(2026-11-20 12:00 UTC) + time::Duration::seconds(number as i64);
        let title = Title::new(format!("todo {number}")).unwrap();
        Todo { id: Uuid::from_u128(number), title, done: false, version, created_at: at, updated_at: at }
    }

    #[test]
    fn titles_are_counted_in_characters_and_bounded() {
        let of_length = |count| Title::new("ä".repeat(count));
        assert!(of_length(1).is_ok() && of_length(TITLE_CHARACTERS_MAX).is_ok());
        assert!(of_length(0).unwrap_err().to_string().contains("empty"));
        let refusal = of_length(TITLE_CHARACTERS_MAX + 1).unwrap_err().to_string();
        assert!(refusal.contains("501") && refusal.contains("500"), "{refusal}");
    }

    /// The form refused such a title and the interface took it, and the list then showed an item without words.
    #[test]
    fn a_title_of_nothing_but_white_space_is_refused() {
        for blank in [" ", "\t\n", "\u{a0}\u{3000}", &" ".repeat(501)] {
            assert!(
                Title::new(blank.to_owned()).unwrap_err().to_string().contains("white space"),
                "{blank:?}"
            );
        }
        assert_eq!(Title::new(" a ".to_owned()).unwrap().as_str(), " a ");
    }

    /// PostgreSQL stores no U+0000: such a title would be accepted into the journal and never be applied.
    #[test]
    fn a_title_that_cannot_be_stored_is_refused_at_once() {
        assert!(Title::new("a\0b".to_owned()).unwrap_err().to_string().contains("U+0000"));
    }

    #[test]
    fn the_text_of_a_title_is_not_in_its_debug_form() {
        let shown = format!("{:?}", todo(7, 1));
        assert!(!shown.contains("todo 7") && shown.contains("Title(..)"), "{shown}");
    }

    #[test]
    fn the_document_has_the_promised_shape() {
        let document: serde_json::Value = serde_json::from_slice(&todo(1, 3).encode()).unwrap();
        let expected = serde_json::json!({
            "id": "00000000-0000-0000-0000-000000000001",
            "title": "todo 1",
            "done": false,
            "version": 3,
            "created_at": "2026-11-20T12:00:01Z",
            "updated_at": "2026-11-20T12:00:01Z",
        });
        assert_eq!(document, expected);
        assert_eq!(Todo::decode(&todo(1, 3).encode()), Some(todo(1, 3)));
        assert_eq!(Todo::decode(b"null"), None);
    }
}
