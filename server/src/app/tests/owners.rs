//! Several principals at one server whose database is away: who is let in, and that nobody sees or changes anything of
//! anybody else, waiting or saved. With a database that lives it is tested end to end.

use std::fs;

use super::*;
use crate::identity::{IdentityMode, tokens};

/// A server that knows Ada and Bob, and their tokens.
struct Two {
    stack: Stack,
    ada: String,
    bob: String,
    _folder: tempfile::TempDir,
}

fn two(guest: Option<&str>) -> Two {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    let ((ada, hers), (bob, his)) = (tokens::make("ada"), tokens::make("bob"));
    fs::write(&path, format!("{hers}\n{his}\n")).unwrap();
    let section = IdentitySection {
        mode: IdentityMode::Tokens,
        tokens_file: Some(path),
        guest: guest.map(str::to_owned),
        trust_forwarded_proto: true,
        ..IdentitySection::default()
    };
    let (identity, _keeper) = Identity::open(&section, folder.path()).unwrap();
    Two { stack: stack_of(identity), ada, bob, _folder: folder }
}

impl Two {
    async fn send(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: &str,
        headers: &[(&str, &str)],
    ) -> Answer {
        let bearer = format!("Bearer {token}");
        let headers: Vec<(&str, &str)> =
            headers.iter().copied().chain([("authorization", bearer.as_str())]).collect();
        self.stack.write(method, path, body, &headers).await
    }

    async fn get(&self, token: &str, path: &str) -> Answer {
        self.send(token, Method::GET, path, "", &[]).await
    }

    fn know(&self, name: &str, todo: &Todo) {
        let now = tokio::time::Instant::now();
        let key = Todo::cache_key(Principal::named(name), todo.id);
        self.stack.app.db.cache().fill(now, now).put(&key, todo.encode());
    }
}

#[tokio::test]
async fn one_key_of_two_users_is_two_writes_and_neither_sees_the_other() {
    let two = two(None);
    let key = [("idempotency-key", "same")];
    let body = |title: &str| format!("{{\"title\":\"{title}\"}}");
    let hers = two.send(&two.ada, Method::POST, "/api/todos", &body("hers"), &key).await;
    let his = two.send(&two.bob, Method::POST, "/api/todos", &body("his"), &key).await;
    assert_eq!((hers.status, his.status), (202, 202), "{} {}", hers.text, his.text);
    assert_ne!(hers.json()["id"], his.json()["id"]);
    assert_eq!((hers.header("idempotency-key"), hers.header("location")), ("same", "/api/writes/same"));
    let again = two.send(&two.ada, Method::POST, "/api/todos", &body("hers"), &key).await;
    assert_eq!(again.text, hers.text);
    for token in [&two.ada, &two.bob] {
        let status = two.get(token, "/api/writes/same").await;
        assert_eq!(status.json(), serde_json::json!({ "key": "same", "status": "pending" }));
    }
    let path = format!("/api/todos/{}", hers.json()["id"].as_str().unwrap());
    assert_eq!(two.get(&two.ada, &path).await.json()["title"], "hers");
    let foreign = two.get(&two.bob, &path).await;
    assert_eq!((foreign.status, foreign.text.contains("hers")), (503, false), "{}", foreign.text);
    // Whoever guesses how a key is told from another's cannot send it.
    let hers = Principal::named("ada").write_key("same");
    let guessed =
        two.send(&two.bob, Method::POST, "/api/todos", &body("x"), &[("idempotency-key", &hers)]).await;
    assert_eq!(guessed.status, 400);
    assert_eq!(two.stack.app.journal.backlog().entries, 2);
}

