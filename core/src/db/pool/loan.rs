//! A session on loan, with the permit of the call it serves.

use std::{
    mem,
    ops::Deref,
    sync::{Arc, OnceLock},
};

use deadpool_postgres::ClientWrapper;
use tokio::time::Instant;

use super::{Object, Shared};
use crate::{
    breaker::CallResult,
    bulkhead::{Ended, Permit},
    db::{
        classify::{self, Connection, Hearing, Verdict},
        session::{Identity, Limit, Mark, Session},
        statements::Statements,
    },
    error::{Error, ErrorClass, LastWords, Phase, Stage},
};

/// A session on loan. Unless it is given back with [`Loan::give_back`] or [`Loan::settle`] it goes to the reaper: a
/// dropped future can leave a statement running on it, and the next user must not get its answer.
#[derive(Debug)]
pub(crate) struct Loan {
    object: Option<Object>,
    shared: Arc<Shared>,
    permit: Option<Permit>,
    /// Where the stream of sent bytes was when COMMIT was handed over: from there on nothing may be cancelled.
    commit: OnceLock<Mark>,
    began: Mark,
}

/// A session whose user went away, on its way to the reaper. Unless it is given back it is destroyed, also where the
/// reaper itself is dropped: nobody has looked at what its user left behind.
#[derive(Debug)]
pub(in crate::db) struct Abandoned {
    object: Option<Object>,
    shared: Arc<Shared>,
    /// Free again when this is dropped.
    _permit: Option<Permit>,
    pub(in crate::db) is_committing: bool,
}

impl Loan {
    pub(super) fn new(object: Object, shared: Arc<Shared>, permit: Option<Permit>) -> Self {
        let began = object.ear().mark();
        Self { object: Some(object), shared, permit, commit: OnceLock::new(), began }
    }

    /// The session as queries use it, with the timer of what is asked on it.
    pub(crate) fn asking(&mut self) -> (Statements<'_>, &mut Limit) {
        let object = self.object.as_mut().expect("a loan holds its session until it is given back");
        let (client, limit) = object.asking();
        (Statements::new(client, &self.shared.preparing), limit)
    }

    /// The session as queries and commands use it.
    pub(crate) fn statements(&self) -> Statements<'_> {
        Statements::new(self, &self.shared.preparing)
    }

    /// Gives the session back for the next user. Only for a session that is idle and in no transaction.
    pub(crate) fn give_back(self) {
        self.give_back_at(Instant::now());
    }

    /// The same at `now`.
    pub(crate) fn give_back_at(mut self, now: Instant) {
        if let Some(object) = self.object.take() {
            returned(object, &self.shared, now);
        }
    }

    /// Gives it back or destroys it, as the verdict on an error says.
    pub(crate) fn settle(mut self, verdict: Verdict) {
        if verdict.class == ErrorClass::Heal {
            self.session().forget_statements();
            self.shared.preparing.forget();
        }
        if verdict.connection == Connection::Keep {
            return self.give_back();
        }
        if verdict.breaker == CallResult::Failure {
            self.shared.doubt();
        }
        if let Some(object) = self.object.take() {
            destroy(object);
        }
    }

    /// How the call went, for the bulkhead's limit; the permit stays taken.
    pub(crate) fn report(&self, ended: Ended, now: Instant) {
        if let Some(permit) = &self.permit {
            permit.report(ended, now);
        }
    }

    /// Judges an error with all that the session heard: a request of which no byte went out was provably not sent, and
    /// what the server said last is why a connection ended of which the driver knows only that.
    pub(crate) fn judge(
        &self,
        source: tokio_postgres::Error,
        stage: Stage,
        phase: Phase,
    ) -> (Error, Verdict) {
        let words = self.last_words();
        let is_unsent = |mark: &Mark| source.is_closed() && self.session().ear().seal_unless_sent(*mark);
        // The connection was gone before COMMIT reached it: the server can only have rolled back.
        let never_committed = phase == Phase::CommitSent && self.commit.get().is_some_and(is_unsent);
        let phase = if never_committed { Phase::InTransaction } else { phase };
        let hearing = Hearing {
            behind_pooler: !self.shared.dialler.can_cancel(),
            unsent: is_unsent(&self.began),
            cause: words.as_ref(),
        };
        classify::error_heard(source, stage, phase, hearing)
    }

    /// COMMIT is about to be sent. From here on the session is never cancelled: a cancelled COMMIT may have happened.
    pub(crate) fn begin_commit(&self) {
        let _ = self.commit.set(self.session().ear().mark());
    }

    /// Whether what was answered last is that the transaction was rolled back.
    pub(crate) fn has_rolled_back(&self) -> bool {
        self.session().ear().has_rolled_back()
    }

    /// Whether the server says that no transaction is open: the work that was to run inside of one has ended it.
    pub(crate) fn is_outside_of_transaction(&self) -> bool {
        self.session().ear().is_idle()
    }

    pub(super) fn session(&self) -> &Session {
        self.object.as_ref().expect("a loan holds its session until it is given back")
    }
}

