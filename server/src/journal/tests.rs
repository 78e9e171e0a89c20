//! `journal inspect` on real folders: what it answers, with which exit code, and that it leaves every byte alone.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use ridethrough::journal::{Aside, Journal, JournalConfig, NewEntry};
use tempfile::TempDir;

use super::*;

const FIRST: &str = "00000000000000000001.segment";
const CANARY: &str = "canary";

/// A data folder with a journal of six writes in several segments, `settled` of them done with.
fn filled(settled: u64) -> (TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("journal");
    let config = JournalConfig { segment_bytes: 4096, ..JournalConfig::new(&folder) };
    let (journal, writer, _) = Journal::open(config).unwrap();
    let thread = std::thread::spawn(move || writer.run());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for number in 1..=6_u64 {
        let kind = if number % 3 == 0 { "todo.delete/1" } else { "todo.create/1" };
        let entry = NewEntry {
            key: format!("{CANARY}-{number}"),
            kind: kind.to_owned(),
            fingerprint: [7; 32],
            accepted_at: UNIX_EPOCH + std::time::Duration::from_secs(1_790_000_000 + number),
            payload: CANARY.repeat(300).into(),
            version: 1,
            ordering_key: String::new(),
            retried: false,
        };
        runtime.block_on(journal.append(entry)).unwrap();
    }
    journal.settled(&(1..=settled).collect::<Vec<u64>>());
    drop(journal);
    thread.join().unwrap();
    (temp, folder)
}

fn everything(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let items = fs::read_dir(folder).unwrap().map(|item| item.unwrap());
    items
        .map(|item| {
            (item.path(), (fs::read(item.path()).unwrap(), item.metadata().unwrap().modified().unwrap()))
        })
        .collect()
}

/// Looks at a data folder, which must stay as it is, and gives the exit code and what was said.
fn looked(data_dir: &Path, format: Format) -> (u8, String) {
    let mut config = Config::default();
    config.server.data_dir = data_dir.to_path_buf();
    let folder = data_dir.join("journal");
    let before = folder.is_dir().then(|| everything(&folder));
    let mut out = Vec::new();
    let answered = inspect(&config, format, &mut out);
    assert_eq!(folder.is_dir().then(|| everything(&folder)), before, "looking touches nothing");
    let said = String::from_utf8(out).unwrap();
    assert!(!said.contains(CANARY), "no key and no content: {said}");
    answered.map_or_else(|(code, reason)| (code, reason), |code| (code, said))
}

fn flip(file: &Path, offset: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[offset] ^= 1;
    fs::write(file, bytes).unwrap();
}

fn newest(folder: &Path) -> PathBuf {
    let segments =
        everything(folder).into_keys().filter(|path| path.extension().is_some_and(|end| end == "segment"));
    segments.max().unwrap()
}

#[test]
fn a_sound_journal_is_told_with_what_waits_by_command() {
    let (data, _) = filled(0);
    let (code, said) = looked(data.path(), Format::Text);
    assert_eq!(code, CLEAN, "{said}");
    for part in [
        "journal: sound\n",
        "00000000000000000001.segment: format 1, ",
        "(sequences 1 to ",
        "waiting: 6 writes, ",
        "the oldest accepted at 2026-09-21T14:13:21Z",
        "  todo.create/1: 4\n",
        "  todo.delete/1: 2\n",
    ] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
    assert!(!said.contains("in use") && !said.contains("What you can do"), "{said}");
}

#[test]
fn machines_get_one_object() {
    let (data, folder) = filled(4);
    let (code, said) = looked(data.path(), Format::Json);
    let object: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &object["sound"], &object["in_use"]), (CLEAN, &json!(true), &json!(false)));
    assert_eq!(object["cursor"], json!({"is": "sound", "through": 4}));
    assert_eq!(object["pending"]["entries"], 2);
    assert_eq!(object["pending"]["by_command"], json!({"todo.create/1": 1, "todo.delete/1": 1}));
    flip(&newest(&folder), 100);
    let (code, said) = looked(data.path(), Format::Json);
    let object: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &object["sound"]), (INTERNAL_FAULT, &json!(false)));
    let last = object["segments"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["state"]["is"], &last["state"]["offset"]), (&json!("damaged"), &json!(52)));
    assert_eq!(object["lost_without_damaged_files"][0]["first"], 5);
}

