//! The sub-command `self-test`: runs each planted bug and its control, and tells which invariant found it. What is planted
//! and what is expected is in `sabotage.rs`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::ended::{Ended, worst};
use crate::cli::experiments::{broken, one, or_failed};
use crate::cli::flags::Parts;
use crate::cli::prepare::scheduled;
use crate::cli::room::Room;
use crate::cli::{eprint, print, stack_options};
use crate::config::Config;
use crate::error::Error;
use crate::history::{self, Event, Limits, Recorder, Sabotage};
use crate::run;
use crate::sabotage::{BUGS, Planted, Trial};
use crate::schedule::Schedule;
use crate::stack;
use crate::verdict::{Outcome, State};

/// A run that a busy machine made inconclusive is done once more.
const TRIES: u64 = 2;

#[derive(Debug, Args)]
pub(super) struct SelfTest {
    /// Names of bugs [default: all].
    bugs: Vec<String>,
    /// Leaves out the runs without a bug, which must hold.
    #[arg(long)]
    no_control: bool,
    /// Fixes traffic and faults [default: random, printed] [key: run.seed].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Where the runs go, each in a folder of its name.
    #[arg(long, value_name = "DIR", default_value = "target/self-test")]
    out: PathBuf,
    #[command(flatten)]
    parts: Parts,
}

/// What became of one run, for the table.
struct Row {
    /// The word in front.
    word: &'static str,
    bug: &'static str,
    trial: &'static str,
    expected: &'static [&'static str],
    broken: Vec<String>,
    code: u8,
}

impl Row {
    fn line(&self) -> String {
        let Self { word, bug, trial, expected, broken, .. } = self;
        let expected = if expected.is_empty() { "held".to_owned() } else { expected.join(" or ") };
        let broken = if broken.is_empty() { "nothing".to_owned() } else { broken.join(", ") };
        format!("{word:<8} {bug:<24} {trial:<14} {expected:<10} {broken}\n")
    }
}

/// Runs the test, prints the table, and gives the exit code: 0 where every bug was caught and every control held.
pub(super) async fn run(flags: SelfTest, mut config: Config) -> Result<u8, Error> {
    let SelfTest { bugs, no_control, seed, out, parts } = flags;
    parts.put_over(&mut config.stack);
    let bugs: Vec<&'static Planted> = match bugs.as_slice() {
        [] => BUGS.iter().collect(),
        names => names.iter().map(|name| Planted::find(name)).collect::<Result<_, _>>()?,
    };
    config.stack.server_bin = Some(stack::sabotaged(&stack_options(&config.stack))?);
    // Small enough to be read out and typed in again.
    let seed = seed.or(config.run.seed).unwrap_or_else(|| u64::from(fastrand::u32(..)));
    std::fs::create_dir_all(&out).map_err(Error::io(format!("make the folder {}", out.display())))?;
    let test = Test { config, seed, out };
    let mut rows = Vec::new();
    if !no_control {
        let mut trials: Vec<&'static Trial> = Vec::new();
        for bug in &bugs {
            if trials.iter().all(|trial| trial.name != bug.trial.name) {
                trials.push(bug.trial);
            }
        }
        for trial in trials {
            rows.push(test.control(trial).await?);
        }
    }
    for bug in bugs {
        rows.push(test.planted(bug).await?);
    }
    let missed = test.missed(&rows)?;
    let table: String = rows.iter().map(Row::line).collect();
    print(&format!("\n         {:<24} {:<14} {:<10} broken\n{table}", "planted", "run", "expected"));
    let (found, planted) =
        (count(&rows, "caught"), rows.iter().filter(|row| !row.expected.is_empty()).count());
    print(&format!("{found} of {planted} planted bugs were caught (seed {seed}); {missed}\n"));
    Ok(worst(&rows.iter().map(|row| row.code).collect::<Vec<_>>()))
}

fn count(rows: &[Row], word: &str) -> usize {
    rows.iter().filter(|row| row.word == word).count()
}

struct Test {
    config: Config,
    seed: u64,
    out: PathBuf,
}

impl Test {
    /// Without a bug the run must hold, or what it finds with one proves nothing.
    async fn control(&self, trial: &'static Trial) -> Result<Row, Error> {
        let name = format!("{}-control", trial.name);
        let ended = self.ended(&name, trial, |seed| trial.control(seed)).await?;
        let code = ended.outcome().exit_code();
        let word = if code == 0 { "held" } else { "NOT HELD" };
        Ok(Row { word, bug: "(none)", trial: trial.name, expected: &[], broken: all_broken(&ended), code })
    }

