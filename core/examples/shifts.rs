//! A second service, beside the todo server: the shifts of a rota, which goes on while its PostgreSQL is away.
//!
//!     DATABASE_URL=postgres://… cargo run -p ridethrough --features service --example shifts -- \
//!         FOLDER 127.0.0.1:8090 127.0.0.1:8091
//!
//! `POST /shifts` takes a list of shifts under an `Idempotency-Key`, all or none: 201 stored, 202 accepted on disk and stored
//! later. `GET /shifts?from=…&to=…[&employee=…]` answers those that overlap a time, and `Ridethrough-Freshness` says how
//! fresh that is. Times are seconds since 1970. The probes are on both ports, metrics and `/debug/state` on the admin port.
//! It asks nobody who he is, so it listens on this machine alone.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, error::Error, net::SocketAddr, path::Path, sync::Arc};

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use ridethrough::{
    Db, DbConfig, Deadline,
    cache::{CacheConfig, CacheKey, Cacheable as _, Json, Tags},
    db::{self, Applied, ApplyError, Base, Command, Overlay, PendingWrites, Promise, Registry},
    db::{Query, Statements, Typed, TypedCommand, WriteError, Written},
    drain::Drain,
    health::{Life, ReadyPolicy},
    http::{Body, Probes, Problem, Verbosity, json},
    journal::{Journal, JournalConfig},
    sensitive::Sensitive,
    service::{self, Admin, Limits, LogFormat, Signal, Signals},
    vitals::{self, Vitals},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout};

/// Partitions are made for thirteen months, so every shift that is accepted has its place, also when it is replayed.
const SECONDS_AHEAD_MAX: i64 = 366 * DAY;
const FRESHNESS: HeaderName = HeaderName::from_static("ridethrough-freshness");
const DAY: i64 = 24 * 60 * 60;
const SHIFTS_MAX: usize = 1_000;
const BODY_BYTES_MAX: usize = 1024 * 1024;
const REQUEST_MAX: Duration = Duration::from_secs(2);

const TABLES: &str = include_str!("shifts.sql");

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shift {
    starts_at: i64,
    ends_at: i64,
    employee: i64,
    name: Sensitive<String>,
}

impl Shift {
    /// What is accepted now must be possible when it is replayed.
    fn is_sound(&self, now: i64) -> bool {
        let name = self.name.expose();
        (1..=DAY).contains(&self.ends_at.saturating_sub(self.starts_at))
            && self.starts_at.saturating_sub(now).unsigned_abs() <= SECONDS_AHEAD_MAX.unsigned_abs()
            && (1..=200).contains(&name.chars().count())
            && !name.contains('\0')
    }
}

/// The one command: all of them, or none.
#[derive(Serialize, Deserialize)]
struct AddShifts {
    batch: String,
    shifts: Vec<Shift>,
}

impl TypedCommand for AddShifts {
    type Service = ();
    const NAME: &'static str = "shifts.add";

    fn ordering_key(&self) -> String {
        self.batch.clone()
    }

    async fn apply<'c>(
        _: &'c (),
        statements: &'c Statements<'c>,
        typed: &'c Typed<'c, Self>,
    ) -> Result<Applied, ApplyError> {
        let shifts = &typed.value.shifts;
        let column = |of: fn(&Shift) -> i64| shifts.iter().map(of).collect::<Vec<_>>();
        let names: Vec<&Sensitive<String>> = shifts.iter().map(|shift| &shift.name).collect();
        let (starts, ends) = (column(|shift| shift.starts_at), column(|shift| shift.ends_at));
        let sql = "INSERT INTO shifts (employee, name, starts_at, ends_at) \
            SELECT employee, name, to_timestamp(starts), to_timestamp(ends) \
            FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[]) AS new(employee, name, starts, ends)";
        let count = statements.run(sql, &[&column(|shift| shift.employee), &names, &starts, &ends]).await?;
        Ok(Applied::Done(format!("{{\"shifts\":{count}}}").into()))
    }

    fn tags(&self) -> Tags {
        let employees = self.shifts.iter().map(|shift| format!("employee/{}", shift.employee));
        Tags::of(std::iter::once("shifts".to_owned()).chain(employees))
    }

    fn promise(&self, _: &Command) -> Option<Promise> {
        Some(Arc::new(self.shifts.clone()))
    }
}

/// The one question: who works between two times, or when somebody does.
#[derive(Clone)]
struct Between {
    from: i64,
    to: i64,
    employee: Option<i64>,
}

impl Between {
    fn of(parameters: &str) -> Option<Self> {
        let values = |name| parameters.split('&').filter_map(move |pair| pair.strip_prefix(name));
        let value = |name| values(name).next().map(|text| text.parse::<i64>().ok());
        let employee = value("employee=").map_or(Some(None), |number| number.map(Some))?;
        Some(Self { from: value("from=")??, to: value("to=")??, employee })
    }

