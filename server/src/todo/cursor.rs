//! The cursor of a page: after which todo the next one begins, as text that says nothing to its bearer.

use std::{fmt, str::FromStr};

use time::OffsetDateTime;
use uuid::Uuid;

/// The form of the text, so that an old cursor can be told from a new one.
const FORM: char = '1';
/// Microseconds as sixteen hexadecimal digits, then the id as thirty-two.
const TIME_DIGITS: usize = 16;
const DIGITS: usize = TIME_DIGITS + 32;

/// A place in the list, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cursor {
    pub(crate) created_at: OffsetDateTime,
    pub(crate) id: Uuid,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = (self.created_at.unix_timestamp_nanos() / 1_000) as i64;
        write!(f, "{FORM}{:016x}{:032x}", micros as u64, self.id.as_u128())
    }
}

/// The text is no cursor of ours.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoCursor;

impl FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        let digits = text.strip_prefix(FORM).ok_or(NoCursor)?;
        if digits.len() != DIGITS || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NoCursor);
        }
        let (time, id) = digits.split_at_checked(TIME_DIGITS).ok_or(NoCursor)?;
        let micros = u64::from_str_radix(time, 16).map_err(|_| NoCursor)? as i64;
        let created_at =
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).map_err(|_| NoCursor)?;
        // A time that the database could not compare with would be its error instead of the sender's.
        if !(0..=9999).contains(&created_at.year()) {
            return Err(NoCursor);
        }
        let id = u128::from_str_radix(id, 16).map_err(|_| NoCursor)?;
        Ok(Self { created_at, id: Uuid::from_u128(id) })
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_cursor_survives_its_text() {
        for created_at in [datetime!(2026-11-20 12:34:56.789_012 UTC), datetime!(1901-01-01 0:00 UTC)] {
            let cursor = Cursor { created_at, id: Uuid::from_u128(u128::MAX - 5) };
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }

    #[test]
    fn anything_else_is_no_cursor() {
        let good = Cursor { created_at: datetime!(2026-11-20 12:00 UTC), id: Uuid::nil() }.to_string();
        let far = format!("1{:016x}{:032x}", i64::MAX, 0);
        let cut = good.get(..good.len() - 1).unwrap();
        for text in ["", "1", "zz", cut, &good.replacen('1', "2", 1), &far, &"1ä".repeat(20)] {
            assert_eq!(text.parse::<Cursor>(), Err(NoCursor), "{text}");
        }
    }
}
