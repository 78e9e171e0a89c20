//! The page for people at `/` and the forms on it: works without JavaScript, and says in plain words what is saved only,
//! and what waits to be stored.

use std::collections::HashMap;

use axum::{
    body::Body,
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use minijinja::value::Serde;
use ridethrough::cache::{Freshness, StaleReason};
use serde::Serialize;
use time::{OffsetDateTime, macros::format_description};
use uuid::Uuid;

use super::{
    decode::{self, IDEMPOTENCY_KEY, PathParameters},
    label,
    submit::submit,
    todos::read_page,
};
use crate::{
    app::App,
    error::{Outcome, Trouble},
    todo::{Intent, Page, TITLE_CHARACTERS_MAX, Title, Todo},
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
    /// Changes that wait to be stored.
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
    created: String,
    created_machine: String,
    /// Whether it waits to be stored.
    waiting: bool,
    done_key: String,
    delete_key: String,
}

/// `GET /`
pub(crate) async fn show(State(app): State<App>, request: Request) -> Response {
    let query = match page_of(request.uri()) {
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
        items: page.items.into_iter().map(|todo| item(&app, todo)).collect(),
        older: page.next.map(|cursor| format!("/?after={cursor}")),
        newest: query.after.is_none(),
        saved_copy_age: freshness.and_then(saved_copy_age),
        unavailable,
        waiting: app.journal.backlog().entries,
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

/// Of the parameters of a list the page knows only where to go on.
fn page_of(uri: &Uri) -> Result<crate::todo::PageQuery, Trouble> {
    let query = decode::page_query(uri)?;
    Ok(crate::todo::PageQuery { done: None, from: None, to: None, ..query })
}

fn item(app: &App, todo: Todo) -> Item {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
    let created = todo.created_at.to_offset(time::UtcOffset::UTC);
    Item {
        id: todo.id,
        title: todo.title.as_str().to_owned(),
        done: todo.done,
        created: created.format(format).unwrap_or_default(),
        created_machine: machine_time(created),
        waiting: app.waiting.find(todo.id).is_some(),
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
pub(crate) async fn add(State(app): State<App>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    write(&app, &parts.headers, body, |form| Ok(Intent::Create { title: form.title()? })).await
}

/// `POST /todos/{id}/done`
pub(crate) async fn set_done(
    State(app): State<App>,
    parameters: PathParameters,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    write(&app, &parts.headers, body, |form| {
        let done = form.field("done")? == "true";
        Ok(Intent::Replace { id: decode::id(&parameters)?, title: form.title()?, done, if_match: None })
    })
    .await
}

/// `POST /todos/{id}/delete`
pub(crate) async fn delete(State(app): State<App>, parameters: PathParameters, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    write(&app, &parts.headers, body, |_| Ok(Intent::Remove { id: decode::id(&parameters)?, if_match: None }))
        .await
}

/// Writes what a form asks for and goes back to the list.
async fn write(
    app: &App,
    headers: &HeaderMap,
    body: Body,
    intent: impl FnOnce(&Form) -> Result<Intent, Trouble>,
) -> Response {
    let decoded = async {
        refuse_other_sites(headers)?;
        let form = Form::parse(&decode::body(body).await?)?;
        let key = form.field("key")?.to_owned();
        if !decode::is_key(key.as_bytes()) {
            return Err(Trouble::bad_request("the field `key` of the form is no Idempotency-Key"));
        }
        Ok((intent(&form)?, key))
    };
    let submitted = async {
        let (intent, key) = decoded.await?;
        let submitted = submit(app, &key, &intent, super::deadline(headers, app.write_limit)).await;
        submitted.map(|submitted| (submitted.outcome(), key)).map_err(|trouble| match trouble.outcome {
            // The browser's way back brings an old form, and its key with it.
            Some(Outcome::Rejected) if trouble.is_key_reused() => {
                trouble.detail("this form was sent before with another text; use the one on the list")
            }
            _ => trouble,
        })
    };
    match submitted.await {
        Ok((outcome, key)) => {
            let mut back = Response::new(Body::empty());
            *back.status_mut() = StatusCode::SEE_OTHER;
            let headers = back.headers_mut();
            headers.insert(header::LOCATION, HeaderValue::from_static("/"));
            headers.insert(IDEMPOTENCY_KEY, decode::header_value(&key));
            outcome.insert_into(headers);
            back
        }
        Err(trouble) => trouble.of_a_write().into_response(),
    }
}

/// A page of another site must not change the list through the browser of somebody who visits it.
fn refuse_other_sites(headers: &HeaderMap) -> Result<(), Trouble> {
    let origin = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
    match origin {
        None | Some("same-origin" | "same-site" | "none") => Ok(()),
        Some(_) => Err(Trouble::new(StatusCode::FORBIDDEN, "other-site", "the form came from another site")),
    }
}

/// The fields of a form.
struct Form(HashMap<String, String>);

impl Form {
    fn parse(bytes: &[u8]) -> Result<Self, Trouble> {
        // The encoding of forms is that of queries, for which there is a parser at hand.
        let wrong = || Trouble::bad_request("the form cannot be understood");
        let text = std::str::from_utf8(bytes).map_err(|_| wrong())?;
        let uri: Uri = format!("/?{}", text.trim()).parse().map_err(|_| wrong())?;
        let fields =
            axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri).map_err(|_| wrong())?;
        Ok(Self(fields.0.into_iter().collect()))
    }

    fn field(&self, name: &str) -> Result<&str, Trouble> {
        let missing = || Trouble::bad_request(format!("the field `{name}` of the form is missing"));
        self.0.get(name).map(String::as_str).ok_or_else(missing)
    }

    fn title(&self) -> Result<Title, Trouble> {
        Title::new(self.field("title")?.trim().to_owned()).map_err(Trouble::invalid)
    }
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

    #[test]
    fn forms_are_read() {
        let form = Form::parse(b"title=buy+milk+%26+eggs&key=k1").unwrap();
        assert_eq!((form.title().unwrap().as_str(), form.field("key").unwrap()), ("buy milk & eggs", "k1"));
        assert!(form.field("done").unwrap_err().detail.unwrap().contains("`done`"));
        assert!(Form::parse(b"\xff").is_err());
    }

    #[test]
    fn forms_of_other_sites_are_refused() {
        let from = |site: &'static str| {
            HeaderMap::from_iter([(
                http::HeaderName::from_static("sec-fetch-site"),
                HeaderValue::from_static(site),
            )])
        };
        assert!(refuse_other_sites(&from("cross-site")).is_err());
        assert!(refuse_other_sites(&from("same-origin")).is_ok());
        assert!(refuse_other_sites(&HeaderMap::new()).is_ok());
    }
}
