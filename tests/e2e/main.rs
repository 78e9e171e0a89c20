//! The end-to-end tests: real binaries on a real PostgreSQL, broken for real. Each file is named after an incident, and
//! each test says what the service does then. What they share is in the harness.

#[cfg(test)]
mod outage;

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod blackhole;
#[cfg(test)]
mod broker;
#[cfg(test)]
mod brownout;
#[cfg(test)]
mod browser;
#[cfg(test)]
mod chaos;
#[cfg(test)]
mod commit;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod edges;
#[cfg(test)]
mod events;
#[cfg(test)]
mod explore;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod journal;
#[cfg(test)]
mod journal_disk;
#[cfg(test)]
mod killed;
#[cfg(test)]
mod leaks;
#[cfg(test)]
mod mended;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod owners;
#[cfg(test)]
mod pages;
#[cfg(test)]
mod probed;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod repeated;
#[cfg(test)]
mod roles;
#[cfg(test)]
mod rows;
#[cfg(test)]
mod schemathesis;
#[cfg(test)]
mod stale;
#[cfg(test)]
mod steps;
#[cfg(test)]
mod warm;
