//! W1, W2 and W3 against a slow checker that reads the definitions off the page: for every acknowledged
//! write count >= 1, for every write count <= 1, for every row somebody who may have written it.

use proptest::prelude::*;

use crate::checker::tests::builder::{Scene, ms};
use crate::history::{Action, Got};
use crate::verdict::State;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Answer {
    Acknowledged,
    Rejected,
    Unknown,
    Never,
}

#[derive(Debug, Clone)]
struct Create {
    answers: Vec<Answer>,
    copies: usize,
}

/// An update of a todo of its own, and what the row of the todo shows at the end.
#[derive(Debug, Clone)]
struct Update {
    answers: Vec<Answer>,
    applied: bool,
    version: i64,
    superseded: bool,
}

fn answers() -> impl Strategy<Value = Answer> {
    prop_oneof![
        4 => Just(Answer::Acknowledged),
        1 => Just(Answer::Rejected),
        1 => Just(Answer::Unknown),
        1 => Just(Answer::Never),
    ]
}

fn create() -> impl Strategy<Value = Create> {
    let copies = prop_oneof![2 => Just(0_usize), 6 => Just(1), 1 => Just(2)];
    (prop::collection::vec(answers(), 1..3), copies).prop_map(|(answers, copies)| Create { answers, copies })
}

fn update() -> impl Strategy<Value = Update> {
    let version = prop_oneof![8 => Just(0_i64), 1 => Just(1)];
    (prop::collection::vec(answers(), 1..3), any::<bool>(), version, prop::bool::weighted(0.2)).prop_map(
        |(answers, applied, extra, superseded)| Update {
            answers,
            applied,
            version: 1 + i64::from(applied) + extra,
            superseded,
        },
    )
}

/// How many writes are lost, doubled and phantoms, by the definitions alone.
fn slow(creates: &[Create], updates: &[Update], strangers: usize) -> (u64, u64, u64) {
    let (mut lost, mut doubled, mut phantom) = (0, 0, strangers as u64);
    let refused = |answers: &[Answer]| answers.iter().all(|answer| *answer == Answer::Rejected);
    for Create { answers, copies } in creates {
        lost += u64::from(answers.contains(&Answer::Acknowledged) && *copies == 0);
        doubled += u64::from(*copies > 1);
        phantom += if refused(answers) { *copies as u64 } else { 0 };
    }
    for Update { answers, applied, version, superseded } in updates {
        lost += u64::from(answers.contains(&Answer::Acknowledged) && !applied && !superseded);
        doubled += u64::from(*version != 1 + i64::from(*applied));
        phantom += u64::from(refused(answers) && *applied);
    }
    (lost, doubled, phantom)
}

fn send(scene: &mut Scene, action: Action, value: &str, todo: Option<&str>, answer: Answer) {
    let op = scene.write(action, value, todo, ms(100));
    match answer {
        Answer::Acknowledged => {
            let id = todo.map_or_else(|| format!("id-{value}"), str::to_owned);
            scene.end(op, "journaled", &id, value, ms(105));
        }
        Answer::Rejected => scene.end_write(value, "rejected", Got::Answer, ms(105)),
        Answer::Unknown => scene.end_write(value, "unknown", Got::Answer, ms(105)),
        Answer::Never => {}
    }
}

fn scene(creates: &[Create], updates: &[Update], strangers: usize) -> Scene {
    let mut scene = Scene::empty();
    for (number, update) in updates.iter().enumerate() {
        scene.warm(number);
        let (id, value) = (format!("id-warm-{number}"), format!("u{number}"));
        update.answers.iter().for_each(|answer| send(&mut scene, Action::Update, &value, Some(&id), *answer));
        if update.applied {
            scene.rows[number].title = value.clone();
        }
        scene.rows[number].version = update.version;
        if update.superseded {
            scene.status(&format!("key-{value}"), "superseded");
        }
    }
    for (number, create) in creates.iter().enumerate() {
        let value = format!("v{number}");
        create.answers.iter().for_each(|answer| send(&mut scene, Action::Create, &value, None, *answer));
        for copy in 0..create.copies {
            let id = if copy == 0 { format!("id-{value}") } else { format!("id-{value}-{copy}") };
            scene.row(&id, &value, 1, false);
        }
    }
    (0..strangers).for_each(|number| scene.row(&format!("id-s{number}"), &format!("s{number}"), 1, false));
    scene
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_fast_checker_finds_what_the_slow_one_finds(
        creates in prop::collection::vec(create(), 0..20),
        updates in prop::collection::vec(update(), 0..20),
        strangers in 0_usize..3,
    ) {
        let verdict = scene(&creates, &updates, strangers).judge();
        let numbers = &verdict.numbers;
        prop_assert_eq!((numbers.lost, numbers.doubled, numbers.phantom), slow(&creates, &updates, strangers));
        for (id, found) in [("W1", numbers.lost), ("W2", numbers.doubled), ("W3", numbers.phantom)] {
            let check = verdict.check(id).unwrap();
            prop_assert_eq!(check.state == State::Violated, found > 0);
            prop_assert_eq!(check.violations, found);
        }
    }
}
