//! Every metric of the library: what it is called (`catalogue`) and how it is recorded. Nothing else names one.
//!
//! It records; who exports (Prometheus in our binaries) is the business of whoever installs a recorder.

mod catalogue;
#[cfg(feature = "postgres")]
mod database;
#[cfg(feature = "postgres")]
mod handles;
mod times;

use std::{borrow::Cow, time::Duration};

pub use self::catalogue::{CATALOGUE, Kind, Label, Metric, PROCESS, Values};
#[cfg(feature = "postgres")]
pub(crate) use self::database::*;
pub(crate) use self::times::Times;

/// A metric with more series than this shows each when it is first used.
const SERIES_AT_ZERO_MAX: usize = 16;

/// What the benchmark of the whole path records, as the path does it.
#[cfg(feature = "postgres")]
#[doc(hidden)]
pub mod bench {
    use std::time::Duration;

    pub fn db_attempt() {
        super::db_attempt();
    }

    pub fn fresh_read(operation: &'static str, took: Duration) {
        super::fresh_read(operation, took);
    }
}

/// Tells the installed recorder the help text of every metric. Call once after installing it, early or late.
///
/// From then on the database path keeps handles of this recorder, which makes recording several times cheaper.
pub fn describe() {
    #[cfg(feature = "postgres")]
    handles::note_described();
    describe_each(CATALOGUE);
}

/// Tells the installed recorder the help texts of a service's own metrics.
pub fn describe_each(catalogue: &[Metric]) {
    for Metric { name, kind, help, .. } in catalogue {
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, *help),
            Kind::Gauge => metrics::describe_gauge!(*name, *help),
            Kind::Histogram => metrics::describe_histogram!(*name, metrics::Unit::Seconds, *help),
        }
    }
}

/// Shows the installed recorder each counter and histogram of `catalogue` at zero, as far as all values of its labels are
/// listed and few. A counter that appears with its first event hides that event from every rate and alert.
/// [`Db::new`](crate::db::Db::new) does it for the library's; it helps where the recorder is installed before.
pub fn start_at_zero(catalogue: &[Metric]) {
    for metric in catalogue {
        for labels in series(metric) {
            match metric.kind {
                Kind::Counter => metrics::counter!(metric.name, labels).increment(0),
                Kind::Histogram => drop(metrics::histogram!(metric.name, labels)),
                Kind::Gauge => {}
            }
        }
    }
}

/// The labels of every series that `metric` can have; none where nobody knows them beforehand, or where they are many.
fn series(metric: &Metric) -> Vec<Vec<metrics::Label>> {
    let mut found = vec![Vec::new()];
    for label in metric.labels {
        let Values::OneOf(values) = label.values else { return Vec::new() };
        let with_each = |before: Vec<metrics::Label>| {
            values.iter().map(move |value| {
                let mut labels = before.clone();
                labels.push(metrics::Label::from_static_parts(label.name, value));
                labels
            })
        };
        found = found.into_iter().flat_map(with_each).collect();
    }
    if found.len() > SERIES_AT_ZERO_MAX { Vec::new() } else { found }
}

/// Tells the recorder of the calls that went well since the last time. [`Db::publish_gauges`](crate::db::Db::publish_gauges)
/// does it too, on its timer; called before the recorder is read, as our admin port does, whoever reads sees every call
/// that ended before. Calls of which nobody publishes anything arrive in lots of some hundred.
///
/// It concerns counters and times of calls that went well, and attempts; all else is told when it happens.
#[cfg(feature = "postgres")]
pub fn publish() {
    if let Some(handles) = handles::handles() {
        handles.publish();
    }
}

/// A breaker begins. The transitions that happen by themselves are shown at zero, so that the first one is seen.
pub(crate) fn breaker_starts(circuit: Cow<'static, str>, level: f64) {
    for to in ["closed", "half-open", "open"] {
        transitions(circuit.clone(), to).increment(0);
    }
    breaker_state(circuit, level);
}

/// `level` is 0 closed, 1 half-open, 2 open.
pub(crate) fn breaker_state(circuit: Cow<'static, str>, level: f64) {
    metrics::gauge!("ridethrough_breaker_state", "circuit" => circuit).set(level);
}

pub(crate) fn breaker_transition(circuit: Cow<'static, str>, to: &'static str) {
    transitions(circuit, to).increment(1);
}

fn transitions(circuit: Cow<'static, str>, to: &'static str) -> metrics::Counter {
    metrics::counter!("ridethrough_breaker_transitions_total", "circuit" => circuit, "to" => to)
}

pub(crate) fn journal_append(took: Duration) {
    metrics::histogram!("ridethrough_journal_append_seconds").record(took.as_secs_f64());
}

pub(crate) fn journal_refused(reason: &'static str) {
    metrics::counter!("ridethrough_journal_refused_total", "reason" => reason).increment(1);
}

pub(crate) fn mode(mode: &'static str, is_now: bool) {
    metrics::gauge!("ridethrough_mode", "mode" => mode).set(if is_now { 1.0 } else { 0.0 });
}

#[cfg(feature = "service")]
pub(crate) fn ready(is_ready: bool) {
    metrics::gauge!("ridethrough_ready").set(if is_ready { 1.0 } else { 0.0 });
}

#[cfg(feature = "service")]
pub(crate) fn build_info(version: &'static str, revision: Option<&'static str>) {
    let mut labels = vec![metrics::Label::from_static_parts("version", version)];
    labels.extend(revision.map(|revision| metrics::Label::from_static_parts("revision", revision)));
    metrics::gauge!("ridethrough_build_info", labels).set(1.0);
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::{error::ErrorClass, mode::Mode};

    fn values(name: &str, label: &str) -> &'static [&'static str] {
        let metric = CATALOGUE.iter().find(|metric| metric.name == name).unwrap();
        let label = metric.labels.iter().find(|candidate| candidate.name == label).unwrap();
        let Values::OneOf(values) = label.values else { panic!("{label:?} has no list") };
        values
    }

    #[test]
    fn the_words_of_the_list_are_those_of_the_code() {
        assert_eq!(values("ridethrough_mode", "mode"), Mode::ALL.map(Mode::as_str));
        let classes = [
            ErrorClass::Transient,
            ErrorClass::Unknown,
            ErrorClass::Permanent,
            ErrorClass::Overload,
            ErrorClass::Contention,
            ErrorClass::Failover,
            ErrorClass::Heal,
        ];
        assert_eq!(values("ridethrough_db_calls_total", "class")[1..], classes.map(ErrorClass::as_str));
    }

    #[test]
    fn what_is_known_beforehand_is_there_at_zero_and_nothing_else() {
        const METRICS: &[Metric] = &[
            Metric::counter("plain_total", "."),
            Metric::counter("listed_total", ".")
                .by(&[Label::one_of("a", &["1", "2"]), Label::one_of("b", &["x"])]),
            Metric::counter("named_total", ".").by(&[Label::one_of("a", &["1"]), Label::named("b", "names")]),
            Metric::gauge("level", "."),
            Metric::histogram("took_seconds", "."),
        ];
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            start_at_zero(METRICS);
            metrics::counter!("plain_total").increment(2);
            start_at_zero(METRICS);
        });
        let text = recorder.handle().render();
        for line in [
            "plain_total 2",
            "listed_total{a=\"1\",b=\"x\"} 0",
            "listed_total{a=\"2\",b=\"x\"} 0",
            "took_seconds_count 0",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
        }
        for never in ["named_total", "level"] {
            assert!(!text.contains(never), "{never} is in\n{text}");
        }
    }
}
