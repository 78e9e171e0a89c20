//! The retry budget: how many retries the traffic of the last seconds has earned.
//!
//! It keeps retries a bounded share of the traffic, so that they cannot turn a brown-out into an outage. It does not
//! choose delays (`backoff`) nor decide what may be retried (`db`). A deposit, which every call makes, takes no lock;
//! a withdrawal, which only a failed call makes, does.
//!
//! Defaults, metrics and what not to do: `docs/patterns/retry-and-budget.md`.

use std::{sync::PoisonError, time::Duration};

use tokio::time::Instant;

use crate::{
    sabotage::{self, Bug},
    sliding::{BUCKETS, Sliding, Ticks},
    sync::{Mutex, MutexGuard},
};

/// How much traffic earns a retry.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize, serde::Serialize),
    serde(default, deny_unknown_fields)
)]
pub struct RetryBudgetConfig {
    /// Retries earned by one call, 0.0 to 1.0. Default 0.2: at most one retry for five calls.
    pub ratio: f64,
    /// Retries per second that are there without any traffic. Default 2, so that a quiet service can retry at all.
    pub floor_per_second: f64,
    /// Balance is kept for this much traffic at the most. Default 10 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub window: Duration,
}

impl Default for RetryBudgetConfig {
    fn default() -> Self {
        Self { ratio: 0.2, floor_per_second: 2.0, window: Duration::from_secs(10) }
    }
}

/// A balance of retries, shared by all callers of one database, whatever layer they retry in.
///
/// ```
/// use ridethrough::budget::{RetryBudget, RetryBudgetConfig};
/// use tokio::time::Instant;
///
/// let now = Instant::now();
/// let config = RetryBudgetConfig { ratio: 0.5, floor_per_second: 0.0, ..RetryBudgetConfig::default() };
/// let budget = RetryBudget::new(config, now);
/// budget.deposit(now);
/// assert!(!budget.withdraw(now), "half a retry is none");
/// budget.deposit(now);
/// assert!(budget.withdraw(now));
/// ```
#[derive(Debug)]
pub struct RetryBudget {
    config: RetryBudgetConfig,
    calls: Sliding,
    account: Mutex<Account>,
}

#[derive(Debug)]
struct Account {
    /// Retries that can be withdrawn now; never above the cap.
    balance: f64,
    settled_at: Instant,
    /// Calls of the window that the balance holds already, tick by tick.
    credited: [(u64, u64); BUCKETS as usize],
    is_frozen: bool,
}

/// [`Sliding`] tells generations apart; a budget has only one.
const GENERATION: u64 = 1;

impl RetryBudget {
    /// A budget that starts with its floor, as of `now`.
    #[must_use]
    pub fn new(config: RetryBudgetConfig, now: Instant) -> Self {
        let account = Account {
            balance: config.floor_per_second,
            settled_at: now,
            credited: [(0, 0); BUCKETS as usize],
            is_frozen: false,
        };
        let calls = Sliding::new(Ticks::new(config.window, now));
        Self { calls, account: Mutex::new(account), config }
    }

    /// Credits one call. Call it for first attempts only: neither for retries nor for rejections.
    #[inline]
    pub fn deposit(&self, now: Instant) {
        self.calls.add(GENERATION, now);
    }

    /// Takes one retry out, or answers false where the balance does not hold one or is frozen.
    #[must_use = "a retry that was not paid for must not be made"]
    pub fn withdraw(&self, now: Instant) -> bool {
        if sabotage::planted(Bug::RetryWithoutBudget) {
            return true;
        }
        let mut account = self.settled(now);
        if account.is_frozen || account.balance < 1.0 {
            return false;
        }
        account.balance -= 1.0;
        true
    }

    /// Stops withdrawals, and the growth of the balance, while there is nobody to retry against: else the calls of an
    /// outage would save up retries for the moment in which the other side can bear them least. Freezing again does
    /// nothing.
    pub fn freeze(&self, now: Instant) {
        self.settled(now).is_frozen = true;
    }

    /// Ends what [`RetryBudget::freeze`] began; the balance is what it was then.
    pub fn thaw(&self, now: Instant) {
        self.settled(now).is_frozen = false;
    }

