//! What statements and messages mean: transactions, settings, rules, keys, and the extended protocol. It knows no faults
//! but where their moments are.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::types::Type;

use super::{
    answers::{Act, Answered},
    data::{JOURNAL_TABLE, key_statement},
    reply::{Call, Column, Datum, ReplyKind, datum},
    script::At,
    session::{Portal, Prepared, Session, Stop, refused},
    sql::{self, Kind, Statement},
    text::text_of,
    wire::{self, Frontend},
    world::{Order, lock},
};

/// Statements and portals a session may keep; a client that makes more leaks them.
const PREPARED_MAX: usize = 4_096;

/// The answer to a statement.
pub(super) struct Executed {
    columns: Option<Vec<Column>>,
    rows: Vec<Vec<Datum>>,
    tag: String,
}

impl Executed {
    pub(super) fn done(tag: impl Into<String>) -> Self {
        Self { columns: None, rows: Vec::new(), tag: tag.into() }
    }

    pub(super) fn touched(verb: &str, rows: u64) -> Self {
        Self::done(if verb == "INSERT" { format!("INSERT 0 {rows}") } else { format!("{verb} {rows}") })
    }

    pub(super) fn rows(verb: &str, columns: Vec<Column>, rows: Vec<Vec<Datum>>) -> Self {
        let tag = Self::touched(verb, rows.len() as u64).tag;
        Self { columns: Some(columns), rows, tag }
    }

