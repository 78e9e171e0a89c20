//! How many calls must fail until a breaker rejects one: a fresh one, and one that has seen a million successes. A window
//! that slides makes the two equal once the successes are older than the window.
//!
//! Each with its defaults. Ours is told that the failures come a minute after the successes. The peers' defaults do not
//! look at time but at a number of calls, so they get the failures at once.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use failsafe::CircuitBreaker as _;
use recloser::Recloser;
use ridethrough::breaker::{Breaker, BreakerConfig, CallResult};
use tokio::time::Instant;

use crate::peers;

const SUCCESSES: u32 = 1_000_000;
/// Where a breaker has not opened by then, it is said so.
const FAILURES_MAX: u32 = 300_000;
const MINUTE: Duration = Duration::from_secs(60);

/// Something that a call goes through.
trait Guarded {
    /// Makes one call that succeeds or fails; false where it was rejected.
    fn call(&mut self, succeeds: bool) -> bool;
    /// Lets a minute go by, where time can be told.
    fn pause(&mut self) {}
}

struct Ours(Arc<Breaker>, Instant);

impl Guarded for Ours {
    fn call(&mut self, succeeds: bool) -> bool {
        let Ok(admission) = self.0.admit(self.1) else { return false };
        admission.record(if succeeds { CallResult::Success } else { CallResult::Failure }, self.1);
        true
    }

    fn pause(&mut self) {
        self.1 += MINUTE;
    }
}

/// A peer, as a function of whether the call succeeds.
struct Peer<F>(F);

impl<F: FnMut(bool) -> bool> Guarded for Peer<F> {
    fn call(&mut self, succeeds: bool) -> bool {
        self.0(succeeds)
    }
}

/// Failures until the first rejection.
fn failures(mut guarded: impl Guarded, successes: u32) -> String {
    for _ in 0..successes {
        guarded.call(true);
    }
    guarded.pause();
    match (0..=FAILURES_MAX).find(|_| !guarded.call(false)) {
        Some(failures) => failures.to_string(),
        None => format!("not within {FAILURES_MAX}"),
    }
}

fn line<G: Guarded>(text: &mut String, name: &str, new: impl Fn() -> G) {
    let (fresh, used) = (failures(new(), 0), failures(new(), SUCCESSES));
    let _ = writeln!(text, "  {name:<44} {fresh:>18} {used:>18}");
}

/// The table.
pub fn table() -> String {
    let mut text = format!(
        "failures until the first rejection, with each one's defaults\n  {:<44} {:>18} {:>18}\n",
        "", "fresh", "after 1000000 good"
    );
    let consecutive = || {
        let now = Instant::now();
        Ours(Breaker::new("bench", BreakerConfig::default(), now), now)
    };
    // Without the rule about failures in a row, the ratio decides alone.
    let ratio = || {
        let now = Instant::now();
        let config = BreakerConfig { consecutive_failures: u32::MAX, ..BreakerConfig::default() };
        Ours(Breaker::new("bench", config, now), now)
    };
    line(&mut text, "ridethrough", consecutive);
    line(&mut text, "ridethrough, by the failure ratio alone", ratio);
    line(&mut text, "recloser", || {
        let recloser = Recloser::default();
        Peer(move |succeeds| !matches!(recloser.call(|| answer(succeeds)), Err(recloser::Error::Rejected)))
    });
    line(&mut text, "failsafe", || {
        let failsafe = failsafe::Config::new().build();
        Peer(move |succeeds| !matches!(failsafe.call(|| answer(succeeds)), Err(failsafe::Error::Rejected)))
    });
    line(&mut text, "nobreak", || {
        let nobreak = nobreak::breaker();
        Peer(move |succeeds| peers::nobreak_admits(&nobreak, answer(succeeds)))
    });
    line(&mut text, "tower-resilience-circuitbreaker", || Peer(peers::tower_admits()));
    text
}

fn answer(succeeds: bool) -> Result<(), ()> {
    if succeeds { Ok(()) } else { Err(()) }
}
