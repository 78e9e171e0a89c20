//! A real browser: Chromium without a window, driven through chromedriver by the WebDriver protocol of the W3C. It clicks,
//! types, reads, takes pictures, and runs axe-core on what is shown. What is right to see is for the tests to say.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use http::Method;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::{
    http::{Client, Failure, request},
    launch::{free_address, target_folder},
    logs::Secrets,
    until,
};

/// Until chromedriver accepts; a busy machine takes seconds.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Until something that is waited for is on the page.
const SEEN_LIMIT: Duration = Duration::from_secs(30);
/// Without these Chromium calls home, needs a display, or a sandbox that root has not.
const ARGUMENTS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
];
/// The key under which WebDriver names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// What a browser test needs.
#[derive(Debug, Clone)]
pub struct Tools {
    driver: PathBuf,
    browser: PathBuf,
    axe: PathBuf,
}

impl Tools {
    /// Looks for them.
    ///
    /// # Errors
    /// What is missing, and how to get it.
    pub fn find() -> Result<Self, String> {
        let on_path = |names: &[&str]| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
            let all = folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
            all.into_iter().find(|file| file.is_file())
        };
        let missing =
            |what: &str| format!("{what} is missing: scripts/browser.sh gets it, or says why it cannot");
        let axe = target_folder().join("browser/axe.min.js");
        Ok(Self {
            driver: on_path(&["chromedriver"]).ok_or_else(|| missing("chromedriver"))?,
            browser: on_path(&["chromium", "google-chrome"]).ok_or_else(|| missing("chromium"))?,
            axe: Some(axe).filter(|file| file.is_file()).ok_or_else(|| missing("axe-core"))?,
        })
    }
}

/// Where pictures are kept, beside what the build makes.
#[must_use]
pub fn pictures() -> PathBuf {
    target_folder().join("browser")
}

/// One window of a browser of its own, with a profile of its own.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    /// The browser itself while it runs: no child of ours, and it outlives its driver.
    pid: Option<Pid>,
    client: Client,
    session: String,
    axe: String,
    pictures: PathBuf,
}

