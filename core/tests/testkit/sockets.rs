//! Real sockets, and bytes that are no protocol.

use super::kit::*;

/// On a real clock, since real sockets and a paused one do not go together.
#[tokio::test]
async fn the_same_server_listens_on_a_port() {
    let server = todos();
    let port = server.listen().await.unwrap().port();
    let url = format!("host=127.0.0.1 port={port} user=app");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    assert_eq!(one(&client, "SELECT title FROM todos").await.unwrap(), "milk");
    server.outage();
    assert!(connection.await.unwrap().is_err());
    assert!(tokio_postgres::connect(&url, NoTls).await.is_err());
}

#[tokio::test]
async fn bytes_that_are_no_protocol_end_their_connection_only() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let server = todos();
    for bytes in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[0xff; 64], &[0, 0, 0, 8, 0, 0, 0, 0]] {
        let mut stream = server.stream();
        stream.write_all(bytes).await.unwrap();
        assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    }
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..200 {
        let mut stream = server.stream();
        stream.write_all(b"\0\0\0\x13\0\x03\0\0user\0app\0\0").await.unwrap();
        let mut noise: Vec<u8> = (0..random.usize(1..100)).map(|_| random.u8(..)).collect();
        // A kind of message that there is, of a length that fits, with anything inside.
        let length = u32::try_from(noise.len() + 4).unwrap().to_be_bytes();
        noise.splice(0..0, length);
        noise.insert(0, b"QPBDECSHp"[random.usize(..9)]);
        stream.write_all(&noise).await.unwrap();
        stream.shutdown().await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    }
    assert!(server.client().await.is_ok());
}
