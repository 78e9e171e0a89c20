//! The page for people while the database is away: forms, languages, what is told on the page itself, and what its script
//! relies on. How it looks and works in a browser is tested end to end.

use super::*;

const BROWSER: (&str, &str) = ("accept", "text/html,*/*;q=0.8");

impl Stack {
    /// What a browser gets.
    async fn browse(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::get(path).header(BROWSER.0, BROWSER.1);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::empty()).unwrap()).await
    }

    /// What a browser gets for a form.
    async fn click(&self, path: &str, form: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::post(path).header(BROWSER.0, BROWSER.1);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(form.to_owned())).unwrap()).await
    }
}

#[tokio::test]
async fn people_get_pages_and_their_forms_work() {
    let stack = stack();
    let browser = ("accept", "text/html,*/*;q=0.8");
    let page = stack.send(Request::get("/").header(browser.0, browser.1).body(Body::empty()).unwrap()).await;
    assert_eq!(page.status, 503);
    assert!(
        page.text.contains("<form") && page.text.contains("no copy of this page is saved"),
        "{}",
        page.text
    );
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    let form = Request::post("/todos").header("content-type", "application/x-www-form-urlencoded");
    let back = stack.send(form.body(Body::from("key=f1&title=buy+%3Cb%3Emilk")).unwrap()).await;
    assert_eq!(
        (back.status, back.header("location"), back.header(OUTCOME)),
        (303, "/?wrote=f1", "journaled")
    );
    let form =
        Request::post("/todos").header(browser.0, browser.1).body(Body::from("key=f1&title=other")).unwrap();
    let again = stack.send(form).await;
    assert_eq!(again.status, 422);
    assert!(again.text.contains("sent before with another text"), "{}", again.text);
    let page = stack.get("/").await;
    assert!(page.text.contains("1 change waits"), "{}", page.text);
    let wrong =
        Request::post("/todos").header(browser.0, browser.1).body(Body::from("key=f2&title=")).unwrap();
    let wrong = stack.send(wrong).await;
    assert_eq!((wrong.status, wrong.header("content-type")), (422, "text/html; charset=utf-8"));
    assert!(wrong.text.contains("Please write what is to be done"), "{}", wrong.text);
    // A refusal did not say which write it refused.
    assert_eq!((wrong.header(IDEMPOTENCY_KEY), again.header(IDEMPOTENCY_KEY)), ("f2", "f1"));
    let spoilt = Request::post("/todos").body(Body::from("key=f3&title=a%ff")).unwrap();
    let spoilt = stack.send(spoilt).await;
    assert_eq!((spoilt.status, spoilt.header(OUTCOME)), (400, "rejected"));
    assert_eq!(spoilt.header(IDEMPOTENCY_KEY), "f3");
    let other_site = Request::post("/todos").header("origin", "null").header("host", "todos.example");
    let other_site = stack.send(other_site.body(Body::from("key=f4&title=a")).unwrap()).await;
    assert_eq!((other_site.status, other_site.header(OUTCOME)), (403, "rejected"));
    assert_eq!(stack.app.journal.backlog().entries, 1);
}

/// The button on an old page sent the title that the page had shown, and so undid the renaming of somebody else.
#[tokio::test]
async fn an_old_page_does_not_undo_what_was_changed_since() {
    let stack = stack();
    stack.know(&todo(1, 4));
    let path = format!("/todos/{}/done", todo(1, 4).id);
    let click = async |body: &str| {
        let form = Request::post(&path).header("accept", "text/html");
        stack.send(form.body(Body::from(body.to_owned())).unwrap()).await
    };
    let old = click("key=old&title=old+title&version=3&done=true").await;
    assert_eq!((old.status, old.header(OUTCOME), old.header(IDEMPOTENCY_KEY)), (412, "rejected", "old"));
    assert!(old.text.contains("was changed after your list was loaded"), "{}", old.text);
    assert_eq!(click("key=none&title=todo+1&done=true").await.status, 400);
    assert_eq!(stack.app.journal.backlog().entries, 0);
    let current = click("key=current&title=+todo+1+&version=4&done=true").await;
    assert_eq!((current.status, current.header("location")), (303, "/?wrote=current"));
    let read = stack.get(&format!("/api/todos/{}", todo(1, 4).id)).await.json();
    assert_eq!(
        (&read["title"], &read["done"], &read["version"]),
        (&" todo 1 ".into(), &true.into(), &5.into())
    );
    // Two clicks one after the other, each on the page of its time.
    assert_eq!(click("key=undo&title=+todo+1+&version=5&done=false").await.status, 303);
}

