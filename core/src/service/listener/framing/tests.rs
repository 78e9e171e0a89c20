//! Where messages end, and what is not clear, however the bytes are cut into pieces.

use super::*;

/// How many bytes get through before something is refused; all of them where nothing is. The same for every way to cut
/// the bytes in two, and for one byte at a time.
fn through(bytes: &str) -> Result<(), usize> {
    let bytes = bytes.as_bytes();
    let mut watch = Watch::default();
    let whole = watch.see(bytes).map_err(|unclear| unclear.after);
    for cut in 0..bytes.len() {
        let (first, second) = bytes.split_at(cut);
        let mut watch = Watch::default();
        let in_two = watch.see(first).and_then(|()| watch.see(second));
        assert_eq!(in_two.is_ok(), whole.is_ok(), "cut at {cut}");
    }
    let mut watch = Watch::default();
    let by_bytes = bytes.chunks(1).try_for_each(|byte| watch.see(byte));
    assert_eq!(by_bytes.is_ok(), whole.is_ok(), "byte by byte");
    whole
}

const NEXT: &str = "GET /next HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n";

/// Two messages in a row of which the second is not clear: it is found only if the end of the first is.
fn first_ends_right(first: &str) {
    assert_eq!(through(first), Ok(()), "{first:?}");
    let both = format!("{first}{NEXT}");
    let second_length = first.len() + NEXT.find("Content-Length: 1\r\n\r\n").unwrap();
    assert_eq!(through(&both), Err(second_length), "{first:?}");
}

#[test]
fn the_end_of_every_kind_of_message_is_found() {
    for first in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length:   12  \r\n\r\n\r\n\r\nA: b\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nabc\r\n\r\nC \r\n123456789\r\n\n\r\n0\r\nX: 1\r\nY: 2\r\n\r\n",
    ] {
        first_ends_right(first);
    }
}

#[test]
fn what_says_two_things_about_its_end_is_refused() {
    for fields in [
        "Content-Length: 1\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 1",
        "Transfer-Encoding: chunked\r\nX: y\r\ncontent-length : 1",
        "Content-Length: 1\r\nContent-Length: 1",
        "Content-Length: 1, 1",
        "Content-Length: +1",
        "Content-Length: -1",
        "Content-Length: 0x1",
        "Content-Length: 1 1",
        "Content-Length:",
        "Content-Length",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding:\u{b}chunked",
        "Transfer-Encoding:",
        "Transfer-Encoding:\r\n chunked",
        "X: 1\r\n\tContent-Length: 3",
        "X: 1\nContent-Length: 3",
        "X: 1\n",
    ] {
        assert!(through(&format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n")).is_err(), "{fields:?}");
    }
    for bytes in ["GET / HTTP/1.1\n\n", "\nGET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\n\n"] {
        assert!(through(bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn chunks_that_end_in_another_way_than_they_say_are_refused() {
    for body in [
        "2\nok\r\n0\r\n\r\n",
        "2\r\nok0\r\n\r\n",
        "2\r\nok\n0\r\n\r\n",
        "g\r\n",
        "\r\n",
        "-2\r\nok\r\n",
        "0x2\r\nok\r\n",
        "2_\r\nok\r\n",
        "10000000000000000\r\n",
        "00000000000000002\r\nok\r\n",
        "0\r\n\n",
        "0\r\nX: 1\n\r\n",
    ] {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(through(&format!("{head}{body}")).is_err(), "{body:?}");
    }
}

#[test]
fn a_long_line_is_not_kept_and_its_end_is_still_seen() {
    let long = "a".repeat(10 * LINE_BYTES_KEPT);
    first_ends_right(&format!("GET /{long} HTTP/1.1\r\nCookie: {long}\r\n\r\n"));
    assert!(through(&format!("GET / HTTP/1.1\r\nCookie: {long}\n\r\n")).is_err());
    let mut watch = Watch::default();
    for _ in 0..1_000 {
        watch.see(long.as_bytes()).unwrap();
    }
    assert!(watch.line.len() <= LINE_BYTES_KEPT + 1, "{}", watch.line.len());
}

/// A length so far to the right that it would not be kept must not be taken for a shorter one.
#[test]
fn a_length_after_many_blanks_is_judged_the_same_whether_it_came_in_pieces_or_not() {
    for digits in ["7", "77"] {
        let field = format!("Content-Length:{}{digits}", " ".repeat(LINE_BYTES_KEPT));
        let bytes = format!("POST / HTTP/1.1\r\n{field}\r\n\r\n");
        assert!(through(&bytes).is_err(), "{digits}");
    }
}

#[tokio::test]
async fn what_comes_before_is_passed_on_and_nothing_after() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (mut client, server) = tokio::io::duplex(4096);
    let first = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    client.write_all(format!("{first}{NEXT}GET /third HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
    let mut clear = Clear::new(server, Arc::default());
    let mut read = Vec::new();
    clear.read_to_end(&mut read).await.unwrap();
    let read = String::from_utf8(read).unwrap();
    assert!(read.starts_with(first) && read.ends_with("Content-Length: 1\r\n\0\r\n\r\n"), "{read:?}");
}

#[tokio::test]
async fn after_an_upgrade_nothing_is_looked_at() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (mut client, server) = tokio::io::duplex(4096);
    let is_upgraded = Arc::new(AtomicBool::new(false));
    let mut clear = Clear::new(server, Arc::clone(&is_upgraded));
    let head = "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    clear.read_exact(&mut vec![0; head.len()]).await.unwrap();
    is_upgraded.store(true, Ordering::Relaxed);
    client.write_all(b"\n\nanything\n").await.unwrap();
    let mut read = vec![0; 11];
    clear.read_exact(&mut read).await.unwrap();
    assert_eq!(read, b"\n\nanything\n");
}

/// Messages put together by chance, cut by chance: the verdict depends on the bytes alone, and nothing panics.
#[test]
fn the_verdict_does_not_depend_on_the_pieces_that_bytes_come_in() {
    const PARTS: [&str; 16] = [
        "GET / HTTP/1.1\r\n",
        "POST / HTTP/1.1\r\n",
        "Host: a\r\n",
        "Content-Length: 3\r\n",
        "content-length:7\r\n",
        "Transfer-Encoding: chunked\r\n",
        "transfer-encoding : chunked\r\n",
        "\r\n",
        "\n",
        "\r",
        "abc",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "5;x=y\r\n",
        " folded\r\n",
        "X: \u{e4}\0\r\n",
    ];
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut clear, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let count = random.usize(1..12);
        let text: String = (0..count).map(|_| PARTS[random.usize(..PARTS.len())]).collect();
        let mut whole = Watch::default();
        let verdict = whole.see(text.as_bytes()).is_ok();
        let mut pieces = Watch::default();
        let mut rest = text.as_bytes();
        let mut in_pieces = true;
        while in_pieces && !rest.is_empty() {
            let (piece, later) = rest.split_at(random.usize(1..=rest.len()));
            in_pieces = pieces.see(piece).is_ok();
            rest = later;
        }
        assert_eq!(in_pieces, verdict, "{text:?}");
        assert!(!verdict || (pieces.place == whole.place && pieces.line == whole.line), "{text:?}");
        if verdict { clear += 1 } else { refused += 1 }
    }
    assert!(clear > 1_000 && refused > 1_000, "{clear} clear, {refused} refused: too much of one kind");
}
