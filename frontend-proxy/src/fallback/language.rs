//! Which language a person reads, and how much a client wants something: `Accept-Language` and `Accept` weights.
//!
//! It knows the languages there are texts for, not the texts.

use http::{
    HeaderMap,
    header::{self, HeaderName},
};

/// A language there are texts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    English,
    German,
    French,
    Spanish,
    Arabic,
}

impl Language {
    pub(super) const ALL: [Self; 5] =
        [Self::English, Self::German, Self::French, Self::Spanish, Self::Arabic];

    /// The one the client wants most; English where it wants none of ours.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let weight = |language: Self| {
            weight(headers, header::ACCEPT_LANGUAGE, |range| {
                let primary = range.split('-').next().unwrap_or_default();
                primary.eq_ignore_ascii_case(language.tag())
            })
        };
        let wanted = Self::ALL.into_iter().filter(|language| weight(*language) > 0);
        // The first of several that are wanted equally stands first in the field, so the order decides.
        wanted
            .min_by_key(|language| (u16::MAX - weight(*language), position(headers, *language)))
            .unwrap_or(Self::English)
    }

    /// For `lang` and `Content-Language`.
    pub(crate) fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::German => "de",
            Self::French => "fr",
            Self::Spanish => "es",
            Self::Arabic => "ar",
        }
    }

    /// For `dir`.
    pub(crate) fn direction(self) -> &'static str {
        match self {
            Self::Arabic => "rtl",
            _ => "ltr",
        }
    }
}

fn position(headers: &HeaderMap, language: Language) -> usize {
    let ranges = ranges(headers, header::ACCEPT_LANGUAGE);
    let places = ranges.enumerate().filter(|(_, (range, _))| {
        range.split('-').next().unwrap_or_default().eq_ignore_ascii_case(language.tag())
    });
    places.map(|(place, _)| place).next().unwrap_or(usize::MAX)
}

/// The largest weight, 0 to 1000, of a range that `matches`; 0 where none does.
pub(crate) fn weight(headers: &HeaderMap, field: HeaderName, matches: impl Fn(&str) -> bool) -> u16 {
    ranges(headers, field).filter(|(range, _)| matches(range)).map(|(_, weight)| weight).max().unwrap_or(0)
}

fn ranges(headers: &HeaderMap, field: HeaderName) -> impl Iterator<Item = (&str, u16)> {
    let values = headers.get_all(field).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|item| {
        let mut parts = item.split(';').map(str::trim);
        let range = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let quality = quality.map_or(Some(1.0), |text| text.trim().parse::<f32>().ok()).unwrap_or(0.0);
        (range, (quality.clamp(0.0, 1.0) * 1000.0) as u16)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn language(accept: &str) -> Language {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_LANGUAGE, accept.parse().unwrap());
        Language::of(&headers)
    }

    #[test]
    fn the_language_wanted_most_is_taken() {
        assert_eq!(language("de-DE,de;q=0.9,en;q=0.8"), Language::German);
        assert_eq!(language("en-GB,en;q=0.9,de;q=0.8"), Language::English);
        assert_eq!(language("it,de;q=0.5,en;q=0.4"), Language::German);
        assert_eq!(language("fr-CA"), Language::French);
        assert_eq!(language("es-419,en;q=0.5"), Language::Spanish);
        assert_eq!(language("ar-EG,ar;q=0.9,en;q=0.8"), Language::Arabic);
        assert_eq!(language("de,en"), Language::German);
        assert_eq!(language("en,de"), Language::English);
    }

    #[test]
    fn whoever_reads_none_of_them_gets_english() {
        for accept in ["it", "*", "", "de;q=0", "den", ";;;,q=1", "de;q=x"] {
            assert_eq!(language(accept), Language::English, "{accept}");
        }
        assert_eq!(Language::of(&HeaderMap::new()), Language::English);
    }
}
