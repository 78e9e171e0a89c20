//! A local provider that signs, changes its keys, and dies; a clock that is the machine's own.

use std::{net::SocketAddr, time::SystemTime};

use ridethrough::drain::Drain;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};

use super::*;

const ISSUER: &str = "https://id.example";
const AUDIENCE: &str = "todos";

/// Base64 as tokens have it.
fn encoded(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            out.push(char::from(LETTERS[(bits >> (18 - 6 * place)) as usize & 63]));
        }
    }
    out
}

enum Signer {
    Ed(&'static str, Box<Ed25519KeyPair>),
    Es(&'static str, Box<EcdsaKeyPair>),
}

impl Signer {
    fn ed(id: &'static str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed(id, Box::new(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap()))
    }

    fn es(id: &'static str) -> Self {
        let (random, kind) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Self::Es(id, Box::new(EcdsaKeyPair::from_pkcs8(kind, pkcs8.as_ref(), &random).unwrap()))
    }

    fn jwk(&self) -> Value {
        match self {
            Self::Ed(id, pair) => {
                let x = encoded(pair.public_key().as_ref());
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": id, "use": "sig", "alg": "EdDSA", "x": x })
            }
            Self::Es(id, pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = (encoded(&point[1..33]), encoded(&point[33..]));
                json!({ "kty": "EC", "crv": "P-256", "kid": id, "use": "sig", "x": x, "y": y })
            }
        }
    }

    fn token(&self, claims: &Value) -> String {
        let (id, algorithm) = match self {
            Self::Ed(id, _) => (id, "EdDSA"),
            Self::Es(id, _) => (id, "ES256"),
        };
        self.token_under(&json!({ "alg": algorithm, "kid": id }), claims)
    }

    fn token_under(&self, header: &Value, claims: &Value) -> String {
        let said =
            format!("{}.{}", encoded(header.to_string().as_bytes()), encoded(claims.to_string().as_bytes()));
        let signature = match self {
            Self::Ed(_, pair) => pair.sign(said.as_bytes()).as_ref().to_vec(),
            Self::Es(_, pair) => pair.sign(&SystemRandom::new(), said.as_bytes()).unwrap().as_ref().to_vec(),
        };
        format!("{said}.{}", encoded(&signature))
    }
}

fn seconds(from_now: i64) -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64 + from_now
}

fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": seconds(600) })
}

