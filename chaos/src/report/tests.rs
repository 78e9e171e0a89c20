//! The report of a small run: complete, closed in itself, and safe whatever text a run brings along.

use super::*;
use crate::checker::judge;
use crate::history::{
    Action, Completion, FORMAT, FaultEnd, FaultStart, FinalRows, Got, Invoke, Limits, Load, Run,
};

fn run(scenario: &str) -> Vec<Event> {
    let rerun = "ridethrough-chaos run db-kill --seed 42".to_owned();
    let header = Run { format: FORMAT, seed: 42, scenario: scenario.into(), rerun, ..Run::default() };
    let mut events = vec![
        Event::Run(Box::new(header)),
        Event::Load(Load { at_us: 0, until_us: 3_000_000, reads: 60, writes: 0 }),
        Event::FaultStart(FaultStart {
            id: 1,
            fault: "<b>db-kill</b>".into(),
            at_us: 1_000_000,
            database_gone: true,
            asked_us: None,
            witness: Some("signal 9".into()),
        }),
        Event::FaultEnd(FaultEnd { id: 1, at_us: 2_000_000, witness: None }),
        Event::FinalRows(FinalRows { at_us: 4_000_000, rows: 0 }),
    ];
    for op in 0..60 {
        let at_us = op * 50_000;
        let (action, todo, value) = (Action::List, None, None);
        let invoke = Invoke {
            op,
            action,
            planned_us: at_us,
            at_us,
            measured: true,
            todo,
            value,
            key: None,
            repeat_of: None,
            to: "proxy".into(),
            ..Invoke::default()
        };
        events.push(Event::Invoke(invoke));
        events.push(Event::Ok(Completion {
            op,
            at_us: at_us + 2_000,
            sent_us: Some(at_us),
            got: Got::Answer,
            status: Some(200),
            freshness: Some("fresh".into()),
            ..Completion::default()
        }));
    }
    events
}

fn written(events: &[Event]) -> (Verdict, String, String) {
    let verdict = judge(events, &Limits::default());
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), events, &verdict).unwrap();
    let read = |name| fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing half-written is left");
    (verdict, read(PAGE), read(VERDICT))
}

#[test]
fn the_page_holds_the_verdict_the_picture_and_the_way_to_run_it_again() {
    let (verdict, page, json) = written(&run("db-kill"));
    for part in
        ["ridethrough-chaos run db-kill --seed 42", "role=\"img\"", "<caption>", "prefers-color-scheme: dark"]
    {
        assert!(page.contains(part), "{part}");
    }
    for check in &verdict.checks {
        assert!(page.contains(&format!("<th scope=\"row\">{}</th>", check.id)), "{}", check.id);
    }
    let read_back: Verdict = serde_json::from_str(&json).unwrap();
    assert_eq!(read_back, verdict);
    assert_eq!(read_back.schema, crate::verdict::SCHEMA);
}

#[test]
fn the_page_loads_nothing_and_runs_nothing() {
    let (_, page, _) = written(&run("db-kill"));
    let page = page.replace("http://www.w3.org/2000/svg", "");
    for part in ["http://", "https://", "<script", "@import", "<link", "<img", "src="] {
        assert!(!page.contains(part), "{part}");
    }
}

#[test]
fn text_of_the_run_cannot_become_markup() {
    let (_, page, _) = written(&run("<script>alert(1)</script>\" onload=\"x"));
    assert!(!page.contains("<script>") && !page.contains("<b>db-kill</b>"));
    assert!(page.contains("&lt;script&gt;"));
}

#[test]
fn a_history_without_a_load_still_gives_a_page_and_one_sentence() {
    let events: Vec<Event> = run("db-kill").into_iter().take(1).collect();
    let (verdict, page, _) = written(&events);
    assert!(page.contains("harness error"));
    assert_eq!(sentences(&verdict).len(), 1);
}

#[test]
fn the_sentences_say_what_was_counted() {
    let (verdict, ..) = written(&run("db-kill"));
    let lines = sentences(&verdict).join("\n");
    for part in
        ["60 requests were planned: 60 reads and 0 writes.", "60 fresh, 0 stale", "0 were lost and 0 doubled"]
    {
        assert!(lines.contains(part), "{part} in\n{lines}");
    }
    assert!(lines.lines().last().unwrap().starts_with("Verdict: inconclusive"));
}

#[test]
fn numbers_read_easily() {
    use crate::report::sentences::{count, millis, seconds};
    assert_eq!([count(0), count(999), count(1_000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
    assert_eq!([seconds(80_000), seconds(8_240_000)], ["0.08 s", "8.2 s"]);
    assert_eq!([millis(1_234), millis(250_400)], ["1.2 ms", "250 ms"]);
}
