//! The invariants that take more than operations: probes, counts, failovers, lists of another tool. Each meets a run that
//! keeps it and one that breaks it.

use crate::checker::judge;
use crate::checker::tests::builder::{Scene, ms};
use crate::checker::tests::{all_violated, broken, inconclusive, state, violated};
use crate::history::{
    Count, Counted, Event, Fill, Got, Limits, LossReport, Machine, Probe, Promotion, ReadinessDue, Sabotage,
    Usage, foreign,
};
use crate::verdict::{Outcome, State, Verdict};

fn held() -> (Outcome, Vec<String>) {
    (Outcome::Held, vec![])
}

fn measured(scene: &Scene, id: &str) -> State {
    state(&scene.judge(), id)
}

#[test]
fn what_nothing_is_known_about_is_not_measured_and_required_it_leaves_the_verdict_open() {
    let mut scene = Scene::outage();
    let ids = ["W6", "W7", "S1", "S5", "T4", "H1", "H2", "H3", "H4", "H5", "E3", "X4"];
    assert!(ids.iter().all(|id| measured(&scene, id) == State::NotMeasured), "{:#?}", scene.judge());
    for required in ["H2", "no such check"] {
        scene.limits.required = vec![required.into()];
        assert_eq!(broken(&scene), (Outcome::Inconclusive, vec![]));
        assert!(scene.judge().reason.contains(required));
    }
}

/// A stack that got a tenth of the machine refused some of what it could not do in time, and was called broken.
#[test]
fn e1_leaves_open_what_was_refused_while_others_filled_the_machine() {
    let mut scene = Scene::outage();
    scene.fail_read(Got::Deadline, ms(6_000));
    let busy = |from_us, at_us| Event::Machine(Machine { from_us, at_us, others: 0.9 });
    scene.add(busy(ms(7_500), ms(8_000)));
    assert_eq!(broken(&scene), violated("E1"), "at another time");
    scene.add(busy(ms(5_500), ms(6_500)));
    assert_eq!(
        (broken(&scene), measured(&scene, "E1")),
        ((Outcome::Inconclusive, vec![]), State::NotMeasured)
    );
}

#[test]
fn t1_an_outage_that_nobody_notices_for_more_than_a_second_breaks_it() {
    let mut scene = Scene::outage();
    assert_eq!(measured(&scene, "T1"), State::Held);
    scene.delay(ms(4_000)..ms(5_100), ms(1_200));
    assert_eq!(broken(&scene), violated("T1"));
}

/// Enough traffic before and after to tell what steady is.
fn busy(latency_us: u64) -> Scene {
    let mut scene = Scene::outage();
    scene.until_us = ms(30_000);
    for at_us in (0..190).map(|step| ms(45 + step * 20)) {
        scene.read(1, "fresh", at_us, at_us + ms(3));
    }
    for at_us in (0..900).map(|step| ms(12_005 + step * 20)) {
        scene.read(1, "fresh", at_us, at_us + latency_us);
    }
    scene
}

#[test]
fn t4_a_service_that_stays_slow_after_the_return_breaks_it() {
    let scene = busy(ms(3));
    assert_eq!((broken(&scene), measured(&scene, "T4")), (held(), State::Held));
    assert_eq!(broken(&busy(ms(12))), violated("T4"));
    // Slow for two seconds, then as before.
    let mut scene = busy(ms(3));
    scene.delay(ms(12_000)..ms(14_000), ms(20));
    assert_eq!(broken(&scene), held());
}

fn due(process: &str, at_us: u64, ready: bool) -> Event {
    Event::ReadinessDue(ReadinessDue { process: process.into(), at_us, ready, why: "draining".into() })
}

fn readyz(process: &str, at_us: u64, status: u16) -> Event {
    let (process, path, status) = (process.to_owned(), "/readyz".to_owned(), Some(status));
    Event::Probe(Probe { process, path, planned_us: at_us, at_us: at_us + ms(1), status, error: None })
}

#[test]
fn l2_a_replica_that_drains_must_say_so_within_a_second() {
    let drained = |says_so_us: u64| {
        let mut scene = Scene::outage();
        scene.add(due("server-1", ms(6_000), false));
        for at_us in (0..280).map(|step| ms(step * 50)) {
            scene.add(readyz("server-1", at_us, if at_us < says_so_us { 200 } else { 503 }));
            scene.add(readyz("server-2", at_us, 200));
        }
        scene
    };
    assert_eq!(broken(&drained(ms(6_950))), held());
    assert_eq!(broken(&drained(ms(7_100))), violated("L2"));
    let mut early = drained(ms(6_950));
    early.add(readyz("server-2", ms(6_960), 503));
    // The other one is excused, this one is not; and with it nobody is ready.
    assert_eq!(broken(&early), all_violated(&["L2", "L4"]));
}

