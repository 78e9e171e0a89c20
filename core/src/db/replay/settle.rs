//! Settles a batch of entries: together where that goes, else in halves, at last one alone, which is then judged.
//!
//! An entry leaves the journal only when its key is settled in the database, or when it is set aside. What cannot be
//! settled now stays where it is; when to try again is the business of `replay`.

use std::{
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tracing::Instrument as _;

use super::together::{self, Apart, Ending, Item};
use crate::{
    bulkhead::Priority,
    db::{
        Applied, Db, Refusal, Settled,
        asked::Question,
        classify::{self, Circuit, Connection, Verdict},
        guards::{AttemptTime, Connected, attempt_span},
        keys::{self, Known},
        resolve::Resolution,
        transaction::{Attempted, Failed, Ground, Origin, Progress},
        writes::{self, News},
    },
    deadline::Deadline,
    error::{Error, ErrorClass, Phase, Stage},
    journal::Aside,
    metrics,
};

/// One transaction may wait for a ghost's locks this long; the server's `lock_timeout` ends it earlier.
pub(super) const ATTEMPT_LIMIT: Duration = Duration::from_secs(5);
/// Looks at a transaction whose COMMIT was not answered, each of [`ATTEMPT_LIMIT`]; after that the keys must tell.
const LOOKS_MAX: usize = 12;
/// Attempts of a part whose keys somebody else takes meanwhile.
const RACES_MAX: usize = 3;

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) settled: u64,
    /// The slowest transaction: its entries and its time.
    pub(super) slowest: Option<(usize, Duration)>,
    /// The ordering keys of entries that alone did not go through, and why.
    pub(super) stuck: Vec<(String, Error)>,
    /// What stopped all of it.
    pub(super) stopped: Option<Error>,
}

/// How one part ended.
enum Part {
    Settled,
    /// One of them does not go through, and nobody knows which.
    Halve,
    /// Nothing can be settled now.
    Stop(Error),
}

impl Db {
    /// Settles what can be settled of `items`, which are in the order of the journal.
    pub(super) async fn settle_batch(&self, items: Vec<Item>, priority: Option<Priority>) -> Report {
        let mut report = Report::default();
        let mut parts = vec![items];
        while let Some(mut part) = parts.pop() {
            part.retain(|item| !report.stuck.iter().any(|(key, _)| *key == item.command.ordering_key));
            if part.is_empty() {
                continue;
            }
            match self.settle_part(&part, priority, &mut report).await {
                Part::Settled => {}
                Part::Stop(error) => {
                    report.stopped = Some(error);
                    break;
                }
                Part::Halve if part.len() > 1 => {
                    let second = part.split_off(part.len() / 2);
                    parts.extend([second, part]);
                }
                Part::Halve => {
                    let Some(item) = part.pop() else { continue };
                    match self.settle_alone(&item, priority).await {
                        Ok(()) => report.settled += 1,
                        Err(error) if is_of_one(&error) && self.0.fence.is_taken() => {
                            report.stuck.push((item.command.ordering_key, error));
                        }
                        Err(error) => {
                            report.stopped = Some(error);
                            break;
                        }
                    }
                }
            }
        }
        report
    }

    async fn settle_part(&self, items: &[Item], priority: Option<Priority>, report: &mut Report) -> Part {
        for _ in 0..RACES_MAX {
            let sent_at = Instant::now();
            let mut endings = Vec::new();
            let apart = match self.together(items, priority, &mut endings).await {
                Ok(()) => {
                    let took = (items.len(), sent_at.elapsed());
                    if report.slowest.is_none_or(|(_, slowest)| slowest < took.1) {
                        report.slowest = Some(took);
                    }
                    return self.end_all(items, endings, sent_at, report).await;
                }
                Err(apart) => apart,
            };
            match apart {
                Apart::Raced => {}
                Apart::Refused => return Part::Halve,
                Apart::Failed(Failed { error, .. }) => {
                    if matches!(error, Error::Timeout { phase: Phase::InTransaction, .. }) {
                        report.slowest = Some((items.len(), ATTEMPT_LIMIT));
                    }
                    let stays = is_of_one(&error) && self.0.fence.is_taken();
                    return if stays { Part::Halve } else { Part::Stop(error) };
                }
            }
        }
        Part::Halve
    }

