//! The steps of the schema, numbered, and what a database that records some of them still needs. It asks no database.

use ridethrough::db::SCHEMA_SQL;
use sha2::{Digest as _, Sha256};

use super::NotMigrated;
use crate::identity::hexadecimal;

/// One step of the schema.
pub(super) struct Step {
    pub(super) version: i32,
    pub(super) name: &'static str,
    /// Checked against what was applied: an applied step must never be edited.
    pub(super) sql: &'static str,
    /// Statements of the library, which may be run again and are not part of the checksum.
    pub(super) library_sql: &'static str,
    pub(super) how: How,
    /// Whether this program's statements need it; what they do not need may come while they are at work.
    pub(super) needed: bool,
    /// The programs that can go on after it: those whose latest step is this one or a later one.
    pub(super) works_with: i32,
}

/// How a step is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// In one transaction.
    Transaction,
    /// As one statement that makes this index while others write, which PostgreSQL does in no transaction. Broken off, it
    /// leaves an index behind that counts for nothing, and must be dropped.
    Index(&'static str),
}

/// What was applied already, as the database records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) version: i32,
    pub(super) checksum: String,
    /// As [`Step::works_with`]; nothing where a program wrote it that did not know of that.
    pub(super) works_with: Option<i32>,
}

pub(super) const STEPS: [Step; 4] = [
    Step {
        version: 1,
        name: "todos",
        sql: include_str!("../../migrations/0001_todos.sql"),
        library_sql: SCHEMA_SQL,
        how: How::Transaction,
        needed: true,
        works_with: 1,
    },
    Step {
        version: 2,
        name: "owners-and-events",
        sql: include_str!("../../migrations/0002_owners_and_events.sql"),
        library_sql: "",
        how: How::Transaction,
        needed: true,
        works_with: 1,
    },
    Step {
        version: 3,
        name: "todos-of-owner",
        sql: include_str!("../../migrations/0003_todos_of_owner.sql"),
        library_sql: "",
        how: How::Index("todos_of_owner"),
        needed: false,
        works_with: 1,
    },
    Step {
        version: 4,
        name: "outbox",
        sql: include_str!("../../migrations/0004_outbox.sql"),
        library_sql: "",
        how: How::Transaction,
        // Only who publishes needs it, and waits for it.
        needed: false,
        works_with: 1,
    },
];

/// The steps that a database which records these still needs.
pub(super) fn missing(recorded: &[Recorded]) -> Result<Vec<&'static Step>, NotMigrated> {
    for one in recorded {
        match STEPS.iter().find(|step| step.version == one.version) {
            // Of a newer program, which says that this one can go on beside it.
            None if one.works_with.is_some_and(|version| version <= latest()) => {}
            None => return Err(NotMigrated::Newer(one.version)),
            Some(known) if checksum(known.sql) != one.checksum => {
                return Err(NotMigrated::Changed(one.version));
            }
            Some(_) => {}
        }
    }
    let is_applied = |step: &Step| recorded.iter().any(|one| one.version == step.version);
    Ok(STEPS.iter().filter(|step| !is_applied(step)).collect())
}

pub(super) fn latest() -> i32 {
    STEPS.iter().map(|step| step.version).max().unwrap_or_default()
}

pub(super) fn checksum(sql: &str) -> String {
    hexadecimal(&Sha256::digest(sql))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn all() -> Vec<Recorded> {
        let recorded = |step: &Step| Recorded {
            version: step.version,
            checksum: checksum(step.sql),
            works_with: Some(step.works_with),
        };
        STEPS.iter().map(recorded).collect()
    }

    pub(in super::super) fn newer(works_with: Option<i32>) -> Vec<Recorded> {
        let newer = Recorded { version: latest() + 1, checksum: "x".to_owned(), works_with };
        all().into_iter().chain([newer]).collect()
    }

    #[test]
    fn an_empty_database_needs_all_steps_and_a_current_one_none() {
        assert_eq!(missing(&[]).ok().unwrap().len(), STEPS.len());
        assert!(missing(&all()).ok().unwrap().is_empty());
    }

    #[test]
    fn a_newer_database_is_left_alone() {
        for works_with in [None, Some(latest() + 1)] {
            let refusal = missing(&newer(works_with)).err().unwrap();
            assert_eq!(refusal, NotMigrated::Newer(latest() + 1));
            assert!(refusal.is_mismatch() && refusal.to_string().contains("use a newer one"));
        }
    }

    /// A replica of the old version that crashed in the middle of a rolling update could not come back.
    #[test]
    fn a_newer_database_that_says_it_still_works_with_this_program_is_used() {
        assert!(missing(&newer(Some(latest()))).ok().unwrap().is_empty());
        assert!(missing(&newer(Some(1))).ok().unwrap().is_empty());
    }

    #[test]
    fn an_edited_step_is_noticed() {
        let edited = Recorded { version: 1, checksum: checksum("something else"), works_with: None };
        assert_eq!(missing(&[edited]).err(), Some(NotMigrated::Changed(1)));
    }

    /// What stands in databases must never change here.
    #[test]
    fn applied_steps_are_as_they_were() {
        let expected = ["ba4238cb4187c794f0e54a5e697cc9bb497d43c350c6f0a44f72ea1a0c0533ac"];
        let known: Vec<String> = STEPS.iter().map(|step| checksum(step.sql)).take(expected.len()).collect();
        assert_eq!(known, expected);
    }

    #[test]
    fn versions_rise_by_one() {
        let versions: Vec<i32> = STEPS.iter().map(|step| step.version).collect();
        assert_eq!(versions, (1..=latest()).collect::<Vec<_>>());
        assert!(STEPS.iter().all(|step| step.works_with <= step.version));
    }
}
