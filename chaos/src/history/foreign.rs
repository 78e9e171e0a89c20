//! Reads the operations of another tool: one JSON object per line, as small as a checker can do with. Says nothing about
//! faults, probes or rows, which such a file does not hold.
//!
//! ```json
//! {"process": 0, "type": "invoke", "f": "write", "key": "x", "value": "a", "time": 1000000}
//! {"process": 0, "type": "ok",     "f": "write", "key": "x", "value": "a", "time": 2000000}
//! {"process": 1, "type": "invoke", "f": "read",  "key": "x",               "time": 2500000}
//! {"process": 1, "type": "ok",     "f": "read",  "key": "x", "value": "a", "time": 2700000}
//! ```
//!
//! - `process`: a client that does one thing after another; a number or a text. After `info` it may go on.
//! - `type`: `invoke`, then `ok` (took effect), `fail` (certainly had none) or `info` (nobody knows). An operation that
//!   was begun and has no end is as good as `info`.
//! - `f`: `write` sets a register, `append` adds to a list, `read` reads either.
//! - `key`: the register or list; a number or a text. Without it all lines are about one and the same.
//! - `value`: what is written or appended, unique for its key; of a read's `ok` what it showed: one value, `null` for
//!   nothing yet, or an array for a list. Numbers and texts count as equal where they read the same.
//! - `time`: nanoseconds on one clock. Without it the lines stand in the order in which things happened.
//! - `n`, optional on `ok`: the place that the service stated for the value among all writes to the key.
//! - `stale`, optional on a read's `ok`: true where the answer was labelled as possibly old.
//!
//! Other fields are ignored. `export` writes this form.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use crate::history::{Action, Completion, Event, FORMAT, Invoke, Load, Run};

/// The name of the scenario in the verdict.
const SCENARIO: &str = "foreign history";
/// The label of an answer that says no more than that it may be old.
const STALE: &str = "stale; age=0; reason=unknown";

#[derive(Deserialize)]
struct Line {
    process: Value,
    #[serde(rename = "type")]
    kind: Kind,
    f: Function,
    #[serde(default)]
    key: Value,
    #[serde(default)]
    value: Value,
    time: Option<u64>,
    n: Option<i64>,
    #[serde(default)]
    stale: bool,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Invoke,
    Ok,
    Fail,
    Info,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Function {
    Read,
    Write,
    Append,
}

/// Reads the whole file, if its first line is of this form. An error comes with the number of its line.
pub(crate) fn parse(bytes: &[u8]) -> Option<Result<Vec<Event>, (usize, String)>> {
    let lines = || bytes.split(|&byte| byte == b'\n').enumerate();
    let mut full = lines().filter(|(_, line)| !line.iter().all(u8::is_ascii_whitespace));
    let (_, first) = full.next()?;
    serde_json::from_slice::<Line>(first).ok()?;
    let mut reading = Reading::default();
    for (index, line) in lines().filter(|(_, line)| !line.iter().all(u8::is_ascii_whitespace)) {
        let line = serde_json::from_slice::<Line>(line).map_err(|error| error.to_string());
        if let Err(reason) = line.and_then(|line| reading.add(line, index as u64)) {
            return Some(Err((index + 1, reason)));
        }
    }
    Some(Ok(reading.done()))
}

#[derive(Default)]
struct Reading {
    events: Vec<Event>,
    /// The operation that each process is in.
    open: HashMap<String, u64>,
    next: u64,
    reads: u64,
    writes: u64,
    last_us: u64,
}

impl Reading {
    fn add(&mut self, line: Line, index: u64) -> Result<(), String> {
        let at_us = line.time.map_or(index, |nanos| nanos / 1_000);
        self.last_us = self.last_us.max(at_us);
        let process = text(&line.process).ok_or("the process is neither a number nor a text")?;
        if line.kind == Kind::Invoke {
            return self.begin(line, process, at_us);
        }
        let op = self.open.remove(&process).ok_or_else(|| format!("process {process} has nothing to end"))?;
        let mut done =
            Completion { op, at_us, sent_us: Some(at_us), version: line.n, ..Completion::default() };
        if let (Function::Read, Kind::Ok) = (line.f, line.kind) {
            done.values = Some(shown(&line.value)?);
            done.freshness = Some(if line.stale { STALE } else { "fresh" }.to_owned());
        }
        self.events.push(match line.kind {
            Kind::Ok => Event::Ok(done),
            Kind::Fail => Event::Fail(done),
            Kind::Info | Kind::Invoke => Event::Info(done),
        });
        Ok(())
    }

