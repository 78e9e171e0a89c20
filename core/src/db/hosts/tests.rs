//! The hosts of one database, told what the prober would tell them: which role, which route, which part of the health
//! table follows. Nothing is dialled.

use super::*;
use crate::db::reaper::Reaper;

const FIVE: Duration = Duration::from_secs(5);

fn hosts(count: usize) -> (Hosts, Instant) {
    let names: Vec<String> = (1..=count).map(|host| format!("127.0.0.1:{host}")).collect();
    of(&format!("postgres://app@{}/todos", names.join(",")))
}

fn of(url: &str) -> (Hosts, Instant) {
    let config = DbConfig { url: url.to_owned(), ..DbConfig::default() };
    let target = config.validate().unwrap();
    let now = Instant::now();
    (Hosts::new(&target, &config, &Reaper::new().0, now), now)
}

fn primary(timeline: u32, position: u64) -> Sighting {
    Sighting { system: Some(7), timeline: Some(timeline), position: Some(position), ..Sighting::default() }
}

fn standby(timeline: u32, position: u64) -> Sighting {
    Sighting { in_recovery: true, read_only: true, ..primary(timeline, position) }
}

fn part(hosts: &Hosts) -> DatabasePart {
    *hosts.database().borrow()
}

fn lose(hosts: &Hosts, host: usize, now: Instant) {
    hosts.lost(host, false, now);
    for circuit in [Circuit::Reads, Circuit::Writes] {
        hosts.at(host).unwrap().circuit(circuit).probe_failed(now, now + FIVE);
    }
}

fn route(hosts: &Hosts, now: Instant) -> Option<Route> {
    hosts.reader(Bound::Rather(FIVE), Tried::default(), now)
}

#[test]
fn a_single_host_is_used_before_it_is_seen_and_several_are_not() {
    let (one, now) = hosts(1);
    assert_eq!((one.trusted_primary(), route(&one, now)), (Some(0), Some(Route::Primary(0))));
    let (two, now) = hosts(2);
    assert_eq!((two.trusted_primary(), route(&two, now)), (None, None));
    assert_eq!(part(&two), DatabasePart::Unknown);
}

#[test]
fn a_failover_moves_writes_and_reads_and_keeps_the_old_primary_out() {
    let (hosts, start) = hosts(2);
    let at = |second| start + Duration::from_secs(second);
    hosts.saw(1, standby(1, 100), start, start);
    assert_eq!(part(&hosts), DatabasePart::Standby, "reads can begin");
    hosts.saw(0, primary(1, 100), start, start);
    assert_eq!((part(&hosts), hosts.trusted_primary()), (DatabasePart::Up, Some(0)));
    assert_eq!(route(&hosts, start), Some(Route::Primary(0)));

    lose(&hosts, 0, at(2));
    assert_eq!(part(&hosts), DatabasePart::Standby, "its answers are labelled");
    let lag = Duration::from_secs(3);
    assert_eq!(
        route(&hosts, at(3)),
        Some(Route::Standby { host: 1, lag }),
        "as of the last word of the primary"
    );
    assert_eq!(hosts.primary(), Some(0), "its open circuit refuses the writes");

    hosts.saw(1, primary(2, 100), at(4), at(4));
    assert_eq!((part(&hosts), hosts.trusted_primary()), (DatabasePart::Up, Some(1)));
    assert_eq!(route(&hosts, at(4)), Some(Route::Primary(1)));

    hosts.saw(0, primary(1, 900), at(6), at(6));
    assert_eq!(hosts.at(0).unwrap().role(), Role::Fenced(Fence::OldTimeline));
    assert_eq!(hosts.trusted_primary(), Some(1));
    lose(&hosts, 1, at(7));
    assert_eq!(route(&hosts, at(7)), None, "a fenced host is not read from either");
    assert_eq!(part(&hosts), DatabasePart::Away);
}

