//! `proxy`: the fault proxy alone, driven through toxiproxy's HTTP interface until it is interrupted. What the proxy does
//! is in `toxic`.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;

use clap::Args;
use tokio::net::TcpListener;

use crate::cli::{Interrupts, print};
use crate::error::Error;
use crate::toxic::address::Reach;
use crate::toxic::api::Api;
use crate::toxic::serve;

/// Where toxiproxy listens, so that its clients need no address.
const LISTEN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8474));

/// The flags of `proxy`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where the interface listens; port 0 is a free one, which is printed.
    #[arg(long, value_name = "ADDR", default_value_t = LISTEN)]
    listen: SocketAddr,
    /// Fixes jitter, slices and which connections a toxicity below 1 meets [default: random, printed].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// A JSON file of proxies to begin with, as toxiproxy's -config has it.
    #[arg(long, value_name = "FILE")]
    proxies: Option<PathBuf>,
    /// Also listen on and connect to addresses off the loopback; whoever reaches them then can break them.
    #[arg(long)]
    allow_remote: bool,
}

/// Serves until the first interrupt.
pub(super) async fn run(options: Options, interrupts: &mut Interrupts) -> Result<(), Error> {
    let reach = if options.allow_remote { Reach::Anywhere } else { Reach::Loopback };
    if reach == Reach::Loopback && !options.listen.ip().is_loopback() {
        let reason = "it is off the loopback of this machine, which needs --allow-remote";
        return Err(Error::state(format!("listen on {}", options.listen), reason));
    }
    // Small enough to be read out and typed in again.
    let seed = options.seed.unwrap_or_else(|| u64::from(fastrand::u32(..)));
    let mut api = Api::new(seed, reach);
    if let Some(path) = &options.proxies {
        let text = tokio::fs::read(path).await.map_err(Error::io(format!("read {}", path.display())))?;
        let wrong =
            |refusal| Error::state(format!("open the proxies of {}", path.display()), format!("{refusal}"));
        api.populate(&text).await.map_err(wrong)?;
    }
    let what = || format!("listen on {}", options.listen);
    let listener = TcpListener::bind(options.listen).await.map_err(Error::io(what()))?;
    let address = listener.local_addr().map_err(Error::io(what()))?;
    print(&format!("toxiproxy's interface is on http://{address} (seed {seed}); Ctrl-C stops it\n"));
    tokio::select! {
        () = serve::serve(listener, api) => {}
        () = interrupts.next() => {}
    }
    Ok(())
}
