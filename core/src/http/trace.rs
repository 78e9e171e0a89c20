//! The W3C trace context of a request: read as level 2 of the recommendation says, made where it is missing or wrong,
//! written to where a request or an answer goes on. It samples and exports nothing.

use std::{fmt, num::NonZero};

use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The version that is written.
const VERSION: &str = "00";
/// Bytes of a `traceparent` of that version; later ones may go on after a dash.
const BYTES: usize = 55;
const SAMPLED: u8 = 1;
/// The last seven bytes of the trace id are random.
const RANDOM: u8 = 2;
/// Members in one `tracestate`, as the recommendation bounds them.
const MEMBERS_MAX: usize = 32;
/// Bytes of a `tracestate` that are carried on: more than the 512 that everybody must carry.
const STATE_BYTES_MAX: usize = 2048;
/// Bytes of a key and of a value in it.
const MEMBER_BYTES_MAX: usize = 256;

/// Which trace a request belongs to, and which span of it the sender was in. Its `Display` is the `traceparent`.
///
/// ```
/// use http::HeaderMap;
/// use ridethrough::http::TraceContext;
///
/// let mut headers = HeaderMap::new();
/// assert_eq!(TraceContext::of(&headers), None);
/// TraceContext::begin(7, 9, true).insert_into(&mut headers);
/// assert_eq!(headers["traceparent"], "00-00000000000000000000000000000007-0000000000000009-03");
/// assert_eq!(TraceContext::of(&headers).unwrap().trace_id(), "00000000000000000000000000000007");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace: NonZero<u128>,
    span: NonZero<u64>,
    flags: u8,
    state: String,
}

