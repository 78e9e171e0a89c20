//! Data directories: `initdb` once for a version and set of options, kept in a cache, copied for each run.
//! It starts no server; that is `cluster/node.rs`.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;
use crate::folder::{self, RunFolder};
use crate::postgres::{self, Binaries};
use crate::process::{self, Account, Exit, Launch, Process};

/// The superuser of every cluster; the harness's own access.
pub(super) const ADMIN: &str = "chaos";
/// The role and the database of the service: no superuser, so that it meets limits and rights as in production.
pub(crate) const APP: &str = "app";
/// The canary's role. It may do nothing but insert into one table, and needs no password: proving a password takes
/// milliseconds of hashing, fifty times a second, on a machine whose latencies are being measured.
pub(crate) const CANARY: &str = "canary";
/// The database that the canary and the harness use.
pub(crate) const ADMIN_DATABASE: &str = "postgres";

/// Raised when the steps below change, so that an older template is not taken for the new one.
const FORMAT: u32 = 1;
/// One step takes about a second, several on a busy machine.
const STEP_LIMIT: Duration = Duration::from_secs(90);
/// Another run may be making the same template.
const LOCK_LIMIT: Duration = Duration::from_secs(120);

/// Each statement on a line of its own: PostgreSQL's single-user mode reads them so.
const STATEMENTS: &str = "\
CREATE ROLE app LOGIN
CREATE DATABASE app OWNER app
CREATE ROLE canary LOGIN
CREATE TABLE public.canary (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())
GRANT INSERT ON public.canary TO canary
";

const ACCESS: &str = "\
# Loopback, and the wire of a network namespace. The canary may insert into its own table and nothing else.
host postgres canary 127.0.0.1/32 trust
host postgres canary 10.77.0.0/24 trust
host all all 127.0.0.1/32 scram-sha-256
host all all 10.77.0.0/24 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
host replication all 10.77.0.0/24 scram-sha-256
";

/// Copies a fresh data directory to `target` and gives the superuser's password in it. With `wal`, a path that does not
/// exist yet, the WAL goes there and `target` has a link to it.
///
/// Blocking: some 0.2 s, and some seconds where the template must be made first.
pub(super) fn copy_to(
    target: &Path,
    wal: Option<&Path>,
    run: &RunFolder,
    binaries: &Binaries,
    account: Option<Account>,
) -> Result<String, Error> {
    let cache = cache()?;
    let lock_path = cache.join("lock");
    let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(&lock_path);
    let lock = lock.map_err(Error::io(format!("open {}", lock_path.display())))?;
    folder::lock_within(&lock, LOCK_LIMIT)?;
    let template = cache.join(key(binaries, account));
    if !template.is_dir() {
        build(&template, &cache, run, binaries, account)?;
    }
    let password = read_password(&template)?;
    // Copied under the lock: nobody replaces the template meanwhile, and copies at once would not be faster.
    let what = || format!("copy the template {} (remove it to have it made anew)", template.display());
    copy_folder(&template.join("data"), target, account).map_err(Error::io(what()))?;
    if let Some(wal) = wal {
        move_out(&target.join("pg_wal"), wal, account).map_err(Error::io("put the WAL on another disk"))?;
    }
    Ok(password)
}

/// Moves a folder elsewhere, also to another disk, and leaves a link to it.
fn move_out(from: &Path, to: &Path, account: Option<Account>) -> std::io::Result<()> {
    copy_folder(from, to, account)?;
    fs::remove_dir_all(from)?;
    std::os::unix::fs::symlink(to, from)
}

/// The template cache: in the user's cache folder, else beside the run folders.
fn cache() -> Result<PathBuf, Error> {
    let make =
        |path: &Path| DirBuilder::new().recursive(true).mode(0o755).create(path).map(|()| path.to_owned());
    if let Some(above) = postgres::cache_folder()
        && let Ok(path) = make(&above.join("templates"))
        && writable(&path)
    {
        return Ok(path);
    }
    let path = folder::base()?.join("templates");
    make(&path).map_err(Error::io(format!("make the folder {}", path.display())))
}

fn writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
}

/// Everything that makes one template unlike another.
fn key(binaries: &Binaries, account: Option<Account>) -> String {
    let mut hasher = DefaultHasher::new();
    (FORMAT, STATEMENTS, ACCESS, binaries.version(), binaries.folder()).hash(&mut hasher);
    (account.map(|account| account.uid), rustix::process::geteuid().as_raw()).hash(&mut hasher);
    format!("pg{}-{:016x}", binaries.major(), hasher.finish())
}

/// Makes a template beside its place and renames it there when it is whole.
fn build(
    template: &Path,
    cache: &Path,
    run: &RunFolder,
    binaries: &Binaries,
    account: Option<Account>,
) -> Result<(), Error> {
    let name = run.path().file_name().unwrap_or_default().to_string_lossy();
    let building = cache.join(format!(".building-{name}"));
    run.guard_folder(&building)?;
    let mut builder = DirBuilder::new();
    builder
        .mode(0o711)
        .create(&building)
        .map_err(Error::io(format!("make the folder {}", building.display())))?;
    let password = new_password();
    let result = fill(&building, &password, run, binaries, account).and_then(|()| {
        fs::rename(&building, template)
            .map_err(Error::io(format!("put the template at {}", template.display())))
    });
    if result.is_err() {
        let _ = fs::remove_dir_all(&building);
    }
    result
}

