//! Objects and todos by number, so that a name that stands in a million lines is looked up once in each. Knows nothing of
//! what is done with them.

use crate::checker::index::{Map, Op};

/// The names, numbered as they come.
#[derive(Debug, Default)]
pub(crate) struct Names<'a> {
    names: Vec<&'a str>,
    numbers: Map<&'a str, u32>,
}

impl<'a> Names<'a> {
    /// The names in these operations, and for each operation the number of the object or todo that it is sent about.
    pub(crate) fn of(ops: &[Op<'a>]) -> (Self, Vec<Option<u32>>) {
        let mut names = Self::default();
        let about = |op: &Op<'a>| op.invoke.object.as_deref().or(op.invoke.todo.as_deref());
        let about = ops.iter().map(|op| about(op).map(|name| names.number(name))).collect();
        (names, about)
    }

    /// The number of a name, a new one where it has none.
    pub(crate) fn number(&mut self, name: &'a str) -> u32 {
        let next = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        let number = *self.numbers.entry(name).or_insert(next);
        if number == next {
            self.names.push(name);
        }
        number
    }

    /// The number of a name that has one.
    pub(crate) fn get(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// All names, in the order of their numbers.
    pub(crate) fn all(&self) -> &[&'a str] {
        &self.names
    }
}