impl TraceContext {
    /// The context of a request. None where it has none, or one that is not valid, or two: then a new trace begins.
    ///
    /// A `tracestate` that is not valid is left out; that of a `traceparent` that is not valid is not looked at.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut given = headers.get_all(TRACEPARENT).iter();
        let (Some(parent), None) = (given.next(), given.next()) else { return None };
        let (trace, span, flags) = read(parent.to_str().ok()?)?;
        Some(Self { trace, span, flags, state: state_of(headers).unwrap_or_default() })
    }

    /// The context of the first span of a new trace. The ids are random; zero, which is no id, counts as one.
    #[must_use]
    pub fn begin(trace: u128, span: u64, sampled: bool) -> Self {
        let flags = RANDOM | if sampled { SAMPLED } else { 0 };
        let (trace, span) = (NonZero::new(trace), NonZero::new(span));
        Self {
            trace: trace.unwrap_or(NonZero::<u128>::MIN),
            span: span.unwrap_or(NonZero::<u64>::MIN),
            flags,
            state: String::new(),
        }
    }

    /// Writes `traceparent` and, where there is one, `tracestate` over what is there.
    pub fn insert_into(&self, headers: &mut HeaderMap) {
        let value = |text: &str| HeaderValue::from_str(text).expect("a trace context is visible ASCII");
        headers.insert(TRACEPARENT, value(&self.to_string()));
        match self.state.as_str() {
            "" => headers.remove(TRACESTATE),
            state => headers.insert(TRACESTATE, value(state)),
        };
    }

    /// The id of the trace: 32 lower-case hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }

    /// The id of the trace as a number, never zero.
    #[must_use]
    pub fn trace(&self) -> u128 {
        self.trace.get()
    }

    /// The id of the sender's span as a number, never zero.
    #[must_use]
    pub fn span(&self) -> u64 {
        self.span.get()
    }

    /// Whether the sender records the trace.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The `tracestate`, in one line; empty where there is none.
    #[must_use]
    pub fn state(&self) -> &str {
        &self.state
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// `<2 hex>-<32 hex>-<16 hex>-<2 hex>`, lower case, no id all zeros; later versions may go on after a dash.
fn read(text: &str) -> Option<(NonZero<u128>, NonZero<u64>, u8)> {
    let (known, more) = text.split_at_checked(BYTES)?;
    let mut fields = known.split('-');
    let mut next = |digits: usize| {
        let is_lower_hex = |field: &&str| {
            field.len() == digits && field.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        fields.next().filter(is_lower_hex)
    };
    let (version, trace, span, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
    let may_go_on = version != VERSION && more.starts_with('-');
    if version == "ff" || !(more.is_empty() || may_go_on) {
        return None;
    }
    let trace = NonZero::new(u128::from_str_radix(trace, 16).ok()?)?;
    let span = NonZero::new(u64::from_str_radix(span, 16).ok()?)?;
    // What other bits mean in a later version is not known, and must be zero in this one.
    Some((trace, span, u8::from_str_radix(flags, 16).ok()? & (SAMPLED | RANDOM)))
}

/// All of it in one line; none where it is not valid.
fn state_of(headers: &HeaderMap) -> Option<String> {
    let mut members: Vec<(&str, &str)> = Vec::new();
    for value in headers.get_all(TRACESTATE) {
        for member in value.to_str().ok()?.split(',').map(|member| member.trim_matches([' ', '\t'])) {
            if member.is_empty() {
                continue;
            }
            let (key, value) = member.split_once('=')?;
            let is_known = members.iter().any(|(known, _)| *known == key);
            if members.len() == MEMBERS_MAX || is_known || !is_key(key) || !is_value(value) {
                return None;
            }
            members.push((key, value));
        }
    }
    let lines: Vec<String> = members.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Some(lines.join(",")).filter(|state| state.len() <= STATE_BYTES_MAX)
}

fn is_key(text: &str) -> bool {
    let is_begin = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= MEMBER_BYTES_MAX
        && text.bytes().next().is_some_and(is_begin)
        && text.bytes().all(|byte| is_begin(byte) || b"_-*/@".contains(&byte))
}

fn is_value(text: &str) -> bool {
    (1..=MEMBER_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn context(fields: &[(HeaderName, &str)]) -> Option<TraceContext> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        TraceContext::of(&headers)
    }

    #[test]
    fn traceparent_is_read_as_the_recommendation_says() {
        let (no_trace, no_span) = ("0".repeat(32), "0".repeat(16));
        for (value, read_as) in [
            (format!("00-{TRACE}-{SPAN}-01"), Some("01")),
            (format!("00-{TRACE}-{SPAN}-00"), Some("00")),
            (format!("00-{TRACE}-{SPAN}-03"), Some("03")),
            (format!("00-{TRACE}-{SPAN}-ff"), Some("03")),
            (format!("01-{TRACE}-{SPAN}-01"), Some("01")),
            (format!("cc-{TRACE}-{SPAN}-01-more-and-more"), Some("01")),
            (format!("cc-{TRACE}-{SPAN}-01-"), Some("01")),
            (format!("cc-{TRACE}-{SPAN}-01.more"), None),
            (format!("00-{TRACE}-{SPAN}-01-more"), None),
            (format!("00-{TRACE}-{SPAN}-01-"), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("0-{TRACE}-{SPAN}-01"), None),
            (format!(".0-{TRACE}-{SPAN}-01"), None),
            (format!("00-{no_trace}-{SPAN}-01"), None),
            (format!("00-{TRACE}-{no_span}-01"), None),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None),
            (format!("00-{TRACE}-{SPAN}-0X"), None),
            (format!("00-{TRACE}-{SPAN}-+1"), None),
            (format!("00-{TRACE}-{SPAN}"), None),
            (format!("00-{TRACE}-{SPAN}-1"), None),
            (format!("00-{TRACE}0-{SPAN}-1"), None),
            (format!("00_{TRACE}_{SPAN}_01"), None),
            ("\u{e4}".repeat(40), None),
            (String::new(), None),
        ] {
            let shown = context(&[(TRACEPARENT, &value)]).map(|context| context.to_string());
            assert_eq!(shown, read_as.map(|flags| format!("00-{TRACE}-{SPAN}-{flags}")), "{value}");
        }
    }

    #[test]
    fn two_parents_are_none() {
        let one = format!("00-{TRACE}-{SPAN}-01");
        assert!(context(&[(TRACEPARENT, &one)]).unwrap().is_sampled());
        assert_eq!(context(&[(TRACEPARENT, &one), (TRACEPARENT, &one)]), None);
        assert_eq!(context(&[(TRACESTATE, "a=b")]), None);
    }

    #[test]
    fn a_state_goes_on_in_order_or_not_at_all() {
        let many = (0..33).map(|number| format!("k{number}=v")).collect::<Vec<_>>().join(",");
        let long = format!("a={}", "v".repeat(257));
        let together =
            (0..10).map(|number| format!("k{number}={}", "v".repeat(250))).collect::<Vec<_>>().join(",");
        for (fields, state) in [
            (vec!["a=1"], "a=1"),
            (vec!["b=2, a=1", "1c@x=3\t,,"], "b=2,a=1,1c@x=3"),
            (vec!["a=with a blank"], "a=with a blank"),
            (vec![""], ""),
            (vec!["a=1,a=2"], ""),
            (vec!["a"], ""),
            (vec!["a="], ""),
            (vec!["A=1"], ""),
            (vec!["=1"], ""),
            (vec!["a=1=2"], ""),
            (vec!["a=\u{e4}"], ""),
            (vec![&many], ""),
            (vec![&long], ""),
            (vec![&together], ""),
        ] {
            let parent = format!("00-{TRACE}-{SPAN}-01");
            let mut all = vec![(TRACEPARENT, parent.as_str())];
            all.extend(fields.iter().map(|value| (TRACESTATE, *value)));
            assert_eq!(context(&all).unwrap().state(), state, "{fields:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_nothing_else_stays() {
        let mut headers = HeaderMap::new();
        for value in ["a=1", "b=2"] {
            headers.append(TRACESTATE, HeaderValue::from_static(value));
            headers.append(TRACEPARENT, HeaderValue::from_static("00-two-of-them"));
        }
        let begun = TraceContext::begin(u128::MAX, 0, false);
        begun.insert_into(&mut headers);
        assert_eq!(TraceContext::of(&headers), Some(begun.clone()));
        assert_eq!((headers.len(), begun.is_sampled(), begun.span()), (1, false, 1));
    }
}
