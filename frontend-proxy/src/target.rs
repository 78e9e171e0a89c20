//! Which requests are let through: method, target, `Host`, paths that stay inside.
//!
//! Nothing is changed on the way: paths are judged on a decoded copy and forwarded byte by byte as they came.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};
use ridethrough::{http::Probes, service::Encrypted};

use crate::headers;

/// Why a request goes no further. Each is one problem type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// CONNECT and TRACE.
    Method,
    /// No `Host`, two of them, or nothing that can be a host.
    Host,
    /// Another scheme than http, or a user name in the target.
    Target,
    /// Encoded control characters in the path.
    ControlCharacter,
    /// Longer than the limit.
    TargetTooLong,
    /// More fields than the limit. HTTP/1.1 is refused by the parser.
    TooManyFields,
    /// `Connection` names a field that must not be stripped.
    ConnectionOption,
    /// It has been here before.
    Loop,
    /// A path of the backends that stays inside.
    Hidden,
    /// Only a kept answer was wanted, and there is none.
    OnlyIfCached,
    /// More body than the limit.
    BodyTooLarge,
    /// The body stopped coming.
    BodyTooSlow,
    /// The body could not be read: wrong framing, or the client went away.
    BodyBroken,
}

/// The bounds of what is let through.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Longest target in bytes.
    pub(crate) target_bytes_max: usize,
    /// Fields in one head.
    pub(crate) fields_max: usize,
    /// Longest body in bytes, as far as the request declares it.
    pub(crate) body_bytes_max: u64,
    /// Paths that stay inside, with everything below them.
    pub(crate) hidden_paths: Vec<String>,
    /// Our name in `Via`.
    pub(crate) via_name: String,
}

impl Gate {
    /// Judges a request by its head; gives the host it is for.
    ///
    /// # Errors
    /// The first [`Refusal`] that applies.
    pub(crate) fn admit<B>(&self, request: &Request<B>) -> Result<HeaderValue, Refusal> {
        let (uri, headers) = (request.uri(), request.headers());
        if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
            return Err(Refusal::Method);
        }
        if headers.len() > self.fields_max {
            return Err(Refusal::TooManyFields);
        }
        let host = if request.version() == Version::HTTP_2 {
            host_of_http2(uri, headers)?
        } else {
            host(uri, headers, request.extensions().get::<Encrypted>().is_some())?
        };
        if target_bytes(uri) > self.target_bytes_max {
            return Err(Refusal::TargetTooLong);
        }
        if headers.contains_key(header::CONNECTION) && headers::connection_names_protected(headers) {
            return Err(Refusal::ConnectionOption);
        }
        if headers.contains_key(header::VIA) && headers::is_loop(headers, &self.via_name) {
            return Err(Refusal::Loop);
        }
        self.judge_path(uri.path())?;
        if declared_length(headers).is_some_and(|length| length > self.body_bytes_max) {
            return Err(Refusal::BodyTooLarge);
        }
        Ok(host)
    }

    fn judge_path(&self, path: &str) -> Result<(), Refusal> {
        let plain = normalised(path);
        if plain.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            return Err(Refusal::ControlCharacter);
        }
        let below = |root: &str| {
            plain.get(..root.len()).is_some_and(|start| start.eq_ignore_ascii_case(root))
                && matches!(plain.as_bytes().get(root.len()), None | Some(b'/'))
        };
        let hidden = self.hidden_paths.iter().map(String::as_str).chain(Probes::PATHS).any(below);
        if hidden { Err(Refusal::Hidden) } else { Ok(()) }
    }
}

fn target_bytes(uri: &Uri) -> usize {
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    authority + uri.path_and_query().map_or(0, |path| path.as_str().len())
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The host a request is for: of the target where it has one, else of `Host`, which has to be right in any case.
fn host(uri: &Uri, headers: &HeaderMap, is_encrypted: bool) -> Result<HeaderValue, Refusal> {
    let host = host_field(headers)?.ok_or(Refusal::Host)?;
    let Some(authority) = uri.authority() else { return Ok(host.clone()) };
    let scheme = if is_encrypted { "https" } else { "http" };
    if uri.scheme_str().is_none_or(|asked| !asked.eq_ignore_ascii_case(scheme)) {
        return Err(Refusal::Target);
    }
    let authority = authority.as_str();
    if !is_host(authority.as_bytes()) {
        return Err(Refusal::Target);
    }
    HeaderValue::from_str(authority).map_err(|_| Refusal::Target)
}

/// The same in HTTP/2, where `:authority` stands for `Host`, and a message that has both must mean one. The scheme says
/// nothing: behind a proxy that speaks TLS it is the client's.
fn host_of_http2(uri: &Uri, headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    let host = host_field(headers)?;
    if uri.scheme_str().is_none_or(|scheme| !matches!(scheme, "http" | "https")) {
        return Err(Refusal::Target);
    }
    let Some(authority) = uri.authority() else { return host.cloned().ok_or(Refusal::Host) };
    let authority = authority.as_str().as_bytes();
    if !is_host(authority) {
        return Err(Refusal::Target);
    }
    if host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(authority)) {
        return Err(Refusal::Host);
    }
    HeaderValue::from_bytes(authority).map_err(|_| Refusal::Target)
}

