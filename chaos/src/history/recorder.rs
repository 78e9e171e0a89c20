//! Writes the history while the run goes on: a cheap handle for every task, one thread that writes.
//!
//! It loses nothing silently: what did not fit in the queue or could not be written is counted, and
//! [`Writer::finish`] returns it as an error. It does not look at what it writes.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use tokio::time::Instant;

use crate::history::{Event, Note};

/// Lines that may wait for the writer. At a thousand lines per second this is a minute of a stalled disk.
const QUEUE_LINES_MAX: usize = 65_536;

enum Message {
    Line(Box<Event>),
    End,
}

/// The handle with which every part of a run writes to its history. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Recorder {
    lines: SyncSender<Message>,
    lost: Arc<AtomicU64>,
    start: Instant,
    watch: Option<Watch>,
}

/// Sees every event before it is queued.
#[derive(Clone)]
struct Watch(Arc<dyn Fn(&Event) + Send + Sync>);

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// Owns the writing thread; [`Writer::finish`] ends it and says whether the file is whole.
#[derive(Debug)]
#[must_use = "finish() is what tells whether every line reached the file"]
pub struct Writer {
    lines: SyncSender<Message>,
    lost: Arc<AtomicU64>,
    start: Instant,
    thread: Option<JoinHandle<io::Result<u64>>>,
}

/// Why a history is not whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The file could not be made or written.
    #[error("cannot write the history: {0}")]
    Io(#[from] io::Error),
    /// The disk was too slow for the queue.
    #[error("{0} lines of the history were lost because the disk could not keep up")]
    Lost(u64),
    /// The writing thread died.
    #[error("the thread that writes the history ended early")]
    Writer,
}

impl Recorder {
    /// Makes the file and starts its writer. The clock of the run starts here.
    ///
    /// # Errors
    /// [`RecordError::Io`] where the file or the thread cannot be made.
    pub fn create(path: &Path) -> Result<(Self, Writer), RecordError> {
        let file = File::create(path)?;
        let (lines, queue) = sync_channel(QUEUE_LINES_MAX);
        let thread =
            thread::Builder::new().name("history-writer".into()).spawn(move || write_lines(file, &queue))?;
        let lost = Arc::new(AtomicU64::new(0));
        let start = Instant::now();
        let recorder = Self { lines: lines.clone(), lost: Arc::clone(&lost), start, watch: None };
        Ok((recorder, Writer { lines, lost, start, thread: Some(thread) }))
    }

    /// Shows every event that goes through this handle, or a clone made of it later, to `watch` as well. It runs on the
    /// task that records, so it must be quick and never wait.
    #[must_use]
    pub fn watched_by(mut self, watch: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.watch = Some(Watch(Arc::new(watch)));
        self
    }

    /// Queues one line. Never waits; a line that finds the queue full is counted as lost, and the end of
    /// the run reports it.
    pub fn record(&self, event: Event) {
        if let Some(Watch(watch)) = &self.watch {
            watch(&event);
        }
        match self.lines.try_send(Message::Line(Box::new(event))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// As [`Recorder::record`], and waits for room in the queue: for what comes all at once, such as the final rows, which
    /// is nothing to watch. Blocks.
    pub fn record_in_time(&self, event: Event) {
        if self.lines.send(Message::Line(Box::new(event))).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Microseconds since the start of the run.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.us_of(Instant::now())
    }

    /// The time of an instant in this run; 0 for one before its start.
    #[must_use]
    pub fn us_of(&self, instant: Instant) -> u64 {
        micros(instant.saturating_duration_since(self.start))
    }

    /// The instant at which the run is `us` microseconds old.
    #[must_use]
    pub fn instant_of(&self, us: u64) -> Instant {
        self.start + std::time::Duration::from_micros(us)
    }
}

impl Writer {
    /// Writes what is queued, flushes and closes the file. Returns the number of lines written. Handles
    /// that are still about lose what they record after this (and nobody counts it), so stop their tasks
    /// first.
    ///
    /// Blocks until the disk has taken the queue; call it outside of async code or accept the wait.
    ///
    /// # Errors
    /// [`RecordError`] where the file is not whole.
    pub fn finish(mut self) -> Result<u64, RecordError> {
        let lost = self.lost.load(Ordering::Relaxed);
        if lost > 0 {
            let text = format!("{lost} lines of this history were lost because the disk could not keep up");
            let at_us = micros(self.start.elapsed());
            self.send(Message::Line(Box::new(Event::HarnessError(Note { at_us, text }))))?;
        }
        self.send(Message::End)?;
        let thread = self.thread.take().ok_or(RecordError::Writer)?;
        let written = thread.join().map_err(|_| RecordError::Writer)??;
        if lost > 0 { Err(RecordError::Lost(lost)) } else { Ok(written) }
    }

    fn send(&mut self, message: Message) -> Result<(), RecordError> {
        if self.lines.send(message).is_ok() {
            return Ok(());
        }
        // The thread has ended, so its own error says more than the closed queue does.
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => Err(RecordError::Io(error)),
            _ => Err(RecordError::Writer),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A run that fails on its way still leaves a readable file; nobody is left to be told more.
        if let Some(thread) = self.thread.take() {
            let _ = self.lines.send(Message::End);
            let _ = thread.join();
        }
    }
}

fn write_lines(file: File, queue: &Receiver<Message>) -> io::Result<u64> {
    let mut out = BufWriter::with_capacity(1 << 16, file);
    let mut written = 0;
    while let Ok(first) = queue.recv() {
        let mut next = Some(first);
        while let Some(message) = next {
            let Message::Line(event) = message else {
                out.flush()?;
                return Ok(written);
            };
            serde_json::to_writer(&mut out, &event)?;
            out.write_all(b"\n")?;
            written += 1;
            next = queue.try_recv().ok();
        }
        // Flushed whenever the queue is empty, so that a killed harness leaves all but the last lines.
        out.flush()?;
    }
    out.flush()?;
    Ok(written)
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{FORMAT, Run, read};

    fn note(number: u64) -> Event {
        Event::Note(Note { at_us: number, text: "a note".into() })
    }

    #[test]
    fn what_is_recorded_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let (recorder, writer) = Recorder::create(&path).unwrap();
        let run = Run { format: FORMAT, seed: u64::MAX, scenario: "db-kill".into(), ..Run::default() };
        let header = Event::Run(Box::new(run));
        recorder.record(header.clone());
        let threads: Vec<_> = (0..4)
            .map(|part| {
                let recorder = recorder.clone();
                thread::spawn(move || (0..500).for_each(|step| recorder.record(note(part * 1_000 + step))))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(writer.finish().unwrap(), 2_001);

        let events = read(&path).unwrap();
        assert_eq!(events.len(), 2_001);
        assert_eq!(events[0], header);
        for part in 0..4 {
            assert!((0..500).all(|step| events.contains(&note(part * 1_000 + step))));
        }
    }

    #[test]
    fn who_watches_sees_what_is_recorded_through_every_later_clone() {
        let folder = tempfile::tempdir().unwrap();
        let (recorder, writer) = Recorder::create(&folder.path().join("history.jsonl")).unwrap();
        let seen = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&seen);
        let recorder = recorder.watched_by(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        recorder.record(note(1));
        recorder.clone().record(note(2));
        assert_eq!((seen.load(Ordering::Relaxed), writer.finish().unwrap()), (2, 2));
    }

    #[test]
    fn a_full_disk_is_told_not_hidden() {
        let (recorder, writer) = Recorder::create(Path::new("/dev/full")).unwrap();
        (0..200).for_each(|step| recorder.record(note(step)));
        assert!(writer.finish().is_err());
    }
}
