//! Which rules fire at a message that passes: they are counted here, over all sessions of a proxy. What a rule does is the
//! business of `relay`.

use tokio::time::Instant;

use crate::pgwire::cut::Action;
use crate::pgwire::follow::is_idle;
use crate::pgwire::frame::Kind;
use crate::pgwire::trigger::{Edge, Passing, Rule, Which};

/// Bites of one rule that are kept; more are counted.
const BITES_MAX: usize = 10_000;

/// One time that a rule had its effect: the witness of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bite {
    /// Right before the effect.
    pub at: Instant,
    /// The session, counted from 1; `None` before one has begun.
    pub session: Option<u64>,
    /// The process at the server that serves the session, where it has told.
    pub process: Option<i32>,
    /// At which message.
    pub message: Kind,
}

/// A rule that fires now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fired {
    pub(super) id: u64,
    pub(super) edge: Edge,
    pub(super) action: Action,
}

#[derive(Debug)]
struct Plan {
    id: u64,
    rule: Rule,
    scope: Scope,
    /// Messages that counted so far.
    seen: u64,
    is_spent: bool,
    bites: Vec<Bite>,
    bitten: u64,
}

/// Where messages count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Everywhere,
    /// From a message on that has not come yet.
    Awaited,
    Session(u64),
}

/// All rules of a proxy.
#[derive(Debug, Default)]
pub(super) struct Plans {
    next: u64,
    list: Vec<Plan>,
}

impl Plans {
    pub(super) fn add(&mut self, rule: Rule) -> u64 {
        self.next += 1;
        let scope = if rule.trigger.from.is_some() { Scope::Awaited } else { Scope::Everywhere };
        let (bites, bitten) = (Vec::new(), 0);
        self.list.push(Plan { id: self.next, rule, scope, seen: 0, is_spent: false, bites, bitten });
        self.next
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.list.retain(|plan| plan.id != id);
    }

    pub(super) fn has(&self, id: u64) -> bool {
        self.list.iter().any(|plan| plan.id == id)
    }

    /// Whether it will not fire any more.
    pub(super) fn is_spent(&self, id: u64) -> bool {
        self.list.iter().find(|plan| plan.id == id).is_none_or(|plan| plan.is_spent)
    }

    pub(super) fn bites(&self, id: u64) -> (u64, Vec<Bite>) {
        let plan = self.list.iter().find(|plan| plan.id == id);
        plan.map(|plan| (plan.bitten, plan.bites.clone())).unwrap_or_default()
    }

    pub(super) fn bit(&mut self, id: u64, bite: Bite) {
        if let Some(plan) = self.list.iter_mut().find(|plan| plan.id == id) {
            plan.bitten += 1;
            if plan.bites.len() < BITES_MAX {
                plan.bites.push(bite);
            }
        }
    }

    /// The rules that this message is meant by, in the order of planning.
    pub(super) fn fire(&mut self, passing: Passing<'_>) -> Vec<Fired> {
        let unspent = self.list.iter_mut().filter(|plan| !plan.is_spent);
        unspent.filter_map(|plan| plan.fire(passing)).collect()
    }

    /// A session is over, and with it what was counted in it.
    pub(super) fn ended(&mut self, session: u64) {
        for plan in self.list.iter_mut().filter(|plan| plan.scope == Scope::Session(session)) {
            plan.is_spent = true;
        }
    }
}

impl Plan {
    fn fire(&mut self, passing: Passing<'_>) -> Option<Fired> {
        let trigger = &self.rule.trigger;
        if trigger.session.is_some() && trigger.session != passing.session {
            return None;
        }
        if self.scope == Scope::Awaited
            && let Some(session) = passing.session
            && trigger.from.as_ref().is_some_and(|from| from.matches(passing))
        {
            self.scope = Scope::Session(session);
        }
        match self.scope {
            Scope::Awaited => return None,
            Scope::Session(session) if passing.session != Some(session) => return None,
            Scope::Session(_) | Scope::Everywhere => {}
        }
        let mut fires = false;
        if trigger.on.matches(passing) {
            self.seen += 1;
            fires = match trigger.which {
                Which::Every => true,
                Which::Nth(number) => number == self.seen,
            };
        }
        let is_over = matches!(self.scope, Scope::Session(_)) && is_idle(passing.frame);
        self.is_spent = is_over || (fires && trigger.which != Which::Every);
        let (id, edge, action) = (self.id, trigger.edge, self.rule.action.clone());
        fires.then_some(Fired { id, edge, action })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgwire::frame::tests::{FROM_CLIENT, FROM_SERVER, frames};
    use crate::pgwire::frame::{Frame, Sender};
    use crate::pgwire::message;
    use crate::pgwire::sql::Statement;

    fn plans(rules: &[&str]) -> Plans {
        let mut plans = Plans::default();
        for rule in rules {
            plans.add(rule.parse().unwrap());
        }
        plans
    }

    fn pass(plans: &mut Plans, session: u64, frames: &[Frame], sql: &str) -> Vec<u64> {
        let statement = Statement::of(sql.as_bytes());
        let mut fired = Vec::new();
        for frame in frames {
            let passing = Passing { session: Some(session), frame, statement: Some(&statement) };
            fired.extend(plans.fire(passing).into_iter().map(|fired| fired.id));
        }
        fired
    }

    #[test]
    fn the_nth_message_is_counted_over_all_sessions_and_fires_once() {
        let answers = frames(Sender::Server, FROM_SERVER);
        let complete: Vec<Frame> =
            answers.iter().filter(|frame| message::tag(frame).is_some()).cloned().collect();
        let mut plans = plans(&[
            "server CommandComplete(SELECT) #3: close",
            "session 2 server CommandComplete #2: close",
            "server CommandComplete every: hold 1ms",
        ]);
        assert_eq!(pass(&mut plans, 1, &complete, ""), [3]);
        assert_eq!(pass(&mut plans, 2, &complete, ""), [3]);
        assert_eq!(pass(&mut plans, 2, &complete, ""), [1, 2, 3]);
        assert_eq!(pass(&mut plans, 2, &complete, ""), [3]);
        assert!(plans.is_spent(1) && plans.is_spent(2) && !plans.is_spent(3));
    }

    #[test]
    fn counting_begins_at_a_message_and_ends_with_its_transaction() {
        let begin = [message::query("BEGIN")];
        let others = frames(Sender::Client, FROM_CLIENT);
        let ready: Vec<Frame> =
            frames(Sender::Server, FROM_SERVER).into_iter().filter(is_idle).take(1).collect();
        let mut plans = plans(&["from client Query(BEGIN) client any #3: close"]);
        assert_eq!(pass(&mut plans, 1, &others, "select 1"), [] as [u64; 0], "nothing has begun");
        assert_eq!(pass(&mut plans, 1, &begin, "BEGIN"), [] as [u64; 0]);
        assert_eq!(pass(&mut plans, 2, &others, "select 1"), [] as [u64; 0], "another session");
        assert_eq!(pass(&mut plans, 1, &others, "select 1"), [1]);
        // A transaction that is over before it comes to that takes the rule with it, and so does the end of its session.
        for ends in [true, false] {
            let mut plans = self::plans(&["from client Query(BEGIN) client any #3: close"]);
            pass(&mut plans, 1, &begin, "BEGIN");
            if ends {
                plans.ended(1);
            } else {
                pass(&mut plans, 1, &ready, "BEGIN");
            }
            assert!(plans.is_spent(1));
            pass(&mut plans, 1, &begin, "BEGIN");
            assert_eq!(pass(&mut plans, 1, &others, "select 1"), [] as [u64; 0]);
        }
    }
}