#[test]
fn a_standby_is_as_old_as_the_newest_position_of_the_primary_that_it_covers() {
    let (hosts, start) = hosts(2);
    let at = |second| start + Duration::from_secs(second);
    hosts.saw(0, primary(1, 100), start, start);
    hosts.saw(1, standby(1, 100), at(1), at(1));
    hosts.saw(0, primary(1, 100), at(2), at(2));
    assert_eq!(hosts.last(1, at(2)).1, Some(Duration::ZERO), "an idle primary leaves nobody behind");
    hosts.saw(0, primary(1, 200), at(3), at(3));
    assert_eq!(hosts.last(1, at(9)).1, Some(Duration::from_secs(7)));
    lose(&hosts, 0, at(9));
    let within = hosts.reader(Bound::AtMost(FIVE), Tried::default(), at(9));
    assert_eq!(within, None, "too far behind for a read with a bound");
    hosts.saw(1, standby(1, 200), at(9), at(9));
    assert_eq!(hosts.last(1, at(9)).1, Some(Duration::from_secs(6)));
}

#[test]
fn an_instant_before_the_start_is_kept() {
    let (hosts, start) = hosts(1);
    let long_ago = Sighting { replayed_ago_ms: Some(90_000), ..standby(1, 5) };
    hosts.saw(0, long_ago, start, start);
    assert_eq!(hosts.last(0, start).1, Some(Duration::from_secs(90)));
    assert_eq!(part(&hosts), DatabasePart::Standby);
    assert_eq!(hosts.trusted_primary(), None);
    hosts.saw(0, Sighting { read_only: true, ..primary(1, 5) }, start, start);
    assert_eq!(part(&hosts), DatabasePart::ReadOnly, "what it says is true now");
}

#[test]
fn a_primary_that_refused_a_write_is_trusted_again_only_when_it_was_seen_again() {
    let (hosts, now) = hosts(2);
    hosts.saw(0, primary(1, 1), now, now);
    hosts.saw(1, standby(1, 1), now, now);
    let refused = now + Duration::from_millis(10);
    let mut nudges = hosts.nudges();
    nudges.mark_unchanged();
    hosts.refused_write(0, refused);
    assert_eq!(hosts.trusted_primary(), None);
    assert!(nudges.has_changed().unwrap(), "the prober is to look now");
    nudges.mark_unchanged();
    hosts.refused_write(0, refused);
    assert!(!nudges.has_changed().unwrap(), "a crowd of refused writes is one piece of news");
    assert_eq!(route(&hosts, now), Some(Route::Primary(0)), "reads go on");
    hosts.saw(0, primary(1, 1), now, refused);
    assert_eq!(hosts.trusted_primary(), None, "that look was begun before the refusal");
    hosts.saw(0, primary(1, 1), refused, refused);
    assert_eq!(hosts.trusted_primary(), None, "the other one may have been promoted");
    hosts.saw(1, standby(1, 1), refused, refused);
    assert_eq!(hosts.trusted_primary(), Some(0));
}

/// An old primary came back 70 ms after another was promoted in its place, before anybody had looked at that one, and took
/// three writes that were lost with it.
#[test]
fn a_primary_that_was_started_anew_is_not_written_to_before_the_others_were_looked_at() {
    let started = |at: u64| Sighting { started_us: Some(at), ..primary(1, 1) };
    let (hosts, start) = hosts(2);
    let at = |second| start + Duration::from_secs(second);
    hosts.saw(0, started(5), start, start);
    hosts.saw(1, standby(1, 1), start, start);
    assert_eq!(hosts.trusted_primary(), Some(0));
    let mut nudges = hosts.nudges();
    nudges.mark_unchanged();
    hosts.saw(0, started(6), at(2), at(2));
    assert_eq!(hosts.trusted_primary(), None);
    assert!(nudges.has_changed().unwrap(), "the others are to be asked now");
    hosts.saw(1, primary(2, 1), at(3), at(3));
    assert_eq!(hosts.trusted_primary(), Some(1));
    assert_eq!(hosts.at(0).unwrap().role(), Role::Fenced(Fence::OldTimeline));
}

