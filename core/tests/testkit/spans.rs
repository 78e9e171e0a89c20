//! What a trace is told of calls: attempts, what was asked in them by name, the journal and its replay; no statement, no key
//! and no value.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use ridethrough::attempts::Attempts;
use tracing::{
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer, Registry,
    layer::{Context, SubscriberExt as _},
};

use super::path::*;

/// Each span as `name of parent: fields`.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

struct Fields<'t>(&'t mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!(" {}={value:?}", field.name()));
    }
}

impl Layer<Registry> for Seen {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, Registry>) {
        let span = context.span(id).unwrap();
        let parent = span.parent().map_or("nothing", |parent| parent.name());
        let mut text = format!("{} of {parent}:", span.name());
        attributes.record(&mut Fields(&mut text));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    fn on_record(&self, _: &Id, values: &Record<'_>, _: Context<'_, Registry>) {
        let mut text = "recorded:".to_owned();
        values.record(&mut Fields(&mut text));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }
}

impl Seen {
    fn has(&self, beginning: &str) -> bool {
        self.all().iter().any(|text| text.starts_with(beginning))
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn watched() -> (Seen, tracing::subscriber::DefaultGuard) {
    let seen = Seen::default();
    let subscriber = tracing_subscriber::registry().with(seen.clone());
    (seen, tracing::subscriber::set_default(subscriber))
}

#[tokio::test(start_paused = true)]
async fn a_call_is_told_by_names_from_the_attempt_to_the_commit() {
    let (seen, _guard) = watched();
    let path = Path::new(Path::quiet()).await;
    let attempts = Attempts::default();
    attempts.counted(async { path.read().await.map(drop) }).await.unwrap();
    assert_eq!(attempts.count(), 1);
    path.server.fault(At::BeforeCommit, Fault::Error("40001"));
    let attempts = Attempts::default();
    attempts.counted(path.write("quokkakey")).await.unwrap();
    assert_eq!(attempts.count(), 2, "a lost race is run again");
    for wanted in [
        "db.attempt of nothing: operation=\"titles\"",
        "db.query of db.attempt: operation=\"titles\"",
        "db.attempt of nothing: operation=\"order.place\"",
        "db.query of db.attempt: operation=\"order.place\"",
        "db.query of db.attempt: operation=\"commit\"",
        "recorded: class=\"contention\"",
    ] {
        assert!(seen.has(wanted), "{wanted} is not in {:#?}", seen.all());
    }
    tells_nothing(&seen);
}

#[tokio::test(start_paused = true)]
async fn the_journal_and_its_replay_are_told_each_on_its_own() {
    let (seen, _guard) = watched();
    let server = FakePostgres::start();
    server.outage();
    let shop = TestDb::start(&server, DbConfig::default(), Arc::new(Shop)).await.unwrap();
    let written = shop.db.write(order("quokkakey"), within(4)).await.unwrap();
    assert!(matches!(written, Written::Journaled { .. }));
    assert!(seen.has("journal.append of nothing: operation=order.place"), "{:#?}", seen.all());
    server.recover();
    let replayed = async {
        while shop.journal().backlog().entries > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), replayed).await.expect("it is replayed");
    for wanted in ["replay of nothing: entries=1", "db.attempt of replay: operation=\"replay\""] {
        assert!(seen.has(wanted), "{wanted} is not in {:#?}", seen.all());
    }
    tells_nothing(&seen);
}

fn tells_nothing(seen: &Seen) {
    for text in seen.all() {
        for secret in ["quokkakey", "milk", "SELECT", "INSERT", "COMMIT", "127.0.0.1"] {
            assert!(!text.contains(secret), "{secret} is told: {text}");
        }
    }
}
