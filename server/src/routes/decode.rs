//! Requests to values: keys, ids, versions, JSON bodies. Each refusal names what is wrong with which part, and quotes
//! no more of the request than a name. The parameters of a list are read in the file below.

mod parameters;

use std::{collections::HashSet, fmt};

use axum::{
    body::{Body, Bytes},
    extract::{RawPathParams, rejection::RawPathParamsRejection},
};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_body_util::{BodyExt as _, Limited};
use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use uuid::Uuid;

pub(crate) use self::parameters::{PAGE_LIMIT, PAGE_LIMIT_MAX, page_query};
use super::entity_tag;
use crate::{
    edges::Cut,
    error::Trouble,
    problems,
    todo::{BATCH_ITEMS_MAX, Title},
};

/// Who says which write this is.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(crate) const KEY_CHARACTERS_MAX: usize = 255;

/// A todo with the longest title, written in escapes, is a tenth of this.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;
/// A batch of the longest titles, not written in escapes, is half of this.
pub(crate) const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Names in refusals are cut here, since they come from the sender.
const NAME_CHARACTERS_MAX: usize = 40;

/// The idempotency key of a write: the sender's, or a new one.
pub(crate) fn key(headers: &HeaderMap) -> Result<String, Trouble> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(new_key()),
        (Some(value), None) if is_key(value.as_bytes()) => {
            Ok(value.to_str().map(str::to_owned).unwrap_or_default())
        }
        _ => Err(Trouble::bad_request(format!(
            "the header Idempotency-Key must be given once and have 1 to {KEY_CHARACTERS_MAX} visible ASCII characters"
        ))),
    }
}

/// A key that nobody has used.
pub(crate) fn new_key() -> String {
    Uuid::new_v4().to_string()
}

