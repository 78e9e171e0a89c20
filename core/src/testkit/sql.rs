//! As much of SQL as the fake server must see: where statements end, what kind each is, which types its parameters have.
//! It is no parser: it looks at words, and what it does not know it leaves alone.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use tokio_postgres::types::Type;

use super::text::type_named;

/// Texts whose statements are kept; more than these are parsed each time.
const KEPT_MAX: usize = 1_024;

/// One statement, and what the server sees of it.
#[derive(Debug)]
pub(super) struct Statement {
    /// Without its semicolon and outer blanks.
    pub(super) sql: String,
    /// See [`words`].
    pub(super) words: Vec<String>,
    /// See [`normal`].
    pub(super) normal: String,
    pub(super) kind: Kind,
}

pub(super) type Statements = Arc<[Arc<Statement>]>;

/// What a statement does to the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Begin {
        read_only: bool,
    },
    Commit,
    Rollback,
    RollbackTo(String),
    Savepoint(String),
    Release,
    Set,
    Show(String),
    Select,
    /// Changes data; with the word of its tag.
    Write(&'static str),
    /// Anything else; with its tag, and whether a read-only server refuses it.
    Other {
        tag: String,
        writes: bool,
    },
    Empty,
}

/// The statements of a simple query. Tests say the same few texts again and again, so what was seen in them is kept.
pub(super) fn statements(text: &str) -> Statements {
    static KEPT: LazyLock<Mutex<HashMap<String, Statements>>> = LazyLock::new(Mutex::default);
    let kept = || KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(seen) = kept().get(text) {
        return Arc::clone(seen);
    }
    let seen: Statements = split(text).into_iter().map(|sql| Arc::new(Statement::new(sql))).collect();
    let mut kept = kept();
    if kept.len() < KEPT_MAX {
        kept.insert(text.to_owned(), Arc::clone(&seen));
    }
    seen
}

impl Statement {
    fn new(sql: String) -> Self {
        let words = words(&sql);
        Self { normal: normal(&sql), kind: kind(&words), words, sql }
    }
}

/// The statements of a simple query, without their semicolons and outer blanks.
fn split(sql: &str) -> Vec<String> {
    let mut statements = vec![String::new()];
    for piece in pieces(sql) {
        match piece {
            ";" => statements.push(String::new()),
            piece if is_comment(piece) => add(&mut statements, " "),
            piece => add(&mut statements, piece),
        }
    }
    let trimmed = statements.iter().map(|statement| statement.trim().to_owned());
    trimmed.filter(|statement| !statement.is_empty()).collect()
}

fn add(statements: &mut [String], piece: &str) {
    if let Some(last) = statements.last_mut() {
        last.push_str(piece);
    }
}

fn is_comment(piece: &str) -> bool {
    piece.starts_with("--") || piece.starts_with("/*")
}

/// The text as words, quoted strings, comments, runs of blanks, and single other characters; nothing is left out.
fn pieces(sql: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '\'' | '"' => quoted(rest, first),
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '$' if dollar_tag(rest).is_some() => dollar_tag(rest).map_or(1, |tag| dollar_quoted(rest, tag)),
            ':' if rest.starts_with("::") => 2,
            c if is_word(c) => run(rest, is_word),
            c if c.is_whitespace() => run(rest, char::is_whitespace),
            c => c.len_utf8(),
        };
        let (piece, behind) = rest.split_at(length);
        found.push(piece);
        rest = behind;
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '.' || c == '$'
}

fn run(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|c| !belongs(c)).unwrap_or(text.len())
}

/// A doubled quote inside reads as two strings side by side, which splits no statement wrongly.
fn quoted(text: &str, quote: char) -> usize {
    text.get(1..).and_then(|inner| inner.find(quote)).map_or(text.len(), |end| end + 2)
}

/// `$$` or `$tag$` at the start.
fn dollar_tag(text: &str) -> Option<&str> {
    let end = text.get(1..)?.find('$')? + 1;
    let tag = text.get(..=end)?;
    let name = tag.get(1..end)?;
    let is_name = name.chars().all(|c| c.is_alphanumeric() || c == '_');
    (is_name && !name.starts_with(|c: char| c.is_ascii_digit())).then_some(tag)
}

fn dollar_quoted(text: &str, tag: &str) -> usize {
    let inner = text.get(tag.len()..).unwrap_or_default();
    inner.find(tag).map_or(text.len(), |end| end + 2 * tag.len())
}

/// The words of a statement in small letters (strings as they are), without blanks and comments.
pub(super) fn words(sql: &str) -> Vec<String> {
    let kept = pieces(sql).into_iter().filter(|piece| !piece.trim().is_empty() && !is_comment(piece));
    kept.map(
        |piece| {
            if piece.starts_with('\'') { piece.to_owned() } else { piece.trim_matches('"').to_lowercase() }
        },
    )
    .collect()
}

