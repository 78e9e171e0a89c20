//! Reads of what is known while the database is away: labelled, refused, or not sent again. Writes are tried in the file
//! above.

use super::*;

#[tokio::test]
async fn a_known_todo_is_served_stale_and_an_unknown_one_refused_honestly() {
    let stack = stack();
    stack.know(&todo(1, 4));
    let known = stack.get(&format!("/api/todos/{}", todo(1, 4).id)).await;
    assert_eq!(known.status, 200);
    assert!(known.header("etag").starts_with("\"4-"), "{}", known.header("etag"));
    assert!(known.header(FRESHNESS).starts_with("stale; age="), "{}", known.header(FRESHNESS));
    let unknown = stack.get(&format!("/api/todos/{}", uuid::Uuid::max())).await;
    assert_eq!((unknown.status, unknown.headers.contains_key(FRESHNESS)), (503, false));
    assert!(unknown.header("retry-after").parse::<u64>().unwrap() > 0);
    let list = stack.get("/api/todos").await;
    assert_eq!(list.status, 503);
}

/// The header was read for what its sender must not be shown, and the whole document was sent again all the same.
#[tokio::test]
async fn who_has_the_document_is_told_so_with_its_labels_and_without_it() {
    let stack = stack();
    stack.know(&todo(1, 4));
    let path = format!("/api/todos/{}", todo(1, 4).id);
    let get = async |tags: &str| {
        stack.send(Request::get(&path).header("if-none-match", tags).body(Body::empty()).unwrap()).await
    };
    let known = stack.get(&path).await;
    let same = get(known.header("etag")).await;
    assert_eq!(
        (same.status, same.text.as_str(), same.headers.contains_key("content-type")),
        (304, "", false)
    );
    for name in ["etag", "cache-control", "age", "ridethrough-freshness"] {
        assert_eq!(same.header(name), known.header(name), "{name}");
        assert!(!same.header(name).is_empty(), "{name}");
    }
    assert_eq!(
        (get("*").await.status, get("\"3\"").await.status, get("\"4\"").await.status),
        (304, 200, 200)
    );
    // What he has is newer than what is here.
    assert_eq!(get(&format!("\"9\", {}", known.header("etag"))).await.status, 503);
    // What waits is told apart from what was known, and what will not be there is no match for anything.
    assert_eq!(stack.write(Method::PUT, &path, "{\"title\":\"b\",\"done\":true}", &[]).await.status, 202);
    let pending = get(known.header("etag")).await;
    assert_eq!((pending.status, pending.json()["title"].as_str()), (200, Some("b")));
    assert_eq!(get(pending.header("etag")).await.status, 304);
    assert_eq!(stack.write(Method::DELETE, &path, "", &[]).await.status, 202);
    assert_eq!(get("*").await.status, 404);
}
