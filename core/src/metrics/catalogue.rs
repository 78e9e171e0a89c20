//! The list of the library's metrics: name, kind, labels with the values they can have, help.
//!
//! `docs/metrics.md` is made of it, and a test of the repository keeps page, list and code in step. It records nothing.

/// What is told of one metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name, with its unit, and `_total` where it only grows.
    pub name: &'static str,
    /// Its sort.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [Label],
    /// One sentence that says what it means.
    pub help: &'static str,
}

/// The sort of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Distribution over fixed buckets, in seconds.
    Histogram,
}

impl Kind {
    /// The word of the text format.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// What it can be.
    pub values: Values,
}

/// The values of a label. No request can add one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// One of these.
    OneOf(&'static [&'static str]),
    /// A name from code, build or configuration; says which.
    Named(&'static str),
}

impl Metric {
    /// A metric without labels that only grows.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, labels: &[], help }
    }

    /// A metric without labels that goes up and down.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, labels: &[], help }
    }

    /// A distribution of seconds without labels.
    #[must_use]
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Histogram, labels: &[], help }
    }

    /// The same with labels.
    #[must_use]
    pub const fn by(self, labels: &'static [Label]) -> Self {
        Self { labels, ..self }
    }
}

impl Label {
    /// A label with a list of values.
    #[must_use]
    pub const fn one_of(name: &'static str, values: &'static [&'static str]) -> Self {
        Self { name, values: Values::OneOf(values) }
    }

    /// A label with names of the sort that `what` says.
    #[must_use]
    pub const fn named(name: &'static str, what: &'static str) -> Self {
        Self { name, values: Values::Named(what) }
    }
}

const OPERATION: Label =
    Label::named("operation", "the name of the query or transaction in the code; `write` for commands");
const CIRCUIT: Label = Label::named(
    "circuit",
    "`reads-1` and `writes-1` for the first host, and so on; `backend-0` in the proxy; `nats` for the broker",
);
const OUTCOME: Label = Label::one_of(
    "outcome",
    &["fresh", "stale", "failed", "committed", "journaled", "rejected", "refused", "unknown"],
);
const CLASS: Label = Label::one_of(
    "class",
    &["none", "transient", "unknown", "permanent", "overload", "contention", "failover", "heal"],
);
const TO: Label = Label::one_of("to", &["closed", "half-open", "open", "forced-open", "forced-closed"]);
const MODE: Label = Label::one_of(
    "mode",
    &[
        "starting",
        "warming",
        "normal",
        "recovering",
        "degraded",
        "read-only",
        "write-only",
        "empty",
        "no-journal",
        "migration-pending",
        "fenced",
        "draining",
        "broken",
    ],
);
const CONNECTION: Label = Label::one_of("state", &["idle", "in_use"]);
const CONNECTING: Label = Label::one_of("outcome", &["ok", "failed", "timeout"]);
const RESULT: Label = Label::one_of("result", &["fresh", "stale", "miss", "expired"]);
const ASIDE: Label = Label::one_of("state", &["rejected", "held", "moved"]);
const REPLAYED: Label =
    Label::one_of("outcome", &["applied", "superseded", "rejected", "known", "key-reused"]);
const REFUSED: Label = Label::one_of(
    "reason",
    &[
        "full",
        "reserved",
        "too_old",
        "poisoned",
        "unknown",
        "too_large",
        "busy",
        "key_pending",
        "closed",
        "fenced",
    ],
);
const VERSION: Label = Label::named("version", "the version of this build");
const REVISION: Label =
    Label::named("revision", "the revision in version control; missing where the build was not told");

/// The library's metrics.
pub const CATALOGUE: &[Metric] = &[
    Metric::gauge("ridethrough_build_info", "1, with what this program was built from.")
        .by(&[VERSION, REVISION]),
    Metric::counter(
        "ridethrough_db_calls_total",
        "Calls of the database path by operation, outcome and class.",
    )
    .by(&[OPERATION, OUTCOME, CLASS]),
    Metric::histogram(
        "ridethrough_db_call_seconds",
        "Time of one call of the database path, retries included.",
    )
    .by(&[OPERATION]),
    Metric::counter("ridethrough_db_attempts_total", "Attempts made against PostgreSQL."),
    Metric::counter(
        "ridethrough_db_overlooked_errors_total",
        "Statements refused because an error before them in their transaction was overlooked.",
    ),
    Metric::gauge("ridethrough_breaker_state", "0 closed, 1 half-open, 2 open, by circuit.").by(&[CIRCUIT]),
    Metric::counter("ridethrough_breaker_transitions_total", "Breaker transitions by circuit and new state.")
        .by(&[CIRCUIT, TO]),
    Metric::gauge("ridethrough_mode", "1 for the mode the process is in, 0 for all others.").by(&[MODE]),
    Metric::gauge("ridethrough_retry_budget_balance", "Retries that could be made now."),
    Metric::gauge("ridethrough_bulkhead_in_use", "Database permits in use."),
    Metric::gauge("ridethrough_bulkhead_limit", "Database permits that there may be now."),
    Metric::gauge("ridethrough_bulkhead_queue", "Calls waiting for a database permit."),
    Metric::gauge(
        "ridethrough_pool_connections",
        "Connections of the pools of all hosts by state; lanes are not among them.",
    )
    .by(&[CONNECTION]),
    Metric::gauge("ridethrough_lanes_open", "Connections that short reads share, of all hosts."),
    Metric::gauge("ridethrough_lanes_in_use", "Questions that are on their way on lanes."),
    Metric::counter("ridethrough_connect_attempts_total", "Connection attempts by outcome.")
        .by(&[CONNECTING]),
    Metric::counter(
        "ridethrough_cache_requests_total",
        "Reads by what they got; expired and miss got nothing: it was too old, or not there.",
    )
    .by(&[RESULT]),
    Metric::histogram("ridethrough_cache_age_seconds", "Age of the stale answers that were served."),
    Metric::gauge(
        "ridethrough_listening",
        "1 while changes of other replicas are heard, 0 while not; missing without notices.",
    ),
    Metric::gauge("ridethrough_journal_depth", "Accepted writes that are not applied yet."),
    Metric::gauge("ridethrough_journal_bytes", "Bytes of accepted writes that are not applied yet."),
    Metric::gauge("ridethrough_journal_oldest_seconds", "Age of the oldest accepted write not applied yet."),
    Metric::gauge(
        "ridethrough_journal_set_aside",
        "Journal entries kept aside, by state: rejected, held, moved.",
    )
    .by(&[ASIDE]),
    Metric::histogram("ridethrough_journal_append_seconds", "Time from append to durable."),
    Metric::counter("ridethrough_journal_replayed_total", "Journal entries replayed by outcome.")
        .by(&[REPLAYED]),
    Metric::gauge(
        "ridethrough_journal_rejected",
        "Accepted writes that the database refused for good, kept until somebody looks.",
    ),
    Metric::counter(
        "ridethrough_journal_refused_total",
        "Appends to the journal that were refused, by reason.",
    )
    .by(&[REFUSED]),
    Metric::gauge("ridethrough_journal_fenced", "1 where another process owns this journal now."),
    Metric::counter("ridethrough_outcomes_removed_total", "Outcomes of writes that were kept long enough."),
    Metric::counter(
        "ridethrough_lost_writes_total",
        "Committed writes of this process that a failover took back.",
    ),
    Metric::gauge("ridethrough_ready", "1 where the readiness probe answers 200."),
];

/// What the admin port tells about the process itself, under the names that every exporter uses.
pub const PROCESS: &[Metric] = &[
    Metric::counter(
        "process_cpu_seconds_total",
        "Time of processors, of the program and of the system for it.",
    ),
    Metric::gauge("process_resident_memory_bytes", "Memory that is in use and not swapped out."),
    Metric::gauge("process_open_fds", "Files and sockets that are open."),
    Metric::gauge(
        "process_max_fds",
        "Files and sockets that may be open; missing where nothing limits them.",
    ),
    Metric::gauge("process_start_time_seconds", "When the process started, in seconds since 1970."),
];
