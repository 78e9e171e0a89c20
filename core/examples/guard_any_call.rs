//! A guard around a call of any client, and the probes for Kubernetes beside it. The client here is a plain connection to
//! PostgreSQL's port; a service puts sqlx, an HTTP client or anything else in its place.
//!
//!     DATABASE_HOST=127.0.0.1:5432 cargo run -p ridethrough --features http --example guard_any_call

use std::{
    env, io,
    time::{Duration, SystemTime},
};

use ridethrough::{
    Deadline,
    breaker::BreakerState,
    guard::{Guard, GuardConfig},
    health::{CachePart, DatabasePart, JournalPart, Life, Parts, ReadyPolicy, SchemaPart, decide},
    http::{HealthReport, Probes, Verbosity},
    judgement::{AnyError, Repeatable},
};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let Ok(host) = env::var("DATABASE_HOST") else {
        eprintln!("set DATABASE_HOST to host:port of something to call, then stop and start it");
        return Ok(());
    };
    let guard = Guard::new("database", GuardConfig::default());
    let watched = guard.clone();
    let probes = Probes::new("1.0.0", Verbosity::Full, move || report(&watched));
    for _ in 0..20 {
        let deadline = Deadline::after(Instant::now(), Duration::from_millis(500));
        // Connecting twice does no harm. A write without a key would be given to the guard without `Repeatable`.
        let called = guard.call(deadline, |_| TcpStream::connect(&host), &Repeatable(AnyError)).await;
        let said = match called {
            Ok(_) => "answered".to_owned(),
            Err(error) if error.is_rejection() => {
                format!("refused: {error}; again in {:?}", error.retry_after())
            }
            Err(error) => format!("failed ({}): {error}", error.class()),
        };
        let ready = probes.answer(&http::Method::GET, "/readyz").map(|answer| answer.status().as_u16());
        eprintln!("{said}; /readyz answers {}", ready.unwrap_or(404));
        sleep(Duration::from_millis(250)).await;
    }
    Ok(())
}

/// The database alone takes no readiness away while saved answers can be shown.
fn report(guard: &Guard) -> HealthReport {
    let breaker = guard.breaker().state(Instant::now());
    let database = match breaker {
        BreakerState::Closed => DatabasePart::Up,
        BreakerState::HalfOpen => DatabasePart::Slow,
        BreakerState::Open => DatabasePart::Away,
    };
    let parts = Parts {
        life: Life::Running,
        was_ready: true,
        database,
        cache: CachePart::Warm,
        journal: JournalPart::Ok,
        schema: SchemaPart::Ok,
    };
    HealthReport {
        health: decide(&parts, &ReadyPolicy::default()),
        since: SystemTime::now(),
        retry_after: Some(guard.breaker().retry_after(Instant::now())),
        checks: vec![("breaker", breaker.as_str())],
    }
}