/// The one `Host`, if there is any.
fn host_field(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Refusal> {
    let mut values = headers.get_all(header::HOST).iter();
    let host = values.next();
    let is_clear = values.next().is_none() && host.is_none_or(|host| is_host(host.as_bytes()));
    if is_clear { Ok(host) } else { Err(Refusal::Host) }
}

/// `name`, `name:port`, `[v6]`, `[v6]:port`: no user name, no path, no blank, nothing quoted.
pub(crate) fn is_host(host: &[u8]) -> bool {
    let (name, rest) = match host.strip_prefix(b"[") {
        Some(inner) => {
            let Some(end) = inner.iter().position(|byte| *byte == b']') else { return false };
            let (address, rest) = inner.split_at(end);
            let valid = !address.is_empty()
                && address.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'));
            if !valid {
                return false;
            }
            (address, rest.strip_prefix(b"]").unwrap_or_default())
        }
        None => {
            let end = host.iter().position(|byte| *byte == b':').unwrap_or(host.len());
            let (name, rest) = host.split_at(end);
            let valid =
                name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(byte));
            if !valid {
                return false;
            }
            (name, rest)
        }
    };
    let port_is_valid = match rest.strip_prefix(b":") {
        Some(port) => port.len() <= 5 && port.iter().all(u8::is_ascii_digit),
        None => rest.is_empty(),
    };
    !name.is_empty() && host.len() <= 255 && port_is_valid
}