#[test]
fn a_primary_that_was_lost_is_written_to_again_when_no_other_that_answers_has_its_place() {
    let (hosts, start) = hosts(2);
    let at = |second| start + Duration::from_secs(second);
    hosts.saw(0, primary(1, 1), start, start);
    hosts.saw(1, standby(1, 1), start, start);
    lose(&hosts, 0, at(2));
    hosts.saw(0, primary(1, 1), at(3), at(3));
    assert_eq!(hosts.trusted_primary(), None);
    hosts.saw(1, standby(1, 1), at(4), at(4));
    assert_eq!(hosts.trusted_primary(), Some(0));
    lose(&hosts, 1, at(5));
    lose(&hosts, 0, at(5));
    hosts.saw(0, primary(1, 1), at(6), at(6));
    assert_eq!(hosts.trusted_primary(), Some(0), "who is away knows nothing");
}

#[test]
fn the_first_that_says_it_is_the_primary_waits_for_the_word_of_the_others() {
    let (hosts, start) = hosts(3);
    hosts.saw(0, primary(1, 1), start, start);
    lose(&hosts, 1, start);
    assert_eq!((hosts.trusted_primary(), part(&hosts)), (None, DatabasePart::Up));
    hosts.saw(2, primary(2, 1), start, start);
    assert_eq!(hosts.trusted_primary(), Some(2));
}

#[test]
fn a_host_that_has_never_said_anything_is_not_waited_for_for_long() {
    let (hosts, start) = hosts(2);
    let at = |milliseconds| start + Duration::from_millis(milliseconds);
    hosts.saw(1, primary(1, 1), at(5), at(5));
    assert_eq!(hosts.trusted_primary(), None);
    hosts.saw(1, primary(1, 1), at(150), at(150));
    assert_eq!(hosts.trusted_primary(), Some(1));
}

#[test]
fn a_url_that_asks_for_read_write_reads_from_no_standby() {
    let (hosts, now) = of("postgres://app@h:1,h:2/todos?target_session_attrs=read-write");
    hosts.saw(0, primary(1, 1), now, now);
    hosts.saw(1, standby(1, 1), now, now);
    lose(&hosts, 0, now);
    assert_eq!(route(&hosts, now), None);
}

/// Readiness said that reads are answered, and every read was refused: the only host that was there was one that must
/// not be read from.
#[test]
fn a_standby_that_must_not_be_read_from_is_no_database_for_readers() {
    let (hosts, now) = of("postgres://app@h:1,h:2/todos?target_session_attrs=read-write");
    hosts.saw(0, primary(1, 1), now, now);
    hosts.saw(1, standby(1, 1), now, now);
    lose(&hosts, 0, now);
    assert_eq!(part(&hosts), DatabasePart::Away);

    let mut config = DbConfig { url: "postgres://app@h:1,h:2/todos".to_owned(), ..DbConfig::default() };
    config.read.standby_staleness = Duration::ZERO;
    let hosts = Hosts::new(&config.validate().unwrap(), &config, &Reaper::new().0, now);
    hosts.saw(1, standby(1, 1), now, now);
    hosts.lost(0, false, now);
    assert_eq!(part(&hosts), DatabasePart::Away);
}

/// A migration went to an old primary, because that was the only host that answered.
#[test]
fn a_fenced_host_is_not_one_to_ask_where_there_is_no_primary() {
    let (hosts, now) = hosts(2);
    hosts.saw(1, standby(2, 1), now, now);
    hosts.saw(0, primary(1, 1), now, now);
    hosts.lost(1, false, now);
    assert_eq!((hosts.primary(), hosts.answering()), (None, None));
    hosts.saw(1, standby(2, 1), now, now);
    assert_eq!(hosts.answering(), Some(1));
}

#[test]
fn refused_credentials_are_told_apart_from_silence() {
    let (hosts, now) = hosts(2);
    hosts.lost(0, true, now);
    assert_eq!(part(&hosts), DatabasePart::Unknown);
    hosts.lost(1, false, now);
    assert_eq!(part(&hosts), DatabasePart::Refused);
    hosts.lost(0, false, now);
    assert_eq!(part(&hosts), DatabasePart::Away);
}

#[test]
fn one_host_has_plain_circuits_and_several_have_numbered_ones() {
    let label = |hosts: &Hosts, host: usize| format!("{:?}", hosts.at(host).unwrap().reads);
    assert!(label(&hosts(1).0, 0).contains("\"reads\""));
    assert!(label(&hosts(8).0, 7).contains("\"reads-8\""));
}