#[tokio::test]
async fn what_is_saved_or_waits_is_its_owners_alone() {
    let two = two(None);
    two.know("ada", &todo(1, 4));
    let path = format!("/api/todos/{}", todo(1, 4).id);
    let hers = two.get(&two.ada, &path).await;
    assert_eq!(hers.status, 200);
    assert_eq!(two.get(&two.bob, &path).await.status, 503);
    // Neither her tag nor a guessed version tells him anything.
    for tag in [hers.header("etag"), "*", "\"4\""] {
        let foreign = two.send(&two.bob, Method::GET, &path, "", &[("if-none-match", tag)]).await;
        assert_eq!(foreign.status, 503, "{tag}");
    }
    // Of a todo that he does not know nothing is known to him, also when he writes to it.
    let body = "{\"title\":\"x\",\"done\":true}";
    let foreign = two.send(&two.bob, Method::PUT, &path, body, &[("idempotency-key", "k")]).await;
    let receipt = serde_json::json!({ "id": todo(1, 4).id, "key": "k", "status": "pending" });
    assert_eq!((foreign.status, foreign.json()), (202, receipt));
    assert_eq!(two.send(&two.bob, Method::DELETE, &path, "", &[("if-match", "3")]).await.status, 202);
    let still = two.get(&two.ada, &path).await;
    assert_eq!((still.status, &still.text), (200, &hers.text), "his writes changed what she sees");
    // Her own write does not wait behind his.
    let waits = |owner: &str| {
        two.stack.app.journal.is_waiting(&Todo::ordering_key(Principal::named(owner), todo(1, 4).id))
    };
    assert!(waits("bob") && !waits("ada"));
    assert!(two.get(&two.bob, "/").await.text.contains("1 change waits"));
    assert!(!two.get(&two.ada, "/").await.text.contains("wait to be stored"));
}

#[tokio::test]
async fn a_saved_list_is_its_owners_alone_and_another_ones_cursor_leads_nowhere() {
    let two = two(None);
    let now = tokio::time::Instant::now();
    for (path, items) in [("/api/todos", vec![todo(2, 1)]), ("/api/todos?after=", vec![todo(1, 1)])] {
        let cursor = todo(2, 1).cursor().to_string();
        let path = if path.ends_with('=') { format!("{path}{cursor}") } else { path.to_owned() };
        let uri: http::Uri = path.parse().unwrap();
        let query = crate::routes::decode::page_query(Principal::named("ada"), &uri).unwrap();
        let page = crate::todo::Page { items, next: None };
        let key = ridethrough::db::Query::cache_key(&query);
        two.stack.app.db.cache().fill(now, now).put(&key, crate::todo::encode(&page));
        assert_eq!(two.get(&two.ada, &path).await.status, 200);
        let foreign = two.get(&two.bob, &path).await;
        assert_eq!((foreign.status, foreign.text.contains("todo ")), (503, false), "{}", foreign.text);
    }
}

#[tokio::test]
async fn a_batch_waits_as_one_and_is_seen_by_its_owner() {
    let two = two(None);
    let body = "{\"items\":[{\"title\":\"a\"},{\"title\":\"b\"},{\"title\":\"c\"}]}";
    let key = [("idempotency-key", "lot")];
    let made = two.send(&two.ada, Method::POST, "/api/todos/batch", body, &key).await;
    assert_eq!((made.status, made.header(OUTCOME)), (202, "journaled"), "{}", made.text);
    let document = made.json();
    let items = document["items"].as_array().unwrap();
    let titles: Vec<&str> = items.iter().map(|item| item["title"].as_str().unwrap()).collect();
    assert_eq!(titles, ["a", "b", "c"]);
    assert_eq!(two.stack.app.journal.backlog().entries, 1);
    let again = two.send(&two.ada, Method::POST, "/api/todos/batch", body, &key).await;
    assert_eq!(again.text, made.text);
    let other =
        two.send(&two.ada, Method::POST, "/api/todos/batch", "{\"items\":[{\"title\":\"a\"}]}", &key).await;
    assert_eq!(other.status, 422);
    let path = format!("/api/todos/{}", items[1]["id"].as_str().unwrap());
    assert_eq!(two.get(&two.ada, &path).await.json()["title"], "b");
    assert_eq!(two.get(&two.bob, &path).await.status, 503);
    // Two changes of one of them go on from what waits, and the others stay as they were.
    let put = two.send(&two.ada, Method::PUT, &path, "{\"title\":\"B\",\"done\":true}", &[]).await;
    assert_eq!((put.status, put.json()["version"].as_i64()), (202, Some(2)), "{}", put.text);
    assert_eq!(two.get(&two.ada, &path).await.json()["title"], "B");
    let first = format!("/api/todos/{}", items[0]["id"].as_str().unwrap());
    assert_eq!(two.get(&two.ada, &first).await.json()["title"], "a");
}

