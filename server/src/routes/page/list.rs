//! What the page shows: the items with their marks, the state of things, the form with what was typed, and when the script
//! should ask again. What the forms do stands in `page`, the words in the catalogue of texts.

use std::{collections::HashSet, time::Duration};

use axum::{body::Body, response::Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use minijinja::{context, value::Serde};
use ridethrough::{
    Deadline,
    cache::{Freshness, StaleReason, Tags},
    db::{WriteState, WriteStatus},
    health::Writes,
    http::retry_after_seconds,
    mode::Mode,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use time::{Duration as TimeSpan, OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    app::{App, Language, Pages, text},
    identity::{Principal, hexadecimal},
    routes::{decode, label, todos::read_page},
    todo::{Changes, Page, PageQuery, TODOS, Todo},
};

/// In how many milliseconds the script of the page should ask again.
const REFRESH: HeaderName = HeaderName::from_static("ridethrough-refresh");
/// For how long an item that had waited is marked as stored.
const STORED_SHOWN: TimeSpan = TimeSpan::minutes(15);
/// Between two looks while all is well: what others change is seen after half a minute.
const REFRESH_CALM: Duration = Duration::from_secs(30);
/// While waiting changes are being stored, which takes seconds.
const REFRESH_SOON: Duration = Duration::from_secs(2);
/// Bounds while the database is away; in between the breaker says when it is worth while.
const REFRESH_AWAY: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(15));

/// What the page is asked for.
#[derive(Debug)]
pub(super) struct Asked<'r> {
    pub(super) owner: Principal,
    pub(super) language: Language,
    pub(super) query: PageQuery,
    /// The key of the last change, where it was not in the database at once.
    pub(super) wrote: Option<&'r str>,
    pub(super) deadline: Deadline,
}

/// What came of a form, where it is told on the page itself.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    /// Nothing where none was sent.
    pub(super) status: Option<StatusCode>,
    /// The key that the form goes on with; a new one where there is none.
    pub(super) key: Option<String>,
    /// What was typed and not taken.
    pub(super) typed: String,
    /// Said by the form that adds an item.
    pub(super) by_form: Option<String>,
    /// Said above the list.
    pub(super) notice: Option<String>,
}

/// What the template shows. Of what is new with every answer, such as keys, there is nothing in it: it has a digest.
#[derive(Debug, Serialize)]
struct ListPage {
    items: Vec<Item>,
    /// Address of the next page.
    older: Option<String>,
    /// Where this page begins, for the way back to it; nothing on the first one.
    after: Option<String>,
    state: State,
    /// What the page offers: `in`, `out` or nothing.
    sign: Option<&'static str>,
    /// Whose page it is, for what the script remembers: an opaque id.
    whose: String,
}

#[derive(Debug, Serialize)]
struct Item {
    id: Uuid,
    title: String,
    done: bool,
    /// For the form that marks it as done: what somebody else changed meanwhile is not undone.
    version: i64,
    created: Moment,
    /// Whether it waits to be stored.
    waiting: bool,
    /// When it was stored, where it had to wait.
    stored: Option<Moment>,
    /// Whether what had waited for it came too late.
    superseded: bool,
}

/// A time for people and for programs.
#[derive(Debug, Serialize)]
struct Moment {
    text: String,
    machine: String,
}

/// How things are.
#[derive(Debug, Default, Serialize)]
struct State {
    /// How old what is shown is, where it is a saved copy.
    saved_copy_age: Option<String>,
    /// Whether there is no list to show at all.
    unavailable: bool,
    /// Whether changes wait safely instead of being stored at once.
    kept: bool,
    /// Whether nothing can be changed.
    read_only: bool,
    recovering: bool,
    /// Changes of this principal that wait to be stored.
    waiting: u64,
    /// How many of them remove an item.
    removals: usize,
    /// Whether a change was accepted that this replica does not know.
    elsewhere: bool,
    /// Whether a change that was accepted earlier was not kept.
    not_kept: bool,
}

impl State {
    fn is_away(&self) -> bool {
        self.saved_copy_age.is_some() || self.unavailable || self.read_only
    }

    /// When to look again; `random` is from 0 to 1, so that a crowd that an outage has gathered does not come at once.
    fn refresh(&self, wait: Duration, random: f64) -> Duration {
        let (least, most) = REFRESH_AWAY;
        let base = if self.is_away() {
            wait.clamp(least, most)
        } else if self.waiting > 0 || self.recovering || self.elsewhere {
            REFRESH_SOON
        } else {
            REFRESH_CALM
        };
        base.mul_f64(1.0 + random / 2.0)
    }
}

