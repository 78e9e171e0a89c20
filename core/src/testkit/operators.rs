//! Expressions of the server's own answers: operators, CASE, casts, brackets, from the loosest to the tightest. Names and
//! functions are in `answers`.

use tokio_postgres::types::Type;

use super::{
    answers::{Facts, bare, is_true, number},
    reply::{Datum, datum, null},
    sql::list,
    text::{cast, text_of, type_named},
};

impl Facts<'_> {
    /// The value of an expression; `None` where it holds something the server does not know.
    pub(super) fn value(&self, words: &[String]) -> Option<Datum> {
        if let [word] = words {
            return self.word(word);
        }
        let outer = outer(words);
        let sides = |operator: &[&str]| sides(words, &outer, operator);
        for operator in ["or", "and"] {
            if let Some((left, right)) = sides(&[operator]) {
                let (left, right) = (is_true(self.value(left)?), is_true(self.value(right)?));
                return Some(datum(&if operator == "or" { left || right } else { left && right }));
            }
        }
        if let Some((left, right)) = sides(&["is", "distinct", "from"]) {
            return Some(datum(&(text_of(&self.value(left)?) != text_of(&self.value(right)?))));
        }
        for operator in [&["<", ">"][..], &["<", "="], &[">", "="], &["="], &["<"], &[">"]] {
            if let Some((left, right)) = sides(operator) {
                return Some(compared(&self.value(left)?, operator, &self.value(right)?));
            }
        }
        if let Some((left, right)) = sides(&["|", "|"]) {
            let (left, right) = (text_of(&self.value(left)?), text_of(&self.value(right)?));
            return Some(datum(&left.zip(right).map(|(left, right)| left + &right)));
        }
        for operator in ["-", "*"] {
            if let Some((left, right)) = sides(&[operator]).filter(|(left, _)| !left.is_empty()) {
                return calculated(&self.value(left)?, operator, &self.value(right)?);
            }
        }
        match words {
            [inner @ .., colons, kind] if colons == "::" => Some(cast(self.value(inner)?, type_named(kind)?)),
            [inner @ .., colons, kind, open, _, close]
                if (colons.as_str(), open.as_str(), close.as_str()) == ("::", "(", ")") =>
            {
                let value = self.value(inner)?;
                if kind == "bit" { Some(bits(&value)) } else { Some(cast(value, type_named(kind)?)) }
            }
            [case, inner @ .., end] if case == "case" && end == "end" => self.case(inner),
            [open, inner @ .., close] if open == "(" && close == ")" => self.bracketed(inner),
            [name, open, inner @ .., close] if open == "(" && close == ")" => {
                let (arguments, rest) = list(inner, &[]);
                if rest.is_empty() { self.call(bare(name), &arguments) } else { None }
            }
            _ => None,
        }
    }

    fn bracketed(&self, inner: &[String]) -> Option<Datum> {
        if inner.first().is_none_or(|word| word != "select") {
            return self.value(inner);
        }
        let answered = self.select(inner)?;
        let kind = answered.columns.first()?.kind.clone();
        let value = answered.row.and_then(|row| row.into_iter().next());
        Some(value.unwrap_or(null(kind)))
    }

    /// What stands between CASE and END. All branches have the type of the first.
    fn case(&self, words: &[String]) -> Option<Datum> {
        let mut rest = words;
        let mut kind = None;
        let mut chosen = None;
        while let [when, behind @ ..] = rest {
            let is_else = when == "else";
            let (condition, value) =
                if is_else { (None, behind) } else { halves(behind, "then").map(|(c, v)| (Some(c), v))? };
            let places = outer(value);
            let end = first(value, &places, &["when"]).or_else(|| first(value, &places, &["else"]));
            let value = self.value(value.get(..end.unwrap_or(value.len()))?)?;
            let kind: &Type = kind.get_or_insert_with(|| value.kind.clone());
            let holds = match condition {
                Some(condition) => is_true(self.value(condition)?),
                None => true,
            };
            if holds && chosen.is_none() {
                chosen = Some(cast(value, kind.clone()));
            }
            let behind = if is_else { behind } else { halves(behind, "then")?.1 };
            rest = end.and_then(|end| behind.get(end..)).unwrap_or_default();
        }
        Some(chosen.unwrap_or(null(kind?)))
    }
}

fn halves<'w>(words: &'w [String], between: &str) -> Option<(&'w [String], &'w [String])> {
    let at = first(words, &outer(words), &[between])?;
    Some((words.get(..at)?, words.get(at + 1..)?))
}

/// Both sides of an operator, which may be several words long.
fn sides<'w>(
    words: &'w [String],
    outer: &[usize],
    operator: &[&str],
) -> Option<(&'w [String], &'w [String])> {
    let at = first(words, outer, operator)?;
    Some((words.get(..at)?, words.get(at + operator.len()..)?))
}

