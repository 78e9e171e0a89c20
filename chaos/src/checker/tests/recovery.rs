//! T3: what counts as the return of the database, and what as the first answer after it.

use crate::checker::tests::builder::{Scene, ms};
use crate::checker::tests::{broken, violated};
use crate::verdict::{Outcome, State};

#[test]
fn t3_a_fresh_answer_must_come_within_the_limit() {
    let mut scene = Scene::outage();
    scene.slow_recovery(ms(1_850));
    assert_eq!(broken(&scene), (Outcome::Held, vec![]));
    scene.limits.recovery_ms = 1_850;
    assert_eq!(broken(&scene), violated("T3"));
    let mut scene = Scene::outage();
    scene.slow_recovery(ms(2_100));
    assert_eq!(broken(&scene), violated("T3"));
}

/// A disk failed once, and the database was back after 0.1 s; answers counted only from when the disk could no longer fail.
#[test]
fn t3_counts_from_the_return_of_the_database_also_where_the_fault_is_still_on() {
    let mut scene = Scene::outage();
    scene.taken_off(ms(13_900));
    scene.limits.recovery_ms = 1_000;
    assert_eq!(scene.judge().check("T3").unwrap().state, State::Held);
    scene.slow_recovery(ms(1_500));
    assert_eq!(scene.judge().check("T3").unwrap().state, State::Violated);
}

/// Faults took so long to be put on that the last one was healed when the load was over, and nobody was left to be answered.
#[test]
fn t3_is_not_measured_where_the_load_ended_too_soon() {
    let mut scene = Scene::outage();
    scene.slow_recovery(ms(3_000));
    assert_eq!(scene.judge().check("T3").unwrap().state, State::Violated);
    scene.until_us = ms(13_000);
    assert_eq!(scene.judge().check("T3").unwrap().state, State::NotMeasured);
}