    fn holds(&self, shift: &Shift) -> bool {
        let is_theirs = self.employee.is_none_or(|employee| employee == shift.employee);
        is_theirs && shift.starts_at < self.to && shift.ends_at > self.from
    }

    /// The first of them; who wants more goes on from the start of the last one.
    fn first(mut shifts: Vec<Shift>) -> Json<Vec<Shift>> {
        shifts.sort_by_key(|shift| (shift.starts_at, shift.employee));
        shifts.truncate(SHIFTS_MAX);
        Json(shifts)
    }
}

impl Query for Between {
    type Answer = Json<Vec<Shift>>;

    fn name(&self) -> &'static str {
        "shifts"
    }

    fn cache_key(&self) -> CacheKey {
        CacheKey::shared(format_args!("shifts/{}/{}/{:?}", self.from, self.to, self.employee))
    }

    fn tags(&self) -> Tags {
        Tags::of([self.employee.map_or("shifts".to_owned(), |employee| format!("employee/{employee}"))])
    }

    async fn fetch<'c>(
        &'c self,
        statements: &'c Statements<'c>,
    ) -> Result<Option<Self::Answer>, tokio_postgres::Error> {
        // No shift is longer than a day, which tells the planner in which partitions to look.
        let sql = "SELECT extract(epoch FROM starts_at)::bigint, extract(epoch FROM ends_at)::bigint, \
            employee, name FROM shifts WHERE ends_at > to_timestamp($1::bigint) \
            AND starts_at >= to_timestamp($1::bigint - 86400) AND starts_at < to_timestamp($2::bigint) \
            AND ($3::bigint IS NULL OR employee = $3) ORDER BY starts_at, employee LIMIT 1000";
        let rows = statements.rows(sql, &[&self.from, &self.to, &self.employee]).await?;
        let shifts = rows.iter().map(|row| {
            let (starts_at, ends_at) = (row.try_get(0)?, row.try_get(1)?);
            Ok(Shift { starts_at, ends_at, employee: row.try_get(2)?, name: row.try_get(3)? })
        });
        shifts.collect::<Result<_, _>>().map(|shifts| Some(Self::first(shifts)))
    }

    fn overlay(&self, base: Base<'_, Self::Answer>, pending: &PendingWrites) -> Overlay<Self::Answer> {
        let Base::Known(Some(Json(known)), _) = base else { return Overlay::Unchanged };
        // One that was stored meanwhile is in the answer already.
        let is_new = |shift: &&Shift| self.holds(shift) && !known.contains(shift);
        let waiting = pending.iter().filter_map(|write| write.promise::<Vec<Shift>>()).flatten();
        let new: Vec<Shift> = waiting.filter(is_new).cloned().collect();
        match new.is_empty() {
            true => Overlay::Unchanged,
            false => Overlay::Becomes(Some(Self::first([known.clone(), new].concat()))),
        }
    }
}

#[derive(Clone)]
struct App {
    db: Db,
    probes: Probes,
}

