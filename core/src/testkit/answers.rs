//! What the server answers by itself: questions about its state, its settings, its transactions and the row of a key.
//! Everything else needs a rule of the test.

use std::{
    cell::RefCell,
    collections::HashMap,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio_postgres::types::Type;

use super::{
    data::{JOURNAL_TABLE, KEY_TABLE, Row},
    reply::{Column, Datum, datum, null},
    sql::{list, parameter, size_in_bytes},
    text::{cast, text_of},
};

/// What the answers are made of.
pub(super) struct Facts<'f> {
    pub(super) process: i32,
    pub(super) born: SystemTime,
    pub(super) transaction: Option<u64>,
    /// The process that a question to `pg_stat_activity` is about; else the session's own.
    pub(super) subject: Option<i32>,
    pub(super) in_recovery: bool,
    pub(super) system_identifier: i64,
    pub(super) timeline: i32,
    pub(super) started: SystemTime,
    /// Where the log of the server ends.
    pub(super) position: u64,
    /// When the statistics began, in seconds: anew after each crash.
    pub(super) statistics_since: u64,
    pub(super) settings: &'f HashMap<String, String>,
    pub(super) values: &'f [Option<Bytes>],
    /// The row that `FROM` names.
    pub(super) row: Option<&'f Row>,
    pub(super) columns: &'f HashMap<String, Type>,
    /// When the session of a process began, where there is one.
    pub(super) alive: &'f dyn Fn(i32) -> Option<SystemTime>,
    /// The transaction that a process has open.
    pub(super) running: &'f dyn Fn(i32) -> Option<u64>,
    pub(super) xact_status: &'f dyn Fn(u64) -> Option<&'static str>,
    /// What the functions that were called do to other sessions.
    pub(super) acts: &'f RefCell<Vec<Act>>,
}

/// What a function does beside answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Terminate(i32),
    Cancel(i32),
}

/// One row of answers, or none where the question is about a thing that is not there.
pub(super) struct Answered {
    pub(super) columns: Vec<Column>,
    pub(super) row: Option<Vec<Datum>>,
}

/// Where the list of a SELECT or RETURNING ends.
const LIST_ENDS: [&str; 6] = ["from", "where", "limit", "for", "order", "into"];

