//! What a read is: a question with a cache key, and an answer that says how fresh it is.

use std::{fmt, future::Future, time::Duration};

use tokio_postgres::Error;

use super::{
    overlay::{Base, Overlay, PendingWrites},
    statements::Statements,
};
use crate::{
    bulkhead::Priority,
    cache::{CacheFill, CacheKey, Cacheable, Freshness, ReadPolicy, Tags},
};

/// One question to the database whose last answer is worth keeping. A copy of it may ask again in the background.
pub trait Query: Clone + Send + Sync + 'static {
    /// The answer.
    type Answer: Cacheable + Send;

    /// What it is called in metrics; one of few.
    fn name(&self) -> &'static str;

    /// Tells this question from all others, and says whose the answer is.
    fn cache_key(&self) -> CacheKey;

    /// How long its answers are good for. Default [`ReadPolicy::default`]: every read asks, and what is kept helps where
    /// the database fails.
    fn policy(&self) -> ReadPolicy {
        ReadPolicy::default()
    }

    /// Of what its answers are made, for changes to name. Default none.
    fn tags(&self) -> Tags {
        Tags::none()
    }

    /// Asks. `None` where there is no such thing. Runs again in a retry, so it must only read.
    fn fetch<'c>(
        &'c self,
        statements: &'c Statements<'c>,
    ) -> impl Future<Output = Result<Option<Self::Answer>, Error>> + Send + 'c;

    /// Whether [`fetch`](Self::fetch) asks one short statement, or a few, each of which stands for itself: in no
    /// transaction, and relying on nothing that another one left on the connection. Such questions may share a connection
    /// with others that are on their way, which raises throughput; an answer then waits for those before it. One that
    /// turns out slow is asked on a connection of its own for a while. Default `false`.
    fn is_short(&self) -> bool {
        false
    }

    /// The version of the thing that this answer shows, which grows with each change of it, at whichever replica: what
    /// [`UserSession`](super::UserSession) compares. Default `None`: nothing is compared.
    fn version(&self, answer: &Self::Answer) -> Option<u64> {
        let _ = answer;
        None
    }

    /// Who goes first where permits are short. Default [`Priority::Interactive`]; [`Priority::Batch`] for reports, exports and
    /// what else nobody waits for.
    fn priority(&self) -> Priority {
        Priority::Interactive
    }

    /// How old an answer this read can do with, whoever gives it. `None`, the default, leaves it to the settings: a standby
    /// within [`ReadConfig::standby_staleness`](super::ReadConfig), and in an outage whatever is kept, labelled. A
    /// duration binds standbys and cache alike; zero accepts the primary's answer only. The bound is judged when the
    /// question is sent.
    fn max_staleness(&self) -> Option<Duration> {
        None
    }

    /// What writes that this replica accepted and has not applied yet make of an answer: those that share a tag with this
    /// question ([`tags`](Self::tags), [`Commands::tags`](super::Commands::tags)), oldest first. Asked first with
    /// [`Base::Unknown`], in case they alone say what the answer will be, and again with the answer, whoever gave it. What
    /// changes is labelled [`StaleReason::Pending`](crate::cache::StaleReason). They are everybody's: where answers differ by
    /// principal, the tags, or the promises, must tell whose a write is. Default: nothing.
    fn overlay(&self, base: Base<'_, Self::Answer>, pending: &PendingWrites) -> Overlay<Self::Answer> {
        let _ = (base, pending);
        Overlay::Unchanged
    }

    /// Further cache entries that this answer is good for, such as the items of a list.
    fn fill(&self, answer: &Self::Answer, cache: &CacheFill<'_>) {
        let _ = (answer, cache);
    }
}

/// Who gave an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The primary, in this call.
    Primary,
    /// A standby, in this call.
    Standby {
        /// Which one: its place in the URL, from 0.
        host: usize,
        /// How far it was behind at the most when it was asked.
        lag: Duration,
    },
    /// The read cache.
    Cache {
        /// Time since the answer was known to be true.
        age: Duration,
    },
    /// Nobody: accepted writes alone say what it will be.
    Journal {
        /// Time since the newest of them was accepted.
        age: Duration,
    },
}

impl Source {
    /// The word used in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Standby { .. } => "standby",
            Self::Cache { .. } => "cache",
            Self::Journal { .. } => "journal",
        }
    }
}

/// An answer, how fresh it is, and who gave it. The answer comes out together with its label or not at all, so that
/// nobody passes a stale one on for fresh without having seen that it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Read<T> {
    value: Option<T>,
    freshness: Freshness,
    source: Source,
}

/// Without the answer, which may be a user's.
impl<T> fmt::Debug for Read<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Read")
            .field("is_something", &self.value.is_some())
            .field("freshness", &self.freshness)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl<T> Read<T> {
    pub(super) fn new(value: Option<T>, freshness: Freshness, source: Source) -> Self {
        Self { value, freshness, source }
    }

    /// The answer, `None` where the database said that there is none; what it must be labelled with; and who gave it.
    ///
    /// ```no_run
    /// # use ridethrough::db::Read;
    /// # fn example(read: Read<String>) {
    /// let (title, freshness, _source) = read.into_parts();
    /// println!("Ridethrough-Freshness: {freshness}\n\n{}", title.unwrap_or_default());
    /// # }
    /// ```
    #[must_use]
    pub fn into_parts(self) -> (Option<T>, Freshness, Source) {
        (self.value, self.freshness, self.source)
    }

    /// The answer where it is fresh, for what must not rest on an old one.
    ///
    /// # Errors
    /// The read as it is, where it is stale.
    pub fn into_fresh(self) -> Result<Option<T>, Self> {
        if self.freshness == Freshness::Fresh { Ok(self.value) } else { Err(self) }
    }

    /// The answer without its label, to lay pending writes over it.
    pub(super) fn unlabelled(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// What the answer must be labelled with.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        self.freshness
    }

    /// Who gave it.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }
}
