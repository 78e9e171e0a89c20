//! The backends and the choice among them: least loaded of two, healthy ones first, never one whose breaker is open.
//!
//! It sends nothing. What is known of a backend comes from `health` (active checks) and from the results of attempts.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ridethrough::breaker::{Admission, Breaker, CallResult};
use serde_json::{Value, json};
use tokio::{sync::Notify, time::Instant};

use crate::{
    config::{Authority, Config},
    health::HealthCell,
    upstream::{AttemptError, DialError, Upstream},
};

/// One backend and what is known of it.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) index: usize,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) breaker: Arc<Breaker>,
    pub(crate) health: HealthCell,
    /// Asks for a check before its time, because a request has just failed.
    pub(crate) check_now: Notify,
}

/// All backends, in the order of the configuration.
#[derive(Debug)]
pub(crate) struct Backends(Vec<Arc<Backend>>);

/// Indices that are out of the question, one bit each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Excluded(u64);

/// A backend that may be asked. Report how it went with [`Choice::record`].
#[derive(Debug)]
#[must_use = "a choice that is dropped tells the breaker nothing"]
pub(crate) struct Choice {
    pub(crate) backend: Arc<Backend>,
    admission: Admission,
}

/// Nobody may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoBackend {
    /// Every breaker is open.
    Away,
    /// Somebody is there, but with as many requests as it may have.
    Full,
}

impl Excluded {
    pub(crate) fn with(self, index: usize) -> Self {
        Self(self.0 | 1_u64.checked_shl(index as u32).unwrap_or(0))
    }

    pub(crate) fn contains(self, index: usize) -> bool {
        self.0 & 1_u64.checked_shl(index as u32).unwrap_or(0) != 0
    }
}

impl Backend {
    fn new(index: usize, authority: Authority, config: &Config, now: Instant) -> Arc<Self> {
        // Labels live as long as the process; there are at most 64 of them.
        let label: &'static str = format!("backend-{index}").leak();
        Arc::new(Self {
            index,
            upstream: Upstream::new(label, authority, &config.backends),
            breaker: Breaker::new(label, config.breaker.for_backend(config.backends.head), now),
            health: HealthCell::new(now),
            check_now: Notify::new(),
        })
    }

    /// Time until it is worth asking again.
    fn next_chance(&self, now: Instant) -> Duration {
        let breaker = self.breaker.retry_after(now);
        if breaker.is_zero() { self.health.next_check(now) } else { breaker }
    }

    fn describe(&self, now: Instant) -> Value {
        let seen = self.health.snapshot();
        let age = now.saturating_duration_since(seen.since);
        let since =
            SystemTime::now().checked_sub(age).and_then(|since| since.duration_since(UNIX_EPOCH).ok());
        let evidence = self.breaker.evidence();
        json!({
            "backend": self.upstream.label,
            "address": self.upstream.authority.text,
            "state": seen.state.as_str(),
            "mode": seen.mode,
            "since": since.map(|since| since.as_secs()),
            "seconds_in_state": age.as_secs_f64(),
            "last_check": seen.last_check.as_deref(),
            "next_check_seconds": self.health.next_check(now).as_secs_f64(),
            "breaker": self.breaker.state(now).as_str(),
            "breaker_reason": evidence.map(|(reason, _)| reason.to_string()),
            "breaker_retry_after_seconds": self.breaker.retry_after(now).as_secs_f64(),
            "in_flight": self.upstream.load(),
            "idle_connections": self.upstream.idle_connections(),
        })
    }
}

impl Backends {
    pub(crate) fn new(authorities: Vec<Authority>, config: &Config, now: Instant) -> Self {
        let backends = authorities.into_iter().enumerate();
        Self(backends.map(|(index, authority)| Backend::new(index, authority, config, now)).collect())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.0.iter()
    }

