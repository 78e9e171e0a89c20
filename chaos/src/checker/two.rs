//! Work on two threads at once, where a history is long enough for that to pay. What is worked on stays in its order, so
//! that a verdict does not depend on it. Knows nothing of histories.

/// For fewer operations a second thread costs more than it saves.
const MANY: usize = 20_000;

/// Does both, at the same time where `many` operations are behind them.
pub(crate) fn both<A, B: Send>(
    many: usize,
    one: impl FnOnce() -> A,
    other: impl FnOnce() -> B + Send,
) -> (A, B) {
    if many < MANY {
        return (one(), other());
    }
    std::thread::scope(|scope| {
        let other = scope.spawn(other);
        let one = one();
        // A check that panics must not pass for one that found nothing.
        (one, other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Makes something of each item, given with its place.
pub(crate) fn map<T: Sync, R: Send>(items: &[T], make: impl Fn(usize, &T) -> R + Sync) -> Vec<R> {
    let (head, tail) = items.split_at(items.len() / 2);
    let of = |part: &[T], from: usize| -> Vec<R> {
        part.iter().zip(from..).map(|(item, place)| make(place, item)).collect()
    };
    let (mut made, rest) = both(items.len(), || of(head, 0), || of(tail, head.len()));
    made.extend(rest);
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_by_two_stands_in_the_order_of_the_items() {
        for count in [0, 1, 2, 3, MANY - 1, MANY, MANY + 1] {
            let items: Vec<usize> = (0..count).map(|item| item * 2).collect();
            let made = map(&items, |place, item| (place, *item));
            assert!(made.iter().zip(0..).all(|(made, place)| *made == (place, place * 2)), "{count}");
            assert_eq!(made.len(), count);
        }
    }

    #[test]
    #[should_panic(expected = "told")]
    fn a_panic_of_the_other_is_not_lost() {
        both(MANY, || (), || panic!("told"));
    }
}