fn fill(
    building: &Path,
    password: &str,
    run: &RunFolder,
    binaries: &Binaries,
    account: Option<Account>,
) -> Result<(), Error> {
    let data = building.join("data");
    DirBuilder::new().mode(0o700).create(&data).map_err(Error::io("make a data directory"))?;
    let password_file = building.join("password");
    write_secret(&password_file, password)?;
    // `initdb` reads a copy that its account may read; the original stays with the owner of the cache.
    let handed_over = building.join("handed-over");
    write_secret(&handed_over, password)?;
    for path in [&data, &handed_over] {
        own(path, account).map_err(Error::io("hand a data directory to PostgreSQL's account"))?;
    }
    initdb(&data, &handed_over, run, binaries, account)?;
    let _ = fs::remove_file(&handed_over);
    single_user(&data, run, binaries, account)?;
    fs::write(data.join("pg_hba.conf"), ACCESS).map_err(Error::io("write pg_hba.conf"))
}

fn initdb(
    data: &Path,
    password_file: &Path,
    run: &RunFolder,
    binaries: &Binaries,
    account: Option<Account>,
) -> Result<(), Error> {
    let mut args: Vec<OsString> =
        vec!["--pgdata".into(), data.into(), "--pwfile".into(), password_file.into()];
    let fixed = ["--username", ADMIN, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"];
    args.extend(fixed.into_iter().map(OsString::from));
    args.extend(["--no-sync", "--wal-segsize=1"].into_iter().map(OsString::from));
    run_to_end("initdb", args, None, run, binaries, account).map(|_| ())
}

/// Makes roles and databases without a server: a second start-up of which nothing can be seen from outside.
fn single_user(
    data: &Path,
    run: &RunFolder,
    binaries: &Binaries,
    account: Option<Account>,
) -> Result<(), Error> {
    let statements = run.path().join("roles.sql");
    fs::write(&statements, STATEMENTS).map_err(Error::io("write the statements for a new cluster"))?;
    let args = vec!["--single".into(), "-F".into(), "-D".into(), data.into(), ADMIN_DATABASE.into()];
    let said = run_to_end("postgres", args, Some(statements), run, binaries, account)?;
    // Single-user mode goes on after an error and ends with 0, so its words decide.
    match said.lines().find(|line| line.contains("ERROR") || line.contains("FATAL")) {
        None => Ok(()),
        Some(line) => Err(Error::state("make the roles of a new cluster", line.to_owned())),
    }
}

/// Runs one of PostgreSQL's programs and gives what it said.
fn run_to_end(
    program: &str,
    args: Vec<OsString>,
    stdin: Option<PathBuf>,
    run: &RunFolder,
    binaries: &Binaries,
    account: Option<Account>,
) -> Result<String, Error> {
    let log = run.path().join(format!("{program}-template.log"));
    let launch = Launch {
        name: program.to_owned(),
        program: binaries.program(program),
        args,
        env: vec![("LC_ALL".to_owned(), "C".to_owned())],
        folder: run.path().to_owned(),
        stdin,
        stdout: log.clone(),
        log: log.clone(),
        account,
    };
    let mut process = Process::start(&launch)?;
    run.guard(process.handle())?;
    match process.wait_blocking(STEP_LIMIT) {
        Some(Exit { code: Some(0), .. }) => Ok(fs::read_to_string(&log).unwrap_or_default()),
        Some(exit) => {
            let reason = format!("it ended with {exit}");
            Err(Error::Start { name: program.to_owned(), reason, log: process::log_tail(&log, 12) })
        }
        None => Err(Error::Late { what: format!("run {program}"), limit: STEP_LIMIT }),
    }
}

/// A random password, safe in a URL.
pub(super) fn new_password() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

fn write_secret(path: &Path, text: &str) -> Result<(), Error> {
    let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
    let written = file.and_then(|mut file: File| file.write_all(text.as_bytes()));
    written.map_err(Error::io(format!("write {}", path.display())))
}

fn read_password(template: &Path) -> Result<String, Error> {
    let path = template.join("password");
    fs::read_to_string(&path).map_err(Error::io(format!("read {}", path.display())))
}

pub(super) fn own(path: &Path, account: Option<Account>) -> std::io::Result<()> {
    match account {
        Some(account) => std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid)),
        None => Ok(()),
    }
}

/// Copies folders and files with their modes. A data directory holds nothing else (no links: no tablespaces).
fn copy_folder(from: &Path, to: &Path, account: Option<Account>) -> std::io::Result<()> {
    let mode = from.metadata()?.mode() & 0o777;
    DirBuilder::new().mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target, account)?;
        } else {
            fs::copy(entry.path(), &target)?;
            own(&target, account)?;
        }
    }
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    own(to, account)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_same_files_and_modes() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("from");
        fs::create_dir_all(from.join("base/1")).unwrap();
        fs::write(from.join("base/1/file"), "content").unwrap();
        fs::set_permissions(from.join("base/1/file"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o700)).unwrap();
        let to = folder.path().join("to");
        copy_folder(&from, &to, None).unwrap();
        assert_eq!(fs::read_to_string(to.join("base/1/file")).unwrap(), "content");
        assert_eq!(to.join("base/1/file").metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(to.metadata().unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn passwords_differ_and_need_no_escaping_in_a_url() {
        let (first, second) = (new_password(), new_password());
        assert_ne!(first, second);
        assert!(first.len() == 32 && first.chars().all(|c| c.is_ascii_alphanumeric()));
    }
}
