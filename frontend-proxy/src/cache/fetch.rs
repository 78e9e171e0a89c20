//! Asking a backend on behalf of one or of many, and pouring what comes to those who wait and into the store.
//!
//! One request goes for all who want the same; whoever leaves harms nobody. An answer that is for one alone lets the
//! others go at once, each to ask for itself. What may be kept and shared is `policy`'s business.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, timeout_at},
};

use super::{
    Asked, Cache, PASS_FOR, answer,
    flight::{Landing, Role, Seat},
    policy::{self, Moment, NotKept, Question, Terms, Use},
    pour::{Keepable, Pouring, content_length, streaming},
    store::Kept,
};
use crate::{
    attempts::{Arrived, Ended, Forward},
    body::Download,
    fallback::Failure,
    headers,
    ladder::{Answer, CacheNote, Rung, Setback, Went, kept_answer},
    proxy::Proxy,
    upstream::AttemptError,
};

/// Whether to wait for others who ask the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    ForOthers,
    ForNobody,
}

/// What came of it, for one who asked.
pub(crate) enum Flown {
    Answered(Box<Answer>),
    /// Nothing for this one: look again.
    Again,
    Ended(Ended, bool),
    /// No good answer came, and this kept one may stand in.
    Setback(Arc<Kept>, Went, Setback),
}

/// A question with all that is needed to ask it, whoever stays to hear the answer.
pub(super) struct Trip<'a> {
    pub(super) asked: &'a Asked,
    kept: Option<&'a Arc<Kept>>,
    pub(super) forward: &'a mut Forward,
}

/// What came back from a backend.
enum Gone {
    /// For the one who asked, as it is.
    Private(Box<Arrived>),
    /// May be kept on these terms.
    Keepable(Box<Keepable>),
    /// What is kept still holds; with the cookies that came along.
    Confirmed(Arc<Kept>, Vec<HeaderValue>),
    Setback(Setback),
    Again,
    Ended(Ended, bool),
}

impl Trip<'_> {
    pub(super) fn went(&self) -> Went {
        let control = &self.asked.question.control;
        match self.kept {
            None => Went::Miss,
            Some(_) if control.no_cache || control.no_store || control.max_age.is_some() => Went::Request,
            Some(_) => Went::Stale,
        }
    }
}

impl Proxy {
    /// Asks for an answer, or waits for the one that somebody else asks for.
    ///
    /// # Cancel safety
    /// What others wait for goes on. What nobody waits for any more is given up, unless it fills the cache already.
    pub(crate) async fn fetch(
        self: &Arc<Self>,
        cache: &Cache,
        asked: &Asked,
        kept: Option<&Arc<Kept>>,
        forward: &mut Forward,
        wait: Wait,
    ) -> Flown {
        let is_shared =
            wait == Wait::ForOthers && asked.question.may_be_shared() && !cache.passes(asked, Instant::now());
        if !is_shared {
            return self.go_alone(asked, kept, forward).await;
        }
        match cache.flights.board(cache.flight_key(asked, &forward.headers)) {
            Role::Alone => self.go_alone(asked, kept, forward).await,
            Role::Passenger(told) => self.ride_along(cache, &Trip { asked, kept, forward }, told).await,
            Role::Leader(seat) => {
                let _stays = seat.passenger();
                let (tell, told) = oneshot::channel();
                let going =
                    Arc::clone(self).lead(asked.clone(), kept.cloned(), forward.detached(), (seat, tell));
                tokio::spawn(going);
                match by_deadline(forward, told).await {
                    Some(Ok((gone, went))) => self.flown(gone, went, kept, forward),
                    Some(Err(_)) => Flown::Again,
                    None => out_of_time(cache, &Trip { asked, kept, forward }),
                }
            }
        }
    }

    /// Asks anew for a kept answer that is being served, unless somebody does already.
    pub(crate) fn refresh(self: &Arc<Self>, asked: &Asked, kept: &Arc<Kept>, forward: &Forward) {
        let Some(cache) = &self.cache else { return };
        let Role::Leader(seat) = cache.flights.board(cache.flight_key(asked, &forward.headers)) else {
            return;
        };
        let (asked, kept, mut forward) = (asked.clone(), Arc::clone(kept), forward.detached());
        // Its client is answered already.
        forward.interim = None;
        let (tell, told) = oneshot::channel();
        let proxy = Arc::clone(self);
        tokio::spawn(async move {
            let _stays = seat.passenger();
            proxy.lead(asked, Some(kept), forward, (seat, tell)).await;
            drop(told);
        });
    }

