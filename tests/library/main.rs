//! The library on a real PostgreSQL, without the server around it: what a caller is told as a type must be what the
//! database holds, whatever happens on the way. What a service answers over HTTP is in the end-to-end tests.

#[cfg(test)]
mod service;

#[cfg(test)]
mod boundaries;
#[cfg(test)]
mod experiments;
#[cfg(test)]
mod failover;
#[cfg(test)]
mod lost;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod notices;
#[cfg(test)]
mod outages;
#[cfg(test)]
mod plans;
#[cfg(test)]
mod pooled;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod rolling;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod shifts;
#[cfg(test)]
mod slow_wire;
#[cfg(test)]
mod sqlstates;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod two_hosts;

/// Figures for whoever reads the log of a run.
#[cfg(test)]
fn say(line: &str) {
    use std::io::Write as _;

    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
