//! What a person sees in a real browser while the database dies and comes back, with and without scripts, in both languages,
//! light and dark, on a desk and on a narrow phone; and that nobody meets a barrier. Pictures are kept in
//! `target/browser`.

use std::{io::Write as _, time::Duration};

use ridethrough_tests::{
    app::App,
    browser::{Browser, Tools, pictures},
    stack::{Lab, Server},
    until,
};

/// WebDriver's characters for keys without a letter.
const TAB: char = '\u{e004}';
const ENTER: char = '\u{e007}';

/// Wide enough for a desk, and the narrowest that is asked for.
const DESK: u32 = 900;
const NARROW: u32 = 320;
/// Below this nobody hits a target with a thumb.
const TARGET_PIXELS_MIN: u32 = 44;

fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Nobody meets a barrier on what is shown; a picture of it is kept.
async fn is_good(browser: &Browser, state: &str) {
    browser.takes_picture(state).await;
    let (barriers, met) = browser.barriers().await;
    assert!(barriers.is_empty(), "{state}: {}", barriers.join("\n"));
    assert!(met >= 10, "{state}: axe-core looked at nothing ({met} rules)");
    let overflow = browser.runs("return document.documentElement.scrollWidth - innerWidth").await;
    assert!(overflow.as_i64().is_some_and(|pixels| pixels <= 0), "{state}: {overflow} pixels too wide");
    let small = format!(
        "return [...document.querySelectorAll('button, input:not([type=hidden]), nav a, header a, a.button')] \
         .filter((one) => {{ const box = one.getBoundingClientRect(); \
         return box.height < {TARGET_PIXELS_MIN} || box.width < {TARGET_PIXELS_MIN}; }}).map((one) => one.outerHTML)"
    );
    let small = browser.runs(&small).await;
    assert_eq!(small, serde_json::json!([]), "{state}: too small to hit");
}

/// The user keeps an eye on it: a page that was loaded anew has no mark any more.
async fn mark(browser: &Browser) {
    browser.runs("window.isTheSame = true").await;
}

async fn is_the_same(browser: &Browser) {
    assert_eq!(browser.runs("return window.isTheSame === true").await, true, "the page was loaded anew");
}

async fn typed(browser: &Browser) -> String {
    let value = browser.runs("return document.getElementById('title').value").await;
    value.as_str().unwrap_or_default().to_owned()
}

async fn focus(browser: &Browser) -> String {
    let id = browser.runs("return document.activeElement?.id ?? ''").await;
    id.as_str().unwrap_or_default().to_owned()
}

