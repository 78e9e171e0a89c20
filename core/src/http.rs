//! Feature `http`: the probes and problem+json as small tower services, for any HTTP server to mount.
//!
//! Nothing here knows the database; it renders what `health` decided and what an error says of itself.

mod probes;
mod problem;

pub use self::{
    probes::{HealthReport, Probes, Verbosity},
    problem::{Problem, retry_after_seconds},
};

/// The body type of the answers made here.
pub type Body = http_body_util::Full<bytes::Bytes>;