    /// Chooses a backend to ask at `now`. Those that failed their checks come last but do come: one that says it is
    /// not ready may answer yet. Those in `avoid` come after all others.
    ///
    /// # Errors
    /// [`NoBackend`] where no breaker lets anything through, or nobody has room.
    pub(crate) fn choose(
        &self,
        avoid: Excluded,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Result<Choice, NoBackend> {
        let mut rejected = Excluded::default();
        let mut is_full = false;
        for _ in 0..self.0.len() {
            let candidates =
                self.0.iter().filter(|backend| !rejected.contains(backend.index)).map(|backend| {
                    let rank =
                        u8::from(backend.health.is_down()) + 2 * u8::from(avoid.contains(backend.index));
                    Candidate { index: backend.index, rank, load: backend.upstream.load() }
                });
            let Some(index) = least_loaded_of_two(candidates, random) else { break };
            let Some(backend) = self.0.get(index) else { break };
            if !backend.upstream.has_room() {
                is_full = true;
            } else if let Ok(admission) = backend.breaker.admit_owned(now) {
                return Ok(Choice { backend: Arc::clone(backend), admission });
            }
            rejected = rejected.with(index);
        }
        Err(if is_full { NoBackend::Full } else { NoBackend::Away })
    }

    /// Time until some backend is worth asking again.
    pub(crate) fn next_chance(&self, now: Instant) -> Duration {
        self.0.iter().map(|backend| backend.next_chance(now)).min().unwrap_or_default()
    }

    /// How long no backend has been up; zero where one is.
    pub(crate) fn all_down_for(&self, now: Instant) -> Duration {
        self.0.iter().map(|backend| backend.health.down_for(now)).min().unwrap_or_default()
    }

    /// Whether some backend passes its checks and has a breaker that is not open.
    pub(crate) fn any_up(&self, now: Instant) -> bool {
        self.0.iter().any(|backend| !backend.health.is_down() && backend.breaker.retry_after(now).is_zero())
    }

    /// Whether somebody other than `index` passes its checks.
    pub(crate) fn another_is_up(&self, index: usize) -> bool {
        self.0.iter().any(|backend| backend.index != index && !backend.health.is_down())
    }

    /// What is believed of each backend, for `/debug/state`.
    pub(crate) fn describe(&self, now: Instant) -> Value {
        self.0.iter().map(|backend| backend.describe(now)).collect()
    }
}

impl Choice {
    /// Tells the breaker and the checks how the attempt went.
    pub(crate) fn record(self, error: Option<AttemptError>, now: Instant) {
        let result = verdict(error);
        if result == CallResult::Failure {
            self.backend.check_now.notify_one();
        }
        if matches!(error, Some(AttemptError::Dial(DialError::Refused))) {
            self.backend.upstream.forget_connections();
        }
        self.admission.record(result, now);
    }
}

/// What an attempt says about the backend. Time that the caller cut short, and a connection that was closed while it
/// lay unused, say nothing: else a few impatient clients could take a backend away from everybody.
fn verdict(error: Option<AttemptError>) -> CallResult {
    match error {
        None => CallResult::Success,
        Some(AttemptError::Dial(_) | AttemptError::Closed { reused: false, .. } | AttemptError::Invalid) => {
            CallResult::Failure
        }
        Some(AttemptError::TimedOut { by_caller: false, .. }) => CallResult::Failure,
        Some(
            AttemptError::Closed { reused: true, .. }
            | AttemptError::TimedOut { by_caller: true, .. }
            | AttemptError::Silent { .. }
            | AttemptError::Upload(_)
            | AttemptError::UploadIdle,
        ) => CallResult::Neutral,
    }
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    index: usize,
    /// Lower is better; only the best rank present takes part.
    rank: u8,
    load: usize,
}

/// Draws two of the best rank and takes the one with less to do: nearly as even as the least of all, without everybody
/// rushing to the same one.
fn least_loaded_of_two(
    candidates: impl Iterator<Item = Candidate> + Clone,
    random: &mut fastrand::Rng,
) -> Option<usize> {
    let best = candidates.clone().map(|candidate| candidate.rank).min()?;
    let ranked = candidates.filter(|candidate| candidate.rank == best);
    let count = ranked.clone().count();
    let first = random.usize(..count);
    // Any of the others, each as likely.
    let second = (first + random.usize(..count.saturating_sub(1).max(1)) + 1) % count;
    let mut drawn = ranked.enumerate().filter(|(place, _)| *place == first || *place == second);
    let (one, other) = (drawn.next()?.1, drawn.next().map(|(_, candidate)| candidate));
    match other {
        Some(other) if other.load < one.load || (other.load == one.load && random.bool()) => {
            Some(other.index)
        }
        _ => Some(one.index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BackendsSection;

    fn backends(count: usize, now: Instant) -> Backends {
        let config = Config { backends: BackendsSection::default(), ..Config::default() };
        let authority = Authority { host: "127.0.0.1".into(), port: 1, text: "127.0.0.1:1".into() };
        Backends::new(vec![authority; count], &config, now)
    }

    fn refuse(backends: &Backends, index: usize, now: Instant) {
        for _ in 0..3 {
            let admission = backends.0[index].breaker.admit_owned(now).unwrap();
            let choice = Choice { backend: Arc::clone(&backends.0[index]), admission };
            choice.record(Some(AttemptError::Dial(DialError::Refused)), now);
        }
    }

    #[test]
    fn the_less_loaded_of_two_is_taken_and_all_take_part() {
        let mut random = fastrand::Rng::with_seed(3);
        let two = [(0, 5), (1, 2)].map(|(index, load)| Candidate { index, rank: 0, load });
        assert!((0..50).all(|_| least_loaded_of_two(two.iter().copied(), &mut random) == Some(1)));
        let five = [0, 1, 2, 3, 4].map(|index| Candidate { index, rank: 0, load: 1 });
        let mut taken = [0; 5];
        for _ in 0..1_000 {
            taken[least_loaded_of_two(five.iter().copied(), &mut random).unwrap()] += 1;
        }
        assert!(taken.iter().all(|count| (120..280).contains(count)), "seed 3: {taken:?}");
    }

    #[test]
    fn only_the_best_rank_takes_part() {
        let mut random = fastrand::Rng::with_seed(4);
        let three =
            [(0, 1, 0), (1, 0, 9), (2, 2, 0)].map(|(index, rank, load)| Candidate { index, rank, load });
        assert!((0..50).all(|_| least_loaded_of_two(three.iter().copied(), &mut random) == Some(1)));
        assert_eq!(least_loaded_of_two([].into_iter(), &mut random), None);
    }

    #[test]
    fn a_backend_that_refuses_connections_is_left_alone_until_its_breaker_allows() {
        let (now, mut random) = (Instant::now(), fastrand::Rng::with_seed(5));
        let backends = backends(2, now);
        refuse(&backends, 0, now);
        for _ in 0..20 {
            assert_eq!(backends.choose(Excluded::default(), now, &mut random).unwrap().backend.index, 1);
        }
        refuse(&backends, 1, now);
        assert_eq!(backends.choose(Excluded::default(), now, &mut random).err(), Some(NoBackend::Away));
        assert!(backends.next_chance(now) > Duration::ZERO);
        let later = now + Duration::from_secs(2);
        assert!(backends.choose(Excluded::default(), later, &mut random).is_ok());
    }

    #[test]
    fn a_retry_goes_elsewhere_if_there_is_an_elsewhere() {
        let (now, mut random) = (Instant::now(), fastrand::Rng::with_seed(6));
        let two = backends(2, now);
        let avoid = Excluded::default().with(1);
        assert!((0..20).all(|_| two.choose(avoid, now, &mut random).unwrap().backend.index == 0));
        let one = backends(1, now);
        let avoid = Excluded::default().with(0);
        assert_eq!(one.choose(avoid, now, &mut random).unwrap().backend.index, 0);
    }

    #[test]
    fn a_backend_that_fails_its_checks_is_asked_when_nobody_else_is_there() {
        let (now, mut random) = (Instant::now(), fastrand::Rng::with_seed(7));
        let backends = backends(2, now);
        backends.0[0].health.set_down_for_test(now);
        assert!(
            (0..20)
                .all(|_| backends.choose(Excluded::default(), now, &mut random).unwrap().backend.index == 1)
        );
        backends.0[1].health.set_down_for_test(now);
        assert!(backends.choose(Excluded::default(), now, &mut random).is_ok());
    }

    /// Three requests with a time limit of one millisecond once looked like three failures of the backend, so that any
    /// client could have taken it away from everybody.
    #[test]
    fn impatient_callers_do_not_trip_the_breaker() {
        let error = AttemptError::TimedOut { sent: true, by_caller: true };
        assert_eq!(verdict(Some(error)), CallResult::Neutral);
        let error = AttemptError::TimedOut { sent: true, by_caller: false };
        assert_eq!(verdict(Some(error)), CallResult::Failure);
    }
}
