//! The page for people at `/` and the forms on it: works without JavaScript, and says in plain words what is saved only,
//! and what waits to be stored.

use axum::{
    body::Body,
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use minijinja::value::Serde;
use ridethrough::cache::{Freshness, StaleReason, Tags};
use serde::Serialize;
use time::{OffsetDateTime, macros::format_description};
use uuid::Uuid;

use super::{
    decode::{self, IDEMPOTENCY_KEY, PathParameters},
    form::{Form, refuse_other_sites},
    label,
    submit::submit,
    todos::read_page,
};
use crate::{
    app::App,
    error::Trouble,
    identity::Principal,
    todo::{Intent, Page, TITLE_CHARACTERS_MAX, TODOS, Todo},
};

/// What the template shows.
#[derive(Debug, Serialize)]
struct ListPage {
    items: Vec<Item>,
    /// Address of the next page.
    older: Option<String>,
    /// Whether this is the first page.
    newest: bool,
    /// Seconds since the list was known to be true, where it is a saved copy.
    saved_copy_age: Option<String>,
    /// Whether there is no list to show at all.
    unavailable: bool,
    /// Changes of this principal that wait to be stored.
    waiting: u64,
    /// For the form that adds an item: sending it twice adds one.
    new_key: String,
    title_characters_max: usize,
}

#[derive(Debug, Serialize)]
struct Item {
    id: Uuid,
    title: String,
    done: bool,
    /// For the form that marks it as done: what somebody else changed meanwhile is not undone.
    version: i64,
    created: String,
    created_machine: String,
    /// Whether it waits to be stored.
    waiting: bool,
    done_key: String,
    delete_key: String,
}

/// `GET /`
pub(crate) async fn show(State(app): State<App>, owner: Principal, request: Request) -> Response {
    let query = match page_of(owner, request.uri()) {
        Ok(query) => query,
        Err(trouble) => return trouble.into_response(),
    };
    let deadline = super::deadline(request.headers(), app.read_limit);
    let read = read_page(&app, &query, deadline).await;
    let freshness = read.as_ref().ok().map(|(_, freshness)| *freshness);
    let page = read.as_ref().ok().and_then(|(document, _)| serde_json::from_slice::<Page>(document).ok());
    let retry_after = read.as_ref().err().and_then(|trouble| trouble.retry_after);
    let unavailable = page.is_none();
    let page = page.unwrap_or(Page { items: Vec::new(), next: None });
    let content = ListPage {
        items: page.items.into_iter().map(|todo| item(&app, owner, todo)).collect(),
        older: page.next.map(|cursor| format!("/?after={cursor}")),
        newest: query.after.is_none(),
        saved_copy_age: freshness.and_then(saved_copy_age),
        unavailable,
        waiting: waiting(&app, owner),
        new_key: decode::new_key(),
        title_characters_max: TITLE_CHARACTERS_MAX,
    };
    let status = if unavailable { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let mut response = app.pages.render("list.html", status, Serde(content).into());
    if let Some(freshness) = freshness {
        label(&mut response, freshness);
    }
    if let Some(wait) = retry_after {
        let seconds = ridethrough::http::retry_after_seconds(wait);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// How many changes of this principal wait to be stored, as far as they are remembered; everybody's are all there are.
fn waiting(app: &App, owner: Principal) -> u64 {
    if owner.is_everybody() {
        return app.journal.backlog().entries;
    }
    app.db.pending(&Tags::of([owner.own(TODOS)])).iter().count() as u64
}

/// Of the parameters of a list the page knows only where to go on.
fn page_of(owner: Principal, uri: &Uri) -> Result<crate::todo::PageQuery, Trouble> {
    let query = decode::page_query(owner, uri)?;
    Ok(crate::todo::PageQuery { done: None, from: None, to: None, ..query })
}

fn item(app: &App, owner: Principal, todo: Todo) -> Item {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
    let created = todo.created_at.to_offset(time::UtcOffset::UTC);
    Item {
        id: todo.id,
        title: todo.title.as_str().to_owned(),
        done: todo.done,
        version: todo.version,
        created: created.format(format).unwrap_or_default(),
        created_machine: machine_time(created),
        waiting: !app.db.pending(&Todo::tags(owner, todo.id)).is_empty(),
        done_key: decode::new_key(),
        delete_key: decode::new_key(),
    }
}

fn machine_time(time: OffsetDateTime) -> String {
    time.format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}

/// How old a saved copy is, in words. A list that is only ahead of the database is no old one.
fn saved_copy_age(freshness: Freshness) -> Option<String> {
    match freshness {
        Freshness::Fresh | Freshness::Stale { reason: StaleReason::Pending, .. } => None,
        Freshness::Stale { .. } => freshness.age_seconds().map(in_words),
    }
}

fn in_words(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7_200 => (seconds / 60, "minute"),
        _ => (seconds / 3_600, "hour"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// `POST /todos`
pub(crate) async fn add(State(app): State<App>, owner: Principal, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    write(&app, owner, &parts.headers, body, |form| Ok(Intent::Create { title: form.typed_title()? })).await
}

/// `POST /todos/{id}/done`
pub(crate) async fn set_done(
    State(app): State<App>,
    owner: Principal,
    parameters: PathParameters,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    write(&app, owner, &parts.headers, body, |form| {
        let done = form.field("done")? == "true";
        let if_match = Some(form.version()?);
        Ok(Intent::Replace { id: decode::id(&parameters)?, title: form.title()?, done, if_match })
    })
    .await
}

/// `POST /todos/{id}/delete`
pub(crate) async fn delete(
    State(app): State<App>,
    owner: Principal,
    parameters: PathParameters,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    write(&app, owner, &parts.headers, body, |_| {
        Ok(Intent::Remove { id: decode::id(&parameters)?, if_match: None })
    })
    .await
}

/// Writes what a form asks for and goes back to the list.
async fn write(
    app: &App,
    owner: Principal,
    headers: &HeaderMap,
    body: Body,
    intent: impl FnOnce(&Form) -> Result<Intent, Trouble>,
) -> Response {
    let mut sent_key = None;
    let submitted = async {
        refuse_other_sites(headers)?;
        let form = Form::parse(&decode::body(body).await?)?;
        let key = sent_key.insert(form.key()?.to_owned());
        let intent = intent(&form)?;
        submit(app, owner, key, &intent, super::deadline(headers, app.write_limit)).await.map_err(for_people)
    }
    .await;
    let mut response = match submitted {
        Ok(submitted) => {
            let mut back = Response::new(Body::empty());
            *back.status_mut() = StatusCode::SEE_OTHER;
            back.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/"));
            submitted.outcome().insert_into(back.headers_mut());
            back
        }
        Err(trouble) => trouble.of_a_write().into_response(),
    };
    let key = sent_key.map(|key| (IDEMPOTENCY_KEY, decode::header_value(&key)));
    response.headers_mut().extend(key);
    response
}

/// A refusal in the words of who clicks rather than of who programs.
fn for_people(trouble: Trouble) -> Trouble {
    // The browser's way back brings an old form, and its key with it.
    if trouble.is_key_reused() {
        return trouble.detail("this form was sent before with another text; use the one on the list");
    }
    if trouble.is_version_mismatch() {
        return Trouble::changed_meanwhile();
    }
    trouble
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_in_words() {
        assert_eq!(
            [1, 119, 120, 7_199, 7_200].map(in_words),
            ["1 second", "119 seconds", "2 minutes", "119 minutes", "2 hours"]
        );
    }
}