impl Facts<'_> {
    /// The answer to a SELECT; `None` where the server has none of its own.
    pub(super) fn select(&self, words: &[String]) -> Option<Answered> {
        let (parts, rest) = list(words.get(1..)?, &LIST_ENDS);
        let from = rest.first().filter(|word| *word == "from").and_then(|_| rest.get(1));
        let own =
            |table: &str| [KEY_TABLE, JOURNAL_TABLE, "("].contains(&table) || bare(table).starts_with("pg_");
        if words.first()? != "select" || from.is_some_and(|table| !own(table)) {
            return None;
        }
        match from.map(|table| bare(table)) {
            Some(KEY_TABLE | JOURNAL_TABLE) => self.listed(&parts, self.row.is_some()),
            Some("pg_stat_activity") => {
                let subject = self.asked_process(rest);
                let facts = Facts { subject, ..*self };
                // A question that is only described has no values to compare with.
                let there = subject.is_some() && facts.holds(rest)?;
                facts.listed(&parts, there)
            }
            Some("(") if rest.get(2).is_some_and(|word| word == "select") => {
                let inner = self.select(rest.get(2..)?)?;
                let names = inner.columns.into_iter().map(|column| column.name);
                let row = inner.row.map(|row| names.zip(row).collect::<Row>());
                Facts { row: row.as_ref(), ..*self }.listed(&parts, row.is_some())
            }
            _ => self.listed(&parts, true),
        }
    }

    fn listed(&self, parts: &[&[String]], there: bool) -> Option<Answered> {
        let (columns, row) = self.all(parts)?;
        if !there {
            self.acts.borrow_mut().clear();
        }
        Some(Answered { columns, row: there.then_some(row) })
    }

    /// Whether the condition behind WHERE holds; true where there is none.
    fn holds(&self, rest: &[String]) -> Option<bool> {
        let Some(at) = rest.iter().position(|word| word == "where") else { return Some(true) };
        let behind = rest.get(at + 1..)?;
        let end = behind.iter().position(|word| matches!(word.as_str(), "order" | "limit" | "for"));
        self.value(behind.get(..end.unwrap_or(behind.len()))?).map(is_true)
    }

    /// The values that a RETURNING asks for; `None` where there is no RETURNING, or one the server cannot answer.
    pub(super) fn returning(&self, words: &[String]) -> Option<Answered> {
        let start = words.iter().position(|word| word == "returning")? + 1;
        let (parts, _) = list(words.get(start..)?, &LIST_ENDS);
        let (columns, row) = self.all(&parts)?;
        Some(Answered { columns, row: self.row.map(|_| row) })
    }

    fn all(&self, parts: &[&[String]]) -> Option<(Vec<Column>, Vec<Datum>)> {
        let named: Option<Vec<(Column, Datum)>> = parts.iter().map(|part| self.named(part)).collect();
        Some(named?.into_iter().unzip())
    }

    fn named(&self, part: &[String]) -> Option<(Column, Datum)> {
        let (expression, alias) = match part {
            [expression @ .., word, alias] if word == "as" => (expression, Some(alias.as_str())),
            _ => (part, None),
        };
        let value = self.value(expression)?;
        let own = expression.first().map(|word| bare(word)).filter(|word| is_name(word));
        let name = alias.or(own).unwrap_or("?column?").to_owned();
        Some((Column { name, kind: value.kind.clone() }, value))
    }

    /// A single word: a literal, a parameter, or a column.
    pub(super) fn word(&self, word: &str) -> Option<Datum> {
        if let Some(text) = word.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
            return Some(datum(&text));
        }
        if let Some(number) = parameter(word) {
            let bytes = self.values.get(number - 1).cloned().flatten();
            return Some(Datum { kind: Type::TEXT, bytes });
        }
        if let Ok(number) = word.parse::<i32>() {
            return Some(datum(&number));
        }
        Some(match bare(word) {
            "true" => datum(&true),
            "false" => datum(&false),
            "null" => null(Type::TEXT),
            "pid" => datum(&self.subject.unwrap_or(self.process)),
            "backend_start" => datum(&self.subject.and_then(self.alive).unwrap_or(self.born)),
            // As 32 bits, without its epoch.
            "backend_xid" => cast(
                datum(
                    &(self.running)(self.subject.unwrap_or(self.process))
                        .map(|id| (id & 0xFFFF_FFFF).cast_signed()),
                ),
                Type::XID,
            ),
            "wait_event" => null(Type::TEXT),
            "system_identifier" => datum(&self.system_identifier),
            "timeline_id" => datum(&self.timeline),
            "min_recovery_end_timeline" => datum(&if self.in_recovery { self.timeline } else { 0 }),
            "current_timestamp" | "checkpoint_time" => datum(&SystemTime::now()),
            "current_user" | "session_user" | "user" => datum(&self.setting("user")),
            // Columns of what is selected from `VALUES`, as in the settings of a session.
            "name" | "wanted" | "setting" => datum(&""),
            "state" => datum(&"idle"),
            column => {
                let held = self.row.and_then(|row| row.get(column)).cloned();
                held.or_else(|| self.columns.get(column).cloned().map(null))?
            }
        })
    }

    pub(super) fn call(&self, name: &str, arguments: &[&[String]]) -> Option<Datum> {
        let text = |index: usize| {
            let value = arguments.get(index).and_then(|words| self.value(words))?;
            text_of(&value)
        };
        let lsn = || Datum {
            kind: Type::PG_LSN,
            bytes: Some(Bytes::copy_from_slice(&self.position.to_be_bytes())),
        };
        Some(match name {
            "pg_is_in_recovery" => datum(&self.in_recovery),
            "current_setting" => datum(&self.setting(&text(0)?)),
            "set_config" => datum(&text(1).unwrap_or_default()),
            "pg_current_xact_id" | "pg_current_xact_id_if_assigned" => {
                cast(datum(&self.transaction.map(u64::cast_signed)), Type::XID8)
            }
            "txid_current" | "txid_current_if_assigned" => datum(&self.transaction.map(u64::cast_signed)),
            "pg_xact_status" | "txid_status" => {
                let id = number(self.argument(arguments)?);
                datum(&id.and_then(|id| (self.xact_status)(id.cast_unsigned())))
            }
            "pg_backend_pid" => datum(&self.process),
            "pg_terminate_backend" | "pg_cancel_backend" => {
                let process = number(self.argument(arguments)?).and_then(|id| i32::try_from(id).ok());
                let process = process.filter(|process| (self.alive)(*process).is_some());
                let act = if name == "pg_cancel_backend" { Act::Cancel } else { Act::Terminate };
                self.acts.borrow_mut().extend(process.map(act));
                datum(&process.is_some())
            }
            "pg_walfile_name" => datum(&format!("{:08X}0000000000000001", self.timeline)),
            "pg_current_wal_lsn"
            | "pg_current_wal_insert_lsn"
            | "pg_last_wal_replay_lsn"
            | "pg_last_wal_receive_lsn" => lsn(),
            "pg_wal_lsn_diff" => datum(&0.0_f64),
            "extract" => self.epoch_of(arguments.first()?)?,
            "pg_size_bytes" => datum(&text(0).and_then(|size| size_in_bytes(&size))),
            "pg_stat_get_bgwriter_stat_reset_time" => {
                datum(&(SystemTime::UNIX_EPOCH + Duration::from_secs(self.statistics_since)))
            }
            "substr" | "substring" | "left" => {
                let whole = self.argument(arguments)?;
                let whole = text_of(&whole);
                let size = |index: usize| text(index).and_then(|size| size.parse::<usize>().ok());
                let (start, length) = if name == "left" { (1, size(1)) } else { (size(1)?, size(2)) };
                let part = |whole: String| {
                    let rest = whole.chars().skip(start.saturating_sub(1));
                    rest.take(length.unwrap_or(usize::MAX)).collect::<String>()
                };
                datum(&whole.map(part))
            }
            "now"
            | "clock_timestamp"
            | "transaction_timestamp"
            | "statement_timestamp"
            | "pg_last_xact_replay_timestamp" => datum(&SystemTime::now()),
            "pg_postmaster_start_time" => datum(&self.started),
            "version" => datum(&format!("PostgreSQL {} (fake)", self.setting("server_version"))),
            "current_database" => datum(&self.setting("database")),
            "coalesce" | "greatest" => self.picked(name, arguments)?,
            _ => return None,
        })
    }

    /// One of several values: the first that is not NULL, or the greatest number.
    fn picked(&self, name: &str, arguments: &[&[String]]) -> Option<Datum> {
        let values: Option<Vec<Datum>> = arguments.iter().map(|words| self.value(words)).collect();
        let values = values?;
        if name == "greatest" {
            return values.into_iter().max_by_key(|value| number(value.clone()));
        }
        values.iter().find(|value| value.bytes.is_some()).or(values.first()).cloned()
    }

    /// `epoch FROM` a time, or the difference of two, which is a number of microseconds here.
    fn epoch_of(&self, words: &[String]) -> Option<Datum> {
        /// Between 1970 and 2000, where PostgreSQL begins to count.
        const SECONDS: i64 = 946_684_800;
        let [epoch, from, of @ ..] = words else { return None };
        let value = self.value(of).filter(|_| (epoch.as_str(), from.as_str()) == ("epoch", "from"))?;
        let raw =
            value.bytes.and_then(|bytes| <[u8; 8]>::try_from(bytes.as_ref()).ok()).map(i64::from_be_bytes);
        let since = if value.kind == Type::TIMESTAMPTZ { SECONDS } else { 0 };
        Some(datum(&raw.map(|micros| micros as f64 / 1e6 + since as f64)))
    }

    fn argument(&self, arguments: &[&[String]]) -> Option<Datum> {
        self.value(arguments.first()?)
    }

    fn setting(&self, name: &str) -> String {
        self.settings.get(name).cloned().unwrap_or_default()
    }

    /// The process of `WHERE pid = …`, where it lives.
    fn asked_process(&self, words: &[String]) -> Option<i32> {
        let wanted = words.windows(3).find_map(|three| match three {
            [pid, equals, value] if bare(pid) == "pid" && equals == "=" => {
                if value == "pg_backend_pid" {
                    Some(i64::from(self.process))
                } else {
                    number(self.word(value)?)
                }
            }
            _ => None,
        })?;
        let process = i32::try_from(wanted).ok()?;
        (self.alive)(process).map(|_| process)
    }
}

/// A whole number out of a literal, or out of a parameter of whatever size.
pub(super) fn number(value: Datum) -> Option<i64> {
    let bytes = value.bytes.clone()?;
    if let Some(number) = text_of(&value).and_then(|text| text.parse().ok()) {
        return Some(number);
    }
    match bytes.len() {
        4 => Some(i32::from_be_bytes(bytes.as_ref().try_into().ok()?).into()),
        8 => Some(i64::from_be_bytes(bytes.as_ref().try_into().ok()?)),
        _ => None,
    }
}

pub(super) fn is_true(value: Datum) -> bool {
    cast(value, Type::BOOL).bytes.is_some_and(|bytes| bytes.first() == Some(&1))
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The name without its schema or table.
pub(super) fn bare(word: &str) -> &str {
    if word.starts_with('\'') { word } else { word.rsplit('.').next().unwrap_or(word) }
}
