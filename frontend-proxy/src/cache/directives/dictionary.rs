//! Dictionaries of Structured Fields (RFC 9651 3.2), as far as `CDN-Cache-Control` needs them. Strict: anything
//! unexpected makes the whole field void, as the RFC asks.

/// The value of a member, its parameters left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bare {
    Integer(i64),
    Flag(bool),
    Text(String),
    /// Decimals, byte sequences and inner lists: valid, and nothing a cache directive can be.
    Other,
}

struct Reader<'a>(&'a [u8]);

/// Reads all lines of a field as one dictionary; a later member replaces an earlier one of its name.
pub(super) fn parse<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Option<Vec<(String, Bare)>> {
    let joined = lines.collect::<Vec<_>>().join(&b", "[..]);
    let mut reader = Reader(joined.trim_ascii());
    let mut members: Vec<(String, Bare)> = Vec::new();
    while !reader.0.is_empty() {
        let key = reader.key()?;
        let value = if reader.takes(b'=') { reader.value()? } else { Bare::Flag(true) };
        reader.parameters()?;
        members.retain(|(name, _)| *name != key);
        members.push((key, value));
        reader.blanks();
        if reader.0.is_empty() {
            break;
        }
        if !reader.takes(b',') {
            return None;
        }
        reader.blanks();
        if reader.0.is_empty() {
            return None;
        }
    }
    Some(members)
}

impl Reader<'_> {
    fn takes(&mut self, wanted: u8) -> bool {
        match self.0.split_first() {
            Some((first, rest)) if *first == wanted => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    fn while_in(&mut self, allowed: impl Fn(u8) -> bool) -> String {
        let end = self.0.iter().position(|byte| !allowed(*byte)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        String::from_utf8_lossy(taken).into_owned()
    }

    fn blanks(&mut self) {
        self.while_in(|byte| matches!(byte, b' ' | b'\t'));
    }

    fn key(&mut self) -> Option<String> {
        let starts = self.0.first().is_some_and(|byte| byte.is_ascii_lowercase() || *byte == b'*');
        starts.then(|| {
            self.while_in(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte)
            })
        })
    }

    fn value(&mut self) -> Option<Bare> {
        if !self.takes(b'(') {
            return self.bare();
        }
        loop {
            self.while_in(|byte| byte == b' ');
            if self.takes(b')') {
                return Some(Bare::Other);
            }
            self.bare()?;
            self.parameters()?;
            if !matches!(self.0.first(), Some(b' ' | b')')) {
                return None;
            }
        }
    }

    fn parameters(&mut self) -> Option<()> {
        while self.takes(b';') {
            self.while_in(|byte| byte == b' ');
            self.key()?;
            if self.takes(b'=') {
                self.bare()?;
            }
        }
        Some(())
    }

    fn bare(&mut self) -> Option<Bare> {
        match self.0.first()? {
            b'-' | b'0'..=b'9' => self.number(),
            b'"' => self.string(),
            b'?' => {
                self.takes(b'?');
                let yes = self.takes(b'1');
                (yes || self.takes(b'0')).then_some(Bare::Flag(yes))
            }
            b':' => {
                self.takes(b':');
                self.while_in(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
                self.takes(b':').then_some(Bare::Other)
            }
            first if first.is_ascii_alphabetic() || *first == b'*' => {
                let token = self
                    .while_in(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte));
                Some(Bare::Text(token))
            }
            _ => None,
        }
    }

    fn number(&mut self) -> Option<Bare> {
        let minus = self.takes(b'-');
        let whole = self.while_in(|byte| byte.is_ascii_digit());
        if self.takes(b'.') {
            let fraction = self.while_in(|byte| byte.is_ascii_digit());
            let is_valid = (1..=12).contains(&whole.len()) && (1..=3).contains(&fraction.len());
            return is_valid.then_some(Bare::Other);
        }
        let number: i64 = whole.parse().ok().filter(|_| whole.len() <= 15)?;
        Some(Bare::Integer(if minus { -number } else { number }))
    }

    fn string(&mut self) -> Option<Bare> {
        self.takes(b'"');
        let mut text = String::new();
        loop {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            match first {
                b'"' => return Some(Bare::Text(text)),
                b'\\' => {
                    let (escaped, rest) = self.0.split_first()?;
                    if !matches!(escaped, b'"' | b'\\') {
                        return None;
                    }
                    text.push(char::from(*escaped));
                    self.0 = rest;
                }
                b' '..=b'~' => text.push(char::from(*first)),
                _ => return None,
            }
        }
    }
}
