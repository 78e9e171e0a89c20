//! What a call pays for the library: the guards per call, a cache hit against the bare cache, a durable append against
//! the bare disk. Prints times and ratios measured in interleaved rounds of one run; fails on nothing.
//!
//! `cargo bench -p ridethrough --bench cost`, or `make bench`. With `-- admit 1000000` (or `admit-owned`, `reject`,
//! `deposit`, `hit`, `bare-hit`, `nothing`) it makes that many calls and nothing else, so that `valgrind --tool=callgrind` or `perf stat` can count
//! the instructions: the difference between two numbers of calls, divided by it.

#[path = "cost/path.rs"]
mod path;
#[path = "cost/pieces.rs"]
mod pieces;

use std::{
    fs::File,
    hint::black_box,
    io::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use ridethrough::{
    breaker::{Breaker, BreakerConfig, CallResult},
    budget::{RetryBudget, RetryBudgetConfig},
    cache::{CacheConfig, CacheKey, ReadCache},
    journal::{Journal, JournalConfig, NewEntry},
};
use tokio::time::Instant;

const ROUNDS: usize = 7;
const CALLS: u32 = 200_000;
const THREADS: usize = 2;
const APPEND_FOR: Duration = Duration::from_millis(700);
const PAYLOAD: usize = 256;

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [what, calls] = arguments.as_slice() {
        only(what, calls.parse().map_err(std::io::Error::other)?);
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    if arguments == ["--only-the-cache"] {
        return cache(&mut out);
    }
    writeln!(out, "median of {ROUNDS} interleaved rounds (smallest to largest)\n")?;
    guards(&mut out)?;
    pieces::measure(&mut out)?;
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

/// Nanoseconds per call where `THREADS` threads make it at the same time.
fn per_call_contended(call: impl Fn() + Sync) -> f64 {
    let barrier = std::sync::Barrier::new(THREADS);
    let figures: Vec<f64> = std::thread::scope(|scope| {
        let one = || {
            barrier.wait();
            per_call(&call)
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(one)).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    figures.iter().sum::<f64>() / figures.len().max(1) as f64
}

/// The guards that cost every call something, each with what it does once.
struct Guards {
    closed: Arc<Breaker>,
    open: Arc<Breaker>,
    budget: RetryBudget,
    now: Instant,
}

impl Guards {
    fn new() -> Self {
        let now = Instant::now();
        let closed = Breaker::new("bench", BreakerConfig::default(), now);
        let open = Breaker::new("bench", BreakerConfig::default(), now);
        open.probe_failed(now, now + Duration::from_secs(3600));
        Self { closed, open, budget: RetryBudget::new(RetryBudgetConfig::default(), now), now }
    }

    fn admit(&self) {
        if let Ok(admission) = black_box(&self.closed).admit(black_box(self.now)) {
            admission.record(CallResult::Success, black_box(self.now));
        }
    }

    fn admit_owned(&self) {
        if let Ok(admission) = black_box(&self.closed).admit_owned(black_box(self.now)) {
            admission.record(CallResult::Success, black_box(self.now));
        }
    }

    /// What the counting itself costs.
    fn nothing(&self) {
        black_box(black_box(&self.closed));
        black_box((black_box(self.now), black_box(self.now)));
    }

    fn reject(&self) {
        let _ = black_box(black_box(&self.open).admit(black_box(self.now)));
    }

    fn deposit(&self) {
        black_box(&self.budget).deposit(black_box(self.now));
    }
}

/// A hit of the cache with its freshness, or of the bare one, again and again.
fn only_hits(is_bare: bool, calls: u32) {
    let (now, key) = (Instant::now(), CacheKey::shared("todo:17"));
    let ours = ReadCache::new(CacheConfig::default());
    let bare: quick_cache::sync::Cache<CacheKey, Bytes> = quick_cache::sync::Cache::new(1_000);
    ours.fill(now, now).put(&key, Bytes::from(vec![b'x'; PAYLOAD]));
    bare.insert(key.clone(), Bytes::from(vec![b'x'; PAYLOAD]));
    for _ in 0..calls {
        match is_bare {
            true => drop(black_box(bare.get(black_box(&key)))),
            false => drop(black_box(ours.peek(black_box(&key), black_box(now)))),
        }
    }
}

/// One guard again and again and nothing else, for a tool that counts instructions.
fn only(what: &str, calls: u32) {
    if let "hit" | "bare-hit" = what {
        return only_hits(what == "bare-hit", calls);
    }
    let guards = Guards::new();
    let call = match what {
        "admit" => Guards::admit,
        "admit-owned" => Guards::admit_owned,
        "reject" => Guards::reject,
        "deposit" => Guards::deposit,
        _ => Guards::nothing,
    };
    for _ in 0..calls {
        call(&guards);
    }
}

fn guards(out: &mut impl std::io::Write) -> std::io::Result<()> {
    let guards = Guards::new();
    let mut figures: [Vec<f64>; 9] = std::array::from_fn(|_| Vec::new());
    for _ in 0..ROUNDS {
        let round = [
            per_call(|| {
                black_box(Instant::now());
            }),
            per_call(|| guards.admit()),
            per_call_contended(|| guards.admit()),
            per_call(|| guards.admit_owned()),
            per_call_contended(|| guards.admit_owned()),
            per_call(|| guards.reject()),
            per_call_contended(|| guards.reject()),
            per_call(|| guards.deposit()),
            per_call_contended(|| guards.deposit()),
        ];
        figures.iter_mut().zip(round).for_each(|(figures, figure)| figures.push(figure));
    }
    let [clock, admit, admits, owned, owneds, reject, rejects, deposit, deposits] = figures;
    let clock = line(out, "one clock read", "ns", clock)?;
    let admit = line(out, "breaker closed: admit and record, 1 thread", "ns", admit)?;
    line(out, "breaker closed: admit and record, 2 threads", "ns", admits)?;
    line(out, "breaker closed: admit_owned and record, 1 thread", "ns", owned)?;
    line(out, "breaker closed: admit_owned and record, 2 threads", "ns", owneds)?;
    line(out, "breaker open: rejection, 1 thread", "ns", reject)?;
    line(out, "breaker open: rejection, 2 threads", "ns", rejects)?;
    line(out, "retry budget: deposit, 1 thread", "ns", deposit)?;
    line(out, "retry budget: deposit, 2 threads", "ns", deposits)?;
    writeln!(out, "admit and record / one clock read = {:.2}\n", admit / clock)
}

fn cache(out: &mut impl std::io::Write) -> std::io::Result<()> {
    let now = Instant::now();
    let ours = ReadCache::new(CacheConfig::default());
    let bare: quick_cache::sync::Cache<CacheKey, Bytes> = quick_cache::sync::Cache::new(1_000);
    let keys: Vec<CacheKey> = (0..1_000).map(|key| CacheKey::shared(format_args!("todo:{key}"))).collect();
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
            version: 1,
            ordering_key: String::new(),
            retried: false,
        };
        if journal.append(entry).await.is_err() {
            return count;
        }
        count += 1;
    }
    count
}
