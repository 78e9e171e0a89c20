//! What happened to todos, told to NATS JetStream (feature `nats`): at least once, the events of one todo in their order, by
//! one replica at a time, out of the outbox that the database fills in the transaction of each change. Nothing here is on
//! the way of a request: while the broker is away the events wait in the database.
//!
//! `section` has the settings, `outbox` what is asked of the database, `broker` the connection to NATS, `publisher` when
//! which of them is used. The page on it is `docs/events.md`.

#[cfg(feature = "nats")]
mod broker;
#[cfg(feature = "nats")]
mod outbox;
#[cfg(feature = "nats")]
mod publisher;
mod section;

#[cfg(feature = "nats")]
pub(crate) use self::publisher::Publisher;
pub(crate) use self::section::NatsSection;
