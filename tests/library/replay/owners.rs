//! Who replays, and what is too old to be replayed: one owner for a journal, and outcomes that are kept long enough.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use ridethrough::{
    DbConfig,
    db::{WriteError, Written},
    health::JournalPart,
    journal::{JournalConfig, WhenTooOld},
};
use ridethrough_tests::until;
use tokio::time::Instant;

use super::*;

fn is_fenced(service: &Service) -> bool {
    let (.., journal, _) = service.db.parts(Instant::now());
    journal == JournalPart::Failed
}

/// A process that was stopped for long, or runs on a copied folder, replayed beside the owner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_has_one_owner_and_the_fenced_one_accepts_nothing_more() {
    let (_folder, cluster) = database(&[]).await;
    let service = journaled(&cluster, Arc::new(Picky), vec![put("mine")]).await;
    service.has_settled().await;
    let client = as_service(&cluster.url()).await;
    let taken = client.execute("UPDATE ridethrough_journals SET epoch = epoch + 1", &[]).await;
    assert_eq!(taken.expect("it answers"), 1, "the owner took an epoch");
    let late = Command { ordering_key: "late".to_owned(), ..put("late") };
    service.journal.append(entry(late)).await.expect("the journal takes it");
    let fenced = async || is_fenced(&service).then_some(());
    until("the owner learns that it is none any more", LIMIT, fenced).await;
    assert_eq!((effects_of(&client, "mine").await, effects_of(&client, "late").await), (1, 0));
    // A direct write needs no journal; one that would be journaled behind the other is refused.
    let behind = service.db.write(Command { ordering_key: "late".to_owned(), ..put("behind") }, deadline());
    let refused = behind.await;
    assert!(matches!(refused, Err(WriteError::Rejected(_))), "{refused:?}");
    let direct = service.db.write(Command { ordering_key: "d".to_owned(), ..put("d") }, deadline()).await;
    assert!(matches!(direct, Ok(Written::Committed { .. })), "{direct:?}");
    assert_eq!(*service.db.database().borrow(), DatabasePart::Up);
}

/// A failover lost the epoch that the owner had taken last, and the next owner came to the same number: each took the row for
/// its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_has_one_owner_also_where_a_failover_lost_its_epoch() {
    let (_folder, cluster) = database(&[]).await;
    let first = journaled(&cluster, Arc::new(Picky), vec![put("mine")]).await;
    first.has_settled().await;
    let client = as_service(&cluster.url()).await;
    // As the standby has it that did not hear of the first owner before it was promoted.
    let lost = client.execute("DELETE FROM ridethrough_journals", &[]).await;
    assert_eq!(lost.expect("it answers"), 1, "the owner took an epoch");
    let second = Service::unseen_in(first.copied_journal(), never_opens(cluster.url()), Arc::new(Picky));
    accepted(&second, vec![put("yours")]).await;
    second.has_settled().await;
    let both = [&first, &second];
    let fenced = async || {
        let key = format!("more-{}", fastrand::u64(..));
        // Each has something to replay, so each looks; one that is fenced takes it and keeps it.
        for service in both {
            let _ = service.journal.append(entry(put(&key))).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        (both.iter().filter(|service| is_fenced(service)).count() == 1).then_some(())
    };
    until("one of the two is fenced", LIMIT, fenced).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let settled = async || {
        let waits = |service: &&&Service| !is_fenced(service) && service.journal.backlog().entries > 0;
        (both.iter().filter(waits).count() == 0).then_some(())
    };
    until("the other one goes on", LIMIT, settled).await;
    assert_eq!(both.iter().filter(|service| is_fenced(service)).count(), 1, "one is left");
}

/// Puts as `Put` does, and takes its time.
struct Slow;

impl Commands for Slow {
    fn apply<'c>(
        &'c self,
        statements: &'c Statements<'c>,
        command: &'c Command,
        _replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        Box::pin(async move {
            statements.run("SELECT pg_sleep(0.02)", &[]).await?;
            statements.run("INSERT INTO effects (key) VALUES ($1)", &[&command.key]).await?;
            Ok(Applied::Done(Bytes::from_static(b"put")))
        })
    }
}

