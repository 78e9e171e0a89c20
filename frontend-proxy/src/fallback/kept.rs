//! What a person typed into a form that could not be sent on: read from the body, bounded, without secrets.
//!
//! It lives as long as the answer that shows it: nothing is stored or logged. How it is shown is `page`'s business.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Uri, header, uri::PathAndQuery};
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout_at};

use crate::{body::Upload, headers::IDEMPOTENCY_KEY};

/// A browser sends a small form together with its head; nobody waits for the rest of a slow one.
const READ_WITHIN: Duration = Duration::from_secs(2);
/// More fields are no form that a person filled in.
const FIELDS_MAX: usize = 100;
/// Parts of names of fields that hold what should stand on no page, in the languages of the page and without blanks.
const SECRET: [&str; 16] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "passwort",
    "kennwort",
    "motdepasse",
    "mdp",
    "contrasena",
    "contraseña",
    "clave",
    "secret",
    "pwd",
    "cvv",
    "cvc",
    "cardnumber",
];
/// Beginnings of names of fields that people never saw: they go along and are not shown.
const UNSEEN: [&str; 5] = ["_", "csrf", "xsrf", "authenticity", "key"];

/// Under this name a page's own form brings the key of its write back, as the last parameter of its target: a form
/// without a script can send no header field.
const KEY_PARAMETER: &str = "ridethrough-key=";

/// The fields of one form, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Form {
    pub(super) fields: Vec<Field>,
}

/// One field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    /// What was typed; empty where it is left out.
    pub(super) value: String,
    /// The value is a secret and was left out.
    pub(super) is_left_out: bool,
    /// The person typed it, as far as its name tells.
    pub(super) is_seen: bool,
}

impl Form {
    /// Whether a request is a form that a page could keep.
    pub(crate) fn is_small(method: &Method, headers: &HeaderMap, bytes_max: usize) -> bool {
        let is_urlencoded = headers.get(header::CONTENT_TYPE).is_some_and(|content_type| {
            let text = content_type.to_str().unwrap_or_default();
            let media_type = text.split(';').next().unwrap_or_default().trim();
            media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded")
        });
        let length =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        *method == Method::POST && is_urlencoded && length.is_some_and(|length: usize| length <= bytes_max)
    }

    /// Reads the whole form again, from its first byte. `None` where it did not come whole and soon, or is none.
    ///
    /// # Cancel safety
    /// Dropping it loses what was read from the client; whoever drops it answers nobody any more.
    pub(crate) async fn read(upload: &Upload, bytes_max: usize) -> Option<Self> {
        if !upload.is_replayable() {
            return None;
        }
        let read = collect(upload.for_attempt(), bytes_max);
        Self::of(&timeout_at(Instant::now() + READ_WITHIN, read).await.ok()??)
    }

    /// Takes a form apart. `None` where it is empty, is no text, or could not be shown and sent again as it is.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let pairs = bytes.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty());
        let fields: Vec<Field> = pairs.take(FIELDS_MAX + 1).map(Field::of).collect::<Option<Vec<_>>>()?;
        (1..=FIELDS_MAX).contains(&fields.len()).then_some(Self { fields })
    }

    pub(super) fn has_left_out(&self) -> bool {
        self.fields.iter().any(|field| field.is_left_out)
    }
}

impl Field {
    fn of(pair: &[u8]) -> Option<Self> {
        let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let (name, value) = (pair.get(..at)?, pair.get(at + 1..).unwrap_or_default());
        let (name, value) = (decoded(name)?, decoded(value)?);
        let plain: String = name.to_lowercase().chars().filter(|letter| letter.is_alphanumeric()).collect();
        let is_left_out =
            SECRET.iter().any(|part| plain.contains(part)) || matches!(plain.as_str(), "pin" | "otp");
        let start = name.to_lowercase();
        let is_seen = !UNSEEN.iter().any(|unseen| start.starts_with(unseen)) && !value.is_empty();
        let value = if is_left_out { String::new() } else { value };
        Some(Self { name, value, is_left_out, is_seen })
    }
}

/// Gives the write of a form an idempotency key where it has none: the one that a page of ours brought back in the
/// target, which is taken out there, or a new one.
pub(crate) fn give_key(uri: &mut Uri, headers: &mut HeaderMap, random: &mut fastrand::Rng) {
    let brought = taken_out(uri);
    let key = match brought {
        Some((without, key)) => {
            *uri = without;
            key
        }
        None => HeaderValue::try_from(format!("{:032x}", random.u128(..))).expect("digits are visible"),
    };
    if !headers.contains_key(IDEMPOTENCY_KEY) {
        headers.insert(IDEMPOTENCY_KEY, key);
    }
}

fn taken_out(uri: &Uri) -> Option<(Uri, HeaderValue)> {
    let (rest, last) = uri.path_and_query()?.as_str().rsplit_once(['?', '&'])?;
    let key = last.strip_prefix(KEY_PARAMETER).filter(|key| is_plain(key))?;
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(rest).ok()?);
    Some((Uri::from_parts(parts).ok()?, HeaderValue::try_from(key).ok()?))
}

/// Where the page's form sends to: the same target, with the key of the write.
pub(super) fn action(uri: &Uri, headers: &HeaderMap) -> String {
    let key = headers.get(IDEMPOTENCY_KEY).and_then(|key| key.to_str().ok()).filter(|key| is_plain(key));
    match (key, uri.query()) {
        (None, _) => String::new(),
        (Some(key), None | Some("")) => format!("?{KEY_PARAMETER}{key}"),
        (Some(key), Some(query)) => format!("?{query}&{KEY_PARAMETER}{key}"),
    }
}