pub(crate) fn is_key(bytes: &[u8]) -> bool {
    (1..=KEY_CHARACTERS_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

/// The parameters of the path, or none where they are no text: asked for this way, no rejection of the framework is
/// answered in our place.
pub(crate) type PathParameters = Result<RawPathParams, RawPathParamsRejection>;

/// One parameter of the path; empty where it is missing or no text.
pub(crate) fn path_text(parameters: &PathParameters, name: &str) -> String {
    let mut all = parameters.iter().flat_map(RawPathParams::iter);
    all.find(|(known, _)| *known == name).map(|(_, value)| value.to_owned()).unwrap_or_default()
}

/// The id in the path.
pub(crate) fn id(parameters: &PathParameters) -> Result<Uuid, Trouble> {
    Uuid::try_parse(&path_text(parameters, "id"))
        .map_err(|_| Trouble::bad_request("the id in the path is not a UUID"))
}

/// The version in `If-Match`: an entity tag of ours, or the version with or without quotes.
pub(crate) fn if_match(headers: &HeaderMap) -> Result<Option<i64>, Trouble> {
    let mut values = headers.get_all(header::IF_MATCH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    // A list in several headers is a list all the same: to take its first version would drop a condition of the sender's.
    if values.next().is_some() {
        return Err(Trouble::bad_request("the header If-Match must be given once, with one version"));
    }
    let text = value.to_str().unwrap_or_default().trim();
    // Any version will do: that is what a write without the header means, too.
    if text == "*" {
        return Ok(None);
    }
    let version = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    entity_tag::version(version).map(Some).ok_or_else(|| {
        Trouble::bad_request("the header If-Match must be one version, such as \"3\", or one ETag")
    })
}

/// The bytes of a body, within the bound of its size. Its time is kept in `edges`.
pub(crate) async fn body(body: Body) -> Result<Bytes, Trouble> {
    limited(body, BODY_BYTES_MAX).await
}

async fn limited(body: Body, bytes_max: usize) -> Result<Bytes, Trouble> {
    let too_large =
        || Trouble::new(&problems::BODY_TOO_LARGE).detail(format!("at most {bytes_max} bytes are allowed"));
    let error = match Limited::new(body, bytes_max).collect().await {
        Ok(collected) => return Ok(collected.to_bytes()),
        Err(error) => error,
    };
    if error.is::<http_body_util::LengthLimitError>() {
        return Err(too_large());
    }
    Err(match Cut::behind(&*error) {
        Some(Cut::TooSlow) => Trouble::new(&problems::BODY_TOO_SLOW),
        Some(Cut::NoRoom { retry_after }) => Trouble::new(&problems::OVERLOADED).retry_after(retry_after),
        None => Trouble::bad_request("the body broke off"),
    })
}

/// The members of a JSON object in a body.
#[derive(Debug)]
pub(crate) struct Members(Map<String, Value>);

impl Members {
    pub(crate) async fn of(headers: &HeaderMap, from: Body) -> Result<Self, Trouble> {
        Self::within(headers, from, BODY_BYTES_MAX).await
    }

    /// Of a body that may hold many titles.
    pub(crate) async fn of_batch(headers: &HeaderMap, from: Body) -> Result<Self, Trouble> {
        Self::within(headers, from, BATCH_BYTES_MAX).await
    }

    async fn within(headers: &HeaderMap, from: Body, bytes_max: usize) -> Result<Self, Trouble> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !content_type.is_some_and(is_json) {
            let trouble = Trouble::new(&problems::WRONG_CONTENT_TYPE);
            return Err(trouble.detail("send JSON with Content-Type: application/json"));
        }
        Self::parse(&limited(from, bytes_max).await?)
    }

    fn parse(bytes: &[u8]) -> Result<Self, Trouble> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(members)) => match serde_json::from_slice(bytes) {
                Ok(Twice(Some(name))) => {
                    Err(Trouble::bad_request(format!("the member `{}` is given twice", shown(&name))))
                }
                _ => Ok(Self(members)),
            },
            Ok(_) => Err(Trouble::bad_request("the body must be a JSON object")),
            Err(_) if bytes.is_empty() => Err(Trouble::bad_request("the body is empty; send a JSON object")),
            Err(error) => Err(Trouble::bad_request(format!(
                "the body is not valid JSON: look at line {}, column {}",
                error.line(),
                error.column()
            ))),
        }
    }

    pub(crate) fn title(&mut self) -> Result<Title, Trouble> {
        match self.0.remove("title") {
            Some(Value::String(text)) => Title::new(text).map_err(Trouble::invalid),
            Some(_) => Err(Trouble::invalid("`title` must be a text")),
            None => Err(Trouble::invalid("`title` is missing")),
        }
    }

    /// The titles of a batch, each in an object of its own.
    pub(crate) fn items(&mut self) -> Result<Vec<Title>, Trouble> {
        let items = match self.0.remove("items") {
            Some(Value::Array(items)) => items,
            Some(_) => return Err(Trouble::invalid("`items` must be an array")),
            None => return Err(Trouble::invalid("`items` is missing")),
        };
        if !(1..=BATCH_ITEMS_MAX).contains(&items.len()) {
            let count = items.len();
            let wrong = format!("`items` has {count} members; 1 to {BATCH_ITEMS_MAX} are allowed");
            return Err(Trouble::invalid(wrong));
        }
        let titles = items.into_iter().enumerate().map(|(place, item)| {
            let within = |trouble: Trouble| {
                let detail = trouble.detail.clone().unwrap_or_default();
                trouble.detail(format!("in `items`, at place {place}: {detail}"))
            };
            let Value::Object(members) = item else {
                return Err(within(Trouble::invalid("it must be an object")));
            };
            let mut members = Self(members);
            let title = members.title().map_err(within)?;
            members.finish().map_err(within)?;
            Ok(title)
        });
        titles.collect()
    }

    pub(crate) fn done(&mut self) -> Result<bool, Trouble> {
        match self.0.remove("done") {
            Some(Value::Bool(done)) => Ok(done),
            Some(_) => Err(Trouble::invalid("`done` must be true or false")),
            None => Err(Trouble::invalid("`done` is missing")),
        }
    }

    /// Refuses what nobody asked for: a misspelt member would otherwise be lost without a word.
    pub(crate) fn finish(self) -> Result<(), Trouble> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(Trouble::invalid(format!("`{}` is not known here", shown(name)))),
        }
    }
}

/// The first name that an object holds twice, the outermost or one inside of it. The parser keeps the last of such members,
/// another one the first: what was meant nobody knows.
struct Twice(Option<String>);

