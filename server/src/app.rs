//! The application: what handlers share, the routes, and the layers around them. This is the only place that lists
//! layers; what they do stands in the files below.

mod assets;
mod language;
mod observe;
mod people;
mod texts;

use std::{any::Any, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    middleware,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use http::{HeaderValue, Method, header};
use ridethrough::{Db, drain::InFlight, http::Probes, journal::Journal};
use tower_http::catch_panic::CatchPanicLayer;

pub(crate) use self::{
    language::Language,
    observe::describe_metrics,
    people::{Pages, prefers_html},
    texts::{problem, text},
};
use crate::{
    api::{self, Access},
    edges::{Edges, admit, keep_to_rate},
    error::Trouble,
    identity::{Identity, identify},
    problems,
    routes::{page, sign_in},
    todo::SettledKeys,
};

/// What every handler may use. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct App {
    pub(crate) db: Db,
    pub(crate) journal: Journal,
    /// Keys of writes that came to their end lately.
    pub(crate) settled: Arc<SettledKeys>,
    /// Writes in progress, also those whose client has left.
    pub(crate) writes: InFlight,
    pub(crate) pages: Arc<Pages>,
    /// Who says whose a request is.
    pub(crate) identity: Arc<Identity>,
    /// What is taken on.
    pub(crate) edges: Arc<Edges>,
    pub(crate) probes: Probes,
}

/// The routes with their layers.
pub(crate) fn router(app: App) -> Router {
    Router::new()
        .route("/", get(page::show))
        .route("/todos", post(page::add))
        .route("/todos/{id}/done", post(page::set_done))
        .route("/todos/{id}/delete", post(page::delete))
        .merge(api::router(Access::Principal))
        // What stands above this line is somebody's; what follows is for everybody.
        .route_layer(middleware::from_fn_with_state(app.clone(), keep_to_rate))
        .route_layer(middleware::from_fn_with_state(app.clone(), identify))
        .route(assets::ROUTE, get(assets::show))
        .route("/sign-in", get(sign_in::show).post(sign_in::sign_in))
        .route("/sign-out", post(sign_in::sign_out))
        .merge(api::router(Access::Everybody))
        // Probes are answered however much there is to do.
        .route_layer(middleware::from_fn_with_state(app.clone(), admit))
        .merge(api::router(Access::Always))
        .fallback(async || Trouble::no_such_path())
        .method_not_allowed_fallback(wrong_method)
        // From the inside out: the last layer here is the first that a request meets.
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(app.clone(), people::pages_for_people))
        .layer(middleware::from_fn(observe::observe))
        .with_state(app)
}

/// `GET` of any probe.
pub(crate) async fn probe(State(app): State<App>, request: Request) -> Response {
    let answer = app.probes.answer(request.method(), request.uri().path());
    answer.map_or_else(|| Trouble::no_such_path().into_response(), |answer| answer.map(axum::body::Body::new))
}

/// The framework adds `Allow`.
async fn wrong_method(method: Method) -> Trouble {
    let trouble = Trouble::new(&problems::WRONG_METHOD).detail("the header Allow lists the methods it knows");
    // Who meant to write is told what became of it, as by every other answer to a write.
    if method.is_safe() { trouble } else { trouble.of_a_write() }
}

/// One request's panic is that request's alone. Where and why it happened is in the log, not in the answer.
fn panicked(_panic: Box<dyn Any + Send + 'static>) -> Response {
    let mut response = Trouble::internal().into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
pub(crate) mod tests;
