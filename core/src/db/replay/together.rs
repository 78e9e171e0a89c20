//! Several journaled commands in one transaction, so that one COMMIT carries them all: known keys are recognised, each
//! ordering key's commands follow each other in waves, and within a wave those of one name are applied at once.
//!
//! It neither retries nor reads the journal; it answers what happened to this attempt.

use std::{collections::HashMap, time::Duration};

use tokio::time::timeout_at;
use tokio_postgres::Error as DriverError;

use crate::{
    cache::Tags,
    db::{
        begin::Kind,
        command::{Applied, ApplyError, Command, Commands, Refusal, Settled},
        keys::{self, Known},
        pool::Loan,
        statements::Statements,
        transaction::{self, COMMIT, Failed, Ground, Progress, Stopped},
    },
    error::Phase,
    sabotage::{self, Bug, Step},
};

/// The reason where nobody can tell any more whether it was applied.
pub(super) const OLDER_THAN_RETENTION: &str = "older-than-retention";
/// The reason where it waited for longer than the journal's policy lets it.
pub(super) const TOO_OLD: &str = "too-old";

/// An entry of the journal, as a command.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) sequence: u64,
    pub(super) command: Command,
    /// An operator gave it back after it was rejected.
    pub(super) retried: bool,
    /// Why it is not to be applied any more, unless its key says that it was: it is too old, and no operator vouches for it.
    pub(super) too_old: Option<&'static str>,
}

/// How one of them ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// Its key is settled.
    Settled {
        settled: Settled,
        /// It had been before, at a time that nobody here knows.
        before: bool,
    },
    /// The key was used for another request.
    KeyReused,
}

/// Why they did not end together; nothing of this attempt counts, unless its COMMIT was lost.
#[derive(Debug)]
pub(super) enum Apart {
    Failed(Failed),
    /// The service refused one of them after it may have done a part of it.
    Refused,
    /// Somebody else took one of the keys meanwhile.
    Raced,
}

impl From<DriverError> for Stop {
    fn from(error: DriverError) -> Self {
        Self::Stopped(error.into())
    }
}

impl From<Stopped> for Stop {
    fn from(stopped: Stopped) -> Self {
        Self::Stopped(stopped)
    }
}

/// What ends the steps early.
enum Stop {
    Stopped(Stopped),
    Apart(Apart),
}

/// One attempt at all of them, in order for each ordering key. What they come to is also left in `endings`, since the
/// answer to COMMIT can be lost.
///
/// # Cancel safety
/// A dropped attempt destroys its connection: the server rolls back, unless COMMIT was on its way already.
pub(super) async fn attempt(
    loan: Loan,
    commands: &dyn Commands,
    items: &[Item],
    ground: Ground<'_>,
    progress: &mut Progress,
    endings: &mut Vec<Ending>,
) -> Result<(), Apart> {
    let steps = async {
        let statements = loan.statements();
        progress.mark = ground.begin(&loan, Kind::default()).await?;
        ground.hold_claim(&statements).await?;
        let mut all = Together { loan: &loan, commands, items, ended: vec![None; items.len()] };
        all.run(&statements).await?;
        *endings = all.ended.into_iter().flatten().collect();
        progress.phase = Phase::CommitSent;
        // Each payload is read for it.
        let told = if ground.telling.is_on() { items } else { &[] };
        let changed: Vec<Tags> = told.iter().map(|item| commands.tags(&item.command)).collect();
        Ok::<_, Stop>(transaction::commit(&loan, &ground.telling.commit(COMMIT, &changed)).await?)
    };
    match timeout_at(ground.time.deadline.instant(), steps).await {
        Ok(Ok(())) => {
            transaction::answered(loan);
            Ok(())
        }
        Ok(Err(Stop::Stopped(stopped))) => {
            Err(Apart::Failed(transaction::failed(loan, stopped, progress.phase, ground.time).await))
        }
        Ok(Err(Stop::Apart(apart))) => {
            roll_back(loan).await;
            Err(apart)
        }
        Err(_) => Err(Apart::Failed(transaction::expired(loan, progress.phase, ground.time))),
    }
}

/// Where it does not come through, the loan is dropped with its connection.
async fn roll_back(loan: Loan) {
    const LIMIT: Duration = Duration::from_millis(500);
    if matches!(tokio::time::timeout(LIMIT, loan.batch_execute("ROLLBACK")).await, Ok(Ok(()))) {
        transaction::answered(loan);
    }
}

/// The steps, and how far they came.
struct Together<'t> {
    loan: &'t Loan,
    commands: &'t dyn Commands,
    items: &'t [Item],
    ended: Vec<Option<Ending>>,
}

impl<'t> Together<'t> {
    async fn run(&mut self, statements: &Statements<'_>) -> Result<(), Stop> {
        let retried: Vec<&Command> =
            self.items.iter().filter(|item| item.retried).map(|item| &item.command).collect();
        if !retried.is_empty() {
            keys::forget_rejected(statements, &retried).await?;
        }
        self.recognise(statements).await?;
        let mut waves = self.waves();
        if sabotage::planted(Bug::OrderSwapped) {
            waves.reverse();
        }
        for wave in waves {
            let (at_once, one_by_one): (Vec<Group>, Vec<Group>) =
                wave.into_iter().partition(|group| group.at_once);
            for group in at_once {
                self.settle_at_once(statements, &group.members).await?;
            }
            // The last of a wave: each of them claims its key first, so that whatever a command does to the transaction,
            // no effect stands without its key.
            for index in one_by_one.into_iter().flat_map(|group| group.members) {
                self.settle_one(statements, index).await?;
            }
        }
        Ok(())
    }

