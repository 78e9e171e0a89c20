//! Rules about who may name whom inside a package: the library's modules form a line and import leftward only, and the
//! chaos suite keeps its judge apart from its workload. Tests at the end of a file may name anything.

use crate::source::SourceFile;

const LIBRARY: &str = "core/src/";
const CHAOS: &str = "chaos/src/";

/// The library's modules from left to right; each may import what stands before it.
const LINE: [&str; 21] = [
    "sensitive",
    "duration_text",
    "error",
    "attempts",
    "metrics",
    "deadline",
    "sabotage",
    "sync",
    "sliding",
    "backoff",
    "budget",
    "breaker",
    "bulkhead",
    "judgement",
    "retry",
    "mode",
    "drain",
    "health",
    "cache",
    "journal",
    "db",
];
/// What an adapter around a client of somebody else may import.
const POLICIES: &[&str] = &[
    "duration_text",
    "error",
    "metrics",
    "deadline",
    "backoff",
    "budget",
    "breaker",
    "bulkhead",
    "judgement",
    "retry",
];
/// Modules beside the line, with all they may import.
const BESIDE: [(&str, &[&str]); 6] = [
    ("http", &["duration_text", "error", "deadline", "mode", "drain", "health"]),
    ("guard", POLICIES),
    ("layer", POLICIES),
    ("service", &["duration_text", "error", "metrics", "mode", "drain", "health", "http"]),
    ("vitals", &["sabotage", "mode", "drain", "health", "db", "http", "service"]),
    ("testkit", &["error", "drain", "health", "cache", "journal", "db"]),
];

/// Modules of the chaos suite with a closed list of what they may import.
const CHAOS_CLOSED: [(&str, &[&str]); 4] =
    [("history", &[]), ("checker", &["history", "verdict"]), ("toxic", &["error"]), ("names", &["error"])];
/// Only `run` brings these together: no other module may name more than it must, and none of them its siblings.
const CHAOS_PARTS: [&str; 3] = ["cluster", "workload", "nemesis"];
const CHAOS_CONDUCTOR: &str = "run";

/// Tests that judge from outside, and what they share: they must not call the library.
const BLACK_BOX: [&str; 2] = ["tests/e2e/", "tests/harness/"];
const LIBRARY_NAME: &str = "ridethrough::";

/// What is wrong with the imports of this file.
pub(crate) fn check(file: &SourceFile) -> Vec<String> {
    if BLACK_BOX.iter().any(|folder| file.path.starts_with(folder)) {
        let code = file.code();
        let calls = code.iter().filter(|(_, line)| line.contains(LIBRARY_NAME));
        return calls
            .map(|(number, _)| {
                format!("{}:{number}: tests from outside must not call the library", file.path)
            })
            .collect();
    }
    if let Some(inner) = file.path.strip_prefix(LIBRARY) {
        check_package(file, inner, library_forbids)
    } else if let Some(inner) = file.path.strip_prefix(CHAOS) {
        let mut found = check_package(file, inner, chaos_forbids);
        found.extend(sees_all_parts(file, inner));
        found
    } else {
        Vec::new()
    }
}

/// Judges each name after `crate::` by `forbids(own module, named module)`.
fn check_package(file: &SourceFile, inner: &str, forbids: fn(&str, &str) -> Option<String>) -> Vec<String> {
    let Some(own) = module_of(inner) else { return Vec::new() };
    if file.is_test() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (number, named) in named_modules(file, inner) {
        let complaint = if named.starts_with(char::is_uppercase) {
            Some(format!("import {named} from its module; the re-export is for users of the package"))
        } else if named == own {
            None
        } else {
            forbids(own, &named)
        };
        found.extend(complaint.map(|complaint| format!("{}:{number}: {complaint}", file.path)));
    }
    found
}