/// Transactions that share the lock of a row let each other pass in front of whoever wants to change it: a busy owner could
/// not be replaced before it had nothing left to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_is_taken_over_from_an_owner_that_is_busy_with_it() {
    const DEPTH: usize = 4_000;
    let (_folder, cluster) = database(&[]).await;
    let writes = (0..DEPTH)
        .map(|number| Command { ordering_key: number.to_string(), ..put(&format!("k-{number:04}")) });
    let first = journaled_only(&cluster, Arc::new(Slow), writes.collect()).await;
    let copy = first.copied_journal();
    first.db.set_schema(SchemaPart::Ok);
    let busy = async || (first.journal.backlog().entries < DEPTH as u64 - 300).then_some(());
    until("the first one is busy", LIMIT, busy).await;
    let second = Service::unseen_in(copy, never_opens(cluster.url()), Arc::new(Slow));
    let began = Instant::now();
    until("the first one is fenced", LIMIT, async || is_fenced(&first).then_some(())).await;
    let (took, left) = (began.elapsed(), first.journal.backlog().entries);
    say(&format!("a busy owner was replaced within {took:?}, with {left} entries left"));
    assert!(left > 500, "it ended by itself");
    drop(second);
}

/// Entries that had waited too long were set aside without asking the database: it knew nothing of them when somebody asked
/// for their outcome, and one that had been applied all the same was a dead letter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_records_what_waited_too_long_and_keeps_it_for_an_operator() {
    let (_folder, cluster) = database(&[]).await;
    let elsewhere = Service::start_with(never_opens(cluster.url()), Arc::new(Picky)).await;
    let hour = Duration::from_secs(3_600);
    let waited = |key: &str, time: Duration| Command {
        accepted_at: to_microseconds(SystemTime::now() - time),
        ordering_key: key.to_owned(),
        ..put(key)
    };
    let applied = waited("applied", 2 * hour);
    let written = elsewhere.db.write(applied.clone(), deadline()).await;
    assert!(matches!(written, Ok(Written::Committed { .. })), "{written:?}");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (age_max, when_too_old) = (hour, WhenTooOld::SetAside);
    let journal = JournalConfig { age_max, when_too_old, ..JournalConfig::new(folder.path()) };
    let service = Service::unseen_with(folder, journal, never_opens(cluster.url()), Arc::new(Picky));
    service.db.set_schema(SchemaPart::Unknown);
    accepted(&service, vec![waited("late", 2 * hour), applied, waited("in time", hour / 2)]).await;
    service.db.set_schema(SchemaPart::Ok);
    service.has_settled().await;
    let client = as_service(&cluster.url()).await;
    for (key, effects) in [("late", 0), ("applied", 1), ("in time", 1)] {
        assert_eq!(effects_of(&client, key).await, effects, "{key}");
    }
    let status = async |key: &str| {
        let status = elsewhere.db.write_status(key, deadline()).await.expect("it answers");
        status.map(|status| (status.state, status.reason))
    };
    assert_eq!(status("late").await, Some((WriteState::Rejected, Some("too-old".to_owned()))));
    assert_eq!(status("applied").await, Some((WriteState::Applied, None)));
    assert_eq!(service.journal.rejected_keys(), ["late"]);
    service.journal.retry("late").await.expect("the journal takes it").expect("there is a dead letter");
    service.has_settled().await;
    assert_eq!(effects_of(&client, "late").await, 1, "an operator vouched for it");
    assert_eq!(status("late").await, Some((WriteState::Applied, None)));
}

