//! Each invariant meets a history that keeps it and one that breaks it. The histories are made by hand, so
//! that the checker is tested against what was meant, not against what some run happened to do.

mod builder;
mod oracle;
mod planted;
mod property;
mod recovery;
mod runs;

use super::*;
use crate::checker::tests::builder::{Scene, ms};
use crate::history::{Action, Got};

fn state(verdict: &Verdict, id: &str) -> State {
    verdict.check(id).unwrap().state
}

/// The one check that broke, and the outcome.
fn broken(scene: &Scene) -> (Outcome, Vec<String>) {
    let verdict = scene.judge();
    let broken = verdict.checks.iter().filter(|check| check.state == State::Violated);
    for check in broken.clone() {
        assert!(check.violations > 0 && !check.witnesses.is_empty(), "{check:?}");
    }
    (verdict.outcome, broken.map(|check| check.id.clone()).collect())
}

fn violated(id: &str) -> (Outcome, Vec<String>) {
    (Outcome::Violated, vec![id.into()])
}

fn all_violated(ids: &[&str]) -> (Outcome, Vec<String>) {
    (Outcome::Violated, ids.iter().map(|id| (*id).to_owned()).collect())
}

fn inconclusive(id: &str) -> (Outcome, Vec<String>) {
    (Outcome::Inconclusive, vec![id.into()])
}

#[test]
fn a_good_run_holds_and_its_numbers_are_those_of_the_scene() {
    let scene = Scene::outage();
    let verdict = scene.judge();
    assert_eq!(broken(&scene), (Outcome::Held, vec![]), "{verdict:#?}");
    assert!(verdict.checks.iter().all(|check| check.state == State::Held || !check.required), "{verdict:#?}");
    let numbers = &verdict.numbers;
    assert_eq!((numbers.reads.planned, numbers.reads.fresh, numbers.reads.stale), (140, 60, 80));
    assert_eq!((numbers.writes.planned, numbers.writes.committed, numbers.writes.journaled), (70, 30, 40));
    assert_eq!((numbers.lost, numbers.doubled, numbers.phantom), (0, 0, 0));
    assert_eq!(numbers.outages.len(), 1);
    assert_eq!(numbers.outages[0].from_us, ms(4_000));
    assert_eq!(numbers.outages[0].until_us, Some(ms(12_000)));
    assert_eq!(numbers.oldest_stale_seconds, 9);
    assert!(verdict.numbers.first_fresh_us.unwrap() < ms(200));
    assert_eq!(numbers.latency.iter().map(|latency| latency.n).sum::<u64>(), 210);
}

#[test]
fn w1_an_acknowledged_create_or_update_that_is_missing_is_lost() {
    let mut scene = Scene::outage();
    scene.rows.retain(|row| row.title != "during-3");
    assert_eq!(broken(&scene), violated("W1"));

    let mut scene = Scene::outage();
    scene.update(0, "late", "journaled", ms(5_000), ms(5_004));
    scene.undo_update(0);
    assert_eq!(broken(&scene), violated("W1"));
    assert_eq!(scene.judge().numbers.lost, 1);
}

#[test]
fn w1_a_journaled_create_that_ended_rejected_is_lost_and_a_superseded_update_is_not() {
    let mut scene = Scene::outage();
    scene.rows.retain(|row| row.title != "during-3");
    scene.status("key-during-3", "rejected");
    assert_eq!(broken(&scene), violated("W1"));

    let mut scene = Scene::outage();
    scene.update(0, "late", "journaled", ms(5_000), ms(5_004));
    scene.undo_update(0);
    scene.status("key-late", "superseded");
    assert_eq!(broken(&scene), (Outcome::Held, vec![]));
    assert_eq!(scene.judge().numbers.superseded, 1);
}

