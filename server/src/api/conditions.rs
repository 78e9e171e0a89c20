//! Conditions of a request that its operation does not check: refused, because a write without the condition that its author
//! made is a write that he did not send. How a condition is checked stands in `routes`.
//!
//! `If-Modified-Since` and `If-Unmodified-Since` are passed over, as RFC 9110 (13.1.3 and 13.1.4) demands where nothing has a
//! date of its last change.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::header;

use super::Operation;
use crate::{error::Trouble, problems};

/// The conditions that an operation checks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Understood {
    if_match: bool,
    /// With a method that only reads, it is a question for less: to answer it in full is no harm.
    if_none_match: bool,
}

impl Understood {
    pub(super) fn by(operation: &Operation) -> Self {
        Self {
            if_match: operation.takes_header("If-Match"),
            if_none_match: operation.takes_header("If-None-Match") || operation.method.is_safe(),
        }
    }
}

/// The layer around each operation.
pub(super) async fn refuse_others(
    State(understood): State<Understood>,
    request: Request,
    next: Next,
) -> Response {
    let unknown =
        [(header::IF_MATCH, understood.if_match), (header::IF_NONE_MATCH, understood.if_none_match)];
    let sent = unknown.iter().find(|(name, known)| !known && request.headers().contains_key(name));
    let detail = match sent.map(|(name, _)| name) {
        None => return next.run(request).await,
        Some(name) if *name == header::IF_MATCH => "the header If-Match is not understood here",
        Some(_) => "the header If-None-Match is not understood here",
    };
    let trouble = Trouble::new(&problems::CONDITION_NOT_UNDERSTOOD).detail(detail);
    if request.method().is_safe() { trouble } else { trouble.of_a_write() }.into_response()
}
