//! The name server, asked by the system's own resolver where this machine lets it have port 53, and by itself else.

use std::process::{Output, Stdio};

use super::*;

/// A question for the address of `db.test`, and the code and count of the answer.
async fn ask(names: &Names) -> Option<(u8, u8)> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let question = b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02db\x04test\x00\x00\x01\x00\x01";
    socket.send_to(question, names.address()).await.unwrap();
    let mut answer = [0; 512];
    let received = tokio::time::timeout(Duration::from_millis(200), socket.recv(&mut answer)).await;
    received.ok().map(|received| {
        assert!(received.unwrap() > 12);
        (answer[3] & 0x0f, answer[7])
    })
}

fn here() -> Answer {
    Answer::Addresses(vec![IpAddr::V4(Ipv4Addr::new(127, 9, 9, 9))])
}

#[tokio::test]
async fn what_is_said_for_a_while_is_unsaid_with_its_guard() {
    let (names, work) = Names::open(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
    let _server = tokio::spawn(work);
    assert_eq!(ask(&names).await, Some((3, 0)), "nobody said anything yet");
    names.say("DB.test.", Script::now(here()));
    assert_eq!(ask(&names).await, Some((0, 1)));
    let gone = names.put("db.test", Script::now(Answer::Failure));
    assert_eq!(ask(&names).await, Some((2, 0)));
    let silent = names.put("db.test", Script::now(Answer::Silence));
    assert_eq!(ask(&names).await, None);
    assert_eq!(silent.heal().questions, 1);
    assert_eq!(ask(&names).await, Some((2, 0)));
    drop(gone);
    assert_eq!(ask(&names).await, Some((0, 1)));
}

#[tokio::test]
async fn a_late_answer_holds_up_no_other() {
    let (names, work) = Names::open(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
    let _server = tokio::spawn(work);
    names.say("db.test", Script { answer: here(), after: Duration::from_secs(3_600) });
    assert_eq!(ask(&names).await, None);
    names.say("db.test", Script::now(here()));
    assert_eq!(ask(&names).await, Some((0, 1)));
}

async fn looked_up(launcher: &[OsString]) -> Output {
    let (program, arguments) = launcher.split_first().unwrap();
    let mut command = tokio::process::Command::new(program);
    // Unlike its `ahosts`, this asks also where the loopback is all the network there is.
    command.args(arguments).args(["getent", "hosts", "db.test"]).stdin(Stdio::null()).kill_on_drop(true);
    tokio::time::timeout(Duration::from_secs(20), command.output()).await.unwrap().unwrap()
}

#[tokio::test]
async fn the_resolver_of_the_system_is_led_here_without_root() {
    let (names, work) = match Names::open(ADDRESS).await {
        Ok(opened) => opened,
        Err(error) => {
            eprintln!("skipped: failed to {error}");
            return;
        }
    };
    let _server = tokio::spawn(work);
    let folder = tempfile::tempdir().unwrap();
    let launcher = names.launcher(folder.path()).unwrap();
    names.say("db.test", Script { answer: here(), after: Duration::from_millis(150) });
    let began = Instant::now();
    let output = looked_up(&launcher).await;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    if complaint.contains("unshare") || complaint.contains("mount") {
        eprintln!("skipped: {complaint}");
        return;
    }
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("127.9.9.9 "), "{text} {complaint}");
    assert!(began.elapsed() >= Duration::from_millis(150));
    let gone = names.put("db.test", Script::now(Answer::Unknown));
    assert!(!looked_up(&launcher).await.status.success());
    assert!(gone.heal().questions > 0);
}
