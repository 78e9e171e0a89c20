//! One look at a host: on which session, and what it found. A session is kept from look to look, renewed in time, and
//! kept on where the server lives and takes no new one.
//!
//! It concludes nothing; that is the prober's.

use std::time::Duration;

use tokio::{task::JoinHandle, time::Instant};
use tokio_postgres::Client;

use super::{HostProber, REFUSED_FIRST, REFUSED_MAX, decorrelated, question};
use crate::{
    breaker::BreakerState,
    db::{
        classify::{Circuit, TripHint},
        hosts::{Hold, Sighting},
    },
    deadline::Deadline,
    error::{Error, ErrorClass},
};

/// A session on which a host is looked at that refused a write is no older than this: an older one may lead to where the
/// host's name or address led before.
const DOUBTED_AGE_MAX: Duration = Duration::from_millis(500);

/// A connection of the prober's own to its host.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    driver: JoinHandle<()>,
    since: Instant,
    /// When it is old enough to be replaced.
    renew_at: Instant,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What one look found.
pub(super) struct Found {
    pub(super) sighting: Sighting,
    /// Whether a writing transaction began, where that was tried.
    pub(super) writes: bool,
    /// What kept writes away when it began.
    pub(super) hold: Option<Hold>,
}

impl HostProber {
    /// Dial, ask and prove share one time limit: a server that is slow at each step is slow as a whole.
    pub(super) async fn look(&mut self) -> Result<Found, Error> {
        let until = Deadline::after(Instant::now(), self.db.0.config.probe.timeout);
        let left = || until.remaining(Instant::now());
        let session = match self.session.take() {
            Some(session) if !self.is_due(&session, Instant::now()) => session,
            // Old sessions can go on working on a server that takes no new ones.
            Some(old) => self.renewed(old, left()).await?,
            None => self.dial(left()).await?,
        };
        let (session, sighting) = match question::ask(&session.client, &mut self.tongue, left()).await {
            Ok(sighting) => (session, sighting),
            // The session ended, which says little about the server: a new one does.
            Err(Error::Database { .. }) => {
                let session = self.dial(left()).await?;
                let sighting = question::ask(&session.client, &mut self.tongue, left()).await?;
                (session, sighting)
            }
            Err(error) => return Err(error),
        };
        let (now, hold) = (Instant::now(), self.db.0.hosts.hold(self.host));
        let is_closed = self.host().circuit(Circuit::Writes).state(now) == BreakerState::Closed;
        let writes = match hold {
            _ if sighting.in_recovery || sighting.read_only => false,
            Some(hold) if now < hold.until => false,
            Some(_) => question::prove_room(&session.client, left()).await.is_ok(),
            None => is_closed || question::prove_writes(&session.client, left()).await.is_ok(),
        };
        self.session = Some(session);
        Ok(Found { sighting, writes, hold })
    }

    async fn dial(&self, limit: Duration) -> Result<Session, Error> {
        let (client, driver) = self.host().pool.dialler().dial(limit).await?;
        let since = Instant::now();
        Ok(Session { client, driver, since, renew_at: since + self.db.0.config.probe.reconnect })
    }

    fn is_due(&self, session: &Session, now: Instant) -> bool {
        let is_doubted = self.host().is_doubted();
        now >= session.renew_at
            || (is_doubted && now.saturating_duration_since(session.since) >= DOUBTED_AGE_MAX)
    }

    /// A new session in place of `old`, or `old` itself where the server is there and takes no new ones.
    async fn renewed(&mut self, mut old: Session, limit: Duration) -> Result<Session, Error> {
        let error = match self.dial(limit).await {
            Ok(session) => {
                self.renewal_paused = REFUSED_FIRST;
                return Ok(session);
            }
            Err(error) => error,
        };
        let now = Instant::now();
        if error.class() == ErrorClass::Overload {
            // Full is not away: the old one may tell how it is.
            old.renew_at = now + self.db.0.config.probe.reconnect;
        } else if TripHint::of(&error).is_refusal() {
            // A password that was changed on one side only ends no session that exists: calls go on being answered on
            // those, if nobody here throws them away.
            let last = self.renewal_paused;
            let pause = self.db.random(|random| decorrelated(REFUSED_FIRST, REFUSED_MAX, last, random));
            self.renewal_paused = pause;
            old.renew_at = now + pause;
            self.refused(&error, now);
        } else {
            return Err(error);
        }
        // Not at once again for a doubt either.
        old.since = now;
        Ok(old)
    }
}
