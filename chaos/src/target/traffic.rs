//! What the users of a target ask for, and what its answers mean. Templates and rules only: nothing is sent here.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::config;
use crate::history::Action;
use crate::target::template::{self, fill};

/// What a request may name: the object, by the name that the harness gave it; the unique value; the id that the answer
/// to `create` gave, else again the object; one name for each write, which its repetition carries again.
const OF_REQUEST: &[&str] = &["key", "value", "id", "op"];

/// `[traffic]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// What the writes do to an object.
    pub workload: Workload,
    /// How many objects, each written once before the load. Default 50.
    #[serde(default = "fifty")]
    pub objects: u32,
    /// Deadline of one request, from its planned time, as text with a unit. Default 5 s.
    #[serde(default = "five_seconds", deserialize_with = "config::text::a_duration")]
    pub deadline: Duration,
    /// `[traffic.create]`: makes an object, where the service chooses its id. Default none.
    #[serde(default)]
    pub create: Option<Operation>,
    /// `[traffic.write]`. Required, but for the workload `todo`.
    #[serde(default)]
    pub write: Operation,
    /// `[traffic.read]`. Default none: only writes are sent, and the rows tell.
    #[serde(default)]
    pub read: Option<Operation>,
    /// `[traffic.status]`: asks after the run what became of a write, by its `{{op}}`. Default none: the rows tell.
    #[serde(default)]
    pub status: Option<Operation>,
}

/// What the writes do to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// A register holds the value that was set last; a read shows it.
    Register,
    /// A list holds all values in their order; a read shows them all.
    Append,
    /// A ledger holds a row for each value; a read, if there is one, shows them all.
    Ledger,
    /// Todos are created, updated once each, read and listed, by the paths and headers of our own server; the service is
    /// another one with the same interface.
    Todo,
}

/// A request, and how its answer is read. Path, headers and body may hold `{{key}}`, `{{value}}`, `{{id}}` and `{{op}}`.
///
/// What an answer to a write means is decided by `outcome_header`, where it is there and its text is listed, else by the
/// status. What is listed nowhere is unknown: it may have taken effect.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Its method.
    pub method: String,
    /// Its path, with the query.
    pub path: String,
    /// Its headers. Default none; what is sent anyway is `host` and `accept: application/json`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Its body. Default none. Where there is one and no header says otherwise, it is called JSON.
    #[serde(default)]
    pub body: String,
    /// Of `create`: JSON pointer to the id in the answer.
    #[serde(default)]
    pub id: Option<String>,
    /// Of `read`: JSON pointer to the value, or to the array of all values. Of `status`: to one of the words `pending`,
    /// `applied`, `superseded` (a later write stands instead, as promised) and `rejected`.
    #[serde(default)]
    pub value: Option<String>,
    /// Of `read`: JSON pointer to the value within each item of that array. Default none: the items are the values.
    #[serde(default)]
    pub item: Option<String>,
    /// Of `read` and `write`: JSON pointer to the place of the value (in a read, of the last one) in the order of all
    /// writes to the object. Default none.
    #[serde(default)]
    pub version: Option<String>,
    /// Of `read`: the header with the age of a stale answer in seconds; where it is there, the answer is a copy, also of age
    /// 0. Default none: no answer is called stale.
    #[serde(default)]
    pub age_header: Option<String>,
    /// Of `write`: the header that tells, beside the status. Default none.
    #[serde(default)]
    pub outcome_header: Option<String>,
    /// It took effect; of `read`, it is an answer. Default 200, 201, 204.
    #[serde(default = "good")]
    pub acknowledged: Vec<Sign>,
    /// Of `write`: it will take effect. Default 202.
    #[serde(default = "accepted")]
    pub accepted: Vec<Sign>,
    /// Of `write`: it has no effect and will have none. Default 400, 401, 403, 404, 405, 409, 410, 412, 413, 415, 422, 429.
    #[serde(default = "refused")]
    pub refused: Vec<Sign>,
}

/// A status, or a text in the outcome header.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Sign {
    /// An HTTP status.
    Status(u16),
    /// What `outcome_header` says.
    Text(String),
}

/// What an answer to a write means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// It took effect.
    Acknowledged,
    /// It will.
    Accepted,
    /// It has none and will have none.
    Refused,
    /// Nobody knows.
    Unknown,
}

impl Meaning {
    /// As the history says it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Acknowledged => "committed",
            Self::Accepted => "journaled",
            Self::Refused => "rejected",
            Self::Unknown => "unknown",
        }
    }
}

fn fifty() -> u32 {
    50
}

fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

fn good() -> Vec<Sign> {
    [200, 201, 204].map(Sign::Status).to_vec()
}

fn accepted() -> Vec<Sign> {
    vec![Sign::Status(202)]
}

fn refused() -> Vec<Sign> {
    [400, 401, 403, 404, 405, 409, 410, 412, 413, 415, 422, 429].map(Sign::Status).to_vec()
}

impl Workload {
    /// What a write of it is in the history.
    #[must_use]
    pub fn action(self) -> Action {
        match self {
            Self::Register => Action::Set,
            Self::Append | Self::Ledger => Action::Append,
            Self::Todo => Action::Create,
        }
    }
}

