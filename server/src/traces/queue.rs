//! Spans between those who end them and the one who sends them: a queue that makes nobody wait. What it has no room for is
//! dropped, what cannot be sent is lost, and both are counted. What sending is it does not know.

use std::{future::Future, time::Duration};

use opentelemetry::Context;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};
use ridethrough::drain::Draining;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};

/// Spans that are sent at once.
const BATCH_MAX: usize = 512;
/// How long a batch fills.
const BATCH_FILLS: Duration = Duration::from_secs(1);
/// After a failure: a collector that is away is not asked all the time, while the queue holds what it can.
const PAUSE: Duration = Duration::from_secs(2);
/// For what is left when the process ends.
const REST_MAX: Duration = Duration::from_secs(1);

/// Takes spans, or not, at once.
pub(super) trait Collect: Send + Sync {
    /// Whether they were taken.
    fn take(&self, spans: Vec<SpanData>) -> impl Future<Output = bool> + Send;
}

/// The end at which spans come in.
#[derive(Debug)]
pub(super) struct Queue(mpsc::Sender<SpanData>);

/// The end at which they are sent.
pub(super) struct Sender<C> {
    waiting: mpsc::Receiver<SpanData>,
    batch: Vec<SpanData>,
    collector: C,
    timeout: Duration,
    /// The last batch was lost.
    failing: bool,
}

