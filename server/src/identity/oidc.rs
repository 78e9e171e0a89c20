//! Tokens of an identity provider: JSON Web Tokens that it has signed. Its keys are kept, in memory and on disk, so that
//! whoever has a token is let in while the provider is away.
//!
//! Who signs in there, and how, is not our business. The cryptography is that of the process's TLS.

mod fetch;
mod verify;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jsonwebtoken::{
    Algorithm, DecodingKey, Validation,
    jwk::{Jwk, JwkSet, KeyAlgorithm, PublicKeyUse},
};
use ridethrough::drain::Draining;
use serde::Deserialize;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

pub(super) use self::fetch::Source;
use super::{OidcSection, Principal};

/// In the data folder: the provider's keys, which are public.
const KEPT: &str = "identity-keys.json";
/// More is no set of keys.
pub(super) const DOCUMENT_BYTES_MAX: usize = 256 * 1024;
const KEYS_MAX: usize = 100;
/// A key that is not known is asked for this often at the most, whoever sends tokens that name one.
const ASK_PAUSE: Duration = Duration::from_secs(10);
/// A token with such a key waits this long for the answer.
const ASK_WAIT: Duration = Duration::from_secs(1);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(15);

const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// The provider's keys that we can use, each with its name.
#[derive(Debug, Default)]
struct Keys(Vec<(Option<String>, Algorithm, DecodingKey)>);

impl Keys {
    /// Whatever is no key for signatures of ours is passed over: providers publish others, too.
    fn parse(document: &[u8]) -> Result<Self, &'static str> {
        let set: JwkSet = serde_json::from_slice(document).map_err(|_| "it is no set of keys")?;
        let keys = set.keys.iter().take(KEYS_MAX).filter_map(|jwk| {
            let key = DecodingKey::from_jwk(jwk).ok()?;
            Some((jwk.common.key_id.clone(), algorithm(jwk, &key)?, key))
        });
        let keys: Vec<_> = keys.collect();
        if keys.is_empty() { Err("it holds no key for RS256, ES256 or EdDSA") } else { Ok(Self(keys)) }
    }

    /// The key that the token names; where it names none, the only one of that kind.
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&DecodingKey> {
        let mut of_kind = self.0.iter().filter(|(_, kind, _)| *kind == algorithm);
        match id {
            Some(_) => of_kind.find(|(known, _, _)| known.as_deref() == id).map(|(_, _, key)| key),
            None => of_kind.next().filter(|_| of_kind.next().is_none()).map(|(_, _, key)| key),
        }
    }
}

/// For what signatures the key is, if for any of ours.
fn algorithm(jwk: &Jwk, key: &DecodingKey) -> Option<Algorithm> {
    let by_family = ALGORITHMS.into_iter().find(|algorithm| algorithm.family() == key.family())?;
    let is_for_signatures =
        jwk.common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
    let stated = jwk.common.key_algorithm.as_ref();
    let is_as_stated = stated.is_none_or(|stated| {
        matches!(
            (stated, by_family),
            (KeyAlgorithm::RS256, Algorithm::RS256)
                | (KeyAlgorithm::ES256, Algorithm::ES256)
                | (KeyAlgorithm::EdDSA, Algorithm::EdDSA)
        )
    });
    (is_for_signatures && is_as_stated && verify::suits(by_family, key)).then_some(by_family)
}

/// Who says whose a token is.
#[derive(Debug)]
pub(super) struct Oidc {
    keys: watch::Receiver<Arc<Keys>>,
    issuer: String,
    audience: String,
    leeway: Duration,
    asked: Arc<Notify>,
    /// When a key that is not known was asked for last.
    asked_at: Mutex<Option<Instant>>,
}

/// What we read of a token; times and audience are checked by the library that reads it.
#[derive(Deserialize)]
struct Claims {
    sub: String,
}

impl Oidc {
    /// Whose token this is.
    pub(super) async fn principal(&self, token: &str) -> Option<Principal> {
        let header = jsonwebtoken::decode_header(token).ok()?;
        if !ALGORITHMS.contains(&header.alg) {
            return None;
        }
        let find = |keys: &Keys| keys.find(header.kid.as_deref(), header.alg).cloned();
        let known = find(&self.keys.borrow());
        let key = match known {
            Some(key) => key,
            None => self.asked_for(find).await?,
        };
        let mut validation = Validation::new(header.alg);
        validation.leeway = self.leeway.as_secs();
        validation.validate_nbf = true;
        validation.set_audience(&[&self.audience]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &validation).ok()?.claims;
        (!claims.sub.is_empty()).then(|| Principal::of_subject(&self.issuer, &claims.sub))
    }

