//! What a session knows when it answers: its settings, its role, and the table of keys with the locks on it.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep_until},
};
use tokio_postgres::types::Type;

use super::{
    answers::{Answered, Facts},
    data::{JOURNAL_TABLE, KeyStatement, Row, Source, XactStatus, key_statement},
    execute::Executed,
    reply::{Column, ReplyKind},
    session::{Session, Stop, ordered, refused},
    sql::{Kind, Statement},
    world::lock,
};

/// A lock is waited for this long where the session set no `lock_timeout`; nothing here looks for deadlocks.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(60);
/// Where the log begins, and what each commit adds to it.
const FIRST_POSITION: u64 = 0x016B_3748;
const COMMIT_BYTES: u64 = 56;
/// In seconds.
pub(super) const STARTED_AT: u64 = 1_700_000_000;

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    pub(super) fn is_read_only(&self) -> bool {
        let role = self.world.role();
        let asked = self.transaction.as_ref().is_some_and(|open| open.read_only);
        let set = self.setting("transaction_read_only").or(self.setting("default_transaction_read_only"));
        role.in_recovery || role.read_only || asked || set.is_some_and(|value| value == "on")
    }

    fn setting(&self, name: &str) -> Option<&String> {
        self.local_settings.get(name).or_else(|| self.settings.get(name))
    }

    /// Every setting as it holds now.
    pub(super) fn all_settings(&self) -> HashMap<String, String> {
        let mut settings = self.settings.clone();
        settings.extend(self.local_settings.clone());
        let on = |is_on| if is_on { "on" } else { "off" }.to_owned();
        settings.insert("transaction_read_only".to_owned(), on(self.is_read_only()));
        settings.insert("in_hot_standby".to_owned(), on(self.world.role().in_recovery));
        settings
    }

    /// `SET [LOCAL | SESSION] name { = | TO } value`.
    pub(super) fn set(&mut self, words: &[String]) {
        let scope = words.get(1).map_or("", String::as_str);
        let rest = words.get(if matches!(scope, "local" | "session") { 2 } else { 1 }..).unwrap_or_default();
        if let [transaction, how @ ..] = rest
            && transaction == "transaction"
        {
            if let Some(open) = &mut self.transaction {
                open.read_only |= how.windows(2).any(|pair| pair == ["read", "only"]);
            }
        } else if let [name, _, value @ ..] = rest {
            let value = value.concat().trim_matches('\'').to_owned();
            self.keep_setting(name.clone(), value, scope == "local");
        }
    }

    /// Pairs of texts in brackets, as in `set_config('a', '1', false)` and `VALUES ('a', '1')`.
    pub(super) fn set_config(&mut self, words: &[String]) {
        let is_local = words.iter().any(|word| word == "true");
        for four in words.windows(4) {
            if let [open, name, comma, value] = four
                && (open.as_str(), comma.as_str()) == ("(", ",")
                && name.starts_with('\'')
                && value.starts_with('\'')
            {
                let inner = |text: &str| text.trim_matches('\'').to_owned();
                self.keep_setting(inner(name), inner(value), is_local);
            }
        }
    }

    fn keep_setting(&mut self, name: String, value: String, is_local: bool) {
        let settings = if is_local { &mut self.local_settings } else { &mut self.settings };
        settings.insert(name, value);
    }

    /// The columns of the answer to a statement that is not executed yet; `None` where it gives no rows.
    pub(super) fn columns_of(&self, statement: &Statement) -> Option<Vec<Column>> {
        let words = &statement.words;
        match &statement.kind {
            Kind::Show(name) => return Some(vec![Column { name: name.clone(), kind: Type::TEXT }]),
            Kind::Select | Kind::Write(_) | Kind::Other { .. } => {}
            _ => return None,
        }
        if let Some(reply) = self.world.rule(&statement.normal) {
            return match reply.kind {
                ReplyKind::Rows { columns, .. } => Some(columns),
                ReplyKind::Touched(_) | ReplyKind::Refused(_) => None,
            };
        }
        let nothing = Row::new();
        let is_about_journals = words.iter().any(|word| word == JOURNAL_TABLE);
        let row = (is_about_journals || key_statement(words).is_some()).then_some(&nothing);
        let answered =
            self.with_facts(&[], row, |facts| facts.select(words).or_else(|| facts.returning(words)));
        answered.map(|answered| answered.columns)
    }

    /// What the server knows by itself, for as long as `ask` looks at it.
    pub(super) fn with_facts<T>(
        &self,
        values: &[Option<Bytes>],
        row: Option<&Row>,
        ask: impl FnOnce(&Facts<'_>) -> T,
    ) -> T {
        let (settings, role, acts) = (self.all_settings(), self.world.role(), RefCell::default());
        let commits = self.world.counters.commits.load(Ordering::Relaxed);
        ask(&Facts {
            process: self.process,
            born: self.born,
            transaction: self.transaction.as_ref().map(|open| open.id),
            subject: None,
            in_recovery: role.in_recovery,
            system_identifier: self.world.system_identifier,
            timeline: role.timeline,
            started: self.world.started + Duration::from_secs(role.crashes),
            position: FIRST_POSITION + commits * COMMIT_BYTES,
            statistics_since: STARTED_AT + role.crashes,
            settings: &settings,
            values,
            row,
            columns: &self.world.columns,
            alive: &|process| self.world.alive(process),
            running: &|process| lock(&self.world.data).running(process),
            xact_status: &|id| {
                lock(&self.world.data).status(id).map(|status| match status {
                    XactStatus::InProgress => "in progress",
                    XactStatus::Committed => "committed",
                    XactStatus::Aborted => "aborted",
                })
            },
            acts: &acts,
        })
    }

    /// A statement about the table of keys.
    pub(super) async fn keys(
        &mut self,
        verb: &str,
        about: KeyStatement,
        words: &[String],
        values: &[Option<Bytes>],
    ) -> Result<Executed, Stop> {
        let text = |source: &Source| source.text(values);
        match about {
            KeyStatement::Claim { values: given, tolerant } => {
                let given: Row =
                    given.into_iter().map(|(name, source)| self.filled(name, &source, values)).collect();
                let key = given.get("key").and_then(super::text::text_of).unwrap_or_default();
                if self.locked(&key).await?.is_none() {
                    self.change(key, Some(given.clone()));
                    return Ok(self.returned(verb, words, values, Some(&given), 1));
                }
                if tolerant {
                    return Ok(self.returned(verb, words, values, None, 0));
                }
                Err(refused(
                    "23505",
                    "duplicate key value violates unique constraint \"ridethrough_writes_pkey\"",
                ))
            }
            KeyStatement::Change { values: given, key } => {
                let key = text(&key).unwrap_or_default();
                let Some(mut row) = self.locked(&key).await? else {
                    return Ok(self.returned(verb, words, values, None, 0));
                };
                row.extend(given.into_iter().map(|(name, source)| self.filled(name, &source, values)));
                self.change(key, Some(row.clone()));
                Ok(self.returned(verb, words, values, Some(&row), 1))
            }
            KeyStatement::Remove { key } => {
                let key = text(&key).unwrap_or_default();
                let Some(row) = self.locked(&key).await? else {
                    return Ok(self.returned(verb, words, values, None, 0));
                };
                self.change(key, None);
                Ok(self.returned(verb, words, values, Some(&row), 1))
            }
            KeyStatement::Find { key } => {
                let row =
                    lock(&self.world.data).row(self.transaction.as_ref(), &text(&key).unwrap_or_default());
                let answered = self.with_facts(values, row.as_ref(), |facts| facts.select(words));
                let unanswered = || refused("42883", "the fake server knows no such question about keys");
                Ok(Executed::answered(verb, answered.ok_or_else(unanswered)?))
            }
            KeyStatement::Sweep => Ok(self.returned(verb, words, values, None, 0)),
        }
    }

    /// A statement about the epochs of journals: an INSERT takes the next one, anything else looks.
    pub(super) fn journals(&self, verb: &str, words: &[String], values: &[Option<Bytes>]) -> Executed {
        let value = |index: usize| values.get(index).cloned().flatten().unwrap_or_default();
        let step = || value(1).as_ref().try_into().map(i64::from_be_bytes).unwrap_or(1);
        let row = lock(&self.world.data).journal(value(0), (verb == "INSERT").then(step));
        match self.with_facts(values, row.as_ref(), |facts| facts.select(words)) {
            Some(answered) => Executed::answered(verb, answered),
            None => self.returned(verb, words, values, row.as_ref(), 1),
        }
    }

    fn filled(
        &self,
        name: String,
        source: &Source,
        values: &[Option<Bytes>],
    ) -> (String, super::reply::Datum) {
        let kind = self.world.columns.get(&name).cloned().unwrap_or(Type::TEXT);
        let value = source.datum(values, kind);
        (name, value)
    }

    fn change(&mut self, key: String, row: Option<Row>) {
        if let Some(open) = &mut self.transaction {
            lock(&self.world.data).change(open, self.process, key, row);
        }
    }

    fn returned(
        &self,
        verb: &str,
        words: &[String],
        values: &[Option<Bytes>],
        row: Option<&Row>,
        touched: u64,
    ) -> Executed {
        let empty = Row::new();
        let returned = self.with_facts(values, Some(row.unwrap_or(&empty)), |facts| facts.returning(words));
        match returned {
            Some(answered) if row.is_none() => Executed::answered(verb, Answered { row: None, ..answered }),
            Some(answered) => Executed::answered(verb, answered),
            None => Executed::touched(verb, touched),
        }
    }

    /// Waits until no other transaction holds the key, as an index entry makes it wait; then the row as it stands.
    async fn locked(&mut self, key: &str) -> Result<Option<Row>, Stop> {
        let world = Arc::clone(&self.world);
        let cancel = Arc::clone(&self.cancel);
        let limit = self.limit("lock_timeout").unwrap_or(LOCK_WAIT_MAX);
        let given_up = Instant::now() + limit;
        loop {
            let released = world.released.notified();
            {
                let data = lock(&world.data);
                if !data.is_held(key, self.process) {
                    return Ok(data.row(self.transaction.as_ref(), key));
                }
            }
            tokio::select! {
                biased;
                end = ordered(&mut self.orders) => return Err(end.into()),
                () = cancel.notified() => {
                    return Err(refused("57014", "canceling statement due to user request"));
                }
                () = released => {}
                () = sleep_until(given_up) => {
                    return Err(refused("55P03", "canceling statement due to lock timeout"));
                }
            }
        }
    }
}
