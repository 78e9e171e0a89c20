//! News between replicas: what a committed write changed, told inside its transaction, and heard on a connection of its own
//! to the primary. It only makes kept answers doubtful; it fetches nothing.
//!
//! While nothing can be heard, and for whatever was asked before it could be heard again, no kept answer counts as fresh: a
//! notice that was missed is missed for ever. Behind a pooler there is no session that could listen.

mod notice;

use std::{borrow::Cow, fmt::Write as _, sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_postgres::{Client, SimpleQueryMessage};

use self::notice::CHANNEL;
use super::{
    Db,
    config::Pooler,
    session::{Identity, OnNotice},
};
use crate::{
    backoff::Backoff,
    cache::{ReadCache, Tags},
    drain::Draining,
    metrics,
};

/// The session is asked this often whether it is still there and still the primary's.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// For one such answer. A connection that went dead is so noticed within two seconds.
const BEAT_LIMIT: Duration = Duration::from_secs(1);
/// Between attempts to listen again. Nothing is lost meanwhile but freshness.
const AGAIN: Backoff = Backoff {
    base: Duration::from_millis(100),
    cap: Duration::from_secs(5),
    jitter: crate::backoff::Jitter::Full,
};

/// Hears what other replicas changed until the drain. Made by [`Db::new`](super::Db::new).
#[derive(Debug)]
#[must_use = "without the listener changes of other replicas are noticed only when an answer's time is over"]
pub struct Listener {
    db: Db,
}

/// Tells other replicas what a transaction changed.
#[derive(Debug)]
pub(super) struct Telling {
    /// Who tells: so that nobody listens to himself.
    replica: String,
    is_on: bool,
}

/// Why nothing is heard any more.
#[derive(Debug)]
enum Deaf {
    NoPrimary,
    Dial,
    Lost,
    Elsewhere,
}

/// The session that listens; ends with it.
struct Hearing {
    client: Client,
    driver: JoinHandle<()>,
    host: usize,
    identity: Identity,
}

impl Drop for Hearing {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Telling {
    pub(super) fn new(is_on: bool) -> Self {
        Self { replica: format!("{:016x}", fastrand::u64(..)), is_on }
    }

    /// Whether anybody is told anything.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// The statements that end a transaction which changed these: what is told reaches others only if they commit, and costs
    /// no round trip of its own.
    pub(super) fn commit<'t>(
        &self,
        plain: &'static str,
        changed: impl IntoIterator<Item = &'t Tags>,
    ) -> Cow<'static, str> {
        let texts = if self.is_on { notice::texts(&self.replica, changed) } else { Vec::new() };
        if texts.is_empty() {
            return Cow::Borrowed(plain);
        }
        let mut statements = String::new();
        for text in texts {
            // Its letters are none that could end the literal.
            let _ = write!(statements, "SELECT pg_notify('{CHANNEL}', '{text}'); ");
        }
        statements.push_str(plain);
        Cow::Owned(statements)
    }

    /// What a notice makes of the cache.
    fn heard(&self, text: &str, cache: &ReadCache, now: Instant) {
        match notice::read(text) {
            Some(notice) if notice.replica == self.replica => {}
            Some(notice::Notice { tags: Some(tags), .. }) => cache.changed(&Tags::of(tags), now),
            // A newer version may say what this one does not understand.
            Some(_) | None => cache.doubt_before(now),
        }
    }
}

impl Listener {
    pub(super) fn new(db: Db) -> Self {
        let listener = Self { db };
        // From the start on: what is asked for before somebody listens is not known to be current later.
        if listener.is_wanted() && !listener.is_pooled() {
            listener.db.0.cache.goes_deaf();
        }
        listener
    }

    /// Listens until the drain begins. Where notices are off, or a pooler stands in between, it only waits for that.
    ///
    /// # Cancel safety
    /// Dropping it closes its connection, and no kept answer counts as fresh from then on.
    pub async fn run(self, mut draining: Draining) {
        if !self.is_possible() {
            draining.requested().await;
            return;
        }
        let cache = &self.db.0.cache;
        let _deaf_at_the_end = DeafWhenDropped(&self.db);
        let mut failures = 0;
        loop {
            let deaf = tokio::select! {
                deaf = self.listen(&mut failures) => deaf,
                () = draining.requested() => return,
            };
            cache.goes_deaf();
            metrics::listening(false);
            failures += 1;
            if failures == 1 {
                tracing::info!(reason = ?deaf, "changes of other replicas are not heard; nothing is served as fresh from memory");
            }
            let pause = self.db.random(|random| AGAIN.delay(failures, random));
            tokio::select! {
                () = sleep(pause) => {}
                () = draining.requested() => return,
            }
        }
    }

