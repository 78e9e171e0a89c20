//! What a person sees while a run goes on: one line that rewrites itself on a terminal, a line per phase elsewhere.
//! It prints no results; those are the last lines of the command.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How often the line is rewritten on a terminal.
const EVERY: Duration = Duration::from_millis(200);
/// A longer line would wrap on a usual terminal, and a wrapped line cannot be rewritten.
const WIDTH: usize = 79;
const BAR_WIDTH: usize = 24;

/// The progress of a run, on standard error. Cheap to clone; all clones share.
#[derive(Debug, Clone)]
pub struct Progress {
    terminal: bool,
    quiet: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    text: String,
    since: Instant,
    total: Option<Duration>,
}

impl Progress {
    /// A progress on standard error: rewriting itself there when it is a terminal, line by line when it is not.
    #[must_use]
    pub fn on_stderr() -> Self {
        let state = State { text: String::new(), since: Instant::now(), total: None };
        Self { terminal: std::io::stderr().is_terminal(), quiet: false, state: Arc::new(Mutex::new(state)) }
    }

    /// A progress that nobody sees, for many runs in a row.
    #[must_use]
    pub fn quiet() -> Self {
        Self { terminal: false, quiet: true, ..Self::on_stderr() }
    }

    /// A new phase begins. `total` is how long it will take, where that is known.
    pub fn phase(&self, text: &str, total: Option<Duration>) {
        {
            let mut state = self.lock();
            text.clone_into(&mut state.text);
            state.since = Instant::now();
            state.total = total;
        }
        self.show(&format!("{text}\n"));
    }

    /// A new text within the phase, such as a fault that was put on.
    pub fn note(&self, text: &str) {
        text.clone_into(&mut self.lock().text);
        self.show(&format!("  {text}\n"));
    }

    /// Takes the line away, so that results can be printed.
    pub fn clear(&self) {
        if self.terminal {
            write("\r\x1b[2K");
        }
    }

    /// Keeps the line alive; never ends. Nothing to do where there is no terminal.
    ///
    /// # Cancel safety
    /// Dropping it stops the rewriting and leaves the line as it is.
    pub async fn keep_alive(&self) {
        if !self.terminal {
            return std::future::pending().await;
        }
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            ticks.tick().await;
            self.rewrite();
        }
    }

    fn show(&self, line: &str) {
        if self.terminal {
            self.rewrite();
        } else if !self.quiet {
            write(line);
        }
    }

    fn rewrite(&self) {
        let state = self.lock();
        let line = line(&state.text, state.since.elapsed(), state.total);
        drop(state);
        write(&format!("\r\x1b[2K{line}"));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn line(text: &str, elapsed: Duration, total: Option<Duration>) -> String {
    let seconds = elapsed.as_secs_f64();
    let line = match total {
        Some(total) if !total.is_zero() => {
            let share = (seconds / total.as_secs_f64()).min(1.0);
            #[expect(clippy::cast_possible_truncation, reason = "a share of at most 1 of a small number")]
            #[expect(clippy::cast_sign_loss, reason = "neither factor is negative")]
            let filled = (share * BAR_WIDTH as f64) as usize;
            let bar = "━".repeat(filled) + &"─".repeat(BAR_WIDTH.saturating_sub(filled));
            format!("{bar} {:4.1}/{:.0} s  {text}", seconds.min(total.as_secs_f64()), total.as_secs_f64())
        }
        _ => format!("{text} ({seconds:.0} s)"),
    };
    line.chars().take(WIDTH).collect()
}

fn write(text: &str) {
    let mut out = std::io::stderr().lock();
    // A closed terminal is no reason to end a run.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_how_far_it_is_and_never_wraps() {
        let half = line("database down", Duration::from_secs(9), Some(Duration::from_secs(18)));
        assert!(half.contains("9.0/18 s  database down"), "{half}");
        assert_eq!(half.chars().filter(|c| *c == '━').count(), BAR_WIDTH / 2);
        let over = line("late", Duration::from_secs(40), Some(Duration::from_secs(18)));
        assert!(over.contains("18.0/18 s"), "{over}");
        assert!(line(&"long ".repeat(50), Duration::ZERO, None).chars().count() <= WIDTH);
    }
}
