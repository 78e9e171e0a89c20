//! Steps that many tests take: titles, keys, ids, a database that is away, a watch over the probes. No tests.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::time::Duration;

use ridethrough_tests::{
    app::App,
    http::{Answer, Client},
    logs::CANARY,
    stack::Lab,
    until,
};
use serde_json::Value;
use tokio::task::JoinHandle;

/// A title that no log and no error may show.
pub(crate) fn title(name: impl std::fmt::Display) -> String {
    format!("{CANARY} {name}")
}

/// The id of the todo in an answer.
pub(crate) fn id(answer: &Answer) -> String {
    member(&answer.json(), "id").as_str().expect("an id is a text").to_owned()
}

/// A member of a JSON object.
pub(crate) fn member(document: &Value, name: &str) -> Value {
    document.get(name).unwrap_or_else(|| panic!("no `{name}` in {document}")).clone()
}

/// A todo that is stored; its id.
pub(crate) async fn stored_todo(server: &App, key: &str) -> String {
    id(&server.main().create(key, &title(key)).await.expect(201).acknowledged())
}

/// Kills the database, and waits until the servers have noticed. One that has nothing cached can only take writes.
pub(crate) async fn outage(lab: &Lab, servers: &[&App]) {
    lab.database_dies().await;
    for server in servers {
        let noticed =
            async || matches!(server.mode().await.as_str(), "degraded" | "write-only").then_some(());
        until("the server notices the outage", Duration::from_secs(30), noticed).await;
    }
}

/// Journals `count` creations in an outage, some at a time; their titles.
pub(crate) async fn journal(server: &App, prefix: &str, count: usize) -> Vec<String> {
    const AT_ONCE: usize = 20;

    let numbers: Vec<usize> = (0..count).collect();
    for chunk in numbers.chunks(AT_ONCE) {
        let mut sent = tokio::task::JoinSet::new();
        for number in chunk {
            let (client, name) = (server.main(), format!("{prefix}-{number}"));
            sent.spawn(async move { client.create(&name, &title(&name)).await });
        }
        for answer in sent.join_all().await {
            let _ = answer.expect(202).acknowledged();
        }
    }
    numbers.into_iter().map(|number| title(format!("{prefix}-{number}"))).collect()
}

/// Fewer would prove little.
const PROBES_MIN: usize = 20;

/// Asks probes all the time, and counts every answer but 200.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    task: JoinHandle<(usize, Vec<String>)>,
}

impl Watch {
    /// Watches `paths` on both listeners.
    pub(crate) fn over(server: &App, paths: &'static [&'static str]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = [server.main(), server.admin()];
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let (mut asked, mut wrong) = (0, Vec::new());
            while asked < PROBES_MIN || !stopped.load(Ordering::SeqCst) {
                for client in &clients {
                    for path in paths {
                        asked += 1;
                        wrong.extend(wrong_answer(client, path).await);
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            (asked, wrong)
        });
        Self { stop, task }
    }

    /// Says that every answer was 200.
    pub(crate) async fn was_always_well(self) {
        self.stop.store(true, Ordering::SeqCst);
        let (asked, wrong) = self.task.await.expect("the watch does not panic");
        assert!(wrong.is_empty(), "{} of {asked} probes failed: {wrong:?}", wrong.len());
    }
}

async fn wrong_answer(client: &Client, path: &str) -> Option<String> {
    let request = ridethrough_tests::http::request(http::Method::GET, path, None, None);
    match client.try_send(request).await {
        Ok(answer) if answer.status == 200 => None,
        Ok(answer) => Some(format!("{path} on {}: {} {}", client.address(), answer.status, answer.text())),
        Err(failure) => Some(format!("{path} on {}: {failure:?}", client.address())),
    }
}
