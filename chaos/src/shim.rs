//! The preload shim: faults of disk and wall clock inside one program, below its C library's calls. The C part is
//! `shim/shim.c`, compiled when a run asks for it; this file builds it, writes its rules and reads its counts.
//! What a fault means for the victim, and when it comes, is up to the caller.
//!
//! It reaches what the victim does through the C library. PostgreSQL and the servers of this project do their writes
//! and syncs so; a program that is linked statically is not reached, and [`Victim::loaded`] tells.

mod forget;
mod rule;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::error::Error;
use crate::folder::RunFolder;
use crate::postgres;
use crate::process::{self, Exit, Launch, Process};

pub use rule::Rule;

const SOURCE: &str = include_str!("../shim/shim.c");
/// Compilers, in the order they are looked for.
const COMPILERS: [&str; 3] = ["cc", "gcc", "clang"];
/// It takes 0.2 s, some seconds on a busy machine.
const COMPILE_LIMIT: Duration = Duration::from_secs(60);
/// The variable that names the control file to the shim.
const CONTROL: &str = "RIDETHROUGH_SHIM";
/// The first eight bytes of a control file; they change with its layout.
const MAGIC: u64 = u64::from_le_bytes(*b"RRTSHIM1");
/// How many faults one victim can have at a time.
const RULES: u64 = 8;
/// Bytes of the head and of each rule.
const BLOCK: u64 = 512;
/// In the head: programs that have loaded the shim.
const LOADED_AT: u64 = 8;
/// In a rule: how often it hit.
const HITS_AT: u64 = 48;

/// The compiled shim of a run.
#[derive(Debug, Clone)]
pub struct Shim {
    library: PathBuf,
    run: RunFolder,
}

impl Shim {
    /// Whether this machine has a compiler for it.
    #[must_use]
    pub fn can_be_built() -> bool {
        COMPILERS.into_iter().any(|name| process::on_path(name).is_some())
    }

    /// Compiles it into the run folder. Blocking: some 0.2 s.
    ///
    /// # Errors
    /// [`Error::NoMeans`] where there is no C compiler or it does not compile, with the compiler's words.
    pub fn build(run: &RunFolder) -> Result<Self, Error> {
        Ok(Self { library: compiled(run, "shim", SOURCE)?, run: run.clone() })
    }

    /// Prepares a victim: what it is started with makes it obey. `name` is unique in the run ("postgresql").
    ///
    /// # Errors
    /// [`Error::Io`] when its control file cannot be made.
    pub fn victim(&self, name: &str) -> Result<Victim, Error> {
        let path = self.run.path().join(format!("{name}.shim"));
        let what = || format!("make the shim's control file {}", path.display());
        let file = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(&path);
        let file = file.map_err(Error::io(what()))?;
        file.set_len(BLOCK * (1 + RULES)).map_err(Error::io(what()))?;
        file.write_all_at(&MAGIC.to_ne_bytes(), 0).map_err(Error::io(what()))?;
        // PostgreSQL's account must write its counts there; root, as which a server may run, can anyway.
        if let Some(account) = postgres::account()? {
            std::os::unix::fs::chown(&path, Some(account.uid), Some(account.gid))
                .map_err(Error::io(what()))?;
        }
        let control = Control { file, taken: Mutex::default() };
        Ok(Victim { library: self.library.clone(), path, control: Arc::new(control) })
    }
}

/// Compiles a shim into the run folder, where it is not there yet.
fn compiled(run: &RunFolder, name: &str, text: &str) -> Result<PathBuf, Error> {
    let compiler = COMPILERS.into_iter().find_map(process::on_path).ok_or_else(|| {
        Error::no_means("the preload shim", format!("none of {} is on the PATH", COMPILERS.join(", ")))
    })?;
    let file = |extension: &str| run.path().join(format!("{name}.{extension}"));
    let library = file("so");
    if library.is_file() {
        return Ok(library);
    }
    let (source, made, log) = (file("c"), file("so.new"), file("log"));
    fs::write(&source, text).map_err(Error::io("write the shim's source"))?;
    let mut args: Vec<_> = ["-shared", "-fPIC", "-O2", "-o"].map(Into::into).to_vec();
    args.extend([made.clone().into(), source.into(), "-ldl".into()]);
    let mut process = Process::start(&Launch {
        name: "the C compiler".to_owned(),
        program: compiler,
        args,
        env: vec![("LC_ALL".to_owned(), "C".to_owned())],
        folder: run.path().to_owned(),
        stdin: None,
        stdout: log.clone(),
        log: log.clone(),
        account: None,
    })?;
    run.guard(process.handle())?;
    match process.wait_blocking(COMPILE_LIMIT) {
        Some(Exit { code: Some(0), .. }) => {}
        Some(exit) => {
            let reason = format!("the C compiler ended with {exit}{}", process::log_tail(&log, 6));
            return Err(Error::no_means("the preload shim", reason));
        }
        None => return Err(Error::Late { what: "compile the shim".to_owned(), limit: COMPILE_LIMIT }),
    }
    // The victim may run as another account.
    fs::set_permissions(&made, fs::Permissions::from_mode(0o755))
        .and_then(|()| fs::rename(&made, &library))
        .map_err(Error::io("put the shim in its place"))?;
    Ok(library)
}

