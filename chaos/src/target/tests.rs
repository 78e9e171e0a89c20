//! Tests of reading a target, and of what it makes of a schedule.

use http::{HeaderMap, HeaderValue};

use super::*;
use crate::scenario::Scenario;

const EXAMPLE: &str = include_str!("../../examples/naive/target.toml");

fn read(text: &str) -> Result<Target, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Target::read(file.path()).map_err(|error| error.to_string())
}

fn refused(from: &str, to: &str) -> String {
    assert!(EXAMPLE.contains(from), "{from}");
    read(&EXAMPLE.replace(from, to)).unwrap_err()
}

#[test]
fn the_example_is_read_and_knows_where_it_is() {
    let target = read(EXAMPLE).unwrap();
    let (program, args) = target.command();
    assert!(program.is_absolute() && program.ends_with("target/debug/examples/naive"));
    assert_eq!(args, ["{{port}}"], "known only when it is started");
    assert_eq!(target.traffic.workload, Workload::Append);
    assert_eq!(target.traffic.deadline, Duration::from_secs(5));
    assert!(!target.traffic.knows_repeats());
}

#[test]
fn the_file_in_the_readme_is_one() {
    let readme = include_str!("../../../README.md");
    let (_, rest) = readme.split_once("## Point it at your service").unwrap();
    let (_, rest) = rest.split_once("```toml\n").unwrap();
    let target = read(rest.split_once("```").unwrap().0).unwrap();
    assert_eq!(target.traffic.workload, Workload::Ledger);
    assert_eq!(target.waived(), ["S2", "T3"]);
}

#[test]
fn our_own_server_can_be_described() {
    let target = read(include_str!("../../examples/ridethrough/target.toml")).unwrap();
    assert!(target.traffic.knows_repeats());
    assert_eq!((target.waived(), target.database.keeps), (Vec::new(), Keeps::All), "nothing is left open");
    assert!(target.database.observe.is_some() && target.traffic.status.is_some());
}

#[test]
fn an_unknown_key_is_refused_with_line_and_nearest_key() {
    let error = refused("replicas = 2", "replcas = 2");
    assert!(error.contains(":8:") && error.ends_with("did you mean `replicas`?"), "{error}");
    let error = refused("acknowledged = [201]", "acknowleged = [201]");
    assert!(error.ends_with("did you mean `acknowledged`?"), "{error}");
    assert!(refused("[health]", "[helth]").ends_with("did you mean `health`?"));
}

#[test]
fn what_makes_no_target_is_refused_by_its_key() {
    assert!(refused("\"{{port}}\"]", "\"{{prot}}\"]").contains("{{prot}}"));
    assert!(refused("\"{{port}}\"]", "\"8080\"]").contains("{{port}}"));
    assert!(refused("replicas = 2", "replicas = 0").contains("service.replicas"));
    assert!(refused("objects = 50", "objects = 0").contains("traffic.objects"));
    assert!(refused("\"{{value}}\"", "1").contains("traffic.write"));
    assert!(refused("value = \"/values\"", "").contains("traffic.read: it has no `value`"));
    let question = "value = \"/values\"\n[traffic.status]\nmethod = \"GET\"\npath = \"/writes/{{op}}\"";
    assert!(refused("value = \"/values\"", question).contains("traffic.status: it needs a `value`"));
    assert!(refused("acknowledged = [201]", "item = \"/x\"").contains("`item` has no meaning there"));
    assert!(refused("method = \"GET\"\npath = \"/", "method = \"GET\"\npath = \"").contains("slash"));
}

#[test]
fn an_answer_means_what_header_or_status_are_listed_under() {
    let signs = "acknowledged = [201, \"done\"]\naccepted = [\"queued\"]\nrefused = [409]\noutcome_header = \"x-told\"";
    let write = read(&EXAMPLE.replace("acknowledged = [201]", signs)).unwrap().traffic.write;
    let told = |status, text: Option<&'static str>| {
        let mut headers = HeaderMap::new();
        if let Some(text) = text {
            headers.insert("x-told", HeaderValue::from_static(text));
        }
        write.meaning(status, &headers)
    };
    assert_eq!(told(201, None), Meaning::Acknowledged);
    assert_eq!(told(201, Some("queued")), Meaning::Accepted, "the header knows better");
    assert_eq!(told(201, Some("what?")), Meaning::Acknowledged);
    assert_eq!(told(409, None), Meaning::Refused);
    for status in [200, 202, 404, 500, 503] {
        assert_eq!(told(status, None), Meaning::Unknown, "{status}");
    }
}

