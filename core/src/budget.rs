//! The retry budget: how many retries the traffic of the last seconds has earned.
//!
//! It keeps retries a bounded share of the traffic, so that they cannot turn a brown-out into an outage. It does not
//! choose delays (`backoff`) nor decide what may be retried (`db`).

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

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

/// A balance of retries, shared by all callers of one database.
#[derive(Debug)]
pub struct RetryBudget {
    config: RetryBudgetConfig,
    account: Mutex<Account>,
}

#[derive(Debug)]
struct Account {
    /// Retries that can be withdrawn now; never above `cap`.
    balance: f64,
    /// Calls per second, smoothed over the window: what the cap is worth.
    earned_in_window: f64,
    settled_at: Instant,
}

impl RetryBudget {
    /// A budget that starts with its floor, as of `now`.
    #[must_use]
    pub fn new(config: RetryBudgetConfig, now: Instant) -> Self {
        let balance = config.floor_per_second;
        Self { config, account: Mutex::new(Account { balance, earned_in_window: 0.0, settled_at: now }) }
    }

    /// Credits one call.
    pub fn deposit(&self, now: Instant) {
        let mut account = self.settled(now);
        account.earned_in_window += self.config.ratio;
        let cap = self.cap(&account);
        account.balance = (account.balance + self.config.ratio).min(cap);
    }

    /// Takes one retry out, or answers false where the balance does not hold one.
    #[must_use = "a retry that was not paid for must not be made"]
    pub fn withdraw(&self, now: Instant) -> bool {
        let mut account = self.settled(now);
        if account.balance < 1.0 {
            return false;
        }
        account.balance -= 1.0;
        true
    }

    /// Retries that could be made now. For metrics.
    #[must_use]
    pub fn balance(&self, now: Instant) -> f64 {
        self.settled(now).balance
    }

    fn cap(&self, account: &Account) -> f64 {
        (self.config.floor_per_second * self.config.window.as_secs_f64() + account.earned_in_window).max(1.0)
    }

    /// Credits the floor for the time since the last call and lets old earnings fade.
    fn settled(&self, now: Instant) -> MutexGuard<'_, Account> {
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now.saturating_duration_since(account.settled_at).as_secs_f64();
        if elapsed > 0.0 {
            let faded = (-elapsed / self.config.window.as_secs_f64().max(0.001)).exp();
            account.earned_in_window *= faded;
            let cap = self.cap(&account);
            account.balance = (account.balance + elapsed * self.config.floor_per_second).min(cap);
            account.settled_at = now;
        }
        account
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(budget.withdraw(now + Duration::from_secs(1)));
    }

    #[test]
    fn unspent_balance_is_capped_by_the_window() {
        let start = Instant::now();
        let budget = budget(0.0, 2.0, start);
        assert!(budget.balance(start + Duration::from_secs(3600)) <= 20.0);
    }

    #[test]
    fn earnings_of_an_hour_ago_are_gone() {
        let start = Instant::now();
        let budget = budget(0.2, 0.0, start);
        for _ in 0..1000 {
            budget.deposit(start);
        }
        assert!(budget.balance(start + Duration::from_secs(3600)) <= 1.0);
    }
}