    /// One transaction for all of them. A COMMIT that was not answered is looked up: where it happened, this is success.
    async fn together(
        &self,
        items: &[Item],
        priority: Option<Priority>,
        endings: &mut Vec<Ending>,
    ) -> Result<(), Apart> {
        let time = AttemptTime::new(Deadline::after(Instant::now(), ATTEMPT_LIMIT), ATTEMPT_LIMIT);
        let Connected { admission, loan, host } =
            self.connected(&time, priority).await.map_err(Apart::Failed)?;
        let ground = Ground { claim: self.claim(), ..self.ground(&time) };
        let mut progress = Progress::after(None);
        let commands = self.0.commands.as_ref();
        let span = attempt_span("replay", Circuit::Writes, host);
        let attempt = together::attempt(loan, commands, items, ground, &mut progress, endings);
        let attempted = attempt.instrument(span.clone()).await;
        let Err(Apart::Failed(failed)) = attempted else {
            admission.record(crate::breaker::CallResult::Success, Instant::now());
            return attempted;
        };
        admission.record(failed.breaker, Instant::now());
        self.note_attempt(host, &span, Some(&failed));
        if !writes::is_lost_commit(&failed.error) || progress.mark.is_none() {
            return Err(Apart::Failed(failed));
        }
        for _ in 0..LOOKS_MAX {
            let deadline = Deadline::after(Instant::now(), ATTEMPT_LIMIT);
            match self.resolve(progress.mark.as_ref(), None, deadline).await {
                // Whatever became of the rows of its keys since: done again, it would be done twice.
                Resolution::Committed => return Ok(()),
                Resolution::Unresolved => {}
                Resolution::Settled(_) | Resolution::RolledBack | Resolution::NoTrace => break,
            }
        }
        Err(Apart::Failed(failed))
    }

    /// They are committed: tells the service, and takes them out of the journal.
    async fn end_all(
        &self,
        items: &[Item],
        endings: Vec<Ending>,
        sent_at: Instant,
        report: &mut Report,
    ) -> Part {
        let mut settled_now = Vec::with_capacity(items.len());
        let mut part = Part::Settled;
        for (item, ending) in items.iter().zip(endings) {
            let ended = match ending {
                Ending::Settled { settled, before } => {
                    let news = if before { News::Earlier } else { News::Replayed };
                    self.tell_settled(&item.command, &settled, news, sent_at);
                    self.count_replayed(if before { "known" } else { settled.as_str() });
                    match settled {
                        Settled::Refused(refusal) => self.set_aside(item, refusal.code).await,
                        Settled::Applied(_) | Settled::Superseded(_) => {
                            settled_now.push(item.sequence);
                            continue;
                        }
                    }
                }
                Ending::KeyReused => self.reject_reused_key(item).await,
            };
            match ended {
                Ok(()) => report.settled += 1,
                Err(error) => part = Part::Stop(error),
            }
        }
        report.settled += settled_now.len() as u64;
        self.0.journal.settled(&settled_now);
        part
    }

    fn count_replayed(&self, outcome: &'static str) {
        self.0.replayed.fetch_add(1, Ordering::Relaxed);
        metrics::journal_replayed(outcome);
    }

    /// Brings one entry to an end that is recorded in the database, or says why not.
    async fn settle_alone(&self, item: &Item, priority: Option<Priority>) -> Result<(), Error> {
        if let Some(reason) = item.too_old {
            return self.settle_too_old(item, reason).await;
        }
        let Item { command, sequence, retried, .. } = item;
        let limits = (Deadline::after(Instant::now(), ATTEMPT_LIMIT), ATTEMPT_LIMIT);
        let mut progress = Progress::after(None);
        let origin = Origin::Journal { retried: *retried, priority };
        let outcome = match self.write_attempt(command, origin, limits, &mut progress).await {
            Ok(Attempted::Committed(Applied::Done(_))) => "applied",
            Ok(Attempted::Committed(Applied::Superseded(_))) => "superseded",
            Ok(Attempted::Known(known)) => return self.settle_known(item, &known).await,
            Ok(Attempted::Refused(refusal)) => return self.reject(item, &command.key, refusal).await,
            Err(Failed { error, .. }) if is_hopeless(&error) && self.0.fence.is_taken() => {
                let code = format!("refused-by-database-{}", error.code().unwrap_or("unknown"));
                tracing::warn!(sequence, code = error.code(), "a journaled write cannot be applied");
                return self.reject(item, &command.key, Refusal::new(code)).await;
            }
            Err(Failed { error, .. }) => return Err(error),
        };
        self.count_replayed(outcome);
        self.0.journal.settled(&[*sequence]);
        Ok(())
    }

    /// Its key is settled, or another request's.
    async fn settle_known(&self, item: &Item, known: &Known) -> Result<(), Error> {
        if !known.is_same_request(&item.command) {
            return self.reject_reused_key(item).await;
        }
        self.count_replayed("known");
        match known.settled() {
            Settled::Refused(refusal) => self.set_aside(item, refusal.code).await,
            Settled::Applied(_) | Settled::Superseded(_) => {
                self.0.journal.settled(&[item.sequence]);
                Ok(())
            }
        }
    }

    /// Without a row it was not applied, or nobody can tell; so it never is.
    async fn settle_too_old(&self, item: &Item, reason: &'static str) -> Result<(), Error> {
        let (command, sent_at) = (&item.command, Instant::now());
        let Some(known) = self.ask_primary(&keys::LookUp(&command.key)).await? else {
            return self.reject(item, &command.key, Refusal::new(reason)).await;
        };
        if known.is_same_request(command) {
            self.tell_settled(command, &known.settled(), News::Earlier, sent_at);
        }
        self.settle_known(item, &known).await
    }

