//! Atomics, the lock, and the place of a thread among sharded counters, under one name each.
//!
//! The policies name these and not the standard library's, so that a test can put instrumented ones in their place and
//! walk through the interleavings. It holds no policy and counts nothing.

use std::sync::PoisonError;

pub(crate) use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    thread_local,
};

/// Places for threads. A place is a few hundred bytes in every counter, so there are not more than help.
pub(crate) const PLACES: usize = 32;
/// Places that belong to one thread each, which then counts without a locked instruction. The rest is shared by all
/// threads beyond that number.
const EXCLUSIVE: usize = 24;

/// Where a thread counts. Kept in a thread-local value, so that it is given back when the thread ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Below [`PLACES`].
    index: usize,
}

/// Exclusive places that nobody has, and the next shared one to give out.
static FREE: Mutex<Register> = Mutex::new(Register { given: 0, left: Vec::new(), shared: 0 });

struct Register {
    given: usize,
    left: Vec<usize>,
    shared: usize,
}

impl Place {
    /// A place of the caller's own, where there is one left.
    pub(crate) fn take() -> Self {
        Self { index: register().take() }
    }

    /// A place that others count in too: for a thread that is about to end and gave its own back.
    pub(crate) fn shared() -> Self {
        Self { index: register().take_shared() }
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }
}

/// Whether no other thread writes at that place while it is held.
#[inline]
pub(crate) fn is_exclusive(index: usize) -> bool {
    index < EXCLUSIVE
}

/// The lock of the register orders the counts of one owner before those of the next.
impl Drop for Place {
    fn drop(&mut self) {
        if is_exclusive(self.index) {
            register().left.push(self.index);
        }
    }
}

impl Register {
    fn take(&mut self) -> usize {
        if let Some(index) = self.left.pop() {
            return index;
        }
        if self.given < EXCLUSIVE {
            self.given += 1;
            return self.given - 1;
        }
        self.take_shared()
    }

    fn take_shared(&mut self) -> usize {
        self.shared = (self.shared + 1) % (PLACES - EXCLUSIVE);
        EXCLUSIVE + self.shared
    }
}

fn register() -> MutexGuard<'static, Register> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::Barrier, thread};

    use super::*;

    #[test]
    fn threads_that_live_at_once_never_share_an_exclusive_place() {
        let barrier = Barrier::new(60);
        let places: Vec<Place> = thread::scope(|scope| {
            let one = || {
                let mine = Place::take();
                barrier.wait();
                mine
            };
            let threads: Vec<_> = (0..60).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let exclusive: Vec<usize> =
            places.iter().map(Place::index).filter(|index| is_exclusive(*index)).collect();
        let distinct: HashSet<usize> = exclusive.iter().copied().collect();
        assert_eq!(distinct.len(), exclusive.len());
        assert!(places.iter().all(|place| place.index() < PLACES));
    }

    /// Were places not given back, a service that starts short-lived threads would soon count with locked instructions.
    #[test]
    fn places_of_threads_that_ended_are_used_again() {
        let exclusive = (0..EXCLUSIVE * 4)
            .filter(|_| thread::spawn(|| is_exclusive(Place::take().index())).join().unwrap())
            .count();
        assert!(exclusive > EXCLUSIVE, "only {exclusive} of {} had a place of their own", EXCLUSIVE * 4);
    }
}