#[test]
fn w1_what_is_still_in_a_journal_is_not_lost_but_not_proved_either() {
    let mut scene = Scene::outage();
    scene.rows.retain(|row| row.title != "during-3");
    scene.status("key-during-3", "pending");
    let verdict = scene.judge();
    assert_eq!((verdict.outcome, state(&verdict, "W1")), (Outcome::Inconclusive, State::NotMeasured));
    assert_eq!((verdict.numbers.pending, verdict.numbers.lost), (1, 0));
}

#[test]
fn w1_an_unknown_write_may_be_there_or_not() {
    for there in [true, false] {
        let mut scene = Scene::outage();
        scene.write(Action::Create, "maybe", None, ms(6_000));
        scene.end_write("maybe", "unknown", Got::Answer, ms(6_010));
        if there {
            scene.row("id-maybe", "maybe", 1, false);
        }
        let verdict = scene.judge();
        assert_eq!(verdict.numbers.lost + verdict.numbers.doubled + verdict.numbers.phantom, 0);
        assert_eq!(verdict.numbers.unknown, 1);
        assert_eq!(state(&verdict, "W1"), State::Held);
    }
}

#[test]
fn w2_two_rows_of_one_write_and_a_version_too_high_are_doubles() {
    let mut scene = Scene::outage();
    scene.row("id-copy", "during-3", 1, false);
    assert_eq!(broken(&scene), violated("W2"));

    let mut scene = Scene::outage();
    scene.update(0, "late", "journaled", ms(5_000), ms(5_004));
    scene.rows[0].version = 3;
    assert_eq!(broken(&scene), violated("W2"));
    assert_eq!(scene.judge().numbers.doubled, 1);
}

#[test]
fn w2_a_repeated_write_with_another_id_is_a_double_even_before_the_rows_show_it() {
    let mut scene = Scene::outage();
    let op = scene.write(Action::Create, "during-3", None, ms(6_000));
    scene.end(op, "committed", "id-other", "during-3", ms(6_004));
    assert_eq!(broken(&scene), violated("W2"));
}

#[test]
fn w3_rows_that_nobody_wrote_or_that_were_refused_are_phantoms() {
    let mut scene = Scene::outage();
    scene.row("id-ghost", "ghost", 1, false);
    assert_eq!(broken(&scene), violated("W3"));

    let mut scene = Scene::outage();
    scene.limits.writes_bad_max = 1.0;
    scene.write(Action::Create, "refused", None, ms(6_000));
    scene.end_write("refused", "rejected", Got::Answer, ms(6_010));
    assert_eq!(broken(&scene), (Outcome::Held, vec![]));
    scene.row("id-refused", "refused", 1, false);
    assert_eq!(broken(&scene), violated("W3"));
}

#[test]
fn s2_a_fresh_answer_older_than_a_committed_update_is_a_lie() {
    let mut scene = Scene::outage();
    scene.update(0, "early", "committed", ms(1_000), ms(1_010));
    scene.read(0, "fresh", ms(1_005), ms(1_020));
    assert_eq!(broken(&scene), (Outcome::Held, vec![]), "begun before the acknowledgement");
    scene.read(0, "fresh", ms(1_011), ms(1_020));
    assert_eq!(broken(&scene), all_violated(&["W5", "S2", "S3"]));
    let verdict = scene.judge();
    let spans = |id| verdict.check(id).unwrap().witnesses[0].spans.clone();
    for id in ["S2", "S3"] {
        let times: Vec<_> = spans(id).iter().map(|span| (span.from_us, span.until_us)).collect();
        assert_eq!(times, [(ms(1_000), Some(ms(1_010))), (ms(1_011), Some(ms(1_020)))], "{id}");
    }
    let both = spans("W5");
    let in_force_before_the_other_ends = |one: &Span, other: &Span| Some(one.from_us) < other.until_us;
    assert!(in_force_before_the_other_ends(&both[0], &both[1]), "{both:?}");
    assert!(in_force_before_the_other_ends(&both[1], &both[0]), "{both:?}");
}