fn set(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

/// Answers each question with what it holds now.
struct Provider {
    address: SocketAddr,
    document: Arc<Mutex<Vec<u8>>>,
    asked: watch::Receiver<usize>,
    serving: JoinHandle<()>,
}

impl Provider {
    async fn start(document: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let document = Arc::new(Mutex::new(document));
        let (count, asked) = watch::channel(0);
        let held = Arc::clone(&document);
        let serving = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await;
                let body = held.lock().unwrap().clone();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
                count.send_modify(|count| *count += 1);
            }
        });
        Self { address, document, asked, serving }
    }

    fn publishes(&self, document: Vec<u8>) {
        *self.document.lock().unwrap() = document;
    }

    fn section(&self) -> OidcSection {
        OidcSection {
            issuer: ISSUER.to_owned(),
            audience: AUDIENCE.to_owned(),
            jwks: format!("http://{}/keys", self.address),
            ..OidcSection::default()
        }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Without a provider: with these keys, which lie on the disk.
fn knowing(folder: &Path, keys: &[Value]) -> Oidc {
    let file = folder.join("keys");
    std::fs::write(folder.join(KEPT), set(keys)).unwrap();
    let section = OidcSection {
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        jwks: file.display().to_string(),
        ..OidcSection::default()
    };
    open(&section, folder).unwrap().0
}

async fn until_known(oidc: &Oidc, token: &str) {
    for _ in 0..400 {
        if oidc.principal(token).await.is_some() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("the token is not known");
}

#[tokio::test]
async fn each_claim_of_a_token_must_be_right() {
    let folder = tempfile::tempdir().unwrap();
    let (ed, es, other) = (Signer::ed("a"), Signer::es("b"), Signer::ed("a"));
    let oidc = knowing(folder.path(), &[ed.jwk(), es.jwk()]);
    let ada = Some(Principal::of_subject(ISSUER, "ada"));
    for signer in [&ed, &es] {
        assert_eq!(oidc.principal(&signer.token(&claims())).await, ada);
    }
    assert_ne!(ada, Some(Principal::named("ada")), "a name in a file is somebody else");
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        claims
    };
    let without = |name: &str| {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        claims
    };
    for (what, claims) in [
        ("issuer", with("iss", json!("https://other.example"))),
        ("audience", with("aud", json!("others"))),
        ("past", with("exp", json!(seconds(-60)))),
        ("text", with("exp", json!("4102444800"))),
        ("future", with("nbf", json!(seconds(60)))),
        ("nobody", with("sub", json!(""))),
        ("number", with("sub", json!(7))),
        ("no issuer", without("iss")),
        ("no audience", without("aud")),
        ("no end", without("exp")),
        ("no subject", without("sub")),
    ] {
        assert_eq!(oidc.principal(&ed.token(&claims)).await, None, "{what}");
    }
    // Clocks differ a little.
    assert_eq!(oidc.principal(&ed.token(&with("exp", json!(seconds(-10))))).await, ada);
    assert_eq!(oidc.principal(&ed.token(&with("nbf", json!(seconds(10))))).await, ada);
    assert_eq!(oidc.principal(&ed.token(&with("aud", json!(["x", AUDIENCE])))).await, ada);
    let good = ed.token(&claims());
    assert_eq!(oidc.principal(&other.token(&claims())).await, None, "another's signature");
    for header in [
        json!({ "alg": "none", "kid": "a" }),
        json!({ "alg": "HS256", "kid": "a" }),
        json!({ "alg": "ES256", "kid": "a" }),
        json!({ "alg": "EdDSA", "kid": "b" }),
        json!({ "alg": "RS256", "kid": "a" }),
    ] {
        assert_eq!(oidc.principal(&ed.token_under(&header, &claims())).await, None, "{header}");
    }
    let (said, _) = good.rsplit_once('.').unwrap();
    for broken in ["", ".", "..", "a.b.c", said, &format!("{said}."), &good[1..], &format!("{good}x")] {
        assert_eq!(oidc.principal(broken).await, None, "{broken}");
    }
    assert_eq!(
        oidc.principal(&ed.token_under(&json!({ "alg": "EdDSA" }), &claims())).await,
        ada,
        "the only one"
    );
}

/// Made once by another program, whose key is gone.
#[tokio::test]
async fn a_signature_of_rsa_is_checked_too() {
    const N: &str = "pj7D24NHPrWyR7-YqAAGwCBRwdcxTpWqKRyhO-Q7sdLG2MxJWFe3DiTHdL6M9lO8o7SzJbbFuqaPybXPAyzadwixvqSB65Q4Ambo\
         wC4qJa7pCJB0FBA2L37oO5SkFQGDnoECX19n6P3HdTYeZlK07c3bhXxjDbMvdsxCOcuZVl-aBL6aWJIkYyRr7hFuOkuGMGAYih02\
         OHkn49uJ1XhDkA_IBj7OJnv_6uTYz65QaoKkhGZCoDIYbQ8dfox8fGlvD6YtTjB5HucUvkbgHU3WfkEBiPnCbBZISSSHyNl1PKu-\
         ikqJlVRjYOmX_crfjCq16gP4enGw-2CT4HhzMnbZEw";
    const TOKEN: &str = "eyJhbGciOiAiUlMyNTYiLCAia2lkIjogInJzYS0xIn0.eyJpc3MiOiAiaHR0cHM6Ly9pZC5leGFtcGxlIiwgImF1ZCI6ICJ0b2Rv\
         cyIsICJzdWIiOiAiYWRhIiwgImV4cCI6IDQxMDI0NDQ4MDB9.aXhf-ogwCD3WLzcly21IvcnMHXY_psTZ9RGK9XGBcnNTS24hpmf\
         YyQoI0OX29V3pUO0kzdlG5nmTecWQV4lQ1eeWGxEd0CZDdeJT-egVqyFMasvT0YuU2-GYwTGKqW98kNqbytcNJq2VjxFDkhsFxth\
         0xZVuAEnRUdNytnB2JeJ9dxKJJj_1YVz_LoEXB_vwQTUAhWxGjTqJKVTLd0RrE0BarHoEZJRc8yCrc77XApWJnQgzzObYKYv-gw-\
         tfWD2YoF7-f2zrHHnR2wbKJy0nId3cOasjKopWRYqe36zFJweAk4-sLwPLWAe-t5AwglN130-mYBYYJJcK3SQm1lX3A";
    let folder = tempfile::tempdir().unwrap();
    let jwk =
        |n: &str| json!({ "kty": "RSA", "kid": "rsa-1", "use": "sig", "alg": "RS256", "n": n, "e": "AQAB" });
    let oidc = knowing(folder.path(), &[jwk(N)]);
    assert_eq!(oidc.principal(TOKEN).await, Some(Principal::of_subject(ISSUER, "ada")));
    let forged = TOKEN.replacen(".eyJ", ".eyK", 1);
    assert_eq!(oidc.principal(&forged).await, None);
    let oidc = knowing(folder.path(), &[jwk(&N.replace('a', "b"))]);
    assert_eq!(oidc.principal(TOKEN).await, None);
}

#[test]
fn only_keys_for_signatures_of_ours_are_taken() {
    let with = |name: &str, value: &str| {
        let mut jwk = Signer::ed("a").jwk();
        jwk[name] = json!(value);
        jwk
    };
    verify::install();
    let secret = json!({ "kty": "oct", "kid": "a", "k": "c2VjcmV0" });
    for other in [with("use", "enc"), with("alg", "RS256"), with("x", "AAAA"), secret] {
        assert!(Keys::parse(&set(std::slice::from_ref(&other))).is_err(), "{other}");
        let both = Keys::parse(&set(&[other, Signer::es("b").jwk()])).unwrap();
        assert_eq!(both.0.len(), 1);
    }
    for document in [&b""[..], b"null", b"{}", b"{\"keys\":[]}", b"{\"keys\":1}"] {
        assert!(Keys::parse(document).is_err());
    }
}

/// The provider was away, and so was everybody who had signed in there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_a_token_is_let_in_while_the_provider_is_away_and_after_a_restart_too() {
    let folder = tempfile::tempdir().unwrap();
    let signer = Signer::ed("a");
    let provider = Provider::start(set(&[signer.jwk()])).await;
    let section = provider.section();
    let (oidc, keeper) = open(&section, folder.path()).unwrap();
    let (drain, draining) = Drain::new();
    let running = tokio::spawn(keeper.run(draining));
    let token = signer.token(&claims());
    until_known(&oidc, &token).await;
    drop(provider);
    oidc.asked.notify_one();
    sleep(Duration::from_millis(50)).await;
    assert!(oidc.principal(&token).await.is_some(), "the provider is away");
    while std::fs::read(folder.path().join(KEPT)).is_err() {
        sleep(Duration::from_millis(10)).await;
    }
    drain.begin();
    running.await.unwrap();
    let (oidc, _keeper) = open(&section, folder.path()).unwrap();
    assert!(oidc.principal(&token).await.is_some(), "the server was started again");
    std::fs::write(folder.path().join(KEPT), "nonsense").unwrap();
    let (oidc, _keeper) = open(&section, folder.path()).unwrap();
    assert!(oidc.principal(&token).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_is_asked_for_at_once_and_not_for_everybody_who_makes_one_up() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (Signer::ed("a"), Signer::es("b"));
    let provider = Provider::start(set(&[first.jwk()])).await;
    let (oidc, keeper) = open(&provider.section(), folder.path()).unwrap();
    let (drain, draining) = Drain::new();
    let running = tokio::spawn(keeper.run(draining));
    until_known(&oidc, &first.token(&claims())).await;
    let asked = *provider.asked.borrow();
    provider.publishes(set(&[first.jwk(), second.jwk()]));
    // As soon as what the first question left behind allows it.
    *oidc.asked_at.lock().unwrap() = None;
    assert!(oidc.principal(&second.token(&claims())).await.is_some(), "the new key was not asked for");
    let stranger = Signer::ed("c");
    for _ in 0..20 {
        assert!(oidc.principal(&stranger.token(&claims())).await.is_none());
    }
    let times = *provider.asked.borrow() - asked;
    assert!((1..=2).contains(&times), "the provider was asked {times} times");
    // One that answers nonsense takes nobody's key.
    provider.publishes(b"<html>".to_vec());
    oidc.asked.notify_one();
    sleep(Duration::from_millis(100)).await;
    assert!(oidc.principal(&first.token(&claims())).await.is_some());
    drain.begin();
    running.await.unwrap();
}

#[test]
fn keys_come_from_a_file_or_by_https() {
    let of = |keys: &str| {
        let bundle = std::env::temp_dir().join("no-such-bundle");
        let section = OidcSection { jwks: keys.to_owned(), ca_file: Some(bundle), ..OidcSection::default() };
        Source::of(&section).map(|_| ())
    };
    assert_eq!(
        (of("/etc/keys.json"), of("http://127.0.0.1:9/k"), of("http://[::1]/k")),
        (Ok(()), Ok(()), Ok(()))
    );
    for wrong in ["http://id.example/k", "ftp://id.example/k", "https://", "http://localhost/k"] {
        assert!(of(wrong).unwrap_err().contains("identity.oidc.jwks"), "{wrong}");
    }
    assert!(of("https://id.example/k").unwrap_err().contains("identity.oidc.ca_file"));
}
