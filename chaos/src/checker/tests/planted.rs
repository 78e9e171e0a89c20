//! One violation planted into thousands of good operations: the invariant that should find it does, with a witness. What
//! is planted is what a broken service would have done, told the way a run would tell it.

use crate::checker::judge;
use crate::checker::synthetic::Synthetic;
use crate::history::{Action, Event, Got, LedgerRow, Limits, Probe};
use crate::verdict::{Outcome, State, Verdict};

const SMALL: fn() -> Synthetic =
    || Synthetic { operations: 6_000, clients: 8, objects: 5, ..Synthetic::default() };

fn planted(plant: impl FnOnce(&mut Vec<Event>)) -> Verdict {
    let mut events = SMALL().events();
    plant(&mut events);
    judge(&events, &SMALL().limits())
}

/// The invariants that broke. Each must tell how.
fn broken(verdict: &Verdict) -> Vec<&str> {
    let violated = verdict.checks.iter().filter(|check| check.state == State::Violated);
    violated
        .inspect(|check| assert!(!check.witnesses.is_empty() && !check.witnesses[0].summary.is_empty()))
        .map(|check| check.id.as_str())
        .collect()
}

#[track_caller]
fn finds(ids: &[&str], plant: impl FnOnce(&mut Vec<Event>)) {
    let verdict = planted(plant);
    assert_eq!(broken(&verdict), ids, "{:#?}", verdict.checks);
    assert_eq!(verdict.outcome, Outcome::Violated);
}

/// The place of an acknowledged write in the middle of the history that is not the last of its object.
fn write_in_the_middle(events: &[Event]) -> (u64, String, String) {
    let half = events.len() / 2;
    let told = |op: u64| events.iter().any(|event| matches!(event, Event::Ok(done) if done.op == op));
    let found = events[half..].iter().find_map(|event| match event {
        Event::Invoke(begun) if begun.action == Action::Set && told(begun.op) => {
            Some((begun.op, begun.object.clone()?, begun.value.clone()?))
        }
        _ => None,
    });
    found.unwrap()
}

fn rows(events: &mut [Event]) -> impl Iterator<Item = &mut LedgerRow> {
    events.iter_mut().filter_map(|event| if let Event::LedgerRow(row) = event { Some(row) } else { None })
}

fn announce(events: &mut [Event], by: i64) {
    for event in events {
        if let Event::LedgerRows(rows) = event {
            rows.rows = rows.rows.saturating_add_signed(by);
        }
    }
}

fn count(events: &mut [Event], object: &str, by: i64) {
    for event in events {
        if let Event::Counter(counter) = event
            && counter.object == object
        {
            counter.count += by;
        }
    }
}

/// The last fresh read in the history and its object.
fn last_read(events: &[Event]) -> (u64, String) {
    let of = |op: u64| {
        events.iter().find_map(|event| match event {
            Event::Invoke(begun) if begun.op == op => begun.object.clone(),
            _ => None,
        })
    };
    let found = events.iter().rev().find_map(|event| match event {
        Event::Ok(done) if done.freshness.as_deref() == Some("fresh") => Some((done.op, of(done.op)?)),
        _ => None,
    });
    found.unwrap()
}

fn show(events: &mut [Event], op: u64, value: Option<&str>) {
    for event in events {
        if let Event::Ok(done) = event
            && done.op == op
        {
            done.values = Some(value.map(str::to_owned).into_iter().collect());
        }
    }
}

#[test]
fn nothing_is_found_where_nothing_is_planted() {
    let verdict = planted(|_| {});
    assert_eq!((broken(&verdict), verdict.outcome), (vec![], Outcome::Held), "{verdict:#?}");
    for id in
        ["W1", "W2", "W3", "W4", "W5", "W6", "S1", "S2", "S3", "S4", "S5", "E2", "L1", "L2", "L3", "L4", "T2"]
    {
        let check = verdict.check(id).unwrap();
        assert!(check.state == State::Held && check.examined > 0, "{check:?}");
    }
}

#[test]
fn a_long_history_is_judged_in_no_more_than_its_share_of_time() {
    // Ten times what an unoptimised build takes; a check that compares every pair takes hours.
    const NANOS_MAX: u64 = 20_000_000_000;
    let synthetic = Synthetic { operations: 100_000, ..Synthetic::default() };
    let events = synthetic.events();
    // What this thread was on a processor for: other tests run beside it.
    let spent = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        text.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let before = spent();
    assert_eq!(judge(&events, &synthetic.limits()).outcome, Outcome::Held);
    let took = spent() - before;
    assert!(took <= NANOS_MAX, "{took} ns");
}

