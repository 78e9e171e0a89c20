//! The list of the metrics that the service adds to the library's. It records nothing.

use ridethrough::metrics::{Label, Metric};

/// The service's own metrics.
pub(crate) const CATALOGUE: &[Metric] = &[
    Metric::counter("ridethrough_http_requests_total", "HTTP requests by method, route and status.").by(&[
        Label::one_of("method", &["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "other"]),
        ROUTE,
        Label::named("status", "the status of the answer; 499 where the client left before it"),
    ]),
    Metric::histogram(
        "ridethrough_http_request_seconds",
        "Time from a request's head to its answer's, by route.",
    )
    .by(&[ROUTE]),
    Metric::counter(
        "ridethrough_http_shed_total",
        "Requests that were refused because it would have been too much, by what was.",
    )
    .by(&[Label::one_of("reason", &["requests", "bodies", "rate"])]),
    Metric::gauge(
        "ridethrough_events_oldest_seconds",
        "Age of about the oldest event of todos; told by who keeps them.",
    ),
    Metric::counter(
        "ridethrough_event_months_total",
        "Partitions of the events of todos that were made or dropped.",
    )
    .by(&[Label::one_of("change", &["made", "dropped"])]),
    Metric::counter(
        "ridethrough_events_forgotten_total",
        "Events of todos that were removed from the partition for all others.",
    ),
    Metric::counter(
        "ridethrough_trace_spans_total",
        "Spans for a collector: sent, lost on the way, or dropped because too many waited.",
    )
    .by(&[Label::one_of("outcome", &["sent", "lost", "dropped"])]),
    Metric::counter(
        "ridethrough_events_published_total",
        "Events that the broker has, by whether it had them already.",
    )
    .by(&[Label::one_of("outcome", &["stored", "known"])]),
    Metric::counter(
        "ridethrough_events_publish_failures_total",
        "Batches of events that were not all published, by reason.",
    )
    .by(&[Label::one_of(
        "reason",
        &["connect", "credentials", "tls", "timeout", "lost", "no-stream", "refused"],
    )]),
    Metric::gauge("ridethrough_events_publishing", "1 where this replica is the one that publishes events."),
    Metric::gauge(
        "ridethrough_events_unpublished",
        "About how many events wait to be published; told by who publishes.",
    ),
    Metric::gauge(
        "ridethrough_events_unpublished_oldest_seconds",
        "Age of the oldest event that waits to be published; told by who publishes.",
    ),
    Metric::counter(
        "ridethrough_events_given_up_total",
        "Events that nobody will publish: too many waited, or nobody wants them any more.",
    ),
];

const ROUTE: Label = Label::named("route", "the route's pattern; `none` where none matches");
