//! The parts that run beside a service, handed to `main` to spawn. What each of them does is in a file of its own.

use futures_util::future::BoxFuture;

use super::{Keeper, Listener, Prober, Reaper, Refresher, Replay};
use crate::drain::Draining;

/// The parts that must run beside the service; each is a future for `main` to spawn.
#[derive(Debug)]
#[must_use = "without its background parts the database is never seen again after an outage"]
pub struct Background {
    /// Watches the database on a connection of its own.
    pub prober: Prober,
    /// Applies journaled writes.
    pub replay: Replay,
    /// Ends what abandoned calls left running.
    pub reaper: Reaper,
    /// Asks anew for answers that are served from the cache; idle where no query's policy says so.
    pub refresher: Refresher,
    /// Hears what other replicas changed.
    pub listener: Listener,
    /// Keeps the read cache over a restart.
    pub keeper: Keeper,
}

impl Background {
    /// All of them by name, each to be spawned as a task of its own; they end after the drain was requested.
    ///
    /// ```no_run
    /// # use ridethrough::{db::Background, drain::Drain};
    /// # fn example(background: Background) {
    /// let (drain, draining) = Drain::new();
    /// for (_name, part) in background.parts(&draining) {
    ///     tokio::spawn(part);
    /// }
    /// # }
    /// ```
    pub fn parts(self, draining: &Draining) -> [(&'static str, BoxFuture<'static, ()>); 6] {
        let Self { prober, replay, reaper, refresher, listener, keeper } = self;
        [
            ("prober", Box::pin(prober.run(draining.clone()))),
            ("replay", Box::pin(replay.run(draining.clone()))),
            ("reaper", Box::pin(reaper.run(draining.clone()))),
            ("refresher", Box::pin(refresher.run(draining.clone()))),
            ("listener", Box::pin(listener.run(draining.clone()))),
            ("keeper", Box::pin(keeper.run(draining.clone()))),
        ]
    }
}