    /// Whether it is frozen.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.account().is_frozen
    }

    /// Retries that could be made now. For metrics. While frozen: those that were left.
    #[must_use]
    pub fn balance(&self, now: Instant) -> f64 {
        self.settled(now).balance
    }

    /// Credits the floor and the calls since the last settlement, and cuts the balance to what the window is worth.
    fn settled(&self, now: Instant) -> MutexGuard<'_, Account> {
        let mut account = self.account();
        // Callers bring times that differ a little; the account's own never goes back.
        let now = now.max(account.settled_at);
        let calls = self.calls.by_tick(GENERATION, now);
        if !account.is_frozen {
            let elapsed = now.saturating_duration_since(account.settled_at).as_secs_f64();
            let fresh: u64 =
                calls.iter().map(|&(tick, count)| count - account.credited_in(tick).min(count)).sum();
            let earned = elapsed * self.config.floor_per_second + fresh as f64 * self.config.ratio;
            let in_window: u64 = calls.iter().map(|(_, count)| count).sum();
            account.balance = (account.balance + earned).min(self.cap(in_window));
        }
        account.credited = calls;
        account.settled_at = now;
        account
    }

    fn cap(&self, calls: u64) -> f64 {
        let floor = self.config.floor_per_second * self.config.window.as_secs_f64();
        (floor + calls as f64 * self.config.ratio).max(1.0)
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    fn credited_in(&self, tick: u64) -> u64 {
        self.credited.iter().filter(|(at, _)| *at == tick).map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn budget(ratio: f64, floor: f64, now: Instant) -> RetryBudget {
        RetryBudget::new(
            RetryBudgetConfig { ratio, floor_per_second: floor, ..RetryBudgetConfig::default() },
            now,
        )
    }

    #[test]
    fn retries_stay_a_share_of_the_calls() {
        let now = Instant::now();
        let budget = budget(0.2, 0.0, now);
        for _ in 0..100 {
            budget.deposit(now);
        }
        let granted = (0..100).filter(|_| budget.withdraw(now)).count();
        assert!((19..=20).contains(&granted), "100 calls at 0.2 earned {granted}");
    }

    #[test]
    fn the_floor_alone_grants_retries_per_second() {
        let now = Instant::now();
        let budget = budget(0.0, 2.0, now);
        assert!(budget.withdraw(now) && budget.withdraw(now));
        assert!(!budget.withdraw(now));
        assert!(budget.withdraw(now + SECOND));
    }

    #[test]
    fn unspent_balance_is_capped_by_the_window() {
        let start = Instant::now();
        let budget = budget(0.0, 2.0, start);
        assert!(budget.balance(start + SECOND * 3600) <= 20.0);
    }

    #[test]
    fn earnings_of_an_hour_ago_are_gone() {
        let start = Instant::now();
        let budget = budget(0.2, 0.0, start);
        for _ in 0..1000 {
            budget.deposit(start);
        }
        assert!(budget.balance(start) > 199.0);
        assert!(budget.balance(start + SECOND * 3600) <= 1.0);
    }

    #[test]
    fn a_burst_after_a_quiet_hour_earns_as_much_as_ever() {
        let start = Instant::now();
        let budget = budget(0.2, 0.0, start);
        let later = start + SECOND * 3600;
        for _ in 0..100 {
            budget.deposit(later);
        }
        assert!((19.9..=20.1).contains(&budget.balance(later)));
    }

    /// The calls of a long outage once saved up retries, which were all made in the second in which it ended.
    #[test]
    fn an_outage_saves_up_no_retries() {
        let start = Instant::now();
        let budget = budget(0.2, 2.0, start);
        (0..50).for_each(|_| budget.deposit(start));
        budget.freeze(start);
        let before = budget.balance(start);
        for second in 1..=60 {
            let now = start + SECOND * second;
            (0..1_000).for_each(|_| budget.deposit(now));
            assert!(!budget.withdraw(now), "a withdrawal while frozen");
        }
        let end = start + SECOND * 60;
        budget.thaw(end);
        assert!((budget.balance(end) - before).abs() < 1e-9);
        assert!(budget.withdraw(end));
    }

    #[test]
    fn deposits_of_many_threads_all_count() {
        let now = Instant::now();
        let budget = budget(0.1, 0.0, now);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..1_000).for_each(|_| budget.deposit(now)));
            }
        });
        assert!((budget.balance(now) - 800.0).abs() < 1e-6);
    }

    proptest! {
        /// In whatever order things happen, no more is granted than the floor and the calls can have earned.
        #[test]
        fn nothing_is_granted_that_was_not_earned(steps in prop::collection::vec((0u8..8, 0u64..3_000), 1..300)) {
            let start = Instant::now();
            let budget = budget(0.2, 2.0, start);
            let (mut now, mut calls, mut granted, mut thawed, mut frozen) = (start, 0u32, 0u32, Duration::ZERO, false);
            for (step, pause) in steps {
                let pause = Duration::from_millis(pause);
                now += pause;
                if !frozen {
                    thawed += pause;
                }
                match step {
                    0..=3 => { budget.deposit(now); calls += 1; }
                    4 | 5 => {
                        let was_granted = budget.withdraw(now);
                        prop_assert!(!(was_granted && frozen));
                        granted += u32::from(was_granted);
                    }
                    6 => { budget.freeze(now); frozen = true; }
                    _ => { budget.thaw(now); frozen = false; }
                }
                let earned = 2.0 + thawed.as_secs_f64() * 2.0 + f64::from(calls) * 0.2;
                prop_assert!(f64::from(granted) <= earned + 1e-6, "{granted} of {earned}");
                prop_assert!(budget.balance(now) >= 0.0);
            }
        }
    }
}