/// An outcome can be asked for as long as the retention says; what is older than that is neither kept nor applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_applies_nothing_that_is_older_than_the_outcomes_that_are_kept() {
    let (_folder, cluster) = database(&[]).await;
    let old = SystemTime::now() - DbConfig::default().write.retention;
    let old = Command { accepted_at: to_microseconds(old), ordering_key: "old".to_owned(), ..put("old") };
    let service = journaled(&cluster, Arc::new(Picky), vec![old, put("new")]).await;
    service.has_settled().await;
    let client = as_service(&cluster.url()).await;
    assert_eq!((effects_of(&client, "old").await, effects_of(&client, "new").await), (0, 1));
    let status = service.db.write_status("old", deadline()).await.expect("it answers").expect("it is known");
    assert_eq!(status.reason.as_deref(), Some("older-than-retention"));
    assert_eq!(service.journal.aside_counts().rejected, 1);
    service.journal.retry("old").await.expect("the journal takes it").expect("there is a dead letter");
    service.has_settled().await;
    assert_eq!(effects_of(&client, "old").await, 1, "an operator vouched for it");
}

/// A batch that lost a race fell apart, and its entries were judged alone: then the one of which nobody can tell any more
/// whether it was applied was applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_of_what_is_too_old_does_not_apply_it_after_a_lost_race_either() {
    const LOSES_ONCE: &str = "CREATE SEQUENCE attempts; \
        CREATE FUNCTION lose_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
        IF nextval('attempts') = 1 THEN RAISE EXCEPTION 'planned' USING ERRCODE = '40001'; END IF; \
        RETURN NEW; END $$; \
        CREATE TRIGGER lose_once BEFORE INSERT ON ridethrough_writes FOR EACH ROW EXECUTE FUNCTION lose_once()";
    let (_folder, cluster) = database(&[]).await;
    let client = as_service(&cluster.url()).await;
    client.batch_execute(LOSES_ONCE).await.expect("it answers");
    let old = SystemTime::now() - DbConfig::default().write.retention;
    let old = Command { accepted_at: to_microseconds(old), ..put("old") };
    let service = journaled(&cluster, Arc::new(Picky), vec![old]).await;
    service.has_settled().await;
    let attempts = client.query_one("SELECT last_value FROM attempts", &[]).await.expect("it answers");
    assert!(attempts.get::<_, i64>(0) > 1, "no race was lost, so nothing was shown");
    assert_eq!(effects_of(&client, "old").await, 0);
    let status = service.db.write_status("old", deadline()).await.expect("it answers").expect("it is known");
    assert_eq!(status.reason.as_deref(), Some("older-than-retention"));
    assert_eq!(service.journal.aside_counts().rejected, 1);
}

/// Two processes on copies of one folder, each of which has all the entries and a database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_of_a_copied_journal_doubles_nothing_and_fences_one_of_the_two() {
    const DEPTH: usize = 3_000;
    const THINGS: usize = 60;
    let (_folder, cluster) = database(&[]).await;
    let things = |number: usize| Command {
        ordering_key: (number % THINGS).to_string(),
        ..put(&format!("k-{number:04}"))
    };
    let first = journaled_only(&cluster, Arc::new(Picky), (0..DEPTH).map(things).collect()).await;
    let second = Service::unseen_in(first.copied_journal(), never_opens(cluster.url()), Arc::new(Picky));
    assert_eq!(second.journal.backlog().entries, DEPTH as u64, "the copy has them too");
    first.db.set_schema(SchemaPart::Ok);
    let both = [&first, &second];
    until("one of them stops, and the other one ends", LIMIT, async || {
        let fenced = both.iter().filter(|service| is_fenced(service)).count();
        let is_done =
            both.iter().any(|service| !is_fenced(service) && service.journal.backlog().entries == 0);
        (fenced == 1 && is_done).then_some(())
    })
    .await;
    let client = as_service(&cluster.url()).await;
    let rows = client.query("SELECT key FROM effects ORDER BY id", &[]).await.expect("it answers");
    let keys: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(keys.iter().collect::<std::collections::HashSet<_>>().len(), DEPTH, "none is lost");
    assert_eq!(keys.len(), DEPTH, "none is doubled");
    let mut last = [0; THINGS];
    for key in &keys {
        let number: usize = key[2..].parse().expect("the keys are numbered");
        assert!(last[number % THINGS] <= number, "{key} came late");
        last[number % THINGS] = number;
    }
    let left = both.map(|service| (is_fenced(service), service.journal.backlog().entries));
    say(&format!("of two owners: {left:?} (fenced, entries left)"));
}