    /// The key belongs to another request, which another replica accepted: this one is kept under a key of its own, so
    /// that nothing that was accepted vanishes.
    async fn reject_reused_key(&self, item: &Item) -> Result<(), Error> {
        let command = &item.command;
        let digest: String = command.fingerprint.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let accepted = command.accepted_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        tracing::warn!(sequence = item.sequence, "two requests were accepted under one idempotency key");
        // Unlike any other entry's, also another replica's, and the same when it is tried again.
        let key = format!("reused-key:{}:{}:{digest}", accepted.as_micros(), item.sequence);
        self.reject(item, &key, Refusal::new("key-reused")).await
    }

    /// Records the refusal in the database and sets the entry aside, in this order: a crash between the two repeats it.
    async fn reject(&self, item: &Item, key: &str, refusal: Refusal) -> Result<(), Error> {
        let sent_at = Instant::now();
        let command = &item.command;
        let record = keys::RecordRejected { key, command, reason: &refusal.code };
        if !self.ask_primary(&record).await? && key == command.key {
            // Settled after all, by somebody else: the next look at it finds out how.
            let source = "the key was settled meanwhile".into();
            return Err(Error::GivenUp { source });
        }
        self.count_replayed(if refusal.code == "key-reused" { "key-reused" } else { "rejected" });
        self.tell_settled(command, &Settled::Refused(refusal.clone()), News::Replayed, sent_at);
        self.set_aside(item, refusal.code).await
    }

    async fn set_aside(&self, item: &Item, reason: String) -> Result<(), Error> {
        let aside = self.0.journal.set_aside(&[item.sequence], Aside::Rejected { reason }).await;
        aside.map_err(|error| {
            tracing::error!(%error, "a rejected write cannot be set aside; it stays in the journal");
            Error::NotJournaled { reason: "set-aside-failed", permanent: false }
        })
    }

    /// One short question to the primary, beside permits and circuits.
    pub(super) async fn ask_primary<Q: Question>(&self, question: &Q) -> Result<Q::Answer, Error> {
        let time = AttemptTime::new(Deadline::after(Instant::now(), ATTEMPT_LIMIT), ATTEMPT_LIMIT);
        let loan = self.connected_to_primary(&time).await.map_err(|none| none.error)?;
        let answered = {
            let statements = loan.statements();
            tokio::time::timeout_at(time.deadline.instant(), question.ask(&statements)).await
        };
        match answered {
            Ok(Ok(answer)) => {
                loan.give_back();
                Ok(answer)
            }
            Ok(Err(source)) => {
                let (error, verdict) = classify::error(source, Stage::Query, Phase::Sent);
                loan.settle(Verdict { connection: Connection::Destroy, ..verdict });
                Err(error)
            }
            Err(_) => Err(Error::Timeout { stage: Stage::Query, phase: Phase::Sent, limit: ATTEMPT_LIMIT }),
        }
    }
}

/// The failure may be one entry's alone, and the database well.
fn is_of_one(error: &Error) -> bool {
    match error.class() {
        // Of others' locks, of limits, and of what the statement itself asks for.
        ErrorClass::Contention => true,
        ErrorClass::Permanent => error.stage() != Stage::Connect,
        // COMMIT was answered by ROLLBACK, or the limit passed in a statement.
        ErrorClass::Transient => matches!(
            error,
            Error::Timeout { phase: Phase::InTransaction, .. }
                | Error::Database { stage: Stage::Commit, phase: Phase::InTransaction, code: None, .. }
        ),
        ErrorClass::Unknown | ErrorClass::Overload | ErrorClass::Failover | ErrorClass::Heal => false,
    }
}

/// The database understood the command and will refuse it every time, or the program cannot read its answer.
fn is_hopeless(error: &Error) -> bool {
    // Missing tables, schemas or rights are an operator's to mend, and then the command applies. What is wrong with the
    // connection (08P01: also a pooler's word for its own troubles) says nothing about the command.
    const MENDABLE: [&str; 6] = ["42", "XX", "28", "3D", "3F", "08"];
    error.class() == ErrorClass::Permanent
        && error.stage() != Stage::Connect
        && !error.code().is_some_and(|code| MENDABLE.iter().any(|class| code.starts_with(class)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pooler that nobody told us of says ERROR 08P01 when its server crashes: an accepted write was recorded as rejected
    /// for good, though the server had never seen it.
    #[test]
    fn only_what_is_wrong_with_the_command_itself_is_hopeless() {
        let failed = |code: &str| {
            let (stage, phase, class) = (Stage::Query, Phase::InTransaction, ErrorClass::Permanent);
            let (code, source) = (Some(code.to_owned()), "planned".into());
            Error::Database { stage, phase, class, code, cause: None, source }
        };
        for code in ["08P01", "42P01", "42501", "3F000", "28P01", "XX001"] {
            assert!(!is_hopeless(&failed(code)), "{code}");
        }
        for code in ["22003", "23505", "P0001"] {
            assert!(is_hopeless(&failed(code)), "{code}");
        }
    }
}