/// A path as a generous backend might understand it: decoded twice, without parameters, empty and dot segments.
pub(crate) fn normalised(path: &str) -> Cow<'_, str> {
    let plain = !path.contains(['%', ';', '\\']) && !path.contains("//") && !path.contains("/.");
    if plain {
        return Cow::Borrowed(path);
    }
    let decoded = decode(&decode(path)).replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            name => segments.push(name),
        }
    }
    Cow::Owned(format!("/{}", segments.join("/")))
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let pair = (*first == b'%').then(|| tail.get(..2)).flatten();
        let value = pair.and_then(|pair| std::str::from_utf8(pair).ok()).and_then(hex_pair);
        bytes.push(value.unwrap_or(*first));
        rest = if value.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex_pair(pair: &str) -> Option<u8> {
    pair.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u8::from_str_radix(pair, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Gate {
        Gate {
            target_bytes_max: 100,
            fields_max: 10,
            body_bytes_max: 10,
            hidden_paths: vec!["/metrics".to_owned(), "/debug".to_owned()],
            via_name: "me".to_owned(),
        }
    }

    fn judge(method: Method, target: &str, fields: &[(&'static str, &str)]) -> Result<String, Refusal> {
        judge_as(Version::HTTP_11, method, target, fields)
    }

    fn judge_as(
        version: Version,
        method: Method,
        target: &str,
        fields: &[(&'static str, &str)],
    ) -> Result<String, Refusal> {
        let mut request = Request::builder().version(version).method(method).uri(target).body(()).unwrap();
        for (name, value) in fields {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let host = gate().admit(&request)?;
        Ok(host.to_str().unwrap().to_owned())
    }

    #[test]
    fn in_http2_the_authority_stands_for_host_and_both_must_mean_one() {
        let judge = |target, fields| judge_as(Version::HTTP_2, Method::GET, target, fields);
        assert_eq!(judge("http://a:81/x", &[]).as_deref(), Ok("a:81"));
        assert_eq!(judge("https://a/x", &[("host", "A")]).as_deref(), Ok("a"));
        assert_eq!(judge("http://a/x", &[("host", "b")]), Err(Refusal::Host));
        assert_eq!(judge("http://a/x", &[("host", "a"), ("host", "a")]), Err(Refusal::Host));
        assert_eq!(judge("http://me@a/x", &[]), Err(Refusal::Target));
        assert_eq!(judge("ftp://a/x", &[]), Err(Refusal::Target));
    }

    #[test]
    fn too_many_fields_are_refused_whatever_is_spoken() {
        let fields = ["x"; 11].map(|name| (name, "1"));
        assert_eq!(judge_as(Version::HTTP_2, Method::GET, "http://a/", &fields), Err(Refusal::TooManyFields));
    }

    #[test]
    fn host_must_be_there_once_and_be_a_host() {
        let wrong: [&[(&str, &str)]; 9] = [
            &[],
            &[("host", "a"), ("host", "a")],
            &[("host", "")],
            &[("host", "a b")],
            &[("host", "a/b")],
            &[("host", "me@a")],
            &[("host", "a:b")],
            &[("host", "[::1")],
            &[("host", "a:999999")],
        ];
        for fields in wrong {
            assert_eq!(judge(Method::GET, "/", fields), Err(Refusal::Host), "{fields:?}");
        }
        for host in ["a", "a:80", "[::1]:80", "[::1]", "127.0.0.1:1", "a_b.example"] {
            assert_eq!(judge(Method::GET, "/", &[("host", host)]).as_deref(), Ok(host));
        }
    }

    #[test]
    fn the_absolute_target_wins_over_host() {
        assert_eq!(judge(Method::GET, "http://b:81/x", &[("host", "a")]).as_deref(), Ok("b:81"));
        assert_eq!(judge(Method::GET, "https://b/x", &[("host", "a")]), Err(Refusal::Target));
        assert_eq!(judge(Method::GET, "http://me@b/x", &[("host", "a")]), Err(Refusal::Target));
        assert_eq!(judge(Method::GET, "http://b/x", &[]), Err(Refusal::Host));
    }

    #[test]
    fn tunnels_loops_and_tricks_are_refused() {
        let host = ("host", "a");
        assert_eq!(judge(Method::CONNECT, "a:443", &[host]), Err(Refusal::Method));
        assert_eq!(judge(Method::TRACE, "/", &[host]), Err(Refusal::Method));
        assert_eq!(judge(Method::GET, "/", &[host, ("via", "1.0 x, 1.1 me")]), Err(Refusal::Loop));
        assert!(judge(Method::GET, "/", &[host, ("via", "1.1 me-too")]).is_ok());
        for option in ["Host", "close, content-length", "X-Forwarded-For", "authorization"] {
            let fields = [host, ("connection", option)];
            assert_eq!(judge(Method::GET, "/", &fields), Err(Refusal::ConnectionOption), "{option}");
        }
    }

    #[test]
    fn what_belongs_inside_cannot_be_reached_by_another_spelling() {
        let spellings = [
            "/metrics",
            "/metrics/",
            "/Metrics",
            "//metrics",
            "/a/../metrics",
            "/a/%2e%2e/metrics",
            "/%6detrics",
            "/%256detrics",
            "/metrics;a=b",
            "/./debug/state",
            "/debug",
            "//readyz",
            "/readyz/reads/",
        ];
        for path in spellings {
            assert_eq!(judge(Method::GET, path, &[("host", "a")]), Err(Refusal::Hidden), "{path}");
        }
        for path in ["/", "/metricsx", "/a/metrics", "/debugger", "/a//b", "/a;b", "/%20", "/?x=/metrics"] {
            assert!(judge(Method::GET, path, &[("host", "a")]).is_ok(), "{path}");
        }
    }

    #[test]
    fn encoded_control_characters_and_long_targets_are_refused() {
        let host = [("host", "a")];
        for path in ["/%00", "/a%0d%0ab", "/%2500", "/%7f"] {
            assert_eq!(judge(Method::GET, path, &host), Err(Refusal::ControlCharacter), "{path}");
        }
        assert_eq!(judge(Method::GET, &format!("/{}", "a".repeat(100)), &host), Err(Refusal::TargetTooLong));
        assert_eq!(
            judge(Method::POST, "/", &[host[0], ("content-length", "11")]),
            Err(Refusal::BodyTooLarge)
        );
    }

    #[test]
    fn the_asterisk_is_a_target() {
        assert!(judge(Method::OPTIONS, "*", &[("host", "a")]).is_ok());
    }
}