/// A queue for `queue_max` spans; each batch may take `timeout` to be sent.
pub(super) fn queue<C: Collect>(queue_max: usize, collector: C, timeout: Duration) -> (Queue, Sender<C>) {
    let (queue, waiting) = mpsc::channel(queue_max);
    (Queue(queue), Sender { waiting, batch: Vec::new(), collector, timeout, failing: false })
}

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.0.try_send(span).is_err() {
            count("dropped", 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl<C: Collect> Sender<C> {
    #[cfg(test)]
    pub(super) fn into_collector(self) -> C {
        self.collector
    }

    /// Sends until the drain, and then for a moment what is left.
    pub(super) async fn run(mut self, mut draining: Draining) {
        loop {
            tokio::select! {
                biased;
                () = draining.requested() => break,
                is_more = self.fill() => if !is_more { return },
            }
            let mut drained = draining.clone();
            let over = async {
                drained.requested().await;
                sleep(REST_MAX).await;
            };
            tokio::select! {
                () = self.send() => {}
                () = over => break,
            }
            if self.failing {
                let _ = timeout(PAUSE, draining.requested()).await;
            }
        }
        let rest = async {
            while let Ok(span) = self.waiting.try_recv() {
                self.batch.push(span);
                if self.batch.len() >= BATCH_MAX {
                    self.send().await;
                }
            }
            self.send().await;
        };
        let _ = timeout(REST_MAX, rest).await;
        count("lost", self.waiting.len() + self.batch.len());
    }

    /// Fills a batch for a moment; false where nothing will come any more. What it holds stays when this is dropped.
    async fn fill(&mut self) -> bool {
        if self.batch.is_empty() && self.waiting.recv_many(&mut self.batch, BATCH_MAX).await == 0 {
            return false;
        }
        let until = Instant::now() + BATCH_FILLS;
        while self.batch.len() < BATCH_MAX {
            let room = BATCH_MAX - self.batch.len();
            match timeout_at(until, self.waiting.recv_many(&mut self.batch, room)).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        true
    }

    /// Sends the batch, once.
    async fn send(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return;
        }
        let mut lost = Lost(batch.len());
        let taken = matches!(timeout(self.timeout, self.collector.take(batch)).await, Ok(true));
        if taken {
            count("sent", std::mem::take(&mut lost.0));
        }
        match (std::mem::replace(&mut self.failing, !taken), taken) {
            (false, false) => tracing::warn!("spans are not taken; they are lost until they are"),
            (true, true) => tracing::info!("spans are taken again"),
            _ => {}
        }
    }
}

/// Spans on their way; counted as lost where nobody said that they arrived.
struct Lost(usize);

impl Drop for Lost {
    fn drop(&mut self) {
        count("lost", self.0);
    }
}

fn count(outcome: &'static str, spans: usize) {
    metrics::counter!("ridethrough_trace_spans_total", "outcome" => outcome).increment(spans as u64);
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
    use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
    use ridethrough::drain::Drain;

    use super::*;

    /// What becomes of a batch.
    #[derive(Clone, Copy)]
    enum Way {
        Taken,
        Refused,
        Hanging,
        Slow,
    }

    #[derive(Clone)]
    struct Planned(Arc<(AtomicUsize, AtomicUsize)>);

    impl Planned {
        fn new(way: Way) -> Self {
            Self(Arc::new((AtomicUsize::new(way as usize), AtomicUsize::new(0))))
        }

        fn goes(&self, way: Way) {
            self.0.0.store(way as usize, SeqCst);
        }

        fn largest(&self) -> usize {
            self.0.1.load(SeqCst)
        }
    }

    impl Collect for Planned {
        async fn take(&self, spans: Vec<SpanData>) -> bool {
            self.0.1.fetch_max(spans.len(), SeqCst);
            match self.0.0.load(SeqCst) {
                way if way == Way::Hanging as usize => std::future::pending().await,
                way if way == Way::Slow as usize => {
                    sleep(Duration::from_millis(500)).await;
                    true
                }
                way => way == Way::Taken as usize,
            }
        }
    }

    struct Bench {
        tracer: SdkTracer,
        planned: Planned,
        recorder: &'static PrometheusRecorder,
        drain: Drain,
        running: tokio::task::JoinHandle<()>,
    }

    /// A queue for 1000 spans, whose sender runs on the clock of the test.
    fn bench(way: Way) -> (Bench, metrics::LocalRecorderGuard<'static>) {
        let recorder: &'static PrometheusRecorder =
            Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        let guard = metrics::set_default_local_recorder(recorder);
        let planned = Planned::new(way);
        let (queue, sender) = queue(1_000, planned.clone(), Duration::from_secs(5));
        let tracer = SdkTracerProvider::builder().with_span_processor(queue).build().tracer("tests");
        let (drain, draining) = Drain::new();
        let running = tokio::spawn(sender.run(draining));
        (Bench { tracer, planned, recorder, drain, running }, guard)
    }

    impl Bench {
        fn spans(&self, count: usize) {
            for _ in 0..count {
                self.tracer.start("span").end();
            }
        }

        fn counted(&self, outcome: &str) -> u64 {
            let text = self.recorder.handle().render();
            let wanted = format!("ridethrough_trace_spans_total{{outcome=\"{outcome}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&wanted)).map_or(0, |count| count.parse().unwrap())
        }

        fn all(&self) -> [u64; 3] {
            ["sent", "lost", "dropped"].map(|outcome| self.counted(outcome))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn spans_are_sent_in_batches() {
        let (bench, _guard) = bench(Way::Taken);
        bench.spans(700);
        sleep(Duration::from_secs(3)).await;
        assert_eq!((bench.all(), bench.planned.largest()), ([700, 0, 0], BATCH_MAX));
    }

    /// Who ends a span never waits: it is not even asynchronous.
    #[tokio::test(start_paused = true)]
    async fn a_collector_that_hangs_costs_spans_and_nothing_else() {
        let (bench, _guard) = bench(Way::Hanging);
        bench.spans(5_000);
        assert_eq!(bench.all(), [0, 0, 4_000]);
        sleep(Duration::from_secs(6)).await;
        assert_eq!(bench.all(), [0, 512, 4_000], "a batch is given up after its time");
        bench.planned.goes(Way::Taken);
        sleep(Duration::from_secs(20)).await;
        assert_eq!(bench.all(), [488, 512, 4_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_is_away_is_asked_now_and_then_until_it_is_back() {
        let (bench, _guard) = bench(Way::Refused);
        for _ in 0..30 {
            bench.spans(1);
            sleep(Duration::from_secs(1)).await;
        }
        let [sent, lost, dropped] = bench.all();
        assert_eq!((sent, dropped), (0, 0));
        assert!((20..=30).contains(&lost), "{lost}");
        bench.planned.goes(Way::Taken);
        bench.spans(1);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(bench.all().iter().sum::<u64>(), 31);
        assert!(bench.counted("sent") > 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_drain_sends_what_is_left_and_waits_for_nobody_who_hangs() {
        for (way, counted) in [(Way::Taken, [600, 0, 0]), (Way::Hanging, [0, 600, 0])] {
            let (mut bench, _guard) = bench(way);
            bench.spans(600);
            bench.drain.begin();
            let began = Instant::now();
            (&mut bench.running).await.unwrap();
            assert!(began.elapsed() <= REST_MAX + Duration::from_millis(10));
            assert_eq!(bench.all(), counted);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_on_its_way_may_arrive_while_the_process_drains() {
        let (mut bench, _guard) = bench(Way::Slow);
        bench.spans(5);
        sleep(BATCH_FILLS + Duration::from_millis(100)).await;
        bench.drain.begin();
        (&mut bench.running).await.unwrap();
        assert_eq!(bench.all(), [5, 0, 0]);
    }
}
