//! Questions on their way to a backend, so that of many who ask the same only one goes.
//!
//! It brings those together who want the same answer and tells them what came; the asking itself is done in `fetch`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::{HeaderMap, StatusCode};
use tokio::sync::watch;

use super::{key::Selecting, policy::Terms, store::Kept};
use crate::{body::Spring, ladder::Setback};

/// More questions than this at once go each for itself.
const FLIGHTS_MAX: usize = 16 * 1024;

/// A resource, and the fields known to select among its answers.
pub(super) type FlightKey = (Arc<str>, Selecting);

/// The beginning of an answer whose body is on its way.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    /// As others may have them: without what is meant for the one who asked.
    pub(super) headers: HeaderMap,
    pub(super) terms: Terms,
    pub(super) selecting: Selecting,
    pub(super) length: Option<u64>,
    pub(super) spring: Spring,
    pub(super) backend: usize,
}

/// What came of a question.
#[derive(Debug, Clone)]
pub(super) enum Landing {
    /// Nothing yet.
    OnItsWay,
    Streaming(Arc<Head>),
    Confirmed(Arc<Kept>),
    /// No good answer came.
    Setback(Setback),
    /// An answer for one client only, or none: ask for yourself.
    Released,
}

/// All questions on their way.
#[derive(Debug, Default, Clone)]
pub(super) struct Flights(Arc<Mutex<Board>>);

#[derive(Debug, Default)]
struct Board {
    flights: HashMap<FlightKey, (u64, watch::Sender<Landing>)>,
    /// The number of the next one.
    next: u64,
}

/// How somebody takes part.
pub(super) enum Role {
    /// First of all: goes and tells the others.
    Leader(Seat),
    /// Waits for the leader.
    Passenger(watch::Receiver<Landing>),
    /// There are too many questions on their way.
    Alone,
}

/// The leader's place. Dropped, those who wait are let go, and the next question goes by itself.
#[derive(Debug)]
pub(super) struct Seat {
    flights: Flights,
    key: FlightKey,
    number: u64,
    told: watch::Sender<Landing>,
}

impl Flights {
    /// Takes part in the question under `key`.
    pub(super) fn board(&self, key: FlightKey) -> Role {
        let mut board = self.lock();
        if let Some((_, told)) = board.flights.get(&key) {
            return Role::Passenger(told.subscribe());
        }
        if board.flights.len() >= FLIGHTS_MAX {
            return Role::Alone;
        }
        let (number, told) = (board.next, watch::Sender::new(Landing::OnItsWay));
        board.next += 1;
        board.flights.insert(key.clone(), (number, told.clone()));
        drop(board);
        Role::Leader(Seat { flights: self.clone(), key, number, told })
    }

    pub(super) fn count(&self) -> usize {
        self.lock().flights.len()
    }

    /// Clients that wait for, or take, what somebody asked.
    pub(super) fn waiting(&self) -> usize {
        self.lock().flights.values().map(|(_, told)| told.receiver_count()).sum()
    }

    /// From now on nobody joins what was asked about `name` before: it has been changed since.
    pub(super) fn forget(&self, name: &str) {
        self.lock().flights.retain(|(other, _), _| **other != *name);
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Tells everybody who waits, and who comes while the seat is held.
    pub(super) fn land(&self, landing: Landing) {
        self.told.send_replace(landing);
    }

    /// One more who wants to know.
    pub(super) fn passenger(&self) -> watch::Receiver<Landing> {
        self.told.subscribe()
    }

    /// Returns when nobody wants to know any more.
    ///
    /// # Cancel safety
    /// Waiting changes nothing.
    pub(super) async fn abandoned(&self) {
        self.told.closed().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut board = self.flights.lock();
        // After the resource was changed another one may go under this key.
        if board.flights.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            board.flights.remove(&self.key);
        }
        drop(board);
        self.told.send_if_modified(|landing| {
            let waits = matches!(landing, Landing::OnItsWay);
            if waits {
                *landing = Landing::Released;
            }
            waits
        });
    }
}