#[test]
fn a_lost_write_breaks_w1() {
    finds(&["W1"], |events| {
        let (_, object, value) = write_in_the_middle(events);
        events.retain(|event| !matches!(event, Event::LedgerRow(row) if row.value == value));
        announce(events, -1);
        count(events, &object, -1);
    });
}

#[test]
fn a_doubled_write_breaks_w2() {
    let twice = |events: &mut Vec<Event>| {
        let (_, object, value) = write_in_the_middle(events);
        events.push(Event::LedgerRow(LedgerRow { object: object.clone(), value, n: Some(1_000_000) }));
        announce(events, 1);
        count(events, &object, 1);
    };
    finds(&["W2"], twice);
}

#[test]
fn a_counter_that_went_up_once_more_breaks_w2() {
    finds(&["W2"], |events| count(events, "r3", 1));
}

#[test]
fn a_row_of_nobody_breaks_w3() {
    finds(&["W3"], |events| {
        events.push(Event::LedgerRow(LedgerRow {
            object: "r1".into(),
            value: "ghost".into(),
            n: Some(1_000_000),
        }));
        announce(events, 1);
        count(events, "r1", 1);
    });
}

#[test]
fn an_effect_of_a_refused_write_breaks_w3_and_whoever_saw_it_got_a_wrong_value() {
    let verdict = planted(|events| {
        let (op, ..) = write_in_the_middle(events);
        for event in events.iter_mut() {
            if let Event::Ok(done) = event
                && done.op == op
            {
                *event = Event::Fail(done.clone());
            }
        }
    });
    assert!(broken(&verdict).contains(&"W3"), "{:?}", broken(&verdict));
}

#[test]
fn two_effects_that_changed_places_break_w4() {
    let verdict = planted(|events| {
        let mut of_object = rows(events).filter(|row| row.object == "r2");
        let (first, last) = (of_object.next().unwrap(), of_object.last().unwrap());
        std::mem::swap(&mut first.n, &mut last.n);
        // The service states no places, or it would contradict its own ledger as well.
        for event in events.iter_mut() {
            if let Event::Ok(done) = event {
                done.version = None;
            }
        }
    });
    // Who looks at the order to tell how old an answer is finds fault with some answers, too.
    assert_eq!(broken(&verdict)[0], "W4");
    assert!(
        verdict.check("W4").unwrap().witnesses[0].summary.contains("was acknowledged before it was begun")
    );
}

#[test]
fn a_place_that_contradicts_the_ledger_breaks_w4() {
    finds(&["W4"], |events| {
        let (op, ..) = write_in_the_middle(events);
        for event in events {
            if let Event::Ok(done) = event
                && done.op == op
            {
                done.version = done.version.map(|version| version + 7);
            }
        }
    });
}

#[test]
fn a_fresh_answer_with_an_old_value_breaks_the_order_in_time_and_the_label() {
    let plant = |events: &mut Vec<Event>| {
        let (op, object) = last_read(events);
        let first = rows(events).find(|row| row.object == object).unwrap().value.clone();
        show(events, op, Some(&first));
    };
    let verdict = planted(plant);
    assert_eq!(broken(&verdict), ["W5", "S2", "S3", "S5"]);
    // Two groups, each with the first end and the last beginning, and who stands for them.
    let witness = &verdict.check("W5").unwrap().witnesses[0];
    assert!((1..=2).contains(&verdict.check("W5").unwrap().violations));
    assert_eq!(witness.lines.iter().filter(|line| line.contains(": in force by ")).count(), 2, "{witness:?}");
    assert_eq!(witness.lines.iter().filter(|line| line.contains(": still in force at ")).count(), 2);
}

#[test]
fn a_session_that_is_shown_less_than_before_breaks_s5() {
    let verdict = planted(|events| {
        let (op, _) = last_read(events);
        show(events, op, None);
    });
    assert!(broken(&verdict).contains(&"S5") && broken(&verdict).contains(&"W5"), "{:?}", broken(&verdict));
}

#[test]
fn an_understated_age_breaks_s2() {
    finds(&["S2"], |events| {
        let labelled = events.iter_mut().filter_map(|event| match event {
            Event::Ok(done) if done.freshness.as_deref().is_some_and(|text| text.starts_with("stale")) => {
                Some(done)
            }
            _ => None,
        });
        labelled.for_each(|done| done.freshness = Some("stale; age=0; reason=database_away".into()));
    });
}