#[test]
fn a_torn_tail_is_sound_and_said_in_words() {
    let (data, folder) = filled(0);
    let file = newest(&folder);
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 9]).unwrap();
    let (code, said) = looked(data.path(), Format::Text);
    assert_eq!(code, CLEAN);
    assert!(said.contains("sound, with a torn tail of ") && said.contains("never acknowledged"), "{said}");
    assert!(said.contains("waiting: 5 writes"), "{said}");
}

#[test]
fn damage_is_told_with_place_loss_and_what_can_be_done() {
    let (data, folder) = filled(0);
    flip(&folder.join(FIRST), 100);
    let (code, said) = looked(data.path(), Format::Text);
    assert_eq!(code, INTERNAL_FAULT);
    for part in [
        "DAMAGED: a server does not start with it",
        "DAMAGED at byte 52: ",
        "keep a copy of all of ",
        "another, empty --data-dir",
        "Setting 00000000000000000001.segment aside loses the 2 writes of sequences 1 to 2; 0 of them come before the damage.",
        "A server starts with what is left.",
    ] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
    fs::remove_file(folder.join(FIRST)).unwrap();
    assert_eq!(looked(data.path(), Format::Text).0, CLEAN, "as foretold");
}

#[test]
fn a_gap_that_setting_aside_would_leave_is_foretold() {
    let (data, folder) = filled(1);
    let middle = folder.join("00000000000000000003.segment");
    flip(&middle, 100);
    let (_, said) = looked(data.path(), Format::Text);
    assert!(said.contains("A server would still refuse what is left: records 3 to 4 are missing"), "{said}");
    fs::remove_file(middle).unwrap();
    assert_eq!(looked(data.path(), Format::Text).0, INTERNAL_FAULT, "as foretold");
}

#[test]
fn a_cursor_past_the_end_and_an_unreadable_one_get_their_own_advice() {
    let (data, folder) = filled(6);
    fs::remove_file(newest(&folder)).unwrap();
    let (code, said) = looked(data.path(), Format::Text);
    assert_eq!(code, INTERNAL_FAULT);
    assert!(said.contains("everything up to sequence 6 is settled, but records up to 6"), "{said}");
    assert!(said.contains("in no file of this folder"), "{said}");

    let (data, folder) = filled(1);
    fs::write(folder.join("cursor"), b"rot").unwrap();
    let (code, said) = looked(data.path(), Format::Text);
    assert_eq!(code, CLEAN);
    assert!(said.contains("cursor: unreadable (") && said.contains("doubles nothing"), "{said}");
}

#[test]
fn a_running_owner_is_named_and_not_disturbed() {
    let (data, folder) = filled(0);
    let (journal, writer, _) = Journal::open(JournalConfig::new(&folder)).unwrap();
    let (code, said) = looked(data.path(), Format::Text);
    assert_eq!(code, CLEAN);
    assert!(said.contains("in use: a server owns it now"), "{said}");
    drop((journal, writer));
    assert!(!looked(data.path(), Format::Text).1.contains("in use"));
}

#[test]
fn no_journal_there_is_wrong_usage_in_a_clear_sentence() {
    let (data, folder) = filled(0);
    let elsewhere = data.path().join("typo");
    let (code, said) = looked(&elsewhere, Format::Text);
    assert_eq!(code, WRONG_CONFIGURATION);
    assert!(said.contains("no journal in ") && said.contains("--data-dir"), "{said}");
    assert!(!elsewhere.exists(), "looking makes no folder");
    let (code, said) = looked(&folder, Format::Text);
    assert_eq!(code, WRONG_CONFIGURATION);
    assert!(said.contains("not that folder itself"), "{said}");
}

#[test]
fn a_time_beyond_the_calendar_is_no_panic() {
    let far = UNIX_EPOCH + std::time::Duration::from_secs(9_000_000_000_000);
    assert_eq!(rfc3339(far), None);
    assert_eq!(rfc3339(UNIX_EPOCH - std::time::Duration::from_secs(1)).unwrap(), "1969-12-31T23:59:59Z");
}

