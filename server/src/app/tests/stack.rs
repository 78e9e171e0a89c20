//! The router with a database that is away and a real journal, and what a test asks of it.

use std::{sync::Arc, time::SystemTime};

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt as _;
use ridethrough::{
    db::DbConfig,
    health::{CachePart, DatabasePart, JournalPart, Life, Parts, ReadyPolicy, SchemaPart, decide},
    http::{HealthReport, Verbosity},
    journal::JournalConfig,
};
use serde_json::Value;
use tower::ServiceExt as _;
use uuid::Uuid;

use super::*;
use crate::{
    api::tests::hold,
    config::LimitsSection,
    identity::{IdentityMode, IdentitySection, Principal},
    todo::{Todo, todo_commands},
};

/// Nothing listens there, and the schema was never seen: every call is refused at once.
const AWAY: &str = "postgres://nobody@127.0.0.1:1/nothing";

pub(crate) struct Stack {
    pub(super) router: Router,
    pub(super) app: App,
    _folder: tempfile::TempDir,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    pub(crate) fn header(&self, name: impl http::header::AsHeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub(crate) fn stack() -> Stack {
    stack_of(Identity::open(&IdentitySection::default(), std::path::Path::new(".")).unwrap().0)
}

pub(super) fn stack_of(identity: Identity) -> Stack {
    stack_with(identity, |_| {})
}

pub(super) fn stack_with(identity: Identity, limit: impl FnOnce(&mut LimitsSection)) -> Stack {
    let mut limits = LimitsSection::default();
    limit(&mut limits);
    let folder = tempfile::tempdir().unwrap();
    let (journal, writer, _) = Journal::open(JournalConfig::new(folder.path())).unwrap();
    std::thread::spawn(move || writer.run());
    let settled = Arc::new(SettledKeys::default());
    let commands = Arc::new(todo_commands(Uuid::nil(), Arc::clone(&settled)));
    let config = DbConfig { url: AWAY.to_owned(), ..DbConfig::default() };
    let (db, _background) =
        Db::new(config.clone(), ridethrough::cache::CacheConfig::default(), journal.clone(), commands)
            .unwrap();
    let parts = Parts {
        life: Life::Running,
        was_ready: true,
        database: DatabasePart::Away,
        cache: CachePart::Warm,
        journal: JournalPart::Ok,
        schema: SchemaPart::Ok,
    };
    let probes = Probes::new("test", Verbosity::Brief, move || HealthReport {
        health: decide(&parts, &ReadyPolicy::default()),
        since: SystemTime::now(),
        retry_after: None,
        checks: Vec::new(),
    });
    let app = App {
        db,
        journal,
        settled,
        writes: InFlight::default(),
        pages: Arc::new(Pages::new()),
        identity: Arc::new(identity),
        edges: Arc::new(Edges::new(limits.bounds(), &limits.rate, IdentityMode::None)),
        probes,
    };
    Stack { router: router(app.clone()), app, _folder: folder }
}

impl Stack {
    /// Every answer is held against the document, too.
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let sent = body.collect().await.unwrap().to_bytes();
        let (method, path) = (parts.method.clone(), parts.uri.to_string());
        let request = Request::from_parts(parts, Body::from(sent.clone()));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let status = parts.status.as_u16();
        hold(&method, &path, &String::from_utf8_lossy(&sent), status, &parts.headers, &text);
        Answer { status, headers: parts.headers, text }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn write(
        &self,
        method: Method,
        path: &str,
        body: &str,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        request = request.header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    pub(crate) fn backlog(&self) -> u64 {
        self.app.journal.backlog().entries
    }

    pub(super) fn know(&self, todo: &Todo) {
        let now = tokio::time::Instant::now();
        self.app
            .db
            .cache()
            .fill(now, now)
            .put(&Todo::cache_key(Principal::EVERYBODY, todo.id), todo.encode());
    }
}
