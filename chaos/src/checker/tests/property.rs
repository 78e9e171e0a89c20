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

/// How many writes are lost, doubled and phantoms, by the definitions alone.
fn slow(creates: &[Create], strangers: usize) -> (u64, u64, u64) {
    let count = |bad: &dyn Fn(&Create) -> bool| creates.iter().filter(|create| bad(create)).count() as u64;
    let lost = count(&|create| create.answers.contains(&Answer::Acknowledged) && create.copies == 0);
    let doubled = count(&|create| create.copies > 1);
    let refused =
        creates.iter().filter(|create| create.answers.iter().all(|answer| *answer == Answer::Rejected));
    let phantoms: usize = refused.map(|create| create.copies).sum();
    (lost, doubled, (phantoms + strangers) as u64)
}

fn scene(creates: &[Create], strangers: usize) -> Scene {
    let mut scene = Scene::empty();
    for (number, create) in creates.iter().enumerate() {
        let value = format!("v{number}");
        for answer in &create.answers {
            scene.write(Action::Create, &value, None, ms(100));
            match answer {
                Answer::Acknowledged => scene.end_write(&value, "committed", Got::Answer, ms(105)),
                Answer::Rejected => scene.end_write(&value, "rejected", Got::Answer, ms(105)),
                Answer::Unknown => scene.end_write(&value, "unknown", Got::Answer, ms(105)),
                Answer::Never => {}
            }
        }
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
        strangers in 0_usize..3,
    ) {
        let verdict = scene(&creates, strangers).judge();
        let numbers = &verdict.numbers;
        prop_assert_eq!((numbers.lost, numbers.doubled, numbers.phantom), slow(&creates, strangers));
        for (id, found) in [("W1", numbers.lost), ("W2", numbers.doubled), ("W3", numbers.phantom)] {
            let check = verdict.check(id).unwrap();
            prop_assert_eq!(check.state == State::Violated, found > 0);
            prop_assert_eq!(check.violations, found);
        }
    }
}