fn library_forbids(own: &str, named: &str) -> Option<String> {
    if let Some((_, allowed)) = BESIDE.iter().find(|(module, _)| *module == own) {
        return (!allowed.contains(&named)).then(|| format!("{own} must not import {named}"));
    }
    let place = |module: &str| LINE.iter().position(|candidate| *candidate == module);
    match (place(own), place(named)) {
        (None, _) => Some(format!("the module {own} has no place in the import table of tests/tidy")),
        (Some(own_place), Some(named_place)) if named_place < own_place => None,
        _ => Some(format!("{own} must not import {named}: imports go leftward only")),
    }
}

fn chaos_forbids(own: &str, named: &str) -> Option<String> {
    let closed = CHAOS_CLOSED.iter().find(|(module, _)| *module == own);
    let outside = closed.is_some_and(|(_, allowed)| !allowed.contains(&named));
    // A fault is applied to a cluster, so the nemesis knows it; the other way round, and to the workload, there is no way.
    let sibling =
        CHAOS_PARTS.contains(&own) && CHAOS_PARTS.contains(&named) && (own, named) != ("nemesis", "cluster");
    (outside || sibling).then(|| format!("{own} must not import {named}"))
}

fn sees_all_parts(file: &SourceFile, inner: &str) -> Option<String> {
    let own = module_of(inner)?;
    let named = named_modules(file, inner);
    let sees = |part: &str| named.iter().any(|(_, module)| module == part);
    (own != CHAOS_CONDUCTOR && CHAOS_PARTS.into_iter().all(sees))
        .then(|| format!("{}: only {CHAOS_CONDUCTOR} sees cluster, workload and nemesis together", file.path))
}

/// The top module a file belongs to; the roots of a package belong to none.
fn module_of(inner: &str) -> Option<&str> {
    let top = inner.split('/').next()?;
    let top = top.strip_suffix(".rs").unwrap_or(top);
    (!matches!(top, "lib" | "main" | "bin")).then_some(top)
}

/// The names that directly follow the root of the package, with their lines. `super::` that leads to the root counts
/// where a line is not indented; further in it may belong to a module written inside the file.
fn named_modules(file: &SourceFile, inner: &str) -> Vec<(usize, String)> {
    let to_root = "super::".repeat(inner.split('/').count());
    let mut code = String::new();
    for (_, line) in file.code() {
        code.push_str(line);
        code.push('\n');
    }
    let mut named = Vec::new();
    for root in ["crate::", to_root.as_str()] {
        for (at, _) in code.match_indices(root) {
            let before = code.get(..at).unwrap_or_default();
            let indented = before.rsplit('\n').next().is_some_and(|head| head.starts_with(' '));
            let inside_a_path = before.ends_with(|c: char| c.is_alphanumeric() || "_$:".contains(c));
            if inside_a_path || (root != "crate::" && indented) {
                continue;
            }
            let line = before.matches('\n').count() + 1;
            let rest = code.get(at + root.len()..).unwrap_or_default();
            named.extend(first_names(rest).into_iter().map(|name| (line, name)));
        }
    }
    named
}

