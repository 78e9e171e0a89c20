//! Durations as people write them in configuration: `250ms`, `1.5s`, `10m`, `24h`, `7d`.
//!
//! It is a serde adapter and nothing more; a bare number is refused because its unit would be a guess.

use std::time::Duration;

/// What was wrong with a duration text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a duration: write a number and a unit, such as 250ms, 1.5s, 10m, 24h or 7d")]
pub struct NotADuration(String);

/// Reads a duration.
///
/// # Errors
/// [`NotADuration`] where there is no unit, an unknown one, or no sensible number.
pub fn parse(text: &str) -> Result<Duration, NotADuration> {
    let wrong = || NotADuration(text.to_owned());
    let trimmed = text.trim();
    let digits = trimmed.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let unit = match trimmed.strip_prefix(digits).unwrap_or_default() {
        "us" => 0.000_001,
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(wrong()),
    };
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    // Through nanoseconds as an integer, so that 0.1s is exactly 100ms.
    let nanoseconds = number * unit * 1e9;
    if !(0.0..1e19).contains(&nanoseconds) {
        return Err(wrong());
    }
    Ok(Duration::from_nanos(nanoseconds.round() as u64))
}

/// Writes a duration in the largest unit that keeps it whole.
#[must_use]
pub fn format(duration: Duration) -> String {
    let (milliseconds, microseconds) = (duration.as_millis(), duration.as_micros());
    match milliseconds {
        0 => format!("{microseconds}us"),
        _ if milliseconds % 86_400_000 == 0 => format!("{}d", milliseconds / 86_400_000),
        _ if milliseconds % 3_600_000 == 0 => format!("{}h", milliseconds / 3_600_000),
        _ if milliseconds % 60_000 == 0 => format!("{}m", milliseconds / 60_000),
        _ if milliseconds % 1_000 == 0 => format!("{}s", milliseconds / 1_000),
        _ => format!("{milliseconds}ms"),
    }
}

/// For `#[serde(with = …)]`.
///
/// # Errors
/// Where the input is no text or no duration.
pub fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = <String as serde::Deserialize>::deserialize(deserializer)?;
    parse(&text).map_err(serde::de::Error::custom)
}

/// For `#[serde(with = …)]`.
///
/// # Errors
/// Only those of the serializer.
pub fn serialize<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        let cases = [("250ms", 250), ("1.5s", 1_500), ("10m", 600_000), ("24h", 86_400_000), ("0.1s", 100)];
        for (text, milliseconds) in cases {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn guesses_are_refused() {
        for text in ["5", "", "s", "-1s", "1 fortnight", "NaNs", "infs", "1e300d", "99999999999999d"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for milliseconds in [0, 1, 999, 1_000, 61_000, 3_600_000, 86_400_000 * 7] {
            let duration = Duration::from_millis(milliseconds);
            assert_eq!(parse(&format(duration)), Ok(duration));
        }
    }
}