/// The harness plans an end from the signal on; whoever drains answers until it is gone, and must refuse.
#[test]
fn l2_a_planned_end_excuses_nobody_who_still_answers() {
    let mut scene = Scene::outage();
    scene.add(due("server-1", ms(6_000), false));
    scene.exit("server-1", ms(6_000), true);
    scene.add(due("server-1", ms(8_000), true));
    scene.start("server-1", ms(8_200));
    for at_us in (0..280).map(|step| ms(step * 50)) {
        let away = (ms(6_000)..ms(8_200)).contains(&at_us);
        scene.add(readyz("server-1", at_us, if away { 503 } else { 200 }));
        scene.add(readyz("server-2", at_us, 200));
    }
    assert_eq!((broken(&scene), measured(&scene, "L2")), (held(), State::Held));
    scene.add(readyz("server-1", ms(7_500), 200));
    assert_eq!(broken(&scene), violated("L2"));
}

#[test]
fn l3_a_limit_for_a_flapping_database_counts_within_ten_seconds() {
    let mut scene = Scene::outage();
    for (at_us, ready) in [(ms(1_000), false), (ms(4_000), true), (ms(7_000), false)] {
        scene.add(due("server-1", at_us, ready));
    }
    for at_us in (0..280).map(|step| ms(step * 50)) {
        let away = (ms(1_000)..ms(4_000)).contains(&at_us) || at_us >= ms(7_000);
        scene.add(readyz("server-1", at_us, if away { 503 } else { 200 }));
        scene.add(readyz("server-2", at_us, 200));
    }
    assert_eq!(broken(&scene), held());
    scene.limits.ready_changes_max = Some(3);
    assert_eq!(broken(&scene), held());
    scene.limits.ready_changes_max = Some(1);
    assert_eq!(broken(&scene), violated("L3"));
}

fn counted(what: Counted, from_us: u64, at_us: u64, count: u64) -> Event {
    Event::Count(Count { what, process: "server-1".into(), from_us, at_us, count })
}

fn connects(scene: &mut Scene, from_ms: u64, count: u64) {
    scene.add(counted(Counted::Connects, ms(from_ms), ms(from_ms + 50), count));
}

#[test]
fn h1_hammering_at_a_database_that_is_away_breaks_it() {
    let mut scene = Scene::outage();
    scene.limits.connect_pause_ms = Some(500);
    (0..15).for_each(|step| connects(&mut scene, 4_100 + step * 500, 1));
    assert_eq!((broken(&scene), measured(&scene, "H1")), (held(), State::Held));
    (0..15).for_each(|step| connects(&mut scene, 4_120 + step * 500, 2));
    assert_eq!(broken(&scene), violated("H1"));
}

/// A network that carried nothing between servers and database left H1 to H3 open, because the canary saw no outage.
#[test]
fn h1_to_h3_are_measured_where_only_the_way_of_the_servers_is_gone() {
    let with = |attempts: u64| {
        let mut scene = Scene::outage();
        scene.only_the_way_is_gone();
        (scene.limits.connect_pause_ms, scene.limits.pool_max) = (Some(500), Some(20));
        (0..15).for_each(|step| connects(&mut scene, 4_100 + step * 450, attempts));
        (0..18).for_each(|second| {
            scene.add(counted(Counted::Statements, ms(second * 1_000), ms(second * 1_000 + 1_000), 100));
        });
        scene
    };
    let of = |scene: &Scene| ["H1", "H2", "H3"].map(|id| measured(scene, id));
    assert_eq!(of(&with(1)), [State::Held; 3]);
    assert_eq!(of(&with(9)), [State::Violated, State::Held, State::Held]);
}

/// Servers that tried nothing at all in an outage were called good after "0 examined".
#[test]
fn h1_counts_the_times_it_looked_at_and_not_the_attempts() {
    let mut scene = Scene::outage();
    scene.limits.connect_pause_ms = Some(500);
    connects(&mut scene, 0, 0);
    let verdict = scene.judge();
    let check = verdict.check("H1").unwrap();
    assert_eq!((check.state, check.examined), (State::Held, 1));
}

