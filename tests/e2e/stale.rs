//! Writes to one todo meet each other: across the edge of the journal, and at two servers of which one is cut off.

use std::{collections::BTreeSet, time::Duration};

use http::{HeaderValue, Method};
use ridethrough_tests::{
    app::App,
    http::{Answer, request},
    stack::{Lab, Server},
    until, wire,
};

use crate::steps::{id, member, outage, stored_todo, title};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_to_one_todo_take_effect_in_the_order_of_their_acknowledgement() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    let todo = stored_todo(&server, "before").await;
    outage(&lab, &[&server]).await;
    let client = server.main();
    for number in 1..=2 {
        let key = format!("put-{number}");
        let put = client.replace(&key, &todo, &title(&key)).await.expect(202).acknowledged();
        assert_eq!(member(&put.json(), "version"), number + 1);
    }
    // Many behind the two, so that the last one meets the replay.
    crate::steps::journal(&server, "crowd", 60).await;
    lab.database_returns().await;
    let third = client.replace("put-3", &todo, &title("put-3")).await.acknowledged();
    assert!(matches!(third.status, 200 | 202), "{third:?}");
    server.journal_is_empty().await;
    assert_eq!(lab.stored(&todo).await, Some((title("put-3"), 4)));
    for number in 1..=3 {
        assert_eq!(client.write_status(&format!("put-{number}")).await, "applied");
    }
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_todo_created_changed_and_deleted_in_one_outage_ends_up_deleted() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    let kept = stored_todo(&server, "kept").await;
    outage(&lab, &[&server]).await;
    let client = server.main();
    let todo = id(&client.create("create", &title("short life")).await.expect(202).acknowledged());
    let _ = client.replace("change", &todo, &title("changed")).await.expect(202).acknowledged();
    let read = client.get(&format!("/api/todos/{todo}")).await.expect(200);
    assert_eq!((read.freshness(), member(&read.json(), "title")), ("pending", title("changed").into()));
    let _ = client.remove("remove", &todo).await.expect(202).acknowledged();
    assert_eq!(client.get(&format!("/api/todos/{todo}")).await.status, 404);
    lab.database_returns().await;
    server.journal_is_empty().await;
    assert_eq!(lab.stored(&todo).await, None);
    assert!(lab.stored(&kept).await.is_some());
    for key in ["create", "change", "remove"] {
        assert_eq!(client.write_status(key).await, "applied", "{key}");
    }
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_journaled_by_a_replica_that_was_cut_off_never_undoes_a_later_one() {
    let lab = Lab::start().await;
    let wire = wire::to(lab.cluster().port()).await;
    let cut_off = Server { url: Some(lab.url_through(wire.address())), ..Server::default() };
    let one = lab.server_as("server-1", cut_off).await;
    one.ready().await;
    let two = lab.server("server-2").await;
    let todo = stored_todo(&one, "contested").await;
    let path = format!("/api/todos/{todo}");
    assert_eq!(two.main().get(&path).await.expect(200).freshness(), "fresh");

    lab.expect_outage();
    let away = wire.shut();
    one.mode_becomes("degraded").await;
    let late = one.main().replace("late", &todo, &title("late")).await.expect(202).acknowledged();
    assert_eq!(one.main().get(&path).await.expect(200).freshness(), "pending");
    let _ = two.main().replace("timely", &todo, &title("timely")).await.expect(200).acknowledged();
    drop(away);

    one.journal_is_empty().await;
    assert_eq!(lab.stored(&todo).await, Some((title("timely"), 2)));
    for server in [&one, &two] {
        assert_eq!(server.main().write_status("late").await, "superseded");
        assert_eq!(server.main().write_status("timely").await, "applied");
    }
    let sees_it = async || {
        let read = one.main().get(&path).await.expect(200);
        (read.freshness() == "fresh" && member(&read.json(), "title") == title("timely")).then_some(())
    };
    until("the replica sees the winner", Duration::from_secs(10), sees_it).await;
    assert_eq!(member(&late.json(), "id"), todo);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_comes_back_after_a_crash_finds_its_change_superseded() {
    let lab = Lab::start().await;
    let (one, two) = (lab.server("server-1").await, lab.server("server-2").await);
    let todo = stored_todo(&one, "contested").await;
    outage(&lab, &[&one, &two]).await;
    let _ = one.main().replace("late", &todo, &title("late")).await.expect(202).acknowledged();
    let created = one.main().create("never-lost", &title("never-lost")).await.expect(202).acknowledged();
    one.kill().await;
    lab.database_returns().await;
    two.mode_becomes("normal").await;
    let _ = two.main().replace("timely", &todo, &title("timely")).await.expect(200).acknowledged();
    one.restart().await;
    one.ready().await;
    one.journal_is_empty().await;
    assert_eq!(lab.stored(&todo).await, Some((title("timely"), 2)));
    assert_eq!(one.main().write_status("late").await, "superseded");
    // A creation collides with nothing and is never lost.
    assert_eq!(lab.stored(&id(&created)).await, Some((title("never-lost"), 1)));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_of_a_list_show_each_todo_once_before_in_and_after_an_outage() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    let mut expected = BTreeSet::new();
    for number in 0..23 {
        expected.insert(stored_todo(&server, &format!("before-{number}")).await);
    }
    assert_eq!(all_pages(&server, "fresh").await, expected);
    outage(&lab, &[&server]).await;
    assert_eq!(all_pages(&server, "stale").await, expected);
    for number in 0..3 {
        let name = format!("during-{number}");
        expected.insert(id(&server.main().create(&name, &title(&name)).await.expect(202).acknowledged()));
    }
    let gone = expected.first().expect("there are todos").clone();
    let _ = server.main().remove("gone", &gone).await.expect(202).acknowledged();
    expected.remove(&gone);
    // The first page once ended where it was cut anew, at a place that no kept page begins at: the rest was lost to view.
    assert_eq!(all_pages(&server, "stale").await, expected);
    lab.database_returns().await;
    server.journal_is_empty().await;
    server.mode_becomes("normal").await;
    assert_eq!(all_pages(&server, "fresh").await, expected);
    lab.finish().await;
}

/// A change was seen at one server; in an outage the next request came to the other one, which showed the state before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_what_he_has_is_sent_nothing_older_by_any_server() {
    let lab = Lab::start().await;
    let (one, two) = (lab.server("server-1").await, lab.server("server-2").await);
    let todo = stored_todo(&one, "first").await;
    let path = format!("/api/todos/{todo}");
    let first = two.main().get(&path).await.expect(200);
    let _ = one.main().replace("second", &todo, &title("second")).await.expect(200).acknowledged();
    let second = one.main().get(&path).await.expect(200);
    outage(&lab, &[&one, &two]).await;
    let having = |seen: &Answer| {
        let mut request = request(Method::GET, &path, None, None);
        let tag = HeaderValue::from_str(seen.header("etag")).expect("an entity tag");
        request.headers_mut().insert("if-none-match", tag);
        request
    };
    let older = two.main().send(having(&first)).await.expect(304);
    assert_eq!((older.header("etag"), older.freshness() == "fresh"), (first.header("etag"), false));
    assert_eq!(older.text(), "");
    let refused = two.main().send(having(&second)).await;
    assert_eq!(member(&refused.problem(503), "type"), "/problems/older-than-seen");
    // The proxy asks another one, where the first one refuses.
    let proxy = lab.proxy(&[two.main().address(), one.main().address()]).await;
    for _ in 0..4 {
        // Two retries a second are the proxy's to give away while there is so little traffic.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let found = proxy.main().send(having(&second)).await.expect(304);
        assert_eq!(found.header("etag"), second.header("etag"));
    }
    lab.database_returns().await;
    two.mode_becomes("normal").await;
    let fresh = two.main().send(having(&second)).await.expect(304);
    assert_eq!((fresh.freshness(), fresh.header("etag")), ("fresh", second.header("etag")));
    let newer = two.main().send(having(&first)).await.expect(200);
    assert_eq!(member(&newer.json(), "title"), title("second"));
    lab.finish().await;
}

/// The ids on a page.
fn items(page: &Answer) -> Vec<String> {
    let items = member(&page.json(), "items");
    let id = |item| member(item, "id").as_str().expect("a text").to_owned();
    items.as_array().expect("a list").iter().map(id).collect()
}

/// The ids on all pages, none twice; each page labelled as expected.
async fn all_pages(server: &App, expected: &str) -> BTreeSet<String> {
    const PAGES_MAX: usize = 20;

    let (mut ids, mut path) = (BTreeSet::new(), "/api/todos?limit=5".to_owned());
    for _ in 0..PAGES_MAX {
        let page = server.main().get(&path).await.expect(200);
        assert_eq!(page.freshness() == "fresh", expected == "fresh", "{page:?}");
        for id in items(&page) {
            assert!(ids.insert(id.clone()), "twice in the list: {id}");
        }
        match member(&page.json(), "next").as_str() {
            Some(next) => path = format!("/api/todos?limit=5&after={next}"),
            None => return ids,
        }
    }
    panic!("the list has no end");
}
