//! The verdicts as a Markdown summary, for the page of a CI run. Short: a table, what was broken, how to run it again.

use std::fmt::Write;

use crate::report::Entry;
use crate::report::index::headline;
use crate::report::sentences::count;
use crate::verdict::{Check, Outcome, State};

/// Lines of the history for each witness; the rest is in the report.
const LINES_MAX: usize = 6;

/// The whole summary.
pub(crate) fn text(entries: &[Entry<'_>]) -> String {
    let mut out = format!("## {}\n\n", headline(entries));
    out.push_str("| scenario | verdict | planned | good | stale | journaled | bad | lost | doubled |\n");
    out.push_str("|---|---|--:|--:|--:|--:|--:|--:|--:|\n");
    for entry in entries {
        row(&mut out, entry);
    }
    for entry in entries.iter().filter(|entry| entry.verdict.outcome != Outcome::Held) {
        details(&mut out, entry);
    }
    out
}

fn row(out: &mut String, entry: &Entry<'_>) {
    let verdict = entry.verdict;
    let numbers = &verdict.numbers;
    let (reads, writes) = (&numbers.reads, &numbers.writes);
    let sign = match verdict.outcome {
        Outcome::Held => "✅",
        Outcome::Violated => "❌",
        Outcome::Inconclusive => "❔",
        Outcome::HarnessError => "⚠️",
    };
    let cells = [
        reads.planned + writes.planned,
        reads.good() + writes.good(),
        reads.stale,
        writes.journaled,
        reads.bad() + writes.bad(),
        numbers.lost,
        numbers.doubled,
    ];
    // Writing to a string cannot fail.
    let _ = write!(out, "| {} | {sign} {} |", plain(entry.scenario()), verdict.outcome.word());
    for cell in cells {
        let _ = write!(out, " {} |", count(cell));
    }
    out.push('\n');
}

fn details(out: &mut String, entry: &Entry<'_>) {
    let verdict = entry.verdict;
    let _ = writeln!(
        out,
        "\n### {}: {}\n\n{}\n",
        plain(entry.scenario()),
        verdict.outcome.word(),
        plain(&verdict.reason)
    );
    let told = |check: &&Check| {
        check.state == State::Violated || (check.state == State::NotMeasured && check.required)
    };
    for check in verdict.checks.iter().filter(told) {
        let Check { id, title, measured, .. } = check;
        let _ = writeln!(out, "- **{}** {}: {}", plain(id), plain(title), plain(measured));
        if let Some(witness) = check.witnesses.first() {
            let _ = writeln!(out, "  - {}", plain(&witness.summary));
            for line in witness.lines.iter().take(LINES_MAX) {
                let _ = writeln!(out, "  - {}", plain(line));
            }
        }
    }
    if !verdict.rerun.is_empty() {
        let _ = writeln!(out, "\nAgain: {}", code(&verdict.rerun));
    }
}

/// Text of the run on one line, with nothing in it that Markdown or HTML would take for its own.
fn plain(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            control if control.is_control() => safe.push(' '),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '!' | '#' | '@' => {
                safe.push('\\');
                safe.push(letter);
            }
            other => safe.push(other),
        }
    }
    safe
}

/// A command as code. It must not close its own quotes.
fn code(command: &str) -> String {
    format!("`{}`", command.replace(|letter: char| letter == '`' || letter.is_control(), " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_run_cannot_become_a_table_a_link_or_markup() {
        assert_eq!(plain("a|b\n[x](y) <b> `c` @d"), "a\\|b \\[x\\](y) &lt;b&gt; \\`c\\` \\@d");
        assert_eq!(code("run `x`\n"), "`run  x  `");
    }
}
