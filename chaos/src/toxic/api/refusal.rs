//! Errors of the interface, in toxiproxy's words and with its status codes, which clients compare.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::json;

use crate::toxic::address::AddressError;
use crate::toxic::chain::ChainError;
use crate::toxic::proxy::ProxyError;

/// Why a request is not fulfilled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Refusal {
    /// The status of the answer, which its body repeats.
    pub status: StatusCode,
    /// One line.
    pub error: Cow<'static, str>,
}

impl Refusal {
    pub(super) const NO_PROXY: Self = Self::of(StatusCode::NOT_FOUND, "proxy not found");
    pub(super) const NO_TOXIC: Self = Self::of(StatusCode::NOT_FOUND, "toxic not found");
    pub(super) const PROXY_EXISTS: Self = Self::of(StatusCode::CONFLICT, "proxy already exists");
    pub(super) const INVALID_TYPE: Self = Self::of(StatusCode::BAD_REQUEST, "invalid toxic type");
    pub(super) const INVALID_STREAM: Self =
        Self::of(StatusCode::BAD_REQUEST, "stream was invalid, can be either upstream or downstream");

    const fn of(status: StatusCode, error: &'static str) -> Self {
        Self { status, error: Cow::Borrowed(error) }
    }

    pub(super) fn bad_body(why: impl fmt::Display) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error: format!("bad request body: {why}").into() }
    }

    pub(super) fn missing(field: &str, place: &str) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            error: format!("missing required field: {field}{place}").into(),
        }
    }

    pub(super) fn too_many(why: String) -> Self {
        Self { status: StatusCode::INSUFFICIENT_STORAGE, error: why.into() }
    }

    pub(super) fn response(&self) -> Response<Bytes> {
        super::reply(self.status, &json!({"error": self.error, "status": self.status.as_u16()}))
    }
}

impl From<ProxyError> for Refusal {
    fn from(error: ProxyError) -> Self {
        let status = match error {
            ProxyError::Address(AddressError::Remote(_)) => StatusCode::FORBIDDEN,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, error: error.to_string().into() }
    }
}

impl From<ChainError> for Refusal {
    fn from(error: ChainError) -> Self {
        match error {
            ChainError::Exists => Self::of(StatusCode::CONFLICT, "toxic already exists"),
            ChainError::TooMany => Self::too_many(error.to_string()),
        }
    }
}
