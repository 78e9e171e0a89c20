//! The file of tokens: who has which, by hash. It is read at the start, and again when it changes; a file that cannot be
//! understood changes nothing.
//!
//! A token is found by its SHA-256: whoever measures how long that takes learns something about hashes of guesses and
//! nothing about tokens. `docs/adr/2026-11-21-tokens-are-kept-as-hashes.md`.

use std::{
    collections::HashMap,
    fmt, fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ridethrough::drain::Draining;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};
use uuid::Uuid;

use super::{Principal, hexadecimal};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Some ten thousand tokens.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
const NAME_BYTES_MAX: usize = 64;
/// How a token begins, so that it is known for one where it lies about.
const BEGIN: &str = "rt_";
const HASH_BYTES: usize = 32;

/// Who may come in.
#[derive(Default)]
pub(super) struct Tokens(HashMap<[u8; HASH_BYTES], Principal>);

impl Tokens {
    pub(super) fn principal(&self, token: &str) -> Option<Principal> {
        self.0.get::<[u8; HASH_BYTES]>(&Sha256::digest(token).into()).copied()
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        let mut tokens = HashMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let wrong = |what| Unreadable { line: Some(number), what };
            let mut words = line.split_ascii_whitespace();
            let (Some(name), Some(hash), None) = (words.next(), words.next(), words.next()) else {
                return Err(wrong("a line is a name and the SHA-256 of a token, in hexadecimal digits"));
            };
            if !is_name(name) {
                return Err(wrong("a name has 1 to 64 letters, digits and marks of . _ - @"));
            }
            let hash = digits(hash).ok_or_else(|| wrong("a hash has 64 hexadecimal digits"))?;
            if tokens.insert(hash, Principal::named(name)).is_some() {
                return Err(wrong("this token stands in an earlier line, too"));
            }
        }
        Ok(Self(tokens))
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}

/// Why a file of tokens cannot be used; quotes nothing of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreadable {
    line: Option<usize>,
    what: &'static str,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.what),
            None => f.write_str(self.what),
        }
    }
}

/// Whether a principal can be named so.
pub(crate) fn is_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_allowed)
}

