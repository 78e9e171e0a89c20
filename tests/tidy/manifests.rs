//! Rules about the dependencies between the packages of this workspace, read from their manifests. What they take from
//! outside is the business of `deny.toml`.

use crate::source::SourceFile;

/// For each member: the members it may depend on. The chaos suite is a black box on purpose: a checker that shares
/// code with what it judges shares its bugs. The end-to-end tests know server and proxy as processes only; the library's
/// own tests on a real PostgreSQL, in the same package, call it, and `imports` keeps the two apart.
const ALLOWED: [(&str, &[&str]); 5] = [
    ("core", &[]),
    ("server", &["ridethrough"]),
    ("frontend-proxy", &["ridethrough"]),
    ("chaos", &[]),
    ("tests", &["ridethrough", "ridethrough-chaos", "ridethrough-server"]),
];
/// Workspaces of their own, so that nobody else builds what they compare with or stand on.
const APART: [&str; 3] = ["bench", "examples/sqlx", "fuzz"];
const WORKSPACE_PREFIX: &str = "ridethrough";
/// The proxy serves any HTTP backend and must not carry a database driver.
const PROXY: &str = "frontend-proxy";
const DATABASE_FEATURE: &str = "\"postgres\"";

/// What is wrong with this file, where it is the manifest of a member.
pub(crate) fn check(file: &SourceFile) -> Vec<String> {
    let Some(member) = file.path.strip_suffix("/Cargo.toml") else { return Vec::new() };
    if APART.contains(&member) {
        let apart = file.text.lines().any(|line| line.trim() == "[workspace]");
        let joined = || format!("{}: must be a workspace of its own", file.path);
        return if apart { Vec::new() } else { vec![joined()] };
    }
    let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == member) else {
        return vec![format!("{}: a member the import table of tests/tidy does not know", file.path)];
    };
    let mut found = Vec::new();
    for (number, dependency, line) in dependencies(&file.text) {
        let place = format!("{}:{number}", file.path);
        if dependency.starts_with(WORKSPACE_PREFIX) && !allowed.contains(&dependency) {
            found.push(format!("{place}: {member} must not depend on {dependency}"));
        }
        if member == PROXY && dependency.starts_with(WORKSPACE_PREFIX) && pulls_database(line) {
            found.push(format!("{place}: the proxy takes the library without its database path"));
        }
        if line.contains("version =") || line.contains("= \"") {
            found.push(format!("{place}: versions stand once, in the manifest of the workspace"));
        }
    }
    found
}

/// The library's default features hold the database path; the workspace switches them off for everybody.
fn pulls_database(line: &str) -> bool {
    line.contains(DATABASE_FEATURE) || line.contains("default-features = true")
}

/// Line number, name and line of every entry in a table of dependencies.
fn dependencies(manifest: &str) -> Vec<(usize, &str, &str)> {
    let mut inside = false;
    let mut entries = Vec::new();
    for (index, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if let Some(table) = line.strip_prefix('[') {
            inside = table.trim_end_matches(']').ends_with("dependencies");
        } else if inside
            && !line.starts_with('#')
            && let Some((name, _)) = line.split_once(['.', ' ', '='])
        {
            entries.push((index + 1, name, line));
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::planted;

    fn complaint(member: &str, manifest: &str) -> String {
        check(&planted(&format!("{member}/Cargo.toml"), manifest)).join("\n")
    }

    #[test]
    fn what_stands_apart_is_a_workspace_of_its_own() {
        assert_eq!(complaint("bench", "[workspace]\n\n[dependencies]\nrecloser = \"1\"\n"), "");
        assert!(complaint("bench", "[dependencies]\nrecloser = \"1\"\n").contains("of its own"));
    }

    #[test]
    fn allowed_dependencies_pass() {
        let server = "[dependencies]\nridethrough = { workspace = true, features = [\"postgres\"] }\nhttp.workspace = true\n";
        assert_eq!(complaint("server", server), "");
        assert_eq!(complaint("tests", "[dependencies]\nridethrough-chaos.workspace = true\n"), "");
        assert_eq!(
            complaint(
                "frontend-proxy",
                "[dependencies]\nridethrough = { workspace = true, features = [\"http\"] }\n"
            ),
            ""
        );
    }

    #[test]
    fn a_checker_that_knows_the_judged_is_found() {
        assert!(
            complaint("chaos", "[dev-dependencies]\nridethrough.workspace = true\n")
                .contains("chaos must not depend")
        );
        assert!(
            complaint("tests", "[dependencies]\nridethrough-proxy.workspace = true\n")
                .contains("must not depend")
        );
        assert!(
            complaint("core", "[build-dependencies]\nridethrough-chaos.workspace = true\n")
                .contains("must not")
        );
    }

    #[test]
    fn a_database_driver_in_the_proxy_is_found() {
        let manifest = "[dependencies]\nridethrough = { workspace = true, features = [\"postgres\"] }\n";
        assert!(complaint("frontend-proxy", manifest).contains("without its database path"));
    }

    #[test]
    fn a_version_in_a_member_is_found() {
        assert!(complaint("core", "[dependencies]\nhttp = \"1\"\n").contains("versions stand once"));
        assert!(
            complaint("core", "[dependencies]\nhttp = { version = \"1\" }\n").contains("versions stand once")
        );
    }

    #[test]
    fn a_new_member_must_be_entered_here() {
        assert!(complaint("extra", "[package]\n").contains("does not know"));
    }
}