    async fn go_alone(
        self: &Arc<Self>,
        asked: &Asked,
        kept: Option<&Arc<Kept>>,
        forward: &mut Forward,
    ) -> Flown {
        // Asking about something kept changes the request, and its own conditions are needed later.
        let mut changed = kept.map(|_| Forward { deadline: forward.deadline, ..forward.detached() });
        let mut trip = Trip { asked, kept, forward: changed.as_mut().unwrap_or(forward) };
        let gone = self.go(&mut trip).await;
        let went = trip.went();
        let (told, pouring) = self.settle(gone, &mut trip, None);
        if let Some(pouring) = pouring {
            tokio::spawn(Arc::clone(self).pour(pouring, None));
        }
        self.flown(told, went, kept, forward)
    }

    /// Goes for all who want the same answer.
    async fn lead(
        self: Arc<Self>,
        asked: Asked,
        kept: Option<Arc<Kept>>,
        mut forward: Forward,
        (seat, tell): (Seat, oneshot::Sender<(Told, Went)>),
    ) {
        let mut trip = Trip { asked: &asked, kept: kept.as_ref(), forward: &mut forward };
        let gone = tokio::select! {
            gone = self.go(&mut trip) => gone,
            () = seat.abandoned() => return,
        };
        let (told, pouring) = self.settle(gone, &mut trip, Some(&seat));
        let _ = tell.send((told, trip.went()));
        if let Some(pouring) = pouring {
            self.pour(pouring, Some(seat)).await;
        }
    }

    /// Asks, and finds out what the answer is good for.
    async fn go(&self, trip: &mut Trip<'_>) -> Gone {
        let Some(cache) = &self.cache else { return Gone::Again };
        let asks_about = trip.kept.filter(|kept| answer::ask_if_modified(kept, &mut trip.forward.headers));
        let asked_at = Instant::now();
        let (ended, may_have_acted) = self.attempts(trip.forward, asked_at, &mut fastrand::Rng::new()).await;
        let received = Moment::now();
        let set_back = |setback| {
            let stands_in = cache.stand_in(trip.asked, trip.kept, setback, received.instant).is_some();
            if stands_in {
                cache.note_setback(trip.asked, setback, received.instant);
            }
            stands_in
        };
        let arrived = match ended {
            Ok(arrived) => arrived,
            Err(Ended::Failed(failure)) if set_back(Setback::Failed(failure)) => {
                return Gone::Setback(Setback::Failed(failure));
            }
            Err(ended) => return Gone::Ended(ended, may_have_acted),
        };
        let status = arrived.response.status();
        match asks_about {
            Some(kept) if status == StatusCode::NOT_MODIFIED => {
                return self.confirm(cache, trip, kept, arrived, (asked_at, received));
            }
            _ => {}
        }
        let erred = Setback::Erred(status.as_u16());
        if policy::is_failing(status) && set_back(erred) {
            self.let_run_out(arrived);
            return Gone::Setback(erred);
        }
        let fields = (status, arrived.response.headers());
        match policy::admit(&trip.asked.question, fields, asked_at, received, &cache.rules) {
            Ok(terms) if cache.is_worth_keeping(trip.kept.map(AsRef::as_ref), &arrived) => {
                Gone::Keepable(Box::new(Keepable { arrived, terms, asked_at, received }))
            }
            Ok(_) => Gone::Private(Box::new(arrived)),
            Err(why) => {
                cache.note_refusal(trip.asked, why, received.instant);
                Gone::Private(Box::new(arrived))
            }
        }
    }

