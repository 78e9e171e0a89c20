//! What a server says about itself on its admin listener: breaker, mode, connections, journal. For the report and for
//! a person who watches; a target without such a listener leaves no trace, and nothing is judged by it.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior};

use crate::history::{Event, Got, Recorder, ServerState};
use crate::workload::Target;
use crate::workload::client::{Client, Request};

/// Five looks a second show every state that a person could have noticed.
const EVERY: Duration = Duration::from_millis(200);
/// A server that hangs tells nothing now; the next look comes soon.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// The counter of attempts to connect, one line for each outcome.
const ATTEMPTS: &str = "ridethrough_connect_attempts_total";

/// Asks one server again and again; never ends. Each has its own, so that one that hangs hides no other.
///
/// # Cancel safety
/// Dropping it loses the look under way.
pub async fn watch_state(server: Target, recorder: Recorder) {
    let client = Client::new(server.admin, 1);
    let mut ticks = tokio::time::interval(EVERY);
    // A machine that was late must not ask twice as often afterwards.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(state) = ask(&client).await {
            let (process, at_us) = (server.name.clone(), recorder.now_us());
            recorder.record(Event::ServerState(ServerState { process, at_us, ..state }));
        }
    }
}

/// What this server says of itself now, without a name and a time; `None` where it does not answer.
///
/// # Cancel safety
/// Dropping it closes the connection; nothing else was begun.
pub(crate) async fn state_of(server: &Target) -> Option<ServerState> {
    ask(&Client::new(server.admin, 1)).await
}

/// The keys of the writes that this server calls lost by a failover; `None` where it does not say.
///
/// # Cancel safety
/// Dropping it closes the connection; nothing else was begun.
pub(crate) async fn lost_by(server: &Target) -> Option<Vec<String>> {
    let document = get(&Client::new(server.admin, 1), "/debug/state").await?;
    lost(&serde_json::from_slice(&document).ok()?)
}

fn lost(document: &Value) -> Option<Vec<String>> {
    let keys = document.pointer("/lost/keys")?.as_array()?;
    Some(keys.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

async fn ask(client: &Client) -> Option<ServerState> {
    let document = get(client, "/debug/state").await?;
    let mut state = parse(&serde_json::from_slice(&document).ok()?);
    let metrics = get(client, "/metrics").await;
    state.connect_attempts = metrics.as_deref().and_then(|text| attempts(std::str::from_utf8(text).ok()?));
    Some(state)
}

async fn get(client: &Client, path: &str) -> Option<bytes::Bytes> {
    let exchange = client.send(&Request::get(path.into()), Instant::now() + ANSWER_MAX).await;
    (exchange.got == Got::Answer && exchange.status == Some(200)).then_some(exchange.body)
}

fn parse(document: &Value) -> ServerState {
    let at = |path: &str| document.pointer(path);
    let text = |path: &str| at(path).and_then(Value::as_str).map(str::to_owned);
    let number = |path: &str| at(path).and_then(Value::as_u64);
    ServerState {
        breaker: text("/breaker/state"),
        mode: text("/mode"),
        ready: at("/ready").and_then(Value::as_bool),
        connections: number("/pool/connections"),
        journal_entries: number("/journal/entries"),
        ..ServerState::default()
    }
}

/// The sum of the counter over its labels; absent where no line has it.
fn attempts(metrics: &str) -> Option<u64> {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(ATTEMPTS)?;
        // Else another counter that begins with the same words.
        rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next()?.parse::<u64>().ok()).flatten()
    });
    values.reduce(u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_taken_and_what_it_does_not_say_is_absent() {
        let document = serde_json::json!({
            "mode": "degraded", "ready": true, "breaker": { "state": "open" },
            "pool": { "connections": 7, "idle": 2 }, "journal": { "entries": 12 },
        });
        let state = parse(&document);
        assert_eq!((state.breaker.as_deref(), state.mode.as_deref()), (Some("open"), Some("degraded")));
        let numbers = (state.ready, state.connections, state.journal_entries);
        assert_eq!(numbers, (Some(true), Some(7), Some(12)));
        assert_eq!(parse(&serde_json::json!({ "breaker": null })), ServerState::default());
    }

    #[test]
    fn who_lost_nothing_says_so_and_who_says_nothing_was_not_asked() {
        let document = serde_json::json!({ "lost": { "writes": 2, "keys": ["a", "b"] } });
        assert_eq!(lost(&document).unwrap(), ["a", "b"]);
        assert_eq!(lost(&serde_json::json!({ "lost": { "writes": 0, "keys": [] } })).unwrap(), [""; 0]);
        assert_eq!(lost(&serde_json::json!({})), None);
    }

    #[test]
    fn attempts_are_summed_over_their_outcomes_and_other_counters_are_not_taken_for_them() {
        let text = "# HELP x\nridethrough_connect_attempts_total{outcome=\"ok\"} 5\n\
                    ridethrough_connect_attempts_total{outcome=\"refused\"} 7\n\
                    ridethrough_connect_attempts_total_more 100\n";
        assert_eq!(attempts(text), Some(12));
        assert_eq!(attempts("other 1\n"), None);
    }
}
