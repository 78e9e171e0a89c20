//! The schedule of the load: a pure function of the seed and the plan. Sends nothing.

use std::collections::HashMap;
use std::time::Duration;

use fastrand::Rng;

use crate::history::{Action, Plan};

/// Share of the reads that ask for the list.
const LIST_SHARE: f64 = 0.2;
/// Share of the writes that create; the others update, as long as untouched warm todos are left.
const CREATE_SHARE: f64 = 0.6;
/// Share of the single reads that ask for a todo updated lately, where stale answers would show.
const RECENT_SHARE: f64 = 0.3;
/// How many of the latest updates count as lately.
const RECENT_MAX: usize = 20;

/// One planned request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Time after the start of the load.
    pub(crate) after: Duration,
    pub(crate) action: Action,
    /// Which of the warm todos it asks for or changes.
    pub(crate) warm: Option<usize>,
    pub(crate) value: Option<String>,
    pub(crate) key: Option<String>,
    /// Place in the schedule of the request that this one sends again.
    pub(crate) repeat_of: Option<usize>,
}

/// Which operations a load is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mix {
    /// Todos are created, updated once each, read and listed.
    Todos,
    /// Registers or lists are read, and written over and over by this action.
    Objects(Action),
}

/// All requests of the load, in the order of their planned times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) operations: Vec<Planned>,
}

impl Schedule {
    /// Builds the schedule. One request falls at a random moment of each slot of `1 / rate`, so that the
    /// count is exact and the arrivals are not in step with any timer of the service.
    pub(crate) fn build(seed: u64, plan: &Plan, mix: Mix) -> Self {
        let mut rng = Rng::with_seed(seed);
        let slots = u64::from(plan.rate_per_second) * plan.load_ms / 1_000;
        let slot_us = 1_000_000 / u64::from(plan.rate_per_second.max(1));
        let mut updates = Updates::new(plan.warm_todos as usize, &mut rng);
        let mut drafts = Vec::new();
        for slot in 0..slots {
            let after_us = slot * slot_us + rng.u64(0..slot_us.max(1));
            let planned = plan_one(slot, seed, plan, mix, &mut updates, &mut rng);
            if planned.action.is_write() && rng.f64() < plan.repeat_share {
                let after_us = (after_us + repeat_delay_us(&mut rng)).min(plan.load_ms * 1_000);
                drafts.push(Draft { after_us, repeat: true, planned: planned.clone() });
            }
            drafts.push(Draft { after_us, repeat: false, planned });
        }
        Self { operations: in_order(drafts) }
    }

    /// How many reads, or writes, are planned.
    pub(crate) fn count(&self, writes: bool) -> u64 {
        self.operations.iter().filter(|planned| planned.action.is_write() == writes).count() as u64
    }
}

struct Draft {
    after_us: u64,
    repeat: bool,
    planned: Planned,
}

/// Sorts by time, and points each repeated write to the place of its first sending.
fn in_order(mut drafts: Vec<Draft>) -> Vec<Planned> {
    drafts.sort_by_key(|draft| (draft.after_us, draft.repeat));
    let mut place_of_key = HashMap::new();
    let mut operations = Vec::with_capacity(drafts.len());
    for (place, Draft { after_us, repeat, mut planned }) in drafts.into_iter().enumerate() {
        planned.after = Duration::from_micros(after_us);
        if let Some(key) = &planned.key {
            if repeat {
                planned.repeat_of = place_of_key.get(key).copied();
            } else {
                place_of_key.insert(key.clone(), place);
            }
        }
        operations.push(planned);
    }
    operations
}

fn plan_one(slot: u64, seed: u64, plan: &Plan, mix: Mix, updates: &mut Updates, rng: &mut Rng) -> Planned {
    let read = rng.f64() < plan.read_share;
    let (action, warm) = if let Mix::Objects(write) = mix {
        (if read { Action::Read } else { write }, updates.any(rng))
    } else if read {
        if rng.f64() < LIST_SHARE { (Action::List, None) } else { (Action::Read, updates.any(rng)) }
    } else if rng.f64() < CREATE_SHARE {
        (Action::Create, None)
    } else {
        updates.next().map_or((Action::Create, None), |index| (Action::Update, Some(index)))
    };
    let value = action.is_write().then(|| format!("op-{seed:x}-{slot}"));
    let key = action.is_write().then(|| format!("key-{seed:x}-{slot}"));
    Planned { after: Duration::ZERO, action, warm, value, key, repeat_of: None }
}

