//! Writes the operations of a history for other tools: as the JSON lines of `foreign`, or as EDN for Elle. Judges
//! nothing, and leaves out what those tools have no word for.
//!
//! One file holds one kind of object, because a checker of transactions takes one model: lists where the history
//! appends to any (Elle's `list-append`), else registers (`rw-register`); todos are registers with their id as the key.
//! Left out are reads labelled stale and reads of many todos at once; a write acknowledged from a journal becomes
//! `info`, since it takes effect later; and one sent twice with the same key is one.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{self, Write};

use serde_json::json;

use crate::history::{Action, Completion, Event, Invoke};

/// The form of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The form of [`crate::history::foreign`].
    JsonLines,
    /// A Jepsen history: one EDN map per line, one transaction of one step per operation.
    Edn,
}

/// The model by which the exported file is to be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// Lists that grow: Elle's `list-append`.
    ListAppend,
    /// Registers with unique values: Elle's `rw-register`.
    Register,
}

impl Model {
    /// The name that Elle gives it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ListAppend => "list-append",
            Self::Register => "rw-register",
        }
    }
}

/// What an export holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// By which model it is to be judged.
    pub model: Model,
    /// Operations written.
    pub operations: u64,
    /// Operations that have no place in this model.
    pub left_out: u64,
}

/// Writes the operations of a history.
///
/// # Errors
/// What the writer says.
pub fn export(events: &[Event], format: Format, out: &mut dyn Write) -> io::Result<Exported> {
    let ends = ends(events);
    let names = Names { lists: lists(events), created: created(events, &ends) };
    let model = if names.lists.is_empty() { Model::Register } else { Model::ListAppend };
    let mut lines = Vec::new();
    let (mut operations, mut left_out) = (0, 0);
    for begun in events.iter().filter_map(begun) {
        // Not there: a later sending of another operation.
        let Some(&end) = ends.get(&begun.op) else { continue };
        let Some(step) = Step::of(begun, end, &names) else {
            left_out += 1;
            continue;
        };
        lines.push((begun.at_us, Kind::Invoke, begun.op, step.clone().without_answer()));
        operations += 1;
        if let Some((kind, done)) = end {
            lines.push((done.at_us, kind, begun.op, step));
        }
    }
    // At one microsecond, beginnings first: what may have been at the same time counts as such.
    lines.sort_by_key(|(us, kind, op, _)| (*us, *kind != Kind::Invoke, *op));
    let mut processes = Processes::default();
    for (index, (us, kind, op, step)) in lines.iter().enumerate() {
        let process = processes.of(*op, *kind);
        match format {
            Format::JsonLines => step.write_json(out, *kind, process, *us)?,
            Format::Edn => step.write_edn(out, *kind, process, *us, index)?,
        }
    }
    out.flush()?;
    Ok(Exported { model, operations, left_out })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Invoke,
    Ok,
    Fail,
    Info,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Invoke => "invoke",
            Self::Ok => "ok",
            Self::Fail => "fail",
            Self::Info => "info",
        }
    }

    fn exported(self, begun: &Invoke, done: &Completion) -> Self {
        let claim = done.outcome.as_deref().map_or(done.status == Some(202), |claim| claim == "journaled");
        if self == Self::Ok && begun.action.is_write() && claim { Self::Info } else { self }
    }
}

/// The end of each operation. A write that was sent again with its key is one operation, under the number of its first
/// sending: the best of its ends is its end, and only if all failed did it fail.
fn ends(events: &[Event]) -> HashMap<u64, Option<(Kind, &Completion)>> {
    let mut told: HashMap<u64, (Kind, &Completion)> = HashMap::new();
    for event in events {
        let (kind, done) = match event {
            Event::Ok(done) => (Kind::Ok, done),
            Event::Fail(done) => (Kind::Fail, done),
            Event::Info(done) => (Kind::Info, done),
            _ => continue,
        };
        told.insert(done.op, (kind, done));
    }
    let mut first: HashMap<&str, u64> = HashMap::new();
    let mut ends: HashMap<u64, Vec<Option<(Kind, &Completion)>>> = HashMap::new();
    for begun in events.iter().filter_map(begun) {
        let end = told.get(&begun.op).map(|(kind, done)| (kind.exported(begun, done), *done));
        let op = begun.key.as_deref().map_or(begun.op, |key| *first.entry(key).or_insert(begun.op));
        ends.entry(op).or_default().push(end);
    }
    ends.into_iter().map(|(op, sends)| (op, best(&sends))).collect()
}

