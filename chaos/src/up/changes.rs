//! Tells a person at a running `up` when a server changes: its mode, its readiness, its breaker, and whether writes wait
//! in its journal. Asks each server and compares; what it says of itself is read in `workload/state.rs`.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::history::ServerState;
use crate::workload::{Target, state_of};

/// Soon enough for a person who has just broken something.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Asks again and again and says what changed; never ends. What stands at the first look is no change.
///
/// # Cancel safety
/// Dropping it loses the look under way.
pub(super) async fn tell(servers: Vec<Target>, say: fn(&str)) {
    let mut seen: Vec<Option<Option<ServerState>>> = servers.iter().map(|_| None).collect();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for (server, before) in servers.iter().zip(&mut seen) {
            let now = state_of(server).await;
            if let Some(before) = before {
                for line in changes(before.as_ref(), now.as_ref()) {
                    say(&format!("{}: {line}\n", server.name));
                }
            }
            *before = Some(now);
        }
    }
}

/// What changed between two looks, a line each. No state means that the server did not answer.
fn changes(before: Option<&ServerState>, now: Option<&ServerState>) -> Vec<String> {
    let (before, now) = match (before, now) {
        (Some(before), Some(now)) => (before, now),
        (Some(_), None) => return vec!["does not answer any more".to_owned()],
        (None, Some(now)) => return vec![format!("answers again, {}", words(now))],
        (None, None) => return Vec::new(),
    };
    let mut lines = Vec::new();
    if (&before.mode, before.ready, &before.breaker) != (&now.mode, now.ready, &now.breaker) {
        lines.push(words(now));
    }
    let waits = |state: &ServerState| state.journal_entries.is_some_and(|entries| entries > 0);
    match (waits(before), waits(now)) {
        (false, true) => lines.push("writes wait in the journal".to_owned()),
        (true, false) => lines.push("the journal is empty again".to_owned()),
        _ => {}
    }
    lines
}

fn words(state: &ServerState) -> String {
    let ready = state.ready.map(|ready| if ready { "ready" } else { "not ready" }.to_owned());
    let breaker = state.breaker.as_ref().map(|breaker| format!("breaker {breaker}"));
    let parts: Vec<String> = [state.mode.clone(), ready, breaker].into_iter().flatten().collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(mode: &str, breaker: &str, journal_entries: u64) -> ServerState {
        ServerState {
            mode: Some(mode.into()),
            ready: Some(true),
            breaker: Some(breaker.into()),
            journal_entries: Some(journal_entries),
            ..ServerState::default()
        }
    }

    #[test]
    fn each_change_is_told_once_and_a_growing_journal_is_none() {
        let (calm, broken) = (state("normal", "closed", 0), state("degraded", "open", 3));
        let told = |before: &ServerState, now: &ServerState| changes(Some(before), Some(now));
        assert_eq!(told(&calm, &broken), ["degraded, ready, breaker open", "writes wait in the journal"]);
        assert!(told(&broken, &state("degraded", "open", 900)).is_empty());
        assert_eq!(told(&broken, &calm), ["normal, ready, breaker closed", "the journal is empty again"]);
    }

    #[test]
    fn a_server_that_falls_silent_and_comes_back_is_told() {
        let calm = state("normal", "closed", 0);
        assert_eq!(changes(Some(&calm), None), ["does not answer any more"]);
        assert!(changes(None, None).is_empty());
        assert_eq!(changes(None, Some(&calm)), ["answers again, normal, ready, breaker closed"]);
    }
}