    /// The provider may have a new key since we asked.
    async fn asked_for(&self, find: impl Fn(&Keys) -> Option<DecodingKey>) -> Option<DecodingKey> {
        let mut keys = self.keys.clone();
        keys.mark_unchanged();
        {
            let now = Instant::now();
            let mut asked_at = self.asked_at.lock().unwrap_or_else(PoisonError::into_inner);
            let since = asked_at.map(|at| now.saturating_duration_since(at));
            match since {
                // The answer may be on its way.
                Some(since) if since < ASK_WAIT => {}
                Some(since) if since < ASK_PAUSE => return None,
                _ => {
                    *asked_at = Some(now);
                    self.asked.notify_one();
                }
            }
        }
        timeout(ASK_WAIT, keys.wait_for(|keys| find(keys).is_some()))
            .await
            .ok()?
            .ok()
            .and_then(|keys| find(&keys))
    }
}

/// Asks for the keys, now and then and when it is told to, off the path of requests.
pub(crate) struct KeysKeeper {
    source: Source,
    kept: PathBuf,
    refresh: Duration,
    told: watch::Sender<Arc<Keys>>,
    asked: Arc<Notify>,
    /// What was read last.
    document: Vec<u8>,
    failed: bool,
}

/// Ready with the keys that were kept, if there are any. The keeper is to be spawned.
///
/// # Errors
/// One sentence that names the key of the configuration.
pub(super) fn open(section: &OidcSection, data_dir: &Path) -> Result<(Oidc, KeysKeeper), String> {
    verify::install();
    let source = Source::of(section)?;
    let kept = data_dir.join(KEPT);
    let document = std::fs::read(&kept).unwrap_or_default();
    let keys = if document.is_empty() { Ok(Keys::default()) } else { Keys::parse(&document) };
    let keys = keys.unwrap_or_else(|reason| {
        tracing::warn!(
            reason,
            "the kept keys of the identity provider cannot be used; they are asked for again"
        );
        Keys::default()
    });
    let (told, keys) = watch::channel(Arc::new(keys));
    let asked = Arc::new(Notify::new());
    let oidc = Oidc {
        keys,
        issuer: section.issuer.clone(),
        audience: section.audience.clone(),
        leeway: section.leeway,
        asked: Arc::clone(&asked),
        asked_at: Mutex::default(),
    };
    Ok((oidc, KeysKeeper { source, kept, refresh: section.refresh, told, asked, document, failed: false }))
}

impl KeysKeeper {
    /// What asks for the keys at once.
    pub(crate) fn asked(&self) -> Arc<Notify> {
        Arc::clone(&self.asked)
    }

    /// Asks until the drain.
    ///
    /// # Cancel safety
    /// The keys that were read last stay in force.
    pub(crate) async fn run(mut self, mut draining: Draining) {
        loop {
            let asking = async {
                let fetched = self.source.fetch().await;
                self.take(fetched).await;
                let wait = if self.failed { AGAIN.min(self.refresh) } else { self.refresh };
                tokio::select! {
                    () = self.asked.notified() => {}
                    () = sleep(wait) => {}
                }
            };
            tokio::select! {
                () = draining.requested() => return,
                () = asking => {}
            }
        }
    }

    async fn take(&mut self, fetched: Result<Vec<u8>, &'static str>) {
        let read = fetched.and_then(|document| Ok((Keys::parse(&document)?, document)));
        match read {
            Ok((_, document)) if document == self.document => {}
            Ok((keys, document)) => {
                tracing::info!(keys = keys.0.len(), "the identity provider's keys were read");
                self.told.send_replace(Arc::new(keys));
                self.document.clone_from(&document);
                let path = self.kept.clone();
                let kept = tokio::task::spawn_blocking(move || keep(&path, &document)).await;
                if !matches!(kept, Ok(Ok(()))) {
                    tracing::warn!(
                        "the identity provider's keys cannot be kept on disk; a restart needs the provider"
                    );
                }
            }
            Err(reason) => {
                if !self.failed {
                    tracing::warn!(
                        reason,
                        "the identity provider's keys cannot be read; those known stay in force"
                    );
                }
                self.failed = true;
                return;
            }
        }
        self.failed = false;
    }
}

/// Whole or not at all.
fn keep(path: &Path, document: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, document)?;
    std::fs::File::open(&new)?.sync_all()?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests;
