//! What the tests of the test kit share: a small server, and short ways to ask it.

pub(crate) use std::time::{Duration, SystemTime};

pub(crate) use bytes::Bytes;
pub(crate) use ridethrough::testkit::{At, FakePostgres, Fault, Reply};
pub(crate) use tokio::time::{Instant, timeout};
pub(crate) use tokio_postgres::{Client, Error, NoTls, SimpleQueryMessage, types::Type};

pub(crate) fn code(error: &Error) -> Option<&str> {
    error.code().map(|code| code.code())
}

/// The first column of the first row of a simple query.
pub(crate) async fn one(client: &Client, sql: &str) -> Option<String> {
    let messages = client.simple_query(sql).await.unwrap();
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0)?.to_owned()),
        _ => None,
    })
}

pub(crate) fn todos() -> FakePostgres {
    FakePostgres::builder()
        .schema("CREATE TABLE todos (id bigint, title text, done boolean, at timestamptz)")
        .on("SELECT title", Reply::rows(["title", "done"], [("milk", false), ("bread", true)]))
        .on("INSERT INTO todos", Reply::touched(1))
        .start()
}

pub(crate) const CLAIM: &str = "INSERT INTO ridethrough_writes (key, command, fingerprint, outcome, accepted_at) \
                     VALUES ($1, $2, $3, 'applied', $4) ON CONFLICT (key) DO NOTHING";

pub(crate) async fn claim(client: &Client, key: &str) -> Result<u64, Error> {
    client.execute(CLAIM, &[&key, &"todo.create", &[7_u8; 32].as_slice(), &SystemTime::UNIX_EPOCH]).await
}
