//! A body on its way in: within its time, and within the room that there is for all bodies together. What is too large for
//! one request is for who reads it to say.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{BoxError, body::Body};
use bytes::Bytes;
use http_body::Frame;
use ridethrough::drain::{InFlight, Working};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};

/// Why a body was not taken to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// It did not arrive in time.
    TooSlow,
    /// Bodies take all the room there is.
    NoRoom {
        /// When there may be room.
        retry_after: Duration,
    },
}

impl Cut {
    /// The one that an error of a body came from, if any.
    pub(crate) fn behind(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(cut) = error.downcast_ref() {
                return Some(*cut);
            }
            next = error.source();
        }
        None
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooSlow => "the body did not arrive in time",
            Self::NoRoom { .. } => "there is no room for the body",
        })
    }
}

impl Error for Cut {}

/// What a request with a body takes up; given back when dropped.
#[derive(Debug, Default)]
pub(super) struct Taken {
    room: Option<OwnedSemaphorePermit>,
    working: Option<Working>,
}

/// A body that takes room as it arrives, and a place among the requests in flight once it is there.
#[derive(Debug)]
pub(super) struct Inflow {
    body: Body,
    until: Pin<Box<Sleep>>,
    room: Arc<Semaphore>,
    in_flight: InFlight,
    retry_after: Duration,
    taken: Arc<Mutex<Taken>>,
}

impl Inflow {
    /// `body` within `limit`; with it what it takes up, to be dropped with the request.
    pub(super) fn new(
        body: Body,
        limit: Duration,
        room: Arc<Semaphore>,
        in_flight: InFlight,
        retry_after: Duration,
    ) -> (Self, Arc<Mutex<Taken>>) {
        let taken = Arc::<Mutex<Taken>>::default();
        let until = Box::pin(sleep(limit));
        (Self { body, until, room, in_flight, retry_after, taken: Arc::clone(&taken) }, taken)
    }

    fn take_room(&self, bytes: usize) -> Result<(), Cut> {
        let full = Cut::NoRoom { retry_after: self.retry_after };
        let bytes = u32::try_from(bytes).map_err(|_| full)?;
        let more = Arc::clone(&self.room).try_acquire_many_owned(bytes).map_err(|_| {
            metrics::counter!(super::SHED, "reason" => "bodies").increment(1);
            full
        })?;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut taken.room {
            Some(room) => room.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }

    fn arrived(&self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.working.get_or_insert_with(|| self.in_flight.begin());
    }
}

impl http_body::Body for Inflow {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.take_room(data.len())?;
                }
                if self.body.is_end_stream() {
                    self.arrived();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => {
                self.arrived();
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(self.until.as_mut().poll(context));
                Poll::Ready(Some(Err(Cut::TooSlow.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    const RETRY: Duration = Duration::from_secs(3);

    fn inflow(body: Body, room: &Arc<Semaphore>, in_flight: &InFlight) -> (Inflow, Arc<Mutex<Taken>>) {
        Inflow::new(body, Duration::from_secs(10), Arc::clone(room), in_flight.clone(), RETRY)
    }

    /// One chunk, and then nothing more.
    struct Unfinished(Option<Bytes>);

    impl http_body::Body for Unfinished {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            self.0.take().map_or(Poll::Pending, |chunk| Poll::Ready(Some(Ok(Frame::data(chunk)))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_cut_off_and_was_never_in_flight() {
        let (room, in_flight) = (Arc::new(Semaphore::new(100)), InFlight::default());
        let (inflow, taken) =
            inflow(Body::new(Unfinished(Some(Bytes::from_static(b"1234")))), &room, &in_flight);
        let error = inflow.collect().await.unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Cut::TooSlow));
        assert_eq!((room.available_permits(), in_flight.count()), (96, 0));
        drop(taken);
        assert_eq!(room.available_permits(), 100);
    }

    #[tokio::test]
    async fn a_body_takes_room_and_a_place_until_its_request_is_over() {
        let (room, in_flight) = (Arc::new(Semaphore::new(100)), InFlight::default());
        let (first, taken) = inflow(Body::new(Full::from(vec![0; 60])), &room, &in_flight);
        assert_eq!(in_flight.count(), 0);
        assert_eq!(first.collect().await.unwrap().to_bytes().len(), 60);
        assert_eq!((room.available_permits(), in_flight.count()), (40, 1));
        let (second, _) = inflow(Body::new(Full::from(vec![0; 60])), &room, &in_flight);
        let error = second.collect().await.unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Cut::NoRoom { retry_after: RETRY }));
        drop(taken);
        assert_eq!((room.available_permits(), in_flight.count()), (100, 0));
    }
}
