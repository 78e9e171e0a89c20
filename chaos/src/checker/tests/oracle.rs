//! W5 against an exact checker that tries every order (Wing and Gong, with Lowe's memory of what was tried), on
//! histories small enough for it: registers, with writes of unknown end, and times that are often equal.

use std::collections::HashSet;

use proptest::prelude::*;

use crate::checker::judge;
use crate::history::{Action, Completion, Event, Invoke, Limits, Load, Run};
use crate::verdict::{State, Verdict};

/// One operation: a write of its own number, or a read that shows the number of an operation.
#[derive(Debug, Clone)]
struct Small {
    begin: u64,
    end: u64,
    write: bool,
    /// Of a write, whether nobody knows how it ended.
    unknown: bool,
    /// Of a read: 0 shows nothing yet, else one of the writes.
    shown: usize,
}

fn small() -> impl Strategy<Value = Vec<Small>> {
    let one = (0_u64..14, 0_u64..8, any::<bool>(), prop::bool::weighted(0.25), 0_usize..5);
    prop::collection::vec(one, 1..12).prop_map(|ops| {
        ops.into_iter()
            .map(|(begin, length, write, unknown, shown)| Small {
                begin,
                end: begin + length,
                write,
                unknown,
                shown,
            })
            .collect()
    })
}

/// What a read shows: the place of a write, or none for the beginning.
fn target(ops: &[Small], shown: usize) -> Option<usize> {
    let writes: Vec<usize> = (0..ops.len()).filter(|&place| ops[place].write).collect();
    if shown == 0 || writes.is_empty() { None } else { Some(writes[shown % writes.len()]) }
}

/// Whether there is an order: tries each operation that may come next, and remembers what it tried.
fn exact(ops: &[Small]) -> bool {
    fn search(
        ops: &[Small],
        done: u32,
        value: Option<usize>,
        tried: &mut HashSet<(u32, Option<usize>)>,
    ) -> bool {
        let open = |place: &usize| done & (1 << place) == 0;
        let must = |place: &usize| !(ops[*place].write && ops[*place].unknown);
        if (0..ops.len()).filter(open).all(|place| !must(&place)) {
            return true;
        }
        if !tried.insert((done, value)) {
            return false;
        }
        (0..ops.len()).filter(open).any(|place| {
            let op = &ops[place];
            let waits = (0..ops.len()).filter(open).any(|other| must(&other) && ops[other].end < op.begin);
            let fits = op.write || target(ops, op.shown) == value;
            let after = if op.write { Some(place) } else { value };
            !waits && fits && search(ops, done | (1 << place), after, tried)
        })
    }
    search(ops, 0, None, &mut HashSet::new())
}

fn judged(ops: &[Small]) -> Verdict {
    let mut events = vec![
        Event::Run(Box::new(Run { foreign: true, ..Run::default() })),
        Event::Load(Load { at_us: 0, until_us: 30, reads: 0, writes: 0 }),
    ];
    // Away from zero, which is before everything.
    let time = |time: u64| time + 1;
    for (place, op) in ops.iter().enumerate() {
        events.push(Event::Invoke(Invoke {
            op: place as u64,
            action: if op.write { Action::Set } else { Action::Read },
            at_us: time(op.begin),
            object: Some("x".into()),
            value: op.write.then(|| format!("v{place}")),
            ..Invoke::default()
        }));
        let shown = target(ops, op.shown).map(|write| format!("v{write}"));
        let values = (!op.write).then(|| shown.into_iter().collect());
        let done = Completion { op: place as u64, at_us: time(op.end), values, ..Completion::default() };
        events.push(if op.write && op.unknown { Event::Info(done) } else { Event::Ok(done) });
    }
    judge(&events, &Limits::default())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn zones_find_an_order_if_and_only_if_trying_all_of_them_does(ops in small()) {
        let verdict = judged(&ops);
        let check = verdict.check("W5").unwrap();
        if ops.iter().all(|op| op.write) {
            prop_assert_eq!(check.state, State::NotMeasured);
        } else {
            let state = if exact(&ops) { State::Held } else { State::Violated };
            prop_assert_eq!(check.state, state, "{:?}", check);
        }
    }
}

#[test]
fn the_exact_checker_knows_the_textbook_cases() {
    let write = |begin, end, unknown| Small { begin, end, write: true, unknown, shown: 0 };
    let read = |begin, end, shown| Small { begin, end, write: false, unknown: false, shown };
    // The number 1 is the first write where there is one, 2 the second of two.
    assert!(exact(&[write(0, 1, false), read(2, 3, 1)]));
    assert!(!exact(&[write(0, 1, false), read(2, 3, 0)]));
    assert!(exact(&[write(0, 5, false), read(2, 3, 0), read(4, 6, 1)]));
    assert!(!exact(&[write(0, 9, false), read(2, 3, 1), read(4, 6, 0)]));
    assert!(exact(&[write(0, 1, true), read(2, 3, 0), read(4, 6, 1)]));
}