    async fn planted(&self, bug: &'static Planted) -> Result<Row, Error> {
        let ended = self.ended(bug.name, bug.trial, |seed| bug.schedule(seed)).await?;
        let broken = all_broken(&ended);
        let is_caught = bug.expected.iter().any(|id| broken.iter().any(|found| found == id));
        let (word, code) = match ended.outcome() {
            Outcome::Violated if is_caught => ("caught", 0),
            Outcome::Violated | Outcome::Held => ("MISSED", 1),
            other => ("unfit", other.exit_code()),
        };
        let Planted { name, trial, expected, .. } = *bug;
        Ok(Row { word, bug: name, trial: trial.name, expected, broken, code })
    }

    async fn ended(
        &self,
        name: &str,
        trial: &Trial,
        schedule: impl Fn(u64) -> Result<Schedule, Error>,
    ) -> Result<Ended, Error> {
        let (mut ended, mut config) = (Ended::Failed, self.config.clone());
        config.run.target = self.target(name, trial)?;
        for again in 0..TRIES {
            let schedule = schedule(self.seed.wrapping_add(again))?;
            eprint(&format!("{name} (seed {})\n", schedule.seed));
            let experiment = scheduled(schedule, &config, self.out.join(name))?;
            ended = or_failed(&experiment, one(&experiment, &Room::default(), false).await);
            if ended.is_interrupted() {
                return Err(Error::state("finish the self-test", "it was interrupted"));
            }
            if let Ended::Judged(verdict) = &ended {
                eprint(&format!("  {}: {}\n", verdict.outcome.word(), verdict.reason));
            }
            if ended.outcome() != Outcome::Inconclusive {
                break;
            }
        }
        Ok(ended)
    }

    /// The file that describes our server, in the folder of the run, where the run needs one: a replay finds it there.
    fn target(&self, name: &str, trial: &Trial) -> Result<Option<PathBuf>, Error> {
        let server = self.config.stack.server_bin.as_deref().unwrap_or(Path::new("ridethrough-server"));
        let Some(text) = trial.target(server) else { return Ok(None) };
        let folder = self.out.join(name);
        let file = folder.join("target.toml");
        let what = || format!("write {}", file.display());
        std::fs::create_dir_all(&folder).map_err(Error::io(what()))?;
        std::fs::write(&file, text).map_err(Error::io(what()))?;
        Ok(Some(file))
    }

    /// Writes down what became of each bug, has the checker judge that as it judges any history, and gives its words.
    fn missed(&self, rows: &[Row]) -> Result<String, Error> {
        let path = self.out.join("history.jsonl");
        write(&path, self.seed, rows).map_err(|error| Error::History {
            what: "write the history of the self-test".to_owned(),
            reason: error.to_string(),
        })?;
        let (_, verdict) = run::check(&path)?;
        let check = verdict.check("X4");
        let state = check.map_or(State::NotMeasured, |check| check.state);
        let word = match state {
            State::Held => "held",
            State::Violated => "violated",
            State::NotMeasured => "not measured",
        };
        Ok(format!("X4 {word}: {}", path.display()))
    }
}

/// The checks that a run broke, fit or not.
fn all_broken(ended: &Ended) -> Vec<String> {
    match ended {
        Ended::Judged(verdict) => broken(verdict),
        Ended::Skipped(_) | Ended::Failed | Ended::Interrupted => Vec::new(),
    }
}

fn write(path: &Path, seed: u64, rows: &[Row]) -> Result<(), history::RecordError> {
    let (recorder, writer) = Recorder::create(path)?;
    let limits = Limits { fault_expected: false, ..Limits::default() };
    let (format, scenario) = (history::FORMAT, "self-test".to_owned());
    recorder.record(Event::Run(Box::new(history::Run {
        format,
        seed,
        scenario,
        limits,
        ..history::Run::default()
    })));
    // Users asked nothing of this history: their requests are in those of the runs.
    recorder.record(Event::Load(history::Load { at_us: 0, until_us: 0, reads: 0, writes: 0 }));
    for row in rows.iter().filter(|row| !row.expected.is_empty()) {
        let expected = row.expected.iter().map(|id| (*id).to_owned()).collect();
        let (bug, at_us, broken) = (row.bug.to_owned(), recorder.now_us(), row.broken.clone());
        recorder.record(Event::Sabotage(Sabotage { bug, at_us, expected, broken }));
    }
    drop(recorder);
    writer.finish().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_checker_says_of_the_bugs_is_what_the_table_says() {
        let folder = tempfile::tempdir().unwrap();
        let row = |broken: &[&str]| Row {
            word: "caught",
            bug: "skip-fsync",
            trial: "power-cut",
            expected: &["W1"],
            broken: broken.iter().map(|id| (*id).to_owned()).collect(),
            code: 0,
        };
        let test = Test { config: Config::default(), seed: 1, out: folder.path().to_owned() };
        assert!(test.missed(&[row(&["E1", "W1"])]).unwrap().starts_with("X4 held"));
        assert!(test.missed(&[row(&["W1"]), row(&["E1"])]).unwrap().starts_with("X4 violated"));
        assert!(test.missed(&[]).unwrap().starts_with("X4 not measured"));
    }
}