/// The same with one write rejected and one held.
fn with_letters() -> (TempDir, PathBuf) {
    let (temp, folder) = filled(0);
    let (journal, writer, _) = Journal::open(JournalConfig::new(&folder)).unwrap();
    let thread = std::thread::spawn(move || writer.run());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let reason = || "23505".to_owned();
    runtime.block_on(journal.set_aside(&[2, 3], Aside::Rejected { reason: reason() })).unwrap();
    runtime.block_on(journal.set_aside(&[5], Aside::Held { reason: "unknown-command".to_owned() })).unwrap();
    drop(journal);
    thread.join().unwrap();
    (temp, folder)
}

fn config_of(data: &TempDir) -> Config {
    let mut config = Config::default();
    config.server.data_dir = data.path().to_path_buf();
    config
}

fn said(done: impl FnOnce(&mut dyn Write) -> Result<u8, (u8, String)>) -> (u8, String) {
    let mut out = Vec::new();
    match done(&mut out) {
        Ok(code) => (code, String::from_utf8(out).unwrap()),
        Err((code, reason)) => (code, reason),
    }
}

#[test]
fn what_is_set_aside_is_told_by_command_and_reason() {
    let (data, _) = with_letters();
    let (code, text) = looked(data.path(), Format::Text);
    assert_eq!(code, CLEAN, "{text}");
    for part in [
        "waiting: 3 writes",
        "set aside: 2 rejected, 1 held, 0 moved",
        "  rejected (23505): todo.create/1 version 1, 1 write of 1 ordering key\n",
        "  held (unknown-command): todo.create/1 version 1, 1 write",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    let (_, object) = looked(data.path(), Format::Json);
    let object: Value = serde_json::from_str(&object).unwrap();
    assert_eq!((&object["set_aside"]["rejected"], &object["set_aside"]["held"]), (&json!(2), &json!(1)));
}

#[test]
fn export_writes_everything_that_is_set_aside_and_changes_nothing() {
    let (data, folder) = with_letters();
    let before = everything(&folder);
    let config = config_of(&data);
    let (code, lines) = said(|out| letters::export(&config, None, None, out));
    assert_eq!((code, lines.lines().count()), (CLEAN, 3), "{lines}");
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["key"], &first["is"], &first["reason"]),
        (&json!("canary-2"), &json!("rejected"), &json!("23505"))
    );
    assert_eq!(first["payload"]["text"], CANARY.repeat(300));
    let file = data.path().join("letters.jsonl");
    let (code, words) = said(|out| letters::export(&config, Some("canary-5"), Some(&file), out));
    assert!(code == CLEAN && words.starts_with("wrote 1 write to "), "{words}");
    assert!(fs::read_to_string(&file).unwrap().contains("\"held\""));
    let there = fs::read(&file).unwrap();
    let (code, words) = said(|out| letters::export(&config, None, Some(&file), out));
    assert!(code == WRONG_CONFIGURATION && words.contains("exists already"), "{code}: {words}");
    assert_eq!(fs::read(&file).unwrap(), there, "a file that is there is not written over");
    let nowhere = data.path().join("nowhere").join("letters.jsonl");
    let (code, words) = said(|out| letters::export(&config, None, Some(&nowhere), out));
    assert!(code == WRONG_CONFIGURATION && words.contains("cannot be made"), "{code}: {words}");
    assert_eq!(said(|out| letters::export(&config, Some("nobody"), None, out)).0, WRONG_CONFIGURATION);
    assert_eq!(everything(&folder), before);
}

/// A write that had long been applied stood among the dead letters for a moment: after a restart the journal had moved it
/// out of its segments' way, and had not yet noted on disk that it was settled.
#[test]
fn export_is_silent_about_writes_that_only_made_room() {
    let (data, folder) = filled(0);
    let (journal, writer, _) = Journal::open(JournalConfig::new(&folder)).unwrap();
    let thread = std::thread::spawn(move || writer.run());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(journal.set_aside(&[2], Aside::Held { reason: "moved".to_owned() })).unwrap();
    drop(journal);
    thread.join().unwrap();
    assert!(looked(data.path(), Format::Text).1.contains("set aside: 0 rejected, 0 held, 1 moved"));
    let config = config_of(&data);
    assert_eq!(said(|out| letters::export(&config, None, None, out)), (CLEAN, String::new()));
    assert_eq!(said(|out| letters::export(&config, Some("canary-2"), None, out)).0, WRONG_CONFIGURATION);
}