/// Nothing was refused by the policy of the page, and no file was missing.
async fn nothing_was_refused(browser: &Browser) {
    let complaints = browser.complaints().await;
    let bad = |line: &&String| {
        line.contains("Content Security Policy") || line.contains("404") || line.contains("Uncaught")
    };
    let bad: Vec<&String> = complaints.iter().filter(bad).collect();
    assert!(bad.is_empty(), "{bad:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_sees_what_is_saved_what_waits_and_when_it_is_stored() {
    let tools = match Tools::find() {
        Ok(tools) => tools,
        Err(reason) => return say(&format!("skipped: {reason}")),
    };
    let lab = Lab::start().await;
    // No room but for two changes that wait.
    let env = vec![("RIDETHROUGH_JOURNAL__ENTRIES_MAX", "2".to_owned())];
    let server = lab.server_as("server-1", Server { env, ..Server::default() }).await;
    server.ready().await;
    let browser = Browser::start(&tools, &lab.folder().join("browser"), &pictures()).await;
    let home = format!("http://{}/", server.main().address());
    browser.is_used_by("en-GB", DESK, false).await;

    all_is_well(&browser, &home).await;
    crate::steps::outage(&lab, &[&server]).await;
    it_is_away(&browser).await;
    what_is_refused_is_not_lost(&browser).await;
    lab.database_returns().await;
    it_is_back(&browser).await;
    server.journal_is_empty().await;
    assert_eq!(lab.number("SELECT count(*) FROM todos WHERE title = 'Call the school'", &[]).await, 1);
    nothing_was_refused(&browser).await;

    pages_are_turned(&browser, &server, &home).await;
    without_scripts(&browser, &home).await;
    browser.go(&format!("{home}nowhere")).await;
    browser.sees("There is nothing at this address.").await;
    is_good(&browser, "13-trouble").await;
    people_sign_in_and_out(&browser, &lab).await;
    browser.finish().await;
    lab.finish().await;
}

async fn all_is_well(browser: &Browser, home: &str) {
    browser.go(home).await;
    browser.sees("Nothing to do").await;
    is_good(browser, "01-empty").await;
    mark(browser).await;
    browser.types("#title", "Water the plants").await;
    browser.presses(ENTER).await;
    browser.sees("Water the plants").await;
    assert_eq!((typed(browser).await.as_str(), focus(browser).await.as_str()), ("", "title"));
    browser.types("#title", "Buy stamps").await;
    browser.clicks("#add-button").await;
    browser.sees("Buy stamps").await;
    // From the form by keyboard alone to the first item, and back to where it was when that is done.
    browser.clicks("#title").await;
    for _ in 0..2 {
        browser.presses(TAB).await;
    }
    let done = focus(browser).await;
    assert!(done.starts_with("done-"), "the focus is on `{done}`");
    browser.presses(ENTER).await;
    browser.sees("Not done").await;
    assert_eq!(focus(browser).await, done, "the focus is lost");
    is_the_same(browser).await;
    is_good(browser, "02-normal").await;
    browser.is_used_by("en-GB", DESK, true).await;
    is_good(browser, "03-normal-dark").await;
    browser.is_used_by("en-GB", DESK, false).await;
}

async fn it_is_away(browser: &Browser) {
    browser.reload().await;
    browser.sees("You see a saved copy").await;
    browser.sees("Water the plants").await;
    is_good(browser, "04-saved-copy").await;
    mark(browser).await;
    browser.types("#title", "Call the school").await;
    browser.presses(ENTER).await;
    browser.sees("Accepted, waits to be stored").await;
    browser.sees("1 change waits to be stored.").await;
    is_the_same(browser).await;
    browser.types("#title", "Half a thou").await;
    is_good(browser, "05-waiting").await;
    browser.is_used_by("en-GB", DESK, true).await;
    is_good(browser, "06-waiting-dark").await;
    browser.is_used_by("de-DE", NARROW, false).await;
    browser.reload().await;
    browser.sees("1 Änderung wartet aufs Speichern.").await;
    assert_eq!(typed(browser).await, "Half a thou", "what was typed is lost");
    is_good(browser, "07-waiting-german-narrow").await;
    browser.is_used_by("de-DE", NARROW, true).await;
    is_good(browser, "08-waiting-german-narrow-dark").await;
    browser.is_used_by("en-GB", DESK, false).await;
    browser.reload().await;
    browser.sees("1 change waits to be stored.").await;
}

async fn what_is_refused_is_not_lost(browser: &Browser) {
    mark(browser).await;
    browser.types("#title", &"ght".repeat(170)).await;
    browser.clicks("#add-button").await;
    browser.sees("characters; 500 fit.").await;
    assert!(typed(browser).await.starts_with("Half a thoughtght"), "what was typed is lost");
    is_good(browser, "09-refused").await;
    browser.runs("document.getElementById('title').value = 'Pay the rent'").await;
    browser.types("#title", "!").await;
    assert!(!browser.text().await.contains("500 fit"), "the refusal of another text still stands there");
    browser.presses(ENTER).await;
    browser.sees("2 changes wait to be stored.").await;
    browser.types("#title", "Learn to fly").await;
    browser.presses(ENTER).await;
    browser.sees("This was not accepted").await;
    browser.sees("Please try again in").await;
    browser.sees("Nothing can be changed at the moment").await;
    assert_eq!(typed(browser).await, "Learn to fly", "what was typed is lost");
    is_the_same(browser).await;
    is_good(browser, "10-no-room").await;
}

async fn it_is_back(browser: &Browser) {
    browser.sees("Stored today").await;
    let all = async || (!browser.text().await.contains("to be stored")).then_some(());
    until("everything is stored", Duration::from_secs(20), all).await;
    let text = browser.text().await;
    assert!(!text.contains("to be stored") && !text.contains("saved copy"), "{text}");
    let said = browser.runs("return document.getElementById('said').textContent").await;
    assert_eq!(said, "Everything is stored.");
    assert_eq!(typed(browser).await, "Learn to fly", "what was typed is lost");
    is_the_same(browser).await;
    is_good(browser, "11-stored").await;
}

/// A page has fifty items; a change on an older one leaves its reader there.
async fn pages_are_turned(browser: &Browser, server: &App, home: &str) {
    for number in 0..50 {
        let name = format!("number {number}");
        let _ = server.main().create(&format!("paging-{number}"), &name).await.expect(201);
    }
    browser.go(home).await;
    browser.clicks("nav .older").await;
    browser.sees("Newest").await;
    browser.sees("Call the school").await;
    mark(browser).await;
    browser.clicks("#list .item:first-child .acts form:last-child button").await;
    let gone = async || (!browser.text().await.contains("Pay the rent!")).then_some(());
    until("the item is gone", Duration::from_secs(10), gone).await;
    is_the_same(browser).await;
    browser.sees("Newest").await;
    assert!(focus(browser).await.starts_with("delete-"), "the focus is not on the next item");
    is_good(browser, "18-older").await;
}

async fn without_scripts(browser: &Browser, home: &str) {
    browser.runs("sessionStorage.clear()").await;
    browser.has_scripts(false).await;
    browser.go(home).await;
    browser.types("#title", "Without a script").await;
    browser.clicks("#add-button").await;
    browser.sees("Without a script").await;
    browser.clicks("#list .item:first-child .acts form:last-child button").await;
    let gone = async || (!browser.text().await.contains("Without a script")).then_some(());
    until("the item is gone", Duration::from_secs(10), gone).await;
    browser.takes_picture("12-without-scripts").await;
    browser.has_scripts(true).await;
}

async fn people_sign_in_and_out(browser: &Browser, lab: &Lab) {
    let file = lab.folder().join("tokens");
    let (token, line) = crate::owners::token(lab, "ada").await;
    std::fs::write(&file, format!("{line}\n")).expect("the lab's folder can be written to");
    let server = lab.server_as("server-2", crate::owners::with_tokens(&file)).await;
    server.ready().await;
    browser.go(&format!("http://{}/", server.main().address())).await;
    browser.sees("Your token").await;
    browser.types("#token", "wrong").await;
    browser.presses(ENTER).await;
    browser.sees("This token is not known").await;
    is_good(browser, "14-sign-in").await;
    browser.types("#token", &token).await;
    browser.presses(ENTER).await;
    browser.sees("Nothing to do").await;
    is_good(browser, "15-signed-in").await;
    // The token ends while something is typed: it is still there for whom it belongs to.
    browser.types("#title", "Water the cat").await;
    browser.forgets_cookies().await;
    browser.clicks("#add-button").await;
    browser.sees("Your token").await;
    browser.types("#token", &token).await;
    browser.presses(ENTER).await;
    browser.sees("Nothing to do").await;
    assert_eq!(typed(browser).await, "Water the cat", "what was typed is lost");
    browser.clicks("#sign-out button").await;
    browser.sees("Your token").await;
}

/// Each replica knows what waits at itself alone: after a replica died, its item was gone from the list of who had added it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_replica_took_stays_in_sight_until_it_is_stored() {
    let tools = match Tools::find() {
        Ok(tools) => tools,
        Err(reason) => return say(&format!("skipped: {reason}")),
    };
    let lab = Lab::start().await;
    let (one, two) = tokio::join!(lab.server("server-1"), lab.server("server-2"));
    let proxy = lab.proxy(&[one.main().address(), two.main().address()]).await;
    proxy.ready().await;
    lab.expect_in_logs(&["backend"]);
    let browser = Browser::start(&tools, &lab.folder().join("browser"), &pictures()).await;
    browser.is_used_by("en", DESK, false).await;
    browser.go(&format!("http://{}/", proxy.main().address())).await;
    browser.types("#title", "Before").await;
    browser.presses(ENTER).await;
    browser.sees("Before").await;
    mark(&browser).await;
    crate::steps::outage(&lab, &[&one, &two]).await;
    browser.types("#title", "During").await;
    browser.presses(ENTER).await;
    browser.sees("Accepted, waits to be stored").await;
    let has_it = if one.backlog().await == 1 { &one } else { &two };
    let other = if has_it.name() == one.name() { &two } else { &one };
    let is_cold = other.main().get("/").await.status == 503;
    has_it.kill().await;
    // Some looks at the other one, which knows nothing of it.
    for times in 1..=3_u32 {
        let looks = async || {
            let metrics = other.admin().get("/metrics").await.text();
            let line = metrics.lines().find(|line| {
                line.contains("http_requests_total") && line.contains("route=\"/api/writes/{key}\"")
            });
            line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .filter(|seen| *seen >= f64::from(times))
        };
        until("the page asks about its change", Duration::from_secs(30), looks).await;
        let text = browser.text().await;
        assert!(text.contains("During") && text.contains("Accepted, waits to be stored"), "{text}");
    }
    // Where it has no list either, that of the page stays. The proxy decides which replica has one.
    if is_cold {
        browser.sees("You still see the list").await;
        browser.sees("Before").await;
    } else {
        browser.sees("You see a saved copy").await;
    }
    is_good(&browser, "16-taken-by-another-replica").await;
    proxy.kill().await;
    browser.runs("dispatchEvent(new Event('online'))").await;
    browser.sees("The server does not answer right now. You see the list as it was at").await;
    is_good(&browser, "17-out-of-touch").await;
    proxy.restart().await;
    browser.runs("dispatchEvent(new Event('online'))").await;
    browser.sees("The database does not answer right now").await;
    lab.database_returns().await;
    has_it.restart().await;
    let over = async || (!browser.text().await.contains("waits")).then_some(());
    until("the page says that it is stored", Duration::from_secs(40), over).await;
    browser.sees("During").await;
    is_the_same(&browser).await;
    assert_eq!(lab.number("SELECT count(*) FROM todos WHERE title = 'During'", &[]).await, 1);
    browser.finish().await;
    lab.finish().await;
}
