//! The requests of our own interface of todos. What their answers mean is in `answer`.

use http::Method;

use crate::history::Action;
use crate::workload::client::Request;
use crate::workload::dialect::Wish;

/// The request for an operation.
pub(crate) fn request(wish: &Wish<'_>) -> Request {
    let todo = wish.subject.map_or("00000000-0000-0000-0000-000000000000", |subject| subject.id.as_str());
    let title = wish.value.unwrap_or_default();
    let write = |method, path, body: serde_json::Value| Request {
        method,
        path,
        key: wish.key.map(str::to_owned),
        headers: Vec::new(),
        body: body.to_string(),
    };
    match wish.action {
        Action::Create => write(Method::POST, "/api/todos".into(), serde_json::json!({ "title": title })),
        // The todo service has no other object: its registers are todos, and it has no lists.
        Action::Update | Action::Set | Action::Append => {
            // The mark turns with the title, so that a half-applied update would show.
            let body = serde_json::json!({ "title": title, "done": true });
            write(Method::PUT, format!("/api/todos/{todo}"), body)
        }
        Action::Read => Request::get(format!("/api/todos/{todo}")),
        Action::List => Request::get("/api/todos?limit=10".into()),
    }
}
