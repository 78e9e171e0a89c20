//! Each fault as the driver reports it.

use super::kit::*;

/// What a query meets where this fault strikes at it.
async fn met(at: At, fault: Fault) -> (FakePostgres, Client, Result<(), Error>) {
    let server = todos();
    let client = server.client().await.unwrap();
    server.fault(at, fault);
    let asked = timeout(Duration::from_secs(30), client.simple_query("SELECT title FROM todos")).await;
    let result = asked.map_or(Ok(()), |answer| answer.map(drop));
    assert_eq!(server.faults_waiting(), 0, "the fault did not strike");
    (server, client, result)
}

fn here() -> At {
    At::statement("SELECT title")
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_says_how_it_ended() {
    let (_server, client, dropped) = met(here(), Fault::Drop).await;
    assert!(dropped.unwrap_err().is_closed() && client.is_closed());
    let (_server, _client, reset) = met(here(), Fault::Reset).await;
    assert!(reset.unwrap_err().is_closed());
    for (fault, expected) in [(Fault::Fatal("57P01"), "57P01"), (Fault::Panic("57P02"), "57P02")] {
        let (_server, client, fatal) = met(here(), fault).await;
        assert_eq!(code(&fatal.unwrap_err()), Some(expected));
        tokio::task::yield_now().await;
        assert!(client.is_closed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_reaches_the_connection_as_such() {
    let server = todos();
    let (client, connection) =
        tokio_postgres::Config::new().user("app").connect_raw(server.stream(), NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    server.outage();
    let ended = connection.await.unwrap().unwrap_err();
    let source = std::error::Error::source(&ended).unwrap().downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(source.kind(), std::io::ErrorKind::ConnectionReset);
    drop(client);
    assert_eq!(server.dial().unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(server.client().await.is_err());
    server.recover();
    assert!(server.client().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_error_leaves_the_session_alive() {
    for (fault, expected) in
        [(Fault::Error("40001"), "40001"), (Fault::StrayCancel, "57014"), (Fault::StalePlan, "0A000")]
    {
        for at in [here(), At::after_statement("SELECT title"), At::BeforeMessage, At::AfterMessage] {
            let (_server, client, result) = met(at.clone(), fault.clone()).await;
            assert_eq!(code(&result.unwrap_err()), Some(expected), "{at:?}");
            assert_eq!(one(&client, "SELECT 1").await.unwrap(), "1");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_a_connection_that_stays_and_says_nothing() {
    let server = todos();
    let (client, connection) =
        tokio_postgres::Config::new().user("app").connect_raw(server.stream(), NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    server.fault(here(), Fault::Silence);
    let asked = timeout(Duration::from_secs(30), client.simple_query("SELECT title FROM todos")).await;
    assert!(asked.is_err() && !client.is_closed(), "nothing came for half a minute");
    assert_eq!(server.counts().open, 1);
    connection.abort();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(server.counts().open, 0, "the server sees the client go");
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_goes_on_where_it_stopped() {
    let server = todos();
    let client = server.client().await.unwrap();
    server.silence();
    let (answer, ()) = tokio::join!(client.simple_query("SELECT title FROM todos"), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        server.recover();
    });
    assert!(answer.is_ok());
}

#[tokio::test(start_paused = true)]
async fn slowness_is_ended_by_the_timeout_of_the_session_or_by_cancel() {
    let server = todos();
    let client = server.client().await.unwrap();
    let started = Instant::now();
    server.fault(here(), Fault::Delay(Duration::from_secs(3)));
    assert!(client.simple_query("SELECT title FROM todos").await.is_ok());
    assert_eq!(started.elapsed(), Duration::from_secs(3));

    client.batch_execute("SET statement_timeout = 250").await.unwrap();
    server.fault(here(), Fault::Delay(Duration::from_secs(3)));
    let timed_out = client.simple_query("SELECT title FROM todos").await.unwrap_err();
    assert_eq!((code(&timed_out), started.elapsed().as_millis()), (Some("57014"), 3_250));

    client.batch_execute("SET statement_timeout = 0").await.unwrap();
    server.fault(here(), Fault::Delay(Duration::from_secs(3)));
    let (cancelled, sent) = tokio::join!(client.simple_query("SELECT title FROM todos"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.cancel_token().cancel_query_raw(server.stream(), NoTls).await
    });
    sent.unwrap();
    assert_eq!(code(&cancelled.unwrap_err()), Some("57014"));
    assert_eq!((server.counts().cancels, started.elapsed().as_millis()), (1, 3_350));
}

#[tokio::test(start_paused = true)]
async fn malformed_and_cut_answers_end_the_connection() {
    let wrong = Bytes::from_static(b"\xff\x00\x00\x00\x01nonsense");
    let (_server, _client, result) = met(here(), Fault::Malformed(wrong)).await;
    assert!(result.is_err());
    for bytes in [0, 1, 7, 40] {
        let (_server, client, result) = met(At::AfterMessage, Fault::Cut(bytes)).await;
        assert!(result.is_err(), "{bytes} bytes are not an answer");
        assert!(client.is_closed());
    }
}

#[tokio::test(start_paused = true)]
async fn connecting_meets_what_a_starting_or_full_server_says() {
    for (fault, expected) in [
        (Fault::STARTING_UP, Some("57P03")),
        (Fault::TOO_MANY_CONNECTIONS, Some("53300")),
        (Fault::Drop, None),
    ] {
        let server = FakePostgres::builder().fault_nth(At::Connect, 2, fault).start();
        let _first = server.client().await.unwrap();
        assert_eq!(code(&server.client().await.unwrap_err()), expected);
        assert!(server.client().await.is_ok());
    }
    let server = FakePostgres::start();
    server.refuse("57P03");
    assert_eq!(code(&server.client().await.unwrap_err()), Some("57P03"));
}

/// The driver gives such words to the connection's task only; the next user sees a bare "connection closed".
#[tokio::test(start_paused = true)]
async fn last_words_come_while_nobody_asks() {
    for by_script in [true, false] {
        let server = todos();
        let (client, connection) =
            tokio_postgres::Config::new().user("app").connect_raw(server.stream(), NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        if by_script {
            server.fault(At::Idle, Fault::Fatal("57P01"));
            client.simple_query("SELECT 1").await.unwrap();
        } else {
            server.terminate_all("57P01");
        }
        assert_eq!(code(&connection.await.unwrap().unwrap_err()), Some("57P01"));
        let next = client.simple_query("SELECT 1").await.unwrap_err();
        assert!(next.is_closed() && next.code().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_only_server_refuses_writes_and_answers_reads() {
    let server = todos();
    let client = server.client().await.unwrap();
    server.make_read_only();
    assert_eq!(code(&claim(&client, "k").await.unwrap_err()), Some("25006"));
    assert!(client.simple_query("SELECT title FROM todos").await.is_ok());
    server.recover();
    assert_eq!(claim(&client, "k").await.unwrap(), 1);
}