/// A program (with all its processes) that can be given faults. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Victim {
    library: PathBuf,
    path: PathBuf,
    control: Arc<Control>,
}

#[derive(Debug)]
struct Control {
    file: File,
    /// Which rules are in use.
    taken: Mutex<[bool; RULES as usize]>,
}

impl Victim {
    /// To be added to the environment that the victim is started with.
    #[must_use]
    pub fn env(&self) -> [(&'static str, String); 2] {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        [("LD_PRELOAD", text(&self.library)), (CONTROL, text(&self.path))]
    }

    /// How many programs have loaded the shim so far. A fork of one does not count; 0 means that the victim is out of
    /// its reach, or has not been started.
    #[must_use]
    pub fn loaded(&self) -> u64 {
        self.control.number_at(LOADED_AT)
    }

    /// Puts a fault on. It works in all processes of the victim at once, also in those that start later.
    ///
    /// # Errors
    /// [`Error::State`] when eight are on already, or the path is longer than 447 bytes; [`Error::Io`] when the
    /// control file cannot be written or the rule's folder does not exist.
    pub fn apply(&self, rule: &Rule) -> Result<Applied, Error> {
        let body = rule.encode()?;
        // From here on the place is given back on every way out.
        let applied = Applied {
            control: Arc::clone(&self.control),
            place: self.control.take_place()?,
            what: rule.about(),
        };
        let begin = applied.begin();
        let written = self
            .control
            .file
            .write_all_at(&body, begin)
            // Last, so that nobody meets half a rule.
            .and_then(|()| self.control.file.write_all_at(&1_u64.to_ne_bytes(), begin));
        written.map_err(Error::io("write a rule for the shim"))?;
        Ok(applied)
    }
}

impl Control {
    fn number_at(&self, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        // The file is ours and long enough; should reading fail all the same, nothing proves a hit.
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => u64::from_ne_bytes(bytes),
            Err(_) => 0,
        }
    }

    fn take_place(&self) -> Result<usize, Error> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let free = taken.iter_mut().enumerate().find(|(_, taken)| !**taken);
        let Some((place, taken)) = free else {
            return Err(Error::state("put a fault on a program", format!("it has {RULES} faults already")));
        };
        *taken = true;
        Ok(place)
    }
}

/// A fault that is on. It is taken off when this is dropped.
#[derive(Debug)]
#[must_use = "the fault is healed as soon as this is dropped"]
pub struct Applied {
    control: Arc<Control>,
    place: usize,
    what: String,
}

impl Applied {
    /// How often it hit: calls that failed, fell short or waited, or looks at a shifted clock.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.control.number_at(self.begin() + HITS_AT)
    }

    /// What proves that it bit; `None` while it has hit nothing.
    #[must_use]
    pub fn witness(&self) -> Option<String> {
        let hits = self.hits();
        (hits > 0).then(|| format!("{hits} calls met: {}", self.what))
    }

    fn begin(&self) -> u64 {
        BLOCK * (1 + self.place as u64)
    }
}

impl Drop for Applied {
    fn drop(&mut self) {
        // A guard that heals on drop has nobody to tell; writing eight bytes of a file that is there does not fail.
        let _ = self.control.file.write_all_at(&0_u64.to_ne_bytes(), self.begin());
        let mut taken = self.control.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = taken.get_mut(self.place) {
            *taken = false;
        }
    }
}

/// Whether this machine can do it, proven by failing one write of a small program; what was seen. Blocking: 0.3 s.
///
/// # Errors
/// [`Error::NoMeans`] with the reason where it cannot.
pub fn probe(run: &RunFolder) -> Result<String, Error> {
    /// The program only copies one file.
    const LIMIT: Duration = Duration::from_secs(10);

    let shim = Shim::build(run)?;
    let victim = shim.victim("shim-probe")?;
    let folder = run.private("shim-probe")?;
    let full = victim.apply(&Rule::full(&folder))?;
    let log = run.path().join("shim-probe.log");
    let env = victim.env().into_iter().chain([("LC_ALL", "C".to_owned())]);
    let mut process = Process::start(&Launch {
        name: "a program to try the shim on".to_owned(),
        program: PathBuf::from("dd"),
        args: ["if=/proc/self/stat", "of=copy"].map(Into::into).to_vec(),
        env: env.map(|(name, value)| (name.to_owned(), value)).collect(),
        folder,
        stdin: None,
        stdout: log.clone(),
        log: log.clone(),
        account: None,
    })?;
    let exit = process.wait_blocking(LIMIT);
    let said = fs::read_to_string(&log).unwrap_or_default();
    match (full.hits(), exit) {
        (1.., Some(Exit { code: Some(1..), .. })) if said.contains("No space left") => {
            Ok(format!("a write failed with ENOSPC, {} hits counted", full.hits()))
        }
        (hits, _) => {
            let reason =
                format!("loaded by {} programs, {hits} hits{}", victim.loaded(), process::log_tail(&log, 3));
            Err(Error::no_means("the preload shim", reason))
        }
    }
}
