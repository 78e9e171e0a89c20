//! Whose a request is: one opaque id, which goes with it into every question, command, key and answer. What shows it stands
//! in the files below; what somebody may do with a todo follows from its owner alone.

pub(crate) mod credentials;
#[cfg(feature = "oidc")]
mod oidc;
pub(crate) mod tokens;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, Method, request::Parts};
use ridethrough::{
    cache::{self, CacheKey},
    drain::Draining,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, watch};
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

    /// Whom a provider calls so.
    #[cfg(feature = "oidc")]
    fn of_subject(issuer: &str, subject: &str) -> Self {
        Self::derived(&format!("oidc {issuer}"), subject)
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
    /// By tokens that an identity provider has signed; with the feature `oidc`.
    Oidc,
}

/// How principals are told apart, as it is set.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct IdentitySection {
    /// `none`, `tokens` or `oidc`. Default none, which is refused where the main listener is no loopback address.
    pub(crate) mode: IdentityMode,
    /// The file of tokens, for that mode.
    pub(crate) tokens_file: Option<PathBuf>,
    /// The identity provider, for that mode.
    pub(crate) oidc: OidcSection,
    /// The principal that acts where a request shows no token, for demonstrations. Default nobody: 401.
    pub(crate) guest: Option<String>,
    /// Whether `X-Forwarded-Proto` is believed: where a proxy in front sets it itself. Default false.
    pub(crate) trust_forwarded_proto: bool,
}

/// An identity provider.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct OidcSection {
    /// Its name, as it stands in its tokens. Required.
    pub(crate) issuer: String,
    /// For whom a token must be. Required.
    pub(crate) audience: String,
    /// Its keys: the `jwks_uri` of its configuration, or a file. Required.
    pub(crate) jwks: String,
    /// Certificates in PEM that may vouch for that address. Default those that the system trusts.
    pub(crate) ca_file: Option<PathBuf>,
    /// By how much clocks may differ. Default 30 s, 5 min at the most.
    #[serde(with = "ridethrough::duration_text")]
    pub(crate) leeway: Duration,
    /// How often the keys are asked for, beside every one that is not known. Default 10 min.
    #[serde(with = "ridethrough::duration_text")]
    pub(crate) refresh: Duration,
}

impl Default for OidcSection {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audience: String::new(),
            jwks: String::new(),
            ca_file: None,
            leeway: Duration::from_secs(30),
            refresh: Duration::from_secs(600),
        }
    }
}

impl OidcSection {
    fn validate(&self) -> Result<(), String> {
        if !cfg!(feature = "oidc") {
            return Err(
                "identity.mode is oidc, and this program was built without the feature oidc".to_owned()
            );
        }
        for (name, value) in [("issuer", &self.issuer), ("audience", &self.audience), ("jwks", &self.jwks)] {
            if value.trim().is_empty() {
                return Err(format!("identity.mode is oidc, and identity.oidc.{name} is missing"));
            }
        }
        if self.leeway > Duration::from_secs(300) {
            return Err("identity.oidc.leeway must be at most 5m".to_owned());
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&self.refresh) {
            return Err("identity.oidc.refresh must be between 1s and 1d".to_owned());
        }
        Ok(())
    }
}

impl IdentitySection {
    /// Checks what can be checked without opening anything.
    ///
    /// # Errors
    /// One sentence that names the key.
    pub(crate) fn validate(&self) -> Result<(), String> {
        if self.mode == IdentityMode::Oidc {
            self.oidc.validate()?;
        }
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
    #[cfg(feature = "oidc")]
    Oidc(oidc::Oidc),
}

/// What must run beside the requests, so that they find what is true now.
pub(crate) enum Keeper {
    Tokens(TokensKeeper),
    #[cfg(feature = "oidc")]
    Oidc(oidc::KeysKeeper),
}

impl Keeper {
    /// What asks for a look at once.
    pub(crate) fn asked(&self) -> Arc<Notify> {
        match self {
            Self::Tokens(keeper) => keeper.asked(),
            #[cfg(feature = "oidc")]
            Self::Oidc(keeper) => keeper.asked(),
        }
    }

