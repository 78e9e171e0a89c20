//! What the fake server remembers: the table of idempotency keys, which statements were committed, and what became of
//! each transaction. Uniqueness, locks and rollback are as in PostgreSQL; waiting for a lock is the session's business.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use tokio_postgres::types::Type;

use super::{
    reply::{Datum, datum, null},
    sql::{insert_lists, list, parameter},
    text::text_of,
};

/// The table of keys of [`SCHEMA_SQL`](crate::db::SCHEMA_SQL).
pub(super) const KEY_TABLE: &str = "ridethrough_writes";
/// The table of the journals' epochs there.
pub(super) const JOURNAL_TABLE: &str = "ridethrough_journals";
/// Older ones are forgotten; no test looks that far back.
const REMEMBERED_MAX: usize = 100_000;

/// A row by column.
pub(super) type Row = BTreeMap<String, Datum>;

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum XactStatus {
    InProgress,
    Committed,
    Aborted,
}

/// Everything that outlives a session.
#[derive(Debug, Default)]
pub(super) struct Data {
    keys: BTreeMap<String, Row>,
    /// The process whose open transaction changed a key.
    holders: HashMap<String, i32>,
    /// The transaction that a process has open.
    running: HashMap<i32, u64>,
    rolled_back: VecDeque<String>,
    committed: VecDeque<String>,
    transactions: BTreeMap<u64, XactStatus>,
    /// The epoch of each journal. A new one is committed at once: nobody takes one inside of a transaction.
    epochs: HashMap<Bytes, i64>,
}

/// A transaction that is open in a session.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) id: u64,
    process: i32,
    /// Begun by BEGIN; else it ends with the statement, or with Sync.
    pub(super) explicit: bool,
    pub(super) read_only: bool,
    pub(super) failed: bool,
    changes: Vec<(String, Option<Row>)>,
    statements: Vec<String>,
    savepoints: Vec<(String, usize, usize)>,
}

impl Data {
    pub(super) fn begin(&mut self, process: i32) -> Transaction {
        let id = self.transactions.last_key_value().map_or(741, |(last, _)| last + 1);
        self.transactions.insert(id, XactStatus::InProgress);
        self.running.insert(process, id);
        if self.transactions.len() > REMEMBERED_MAX {
            self.transactions.pop_first();
        }
        Transaction {
            id,
            process,
            explicit: false,
            read_only: false,
            failed: false,
            changes: Vec::new(),
            statements: Vec::new(),
            savepoints: Vec::new(),
        }
    }

    pub(super) fn commit(&mut self, transaction: Transaction) {
        self.running.remove(&transaction.process);
        for (key, row) in transaction.changes {
            self.holders.remove(&key);
            match row {
                Some(row) => self.keys.insert(key, row),
                None => self.keys.remove(&key),
            };
        }
        for statement in transaction.statements {
            remember(&mut self.committed, statement);
        }
        self.transactions.insert(transaction.id, XactStatus::Committed);
    }

    pub(super) fn roll_back(&mut self, transaction: Transaction) {
        self.running.remove(&transaction.process);
        let changed: BTreeSet<String> = transaction.changes.into_iter().map(|(key, _)| key).collect();
        for key in changed {
            self.holders.remove(&key);
            remember(&mut self.rolled_back, key);
        }
        self.transactions.insert(transaction.id, XactStatus::Aborted);
    }

    pub(super) fn status(&self, id: u64) -> Option<XactStatus> {
        self.transactions.get(&id).copied()
    }

    pub(super) fn running(&self, process: i32) -> Option<u64> {
        self.running.get(&process).copied()
    }

    /// Whether another process holds the key.
    pub(super) fn is_held(&self, key: &str, process: i32) -> bool {
        self.holders.get(key).is_some_and(|holder| *holder != process)
    }

    /// The row under a key as this transaction sees it.
    pub(super) fn row(&self, transaction: Option<&Transaction>, key: &str) -> Option<Row> {
        let own = transaction.and_then(|open| open.changes.iter().rev().find(|(changed, _)| changed == key));
        own.map_or_else(|| self.keys.get(key).cloned(), |(_, row)| row.clone())
    }