    /// Takes in a 304 about `kept`.
    fn confirm(
        &self,
        cache: &Cache,
        trip: &Trip<'_>,
        kept: &Arc<Kept>,
        arrived: Arrived,
        (asked_at, received): (Instant, Moment),
    ) -> Gone {
        let (parts, body) = arrived.response.into_parts();
        drop(Download::new(body, arrived.lease, self.config.backends.body_idle, None));
        let mut news = parts.headers;
        headers::strip_hop_by_hop(&mut news);
        if !answer::is_about(kept, &news) {
            cache.store.drop_one(&trip.asked.name, kept);
            return Gone::Again;
        }
        let cookies = news.get_all(header::SET_COOKIE).iter().cloned().collect();
        let mut merged = answer::merged_fields(kept, &news, received.unix);
        // Also HEAD confirms an answer to GET.
        let question = &Question { is_head: false, ..trip.asked.question.clone() };
        let admitted = policy::admit(question, (kept.status, &merged), asked_at, received, &cache.rules);
        merged.remove(header::AGE);
        let confirmed = |terms| Arc::new(Kept { headers: merged, terms, ..Kept::clone(kept) });
        match admitted {
            Ok(terms) => {
                let confirmed = confirmed(terms);
                cache.store.put(&trip.asked.name, Arc::clone(&confirmed), asked_at);
                Gone::Confirmed(confirmed, cookies)
            }
            // Confirmed to this client; what others get stays as it was.
            Err(_) if question.has_credentials() || question.control.no_store => {
                Gone::Confirmed(Arc::clone(kept), cookies)
            }
            Err(_) => {
                cache.store.drop_one(&trip.asked.name, kept);
                Gone::Confirmed(confirmed(kept.terms.clone()), cookies)
            }
        }
    }

    /// Tells those who wait, and makes of an answer what the one who asked gets and what goes into the store.
    fn settle(&self, gone: Gone, trip: &mut Trip<'_>, seat: Option<&Seat>) -> (Told, Option<Pouring>) {
        let land = |landing| {
            if let Some(seat) = seat {
                seat.land(landing);
            }
        };
        match gone {
            Gone::Keepable(keepable) => {
                let Some(cache) = &self.cache else { return (Told::Again, None) };
                let (answer, pouring, head) = self.keep(cache, *keepable, trip);
                let is_for_others =
                    pouring.kept.terms.judge(&trip.asked.question, Instant::now()) == Use::Fresh;
                if is_for_others {
                    land(Landing::Streaming(Arc::new(head)));
                } else {
                    // Kept to be asked about: nobody gets it without asking.
                    cache.pass(trip.asked, Instant::now());
                    land(Landing::Released);
                }
                (Told::Answered(Box::new(answer)), Some(pouring))
            }
            Gone::Confirmed(kept, cookies) => {
                land(Landing::Confirmed(Arc::clone(&kept)));
                (Told::Confirmed(kept, cookies), None)
            }
            Gone::Setback(setback) => {
                land(Landing::Setback(setback));
                (Told::Setback(setback), None)
            }
            Gone::Ended(ended, may_have_acted) => {
                if let Ended::Failed(failure) = ended {
                    land(Landing::Setback(Setback::Failed(failure)));
                }
                (Told::Ended(ended, may_have_acted), None)
            }
            Gone::Private(arrived) => {
                land(Landing::Released);
                let mut answer = self.pass(trip.forward, *arrived);
                answer.cache = Some(CacheNote {
                    went: Some(trip.went()),
                    status: Some(answer.response.status().as_u16()),
                    ..CacheNote::default()
                });
                (Told::Answered(Box::new(answer)), None)
            }
            Gone::Again => (Told::Again, None),
        }
    }

