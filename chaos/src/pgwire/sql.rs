//! The statements in a text of SQL by their first words: enough to know a COMMIT among others. It understands nothing
//! else of SQL.

/// A statement as far as it is remembered: its text, and the first word of each statement in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Statement {
    text: String,
    verbs: Vec<String>,
}

/// Of longer texts the beginning is remembered.
const TEXT_BYTES_MAX: usize = 8 * 1024;
/// Of more statements in one text the first ones are remembered, and the last.
const VERBS_MAX: usize = 64;

impl Statement {
    pub(super) fn of(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let mut verbs = Vec::new();
        for verb in verbs_of(&text) {
            if verbs.len() == VERBS_MAX {
                verbs.pop();
            }
            verbs.push(verb);
        }
        let mut text = text.into_owned();
        if text.len() > TEXT_BYTES_MAX {
            text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        }
        Self { text, verbs }
    }

    /// Its text; of a long one the beginning.
    #[must_use]
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether a statement in it begins with this word, in capitals.
    #[must_use]
    pub(super) fn has_verb(&self, word: &str) -> bool {
        self.verbs.iter().any(|verb| verb == word)
    }

    /// Whether it is one statement, and a SELECT. What a function in it does is not known.
    #[must_use]
    pub(super) fn only_reads(&self) -> bool {
        matches!(self.verbs.as_slice(), [verb] if verb == "SELECT")
    }

    /// Whether the text holds `piece`, in whatever case.
    #[must_use]
    pub(super) fn holds(&self, piece: &str) -> bool {
        self.text.to_lowercase().contains(&piece.to_lowercase())
    }
}

/// The first word of each statement, in capitals. `END` is what it means.
fn verbs_of(text: &str) -> Vec<String> {
    let mut verbs = Vec::new();
    let mut rest = text;
    let mut expects_verb = true;
    while let Some(first) = rest.chars().next() {
        let length = skipped(rest).unwrap_or_else(|| {
            if first == ';' {
                expects_verb = true;
            } else if expects_verb && is_of_word(first) {
                let end = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
                let word = rest.get(..end).unwrap_or_default().to_uppercase();
                verbs.push(if word == "END" { "COMMIT".to_owned() } else { word });
                expects_verb = false;
                return end;
            } else if !first.is_whitespace() {
                expects_verb = false;
            }
            first.len_utf8()
        });
        rest = rest.get(length..).unwrap_or_default();
    }
    verbs
}

fn is_of_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The length of a comment, a literal or a quoted name at the beginning; what is in it ends no statement.
fn skipped(text: &str) -> Option<usize> {
    let until = |from: usize, end: &str| {
        let found = text.get(from..).and_then(|rest| rest.find(end));
        Some(found.map_or(text.len(), |at| from + at + end.len()))
    };
    if text.starts_with("--") {
        return until(2, "\n");
    }
    if text.starts_with("/*") {
        return until(2, "*/");
    }
    match text.chars().next()? {
        // A doubled quote is the end of one literal and the beginning of the next, which comes to the same.
        '\'' => until(1, "'"),
        '"' => until(1, "\""),
        '$' => {
            let tag = text.get(1..)?.find(|c| !is_of_word(c))? + 1;
            let marker = text.get(..=tag).filter(|marker| marker.ends_with('$'))?;
            // A parameter has no second dollar right behind it.
            until(marker.len(), marker)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verbs(text: &str) -> Vec<String> {
        verbs_of(text)
    }

    #[test]
    fn each_statement_is_known_by_its_first_word() {
        assert_eq!(verbs("select 1; COMMIT"), ["SELECT", "COMMIT"]);
        assert_eq!(verbs("  -- a comment; commit\n/* rollback; */ begin;\n;end;"), ["BEGIN", "COMMIT"]);
        assert_eq!(verbs("insert into t values ('; commit', $1, $$; rollback$$, $x$;commit$x$)"), ["INSERT"]);
        assert_eq!(verbs("select \"a;commit\"; select 'it''s; commit'"), ["SELECT", "SELECT"]);
        assert_eq!(verbs("(select 1); commit"), ["COMMIT"]);
        assert_eq!(verbs("select $1; commit"), ["SELECT", "COMMIT"]);
        assert!(verbs("").is_empty() && verbs("'unended; commit").is_empty());
    }

    /// The server's COMMIT was looked for at the beginning of its text only, and was not found where the changes are told
    /// to other replicas in the same message.
    #[test]
    fn a_commit_with_notices_before_it_is_a_commit() {
        let text = b"SELECT pg_notify('ridethrough', 'v1 a; b'); SELECT 1; COMMIT";
        assert!(Statement::of(text).has_verb("COMMIT"));
        assert!(!Statement::of(b"SELECT 'COMMIT'").has_verb("COMMIT"));
    }

    #[test]
    fn memory_is_bounded_and_the_last_statement_counts() {
        let text = format!("{}COMMIT", "select 1;".repeat(10_000));
        let statement = Statement::of(text.as_bytes());
        assert!(statement.has_verb("COMMIT"));
        assert!(statement.text().len() <= TEXT_BYTES_MAX && statement.verbs.len() <= VERBS_MAX);
    }
}
