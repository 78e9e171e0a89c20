//! The proxy alone, and the proxy in front of servers that die.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Method;
use ridethrough_tests::{
    app::App,
    http::{Answer, create, request},
    launch::{self, Blueprint},
    stack::Lab,
    until,
};

use crate::steps::{id, member, stored_todo, title};

async fn page_of(proxy: &App, accept: &'static str) -> Answer {
    let mut question = request(Method::GET, "/api/todos", None, None);
    question.headers_mut().insert("accept", http::HeaderValue::from_static(accept));
    proxy.main().send(question).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_backend_it_shows_a_page_and_recovers_by_itself() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    let text = title("through the proxy");
    let todo = id(&server.main().create("one", &text).await.expect(201).acknowledged());
    server.kill().await;
    lab.expect_in_logs(&["backend"]);
    let proxy = lab.proxy(&[server.main().address()]).await;
    for listener in [proxy.main(), proxy.admin()] {
        let _ = listener.get("/livez").await;
    }
    let _ = proxy.admin().get("/readyz").await.expect(200);

    let html = page_of(&proxy, "text/html,application/xhtml+xml,*/*;q=0.8").await;
    assert!(html.header("content-type").starts_with("text/html"), "{html:?}");
    assert!(html.text().contains("<html"), "{}", html.text());
    let json = page_of(&proxy, "application/json").await;
    let _ = json.problem(json.status);
    for answer in [&html, &json] {
        // Refused (502), until the breaker knows and nobody is asked any more.
        assert!(matches!(answer.status, 502 | 503), "{answer:?}");
        let seconds: u64 = answer.header("retry-after").parse().expect("seconds in Retry-After");
        assert!((1..=120).contains(&seconds), "{answer:?}");
        assert!(answer.header("proxy-status").starts_with("ridethrough-proxy; error="), "{answer:?}");
        let address = server.main().address().to_string();
        assert!(!answer.text().contains(&address), "it tells the backend's address: {}", answer.text());
    }
    let write = proxy.main().create("two", &title("refused")).await;
    assert!(matches!(write.status, 502 | 503), "{write:?}");
    assert_eq!(write.header("ridethrough-outcome"), "rejected");

    server.restart().await;
    let passed = async || {
        let answer = proxy.main().get(&format!("/api/todos/{todo}")).await;
        (answer.status == 200).then_some(answer)
    };
    let answer = until("the proxy recovers", Duration::from_secs(15), passed).await;
    assert_eq!(answer.freshness(), "fresh");
    assert_eq!(member(&answer.json(), "title"), text);
    assert_eq!(answer.header("proxy-status"), "");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_costs_no_read_and_doubles_no_write() {
    let lab = Lab::start().await;
    let (one, two) = (lab.server("server-1").await, lab.server("server-2").await);
    let proxy = lab.proxy(&[one.main().address(), two.main().address()]).await;
    lab.expect_in_logs(&["backend"]);
    let todo = stored_todo(&one, "read-me").await;
    let path = format!("/api/todos/{todo}");
    until("the proxy passes reads", Duration::from_secs(10), async || {
        (proxy.main().get(&path).await.status == 200).then_some(())
    })
    .await;

    let stop = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let (client, stop, path) = (proxy.main(), Arc::clone(&stop), path.clone());
        async move {
            let mut statuses = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                let answer = client.try_send(request(Method::GET, &path, None, None)).await;
                statuses.push(answer.map_or(0, |answer| answer.status));
            }
            statuses
        }
    });
    let writer = tokio::spawn({
        let (client, stop) = (proxy.main(), Arc::clone(&stop));
        async move {
            let mut answers = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                let name = format!("write-{}", answers.len());
                let answer = client.try_send(create(&name, &title(&name))).await;
                answers.push((title(&name), answer.map_or(0, |answer| answer.status)));
            }
            answers
        }
    });
    for server in [&one, &two] {
        let before = lab.number("SELECT count(*) FROM todos", &[]).await;
        until("writes flow", Duration::from_secs(10), async || {
            (lab.number("SELECT count(*) FROM todos", &[]).await >= before + 10).then_some(())
        })
        .await;
        server.kill().await;
        server.restart().await;
        server.ready().await;
        // Killed at the moment at which the proxy trusts neither, the second one would be an outage, and no one's fault.
        let up = async || {
            let state = proxy.admin().get("/debug/state").await.expect(200).text();
            let both = |word: &str| state.matches(word).count() == 2;
            (both("\"state\":\"up\"") && both("\"breaker\":\"closed\"")).then_some(())
        };
        until("the proxy uses both again", Duration::from_secs(10), up).await;
    }
    stop.store(true, Ordering::SeqCst);
    let statuses = reader.await.expect("the reader does not panic");
    let failed: Vec<&u16> = statuses.iter().filter(|status| **status != 200).collect();
    assert!(statuses.len() >= 20, "only {} reads", statuses.len());
    assert!(failed.is_empty(), "{} of {} reads failed: {failed:?}", failed.len(), statuses.len());
    let answers = writer.await.expect("the writer does not panic");
    one.journal_is_empty().await;
    two.journal_is_empty().await;
    let acknowledged = answers.iter().filter(|(_, status)| matches!(status, 201 | 202));
    let acknowledged: Vec<String> = acknowledged.map(|(title, _)| title.clone()).collect();
    assert!(acknowledged.len() >= 20, "only {} of {} writes", acknowledged.len(), answers.len());
    assert_eq!(lab.not_stored_once(&acknowledged).await, []);
    assert_eq!(lab.number("SELECT count(*) - count(DISTINCT title) FROM todos", &[]).await, 0);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answers_of_a_server_pass_unchanged_in_an_outage_too() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    let proxy = lab.proxy(&[server.main().address()]).await;
    let todo = stored_todo(&server, "kept").await;
    let path = format!("/api/todos/{todo}");
    until("the proxy passes reads", Duration::from_secs(10), async || {
        (proxy.main().get(&path).await.status == 200).then_some(())
    })
    .await;
    crate::steps::outage(&lab, &[&server]).await;
    let read = proxy.main().get(&path).await.expect(200);
    assert_eq!(read.freshness(), "database-away");
    let written = proxy.main().create("journaled", &title("journaled")).await.expect(202).acknowledged();
    assert_eq!(proxy.main().write_status("journaled").await, "pending");
    // A refusal of the server is the server's, and not dressed up.
    let refused = proxy.main().get("/api/todos/17").await;
    assert!(refused.problem(400).to_string().contains("UUID"));
    assert_eq!(refused.header("proxy-status"), "");
    lab.database_returns().await;
    server.journal_is_empty().await;
    assert_eq!(lab.stored(&id(&written)).await, Some((title("journaled"), 1)));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_the_operator_are_read_again_and_the_last_good_ones_stay() {
    let lab = Lab::start().await;
    lab.expect_in_logs(&["backend", "cannot be used"]);
    let (page, file) = (lab.folder().join("shop.html"), lab.folder().join("proxy.toml"));
    let write = |text: &str| std::fs::write(&page, text).expect("the lab's folder can be written to");
    write("<p>first {{ title }}");
    let route = format!("[[fallback.route]]\npath = '/shop'\ntemplate = '{}'\n", page.display());
    std::fs::write(&file, format!("[limits]\ndrain_delay = '0s'\n{route}"))
        .expect("the lab's folder can be written to");
    let args = ["--log-format", "json", "--backend", "http://127.0.0.1:1", "--config"].map(Into::into);
    let args = args.into_iter().chain([file.into_os_string()]).collect();
    let program = launch::program("ridethrough-proxy");
    let proxy = lab.start_app(Blueprint { name: "proxy".to_owned(), program, args, env: vec![] }).await;
    let shown = async || {
        let mut question = request(Method::GET, "/shop/1", None, None);
        question.headers_mut().insert("accept", http::HeaderValue::from_static("text/html"));
        proxy.main().send(question).await.text()
    };
    assert_eq!(shown().await, "<p>first We will be right back");
    write("<p>second");
    proxy.hang_up();
    until("the new page is shown", Duration::from_secs(10), async || {
        (shown().await == "<p>second").then_some(())
    })
    .await;
    write("<p>\n{{ titel }}");
    proxy.hang_up();
    let told = async || {
        let log = std::fs::read_to_string(proxy.log()).unwrap_or_default();
        log.contains("shop.html:2: ").then_some(())
    };
    until("the log names file and line", Duration::from_secs(10), told).await;
    assert_eq!(shown().await, "<p>second");
    lab.finish().await;
}
