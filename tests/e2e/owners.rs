//! Several users at one server, with the same keys, the ids and cursors of each other: nobody sees or changes anything of
//! anybody else, on a database that lives, dies, is away and returns.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use fastrand::Rng;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use ridethrough_tests::{
    app::App,
    http::{Answer, request},
    launch::{self, Blueprint, Exit},
    logs::CANARY,
    seed,
    stack::{Lab, Server},
    until,
};
use serde_json::{Value, json};

use crate::steps::{member, outage, title};

const USERS: [&str; 3] = ["ada", "bob", "cyn"];
/// Of each user in each phase; few enough keys that they meet.
const STEPS: usize = 40;
const KEYS: usize = 12;

/// A user, and what is his.
struct User {
    name: &'static str,
    token: String,
    /// What each key was first sent for, so that it is repeated as it was.
    sent: BTreeMap<String, String>,
    ids: BTreeSet<String>,
}

/// Makes tokens with the program's own command, and the file with their hashes.
async fn users(lab: &Lab, file: &Path) -> Vec<User> {
    let (mut users, mut lines) = (Vec::new(), "# the users of this test\n".to_owned());
    for name in USERS {
        let (token, line) = token(lab, name).await;
        lines += &format!("{line}\n");
        users.push(User { name, token, sent: BTreeMap::new(), ids: BTreeSet::new() });
    }
    std::fs::write(file, lines).expect("the lab's folder can be written to");
    users
}

/// A token, and the line of the file that knows it.
pub(crate) async fn token(lab: &Lab, name: &str) -> (String, String) {
    let args = ["token", name].map(OsString::from).to_vec();
    let program = launch::program("ridethrough-server");
    let made = lab.run(&Blueprint { name: format!("token-{name}"), program, args, env: Vec::new() }).await;
    assert_eq!(made.exit, Exit::Code(0), "{}", made.stderr);
    let lines: Vec<&str> = made.stdout.lines().collect();
    let [first, _, line] = lines.as_slice() else { panic!("{}", made.stdout) };
    let token = first.rsplit(' ').next().expect("a token").to_owned();
    assert!(token.starts_with("rt_") && line.starts_with(name), "{}", made.stdout);
    (token, (*line).to_owned())
}

/// A server that knows the users of this file.
pub(crate) fn with_tokens(file: &Path) -> Server {
    let env = vec![
        ("RIDETHROUGH_IDENTITY__MODE", "tokens".to_owned()),
        ("RIDETHROUGH_IDENTITY__TOKENS_FILE", file.display().to_string()),
    ];
    Server { env, ..Server::default() }
}

fn as_user(token: &str, mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("a token is a header value");
    request.headers_mut().insert(http::header::AUTHORIZATION, value);
    request
}

