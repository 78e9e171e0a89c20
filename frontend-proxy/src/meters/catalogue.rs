//! The list of the proxy's metrics. It records nothing.

use ridethrough::metrics::{Label, Metric};

/// The proxy's own metrics; of the library's it has those of the breaker and of the process.
pub(crate) const CATALOGUE: &[Metric] = &[
    Metric::counter(
        "ridethrough_http_requests_total",
        "Answered requests by method and class of the status.",
    )
    .by(&[
        Label::one_of("method", &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"]),
        Label::one_of("status", &["1xx", "2xx", "3xx", "4xx", "5xx"]),
    ]),
    Metric::histogram(
        "ridethrough_http_request_seconds",
        "Time from the head of a request to the head of its answer, by where that came from.",
    )
    .by(&[RUNG]),
    Metric::counter("ridethrough_proxy_responses_total", "Answers by route and by where they came from.")
        .by(&[Label::one_of("route", &["default"]), RUNG]),
    Metric::counter("ridethrough_proxy_upstream_attempts_total", "Attempts at backends by how they went.")
        .by(&[
            BACKEND,
            Label::one_of(
                "result",
                &[
                    "answered",
                    "refused",
                    "no-connection",
                    "closed",
                    "invalid",
                    "timed-out",
                    "silent",
                    "client",
                ],
            ),
        ]),
    Metric::gauge(
        "ridethrough_proxy_backend_state",
        "1 where the backend passes its checks, 0 where not, 0.5 where it is not checked yet.",
    )
    .by(&[BACKEND]),
];

/// The first five are kept answers; passed and retried came from a backend, at the first attempt or a later one; the rest
/// were made here, because no backend answered, because all have too much to do, or because of what the request was.
const RUNG: Label = Label::one_of(
    "rung",
    &[
        "fresh",
        "revalidated",
        "stale-while-revalidate",
        "stale-if-error",
        "max-stale",
        "passed",
        "retried",
        "fallback",
        "shed",
        "refused",
    ],
);
const BACKEND: Label = Label::named("backend", "`backend-0` for the first in the configuration, and so on");
