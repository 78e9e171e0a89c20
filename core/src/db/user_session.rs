//! What one user saw and wrote, so that no later read shows an older state of it, at whichever replica it is asked. It keeps
//! versions and no answers, and is small enough for a cookie.
//!
//! A replica by itself never goes back for any key; a user who is moved to another one can see there what was before. The
//! versions are the service's own ([`Query::version`]); without them there is nothing to compare.

use std::fmt::Write as _;

use tokio::time::Instant;

use super::{Db, Query, Read};
use crate::{
    cache::{CacheKey, Freshness, StaleReason},
    deadline::Deadline,
    error::{Error, RejectReason},
};

/// Things that are remembered; with more, those that were seen longest ago are forgotten.
const THINGS_MAX: usize = 32;
/// What a token of this form begins with.
const FORM: &str = "1";

/// The newest version of each thing that one user saw or wrote, of the last 32 things.
///
/// It may be kept with the user's session in the service, or go to the client and back as a [token](Self::to_token). A
/// token holds hashes of cache keys and versions, and grants nothing: whoever changes one can have his own reads refused,
/// or see an older state than he had seen.
///
/// ```
/// # use ridethrough::{cache::CacheKey, db::UserSession};
/// let mut session = UserSession::default();
/// session.wrote(&CacheKey::shared("todo/17"), 3);
/// assert_eq!(UserSession::from_token(&session.to_token()), session);
/// assert_eq!(UserSession::from_token("nonsense"), UserSession::default());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserSession {
    /// The one that was seen last comes last.
    things: Vec<Thing>,
}

/// One of them, by the hash of its cache key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Thing {
    hash: u64,
    version: u64,
    /// It was gone after that version.
    is_gone: bool,
}

impl UserSession {
    /// The user wrote this version of what is kept under `key`, or saw it otherwise than through
    /// [`Db::read_in`](super::Db::read_in).
    pub fn wrote(&mut self, key: &CacheKey, version: u64) {
        self.remember(Thing { hash: hash(key), version, is_gone: false });
    }

    /// The user removed what is kept under `key`, of which the last version was this.
    pub fn removed(&mut self, key: &CacheKey, version: u64) {
        self.remember(Thing { hash: hash(key), version, is_gone: true });
    }

    /// As text for a cookie or a header: letters, digits, dots and dashes, at most 1,200 of them.
    #[must_use]
    pub fn to_token(&self) -> String {
        let mut token = FORM.to_owned();
        for Thing { hash, version, is_gone } in &self.things {
            let mark = if *is_gone { "-" } else { "" };
            // Writing to a string does not fail.
            let _ = write!(token, ".{hash:x}.{version:x}{mark}");
        }
        token
    }

    /// What a token holds. One that is not whole is no session: whoever comes with it has seen nothing.
    #[must_use]
    pub fn from_token(token: &str) -> Self {
        Self::parsed(token).unwrap_or_default()
    }

    fn parsed(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        parts.next().filter(|form| *form == FORM)?;
        let mut session = Self::default();
        while let Some(hash) = parts.next() {
            let version = parts.next()?;
            let (version, is_gone) = version.strip_suffix('-').map_or((version, false), |rest| (rest, true));
            if session.things.len() >= THINGS_MAX {
                return None;
            }
            session.things.push(Thing { hash: number(hash)?, version: number(version)?, is_gone });
        }
        Some(session)
    }

    fn find(&self, hash: u64) -> Option<&Thing> {
        self.things.iter().find(|thing| thing.hash == hash)
    }

    fn remember(&mut self, thing: Thing) {
        self.things.retain(|other| other.hash != thing.hash);
        if self.things.len() >= THINGS_MAX {
            self.things.remove(0);
        }
        self.things.push(thing);
    }

    /// Whether the user may have seen a later state than this answer shows. The database's own answer is the truth.
    fn is_ahead_of<Q: Query>(&self, query: &Q, hash: u64, read: &Read<Q::Answer>) -> bool {
        let Some(seen) = self.find(hash).filter(|_| read.freshness() != Freshness::Fresh) else {
            return false;
        };
        match read.unlabelled() {
            Some(answer) => match query.version(answer) {
                Some(version) if seen.is_gone => version <= seen.version,
                Some(version) => version < seen.version,
                // Of what is not known there is nothing to compare.
                None => false,
            },
            // It may be from before the thing was made.
            None => !seen.is_gone,
        }
    }

