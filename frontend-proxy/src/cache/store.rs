//! Kept answers in memory, bounded by bytes; those used least go first.
//!
//! It knows names and sizes and nothing of freshness. A store on disk can take its place: look up, put, forget.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use quick_cache::{OptionsBuilder, Weighter, sync::Cache};
use tokio::time::Instant;

use super::{key::Selecting, policy::Terms};

/// Answers of one resource, for different fields of requests; the one used least goes.
const VARIANTS_MAX: usize = 8;
/// What an answer takes besides its bytes.
const OVERHEAD: usize = 512;
/// Resources whose last change is remembered, so that an answer asked for before it is not kept after it.
const CHANGES_MAX: usize = 16 * 1024;

/// A whole answer, as it is served again.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) status: StatusCode,
    /// End-to-end fields, without those that must not be kept; `Content-Length` and `Date` are always there.
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) terms: Terms,
    pub(crate) selecting: Selecting,
}

/// All kept answers of one resource, the newest first.
#[derive(Debug, Clone, Default)]
struct Resource(Vec<Arc<Kept>>);

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<Arc<str>, Arc<Resource>> for ByBytes {
    fn weight(&self, name: &Arc<str>, resource: &Arc<Resource>) -> u64 {
        let kept: usize = resource.0.iter().map(|kept| kept.bytes()).sum();
        (name.len() + kept) as u64
    }
}

/// The store.
#[derive(Debug)]
pub(crate) struct Store {
    resources: Cache<Arc<str>, Arc<Resource>, ByBytes>,
    /// When a resource was last forgotten, by the hash of its name.
    changes: Cache<Arc<str>, Instant>,
    /// Held while a resource is read, changed and put back.
    changing: Mutex<()>,
}

impl Kept {
    /// Bytes it takes in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        let fields: usize =
            self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        self.body.len() + fields + self.selecting.bytes() + OVERHEAD
    }
}

impl Store {
    /// A store that takes `bytes` at the most.
    pub(crate) fn new(bytes: u64) -> Self {
        let options = OptionsBuilder::new()
            .shards(2)
            .estimated_items_capacity(usize::try_from(bytes / 8_192).unwrap_or(1 << 20).clamp(64, 1 << 20))
            .weight_capacity(bytes)
            .build()
            .expect("both capacities are set");
        let resources = Cache::with_options(options, ByBytes, Default::default(), Default::default());
        Self { resources, changes: Cache::new(CHANGES_MAX), changing: Mutex::new(()) }
    }

    /// The kept answer that `request` selects.
    pub(crate) fn find(&self, name: &str, request: &HeaderMap) -> Option<Arc<Kept>> {
        let resource = self.resources.get(name)?;
        resource.0.iter().find(|kept| kept.selecting.matches(request)).cloned()
    }

    /// The fields that select among the answers of a resource, with the values they have in `request`; as far as known.
    pub(crate) fn selecting(&self, name: &str, request: &HeaderMap) -> Selecting {
        let resource = self.resources.get(name);
        let newest = resource.as_ref().and_then(|resource| resource.0.first());
        newest.map(|kept| kept.selecting.of_request(request)).unwrap_or_default()
    }

    /// Keeps an answer to a question asked at `asked`, unless the resource has been changed since.
    pub(crate) fn put(&self, name: &Arc<str>, kept: Arc<Kept>, asked: Instant) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.changes.get(name).is_some_and(|changed| asked <= changed) {
            return;
        }
        let mut resource = self.resources.get(name).map(|found| Resource::clone(&found)).unwrap_or_default();
        resource.0.retain(|other| other.selecting != kept.selecting);
        resource.0.insert(0, kept);
        resource.0.truncate(VARIANTS_MAX);
        self.resources.insert(Arc::clone(name), Arc::new(resource));
    }

    /// Forgets one answer, where it is still the one that is kept.
    pub(crate) fn drop_one(&self, name: &str, kept: &Arc<Kept>) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((name, found)) = self.resources.remove(name) else { return };
        let left: Vec<_> = found.0.iter().filter(|other| !Arc::ptr_eq(other, kept)).cloned().collect();
        if !left.is_empty() {
            self.resources.insert(name, Arc::new(Resource(left)));
        }
    }

    /// Forgets a resource, because it was changed at `now`.
    pub(crate) fn forget(&self, name: &str, now: Instant) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.changes.insert(Arc::from(name), now);
        self.resources.remove(name);
    }

    /// Bytes taken now.
    pub(crate) fn bytes(&self) -> u64 {
        self.resources.weight()
    }

    /// Resources now.
    pub(crate) fn len(&self) -> usize {
        self.resources.len()
    }
}
