//! The resource `/api/todos`: list, read, create one or many, replace, remove. Each principal has a list of his own.

use axum::{
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::{StatusCode, header, request::Parts};
use ridethrough::{cache::Freshness, db::UserSession};
use serde_json::json;
use tokio::time::Instant;

use super::{
    decode::{self, IDEMPOTENCY_KEY, Members, PathParameters, header_value, percent_encoded},
    entity_tag, json as json_response, label,
    submit::{Submitted, submit},
};
use crate::{
    app::App,
    error::Trouble,
    identity::Principal,
    todo::{Intent, PageQuery, Todo, TodoQuery, encode},
};

/// `GET /api/todos`
pub(crate) async fn list(State(app): State<App>, owner: Principal, request: Request) -> Response {
    let query = match decode::page_query(owner, request.uri()) {
        Ok(query) => query,
        Err(trouble) => return trouble.into_response(),
    };
    let deadline = super::deadline(request.headers(), app.db.read_deadline());
    match read_page(&app, &query, deadline).await {
        Ok((document, freshness)) => {
            let mut response =
                entity_tag::unless_had(request.headers(), json_response(StatusCode::OK, document));
            label(&mut response, freshness);
            response
        }
        Err(trouble) => trouble.into_response(),
    }
}

/// A page, with the waiting changes of this replica laid over it by the library.
pub(crate) async fn read_page(
    app: &App,
    query: &PageQuery,
    deadline: ridethrough::Deadline,
) -> Result<(Bytes, Freshness), Trouble> {
    let read = app.db.read(query, deadline).await;
    let read = read.map_err(|error| Trouble::of_read(&error, app.db.retry_after(Instant::now())))?;
    let (value, freshness, _) = read.into_parts();
    Ok((value.map(|answer| answer.document).unwrap_or_default(), freshness))
}

/// `GET /api/todos/{id}`
pub(crate) async fn read(
    State(app): State<App>,
    owner: Principal,
    parameters: PathParameters,
    request: Request,
) -> Response {
    let asked = decode::id(&parameters).and_then(|id| Ok((id, decode::if_match(request.headers())?)));
    let (id, if_match) = match asked {
        Ok(asked) => asked,
        Err(trouble) => return trouble.into_response(),
    };
    let deadline = super::deadline(request.headers(), app.db.read_deadline());
    // Who says what he has is sent nothing older, at whichever replica he got it.
    let mut session = UserSession::default();
    if let Some(version) = entity_tag::newest_had(request.headers()) {
        session.wrote(&Todo::cache_key(owner, id), version);
    }
    let (document, freshness, _) =
        match app.db.read_in(&mut session, &TodoQuery { owner, id }, deadline).await {
            Ok(read) => read.into_parts(),
            Err(error) => {
                return Trouble::of_read(&error, app.db.retry_after(Instant::now())).into_response();
            }
        };
    let mut response = match document {
        Some(document) if !entity_tag::is_version(&document, if_match) => {
            Trouble::version_mismatch().into_response()
        }
        Some(document) => entity_tag::unless_had(request.headers(), todo_response(StatusCode::OK, document)),
        None => Trouble::no_such_todo().into_response(),
    };
    label(&mut response, freshness);
    response
}

/// `POST /api/todos`
pub(crate) async fn create(State(app): State<App>, owner: Principal, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let decoded = async {
        let mut members = Members::of(&parts.headers, body).await?;
        let title = members.title()?;
        members.finish()?;
        Ok(Intent::Create { title })
    };
    answer(&app, owner, &parts, decoded.await).await
}

/// `POST /api/todos/batch`
pub(crate) async fn create_many(State(app): State<App>, owner: Principal, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let decoded = async {
        let mut members = Members::of_batch(&parts.headers, body).await?;
        let titles = members.items()?;
        members.finish()?;
        Ok(Intent::CreateMany { titles })
    };
    answer(&app, owner, &parts, decoded.await).await
}

/// `PUT /api/todos/{id}`
pub(crate) async fn replace(
    State(app): State<App>,
    owner: Principal,
    parameters: PathParameters,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let decoded = async {
        let id = decode::id(&parameters)?;
        let if_match = decode::if_match(&parts.headers)?;
        let mut members = Members::of(&parts.headers, body).await?;
        let (title, done) = (members.title()?, members.done()?);
        members.finish()?;
        Ok(Intent::Replace { id, title, done, if_match })
    };
    answer(&app, owner, &parts, decoded.await).await
}

/// `DELETE /api/todos/{id}`
pub(crate) async fn remove(
    State(app): State<App>,
    owner: Principal,
    parameters: PathParameters,
    request: Request,
) -> Response {
    let (parts, _body) = request.into_parts();
    let decoded = decode::id(&parameters)
        .and_then(|id| Ok(Intent::Remove { id, if_match: decode::if_match(&parts.headers)? }));
    answer(&app, owner, &parts, decoded).await
}

/// Writes, and answers with key and outcome whatever happens.
async fn answer(app: &App, owner: Principal, parts: &Parts, intent: Result<Intent, Trouble>) -> Response {
    let key = match decode::key(&parts.headers) {
        Ok(key) => key,
        Err(trouble) => return trouble.of_a_write().into_response(),
    };
    let response = match intent {
        Ok(intent) => {
            let deadline = super::deadline(&parts.headers, app.db.write_deadline());
            let submitted = submit(app, owner, &key, &intent, deadline).await;
            submitted.map(|submitted| acknowledged(&key, &intent, submitted))
        }
        Err(trouble) => Err(trouble),
    };
    let mut response = response.unwrap_or_else(|trouble| trouble.of_a_write().into_response());
    response.headers_mut().insert(IDEMPOTENCY_KEY, header_value(&key));
    response
}

fn acknowledged(key: &str, intent: &Intent, submitted: Submitted) -> Response {
    let status_address = format!("/api/writes/{}", percent_encoded(key));
    let outcome = submitted.outcome();
    let mut response = match (submitted, intent) {
        (Submitted::Committed(_), Intent::Remove { .. }) => {
            let mut response = json_response(StatusCode::NO_CONTENT, Bytes::new());
            response.headers_mut().remove(header::CONTENT_TYPE);
            response
        }
        (Submitted::Committed(document), Intent::Create { .. }) => {
            let location = Todo::decode(&document).map(|todo| format!("/api/todos/{}", todo.id));
            let mut response = todo_response(StatusCode::CREATED, document);
            response.headers_mut().extend(location.map(|at| (header::LOCATION, header_value(&at))));
            response
        }
        (Submitted::Committed(document), Intent::CreateMany { .. }) => {
            json_response(StatusCode::CREATED, document)
        }
        (Submitted::Committed(document), Intent::Replace { .. }) => todo_response(StatusCode::OK, document),
        (Submitted::Journaled(promised), _) => {
            let document = promised.unwrap_or_else(|| receipt(key, intent));
            let mut response = todo_response(StatusCode::ACCEPTED, document);
            let headers = response.headers_mut();
            headers.insert(header::LOCATION, header_value(&status_address));
            headers.insert(header::LINK, header_value(&format!("<{status_address}>; rel=\"monitor\"")));
            response
        }
    };
    outcome.insert_into(response.headers_mut());
    response
}

/// What can be said of a waiting write where there is no todo to show.
fn receipt(key: &str, intent: &Intent) -> Bytes {
    match intent {
        Intent::Replace { id, .. } => encode(&json!({ "id": id, "key": key, "status": "pending" })),
        Intent::Create { .. } | Intent::CreateMany { .. } | Intent::Remove { .. } => {
            encode(&json!({ "key": key, "status": "pending" }))
        }
    }
}

/// A todo's document, with its entity tag where the version is known.
fn todo_response(status: StatusCode, document: Bytes) -> Response {
    let tag = entity_tag::of(&document);
    let mut response = json_response(status, document);
    response.headers_mut().extend(tag.map(|tag| (header::ETAG, tag)));
    response
}
