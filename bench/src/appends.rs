//! Durable appends of 256 bytes: through the journal, to a raw preallocated file with the same batching, and to three
//! storage engines, each with the same group commit in front.
//!
//! All take turns on one disk. The tasks of a round append one after the other, each as soon as its last one is durable.

mod engines;
mod group;

use std::{
    fmt::Write as _,
    future::Future,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use ridethrough::journal::{Journal, JournalConfig};
use tokio::runtime::Runtime;

use self::{
    engines::{Fjall, Prepared, RawFile, Redb, Sqlite},
    group::{Group, Sink},
};
use crate::measure::{cpu, median};

/// Of each payload.
pub const PAYLOAD_BYTES: usize = 256;
const ROUND: Duration = Duration::from_millis(400);

/// Something that makes payloads durable.
trait Appender: Clone + Send + Sync + 'static {
    /// Returns once the payload is durable.
    fn append(&self, number: u64) -> impl Future<Output = ()> + Send;
    /// Between two rounds, untimed.
    fn tidy(&self) {}
}

/// The journal, and the numbers of its appends.
#[derive(Clone)]
struct Ours {
    journal: Journal,
    payload: Bytes,
    settled: Arc<AtomicU64>,
}

impl Appender for Ours {
    async fn append(&self, number: u64) {
        let entry = crate::recovery::entry(number, self.payload.clone());
        self.journal.append(entry).await.expect("the journal takes it");
    }

    fn tidy(&self) {
        let last = *self.journal.changed().borrow();
        let first = self.settled.swap(last, Ordering::Relaxed) + 1;
        self.journal.settled(&(first..=last).collect::<Vec<_>>());
    }
}

impl<S: Sink> Appender for Group<S> {
    async fn append(&self, number: u64) {
        self.commit(number).await;
    }

    fn tidy(&self) {
        self.rewind();
    }
}

/// How one contender fared.
struct Line {
    name: &'static str,
    round: Box<dyn FnMut(&Runtime, usize) -> (f64, f64)>,
    per_second: Vec<f64>,
    cpu_micros: Vec<f64>,
}

impl Line {
    fn new(name: &'static str, appender: impl Appender) -> Self {
        let numbers = Arc::new(AtomicU64::new(0));
        let round = Box::new(move |runtime: &Runtime, tasks: usize| {
            let figures = round(runtime, &appender, &numbers, tasks);
            appender.tidy();
            figures
        });
        Self { name, round, per_second: Vec::new(), cpu_micros: Vec::new() }
    }
}

/// Appends a second, and microseconds of the processors for each.
fn round(runtime: &Runtime, appender: &impl Appender, numbers: &Arc<AtomicU64>, tasks: usize) -> (f64, f64) {
    let (started, cpu_before) = (Instant::now(), cpu());
    let end = started + ROUND;
    let done: u64 = runtime.block_on(async {
        let tasks: Vec<_> = (0..tasks)
            .map(|_| {
                let (appender, numbers) = (appender.clone(), Arc::clone(numbers));
                tokio::spawn(async move {
                    let mut done = 0;
                    while Instant::now() < end {
                        appender.append(numbers.fetch_add(1, Ordering::Relaxed)).await;
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        let mut done = 0;
        for task in tasks {
            done += task.await.expect("an appending task does not panic");
        }
        done
    });
    let (took, cpu_took) = (started.elapsed(), cpu() - cpu_before);
    (done as f64 / took.as_secs_f64(), cpu_took.as_secs_f64() * 1e6 / done as f64)
}

/// The tables for 1, 64 and 1,024 tasks, on the disk that holds `folder`.
pub fn tables(folder: &Path, rounds: usize) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be built");
    [1, 64, 1_024].map(|tasks| table(&runtime, folder, tasks, rounds)).into()
}

fn table(runtime: &Runtime, folder: &Path, tasks: usize, rounds: usize) -> String {
    let home = tempfile::tempdir_in(folder).expect("a folder can be made");
    let path = |name: &str| home.path().join(name);
    let config = JournalConfig {
        bytes_max: 4 << 30,
        entries_max: 8_000_000,
        segment_bytes: 64 << 20,
        ..JournalConfig::new(path("journal"))
    };
    let (journal, writer, _) = Journal::open(config).expect("a new journal can be opened");
    let writer = std::thread::spawn(move || writer.run());
    let payload = Bytes::from(vec![b'x'; PAYLOAD_BYTES]);
    let mut lines = vec![
        Line::new("ridethrough journal", Ours { journal: journal.clone(), payload, settled: Arc::default() }),
        Line::new("raw file, fallocate", Group::new(RawFile::new(&path("raw"), Prepared::Allocated))),
        Line::new("raw file, zeros written", Group::new(RawFile::new(&path("zeros"), Prepared::Written))),
        Line::new("redb", Group::new(Redb::new(&path("redb")))),
        Line::new("fjall", Group::new(Fjall::new(&path("fjall")))),
        Line::new("SQLite, WAL, full", Group::new(Sqlite::new(&path("sqlite")))),
    ];
    let count = lines.len();
    for number in 0..=rounds {
        for turn in 0..count {
            let line = &mut lines[if number % 2 == 0 { turn } else { count - 1 - turn }];
            let (per_second, cpu_micros) = (line.round)(runtime, tasks);
            // The first round only warms up.
            if number > 0 {
                line.per_second.push(per_second);
                line.cpu_micros.push(cpu_micros);
            }
        }
    }
    let text = text(&lines, tasks);
    drop((lines, journal));
    writer.join().expect("the journal's writer does not panic");
    text
}

fn text(lines: &[Line], tasks: usize) -> String {
    let writers = if tasks == 1 { "1 writer".to_owned() } else { format!("{tasks} tasks") };
    let mut text = format!(
        "durable appends of {PAYLOAD_BYTES} bytes, {writers}\n  {:<26}{:>12} {:>21} {:>14} {:>12}\n",
        "", "a second", "(least to most)", "cpu us, each", "ours/this"
    );
    let ours = lines.first().map_or(f64::NAN, |ours| median(&ours.per_second));
    for line in lines {
        let (least, most) =
            line.per_second.iter().fold((f64::MAX, f64::MIN), |(a, b), &x| (a.min(x), b.max(x)));
        let middle = median(&line.per_second);
        let _ = writeln!(
            text,
            "  {:<26}{middle:>12.0} {:>21} {:>14.2} {:>12.2}",
            line.name,
            format!("({least:.0} to {most:.0})"),
            median(&line.cpu_micros),
            ours / middle,
        );
    }
    text
}