    /// Finds those whose keys are settled already, and those that are too old to find out.
    async fn recognise(&mut self, statements: &Statements<'_>) -> Result<(), DriverError> {
        let asked = |item: &&Item| item.too_old.is_some() || self.applies_at_once(item);
        let keys: Vec<&str> = self.items.iter().filter(asked).map(|item| item.command.key.as_str()).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let known = keys::look_up_many(statements, &keys).await?;
        for (item, ended) in self.items.iter().zip(&mut self.ended) {
            *ended = known.get(&item.command.key).map(|known| recognised(known, &item.command));
        }
        Ok(())
    }

    fn applies_at_once(&self, item: &Item) -> bool {
        !sabotage::planted(Bug::NoIdempotency) && self.commands.applies_many(&item.command.name)
    }

    /// What is left to do, in groups that can be applied in any order within a wave.
    fn waves(&self) -> Vec<Vec<Group<'t>>> {
        let mut depths: HashMap<&str, usize> = HashMap::new();
        let mut waves: Vec<Vec<Group>> = Vec::new();
        for (index, item) in self.items.iter().enumerate() {
            if self.ended.get(index).is_none_or(Option::is_some) {
                continue;
            }
            let depth = depths.entry(&item.command.ordering_key).or_default();
            if waves.len() <= *depth {
                waves.push(Vec::new());
            }
            let Some(wave) = waves.get_mut(*depth) else { continue };
            *depth += 1;
            let name = item.command.name.as_str();
            let at_once = item.too_old.is_some() || self.applies_at_once(item);
            match wave.iter_mut().find(|group| group.name == name && group.at_once == at_once) {
                Some(group) => group.members.push(index),
                None => wave.push(Group { name, at_once, members: vec![index] }),
            }
        }
        waves
    }

    /// Applies commands of one name, and records at once what became of them.
    async fn settle_at_once(&mut self, statements: &Statements<'_>, members: &[usize]) -> Result<(), Stop> {
        let items = || members.iter().filter_map(|index| self.items.get(*index));
        let commands: Vec<&Command> =
            items().filter(|item| item.too_old.is_none()).map(|item| &item.command).collect();
        if sabotage::planted(Bug::ReplayTwice) && !commands.is_empty() {
            self.commands.apply_many(statements, &commands).await.map_err(refused)?;
        }
        let applied = if commands.is_empty() {
            Vec::new()
        } else {
            self.commands.apply_many(statements, &commands).await.map_err(refused)?
        };
        if self.loan.is_outside_of_transaction() {
            return Err(Stopped::EndedByItself.into());
        }
        if applied.len() != commands.len() {
            return Err(Stop::Apart(Apart::Refused));
        }
        let mut applied = applied.into_iter();
        let ended: Vec<(&Command, Settled)> = items()
            .filter_map(|item| {
                let answer = match item.too_old {
                    Some(reason) => Err(Refusal::new(reason)),
                    None => applied.next()?,
                };
                Some((&item.command, answer.map_or_else(Settled::Refused, Applied::into)))
            })
            .collect();
        sabotage::reached(Step::BeforeClaim);
        if keys::record_many(statements, &ended).await? != ended.len() as u64 {
            return Err(Stop::Apart(Apart::Raced));
        }
        sabotage::reached(Step::AfterClaim);
        let endings = ended.into_iter().map(|(_, settled)| Ending::Settled { settled, before: false });
        for (index, ending) in members.iter().zip(endings.collect::<Vec<_>>()) {
            self.end(*index, ending);
        }
        Ok(())
    }

    /// One command after the other, for services that say nothing of many at once.
    async fn settle_one(&mut self, statements: &Statements<'_>, index: usize) -> Result<(), Stop> {
        let Some(Item { command, .. }) = self.items.get(index) else { return Ok(()) };
        if !keys::claim(statements, command).await? {
            let known = keys::look_up(statements, &command.key).await?.ok_or(Stop::Apart(Apart::Raced))?;
            self.end(index, recognised(&known, command));
            return Ok(());
        }
        let applied = self.commands.apply(statements, command, true).await.map_err(refused)?;
        if self.loan.is_outside_of_transaction()
            || !keys::keep_answer(statements, &command.key, &applied).await?
        {
            return Err(Stopped::EndedByItself.into());
        }
        self.end(index, Ending::Settled { settled: applied.into(), before: false });
        Ok(())
    }

    fn end(&mut self, index: usize, ending: Ending) {
        if let Some(ended) = self.ended.get_mut(index) {
            *ended = Some(ending);
        }
    }
}

/// Commands of one name in one wave: no two of them have the same ordering key.
struct Group<'t> {
    name: &'t str,
    at_once: bool,
    members: Vec<usize>,
}

fn refused(error: ApplyError) -> Stop {
    match error {
        ApplyError::Refused(_) => Stop::Apart(Apart::Refused),
        ApplyError::Database(error) => error.into(),
    }
}

fn recognised(known: &Known, command: &Command) -> Ending {
    if known.is_same_request(command) {
        Ending::Settled { settled: known.settled(), before: true }
    } else {
        Ending::KeyReused
    }
}
