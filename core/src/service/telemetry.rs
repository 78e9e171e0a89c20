//! Logs on standard error and the recorder of the metrics.
//!
//! What is logged is decided where it happens; only form and level are decided here.

use std::{io::IsTerminal as _, str::FromStr};

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, filter::ParseError};

use crate::metrics;

/// deadpool warns of each idle connection that the server closed: a crowd of lines at every restart of the database that
/// say nothing the breaker does not say. A filter of the operator's comes later and wins.
const QUIET: &str = "deadpool.postgres=error";

/// Bounds of the histogram buckets in seconds: from a cache hit to the longest deadline.
const BUCKETS: [f64; 14] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line: for machines.
    Json,
    /// Text, with colours only on a terminal: for people.
    #[default]
    Text,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            other => Err(format!("`{other}` is no log format: choose json or text")),
        }
    }
}

/// Installs the log for the whole process. `filter` is a level, or targets with levels, such as `info,hyper=warn`.
///
/// # Errors
/// Where `filter` cannot be read.
pub fn install_tracing(format: LogFormat, filter: &str) -> Result<(), ParseError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(format!("{QUIET},{filter}"))?)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    Ok(())
}

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
