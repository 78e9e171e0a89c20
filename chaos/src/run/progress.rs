//! What a person sees while a run goes on: a few lines that rewrite themselves on a terminal, a line per phase elsewhere.
//! What they say is in `live`. It prints no results; those are the last lines of the command.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::history::Recorder;
use crate::run::line::{Colour, Line};
use crate::run::live::Live;

/// How often the lines are rewritten on a terminal.
const EVERY: Duration = Duration::from_millis(200);
/// Where the terminal does not tell its size.
const USUAL_WIDTH: usize = 80;
const USUAL_HEIGHT: usize = 24;
/// On a terminal with fewer lines only the first one is shown: what scrolled away cannot be rewritten.
const HEIGHT_MIN: usize = 12;
const BAR_WIDTH: usize = 24;

/// The progress of a run, on standard error. Cheap to clone; all clones share.
#[derive(Debug, Clone)]
pub struct Progress {
    terminal: bool,
    colourful: bool,
    quiet: bool,
    state: Arc<Mutex<State>>,
    live: Arc<Mutex<Live>>,
}

#[derive(Debug)]
struct State {
    text: String,
    since: Instant,
    total: Option<Duration>,
    /// Lines that stand on the terminal now; the cursor is at the end of the last one.
    drawn: usize,
}

impl Progress {
    /// A progress on standard error: rewriting itself there when it is a terminal, line by line when it is not. Without
    /// colours where `NO_COLOR` is set.
    #[must_use]
    pub fn on_stderr() -> Self {
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let state = State { text: String::new(), since: Instant::now(), total: None, drawn: 0 };
        Self {
            terminal: std::io::stderr().is_terminal() && !is_dumb,
            colourful: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            quiet: false,
            state: Arc::new(Mutex::new(state)),
            live: Arc::default(),
        }
    }

    /// A progress that nobody sees, for many runs in a row.
    #[must_use]
    pub fn quiet() -> Self {
        Self { terminal: false, quiet: true, ..Self::on_stderr() }
    }

    /// Shows from now on what goes through this recorder, where there is a terminal to show it on.
    #[must_use]
    pub fn watching(&self, recorder: Recorder) -> Recorder {
        if !self.terminal {
            return recorder;
        }
        let live = Arc::clone(&self.live);
        recorder.watched_by(move |event| lock(&live).see(event))
    }

    /// A new phase begins. `total` is how long it will take, where that is known.
    pub fn phase(&self, text: &str, total: Option<Duration>) {
        {
            let mut state = lock(&self.state);
            text.clone_into(&mut state.text);
            state.since = Instant::now();
            state.total = total;
        }
        self.show(&format!("{text}\n"));
    }

    /// A new text within the phase, such as a fault that was put on.
    pub fn note(&self, text: &str) {
        text.clone_into(&mut lock(&self.state).text);
        self.show(&format!("  {text}\n"));
    }

    /// Takes the lines away, so that results can be printed.
    pub fn clear(&self) {
        if self.terminal {
            let drawn = std::mem::take(&mut lock(&self.state).drawn);
            write(&format!("{}\x1b[J", to_first(drawn)));
        }
    }

    /// Keeps the lines alive; never ends. Nothing to do where there is no terminal.
    ///
    /// # Cancel safety
    /// Dropping it stops the rewriting and leaves the lines as they are.
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
        let (width, height) = size();
        // A letter in the last column makes some terminals wrap.
        let width = width.saturating_sub(1);
        let mut state = lock(&self.state);
        let mut lines = vec![first(&state.text, state.since.elapsed(), state.total)];
        if height >= HEIGHT_MIN {
            lines.extend(lock(&self.live).lines(width));
        }
        let block = block(state.drawn, &lines, width, self.colourful);
        state.drawn = lines.len();
        // Under the lock, or two writers could disagree on where the cursor is.
        write(&block);
    }
}

/// All lines as one text, so that no terminal shows half of them: written over the `drawn` old ones, each cleared behind
/// its end only. Terminals that know the outer signs hold back until the last.
fn block(drawn: usize, lines: &[Line], width: usize, is_colourful: bool) -> String {
    let lines: Vec<String> =
        lines.iter().map(|line| format!("{}\x1b[K", line.show(width, is_colourful))).collect();
    format!("\x1b[?2026h{}{}\x1b[J\x1b[?2026l", to_first(drawn), lines.join("\n"))
}

/// Back to the beginning of the first of so many lines.
fn to_first(drawn: usize) -> String {
    match drawn.saturating_sub(1) {
        0 => "\r".to_owned(),
        up => format!("\r\x1b[{up}A"),
    }
}

/// Columns and lines of the terminal.
fn size() -> (usize, usize) {
    let told = rustix::termios::tcgetwinsize(std::io::stderr()).ok();
    let told = told.filter(|size| size.ws_col > 0 && size.ws_row > 0);
    told.map_or((USUAL_WIDTH, USUAL_HEIGHT), |size| (size.ws_col.into(), size.ws_row.into()))
}

fn first(text: &str, elapsed: Duration, total: Option<Duration>) -> Line {
    let seconds = elapsed.as_secs_f64();
    let mut line = Line::default();
    match total {
        Some(total) if !total.is_zero() => {
            let share = (seconds / total.as_secs_f64()).min(1.0);
            #[expect(clippy::cast_possible_truncation, reason = "a share of at most 1 of a small number")]
            #[expect(clippy::cast_sign_loss, reason = "neither factor is negative")]
            let filled = (share * BAR_WIDTH as f64) as usize;
            let (done, total) = (seconds.min(total.as_secs_f64()), total.as_secs_f64());
            line.add(Colour::Green, &"━".repeat(filled));
            line.add(Colour::Faint, &"─".repeat(BAR_WIDTH.saturating_sub(filled)));
            line.add(Colour::Plain, &format!(" {done:4.1}/{total:.0} s  {text}"));
        }
        _ => line.add(Colour::Plain, &format!("{text} ({seconds:.0} s)")),
    }
    line
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write(text: &str) {
    let mut out = std::io::stderr().lock();
    // A closed terminal is no reason to end a run.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, seconds: u64, total: Option<u64>) -> String {
        first(text, Duration::from_secs(seconds), total.map(Duration::from_secs)).show(79, false)
    }

    #[test]
    fn the_first_line_shows_how_far_it_is_and_never_wraps() {
        let half = shown("database down", 9, Some(18));
        assert!(half.contains("9.0/18 s  database down"), "{half}");
        assert_eq!(half.chars().filter(|c| *c == '━').count(), BAR_WIDTH / 2);
        let over = shown("late", 40, Some(18));
        assert!(over.contains("18.0/18 s"), "{over}");
        assert!(shown(&"long ".repeat(50), 0, None).chars().count() <= 79);
    }

    #[test]
    fn a_block_goes_back_over_the_old_lines_and_clears_what_is_left_of_them() {
        let lines = [first("one", Duration::ZERO, None), first("two", Duration::ZERO, None)];
        let text = block(3, &lines, 40, false);
        assert_eq!(text, "\x1b[?2026h\r\x1b[2Aone (0 s)\x1b[K\ntwo (0 s)\x1b[K\x1b[J\x1b[?2026l");
        assert_eq!(to_first(0), "\r");
        assert_eq!(to_first(1), "\r");
    }
}