#[test]
fn an_answer_older_than_the_service_may_be_breaks_s1() {
    let limits = Limits { max_stale_ms: Some(100), ..SMALL().limits() };
    assert_eq!(broken(&judge(&SMALL().events(), &limits)), ["S1"]);
}

#[test]
fn values_of_nobody_of_another_object_and_of_the_future_break_s4() {
    finds(&["S4", "E2"], |events| {
        let (op, _) = last_read(events);
        show(events, op, Some("never"));
    });
    finds(&["S4", "E2"], |events| {
        let (op, object) = last_read(events);
        let other = rows(events).find(|row| row.object != object).unwrap().value.clone();
        show(events, op, Some(&other));
    });
    let verdict = planted(|events| {
        let early = events.iter().find_map(|event| match event {
            Event::Ok(done) if done.values.is_some() => Some(done.op),
            _ => None,
        });
        let object = events.iter().find_map(|event| match event {
            Event::Invoke(begun) if Some(begun.op) == early => begun.object.clone(),
            _ => None,
        });
        let last =
            rows(events).filter(|row| Some(&row.object) == object.as_ref()).last().unwrap().value.clone();
        show(events, early.unwrap(), Some(&last));
    });
    assert!(["S4", "E2"].iter().all(|id| broken(&verdict).contains(id)), "{:?}", broken(&verdict));
}

#[test]
fn what_another_user_wrote_breaks_s4() {
    for echo in [false, true] {
        finds(&["S4", "E2"], |events| {
            let (read, _) = last_read(events);
            let shown = events.iter().find_map(|event| match event {
                Event::Ok(done) if done.op == read => done.values.as_ref()?.last().cloned(),
                _ => None,
            });
            for event in events {
                match event {
                    Event::Invoke(begun) if begun.op == read => begun.user = Some("ada".into()),
                    Event::Invoke(begun) if begun.value == shown && !echo => begun.user = Some("bob".into()),
                    Event::Ok(done) if done.op == read && echo => done.user = Some("bob".into()),
                    _ => {}
                }
            }
        });
    }
}

#[test]
fn a_server_that_is_wrong_about_a_write_or_knows_too_little_breaks_w6() {
    finds(&["W6"], |events| {
        for event in events {
            if let Event::WriteStatus(status) = event
                && status.status == "applied"
            {
                status.status = "absent".into();
                return;
            }
        }
    });
    let limits = Limits { unknown_share_max: Some(0.001), ..SMALL().limits() };
    assert_eq!(broken(&judge(&SMALL().events(), &limits)), ["W6"]);
    let verdict = planted(|events| events.retain(|event| !matches!(event, Event::WriteStatus(_))));
    assert_eq!(verdict.check("W6").unwrap().state, State::NotMeasured);
}

#[test]
fn a_request_that_outlives_its_deadline_breaks_t2() {
    finds(&["T2"], |events| {
        let (op, _) = last_read(events);
        for event in events {
            if let Event::Ok(done) = event
                && done.op == op
            {
                done.at_us += 6_000_000;
                // Counted as bad as well, were it the only one of few.
                done.got = Got::Answer;
            }
        }
    });
}

fn probe(process: &str, path: &str, at_us: u64, took_us: u64, status: u16) -> Event {
    let (process, path, status) = (process.to_owned(), path.to_owned(), Some(status));
    Event::Probe(Probe { process, path, planned_us: at_us, at_us: at_us + took_us, status, error: None })
}

#[test]
fn health_that_is_late_flaps_or_is_gone_everywhere_breaks_l1_to_l4() {
    finds(&["L1"], |events| events.push(probe("server-1", "/livez", 20_000, 251_000, 200)));
    finds(&["L2"], |events| events.push(probe("server-1", "/readyz", 120_000, 1_000, 503)));
    finds(&["L2", "L3"], |events| {
        for at_us in (100_010..400_000).step_by(50_000) {
            events.push(probe("server-1", "/readyz", at_us, 1_000, 503));
        }
    });
    finds(&["L2", "L4"], |events| {
        events.push(probe("server-1", "/readyz", 120_000, 1_000, 503));
        events.push(probe("server-2", "/readyz", 120_000, 1_000, 503));
    });
}
