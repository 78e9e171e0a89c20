//! Under what an answer is kept: whose it is, and which question it answers. It compares and stores; it looks nothing up.
//!
//! A key cannot be made of bare text: whoever makes one says whether the answer is one principal's or everybody's. The
//! principal's length is part of the key, so that no choice of names lets one principal's key read like another's.

use std::{
    fmt::{self, Write as _},
    hash::{Hash, Hasher},
};

use super::memory::allocated;
use crate::sabotage::{self, Bug};

/// Who asks, as far as answers differ by it: a user, a tenant, a role. Any bytes; they appear in no log.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Principal(Box<[u8]>);

impl Principal {
    /// The principal of this name.
    #[must_use]
    pub fn new(name: impl AsRef<[u8]>) -> Self {
        Self(name.as_ref().into())
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Principal(..)")
    }
}

/// The key of a kept answer.
///
/// ```
/// # use ridethrough::cache::{CacheKey, Principal};
/// let ada = Principal::new("ada");
/// let hers = CacheKey::of(&ada, format_args!("orders/{}", 17));
/// assert_ne!(hers, CacheKey::of(&Principal::new("bob"), "orders/17"));
/// assert_ne!(hers, CacheKey::shared("orders/17"));
/// ```
#[derive(Clone)]
pub struct CacheKey(Bytes);

/// The bytes of a key: in place where they fit, because every read makes a key, and looking one up then reads memory in
/// one place less.
#[derive(Clone)]
enum Bytes {
    Short { length: u8, bytes: [u8; SHORT_MAX] },
    Long(Vec<u8>),
}

/// First byte of the key of an answer that is everybody's.
const SHARED: u8 = 0;
/// First byte of the key of an answer that is one principal's; the length of its name follows, and then the name.
const OWNED: u8 = 1;
/// Bytes of the length of a name.
#[cfg(any(test, feature = "postgres"))]
const LENGTH_BYTES: usize = size_of::<u64>();
/// Longer keys are allocated; few are. With this many a key is as large as a cache line.
const SHORT_MAX: usize = 62;

impl CacheKey {
    /// The answer to `question` is this principal's: nobody else may see it.
    ///
    /// # Panics
    /// Where `question` cannot be written as text, as `to_string` does.
    #[must_use]
    pub fn of(principal: &Principal, question: impl fmt::Display) -> Self {
        let name = &principal.0;
        let mut bytes = Bytes::new();
        bytes.push(&[OWNED]);
        bytes.push(&(name.len() as u64).to_le_bytes());
        bytes.push(name);
        Self::ending_with(bytes, question)
    }

    /// The answer to `question` is the same for everybody who may ask it at all.
    ///
    /// # Panics
    /// Where `question` cannot be written as text, as `to_string` does.
    #[must_use]
    pub fn shared(question: impl fmt::Display) -> Self {
        let mut bytes = Bytes::new();
        bytes.push(&[SHARED]);
        Self::ending_with(bytes, question)
    }

    fn ending_with(mut bytes: Bytes, question: impl fmt::Display) -> Self {
        let written = if sabotage::planted(Bug::AnothersAnswer) {
            bytes = Bytes::new();
            bytes.push(&[SHARED]);
            write!(bytes, "{}", question.to_string().split('/').next().unwrap_or_default())
        } else {
            write!(bytes, "{question}")
        };
        // A key cut short would be another question's, so this must not go by unseen.
        written.expect("a question can be written as text");
        if let Bytes::Long(long) = &mut bytes {
            long.shrink_to_fit();
        }
        Self(bytes)
    }

    /// The key as it is stored.
    #[inline]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Short { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Bytes::Long(bytes) => bytes,
        }
    }

    /// Bytes beside the key itself.
    pub(super) fn allocated_bytes(&self) -> usize {
        match &self.0 {
            Bytes::Short { .. } => 0,
            Bytes::Long(bytes) => allocated(bytes.capacity()),
        }
    }

    /// A key that was stored; `None` where the bytes are none.
    #[cfg(any(test, feature = "postgres"))]
    pub(crate) fn from_stored(bytes: &[u8]) -> Option<Self> {
        let is_key = match bytes.split_first()? {
            (&SHARED, question) => std::str::from_utf8(question).is_ok(),
            (&OWNED, rest) => {
                let (length, rest) = rest.split_first_chunk::<LENGTH_BYTES>()?;
                let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
                std::str::from_utf8(rest.get(length..)?).is_ok()
            }
            _ => false,
        };
        is_key.then(|| {
            let mut key = Bytes::new();
            key.push(bytes);
            Self(key)
        })
    }
}

