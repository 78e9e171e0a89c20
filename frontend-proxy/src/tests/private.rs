//! No byte of one user's answer reaches another: random users, fields and answers, many at once.
//!
//! The backend marks what it says to one user only with that user's secret, and what it says once with a number. It gives
//! such answers any field that forbids sharing them, or none that allows it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::task::JoinSet;

use super::harness::{Stub, ask, proxy};

const USERS: u64 = 4;
const PATHS: u64 = 5;
const WORKERS: u64 = 8;
const REQUESTS: u64 = 120;

fn seed() -> u64 {
    let given = std::env::var("RIDETHROUGH_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| fastrand::u64(..))
}

fn pick<'a>(random: &mut fastrand::Rng, from: &[&'a str]) -> &'a str {
    from.get(random.usize(..from.len())).copied().unwrap_or_default()
}

/// The user a request is from, by its head; none for everybody else.
fn user_of(head: &str) -> Option<String> {
    let at = head.find("user-")?;
    Some(head[at..].chars().take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '-').collect())
}

/// Fields that let an answer be kept, if it is not for one user.
const LIFETIMES: [&str; 8] = [
    "Cache-Control: max-age=60\r\n",
    "Cache-Control: max-age=5, stale-while-revalidate=60\r\nAge: 6\r\n",
    "Cache-Control: max-age=5, stale-if-error=60\r\nAge: 6\r\n",
    "Expires: Thu, 18 Aug 2050 02:01:18 GMT\r\n",
    "Last-Modified: Thu, 18 Aug 2011 02:01:18 GMT\r\n",
    "Cache-Control: no-cache\r\n",
    "Cache-Control: foo=\"public\", max-age=60\r\n",
    "",
];
/// Fields that forbid others to have an answer.
const FORBIDDING: [&str; 7] = [
    "Cache-Control: private, max-age=60\r\n",
    "Cache-Control: max-age=60, private=\"\"\r\n",
    "Cache-Control: no-store\r\n",
    "Cache-Control: public, max-age=60, no-store\r\n",
    "Cache-Control: max-age=60\r\nCDN-Cache-Control: private\r\n",
    "Cache-Control: max-age=60\r\nVary: Accept\r\nVary: *\r\n",
    "Cache-Control: max-age=60, x=\"\r\n",
];
const TAGS: [&str; 3] = ["", "ETag: \"same\"\r\n", "ETag: W/\"same\"\r\nVary: Accept\r\n"];

/// What the backend says. `number` marks what is for this one answer.
fn answer(head: &str, number: u64, random: &mut fastrand::Rng) -> String {
    let (user, tag) = (user_of(head), pick(random, &TAGS));
    let lifetime = pick(random, &LIFETIMES);
    if head.contains("if-none-match") && random.bool() {
        let cookie = if random.bool() { format!("Set-Cookie: once-{number}-\r\n") } else { String::new() };
        return format!("HTTP/1.1 304 Not Modified\r\n{lifetime}{tag}{cookie}\r\n");
    }
    if random.u8(..8) == 0 {
        return "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nbad".to_owned();
    }
    let (fields, mark) = match (user, random.u8(..4)) {
        // For one user, by what the request showed; the backend need not say more.
        (Some(user), 0..3) => (lifetime.to_owned(), format!("secret-{user}-")),
        (_, 0) => (pick(random, &FORBIDDING).to_owned(), format!("once-{number}-")),
        (_, 1) => (format!("{lifetime}Set-Cookie: once-{number}-\r\n"), format!("once-{number}-")),
        (_, 2) => {
            let withheld = "Cache-Control: max-age=60, private=\"x-mine\", no-cache=\"set-cookie\"\r\n";
            (
                format!("{withheld}X-Mine: once-{number}-\r\nSet-Cookie: once-{number}-\r\n"),
                "for all".to_owned(),
            )
        }
        _ => (format!("Cache-Control: public, max-age=60\r\n{tag}"), "for all".to_owned()),
    };
    let length = if head.starts_with("HEAD") { String::new() } else { mark.clone() };
    match random.bool() {
        true => format!("HTTP/1.1 200 OK\r\n{fields}{tag}Content-Length: {}\r\n\r\n{length}", mark.len()),
        false if head.starts_with("HEAD") => {
            format!("HTTP/1.1 200 OK\r\n{fields}{tag}Content-Length: 9\r\n\r\n")
        }
        false => {
            format!(
                "HTTP/1.1 200 OK\r\n{fields}{tag}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{mark}\r\n0\r\n\r\n",
                mark.len()
            )
        }
    }
}

/// One request of somebody; gives who it was.
fn request(random: &mut fastrand::Rng) -> (String, Vec<String>, Option<String>) {
    let method = pick(random, &["GET", "GET", "GET", "GET", "GET", "HEAD", "POST"]);
    let mut fields = Vec::new();
    let user = random.bool().then(|| format!("user-{}", random.u64(..USERS)));
    if let Some(user) = &user {
        fields.push(match random.bool() {
            true => format!("Cookie: session={user}"),
            false => format!("Authorization: Bearer {user}"),
        });
    }
    let wish =
        pick(random, &["", "", "", "max-stale", "no-cache", "max-age=0", "stale-if-error=60", "no-store"]);
    if !wish.is_empty() {
        fields.push(format!("Cache-Control: {wish}"));
    }
    match random.u8(..8) {
        0 => fields.push("If-None-Match: \"same\"".to_owned()),
        1 => fields.push("Range: bytes=0-".to_owned()),
        2 => fields.push("Accept: text/html".to_owned()),
        _ => {}
    }
    if method == "POST" {
        fields.push("Content-Length: 0".to_owned());
    }
    (format!("{method} /{}", random.u64(..PATHS)), fields, user)
}

/// The marks in an answer that start with `kind`.
fn marks(text: &str, kind: &str) -> Vec<String> {
    let found = text.match_indices(kind).map(|(at, _)| {
        let digits = text[at + kind.len()..].chars().take_while(|letter| *letter != '-').collect::<String>();
        format!("{kind}{digits}")
    });
    found.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_of_one_users_answer_reaches_another() {
    let seed = seed();
    eprintln!("RIDETHROUGH_SEED={seed}");
    let (numbers, source) =
        (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))));
    let stub = Stub::scripted(move |head| {
        let mut random = source.lock().unwrap().fork();
        answer(head, numbers.fetch_add(1, Ordering::SeqCst), &mut random)
    })
    .await;
    let proxy = proxy(&[stub.address], |config| config.proxy.access_log = false).await;
    let (address, seen) = (proxy.address, Arc::new(Mutex::new(HashMap::new())));
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let seen = Arc::clone(&seen);
        workers.spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed.wrapping_add(worker + 1));
            let mut hits = 0;
            for number in 0..REQUESTS {
                let (line, fields, user) = request(&mut random);
                let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
                let reply = ask(address, &line, &fields).await;
                hits += usize::from(reply.field("cache-status").contains("; hit"));
                for secret in marks(&reply.text, "secret-user-") {
                    let owner = secret.replace("secret-", "");
                    assert_eq!(Some(owner), user, "seed {seed}: {line} {fields:?} got {}", reply.text);
                }
                for once in marks(&reply.text, "once-") {
                    let by = (worker, number);
                    let first = *seen.lock().unwrap().entry(once.clone()).or_insert(by);
                    assert_eq!(first, by, "seed {seed}: {once} twice, {line} {fields:?} got {}", reply.text);
                }
            }
            hits
        });
    }
    let hits: usize = workers.join_all().await.into_iter().sum();
    assert!(hits > 20, "seed {seed}: {hits} answers came out of the cache, which proves little");
}