#[tokio::test]
async fn the_form_of_an_item_knows_its_version() {
    let stack = stack();
    let now = tokio::time::Instant::now();
    let query =
        crate::routes::decode::page_query(Principal::EVERYBODY, &http::Uri::from_static("/")).unwrap();
    let page = crate::todo::Page { items: vec![todo(1, 4)], next: None };
    let key = ridethrough::db::Query::cache_key(&query);
    stack.app.db.cache().fill(now, now).put(&key, crate::todo::encode(&page));
    let list = stack.get("/").await;
    assert_eq!(list.status, 200);
    assert!(list.text.contains("<input type=\"hidden\" name=\"version\" value=\"4\">"), "{}", list.text);
}

const GERMAN: (&str, &str) = ("accept-language", "de-DE,de;q=0.9,en;q=0.5");
const FROM_SCRIPT: (&str, &str) = ("prefer", "return=representation");

#[tokio::test]
async fn each_page_is_in_the_language_of_its_reader() {
    let stack = stack();
    let cases = [
        ("/", "Was ist zu tun?", "What is to be done?"),
        ("/nowhere", "Das hat nicht geklappt", "That did not work"),
        ("/api/todos/17", "Zurück zur Liste", "Back to the list"),
    ];
    for (path, german, english) in cases {
        for (headers, language, words) in [(&[GERMAN][..], "de", german), (&[], "en", english)] {
            let page = stack.browse(path, headers).await;
            assert!(page.text.contains(words), "{path}: {}", page.text);
            assert!(page.text.contains(&format!("<html lang=\"{language}\">")), "{path}: {}", page.text);
            assert_eq!(page.header("content-language"), language, "{path}");
            let varies: Vec<_> = page.headers.get_all("vary").into_iter().collect();
            assert!(varies.iter().any(|value| *value == "accept-language"), "{path}: {varies:?}");
        }
    }
    let program = stack.get("/nowhere").await;
    assert_eq!(program.header("content-type"), "application/problem+json");
}

#[tokio::test]
async fn what_was_typed_and_refused_stands_in_the_form_again() {
    let stack = stack();
    let long = "x".repeat(501);
    for (typed, said) in [(long.as_str(), "This has 501 characters; 500 fit."), ("a%00b", "cannot be stored")]
    {
        let refused = stack.click("/todos", &format!("key=k&title={typed}"), &[]).await;
        assert_eq!((refused.status, refused.header(OUTCOME)), (422, "rejected"));
        assert!(refused.text.contains(said) && refused.text.contains("aria-invalid"), "{}", refused.text);
        assert!(!refused.text.contains("value=\"k\""), "the next try is another write");
    }
    let refused = stack.click("/todos", &format!("key=k&title={long}"), &[GERMAN]).await;
    assert!(
        refused.text.contains(&long) && refused.text.contains("Das sind 501 Zeichen"),
        "{}",
        refused.text
    );
    let oversize = stack.click("/todos", &format!("key=k&title={}", "x".repeat(70_000)), &[]).await;
    assert_eq!(oversize.status, 413);
    assert!(oversize.text.contains("too long to be taken"), "{}", oversize.text);
    stack.app.journal.close();
    let full = stack.click("/todos", "key=again&title=%3Cmilk%3E", &[]).await;
    assert_eq!((full.status, full.header(OUTCOME)), (503, "rejected"));
    for piece in
        ["value=\"&lt;milk&gt;\"", "value=\"again\"", "Your text is still here", "Please try again in"]
    {
        assert!(full.text.contains(piece), "no {piece}: {}", full.text);
    }
    assert!(full.header("retry-after").parse::<u64>().unwrap() > 0);
}

