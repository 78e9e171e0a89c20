//! Entity tags: the version of a todo and what its document holds, in one word. Here they are made, found in
//! `If-None-Match`, and answered with 304. Whether a version may be shown to whom is the library's to say.
//!
//! The version alone proves nothing: one that waits in a journal is a promise that another change can take, and one that
//! was committed can be lost with its primary and be made again. `docs/adr/2026-11-21-an-entity-tag-names-the-contents.md`.

use axum::{body::Body, response::Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use sha2::{Digest as _, Sha256};

use crate::todo::Todo;

/// Bytes of the digest that stand in a tag: it tells versions of one todo apart, and keeps nobody out.
const DIGEST_BYTES: usize = 8;

/// The tag of a document, such as `"3-0123456789abcdef"`; none where its version is not known.
pub(super) fn of(document: &[u8]) -> Option<HeaderValue> {
    let version = Todo::version_of(document)?;
    let digest = Sha256::digest(document);
    let digest: String = digest.iter().take(DIGEST_BYTES).map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::from_str(&format!("\"{version}-{digest}\"")).ok()
}

/// Whether a document has the version that is asked for, where one is. One whose version is not known has none.
pub(super) fn is_version(document: &[u8], wanted: Option<i64>) -> bool {
    wanted.is_none_or(|wanted| {
        Todo::version_of(document).is_some_and(|version| i64::try_from(version) == Ok(wanted))
    })
}

/// The version in what stands between the quotes of a tag, or alone.
pub(super) fn version<N: std::str::FromStr>(text: &str) -> Option<N> {
    let (version, digest) =
        text.split_once('-').map_or((text, None), |(version, rest)| (version, Some(rest)));
    let is_ours = digest.is_none_or(|digest| {
        digest.len() == DIGEST_BYTES * 2
            && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    });
    // Versions count from 1, and are written in one way.
    let digits = !version.starts_with('0') && version.bytes().all(|byte| byte.is_ascii_digit());
    version.parse().ok().filter(|_| is_ours && digits)
}

/// The newest version in `If-None-Match`, of those that we gave; whatever else stands there says nothing to us.
pub(super) fn newest_had(headers: &HeaderMap) -> Option<u64> {
    had(headers).filter_map(|tag| version(tag.strip_prefix('"')?.strip_suffix('"')?)).max()
}

/// `response`, or 304 with its labels where the sender has the same document already.
pub(super) fn unless_had(headers: &HeaderMap, response: Response) -> Response {
    let tag = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok());
    // Any document will do for a star, also one whose version is not known.
    if !had(headers).any(|one| one == "*" || Some(one) == tag) {
        return response;
    }
    let (mut parts, _) = response.into_parts();
    parts.status = StatusCode::NOT_MODIFIED;
    parts.headers.remove(header::CONTENT_TYPE);
    Response::from_parts(parts, Body::empty())
}

/// The members of `If-None-Match`, without the mark of what was weakened on its way, as by compression: here that makes no
/// difference.
fn had(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let tags = values.flat_map(|value| value.split(',')).map(str::trim);
    tags.map(|tag| tag.strip_prefix("W/").unwrap_or(tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::todo::{Title, tests::todo};

    const DIGEST: &str = "0123456789abcdef";

    fn headers(texts: &[&str]) -> HeaderMap {
        let named = |text: &&str| (header::IF_NONE_MATCH, HeaderValue::from_str(text).unwrap());
        texts.iter().map(named).collect()
    }

    #[test]
    fn of_what_a_client_says_that_it_has_the_newest_counts() {
        let newest = |texts: &[&str]| newest_had(&headers(texts));
        assert_eq!((newest(&["\"3\""]), newest(&["\"3\", \"12\"", "\"4\""])), (Some(3), Some(12)));
        let ours = format!("\"7-{DIGEST}\"");
        let weak = format!("\"x\", W/{ours}");
        assert_eq!((newest(&[&ours]), newest(&[&weak])), (Some(7), Some(7)));
        let not_ours = [
            "*",
            "",
            "3",
            "\"0\"",
            "\"03\"",
            "\"abc\"",
            "\"-1\"",
            "\"+1\"",
            "\"3-\"",
            "\"3-xyz\"",
            "\"-0123456789abcdef\"",
        ];
        for other in not_ours {
            assert_eq!(newest(&[other]), None, "{other}");
        }
    }

    /// A version that was promised in an outage, and one that another replica committed meanwhile, had one tag.
    #[test]
    fn documents_of_one_version_with_other_contents_have_other_tags() {
        let known = todo(1, 3);
        let promised =
            crate::todo::Todo { title: Title::new("another".to_owned()).unwrap(), ..known.clone() };
        let (known, promised) = (of(&known.encode()).unwrap(), of(&promised.encode()).unwrap());
        assert_ne!(known, promised);
        let text = known.to_str().unwrap();
        assert_eq!(newest_had(&headers(&[text])), Some(3), "{text}");
        assert_eq!(of(&todo(1, 0).encode()), None);
        assert_eq!(of(b"{}"), None);
    }

    #[test]
    fn only_who_has_exactly_this_is_told_that_nothing_is_new() {
        let answer = || {
            let mut response = Response::new(Body::from("{}"));
            response.headers_mut().insert(header::ETAG, HeaderValue::from_static("\"3-0123456789abcdef\""));
            response
        };
        let status = |texts: &[&str]| unless_had(&headers(texts), answer()).status().as_u16();
        for same in
            ["\"3-0123456789abcdef\"", "W/\"3-0123456789abcdef\"", "\"1\", \"3-0123456789abcdef\"", "*"]
        {
            assert_eq!(status(&[same]), 304, "{same}");
        }
        for other in ["\"3\"", "3", "\"3-0123456789abcdee\"", "\"*\"", ""] {
            assert_eq!(status(&[other]), 200, "{other}");
        }
        assert_eq!(status(&[]), 200);
    }
}
