//! The log on standard error: its form, and which lines are written, which can be changed while the process runs.
//!
//! What is logged is decided where it happens. The lines of other crates are written at no level: a driver may quote
//! statements, values and addresses.

mod filter;

use std::{
    fmt,
    io::IsTerminal as _,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    fmt::{MakeWriter, format::FmtSpan},
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

pub use self::filter::FilterError;

/// A layer beside the log, such as an exporter of traces. It brings a filter of its own.
pub type LogLayer = Box<dyn Layer<Registry> + Send + Sync>;

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

/// Which lines are written, to be changed while the process runs. Clones change the same log.
#[derive(Clone)]
pub struct LogLevels(Arc<Inner>);

struct Inner {
    handle: reload::Handle<Targets, Registry>,
    speakers: &'static [&'static str],
    /// As it was given.
    filter: Mutex<String>,
}

impl LogLevels {
    /// The longest filter in bytes.
    pub const FILTER_BYTES_MAX: usize = filter::BYTES_MAX;

    /// Checks a filter without using it: a level, or targets with levels, such as `info,ridethrough::db=debug`, of the
    /// library and of `speakers`. What it does not name is at `info`.
    ///
    /// # Errors
    /// [`FilterError`] with the piece that is wrong.
    pub fn check(filter: &str, speakers: &[&str]) -> Result<(), FilterError> {
        filter::parse(filter, speakers).map(|_| ())
    }

    /// The filter in force.
    #[must_use]
    pub fn filter(&self) -> String {
        self.0.filter.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another filter in force, and says so in the log. One that cannot be read changes nothing, which is said too.
    ///
    /// # Errors
    /// [`FilterError`] with the piece that is wrong.
    pub fn reload(&self, filter: &str) -> Result<(), FilterError> {
        let targets = match filter::parse(filter, self.0.speakers) {
            Ok(targets) => targets,
            Err(error) => {
                tracing::warn!(%error, "the log filter cannot be used; the last one stays");
                return Err(error);
            }
        };
        let before = {
            let mut current = self.0.filter.lock().unwrap_or_else(PoisonError::into_inner);
            // It fails only once the log is gone, and then nobody misses a line.
            let _ = self.0.handle.reload(targets);
            std::mem::replace(&mut *current, filter.to_owned())
        };
        if before != filter {
            tracing::info!(before, filter, "the log filter was changed");
        }
        Ok(())
    }
}

impl fmt::Debug for LogLevels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogLevels").field("filter", &self.filter()).finish_non_exhaustive()
    }
}

/// Installs the log for the whole process. `filter` is as [`LogLevels::check`] takes it; `speakers` are the crates, beside
/// this library, whose lines may be written.
///
/// # Errors
/// Where `filter` cannot be used.
///
/// # Panics
/// Where a log was installed before.
pub fn install_tracing(
    format: LogFormat,
    filter: &str,
    speakers: &'static [&'static str],
) -> Result<LogLevels, FilterError> {
    install_tracing_beside(format, filter, speakers, Vec::new())
}

/// As [`install_tracing`], with other layers that see the same spans and lines, each through a filter of its own.
///
/// # Errors
/// Where `filter` cannot be used.
///
/// # Panics
/// Where a log was installed before.
pub fn install_tracing_beside(
    format: LogFormat,
    filter: &str,
    speakers: &'static [&'static str],
    mut others: Vec<LogLayer>,
) -> Result<LogLevels, FilterError> {
    let colours = std::io::stderr().is_terminal();
    let (log, levels) = log(format, filter, speakers, std::io::stderr, colours)?;
    others.push(log);
    tracing_subscriber::registry().with(others).init();
    Ok(levels)
}

fn log<W>(
    format: LogFormat,
    filter: &str,
    speakers: &'static [&'static str],
    writer: W,
    colours: bool,
) -> Result<(LogLayer, LogLevels), FilterError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (targets, handle) = reload::Layer::new(filter::parse(filter, speakers)?);
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_span_events(FmtSpan::NONE);
    let layer = match format {
        // The list of spans holds the current one.
        LogFormat::Json => {
            layer.json().flatten_event(true).with_current_span(false).with_filter(targets).boxed()
        }
        LogFormat::Text => layer.with_ansi(colours).with_filter(targets).boxed(),
    };
    Ok((layer, LogLevels(Arc::new(Inner { handle, speakers, filter: Mutex::new(filter.to_owned()) }))))
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use super::*;

    const SPEAKERS: &[&str] = &["service"];

    /// What was written.
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sink {
        fn taken(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    fn with_log(format: LogFormat, filter: &str, check: impl FnOnce(&LogLevels, &Sink)) {
        let sink = Sink::default();
        let writer = {
            let sink = sink.clone();
            move || sink.clone()
        };
        let (layer, levels) = log(format, filter, SPEAKERS, writer, false).unwrap();
        let subscriber = tracing_subscriber::registry().with(vec![layer]);
        tracing::subscriber::with_default(subscriber, || check(&levels, &sink));
    }

    fn say() {
        tracing::debug!(target: "service::inner", "in detail");
        tracing::error!(target: "tokio_postgres::query", "executing canary");
    }

    #[test]
    fn the_filter_changes_while_the_process_runs_and_a_wrong_one_changes_nothing() {
        with_log(LogFormat::Text, "info", |levels, sink| {
            say();
            assert_eq!(sink.taken(), "");
            levels.reload("info,service=debug").unwrap();
            assert!(sink.taken().contains("the log filter was changed"));
            say();
            let said = sink.taken();
            assert!(said.contains("in detail") && !said.contains("canary"), "{said}");
            assert!(levels.reload("service=loud").is_err());
            assert!(sink.taken().contains("the last one stays"));
            say();
            assert!(sink.taken().contains("in detail"));
            assert_eq!(levels.filter(), "info,service=debug");
            levels.reload("warn").unwrap();
            say();
            assert_eq!(sink.taken(), "");
        });
    }

    #[test]
    fn a_line_in_json_holds_what_its_spans_say_once() {
        with_log(LogFormat::Json, "info", |_, sink| {
            let span = tracing::info_span!(target: "service", "request", request_id = "r-1");
            span.in_scope(|| tracing::info!(target: "service", "inside"));
            let line = sink.taken();
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(line["message"], "inside");
            assert_eq!(line["spans"][0]["request_id"], "r-1");
            assert_eq!(line.get("span"), None);
        });
    }
}
