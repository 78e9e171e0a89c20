//! Writes that can never be applied, while the server dies again and again: each becomes a dead letter once, none is
//! forgotten, and none comes back that an operator gave up. It plans no deaths of the server.

use std::{collections::BTreeSet, ffi::OsString, time::Duration};

use http::Method;
use ridethrough_tests::{
    app::App,
    http::request,
    launch::{Blueprint, Exit, Output, run},
    stack::Lab,
};
use serde_json::{Value, json};

use super::Put;
use crate::steps::{member, title};

/// Impossible writes of a round.
const IMPOSSIBLE: usize = 10;
/// A program that opens a small journal and ends.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// Replaces todos that never were, each one only once, until the server is gone.
pub(super) async fn client(server: App, number: usize) -> Vec<Put> {
    let mut puts = Vec::new();
    for one in 0..IMPOSSIBLE {
        let key = format!("impossible-{number}-{one}");
        let path = format!("/api/todos/00000000-0000-4000-8000-{number:06}{one:06}");
        let body = json!({"title": title(&key), "done": true});
        let answer = server.main().try_send(request(Method::PUT, &path, Some(&key), Some(&body))).await.ok();
        let is_gone = answer.is_none();
        puts.push(Put { key, answer });
        if is_gone {
            break;
        }
    }
    puts
}

/// What is set aside in one server's folder, and what must be.
#[derive(Debug, Default)]
pub(super) struct Letters {
    /// Set aside at the last look.
    there: BTreeSet<String>,
    /// The commands that were run, for their folders.
    commands: usize,
}

impl Letters {
    /// Each of these writes was refused at once, or rejected for good and kept; what was kept before is there still.
    pub(super) async fn judge(&mut self, lab: &Lab, server: &App, puts: &[Put], context: &str) {
        let before = std::mem::take(&mut self.there);
        self.there = self.export(lab, server, context).await;
        let missing: Vec<&String> = before.difference(&self.there).collect();
        assert!(missing.is_empty(), "{context}: {missing:?} were set aside, and are gone");
        let new: BTreeSet<&String> = self.there.difference(&before).collect();
        let sent: BTreeSet<&String> = puts.iter().map(|put| &put.key).collect();
        assert!(new.is_subset(&sent), "{context}: {new:?} are set aside, and only {sent:?} could be");
        for put in puts {
            let is_aside = new.contains(&put.key);
            match put.outcome() {
                "journaled" => assert!(is_aside, "{context}: {} is lost", put.key),
                "rejected" => assert!(!is_aside, "{context}: {} was refused at once, and kept", put.key),
                other => assert_eq!(other, "unknown", "{context}: {put:?}"),
            }
            let answer = server.main().get(&format!("/api/writes/{}", put.key)).await;
            if is_aside || answer.status != 404 {
                let status = answer.expect(200).json();
                assert_eq!(member(&status, "status"), "rejected", "{context}: {} became {status}", put.key);
                assert_eq!(member(&status, "reason"), "not-found", "{context}: {status}");
            }
        }
    }

    /// Gives all dead letters back or forgets them, with the server stopped, where the command dies at `failpoint` and is
    /// run again. Says whether it died there.
    pub(super) async fn see_to_all(
        &mut self,
        lab: &Lab,
        server: &App,
        failpoint: &str,
        forget: bool,
        context: &str,
    ) -> bool {
        let args: &[&str] = if forget { &["discard", "--all", "--yes"] } else { &["retry", "--all"] };
        let first = self.command(lab, server, args, Some(failpoint)).await;
        let died = first.exit == Exit::Signal(9);
        assert!(died || first.exit == Exit::Code(0), "{context}: {args:?} ended with {first:?}");
        if died {
            let again = self.command(lab, server, args, None).await;
            assert_eq!(again.exit, Exit::Code(0), "{context}: {args:?} again: {again:?}");
        }
        if forget {
            self.there.clear();
        }
        died
    }

    /// The keys of what is set aside; each must be there once.
    async fn export(&mut self, lab: &Lab, server: &App, context: &str) -> BTreeSet<String> {
        let output = self.command(lab, server, &["export"], None).await;
        assert_eq!(output.exit, Exit::Code(0), "{context}: {output:?}");
        let mut keys = BTreeSet::new();
        for line in output.stdout.lines() {
            let letter: Value = serde_json::from_str(line).expect("a letter is a JSON object");
            assert_eq!(member(&letter, "is"), "rejected", "{context}: {letter}");
            let key = member(&letter, "key").as_str().expect("a key is a text").to_owned();
            assert!(keys.insert(key), "{context}: set aside twice: {letter}");
        }
        keys
    }

    async fn command(&mut self, lab: &Lab, server: &App, args: &[&str], failpoint: Option<&str>) -> Output {
        self.commands += 1;
        let Blueprint { program, mut env, .. } = server.blueprint().clone();
        env.extend(failpoint.map(|failpoint| ("RIDETHROUGH_FAILPOINT".to_owned(), failpoint.to_owned())));
        let data: OsString = server.home().join("data").into();
        let mut all = vec![OsString::from("--data-dir"), data, "journal".into()];
        all.extend(args.iter().map(OsString::from));
        let name = format!("journal-command-{}", self.commands);
        let home = lab.folder().join(&name);
        let output = run(&Blueprint { name, program, args: all, env }, &home, COMMAND_LIMIT).await;
        let _ = std::fs::remove_dir_all(&home);
        output
    }
}