/// The page of another replica did not show what was added, and did not say why.
#[tokio::test]
async fn a_replica_that_knows_nothing_of_a_change_says_so() {
    let stack = stack();
    let back = stack.click("/todos", "key=mine&title=milk", &[]).await;
    let here = stack.browse(back.header("location"), &[]).await;
    assert!(here.text.contains("milk") && !here.text.contains("does not show it yet"), "{}", here.text);
    let other = self::stack();
    let there = other.browse(back.header("location"), &[]).await;
    assert!(!there.text.contains("milk") && there.text.contains("does not show it yet"), "{}", there.text);
}

#[tokio::test]
async fn the_script_gets_the_list_in_place_of_the_way_back_to_it() {
    let stack = stack();
    let added = stack.click("/todos", "key=mine&title=milk", &[FROM_SCRIPT]).await;
    assert_eq!(
        (added.status, added.header(OUTCOME), added.header(IDEMPOTENCY_KEY)),
        (202, "journaled", "mine")
    );
    assert!(added.text.contains("data-waiting>") && added.text.contains("milk"), "{}", added.text);
    assert!(added.text.contains("Accepted, waits to be stored"), "{}", added.text);
    let id = added.text.split("id=\"todo-").nth(1).unwrap().split('"').next().unwrap();
    let gone = stack.click(&format!("/todos/{id}/delete"), "key=gone", &[FROM_SCRIPT]).await;
    assert!(gone.status == 202 && !gone.text.contains("milk"), "{}", gone.text);
    assert!(gone.text.contains("1 of them deletes an item"), "{}", gone.text);
    let again =
        stack.click(&format!("/todos/{id}/done"), "key=late&title=milk&version=1&done=true", &[]).await;
    assert!(again.status == 404 && again.text.contains("This item is gone"), "{}", again.text);
}

#[tokio::test]
async fn who_has_the_list_as_it_is_gets_no_other_and_is_told_when_to_ask_again() {
    let stack = stack();
    let first = stack.browse("/", &[]).await;
    let tag = first.header("etag").to_owned();
    let wait: u64 = first.header("ridethrough-refresh").parse().unwrap();
    assert!((3_000..=22_500).contains(&wait), "{wait}");
    let again = stack.browse("/", &[("if-none-match", &tag)]).await;
    assert_eq!((again.status, again.text.as_str()), (304, ""));
    assert!(!again.header("ridethrough-refresh").is_empty());
    let german = stack.browse("/", &[("if-none-match", &tag), GERMAN]).await;
    assert_eq!(german.status, 503);
    stack.click("/todos", "key=k&title=milk", &[]).await;
    let changed = stack.browse("/", &[("if-none-match", &tag)]).await;
    assert!(changed.text.contains("milk"), "{}", changed.text);
}

#[tokio::test]
async fn a_page_loads_its_own_style_and_script_and_nothing_else() {
    let stack = stack();
    let page = stack.browse("/", &[]).await;
    let policy = page.header("content-security-policy").to_owned();
    for part in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    let page = page.text.replace("&#x2f;", "/");
    let addresses: Vec<&str> = page.split('"').filter(|text| text.starts_with("/assets/")).collect();
    assert_eq!(addresses.len(), 2, "{page}");
    for (address, kind) in addresses.iter().zip(["text/css", "text/javascript"]) {
        let asset = stack.get(address).await;
        assert_eq!((asset.status, asset.header("x-content-type-options")), (200, "nosniff"), "{address}");
        assert!(asset.header("content-type").starts_with(kind), "{address}");
        assert!(asset.header("cache-control").contains("immutable"), "{address}");
    }
}

/// A change on an older page led back to the newest one.
#[tokio::test]
async fn a_form_leads_back_to_its_own_page() {
    let stack = stack();
    stack.know(&todo(1, 4));
    let cursor = todo(2, 1).cursor();
    let path = format!("/todos/{}/done", todo(1, 4).id);
    let form =
        |after: &str| format!("key={}&title=t&version=4&done=true&after={after}", uuid::Uuid::new_v4());
    let back = stack.click(&path, &form(&cursor.to_string()), &[]).await;
    assert!(back.header("location").starts_with(&format!("/?after={cursor}&wrote=")), "{:?}", back.headers);
    let elsewhere = stack.click(&path, &form("https://evil.example").replace("=4&", "=5&"), &[]).await;
    assert!(elsewhere.header("location").starts_with("/?wrote="), "{:?}", elsewhere.headers);
}
