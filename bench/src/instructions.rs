//! What one call costs in instructions and in allocations, which do not depend on how busy the machine is: this program
//! runs itself under valgrind with two numbers of calls, and the difference is that of the calls.
//!
//! Where valgrind is not installed, it says so and goes on.

use std::{fmt::Write as _, hint::black_box, process::Command, sync::Arc, time::Duration};

use failsafe::CircuitBreaker as _;
use recloser::Recloser;
use ridethrough::{
    breaker::{Breaker, BreakerConfig, CallResult},
    budget::{RetryBudget, RetryBudgetConfig},
    bulkhead::{Bulkhead, BulkheadConfig, Ended, Priority},
    metrics::bench,
};
use tokio::time::Instant;

use crate::{path::Path, peers};

/// Names of what [`only`] repeats, ours first.
const CALLS: [&str; 13] = [
    "ridethrough: breaker closed, admit and record",
    "ridethrough: breaker closed, admit_owned and record",
    "ridethrough: breaker open, rejection",
    "ridethrough: retry budget, deposit",
    "ridethrough: bulkhead, enter and leave",
    "ridethrough: metrics of one call",
    "ridethrough: the whole path around an empty query",
    "one clock read",
    "the loop alone, with a breaker and two times",
    "recloser: closed, call succeeds",
    "failsafe: closed, call succeeds",
    "nobreak: closed, call succeeds",
    "tower-resilience-circuitbreaker: closed, call succeeds",
];
/// The path alone is counted, without what a timer does beside it: handing the recorder the times of its calls.
const PATH: &str = CALLS[6];
const TOGGLE: &str = "--toggle-collect=ridethrough_bench::path::whole::Path::call";
/// Calls between two of those; more, and a call hands them over itself.
const PUBLISHED: u64 = 400;
const FEW: u64 = 10_000;
const MANY: u64 = 60_000;

/// Makes the call of that name so many times and nothing else; false where there is none of that name.
pub fn only(name: &str, calls: u64) -> bool {
    let now = Instant::now();
    let breaker = Breaker::new("bench", BreakerConfig::default(), now);
    match CALLS.iter().position(|known| *known == name) {
        Some(0) => repeat(calls, || {
            if let Ok(admission) = black_box(&breaker).admit(black_box(now)) {
                admission.record(CallResult::Success, black_box(now));
            }
        }),
        Some(1) => repeat(calls, || {
            if let Ok(admission) = black_box(&breaker).admit_owned(black_box(now)) {
                admission.record(CallResult::Success, black_box(now));
            }
        }),
        Some(2) => {
            breaker.probe_failed(now, now + Duration::from_secs(3_600));
            repeat(calls, || {
                if let Err(open) = black_box(&breaker).admit(black_box(now)) {
                    black_box(&open);
                }
            });
        }
        Some(3) => {
            let budget = RetryBudget::new(RetryBudgetConfig::default(), now);
            repeat(calls, || black_box(&budget).deposit(black_box(now)));
        }
        Some(4) => enter_and_leave(calls, now),
        Some(5) => {
            let _recorder = peers::recorder();
            repeat(calls, || {
                bench::db_attempt();
                bench::fresh_read("bench", black_box(Duration::from_micros(700)));
            });
        }
        Some(6) => {
            let _recorder = peers::recorder();
            let path = Path::new();
            path.get_busy();
            for call in 0..calls {
                path.call();
                if call % PUBLISHED == 0 {
                    ridethrough::metrics::publish();
                }
            }
        }
        Some(7) => repeat(calls, || {
            black_box(Instant::now());
        }),
        Some(8) => repeat(calls, || {
            black_box(&**black_box(&breaker));
            black_box(now);
            black_box(now);
        }),
        Some(9) => {
            let recloser = Recloser::default();
            repeat(calls, || drop(black_box(recloser.call(peers::succeed))));
        }
        Some(10) => {
            let failsafe = failsafe::Config::new().build();
            repeat(calls, || drop(black_box(failsafe.call(peers::succeed))));
        }
        Some(11) => {
            let nobreak = nobreak::breaker();
            repeat(calls, || drop(black_box(nobreak.call(peers::succeed))));
        }
        Some(12) => drop(peers::tower_resilience(1, calls as u32)),
        _ => return false,
    }
    true
}

fn enter_and_leave(calls: u64, now: Instant) {
    let bulkhead: Arc<Bulkhead> = Bulkhead::new(BulkheadConfig::default(), now);
    let deadline = ridethrough::Deadline::after(now, Duration::from_secs(3_600));
    repeat(calls, || {
        if let Ok(permit) =
            black_box(&bulkhead).try_acquire(Priority::Interactive, black_box(deadline), black_box(now))
        {
            permit.finish(Ended::Answered, black_box(now));
        }
    });
}

#[inline(never)]
fn repeat(calls: u64, call: impl Fn()) {
    for _ in 0..calls {
        call();
    }
}

/// The table, or the reason why there is none.
pub fn table() -> String {
    let mut text =
        "one call under valgrind: instructions (with the loop around it), allocations\n".to_owned();
    for name in CALLS {
        let mut callgrind = vec!["--tool=callgrind", "--callgrind-out-file=/dev/null"];
        callgrind.extend((name == PATH).then_some(TOGGLE));
        let instructions = per_call(name, &callgrind, "Collected :");
        let allocations = per_call(name, &["--leak-check=no"], "total heap usage:");
        match (instructions, allocations) {
            (Some(instructions), Some(allocations)) => {
                let _ = writeln!(text, "  {name:<56} {instructions:>8.1} {allocations:>8.2}");
            }
            _ => return "one call under valgrind: valgrind is not installed, or did not run\n".to_owned(),
        }
    }
    text
}

/// The number that valgrind gives after `mark`, for one call.
fn per_call(name: &str, arguments: &[&str], mark: &str) -> Option<f64> {
    let counted = |calls: u64| -> Option<f64> {
        let this = std::env::current_exe().ok()?;
        let calls = calls.to_string();
        let output =
            Command::new("valgrind").args(arguments).arg(this).args(["only", name, &calls]).output().ok()?;
        let text = String::from_utf8(output.stderr).ok()?;
        let (_, after) = text.split_once(mark)?;
        after.split_whitespace().next()?.replace(',', "").parse().ok()
    };
    Some((counted(MANY)? - counted(FEW)?) / (MANY - FEW) as f64)
}
