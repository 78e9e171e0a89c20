//! The fake PostgreSQL as the driver sees it: what it answers, and each fault, in virtual time; and the database path over
//! it.

#[cfg(test)]
mod kit;
#[cfg(test)]
mod path;

#[cfg(test)]
mod answers;
#[cfg(test)]
mod cancellation;
#[cfg(test)]
mod commits;
#[cfg(test)]
mod cuts;
#[cfg(test)]
mod database_path;
#[cfg(test)]
mod deadlines;
#[cfg(test)]
mod doubts;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod hosts;
#[cfg(test)]
mod ills;
#[cfg(test)]
mod kept;
#[cfg(test)]
mod lanes;
#[cfg(test)]
mod outages;
#[cfg(test)]
mod outcomes;
#[cfg(test)]
mod pending;
#[cfg(test)]
mod priorities;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod sockets;
#[cfg(test)]
mod spans;
#[cfg(test)]
mod sqlstates;
#[cfg(test)]
mod stores;
#[cfg(test)]
mod transactions;
