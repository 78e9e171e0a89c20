//! The server is killed while its journal is filled, or the journal is damaged.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use ridethrough_tests::{
    launch::Exit,
    seed,
    stack::{Lab, Server},
    until,
};

use crate::steps::{journal, member, outage, stored_todo, title};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_applies_each_journaled_write_once_after_its_restart() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    outage(&lab, &[&server]).await;
    let titles = journal(&server, "write", 200).await;
    server.kill().await;
    server.restart().await;
    assert_eq!(server.backlog().await, 200);
    assert_eq!(server.main().write_status("write-0").await, "pending");
    lab.database_returns().await;
    server.ready().await;
    server.journal_is_empty().await;
    assert_eq!(lab.not_stored_once(&titles).await, []);
    assert_eq!(lab.number("SELECT count(*) FROM todos", &[]).await, 200);
    assert_eq!(server.main().write_status("write-199").await, "applied");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_in_the_middle_of_the_replay_neither_lose_nor_double() {
    const WRITES: usize = 150;
    const KILLS: usize = 4;

    let mut random = fastrand::Rng::with_seed(seed());
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    outage(&lab, &[&server]).await;
    let titles = journal(&server, "write", WRITES).await;
    lab.database_returns().await;
    let mut kills = 0;
    let mut applied = 0;
    while kills < KILLS && applied < WRITES as i64 {
        // Ever further into the replay, at a place that nobody chose.
        let place = applied + random.i64(1..=(WRITES / KILLS) as i64);
        applied = until("the replay goes on", Duration::from_secs(30), async || {
            let count = lab.number("SELECT count(*) FROM todos", &[]).await;
            (count >= place.min(WRITES as i64)).then_some(count)
        })
        .await;
        server.kill().await;
        server.restart().await;
        kills += 1;
    }
    assert!(kills >= 2, "the replay was over after {kills} kills");
    server.ready().await;
    server.journal_is_empty().await;
    assert_eq!(lab.not_stored_once(&titles).await, []);
    assert_eq!(lab.number("SELECT count(*) FROM todos", &[]).await, WRITES as i64);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_under_writes_keeps_every_write_that_it_acknowledged() {
    let mut random = fastrand::Rng::with_seed(seed());
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        if round % 2 == 0 {
            outage(&lab, &[&server]).await;
        }
        let mut sent = tokio::task::JoinSet::new();
        for number in 0..60 {
            let (client, name) = (server.main(), format!("round-{round}-{number}"));
            sent.spawn(async move {
                let request = ridethrough_tests::http::create(&name, &title(&name));
                let answered = client.try_send(request).await;
                answered.is_ok_and(|answer| matches!(answer.status, 201 | 202)).then(|| title(&name))
            });
        }
        // After so many answers, whichever they are.
        let mut left = random.usize(1..50);
        while left > 0
            && let Some(answer) = sent.join_next().await
        {
            acknowledged.extend(answer.expect("a request does not panic"));
            left -= 1;
        }
        server.kill().await;
        acknowledged.extend(sent.join_all().await.into_iter().flatten());
        if round % 2 == 1 {
            lab.database_returns().await;
        }
        server.restart().await;
        if round % 2 == 1 {
            server.ready().await;
        }
    }
    server.journal_is_empty().await;
    assert!(acknowledged.len() >= 4, "only {} writes were acknowledged", acknowledged.len());
    assert_eq!(lab.not_stored_once(&acknowledged).await, []);
    assert_eq!(lab.number("SELECT count(*) - count(DISTINCT title) FROM todos", &[]).await, 0);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_journal_stops_the_server_and_is_left_alone() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    stored_todo(&server, "before").await;
    outage(&lab, &[&server]).await;
    journal(&server, "write", 60).await;
    server.kill().await;
    let folder = server.home().join("data").join("journal");
    let (path, mut bytes) = largest_file(&folder);
    // In the middle: what follows proves that these bytes were durable once.
    let written = bytes.iter().rposition(|byte| *byte != 0).expect("the file is not empty");
    let middle = written / 4;
    *bytes.get_mut(middle).expect("the file is not empty") ^= 0x20;
    std::fs::write(&path, &bytes).expect("the journal can be written to");
    let before = files(server.home().join("data").as_path());

    lab.expect_in_logs(&["journal"]);
    let (exit, said) = server.restart_in_vain().await;
    assert_eq!(exit, Exit::Code(70));
    let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
    assert!(said.contains(&name), "it does not name the file {name}: {said}");
    let offset =
        said.split_once("at byte ").and_then(|(_, rest)| rest.split(':').next()?.parse::<usize>().ok());
    let offset = offset.unwrap_or_else(|| panic!("it does not name the place: {said}"));
    assert!(offset <= middle && middle - offset < 1_000, "byte {middle} is damaged, and it says {offset}");
    assert!(said.contains("ridethrough-server journal"), "it does not name the command that helps: {said}");
    assert_eq!(files(server.home().join("data").as_path()), before, "it changed a file");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_tail_is_cut_and_every_acknowledged_write_survives() {
    use std::io::Write as _;

    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    outage(&lab, &[&server]).await;
    let titles = journal(&server, "write", 20).await;
    server.kill().await;
    let (path, _) = largest_file(&server.home().join("data").join("journal"));
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("the journal can be opened");
    file.write_all(b"an append that power cut short").expect("the journal can be written to");
    drop(file);

    server.restart().await;
    assert_eq!(server.backlog().await, 20);
    lab.database_returns().await;
    server.journal_is_empty().await;
    assert_eq!(lab.not_stored_once(&titles).await, []);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_journal_refuses_honestly_and_keeps_what_it_accepted() {
    let lab = Lab::start().await;
    // Without a reserve: who of twenty at once would meet it is left to chance.
    let env = vec![
        ("RIDETHROUGH_JOURNAL__ENTRIES_MAX", "20".to_owned()),
        ("RIDETHROUGH_JOURNAL__RESERVE_PERCENT", "0".to_owned()),
    ];
    let server = lab.server_as("server-1", Server { env, ..Server::default() }).await;
    server.ready().await;
    let todo = stored_todo(&server, "before").await;
    outage(&lab, &[&server]).await;
    let mut titles = journal(&server, "write", 20).await;
    titles.push(title("before"));
    let refused = server.main().create("too-many", &title("too-many")).await;
    assert!(member(&refused.problem(503), "retry_after").is_u64(), "{}", refused.text());
    assert_eq!(refused.header("ridethrough-outcome"), "rejected");
    assert!(refused.header("retry-after").parse::<u64>().is_ok(), "{refused:?}");
    server.mode_becomes("read-only").await;
    let _ = server.main().get("/livez").await.expect(200);
    let read = server.main().get(&format!("/api/todos/{todo}")).await.expect(200);
    assert_eq!(read.freshness(), "database-away");
    lab.database_returns().await;
    server.journal_is_empty().await;
    server.mode_becomes("normal").await;
    assert_eq!(lab.not_stored_once(&titles).await, []);
    assert_eq!(lab.number("SELECT count(*) FROM todos", &[]).await, 21);
    assert_eq!(server.main().write_status("too-many").await, "404");
    let _ = server.main().create("too-many", &title("too-many")).await.expect(201).acknowledged();
    lab.finish().await;
}

fn largest_file(folder: &Path) -> (PathBuf, Vec<u8>) {
    let files = files(folder).into_iter();
    files.max_by_key(|(_, bytes)| bytes.len()).expect("the journal has a file")
}

/// Every file below `folder` with its bytes, but for locks.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder can be listed").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(bytes) = std::fs::read(&path) {
                found.insert(path, bytes);
            }
        }
    }
    found
}
