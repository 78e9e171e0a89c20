//! The words of a rule in text form, one after another: plain ones, quoted ones, and marks. What they mean is told in
//! `trigger` and `cut`.

use std::fmt::Write as _;

/// One word of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// Letters, digits, `-` and `_`.
    Plain(String),
    /// What stood between quotes.
    Quoted(String),
    /// `(`, `)`, `:` or `#`.
    Mark(char),
}

/// A rule as words, read from the front.
#[derive(Debug)]
pub(super) struct Words {
    words: std::iter::Peekable<std::vec::IntoIter<Word>>,
}

impl Words {
    pub(super) fn of(text: &str) -> Result<Self, String> {
        let mut words = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(first) = rest.next() {
            match first {
                ' ' | '\t' => {}
                '(' | ')' | ':' | '#' => words.push(Word::Mark(first)),
                '"' => words.push(Word::Quoted(quoted(&mut rest)?)),
                c if is_plain(c) => {
                    let mut word = String::from(c);
                    while let Some(next) = rest.next_if(|c| is_plain(*c)) {
                        word.push(next);
                    }
                    words.push(Word::Plain(word));
                }
                other => return Err(format!("`{other}` has no place in a rule")),
            }
        }
        Ok(Self { words: words.into_iter().peekable() })
    }

    /// The next word, where it is this plain one.
    pub(super) fn takes(&mut self, word: &str) -> bool {
        self.words.next_if(|next| matches!(next, Word::Plain(plain) if plain == word)).is_some()
    }

    /// The next word, where it is this mark.
    pub(super) fn takes_mark(&mut self, mark: char) -> bool {
        self.words.next_if(|next| *next == Word::Mark(mark)).is_some()
    }

    /// # Errors
    /// A sentence that names `what` is missing.
    pub(super) fn plain(&mut self, what: &str) -> Result<String, String> {
        match self.words.next() {
            Some(Word::Plain(word)) => Ok(word),
            other => Err(format!("{what} expected, {}", found(other.as_ref()))),
        }
    }

    pub(super) fn quoted(&mut self, what: &str) -> Result<String, String> {
        match self.words.next() {
            Some(Word::Quoted(word)) => Ok(word),
            other => Err(format!("{what} in quotes expected, {}", found(other.as_ref()))),
        }
    }

    pub(super) fn any(&mut self, what: &str) -> Result<Word, String> {
        match self.words.next() {
            Some(word @ (Word::Plain(_) | Word::Quoted(_))) => Ok(word),
            other => Err(format!("{what} expected, {}", found(other.as_ref()))),
        }
    }

    pub(super) fn number<N: std::str::FromStr>(&mut self, what: &str) -> Result<N, String> {
        let word = self.plain(what)?;
        word.parse().map_err(|_| format!("{what} expected, found `{word}`"))
    }

    pub(super) fn mark(&mut self, mark: char) -> Result<(), String> {
        match self.words.next() {
            Some(Word::Mark(next)) if next == mark => Ok(()),
            other => Err(format!("`{mark}` expected, {}", found(other.as_ref()))),
        }
    }

    pub(super) fn end(&mut self) -> Result<(), String> {
        match self.words.next() {
            None => Ok(()),
            other => Err(format!("the end expected, {}", found(other.as_ref()))),
        }
    }
}

fn found(word: Option<&Word>) -> String {
    match word {
        None => "found the end".to_owned(),
        Some(Word::Plain(word)) => format!("found `{word}`"),
        Some(Word::Quoted(word)) => format!("found {}", in_quotes(word)),
        Some(Word::Mark(mark)) => format!("found `{mark}`"),
    }
}

fn is_plain(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '-' || character == '_'
}

fn quoted(rest: &mut impl Iterator<Item = char>) -> Result<String, String> {
    let mut word = String::new();
    while let Some(next) = rest.next() {
        match next {
            '"' => return Ok(word),
            '\\' => word.push(match rest.next() {
                Some('n') => '\n',
                Some(escaped @ ('"' | '\\')) => escaped,
                _ => return Err("a backslash in quotes stands before n, a quote or a backslash".to_owned()),
            }),
            other => word.push(other),
        }
    }
    Err("a quote is not closed".to_owned())
}

/// The text as [`Words`] takes it back.
pub(super) fn in_quotes(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '\n' => quoted.push_str("\\n"),
            '"' | '\\' => {
                let _ = write!(quoted, "\\{character}");
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
