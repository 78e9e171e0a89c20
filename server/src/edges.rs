//! The edges of the service: how much it takes on. What is too much is refused at once, so that the rest is done in time and
//! memory has a bound. What a connection may do is limited by the listener; what a principal may do, in the file below.
//!
//! A request counts as in flight from the moment in which its body is there: senders of slow bodies take no place from
//! anybody. What of their bodies has arrived is counted in bytes, for all of them together.

mod inflow;
mod rate;

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http_body::Body as _;
use ridethrough::drain::InFlight;
use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, time::Instant};

pub(crate) use self::inflow::Cut;
use self::{inflow::Inflow, rate::Rate};
use crate::{
    app::App,
    error::Trouble,
    identity::{IdentityMode, Principal},
    problems,
};

const SHED: &str = "ridethrough_http_shed_total";

/// What the service takes on; the rest of `limits` is the listener's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Requests in flight.
    pub(crate) requests: usize,
    /// Bytes of an address.
    pub(crate) uri_bytes: usize,
    /// Time for a body.
    pub(crate) body: Duration,
    /// Bytes of all bodies together.
    pub(crate) bodies_bytes: usize,
}

/// How often one principal may ask.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RateSection {
    /// Requests a second; 0 for any number. Default any number where everybody is one principal, else 100.
    pub(crate) per_second: Option<u32>,
    /// Requests at once, after a while without any. Default twice `per_second`.
    pub(crate) burst: Option<u32>,
}

const PER_SECOND: u32 = 100;

impl RateSection {
    fn rate(&self, mode: IdentityMode) -> Option<Rate> {
        let usual = if mode == IdentityMode::None { 0 } else { PER_SECOND };
        let per_second = self.per_second.unwrap_or(usual);
        Rate::new(per_second, self.burst.unwrap_or(per_second.saturating_mul(2)))
    }
}

/// What is taken on now.
#[derive(Debug)]
pub(crate) struct Edges {
    bounds: Bounds,
    in_flight: InFlight,
    /// Bytes that bodies may still take.
    room: Arc<Semaphore>,
    rate: Option<Rate>,
}

impl Edges {
    pub(crate) fn new(bounds: Bounds, rate: &RateSection, mode: IdentityMode) -> Self {
        let room = Arc::new(Semaphore::new(bounds.bodies_bytes.min(Semaphore::MAX_PERMITS)));
        Self { bounds, in_flight: InFlight::default(), room, rate: rate.rate(mode) }
    }
}

/// The layer around everything but the probes: refuses what is too much.
pub(crate) async fn admit(State(app): State<App>, request: Request, next: Next) -> Response {
    let edges = &app.edges;
    let address = request.uri().path_and_query().map_or(0, |address| address.as_str().len());
    if address > edges.bounds.uri_bytes {
        let most = edges.bounds.uri_bytes;
        let trouble =
            Trouble::new(&problems::URI_TOO_LONG).detail(format!("at most {most} bytes are allowed"));
        return answer(&request, trouble);
    }
    if edges.in_flight.count() >= edges.bounds.requests {
        metrics::counter!(SHED, "reason" => "requests").increment(1);
        let trouble = Trouble::new(&problems::OVERLOADED).retry_after(app.db.retry_after(Instant::now()));
        return answer(&request, trouble);
    }
    if request.body().is_end_stream() {
        let _working = edges.in_flight.begin();
        return next.run(request).await;
    }
    let retry_after = app.db.retry_after(Instant::now());
    let (parts, body) = request.into_parts();
    let (inflow, _taken) =
        Inflow::new(body, edges.bounds.body, Arc::clone(&edges.room), edges.in_flight.clone(), retry_after);
    next.run(Request::from_parts(parts, Body::new(inflow))).await
}

/// The layer around what is somebody's: refuses who asks too often.
pub(crate) async fn keep_to_rate(
    State(app): State<App>,
    principal: Principal,
    request: Request,
    next: Next,
) -> Response {
    let taken = app.edges.rate.as_ref().map_or(Ok(()), |rate| rate.take(principal, Instant::now()));
    match taken {
        Ok(()) => next.run(request).await,
        Err(wait) => {
            metrics::counter!(SHED, "reason" => "rate").increment(1);
            answer(&request, Trouble::new(&problems::TOO_MANY_REQUESTS).retry_after(wait))
        }
    }
}

fn answer(request: &Request, trouble: Trouble) -> Response {
    if request.method().is_safe() { trouble } else { trouble.of_a_write() }.into_response()
}