#[test]
fn s2_an_age_below_the_true_one_is_a_lie_and_one_above_is_not() {
    let mut scene = Scene::outage();
    scene.update(0, "early", "committed", ms(1_000), ms(1_010));
    scene.read(0, "stale; age=3; reason=database_away", ms(4_020), ms(4_030));
    assert_eq!(broken(&scene), (Outcome::Held, vec![]));
    scene.read(0, "stale; age=2; reason=database_away", ms(4_020), ms(4_030));
    assert_eq!(broken(&scene), violated("S2"));
}

#[test]
fn s2_nothing_is_fresh_and_every_copy_is_old_while_the_database_is_gone() {
    let mut scene = Scene::outage();
    scene.read(1, "fresh", ms(7_000), ms(7_005));
    assert_eq!(broken(&scene), violated("S2"));

    let mut scene = Scene::outage();
    scene.read(1, "stale; age=2; reason=database_away", ms(7_000), ms(7_005));
    assert_eq!(broken(&scene), violated("S2"));

    let mut scene = Scene::outage();
    scene.read(1, "stale; age=3; reason=database_away", ms(7_000), ms(7_005));
    assert_eq!(broken(&scene), (Outcome::Held, vec![]));
}

#[test]
fn s2_a_fresh_answer_from_before_a_replay_is_counted_not_condemned() {
    let mut scene = Scene::outage();
    scene.update(0, "late", "journaled", ms(5_000), ms(5_004));
    scene.read(0, "fresh", ms(12_100), ms(12_105));
    assert_eq!(broken(&scene), (Outcome::Held, vec![]));
    assert_eq!(scene.judge().numbers.fresh_before_replay, 1);
}

#[test]
fn e2_values_of_nobody_of_others_and_of_the_future_are_wrong() {
    let cases: [(&str, &str, bool, &[&str]); 4] = [
        ("id-warm-1", "never-written", false, &["S4", "E2"]),
        ("id-warm-1", "warm-2", false, &["S4", "E2"]),
        ("id-warm-2", "warm-2", false, &["E2"]),
        ("id-warm-1", "warm-1", true, &["S4", "E2"]),
    ];
    for (id, title, done, ids) in cases {
        let mut scene = Scene::outage();
        (scene.limits.reads_bad_max, scene.limits.baseline_bad_max) = (1.0, 1.0);
        scene.read_as(1, id, title, done, ms(2_000));
        assert_eq!(broken(&scene), all_violated(ids), "{id} {title} {done}");
    }
    let mut scene = Scene::outage();
    (scene.limits.reads_bad_max, scene.limits.baseline_bad_max) = (1.0, 1.0);
    scene.update(1, "tomorrow", "committed", ms(3_000), ms(3_004));
    scene.read_as(1, "id-warm-1", "tomorrow", true, ms(2_000));
    assert_eq!(broken(&scene), all_violated(&["W5", "S4", "E2"]));
}

#[test]
fn l1_a_late_a_missing_and_a_refusing_liveness_answer_break_it() {
    for (status, took) in [(Some(200), ms(251)), (None, ms(1_000)), (Some(503), ms(1))] {
        let mut scene = Scene::outage();
        scene.probe("server-1", ms(7_000), ms(7_000) + took, status);
        assert_eq!(broken(&scene), violated("L1"));
    }
    let mut scene = Scene::outage();
    scene.probe("server-1", ms(7_000), ms(7_250), Some(200));
    assert_eq!(broken(&scene), (Outcome::Held, vec![]));
}

#[test]
fn l1_a_planned_kill_excuses_its_process_and_no_other() {
    let mut scene = Scene::outage();
    scene.exit("server-1", ms(6_000), true);
    scene.start("server-1", ms(6_500));
    scene.probe("server-1", ms(6_200), ms(6_200), None);
    assert_eq!(broken(&scene), (Outcome::Held, vec![]));
    scene.probe("server-2", ms(6_200), ms(6_200), None);
    assert_eq!(broken(&scene), violated("L1"));
}

#[test]
fn l1_an_end_or_a_start_that_nobody_asked_for_breaks_it() {
    let mut scene = Scene::outage();
    scene.exit("server-2", ms(6_000), false);
    assert_eq!(broken(&scene), violated("L1"));
}