    fn is_wanted(&self) -> bool {
        self.db.0.config.notices
    }

    fn is_pooled(&self) -> bool {
        self.db.0.config.pool.pooler != Pooler::None
    }

    fn is_possible(&self) -> bool {
        if self.is_wanted() && self.is_pooled() {
            tracing::warn!(
                "behind a pooler changes of other replicas cannot be heard: kept answers are fresh for as long as their queries say"
            );
        }
        self.is_wanted() && !self.is_pooled()
    }

    /// Listens for as long as that works; answers why it ended.
    async fn listen(&self, failures: &mut u32) -> Deaf {
        let mut hearing = match self.begin().await {
            Ok(hearing) => hearing,
            Err(deaf) => return deaf,
        };
        // What was committed before this instant may have been told to nobody here.
        self.db.0.cache.hears(Instant::now());
        metrics::listening(true);
        tracing::info!(host = hearing.host + 1, "listening for changes of other replicas");
        *failures = 0;
        loop {
            tokio::select! {
                () = sleep(BEAT_EVERY) => {}
                _ = &mut hearing.driver => return Deaf::Lost,
            }
            if self.leads_elsewhere(&hearing) {
                return Deaf::Elsewhere;
            }
            let asked = hearing.client.simple_query("SELECT pg_is_in_recovery()");
            match timeout(BEAT_LIMIT, asked).await {
                Ok(Ok(answer)) if says(&answer, "f") => {}
                Ok(Ok(_)) => return Deaf::Elsewhere,
                Ok(Err(_)) | Err(_) => return Deaf::Lost,
            }
        }
    }

    async fn begin(&self) -> Result<Hearing, Deaf> {
        let hosts = &self.db.0.hosts;
        let host = hosts.primary().ok_or(Deaf::NoPrimary)?;
        let dialler = hosts.at(host).ok_or(Deaf::NoPrimary)?.pool.dialler();
        let db = self.db.clone();
        let on_notice: OnNotice = Arc::new(move |channel: &str, text: &str| {
            if channel == CHANNEL {
                db.0.telling.heard(text, &db.0.cache, Instant::now());
            }
        });
        let dialled = dialler.dial_listening(on_notice).await.map_err(|_| Deaf::Dial)?;
        let identity = dialled.identity;
        let (client, driver) = dialled.into_parts();
        let hearing = Hearing { client, driver, host, identity };
        let listen = format!("LISTEN {CHANNEL}");
        let asked = hearing.client.batch_execute(&listen);
        match timeout(dialler.limit(), asked).await {
            Ok(Ok(())) if !self.leads_elsewhere(&hearing) => Ok(hearing),
            Ok(Ok(())) => Err(Deaf::Elsewhere),
            Ok(Err(_)) | Err(_) => Err(Deaf::Lost),
        }
    }

    /// Whether writes go to another host or server by now than the one that is listened to.
    fn leads_elsewhere(&self, hearing: &Hearing) -> bool {
        let hosts = &self.db.0.hosts;
        let differs = |ours: Option<u64>, known: Option<u64>| {
            ours.zip(known).is_some_and(|(ours, known)| ours != known)
        };
        let (sighting, _) = hosts.last(hearing.host, Instant::now());
        let ours = hearing.identity;
        hosts.primary() != Some(hearing.host)
            || sighting.is_some_and(|seen| {
                differs(ours.system_identifier, seen.system)
                    || differs(ours.timeline.map(u64::from), seen.timeline.map(u64::from))
            })
    }
}

/// However the listener ends, what it would have heard is missed.
struct DeafWhenDropped<'d>(&'d Db);

impl Drop for DeafWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.0.cache.goes_deaf();
        metrics::listening(false);
    }
}

fn says(answer: &[SimpleQueryMessage], wanted: &str) -> bool {
    answer.iter().any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some(wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "SELECT 1; COMMIT";

    #[test]
    fn what_changed_is_told_with_the_commit_and_only_where_it_is_wanted() {
        let changed = [Tags::of(["todos", "it's"])];
        assert_eq!(Telling::new(false).commit(PLAIN, &changed), PLAIN);
        let telling = Telling::new(true);
        assert_eq!(telling.commit(PLAIN, &[Tags::none()]), PLAIN);
        let told = telling.commit(PLAIN, &changed);
        let expected = format!(
            "SELECT pg_notify('ridethrough_changes', '1 {} it%27s todos'); SELECT 1; COMMIT",
            telling.replica
        );
        assert_eq!(told, expected);
    }
}
