//! How long each operation keeps a connection busy, so that only short ones share one.
//!
//! Pure: it is told what was seen, and answers whether an operation may share. It knows no connection.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::nanoseconds;

/// Operations that are followed. Their names are literals of the program, so there are few; what comes after that many
/// never shares.
const OPERATIONS_MAX: usize = 128;
/// An operation shares once it was seen this often on a connection of its own.
const SAMPLES_MIN: u32 = 4;
/// An operation that typically takes longer does not share. Seen on a connection of its own, a time has the waiting for a
/// busy processor in it.
const SHORT: Duration = Duration::from_millis(10);
/// One that kept those behind it waiting for longer than this has to leave, unless that is rare: a machine that is short
/// of processors makes a slow one now and then out of any statement.
const SLOW: Duration = Duration::from_millis(20);
/// So many quick ones make up for a slow one, and for so many slow ones in a row at the most.
const QUICK_PER_SLOW: u32 = 500;
const CREDIT_MAX: u32 = 8 * QUICK_PER_SLOW;
/// How long it stays away, doubled each time up to `STRIKES_MAX` times; then it is looked at anew.
const AWAY: Duration = Duration::from_secs(1);
const STRIKES_MAX: u32 = 5;
/// After this long without another one what was before is forgotten.
const FORGIVEN: Duration = Duration::from_secs(60);
/// The weight of a new sample in the typical time: one eighth, as for round-trip times in RFC 6298, section 2.
const NEW_SHARE: u64 = 8;

/// What was seen of every operation.
#[derive(Debug)]
pub(super) struct Paces {
    started: Instant,
    slots: [OnceLock<Pace>; OPERATIONS_MAX],
}

#[derive(Debug)]
struct Pace {
    operation: &'static str,
    samples: AtomicU32,
    typical_nanoseconds: AtomicU64,
    /// Since `started`; it does not share before.
    away_until_nanoseconds: AtomicU64,
    /// Quick answers that were not yet set off against a slow one.
    credit: AtomicU32,
    /// How often it had to leave lately.
    strikes: AtomicU32,
}

impl Paces {
    pub(super) fn new(now: Instant) -> Self {
        Self { started: now, slots: [const { OnceLock::new() }; OPERATIONS_MAX] }
    }

    /// Whether `operation` is known to be short at `now`.
    pub(super) fn may_share(&self, operation: &'static str, now: Instant) -> bool {
        self.find(operation).is_some_and(|pace| {
            pace.samples.load(Ordering::Relaxed) >= SAMPLES_MIN
                && pace.typical_nanoseconds.load(Ordering::Relaxed) <= nanoseconds(SHORT)
                && pace.away_until_nanoseconds.load(Ordering::Relaxed) <= self.since_start(now)
        })
    }

    /// The operation kept a connection, its own or a shared one, busy for `busy`.
    pub(super) fn saw(&self, operation: &'static str, busy: Duration, now: Instant) {
        let Some(pace) = self.find_or_add(operation) else { return };
        let (typical, sample) = (pace.typical_nanoseconds.load(Ordering::Relaxed), nanoseconds(busy));
        let samples = pace.samples.load(Ordering::Relaxed);
        if samples >= SAMPLES_MIN && !pace.is_forgiven(busy) {
            self.send_away(pace, now);
            return;
        }
        // Two at once may lose one of two samples, which does no harm to a typical time.
        let blended = if samples == 0 { sample } else { typical - typical / NEW_SHARE + sample / NEW_SHARE };
        pace.typical_nanoseconds.store(blended, Ordering::Relaxed);
        if samples < SAMPLES_MIN {
            pace.samples.store(samples + 1, Ordering::Relaxed);
        }
    }

    fn send_away(&self, pace: &Pace, now: Instant) {
        let at = self.since_start(now);
        let lately =
            at.saturating_sub(pace.away_until_nanoseconds.load(Ordering::Relaxed)) < nanoseconds(FORGIVEN);
        let strikes = if lately { pace.strikes.load(Ordering::Relaxed) } else { 0 };
        let away = AWAY * (1 << strikes.min(STRIKES_MAX));
        pace.strikes.store(strikes.saturating_add(1), Ordering::Relaxed);
        pace.away_until_nanoseconds.store(at.saturating_add(nanoseconds(away)), Ordering::Relaxed);
        // Begin anew: one outlier of a minute would otherwise weigh on the typical time for long.
        pace.samples.store(0, Ordering::Relaxed);
    }

    fn find(&self, operation: &'static str) -> Option<&Pace> {
        self.slots.iter().map_while(OnceLock::get).find(|pace| is_same(pace.operation, operation))
    }

