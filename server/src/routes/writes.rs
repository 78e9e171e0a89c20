//! The resource `/api/writes/{key}`: what became of a write. Nobody sees a key of somebody else.

use axum::{
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::StatusCode;
use ridethrough::{
    cache::Freshness,
    db::{WriteState, WriteStatus},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    decode::{self, PathParameters},
    json as json_response, label,
};
use crate::{app::App, error::Trouble, identity::Principal, problems};

/// `GET /api/writes/{key}`
pub(crate) async fn status(
    State(app): State<App>,
    owner: Principal,
    parameters: PathParameters,
    request: Request,
) -> Response {
    let key = decode::path_text(&parameters, "key");
    if !decode::is_key(key.as_bytes()) {
        return Trouble::bad_request("the key in the path is no Idempotency-Key").into_response();
    }
    let deadline = super::deadline(request.headers(), app.db.read_deadline());
    let mut response = match app.db.write_status(&owner.write_key(&key), deadline).await {
        Ok(Some(status)) => json_response(StatusCode::OK, document(&key, &status)),
        Ok(None) => Trouble::new(&problems::NO_SUCH_WRITE).into_response(),
        // Never answered from memory: it would be the one answer that must not be old.
        Err(error) => return Trouble::of_read(&error, app.db.retry_after(Instant::now())).into_response(),
    };
    label(&mut response, Freshness::Fresh);
    response
}

fn document(key: &str, status: &WriteStatus) -> Bytes {
    let state = match status.state {
        WriteState::Pending => "pending",
        WriteState::Applied => "applied",
        WriteState::Superseded => "superseded",
        WriteState::Rejected => "rejected",
        WriteState::Unknown => "unknown",
    };
    let mut document = json!({ "key": key, "status": state });
    if let Some(members) = document.as_object_mut() {
        members
            .extend(status.reason.as_ref().map(|reason| ("reason".to_owned(), Value::from(reason.as_str()))));
        let outcome = status.answer.as_ref().and_then(|answer| serde_json::from_slice(answer).ok());
        members.extend(outcome.map(|outcome: Value| ("outcome".to_owned(), outcome)));
    }
    crate::todo::encode(&document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_says_what_is_known_and_nothing_else() {
        let of = |state, answer: Option<&'static str>, reason: Option<&str>| {
            let answer = answer.map(|text| Bytes::from_static(text.as_bytes()));
            let status = WriteStatus { state, answer, reason: reason.map(str::to_owned) };
            serde_json::from_slice::<Value>(&document("k", &status)).unwrap()
        };
        assert_eq!(of(WriteState::Pending, None, None), json!({ "key": "k", "status": "pending" }));
        assert_eq!(of(WriteState::Unknown, None, None), json!({ "key": "k", "status": "unknown" }));
        let applied = json!({ "key": "k", "status": "applied", "outcome": { "id": 1 } });
        assert_eq!(of(WriteState::Applied, Some("{\"id\":1}"), None), applied);
        let rejected = json!({ "key": "k", "status": "rejected", "reason": "not-found" });
        assert_eq!(of(WriteState::Rejected, None, Some("not-found")), rejected);
    }
}
