//! Sign in and out, for people with a browser: a token in a form becomes a cookie. Programs send their token with each
//! request instead.

use axum::{
    body::Body,
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use minijinja::context;

use super::{
    decode,
    form::{Form, refuse_other_sites},
};
use crate::{
    app::{App, Language},
    error::Trouble,
    identity::credentials::{is_token, set_cookie},
};

/// `GET /sign-in`
pub(crate) async fn show(State(app): State<App>, headers: HeaderMap) -> Response {
    if !app.identity.has_sign_in() {
        return Trouble::no_such_path().into_response();
    }
    app.pages.render(Language::of(&headers), "sign-in.html", StatusCode::OK, context! { refused => false })
}

/// `POST /sign-in`
pub(crate) async fn sign_in(State(app): State<App>, request: Request) -> Response {
    if !app.identity.has_sign_in() {
        return Trouble::no_such_path().into_response();
    }
    let (parts, body) = request.into_parts();
    let token = async {
        refuse_other_sites(&parts.headers)?;
        let form = Form::parse(&decode::body(body).await?)?;
        Ok::<_, Trouble>(form.field("token")?.trim().to_owned())
    };
    let token = match token.await {
        Ok(token) => token,
        Err(trouble) => return trouble.into_response(),
    };
    if !is_token(&token) || app.identity.principal(&token).await.is_none() {
        return Trouble::sign_in_needed(true).into_response();
    }
    with_cookie("/", set_cookie(Some(&token), app.identity.is_https(&parts.headers)))
}

/// `POST /sign-out`
pub(crate) async fn sign_out(State(app): State<App>, request: Request) -> Response {
    match refuse_other_sites(request.headers()) {
        Ok(()) => with_cookie("/sign-in", set_cookie(None, app.identity.is_https(request.headers()))),
        Err(trouble) => trouble.into_response(),
    }
}

fn with_cookie(place: &'static str, cookie: HeaderValue) -> Response {
    let mut back = Response::new(Body::empty());
    *back.status_mut() = StatusCode::SEE_OTHER;
    let headers = back.headers_mut();
    headers.insert(header::LOCATION, HeaderValue::from_static(place));
    headers.insert(header::SET_COOKIE, cookie);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    back
}
