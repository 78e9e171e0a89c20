//! A service as many are: lists kept in PostgreSQL, correct as long as nothing happens. It shows what the laboratory
//! finds, and must not be copied: one connection without any deadline, a liveness probe that asks the database, a retry
//! of everything without a key, and no answer but the database's.
//!
//! `naive PORT`, with `DATABASE_URL`. `POST /lists/KEY` with `{"value": TEXT}`, `GET /lists/KEY`, `GET /health`.

use std::convert::Infallible;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_postgres::{Client, NoTls};

type Failed = Box<dyn std::error::Error + Send + Sync>;
type Answer = Response<Full<Bytes>>;

/// The order of a list is right, also with many writers: the row of the list is locked until the commit.
const APPEND: &str = "\
    WITH place AS (INSERT INTO lists (list) VALUES ($1) \
                   ON CONFLICT (list) DO UPDATE SET length = lists.length + 1 RETURNING length) \
    INSERT INTO entries (list, place, value) SELECT $1, length, $2 FROM place";

/// Everything there is: one connection, made anew when it was seen to fail.
struct Service {
    url: String,
    connection: Mutex<Option<Arc<Client>>>,
}

impl Service {
    /// Waits for the database as long as it takes.
    async fn client(&self) -> Result<Arc<Client>, Failed> {
        let mut kept = self.connection.lock().await;
        if let Some(client) = kept.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let client = Arc::new(client);
        *kept = Some(Arc::clone(&client));
        Ok(client)
    }

    /// What "the database was away for a moment" is often met with: all of it once more, until it works.
    async fn append(&self, list: &str, value: &str) {
        while self.try_append(list, value).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn try_append(&self, list: &str, value: &str) -> Result<(), Failed> {
        let client = self.client().await?;
        client.execute(APPEND, &[&list, &value]).await?;
        // Stands for the mail that somebody gets about it.
        tokio::time::sleep(Duration::from_millis(150)).await;
        client.execute("UPDATE lists SET told = told + 1 WHERE list = $1", &[&list]).await?;
        Ok(())
    }

    async fn read(&self, list: &str) -> Result<Vec<String>, Failed> {
        let query = "SELECT value FROM entries WHERE list = $1 ORDER BY place";
        let rows = self.client().await?.query(query, &[&list]).await?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, Failed> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        if path == "/health" {
            self.client().await?.simple_query("SELECT 1").await?;
            return Ok(respond(StatusCode::OK, "{}"));
        }
        let Some(list) = path.strip_prefix("/lists/").map(str::to_owned) else {
            return Ok(respond(StatusCode::NOT_FOUND, "{}"));
        };
        if method == Method::GET {
            let values = serde_json::json!({ "values": self.read(&list).await? });
            return Ok(respond(StatusCode::OK, &values.to_string()));
        }
        let body = request.into_body().collect().await?.to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body)?;
        let Some(value) = body.get("value").and_then(serde_json::Value::as_str).map(str::to_owned) else {
            return Ok(respond(StatusCode::BAD_REQUEST, "{}"));
        };
        // In a task of its own, so that it is done also when the user has gone away.
        tokio::spawn(async move { self.append(&list, &value).await }).await?;
        Ok(respond(StatusCode::CREATED, "{}"))
    }
}

fn respond(status: StatusCode, body: &str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body.to_owned())));
    *answer.status_mut() = status;
    answer
}

async fn serve(service: Arc<Service>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    Ok(service.answer(request).await.unwrap_or_else(|error| {
        let text = serde_json::json!({ "error": error.to_string() });
        respond(StatusCode::INTERNAL_SERVER_ERROR, &text.to_string())
    }))
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let port: u16 = std::env::args().nth(1).ok_or("usage: naive PORT")?.parse()?;
    let url = std::env::var("DATABASE_URL")?;
    let service = Arc::new(Service { url, connection: Mutex::new(None) });
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    writeln!(std::io::stdout(), "listening on {}", listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            let answer = service_fn(move |request| serve(Arc::clone(&service), request));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}
