//! Finds the programs of a stack: what was named, or what cargo put beside the current program. It starts none.

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::stack::Options;

/// The server's and the proxy's binary.
pub(crate) fn binaries(options: &Options) -> Result<(PathBuf, PathBuf), Error> {
    let server = match &options.server_bin {
        Some(path) => existing(path, "--server-bin", "ridethrough-server")?,
        None => binary(options.bin_dir.as_deref(), "ridethrough-server")?,
    };
    Ok((server, binary(options.bin_dir.as_deref(), "ridethrough-proxy")?))
}

/// Our server once more, built with bugs that can be planted.
const SABOTAGED: &str = "ridethrough-server-sabotage";

/// The binary of the server whose bugs can be planted: the one that is named, or our own.
pub(crate) fn sabotaged(options: &Options) -> Result<PathBuf, Error> {
    match &options.server_bin {
        Some(path) => existing(path, "--server-bin", "ridethrough-server"),
        None => binary(options.bin_dir.as_deref(), SABOTAGED).map_err(|error| match error {
            Error::NoBinary { name, path, option, .. } => {
                let build = format!("cargo build -p ridethrough-server --features sabotage --bin {name}");
                Error::NoBinary { name, path, build, option }
            }
            other => other,
        }),
    }
}

fn existing(path: &Path, option: &'static str, package: &str) -> Result<PathBuf, Error> {
    // Made absolute, because each process works in a folder of its own.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if absolute.is_file() {
        return Ok(absolute);
    }
    let name = absolute.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let build = format!("cargo build -p {package}");
    Err(Error::NoBinary { name, path: absolute, build, option })
}

fn binary(folder: Option<&Path>, name: &str) -> Result<PathBuf, Error> {
    /// `target/debug/deps/test` needs two.
    const LEVELS_UP: usize = 4;
    if let Some(folder) = folder {
        return existing(&folder.join(name), "--bin-dir", name);
    }
    let current = std::env::current_exe().map_err(Error::io("find the current program"))?;
    let folders = current.ancestors().skip(1).take(LEVELS_UP);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    match found {
        Some(path) => Ok(path),
        None => existing(&current.with_file_name(name), "--bin-dir", name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_binary_is_told_with_the_command_that_makes_it() {
        let folder = tempfile::tempdir().unwrap();
        let error = binary(Some(folder.path()), "ridethrough-proxy").unwrap_err().to_string();
        assert!(error.contains("cargo build -p ridethrough-proxy") && error.contains("--bin-dir"), "{error}");
    }
}