    fn find_or_add(&self, operation: &'static str) -> Option<&Pace> {
        self.slots.iter().find_map(|slot| {
            let pace = slot.get_or_init(|| Pace {
                operation,
                samples: AtomicU32::new(0),
                typical_nanoseconds: AtomicU64::new(0),
                away_until_nanoseconds: AtomicU64::new(0),
                credit: AtomicU32::new(0),
                strikes: AtomicU32::new(0),
            });
            is_same(pace.operation, operation).then_some(pace)
        })
    }

    fn since_start(&self, now: Instant) -> u64 {
        nanoseconds(now.saturating_duration_since(self.started))
    }
}

impl Pace {
    /// Whether the operation may stay after this time: it was not slow, or is so rarely.
    fn is_forgiven(&self, busy: Duration) -> bool {
        let credit = self.credit.load(Ordering::Relaxed);
        if busy <= SLOW {
            if credit < CREDIT_MAX {
                self.credit.store(credit + 1, Ordering::Relaxed);
            }
            return true;
        }
        self.credit.store(credit.saturating_sub(QUICK_PER_SLOW), Ordering::Relaxed);
        credit >= QUICK_PER_SLOW
    }
}

/// Literals are mostly found by where they stand, without a look at their letters.
fn is_same(one: &'static str, other: &'static str) -> bool {
    std::ptr::eq(one, other) || one == other
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_micros(200);

    fn seen(times: u32, busy: Duration, now: Instant) -> Paces {
        let paces = Paces::new(now);
        for _ in 0..times {
            paces.saw("todo", busy, now);
        }
        paces
    }

    #[test]
    fn an_operation_shares_once_it_is_known_to_be_short() {
        let now = Instant::now();
        assert!(!seen(SAMPLES_MIN - 1, QUICK, now).may_share("todo", now));
        assert!(seen(SAMPLES_MIN, QUICK, now).may_share("todo", now));
        assert!(!seen(SAMPLES_MIN, QUICK, now).may_share("another", now));
    }

    #[test]
    fn a_long_operation_never_shares() {
        let now = Instant::now();
        assert!(!seen(100, SHORT * 2, now).may_share("todo", now));
    }

    #[test]
    fn one_that_kept_others_waiting_leaves_and_is_looked_at_anew_later() {
        let now = Instant::now();
        let paces = seen(10, QUICK, now);
        paces.saw("todo", SLOW * 2, now);
        assert!(!paces.may_share("todo", now));
        let later = now + AWAY;
        assert!(!paces.may_share("todo", later), "it has to be seen on a connection of its own first");
        for _ in 0..SAMPLES_MIN {
            paces.saw("todo", QUICK, later);
        }
        assert!(paces.may_share("todo", later));
    }

    /// A busy machine held up one answer in some thousands, and the lanes were empty most of the time.
    #[test]
    fn one_slow_answer_among_very_many_is_forgiven() {
        let now = Instant::now();
        let paces = seen(SAMPLES_MIN + QUICK_PER_SLOW, QUICK, now);
        paces.saw("todo", SLOW * 2, now);
        (0..9).for_each(|_| paces.saw("todo", QUICK, now));
        assert!(paces.may_share("todo", now));
        paces.saw("todo", SLOW * 2, now);
        assert!(!paces.may_share("todo", now), "the second one comes too soon");
    }

    #[test]
    fn who_has_to_leave_again_and_again_stays_away_longer() {
        let mut now = Instant::now();
        let paces = seen(10, QUICK, now);
        let away = |now: &mut Instant| {
            paces.saw("todo", SLOW * 2, *now);
            let left = *now;
            loop {
                *now += AWAY / 2;
                (0..SAMPLES_MIN).for_each(|_| paces.saw("todo", QUICK, *now));
                if paces.may_share("todo", *now) {
                    return now.saturating_duration_since(left);
                }
            }
        };
        let times = [away(&mut now), away(&mut now), away(&mut now)];
        assert_eq!(times, [AWAY, AWAY * 2, AWAY * 4]);
        now += FORGIVEN;
        assert_eq!(away(&mut now), AWAY, "what was long ago is forgotten");
    }

    #[test]
    fn more_operations_than_there_is_room_for_do_no_harm() {
        let now = Instant::now();
        let paces = Paces::new(now);
        for number in 0..OPERATIONS_MAX * 2 {
            let operation: &'static str = Box::leak(format!("operation-{number}").into_boxed_str());
            (0..SAMPLES_MIN).for_each(|_| paces.saw(operation, QUICK, now));
            assert_eq!(paces.may_share(operation, now), number < OPERATIONS_MAX);
        }
    }
}
