//! Atomics, the lock, and the place of a thread among sharded counters, under one name each.
//!
//! The policies name these and not the standard library's, so that a test can put instrumented ones in their place and
//! walk through the interleavings. It holds no policy and counts nothing.

use std::{cell::Cell, sync::PoisonError};

pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

/// Places for threads. A place is a few hundred bytes in every counter, so there are not more than help.
pub(crate) const PLACES: usize = 32;
/// Places that belong to one thread each, which then counts without a locked instruction. The rest is shared by all
/// threads beyond that number.
const EXCLUSIVE: usize = 24;
const UNPLACED: usize = usize::MAX;

/// Where a thread counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Below [`PLACES`].
    pub(crate) index: usize,
    /// No other thread writes here while this one lives.
    pub(crate) is_exclusive: bool,
}

thread_local! {
    // No destructor here, so that a look is a plain load.
    static PLACE: Cell<usize> = const { Cell::new(UNPLACED) };
    static LEAVE: Leave = const { Leave };
}

/// Exclusive places that nobody has, and the next shared one to give out.
static FREE: Mutex<Register> = Mutex::new(Register { given: 0, left: Vec::new(), shared: 0 });

struct Register {
    given: usize,
    left: Vec<usize>,
    shared: usize,
}

/// Gives the thread's place back when the thread ends. The lock of the register orders its counts before those of the
/// next owner.
struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        let index = PLACE.replace(UNPLACED);
        if index < EXCLUSIVE {
            register().left.push(index);
        }
    }
}

/// The calling thread's place.
#[inline]
pub(crate) fn place() -> Place {
    let index = PLACE.get();
    let index = if index == UNPLACED { new_place() } else { index };
    Place { index, is_exclusive: index < EXCLUSIVE }
}

#[cold]
#[inline(never)]
fn new_place() -> usize {
    // A thread that is about to end has no guard any more that would give the place back, so it shares one.
    let can_leave = LEAVE.try_with(|_| ()).is_ok();
    let index = register().take(can_leave);
    if can_leave {
        PLACE.set(index);
    }
    index
}

impl Register {
    fn take(&mut self, can_leave: bool) -> usize {
        if can_leave {
            if let Some(index) = self.left.pop() {
                return index;
            }
            if self.given < EXCLUSIVE {
                self.given += 1;
                return self.given - 1;
            }
        }
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
                let mine = place();
                barrier.wait();
                assert_eq!(place(), mine, "a thread stays where it is");
                mine
            };
            let threads: Vec<_> = (0..60).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let exclusive: Vec<usize> =
            places.iter().filter(|place| place.is_exclusive).map(|place| place.index).collect();
        let distinct: HashSet<usize> = exclusive.iter().copied().collect();
        assert_eq!(distinct.len(), exclusive.len());
        assert!(places.iter().all(|place| place.index < PLACES));
    }

    /// Were places not given back, a service that starts short-lived threads would soon count with locked instructions.
    #[test]
    fn places_of_threads_that_ended_are_used_again() {
        let exclusive =
            (0..EXCLUSIVE * 4).filter(|_| thread::spawn(place).join().unwrap().is_exclusive).count();
        assert!(exclusive > EXCLUSIVE, "only {exclusive} of {} had a place of their own", EXCLUSIVE * 4);
    }
}