    /// Changes a key that nobody else holds.
    pub(super) fn change(
        &mut self,
        transaction: &mut Transaction,
        process: i32,
        key: String,
        row: Option<Row>,
    ) {
        self.holders.insert(key.clone(), process);
        transaction.changes.push((key, row));
    }

    /// The row of a journal; where it is taken, with an epoch that is so much higher.
    pub(super) fn journal(&mut self, id: Bytes, taken: Option<i64>) -> Option<Row> {
        if let Some(step) = taken {
            *self.epochs.entry(id.clone()).or_default() += step;
        }
        let epoch = self.epochs.get(&id)?;
        Some(Row::from([("epoch".to_owned(), datum(epoch))]))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = (&str, &Row)> {
        self.keys.iter().map(|(key, row)| (key.as_str(), row))
    }

    pub(super) fn rolled_back(&self) -> Vec<String> {
        self.rolled_back.iter().cloned().collect()
    }

    pub(super) fn committed(&self) -> impl Iterator<Item = &str> {
        self.committed.iter().map(String::as_str)
    }
}

fn remember(things: &mut VecDeque<String>, thing: String) {
    if things.len() >= REMEMBERED_MAX {
        things.pop_front();
    }
    things.push_back(thing);
}

impl Transaction {
    pub(super) fn did(&mut self, statement: String) {
        self.statements.push(statement);
    }

    pub(super) fn save(&mut self, name: String) {
        self.savepoints.push((name, self.changes.len(), self.statements.len()));
    }

    /// Back to a savepoint, which stays; `false` where there is none of that name. Keys changed since stay held until the
    /// end of the transaction, a little longer than in PostgreSQL.
    pub(super) fn back_to(&mut self, name: &str) -> bool {
        let Some(at) = self.savepoints.iter().rposition(|(saved, _, _)| saved == name) else { return false };
        self.savepoints.truncate(at + 1);
        if let Some((_, changes, statements)) = self.savepoints.last() {
            // A change that is taken back becomes a change to what was there before.
            let undone: Vec<String> = self.changes.drain(*changes..).map(|(key, _)| key).collect();
            self.statements.truncate(*statements);
            for key in undone {
                let before = self.changes.iter().rev().find(|(changed, _)| *changed == key);
                let before = before.and_then(|(_, row)| row.clone());
                self.changes.push((key, before));
            }
        }
        self.failed = false;
        true
    }
}

/// A value in a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Parameter(usize),
    Literal(String),
    /// Anything else, taken for NULL.
    Other,
}

/// A statement about the table of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeyStatement {
    /// `tolerant` with `ON CONFLICT`.
    Claim {
        values: Vec<(String, Source)>,
        tolerant: bool,
    },
    Change {
        values: Vec<(String, Source)>,
        key: Source,
    },
    Remove {
        key: Source,
    },
    Find {
        key: Source,
    },
    /// About the table, with no single key: nothing is found.
    Sweep,
}

/// The statement, where it is one about the table of keys.
pub(super) fn key_statement(words: &[String]) -> Option<KeyStatement> {
    words.iter().position(|word| word == KEY_TABLE)?;
    let key = words.windows(3).find_map(|three| match three {
        [key, equals, value] if key.rsplit('.').next() == Some("key") && equals == "=" => Some(source(value)),
        _ => None,
    });
    Some(match (words.first()?.as_str(), key) {
        ("insert", _) => {
            let (names, values) = insert_lists(words)?;
            let values = values.iter().map(|value| value.first().map_or(Source::Other, |word| source(word)));
            let tolerant = words.windows(2).any(|pair| pair == ["on", "conflict"]);
            KeyStatement::Claim { values: names.into_iter().zip(values).collect(), tolerant }
        }
        ("update", Some(key)) => {
            let start = words.iter().position(|word| word == "set")? + 1;
            let (parts, _) = list(words.get(start..)?, &["where", "returning", "from"]);
            let values = parts.iter().filter_map(|part| match part {
                [name, _, value, ..] => Some((name.clone(), source(value))),
                _ => None,
            });
            KeyStatement::Change { values: values.collect(), key }
        }
        ("delete", Some(key)) => KeyStatement::Remove { key },
        ("select", Some(key)) => KeyStatement::Find { key },
        _ => KeyStatement::Sweep,
    })
}