impl User {
    async fn send(
        &self,
        server: &App,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> Answer {
        let sent = as_user(&self.token, request(method, path, key, body));
        let answer = server.main().send(sent).await;
        for other in USERS.iter().filter(|other| **other != self.name) {
            let theirs = format!("{CANARY} {other}");
            assert!(!answer.text().contains(&theirs), "{} was shown {other}'s: {}", self.name, answer.text());
        }
        answer
    }

    /// One step by chance, with anybody's ids and cursors.
    async fn step(&mut self, server: &App, known: &Known, random: &mut Rng) {
        let any = |random: &mut Rng| random.choice(known.ids.iter().cloned());
        match random.u8(..10) {
            0..4 => self.create(server, random).await,
            4 => {
                let Some(id) = any(random) else { return };
                let read = self.send(server, Method::GET, &format!("/api/todos/{id}"), None, None).await;
                assert!(read.status != 200 || self.ids.contains(&id), "{} read {id}", self.name);
            }
            5 => {
                let Some(id) = any(random) else { return };
                let body = json!({ "title": self.title(random), "done": true });
                let path = format!("/api/todos/{id}");
                let put = self.send(server, Method::PUT, &path, None, Some(&body)).await;
                assert!(put.status != 200 || self.ids.contains(&id), "{} changed {id}", self.name);
            }
            6 => {
                let foreign = known.ids.iter().filter(|id| !self.ids.contains(*id)).cloned();
                let Some(id) = random.choice(foreign.collect::<Vec<_>>()) else { return };
                let path = format!("/api/todos/{id}");
                let gone = self.send(server, Method::DELETE, &path, None, None).await;
                assert!(
                    matches!(gone.status, 404 | 202 | 503),
                    "{} removed {id}: {}",
                    self.name,
                    gone.status
                );
            }
            7 => {
                let key = format!("key-{}", random.usize(..KEYS));
                let status = self.send(server, Method::GET, &format!("/api/writes/{key}"), None, None).await;
                assert!(status.status != 200 || self.sent.contains_key(&key), "{} knows {key}", self.name);
            }
            _ => {
                let after =
                    random.choice(known.cursors.iter()).map_or(String::new(), |c| format!("&after={c}"));
                let path = format!("/api/todos?limit=2{after}");
                let list = self.send(server, Method::GET, &path, None, None).await;
                if list.status == 200 {
                    for item in member(&list.json(), "items").as_array().expect("items") {
                        let id = member(item, "id");
                        assert!(self.ids.contains(id.as_str().expect("an id")), "{} lists {id}", self.name);
                    }
                }
            }
        }
    }

    async fn create(&mut self, server: &App, random: &mut Rng) {
        let key = format!("key-{}", random.usize(..KEYS));
        let new = self.title(random);
        let title = self.sent.entry(key.clone()).or_insert(new).clone();
        let body = json!({ "title": title });
        let made = self.send(server, Method::POST, "/api/todos", Some(&key), Some(&body)).await;
        assert!(matches!(made.status, 201 | 202 | 503), "{}: {}", made.status, made.text());
        if made.status < 300 {
            self.ids.insert(member(&made.json(), "id").as_str().expect("an id").to_owned());
        }
    }

    fn title(&self, random: &mut Rng) -> String {
        title(format!("{}-{}", self.name, random.u32(..)))
    }
}

/// What everybody may have seen of everybody.
#[derive(Default)]
struct Known {
    ids: BTreeSet<String>,
    cursors: BTreeSet<String>,
}

async fn everybody(server: &App, users: &mut [User], known: &mut Known, random: &mut Rng) {
    for step in 0..STEPS {
        for user in &mut *users {
            user.step(server, known, random).await;
            known.ids.extend(user.ids.iter().cloned());
        }
        if step % 10 == 0 {
            for user in &*users {
                let list = user.send(server, Method::GET, "/api/todos?limit=2", None, None).await;
                let next = list.json().get("next").and_then(Value::as_str).map(str::to_owned);
                known.cursors.extend(next);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobodys_todos_reach_anybody_else_whatever_the_database_does() {
    let lab = Lab::start().await;
    let file = lab.folder().join("tokens");
    let mut users = users(&lab, &file).await;
    let server = lab.server_as("server-1", with_tokens(&file)).await;
    server.ready().await;
    // Whoever writes to another's todo in an outage is told later that there is none.
    lab.expect_in_logs(&["a journaled write cannot be applied", "set aside"]);
    let (mut known, mut random) = (Known::default(), Rng::with_seed(seed()));
    everybody(&server, &mut users, &mut known, &mut random).await;
    tokio::join!(lab.database_dies(), everybody(&server, &mut users, &mut known, &mut random));
    outage_is_noticed(&server).await;
    everybody(&server, &mut users, &mut known, &mut random).await;
    tokio::join!(lab.database_returns(), everybody(&server, &mut users, &mut known, &mut random));
    server.journal_is_empty().await;
    everybody(&server, &mut users, &mut known, &mut random).await;

    let rows = lab.rows("SELECT DISTINCT split_part(title, ' ', 2), owner::text FROM todos", &[]).await;
    let mut owners: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in &rows {
        let name = row.get::<_, String>(0).split('-').next().expect("a name").to_owned();
        owners.entry(name).or_default().insert(row.get(1));
    }
    assert_eq!(owners.len(), USERS.len(), "{owners:?}");
    assert!(owners.values().all(|ids| ids.len() == 1), "{owners:?}");
    assert_eq!(owners.values().flatten().collect::<BTreeSet<_>>().len(), USERS.len(), "{owners:?}");
    let logged = std::fs::read_to_string(server.log()).expect("there is a log");
    for user in &users {
        let named = format!("\"principal\":\"{}\"", owners[user.name].first().expect("one"));
        assert!(logged.contains(&named) && !logged.contains(&user.token), "the log of {}", user.name);
    }
    tokens_come_and_go(&lab, &server, &users, &file).await;
    lab.finish().await;
}

async fn outage_is_noticed(server: &App) {
    let noticed = async || matches!(server.mode().await.as_str(), "degraded" | "write-only").then_some(());
    until("the server notices the outage", Duration::from_secs(30), noticed).await;
}

/// Without a restart; and a file that is broken changes nothing.
async fn tokens_come_and_go(lab: &Lab, server: &App, users: &[User], file: &Path) {
    let status = async |user: &User| user.send(server, Method::GET, "/api/todos", None, None).await.status;
    let text = std::fs::read_to_string(file).expect("the file is there");
    let without_ada: String =
        text.lines().filter(|line| !line.starts_with("ada ")).map(|line| format!("{line}\n")).collect();
    std::fs::write(file, &without_ada).expect("the file can be written");
    let is_out = async || (status(&users[0]).await == 401).then_some(());
    until("the token is worth nothing any more", Duration::from_secs(10), is_out).await;
    lab.expect_in_logs(&["identity.tokens_file cannot be used"]);
    std::fs::write(file, format!("{text}bob nonsense\n")).expect("the file can be written");
    let is_logged = async || {
        let log = std::fs::read_to_string(server.log()).unwrap_or_default();
        log.contains("line 5: ").then_some(())
    };
    until("the broken line is named", Duration::from_secs(10), is_logged).await;
    assert_eq!((status(&users[0]).await, status(&users[1]).await), (401, 200));
    std::fs::write(file, &text).expect("the file can be written");
    let is_in = async || (status(&users[0]).await == 200).then_some(());
    until("the token is back", Duration::from_secs(10), is_in).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_all_there_and_its_todos_go_on_from_it_also_through_an_outage() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    let client = server.main();
    let post = async |key: &str, titles: &[String]| {
        let items: Vec<Value> = titles.iter().map(|title| json!({ "title": title })).collect();
        client
            .send(request(Method::POST, "/api/todos/batch", Some(key), Some(&json!({ "items": items }))))
            .await
    };
    let ids = |answer: &Answer| -> Vec<String> {
        let items = member(&answer.json(), "items");
        let id = |item: &Value| member(item, "id").as_str().expect("an id").to_owned();
        items.as_array().expect("items").iter().map(id).collect()
    };
    let titles = |prefix: &str, count: usize| -> Vec<String> {
        (0..count).map(|number| title(format!("{prefix}-{number}"))).collect()
    };
    let many = titles("up", 1_000);
    let made = post("up", &many).await.expect(201).acknowledged();
    assert_eq!(post("up", &many).await.expect(201).json(), made.json());
    let _ = post("up", &many[1..]).await.problem(422);
    assert_eq!(lab.not_stored_once(&many).await, []);
    let shown: Vec<Value> = member(&made.json(), "items").as_array().expect("items").clone();
    assert!(shown.iter().zip(&many).all(|(item, title)| member(item, "title") == *title));

    outage(&lab, &[&server]).await;
    let late = titles("away", 300);
    let waits = post("away", &late).await.expect(202).acknowledged();
    let late_ids = ids(&waits);
    let read = client.get(&format!("/api/todos/{}", late_ids[7])).await.expect(200);
    assert_eq!((read.freshness(), member(&read.json(), "title")), ("pending", late[7].clone().into()));
    let _ = client.replace("put", &late_ids[7], &title("changed")).await.expect(202).acknowledged();
    let _ = client.remove("remove", &late_ids[8]).await.expect(202).acknowledged();
    let _ = client.remove("remove-old", &ids(&made)[0]).await.expect(202).acknowledged();
    lab.database_returns().await;
    server.journal_is_empty().await;
    for key in ["away", "put", "remove", "remove-old"] {
        assert_eq!(client.write_status(key).await, "applied", "{key}");
    }
    assert_eq!(lab.stored(&late_ids[7]).await, Some((title("changed"), 2)));
    assert_eq!((lab.stored(&late_ids[8]).await, lab.stored(&ids(&made)[0]).await), (None, None));
    assert_eq!(lab.number("SELECT count(*) FROM todos", &[]).await, 1_300 - 2);
    assert_eq!(lab.number("SELECT count(*) FROM todo_events", &[]).await, 1_300 + 3);
    lab.finish().await;
}
