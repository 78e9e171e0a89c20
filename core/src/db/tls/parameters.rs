//! The parameters of a database URL that are about TLS, taken out of it: the driver knows only half of them.

use std::{iter::Peekable, path::PathBuf, str::Chars};

/// What a URL asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::db) struct Wanted {
    pub(in crate::db) mode: TlsMode,
    /// Authorities to trust, a PEM file.
    pub(in crate::db) roots: Option<PathBuf>,
}

/// PostgreSQL's own modes, without `allow`, which prefers the insecure way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(in crate::db) enum TlsMode {
    Disable,
    /// Where the server offers it, and without proof of who it is.
    #[default]
    Prefer,
    /// Always; with proof of who it is only where `sslrootcert` is given.
    Require,
    /// The certificate must come from an authority that is trusted.
    VerifyCa,
    /// And it must be made out to the name of the host.
    VerifyFull,
}

/// Takes `sslmode` and `sslrootcert` out of a URL or a key-value text. Where there is something wrong with them, it says
/// what; the rest is the driver's to judge.
pub(in crate::db) fn without_tls_parameters(text: &str) -> Result<(String, Wanted), String> {
    let is_url = ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme));
    let mut wanted = Wanted::default();
    let rest = if is_url { of_url(text, &mut wanted)? } else { of_pairs(text, &mut wanted)? };
    if wanted.mode >= TlsMode::VerifyCa && wanted.roots.is_none() {
        return Err(
            "asks for a proof of who the server is: name the authorities to trust by sslrootcert".to_owned()
        );
    }
    Ok((rest, wanted))
}

