//! What a form sends: its fields, and whether it came from a page of this site. What is done with it stands in `page` and `sign_in`.

use std::collections::HashMap;

use http::{HeaderMap, HeaderName, Uri, header, uri::Authority};

use crate::{error::Trouble, problems, routes::decode, todo::Title};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A page of another site must not change the list through the browser of somebody who visits it. A program that is no
/// browser sends neither of these headers, and carries nobody's authority but its own.
pub(crate) fn refuse_other_sites(headers: &HeaderMap) -> Result<(), Trouble> {
    let one_of = |name: &HeaderName| {
        let mut values = headers.get_all(name).iter();
        // What is sent twice, or is no text, is what no browser sends.
        values
            .next()
            .map(|value| if values.next().is_some() { "" } else { value.to_str().unwrap_or_default() })
    };
    let from_here = match (one_of(&SEC_FETCH_SITE), one_of(&header::ORIGIN)) {
        // Another site under the same domain may belong to somebody else.
        (Some(site), _) => matches!(site, "same-origin" | "none"),
        (None, Some(origin)) => one_of(&header::HOST).is_some_and(|host| is_origin_of(origin, host)),
        (None, None) => true,
    };
    let refused = || Trouble::new(&problems::OTHER_SITE);
    if from_here { Ok(()) } else { Err(refused()) }
}

/// Whether the origin's authority is the host that was asked for. The scheme is not compared: who ends TLS in front of this
/// server does not tell it.
fn is_origin_of(origin: &str, host: &str) -> bool {
    let Ok(origin) = origin.parse::<Uri>() else { return false };
    let Ok(host) = host.parse::<Authority>() else { return false };
    let default_port = match origin.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => return false,
    };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(default_port);
    origin.authority().is_some_and(|authority| {
        authority.host().eq_ignore_ascii_case(host.host()) && port(authority) == port(&host)
    })
}

/// The fields of a form; nothing in place of a value whose bytes are no text. Stored with marks in their place, what was
/// written would be lost without a word.
pub(crate) struct Form(HashMap<String, Option<String>>);

impl Form {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Trouble> {
        let mut fields = HashMap::new();
        for pair in bytes.trim_ascii().split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let mut halves = pair.splitn(2, |byte| *byte == b'=');
            let mut text = || decoded(halves.next().unwrap_or_default());
            let (name, value) = (text(), text());
            let name =
                name.ok_or_else(|| Trouble::bad_request("the form has a field whose name is no UTF-8 text"))?;
            if fields.insert(name, value).is_some() {
                return Err(Trouble::bad_request("the form has a field twice"));
            }
        }
        Ok(Self(fields))
    }

    pub(crate) fn field(&self, name: &str) -> Result<&str, Trouble> {
        let wrong = |what| Trouble::bad_request(format!("the field `{name}` of the form {what}"));
        let value = self.0.get(name).ok_or_else(|| wrong("is missing"))?;
        value.as_deref().ok_or_else(|| wrong("holds bytes that are no UTF-8 text"))
    }

    pub(crate) fn key(&self) -> Result<&str, Trouble> {
        let key = self.field("key")?;
        let wrong = || Trouble::bad_request("the field `key` of the form is no Idempotency-Key");
        if decode::is_key(key.as_bytes()) { Ok(key) } else { Err(wrong()) }
    }

    /// A title that the form holds as it stands in the list.
    pub(crate) fn title(&self) -> Result<Title, Trouble> {
        Title::new(self.field("title")?.to_owned()).map_err(Trouble::invalid)
    }

    /// A title that somebody typed.
    pub(crate) fn typed_title(&self) -> Result<Title, Trouble> {
        Title::typed(self.field("title")?).map_err(Trouble::invalid)
    }

    /// The version of the todo that the page showed.
    pub(crate) fn version(&self) -> Result<i64, Trouble> {
        let wrong = || Trouble::bad_request("the field `version` of the form is no version");
        self.field("version")?.parse().ok().filter(|version| *version > 0).ok_or_else(wrong)
    }
}

/// Text in the encoding of forms, where the bytes are text.
fn decoded(bytes: &[u8]) -> Option<String> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.split_first_chunk::<2>().filter(|_| *first == b'%');
        let escaped = escaped.and_then(|(digits, after)| Some((byte_of(*digits)?, after)));
        let (byte, after) = escaped.unwrap_or((if *first == b'+' { b' ' } else { *first }, after));
        out.push(byte);
        rest = after;
    }
    String::from_utf8(out).ok()
}