/// Half of the repeated writes come as a double click, half as a late retry.
fn repeat_delay_us(rng: &mut Rng) -> u64 {
    if rng.bool() { rng.u64(10_000..60_000) } else { rng.u64(300_000..3_000_000) }
}

/// Hands each warm todo out for one update only, in random order.
struct Updates {
    order: Vec<usize>,
    used: usize,
}

impl Updates {
    fn new(todos: usize, rng: &mut Rng) -> Self {
        let mut order: Vec<usize> = (0..todos).collect();
        rng.shuffle(&mut order);
        Self { order, used: 0 }
    }

    fn next(&mut self) -> Option<usize> {
        let index = self.order.get(self.used).copied()?;
        self.used += 1;
        Some(index)
    }

    /// Any warm todo, more often one that was updated lately.
    fn any(&self, rng: &mut Rng) -> Option<usize> {
        if self.order.is_empty() {
            return None;
        }
        let place = if self.used > 0 && rng.f64() < RECENT_SHARE {
            rng.usize(self.used.saturating_sub(RECENT_MAX)..self.used)
        } else {
            rng.usize(0..self.order.len())
        };
        self.order.get(place).copied()
    }
}

/// The name of the register or list with this number.
pub(crate) fn object_key(seed: u64, index: usize) -> String {
    format!("object-{seed:x}-{index}")
}

/// Title of the warm todo with this number.
pub(crate) fn warm_title(seed: u64, index: usize) -> String {
    format!("warm-{seed:x}-{index}")
}

/// Key of the write that creates it.
pub(crate) fn warm_key(seed: u64, index: usize) -> String {
    format!("warm-key-{seed:x}-{index}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_seed_fixes_the_schedule_and_another_seed_changes_it() {
        let plan = Plan::default();
        assert_eq!(Schedule::build(11, &plan, Mix::Todos), Schedule::build(11, &plan, Mix::Todos));
        assert_ne!(Schedule::build(11, &plan, Mix::Todos), Schedule::build(12, &plan, Mix::Todos));
    }

    #[test]
    fn values_are_unique_and_a_repeat_carries_the_same_body() {
        let schedule = Schedule::build(5, &Plan::default(), Mix::Todos);
        let mut values = HashSet::new();
        let mut repeats = 0;
        for planned in &schedule.operations {
            if let Some(origin) = planned.repeat_of {
                let first = &schedule.operations[origin];
                assert_eq!(
                    (&first.key, &first.value, first.warm),
                    (&planned.key, &planned.value, planned.warm)
                );
                assert!(first.after <= planned.after);
                repeats += 1;
            } else if planned.action.is_write() {
                assert!(values.insert(planned.value.clone().unwrap()));
            }
        }
        assert!((20..80).contains(&repeats), "{repeats} repeats");
    }

    #[test]
    fn each_todo_is_updated_at_most_once_and_the_mix_is_as_planned() {
        let plan = Plan { warm_todos: 50, ..Plan::default() };
        let schedule = Schedule::build(5, &plan, Mix::Todos);
        let mut keys: HashMap<usize, HashSet<String>> = HashMap::new();
        for planned in schedule.operations.iter().filter(|planned| planned.action == Action::Update) {
            keys.entry(planned.warm.unwrap()).or_default().insert(planned.key.clone().unwrap());
        }
        assert_eq!(keys.len(), 50);
        assert!(keys.values().all(|keys| keys.len() == 1));
        let (reads, writes) = (schedule.count(false), schedule.count(true));
        let share = reads as f64 / (reads + writes) as f64;
        assert!((0.65..0.73).contains(&share), "{share}");
        assert!(schedule.operations.is_sorted_by_key(|planned| planned.after));
        assert!(schedule.operations.last().unwrap().after <= Duration::from_millis(plan.load_ms));
    }

    #[test]
    fn a_plan_of_nothing_is_an_empty_schedule() {
        let plan = Plan { rate_per_second: 0, warm_todos: 0, ..Plan::default() };
        assert!(Schedule::build(1, &plan, Mix::Todos).operations.is_empty());
        let plan = Plan { warm_todos: 0, ..Plan::default() };
        let schedule = Schedule::build(1, &plan, Mix::Todos);
        assert!(schedule.operations.iter().all(|planned| planned.warm.is_none()));
    }
}
