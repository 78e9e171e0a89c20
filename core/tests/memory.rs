//! What the read cache takes of the machine's memory beside what it says that it weighs. It looks at the whole process, so
//! it is a test binary of its own with one test in it.
#![cfg(target_os = "linux")]

use bytes::Bytes;
use ridethrough::cache::{CacheConfig, CacheKey, Principal, ReadCache, Tags};
use tokio::time::Instant;

const BYTES_MAX: u64 = 48 * 1024 * 1024;
/// Enough to push everything out several times.
const ANSWERS: usize = 400_000;

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.expect("the kernel tells in KiB") * 1024
}

/// The bound was one of keys and answers, and the cache took half as much again: a replica that was given so much memory
/// and no more was ended by the kernel in an outage.
#[test]
fn what_the_cache_weighs_is_what_it_takes() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let cache = ReadCache::new(CacheConfig { bytes_max: BYTES_MAX, ..CacheConfig::default() });
    let before = resident();
    for number in 0..ANSWERS {
        let now = Instant::now();
        let fill = cache.fill(now, now);
        let id = format!("{:032x}", random.u128(..));
        // As services make them: parts of something larger, and with room for more.
        let mut answer = Vec::with_capacity(512);
        answer.resize(random.usize(150..250), b'x');
        match number % 10 {
            0 => fill.put_nothing(&CacheKey::shared(format_args!("todo/{id}")), Tags::none),
            1 => {
                let key =
                    CacheKey::of(&Principal::new(&id), format_args!("a question of some length/{number}"));
                fill.put(&key, Bytes::from(vec![b'x'; 2_000]).slice(..1_000));
            }
            _ => {
                let key = CacheKey::shared(format_args!("todo/{id}"));
                fill.put_tagged(&key, Bytes::from(answer), || Tags::of([format!("todo/{id}")]));
                // Served once, as most are that were asked for.
                assert!(cache.peek(&key, now).is_none_or(|kept| kept.value().cloned().is_some()));
            }
        }
    }
    let (taken, (entries, weight)) = (resident().saturating_sub(before), cache.size());
    let share = taken as f64 / BYTES_MAX as f64;
    eprintln!("{entries} entries weigh {weight}, and take {taken} bytes, {share:.2} of the bound");
    assert!(weight > BYTES_MAX / 10 * 9, "it is full");
    assert!(
        (0.8..1.2).contains(&share),
        "{taken} bytes taken, {BYTES_MAX} allowed, {entries} entries, seed {seed}"
    );
}