    fn begin(&mut self, line: Line, process: String, at_us: u64) -> Result<(), String> {
        let op = self.next;
        self.next += 1;
        let action = match line.f {
            Function::Read => Action::Read,
            Function::Write => Action::Set,
            Function::Append => Action::Append,
        };
        let value =
            action.is_write().then(|| text(&line.value).ok_or("a write needs one value")).transpose()?;
        if let Some(open) = self.open.insert(process.clone(), op) {
            return Err(format!("process {process} began an operation before it ended number {open}"));
        }
        *(if action.is_write() { &mut self.writes } else { &mut self.reads }) += 1;
        self.events.push(Event::Invoke(Invoke {
            op,
            action,
            planned_us: at_us,
            at_us,
            measured: true,
            object: Some(text(&line.key).unwrap_or_default()),
            value,
            session: Some(process),
            ..Invoke::default()
        }));
        Ok(())
    }

    fn done(mut self) -> Vec<Event> {
        let run = Run { format: FORMAT, scenario: SCENARIO.into(), foreign: true, ..Run::default() };
        let load = Load { at_us: 0, until_us: self.last_us, reads: self.reads, writes: self.writes };
        let mut events = vec![Event::Run(Box::new(run)), Event::Load(load)];
        events.append(&mut self.events);
        events
    }
}

fn shown(value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(values) => {
            values.iter().map(text).collect::<Option<_>>().ok_or_else(|| "a list holds values only".into())
        }
        one => Ok(vec![text(one).ok_or("a read shows a value, null, or an array")?]),
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(text: &str) -> Result<Vec<Event>, (usize, String)> {
        parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_smallest_history_is_read() {
        let text = r#"
            {"process":0,"type":"invoke","f":"write","key":"x","value":7}
            {"process":"b","type":"invoke","f":"read","key":"x","extra":[1]}
            {"process":0,"type":"info","f":"write","key":"x","value":7}
            {"process":"b","type":"ok","f":"read","key":"x","value":"7","n":1}
        "#;
        let events = events(text).unwrap();
        assert!(matches!(&events[0], Event::Run(run) if run.foreign));
        assert!(matches!(&events[1], Event::Load(load) if (load.reads, load.writes) == (1, 1)));
        assert!(matches!(&events[2], Event::Invoke(begun) if begun.value.as_deref() == Some("7")));
        assert!(matches!(&events[4], Event::Info(done) if done.op == 0));
        assert!(matches!(&events[5], Event::Ok(done)
            if done.op == 1 && done.values == Some(vec!["7".into()]) && done.version == Some(1)));
    }

    #[test]
    fn a_line_that_makes_no_sense_is_named() {
        let good = r#"{"process":0,"type":"invoke","f":"write","value":7}"#;
        for (bad, why) in [
            (r#"{"process":1,"type":"ok","f":"write","value":7}"#, "nothing to end"),
            (r#"{"process":0,"type":"invoke","f":"read"}"#, "before it ended"),
            (r#"{"process":1,"type":"invoke","f":"write"}"#, "needs one value"),
            ("nonsense", "expected"),
        ] {
            let (line, reason) = events(&format!("{good}\n{bad}\n")).unwrap_err();
            assert!(line == 2 && reason.contains(why), "{line} {reason}");
        }
        assert!(parse(b"").is_none() && parse(b"{\"type\":\"note\"}").is_none());
    }
}
