//! The directives of `Cache-Control` (RFC 9111, 5861, 8246) and `CDN-Cache-Control` (RFC 9213). Pure.
//!
//! Where a value makes no sense the reading errs towards not keeping and not serving. What follows from a directive is
//! decided in `policy`.

use http::{HeaderMap, HeaderName, HeaderValue, header};

mod dictionary;

pub(crate) const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// Longer times than this mean the same; RFC 9111 1.2.2 asks for it.
pub(crate) const SECONDS_MAX: u64 = 1 << 31;

/// What an answer says about keeping and serving it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AnswerControl {
    pub(crate) no_store: bool,
    /// `no-cache` without fields: ask before each use.
    pub(crate) no_cache: bool,
    /// `private` without fields: for one user only.
    pub(crate) private: bool,
    /// Fields named by `no-cache` or `private`: not to be kept by a shared cache.
    pub(crate) withheld: Vec<HeaderName>,
    pub(crate) public: bool,
    pub(crate) must_revalidate: bool,
    pub(crate) proxy_revalidate: bool,
    pub(crate) must_understand: bool,
    pub(crate) max_age: Option<u64>,
    pub(crate) s_maxage: Option<u64>,
    pub(crate) stale_while_revalidate: Option<u64>,
    pub(crate) stale_if_error: Option<u64>,
    /// It came in `CDN-Cache-Control`: `Cache-Control` and `Expires` say nothing to us.
    pub(crate) is_targeted: bool,
}

/// What a request asks of caches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RequestControl {
    pub(crate) no_store: bool,
    pub(crate) no_cache: bool,
    pub(crate) only_if_cached: bool,
    pub(crate) max_age: Option<u64>,
    pub(crate) min_fresh: Option<u64>,
    /// Any staleness is [`SECONDS_MAX`].
    pub(crate) max_stale: Option<u64>,
    pub(crate) stale_if_error: Option<u64>,
}

impl AnswerControl {
    /// Reads the fields of an answer. `CDN-Cache-Control` is meant for caches as this one and wins where it is valid.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let targeted = headers.contains_key(CDN_CACHE_CONTROL).then(|| Self::targeted(headers)).flatten();
        targeted.unwrap_or_else(|| {
            let mut control = Self::default();
            if !each_directive(headers, |name, value| control.take(name, value)) {
                // Nobody knows what an open quote hides.
                control.no_store = true;
            }
            control
        })
    }

    fn targeted(headers: &HeaderMap) -> Option<Self> {
        let members =
            dictionary::parse(headers.get_all(CDN_CACHE_CONTROL).iter().map(HeaderValue::as_bytes))?;
        let mut control = Self { is_targeted: true, ..Self::default() };
        for (name, value) in &members {
            let is_number = matches!(value, dictionary::Bare::Integer(_));
            let wants_number =
                matches!(name.as_str(), "max-age" | "s-maxage" | "stale-while-revalidate" | "stale-if-error");
            if is_number != wants_number && (wants_number || is_flag(name)) {
                return None;
            }
            match value {
                dictionary::Bare::Integer(number) => {
                    control.take(name, Some(number.to_string().as_bytes()));
                }
                dictionary::Bare::Flag(true) => control.take(name, None),
                dictionary::Bare::Text(text) => control.take(name, Some(text.as_bytes())),
                dictionary::Bare::Flag(false) | dictionary::Bare::Other => {}
            }
        }
        (!members.is_empty()).then_some(control)
    }

    fn take(&mut self, name: &str, value: Option<&[u8]>) {
        match name {
            "no-store" => self.no_store = true,
            "no-cache" | "private" => match fields(value) {
                Some(fields) => self.withheld.extend(fields),
                None if name == "private" => self.private = true,
                None => self.no_cache = true,
            },
            "public" => self.public = true,
            "must-revalidate" => self.must_revalidate = true,
            "proxy-revalidate" => self.proxy_revalidate = true,
            "must-understand" => self.must_understand = true,
            "max-age" => lifetime(&mut self.max_age, value),
            "s-maxage" => lifetime(&mut self.s_maxage, value),
            "stale-while-revalidate" => lifetime(&mut self.stale_while_revalidate, value),
            "stale-if-error" => lifetime(&mut self.stale_if_error, value),
            _ => self.take_misspelt(name),
        }
    }

    /// `max-age =10`: who meant to limit a lifetime and failed did not mean to leave it open.
    fn take_misspelt(&mut self, name: &str) {
        match name.trim_ascii_end() {
            "max-age" => self.max_age = Some(0),
            "s-maxage" => self.s_maxage = Some(0),
            "no-store" => self.no_store = true,
            "private" => self.private = true,
            "no-cache" => self.no_cache = true,
            _ => {}
        }
    }
}