/// `a::b` gives `a`; `{a::b, c::{d, e}}` gives `a` and `c`; a macro gives nothing.
fn first_names(path: &str) -> Vec<String> {
    let Some(group) = path.strip_prefix('{') else { return identifier(path).into_iter().collect() };
    let mut depth = 0_usize;
    let mut names = Vec::new();
    let mut start = 0;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.extend(group.get(start..at).and_then(|entry| identifier(entry.trim())));
                start = at + 1;
                if character == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

fn identifier(path: &str) -> Option<String> {
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len());
    let (name, rest) = path.split_at(end);
    (!name.is_empty() && !rest.starts_with('!')).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::planted;

    fn complaint(path: &str, text: &str) -> String {
        check(&planted(path, text)).join("\n")
    }

    #[test]
    fn leftward_imports_pass() {
        assert_eq!(
            complaint("core/src/db/replay.rs", "use crate::{breaker::Breaker, journal::{Journal, record}};"),
            ""
        );
        assert_eq!(
            complaint("core/src/breaker/window.rs", "use crate::breaker::Outcome;\nuse super::Breaker;"),
            ""
        );
        assert_eq!(complaint("core/src/service/admin.rs", "use crate::http::probes;"), "");
    }

    #[test]
    fn a_rightward_import_is_found_with_its_line() {
        let text = "//! The cache.\n// crate::layer is fine in a comment.\nuse crate::db::Db;\n";
        assert!(
            complaint("core/src/cache.rs", text).starts_with("core/src/cache.rs:3: cache must not import db")
        );
        assert!(
            complaint("core/src/budget.rs", "fn a() { crate::breaker::trip() }")
                .contains("budget must not import breaker")
        );
    }

    #[test]
    fn groups_over_several_lines_and_super_are_seen() {
        assert!(
            complaint("core/src/journal.rs", "use crate::{\n    error::Error,\n    db::Db,\n};")
                .contains("import db")
        );
        assert!(complaint("core/src/journal/writer.rs", "use super::super::db::Db;").contains("import db"));
        assert!(complaint("core/src/journal.rs", "use super::db::Db;").contains("import db"));
    }

    #[test]
    fn adapters_and_the_database_path_stay_apart() {
        assert!(
            complaint("core/src/db/pool.rs", "use crate::layer::Layer;").contains("db must not import layer")
        );
        assert!(complaint("core/src/db.rs", "use crate::http::problem;").contains("db must not import http"));
        assert!(
            complaint("core/src/layer.rs", "use crate::journal::Journal;")
                .contains("layer must not import journal")
        );
        assert!(complaint("core/src/http.rs", "use crate::db::Db;").contains("http must not import db"));
        assert!(
            complaint("core/src/service.rs", "use crate::db::Db;").contains("service must not import db")
        );
    }

    #[test]
    fn a_new_module_needs_a_place() {
        assert!(
            complaint("core/src/extra.rs", "use crate::error::Error;")
                .contains("no place in the import table")
        );
    }

    #[test]
    fn tests_from_outside_do_not_call_the_library() {
        let text = "use ridethrough::Db;\nuse ridethrough_tests::stack::Lab;\n";
        assert!(
            complaint("tests/e2e/outage.rs", text).starts_with("tests/e2e/outage.rs:1: tests from outside")
        );
        assert!(complaint("tests/harness/link.rs", text).contains("must not call"));
        assert_eq!(complaint("tests/library/boundaries.rs", text), "");
    }

    #[test]
    fn re_exports_are_not_for_the_package_itself() {
        assert!(complaint("core/src/db.rs", "use crate::Deadline;").contains("from its module"));
    }

    #[test]
    fn tests_may_name_anything() {
        assert_eq!(complaint("core/src/cache/tests.rs", "use crate::db::Db;"), "");
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    use crate::db::Db;\n}\n";
        assert_eq!(complaint("core/src/cache.rs", text), "");
    }

    #[test]
    fn the_judge_knows_only_the_history() {
        assert_eq!(
            complaint(
                "chaos/src/checker/durability.rs",
                "use crate::history::Operation;\nuse crate::checker::Verdict;"
            ),
            ""
        );
        assert!(
            complaint("chaos/src/checker.rs", "use crate::workload::Plan;")
                .contains("checker must not import workload")
        );
        assert!(
            complaint("chaos/src/history.rs", "use crate::error::Error;")
                .contains("history must not import error")
        );
    }

    #[test]
    fn only_the_run_brings_the_parts_together() {
        let all = "use crate::cluster::Cluster;\nuse crate::nemesis::Fault;\nuse crate::workload::Plan;\n";
        assert_eq!(complaint("chaos/src/run.rs", all), "");
        assert!(complaint("chaos/src/demo.rs", all).contains("together"));
        assert!(
            complaint("chaos/src/workload.rs", "use crate::cluster::Cluster;")
                .contains("workload must not import cluster")
        );
        assert_eq!(complaint("chaos/src/nemesis.rs", "use crate::cluster::Cluster;"), "");
    }
}
