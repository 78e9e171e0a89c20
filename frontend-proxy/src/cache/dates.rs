//! Dates of HTTP: read in all three forms of RFC 9110 (5.6.7), written in the one that is not obsolete. Pure.
//!
//! Strict about shape, because a date that is not one makes an answer stale; letters may be of either case.

/// Seconds since 1970 by the wall clock; before it they are negative.
pub(crate) type Unix = i64;

const DAY: i64 = 86_400;
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const LONG_WEEKDAYS: [&str; 7] =
    ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// Reads a date. `now` is needed for the form whose year has two digits: it is never more than 50 years ahead.
pub(crate) fn parse(text: &[u8], now: Unix) -> Option<Unix> {
    let text = std::str::from_utf8(text).ok()?;
    match text.split_once(", ") {
        Some((weekday, rest)) if is_one_of(weekday, &WEEKDAYS) => fixdate(rest),
        Some((weekday, rest)) if is_one_of(weekday, &LONG_WEEKDAYS) => rfc850(rest, now),
        Some(_) => None,
        None => asctime(text),
    }
}

/// `06 Nov 1994 08:49:37 GMT`
fn fixdate(text: &str) -> Option<Unix> {
    let mut words = text.split(' ');
    let (day, month) = (digits(words.next()?, 2)?, month(words.next()?)?);
    let year = digits(words.next()?, 4)?;
    let time = time_of_day(words.next()?)?;
    is_gmt_and_last(words)?;
    civil(year, month, day).map(|days| days * DAY + time)
}

/// `06-Nov-94 08:49:37 GMT`
fn rfc850(text: &str, now: Unix) -> Option<Unix> {
    let mut words = text.split(' ');
    let mut date = words.next()?.split('-');
    let (day, month) = (digits(date.next()?, 2)?, month(date.next()?)?);
    let short = digits(date.next()?, 2)?;
    let time = time_of_day(words.next()?)?;
    if date.next().is_some() {
        return None;
    }
    is_gmt_and_last(words)?;
    let this_year = year_of(now);
    let near = this_year - this_year.rem_euclid(100) + short;
    let year = if near > this_year + 50 { near - 100 } else { near };
    civil(year, month, day).map(|days| days * DAY + time)
}

/// `Sun Nov  6 08:49:37 1994`
fn asctime(text: &str) -> Option<Unix> {
    let (weekday, rest) = text.split_once(' ')?;
    let (name, rest) = rest.split_once(' ')?;
    let (day, rest) = (rest.get(..2)?, rest.get(2..)?.strip_prefix(' ')?);
    let (time, year) = rest.split_once(' ')?;
    if !is_one_of(weekday, &WEEKDAYS) {
        return None;
    }
    let day = match day.strip_prefix(' ') {
        Some(day) => digits(day, 1)?,
        None => digits(day, 2)?,
    };
    civil(digits(year, 4)?, month(name)?, day).and_then(|days| Some(days * DAY + time_of_day(time)?))
}

fn is_one_of(word: &str, words: &[&str]) -> bool {
    words.iter().any(|other| other.eq_ignore_ascii_case(word))
}

fn is_gmt_and_last<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<()> {
    let zone = words.next()?;
    (zone.eq_ignore_ascii_case("GMT") && words.next().is_none()).then_some(())
}

fn digits(text: &str, count: usize) -> Option<i64> {
    (text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

fn month(name: &str) -> Option<i64> {
    let place = MONTHS.iter().position(|month| month.eq_ignore_ascii_case(name))?;
    i64::try_from(place).ok().map(|place| place + 1)
}

/// `08:49:37`; a leap second counts as the first of the next minute.
fn time_of_day(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let mut part = || digits(parts.next()?, 2);
    let (hour, minute, second) = (part()?, part()?, part()?);
    let is_valid = hour < 24 && minute < 60 && second <= 60 && parts.next().is_none();
    is_valid.then_some(hour * 3_600 + minute * 60 + second)
}

/// Days since 1970 of a date of the Gregorian calendar, where there is such a day.
fn civil(year: i64, month: i64, day: i64) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    // Years begin in March here, so that the leap day is the last of its year.
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (1..=length).contains(&day).then_some(era * 146_097 + day_of_era - 719_468)
}

/// Year, month and day of a day since 1970.
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * shifted + 2) / 5 + 1, (shifted + 2) % 12 + 1);
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn year_of(at: Unix) -> i64 {
    date_of(at.div_euclid(DAY)).0
}

/// Writes a date as `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(crate) fn format(at: Unix) -> String {
    let (days, second) = (at.div_euclid(DAY), at.rem_euclid(DAY));
    let (year, month, day) = date_of(days);
    let name = |names: &[&'static str], place: i64| {
        usize::try_from(place).ok().and_then(|place| names.get(place).copied()).unwrap_or_default()
    };
    let (weekday, month) = (name(&WEEKDAYS, days.rem_euclid(7)), name(&MONTHS, month - 1));
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Unix = 1_790_000_000;

    #[test]
    fn all_three_forms_mean_the_same_moment() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "SUN, 06 nov 1994 08:49:37 gmt",
        ] {
            assert_eq!(parse(text.as_bytes(), NOW), Some(784_111_777), "{text}");
        }
        assert_eq!(format(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..2_000 {
            let at = random.i64(-30_000_000_000..200_000_000_000);
            assert_eq!(parse(format(at).as_bytes(), NOW), Some(at), "seed 11: {}", format(at));
        }
    }

    #[test]
    fn a_year_of_two_digits_is_at_most_fifty_years_ahead() {
        let of =
            |year: &str| parse(format!("Monday, 01-Jan-{year} 00:00:00 GMT").as_bytes(), NOW).map(year_of);
        assert_eq!((of("50"), of("76"), of("77")), (Some(2050), Some(2076), Some(1977)));
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "0",
            "",
            "Thu, 18 Aug 2050 02:01:18 UTC",
            "Thu, 18 Aug 2050 02:01:18",
            "Thu, 18 Aug 50 02:01:18 GMT",
            "Thu 18 Aug 2050 02:01:18 GMT",
            "Thu, 18  Aug  2050 02:01:18 GMT",
            "Thu, 18-Aug-2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02.01.18 GMT",
            "Thu, 18 Aug 2050 2:01:18 GMT",
            "Thu, 31 Feb 2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 24:01:18 GMT",
            "Thu, 00 Aug 2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02:01:18 GMT, x",
        ] {
            assert_eq!(parse(text.as_bytes(), NOW), None, "{text}");
        }
    }
}