fn source(word: &str) -> Source {
    if let Some(number) = parameter(word) {
        return Source::Parameter(number);
    }
    let literal = word.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    literal.map_or(Source::Other, |text| Source::Literal(text.to_owned()))
}

impl Source {
    /// The value itself, of this type.
    pub(super) fn datum(&self, values: &[Option<Bytes>], kind: Type) -> Datum {
        match self {
            Self::Parameter(number) => Datum { bytes: values.get(number - 1).cloned().flatten(), kind },
            Self::Literal(text) => Datum { bytes: Some(Bytes::copy_from_slice(text.as_bytes())), kind },
            Self::Other => null(kind),
        }
    }

    /// The value as text.
    pub(super) fn text(&self, values: &[Option<Bytes>]) -> Option<String> {
        text_of(&self.datum(values, Type::TEXT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::sql::words;

    fn row(command: &str) -> Option<Row> {
        Some(Row::from([("command".to_owned(), datum(&command))]))
    }

    #[test]
    fn a_change_is_seen_by_others_only_after_commit() {
        let mut data = Data::default();
        let mut mine = data.begin(1);
        data.change(&mut mine, 1, "k".to_owned(), row("a"));
        assert_eq!(data.row(Some(&mine), "k"), row("a"));
        assert_eq!(data.row(None, "k"), None);
        assert!(data.is_held("k", 2) && !data.is_held("k", 1));
        let id = mine.id;
        assert_eq!(data.status(id), Some(XactStatus::InProgress));
        data.commit(mine);
        assert_eq!((data.row(None, "k"), data.is_held("k", 2)), (row("a"), false));
        assert_eq!(data.status(id), Some(XactStatus::Committed));
    }

    #[test]
    fn what_is_rolled_back_leaves_only_its_name() {
        let mut data = Data::default();
        let mut mine = data.begin(1);
        for command in ["a", "b"] {
            data.change(&mut mine, 1, "k".to_owned(), row(command));
        }
        data.roll_back(mine);
        assert_eq!((data.row(None, "k"), data.rolled_back()), (None, vec!["k".to_owned()]));
    }

    #[test]
    fn a_savepoint_gives_back_what_was() {
        let mut data = Data::default();
        let mut mine = data.begin(1);
        data.change(&mut mine, 1, "k".to_owned(), row("a"));
        mine.save("s".to_owned());
        data.change(&mut mine, 1, "k".to_owned(), row("b"));
        mine.failed = true;
        assert!(!mine.back_to("other") && mine.back_to("s"));
        assert_eq!((data.row(Some(&mine), "k"), mine.failed), (row("a"), false));
    }

    #[test]
    fn statements_about_keys_are_read_loosely() {
        let claim = "INSERT INTO ridethrough_writes (key, outcome, accepted_at) VALUES ($2, 'applied', now()) \
                     ON CONFLICT (key) DO NOTHING RETURNING key";
        let values = [
            ("key", Source::Parameter(2)),
            ("outcome", Source::Literal("applied".to_owned())),
            ("accepted_at", Source::Other),
        ];
        let values = values.map(|(name, value)| (name.to_owned(), value)).to_vec();
        assert_eq!(key_statement(&words(claim)), Some(KeyStatement::Claim { values, tolerant: true }));
        let found =
            key_statement(&words("select outcome from ridethrough_writes as w where w.key = $1 for update"));
        assert_eq!(found, Some(KeyStatement::Find { key: Source::Parameter(1) }));
        assert_eq!(key_statement(&words("SELECT 1")), None);
    }
}
