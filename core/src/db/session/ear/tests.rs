//! What the ear makes of what is said on a connection.

use super::*;

fn said(ear: &Ear, tags: &[u8]) {
    for tag in tags {
        ear.said(&Message { tag: *tag, body: &[] });
    }
}

fn heard(ear: &Ear, tag: u8, body: &[u8]) {
    ear.heard(&Message { tag, body });
}

/// A session that has been greeted.
fn greeted() -> Ear {
    let ear = Ear::new(1);
    said(&ear, &[0, b'p', b'p']);
    assert!(ear.is_busy());
    heard(&ear, b'K', &[0, 0, 1, 2, 9, 9, 9, 9]);
    heard(&ear, b'Z', b"I");
    ear
}

const SHUTDOWN: &[u8] = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0";

#[test]
fn a_greeted_session_is_idle_and_knows_its_process() {
    let ear = greeted();
    assert!(ear.is_idle() && !ear.is_in_transaction());
    assert_eq!(ear.process_id(), Some(258));
}

#[test]
fn pipelined_requests_are_busy_until_the_last_is_answered() {
    let ear = greeted();
    said(&ear, b"PBES");
    said(&ear, b"Q");
    heard(&ear, b'Z', b"I");
    assert!(!ear.is_idle());
    heard(&ear, b'Z', b"T");
    assert!(!ear.is_busy() && !ear.is_idle() && ear.is_in_transaction());
    said(&ear, b"Q");
    heard(&ear, b'Z', b"E");
    assert!(ear.is_in_transaction());
}

#[test]
fn half_a_request_is_not_idle() {
    let ear = greeted();
    said(&ear, b"PB");
    assert!(ear.is_busy() && !ear.is_idle());
}

/// The driver sends Sync with the start of a COPY and again at its end; the server answers one of them.
#[test]
fn a_copy_is_over_with_one_answer() {
    let ear = greeted();
    said(&ear, b"BES");
    heard(&ear, b'G', b"");
    said(&ear, b"ddcS");
    assert!(ear.is_busy());
    heard(&ear, b'Z', b"I");
    assert!(ear.is_idle());
}

/// The driver loses this: a session that is told to go while idle only shows "connection closed" to the next user.
#[test]
fn words_to_an_idle_session_are_kept() {
    let ear = greeted();
    heard(&ear, b'E', SHUTDOWN);
    let words = ear.last_words().unwrap();
    assert_eq!((words.code.as_str(), words.severity, words.host), ("57P01", Severity::Fatal, 1));
}

#[test]
fn an_error_that_answers_a_request_is_not_the_last_word() {
    let ear = greeted();
    said(&ear, b"Q");
    heard(&ear, b'E', b"SERROR\0VERROR\0C23505\0Mduplicate\0\0");
    assert_eq!(ear.last_words(), None);
}

/// Backends that must go because another one crashed say so by WARNING, and then close.
#[test]
fn a_crash_of_the_server_is_heard_although_it_comes_as_a_notice() {
    let ear = greeted();
    said(&ear, b"Q");
    heard(&ear, b'N', b"SWARNING\0VWARNING\0C57P02\0Mcrash of another server process\0\0");
    assert_eq!(ear.last_words().unwrap().code, "57P02");
}

#[test]
fn words_are_forgotten_where_the_session_went_on() {
    let ear = greeted();
    heard(&ear, b'N', b"SNOTICE\0VNOTICE\0C00000\0Mhello\0\0");
    assert!(ear.last_words().is_some());
    said(&ear, b"Q");
    heard(&ear, b'Z', b"I");
    assert_eq!(ear.last_words(), None);
}

#[test]
fn words_in_another_language_still_tell_the_end() {
    let ear = greeted();
    heard(&ear, b'E', b"SSCHWERWIEGEND\0VFATAL\0C57P01\0M...\0\0");
    assert_eq!(ear.last_words().unwrap().severity, Severity::Fatal);
}

#[test]
fn words_without_sense_do_no_harm() {
    for fields in [&b""[..], b"\0\0\0", b"C\0", b"C\xff\xfe\xfd\xfc\xfb\xfa\0", b"V", b"CABCDEFGHIJKLMNOP"] {
        let ear = greeted();
        heard(&ear, b'E', fields);
        assert!(ear.last_words().unwrap().code.chars().count() <= 5);
    }
}

#[test]
fn what_was_not_sent_can_be_proved_and_stays_unsent() {
    let ear = greeted();
    assert!(ear.offer(10));
    let mark = ear.mark();
    assert!(!ear.sent_since(mark));
    assert!(ear.seal_unless_sent(mark) && ear.seal_unless_sent(mark));
    assert!(!ear.offer(5), "a sealed connection let a byte out");
}

#[test]
fn what_was_sent_cannot_be_sealed_away() {
    let ear = greeted();
    let mark = ear.mark();
    assert!(ear.offer(1));
    assert!(ear.sent_since(mark) && !ear.seal_unless_sent(mark));
    assert!(ear.offer(1));
}

#[test]
fn a_conversation_that_cannot_be_followed_is_never_idle() {
    let ear = greeted();
    ear.lose();
    assert!(!ear.is_idle());
}
