//! How long it takes to judge one million operations, and whether one violation among them is found.
//!
//! `cargo run --release -p ridethrough-chaos --example million [OPERATIONS]` prints the time by the clock, and that of
//! its threads on processors; the history is made, written and read back outside of what is measured as judging.

use std::io::Write;

use ridethrough_chaos::checker::judge;
use ridethrough_chaos::checker::synthetic::Synthetic;
use ridethrough_chaos::history::{self, Event};
use ridethrough_chaos::verdict::{State, Verdict};
use tokio::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let operations = std::env::args().nth(1).map_or(Ok(1_000_000), |count| count.parse())?;
    let synthetic = Synthetic { operations, ..Synthetic::default() };
    let (mut events, limits) = (synthetic.events(), synthetic.limits());
    tell("judged", || judge(&events, &limits))?;

    let path = std::env::temp_dir().join(format!("ridethrough-million-{}.jsonl", std::process::id()));
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path)?);
    for event in &events {
        serde_json::to_writer(&mut file, event)?;
        file.write_all(b"\n")?;
    }
    file.into_inner()?;
    let before = processor_time();
    let read = history::read(&path);
    let took = processor_time() - before;
    std::fs::remove_file(&path)?;
    say(&format!("read back: {} lines in {took:.2} s\n", read?.len()))?;

    // One fresh answer in the middle shows what its register held long before.
    let older = events.iter().find_map(|event| match event {
        Event::Ok(done) => {
            done.values.clone().filter(|values| !values.is_empty()).map(|values| (done.op, values))
        }
        _ => None,
    });
    let (first, values) = older.ok_or("no read showed a value")?;
    let object = events.iter().find_map(|event| match event {
        Event::Invoke(begun) if begun.op == first => begun.object.clone(),
        _ => None,
    });
    let half = operations as u64 / 2;
    let victim = events.iter().find_map(|event| match event {
        Event::Invoke(begun) if begun.op > half && begun.object == object && !begun.action.is_write() => {
            Some(begun.op)
        }
        _ => None,
    });
    for event in &mut events {
        if let Event::Ok(done) = event
            && Some(done.op) == victim
        {
            done.values = Some(values.clone());
            done.freshness = Some("fresh".into());
        }
    }
    tell("judged with one planted", || judge(&events, &limits))?;
    Ok(())
}

fn tell(what: &str, judge: impl FnOnce() -> Verdict) -> std::io::Result<()> {
    let (before, began) = (processor_time(), Instant::now());
    let verdict = judge();
    let (took, wall) = (processor_time() - before, began.elapsed().as_secs_f64());
    say(&format!(
        "{what}: {} in {took:.2} s of processor time, {wall:.2} s by the clock\n",
        verdict.outcome.word()
    ))?;
    for check in verdict.checks.iter().filter(|check| check.state == State::Violated) {
        say(&format!("{} {}: {}\n", check.id, check.title, check.measured))?;
        for witness in check.witnesses.iter().take(1) {
            say(&format!("  {}\n    {}\n", witness.summary, witness.lines.join("\n    ")))?;
        }
    }
    Ok(())
}

fn say(text: &str) -> std::io::Result<()> {
    std::io::stdout().lock().write_all(text.as_bytes())
}

/// Seconds that the threads of this program were on processors so far: the clock on the wall counts other programs, too.
fn processor_time() -> f64 {
    /// The kernel shows its clock in these, whatever it counts in.
    const TICKS_PER_SECOND: f64 = 100.0;
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may hold anything, the times in user and kernel mode are the 12th and the 13th.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 =
        rest.split_whitespace().skip(11).take(2).filter_map(|part| part.parse::<f64>().ok()).sum();
    ticks / TICKS_PER_SECOND
}
