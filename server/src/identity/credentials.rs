//! What a request shows of its sender: a bearer token, in the header for programs or in the cookie of a browser that signed
//! in. Whether the token is worth anything is not decided here.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// The cookie of a browser that signed in. It holds the token itself: so every replica knows it, in an outage too, and it
/// ends with the token.
const COOKIE: &str = "ridethrough_token";
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Longer ones are refused unread; a token of an identity provider is a tenth of it.
pub(super) const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// What was found.
#[derive(PartialEq, Eq)]
pub(super) enum Shown<'r> {
    /// Nothing.
    Nothing,
    /// A token in the header.
    Bearer(&'r str),
    /// A token in the cookie, which a browser sends along whoever asks it to.
    Cookie(&'r str),
    /// Something that is no token.
    Broken,
}

/// What the headers show. The header wins over the cookie.
pub(super) fn shown(headers: &HeaderMap) -> Shown<'_> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (None, _) => cookie(headers).map_or(Shown::Nothing, Shown::Cookie),
        (Some(value), None) => bearer(value).map_or(Shown::Broken, Shown::Bearer),
        (Some(_), Some(_)) => Shown::Broken,
    }
}

fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && is_token(token)).then_some(token)
}

/// One that is no token is passed over, as if it were not there.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let values = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, token)| token).filter(|token| is_token(token))
}

/// The characters of RFC 6750, all of which may stand in a cookie.
pub(crate) fn is_token(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    (1..=TOKEN_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// The header that makes a browser keep the token, until it is closed; without a token, forget it. Scripts do not see it, and
/// no other site can have it sent.
pub(crate) fn set_cookie(token: Option<&str>, by_https: bool) -> HeaderValue {
    let secure = if by_https { "; Secure" } else { "" };
    let (token, end) = token.map_or(("", "; Max-Age=0"), |token| (token, ""));
    let text = format!("{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict{secure}{end}");
    let mut value = HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// Whether the proxy in front says that the browser came by https.
pub(super) fn came_by_https(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(FORWARDED_PROTO).iter();
    matches!((values.next(), values.next()), (Some(value), None) if value.as_bytes().eq_ignore_ascii_case(b"https"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn found(pairs: &[(&'static str, &str)]) -> String {
        match shown(&headers(pairs)) {
            Shown::Nothing => "nothing".to_owned(),
            Shown::Bearer(token) => format!("bearer {token}"),
            Shown::Cookie(token) => format!("cookie {token}"),
            Shown::Broken => "broken".to_owned(),
        }
    }

    #[test]
    fn a_token_is_found_in_the_header_or_in_the_cookie() {
        assert_eq!(found(&[]), "nothing");
        assert_eq!(found(&[("authorization", "Bearer a.b-c")]), "bearer a.b-c");
        assert_eq!(found(&[("authorization", "bearer  a")]), "bearer a");
        assert_eq!(found(&[("cookie", "x=1; ridethrough_token=abc; y=2")]), "cookie abc");
        assert_eq!(found(&[("cookie", "x=1"), ("cookie", "ridethrough_token=abc")]), "cookie abc");
        assert_eq!(found(&[("cookie", "ridethrough_token=c"), ("authorization", "Bearer h")]), "bearer h");
        for broken in ["Basic YTpi", "Bearer", "Bearer ", "Bearer a b", "a", "Bearer \"a\""] {
            assert_eq!(found(&[("authorization", broken)]), "broken", "{broken}");
        }
        assert_eq!(found(&[("authorization", "Bearer a"), ("authorization", "Bearer a")]), "broken");
        assert_eq!(found(&[("cookie", "ridethrough_token=")]), "nothing");
    }

    #[test]
    fn the_cookie_is_for_this_site_alone() {
        let text = |value: HeaderValue| value.to_str().unwrap().to_owned();
        let plain = text(set_cookie(Some("abc"), false));
        assert_eq!(plain, "ridethrough_token=abc; Path=/; HttpOnly; SameSite=Strict");
        assert_eq!(text(set_cookie(Some("abc"), true)), format!("{plain}; Secure"));
        assert!(text(set_cookie(None, false)).ends_with("Max-Age=0"));
        assert!(!format!("{:?}", set_cookie(Some("canary"), false)).contains("canary"));
        assert!(came_by_https(&headers(&[("x-forwarded-proto", "HTTPS")])));
        assert!(!came_by_https(&headers(&[("x-forwarded-proto", "http")])));
    }
}