impl<'de> Deserialize<'de> for Twice {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TwiceVisitor)
    }
}

struct TwiceVisitor;

/// Values in which there is nothing to find.
macro_rules! nothing_in {
    ($($visit:ident($kind:ty)),*) => {
        $(fn $visit<E>(self, _value: $kind) -> Result<Twice, E> {
            Ok(Twice(None))
        })*
    };
}

impl<'de> Visitor<'de> for TwiceVisitor {
    type Value = Twice;

    nothing_in!(visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str));

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Twice, E> {
        Ok(Twice(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Twice, A::Error> {
        let mut twice = None;
        while let Some(Twice(inner)) = values.next_element()? {
            twice = twice.or(inner);
        }
        Ok(Twice(twice))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Twice, A::Error> {
        let (mut names, mut twice) = (HashSet::new(), None);
        while let Some((name, Twice(inner))) = members.next_entry::<String, Twice>()? {
            twice = twice.or(inner);
            if let Some(name) = names.replace(name) {
                twice = twice.or(Some(name));
            }
        }
        Ok(Twice(twice))
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// A name of the sender's, cut to a length that fits a sentence and without what could break it.
fn shown(name: &str) -> String {
    name.chars().filter(|character| !character.is_control()).take(NAME_CHARACTERS_MAX).collect()
}

/// A key as a part of an address.
pub(crate) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte))
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// A header value of a text that is known to be visible ASCII.
pub(crate) fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn headers(name: HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn detail<T: std::fmt::Debug>(refused: Result<T, Trouble>) -> String {
        refused.unwrap_err().detail.unwrap().into_owned()
    }

    #[test]
    fn keys_are_visible_ascii_of_bounded_length() {
        let key = |values: &[&str]| key(&headers(IDEMPOTENCY_KEY, values));
        assert_eq!(key(&["order-17"]).unwrap(), "order-17");
        assert_eq!(key(&[&"x".repeat(255)]).unwrap().len(), 255);
        assert_ne!(key(&[]).unwrap(), key(&[]).unwrap());
        for wrong in [&[""][..], &["a b"], &[&"x".repeat(256)], &["a", "a"]] {
            assert!(detail(key(wrong)).contains("Idempotency-Key"), "{wrong:?}");
        }
    }

    #[test]
    fn a_version_may_stand_in_quotes() {
        let version = |text| if_match(&headers(header::IF_MATCH, &[text]));
        assert_eq!((version("\"3\"").unwrap(), version("3").unwrap()), (Some(3), Some(3)));
        assert_eq!(version("\"3-0123456789abcdef\"").unwrap(), Some(3));
        assert_eq!((version("*").unwrap(), if_match(&HeaderMap::new()).unwrap()), (None, None));
        for wrong in [
            "",
            "0",
            "\"03\"",
            "abc",
            "W/\"3\"",
            "\"1\", \"2\"",
            "-1",
            "+1",
            "\"3",
            "99999999999999999999",
            "\"3-\"",
        ] {
            assert!(detail(version(wrong)).contains("If-Match"), "{wrong}");
        }
    }

    /// Of two If-Match headers the first was a condition and the second was none.
    #[test]
    fn two_versions_in_two_headers_are_refused_like_two_in_one() {
        for twice in [["\"1\"", "\"2\""], ["\"1\"", "\"1\""], ["*", "\"2\""], ["\"2\"", "*"]] {
            let refused = if_match(&headers(header::IF_MATCH, &twice));
            assert!(detail(refused).contains("If-Match"), "{twice:?}");
        }
    }

    #[test]
    fn malformed_json_is_located_and_not_quoted() {
        let detail = detail(Members::parse(b"{\"title\":\n \"canary\",}"));
        assert!(detail.contains("line 2, column 11") && !detail.contains("canary"), "{detail}");
        for wrong in [&b"[]"[..], b"null", b"\"x\"", b"", b"{", b"\xff", b"{\"title\":\"\\ud800\"}"] {
            assert_eq!(Members::parse(wrong).unwrap_err().kind.status, 400, "{wrong:?}");
        }
    }

    /// Of two titles the last one was taken without a word; what stands between sender and server may have checked the first.
    #[test]
    fn a_member_that_is_given_twice_is_refused_by_its_name() {
        for (body, name) in [
            ("{\"title\":\"canary\",\"title\":\"b\"}", "`title`"),
            ("{\"title\":\"canary\",\"t\\u0069tle\":\"b\"}", "`title`"),
            ("{\"title\":\"canary\",\"done\":true,\"done\":true}", "`done`"),
            ("{\"a\":{},\"b\":[1],\"a\":{}}", "`a`"),
            ("{\"items\":[{\"title\":\"a\"},{\"title\":\"canary\",\"title\":\"b\"}]}", "`title`"),
        ] {
            let refused = Members::parse(body.as_bytes()).unwrap_err();
            assert_eq!(refused.kind.status, 400, "{body}");
            let detail = refused.detail.unwrap();
            assert!(detail.contains(name) && !detail.contains("canary"), "{body}: {detail}");
        }
        assert!(Members::parse(b"{\"title\":\"title\",\"done\":true,\"n\":[null,1,-1,0.5,\"x\"]}").is_ok());
    }

    #[test]
    fn each_wrong_member_is_named() {
        let members = |text: &str| Members::parse(text.as_bytes()).unwrap();
        for text in
            ["{}", "{\"title\":5}", "{\"title\":null}", "{\"title\":\"\"}", "{\"title\":{\"canary\":1}}"]
        {
            let detail = detail(members(text).title());
            assert!(detail.contains("`title`") && !detail.contains("canary"), "{text}: {detail}");
        }
        for text in ["{}", "{\"done\":\"true\"}", "{\"done\":1}"] {
            assert!(detail(members(text).done()).contains("`done`"), "{text}");
        }
        assert!(detail(members("{\"titel\":\"x\"}").finish()).contains("`titel`"));
        let long = format!("{{\"{}\":1}}", "x".repeat(5_000));
        assert!(detail(members(&long).finish()).len() < 100);
    }

    #[test]
    fn a_batch_is_refused_as_a_whole_and_says_which_item_is_wrong() {
        let items = |text: &str| Members::parse(text.as_bytes()).unwrap().items();
        assert_eq!(items("{\"items\":[{\"title\":\"a\"},{\"title\":\"b\"}]}").unwrap().len(), 2);
        let many = |count: usize| format!("{{\"items\":[{}]}}", vec!["{\"title\":\"a\"}"; count].join(","));
        assert_eq!(items(&many(1_000)).unwrap().len(), 1_000);
        for (body, said) in [
            ("{}", "missing"),
            ("{\"items\":{}}", "array"),
            (many(0).as_str(), "0 members"),
            (many(1_001).as_str(), "1001 members"),
            ("{\"items\":[{\"title\":\"a\"},{\"title\":\"\"}]}", "place 1: `title`"),
            ("{\"items\":[{\"title\":\"a\",\"done\":true}]}", "place 0: `done`"),
            ("{\"items\":[\"canary\"]}", "place 0: it must be an object"),
        ] {
            let refused = items(body).unwrap_err();
            assert_eq!(refused.kind.status, StatusCode::UNPROCESSABLE_ENTITY);
            let detail = refused.detail.unwrap();
            assert!(detail.contains(said) && !detail.contains("canary"), "{said}: {detail}");
        }
    }

    #[test]
    fn content_types_of_json_are_known_by_their_essence() {
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"] {
            assert!(is_json(good), "{good}");
        }
        for wrong in ["text/plain", "application/x-www-form-urlencoded", "text/json", ""] {
            assert!(!is_json(wrong), "{wrong}");
        }
    }

    #[test]
    fn keys_in_addresses_are_escaped() {
        assert_eq!(percent_encoded("a-1/b?c%"), "a-1%2Fb%3Fc%25");
    }

    #[tokio::test]
    async fn an_oversize_body_is_refused() {
        assert_eq!(body(Body::from(vec![b'x'; BODY_BYTES_MAX])).await.unwrap().len(), BODY_BYTES_MAX);
        let refused = body(Body::from(vec![b'x'; BODY_BYTES_MAX + 1])).await.unwrap_err();
        assert_eq!(refused.kind.status, StatusCode::PAYLOAD_TOO_LARGE);
    }
}
