//! How pieces move through toxics as time goes on, and as toxics come, change and go. No socket and no clock.

use std::time::Duration;

use super::*;
use crate::toxic::chain::{Toxics, Witness};
use crate::toxic::kind::{Bandwidth, Latency, LimitData, Slicer, SlowClose, Timeout, Toxic};

const IDENTITY: Identity = Identity { seed: 1, connection: 0, stream: Stream::Downstream };

struct Bench {
    toxics: Toxics,
    pipeline: Pipeline,
    start: Instant,
}

impl Bench {
    fn new() -> Self {
        let start = Instant::now();
        Self { toxics: Toxics::new(), pipeline: Pipeline::new(IDENTITY, &[], start), start }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn put_on(&mut self, name: &str, kind: Kind, ms: u64) {
        let toxic = Toxic { name: name.to_owned(), ..Toxic::new(Stream::Downstream, kind) };
        self.toxics.put(toxic).unwrap().leave();
        self.adopt(ms);
    }

    fn take_off(&mut self, name: &str, ms: u64) {
        assert!(self.toxics.remove(name));
        self.adopt(ms);
    }

    fn adopt(&mut self, ms: u64) {
        let chain = self.toxics.watch().borrow().clone();
        self.pipeline.adopt(&chain, self.at(ms));
    }

    fn put(&mut self, data: &str, ms: u64) {
        self.pipeline.put(Piece::Data(Bytes::copy_from_slice(data.as_bytes())), self.at(ms));
    }

    fn end(&mut self, ms: u64) {
        self.pipeline.put(Piece::End(End::Finished), self.at(ms));
    }

    /// What comes out at that time, one text a piece, and when to ask again.
    fn take(&mut self, ms: u64) -> (Vec<String>, Option<u64>) {
        let mut pieces = Vec::new();
        loop {
            let wake = self.pipeline.pump(self.at(ms));
            let Some(piece) = self.pipeline.front() else {
                let wake = wake.map(|wake| u64::try_from((wake - self.start).as_millis()).unwrap());
                return (pieces, wake);
            };
            match piece {
                Piece::Data(data) => {
                    pieces.push(String::from_utf8(data.to_vec()).unwrap());
                    let bytes = data.len();
                    self.pipeline.wrote(bytes);
                }
                Piece::End(end) => {
                    pieces.push(format!("{end:?}"));
                    return (pieces, None);
                }
            }
        }
    }

    fn witness(&self, name: &str) -> Witness {
        self.toxics.all().into_iter().find(|(toxic, _)| toxic.name == name).unwrap().1
    }
}

fn latency(latency: i64) -> Kind {
    Kind::Latency(Latency { latency, jitter: 0 })
}

fn texts(pieces: &[&str]) -> Vec<String> {
    pieces.iter().map(|piece| (*piece).to_owned()).collect()
}

#[test]
fn without_toxics_everything_goes_straight_through() {
    let mut bench = Bench::new();
    bench.put("a", 0);
    bench.put("b", 0);
    bench.end(0);
    assert_eq!(bench.take(0), (texts(&["a", "b", "Finished"]), None));
}

#[test]
fn latency_delays_each_piece_by_itself_and_says_so() {
    let mut bench = Bench::new();
    bench.put_on("slow", latency(100), 0);
    bench.put("abc", 0);
    bench.put("de", 30);
    assert_eq!(bench.take(30), (texts(&[]), Some(100)));
    assert_eq!(bench.take(100), (texts(&["abc"]), Some(130)));
    assert_eq!(bench.take(130), (texts(&["de"]), None));
    let expected = Witness { connections: 1, delayed_bytes: 5, ..Witness::default() };
    assert_eq!(bench.witness("slow"), expected);
}

#[test]
fn a_toxic_that_changes_nothing_has_no_witness() {
    let mut bench = Bench::new();
    bench.put_on("none", latency(0), 0);
    bench.put_on("wide", Kind::Slicer(Slicer { average_size: 100, ..Slicer::default() }), 0);
    bench.put("abc", 0);
    assert_eq!(bench.take(0), (texts(&["abc"]), None));
    assert!(!bench.witness("none").bit() && !bench.witness("wide").bit());
}

#[test]
fn toxics_of_the_other_stream_do_nothing() {
    let mut bench = Bench::new();
    bench.toxics.put(Toxic::new(Stream::Upstream, latency(100))).unwrap().leave();
    bench.adopt(0);
    bench.put("a", 0);
    assert_eq!(bench.take(0), (texts(&["a"]), None));
}

#[test]
fn what_a_removed_toxic_held_goes_on_in_order() {
    let mut bench = Bench::new();
    bench.put_on("first", latency(100), 0);
    bench.put_on("second", latency(50), 0);
    bench.put("a", 0);
    assert_eq!(bench.take(100), (texts(&[]), Some(150)));
    bench.put("b", 100);
    // "a" waits before the second, "b" before the first, which goes.
    bench.take_off("first", 110);
    assert_eq!(bench.take(150), (texts(&["a", "b"]), None));

    bench.put("c", 200);
    bench.end(200);
    assert_eq!(bench.take(200), (texts(&[]), Some(250)));
    bench.take_off("second", 210);
    assert_eq!(bench.take(210), (texts(&["c", "Finished"]), None));
}

#[test]
fn an_update_holds_for_what_waits_already() {
    let mut bench = Bench::new();
    bench.put_on("slow", latency(10_000), 0);
    bench.put("a", 0);
    assert_eq!(bench.take(0), (texts(&[]), Some(10_000)));
    let changed = Toxic { kind: latency(20), ..bench.toxics.get("slow").unwrap() };
    bench.toxics.update(changed).unwrap();
    bench.adopt(5);
    assert_eq!(bench.take(5), (texts(&[]), Some(20)));
    assert_eq!(bench.take(20), (texts(&["a"]), None));
}

#[test]
fn a_limit_goes_on_counting_over_an_update_and_what_came_before_it_arrives() {
    let mut bench = Bench::new();
    bench.put_on("limit", Kind::LimitData(LimitData { bytes: 5 }), 0);
    bench.put_on("slow", latency(100), 0);
    bench.put("abc", 0);
    assert_eq!(bench.take(0), (texts(&[]), Some(100)));
    let changed =
        Toxic { kind: Kind::LimitData(LimitData { bytes: 4 }), ..bench.toxics.get("limit").unwrap() };
    bench.toxics.update(changed).unwrap();
    bench.adopt(0);
    bench.put("defg", 10);
    assert_eq!(bench.take(10), (texts(&[]), Some(100)));
    assert_eq!(bench.take(100), (texts(&["abc"]), Some(110)));
    assert_eq!(bench.take(110), (texts(&["d", "Stopped(Close)"]), None));
    assert!(!bench.pipeline.has_room(), "a stopped stream takes nothing more");
    let witness = bench.witness("limit");
    assert_eq!((witness.closed, witness.dropped_bytes), (1, 3));
}

#[test]
fn a_stream_that_lost_data_ends_with_the_toxic_that_took_it() {
    let mut bench = Bench::new();
    bench.put_on("slow", latency(100), 0);
    bench.put_on("hole", Kind::Timeout(Timeout { timeout: 0 }), 0);
    bench.put("a", 0);
    assert_eq!(bench.take(100), (texts(&[]), None));
    bench.put("b", 150);
    assert_eq!(bench.take(150), (texts(&[]), Some(250)));
    bench.take_off("hole", 160);
    assert_eq!(bench.take(160), (texts(&["Stopped(Close)"]), None));
}

#[test]
fn slow_close_delays_the_end_that_follows_the_data() {
    let mut bench = Bench::new();
    bench.put_on("slow", Kind::SlowClose(SlowClose { delay: 500 }), 0);
    bench.put("a", 0);
    bench.end(0);
    assert_eq!(bench.take(0), (texts(&["a"]), Some(500)));
    assert_eq!(bench.take(500), (texts(&["Finished"]), None));
    assert_eq!(bench.witness("slow").delayed_ends, 1);
}

#[test]
fn slices_pass_through_latency_behind_them_one_by_one() {
    let mut bench = Bench::new();
    bench.put_on("slices", Kind::slices(1, Duration::from_millis(2)), 0);
    bench.put_on("slow", latency(10), 0);
    bench.put("abc", 0);
    assert_eq!(bench.take(0), (texts(&[]), Some(2)));
    assert_eq!(bench.take(2), (texts(&[]), Some(4)));
    assert_eq!(bench.take(4), (texts(&[]), Some(10)));
    assert_eq!(bench.take(10), (texts(&["a"]), Some(12)));
    assert_eq!(bench.take(14), (texts(&["b", "c"]), None));
    assert_eq!(bench.witness("slices").packets, 2);
}

#[test]
fn a_stalled_stream_takes_no_more_than_its_bound() {
    let mut bench = Bench::new();
    bench.put_on("cut", Kind::Bandwidth(Bandwidth { rate: 0 }), 0);
    let piece = "x".repeat(32 * 1024);
    let mut taken = 0;
    while bench.pipeline.has_room() {
        bench.put(&piece, 0);
        taken += piece.len();
        assert_eq!(bench.take(0), (texts(&[]), None));
    }
    assert_eq!(taken, HELD_BYTES_MAX);
    bench.take_off("cut", 0);
    assert_eq!(bench.take(0).0.concat().len(), taken, "nothing is lost");
    assert!(bench.pipeline.has_room());
}

#[test]
fn slices_that_nobody_reads_are_bounded_in_number() {
    let mut bench = Bench::new();
    bench.put_on("slices", Kind::slices(1, Duration::ZERO), 0);
    bench.put(&"x".repeat(5_000), 0);
    assert_eq!(bench.pipeline.pump(bench.start), None);
    assert_eq!(bench.pipeline.out.pieces.len(), QUEUE_PIECES_MAX);
    assert_eq!(bench.take(0).0, vec!["x"; 5_000]);
}

/// Which of a thousand connections a toxicity meets.
fn met(seed: u64, toxicity: f64) -> Vec<u64> {
    let now = Instant::now();
    let toxics = Toxics::new();
    toxics.put(Toxic { toxicity, ..Toxic::new(Stream::Downstream, latency(10)) }).unwrap().leave();
    let chain = toxics.watch().borrow().clone();
    let identity = |connection| Identity { seed, connection, stream: Stream::Downstream };
    let is_met = |connection: &u64| {
        let mut pipeline = Pipeline::new(identity(*connection), &chain, now);
        pipeline.put(Piece::Data(Bytes::from_static(b"a")), now);
        pipeline.pump(now).is_some()
    };
    (0..1_000).filter(is_met).collect()
}

#[test]
fn toxicity_meets_its_share_of_connections_and_a_seed_repeats_which() {
    let some = met(5, 0.3);
    assert!((230..370).contains(&some.len()), "{}", some.len());
    assert_eq!(met(5, 0.3), some);
    assert_ne!(met(6, 0.3), some);
    assert_eq!((met(5, 0.0).len(), met(5, 1.0).len()), (0, 1_000));
    let more = met(5, 0.6);
    assert!(some.iter().all(|connection| more.contains(connection)), "more toxicity lets nobody off");
}

#[test]
fn whatever_toxics_come_and_go_the_bytes_keep_their_order() {
    let kinds = [
        Kind::Latency(Latency { latency: 20, jitter: 15 }),
        Kind::Bandwidth(Bandwidth { rate: 3 }),
        Kind::Slicer(Slicer { average_size: 7, size_variation: 3, delay: 300 }),
        Kind::SlowClose(SlowClose { delay: 40 }),
        Kind::of_type("noop").unwrap(),
    ];
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bench = Bench::new();
        let (mut sent, mut seen, mut names) = (String::new(), String::new(), Vec::new());
        for ms in 0..300 {
            match random.u32(0..12) {
                0 => {
                    let name = format!("toxic {ms}");
                    bench.put_on(&name, random.choice(&kinds).unwrap().clone(), ms);
                    names.push(name);
                }
                1 if !names.is_empty() => {
                    let name = names.swap_remove(random.usize(..names.len()));
                    bench.take_off(&name, ms);
                }
                2..=6 if bench.pipeline.has_room() => {
                    let data: String = (0..random.usize(1..40)).map(|_| random.alphanumeric()).collect();
                    sent += &data;
                    bench.put(&data, ms);
                }
                _ => {}
            }
            seen += &bench.take(ms).0.concat();
        }
        bench.end(300);
        bench.toxics.clear();
        bench.adopt(300);
        seen += &bench.take(300).0.concat();
        assert_eq!(seen, sent + "Finished", "seed {seed}");
    }
}
