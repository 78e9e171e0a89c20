//! Where PostgreSQL's server binaries are, which version they are, and the account they run as.
//! It only looks; clusters are made in `cluster.rs`.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::Error;
use crate::process::Account;

/// A folder with `postgres` and `initdb`, and what version they are.
#[derive(Debug, Clone)]
pub struct Binaries {
    folder: PathBuf,
    version: String,
    major: u32,
}

impl Binaries {
    /// Looks in this order: `given`, `RIDETHROUGH_PG_BIN`, `pg_config --bindir`, PATH, the usual folders of Debian,
    /// Fedora and Homebrew (newest first), the cache that `make setup` fills.
    ///
    /// A folder that was named by the caller or the environment is the only one looked at.
    ///
    /// # Errors
    /// [`Error::NoPostgres`] when none holds both programs, [`Error::Start`] when they do not run.
    pub fn find(given: Option<&Path>) -> Result<Self, Error> {
        let folders = match given.map(Path::to_owned).or_else(from_environment) {
            Some(named) => vec![named],
            None => candidates(),
        };
        let Some(folder) = folders.iter().find(|folder| is_complete(folder)) else {
            let looked_at: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
            return Err(Error::NoPostgres { looked_at: looked_at.join(", ") });
        };
        // A link such as /usr/local/bin/postgres leads to a folder whose `share` PostgreSQL finds from there.
        let program = folder.join("postgres");
        let version = output(program.as_os_str(), "--version").ok_or_else(|| Error::Start {
            name: program.display().to_string(),
            reason: "it does not tell its version".to_owned(),
            log: String::new(),
        })?;
        let major = major(&version).ok_or_else(|| Error::Start {
            name: program.display().to_string(),
            reason: format!("its version `{version}` is not understood"),
            log: String::new(),
        })?;
        Ok(Self { folder: folder.clone(), version, major })
    }

    /// The folder they are in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What `postgres --version` says.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The major version, such as 17.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.major
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// The account PostgreSQL runs as: none special where the caller is an ordinary user; where the caller is root,
/// `postgres` if it exists, else `nobody`, because PostgreSQL refuses to run as root.
///
/// # Errors
/// [`Error::State`] when the caller is root and neither account exists.
pub(crate) fn account() -> Result<Option<Account>, Error> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found =
        ["postgres", "nobody"].into_iter().find_map(|name| in_passwd(&passwd, name).or_else(|| in_id(name)));
    found.map(Some).ok_or_else(|| {
        let reason =
            "it does not run as root, and there is no account `postgres` or `nobody`; run as another user";
        Error::state("choose an account for PostgreSQL", reason)
    })
}

/// The cache folder that `make setup` and the cluster templates share.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/cache/ridethrough"));
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let above = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(above.join("ridethrough"))
}

fn from_environment() -> Option<PathBuf> {
    std::env::var_os("RIDETHROUGH_PG_BIN").filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn candidates() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    folders.extend(output(OsStr::new("pg_config"), "--bindir").map(PathBuf::from));
    folders.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    folders.extend(numbered("/usr/lib/postgresql", "", "bin"));
    folders.extend(numbered("/usr", "pgsql-", "bin"));
    folders.push(PathBuf::from("/usr/bin"));
    folders.extend(numbered("/opt/homebrew/opt", "postgresql@", "bin"));
    folders.extend(numbered("/usr/local/opt", "postgresql@", "bin"));
    folders.extend(cache_folder().map(|cache| cache.join("postgresql").join("bin")));
    folders
}

/// `ABOVE/PREFIXnn/BELOW` for each number there is, newest first.
fn numbered(above: &str, prefix: &str, below: &str) -> Vec<PathBuf> {
    let names = std::fs::read_dir(above).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let number = |name: &OsStr| name.to_str()?.strip_prefix(prefix)?.parse::<f32>().ok();
    let mut found: Vec<(f32, PathBuf)> =
        names.filter_map(|name| Some((number(&name)?, Path::new(above).join(&name).join(below)))).collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.into_iter().map(|(_, path)| path).collect()
}

fn is_complete(folder: &Path) -> bool {
    let executable = |name: &str| {
        let meta = folder.join(name).metadata();
        meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    executable("postgres") && executable("initdb")
}

fn output(program: &OsStr, argument: &str) -> Option<String> {
    let output =
        Command::new(program).arg(argument).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// "postgres (PostgreSQL) 17.5 (Debian 17.5-1)" gives 17; "… 18beta1" gives 18.
fn major(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// `NAME:x:UID:GID:…`
fn in_passwd(passwd: &str, name: &str) -> Option<Account> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some(Account { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
}

/// For accounts that a directory service knows and the file does not.
fn in_id(name: &str) -> Option<Account> {
    let ask = |option: &str| {
        let output = Command::new("id").args([option, name]).stderr(Stdio::null()).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    Some(Account { uid: ask("-u")?, gid: ask("-g")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(folder: &Path, name: &str, mode: u32) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join(name), "#!/bin/sh\necho 'postgres (PostgreSQL) 16.9'\n").unwrap();
        std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_folder_counts_only_with_both_programs_executable() {
        let folder = tempfile::tempdir().unwrap();
        program(folder.path(), "postgres", 0o755);
        assert!(!is_complete(folder.path()), "initdb is missing");
        program(folder.path(), "initdb", 0o644);
        assert!(!is_complete(folder.path()), "initdb cannot be executed");
        program(folder.path(), "initdb", 0o755);
        assert!(is_complete(folder.path()));
    }

    #[test]
    fn a_named_folder_without_the_programs_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let error = Binaries::find(Some(folder.path())).unwrap_err().to_string();
        assert!(
            error.contains(&folder.path().display().to_string()) && error.contains("--pg-bin"),
            "{error}"
        );
    }

    #[test]
    fn newer_versions_stand_first() {
        let above = tempfile::tempdir().unwrap();
        for name in ["9.6", "12", "15", "notes"] {
            std::fs::create_dir(above.path().join(name)).unwrap();
        }
        let found = numbered(above.path().to_str().unwrap(), "", "bin");
        let expected: Vec<PathBuf> =
            ["15", "12", "9.6"].iter().map(|name| above.path().join(name).join("bin")).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn versions_of_all_kinds_of_builds_are_read() {
        assert_eq!(major("postgres (PostgreSQL) 17.5 (Debian 17.5-1.pgdg12+1)"), Some(17));
        assert_eq!(major("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major("something else 3"), None);
    }

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgresql:x:7:8:::\npostgres:x:101:104:PostgreSQL:/var/lib:/bin/sh\n";
        assert_eq!(in_passwd(passwd, "postgres"), Some(Account { uid: 101, gid: 104 }));
        assert_eq!(in_passwd(passwd, "nobody"), None);
    }
}