#[tokio::test]
async fn who_shows_nothing_or_something_worthless_is_asked_to_sign_in() {
    let two = two(None);
    let (unknown, _) = tokens::make("ada");
    for path in ["/api/todos", "/api/writes/k", "/"] {
        let nobody = two.stack.get(path).await;
        assert_eq!(
            (nobody.status, nobody.header("www-authenticate")),
            (401, "Bearer realm=\"ridethrough\""),
            "{path}"
        );
        assert_eq!(nobody.json()["type"], "/problems/sign-in-needed");
        let wrong = two.get(&unknown, path).await;
        assert!(wrong.status == 401 && wrong.header("www-authenticate").contains("invalid_token"), "{path}");
    }
    let write = two.stack.write(Method::POST, "/api/todos", "{\"title\":\"a\"}", &[]).await;
    assert_eq!((write.status, write.header(OUTCOME)), (401, "rejected"));
    let basic = two.stack.write(Method::GET, "/api/todos", "", &[("authorization", "Basic YTpi")]).await;
    assert_eq!(basic.status, 401);
    // Probes and what is nobody's stay open.
    assert_eq!((two.stack.get("/livez").await.status, two.stack.get("/nowhere").await.status), (200, 404));
    assert_eq!(two.stack.app.journal.backlog().entries, 0);
}

#[tokio::test]
async fn people_sign_in_with_a_form_and_out_again() {
    let two = two(None);
    let browser = ("accept", "text/html");
    let page = two.stack.write(Method::GET, "/", "", &[browser]).await;
    assert!(page.status == 401 && page.text.contains("action=\"/sign-in\""), "{}", page.text);
    assert!(page.header("www-authenticate").starts_with("Bearer"));
    let form = format!("token={}", two.ada);
    let post = async |path: &str, body: &str, headers: &[(&str, &str)]| {
        two.stack.write(Method::POST, path, body, headers).await
    };
    let wrong = post("/sign-in", "token=canary", &[browser]).await;
    assert!(wrong.status == 401 && wrong.text.contains("not known") && !wrong.text.contains("canary"));
    let back = post("/sign-in", &form, &[browser, ("x-forwarded-proto", "https")]).await;
    assert_eq!((back.status, back.header("location")), (303, "/"));
    let cookie = back.header("set-cookie");
    for part in ["HttpOnly", "SameSite=Strict", "Secure", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let pair = cookie.split(';').next().unwrap();
    let list = two.stack.write(Method::GET, "/", "", &[browser, ("cookie", pair)]).await;
    assert!(list.status == 503 && list.text.contains("What is to be done?"), "{}", list.text);
    let add = post("/todos", "key=k&title=a", &[("cookie", pair), ("sec-fetch-site", "same-origin")]).await;
    assert_eq!(add.status, 303);
    // The browser of somebody who is signed in is sent here by another site.
    for path in ["/todos", "/api/todos", "/sign-in", "/sign-out"] {
        let forged = post(path, "key=l&title=a", &[("cookie", pair), ("sec-fetch-site", "cross-site")]).await;
        assert_eq!(forged.status, 403, "{path}");
    }
    let out = post("/sign-out", "", &[("cookie", pair)]).await;
    assert!(out.status == 303 && out.header("set-cookie").contains("Max-Age=0"));
    assert_eq!(two.stack.app.journal.backlog().entries, 1);
}

#[tokio::test]
async fn a_guest_is_a_principal_like_others() {
    let two = two(Some("visitor"));
    let made =
        two.stack.write(Method::POST, "/api/todos", "{\"title\":\"a\"}", &[("idempotency-key", "k")]).await;
    assert_eq!(made.status, 202);
    assert_eq!(two.stack.get("/api/writes/k").await.status, 200);
    assert_eq!(two.get(&two.ada, "/api/writes/k").await.status, 503);
    assert_eq!(two.get("rt_wrong", "/api/todos").await.status, 401);
}

#[tokio::test]
async fn where_everybody_is_one_nobody_signs_in() {
    let stack = stack();
    assert_eq!(stack.get("/sign-in").await.status, 404);
    let with_token = stack.write(Method::GET, "/api/todos", "", &[("authorization", "Bearer x")]).await;
    assert_eq!(with_token.status, 503);
}