    fn saw<Q: Query>(&mut self, query: &Q, hash: u64, read: &Read<Q::Answer>) {
        let (before, version) =
            (self.find(hash).copied(), read.unlabelled().map(|answer| query.version(answer)));
        match (version, before) {
            (Some(Some(version)), _) => self.remember(Thing { hash, version, is_gone: false }),
            (None, Some(before)) => self.remember(Thing { is_gone: true, ..before }),
            (Some(None), _) | (None, None) => {}
        }
    }
}

/// Lower-case hexadecimal, as it is written.
fn number(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    u64::from_str_radix(text, 16).ok().filter(|_| is_plain)
}

/// The same at every replica and in every version of the program: FNV-1a. Two things of one hash share a version, so that
/// a read can be refused for nothing.
fn hash(key: &CacheKey) -> u64 {
    key.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl Db {
    /// As [`read`](Self::read), and never an older state than the user of `session` saw or wrote, which then has seen this
    /// one too. What is kept is not served unasked where it is older than that.
    ///
    /// ```no_run
    /// # use ridethrough::{Deadline, Error, db::{Db, Query, UserSession}};
    /// # async fn example<Q: Query>(db: Db, question: Q, token: &str, deadline: Deadline) -> Result<(), Error> {
    /// let mut session = UserSession::from_token(token);
    /// let read = db.read_in(&mut session, &question, deadline).await?;
    /// println!("{}\nSet-Cookie: seen={}", read.freshness(), session.to_token());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`RejectReason::BehindSession`] where only older answers are to be had here.
    ///
    /// # Cancel safety
    /// As [`read`](Self::read); the session is unchanged.
    pub async fn read_in<Q: Query>(
        &self,
        session: &mut UserSession,
        query: &Q,
        deadline: Deadline,
    ) -> Result<Read<Q::Answer>, Error> {
        let (key, started) = (query.cache_key(), Instant::now());
        let hash = hash(&key);
        let mut read = self.read(query, deadline).await?;
        let unasked = matches!(
            read.freshness(),
            Freshness::Stale { reason: StaleReason::Kept | StaleReason::Revalidating, .. }
        );
        if unasked && session.is_ahead_of(query, hash, &read) {
            // In a box, so that reads without it are no larger.
            let asked = Box::pin(self.read_asking(query, &key, deadline, started)).await;
            read = self.overlaid(query, asked, started)?;
        }
        if session.is_ahead_of(query, hash, &read) {
            return Err(Error::rejected(RejectReason::BehindSession, self.retry_after(Instant::now())));
        }
        session.saw(query, hash, &read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> CacheKey {
        CacheKey::shared(number)
    }

    #[test]
    fn a_token_carries_all_of_it_and_stays_short() {
        let mut session = UserSession::default();
        assert_eq!(UserSession::from_token(&session.to_token()), session);
        for number in 0..THINGS_MAX {
            session.wrote(&key(number), u64::MAX - number as u64);
        }
        session.removed(&key(3), u64::MAX);
        let token = session.to_token();
        assert_eq!(UserSession::from_token(&token), session);
        assert!(token.len() <= 1_200, "{}", token.len());
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte)), "{token}");
    }

    /// Whoever makes up a token gets a session that has seen nothing, or one that has his own reads refused.
    #[test]
    fn what_is_no_token_is_a_session_that_has_seen_nothing() {
        let many = format!("1{}", ".1.1".repeat(THINGS_MAX + 1));
        for wrong in ["", "1.", "2", "1.1", "1.1.1.1", "1.x.1", "1.1.1--", "1.+1.1", "1.A.1", "0", &many] {
            assert_eq!(UserSession::from_token(wrong), UserSession::default(), "{wrong}");
        }
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..10_000 {
            let length = random.usize(0..40);
            let text: String =
                (0..length).filter_map(|_| random.choice(['1', '.', '-', 'a', 'f', '0', 'g'])).collect();
            let session = UserSession::from_token(&text);
            assert_eq!(UserSession::from_token(&session.to_token()), session, "{text}, seed {seed}");
        }
    }

    #[test]
    fn what_was_seen_longest_ago_is_forgotten_first() {
        let mut session = UserSession::default();
        for number in 0..THINGS_MAX {
            session.wrote(&key(number), 1);
        }
        session.wrote(&key(0), 2);
        session.wrote(&key(THINGS_MAX), 1);
        let knows = |number| session.find(hash(&key(number))).map(|thing| thing.version);
        assert_eq!((knows(0), knows(1), knows(2), knows(THINGS_MAX)), (Some(2), None, Some(1), Some(1)));
    }

    /// Tokens outlive a process, and go from one version of the program to the next.
    #[test]
    fn the_hash_of_a_key_never_changes() {
        assert_eq!(hash(&CacheKey::shared("todo/17")), 0xe589_8f58_c460_e23c);
    }
}
