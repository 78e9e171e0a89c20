//! Without a rule the proxy is not there: everything a driver does goes through, and is counted.

use bytes::Bytes;
use futures_util::{SinkExt, TryStreamExt, future::try_join_all, pin_mut};

use super::super::*;

#[tokio::test]
async fn a_deep_pipeline_of_large_rows_flows_in_both_directions() {
    const QUERIES: usize = 40;
    /// More than all buffers on the way together hold: whoever waited for one side to finish would stand still.
    const BYTES: usize = 300_000;
    let bench = Bench::start().await;
    let client = bench.client().await;
    let text = "x".repeat(BYTES);
    let ask = async |_| {
        let row = client.query_one("SELECT $1::text || $1", &[&text]).await?;
        Ok::<_, Error>(row.get::<_, &str>(0).len())
    };
    let lengths = within(try_join_all((0..QUERIES).map(ask))).await.unwrap();
    assert_eq!(lengths, vec![2 * BYTES; QUERIES]);
    let counts = bench.proxy.counts();
    assert!(counts.bytes_from_clients > (QUERIES * BYTES) as u64, "{counts:?}");
    assert!(counts.bytes_from_server > (2 * QUERIES * BYTES) as u64, "{counts:?}");
    assert_eq!((counts.connections, counts.sessions, counts.sessions_open), (1, 1, 1));
    assert_eq!((counts.statements, bench.proxy.statements().len()), (QUERIES as u64, QUERIES));
    assert_eq!((counts.bites, counts.malformed, bench.proxy.arrivals().len()), (0, 0, 1));
    drop(client);
    let closed = async {
        while bench.proxy.counts().sessions_open > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(closed).await;
}

#[tokio::test]
async fn rows_are_copied_in_and_out_and_the_statement_after_that_is_known() {
    let bench = Bench::start().await;
    let client = bench.client().await;
    let sink = client.copy_in("COPY t FROM STDIN").await.unwrap();
    pin_mut!(sink);
    for number in 0..1_000 {
        sink.send(Bytes::from(format!("row {number}\n"))).await.unwrap();
    }
    assert_eq!(within(sink.finish()).await.unwrap(), 1_000);
    let bad = client.copy_in("COPY t FROM STDIN").await.unwrap();
    pin_mut!(bad);
    bad.send(Bytes::from("row 1\n")).await.unwrap();
    assert_eq!(code(&within(bad.finish()).await.unwrap_err()), Some("23505"));
    let rows = client.copy_out("COPY t TO STDOUT").await.unwrap();
    let rows: Vec<Bytes> = within(rows.try_collect()).await.unwrap();
    assert_eq!(rows.len(), 1_000);
    // Attributed rightly after all that: the rule finds its statement.
    let cut = bench.plant("server ReadyForQuery(\"'the statement after'\"): close");
    within(client.query("SELECT 'another'", &[])).await.unwrap();
    assert_eq!(cut.count(), 0);
    within(client.query("SELECT 'the statement after'", &[])).await.unwrap_err();
    assert_eq!(cut.count(), 1);
}

#[tokio::test]
async fn notices_and_notifications_come_through_while_others_are_answered() {
    let bench = Bench::start().await;
    let config: Config = bench.url().parse().unwrap();
    let (client, mut connection) = config.connect(NoTls).await.unwrap();
    let heard = tokio::spawn(async move {
        let mut heard = Vec::new();
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            match message {
                AsyncMessage::Notice(notice) => heard.push(notice.message().to_owned()),
                AsyncMessage::Notification(told) => heard.push(told.payload().to_owned()),
                _ => {}
            }
        }
        heard
    });
    let raise = "LISTEN here; NOTIFY here, 'told'; DO $$ BEGIN RAISE NOTICE 'noticed'; END $$";
    within(client.batch_execute(raise)).await.unwrap();
    let answers = client.simple_query("SELECT 1; SELECT 2; ROLLBACK").await.unwrap();
    assert!(answers.len() > 4);
    drop(client);
    let heard = within(heard).await.unwrap();
    assert!(heard.contains(&"noticed".to_owned()) && heard.contains(&"told".to_owned()), "{heard:?}");
}