    /// Waits for the answer that somebody else has asked for.
    async fn ride_along(&self, cache: &Cache, trip: &Trip<'_>, mut told: watch::Receiver<Landing>) -> Flown {
        let forward = &*trip.forward;
        let landed =
            by_deadline(forward, told.wait_for(|landing| !matches!(landing, Landing::OnItsWay))).await;
        let landing = match landed {
            Some(Ok(landing)) => Landing::clone(&landing),
            Some(Err(_)) => return Flown::Again,
            None => return out_of_time(cache, trip),
        };
        let (went, now) = (trip.went(), Moment::now());
        let is_for_us = |terms: &Terms, selecting: &super::Selecting| {
            selecting.matches(&forward.headers)
                && terms.judge(&trip.asked.question, now.instant) == Use::Fresh
        };
        match landing {
            Landing::Streaming(head) if is_for_us(&head.terms, &head.selecting) => {
                let Some(reader) = head.spring.reader(head.length) else { return Flown::Again };
                let note = CacheNote {
                    went: Some(went),
                    status: Some(head.status.as_u16()),
                    collapsed: true,
                    ..CacheNote::default()
                };
                let origin = (Rung::Passed, head.backend, note);
                Flown::Answered(Box::new(streaming(head.status, head.headers.clone(), Some(reader), origin)))
            }
            Landing::Confirmed(kept) if is_for_us(&kept.terms, &kept.selecting) => {
                let mut answer = kept_answer(&kept, forward, Rung::Revalidated, Some(went), None, now);
                answer.cache = answer.cache.map(|note| CacheNote { collapsed: true, ..note });
                Flown::Answered(Box::new(answer))
            }
            Landing::Setback(setback) => {
                match (cache.stand_in(trip.asked, trip.kept, setback, now.instant), setback) {
                    (Some(kept), _) => Flown::Setback(kept, went, setback),
                    (None, Setback::Failed(failure)) => Flown::Ended(Ended::Failed(failure), false),
                    (None, Setback::Erred(_)) => Flown::Again,
                }
            }
            Landing::Streaming(_) | Landing::Confirmed(_) | Landing::Released | Landing::OnItsWay => {
                Flown::Again
            }
        }
    }

    /// What the one who asked gets.
    fn flown(&self, told: Told, went: Went, kept: Option<&Arc<Kept>>, forward: &Forward) -> Flown {
        match told {
            Told::Answered(answer) => Flown::Answered(answer),
            Told::Confirmed(kept, cookies) => {
                let mut answer =
                    kept_answer(&kept, forward, Rung::Revalidated, Some(went), None, Moment::now());
                for cookie in cookies {
                    answer.response.headers_mut().append(header::SET_COOKIE, cookie);
                }
                Flown::Answered(Box::new(answer))
            }
            Told::Setback(setback) => match kept {
                Some(kept) => Flown::Setback(Arc::clone(kept), went, setback),
                None => Flown::Again,
            },
            Told::Again => Flown::Again,
            Told::Ended(ended, may_have_acted) => Flown::Ended(ended, may_have_acted),
        }
    }
}

/// What the one who asked is told, before it is fitted to what exactly was asked.
enum Told {
    Answered(Box<Answer>),
    Confirmed(Arc<Kept>, Vec<HeaderValue>),
    Setback(Setback),
    Again,
    Ended(Ended, bool),
}

impl Cache {
    /// Whether an answer that may be kept is: not where it is too large, or an error in the place of something good.
    fn is_worth_keeping(&self, kept: Option<&Kept>, arrived: &Arrived) -> bool {
        let length = content_length(arrived.response.headers()).unwrap_or(0);
        let is_small = usize::try_from(length).is_ok_and(|length| length <= self.object_bytes_max);
        let is_worse = policy::is_failing(arrived.response.status())
            && kept.is_some_and(|kept| !policy::is_failing(kept.status));
        is_small && !is_worse
    }

    /// Remembers that an answer was for one alone, so that the next ones do not wait for each other.
    fn note_refusal(&self, asked: &Asked, why: NotKept, now: Instant) {
        if why != NotKept::NoStore || !asked.question.control.no_store {
            self.pass(asked, now);
        }
    }

    fn pass(&self, asked: &Asked, now: Instant) {
        self.passes.insert(Arc::clone(&asked.name), now + PASS_FOR);
    }
}

/// Waits as long as the caller has time; all that is waited for here ends by itself otherwise.
async fn by_deadline<F: Future>(forward: &Forward, waited_for: F) -> Option<F::Output> {
    match forward.deadline {
        None => Some(waited_for.await),
        Some(deadline) => timeout_at(deadline, waited_for).await.ok(),
    }
}

fn out_of_time(cache: &Cache, trip: &Trip<'_>) -> Flown {
    let failure = Failure::Attempt(AttemptError::TimedOut { sent: true, by_caller: true });
    let setback = Setback::Failed(failure);
    match cache.stand_in(trip.asked, trip.kept, setback, Instant::now()) {
        Some(kept) => Flown::Setback(kept, trip.went(), setback),
        None => Flown::Ended(Ended::Failed(failure), true),
    }
}
