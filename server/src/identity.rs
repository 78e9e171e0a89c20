//! Whose a request is: one opaque id, which goes with it into every question, command, key and answer. What shows it stands
//! in the files below; what somebody may do with a todo follows from its owner alone.

pub(crate) mod credentials;
pub(crate) mod tokens;

use std::{fmt, path::PathBuf, sync::Arc};

use axum::{
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, request::Parts};
use ridethrough::cache::{self, CacheKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use uuid::Uuid;

use self::{
    credentials::{Shown, came_by_https, shown},
    tokens::{Tokens, TokensKeeper},
};
use crate::{app::App, error::Trouble, routes::form::refuse_other_sites};

/// Part of what is hashed, so that no other digest of the same name gives the same id.
const ID_DOMAIN: &[u8] = b"ridethrough principal 1\0";
/// What the library takes as a key, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// Whose something is: an id made of a name by a hash, so that a log may show it. The nil id is everybody together, who are
/// one principal where nobody is asked for his name.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Principal(Uuid);

impl Principal {
    /// Everybody together; also the owner of what was stored before there were owners.
    pub(crate) const EVERYBODY: Self = Self(Uuid::nil());

    /// Who has this name in the file of tokens.
    pub(crate) fn named(name: &str) -> Self {
        Self::derived("tokens", name)
    }

    /// The lengths keep neighbouring parts apart.
    fn derived(realm: &str, name: &str) -> Self {
        let mut digest = Sha256::new().chain_update(ID_DOMAIN);
        for part in [realm, name] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        let mut bytes = [0; 16];
        for (byte, from) in bytes.iter_mut().zip(digest.finalize().iter()) {
            *byte = *from;
        }
        Self(Uuid::new_v8(bytes))
    }

    pub(crate) fn is_everybody(&self) -> bool {
        *self == Self::EVERYBODY
    }

    /// As the database holds it.
    pub(crate) fn id(self) -> Uuid {
        self.0
    }

    /// A word that is this principal's alone: the same text of anybody else is another word. Everybody's words are the texts
    /// themselves, as they were before there were owners.
    pub(crate) fn own(self, text: impl fmt::Display) -> String {
        if self.is_everybody() { text.to_string() } else { format!("{}/{text}", self.0.simple()) }
    }

    /// The key of the cache for the answer that this principal gets to a question.
    pub(crate) fn cache_key(self, question: impl fmt::Display) -> CacheKey {
        if self.is_everybody() {
            return CacheKey::shared(question);
        }
        CacheKey::of(&cache::Principal::new(self.0.as_bytes()), question)
    }

    /// The idempotency key under which a write of this principal is known, for the key that was sent: 1 to 255 visible
    /// characters. No other principal can send a key that becomes this one: there is a blank in it.
    pub(crate) fn write_key(self, sent: &str) -> String {
        if self.is_everybody() {
            return sent.to_owned();
        }
        let key = format!("{} {sent}", self.0.simple());
        if key.len() <= KEY_BYTES_MAX {
            return key;
        }
        // Two blanks: no key that was short enough has them.
        format!("{}  {}", self.0.simple(), hexadecimal(&Sha256::digest(sent)))
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Principal({})", self.0)
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Taken from what the layer found out. A route that stands outside of that layer answers nobody.
impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Trouble> {
        parts.extensions.get().copied().ok_or_else(Trouble::internal)
    }
}

/// How principals are told apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum IdentityMode {
    /// Not at all: everybody is one. For a listener that only this machine reaches.
    #[default]
    None,
    /// By tokens, whose hashes stand in a file.
    Tokens,
}

/// How principals are told apart, as it is set.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct IdentitySection {
    /// `none` or `tokens`. Default none, which is refused where the main listener is no loopback address.
    pub(crate) mode: IdentityMode,
    /// The file of tokens, for that mode.
    pub(crate) tokens_file: Option<PathBuf>,
    /// The principal that acts where a request shows no token, for demonstrations. Default nobody: 401.
    pub(crate) guest: Option<String>,
    /// Whether `X-Forwarded-Proto` is believed: where a proxy in front sets it itself. Default false.
    pub(crate) trust_forwarded_proto: bool,
}

