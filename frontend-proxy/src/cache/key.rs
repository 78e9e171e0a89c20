//! Under which name an answer is kept: scheme, authority, path and query; and `Vary`, which picks among several.
//!
//! Only validated values come in here. Nothing of a query is left out, and fields are made alike only in ways that
//! cannot change what they mean.

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

use crate::headers::{X_FORWARDED_HOST, X_FORWARDED_PROTO};

/// More fields than this in one `Vary` are answered as if it said `*`.
const FIELDS_MAX: usize = 16;

/// What an answer depends on besides its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Vary {
    /// `*`, or something that cannot be read.
    Everything,
    /// These fields of the request; often none.
    Fields(Vec<HeaderName>),
}

/// The fields that selected an answer, as they were in its request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Selecting(Vec<(HeaderName, Option<Vec<u8>>)>);

/// The name of a resource: `scheme://authority/path?query` as its client asked for it, read from the fields that tell a
/// backend so. Where the backend is asked for another host than the client asked for, both stand in the authority.
pub(crate) fn primary(request: &HeaderMap, uri: &Uri) -> String {
    let text = |name| request.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let scheme = text(X_FORWARDED_PROTO).unwrap_or("http");
    let host = authority(scheme, text(header::HOST).unwrap_or_default());
    let wanted = text(X_FORWARDED_HOST).map_or_else(|| host.clone(), |wanted| authority(scheme, wanted));
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let (comma, host) = if wanted == host { ("", "") } else { (",", host.as_str()) };
    format!("{scheme}://{wanted}{comma}{host}{target}")
}

/// One spelling for all that mean the same.
fn authority(scheme: &str, host: &str) -> String {
    let mut host = host.to_ascii_lowercase();
    let port = if scheme == "https" { ":443" } else { ":80" };
    if host.ends_with(port) {
        host.truncate(host.len() - port.len());
    }
    host
}

/// The name of the resource that `Location` or `Content-Location` points to from `base`, where it has the same origin.
pub(crate) fn same_origin(base: &str, reference: &str) -> Option<String> {
    let (scheme, rest) = base.split_once("://")?;
    let authority_end = base.len() - rest.len() + rest.find('/')?;
    let (origin, path) = (base.get(..authority_end)?, base.get(authority_end..)?);
    let reference = reference.split('#').next().unwrap_or_default();
    let of_scheme = reference.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://"));
    if let Some(pointed) = reference.strip_prefix("//").or(of_scheme) {
        let (host, target) = pointed.split_at(pointed.find(['/', '?']).unwrap_or(pointed.len()));
        let wanted = rest.split([',', '/']).next()?;
        let slash = if target.starts_with('/') { "" } else { "/" };
        return (authority(scheme, host) == wanted).then(|| format!("{origin}{slash}{target}"));
    }
    if reference.split(['/', '?']).next().is_some_and(|start| start.contains(':')) {
        return None;
    }
    let path = path.split('?').next().unwrap_or_default();
    let target = match reference.chars().next() {
        None => return Some(base.to_owned()),
        Some('/') => reference.to_owned(),
        Some('?') => format!("{path}{reference}"),
        Some(_) => format!("{}{reference}", path.get(..=path.rfind('/')?)?),
    };
    Some(format!("{origin}{}", without_dots(&target)))
}

/// Removes the dot segments of a path, its query left alone (RFC 3986 5.2.4).
fn without_dots(target: &str) -> String {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            name => kept.push(name),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

impl Vary {
    /// Reads all lines of `Vary` of an answer.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut names = Vec::new();
        for line in headers.get_all(header::VARY) {
            let items = line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            for item in items.filter(|item| !item.is_empty()) {
                match HeaderName::from_bytes(item) {
                    Ok(name) if item != b"*" => names.push(name),
                    _ => return Self::Everything,
                }
            }
        }
        names.sort_unstable_by(|left, right| left.as_str().cmp(right.as_str()));
        names.dedup();
        if names.len() > FIELDS_MAX { Self::Everything } else { Self::Fields(names) }
    }

    /// The fields of a request that these names select.
    pub(crate) fn select(&self, request: &HeaderMap) -> Selecting {
        match self {
            Self::Everything => Selecting::default(),
            Self::Fields(names) => {
                Selecting(names.iter().map(|name| (name.clone(), normal(request, name))).collect())
            }
        }
    }
}

impl Selecting {
    /// Whether `request` would get the same answer.
    pub(crate) fn matches(&self, request: &HeaderMap) -> bool {
        self.0.iter().all(|(name, value)| normal(request, name) == *value)
    }

    /// The same fields of another request.
    pub(crate) fn of_request(&self, request: &HeaderMap) -> Self {
        Self(self.0.iter().map(|(name, _)| (name.clone(), normal(request, name))).collect())
    }

    /// Bytes it takes to keep.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|(name, value)| name.as_str().len() + value.as_ref().map_or(0, Vec::len)).sum()
    }
}

