//! The page for people at `/` and the forms on it: works without JavaScript, and answers its own script with the same
//! pages. What the page shows stands in the file below.

mod list;

use axum::{
    body::Body,
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use ridethrough::http::retry_after_seconds;

use self::list::{Asked, Attempt};
use super::{
    decode::{self, IDEMPOTENCY_KEY, PathParameters, percent_encoded},
    form::{Form, refuse_other_sites},
    submit::{Submitted, submit},
};
use crate::{
    app::{App, Language, prefers_html, problem, text},
    error::{Outcome, Trouble},
    identity::Principal,
    todo::{Cursor, Intent, PageQuery, TITLE_CHARACTERS_MAX, Title, TitleInvalid},
};

/// RFC 7240: the script wants the list as it is now, from the replica that took the change, and no way back to it.
const PREFER: HeaderName = HeaderName::from_static("prefer");

/// `GET /`
pub(crate) async fn show(State(app): State<App>, owner: Principal, request: Request) -> Response {
    let wrote = wrote(request.uri());
    let query = match page_of(owner, request.uri()) {
        Ok(query) => query,
        Err(trouble) => return trouble.into_response(),
    };
    let asked = asked(&app, owner, request.headers(), query, wrote.as_deref());
    list::answer(&app, &asked, request.headers(), Attempt::default()).await
}

fn asked<'r>(
    app: &App,
    owner: Principal,
    headers: &HeaderMap,
    query: PageQuery,
    wrote: Option<&'r str>,
) -> Asked<'r> {
    let deadline = super::deadline(headers, app.db.read_deadline());
    Asked { owner, language: Language::of(headers), query, wrote, deadline }
}

/// Of the parameters of a list the page knows only where to go on.
fn page_of(owner: Principal, uri: &Uri) -> Result<PageQuery, Trouble> {
    let own = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.starts_with("wrote="));
    let rest = format!("/?{}", own.collect::<Vec<_>>().join("&"));
    let query = decode::page_query(owner, &rest.parse().unwrap_or_default())?;
    Ok(PageQuery { done: None, from: None, to: None, ..query })
}

/// The key of the change that led here.
fn wrote(uri: &Uri) -> Option<String> {
    let form = Form::parse(uri.query()?.as_bytes()).ok()?;
    form.field("wrote").ok().filter(|key| decode::is_key(key.as_bytes())).map(str::to_owned)
}

/// `POST /todos`
pub(crate) async fn add(State(app): State<App>, owner: Principal, request: Request) -> Response {
    write(&app, owner, request, |form| Ok(Intent::Create { title: form.typed_title()? })).await
}

