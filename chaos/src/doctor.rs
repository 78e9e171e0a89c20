//! `doctor`: what this machine can inject, proven by doing it once, and why not. It changes nothing that stays.

use std::path::Path;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::folder;
use crate::nemesis::{self, Healed, Kind, Means, Scene};
use crate::postgres::{self, Binaries};
use crate::stack::{self, Equipment, Fitting, Options, Stack};

/// How long each fault stays on.
const ON: Duration = Duration::from_millis(100);

/// How long a stack may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// Examines the machine. Gives the findings as text, and whether every fault can be injected. `no_namespaces` is why this
/// process has no namespaces of its own; `None` where it has.
///
/// # Cancel safety
/// Dropping the future ends and removes the cluster it tried on.
pub(crate) async fn examine(options: &Options, no_namespaces: Option<&str>) -> (String, bool) {
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
    sheet.text += "Means, each proved by a fault on a stack of its own\n";
    let proved = Box::pin(prove(options, no_namespaces)).await;
    let mut told: Option<&str> = None;
    for (means, found) in &proved {
        match found {
            Ok(witness) => sheet.fine(&means.to_string(), witness),
            // One thing that is missing is mostly in the way of all, and is long to read.
            Err(why) if told == Some(why) => sheet.wrong(&means.to_string(), "the same"),
            Err(why) => {
                sheet.wrong(&means.to_string(), why);
                told = Some(why);
            }
        }
    }
    sheet.text += "Faults\n";
    for kind in nemesis::catalogue() {
        let name = format!("{:<4} {}", kind.id, kind.name);
        match lacking(kind, &proved) {
            None => sheet.fine(&name, kind.about),
            Some(why) => sheet.wrong(&name, &why),
        }
    }
    sheet.text += "Proved elsewhere\n";
    for row in nemesis::elsewhere::ROWS {
        sheet.fine(row.id, &format!("{}: {}", row.about, row.proved_by));
    }
    (sheet.text, sheet.fit)
}

/// A means, and what proves it or why it is not there.
type Proved = Vec<(Means, Result<String, String>)>;

/// With which fault each means is proved.
/// Those with the same fitting stand together, because each fitting takes a stack of its own.
const PROOFS: [(Means, &str); 14] = [
    (Means::DatabaseSignals, "db-kill"),
    (Means::Sql, "role-nologin"),
    (Means::Configuration, "hba-reject"),
    (Means::Services, "server-pause"),
    (Means::ProcessLimits, "files-exhausted"),
    (Means::Shell, "cpu-starved"),
    (Means::Messages, "network-blackhole"),
    (Means::Tls, "tls-refused"),
    (Means::Bytes, "network-latency"),
    (Means::DatabaseShim, "fsync-slow"),
    (Means::ServerShim, "clock-jump"),
    (Means::Standby, "failover"),
    (Means::Wire, "packets-lost"),
    (Means::Names, "name-unknown"),
];

/// Puts a fault on by each means, and takes it off again.
async fn prove(options: &Options, no_namespaces: Option<&str>) -> Proved {
    let mut proved = Vec::new();
    let mut lab: Option<(Fitting, Result<Lab, String>)> = None;
    for (means, fault) in PROOFS {
        let fitting = fitting_of(fault);
        if lab.as_ref().is_none_or(|(known, _)| *known != fitting) {
            if let Some((_, Ok(lab))) = lab.take() {
                lab.stop().await;
            }
            let options = Options { fitting, ..options.clone() };
            let started = match no_namespaces.filter(|_| fitting.needs_namespaces()) {
                Some(why) => Err(why.to_owned()),
                None => Box::pin(Lab::start(&options)).await.map_err(|error| format!("failed to {error}")),
            };
            lab = Some((fitting, started));
        }
        let found = match &lab {
            Some((_, Ok(lab))) => through(fault, &lab.scene).await,
            Some((_, Err(why))) => Err(why.clone()),
            None => Err("there is no stack".to_owned()),
        };
        proved.push((means, found));
    }
    if let Some((_, Ok(lab))) = lab {
        lab.stop().await;
    }
    proved
}

/// What a stack needs for this fault; nothing where it is none.
fn fitting_of(fault: &str) -> Fitting {
    fault.parse::<nemesis::Fault>().map(|fault| nemesis::fitting([&fault])).unwrap_or_default()
}

/// One fault on and off; gives the witness.
async fn through(fault: &str, scene: &Scene) -> Result<String, String> {
    let work = async {
        let bite = nemesis::inject(&fault.parse()?, scene).await?;
        // Some faults show only after a moment.
        tokio::time::sleep(ON).await;
        bite.heal().await
    };
    match work.await {
        Ok(Healed { witness: Some(witness), .. }) => Ok(witness),
        Ok(_) => Err(format!("{fault} could be put on, and nothing proves that it bit")),
        Err(error) => Err(format!("failed to {error}")),
    }
}

/// The first means that a fault needs and that is not there; the reason stands above.
fn lacking(kind: &Kind, proved: &Proved) -> Option<String> {
    kind.needs.iter().find_map(|needed| {
        let (means, found) = proved.iter().find(|(means, _)| means == needed)?;
        found.is_err().then(|| format!("for want of {means}"))
    })
}

/// Where faults are tried: a whole stack, or a database alone where the programs of the stack are missing.
struct Lab {
    scene: Scene,
    stack: Option<Stack>,
}

impl Lab {
    async fn start(options: &Options) -> Result<Self, Error> {
        if stack::binaries(options).is_ok() {
            let stack = Stack::start(options).await?;
            // A fault on the way of a server shows only where the server goes it.
            stack.ready(READY_LIMIT).await?;
            return Ok(Self { scene: Scene::of(&stack, 0, false), stack: Some(stack) });
        }
        let cluster = Cluster::start(&options.cluster).await?;
        let scene = Scene {
            cluster,
            servers: Vec::new(),
            proxy: None,
            equipment: Equipment::default(),
            victim: 0,
            toothless: false,
        };
        Ok(Self { scene, stack: None })
    }

    async fn stop(self) {
        drop(self.scene);
        // A stop that fails ends in a drop, which leaves nothing either.
        if let Some(stack) = self.stack {
            let _ = stack.stop().await;
        }
    }
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
        self.text += &format!("  {mark}  {what:<28} {text}\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_means_that_a_fault_needs_is_proved() {
        for needed in nemesis::catalogue().flat_map(|kind| kind.needs) {
            assert!(PROOFS.iter().any(|(means, _)| means == needed), "{needed}");
        }
        for (means, fault) in PROOFS {
            let fault: nemesis::Fault = fault.parse().unwrap();
            assert!(fault.kind().needs.contains(&means), "{fault} proves {means}");
        }
    }

    #[test]
    fn a_fault_whose_means_is_missing_tells_which() {
        let kind = "ghost-writer".parse::<nemesis::Fault>().unwrap().kind();
        let proved = |services: Result<String, String>| {
            vec![(Means::Sql, Ok(String::new())), (Means::Services, services)]
        };
        assert_eq!(lacking(kind, &proved(Ok(String::new()))), None);
        assert_eq!(
            lacking(kind, &proved(Err("no binary".into()))).as_deref(),
            Some("for want of servers and proxy")
        );
    }

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
