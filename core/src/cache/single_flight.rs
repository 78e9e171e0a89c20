//! Single flight: of those who ask for one key at the same time one asks the database, and the others wait for what it
//! brings into the cache. It moves no answers and knows no policy.
//!
//! Whoever leads and goes away, or fails, hands over to the next; so no key is ever stuck behind a caller that has left, and
//! a failure is not followed by all at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::{CacheKey, StaleReason};

/// Keys in flight at the most; whoever comes with another one asks by itself.
const FLIGHTS_MAX: usize = 4_096;

/// The keys that are being asked for.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<CacheKey, InFlight>>);

#[derive(Debug)]
struct InFlight {
    shared: Arc<Shared>,
    members: usize,
}

#[derive(Debug)]
struct Shared {
    /// One permit: whoever holds it leads. Closed when the answer has come.
    lead: Semaphore,
    /// It was an old answer, because asking failed.
    stale: OnceLock<StaleReason>,
}

/// A place among those who ask for one key.
#[derive(Debug)]
#[must_use = "who gives the place back at once neither leads nor waits"]
pub(crate) struct Flight<'f> {
    flights: &'f Flights,
    key: CacheKey,
    shared: Arc<Shared>,
}

impl Flights {
    /// Joins those who ask for `key`, or begins; `None` where too many keys are in flight.
    pub(crate) fn join(&self, key: &CacheKey) -> Option<Flight<'_>> {
        self.with(|open| {
            if !open.contains_key(key) && open.len() >= FLIGHTS_MAX {
                return None;
            }
            let shared = || Arc::new(Shared { lead: Semaphore::new(1), stale: OnceLock::new() });
            let new = || InFlight { shared: shared(), members: 0 };
            let flight = open.entry(key.clone()).or_insert_with(new);
            flight.members += 1;
            Some(Flight { flights: self, key: key.clone(), shared: Arc::clone(&flight.shared) })
        })
    }

    /// Begins where nobody asks for `key` yet.
    pub(crate) fn begin(&self, key: &CacheKey) -> Option<Flight<'_>> {
        if self.with(|open| open.contains_key(key)) { None } else { self.join(key) }
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<CacheKey, InFlight>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Flight<'_> {
    /// Waits for the lead; `None` where another one has led to the end meanwhile. Dropped before [`end`](Self::end), the
    /// lead goes to the next.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.shared.lead.acquire().await.ok()
    }

    /// The lead, where nobody has it.
    pub(crate) fn lead_now(&self) -> Option<SemaphorePermit<'_>> {
        self.shared.lead.try_acquire().ok()
    }

    /// The answer has come, an old one where there is a reason for that: whoever waits goes on, and whoever comes now begins
    /// anew.
    pub(crate) fn end(&self, stale: Option<StaleReason>) {
        if let Some(reason) = stale {
            let _ = self.shared.stale.set(reason);
        }
        self.flights.with(|open| {
            if self.is_in(open) {
                open.remove(&self.key);
            }
        });
        self.shared.lead.close();
    }

    /// Why the answer that ended it was an old one, if it was.
    pub(crate) fn was_stale(&self) -> Option<StaleReason> {
        self.shared.stale.get().copied()
    }

    fn is_in(&self, open: &HashMap<CacheKey, InFlight>) -> bool {
        open.get(&self.key).is_some_and(|flight| Arc::ptr_eq(&flight.shared, &self.shared))
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.flights.with(|open| {
            if !self.is_in(open) {
                return;
            }
            let left = open.get_mut(&self.key).map_or(0, |flight| {
                flight.members -= 1;
                flight.members
            });
            if left == 0 {
                open.remove(&self.key);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn key(number: usize) -> CacheKey {
        CacheKey::shared(number)
    }

    #[test]
    fn one_leads_and_all_others_go_on_at_its_end() {
        let flights = Flights::default();
        let (first, second, third) =
            (flights.join(&key(1)).unwrap(), flights.join(&key(1)).unwrap(), flights.join(&key(1)).unwrap());
        let lead = first.turn().now_or_never().unwrap();
        assert!(lead.is_some() && second.lead_now().is_none());
        let (mut waits, mut waits_too) = (Box::pin(second.turn()), Box::pin(third.turn()));
        assert!((&mut waits).now_or_never().is_none() && (&mut waits_too).now_or_never().is_none());
        assert!(flights.begin(&key(1)).is_none() && flights.begin(&key(2)).is_some());
        first.end(None);
        assert!(waits.now_or_never().unwrap().is_none() && waits_too.now_or_never().unwrap().is_none());
        let anew = flights.begin(&key(1)).unwrap();
        assert!(anew.lead_now().is_some(), "whoever comes after the end begins anew");
    }

    #[test]
    fn a_leader_that_goes_away_hands_over_and_the_last_one_leaves_nothing_behind() {
        let flights = Flights::default();
        let (first, second, third) =
            (flights.join(&key(1)).unwrap(), flights.join(&key(1)).unwrap(), flights.join(&key(1)).unwrap());
        let lead = first.lead_now().unwrap();
        let mut gone = Box::pin(second.turn());
        let mut next = Box::pin(third.turn());
        assert!((&mut gone).now_or_never().is_none() && (&mut next).now_or_never().is_none());
        drop(gone);
        drop(lead);
        drop(first);
        assert!(next.as_mut().now_or_never().unwrap().is_some(), "it leads, though one before it has left");
        drop(next);
        drop((second, third));
        assert!(flights.with(|open| open.is_empty()));
    }

    #[test]
    fn the_number_of_keys_in_flight_has_a_bound() {
        let flights = Flights::default();
        let all: Vec<_> = (0..FLIGHTS_MAX).map(|number| flights.join(&key(number)).unwrap()).collect();
        assert!(flights.join(&key(FLIGHTS_MAX)).is_none() && flights.join(&key(0)).is_some());
        drop(all);
        assert!(flights.with(|open| open.is_empty()));
    }
}
