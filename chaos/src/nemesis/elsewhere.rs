//! The rows of the design's fault catalogue that are no fault of a run, and what proves them in its place: `list` and
//! `doctor` show them, so that no row is without an answer. Which kinds stand for the other rows is in `nemesis.rs`.

/// A row of the design that has no kind of its own.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its number, such as `J1`.
    pub id: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// What proves it, fit to follow "see".
    pub proved_by: &'static str,
}

/// All of them.
pub const ROWS: &[Row] = &[
    Row {
        id: "J1",
        about: "a server is killed at each step of its journal",
        proved_by: "the library's crash points (journal/tests/crash), and `make soak-kill` with real processes",
    },
    Row {
        id: "J2",
        about: "the power fails at each step of the journal",
        proved_by: "the library's power-cut images (journal/tests/crash), and `forgetful_disks` of a schedule",
    },
    Row {
        id: "R3",
        about: "recovery to cold caches and full journals, all at once",
        proved_by: "the scenario `cold-recovery`",
    },
    Row { id: "R4", about: "two faults at once", proved_by: "`swarm --pairs`" },
];

/// The numbers of all rows of the design.
pub const ALL: [(&str, u32); 5] = [("D", 20), ("N", 7), ("J", 5), ("C", 2), ("R", 4)];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::nemesis::catalogue;

    #[test]
    fn every_row_of_the_design_has_a_fault_or_something_else_that_proves_it() {
        let answered: BTreeSet<&str> =
            catalogue().map(|kind| kind.id).chain(ROWS.iter().map(|row| row.id)).collect();
        let wanted: BTreeSet<String> = ALL
            .iter()
            .flat_map(|(letter, last)| (1..=*last).map(move |number| format!("{letter}{number}")))
            .collect();
        let answered: BTreeSet<String> = answered.into_iter().map(str::to_owned).collect();
        assert_eq!(answered, wanted);
    }

    #[test]
    fn the_page_names_every_fault_and_every_row() {
        let page = include_str!("../../../docs/faults.md");
        for kind in catalogue() {
            assert!(page.contains(&format!("`{}`", kind.name)), "docs/faults.md does not name {}", kind.name);
        }
        for (letter, last) in ALL {
            for number in 1..=last {
                assert!(
                    page.contains(&format!("| {letter}{number} |")),
                    "docs/faults.md has no row {letter}{number}"
                );
            }
        }
    }
}