impl Traffic {
    pub(super) fn check(&self) -> Result<(), String> {
        let is_given = self.write != Operation::default();
        if self.workload == Workload::Todo {
            let others = [&self.create, &self.read, &self.status];
            let none = !is_given && others.iter().all(|one| one.is_none());
            let why =
                "traffic: the requests of the workload `todo` are those of our own server, and none is given";
            return if none { Ok(()) } else { Err(why.into()) };
        }
        if !is_given {
            return Err("traffic.write: it is missing".into());
        }
        let operations = [
            ("traffic.create", self.create.as_ref(), &["id"] as &[&str]),
            ("traffic.write", Some(&self.write), &["version", "outcome_header"]),
            ("traffic.read", self.read.as_ref(), &["value", "item", "version", "age_header"]),
            ("traffic.status", self.status.as_ref(), &["value"]),
        ];
        for (place, operation, allowed) in operations {
            let Some(operation) = operation else { continue };
            operation.check(place, allowed)?;
        }
        if !self.write.says_value() {
            return Err(
                "traffic.write: no part of it says {{value}}, so its effect could not be found".into()
            );
        }
        if self.create.as_ref().is_some_and(|create| create.id.is_none()) {
            return Err("traffic.create: it has no `id`, the pointer to the id in the answer".into());
        }
        if self.read.as_ref().is_some_and(|read| read.value.is_none()) {
            return Err("traffic.read: it has no `value`, the pointer to the value in the answer".into());
        }
        if self.status.as_ref().is_some_and(|status| status.value.is_none() || !self.knows_repeats()) {
            return Err(
                "traffic.status: it needs a `value`, the pointer to the word, and {{op}} in traffic.write"
                    .into(),
            );
        }
        Ok(())
    }

    /// Whether anything is read at all.
    #[must_use]
    pub fn reads(&self) -> bool {
        self.workload == Workload::Todo || self.read.is_some()
    }

    /// Whether a stale answer says how old it is.
    #[must_use]
    pub fn says_age(&self) -> bool {
        self.workload == Workload::Todo || self.read.as_ref().is_some_and(|read| read.age_header.is_some())
    }

    /// Whether the service can tell a repeated write from a new one.
    #[must_use]
    pub fn knows_repeats(&self) -> bool {
        self.workload == Workload::Todo || self.write.texts().any(|text| text.contains("{{op}}"))
    }
}

impl Operation {
    fn texts(&self) -> impl Iterator<Item = &String> {
        [&self.path, &self.body].into_iter().chain(self.headers.values())
    }

    /// Whether it writes a value.
    pub(crate) fn says_value(&self) -> bool {
        self.texts().any(|text| text.contains("{{value}}"))
    }

    fn check(&self, place: &str, allowed: &[&str]) -> Result<(), String> {
        self.method
            .parse::<http::Method>()
            .map_err(|_| format!("{place}: `{}` is no method", self.method))?;
        if !self.path.starts_with('/') {
            return Err(format!("{place}: the path `{}` does not begin with a slash", self.path));
        }
        for name in self.headers.keys() {
            name.parse::<http::HeaderName>().map_err(|_| format!("{place}: `{name}` is no header's name"))?;
        }
        let given = [
            ("id", &self.id),
            ("value", &self.value),
            ("item", &self.item),
            ("version", &self.version),
            ("age_header", &self.age_header),
            ("outcome_header", &self.outcome_header),
        ];
        if let Some((name, _)) = given.iter().find(|(name, text)| text.is_some() && !allowed.contains(name)) {
            return Err(format!("{place}: `{name}` has no meaning there"));
        }
        self.texts().try_for_each(|text| template::check(place, text, OF_REQUEST))
    }

    /// Path, headers and body with these values.
    pub(crate) fn filled(&self, values: &[(&str, &str)]) -> (String, Vec<(String, String)>, String) {
        let headers = self.headers.iter().map(|(name, text)| (name.to_ascii_lowercase(), fill(text, values)));
        (fill(&self.path, values), headers.collect(), fill(&self.body, values))
    }

    /// What a whole answer means.
    #[must_use]
    pub fn meaning(&self, status: u16, headers: &http::HeaderMap) -> Meaning {
        let told = self.outcome_header.as_ref().and_then(|name| headers.get(name)?.to_str().ok());
        let by = |is_it: &dyn Fn(&Sign) -> bool| {
            let lists = [
                (&self.acknowledged, Meaning::Acknowledged),
                (&self.accepted, Meaning::Accepted),
                (&self.refused, Meaning::Refused),
            ];
            lists.into_iter().find(|(signs, _)| signs.iter().any(is_it)).map(|(_, meaning)| meaning)
        };
        let by_header = told.and_then(|told| by(&|sign| matches!(sign, Sign::Text(text) if text == told)));
        by_header
            .or_else(|| by(&|sign| matches!(sign, Sign::Status(number) if *number == status)))
            .unwrap_or(Meaning::Unknown)
    }

    /// The values in an answer, in their order.
    ///
    /// # Errors
    /// Why the body is not what the pointers say.
    pub fn values(&self, body: &[u8]) -> Result<Vec<String>, String> {
        let place = self.value.as_deref().unwrap_or_default();
        let body: Value =
            serde_json::from_slice(body).map_err(|error| format!("the body is no JSON: {error}"))?;
        let found = body.pointer(place).ok_or_else(|| format!("the body holds nothing at `{place}`"))?;
        let text = |item: &Value| {
            let item = match &self.item {
                Some(pointer) => item.pointer(pointer),
                None => Some(item),
            };
            item.and_then(as_text).ok_or_else(|| format!("an item at `{place}` is no text or number"))
        };
        match found {
            Value::Null => Ok(Vec::new()),
            Value::Array(items) => items.iter().map(text).collect(),
            one => {
                Ok(vec![as_text(one).ok_or_else(|| format!("what is at `{place}` is no text or number"))?])
            }
        }
    }
}

/// A text or number at a JSON pointer.
pub(crate) fn text_at(body: &[u8], pointer: &str) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    as_text(body.pointer(pointer)?)
}

fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