    /// Looks until the drain.
    ///
    /// # Cancel safety
    /// What was known last stays in force.
    pub(crate) async fn run(self, draining: Draining) {
        match self {
            Self::Tokens(keeper) => keeper.run(draining).await,
            #[cfg(feature = "oidc")]
            Self::Oidc(keeper) => keeper.run(draining).await,
        }
    }
}

impl Identity {
    /// As it is set, with the part that must run beside the requests. Reads the file of tokens, or the keys that were kept
    /// in the data folder.
    ///
    /// # Errors
    /// One sentence that names the key.
    pub(crate) fn open(section: &IdentitySection, data_dir: &Path) -> Result<(Self, Option<Keeper>), String> {
        let (known, keeper) = match section.mode {
            IdentityMode::None => (Known::Everybody, None),
            IdentityMode::Tokens => {
                let path = section.tokens_file.clone().unwrap_or_default();
                let opened = tokens::open(&path);
                let (tokens, keeper) =
                    opened.map_err(|reason| format!("identity.tokens_file {}: {reason}", path.display()))?;
                (Known::Tokens(tokens), Some(Keeper::Tokens(keeper)))
            }
            #[cfg(feature = "oidc")]
            IdentityMode::Oidc => {
                let (oidc, keeper) = oidc::open(&section.oidc, data_dir)?;
                (Known::Oidc(oidc), Some(Keeper::Oidc(keeper)))
            }
            #[cfg(not(feature = "oidc"))]
            IdentityMode::Oidc => {
                return Err(format!("{} has no use for identity.mode oidc", data_dir.display()));
            }
        };
        let guest = section.guest.as_deref().map(Principal::named);
        Ok((Self { known, guest, trust_forwarded_proto: section.trust_forwarded_proto }, keeper))
    }

    /// Whether a person can sign in here.
    pub(crate) fn has_sign_in(&self) -> bool {
        !matches!(self.known, Known::Everybody)
    }

    /// Whether this is whom everybody is taken for who has not signed in.
    pub(crate) fn is_guest(&self, principal: Principal) -> bool {
        self.guest == Some(principal)
    }

    /// Whose token this is.
    pub(crate) async fn principal(&self, token: &str) -> Option<Principal> {
        match &self.known {
            Known::Everybody => Some(Principal::EVERYBODY),
            Known::Tokens(tokens) => tokens.borrow().principal(token),
            #[cfg(feature = "oidc")]
            Known::Oidc(oidc) => oidc.principal(token).await,
        }
    }

    /// Whether an answer to this request goes by https, as far as that is known.
    pub(crate) fn is_https(&self, headers: &HeaderMap) -> bool {
        self.trust_forwarded_proto && came_by_https(headers)
    }

    /// Whose the request is.
    async fn sender(&self, method: &Method, headers: &HeaderMap) -> Result<Principal, Trouble> {
        if !self.has_sign_in() {
            return Ok(Principal::EVERYBODY);
        }
        let token = match shown(headers) {
            Shown::Nothing => return self.guest.ok_or_else(|| Trouble::sign_in_needed(false)),
            Shown::Broken => return Err(Trouble::sign_in_needed(true)),
            Shown::Bearer(token) => token,
            Shown::Cookie(token) => {
                // A browser sends the cookie along for whatever page asks it to.
                if !method.is_safe() {
                    refuse_other_sites(headers)?;
                }
                token
            }
        };
        self.principal(token).await.ok_or_else(|| Trouble::sign_in_needed(true))
    }
}

/// The layer that finds out whose a request is, or refuses it.
pub(crate) async fn identify(State(app): State<App>, request: Request, next: Next) -> Response {
    // Taken out, because a request that is borrowed cannot be waited with.
    let (parts, body) = request.into_parts();
    let sender = app.identity.sender(&parts.method, &parts.headers).await;
    let mut request = Request::from_parts(parts, body);
    match sender {
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