/// What hosts, error causes and the resolution of lost commits ask for.
#[cfg_attr(not(test), expect(dead_code, reason = "goes when the last of them is called"))]
impl Loan {
    /// Leaves the session, with whatever runs on it, to the reaper. The same as dropping it.
    pub(crate) fn abandon(self) {}

    /// What the host said of itself when the session began.
    pub(crate) fn identity(&self) -> &Identity {
        self.session().identity()
    }

    /// Where the stream of sent bytes is now.
    pub(crate) fn mark(&self) -> Mark {
        self.session().ear().mark()
    }

    /// Whether any byte went out since `mark`. Proof only for a session that has ended.
    pub(crate) fn sent_since(&self, mark: Mark) -> bool {
        self.session().ear().sent_since(mark)
    }

    /// Whether any byte went out since the checkout. Proof only for a session that has ended.
    pub(crate) fn sent_anything(&self) -> bool {
        self.session().ear().sent_since(self.began)
    }

    /// Proves that nothing was sent since `mark` and that nothing will be; the session is of no use after that.
    pub(crate) fn seal_unless_sent(&self, mark: Mark) -> bool {
        self.session().ear().seal_unless_sent(mark)
    }

    /// What the server said last without being asked, or when it ended the session.
    pub(crate) fn last_words(&self) -> Option<LastWords> {
        self.session().ear().last_words()
    }

    /// The server's process of this session; behind a pooler, a number of the pooler's.
    pub(crate) fn process_id(&self) -> Option<i32> {
        self.session().ear().process_id()
    }
}

impl Deref for Loan {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        self.session()
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        let abandoned = Abandoned {
            object: Some(object),
            shared: Arc::clone(&self.shared),
            _permit: mem::take(&mut self.permit),
            is_committing: self.commit.get().is_some(),
        };
        if !self.shared.is_usable(abandoned.session()) || !self.shared.dialler.can_cancel() {
            return abandoned.destroy();
        }
        if let Some(refused) = self.shared.reaper.take_over(abandoned) {
            refused.destroy();
        }
    }
}

impl Abandoned {
    pub(in crate::db) fn session(&self) -> &Session {
        self.object.as_ref().expect("an abandoned session is held until it is given back")
    }

    pub(in crate::db) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// It was proven idle: back to the pool, and the permit is free.
    pub(in crate::db) fn give_back(mut self) {
        if let Some(object) = self.object.take() {
            returned(object, &self.shared, Instant::now());
        }
    }

    /// Ends the session; then the permit is free.
    pub(in crate::db) fn destroy(self) {}
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            destroy(object);
        }
    }
}

fn returned(mut object: Object, shared: &Shared, now: Instant) {
    // Whatever its user thought: the server's own word says that the next one would be inside of a transaction.
    let is_open = object.ear().is_in_transaction();
    if is_open || !shared.is_usable(&object) || shared.should_close(&object, now) {
        return destroy(object);
    }
    shared.vouch(&mut object, now);
}

fn destroy(object: Object) {
    drop(Object::take(object));
}