/// The page, or 304 where the sender has just this.
pub(super) async fn answer(app: &App, asked: &Asked<'_>, headers: &HeaderMap, attempt: Attempt) -> Response {
    let read = read_page(app, &asked.query, asked.deadline).await;
    let freshness = read.as_ref().ok().map(|(_, freshness)| *freshness);
    let page = read.as_ref().ok().and_then(|(document, _)| serde_json::from_slice::<Page>(document).ok());
    let state = state(app, asked, freshness, page.is_none()).await;
    let retry_after = read.as_ref().err().and_then(|trouble| trouble.retry_after);
    let wait = retry_after.unwrap_or_else(|| app.db.retry_after(Instant::now()));
    let refresh = state.refresh(wait, fastrand::f64());
    let page = page.unwrap_or_else(|| Page { items: what_waits(app, asked), next: None });
    let status = attempt.status.unwrap_or(match state.unavailable {
        true => StatusCode::SERVICE_UNAVAILABLE,
        false => StatusCode::OK,
    });
    let content = ListPage {
        items: page.items.into_iter().map(|todo| item(app, asked, todo)).collect(),
        older: page.next.map(|cursor| format!("/?after={cursor}")),
        after: asked.query.after.map(|cursor| cursor.to_string()),
        state,
        sign: sign(app, asked.owner),
        whose: asked.owner.id().simple().to_string(),
    };
    let tag = tag(app, asked.language, &content);
    let has_it = headers.get(header::IF_NONE_MATCH).is_some_and(|had| had.as_bytes() == tag.as_bytes());
    let mut response = if has_it && attempt.status.is_none() {
        not_modified()
    } else {
        let key = attempt.key.unwrap_or_else(decode::new_key);
        let form = context! { key, typed => attempt.typed, error => attempt.by_form };
        let refresh = refresh.as_millis() as u64;
        let values = context! { page => Serde(content), form, notice => attempt.notice, refresh, nonce => decode::new_key() };
        app.pages.render(asked.language, "list.html", status, values)
    };
    let headers = response.headers_mut();
    headers.extend(HeaderValue::from_str(&tag).map(|tag| (header::ETAG, tag)));
    headers.insert(REFRESH, HeaderValue::from(refresh.as_millis() as u64));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after_seconds(wait)));
    }
    if let Some(freshness) = freshness {
        label(&mut response, freshness);
    }
    response
}

fn not_modified() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    Pages::describe(response.headers_mut());
    response
}

/// Names everything that the page shows, but for what is new with every answer.
fn tag(app: &App, language: Language, content: &ListPage) -> String {
    let mut digest = Sha256::new().chain_update(app.pages.release()).chain_update(language.tag());
    digest.update(crate::todo::encode(content));
    format!("W/\"{}\"", hexadecimal(digest.finalize().get(..16).unwrap_or_default()))
}

fn sign(app: &App, owner: Principal) -> Option<&'static str> {
    let is_guest = app.identity.is_guest(owner);
    app.identity.has_sign_in().then_some(if is_guest { "in" } else { "out" })
}

async fn state(app: &App, asked: &Asked<'_>, freshness: Option<Freshness>, unavailable: bool) -> State {
    let health = app.probes.health();
    let pending = app.db.pending(&Tags::of([asked.owner.own(TODOS)]));
    let removes = |changes: &Changes| changes.iter().all(|change| change.becomes.is_none());
    let removals = pending.iter().filter(|write| write.promise().is_some_and(removes)).count();
    // Everybody's are all there are, also those that are remembered in the journal alone.
    let waiting = match asked.owner.is_everybody() {
        true => app.journal.backlog().entries,
        false => pending.iter().count() as u64,
    };
    let (elsewhere, not_kept) = last_change(app, asked).await;
    State {
        saved_copy_age: freshness.and_then(|freshness| saved_copy_age(asked.language, freshness)),
        unavailable,
        kept: health.writes == Writes::Journaled,
        read_only: health.writes == Writes::None,
        recovering: health.mode == Mode::Recovering,
        waiting,
        removals,
        elsewhere,
        not_kept,
    }
}

/// Whether the last change waits at another replica, and whether it was not kept in the end. It waits there too as long as
/// nobody can say.
async fn last_change(app: &App, asked: &Asked<'_>) -> (bool, bool) {
    let Some(key) = asked.wrote.map(|key| asked.owner.write_key(key)) else { return (false, false) };
    if app.db.pending_under(&key).is_some() {
        return (false, false);
    }
    match app.db.write_status(&key, asked.deadline).await {
        Ok(Some(WriteStatus { state: WriteState::Applied, .. })) => (false, false),
        Ok(Some(WriteStatus { state: WriteState::Superseded | WriteState::Rejected, .. })) => (false, true),
        Ok(_) | Err(_) => (true, false),
    }
}