impl App {
    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        if let Some(answer) = self.probes.answer(&method, &path) {
            return answer;
        }
        let answer = match (&method, path.as_str()) {
            (&Method::GET, "/shifts") => self.read(request.uri().query().unwrap_or_default()).await,
            (&Method::POST, "/shifts") => self.add(request).await,
            _ => Err(Problem::new(StatusCode::NOT_FOUND, "no-such-path", "there is only /shifts")),
        };
        let answer = answer.unwrap_or_else(Problem::into_response);
        tracing::info!(%method, status = answer.status().as_u16(), "answered");
        answer
    }

    async fn read(self, parameters: &str) -> Result<Response<Body>, Problem> {
        let question = Between::of(parameters).ok_or_else(|| invalid("`from` and `to` are missing"))?;
        let read = self.db.read(&question, Deadline::after(Instant::now(), REQUEST_MAX)).await;
        let (shifts, freshness, _) = read.map_err(|error| Problem::from(&error))?.into_parts();
        let mut answer = json(StatusCode::OK, shifts.unwrap_or(Json(Vec::new())).encode());
        let label = HeaderValue::try_from(freshness.to_string());
        answer.headers_mut().extend(label.map(|label| (FRESHNESS, label)));
        Ok(answer)
    }

    async fn add(self, request: Request<Incoming>) -> Result<Response<Body>, Problem> {
        let key = request.headers().get("Idempotency-Key").and_then(|key| key.to_str().ok());
        let key = key.filter(|key| (1..=200).contains(&key.len()));
        let batch = key.ok_or_else(|| invalid("the `Idempotency-Key` is missing or too long"))?.to_owned();
        let body = timeout(REQUEST_MAX, Limited::new(request.into_body(), BODY_BYTES_MAX).collect()).await;
        let Ok(Ok(body)) = body else { return Err(invalid("the body is too long, or too slow")) };
        let (body, wall) = (body.to_bytes(), SystemTime::now());
        let now = wall.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
        // What serde says of a wrong document may quote it, and goes nowhere.
        let shifts = serde_json::from_slice::<Vec<Shift>>(&body).unwrap_or_default();
        if !(1..=SHIFTS_MAX).contains(&shifts.len()) || !shifts.iter().all(|shift| shift.is_sound(now)) {
            return Err(invalid("that is no list of 1 to 1000 sound shifts"));
        }
        tracing::debug!(?shifts, "asked to add");
        let value = AddShifts { batch, shifts };
        let fingerprint = Sha256::digest(&body).into();
        let command = Command::typed(&value, &value.batch, fingerprint, db::to_microseconds(wall))
            .map_err(|_| invalid("that cannot be kept"))?;
        // On a task of its own: a client that leaves drops no write half-way.
        let deadline = Deadline::after(Instant::now(), REQUEST_MAX);
        let writing = tokio::spawn(async move { self.db.write(command, deadline).await });
        match writing.await {
            Ok(Ok(Written::Journaled { .. })) => Ok(json(StatusCode::ACCEPTED, r#"{"pending":true}"#)),
            Ok(Ok(Written::Committed { answer, .. })) => Ok(json(StatusCode::CREATED, answer)),
            Ok(Err(WriteError::Rejected(error))) => Err(Problem::from(&error).member("outcome", "rejected")),
            Ok(Err(WriteError::Unknown(error))) => Err(Problem::from(&error).member("outcome", "unknown")),
            Ok(Err(WriteError::KeyReused)) => {
                Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "key-reused", "the key was used before"))
            }
            _ => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "something broke here")),
        }
    }
}

fn invalid(detail: &'static str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid", "the request cannot be understood").detail(detail)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (Ok(url), [folder, listen, admin]) = (env::var("DATABASE_URL"), arguments.as_slice()) else {
        return Err("say DATABASE_URL=postgres://… and FOLDER LISTEN ADMIN".into());
    };
    let (folder, listen) = (Path::new(folder), listen.parse::<SocketAddr>()?);
    if !listen.ip().is_loopback() {
        return Err("it asks nobody who he is, so it listens on this machine alone".into());
    }
    let mut signals = Signals::new()?;
    let filter = env::var("SHIFTS_LOG").unwrap_or("info".to_owned());
    service::install_tracing(LogFormat::Json, &filter, &["shifts"])?;
    let vitals = Arc::new(Vitals::new(ReadyPolicy::default()));
    let release = env!("CARGO_PKG_VERSION");
    let probes = vitals.probes(release, Verbosity::Brief);
    let seen = Arc::clone(&vitals);
    let state = move || seen.state(release);
    let config = || serde_json::Value::Null;
    let admin = Admin::new(&probes, service::install_metrics()?, state, config).start(admin.parse()?)?;
    let (journal, writer, _) = Journal::open(JournalConfig::new(folder.join("journal")))?;
    let mut cache = CacheConfig::default();
    cache.snapshot.dir = Some(folder.to_owned());
    let config = DbConfig { url, ..DbConfig::default() };
    let commands = Arc::new(Registry::new(()).with::<AddShifts>());
    let (db, background) = Db::new(config, cache, journal.clone(), commands)?;
    vitals.attach(db.clone());
    let ((front, accepting), (back, draining)) = (Drain::new(), Drain::new());
    let writer = tokio::task::spawn_blocking(move || writer.run());
    let writer = async move { writer.await.expect("the journal's writer does not panic") };
    let writer = tokio::spawn(vitals.watch("journal writer", writer, draining.clone()));
    for (name, part) in background.parts(&draining) {
        tokio::spawn(vitals.watch(name, part, draining.clone()));
    }
    tokio::spawn(vitals.watch("tables", db.clone().keep_tables(TABLES), draining.clone()));
    tokio::spawn(vitals::keep_shown(Arc::clone(&vitals)));
    let listener = tokio::net::TcpListener::bind(listen).await?;
    tracing::info!(main = %listener.local_addr()?, admin = %admin.address, "listening");
    let app = App { db, probes };
    let answer = move |request| app.clone().answer(request);
    let serving =
        tokio::spawn(async move { service::serve(listener, answer, &Limits::default(), accepting).await });
    vitals.turn(Life::Running);
    while signals.next().await != Signal::Stop {}
    vitals.turn(Life::Draining);
    front.begin();
    tracing::info!(cut = serving.await?.cut, "drained");
    back.begin();
    journal.close();
    writer.await?;
    Ok(())
}
