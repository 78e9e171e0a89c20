//! What the entries of the cache take in memory, so that the bound of the cache is one of memory and not of contents alone.
//! It reckons, and measures nothing: `core/tests/memory.rs` compares it with what the kernel counts.

use std::sync::Arc;

use quick_cache::{OptionsBuilder, Weighter, sync::Cache};

use super::{
    CacheKey,
    entry::{Entry, Known},
};

/// Place of one key in the tables, kept or only remembered: key, address of the entry, order, hash.
const PLACE: u64 = (size_of::<CacheKey>() + size_of::<Arc<Entry>>() + 32) as u64;
/// Sizes the tables. Fewer and larger answers than this waste nothing; more and smaller ones make the tables grow.
const TYPICAL_BYTES: u64 = 1_024;
/// Keys that are remembered after their answers have gone, for each that is expected: whoever asks for one of those soon
/// shows that it is worth keeping.
const REMEMBERED: f64 = 0.5;
/// Tables are never smaller or larger than this at the start, in entries.
const ENTRIES: (u64, u64) = (16, 1 << 20);

/// The table of a cache that takes about so many bytes of memory.
pub(super) fn table(bytes_max: u64) -> Cache<CacheKey, Arc<Entry>, ByMemory> {
    let entries = (bytes_max / TYPICAL_BYTES).clamp(ENTRIES.0, ENTRIES.1);
    let remembered = (entries as f64 * REMEMBERED) as u64 * PLACE;
    let options = OptionsBuilder::new()
        .estimated_items_capacity(usize::try_from(entries).unwrap_or(usize::MAX))
        .ghost_allocation(REMEMBERED)
        .weight_capacity(bytes_max.saturating_sub(remembered))
        .build()
        .expect("all that the table needs to know is said");
    Cache::with_options(options, ByMemory, Default::default(), Default::default())
}

/// Weighs an entry by the memory that it takes.
#[derive(Debug, Clone)]
pub(super) struct ByMemory;

impl Weighter<CacheKey, Arc<Entry>> for ByMemory {
    fn weight(&self, key: &CacheKey, entry: &Arc<Entry>) -> u64 {
        /// The two counts of an `Arc`.
        const COUNTS: usize = 2 * size_of::<usize>();
        let entry_bytes = allocated(COUNTS + size_of::<Entry>());
        let beside = key.allocated_bytes() + entry.known.allocated_bytes() + entry.tags.allocated_bytes();
        PLACE + (entry_bytes + beside) as u64
    }
}

/// What so many bytes take of an allocator that keeps a word beside each allocation and rounds up to two.
pub(super) fn allocated(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        bytes => (bytes + size_of::<usize>()).next_multiple_of(16).max(32),
    }
}

impl Known {
    fn allocated_bytes(&self) -> usize {
        /// What `Bytes` counts its holders with, once there is a second one: all who were served one.
        const SHARED: usize = 3 * size_of::<usize>();
        match self {
            Self::Answer(answer) if !answer.is_empty() => allocated(answer.len()) + allocated(SHARED),
            Self::Answer(_) | Self::Nothing | Self::Forgotten => 0,
        }
    }
}