fn byte_of([high, low]: [u8; 2]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? * 16 + digit(low)?)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn forms_are_read() {
        let form = Form::parse(b"title=buy+milk+%26+eggs&key=k1\r\n").unwrap();
        assert_eq!((form.title().unwrap().as_str(), form.key().unwrap()), ("buy milk & eggs", "k1"));
        assert!(form.field("done").unwrap_err().detail.unwrap().contains("`done`"));
        for wrong in
            ["version=", "version=0", "version=-1", "version=3a", "version=99999999999999999999", "key=k"]
        {
            let refused = Form::parse(wrong.as_bytes()).unwrap().version().unwrap_err();
            assert!(refused.kind.status == 400 && refused.detail.unwrap().contains("`version`"), "{wrong}");
        }
        assert_eq!(Form::parse(b"version=3").unwrap().version().unwrap(), 3);
        let form = Form::parse("title=%C3%a4+100%&empty&key=a+b".as_bytes()).unwrap();
        assert_eq!((form.title().unwrap().as_str(), form.field("empty").unwrap()), ("ä 100%", ""));
        assert!(form.key().unwrap_err().detail.unwrap().contains("`key`"));
        assert_eq!(Form::parse(b"key=1&key=2").err().unwrap().kind.status, 400);
    }

    /// Marking an item as done cut the blanks off its title.
    #[test]
    fn only_a_title_that_was_typed_is_trimmed() {
        let form = Form::parse(b"title=+milk+").unwrap();
        assert_eq!(
            (form.typed_title().unwrap().as_str(), form.title().unwrap().as_str()),
            ("milk", " milk ")
        );
        let blank = Form::parse(b"title=+%09").unwrap();
        assert_eq!(blank.typed_title().unwrap_err().kind.status, 422);
    }

    /// Broken bytes were stored as U+FFFD, and what had been written was lost.
    #[test]
    fn bytes_that_are_no_text_are_refused_also_when_they_are_escaped() {
        for wrong in [&b"title=\xff"[..], b"title=%ff", b"title=a%C3", b"%FF=a", b"title=%ED%A0%80"] {
            let refused = Form::parse(wrong).and_then(|form| form.title()).unwrap_err();
            assert!(refused.kind.status == 400 && refused.detail.unwrap().contains("UTF-8"), "{wrong:?}");
        }
    }

    fn refused(headers: &[(&'static str, &'static str)]) -> bool {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers.iter().map(pair) {
            map.append(name, value);
        }
        refuse_other_sites(&map).is_err()
    }

    /// A site under the same domain was let in, and so was every site where the browser sends no `Sec-Fetch-Site`, as it
    /// does to an address without TLS.
    #[test]
    fn forms_of_other_sites_are_refused() {
        let host = ("host", "todos.example:8080");
        for site in ["cross-site", "same-site", "", "SAME-ORIGIN", "same-origin, none"] {
            assert!(refused(&[("sec-fetch-site", site), host]), "{site}");
        }
        assert!(refused(&[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")]));
        for origin in [
            "null",
            "",
            "todos.example:8080",
            "http://todos.example",
            "http://todos.example:8081",
            "http://evil.example:8080",
            "http://todos.example:8080.evil.example",
            "http://todos.example:8080@evil.example",
            "file://todos.example:8080",
        ] {
            assert!(refused(&[("origin", origin), host]), "{origin}");
        }
        assert!(refused(&[("origin", "http://todos.example")]), "without a host");
        assert!(refused(&[
            ("origin", "http://a.example"),
            ("origin", "http://b.example"),
            ("host", "a.example")
        ]));
    }

    #[test]
    fn own_forms_are_let_in() {
        assert!(!refused(&[]), "neither header is there");
        assert!(!refused(&[("sec-fetch-site", "same-origin"), ("origin", "null")]));
        assert!(!refused(&[("sec-fetch-site", "none")]));
        for (origin, host) in [
            ("http://todos.example:8080", "todos.example:8080"),
            ("https://todos.example", "Todos.example"),
            ("https://todos.example", "todos.example:443"),
            ("http://todos.example", "todos.example:80"),
            ("http://[::1]:8080", "[::1]:8080"),
        ] {
            assert!(!refused(&[("origin", origin), ("host", host)]), "{origin}");
        }
    }
}