/// The statement with single blanks and in small letters, to compare beginnings.
pub(super) fn normal(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// What kind of statement it is.
fn kind(words: &[String]) -> Kind {
    let word = |index: usize| words.get(index).map_or("", String::as_str);
    let last = words.last().cloned().unwrap_or_default();
    let other = |tag: String, writes| Kind::Other { tag, writes };
    match word(0) {
        "" => Kind::Empty,
        "begin" | "start" => Kind::Begin { read_only: words.windows(2).any(|pair| pair == ["read", "only"]) },
        "commit" | "end" => Kind::Commit,
        "rollback" | "abort" if words.iter().any(|word| word == "to") => Kind::RollbackTo(last),
        "rollback" | "abort" => Kind::Rollback,
        "savepoint" => Kind::Savepoint(last),
        "release" => Kind::Release,
        "set" | "reset" => Kind::Set,
        "show" => Kind::Show(last),
        "insert" => Kind::Write("INSERT"),
        "update" => Kind::Write("UPDATE"),
        "delete" => Kind::Write("DELETE"),
        "merge" => Kind::Write("MERGE"),
        "with" => with(words),
        "select" | "values" | "table" => Kind::Select,
        "create" | "drop" | "alter" => other(format!("{} {}", word(0), word(1)).to_uppercase(), true),
        "truncate" => other("TRUNCATE TABLE".to_owned(), true),
        verb => other(verb.to_uppercase(), false),
    }
}

/// A statement with common table expressions writes where any of its parts does; its tag is that of the last part.
fn with(words: &[String]) -> Kind {
    let mut verbs = words.iter().filter_map(|word| match word.as_str() {
        "insert" => Some("INSERT"),
        "update" => Some("UPDATE"),
        "delete" => Some("DELETE"),
        _ => None,
    });
    verbs.next_back().map_or(Kind::Select, Kind::Write)
}

/// The parts of a list between commas outside of brackets, up to a closing bracket or one of `ends`; and what follows.
pub(super) fn list<'w>(words: &'w [String], ends: &[&str]) -> (Vec<&'w [String]>, &'w [String]) {
    let mut depth = 0_usize;
    let mut parts = Vec::new();
    let mut start = 0;
    let mut at = 0;
    for word in words {
        match word.as_str() {
            "(" => depth += 1,
            ")" if depth == 0 => break,
            ")" => depth -= 1,
            "," if depth == 0 => {
                parts.extend(words.get(start..at));
                start = at + 1;
            }
            word if depth == 0 && ends.contains(&word) => break,
            _ => {}
        }
        at += 1;
    }
    parts.extend(words.get(start..at).filter(|part| !part.is_empty()));
    (parts, words.get(at..).unwrap_or_default())
}

/// The columns of the tables that a schema creates, by name. Of two with one name the last is known.
pub(super) fn columns(schema: &str) -> HashMap<String, Type> {
    let mut found = HashMap::new();
    for statement in statements(schema).iter() {
        let words = &statement.words;
        let is_table = words.first().is_some_and(|word| word == "create")
            && words.iter().take(4).any(|word| word == "table");
        let Some(open) = words.iter().position(|word| word == "(").filter(|_| is_table) else { continue };
        let (parts, _) = list(words.get(open + 1..).unwrap_or_default(), &[]);
        for part in parts {
            if let [name, kind, ..] = part
                && let Some(kind) = type_named(kind)
            {
                found.insert(name.clone(), kind);
            }
        }
    }
    found
}

