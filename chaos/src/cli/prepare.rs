//! What is run, put together from scenario or schedule, configuration and target. It runs nothing (`experiments`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cli::{flags, stack_options};
use crate::config::Config;
use crate::error::Error;
use crate::run::Experiment;
use crate::scenario::Scenario;
use crate::schedule::Schedule;
use crate::target::Target;

/// A scenario as experiment; `command` is what makes it again, without its flags.
///
/// # Errors
/// [`Error`] where load, scenario or target make no run.
pub(super) fn experiment(
    scenario: &Scenario,
    config: &Config,
    duration: Option<Duration>,
    out: PathBuf,
    command: &str,
) -> Result<Experiment, Error> {
    // Small enough to be read out and typed in again.
    let seed = config.run.seed.unwrap_or_else(|| u64::from(fastrand::u32(..)));
    let mut rerun = format!("ridethrough-chaos {command} --seed {seed}");
    if let Some(duration) = config.run.duration {
        rerun += &format!(" --duration {}", flags::as_flag(duration));
    }
    if let Some(rate) = config.run.rate {
        rerun += &format!(" --rate {rate}");
    }
    if let Some(file) = &config.run.target {
        rerun += &format!(" --target {}", file.display());
    }
    let schedule = scenario.schedule(seed, duration, config.run.rate)?;
    Ok(Experiment { rerun, ..scheduled(schedule, config, out)? })
}

/// A schedule as experiment, on the target that is configured, or on the one it was made for.
///
/// # Errors
/// [`Error`] where the target cannot be read.
pub(super) fn scheduled(mut schedule: Schedule, config: &Config, out: PathBuf) -> Result<Experiment, Error> {
    let rerun = format!("ridethrough-chaos replay {}", out.display());
    let mut stack = stack_options(&config.stack);
    // The one of an earlier run, unless another is named.
    if let Some(file) = config.run.target.clone().or(schedule.target.take()) {
        let target = Target::read(&file)?;
        target.adapt(&mut schedule)?;
        schedule.target = std::path::absolute(&file).ok();
        stack.target = Some(Arc::new(target));
    }
    Ok(Experiment { schedule, stack, out, rerun, toothless: toothless() })
}

/// For the test of the harness itself: faults without their effect must never be called held.
fn toothless() -> bool {
    std::env::var_os("RIDETHROUGH_CHAOS_TOOTHLESS").is_some_and(|value| value == "1")
}