fn is_flag(name: &str) -> bool {
    matches!(name, "no-store" | "public" | "must-revalidate" | "proxy-revalidate" | "must-understand")
}

impl RequestControl {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        each_directive(headers, |name, value| match name {
            "no-store" => control.no_store = true,
            "no-cache" => control.no_cache = true,
            "only-if-cached" => control.only_if_cached = true,
            // What cannot be read asks for the most cautious thing.
            "max-age" => control.max_age = Some(seconds(value).unwrap_or(0)),
            "min-fresh" => control.min_fresh = Some(seconds(value).unwrap_or(SECONDS_MAX)),
            "max-stale" if value.is_none() => control.max_stale = Some(SECONDS_MAX),
            "max-stale" => control.max_stale = seconds(value),
            "stale-if-error" => control.stale_if_error = seconds(value),
            _ => {}
        });
        control
    }
}

/// A lifetime that is given twice differently, or is no number, is over.
fn lifetime(slot: &mut Option<u64>, value: Option<&[u8]>) {
    let read = seconds(value).unwrap_or(0);
    *slot = Some(match *slot {
        Some(earlier) if earlier != read => 0,
        _ => read,
    });
}

/// Digits, and as many as one likes.
fn seconds(value: Option<&[u8]>) -> Option<u64> {
    let digits = value?;
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
    Some(text.parse::<u64>().unwrap_or(SECONDS_MAX).min(SECONDS_MAX))
}

/// The fields a directive names; none where it names none that can be one, which then means the whole answer.
fn fields(value: Option<&[u8]>) -> Option<Vec<HeaderName>> {
    let names = value?.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    names.map(|name| HeaderName::from_bytes(name).ok()).collect()
}

/// Calls `take` with the name, in lower case, and the argument, without quotes, of each directive of `Cache-Control`.
/// False where a quote was opened and never closed.
fn each_directive(headers: &HeaderMap, mut take: impl FnMut(&str, Option<&[u8]>)) -> bool {
    let mut is_whole = true;
    for line in headers.get_all(header::CACHE_CONTROL) {
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            let Some(end) = end_of_item(rest) else {
                is_whole = false;
                break;
            };
            let (item, tail) = rest.split_at(end);
            rest = tail.get(1..).unwrap_or_default();
            let item = item.trim_ascii();
            let (name, value) = match item.iter().position(|byte| *byte == b'=') {
                Some(place) => (item.get(..place).unwrap_or_default(), item.get(place + 1..)),
                None => (item, None),
            };
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            let unquoted = value.map(unquote);
            take(&name, unquoted.as_deref());
        }
    }
    is_whole
}

/// Where the next comma outside of quotes is, or the end; none inside of an open quote.
fn end_of_item(text: &[u8]) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (place, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return Some(place),
            _ => {}
        }
    }
    (!quoted).then_some(text.len())
}

fn unquote(value: &[u8]) -> Vec<u8> {
    let inner = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    let Some(inner) = inner else { return value.to_vec() };
    let mut plain = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        let meant = if *byte == b'\\' { bytes.next() } else { Some(byte) };
        plain.extend(meant);
    }
    plain
}

#[cfg(test)]
mod tests;
