//! The binary: guards a run folder, or examines the machine.

use std::io::Write;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|arg| arg == ridethrough_chaos::guardian::SUB_COMMAND) {
        let folder = std::path::PathBuf::from(args.next().unwrap_or_default());
        std::process::exit(i32::from(ridethrough_chaos::guardian::watch(&folder)));
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let (text, _) = runtime.block_on(ridethrough_chaos::doctor::examine(&Default::default()));
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}