impl Bytes {
    fn new() -> Self {
        Self::Short { length: 0, bytes: [0; SHORT_MAX] }
    }

    fn push(&mut self, more: &[u8]) {
        match self {
            Self::Short { length, bytes } => {
                let from = usize::from(*length);
                let to = from + more.len();
                if let Some(place) = bytes.get_mut(from..to) {
                    place.copy_from_slice(more);
                    *length = to as u8;
                } else {
                    let before = bytes.get(..from).unwrap_or_default();
                    *self = Self::Long([before, more].concat());
                }
            }
            Self::Long(bytes) => bytes.extend_from_slice(more),
        }
    }
}

impl PartialEq for CacheKey {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for CacheKey {}

impl Hash for CacheKey {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Write for Bytes {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

/// Says how long it is and no more: names of people are nothing for a log.
impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheKey({} bytes)", self.as_bytes().len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neither_names_nor_questions_reach_a_log() {
        let key = CacheKey::of(&Principal::new("ada"), "secret");
        let text = format!("{:?} {key:?}", Principal::new("ada"));
        assert!(!text.contains("ada") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn a_stored_key_comes_back_and_other_bytes_are_no_key() {
        for key in
            [CacheKey::shared(""), CacheKey::shared("a"), CacheKey::of(&Principal::new([0xff, 0]), "a")]
        {
            assert_eq!(CacheKey::from_stored(key.as_bytes()), Some(key));
        }
        for bytes in
            [&[] as &[u8], &[2], &[OWNED, 1], &[OWNED, 9, 0, 0, 0, 0, 0, 0, 0, b'a'], &[SHARED, 0xff]]
        {
            assert_eq!(CacheKey::from_stored(bytes), None, "{bytes:?}");
        }
        assert_eq!(CacheKey::from_stored(&[OWNED, 255, 255, 255, 255, 255, 255, 255, 255]), None);
    }

    #[test]
    fn a_key_is_the_same_however_long_and_in_however_many_parts_it_was_written() {
        for length in (0..=3 * SHORT_MAX).chain([10 * SHORT_MAX]) {
            let (text, name) = ("x".repeat(length), Principal::new("n".repeat(length)));
            let (half, rest) = text.split_at(length / 2);
            let whole = CacheKey::shared(&text);
            assert_eq!(whole.as_bytes().len(), 1 + length);
            assert_eq!(CacheKey::shared(format_args!("{half}{rest}{}", "")), whole);
            assert_eq!(CacheKey::from_stored(whole.as_bytes()), Some(whole));
            let owned = CacheKey::of(&name, format_args!("{half}{rest}"));
            assert!(owned.as_bytes().ends_with(text.as_bytes()));
            assert_eq!(owned.as_bytes().len(), 1 + LENGTH_BYTES + 2 * length);
        }
    }

    /// Short texts of few bytes, so that prefixes, separators and empty ones meet often.
    fn few() -> impl Strategy<Value = String> {
        "[/:\u{0}\u{1}ab]{0,4}"
    }

    proptest! {
        #[test]
        fn keys_are_equal_only_where_principal_and_question_are(
            one in few(), other in few(), first in few(), second in few(),
        ) {
            let of = |principal: &str, question: &str| CacheKey::of(&Principal::new(principal), question);
            prop_assert_eq!(of(&one, &first) == of(&other, &second), (&one, &first) == (&other, &second));
            prop_assert_eq!(CacheKey::shared(&first) == CacheKey::shared(&second), first == second);
            prop_assert_ne!(of(&one, &first), CacheKey::shared(&second));
            prop_assert_eq!(CacheKey::from_stored(of(&one, &first).as_bytes()), Some(of(&one, &first)));
        }
    }
}