#[test]
fn h2_a_rush_to_connect_after_the_return_breaks_it() {
    let with = |counts: &[(u64, u64)]| {
        let mut scene = Scene::outage();
        scene.limits.pool_max = Some(20);
        counts.iter().for_each(|&(from_ms, count)| connects(&mut scene, from_ms, count));
        scene
    };
    let spread: Vec<(u64, u64)> = (0..10).map(|step| (12_050 + step * 90, 4)).collect();
    assert_eq!((broken(&with(&spread)), measured(&with(&spread), "H2")), (held(), State::Held));
    assert_eq!(broken(&with(&[(12_050, 30), (12_300, 5)])), violated("H2"));
    let many: Vec<(u64, u64)> = spread.iter().map(|&(from_ms, count)| (from_ms, count * 2)).collect();
    assert_eq!(broken(&with(&many)), violated("H2"));
}

#[test]
fn h3_a_flood_of_statements_after_the_return_breaks_it() {
    let with = |after: u64| {
        let mut scene = Scene::outage();
        for second in 0..18 {
            let count = if second >= 12 { after } else { 100 };
            scene.add(counted(Counted::Statements, ms(second * 1_000), ms(second * 1_000 + 1_000), count));
        }
        scene
    };
    assert_eq!((broken(&with(190)), measured(&with(190), "H3")), (held(), State::Held));
    assert_eq!(broken(&with(210)), violated("H3"));
}

#[test]
fn h4_the_same_read_twice_at_a_time_breaks_it() {
    let fill = |process: &str, identity: &str, from_us, at_us| {
        Event::Fill(Fill { process: process.into(), identity: identity.into(), from_us, at_us })
    };
    let mut scene = Scene::outage();
    scene.add(fill("server-1", "todo 1", 10, 20));
    scene.add(fill("server-1", "todo 1", 20, 40));
    scene.add(fill("server-1", "todo 2", 25, 30));
    scene.add(fill("server-2", "todo 1", 25, 30));
    assert_eq!((broken(&scene), measured(&scene, "H4")), (held(), State::Held));
    scene.add(fill("server-1", "todo 1", 39, 50));
    assert_eq!(broken(&scene), violated("H4"));
}

#[test]
fn h5_retries_beyond_their_budget_break_it() {
    let mut scene = Scene::outage();
    scene.add(counted(Counted::Requests, 0, ms(14_000), 1_000));
    scene.add(counted(Counted::Attempts, 0, ms(14_000), 1_100));
    assert_eq!((broken(&scene), measured(&scene, "H5")), (held(), State::Held));
    scene.add(counted(Counted::Attempts, ms(14_000), ms(14_100), 1));
    assert_eq!(broken(&scene), violated("H5"));
}

#[test]
fn e3_what_a_server_does_not_give_back_breaks_it() {
    let with = |fds: u64, memory_bytes: u64| {
        let mut scene = Scene::outage();
        scene.limits.quiet_growth_max = Some(0.1);
        for (at_us, fds, memory_bytes) in [(ms(3_000), 100, 200 << 20), (ms(18_000), fds, memory_bytes)] {
            scene.add(Event::Usage(Usage {
                process: "server-1".into(),
                at_us,
                memory_bytes,
                journal_entries: None,
                journal_bytes: 0,
                fds: Some(fds),
                tasks: Some(8),
            }));
        }
        scene
    };
    assert_eq!((broken(&with(110, 220 << 20)), measured(&with(110, 220 << 20), "E3")), (held(), State::Held));
    assert_eq!(broken(&with(111, 200 << 20)), violated("E3"));
    assert_eq!(broken(&with(100, 221 << 20)), violated("E3"));
}

#[test]
fn x3_and_x4_an_aim_that_was_missed_and_a_bug_that_went_unnoticed_make_a_run_inconclusive() {
    let mut scene = Scene::outage();
    scene.limits.outcomes = vec!["stale".into(), "journaled".into()];
    let sabotage = |broken: &str| {
        let (bug, expected) = ("answers before it writes".to_owned(), vec!["W1".to_owned()]);
        Event::Sabotage(Sabotage { bug, at_us: ms(20_000), expected, broken: vec![broken.into()] })
    };
    scene.add(sabotage("W1"));
    assert_eq!((broken(&scene), measured(&scene, "X4")), (held(), State::Held));
    let mut missed = scene.clone();
    missed.limits.outcomes.push("fallback".into());
    assert_eq!(broken(&missed), inconclusive("X3"));
    scene.add(sabotage("E1"));
    assert_eq!(broken(&scene), inconclusive("X4"));
}