fn best<'a>(sends: &[Option<(Kind, &'a Completion)>]) -> Option<(Kind, &'a Completion)> {
    let of = |wanted: Kind| sends.iter().flatten().filter(move |(kind, _)| *kind == wanted).copied();
    let failed = of(Kind::Fail).count() == sends.len();
    let good = of(Kind::Ok).min_by_key(|(_, done)| done.at_us);
    good.or_else(|| of(if failed { Kind::Fail } else { Kind::Info }).max_by_key(|(_, done)| done.at_us))
}

fn begun(event: &Event) -> Option<&Invoke> {
    if let Event::Invoke(begun) = event { Some(begun) } else { None }
}

/// What must be known of the whole history to name one operation's object.
struct Names<'a> {
    lists: HashSet<&'a str>,
    created: HashMap<&'a str, &'a str>,
}

fn lists(events: &[Event]) -> HashSet<&str> {
    let appended = events.iter().filter_map(|event| match event {
        Event::Invoke(begun) if begun.action == Action::Append => begun.object.as_deref(),
        _ => None,
    });
    appended.collect()
}

/// The id of each todo by the title that it was made with: no answer tells a lost creation's.
fn created<'a>(
    events: &'a [Event],
    ends: &HashMap<u64, Option<(Kind, &'a Completion)>>,
) -> HashMap<&'a str, &'a str> {
    let answers = events.iter().filter_map(|event| match event {
        Event::Invoke(begun) if begun.action == Action::Create => {
            Some((begun.value.as_deref()?, ends.get(&begun.op).copied()??.1.todos.first()?.id.as_str()))
        }
        _ => None,
    });
    let rows = events.iter().filter_map(|event| match event {
        Event::FinalRow(row) => Some((row.title.as_str(), row.id.as_str())),
        _ => None,
    });
    rows.chain(answers).collect()
}

/// One operation as one step of a transaction.
#[derive(Debug, Clone)]
struct Step {
    action: Action,
    key: String,
    /// What is written, or what a read showed.
    values: Option<Vec<String>>,
    /// Whether a read shows a whole list.
    list: bool,
    version: Option<i64>,
}

impl Step {
    fn of(begun: &Invoke, end: Option<(Kind, &Completion)>, names: &Names<'_>) -> Option<Self> {
        let list = begun.object.as_deref().is_some_and(|object| names.lists.contains(object));
        let fits = match begun.action {
            Action::List => false,
            Action::Set => names.lists.is_empty(),
            _ => list != names.lists.is_empty(),
        };
        let done = end.filter(|(kind, _)| *kind == Kind::Ok).map(|(_, done)| done);
        let stale =
            done.and_then(|done| done.freshness.as_deref()).is_some_and(|text| text.starts_with("stale"));
        if !fits || (stale && !begun.action.is_write()) {
            return None;
        }
        let made =
            || begun.value.as_deref().and_then(|value| names.created.get(value)).map(|id| (*id).to_owned());
        let key = begun
            .object
            .clone()
            .or_else(|| begun.todo.clone())
            .or_else(made)
            .or_else(|| begun.value.clone())?;
        let values = if begun.action.is_write() {
            Some(vec![begun.value.clone()?])
        } else {
            done.map(|done| match &done.values {
                Some(values) => values.clone(),
                None => done.todos.iter().take(1).map(|todo| todo.title.clone()).collect(),
            })
        };
        let stated = done.and_then(|done| done.version.or_else(|| Some(done.todos.first()?.version)));
        Some(Self { action: begun.action, key, values, list, version: stated })
    }

