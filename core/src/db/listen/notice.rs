//! The text of a notice: who changed what. It writes and reads; sending is part of a transaction, hearing of `listen`.
//!
//! A notice is `1 REPLICA TAG TAG ...`, or `1 REPLICA *` where anything may have changed. Replica and tags are
//! percent-encoded, so that none of them can end the SQL literal that carries them, or read like two.

use std::{collections::BTreeSet, fmt::Write as _};

use crate::cache::Tags;

/// The channel of PostgreSQL on which replicas tell each other what they changed.
pub(super) const CHANNEL: &str = "ridethrough_changes";
/// PostgreSQL takes less than 8,000 bytes.
const BYTES_MAX: usize = 7_900;
/// Notices of one transaction at the most; what needs more is told as "anything".
const NOTICES_MAX: usize = 8;
const VERSION: &str = "1";
const ANYTHING: &str = "*";

/// What a notice says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) replica: String,
    /// `None` where anything may have changed.
    pub(super) tags: Option<Vec<String>>,
}

/// The texts that tell of a change of all these; none where there is nothing to tell.
pub(super) fn texts<'t>(replica: &str, changed: impl IntoIterator<Item = &'t Tags>) -> Vec<String> {
    let head = format!("{VERSION} {}", encoded(replica));
    let mut names = BTreeSet::new();
    for tags in changed {
        if tags.is_everything() {
            return vec![format!("{head} {ANYTHING}")];
        }
        names.extend(tags.names());
    }
    let mut texts: Vec<String> = Vec::new();
    for name in names {
        let name = encoded(name);
        if let Some(text) = texts.last_mut().filter(|text| text.len() + 1 + name.len() <= BYTES_MAX) {
            let _ = write!(text, " {name}");
        } else if texts.len() < NOTICES_MAX {
            texts.push(format!("{head} {name}"));
        } else {
            return vec![format!("{head} {ANYTHING}")];
        }
    }
    texts
}

/// What the text says; `None` where it is none of ours, or of a version that is not known here.
pub(super) fn read(text: &str) -> Option<Notice> {
    let mut words = text.split(' ');
    if words.next()? != VERSION {
        return None;
    }
    let replica = decoded(words.next()?)?;
    let rest: Vec<&str> = words.collect();
    let tags = match rest.as_slice() {
        [] => return None,
        [ANYTHING] => None,
        names => Some(names.iter().map(|name| decoded(name)).collect::<Option<_>>()?),
    };
    Some(Notice { replica, tags })
}

/// Letters, digits and a few marks as they are; `*` is none of them.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02x}");
        }
    }
    out
}

fn decoded(word: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let Some((first, further)) = rest.split_first() {
        rest = further;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, further) = rest.split_first_chunk::<2>()?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = further;
    }
    String::from_utf8(bytes).ok().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_changed_is_nothing_told() {
        assert!(texts("r", [&Tags::none(), &Tags::none()]).is_empty() && texts("r", []).is_empty());
    }

    #[test]
    fn several_changes_are_one_notice_and_each_tag_is_told_once() {
        let (one, other) = (Tags::of(["todos", "todo/1"]), Tags::of(["todos", "todo/2"]));
        assert_eq!(texts("r", [&one, &other]), ["1 r todo/1 todo/2 todos"]);
    }

    #[test]
    fn many_tags_are_split_and_too_many_are_anything() {
        let changed = |count: usize| -> Vec<Tags> {
            (0..count).map(|number| Tags::of([format!("{number:0100}")])).collect()
        };
        let many = changed(300);
        let told = texts("r", &many);
        assert!(told.len() > 1 && told.len() <= NOTICES_MAX, "{}", told.len());
        assert!(told.iter().all(|text| text.len() < 8_000));
        let names: usize = told.iter().filter_map(|text| read(text)?.tags).map(|tags| tags.len()).sum();
        assert_eq!(names, 300);
        assert_eq!(texts("r", &changed(1_000)), ["1 r *"]);
        assert_eq!(texts("r", [&Tags::everything(), &Tags::of(["a"])]), ["1 r *"]);
    }

    #[test]
    fn what_is_none_of_ours_says_nothing() {
        for text in ["", "1", "1 r", "2 r a", "hello", "1 r %zz", "1 r %f", "1  a", "1 r a  b"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    proptest! {
        /// A tag with a quote ended the literal, and what followed was SQL.
        #[test]
        fn any_tags_arrive_and_none_can_end_the_literal(
            replica in "[^\u{0}]{1,10}", names in prop::collection::btree_set(".{1,12}", 1..6),
        ) {
            let tags = Tags::of(names.iter().map(String::as_str));
            let told = texts(&replica, [&tags]);
            prop_assert_eq!(told.len(), 1);
            let harmless = |c: char| c.is_ascii_alphanumeric() || "-_.:/% *".contains(c);
            prop_assert!(told[0].chars().all(harmless), "{}", told[0]);
            let expected = Notice { replica, tags: Some(names.into_iter().collect()) };
            prop_assert_eq!(read(&told[0]), Some(expected));
        }
    }
}
