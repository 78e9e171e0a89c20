//! The sub-command `explore`: its flags, its progress, and where its files go. The exploring is in `explore.rs`.

use std::fs;
use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;

use crate::cli::flags::Parts;
use crate::cli::{Interrupts, eprint, print, stack_options};
use crate::config::Config;
use crate::error::Error;
use crate::explore::{self, Options, Way};
use crate::verdict::Outcome;

#[derive(Debug, Args)]
pub(super) struct Explore {
    /// Through a plain driver, as an ordinary client writes, in the place of our server.
    #[arg(long)]
    raw: bool,
    /// Only this way to lose a connection: close, reset, swallow, blackhole, shut or kill; repeatable [default: all].
    #[arg(long, value_name = "WAY")]
    way: Vec<Way>,
    /// Runs at the same time, 1 to 8, each with a server of its own.
    #[arg(long, value_name = "N", default_value_t = 4)]
    lanes: usize,
    /// Where explore.txt and explore.json go.
    #[arg(long, value_name = "DIR", default_value = "target/explore")]
    out: PathBuf,
    #[command(flatten)]
    parts: Parts,
}

/// Explores, prints the table, and gives the exit code.
pub(super) async fn run(flags: Explore, mut config: Config) -> Result<u8, Error> {
    let Explore { raw, way, lanes, out, parts } = flags;
    parts.put_over(&mut config.stack);
    let ways = if way.is_empty() { Way::ALL.to_vec() } else { way };
    let options = Options { stack: stack_options(&config.stack), is_raw: raw, ways, lanes };
    let is_watched = std::io::stderr().is_terminal();
    let tell = |done: usize, of: usize| {
        if is_watched {
            eprint(&format!("\r{done} of {of} runs"));
        }
    };
    let mut interrupts = Interrupts::listen()?;
    let explored = tokio::select! {
        explored = Box::pin(explore::explore(&options, tell)) => Some(explored),
        () = interrupts.next() => None,
    };
    if is_watched {
        eprint("\n");
    }
    let Some(table) = explored else {
        print("interrupted; everything that was started is stopped and removed, and nothing is proved\n");
        return Ok(Outcome::Inconclusive.exit_code());
    };
    let table = table?;
    let text = table.text();
    fs::create_dir_all(&out).map_err(Error::io(format!("make the folder {}", out.display())))?;
    let json = serde_json::to_string_pretty(&table).unwrap_or_default();
    for (name, content) in [("explore.txt", &text), ("explore.json", &json)] {
        let path = out.join(name);
        fs::write(&path, content).map_err(Error::io(format!("write {}", path.display())))?;
    }
    print(&text);
    print(&format!("Table: {}\n", out.join("explore.txt").display()));
    Ok(table.outcome().exit_code())
}