#[test]
fn e1_counts_every_way_of_getting_nothing_against_the_planned_requests() {
    for got in [Got::Deadline, Got::Cut, Got::Refused, Got::NeverSent] {
        let mut scene = Scene::outage();
        scene.fail_read(got, ms(6_000));
        let (outcome, ids) = broken(&scene);
        assert_eq!((outcome, ids), violated("E1"), "{got:?}");
        let verdict = scene.judge();
        let lines = &verdict.check("E1").unwrap().witnesses[0].lines;
        assert!(lines.iter().any(|line| line.contains(&format!("with {got:?}"))), "which one: {lines:?}");
    }
    let mut scene = Scene::outage();
    scene.planned_but_never_begun(1);
    assert_eq!(broken(&scene), violated("E1"));
    let mut scene = Scene::outage();
    scene.limits.reads_bad_max = 0.02;
    scene.fail_read(Got::Deadline, ms(6_000));
    assert_eq!(broken(&scene), (Outcome::Held, vec![]));
}

#[test]
fn x1_a_fault_without_a_witness_or_without_effect_makes_the_run_inconclusive() {
    let mut scene = Scene::outage();
    scene.fault_witness(None);
    assert_eq!(broken(&scene), inconclusive("X1"));
    // It once said that no fault had been planned.
    assert_eq!(scene.judge().check("X1").unwrap().measured, "1 begun, none with a witness");
    let mut scene = Scene::outage();
    scene.canary_never_failed();
    assert_eq!(broken(&scene).0, Outcome::Inconclusive);
    assert!(broken(&scene).1.contains(&"X1".to_owned()));
}

#[test]
fn x2_a_bad_baseline_or_a_thin_load_makes_the_run_inconclusive() {
    let mut scene = Scene::outage();
    scene.fail_read(Got::Cut, ms(1_000));
    scene.fail_read(Got::Cut, ms(1_001));
    assert_eq!(broken(&scene), (Outcome::Inconclusive, vec!["E1".into(), "X2".into()]));
    let mut scene = Scene::outage();
    (0..60).for_each(|step| scene.fail_read(Got::NeverSent, ms(6_000 + step)));
    assert_eq!(broken(&scene), (Outcome::Inconclusive, vec!["E1".into(), "X2".into()]));
}

#[test]
fn x2_a_stack_that_is_degraded_before_the_fault_is_no_baseline() {
    let mut scene = Scene::outage();
    scene.read(1, "stale; age=1; reason=database_away", ms(1_000), ms(1_004));
    scene.read(1, "stale; age=1; reason=database_away", ms(1_010), ms(1_014));
    assert_eq!(broken(&scene), inconclusive("X2"));
}

#[test]
fn x3_a_scenario_that_aims_at_the_journal_must_have_used_it() {
    let mut scene = Scene::outage();
    scene.limits.journaled_min = 41;
    assert_eq!(broken(&scene), inconclusive("X3"));
}

#[test]
fn a_broken_safety_check_outweighs_an_unfit_run() {
    let mut scene = Scene::outage();
    scene.fault_witness(None);
    scene.rows.retain(|row| row.title != "during-3");
    assert_eq!(broken(&scene), (Outcome::Violated, vec!["W1".into(), "X1".into()]));
}

#[test]
fn rows_that_were_not_read_to_the_end_prove_nothing() {
    let mut scene = Scene::outage();
    scene.rows_announced = Some(1);
    let verdict = scene.judge();
    assert_eq!(verdict.outcome, Outcome::Inconclusive);
    assert!(["W1", "W2", "W3"].iter().all(|id| state(&verdict, id) == State::NotMeasured));
}

