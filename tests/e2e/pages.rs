//! What a person sees in a real browser of a proxy whose servers are gone, and how the page comes back: by itself where it
//! was merely looked at, with what was typed where something was sent. Pictures are kept in `target/browser`.

use std::io::Write as _;

use ridethrough_tests::{
    app::App,
    browser::{Browser, Tools, pictures},
    stack::Lab,
};

/// A look at the page: its picture's name, the language, what must be on it, the width, whether it is dark.
const LOOKS: [(&str, &str, &str, u32, bool); 6] = [
    ("english", "en-GB", "We will be right back", 900, false),
    ("german-dark", "de-DE", "Wir sind gleich wieder da", 900, true),
    ("french-narrow", "fr-CA", "Nous revenons tout de suite", 320, false),
    ("spanish", "es-MX", "Volvemos enseguida", 900, false),
    ("arabic-narrow", "ar-EG", "سنعود بعد قليل", 320, false),
    ("arabic-narrow-dark", "ar-EG", "سنعود بعد قليل", 320, true),
];

/// Nobody meets a barrier on what is shown, and nothing sticks out; a picture of it is kept.
async fn is_good(browser: &Browser, state: &str) {
    browser.takes_picture(&format!("proxy-{state}")).await;
    let (barriers, met) = browser.barriers().await;
    assert!(barriers.is_empty(), "{state}: {}", barriers.join("\n"));
    assert!(met >= 10, "{state}: axe-core looked at nothing ({met} rules)");
    let overflow = browser.runs("return document.documentElement.scrollWidth - innerWidth").await;
    assert!(overflow.as_i64().is_some_and(|pixels| pixels <= 0), "{state}: {overflow} pixels too wide");
    let small = "return [...document.querySelectorAll('button, main a, input:not([type=hidden])')] \
                 .filter((one) => one.getBoundingClientRect().height < 44).map((one) => one.outerHTML)";
    assert_eq!(browser.runs(small).await, serde_json::json!([]), "{state}: too small to hit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_of_the_proxy_comes_back_by_itself_and_keeps_what_was_typed() {
    let tools = match Tools::find() {
        Ok(tools) => tools,
        Err(reason) => {
            let _ = writeln!(std::io::stderr().lock(), "skipped: {reason}");
            return;
        }
    };
    let lab = Lab::start().await;
    lab.expect_in_logs(&["backend"]);
    let server = lab.server("server-1").await;
    server.ready().await;
    let proxy = lab.proxy(&[server.main().address()]).await;
    let home = format!("http://{}/", proxy.main().address());
    let browser = Browser::start(&tools, &lab.folder().join("browser"), &pictures()).await;
    browser.is_used_by("en-GB", 900, false).await;

    what_was_typed_is_kept(&browser, &home, &server).await;
    assert_eq!(lab.number("SELECT count(*) FROM todos WHERE title = 'Call the <school>'", &[]).await, 1);
    server.kill().await;
    for (state, language, title, width, dark) in LOOKS {
        browser.is_used_by(language, width, dark).await;
        browser.go(&home).await;
        browser.sees(title).await;
        is_good(&browser, state).await;
    }
    browser.is_used_by("en-GB", 900, false).await;
    for has_scripts in [true, false] {
        browser.has_scripts(has_scripts).await;
        browser.go(&home).await;
        browser.sees("This page comes back by itself").await;
        if !has_scripts {
            browser.takes_picture("proxy-without-scripts").await;
        }
        server.restart().await;
        browser.sees("Call the <school>").await;
        server.kill().await;
    }
    let complaints = browser.complaints().await;
    let refused: Vec<&String> = complaints
        .iter()
        .filter(|line| line.contains("Content Security Policy") || line.contains("Uncaught"))
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
    browser.finish().await;
    lab.finish().await;
}

/// A form is sent to a server that has just been killed.
async fn what_was_typed_is_kept(browser: &Browser, home: &str, server: &App) {
    browser.has_scripts(false).await;
    browser.go(home).await;
    browser.types("#title", "Call the <school>").await;
    server.kill().await;
    browser.has_scripts(true).await;
    browser.clicks("#add-button").await;
    browser.sees("Nothing was stored").await;
    browser.sees("Call the <school>").await;
    is_good(browser, "typed").await;
    browser.runs("window.isTheSame = true").await;
    server.restart().await;
    browser.sees("The service is back.").await;
    assert_eq!(browser.runs("return window.isTheSame === true").await, true, "the page was loaded anew");
    is_good(browser, "typed-and-back").await;
    browser.clicks("form.kept button").await;
    browser.sees("Call the <school>").await;
}