/// `POST /todos/{id}/done`
pub(crate) async fn set_done(
    State(app): State<App>,
    owner: Principal,
    parameters: PathParameters,
    request: Request,
) -> Response {
    write(&app, owner, request, |form| {
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
    write(&app, owner, request, |_| Ok(Intent::Remove { id: decode::id(&parameters)?, if_match: None })).await
}

/// What a form held, as far as it could be read.
#[derive(Default)]
struct Sent {
    key: Option<String>,
    typed: String,
    /// The page on which it stood.
    after: Option<Cursor>,
    /// Whether an item is to be added.
    adds: bool,
}

impl Sent {
    /// The page on which the form stood.
    fn place(&self) -> String {
        self.after.map_or_else(|| "/".to_owned(), |after| format!("/?after={after}"))
    }

    fn query(&self, owner: Principal) -> PageQuery {
        let first = Uri::from_static("/");
        let query = page_of(owner, &first).unwrap_or_default();
        PageQuery { owner, after: self.after, ..query }
    }
}

/// Writes what a form asks for, and goes back to the list or shows it.
async fn write(
    app: &App,
    owner: Principal,
    request: Request,
    intent: impl FnOnce(&Form) -> Result<Intent, Trouble>,
) -> Response {
    let (parts, body) = request.into_parts();
    let headers = parts.headers;
    let mut sent = Sent { adds: parts.uri.path() == "/todos", ..Sent::default() };
    let submitted = async {
        refuse_other_sites(&headers)?;
        let form = Form::parse(&decode::body(body).await?)?;
        let key = form.key()?.to_owned();
        sent.key = Some(key.clone());
        sent.after = form.field("after").ok().and_then(|after| after.parse().ok());
        if sent.adds {
            sent.typed = form.field("title")?.to_owned();
        }
        let intent = intent(&form)?;
        submit(app, owner, &key, &intent, super::deadline(&headers, app.db.write_deadline()))
            .await
            .map_err(for_people)
    }
    .await;
    let mut response = match submitted {
        Ok(submitted) => done(app, owner, &headers, &sent, &submitted).await,
        Err(trouble) => refused(app, owner, &headers, &sent, trouble.of_a_write()).await,
    };
    let key = sent.key.map(|key| (IDEMPOTENCY_KEY, decode::header_value(&key)));
    response.headers_mut().extend(key);
    response
}

async fn done(
    app: &App,
    owner: Principal,
    headers: &HeaderMap,
    sent: &Sent,
    submitted: &Submitted,
) -> Response {
    let outcome = submitted.outcome();
    let mut response = if wants_list(headers) {
        let status = match outcome {
            Outcome::Journaled => StatusCode::ACCEPTED,
            _ => StatusCode::OK,
        };
        let asked = asked(app, owner, headers, sent.query(owner), None);
        let attempt = Attempt { status: Some(status), ..Attempt::default() };
        list::answer(app, &asked, headers, attempt).await
    } else {
        let mut place = sent.place();
        // Another replica may answer there, which knows nothing of what waits at this one.
        if let (Outcome::Journaled, Some(key)) = (outcome, &sent.key) {
            let joint = if place.contains('?') { '&' } else { '?' };
            place = format!("{place}{joint}wrote={}", percent_encoded(key));
        }
        let mut back = Response::new(Body::empty());
        *back.status_mut() = StatusCode::SEE_OTHER;
        back.headers_mut().insert(header::LOCATION, decode::header_value(&place));
        back
    };
    outcome.insert_into(response.headers_mut());
    response
}

/// Whether the sender asks for the list in place of the way back to it.
fn wants_list(headers: &HeaderMap) -> bool {
    headers.get(PREFER).is_some_and(|value| value.as_bytes() == b"return=representation")
}

/// A refusal, on the list itself where it can be told there: what was typed stays, and the next try is one click away.
async fn refused(
    app: &App,
    owner: Principal,
    headers: &HeaderMap,
    sent: &Sent,
    trouble: Trouble,
) -> Response {
    let is_told_there = matches!(trouble.kind.status.as_u16(), 404 | 408 | 409 | 412 | 413 | 422 | 503);
    if !prefers_html(headers) || !is_told_there {
        return trouble.into_response();
    }
    let language = Language::of(headers);
    let said = Some(in_words(language, sent, &trouble));
    let (by_form, notice) = if sent.adds { (said, None) } else { (None, said) };
    // Sent again under the same key it has its effect once, whatever became of it; a key that had another text is used up.
    let key =
        sent.key.clone().filter(|_| trouble.kind.status == StatusCode::SERVICE_UNAVAILABLE && sent.adds);
    let attempt =
        Attempt { status: Some(trouble.kind.status), key, typed: sent.typed.clone(), by_form, notice };
    let asked = asked(app, owner, headers, sent.query(owner), None);
    let mut response = list::answer(app, &asked, headers, attempt).await;
    // The refusal knows better than the list when to try again.
    let wait =
        trouble.retry_after.map(|wait| (header::RETRY_AFTER, HeaderValue::from(retry_after_seconds(wait))));
    response.headers_mut().extend(wait);
    if let Some(outcome) = trouble.outcome {
        outcome.insert_into(response.headers_mut());
    }
    response
}

/// A refusal as it is told by a form.
fn in_words(language: Language, sent: &Sent, trouble: &Trouble) -> String {
    let said = |name: &str, places: &[(&str, String)]| text(language, name, places).unwrap_or_default();
    let invalid = Title::typed(&sent.typed).err().filter(|_| trouble.is_invalid());
    let mut sentences = vec![match invalid {
        Some(TitleInvalid::Empty | TitleInvalid::Blank) => said("title.empty", &[]),
        Some(TitleInvalid::TooLong(count)) => {
            let places = [("n", count.to_string()), ("max", TITLE_CHARACTERS_MAX.to_string())];
            said("title.too-long", &places)
        }
        Some(TitleInvalid::Impossible) => said("title.impossible", &[]),
        None => said(&problem(trouble.kind.slug, trouble.kind.status.is_server_error()), &[]),
    }];
    if let Some(wait) = trouble.retry_after {
        sentences.push(said("trouble.again", &[("n", retry_after_seconds(wait).to_string())]));
    }
    if !sent.typed.is_empty() && invalid.is_none() {
        sentences.push(said("trouble.text-kept", &[]));
    }
    sentences.join(" ")
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
