//! What toxics there are, and their attributes as toxiproxy's interface has them. What they do to bytes is in the rules.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Which way the bytes of a connection go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// From the client to the service.
    Upstream,
    /// From the service to the client.
    Downstream,
}

impl Stream {
    /// Both, in the order in which they are listed.
    pub const ALL: [Self; 2] = [Self::Upstream, Self::Downstream];

    /// Its name in the interface.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Downstream => "downstream",
        }
    }

    /// The stream of this name, in upper or lower case.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| stream.name().eq_ignore_ascii_case(name))
    }
}

/// Delays data by `latency`, more or less by up to `jitter`. Both in milliseconds; below zero is zero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// Milliseconds.
    pub latency: i64,
    /// Milliseconds, to either side.
    pub jitter: i64,
}

/// Lets through so many kilobytes (1,000 bytes) a second. Nothing goes through at 0, and nothing is lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bandwidth {
    /// Kilobytes a second.
    pub rate: i64,
}

/// Delays the end of the stream, not its data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlowClose {
    /// Milliseconds.
    pub delay: i64,
}

/// Drops all data, and closes the connection after a while, or when the toxic is removed: what was lost stays lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timeout {
    /// Milliseconds from when the connection meets the toxic; 0 is never.
    pub timeout: i64,
}

/// Resets the connection (RST to both sides) when data comes, or a while after.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResetPeer {
    /// Milliseconds from the first data or the end of the stream.
    pub timeout: i64,
}

/// Cuts data into small packets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Slicer {
    /// Bytes; below 1 is 1.
    pub average_size: i64,
    /// Bytes, to either side; should be smaller than the average.
    pub size_variation: i64,
    /// Microseconds after each packet.
    pub delay: i64,
}

/// Closes the connection after so much data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitData {
    /// Bytes of each connection.
    pub bytes: i64,
}

/// Does nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Noop {}

/// A type of toxic with its attributes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "attributes", rename_all = "snake_case")]
pub enum Kind {
    /// Delays data.
    Latency(Latency),
    /// Limits the rate of data.
    Bandwidth(Bandwidth),
    /// Delays the end.
    SlowClose(SlowClose),
    /// Drops data, then closes.
    Timeout(Timeout),
    /// Resets.
    ResetPeer(ResetPeer),
    /// Cuts data into small packets.
    Slicer(Slicer),
    /// Closes after so much data.
    LimitData(LimitData),
    /// Does nothing.
    Noop(Noop),
}

impl Kind {
    /// The kind of this type with all attributes at zero; `None` for an unknown type.
    #[must_use]
    pub fn of_type(name: &str) -> Option<Self> {
        Some(match name {
            "latency" => Self::Latency(Latency::default()),
            "bandwidth" => Self::Bandwidth(Bandwidth::default()),
            "slow_close" => Self::SlowClose(SlowClose::default()),
            "timeout" => Self::Timeout(Timeout::default()),
            "reset_peer" => Self::ResetPeer(ResetPeer::default()),
            "slicer" => Self::Slicer(Slicer::default()),
            "limit_data" => Self::LimitData(LimitData::default()),
            "noop" => Self::Noop(Noop::default()),
            _ => return None,
        })
    }

    /// The name of its type in the interface.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Latency(_) => "latency",
            Self::Bandwidth(_) => "bandwidth",
            Self::SlowClose(_) => "slow_close",
            Self::Timeout(_) => "timeout",
            Self::ResetPeer(_) => "reset_peer",
            Self::Slicer(_) => "slicer",
            Self::LimitData(_) => "limit_data",
            Self::Noop(_) => "noop",
        }
    }

    /// Delays data by `latency`, more or less by up to `jitter`; whole milliseconds.
    #[must_use]
    pub fn latency(latency: Duration, jitter: Duration) -> Self {
        Self::Latency(Latency { latency: whole(latency.as_millis()), jitter: whole(jitter.as_millis()) })
    }

    /// Cuts data into packets of `bytes`, with a pause after each; whole microseconds.
    #[must_use]
    pub fn slices(bytes: i64, pause: Duration) -> Self {
        Self::Slicer(Slicer { average_size: bytes, size_variation: 0, delay: whole(pause.as_micros()) })
    }

    /// The same kind with these attributes put over its own. Attributes it does not have, and those that are null,
    /// change nothing.
    ///
    /// # Errors
    /// Where an attribute has another type than it should.
    pub fn with(&self, attributes: Map<String, Value>) -> Result<Self, serde_json::Error> {
        let mut whole = serde_json::to_value(self)?;
        if let Some(own) = whole.get_mut("attributes").and_then(Value::as_object_mut) {
            own.extend(attributes.into_iter().filter(|(_, value)| !value.is_null()));
        }
        serde_json::from_value(whole)
    }
}

fn whole(number: u128) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A toxic as it is put on a proxy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Toxic {
    /// What it is called; one name a proxy.
    pub name: String,
    /// Which way of a connection it acts on.
    pub stream: Stream,
    /// The share of connections it acts on: 1 is all, 0 none.
    pub toxicity: f64,
    /// What it does.
    #[serde(flatten)]
    pub kind: Kind,
}

impl Toxic {
    /// A toxic for every connection, under the default name `<type>_<stream>`.
    #[must_use]
    pub fn new(stream: Stream, kind: Kind) -> Self {
        let name = format!("{}_{}", kind.type_name(), stream.name());
        Self { name, stream, toxicity: 1.0, kind }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TYPES: [&str; 8] =
        ["latency", "bandwidth", "slow_close", "timeout", "reset_peer", "slicer", "limit_data", "noop"];

    fn attributes(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn every_type_is_found_by_the_name_it_is_written_with() {
        for name in TYPES {
            let kind = Kind::of_type(name).unwrap();
            assert_eq!(kind.type_name(), name);
            assert_eq!(serde_json::to_value(&kind).unwrap()["type"], name);
            assert_eq!(kind.with(Map::new()).unwrap(), kind);
        }
        assert_eq!(Kind::of_type("down"), None);
    }

    #[test]
    fn a_toxic_is_written_as_clients_expect_it() {
        let toxic = Toxic::new(
            Stream::Upstream,
            Kind::latency(Duration::from_millis(100), Duration::from_millis(10)),
        );
        let expected = json!({
            "name": "latency_upstream", "type": "latency", "stream": "upstream", "toxicity": 1.0,
            "attributes": {"latency": 100, "jitter": 10},
        });
        assert_eq!(serde_json::to_value(&toxic).unwrap(), expected);
    }

    #[test]
    fn attributes_that_are_not_given_stay() {
        let kind = Kind::Latency(Latency { latency: 5, jitter: 2 });
        let changed = kind.with(attributes(json!({"latency": 9, "jitter": null, "colour": "red"}))).unwrap();
        assert_eq!(changed, Kind::Latency(Latency { latency: 9, jitter: 2 }));
        for wrong in [json!({"latency": "9"}), json!({"latency": 9.5})] {
            assert!(kind.with(attributes(wrong)).is_err());
        }
    }
}