/// What a driver prepares once and runs later under its name, in a pipeline with others, and a COMMIT among them.
#[tokio::test]
async fn a_statement_prepared_earlier_is_known_by_its_text() {
    let bench = Bench::start().await;
    let client = bench.client().await;
    let commit = client.prepare("COMMIT").await.unwrap();
    let insert = client.prepare("INSERT INTO t (key) VALUES ($1)").await.unwrap();
    let cut = bench.plant("server CommandComplete(COMMIT) #2: close");
    let sent = bench.plant("client Execute(COMMIT) every: hold 1ms");
    client.batch_execute("BEGIN").await.unwrap();
    let (inserted, committed) =
        tokio::join!(client.execute(&insert, &[&"first"]), client.execute(&commit, &[]));
    assert!(inserted.is_ok() && committed.is_ok());
    client.batch_execute("BEGIN").await.unwrap();
    let (inserted, committed) =
        tokio::join!(client.execute(&insert, &[&"second"]), client.execute(&commit, &[]));
    assert!(inserted.is_ok(), "{inserted:?}");
    assert_eq!(code(&committed.unwrap_err()), None);
    assert_eq!((cut.count(), sent.count()), (1, 2));
    assert!(bench.has("second").await);
}

#[tokio::test]
async fn a_transaction_is_recorded_message_by_message() {
    let bench = Bench::start().await;
    let client = bench.client().await;
    insert(&client, "before").await.unwrap();
    bench.proxy.record();
    insert(&client, "recorded").await.unwrap();
    let recorded = bench.proxy.recorded();
    let line = |of: Sender| -> Vec<&str> {
        recorded.iter().filter(|one| one.message.sender() == of).map(|one| one.message.name()).collect()
    };
    assert_eq!(
        line(Sender::Client),
        ["Query", "Parse", "Describe", "Sync", "Bind", "Execute", "Sync", "Close", "Sync", "Query"]
            .into_iter()
            .filter(|name| line(Sender::Client).contains(name))
            .collect::<Vec<_>>()
    );
    let commit = recorded.iter().find(|one| one.about.as_deref() == Some("COMMIT")).unwrap();
    assert_eq!(commit.statement.as_deref(), Some("COMMIT"));
    assert!(recorded.last().unwrap().is_idle);
    assert_eq!(bench.proxy.recorded(), [], "only once");
}

/// A database that is down looks as near as possible to a refusal, and is counted.
#[tokio::test]
async fn a_server_that_is_not_there_is_counted() {
    let bench = Bench::alone().await;
    let client = bench.client().await;
    bench.cluster.kill().await.unwrap();
    let error = within(client.query("SELECT 1", &[])).await.unwrap_err();
    assert!(error.is_closed() || code(&error).is_some(), "{error:?}");
    assert!(bench.try_client().await.is_err());
    let counts = bench.proxy.counts();
    assert_eq!((counts.connections, counts.unreachable), (2, 1));
}

#[tokio::test]
async fn the_proxy_ends_with_its_last_handle_and_takes_its_connections_with_it() {
    let bench = Bench::start().await;
    let client = bench.client().await;
    let address = bench.proxy.address();
    let Bench { cluster: _cluster, proxy, .. } = bench;
    drop(proxy);
    within(async {
        while !client.is_closed() || tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Whoever does not read stops only who writes to him: the proxy keeps little of it, and others go on.
#[tokio::test]
async fn a_client_that_does_not_read_fills_no_memory_and_stops_nobody_else() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    /// Far above the buffers of the systems below, and far below what was asked for.
    const PASSED_MAX: u64 = 32 * 1024 * 1024;
    const ASKED: usize = 200 * 1024 * 1024;
    let bench = Bench::start().await;
    let mut silent = tokio::net::TcpStream::connect(bench.proxy.address()).await.unwrap();
    // The canary needs no password, and may select what is in no table.
    silent.write_all(b"\0\0\0\x27\0\x03\0\0user\0canary\0database\0postgres\0\0").await.unwrap();
    let mut greeting = vec![0; 4096];
    assert!(within(silent.read(&mut greeting)).await.unwrap() > 0);
    let sql = format!("SELECT repeat('x', 1024) FROM generate_series(1, {})\0", ASKED / 1024);
    let mut query = vec![b'Q'];
    query.extend(u32::try_from(sql.len() + 4).unwrap().to_be_bytes());
    query.extend(sql.as_bytes());
    silent.write_all(&query).await.unwrap();
    let full = async {
        let mut before = 0;
        loop {
            tokio::time::sleep(SILENT).await;
            let now = bench.proxy.counts().bytes_from_server;
            if now == before && now > 1024 * 1024 {
                return now;
            }
            before = now;
        }
    };
    let passed = within(full).await;
    assert!(passed < PASSED_MAX, "{passed} bytes were taken from the server");
    within(insert(&bench.client().await, "beside it")).await.unwrap();
    let mut read = 0;
    let mut buffer = vec![0; 1024 * 1024];
    let all = async {
        while read < ASKED {
            read += silent.read(&mut buffer).await.unwrap();
        }
    };
    within(all).await;
}