#[test]
fn values_are_read_by_pointers() {
    let mut read = read(EXAMPLE).unwrap().traffic.read.unwrap();
    assert_eq!(read.values(br#"{"values":["a",2]}"#), Ok(vec!["a".to_owned(), "2".to_owned()]));
    assert_eq!(read.values(br#"{"values":"a"}"#), Ok(vec!["a".to_owned()]));
    assert_eq!(read.values(br#"{"values":null}"#), Ok(Vec::new()));
    assert!(read.values(br#"{"value":1}"#).unwrap_err().contains("/values"));
    assert!(read.values(b"<html>").unwrap_err().contains("no JSON"));
    read.item = Some("/text".to_owned());
    assert_eq!(read.values(br#"{"values":[{"text":"a"}]}"#), Ok(vec!["a".to_owned()]));
    assert!(read.values(br#"{"values":["a"]}"#).is_err());
}

#[test]
fn a_schedule_demands_nothing_that_only_our_service_can_do() {
    let target = read(EXAMPLE).unwrap();
    let mut schedule = Scenario::find("db-kill").unwrap().schedule(7, None, None).unwrap();
    target.adapt(&mut schedule).unwrap();
    assert_eq!((schedule.stack.servers, schedule.load.warm_todos), (2, 50));
    assert_eq!((schedule.load.repeat_share, schedule.limits.journaled_min), (0.0, 0));
    assert_eq!(schedule.limits.waived, ["S2"]);
    let once = schedule.clone();
    target.adapt(&mut schedule).unwrap();
    assert_eq!(schedule, once);
}

#[test]
fn a_fault_on_a_table_is_put_on_the_table_of_the_target() {
    let target = read(EXAMPLE).unwrap();
    let mut schedule = Scenario::find("lock-storm").unwrap().schedule(7, None, None).unwrap();
    target.adapt(&mut schedule).unwrap();
    assert_eq!(schedule.faults[0].fault.to_string(), "lock-storm:table=entries");
    let named = "lock-storm:table=other".parse().unwrap();
    schedule.faults[0].fault = named;
    target.adapt(&mut schedule).unwrap();
    assert_eq!(schedule.faults[0].fault.to_string(), "lock-storm:table=other", "who names one means it");
}

#[test]
fn rows_of_last_values_waive_what_they_cannot_tell() {
    let text = EXAMPLE.replace("[health]", "keeps = \"last\"\n[health]");
    assert_eq!(read(&text).unwrap().waived(), ["S2", "W1", "W2", "W3"]);
}

#[test]
fn another_server_with_our_interface_needs_no_requests_and_may_state_none() {
    let (head, _) = EXAMPLE.split_once("[traffic]").unwrap();
    let text = format!("{head}[traffic]\nworkload = \"todo\"\n");
    let target = read(&text).unwrap();
    assert!(target.traffic.knows_repeats() && target.traffic.reads());
    assert_eq!(target.waived(), [] as [&str; 0]);
    let with_request = format!("{text}[traffic.read]\nmethod = \"GET\"\npath = \"/\"\n");
    assert!(read(&with_request).unwrap_err().contains("`todo`"));
    assert!(read(&text.replace("todo", "append")).unwrap_err().contains("traffic.write: it is missing"));
}

#[test]
fn what_our_own_service_promises_about_connections_is_not_asked_of_another() {
    let scenario = || Scenario::find("herd").unwrap().schedule(7, None, None).unwrap();
    let mut schedule = scenario();
    assert!(schedule.limits.pool_max.is_some() && schedule.limits.connect_pause_ms.is_some());
    read(EXAMPLE).unwrap().adapt(&mut schedule).unwrap();
    assert_eq!((schedule.limits.pool_max, schedule.limits.connect_pause_ms), (None, None));
    assert_eq!(schedule.limits.required, ["H3"]);
    let own = format!(
        "{EXAMPLE}\n[limits]\npool_max = 5\nconnect_pause_ms = 1000\nattempts_per_request_max = 2.5\n"
    );
    let mut schedule = scenario();
    read(&own).unwrap().adapt(&mut schedule).unwrap();
    let limits = &schedule.limits;
    assert_eq!((limits.pool_max, limits.connect_pause_ms), (Some(5), Some(1_000)));
    assert_eq!((limits.attempts_per_request_max, limits.required.len()), (2.5, 4));
}

/// A target's own share replaced also what a scenario allows for its fault: a third of the writes behind a commit that hangs.
#[test]
fn a_share_of_bad_requests_replaces_the_usual_one_and_not_what_a_fault_needs() {
    let target = read(&format!("{EXAMPLE}\n[limits]\nwrites_bad_max = 0.03\nreads_bad_max = 0.0\n")).unwrap();
    let adapted = |scenario: &str| {
        let mut schedule = Scenario::find(scenario).unwrap().schedule(7, None, None).unwrap();
        target.adapt(&mut schedule).unwrap();
        let once = schedule.clone();
        target.adapt(&mut schedule).unwrap();
        assert_eq!(schedule, once);
        (schedule.limits.reads_bad_max, schedule.limits.writes_bad_max)
    };
    assert_eq!(adapted("db-kill"), (0.0, 0.03));
    assert_eq!(adapted("sync-standby-missing"), (0.0, 0.35));
}
