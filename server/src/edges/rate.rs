//! How often each principal may ask: a bucket of tokens for each, filled at a steady rate, in a table with a bound. It reads
//! no clock. Who a principal is stands in `identity`.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::identity::Principal;

/// Buckets that are not full. Who comes when there are so many shares one with all others who do.
const PRINCIPALS_MAX: usize = 10_000;

/// The buckets of all principals.
#[derive(Debug)]
pub(super) struct Rate {
    /// In which one token is filled in.
    every: Duration,
    /// In which an empty bucket is full.
    whole: Duration,
    table: Mutex<Table>,
}

/// A bucket is told by the instant at which it will be full: one that is full already need not be remembered.
#[derive(Debug, Default)]
struct Table {
    full_at: HashMap<Principal, Instant>,
    others_full_at: Option<Instant>,
    swept_at: Option<Instant>,
}

impl Rate {
    /// `per_second` tokens a second, `burst` at the most, at least one; none where any number is allowed.
    pub(super) fn new(per_second: u32, burst: u32) -> Option<Self> {
        let every = Duration::from_secs(1).checked_div(per_second)?;
        Some(Self { every, whole: every * burst.max(1), table: Mutex::default() })
    }

    /// Takes one token of this principal's.
    ///
    /// # Errors
    /// The time until there is one.
    pub(super) fn take(&self, principal: Principal, now: Instant) -> Result<(), Duration> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if !table.full_at.contains_key(&principal) {
            table.sweep(now, self.whole);
        }
        let has_place = table.full_at.len() < PRINCIPALS_MAX || table.full_at.contains_key(&principal);
        let full_at = match has_place {
            true => table.full_at.entry(principal).or_insert(now),
            false => table.others_full_at.get_or_insert(now),
        };
        let next = (*full_at).max(now) + self.every;
        match (next - now).checked_sub(self.whole) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                *full_at = next;
                Ok(())
            }
        }
    }
}

impl Table {
    /// Forgets full buckets where there are too many, and looks through them no more often than they can fill.
    fn sweep(&mut self, now: Instant, whole: Duration) {
        let is_due = self.swept_at.is_none_or(|at| now.saturating_duration_since(at) >= whole);
        if self.full_at.len() >= PRINCIPALS_MAX && is_due {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.swept_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate::new(per_second, burst).unwrap()
    }

    #[test]
    fn a_burst_is_let_through_and_then_as_many_as_are_filled_in() {
        let (rate, start) = (rate(10, 3), Instant::now());
        let ada = Principal::named("ada");
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert!((0..3).all(|_| rate.take(ada, start).is_ok()));
        assert_eq!(rate.take(ada, start), Err(Duration::from_millis(100)));
        assert_eq!(rate.take(ada, at(40)), Err(Duration::from_millis(60)), "a refusal takes nothing");
        assert_eq!(rate.take(ada, at(100)), Ok(()));
        assert!(rate.take(ada, at(100)).is_err());
        assert_eq!((0..9).filter(|_| rate.take(ada, at(60_000)).is_ok()).count(), 3);
    }

    #[test]
    fn nobody_pays_for_another() {
        let (rate, now) = (rate(1, 1), Instant::now());
        assert_eq!(rate.take(Principal::named("ada"), now), Ok(()));
        assert!(rate.take(Principal::named("ada"), now).is_err());
        assert_eq!(rate.take(Principal::named("bob"), now), Ok(()));
    }

    #[test]
    fn the_table_has_a_bound_and_nobody_gets_around_it() {
        let (rate, now) = (rate(1, 1), Instant::now());
        let of = |number: usize| Principal::named(&number.to_string());
        assert!((0..PRINCIPALS_MAX).all(|number| rate.take(of(number), now).is_ok()));
        assert_eq!(rate.take(of(PRINCIPALS_MAX), now), Ok(()), "the first of all others");
        assert!(rate.take(of(PRINCIPALS_MAX + 1), now).is_err(), "they share a bucket");
        assert!(rate.take(of(0), now).is_err(), "who has a bucket keeps it");
        let later = now + Duration::from_secs(1);
        assert_eq!(rate.take(of(PRINCIPALS_MAX + 2), later), Ok(()));
        assert_eq!(rate.table.lock().unwrap().full_at.len(), 1);
    }

    #[test]
    fn no_rate_is_none() {
        assert!(Rate::new(0, 5).is_none());
        assert_eq!(rate(5, 0).take(Principal::EVERYBODY, Instant::now()), Ok(()));
    }
}
