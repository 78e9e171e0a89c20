//! The reads by which each server fills its cache, as the proxies on its way saw them (H4), written into the history when a
//! run is over. Only for runs that ask for it; it judges none of it.

use std::collections::HashMap;

use tokio::time::Instant;

use crate::error::Error;
use crate::history::{Event, Fill, Recorder};
use crate::pgwire::Read;
use crate::stack::Stack;

/// What our servers ask for users, and not for themselves.
const FOR_USERS: &str = " FROM todos";
/// Of a statement so much is told.
const TEXT_MAX: usize = 60;

/// Begins to watch; before anything is asked, so that it is known what was asked for the first time.
pub(super) fn watch(stack: &Stack) {
    stack.equipment().lines().iter().filter_map(|line| line.messages()).for_each(|proxy| proxy.watch_reads());
}

/// Records the cold reads that were sent from `start` on; nothing where no proxy stands between.
pub(super) async fn record(stack: &Stack, recorder: &Recorder, start: Instant) -> Result<(), Error> {
    let mut fills = Vec::new();
    for (line, server) in stack.equipment().lines().iter().zip(stack.servers()) {
        let reads = line.messages().map(|proxy| proxy.reads()).unwrap_or_default();
        let begun: Vec<Instant> = server.lives().iter().map(|life| life.begun).collect();
        fills.extend(cold(&reads, &begun).filter(|read| read.from >= start).map(|read| Fill {
            process: line.server().to_owned(),
            identity: identity(&read.statement, read.given),
            from_us: recorder.us_of(read.from),
            at_us: recorder.us_of(read.until),
        }));
    }
    let told = recorder.clone();
    // More of them than the queue of the history holds.
    let writing = tokio::task::spawn_blocking(move || {
        fills.into_iter().for_each(|fill| told.record_in_time(Event::Fill(fill)));
    });
    writing.await.map_err(|error| Error::state("write down what was read", error.to_string()))
}

/// The reads for users that were sent before the same had been answered to this life of the server: what it could not know.
/// They stand in the order of their ends; `begun` is when each life began.
fn cold<'r>(reads: &'r [Read], begun: &[Instant]) -> impl Iterator<Item = &'r Read> {
    let mut first_answers: HashMap<(usize, &str, u64), Instant> = HashMap::new();
    reads.iter().filter(|read| read.statement.contains(FOR_USERS)).filter(move |read| {
        let life = begun.iter().filter(|at| **at <= read.from).count();
        let first = first_answers.entry((life, &read.statement, read.given)).or_insert(read.until);
        read.from < *first
    })
}

/// Two questions are the same where statement and parameters are. The end of a statement has what tells it from others.
fn identity(statement: &str, given: u64) -> String {
    let from = statement.floor_char_boundary(statement.len().saturating_sub(TEXT_MAX));
    let text = statement.get(from..).unwrap_or_default();
    format!("{text} #{given:016x}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_a_life_was_answered_once_is_not_cold_any_more() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let read = |given, from, until| Read {
            statement: "SELECT title FROM todos WHERE id = $1".into(),
            given,
            from: at(from),
            until: at(until),
        };
        let reads = [read(1, 1, 3), read(1, 2, 4), read(1, 3, 5), read(2, 4, 6), read(1, 11, 12)];
        let own = Read { statement: "SELECT key FROM ridethrough_writes".into(), ..read(1, 0, 1) };
        let all: Vec<Read> = std::iter::once(own).chain(reads.clone()).collect();
        let found: Vec<&Read> = cold(&all, &[start, at(10)]).collect();
        assert_eq!(found, [&reads[0], &reads[1], &reads[3], &reads[4]]);
    }

    #[test]
    fn the_same_question_is_one_and_another_is_another() {
        let select = format!("SELECT {} FROM todos WHERE id = $1", "column, ".repeat(20));
        assert_eq!(identity(&select, 7), identity(&select, 7));
        assert_ne!(identity(&select, 7), identity(&select, 8));
        assert!(identity(&select, 7).contains("FROM todos WHERE id = $1 #"), "{}", identity(&select, 7));
    }
}
