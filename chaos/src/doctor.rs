//! `doctor`: what this machine can inject, proven by doing it once, and why not. It changes nothing that stays.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::folder;
use crate::nemesis::Fault;
use crate::postgres::{self, Binaries};
use crate::stack::{self, Options};

/// A hung database must not answer within this.
const HUNG_FOR: Duration = Duration::from_millis(300);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Examines the machine. Gives the findings as text, and whether every fault can be injected.
///
/// # Cancel safety
/// Dropping the future ends and removes the cluster it tried on.
pub(crate) async fn examine(options: &Options) -> (String, bool) {
    let mut sheet = Sheet { text: String::new(), fit: true };
    sheet.text += "Machine\n";
    match Binaries::find(options.cluster.pg_bin.as_deref()) {
        Ok(found) => {
            sheet.fine("PostgreSQL", &format!("{} in {}", found.version(), found.folder().display()))
        }
        Err(error) => sheet.wrong("PostgreSQL", &format!("failed to {error}")),
    }
    match postgres::account() {
        Ok(Some(account)) => {
            sheet.fine("account", &format!("PostgreSQL runs as user {}, not as root", account.uid))
        }
        Ok(None) => sheet.fine("account", "PostgreSQL runs as this user"),
        Err(error) => sheet.wrong("account", &format!("failed to {error}")),
    }
    match folder::sweep() {
        Ok(0) => sheet.fine("left behind", "nothing of dead runs"),
        Ok(count) => sheet.fine("left behind", &format!("{count} folders of dead runs, now removed")),
        Err(error) => sheet.wrong("left behind", &format!("failed to {error}")),
    }
    if !on_path("ipcrm") {
        let why = "not found; each killed PostgreSQL leaves a shared memory segment of 56 bytes until the next boot";
        sheet.fine("ipcrm", why);
    }
    sheet.text += "Faults\n";
    match Box::pin(break_a_cluster(options)).await {
        Ok((kill, hang)) => {
            sheet.fine(Fault::DbKill.name(), &kill);
            sheet.fine(Fault::DbHang.name(), &hang);
        }
        Err(error) => sheet.wrong("db-kill, db-hang", &format!("failed to {error}")),
    }
    match stack::binaries(options) {
        Ok((server, _)) => sheet.fine(Fault::ServerKill.name(), &format!("on {}", server.display())),
        Err(error) => sheet.wrong(Fault::ServerKill.name(), &format!("failed to {error}")),
    }
    (sheet.text, sheet.fit)
}

async fn break_a_cluster(options: &Options) -> Result<(String, String), Error> {
    let cluster = Cluster::start(&options.cluster).await?;
    let began = Instant::now();
    let killed = cluster.kill().await?;
    let dead = began.elapsed();
    let again = cluster.start_again().await?;
    let (dead, again) = (dead.as_millis(), again.as_millis());
    let kill =
        format!("{} processes gone after {dead} ms, serving {again} ms after the restart", killed.processes);

    let hang = cluster.hang().await?;
    let stopped = format!("{} of {} processes stopped", hang.stopped_now(), hang.processes());
    if cluster.connect(HUNG_FOR).await.is_ok() {
        return Err(Error::state("hang PostgreSQL", "it answered a new connection"));
    }
    let began = Instant::now();
    drop(hang);
    cluster.connect(CONNECT_LIMIT).await?;
    let hang = format!("{stopped}, no answer; answering {} ms after SIGCONT", began.elapsed().as_millis());
    cluster.stop().await?;
    Ok((kill, hang))
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder: std::path::PathBuf| Path::new(&folder).join(program).is_file())
}

struct Sheet {
    text: String,
    fit: bool,
}

impl Sheet {
    fn fine(&mut self, what: &str, found: &str) {
        self.line("ok", what, found);
    }

    fn wrong(&mut self, what: &str, why: &str) {
        self.fit = false;
        self.line("no", what, why);
    }

    fn line(&mut self, mark: &str, what: &str, text: &str) {
        self.text += &format!("  {mark}  {what:<16} {text}\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_finding_makes_the_machine_unfit() {
        let mut sheet = Sheet { text: String::new(), fit: true };
        sheet.fine("PostgreSQL", "17");
        assert!(sheet.fit);
        sheet.wrong("db-kill", "no");
        sheet.fine("db-hang", "yes");
        assert!(!sheet.fit && sheet.text.lines().count() == 3);
    }
}
