//! Flags that more than one command has, and how they win over the configuration. What they mean is told elsewhere.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::config::{self, RunSection, StackSection, UpSection};

/// What the stack is made of.
#[derive(Debug, Args)]
pub(super) struct Parts {
    /// The folder with PostgreSQL's `postgres` and `initdb` [key: stack.pg_bin] [env: RIDETHROUGH_PG_BIN].
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    /// The folder with ridethrough-server and ridethrough-proxy [default: beside this program]
    /// [key: stack.bin_dir].
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Another server binary [key: stack.server_bin].
    #[arg(long, value_name = "PATH")]
    server_bin: Option<PathBuf>,
    /// Added to the environment of each server; repeatable; replaces the whole list of the key
    /// [key: stack.server_env].
    #[arg(long, value_name = "KEY=VALUE", value_parser = config::key_value)]
    server_env: Vec<(String, String)>,
}

impl Parts {
    pub(super) fn put_over(self, section: &mut StackSection) {
        put(self.pg_bin, &mut section.pg_bin);
        put(self.bin_dir, &mut section.bin_dir);
        put(self.server_bin, &mut section.server_bin);
        if !self.server_env.is_empty() {
            section.server_env = self.server_env;
        }
    }
}

/// Whose service a run is of.
#[derive(Debug, Args)]
pub(super) struct Of {
    /// A file that describes somebody else's service to run against [default: our own] [key: run.target].
    #[arg(long, value_name = "FILE")]
    target: Option<PathBuf>,
}

impl Of {
    pub(super) fn put_over(self, section: &mut RunSection) {
        put(self.target, &mut section.target);
    }
}

/// The traffic of a run.
#[derive(Debug, Args)]
pub(super) struct Load {
    /// Fixes traffic and faults [default: random, printed] [key: run.seed].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Seconds of traffic, or text with a unit such as 90s or 2m: 6 s to 1 h [default: 8, of demo 18]; the
    /// outage takes 8 of 18 parts [key: run.duration, always with its unit].
    #[arg(long, value_name = "S", value_parser = seconds)]
    duration: Option<Duration>,
    /// Requests per second [default: 150] [key: run.rate].
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
}

impl Load {
    pub(super) fn put_over(self, section: &mut RunSection) {
        put(self.seed, &mut section.seed);
        put(self.duration, &mut section.duration);
        put(self.rate, &mut section.rate);
    }
}

/// Which running `up` is meant.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// The proxy's address; needed only where more than one runs [key: up.listen].
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

impl Which {
    /// The flag, else the configured address; port 0 there names no running one.
    pub(super) fn address(&self, section: &UpSection) -> Option<SocketAddr> {
        self.listen.or(section.listen.filter(|listen| listen.port() != 0))
    }
}

fn put<T>(flag: Option<T>, value: &mut Option<T>) {
    if flag.is_some() {
        *value = flag;
    }
}

/// A bare number means seconds on the command line, as the name of the value says.
fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).or_else(|_| config::duration(text))
}

/// A duration as `--duration` takes it back.
pub(super) fn as_flag(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        duration.as_secs().to_string()
    } else {
        format!("{}ms", duration.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_taken_back_as_it_is_written() {
        for text in ["18", "6500ms"] {
            assert_eq!(as_flag(seconds(text).unwrap()), text);
        }
        assert_eq!(seconds("2m"), Ok(Duration::from_secs(120)));
        assert!(seconds("soon").is_err());
    }

    #[test]
    fn flags_win_and_what_no_flag_says_stays() {
        let mut section = RunSection { seed: Some(1), rate: Some(2), ..RunSection::default() };
        Load { seed: None, duration: Some(Duration::from_secs(8)), rate: Some(3) }.put_over(&mut section);
        assert_eq!((section.seed, section.rate), (Some(1), Some(3)));
        assert_eq!(section.duration, Some(Duration::from_secs(8)));

        let pair = |key: &str| vec![(key.to_owned(), String::new())];
        let mut section = StackSection { server_env: pair("FILE"), ..StackSection::default() };
        let flags =
            |server_env| Parts { pg_bin: None, bin_dir: Some("b".into()), server_bin: None, server_env };
        flags(Vec::new()).put_over(&mut section);
        assert_eq!((section.server_env.clone(), section.bin_dir.clone()), (pair("FILE"), Some("b".into())));
        flags(pair("FLAG")).put_over(&mut section);
        assert_eq!(section.server_env, pair("FLAG"));
    }

    #[test]
    fn a_configured_free_port_names_no_running_stack() {
        let section = |port| UpSection { listen: Some(([127, 0, 0, 1], port).into()) };
        let flag = Some(([127, 0, 0, 1], 7).into());
        assert_eq!(Which { listen: None }.address(&section(0)), None);
        assert_eq!(Which { listen: None }.address(&section(9)), section(9).listen);
        assert_eq!(Which { listen: flag }.address(&section(9)), flag);
    }
}