/// Where there is no list, at least what waits is shown: newest first, each as its last change will make it.
fn what_waits(app: &App, asked: &Asked<'_>) -> Vec<Todo> {
    let pending = app.db.pending(&Tags::of([asked.owner.own(TODOS)]));
    let newest_first = pending.iter().rev().filter_map(|write| write.promise::<Changes>());
    let mut seen = HashSet::new();
    let mut todos: Vec<Todo> = newest_first
        .flat_map(Changes::iter)
        .filter(|change| seen.insert(change.id))
        .filter_map(|change| change.becomes.clone())
        .filter(|todo| asked.query.admits(todo))
        .take(usize::from(asked.query.limit))
        .collect();
    todos.sort_unstable_by_key(|todo| std::cmp::Reverse(todo.cursor()));
    todos
}

fn item(app: &App, asked: &Asked<'_>, todo: Todo) -> Item {
    let waiting = !app.db.pending(&Todo::tags(asked.owner, todo.id)).is_empty();
    let ended = app.settled.end_of(todo.id).filter(|ended| !waiting && is_recent(ended.at));
    Item {
        id: todo.id,
        title: todo.title.as_str().to_owned(),
        done: todo.done,
        version: todo.version,
        created: moment(asked.language, todo.created_at),
        waiting,
        stored: ended.filter(|ended| ended.was_applied).map(|ended| moment(asked.language, ended.at)),
        superseded: ended.is_some_and(|ended| !ended.was_applied),
    }
}

fn is_recent(at: OffsetDateTime) -> bool {
    OffsetDateTime::now_utc() - at < STORED_SHOWN
}

fn moment(language: Language, time: OffsetDateTime) -> Moment {
    let whole = time.replace_nanosecond(0).unwrap_or(time);
    Moment { text: language.time(time), machine: whole.format(&Rfc3339).unwrap_or_default() }
}

/// How old a saved copy is, in words. A list that is only ahead of the database is no old one.
fn saved_copy_age(language: Language, freshness: Freshness) -> Option<String> {
    match freshness {
        Freshness::Fresh | Freshness::Stale { reason: StaleReason::Pending | StaleReason::Kept, .. } => None,
        Freshness::Stale { .. } => freshness.age_seconds().map(|seconds| in_words(language, seconds)),
    }
}

/// In steps that nobody misses, so that a page that is asked for again is mostly the same.
fn in_words(language: Language, seconds: u64) -> String {
    let (count, name) = match seconds {
        0..10 => (0, "age.moment"),
        10..90 => (seconds / 10 * 10, "age.seconds"),
        90..5_400 => ((seconds + 30) / 60, "age.minutes"),
        5_400..129_600 => ((seconds + 1_800) / 3_600, "age.hours"),
        _ => ((seconds + 43_200) / 86_400, "age.days"),
    };
    text(language, name, &[("n", count.to_string())]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_in_words() {
        let cases = [
            (1, "a few seconds", "wenige Sekunden"),
            (10, "10 seconds", "10 Sekunden"),
            (89, "80 seconds", "80 Sekunden"),
            (90, "2 minutes", "2 Minuten"),
            (5_399, "90 minutes", "90 Minuten"),
            (5_400, "2 hours", "2 Stunden"),
            (86_400, "24 hours", "24 Stunden"),
            (129_600, "2 days", "2 Tage"),
        ];
        for (seconds, english, german) in cases {
            assert_eq!(in_words(Language::English, seconds), english);
            assert_eq!(in_words(Language::German, seconds), german);
        }
    }

    /// An outage gathers pages that all wait for its end: none may come more often than it would in the outage, nor all of
    /// them at once.
    #[test]
    fn pages_ask_again_with_measure() {
        let away = State { unavailable: true, waiting: 3, ..State::default() };
        let soon = State { waiting: 1, ..State::default() };
        let second = Duration::from_secs;
        assert_eq!(away.refresh(Duration::ZERO, 0.0), second(3));
        assert_eq!(away.refresh(second(600), 0.0), second(15));
        assert_eq!(away.refresh(second(10), 1.0), second(15));
        assert_eq!((soon.refresh(second(10), 0.0), soon.refresh(second(10), 1.0)), (second(2), second(3)));
        let calm = State::default();
        assert_eq!((calm.refresh(second(1), 0.0), calm.refresh(second(1), 1.0)), (second(30), second(45)));
    }
}