#[test]
fn a_history_that_makes_no_sense_is_an_error_of_the_harness() {
    let scene = Scene::outage();
    let events = scene.events();
    let without_load: Vec<_> =
        events.iter().filter(|event| !matches!(event, Event::Load(_))).cloned().collect();
    let mut ended_twice = events.clone();
    ended_twice.extend(events.iter().find(|event| matches!(event, Event::Ok(_))).cloned());
    let told = Event::HarnessError(crate::history::Note { at_us: 1, text: "the disk was full".into() });
    let told = [events.clone(), vec![told]].concat();
    for events in [Vec::new(), without_load, ended_twice, told] {
        assert_eq!(judge(&events, &scene.limits).outcome, Outcome::HarnessError);
    }
}

#[test]
fn the_order_of_the_lines_does_not_matter() {
    let scene = Scene::outage();
    let mut events = scene.events();
    let verdict = judge(&events, &scene.limits);
    let mut rng = fastrand::Rng::with_seed(1);
    rng.shuffle(&mut events);
    assert_eq!(judge(&events, &scene.limits), verdict);
}

const MIB: u64 = 1024 * 1024;

fn bounded(grown: u64, journal: u64, gone_after_us: u64) -> Scene {
    let mut scene = Scene::outage();
    scene.limits.bounds = Some(crate::history::Bounds::default());
    scene.usage(grown, journal, gone_after_us);
    scene
}

#[test]
fn bounds_are_looked_at_only_where_the_run_states_them() {
    assert!(Scene::outage().judge().check("B1").is_none());
    let held = bounded(60 * MIB, 300 * MIB, ms(1_500));
    assert_eq!(broken(&held), (Outcome::Held, vec![]));
    let mut nobody = Scene::outage();
    nobody.limits = held.limits;
    assert_eq!(nobody.judge().outcome, Outcome::Inconclusive);
}

#[test]
fn b1_and_b2_memory_and_disk_have_their_bounds() {
    assert_eq!(broken(&bounded(65 * MIB, 300 * MIB, 0)), violated("B1"));
    assert_eq!(broken(&bounded(60 * MIB, 305 * MIB, 0)), violated("B2"));
}

#[test]
fn t5_a_backlog_that_stays_too_long_or_for_good_is_found() {
    assert_eq!(broken(&bounded(0, 0, ms(2_500))), violated("T5"));
    assert_eq!(broken(&bounded(0, 0, ms(60_000))), violated("T5"));
}

#[test]
fn t6_answers_that_are_slow_while_the_backlog_goes_are_found() {
    let mut scene = bounded(0, 0, 0);
    scene.read(1, "fresh", ms(12_500), ms(12_507));
    assert_eq!(broken(&scene), violated("T6"));
}

#[test]
fn a_kept_witness_has_its_own_times_and_one_too_many_changes_none() {
    let mut finding = Finding::new("W5", "a promise", Class::Safety);
    let span = |from_us| Span {
        label: String::new(),
        from_us,
        from: "begun".into(),
        until_us: None,
        until: "never ended".into(),
    };
    for from_us in 0..WITNESSES_MAX as u64 + 2 {
        finding.violated(String::new(), Vec::new);
        finding.drawn(|| vec![span(from_us)]);
    }
    let check = finding.done(String::new());
    let times: Vec<u64> = check.witnesses.iter().map(|witness| witness.spans[0].from_us).collect();
    assert_eq!(times, [0, 1, 2, 3, 4]);
}

/// A run with a read-only database was called contradictory: one replica journaled an update, another went on reading the
/// old value from the database, rightly fresh, and a repetition of the update was told later that it is committed.
#[test]
fn a_journaled_write_binds_no_other_replica_also_once_it_is_told_as_committed() {
    let mut scene = Scene::outage();
    scene.start("server-2", 0);
    scene.update(1, "late", "journaled", ms(1_000), ms(1_005));
    scene.read(1, "fresh", ms(1_100), ms(1_105));
    let again = scene.write(Action::Update, "late", Some("id-warm-1"), ms(1_500));
    scene.end(again, "committed", "id-warm-1", "late", ms(1_505));
    let verdict = scene.judge();
    let order = verdict.checks.iter().find(|check| check.id == "W5").unwrap();
    assert_eq!(order.violations, 0, "{order:#?}");
}