/// A failover that took back one write: committed just before it, gone from the rows.
fn failover(reported: Option<&str>) -> Scene {
    let mut scene = Scene::outage();
    scene.limits.loss_window_ms = 1_000;
    scene.rows.retain(|row| row.title != "calm-19");
    scene.add(Event::Promotion(Promotion {
        at_us: ms(4_100),
        node: "standby".into(),
        lost_from_us: ms(3_800),
        lost_until_us: ms(4_000),
        replayed_lsn: None,
        written_lsn: None,
    }));
    if let Some(key) = reported {
        let keys = vec![key.to_owned()];
        scene.add(Event::LossReport(LossReport { process: "server-1".into(), at_us: ms(19_000), keys }));
    }
    scene
}

#[test]
fn w7_a_failover_may_lose_what_was_declared_and_reported_and_w1_forgives_no_more() {
    assert_eq!(
        (broken(&failover(Some("key-calm-19"))), measured(&failover(Some("key-calm-19")), "W7")),
        (held(), State::Held)
    );
    assert_eq!(broken(&failover(Some("key-calm-18"))), violated("W7"));
    assert_eq!((broken(&failover(None)), measured(&failover(None), "W7")), (held(), State::NotMeasured));
    let mut scene = failover(Some("key-calm-19"));
    scene.limits.loss_window_ms = 0;
    assert_eq!(broken(&scene), violated("W7"));
    let mut scene = failover(Some("key-calm-19"));
    scene.rows.retain(|row| row.title != "calm-10");
    assert_eq!(broken(&scene), violated("W1"));
}

/// Readers of the old primary saw it, readers of the new one cannot.
#[test]
fn what_a_failover_took_back_binds_no_reader() {
    let mut scene = failover(Some("key-calm-19"));
    scene.add(Event::LossReport(LossReport {
        process: "server-2".into(),
        at_us: ms(19_000),
        keys: vec!["key-taken-back".into()],
    }));
    scene.update(1, "taken-back", "committed", ms(3_850), ms(3_870));
    scene.undo_update(1);
    scene.read_as(1, "id-warm-1", "taken-back", true, ms(3_900));
    scene.read(1, "fresh", ms(13_000), ms(13_003));
    scene.in_session("one", 2);
    assert_eq!((broken(&scene), measured(&scene, "S3")), (held(), State::Held));
    // Without a failover it is all that it looks like.
    scene.without_promotion();
    let found = broken(&scene).1;
    assert!(["W1", "S2", "S3", "S5"].iter().all(|id| found.contains(&(*id).to_owned())), "{found:?}");
}

fn of_another_tool(lines: &[(u64, &str, &str, &str)]) -> Verdict {
    let lines = lines.iter().map(|(process, kind, f, value)| {
        format!(r#"{{"process":{process},"type":"{kind}","f":"{f}","key":"x","value":{value}}}"#)
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    judge(&foreign::parse(text.as_bytes()).unwrap().unwrap(), &Limits::default())
}

/// Three values appended one after the other, then what a read shows.
fn list(shown: &str) -> Verdict {
    let mut lines = Vec::new();
    for value in ["1", "2", "3"] {
        lines.extend([(0, "invoke", "append", value), (0, "ok", "append", value)]);
    }
    lines.extend([(1, "invoke", "read", "null"), (1, "ok", "read", "[1,2,3]")]);
    lines.extend([(2, "invoke", "read", "null"), (2, "ok", "read", shown)]);
    of_another_tool(&lines)
}

#[test]
fn lists_of_another_tool_are_judged_by_what_operations_can_tell() {
    let verdict = list("[1,2,3]");
    assert_eq!(verdict.outcome, Outcome::Held, "{verdict:#?}");
    for (shown, ids) in [
        ("[1,2]", vec!["W5", "S3"]),
        ("[]", vec!["W5", "S3"]),
        ("[2,1,3]", vec!["S4", "E2"]),
        ("[1,3]", vec!["S4", "E2"]),
        ("[1,2,3,3]", vec!["S4", "E2"]),
        ("[1,2,9]", vec!["S4", "E2"]),
    ] {
        let verdict = list(shown);
        let found: Vec<&str> = verdict
            .checks
            .iter()
            .filter(|check| check.state == State::Violated)
            .map(|check| check.id.as_str())
            .collect();
        assert!(ids.iter().all(|id| found.contains(id)), "{shown}: {found:?}");
        assert_eq!(verdict.outcome, Outcome::Violated);
    }
    assert_eq!(of_another_tool(&[(0, "invoke", "write", "1")]).outcome, Outcome::Inconclusive);
}