    fn without_answer(mut self) -> Self {
        if !self.action.is_write() {
            self.values = None;
        }
        self.version = None;
        self
    }

    fn write_json(&self, out: &mut dyn Write, kind: Kind, process: u64, us: u64) -> io::Result<()> {
        let f = match self.action {
            Action::Append => "append",
            action if action.is_write() => "write",
            _ => "read",
        };
        let values = self.values.as_deref();
        let value = match (self.list && !self.action.is_write(), values) {
            (true, Some(values)) => json!(values),
            (_, values) => json!(values.and_then(<[_]>::first)),
        };
        let mut line = json!({
            "process": process, "type": kind.word(), "f": f, "key": self.key, "value": value, "time": us * 1_000,
        });
        if let (Some(map), Some(version), Kind::Ok) = (line.as_object_mut(), self.version, kind) {
            map.insert("n".into(), json!(version));
        }
        writeln!(out, "{line}")
    }

    fn write_edn(
        &self,
        out: &mut dyn Write,
        kind: Kind,
        process: u64,
        us: u64,
        index: usize,
    ) -> io::Result<()> {
        let f = match self.action {
            Action::Append => ":append",
            action if action.is_write() => ":w",
            _ => ":r",
        };
        let value = match (self.list && !self.action.is_write(), self.values.as_deref()) {
            (_, None) => "nil".to_owned(),
            (true, Some(values)) => {
                let texts: Vec<String> = values.iter().map(|value| quoted(value)).collect();
                format!("[{}]", texts.join(" "))
            }
            (false, Some(values)) => values.first().map_or("nil".to_owned(), |value| quoted(value)),
        };
        writeln!(
            out,
            "{{:index {index}, :time {}, :type :{}, :process {process}, :f :txn, :value [[{f} {} {value}]]}}",
            us * 1_000,
            kind.word(),
            quoted(&self.key)
        )
    }
}

/// A text in EDN, which takes the escapes of JSON but for the control characters that no value here holds.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// Open-loop operations overlap, and a process of Jepsen does one thing at a time: each takes the lowest that is free.
/// One whose operation ended without anybody knowing how is never used again.
#[derive(Default)]
struct Processes {
    free: BTreeSet<u64>,
    used: u64,
    of: HashMap<u64, u64>,
}

impl Processes {
    fn of(&mut self, op: u64, kind: Kind) -> u64 {
        if kind == Kind::Invoke {
            let process = self.free.pop_first().unwrap_or_else(|| {
                self.used += 1;
                self.used - 1
            });
            self.of.insert(op, process);
            return process;
        }
        let process = self.of.remove(&op).unwrap_or_default();
        if kind != Kind::Info {
            self.free.insert(process);
        }
        process
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Todo, foreign};

    fn begun(op: u64, action: Action, value: Option<&str>, at_us: u64) -> Event {
        let (object, value) = (Some("x \"1\"".to_owned()), value.map(str::to_owned));
        Event::Invoke(Invoke { op, action, object, value, at_us, ..Invoke::default() })
    }

    fn ended(op: u64, values: Option<&[&str]>, at_us: u64) -> Completion {
        let values = values.map(|values| values.iter().map(|value| (*value).to_owned()).collect());
        Completion { op, at_us, values, status: Some(200), ..Completion::default() }
    }

    fn exported(events: &[Event], format: Format) -> (String, Exported) {
        let mut out = Vec::new();
        let told = export(events, format, &mut out).unwrap();
        (String::from_utf8(out).unwrap(), told)
    }

    fn lists() -> Vec<Event> {
        vec![
            begun(0, Action::Append, Some("a"), 10),
            begun(1, Action::Read, None, 15),
            Event::Ok(ended(0, None, 20)),
            Event::Ok(ended(1, Some(&["a", "b"]), 30)),
            begun(2, Action::Append, Some("b"), 12),
            Event::Ok(Completion { outcome: Some("journaled".into()), ..ended(2, None, 16) }),
            begun(3, Action::Read, None, 40),
            Event::Ok(Completion { freshness: Some("stale; age=1".into()), ..ended(3, Some(&[]), 41) }),
            begun(4, Action::Set, Some("other model"), 50),
        ]
    }

