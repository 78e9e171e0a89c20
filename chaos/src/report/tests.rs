//! The report of a small run: complete, closed in itself, and safe whatever text a run brings along.

mod schema;

use super::*;
use crate::checker::{answered, judge};
use crate::history::{
    Action, Completion, FORMAT, FaultEnd, FaultStart, FinalRows, Got, Invoke, Limits, Load, Run, ServerState,
};
use crate::verdict::{Outcome, Span, State, Witness};

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
            way_gone: false,
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
    write(folder.path(), events, &verdict, None).unwrap();
    let read = |name| fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4, "nothing half-written is left");
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
    let headline = headline(&verdict);
    assert!(
        headline.contains(
            "of 60 planned requests users got 60 fresh, 0 stale, 0 committed, 0 journaled and 0 bad"
        ),
        "{headline}"
    );
}

#[test]
fn numbers_read_easily() {
    use crate::report::sentences::{count, millis, seconds};
    assert_eq!([count(0), count(999), count(1_000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
    assert_eq!([seconds(80_000), seconds(8_240_000)], ["0.08 s", "8.2 s"]);
    assert_eq!([millis(1_234), millis(250_400)], ["1.2 ms", "250 ms"]);
}

const HOSTILE: &str = "</title></pre></svg>]]><script>alert(1)</script>\" onload='x' | `b` \u{0}\u{1b}[31m";

/// A verdict in which every text that may come from a run or a service is hostile.
fn hostile() -> (Vec<Event>, Verdict) {
    let mut events = run(HOSTILE);
    for process in ["server-1", HOSTILE] {
        events.push(Event::ServerState(ServerState {
            process: process.into(),
            at_us: 1_000_000,
            breaker: Some(HOSTILE.into()),
            journal_entries: Some(3),
            ..ServerState::default()
        }));
    }
    let mut verdict = judge(&events, &Limits::default());
    verdict.outcome = Outcome::Violated;
    for text in [&mut verdict.reason, &mut verdict.rerun, &mut verdict.started] {
        *text = HOSTILE.into();
    }
    let check = verdict.checks.first_mut().unwrap();
    (check.state, check.violations, check.measured) = (State::Violated, 1, HOSTILE.into());
    let span = |until_us| Span {
        label: HOSTILE.into(),
        from_us: 5,
        from: HOSTILE.into(),
        until_us,
        until: HOSTILE.into(),
    };
    check.witnesses = vec![Witness {
        summary: HOSTILE.into(),
        lines: vec![HOSTILE.into()],
        spans: vec![span(Some(9)), span(None)],
    }];
    (events, verdict)
}

/// What is wrong with the nesting of the elements of a page or an XML file, and which ids it has twice.
fn nesting(text: &str) -> Vec<String> {
    const VOID: [&str; 3] = ["meta", "!doctype", "?xml"];
    let (mut open, mut wrong, mut ids) = (Vec::new(), Vec::new(), std::collections::HashSet::new());
    for tag in text.split('<').skip(1) {
        let (inside, _) = tag.split_once('>').unwrap_or((tag, ""));
        let name = inside.split([' ', '\n', '/']).find(|part| !part.is_empty()).unwrap_or_default();
        if let Some(id) = inside.split(" id=\"").nth(1).and_then(|rest| rest.split('"').next())
            && !ids.insert(id)
        {
            wrong.push(format!("the id {id} is there twice"));
        }
        if VOID.contains(&name) || inside.ends_with('/') {
            continue;
        }
        if !inside.starts_with('/') {
            open.push(name);
        } else if open.pop() != Some(name) {
            wrong.push(format!("</{name}> closes what it did not open"));
        }
    }
    wrong.extend(open.iter().map(|name| format!("<{name}> is never closed")));
    wrong
}

#[test]
fn every_file_stays_whole_whatever_text_a_run_brings_along() {
    let (events, verdict) = hostile();
    let entries = [Entry { name: HOSTILE, verdict: &verdict }, Entry { name: "../other", verdict: &verdict }];
    let pages = [
        ("page", html::page(&events, &verdict, Some(&verdict)).unwrap()),
        ("index", index::page(&entries).unwrap()),
        ("junit", junit::xml(&entries)),
    ];
    for (name, page) in &pages {
        assert_eq!(nesting(page), Vec::<String>::new(), "{name}");
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script"), "{name}");
        assert!(!page.contains(" onload='x'"), "{name}");
    }
    let junit = &pages[2].1;
    assert!(!junit.contains(['\u{0}', '\u{1b}']), "XML has no way to write these");
    let summary = markdown::text(&entries);
    // In a code span text is only text, as long as it cannot end the span.
    let (code, prose): (Vec<&str>, Vec<&str>) = summary.lines().partition(|line| line.starts_with("Again: "));
    assert!(!prose.concat().contains("<script") && !summary.contains(['\u{0}', '\u{1b}']), "{summary}");
    assert_eq!(code.len(), 2);
    assert!(code.iter().all(|line| line.matches('`').count() == 2), "{code:?}");
}

#[test]
fn a_broken_check_has_a_card_with_its_times_its_lines_and_the_way_to_run_it_again() {
    let (events, mut verdict) = hostile();
    verdict.rerun = "ridethrough-chaos run db-kill --seed 42".into();
    verdict.checks[0].witnesses[0].summary = "two values at once".into();
    let page = html::page(&events, &verdict, None).unwrap();
    let card = page.split("<section class=\"card").nth(1).unwrap().split("</section>").next().unwrap();
    for part in ["two values at once", "<svg", "0.000 s", "<table", "<pre>", "run db-kill --seed 42"] {
        assert!(card.contains(part), "{part}");
    }
}

#[test]
fn a_run_of_an_hour_has_wider_columns_and_no_larger_picture() {
    let mut events = run("db-kill");
    for event in &mut events {
        if let Event::Load(load) = event {
            load.until_us = 3_600_000_000;
        }
    }
    let verdict = judge(&events, &Limits::default());
    let draw = |events: &[Event]| {
        let parts = chart::Parts::of(events, &answered(events), &verdict).unwrap();
        chart::draw(&parts, &verdict)
    };
    let drawing = draw(&events);
    assert!(drawing.contains("What users got, per 3.6 s") && drawing.len() < 100_000, "{}", drawing.len());
    assert!(draw(&run("db-kill")).contains("per tenth of a second"));
    let page = html::page(&events, &verdict, None).unwrap();
    assert_eq!(page.matches("<tr><th scope=\"row\" class=\"n\">").count(), 600);
}

/// How well one colour stands out from another, as WCAG 2 counts it: 1 to 21.
fn contrast(one: &str, other: &str) -> f64 {
    let luminance = |colour: &str| {
        let part = |at: usize| {
            let share = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
            if share <= 0.03928 { share / 12.92 } else { ((share + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
    };
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

#[test]
fn every_text_can_be_read_by_day_and_by_night() {
    let colours = |css: &str| -> std::collections::HashMap<String, String> {
        let parts = css.split("--").filter_map(|part| part.split_once(": #"));
        parts.map(|(name, rest)| (name.to_owned(), format!("#{}", &rest[..6]))).collect()
    };
    let (day, night) = html::STYLE.split_once("prefers-color-scheme: dark").unwrap();
    let day = colours(day);
    let night = day.clone().into_iter().chain(colours(night)).collect();
    for colours in [&day, &night] {
        for (text, ground) in [
            ("text", "page"),
            ("text", "panel"),
            ("soft", "page"),
            ("soft", "panel"),
            ("held", "page"),
            ("violated", "page"),
            ("open", "page"),
            ("fresh", "page"),
            ("good-text", "good-lane"),
            ("away-text", "away-ground"),
            ("fault-text", "fault"),
            ("half-text", "half"),
            ("text", "coming"),
        ] {
            let found = contrast(&colours[text], &colours[ground]);
            assert!(found >= 4.5, "{text} {} on {ground} {}: {found:.1}", colours[text], colours[ground]);
        }
    }
}

#[test]
fn the_page_forbids_all_but_its_own_style() {
    let (_, page, _) = written(&run("db-kill"));
    let policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
    assert!(page.contains(&format!("content=\"{policy}\"")));
    assert!(!page.contains(" style="), "colours come from classes");
}

#[test]
fn a_history_from_before_servers_were_asked_has_no_lane_for_them_and_says_so() {
    let events = run("db-kill");
    let (_, page, _) = written(&events);
    assert!(page.contains("told nothing of their breakers") && !page.contains("breaker</text>"));
    let mut asked = events;
    asked.push(Event::ServerState(ServerState {
        process: "server-1".into(),
        at_us: 500_000,
        breaker: Some("open".into()),
        connections: Some(4),
        ..ServerState::default()
    }));
    let (_, page, _) = written(&asked);
    assert!(!page.contains("told nothing") && page.contains("server-1 breaker</text>"));
    assert!(page.contains("connections</text>") && !page.contains("in journals</text>"));
}

#[test]
fn junit_counts_a_broken_promise_as_failure_and_what_kept_the_run_from_proving_as_error() {
    let mut verdict = judge(&run("db-kill"), &Limits::default());
    for check in &mut verdict.checks {
        check.state = State::Held;
    }
    let set = |verdict: &mut Verdict, id: &str, state, required| {
        let check = verdict.checks.iter_mut().find(|check| check.id == id).unwrap();
        (check.state, check.required) = (state, required);
    };
    set(&mut verdict, "W1", State::Violated, true);
    set(&mut verdict, "X1", State::Violated, true);
    set(&mut verdict, "S1", State::NotMeasured, false);
    set(&mut verdict, "W2", State::NotMeasured, true);
    let xml = junit::xml(&[Entry { name: "", verdict: &verdict }]);
    assert!(xml.contains("failures=\"1\" errors=\"2\" skipped=\"1\""), "{xml}");
    for part in ["name=\"seed\" value=\"42\"", "value=\"schedule.toml\"", "run db-kill --seed 42"] {
        assert!(xml.contains(part), "{part}");
    }
}

#[test]
fn junit_gives_the_run_its_time_once() {
    let mut verdict = judge(&run("db-kill"), &Limits::default());
    verdict.took_us = Some(12_345_678);
    let entries = [Entry { name: "a", verdict: &verdict }, Entry { name: "b", verdict: &verdict }];
    let xml = junit::xml(&entries);
    assert!(xml.lines().nth(1).unwrap().contains(" time=\"24.691\""), "{xml}");
    assert_eq!(xml.matches(" time=\"12.346\"").count(), 4, "a suite and one case, twice");
    let times = xml.split(" time=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let sum: f64 = times.skip(1).map(|time| time.parse::<f64>().unwrap()).sum();
    assert!((sum - 4.0 * 12.346).abs() < 0.001, "the other cases take no time of their own: {sum}");
}

#[test]
fn a_harness_that_failed_is_an_error_in_junit_and_not_an_empty_suite() {
    let verdict = Verdict::unjudged("no PostgreSQL");
    let xml = junit::xml(&[Entry { name: "db-kill", verdict: &verdict }]);
    assert!(xml.contains("tests=\"1\" failures=\"0\" errors=\"1\""), "{xml}");
    assert!(xml.contains("<testsuite name=\"db-kill\"") && xml.contains("no PostgreSQL"));
}

#[test]
fn a_run_that_was_skipped_is_a_skipped_case_with_the_reason() {
    let verdict = Verdict { outcome: Outcome::Inconclusive, ..Verdict::unjudged("skipped: no compiler") };
    let xml = junit::xml(&[Entry { name: "fsync-fails", verdict: &verdict }]);
    assert!(xml.contains("tests=\"1\" failures=\"0\" errors=\"0\" skipped=\"1\""), "{xml}");
    assert!(xml.contains("<skipped message=\"skipped: no compiler\"/>"), "{xml}");
}

#[test]
fn the_matrix_has_a_cell_for_each_scenario_and_invariant_and_links_to_each_page() {
    let one = judge(&run("db-kill"), &Limits::default());
    let mut other = one.clone();
    other.checks.retain(|check| check.id != "W1");
    let entries = [Entry { name: "a b", verdict: &one }, Entry { name: "other", verdict: &other }];
    let page = index::page(&entries).unwrap().replace("&#x2f;", "/");
    assert!(page.contains("href=\"./a%20b/report.html\"") && page.contains("href=\"./other/report.html\""));
    let matrix = page.split("<table class=\"matrix\">").nth(1).unwrap().split("</table>").next().unwrap();
    assert_eq!(matrix.matches("<td>").count(), 2 * one.checks.len());
    assert_eq!(matrix.matches("not looked at").count(), 1);
    assert!(matrix.find(">W1<").unwrap() < matrix.find(">W2<").unwrap(), "in the order of the runs");
}

#[test]
fn verdicts_are_found_alone_and_below_and_a_newer_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(read(folder.path()).is_err(), "nothing there");
    let events = run("db-kill");
    let verdict = judge(&events, &Limits::default());
    for name in ["b", "a"] {
        fs::create_dir(folder.path().join(name)).unwrap();
        write(&folder.path().join(name), &events, &verdict, None).unwrap();
    }
    let names: Vec<String> = read(folder.path()).unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(read(&folder.path().join("a")).unwrap(), [(String::new(), verdict)]);

    let path = folder.path().join("a").join(VERDICT);
    let newer = fs::read_to_string(&path).unwrap().replace("\"schema\": 1", "\"schema\": 2");
    fs::write(&path, newer).unwrap();
    assert!(read(folder.path()).unwrap_err().to_string().contains("its schema is 2"));
}

#[test]
fn a_verdict_from_before_witnesses_had_times_is_still_read() {
    let text = r#"{"summary": "lost", "lines": ["operation 1"]}"#;
    let witness: Witness = serde_json::from_str(text).unwrap();
    assert_eq!(witness.spans, []);
}

#[test]
fn a_summary_is_appended_to_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("summary");
    fs::write(&file, "before\n").unwrap();
    let verdict = judge(&run("db-kill"), &Limits::default());
    append_summary(&file, &[Entry { name: "", verdict: &verdict }]).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("before\n## 1 run: ") && text.contains("| db-kill |"), "{text}");
}