/// A size such as `16MB`, as settings show it.
pub(super) fn size_in_bytes(text: &str) -> Option<i64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: i64 = digits.parse().ok()?;
    let unit = match text.get(digits.len()..)?.trim() {
        "" | "B" | "bytes" => 1,
        "kB" => 1_024,
        "MB" => 1_024 * 1_024,
        "GB" => 1_024 * 1_024 * 1_024,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// The number of a parameter, where the word is one.
pub(super) fn parameter(word: &str) -> Option<usize> {
    word.strip_prefix('$')?.parse().ok().filter(|number| (1..=i16::MAX as usize).contains(number))
}

/// The types of the parameters: what the client said, else what casts and columns tell, else text.
pub(super) fn parameter_types(words: &[String], said: &[u32], columns: &HashMap<String, Type>) -> Vec<Type> {
    let count = words.iter().filter_map(|word| parameter(word)).max().unwrap_or(0).max(said.len());
    let inserted = inserted(words);
    (1..=count)
        .map(|number| {
            let said = said.get(number - 1).and_then(|oid| Type::from_oid(*oid));
            said.or_else(|| guessed(words, number, columns))
                .or_else(|| columns.get(inserted.get(&number)?).cloned())
                .unwrap_or(Type::TEXT)
        })
        .collect()
}

fn guessed(words: &[String], number: usize, columns: &HashMap<String, Type>) -> Option<Type> {
    let at = words.iter().position(|word| parameter(word) == Some(number))?;
    let behind = |distance: usize| words.get(at + distance).map_or("", String::as_str);
    if behind(1) == "::" {
        return type_named(behind(2));
    }
    let before: Vec<&str> = words.get(..at)?.iter().rev().take(3).map(String::as_str).collect();
    match *before.as_slice() {
        ["limit" | "offset", ..] => Some(Type::INT8),
        ["(", "pg_terminate_backend" | "pg_cancel_backend", ..] => Some(Type::INT4),
        ["(", "pg_advisory_lock" | "pg_advisory_unlock" | "pg_advisory_xact_lock" | "txid_status", ..] => {
            Some(Type::INT8)
        }
        // `<=` and `>=` are two words.
        ["=", "<" | ">", column] | ["=" | "<" | ">" | "like", column, ..] => {
            let column = column.rsplit('.').next().unwrap_or(column);
            columns.get(column).cloned()
        }
        _ => None,
    }
}

/// Which column each parameter of an INSERT goes to.
fn inserted(words: &[String]) -> HashMap<usize, String> {
    let Some((names, values)) = insert_lists(words) else { return HashMap::new() };
    let pairs = names.into_iter().zip(values);
    pairs.filter_map(|(name, value)| Some((parameter(value.first()?)?, name))).collect()
}

/// The columns and the first row of values of an INSERT.
pub(super) fn insert_lists(words: &[String]) -> Option<(Vec<String>, Vec<&[String]>)> {
    if words.first()? != "insert" {
        return None;
    }
    let open = words.iter().position(|word| word == "(")?;
    let (names, rest) = list(words.get(open + 1..)?, &[]);
    let names = names.into_iter().filter_map(|name| name.first().cloned()).collect();
    let values = rest.iter().position(|word| word == "values")?;
    let (values, _) = list(rest.get(values + 2..)?, &[]);
    Some((names, values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_at_semicolons_outside_of_quotes_and_comments() {
        let sql = "SELECT ';' ; -- no; not here\nSELECT \"a;b\" /* ; */; DO $x$ BEGIN; END $x$; ;";
        let expected = ["SELECT ';'", "SELECT \"a;b\"", "DO $x$ BEGIN; END $x$"];
        assert_eq!(split(sql), expected);
        assert_eq!(split("SELECT $1; COMMIT"), ["SELECT $1", "COMMIT"]);
        assert!(split(" ; ").is_empty());
    }

    #[test]
    fn what_is_kept_of_a_text_is_what_was_seen_in_it() {
        for _ in 0..2 {
            let seen = statements("SELECT  A; commit");
            let told: Vec<_> =
                seen.iter().map(|one| (one.sql.as_str(), one.normal.as_str(), &one.kind)).collect();
            assert_eq!(told, [("SELECT  A", "select a", &Kind::Select), ("commit", "commit", &Kind::Commit)]);
        }
    }

    #[test]
    fn kinds_are_told_by_their_words() {
        let kind = |sql| kind(&words(sql));
        assert_eq!(kind("begin isolation level repeatable read, READ ONLY"), Kind::Begin { read_only: true });
        assert_eq!(kind("START TRANSACTION"), Kind::Begin { read_only: false });
        assert_eq!(kind("ROLLBACK TO SAVEPOINT one"), Kind::RollbackTo("one".to_owned()));
        assert_eq!(
            kind("WITH a AS (INSERT INTO t VALUES (1) RETURNING x) SELECT * FROM a"),
            Kind::Write("INSERT")
        );
        assert_eq!(kind("with a as (select 1) select * from a"), Kind::Select);
        assert_eq!(kind("-- nothing"), Kind::Empty);
    }

    #[test]
    fn parameter_types_come_from_casts_and_columns() {
        let columns = columns(
            "CREATE TABLE IF NOT EXISTS todos (id uuid PRIMARY KEY, title text, rank double precision, done boolean)",
        );
        let types = |sql| parameter_types(&words(sql), &[], &columns);
        assert_eq!(types("SELECT * FROM todos WHERE id = $1 LIMIT $2"), [Type::UUID, Type::INT8]);
        assert_eq!(
            types("INSERT INTO todos (id, title, done) VALUES ($1, $3, $2)"),
            [Type::UUID, Type::BOOL, Type::TEXT]
        );
        assert_eq!(
            types("UPDATE todos SET rank = $2 WHERE todos.done <> false AND rank >= $1"),
            [Type::FLOAT8, Type::FLOAT8]
        );
        assert_eq!(types("SELECT $1::bigint"), [Type::INT8]);
        assert_eq!(parameter_types(&words("SELECT $1"), &[Type::INT2.oid()], &columns), [Type::INT2]);
        assert_eq!(types("SELECT $2147483648"), []);
    }
}