    pub(super) fn answered(verb: &str, answered: Answered) -> Self {
        Self::rows(verb, answered.columns, answered.row.into_iter().collect())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Handles one message; what it is answered with is put into `out`.
    pub(super) async fn handle(&mut self, message: Frontend) -> Result<(), Stop> {
        if self.skipping && message != Frontend::Sync {
            return Ok(());
        }
        match message {
            Frontend::Query(sql) => self.query(&sql).await,
            Frontend::Sync => {
                self.ready();
                Ok(())
            }
            Frontend::Flush => Ok(self.flush().await?),
            Frontend::Parse { name, sql, types } => self.parse(name, &sql, &types),
            Frontend::Bind { portal, statement, values, formats } => {
                self.bind(portal, &statement, values, formats)
            }
            Frontend::Describe { portal, name } => self.describe(portal, &name),
            Frontend::Execute { portal, rows_max } => self.execute_portal(&portal, rows_max).await,
            Frontend::Close { portal, name } => {
                if portal {
                    self.portals.remove(&name);
                } else {
                    self.statements.remove(&name);
                }
                wire::put(&mut self.out, b'3', |_| {});
                Ok(())
            }
            Frontend::Password(_) | Frontend::Terminate | Frontend::Other(_) => {
                Err(refused("0A000", "the fake server does not speak this message"))
            }
        }
    }

    async fn query(&mut self, text: &str) -> Result<(), Stop> {
        let statements = sql::statements(text);
        if statements.is_empty() {
            wire::put(&mut self.out, b'I', |_| {});
        }
        for statement in statements.iter() {
            let executed = self.execute(statement, &[]).await?;
            if let Some(columns) = &executed.columns {
                let named = columns.iter().map(|column| (column.name.as_str(), &column.kind));
                wire::put_row_description(&mut self.out, named, |_| 0);
                for row in &executed.rows {
                    wire::put_row(&mut self.out, row.iter().map(|value| text_of(value).map(Bytes::from)));
                }
            }
            wire::put(&mut self.out, b'C', |body| wire::put_text(body, &executed.tag));
        }
        self.ready();
        Ok(())
    }

    /// The end of a request: a transaction that nobody began ends with it.
    pub(super) fn ready(&mut self) {
        self.skipping = false;
        self.end_implicit();
        if self.transaction.is_none() {
            self.portals.clear();
        }
        self.put_ready();
    }

    fn end_implicit(&mut self) {
        match &self.transaction {
            Some(open) if !open.explicit && open.failed => self.roll_back(),
            Some(open) if !open.explicit => self.commit(),
            _ => {}
        }
    }

    fn commit(&mut self) {
        if let Some(transaction) = self.transaction.take() {
            if transaction.explicit {
                self.world.counters.commits.fetch_add(1, Ordering::Relaxed);
            }
            lock(&self.world.data).commit(transaction);
            self.tell();
            self.over();
        }
    }

    pub(super) fn roll_back(&mut self) {
        if let Some(transaction) = self.transaction.take() {
            self.world.counters.rollbacks.fetch_add(1, Ordering::Relaxed);
            lock(&self.world.data).roll_back(transaction);
            self.over();
        }
    }

    fn over(&mut self) {
        self.local_settings.clear();
        self.notices.forget();
        self.world.released.notify_waiters();
    }

    fn parse(&mut self, name: String, text: &str, said: &[u32]) -> Result<(), Stop> {
        let statements = sql::statements(text);
        let [statement] = statements.as_ref() else {
            return Err(refused("42601", "a prepared statement must be one statement"));
        };
        if self.statements.len() >= PREPARED_MAX {
            return Err(refused("53200", "too many prepared statements"));
        }
        if !name.is_empty() && self.statements.contains_key(&name) {
            return Err(refused("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        let rule = self.world.rule(&statement.normal);
        let said_by_rule: Vec<u32> =
            rule.iter().flat_map(|reply| reply.taking.iter().map(Type::oid)).collect();
        let said = if said.is_empty() { said_by_rule.as_slice() } else { said };
        let parameters = sql::parameter_types(&statement.words, said, &self.world.columns);
        let columns = self.columns_of(statement);
        self.statements.insert(name, Prepared { statement: Arc::clone(statement), parameters, columns });
        wire::put(&mut self.out, b'1', |_| {});
        Ok(())
    }

    fn bind(
        &mut self,
        portal: String,
        statement: &str,
        values: Vec<Option<Bytes>>,
        formats: Vec<i16>,
    ) -> Result<(), Stop> {
        let statement = self.prepared(statement)?.clone();
        if values.len() != statement.parameters.len() {
            return Err(refused("08P01", "bind message supplies a wrong number of parameters"));
        }
        if self.portals.len() >= PREPARED_MAX {
            return Err(refused("53200", "too many portals"));
        }
        self.portals.insert(portal, Portal { statement, values, formats, rest: None });
        wire::put(&mut self.out, b'2', |_| {});
        Ok(())
    }

    fn prepared(&self, name: &str) -> Result<&Prepared, Stop> {
        let missing = || refused("26000", format!("prepared statement \"{name}\" does not exist"));
        self.statements.get(name).ok_or_else(missing)
    }

    fn describe(&mut self, portal: bool, name: &str) -> Result<(), Stop> {
        let (columns, formats) = if portal {
            let missing = || refused("34000", format!("portal \"{name}\" does not exist"));
            let portal = self.portals.get(name).ok_or_else(missing)?;
            (portal.statement.columns.clone(), portal.formats.clone())
        } else {
            let prepared = self.prepared(name)?.clone();
            wire::put_parameter_description(&mut self.out, &prepared.parameters);
            (prepared.columns, Vec::new())
        };
        match columns {
            None => wire::put(&mut self.out, b'n', |_| {}),
            Some(columns) => {
                let named = columns.iter().map(|column| (column.name.as_str(), &column.kind));
                wire::put_row_description(&mut self.out, named, |index| format_of(&formats, index));
            }
        }
        Ok(())
    }

    async fn execute_portal(&mut self, name: &str, rows_max: usize) -> Result<(), Stop> {
        let missing = || refused("34000", format!("portal \"{name}\" does not exist"));
        let mut portal = self.portals.remove(name).ok_or_else(missing)?;
        let (mut rows, tag) = match portal.rest.take() {
            Some(rest) => rest,
            None => {
                let executed = self.execute(&portal.statement.statement, &portal.values).await?;
                (VecDeque::from(executed.rows), executed.tag)
            }
        };
        let count = if rows_max == 0 { rows.len() } else { rows_max.min(rows.len()) };
        for row in rows.drain(..count) {
            let shown =
                row.iter().enumerate().map(|(index, value)| match format_of(&portal.formats, index) {
                    0 => text_of(value).map(Bytes::from),
                    _ => value.bytes.clone(),
                });
            wire::put_row(&mut self.out, shown);
        }
        if rows.is_empty() {
            wire::put(&mut self.out, b'C', |body| wire::put_text(body, &tag));
        } else {
            wire::put(&mut self.out, b's', |_| {});
        }
        portal.rest = Some((rows, tag));
        self.portals.insert(name.to_owned(), portal);
        Ok(())
    }

    /// Executes one statement, with the faults before and after it.
    async fn execute(&mut self, statement: &Statement, values: &[Option<Bytes>]) -> Result<Executed, Stop> {
        let (kind, normal) = (&statement.kind, &statement.normal);
        self.world.counters.statements.fetch_add(1, Ordering::Relaxed);
        let start = self.out.len();
        self.strike(At::Statement(normal.clone()), start, true).await?;
        let ends = matches!(kind, Kind::Commit | Kind::Rollback | Kind::RollbackTo(_));
        if self.transaction.as_ref().is_some_and(|open| open.failed) && !ends {
            let message = "current transaction is aborted, commands ignored until end of transaction block";
            return Err(refused("25P02", message));
        }
        let executed = self.execute_kind(statement, values).await?;
        let after = At::AfterStatement(normal.clone());
        if lock(&self.world.script).expects(&after) {
            self.end_implicit();
        }
        self.strike(after, start, false).await?;
        Ok(executed)
    }

    async fn execute_kind(
        &mut self,
        statement: &Statement,
        values: &[Option<Bytes>],
    ) -> Result<Executed, Stop> {
        match &statement.kind {
            Kind::Begin { read_only } => {
                let process = self.process;
                let transaction =
                    self.transaction.get_or_insert_with(|| lock(&self.world.data).begin(process));
                transaction.explicit = true;
                transaction.read_only |= *read_only;
                Ok(Executed::done("BEGIN"))
            }
            Kind::Commit => self.end_by_commit().await,
            Kind::Rollback => {
                self.roll_back();
                Ok(Executed::done("ROLLBACK"))
            }
            Kind::RollbackTo(name) => {
                if self.transaction.as_mut().is_some_and(|open| open.back_to(name)) {
                    return Ok(Executed::done("ROLLBACK"));
                }
                Err(refused("3B001", format!("savepoint \"{name}\" does not exist")))
            }
            Kind::Savepoint(name) => match &mut self.transaction {
                Some(open) if open.explicit => {
                    open.save(name.clone());
                    Ok(Executed::done("SAVEPOINT"))
                }
                _ => Err(refused("25P01", "SAVEPOINT can only be used in transaction blocks")),
            },
            Kind::Release => Ok(Executed::done("RELEASE")),
            Kind::Set => {
                self.set(&statement.words);
                Ok(Executed::done("SET"))
            }
            Kind::Show(name) => {
                let value = self.all_settings().remove(name).unwrap_or_default();
                let column = Column { name: name.clone(), kind: Type::TEXT };
                Ok(Executed::rows("SHOW", vec![column], vec![vec![datum(&value)]]))
            }
            Kind::Empty => Ok(Executed::done("")),
            Kind::Select => {
                self.open();
                self.ask("SELECT", false, statement, values).await
            }
            Kind::Write(verb) => self.ask(verb, true, statement, values).await,
            Kind::Other { tag, writes } => self.ask(tag, *writes, statement, values).await,
        }
    }

    /// COMMIT: the moment that everything is about.
    async fn end_by_commit(&mut self) -> Result<Executed, Stop> {
        let Some(open) = &self.transaction else { return Ok(Executed::done("COMMIT")) };
        if open.failed {
            self.roll_back();
            return Ok(Executed::done("ROLLBACK"));
        }
        let start = self.out.len();
        let rolls_back = match self.strike(At::BeforeCommit, start, true).await {
            Err(Stop::Refused(refusal)) => {
                // A COMMIT that fails leaves no transaction behind.
                self.roll_back();
                return Err(Stop::Refused(refusal));
            }
            other => other?,
        };
        if rolls_back {
            self.roll_back();
            return Ok(Executed::done("ROLLBACK"));
        }
        self.commit();
        self.strike(At::AfterCommit, start, false).await?;
        Ok(Executed::done("COMMIT"))
    }

    /// A transaction for a statement that stands outside of one.
    fn open(&mut self) {
        if self.transaction.is_none() {
            self.transaction = Some(lock(&self.world.data).begin(self.process));
        }
    }

    /// A statement that the rules, the table of keys or the server itself answer.
    async fn ask(
        &mut self,
        verb: &str,
        writes: bool,
        statement: &Statement,
        values: &[Option<Bytes>],
    ) -> Result<Executed, Stop> {
        self.open();
        if writes && self.is_read_only() {
            return Err(refused("25006", format!("cannot execute {verb} in a read-only transaction")));
        }
        let executed = match self.world.rule(&statement.normal) {
            Some(reply) => match reply.kind {
                ReplyKind::Rows { columns, rows } => {
                    Executed::rows(verb, columns, rows(&Call { sql: &statement.sql, values }))
                }
                ReplyKind::Touched(rows) => Executed::touched(verb, rows),
                ReplyKind::Refused(code) => return Err(refused(&code, "a rule of the test")),
            },
            None => self.answer_itself(verb, writes, statement, values).await?,
        };
        if writes && let Some(open) = &mut self.transaction {
            open.did(statement.normal.clone());
        }
        Ok(executed)
    }

    async fn answer_itself(
        &mut self,
        verb: &str,
        writes: bool,
        statement: &Statement,
        values: &[Option<Bytes>],
    ) -> Result<Executed, Stop> {
        let words = &statement.words;
        if let Some(executed) = self.about_notices(words) {
            return Ok(executed);
        }
        if let Some(about_keys) = key_statement(words) {
            return self.keys(verb, about_keys, words, values).await;
        }
        if words.iter().any(|word| word == JOURNAL_TABLE) {
            return Ok(self.journals(verb, words, values));
        }
        let returns = words.iter().any(|word| word == "returning");
        let is_question = matches!(verb, "SELECT") || returns;
        if !is_question {
            return Ok(if writes && !verb.contains(' ') {
                Executed::touched(verb, 1)
            } else {
                Executed::done(verb)
            });
        }
        let (answered, acts) =
            self.with_facts(values, None, |facts| (facts.select(words), facts.acts.take()));
        let Some(answered) = answered.filter(|_| !returns) else {
            let sql = &statement.sql;
            self.world.note_unanswered(sql);
            let message = format!("the fake server has no answer to: {sql}; give it one with `on`");
            return Err(refused("42883", message));
        };
        self.act(&acts, words);
        Ok(Executed::answered(verb, answered))
    }

    /// What functions do beside answering.
    fn act(&mut self, acts: &[Act], words: &[String]) {
        for act in acts {
            match *act {
                Act::Terminate(process) => self.world.order(process, Order::Fatal("57P01".to_owned())),
                Act::Cancel(process) => self.world.cancel(process, None),
            }
        }
        if words.iter().any(|word| word == "set_config") {
            self.set_config(words);
        }
    }
}

fn format_of(formats: &[i16], index: usize) -> i16 {
    match formats {
        [] => 0,
        [all] => *all,
        each => each.get(index).copied().unwrap_or(0),
    }
}