/// The lines of a field as one, without the blanks around commas, which mean nothing in a list; where quotes may hide
/// some, as it is. Languages and codings are words whose case means nothing.
fn normal(request: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let mut lines = request.get_all(name).iter().map(HeaderValue::as_bytes).peekable();
    lines.peek()?;
    let joined = lines.collect::<Vec<_>>().join(&b","[..]);
    if joined.contains(&b'"') {
        return Some(joined);
    }
    let items: Vec<_> = joined.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect();
    let mut plain = items.join(&b","[..]);
    if matches!(*name, header::ACCEPT_LANGUAGE | header::ACCEPT_ENCODING) {
        plain.make_ascii_lowercase();
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vary(lines: &[&str]) -> Vary {
        Vary::of(&lines.iter().map(|line| (header::VARY, line.parse().unwrap())).collect())
    }

    fn request(fields: &[(&'static str, &str)]) -> HeaderMap {
        let field =
            |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        fields.iter().map(field).collect()
    }

    #[test]
    fn an_asterisk_anywhere_means_everything() {
        for lines in [&["*"][..], &["*, *"], &["a, *"], &["*", "a"], &["", "*"], &[", *"], &["a b"]] {
            assert_eq!(vary(lines), Vary::Everything, "{lines:?}");
        }
        assert_eq!(vary(&["b, A", "a"]), vary(&["a", "B"]));
        assert_eq!(vary(&[]), Vary::Fields(Vec::new()));
    }

    #[test]
    fn fields_are_made_alike_only_where_they_mean_the_same() {
        let by_foo = vary(&["foo, accept-language"]);
        let of = |fields: &[(&'static str, &str)]| by_foo.select(&request(fields));
        assert_eq!(of(&[("foo", "1, 2")]), of(&[("foo", "1"), ("foo", "2")]));
        assert_eq!(of(&[("accept-language", "en,  DE")]), of(&[("accept-language", "EN,de")]));
        assert_eq!(of(&[("foo", "1"), ("other", "2")]), of(&[("foo", "1")]));
        for (left, right) in [
            (&[("foo", "a")][..], &[("foo", "A")][..]),
            (&[("foo", "\"1, 2\"")], &[("foo", "\"1,2\"")]),
            (&[], &[("foo", "")]),
            (&[("accept-language", "de,en")], &[("accept-language", "en,de")]),
        ] {
            assert_ne!(of(left), of(right), "{left:?} {right:?}");
        }
    }

    #[test]
    fn a_resource_is_named_by_authority_path_and_query() {
        let of = |host: &str, target: &str| primary(&request(&[("host", host)]), &target.parse().unwrap());
        assert_eq!(of("A.example:80", "/x?y=1"), "http://a.example/x?y=1");
        assert_ne!(of("a", "/x"), of("b", "/x"));
        assert_ne!(of("a", "/x"), of("a", "/X"));
        assert_ne!(of("a:81", "/x"), of("a", "/x"));
        assert_ne!(of("a", "/x"), of("a", "/x?"));
    }

    /// A backend that sends everybody from http to https would otherwise send those in a circle who come over https.
    #[test]
    fn what_a_backend_hears_of_scheme_and_host_is_part_of_the_name() {
        let of = |scheme: &str, wanted: &str, host: &str| {
            let fields = [("x-forwarded-proto", scheme), ("x-forwarded-host", wanted), ("host", host)];
            primary(&request(&fields), &"/x".parse().unwrap())
        };
        assert_eq!(of("http", "a", "a"), "http://a/x");
        assert_eq!(of("https", "A:443", "a"), "https://a/x");
        assert_ne!(of("https", "a:80", "a:80"), of("https", "a", "a"));
        assert_ne!(of("http", "b", "a"), of("http", "a", "a"));
        assert_ne!(of("http", "b", "a"), of("http", "b", "c"));
    }

    #[test]
    fn only_the_same_origin_is_pointed_to() {
        let base = "http://a/x/y?q=1";
        for (reference, found) in [
            ("/z?b", Some("http://a/z?b")),
            ("z", Some("http://a/x/z")),
            ("../z#part", Some("http://a/z")),
            ("./", Some("http://a/x/")),
            ("?r=2", Some("http://a/x/y?r=2")),
            ("", Some(base)),
            ("http://A:80/z", Some("http://a/z")),
            ("http://a", Some("http://a/")),
            ("//a/z", Some("http://a/z")),
            ("http://b/z", None),
            ("//b/z", None),
            ("https://a/z", None),
            ("http://a:81/z", None),
            ("mailto:x", None),
        ] {
            assert_eq!(same_origin(base, reference).as_deref(), found, "{reference}");
        }
        let behind_another = "https://a,inside:81/x";
        for (reference, found) in [
            ("https://A:443/z", Some("https://a,inside:81/z")),
            ("//a/z", Some("https://a,inside:81/z")),
            ("/z", Some("https://a,inside:81/z")),
            ("http://a/z", None),
            ("https://inside:81/z", None),
        ] {
            assert_eq!(same_origin(behind_another, reference).as_deref(), found, "{reference}");
        }
    }
}