impl Wanted {
    /// Whether this parameter was one of ours.
    fn take(&mut self, key: &str, value: &str) -> Result<bool, String> {
        match key {
            "sslmode" => {
                self.mode = match value {
                    "disable" => TlsMode::Disable,
                    "prefer" => TlsMode::Prefer,
                    "require" => TlsMode::Require,
                    "verify-ca" => TlsMode::VerifyCa,
                    "verify-full" => TlsMode::VerifyFull,
                    _ => {
                        return Err("has an unknown sslmode: use disable, prefer, require, verify-ca \
                                    or verify-full"
                            .to_owned());
                    }
                };
            }
            "sslrootcert" => self.roots = Some(PathBuf::from(value)),
            "sslcert" | "sslkey" | "sslcrl" => {
                return Err(format!("asks for {key}, which is not supported"));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn of_url(url: &str, wanted: &mut Wanted) -> Result<String, String> {
    // A password may hold a question mark: as for the driver, it ends with the first `@`.
    let (user, host) = url.split_at(url.find('@').unwrap_or_default());
    let Some((host, query)) = host.split_once('?') else { return Ok(url.to_owned()) };
    let place = format!("{user}{host}");
    let mut others = Vec::new();
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let both = decoded(key).zip(decoded(value));
        let (key, value) = both.ok_or("has a parameter that is not percent-encoded UTF-8")?;
        if !wanted.take(&key, &value)? {
            others.push(pair);
        }
    }
    if others.is_empty() { Ok(place) } else { Ok(format!("{place}?{}", others.join("&"))) }
}

fn decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// `key = value` pairs, values with spaces in single quotes, a backslash before what is meant literally.
fn of_pairs(text: &str, wanted: &mut Wanted) -> Result<String, String> {
    let mut characters = text.chars().peekable();
    let mut others = String::new();
    loop {
        skip_spaces(&mut characters);
        let mut key = String::new();
        while let Some(character) = characters.next_if(|next| !next.is_whitespace() && *next != '=') {
            key.push(character);
        }
        skip_spaces(&mut characters);
        if key.is_empty() || characters.next_if_eq(&'=').is_none() {
            // The end, or what the driver will refuse.
            others.push_str(&key);
            others.extend(characters);
            return Ok(others);
        }
        skip_spaces(&mut characters);
        let (raw, value) = pair_value(&mut characters);
        if !wanted.take(&key, &value)? {
            others.push_str(&format!("{key}={raw} "));
        }
    }
}

fn skip_spaces(characters: &mut Peekable<Chars<'_>>) {
    while characters.next_if(|next| next.is_whitespace()).is_some() {}
}

/// A value as it is written, and as it is meant.
fn pair_value(characters: &mut Peekable<Chars<'_>>) -> (String, String) {
    let (mut raw, mut value) = (String::new(), String::new());
    let is_quoted = characters.next_if_eq(&'\'').is_some();
    raw.extend(is_quoted.then_some('\''));
    while let Some(character) = characters.next_if(|next| is_quoted || !next.is_whitespace()) {
        raw.push(character);
        match character {
            '\\' => {
                if let Some(literal) = characters.next() {
                    raw.push(literal);
                    value.push(literal);
                }
            }
            '\'' if is_quoted => break,
            character => value.push(character),
        }
    }
    (raw, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> (String, TlsMode, Option<String>) {
        let (rest, wanted) = without_tls_parameters(text).unwrap();
        (rest, wanted.mode, wanted.roots.map(|roots| roots.display().to_string()))
    }

    #[test]
    fn a_url_keeps_everything_else() {
        let url =
            "postgres://app:p%3Fw@a,b/todos?connect_timeout=3&sslmode=verify-full&sslrootcert=%2Fca%20x.pem";
        let rest = "postgres://app:p%3Fw@a,b/todos?connect_timeout=3";
        assert_eq!(split(url), (rest.to_owned(), TlsMode::VerifyFull, Some("/ca x.pem".to_owned())));
        assert_eq!(
            split("postgres://a/b?sslmode=require"),
            ("postgres://a/b".to_owned(), TlsMode::Require, None)
        );
        assert_eq!(split("postgres://a/b"), ("postgres://a/b".to_owned(), TlsMode::Prefer, None));
    }

    /// With a question mark in the password, or a key in code, `sslmode=require` went to the driver unseen, and the connection
    /// was made as with `prefer`: in the clear, where somebody in between said that there is no TLS.
    #[test]
    fn nothing_hides_what_is_asked_for() {
        for (url, rest) in [
            ("postgres://app:p?w@a/b?sslmode=require", "postgres://app:p?w@a/b"),
            ("postgres://app:p?w@a/b", "postgres://app:p?w@a/b"),
            ("postgres://a/b?ssl%6dode=require", "postgres://a/b"),
        ] {
            let mode = if url == rest { TlsMode::Prefer } else { TlsMode::Require };
            assert_eq!(split(url), (rest.to_owned(), mode, None), "{url}");
        }
    }

    #[test]
    fn pairs_keep_everything_else() {
        let text =
            r"host = db sslmode='verify-ca' password='a b\'c sslmode=disable' sslrootcert=/a\ b user=app";
        let rest = r"host=db password='a b\'c sslmode=disable' user=app ";
        assert_eq!(split(text), (rest.to_owned(), TlsMode::VerifyCa, Some("/a b".to_owned())));
        let parsed: tokio_postgres::Config = rest.parse().unwrap();
        assert_eq!(parsed.get_password(), Some(&b"a b'c sslmode=disable"[..]));
    }

    #[test]
    fn what_cannot_be_granted_is_refused() {
        for parameter in
            ["sslmode=allow", "sslmode=verify-full", "sslmode=verify-ca", "sslcert=x", "sslkey=x"]
        {
            assert!(without_tls_parameters(&format!("postgres://a/b?{parameter}")).is_err(), "{parameter}");
            assert!(without_tls_parameters(&format!("host=a {parameter}")).is_err(), "{parameter}");
        }
        assert!(without_tls_parameters("postgres://a/b?x=%zz").is_err());
    }

    #[test]
    fn nonsense_comes_through_for_the_driver_to_refuse() {
        for text in ["", "nonsense", "host", "host=", "='", "a='b", "postgres://", "postgres://?", "\\"] {
            let _ = without_tls_parameters(text);
        }
        assert!(split("nonsense").0.parse::<tokio_postgres::Config>().is_err());
    }
}
