//! The guardian: a process that outlives a killed harness by a moment and takes away what it left.
//! Also holds the one clean-up routine, which an orderly end and the sweep of dead runs use too.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use crate::error::Error;
use crate::folder::{BELONGINGS, remove_base_of};
use crate::namespace;
use crate::process::{self, Handle, Table};

/// How long a clean-up goes on signalling and looking before it gives up.
pub(crate) const CLEAN_UP_LIMIT: Duration = Duration::from_secs(4);
/// The hidden sub-command of `ridethrough-chaos` that becomes a guardian.
pub(crate) const SUB_COMMAND: &str = "guardian";

const BINARY: &str = "ridethrough-chaos";
/// Between two looks at the process table.
const ROUND: Duration = Duration::from_millis(10);
/// How far above the current program the binary is looked for: `target/debug/deps/test` needs two.
const LEVELS_UP: usize = 4;

/// The harness's end of a guardian: a pipe. When it closes, for whatever reason, the guardian cleans up and ends.
#[derive(Debug)]
pub(crate) struct Guardian {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Guardian {
    /// Starts a guardian for a run folder.
    pub(crate) fn start(binary: &Path, folder: &Path) -> Result<Self, Error> {
        let mut command = Command::new(binary);
        // Its own name and group: whatever ends the harness by name or by terminal must not end it as well.
        command.arg0("ridethrough-guardian").process_group(0);
        command.arg(SUB_COMMAND).arg(folder).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child =
            command.spawn().map_err(Error::io(format!("start the guardian {}", binary.display())))?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let end = Instant::now() + CLEAN_UP_LIMIT + Duration::from_secs(1);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The current program, for when it is `ridethrough-chaos` itself. Not its path: a rebuild may have put another
/// program there meanwhile.
pub(crate) const OWN_BINARY: &str = "/proc/self/exe";

/// Where the guardian's binary is: as given, or beside the current program or in a folder above.
///
/// # Errors
/// [`Error::NoBinary`] when it is nowhere.
pub(crate) fn binary(given: Option<&Path>) -> Result<PathBuf, Error> {
    let missing = |path: &Path| Error::NoBinary {
        name: BINARY.to_owned(),
        path: path.to_owned(),
        build: format!("cargo build -p {BINARY}"),
        option: "the guardian's path",
    };
    if let Some(path) = given {
        return if path.is_file() { Ok(path.to_owned()) } else { Err(missing(path)) };
    }
    let current = std::env::current_exe().map_err(Error::io("find the current program"))?;
    let folders = current.ancestors().skip(1).take(LEVELS_UP);
    let found = folders.map(|folder| folder.join(BINARY)).find(|path| path.is_file());
    found.ok_or_else(|| missing(&current.with_file_name(BINARY)))
}

/// The guardian's whole life: wait for the end of standard input, then clean up. Gives the exit code.
///
/// Signals that end a harness are ignored, because this process is needed exactly then.
#[must_use = "the exit code says whether everything is gone"]
pub fn watch(folder: &Path) -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    if let Ok(runtime) = &runtime {
        let _inside = runtime.enter();
        use tokio::signal::unix::{SignalKind, signal};
        // Once a handler is set, the default (to end) does not come back, so the streams need not be kept.
        for kind in
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()]
        {
            drop(signal(kind));
        }
    }
    let mut sink = [0_u8; 64];
    let mut input = std::io::stdin().lock();
    loop {
        match input.read(&mut sink) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let clean = clean_up(folder, CLEAN_UP_LIMIT);
    remove_base_of(folder);
    u8::from(!clean)
}

/// Ends every process of a run and removes its folders. True when nothing is left.
///
/// Blocking; takes some milliseconds where all is gone already, and `limit` at most before it gives up.
pub(crate) fn clean_up(folder: &Path, limit: Duration) -> bool {
    let belongings = Belongings::read(folder);
    let end = Instant::now() + limit;
    let mut segments = Vec::new();
    let ended = loop {
        segments.extend(shared_memory(&belongings.folders));
        segments.extend(shared_memory(&belongings.mounts));
        let victims = belongings.living();
        if victims.is_empty() {
            break true;
        }
        if Instant::now() >= end {
            break false;
        }
        for victim in &victims {
            // A stopped process may hold others back, so everything is woken before it is killed.
            victim.signal(Signal::CONT);
        }
        for victim in &victims {
            victim.signal(Signal::KILL);
        }
        std::thread::sleep(ROUND);
        process::reap_orphans("postgres");
    };
    process::reap_orphans("postgres");
    segments.sort_unstable();
    segments.dedup();
    for segment in segments {
        remove_segment(segment);
    }
    for mount in &belongings.mounts {
        namespace::small_disk::detach(mount);
    }
    let removed = belongings.folders.iter().filter(|folder| !remove_folder(folder)).count() == 0;
    ended && removed
}

/// What a run owns, from the list that the harness keeps in the run folder.
#[derive(Debug, Default)]
struct Belongings {
    processes: Vec<(u32, u64)>,
    folders: Vec<PathBuf>,
    mounts: Vec<PathBuf>,
}

impl Belongings {
    fn read(folder: &Path) -> Self {
        let text = fs::read_to_string(folder.join(BELONGINGS)).unwrap_or_default();
        let mut belongings = Self::parse(&text);
        // Last, because the list itself lies in it.
        belongings.folders.push(folder.to_owned());
        belongings
    }