/// One entry that waited for an operator kept all outcomes from being removed, for as long as it waited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_removes_outcomes_after_the_retention_also_while_an_entry_waits_for_an_operator() {
    const OLD: &str = "INSERT INTO ridethrough_writes (key, command, fingerprint, outcome, accepted_at, settled_at) \
        SELECT 'old-' || n, 'effect.put', '\\x07', 'applied', now() - interval '2 hours', \
        now() - make_interval(mins => CASE WHEN n % 10 = 0 THEN 30 ELSE 90 END) FROM generate_series(1, 2500) AS n";
    let (_folder, cluster) = database(&[]).await;
    let client = as_service(&cluster.url()).await;
    client.batch_execute(OLD).await.expect("it answers");
    client.batch_execute("ALTER TABLE effects RENAME TO away").await.expect("it answers");
    let mut config = never_opens(cluster.url());
    config.write.retention = Duration::from_secs(3_600);
    let service = Service::start_with(config, Arc::new(Picky)).await;
    service.journal.append(entry(put("stuck"))).await.expect("the journal takes it");
    let kept = async || {
        let row = client.query_one("SELECT count(*) FROM ridethrough_writes", &[]).await.expect("it answers");
        row.get::<_, i64>(0)
    };
    until("what is older than the retention is removed", LIMIT, async || (kept().await == 250).then_some(()))
        .await;
    assert_eq!(service.journal.backlog().entries, 1, "the entry still waits");
    client.batch_execute("ALTER TABLE away RENAME TO effects").await.expect("it answers");
    service.has_settled().await;
    assert_eq!((effects_of(&client, "stuck").await, kept().await), (1, 251));
}

/// Replay looks its keys up and records them at the end, so that another replica can settle one in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_beside_direct_writes_of_the_same_keys_elsewhere_doubles_nothing() {
    const DEPTH: usize = 600;
    const WRITERS: usize = 4;
    let (_folder, cluster) = database(&[]).await;
    let writes: Vec<Command> = (0..DEPTH)
        .map(|number| Command { ordering_key: number.to_string(), ..put(&format!("k-{number:04}")) })
        .collect();
    let elsewhere = Arc::new(Service::start_with(never_opens(cluster.url()), Arc::new(Picky)).await);
    let service = journaled_only(&cluster, Arc::new(Picky), writes.clone()).await;
    service.db.set_schema(SchemaPart::Ok);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (elsewhere, writes) = (Arc::clone(&elsewhere), writes.clone());
            tokio::spawn(async move {
                let (mut first, mut repeated) = (0, 0);
                for command in writes.into_iter().skip(writer).step_by(WRITERS) {
                    match elsewhere.db.write(command, deadline()).await {
                        Ok(Written::Committed { repeated: false, .. }) => first += 1,
                        Ok(Written::Committed { repeated: true, .. }) => repeated += 1,
                        // Each waited for the other's lock; the caller may ask again.
                        Err(WriteError::Rejected(_)) => {}
                        other => panic!("a write of a key that is replayed elsewhere: {other:?}"),
                    }
                }
                (first, repeated)
            })
        })
        .collect();
    let (mut first, mut repeated) = (0, 0);
    for writer in writers {
        let ended = writer.await.expect("a writer does not panic");
        (first, repeated) = (first + ended.0, repeated + ended.1);
    }
    service.has_settled().await;
    say(&format!("of {DEPTH} writes {first} were first elsewhere and {repeated} were replayed before"));
    let client = as_service(&cluster.url()).await;
    let sql = "SELECT count(*), count(DISTINCT key) FROM effects";
    let row = client.query_one(sql, &[]).await.expect("it answers");
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (DEPTH as i64, DEPTH as i64));
}