#[test]
fn rejected_writes_are_given_back_or_forgotten_and_held_ones_are_not() {
    let (data, _) = with_letters();
    let config = config_of(&data);
    let (code, words) = said(|out| letters::retry(&config, Some("canary-2"), out));
    assert!(code == CLEAN && words.starts_with("gave back 1 write;"), "{words}");
    assert_eq!(said(|out| letters::retry(&config, Some("canary-2"), out)).0, WRONG_CONFIGURATION);
    assert_eq!(said(|out| letters::discard(&config, Some("canary-5"), out)).0, WRONG_CONFIGURATION);
    let (code, words) = said(|out| letters::discard(&config, None, out));
    assert_eq!((code, words.as_str()), (CLEAN, "discarded 1 write\n"));
    let (_, text) = looked(data.path(), Format::Text);
    assert!(text.contains("waiting: 4 writes") && text.contains("set aside: 0 rejected, 1 held"), "{text}");
}

#[test]
fn a_running_server_keeps_its_dead_letters_to_itself() {
    let (data, folder) = with_letters();
    let config = config_of(&data);
    let owner = Journal::open(JournalConfig::new(&folder)).unwrap();
    let (code, words) = said(|out| letters::discard(&config, None, out));
    assert!(code == WRONG_CONFIGURATION && words.contains("stop the server first"), "{words}");
    drop(owner);
    let nowhere = tempfile::tempdir().unwrap();
    assert_eq!(said(|out| letters::retry(&config_of(&nowhere), None, out)).0, WRONG_CONFIGURATION);
    assert!(!nowhere.path().join("journal").exists());
}

/// A number beyond 64 bits came out rounded, so a discarded write could not be made again from its export.
#[test]
fn a_payload_is_exported_to_the_digit() {
    let exported = |payload: &str| {
        let entry = ridethrough::journal::Entry {
            sequence: 1,
            key: "k".to_owned(),
            kind: "c".to_owned(),
            fingerprint: [0; 32],
            accepted_at: UNIX_EPOCH + std::time::Duration::from_secs(9_000_000_000_000),
            payload: payload.to_owned().into(),
            version: 1,
            ordering_key: String::new(),
            retried: false,
        };
        let why = Aside::Rejected { reason: "23505".to_owned() };
        letters::line(&ridethrough::journal::AsideEntry { entry, why, since: UNIX_EPOCH })
    };
    let line = exported(r#"{"b":123456789012345678901234567890,"a":1,"a":2}"#);
    assert!(
        line.contains(r#""payload":{"json":{"b":123456789012345678901234567890,"a":1,"a":2}}}"#),
        "{line}"
    );
    assert!(line.contains(r#""accepted_at":null"#), "beyond the calendar, and no panic: {line}");
    for (payload, told) in [("{\n}", r#"{"text":"{\n}"}"#), ("plain", r#"{"text":"plain"}"#)] {
        let line = exported(payload);
        assert!(line.contains(told) && line.lines().count() == 1, "{line}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_fault_and_an_export_is_its_owners_alone() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (data, _) = with_letters();
    let config = config_of(&data);
    assert_eq!(letters::export(&config, None, None, &mut Gone).unwrap(), CLEAN);
    let file = data.path().join("letters.jsonl");
    assert_eq!(letters::export(&config, None, Some(&file), &mut Gone).unwrap(), CLEAN);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn all_are_given_back_but_those_whose_keys_wait_already() {
    let (data, folder) = with_letters();
    let (journal, writer, _) = Journal::open(JournalConfig::new(&folder)).unwrap();
    let thread = std::thread::spawn(move || writer.run());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let again = NewEntry {
        key: "canary-2".to_owned(),
        kind: "todo.create/1".to_owned(),
        fingerprint: [8; 32],
        accepted_at: UNIX_EPOCH,
        payload: "{}".into(),
        version: 1,
        ordering_key: String::new(),
        retried: false,
    };
    runtime.block_on(journal.append(again)).unwrap();
    drop(journal);
    thread.join().unwrap();
    let config = config_of(&data);
    let mut out = Vec::new();
    let (code, reason) = letters::retry(&config, None, &mut out).unwrap_err();
    assert!(code == WRONG_CONFIGURATION && reason.starts_with("1 write stayed rejected"), "{reason}");
    assert!(String::from_utf8(out).unwrap().starts_with("gave back 1 write;"));
    let (_, text) = looked(data.path(), Format::Text);
    assert!(text.contains("set aside: 1 rejected, 1 held"), "{text}");
}
