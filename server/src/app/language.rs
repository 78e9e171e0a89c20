//! Which language a person reads, by `Accept-Language`, and how that language writes a time. The texts themselves are in
//! `texts`.

use http::{HeaderMap, header};
use time::{OffsetDateTime, UtcOffset, macros::format_description};

/// A language there are texts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    English,
    German,
}

impl Language {
    pub(crate) const ALL: [Self; 2] = [Self::English, Self::German];

    /// The one the sender wants most, of equals the one named first; English where none of ours is wanted.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(header::ACCEPT_LANGUAGE).into_iter();
        let ranges = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        let mut best = (0.0, Self::English);
        for range in ranges {
            let mut parts = range.split(';').map(str::trim);
            let tag = parts.next().unwrap_or_default();
            let primary = tag.split('-').next().unwrap_or_default();
            let Some(language) = Self::ALL.into_iter().find(|one| primary.eq_ignore_ascii_case(one.tag()))
            else {
                continue;
            };
            let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            let quality: f32 = quality.map_or(1.0, |text| text.trim().parse().unwrap_or(0.0));
            if quality > best.0 {
                best = (quality, language);
            }
        }
        best.1
    }

    /// For `lang` and `Content-Language`.
    pub(crate) fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::German => "de",
        }
    }

    /// A time as it is written in this language. The script of the page tells it in the reader's own time zone, which the
    /// server does not know.
    pub(crate) fn time(self, time: OffsetDateTime) -> String {
        let time = time.to_offset(UtcOffset::UTC);
        let written = match self {
            Self::English => time.format(format_description!(
                "[day padding:none] [month repr:long] [year], [hour]:[minute] UTC"
            )),
            Self::German => time.format(format_description!("[day].[month].[year], [hour]:[minute] UTC")),
        };
        written.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use time::macros::datetime;

    use super::*;

    fn language(accept: &str) -> Language {
        let headers = [(header::ACCEPT_LANGUAGE, HeaderValue::from_str(accept).unwrap())];
        Language::of(&HeaderMap::from_iter(headers))
    }

    #[test]
    fn the_language_that_is_wanted_most_is_taken() {
        for german in ["de", "DE-at,en;q=0.9", "fr,de;q=0.5,en;q=0.4", "de,en", "en;q=0,de;q=0.1"] {
            assert_eq!(language(german), Language::German, "{german}");
        }
        for english in ["en-GB,en;q=0.9,de;q=0.8", "en,de", "de;q=0.3, en;q=0.4"] {
            assert_eq!(language(english), Language::English, "{english}");
        }
    }

    #[test]
    fn who_reads_neither_gets_english() {
        for other in ["fr", "*", "", "de;q=0", "den", ";;;,q=1", "de;q=x"] {
            assert_eq!(language(other), Language::English, "{other}");
        }
        assert_eq!(Language::of(&HeaderMap::new()), Language::English);
    }

    #[test]
    fn each_language_writes_times_in_its_own_way() {
        let at = datetime!(2026-11-02 01:05 +02:00);
        assert_eq!(Language::English.time(at), "1 November 2026, 23:05 UTC");
        assert_eq!(Language::German.time(at), "01.11.2026, 23:05 UTC");
    }
}
