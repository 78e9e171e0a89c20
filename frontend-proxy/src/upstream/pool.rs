//! Unused connections of one backend: last in, first out, bounded in number and in age.
//!
//! It opens nothing and checks nothing but age; whether a connection is still open is found out by whoever takes it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::connection::Connection;

/// Last in, first out: the connection used last is the one most surely alive, and the surplus of a busy minute grows
/// old and goes.
#[derive(Debug)]
pub(super) struct Pool<C = Connection> {
    idle_max: usize,
    idle: Duration,
    /// Oldest first.
    connections: Mutex<Vec<(C, Instant)>>,
}

impl Pool<Connection> {
    /// Takes the connection used last, if it is young enough and not known to be closed.
    pub(super) fn take(&self, now: Instant) -> Option<Connection> {
        while let Some(mut connection) = self.take_any(now) {
            if !connection.is_closed() {
                connection.mark_reused();
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection that is free again.
    pub(super) fn put(&self, connection: Connection, now: Instant) {
        if !connection.is_closed() {
            self.put_any(connection, now);
        }
    }

    /// Drops what is too old or closed.
    pub(super) fn sweep(&self, now: Instant) {
        let idle = self.idle;
        self.lock().retain(|(connection, since)| {
            !connection.is_closed() && now.saturating_duration_since(*since) < idle
        });
    }
}

impl<C> Pool<C> {
    pub(super) fn new(idle_max: usize, idle: Duration) -> Self {
        Self { idle_max, idle, connections: Mutex::new(Vec::new()) }
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn clear(&self) {
        let dropped = std::mem::take(&mut *self.lock());
        drop(dropped);
    }

    fn take_any(&self, now: Instant) -> Option<C> {
        let mut connections = self.lock();
        let (connection, since) = connections.pop()?;
        if now.saturating_duration_since(since) < self.idle {
            return Some(connection);
        }
        // What lies below is older still.
        connections.clear();
        None
    }

    fn put_any(&self, connection: C, now: Instant) {
        let mut connections = self.lock();
        if connections.len() < self.idle_max {
            connections.push((connection, now));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(C, Instant)>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_used_last_is_taken_first() {
        let (pool, now) = (Pool::new(8, Duration::from_secs(4)), Instant::now());
        pool.put_any("old", now);
        pool.put_any("new", now + Duration::from_secs(1));
        assert_eq!(pool.take_any(now + Duration::from_secs(2)), Some("new"));
        assert_eq!(pool.take_any(now + Duration::from_secs(2)), Some("old"));
        assert_eq!(pool.take_any(now), None);
    }

    #[test]
    fn what_is_too_old_goes_and_takes_the_older_with_it() {
        let (pool, now) = (Pool::new(8, Duration::from_secs(4)), Instant::now());
        pool.put_any("older", now);
        pool.put_any("old", now);
        assert_eq!(pool.take_any(now + Duration::from_secs(4)), None);
        assert_eq!(pool.len(), 0);
    }

    #[test]
    fn the_number_is_bounded() {
        let (pool, now) = (Pool::new(2, Duration::from_secs(4)), Instant::now());
        for connection in 0..5 {
            pool.put_any(connection, now);
        }
        assert_eq!(pool.len(), 2);
    }
}