/// Fit for a query as it is.
fn is_plain(key: &str) -> bool {
    (1..=255).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

/// A name or value as it was typed. A NUL could not be written into a page.
fn decoded(text: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        let pair = rest.as_slice().get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        let escaped =
            pair.filter(|pair| *byte == b'%' && pair.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match escaped.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(value) => {
                bytes.push(value);
                rest.nth(1);
            }
            None => bytes.push(if *byte == b'+' { b' ' } else { *byte }),
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

async fn collect<B: Body<Data = Bytes> + Unpin>(mut body: B, bytes_max: usize) -> Option<Bytes> {
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            if read.len() + data.len() > bytes_max {
                return None;
            }
            read.extend_from_slice(&data);
        }
    }
    Some(read.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(body: &str) -> Option<Vec<(String, String)>> {
        let form = Form::of(body.as_bytes())?;
        Some(form.fields.into_iter().map(|field| (field.name, field.value)).collect())
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn a_form_is_read_as_it_was_typed() {
        let read = pairs("title=milk+%26+tea&note=%C3%A4%0D%0A%3Cb%3E&note=100%&empty=&flag&%zz=%4").unwrap();
        let wanted = [
            pair("title", "milk & tea"),
            pair("note", "ä\r\n<b>"),
            pair("note", "100%"),
            pair("empty", ""),
            pair("flag", ""),
            pair("%zz", "%4"),
        ];
        assert_eq!(read, wanted);
    }

    #[test]
    fn what_cannot_be_sent_again_as_it_was_is_not_kept() {
        for body in ["", "&&", "a=%00", "a=%ff", "%ff=a", &"a=1&".repeat(101)] {
            assert_eq!(pairs(body), None, "{body:?}");
        }
        assert!(pairs(&"a=1&".repeat(100)).is_some());
    }

    #[test]
    fn secrets_are_left_out_by_their_names() {
        for name in [
            "password",
            "user[Password]",
            "new-password",
            "pass_phrase",
            "Kennwort",
            "card-number",
            "pin",
            "mot_de_passe",
        ] {
            let form = Form::of(format!("{name}=hunter2&title=x").as_bytes()).unwrap();
            assert!(form.has_left_out() && form.fields[0].value.is_empty(), "{name}");
            assert_eq!(form.fields[1].value, "x");
        }
        for name in ["title", "passenger", "spin", "compass", "opinion"] {
            assert!(!Form::of(format!("{name}=x").as_bytes()).unwrap().has_left_out(), "{name}");
        }
    }

    #[test]
    fn what_people_never_saw_goes_along_and_is_not_shown() {
        let form = Form::of(b"_method=put&csrf_token=a&key=b&title=x&note=").unwrap();
        let seen: Vec<&str> =
            form.fields.iter().filter(|field| field.is_seen).map(|field| field.name.as_str()).collect();
        assert_eq!(seen, ["title"]);
        assert_eq!(form.fields.len(), 5);
    }

    #[test]
    fn a_form_that_is_sent_again_has_the_key_it_had() {
        let mut random = fastrand::Rng::with_seed(8);
        for target in ["/a", "/a?b=1&c", "http://host/a?b", "/a?"] {
            let (mut uri, mut headers): (Uri, _) = (target.parse().unwrap(), HeaderMap::new());
            give_key(&mut uri, &mut headers, &mut random);
            assert_eq!(uri, target);
            let key = headers[IDEMPOTENCY_KEY].clone();
            assert_eq!(key.len(), 32);
            // A browser resolves the action against the address of the page.
            let path = target.split('?').next().unwrap();
            let mut again: Uri = format!("{path}{}", action(&uri, &headers)).parse().unwrap();
            let mut headers = HeaderMap::new();
            give_key(&mut again, &mut headers, &mut random);
            assert_eq!(headers[IDEMPOTENCY_KEY], key, "{target}");
            assert_eq!(again.to_string(), target.trim_end_matches('?'));
        }
        let mut headers = HeaderMap::new();
        headers.insert(IDEMPOTENCY_KEY, "mine".parse().unwrap());
        let mut uri: Uri = "/a?ridethrough-key=theirs".parse().unwrap();
        give_key(&mut uri, &mut headers, &mut random);
        assert_eq!(
            (uri.to_string().as_str(), &headers[IDEMPOTENCY_KEY]),
            ("/a", &HeaderValue::from_static("mine"))
        );
        for odd in ["/a?ridethrough-key=", "/a?ridethrough-key=a%0d", "/a?ridethrough-key=a&b=1", "*"] {
            let mut uri: Uri = odd.parse().unwrap();
            give_key(&mut uri, &mut HeaderMap::new(), &mut random);
            assert_eq!(uri, odd);
        }
    }

    #[test]
    fn only_small_urlencoded_forms_are_kept() {
        let judge = |method: Method, content_type: &str, length: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
            headers.insert(header::CONTENT_LENGTH, length.parse().unwrap());
            Form::is_small(&method, &headers, 100)
        };
        let urlencoded = "Application/X-WWW-form-urlencoded; charset=UTF-8";
        assert!(judge(Method::POST, urlencoded, "100"));
        assert!(!judge(Method::POST, urlencoded, "101"));
        assert!(!judge(Method::PUT, urlencoded, "10"));
        assert!(!judge(Method::POST, "multipart/form-data; boundary=x", "10"));
        assert!(!judge(Method::POST, "text/plain", "10"));
    }
}
