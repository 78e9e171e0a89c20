//! The recorder of the metrics. What is measured is decided where it happens.

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

use crate::metrics;

/// Bounds of the histogram buckets in seconds: from a cache hit to the longest deadline.
const BUCKETS: [f64; 14] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// The revision in version control, where whoever built this said so. Nothing else of the build gets into the program, so
/// that the same source always makes the same one.
const REVISION: Option<&str> = option_env!("RIDETHROUGH_REVISION");

/// Installs the Prometheus recorder for the whole process, describes the library's metrics, and tells the build.
///
/// # Errors
/// Where a recorder is installed already.
pub fn install_metrics() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new().set_buckets(&BUCKETS)?.install_recorder()?;
    metrics::describe();
    metrics::build_info(env!("CARGO_PKG_VERSION"), REVISION.filter(|revision| !revision.is_empty()));
    Ok(handle)
}