    fn parse(text: &str) -> Self {
        let mut belongings = Self::default();
        // A line without its end was cut by the death of the harness; its process is found by its folder.
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            match line.split_once(' ') {
                Some(("process", rest)) => {
                    let pair = rest
                        .split_once(' ')
                        .and_then(|(pid, at)| Some((pid.parse().ok()?, at.parse().ok()?)));
                    belongings.processes.extend(pair);
                }
                Some(("folder", path)) if path.starts_with('/') => {
                    belongings.folders.push(PathBuf::from(path))
                }
                Some(("mount", path)) if path.starts_with('/') => belongings.mounts.push(PathBuf::from(path)),
                _ => {}
            }
        }
        belongings
    }

    /// The recorded processes, their descendants, and our programs that work in the run's folders: a backend whose
    /// postmaster was killed descends from nobody here, and a child may die before its pid was noted.
    fn living(&self) -> Vec<Handle> {
        let table = Table::read();
        let roots = self.processes.iter().filter_map(|(pid, at)| table.find(*pid, *at));
        let mut found: BTreeMap<u32, _> = roots.map(|entry| (entry.pid, entry)).collect();
        let below = table.working_below(&self.folders);
        found.extend(below.into_iter().filter(|entry| is_ours(&entry.name)).map(|entry| (entry.pid, entry)));
        let descendants = table.descendants(found.keys().copied());
        found.extend(descendants.into_iter().map(|entry| (entry.pid, entry)));
        found.remove(&std::process::id());
        found.values().filter(|entry| entry.is_alive()).filter_map(|entry| Handle::open(entry)).collect()
    }
}

/// A person's shell or pager may stand in a run folder too, and must survive.
fn is_ours(name: &str) -> bool {
    name == "postgres" || name == "initdb" || name.starts_with("ridethrough")
}

/// The System V segments of clusters in the folders: a killed postmaster leaves its interlock segment behind, and the
/// system has room for few thousands. Line 7 of `postmaster.pid` holds key and id.
fn shared_memory(folders: &[PathBuf]) -> Vec<u64> {
    let data = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let files = data.filter_map(|data| fs::read_to_string(data.path().join("postmaster.pid")).ok());
    files.filter_map(|text| segment(&text)).collect()
}

fn segment(pid_file: &str) -> Option<u64> {
    pid_file.lines().nth(6)?.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn remove_segment(id: u64) {
    let mut command = Command::new("ipcrm");
    command.args(["-m", &id.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Where the tool is missing, or the segment went with its last user, there is nothing more to do.
    let _ = command.status();
}

fn remove_folder(folder: &Path) -> bool {
    /// A process that is just dying may still make a file.
    const TIMES: u32 = 5;
    for _ in 0..TIMES {
        match fs::remove_dir_all(folder) {
            Ok(()) => return true,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return true,
            Err(_) => std::thread::sleep(ROUND),
        }
    }
    !folder.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read_up_to_a_torn_last_line() {
        let list = Belongings::parse(
            "process 12 3456\nfolder /tmp/a b\nmount /tmp/m\nprocess x 1\nnonsense\nfolder rel\nprocess 7 8",
        );
        assert_eq!(list.processes, [(12, 3456)]);
        assert_eq!(list.folders, [PathBuf::from("/tmp/a b")]);
        assert_eq!(list.mounts, [PathBuf::from("/tmp/m")]);
    }

    /// A harness killed in the middle of `initdb` left a segment each time: only the run folder was looked at, and
    /// the template grows in a folder of its own.
    #[test]
    fn segments_are_found_in_every_folder_of_a_run() {
        let run = tempfile::tempdir().unwrap();
        let building = tempfile::tempdir().unwrap();
        let pid_file = |id| format!("-7\n/d\n1\n0\n\n\n  5432001 {id}\n");
        for (folder, id) in [(&run, 11), (&building, 22)] {
            fs::create_dir(folder.path().join("data")).unwrap();
            fs::write(folder.path().join("data/postmaster.pid"), pid_file(id)).unwrap();
        }
        let folders = [run.path().to_owned(), building.path().to_owned()];
        assert_eq!(shared_memory(&folders), [11, 22]);
        assert_eq!(segment("77\n/d\n1\n"), None, "cut before its last line");
    }

    #[test]
    fn only_programs_of_a_run_are_ended_by_their_folder() {
        assert!(is_ours("postgres") && is_ours("ridethrough-ser"));
        assert!(!is_ours("bash") && !is_ours("less") && !is_ours("vim"));
    }

    #[test]
    fn clean_up_ends_a_recorded_process_even_stopped_and_removes_the_folder() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("run-1");
        fs::create_dir(&folder).unwrap();
        let launch = process::Launch {
            name: "sleeper".to_owned(),
            program: PathBuf::from("/bin/sleep"),
            args: vec!["600".into()],
            env: Vec::new(),
            folder: folder.clone(),
            stdin: None,
            stdout: folder.join("out"),
            log: folder.join("log"),
            account: None,
        };
        let mut sleeper = process::Process::start(&launch).unwrap();
        assert!(sleeper.signal(Signal::STOP));
        let line = format!("process {} {}\n", sleeper.handle().pid(), sleeper.handle().started());
        fs::write(folder.join(BELONGINGS), line).unwrap();

        assert!(clean_up(&folder, CLEAN_UP_LIMIT));
        assert!(!folder.exists());
        assert_eq!(sleeper.poll_exit(), Some(process::Exit { code: None, signal: Some(9) }));
    }

    #[test]
    fn a_recorded_pid_that_belongs_to_another_process_now_is_left_alone() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("run-1");
        fs::create_dir(&folder).unwrap();
        let other = "process 1 1\n";
        fs::write(folder.join(BELONGINGS), other).unwrap();
        assert!(Belongings::read(&folder).living().is_empty());
        assert!(clean_up(&folder, Duration::ZERO));
    }
}
