//! What a call pays for the library: the guards per call, a cache hit against the bare cache, a durable append against
//! the bare disk. Prints times and ratios measured in interleaved rounds of one run; fails on nothing.
//!
//! `cargo bench -p ridethrough --bench cost`, or `make bench`.

use std::{
    fs::File,
    hint::black_box,
    io::Write as _,
    path::Path,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use ridethrough::{
    breaker::{Breaker, BreakerConfig, CallResult},
    budget::{RetryBudget, RetryBudgetConfig},
    cache::{CacheConfig, ReadCache},
    journal::{Journal, JournalConfig, NewEntry},
};
use tokio::time::Instant;

const ROUNDS: usize = 7;
const CALLS: u32 = 200_000;
const APPEND_FOR: Duration = Duration::from_millis(700);
const PAYLOAD: usize = 256;

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "median of {ROUNDS} interleaved rounds (smallest to largest)\n")?;
    guards(&mut out)?;
    cache(&mut out)?;
    let folder = tempfile::tempdir()?;
    appends(&mut out, folder.path())
}

/// Nanoseconds per call.
fn per_call(mut call: impl FnMut()) -> f64 {
    let started = Instant::now();
    for _ in 0..CALLS {
        call();
    }
    started.elapsed().as_nanos() as f64 / f64::from(CALLS)
}

fn spread(mut figures: Vec<f64>) -> (f64, f64, f64) {
    figures.sort_by(f64::total_cmp);
    let at = |index: usize| figures.get(index).copied().unwrap_or_default();
    (at(figures.len() / 2), at(0), at(figures.len().saturating_sub(1)))
}

fn line(out: &mut impl std::io::Write, what: &str, unit: &str, figures: Vec<f64>) -> std::io::Result<f64> {
    let (median, least, most) = spread(figures);
    writeln!(out, "{what:<52} {median:>12.1} {unit}   ({least:.1} to {most:.1})")?;
    Ok(median)
}

fn guards(out: &mut impl std::io::Write) -> std::io::Result<()> {
    let now = Instant::now();
    let closed = Breaker::new("bench", BreakerConfig::default(), now);
    let open = Breaker::new("bench", BreakerConfig::default(), now);
    open.probe_failed(now, now + Duration::from_secs(3600));
    let budget = RetryBudget::new(RetryBudgetConfig::default(), now);
    let (mut admits, mut rejections, mut deposits, mut clocks) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        clocks.push(per_call(|| {
            black_box(Instant::now());
        }));
        admits.push(per_call(|| {
            if let Ok(admission) = closed.admit(now) {
                admission.record(CallResult::Success, now);
            }
        }));
        rejections.push(per_call(|| {
            let _ = black_box(open.admit(now));
        }));
        deposits.push(per_call(|| budget.deposit(now)));
    }
    let clock = line(out, "one clock read", "ns", clocks)?;
    let admit = line(out, "breaker closed: admit and record", "ns", admits)?;
    line(out, "breaker open: rejection", "ns", rejections)?;
    line(out, "retry budget: deposit", "ns", deposits)?;
    writeln!(out, "admit and record / one clock read = {:.2}\n", admit / clock)
}

fn cache(out: &mut impl std::io::Write) -> std::io::Result<()> {
    let now = Instant::now();
    let ours = ReadCache::new(CacheConfig::default());
    let bare: quick_cache::sync::Cache<String, Bytes> = quick_cache::sync::Cache::new(1_000);
    let keys: Vec<String> = (0..1_000).map(|key| format!("todo:{key}")).collect();
    for key in &keys {
        ours.fill(now, now).put(key, Bytes::from(vec![b'x'; PAYLOAD]));
        bare.insert(key.clone(), Bytes::from(vec![b'x'; PAYLOAD]));
    }
    let (mut our_hits, mut bare_hits) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        let mut next = keys.iter().cycle();
        our_hits.push(per_call(|| {
            black_box(next.next().and_then(|key| ours.peek(key, now)));
        }));
        let mut next = keys.iter().cycle();
        bare_hits.push(per_call(|| {
            black_box(next.next().and_then(|key| bare.get(key)));
        }));
    }
    let our_hit = line(out, "read cache: hit with freshness", "ns", our_hits)?;
    let bare_hit = line(out, "quick_cache: bare hit", "ns", bare_hits)?;
    writeln!(out, "hit / bare hit = {:.2}\n", our_hit / bare_hit)
}

fn appends(out: &mut impl std::io::Write, folder: &Path) -> std::io::Result<()> {
    let (mut raw, mut one, mut many) = (vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        raw.push(raw_appends(&folder.join(format!("raw-{round}")))?);
        one.push(journal_appends(&folder.join(format!("one-{round}")), 1)?);
        many.push(journal_appends(&folder.join(format!("many-{round}")), 64)?);
    }
    let raw = line(out, "raw file: write and fdatasync, 256 bytes", "/s", raw)?;
    let one = line(out, "journal: durable appends, 1 task", "/s", one)?;
    let many = line(out, "journal: durable appends, 64 tasks", "/s", many)?;
    writeln!(out, "journal with 1 task / raw = {:.2}, with 64 tasks / raw = {:.1}", one / raw, many / raw)
}

fn raw_appends(path: &Path) -> std::io::Result<f64> {
    let mut file = File::create(path)?;
    let record = [b'x'; PAYLOAD];
    let (started, mut count) = (Instant::now(), 0u32);
    while started.elapsed() < APPEND_FOR {
        file.write_all(&record)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}

fn journal_appends(folder: &Path, tasks: usize) -> std::io::Result<f64> {
    let (journal, writer, _) = Journal::open(JournalConfig::new(folder)).map_err(std::io::Error::other)?;
    let writer = std::thread::spawn(move || writer.run());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let started = Instant::now();
    let count: u64 = runtime.block_on(async {
        let workers: Vec<_> =
            (0..tasks).map(|task| tokio::spawn(append_all(journal.clone(), task, started))).collect();
        let mut count = 0;
        for worker in workers {
            count += worker.await.unwrap_or_default();
        }
        count
    });
    let per_second = count as f64 / started.elapsed().as_secs_f64();
    drop(journal);
    let _ = writer.join();
    Ok(per_second)
}

async fn append_all(journal: Journal, task: usize, started: Instant) -> u64 {
    let payload = Bytes::from(vec![b'x'; PAYLOAD]);
    let mut count = 0;
    while started.elapsed() < APPEND_FOR {
        let entry = NewEntry {
            key: format!("{task}-{count}"),
            kind: "bench".to_owned(),
            fingerprint: [0; 32],
            accepted_at: SystemTime::UNIX_EPOCH,
            payload: payload.clone(),
        };
        if journal.append(entry).await.is_err() {
            return count;
        }
        count += 1;
    }
    count
}