/// The places outside of brackets and of CASE … END. Long expressions have few: they are looked for once, and the many
/// operators among them only.
fn outer(words: &[String]) -> Vec<usize> {
    let mut depth = 0_usize;
    let mut places = Vec::new();
    for (at, word) in words.iter().enumerate() {
        if depth == 0 {
            places.push(at);
        }
        match word.as_str() {
            "(" | "case" => depth += 1,
            ")" | "end" => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    places
}

/// The first of the places where these words stand.
fn first(words: &[String], places: &[usize], wanted: &[&str]) -> Option<usize> {
    let is_there = |at: usize| words.get(at..at + wanted.len()).is_some_and(|found| found == wanted);
    places.iter().copied().find(|at| is_there(*at))
}

/// Positions, times and whole numbers have a difference, any numbers a product; NULL where one of them is.
fn calculated(left: &Datum, operator: &str, right: &Datum) -> Option<Datum> {
    if operator == "*" {
        let factor =
            |value: &Datum| text_of(value).map_or(Some(None), |text| text.parse::<f64>().ok().map(Some));
        return Some(datum(&factor(left)?.zip(factor(right)?).map(|(left, right)| left * right)));
    }
    let whole = |value: &Datum| match value.kind {
        Type::PG_LSN | Type::TIMESTAMPTZ => {
            let raw = value.bytes.as_ref().and_then(|bytes| <[u8; 8]>::try_from(bytes.as_ref()).ok());
            raw.map(i64::from_be_bytes)
        }
        _ => number(value.clone()),
    };
    Some(datum(&whole(left).zip(whole(right)).map(|(left, right)| left.wrapping_sub(right))))
}

/// By number where both are one, else by text; NULL where one of them is.
fn compared(left: &Datum, operator: &[&str], right: &Datum) -> Datum {
    let both = text_of(left).zip(text_of(right));
    // A parameter comes in binary, and its type is not known here.
    let numbers = number(left.clone()).zip(number(right.clone()));
    let numbers = numbers.map(|(left, right)| (left as f64, right as f64));
    datum(&both.map(|(left, right)| {
        let numbers = numbers.or_else(|| left.parse::<f64>().ok().zip(right.parse::<f64>().ok()));
        let order = numbers.and_then(|(left, right)| left.partial_cmp(&right)).unwrap_or(left.cmp(&right));
        match operator {
            ["=", ..] => order.is_eq(),
            ["<", ">"] => order.is_ne(),
            ["<", "="] => order.is_le(),
            [">", "="] => order.is_ge(),
            ["<", ..] => order.is_lt(),
            _ => order.is_gt(),
        }
    }))
}

/// `x` and hexadecimal digits, as text that is cast to bits; they become a number by the next cast.
fn bits(value: &Datum) -> Datum {
    let text = text_of(value);
    let number = text.and_then(|text| u32::from_str_radix(text.trim_start_matches('x'), 16).ok());
    datum(&number.map(u32::cast_signed))
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::HashMap, time::SystemTime};

    use super::*;
    use crate::testkit::sql::words;

    fn value(sql: &str) -> Option<String> {
        let facts = Facts {
            process: 1_001,
            born: SystemTime::UNIX_EPOCH,
            transaction: Some(741),
            in_recovery: false,
            subject: None,
            system_identifier: 7,
            timeline: 26,
            started: SystemTime::UNIX_EPOCH + std::time::Duration::from_micros(1_700_000_000_000_003),
            position: 0x016B_3748,
            statistics_since: 1_700_000_000,
            settings: &HashMap::from([("server_version_num".to_owned(), "150018".to_owned())]),
            values: &[],
            row: None,
            columns: &HashMap::new(),
            alive: &|_| None,
            running: &|_| None,
            xact_status: &|_| Some("committed"),
            acts: &RefCell::default(),
        };
        text_of(&facts.value(&words(sql)).unwrap_or_else(|| panic!("{sql} has no answer")))
    }

    #[test]
    fn what_the_library_asks_has_answers() {
        let timeline = "CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint()) \
                        ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END";
        let origin = "CASE WHEN current_setting('server_version_num')::int >= 150000 THEN \
                      substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '/' || extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time())::text END";
        let status = format!("CASE WHEN {origin} = '0000001A/1700000000' THEN txid_status('741') END");
        for (sql, expected) in [
            (timeline, Some("26")),
            (origin, Some("0000001A/1700000000")),
            (&status, Some("committed")),
            (&status.replace("1A", "1B"), None),
            ("CASE WHEN current_setting('server_version_num')::int >= 170000 THEN 'new' END", None),
            ("CASE WHEN false THEN 'a' WHEN true THEN 'b' ELSE 'c' END", Some("b")),
            ("pg_is_in_recovery() OR 'on'::bool", Some("t")),
            ("txid_current() <> 741 AND true", Some("f")),
            ("coalesce(null, 'x')", Some("x")),
            ("pg_current_wal_lsn() - '0/0'::pg_lsn", Some("23803720")),
            ("(extract(epoch FROM now() - now()) * 1000)::bigint", Some("0")),
            ("(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint", Some("1700000000000003")),
            ("greatest(2, 11)", Some("11")),
            ("pg_size_bytes('16MB')", Some("16777216")),
            ("null IS DISTINCT FROM 'SyncRep'", Some("t")),
        ] {
            assert_eq!(value(sql).as_deref(), expected, "{sql}");
        }
    }
}
