//! Unused connections of one backend: last in, first out, bounded in number and in age.
//!
//! It opens nothing and checks nothing but age; whether a connection is still open is found out by whoever takes it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::connection::Connection;

/// A backend that closes a connection after so long must not do so while a request is on its way to it.
const CLOSING_TIME: Duration = Duration::from_secs(1);

/// Last in, first out: the connection used last is the one most surely alive, and the surplus of a busy minute grows
/// old and goes.
#[derive(Debug)]
pub(super) struct Pool<C = Connection> {
    idle_max: usize,
    idle: Duration,
    /// The one used last is last; each with the moment at which it is too old.
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

    /// Keeps a connection that is free again, for less time than the backend says that it does.
    pub(super) fn put(&self, connection: Connection, kept_there: Option<Duration>, now: Instant) {
        if !connection.is_closed() {
            self.put_any(connection, kept_there, now);
        }
    }

    /// Drops what is too old or closed.
    pub(super) fn sweep(&self, now: Instant) {
        self.lock().retain(|(connection, until)| !connection.is_closed() && now < *until);
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
        while let Some((connection, until)) = connections.pop() {
            if now < until {
                return Some(connection);
            }
        }
        None
    }

    fn put_any(&self, connection: C, kept_there: Option<Duration>, now: Instant) {
        let idle = kept_there.map_or(self.idle, |kept| kept.saturating_sub(CLOSING_TIME).min(self.idle));
        let mut connections = self.lock();
        if connections.len() < self.idle_max && !idle.is_zero() {
            connections.push((connection, now + idle));
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
        pool.put_any("old", None, now);
        pool.put_any("new", None, now + Duration::from_secs(1));
        assert_eq!(pool.take_any(now + Duration::from_secs(2)), Some("new"));
        assert_eq!(pool.take_any(now + Duration::from_secs(2)), Some("old"));
        assert_eq!(pool.take_any(now), None);
    }

    #[test]
    fn what_is_too_old_goes_and_takes_the_older_with_it() {
        let (pool, now) = (Pool::new(8, Duration::from_secs(4)), Instant::now());
        pool.put_any("older", None, now);
        pool.put_any("old", None, now);
        assert_eq!(pool.take_any(now + Duration::from_secs(4)), None);
        assert_eq!(pool.len(), 0);
    }

    #[test]
    fn a_connection_goes_before_the_backend_closes_it() {
        let (pool, now) = (Pool::new(8, Duration::from_secs(4)), Instant::now());
        pool.put_any("long", Some(Duration::from_secs(60)), now);
        pool.put_any("short", Some(Duration::from_secs(3)), now);
        pool.put_any("at once", Some(Duration::from_secs(1)), now);
        assert_eq!(pool.len(), 2);
        assert_eq!(pool.take_any(now + Duration::from_secs(2)), Some("long"));
        assert_eq!(pool.take_any(now), None);
    }

    #[test]
    fn the_number_is_bounded() {
        let (pool, now) = (Pool::new(2, Duration::from_secs(4)), Instant::now());
        for connection in 0..5 {
            pool.put_any(connection, None, now);
        }
        assert_eq!(pool.len(), 2);
    }
}
