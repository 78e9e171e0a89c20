//! What explains the interface, to programs and to people: the OpenAPI document, the page made of it, and the page of each
//! problem. What they say stands in `api` and `problems`.

use axum::{
    extract::State,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use minijinja::{context, value::Serde};
use serde_json::{Value, json};

use super::{
    decode::{self, PathParameters},
    json as json_response,
};
use crate::{
    api,
    app::{App, Language, prefers_html},
    error::Trouble,
    problems::{self, Kind},
    todo::encode,
};

/// `GET /openapi.json`
pub(crate) async fn openapi() -> Response {
    kept(json_response(StatusCode::OK, api::text()))
}

/// `GET /docs`
pub(crate) async fn page(State(app): State<App>) -> Response {
    let content = context! { document => Serde(api::document()) };
    kept(app.pages.render(Language::English, "docs.html", StatusCode::OK, content))
}

/// `GET /problems`
pub(crate) async fn problems(State(app): State<App>, headers: HeaderMap) -> Response {
    let all: Vec<Value> = problems::ALL.iter().map(|kind| document(kind)).collect();
    if prefers_html(&headers) {
        let content = context! { problems => Serde(&all) };
        return by_accept(app.pages.render(Language::English, "problems.html", StatusCode::OK, content));
    }
    by_accept(json_response(StatusCode::OK, encode(&json!({ "problems": all }))))
}

/// `GET /problems/{slug}`
pub(crate) async fn problem(
    State(app): State<App>,
    parameters: PathParameters,
    headers: HeaderMap,
) -> Response {
    let Some(kind) = Kind::named(&decode::path_text(&parameters, "slug")) else {
        return Trouble::no_such_path().into_response();
    };
    if prefers_html(&headers) {
        let content = context! {
            problem => Serde(document(kind)),
            effect => kind.effect_in_words(),
        };
        return by_accept(app.pages.render(Language::English, "problem.html", StatusCode::OK, content));
    }
    by_accept(json_response(StatusCode::OK, encode(&document(kind))))
}

fn document(kind: &Kind) -> Value {
    json!({
        "type": kind.address(),
        "title": kind.title,
        "status": kind.status.as_u16(),
        "meaning": kind.meaning(),
        "effect": kind.effect(),
        "advice": kind.advice(),
    })
}

/// It changes with the program alone, so that who has it need not ask again for a while.
fn kept(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
    response
}

fn by_accept(response: Response) -> Response {
    let mut response = kept(response);
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept"));
    response
}
