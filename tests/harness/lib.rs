//! What the end-to-end tests share: real processes on a private PostgreSQL, an HTTP client with a deadline on
//! everything, and the check of what the processes logged. It holds no tests and judges
//! no behaviour of its own.
//!
//! - [`stack`]: the [`Lab`](stack::Lab), in which one test runs. START HERE. [`app`]: one server or proxy in it.
//!   [`launch`]: programs as child processes.
//! - [`http`]: requests and answers. [`browser`]: what a person would see. [`logs`]: what must not be said.
//! - For tests of the library without its server: [`wire`]: a road that knows messages, which is the chaos suite's.
//!   [`daemon`]: programs beside PostgreSQL, among them a [`pooler`], a broker of [`nats`]
//!   and a cluster of [`patroni`].

pub mod stack;

pub mod app;
pub mod browser;
pub mod daemon;
pub mod http;
pub mod launch;
pub mod logs;
pub mod nats;
pub mod patroni;
pub mod pooler;
pub mod wire;

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Between two looks at something that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(15);

/// Looks again and again until `look` gives a value.
///
/// # Panics
/// After `limit`, with `what` in the message.
///
/// # Cancel safety
/// Drops what `look` is doing.
pub async fn until<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {limit:?}");
        sleep(LOOK_EVERY).await;
    }
}

/// Panics when `future` takes longer than `limit`.
///
/// # Panics
/// After `limit`, with `what` in the message.
///
/// # Cancel safety
/// As that of `future`.
pub async fn within<T>(what: &str, limit: Duration, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| panic!("{what}: not within {limit:?}"))
}

/// The seed of a test with random parts: from `RIDETHROUGH_TEST_SEED`, else a new one; printed, so that a failed run can
/// be repeated.
#[must_use]
pub fn seed() -> u64 {
    use std::io::Write as _;

    let given = std::env::var("RIDETHROUGH_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(fastrand::u32(..)));
    let _ = writeln!(std::io::stderr().lock(), "seed {seed}; again with RIDETHROUGH_TEST_SEED={seed}");
    seed
}
