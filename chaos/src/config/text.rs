//! Values that are written as text: durations, paths, `KEY=VALUE`. Which keys hold them is in `config.rs`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// Reads a duration such as `500ms`, `8s`, `1.5m` or `1h`; a bare number is refused, because its unit would be a
/// guess.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("`{text}` is not a duration: write a number and its unit, such as 8s, 500ms or 2m");
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let seconds = match text.strip_prefix(digits) {
        Some("ms") => 0.001,
        Some("s") => 1.0,
        Some("m") => 60.0,
        Some("h") => 3_600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())
}

/// Reads `KEY=VALUE`, where the key could be that of an environment variable.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    let fit = |key: &str| {
        !key.is_empty() && key.chars().all(|character| character.is_ascii_alphanumeric() || character == '_')
    };
    match text.split_once('=') {
        Some((key, value)) if fit(key) => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE, with letters, digits and underscores before the `=`".to_owned()),
    }
}

pub(super) fn some_duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    a_duration(from).map(Some)
}

pub(crate) fn a_duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
            to.write_str("a duration as text with its unit, such as \"8s\" or \"500ms\"")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
            duration(text).map_err(E::custom)
        }
    }
    from.deserialize_str(Text)
}

/// An empty text would quietly mean the current folder.
pub(super) fn path<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(from)?;
    if path.as_os_str().is_empty() {
        return Err(D::Error::custom("the path is empty; name one, or leave the key out"));
    }
    Ok(path)
}

pub(super) fn some_path<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    path(from).map(Some)
}

/// A list, or one text alone, which is what a shell can say without quoting quotes.
pub(super) fn key_values<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, String)>, D::Error> {
    struct List;
    impl<'de> Visitor<'de> for List {
        type Value = Vec<(String, String)>;

        fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
            to.write_str("a list of texts, such as [\"KEY=VALUE\"]")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(vec![key_value(text).map_err(E::custom)?])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut texts: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some(text) = texts.next_element::<String>()? {
                pairs.push(key_value(&text).map_err(A::Error::custom)?);
            }
            Ok(pairs)
        }
    }
    from.deserialize_any(List)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_needs_a_number_and_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("0.1s"), Ok(Duration::from_millis(100)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3_600)));
        for wrong in ["", "8", "s", "8x", "-1s", "NaNs", "1e300h", "8 seconds"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn environment_for_servers_needs_a_name() {
        assert_eq!(key_value("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(key_value("=x").is_err() && key_value("x").is_err() && key_value("['A=b").is_err());
    }
}
