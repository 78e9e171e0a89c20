//! What the system knows about this process, under the names that every exporter uses. It is read from `/proc` when
//! somebody asks; what cannot be read is left out.
//!
//! It stands beside the recorder, whose counters are whole numbers: times of a processor are not.

use std::{fmt::Write as _, fs};

use crate::metrics::{Metric, PROCESS};

/// Places in `/proc/self/stat`, counted from the state, which follows the name of the program.
const USER_TICKS: usize = 11;
const SYSTEM_TICKS: usize = 12;
const START_TICKS: usize = 19;
const RESIDENT_PAGES: usize = 21;

/// What was read.
struct Sources {
    stat: String,
    system: String,
    limits: String,
    open_files: Option<usize>,
    ticks_per_second: f64,
    page_bytes: f64,
}

/// The metrics of the process in the text format of Prometheus.
pub(super) fn render() -> String {
    let sources = Sources::read();
    let mut text = String::new();
    for Metric { name, kind, help, .. } in PROCESS {
        let kind = kind.as_str();
        if let Some(value) = sources.value(name) {
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n\n");
        }
    }
    text
}

impl Sources {
    fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            stat: text("/proc/self/stat"),
            system: text("/proc/stat"),
            limits: text("/proc/self/limits"),
            // One of them is the folder that is being read.
            open_files: fs::read_dir("/proc/self/fd").ok().map(|files| files.count().saturating_sub(1)),
            ticks_per_second: rustix::param::clock_ticks_per_second() as f64,
            page_bytes: rustix::param::page_size() as f64,
        }
    }

    fn value(&self, name: &str) -> Option<f64> {
        match name {
            "process_cpu_seconds_total" => {
                Some((self.number(USER_TICKS)? + self.number(SYSTEM_TICKS)?) / self.ticks_per_second)
            }
            "process_resident_memory_bytes" => Some(self.number(RESIDENT_PAGES)? * self.page_bytes),
            "process_open_fds" => self.open_files.map(|files| files as f64),
            "process_max_fds" => {
                let line = self.limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
                line.split_ascii_whitespace().next()?.parse().ok()
            }
            "process_start_time_seconds" => {
                let booted = self.system.lines().find_map(|line| line.strip_prefix("btime "))?;
                Some(booted.trim().parse::<f64>().ok()? + self.number(START_TICKS)? / self.ticks_per_second)
            }
            _ => None,
        }
    }

    /// A number of `/proc/self/stat`. The name of the program stands before it in brackets and may hold anything.
    fn number(&self, place: usize) -> Option<f64> {
        let (_, fields) = self.stat.rsplit_once(')')?;
        fields.split_ascii_whitespace().nth(place)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(limit: &str) -> Sources {
        Sources {
            stat: "42 (a ) b (c) S 1 42 42 0 -1 4194560 900 0 0 0 250 50 7 8 20 0 9 0 12345 800000000 2048 \
                   18446744073709551615 1 1 0 0 0 0 0 4096 0 0 0 0 17 1 0 0 0 0 0\n"
                .to_owned(),
            system: "cpu 1 2 3\nintr 5\nbtime 1700000000\nprocesses 9\n".to_owned(),
            limits: format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max open files            {limit}                 524288               files     \n"
            ),
            open_files: Some(12),
            ticks_per_second: 100.0,
            page_bytes: 4096.0,
        }
    }

    #[test]
    fn a_program_with_brackets_in_its_name_is_read_rightly() {
        let sources = sources("1024");
        let values: Vec<Option<f64>> = PROCESS.iter().map(|metric| sources.value(metric.name)).collect();
        let expected = [3.0, 2048.0 * 4096.0, 12.0, 1024.0, 1_700_000_123.45];
        assert_eq!(values, expected.map(Some));
    }

    #[test]
    fn what_has_no_limit_or_cannot_be_read_is_left_out() {
        assert_eq!(sources("unlimited").value("process_max_fds"), None);
        let nothing = Sources {
            stat: String::new(),
            system: String::new(),
            limits: String::new(),
            open_files: None,
            ..sources("")
        };
        assert!(PROCESS.iter().all(|metric| nothing.value(metric.name).is_none()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_told_with_help_and_type() {
        let text = render();
        for Metric { name, .. } in PROCESS.iter().filter(|metric| metric.name != "process_max_fds") {
            let value = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
            assert!(value.is_some_and(|value| value.parse::<f64>().unwrap() >= 0.0), "{name}: {text}");
            assert!(text.contains(&format!("# HELP {name} ")) && text.contains(&format!("# TYPE {name} ")));
        }
    }
}