impl Browser {
    /// Starts one whose profile lies in `home` and whose pictures go to `pictures`.
    ///
    /// # Panics
    /// Where it does not start.
    ///
    /// # Cancel safety
    /// Dropping it ends what was started.
    pub async fn start(tools: &Tools, home: &Path, pictures: &Path) -> Self {
        let address = free_address();
        fs::create_dir_all(home).expect("the folder of a browser can be made");
        fs::create_dir_all(pictures).expect("the folder of pictures can be made");
        let driver = Command::new(&tools.driver)
            .arg(format!("--port={}", address.port()))
            .env("HOME", home)
            .current_dir(home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver can be started");
        let client = Client::new(address, Secrets::default());
        let axe = fs::read_to_string(&tools.axe).expect("axe-core can be read");
        let mut browser =
            Self { driver, pid: None, client, session: String::new(), axe, pictures: pictures.to_owned() };
        let ready = async || match browser.client.try_send(request(Method::GET, "/status", None, None)).await
        {
            Ok(answer) => (answer.status == 200).then_some(()),
            Err(Failure::Refused(_)) => None,
            Err(failure) => panic!("chromedriver: {failure:?}"),
        };
        until("chromedriver accepts", START_LIMIT, ready).await;
        let mut arguments: Vec<String> = ARGUMENTS.map(str::to_owned).to_vec();
        arguments.push(format!("--user-data-dir={}", home.join("profile").display()));
        let options = json!({ "binary": tools.browser, "args": arguments });
        let wanted = json!({ "capabilities": { "alwaysMatch": { "browserName": "chrome", "goog:chromeOptions": options } } });
        let made = browser.send(Method::POST, "/session", &wanted).await;
        let pid = made.pointer("/capabilities/goog:processID").and_then(Value::as_i64);
        browser.pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        assert!(browser.pid.is_some(), "the browser has no pid: {made}");
        browser.session = made.get("sessionId").and_then(Value::as_str).expect("a session").to_owned();
        browser
    }

    /// Goes to an address.
    ///
    /// # Panics
    /// Where the browser does not answer.
    ///
    /// # Cancel safety
    /// A drop leaves it loading.
    pub async fn go(&self, address: &str) {
        self.post("url", &json!({ "url": address })).await;
    }

    /// Loads the page anew, as a person would.
    ///
    /// # Panics
    /// As [`Browser::go`].
    ///
    /// # Cancel safety
    /// As [`Browser::go`].
    pub async fn reload(&self) {
        self.post("refresh", &json!({})).await;
    }

    /// Types into the first element that a CSS selector finds.
    ///
    /// # Panics
    /// Where there is none.
    ///
    /// # Cancel safety
    /// A drop may leave a part typed.
    pub async fn types(&self, selector: &str, text: &str) {
        let element = self.element(selector).await;
        self.post(&format!("element/{element}/value"), &json!({ "text": text })).await;
    }

    /// Clicks on the first element that a CSS selector finds.
    ///
    /// # Panics
    /// Where there is none.
    ///
    /// # Cancel safety
    /// Once polled the click may have happened.
    pub async fn clicks(&self, selector: &str) {
        let element = self.element(selector).await;
        self.post(&format!("element/{element}/click"), &json!({})).await;
    }

    /// Presses a key where the focus is; WebDriver's private characters stand for the keys without a letter.
    ///
    /// # Panics
    /// As [`Browser::go`].
    ///
    /// # Cancel safety
    /// Once polled the key may have been pressed.
    pub async fn presses(&self, key: char) {
        let strokes = json!([{ "type": "keyDown", "value": key.to_string() }, { "type": "keyUp", "value": key.to_string() }]);
        self.post("actions", &json!({ "actions": [{ "type": "key", "id": "keys", "actions": strokes }] }))
            .await;
    }

    /// What a script gives.
    ///
    /// # Panics
    /// Where it fails.
    ///
    /// # Cancel safety
    /// The script goes on.
    pub async fn runs(&self, script: &str) -> Value {
        self.post("execute/sync", &json!({ "script": script, "args": [] })).await
    }

    /// The text of the page as a person sees it.
    ///
    /// # Panics
    /// As [`Browser::go`].
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn text(&self) -> String {
        self.runs("return document.body.innerText").await.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the page has this text.
    ///
    /// # Panics
    /// Where it does not get it, with what it has.
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn sees(&self, wanted: &str) {
        let look = async || self.text().await.contains(wanted).then_some(());
        if tokio::time::timeout(SEEN_LIMIT, until(wanted, SEEN_LIMIT * 2, look)).await.is_err() {
            panic!("no `{wanted}` on the page:\n{}", self.text().await);
        }
    }

    /// Says how its user likes pages: language, width in CSS pixels, dark or light.
    ///
    /// # Panics
    /// As [`Browser::go`].
    ///
    /// # Cancel safety
    /// A drop may leave a part of it said.
    pub async fn is_used_by(&self, language: &str, width: u32, dark: bool) {
        let agent = self.runs("return navigator.userAgent").await;
        let agent = json!({ "userAgent": agent, "acceptLanguage": language });
        self.tells("Emulation.setUserAgentOverride", &agent).await;
        let size = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.tells("Emulation.setDeviceMetricsOverride", &size).await;
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.tells("Emulation.setEmulatedMedia", &media).await;
    }

    /// Forgets who has signed in, as if the token had ended meanwhile.
    ///
    /// # Panics
    /// As [`Browser::go`].
    ///
    /// # Cancel safety
    /// Once polled it may have happened.
    pub async fn forgets_cookies(&self) {
        self.send(Method::DELETE, &format!("/session/{}/cookie", self.session), &Value::Null).await;
    }

    /// Switches scripts of pages on or off; it counts from the next page on.
    ///
    /// # Panics
    /// As [`Browser::go`].
    ///
    /// # Cancel safety
    /// Once polled it may have happened.
    pub async fn has_scripts(&self, on: bool) {
        self.tells("Emulation.setScriptExecutionDisabled", &json!({ "value": !on })).await;
    }

    /// Keeps a picture of the whole page.
    ///
    /// # Panics
    /// Where none can be taken or kept.
    ///
    /// # Cancel safety
    /// A drop leaves no picture, or half of one.
    pub async fn takes_picture(&self, name: &str) {
        // Where it need not, this must not look beyond: it takes narrow pages that are read from right to left off their place.
        let is_longer = self.runs("return document.documentElement.scrollHeight > innerHeight").await;
        let wanted = json!({ "captureBeyondViewport": is_longer });
        let taken = self.tells("Page.captureScreenshot", &wanted).await;
        let data = taken.get("data").and_then(Value::as_str).expect("a picture");
        let file = self.pictures.join(format!("{name}.png"));
        fs::write(&file, from_base64(data)).expect("a picture can be kept");
    }

    /// What axe-core finds wrong with the page for people who cannot see, hear or move well: nothing, one hopes. Also counts
    /// how many of its rules were met, so that none were asked is seen.
    ///
    /// # Panics
    /// Where it does not run.
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn barriers(&self) -> (Vec<String>, usize) {
        self.runs(&format!("{}; window.axe = axe;", self.axe)).await;
        let script = "const done = arguments[0]; axe.run(document, { resultTypes: ['violations'] }).then((result) => \
            done({ met: result.passes.length, wrong: result.violations.map((one) => \
            `${one.id}: ${one.help}: ${one.nodes.map((node) => node.html + ' ' + node.failureSummary).join(' | ')}`) }), \
            (error) => done({ met: 0, wrong: [String(error)] }))";
        let found = self.post("execute/async", &json!({ "script": script, "args": [] })).await;
        let wrong = found.get("wrong").and_then(Value::as_array).cloned().unwrap_or_default();
        let met = found.get("met").and_then(Value::as_u64).unwrap_or_default();
        let wrong = wrong.iter().map(|one| one.as_str().unwrap_or_default().to_owned()).collect();
        (wrong, usize::try_from(met).unwrap_or_default())
    }

    /// What the browser complained of: a refused script, a file that is not there.
    ///
    /// # Panics
    /// As [`Browser::go`].
    ///
    /// # Cancel safety
    /// What was given is not given again.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.post("se/log", &json!({ "type": "browser" })).await;
        let lines = log.as_array().cloned().unwrap_or_default();
        lines.iter().filter_map(|line| Some(line.get("message")?.as_str()?.to_owned())).collect()
    }

    /// Closes the window and ends browser and driver.
    ///
    /// # Panics
    /// Where the browser does not answer.
    ///
    /// # Cancel safety
    /// A drop ends them by force.
    pub async fn finish(mut self) {
        self.send(Method::DELETE, &format!("/session/{}", self.session), &Value::Null).await;
        self.pid = None;
    }

    async fn element(&self, selector: &str) -> String {
        let found = self.post("element", &json!({ "using": "css selector", "value": selector })).await;
        let element = found.get(ELEMENT).and_then(Value::as_str);
        element.unwrap_or_else(|| panic!("nothing is {selector}: {found}")).to_owned()
    }

    async fn tells(&self, command: &str, parameters: &Value) -> Value {
        self.post("goog/cdp/execute", &json!({ "cmd": command, "params": parameters })).await
    }

    async fn post(&self, command: &str, parameters: &Value) -> Value {
        self.send(Method::POST, &format!("/session/{}/{command}", self.session), parameters).await
    }

    async fn send(&self, method: Method, path: &str, parameters: &Value) -> Value {
        let what = format!("{method} {path}");
        let body = (!parameters.is_null()).then_some(parameters);
        let answer = self.client.send(request(method, path, None, body)).await;
        let value = answer.json().get("value").cloned().unwrap_or_default();
        assert_eq!(answer.status, 200, "{what}: {value}");
        value
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// The bytes of a picture as the protocol sends it.
fn from_base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(u32::from(byte - b'A')),
        b'a'..=b'z' => Some(u32::from(byte - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(byte - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<u32> = text.bytes().filter_map(digit).collect();
    let mut bytes = Vec::with_capacity(digits.len());
    for group in digits.chunks(4) {
        let bits = group.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - group.len()));
        let [_, three @ ..] = bits.to_be_bytes();
        bytes.extend(three.into_iter().take(group.len() - 1));
    }
    bytes
}