    #[test]
    fn lists_become_elles_list_append() {
        let (text, told) = exported(&lists(), Format::Edn);
        assert_eq!((told.model.name(), told.operations, told.left_out), ("list-append", 3, 2));
        let key = r#""x \"1\"""#;
        let expected = [
            format!(
                r#"{{:index 0, :time 10000, :type :invoke, :process 0, :f :txn, :value [[:append {key} "a"]]}}"#
            ),
            format!(
                r#"{{:index 1, :time 12000, :type :invoke, :process 1, :f :txn, :value [[:append {key} "b"]]}}"#
            ),
            format!(
                r#"{{:index 2, :time 15000, :type :invoke, :process 2, :f :txn, :value [[:r {key} nil]]}}"#
            ),
            format!(
                r#"{{:index 3, :time 16000, :type :info, :process 1, :f :txn, :value [[:append {key} "b"]]}}"#
            ),
            format!(
                r#"{{:index 4, :time 20000, :type :ok, :process 0, :f :txn, :value [[:append {key} "a"]]}}"#
            ),
            format!(
                r#"{{:index 5, :time 30000, :type :ok, :process 2, :f :txn, :value [[:r {key} ["a" "b"]]]}}"#
            ),
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn todos_become_registers_under_their_id() {
        let todo = Todo { id: "id-1".into(), title: "a".into(), version: 1, done: false };
        let create = Invoke { op: 0, action: Action::Create, value: Some("a".into()), ..Invoke::default() };
        let read = Invoke { op: 1, todo: Some("id-1".into()), at_us: 5, ..Invoke::default() };
        let events = [
            Event::Invoke(create),
            Event::Ok(Completion { todos: vec![todo.clone()], at_us: 3, ..Completion::default() }),
            Event::Invoke(read),
            Event::Ok(Completion { op: 1, at_us: 6, todos: vec![todo], ..Completion::default() }),
        ];
        let (text, told) = exported(&events, Format::Edn);
        assert_eq!((told.model, told.operations, told.left_out), (Model::Register, 2, 0));
        assert!(text.contains(r#":type :invoke, :process 0, :f :txn, :value [[:w "id-1" "a"]]"#), "{text}");
        assert!(text.contains(r#":type :ok, :process 0, :f :txn, :value [[:r "id-1" "a"]]"#), "{text}");
    }

    #[test]
    fn a_write_that_was_sent_again_is_one_and_ends_as_well_as_its_best_sending() {
        let sent = |op, at_us| {
            let Event::Invoke(begun) = begun(op, Action::Append, Some("a"), at_us) else {
                panic!("an invoke")
            };
            Event::Invoke(Invoke { key: Some("k".into()), ..begun })
        };
        let cut = Event::Info(ended(0, None, 15));
        let events = [sent(0, 10), cut.clone(), sent(1, 20), Event::Ok(ended(1, None, 25))];
        let (text, told) = exported(&events, Format::Edn);
        assert_eq!((told.operations, text.lines().count()), (1, 2));
        assert!(text.contains(":time 25000, :type :ok"), "{text}");
        let events = [sent(0, 10), cut, sent(1, 20), Event::Fail(ended(1, None, 25))];
        assert!(exported(&events, Format::Edn).0.contains(":time 15000, :type :info"));
    }

    #[test]
    fn what_is_exported_as_json_lines_is_read_back() {
        let (text, _) = exported(&lists(), Format::JsonLines);
        let events = foreign::parse(text.as_bytes()).unwrap().unwrap();
        let shown = events.iter().find_map(|event| match event {
            Event::Ok(done) => done.values.clone(),
            _ => None,
        });
        assert_eq!(shown, Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(exported(&events, Format::JsonLines).0, text);
    }
}