fn digits(text: &str) -> Option<[u8; HASH_BYTES]> {
    let digits = text.as_bytes();
    if digits.len() != HASH_BYTES * 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut hash = [0; HASH_BYTES];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

/// A new token, and the line that lets in whoever has it.
pub(crate) fn make(name: &str) -> (String, String) {
    let token = format!("{BEGIN}{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let line = format!("{name} {}", hexadecimal(&Sha256::digest(&token)));
    (token, line)
}

/// Reads the file for the first time. The keeper is to be spawned.
///
/// # Errors
/// Why it cannot be used.
pub(super) fn open(path: &Path) -> Result<(watch::Receiver<Arc<Tokens>>, TokensKeeper), Unreadable> {
    let text = read(path)?;
    let (told, tokens) = watch::channel(Arc::new(Tokens::parse(&text)?));
    let keeper = TokensKeeper { path: path.to_owned(), last: Ok(text), told, asked: Arc::default() };
    Ok((tokens, keeper))
}

/// The whole of it each time: it is small, and what a file system says of a file that was just written over is not always
/// news.
fn read(path: &Path) -> Result<String, Unreadable> {
    let wrong = |what| Unreadable { line: None, what };
    let file = fs::File::open(path).map_err(|_| wrong("the file cannot be opened"))?;
    let mut bytes = Vec::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|_| wrong("the file cannot be read"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong("the file is larger than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| wrong("the file is no text"))
}

/// Reads the file again when it changes, off the path of requests.
pub(crate) struct TokensKeeper {
    path: PathBuf,
    /// What was read last, so that only news is said.
    last: Result<String, Unreadable>,
    told: watch::Sender<Arc<Tokens>>,
    asked: Arc<Notify>,
}

impl TokensKeeper {
    /// What asks for a look at once.
    pub(crate) fn asked(&self) -> Arc<Notify> {
        Arc::clone(&self.asked)
    }

    /// Looks until the drain.
    ///
    /// # Cancel safety
    /// The tokens that were read last stay in force.
    pub(crate) async fn run(mut self, mut draining: Draining) {
        loop {
            tokio::select! {
                () = draining.requested() => return,
                () = self.asked.notified() => {}
                () = sleep(LOOK_EVERY) => {}
            }
            let path = self.path.clone();
            let read = tokio::task::spawn_blocking(move || read(&path)).await;
            // A disk that does not answer says nothing about tokens.
            if let Ok(read) = read {
                self.take(read);
            }
        }
    }

    fn take(&mut self, read: Result<String, Unreadable>) {
        if read == self.last {
            return;
        }
        match read.as_deref().map_err(Clone::clone).and_then(Tokens::parse) {
            Ok(tokens) => {
                tracing::info!(tokens = tokens.0.len(), "identity.tokens_file was read again");
                self.told.send_replace(Arc::new(tokens));
            }
            Err(reason) => {
                tracing::error!(%reason, "identity.tokens_file cannot be used; what was read before stays in force");
            }
        }
        self.last = read;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_a_token_is_whom_it_was_made_for() {
        let (hers, her_line) = make("ada");
        let (second, second_line) = make("ada");
        let (_, his_line) = make("bob@example.org");
        let text = format!("# people\n\n{her_line}\n  {second_line} # her telephone\r\n{his_line}");
        let tokens = Tokens::parse(&text).unwrap();
        let ada = Some(Principal::named("ada"));
        assert_eq!((tokens.principal(&hers), tokens.principal(&second)), (ada, ada));
        assert_eq!(tokens.principal(&make("ada").0), None);
        // What stands in the file lets nobody in.
        let hash = her_line.split(' ').next_back().unwrap();
        assert_eq!((tokens.principal(hash), tokens.principal("")), (None, None));
        assert!(hers.len() > 60 && super::super::credentials::is_token(&hers), "{hers}");
    }

    #[test]
    fn a_broken_file_is_refused_with_the_line_and_without_its_words() {
        let (_, good) = make("ada");
        for (line, said) in [
            ("canary", "a line is"),
            ("ada canary", "64 hexadecimal"),
            (good.replacen("ada", "can ary", 1).as_str(), "a line is"),
            (good.replacen("ada", "can/ary", 1).as_str(), "a name has"),
            (good.as_str(), "earlier line"),
        ] {
            let refused = Tokens::parse(&format!("{good}\n# note\n{line}\n")).unwrap_err().to_string();
            assert!(refused.starts_with("line 3: ") && refused.contains(said), "{refused}");
            assert!(!refused.contains("canary"), "{refused}");
        }
        assert!(Tokens::parse("").unwrap().0.is_empty());
    }

    fn written(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
    }

    /// Somebody saves a half-written file, and nobody must be locked out for it.
    #[tokio::test(start_paused = true)]
    async fn a_changed_file_counts_within_seconds_and_a_broken_one_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let ((first, line), (second, other)) = (make("ada"), make("bob"));
        assert!(open(&path).is_err(), "there is none");
        written(&path, "nonsense");
        assert!(open(&path).is_err());
        written(&path, &line);
        let (mut tokens, keeper) = open(&path).unwrap();
        let asked = keeper.asked();
        let (drain, draining) = ridethrough::drain::Drain::new();
        let running = tokio::spawn(keeper.run(draining));
        let knows =
            |tokens: &watch::Receiver<Arc<Tokens>>, token: &str| tokens.borrow().principal(token).is_some();
        assert!(knows(&tokens, &first) && !knows(&tokens, &second));
        written(&path, &other);
        tokens.changed().await.unwrap();
        assert!(!knows(&tokens, &first) && knows(&tokens, &second));
        written(&path, &format!("{line}\nbroken"));
        asked.notify_one();
        sleep(LOOK_EVERY * 5).await;
        assert!(knows(&tokens, &second) && !knows(&tokens, &first));
        fs::remove_file(&path).unwrap();
        sleep(LOOK_EVERY * 5).await;
        assert!(knows(&tokens, &second));
        written(&path, &line);
        tokens.changed().await.unwrap();
        assert!(knows(&tokens, &first));
        drain.begin();
        running.await.unwrap();
    }
}
