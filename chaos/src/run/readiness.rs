//! What the table of health demanded of each server over the run, told from what the harness did to it and when the database
//! was away. What the servers answered is held against it by the checker.

use tokio::time::Instant;

use crate::history::{Event, ReadinessDue, Recorder};
use crate::stack::{Life, Stack};

/// Why a server may and must take no traffic.
const DRAINING: &str = "it was told to drain";
const COLD: &str = "it began cold while the database was away";

/// A time in which no session of the database could be answered: from the outage to the attempt to end it.
pub(super) type Away = (Instant, Instant);

/// What is demanded from a moment on; no reason is the usual: ready.
type Due = (Instant, Option<&'static str>);

/// Records what was demanded of all servers. To be called before they are stopped for good.
pub(super) fn record(stack: &Stack, away: &[Away], recorder: &Recorder) {
    for server in stack.servers() {
        for (at, why) in dues(&server.lives(), away) {
            recorder.record(Event::ReadinessDue(ReadinessDue {
                process: server.name().to_owned(),
                at_us: recorder.us_of(at),
                ready: why.is_none(),
                why: why.unwrap_or_default().to_owned(),
            }));
        }
    }
}

fn dues(lives: &[Life], away: &[Away]) -> Vec<Due> {
    let of_one = |life: &Life| {
        let outage = away.iter().find(|(from, until)| (from..until).contains(&&life.begun));
        // Where the database comes back meanwhile, it may be ready at once.
        let cold = outage.filter(|_| life.cold).map(|(_, until)| (life.begun, *until, COLD));
        let drains = life.down.filter(|_| life.drains).zip(life.gone);
        let drains = drains.map(|(from, until)| (from, until, DRAINING));
        [cold, drains].into_iter().flatten().flat_map(|(from, until, why)| [(from, Some(why)), (until, None)])
    };
    lives.iter().flat_map(of_one).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn life(begun: Instant) -> Life {
        Life {
            pid: 1,
            begun,
            cold: true,
            up: None,
            down: None,
            exit: None,
            gone: None,
            planned: false,
            drains: false,
        }
    }

    #[test]
    fn who_begins_cold_in_an_outage_must_refuse_until_that_is_over() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let away = [(at(10), at(20))];
        assert_eq!(dues(&[life(at(12))], &away), [(at(12), Some(COLD)), (at(20), None)]);
        assert_eq!(dues(&[life(at(9)), life(at(20))], &away), [], "the database was there");
        assert_eq!(dues(&[Life { cold: false, ..life(at(12)) }], &away), [], "it had something to show");
    }

    #[test]
    fn who_drains_must_refuse_until_it_is_gone_and_who_is_killed_need_not() {
        let start = Instant::now();
        let at = |seconds| Some(start + Duration::from_secs(seconds));
        let killed = Life { down: at(3), gone: at(4), planned: true, ..life(start) };
        assert_eq!(dues(&[killed], &[]), []);
        let drained = Life { drains: true, ..killed };
        let expected =
            [(start + Duration::from_secs(3), Some(DRAINING)), (start + Duration::from_secs(4), None)];
        assert_eq!(dues(&[drained], &[]), expected);
    }
}
