//! `swarm`: many runs by chance or pair by pair, of which only those are kept that somebody has to look into. What the
//! schedules are is in `swarm.rs`; one run is in `experiments`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use crate::cli::ended::{line, worst_of};
use crate::cli::experiments::{one, or_failed};
use crate::cli::flags::{Of, Parts};
use crate::cli::prepare::scheduled;
use crate::cli::print;
use crate::cli::room::Room;
use crate::config::Config;
use crate::error::Error;
use crate::schedule::Schedule;
use crate::swarm::{self, pairs};
use crate::verdict::Outcome;

/// How many runs where nothing else is said.
const RUNS: u64 = 20;

/// Flags of `swarm`.
#[derive(Debug, Args)]
pub(super) struct Swarm {
    /// How many seeds, or pairs [default: 20].
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// The first seed [default: random, printed] [key: run.seed].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Two faults at once, pair by pair, in an order by the first seed; `--seeds 0` is all there are.
    #[arg(long)]
    pairs: bool,
    /// No new one after so many minutes.
    #[arg(long, value_name = "M")]
    minutes: Option<u64>,
    /// Where runs that did not hold are kept [default: target/swarm].
    #[arg(long, value_name = "DIR", default_value = "target/swarm")]
    out: PathBuf,
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    parts: Parts,
}

/// Runs them and gives the exit code.
pub(super) async fn run(flags: Swarm, mut config: Config) -> Result<u8, Error> {
    let Swarm { seeds, seed, pairs, minutes, out, of, parts } = flags;
    of.put_over(&mut config.run);
    parts.put_over(&mut config.stack);
    let first = seed.or(config.run.seed).unwrap_or_else(|| u64::from(fastrand::u32(..)));
    let runs = usize::try_from(seeds.unwrap_or(RUNS)).unwrap_or(usize::MAX);
    let limit = minutes.map(|minutes| Duration::from_secs(minutes.saturating_mul(60)));
    let schedules = if pairs { of_pairs(first, runs)? } else { by_chance(first, runs)? };
    let room = Room::enter_for(&schedules).await;
    let began = Instant::now();
    let mut codes = Vec::new();
    let (count_all, what) = (schedules.len(), if pairs { "pairs" } else { "seeds" });
    for schedule in schedules {
        if limit.is_some_and(|limit| began.elapsed() >= limit) {
            break;
        }
        let folder = out.join(if pairs { schedule.scenario.clone() } else { schedule.seed.to_string() });
        let experiment = scheduled(schedule, &config, folder.clone())?;
        let ended = or_failed(&experiment, one(&experiment, &room, false).await);
        codes.push(ended.code());
        let told = line(&experiment.schedule.scenario, &ended);
        print(&format!("{told}      {}\n", swarm::words(&experiment.schedule)));
        if ended.outcome() == Outcome::Held || ended.code().is_none() {
            // Only what somebody has to look into is worth its room.
            let _ = std::fs::remove_dir_all(&folder);
        } else {
            print(&format!("      again: ridethrough-chaos replay {}\n", folder.display()));
        }
        if ended.is_interrupted() {
            break;
        }
    }
    let count = |code: Option<u8>| codes.iter().filter(|one| **one == code).count();
    print(&format!(
        "{} of {count_all} {what} from seed {first} in {} s: {} held, {} violated, {} inconclusive, {} where the harness failed, {} skipped\n",
        codes.len(),
        began.elapsed().as_secs(),
        count(Some(0)),
        count(Some(1)),
        count(Some(2)),
        count(Some(3)),
        count(None),
    ));
    Ok(worst_of(&codes))
}

fn by_chance(first: u64, runs: usize) -> Result<Vec<Schedule>, Error> {
    (first..).take(runs).map(swarm::schedule).collect()
}

/// As many pairs; all where it is none.
fn of_pairs(first: u64, runs: usize) -> Result<Vec<Schedule>, Error> {
    let runs = if runs == 0 { usize::MAX } else { runs };
    pairs::shuffled(first)
        .into_iter()
        .zip(first..)
        .take(runs)
        .map(|(pair, seed)| pairs::schedule(pair, seed))
        .collect()
}