impl IdentitySection {
    /// Checks what can be checked without opening anything.
    ///
    /// # Errors
    /// One sentence that names the key.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let is_tokens = self.mode == IdentityMode::Tokens;
        if is_tokens && self.tokens_file.is_none() {
            return Err("identity.mode is tokens, and identity.tokens_file names no file".to_owned());
        }
        if self.guest.is_some() && !is_tokens {
            return Err("identity.guest is for the mode tokens; in none everybody is a guest".to_owned());
        }
        match &self.guest {
            Some(name) if !tokens::is_name(name) => {
                Err("identity.guest must have 1 to 64 letters, digits and marks of . _ - @".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// Who says whose a request is.
#[derive(Debug)]
pub(crate) struct Identity {
    known: Known,
    guest: Option<Principal>,
    trust_forwarded_proto: bool,
}

#[derive(Debug)]
enum Known {
    Everybody,
    Tokens(watch::Receiver<Arc<Tokens>>),
}

impl Identity {
    /// As it is set, with the part that must run beside the requests.
    ///
    /// # Errors
    /// One sentence that names the key.
    pub(crate) fn open(section: &IdentitySection) -> Result<(Self, Option<TokensKeeper>), String> {
        let (known, keeper) = match (section.mode, &section.tokens_file) {
            (IdentityMode::None, _) | (_, None) => (Known::Everybody, None),
            (IdentityMode::Tokens, Some(path)) => {
                let opened = tokens::open(path);
                let (tokens, keeper) =
                    opened.map_err(|reason| format!("identity.tokens_file {}: {reason}", path.display()))?;
                (Known::Tokens(tokens), Some(keeper))
            }
        };
        let guest = section.guest.as_deref().map(Principal::named);
        Ok((Self { known, guest, trust_forwarded_proto: section.trust_forwarded_proto }, keeper))
    }

    /// Whether a person can sign in here.
    pub(crate) fn has_sign_in(&self) -> bool {
        !matches!(self.known, Known::Everybody)
    }

    /// Whose token this is.
    pub(crate) fn principal(&self, token: &str) -> Option<Principal> {
        match &self.known {
            Known::Everybody => Some(Principal::EVERYBODY),
            Known::Tokens(tokens) => tokens.borrow().principal(token),
        }
    }

    /// Whether an answer to this request goes by https, as far as that is known.
    pub(crate) fn is_https(&self, headers: &HeaderMap) -> bool {
        self.trust_forwarded_proto && came_by_https(headers)
    }

    /// Whose the request is.
    fn sender(&self, request: &Request) -> Result<Principal, Trouble> {
        if !self.has_sign_in() {
            return Ok(Principal::EVERYBODY);
        }
        let known = |token| self.principal(token).ok_or_else(|| Trouble::sign_in_needed(true));
        match shown(request.headers()) {
            Shown::Nothing => self.guest.ok_or_else(|| Trouble::sign_in_needed(false)),
            Shown::Bearer(token) => known(token),
            Shown::Cookie(token) => {
                // A browser sends the cookie along for whatever page asks it to.
                if !request.method().is_safe() {
                    refuse_other_sites(request.headers())?;
                }
                known(token)
            }
            Shown::Broken => Err(Trouble::sign_in_needed(true)),
        }
    }
}

/// The layer that finds out whose a request is, or refuses it.
pub(crate) async fn identify(State(app): State<App>, mut request: Request, next: Next) -> Response {
    match app.identity.sender(&request) {
        Ok(principal) => {
            request.extensions_mut().insert(principal);
            let mut response = next.run(request).await;
            // For the line in the log.
            response.extensions_mut().insert(principal);
            response
        }
        Err(trouble) if request.method().is_safe() => trouble.into_response(),
        Err(trouble) => trouble.of_a_write().into_response(),
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Stored todos depend on it: it must never change.
    #[test]
    fn a_name_has_one_id_for_ever() {
        assert_eq!(Principal::named("ada").to_string(), "a2529c4e-83b0-8ef3-8b5a-7cada872378f");
        assert_ne!(Principal::named("ada"), Principal::named("Ada"));
        assert_ne!(Principal::derived("a", "bc"), Principal::derived("ab", "c"));
        assert!(!Principal::named("").is_everybody());
    }

    #[test]
    fn everybodys_words_are_as_they_were_before_there_were_owners() {
        let everybody = Principal::EVERYBODY;
        assert_eq!((everybody.own("todos"), everybody.write_key("k")), ("todos".to_owned(), "k".to_owned()));
        assert_eq!(everybody.cache_key("todo/1"), CacheKey::shared("todo/1"));
    }

    /// Whoever guesses another's id and key must not get at his write.
    #[test]
    fn no_key_of_one_principal_is_one_of_another() {
        let (ada, bob) = (Principal::named("ada"), Principal::named("bob"));
        let mut known = HashSet::new();
        let long = "x".repeat(255);
        let digest = hexadecimal(&Sha256::digest(&long));
        for sent in ["k", &long, &"x".repeat(222), &"x".repeat(223), &digest, &ada.own("k")] {
            for principal in [Principal::EVERYBODY, ada, bob] {
                let key = principal.write_key(sent);
                assert!((1..=KEY_BYTES_MAX).contains(&key.len()), "{}", key.len());
                assert_eq!(key.contains(' '), !principal.is_everybody());
                assert!(known.insert(key), "{sent} of {principal}");
            }
        }
        assert_ne!(ada.own("todos"), bob.own("todos"));
        assert_ne!(ada.cache_key("a"), bob.cache_key("a"));
    }
}
