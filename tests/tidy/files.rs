//! Rules about a file by itself: its length, its opening, its name, and words that do not belong. Imports are
//! judged elsewhere.

use crate::source::SourceFile;

/// Past this a file no longer has one job; the house asks for 100 to 400, and the rest is slack for a last fix.
const LINES_MAX: usize = 450;
/// The same with the tests at the end of the file.
const LINES_WITH_TESTS_MAX: usize = 700;
/// A file with less than this in it is a stub; a `main` that only calls its library has this much.
const FILLED_LINES_MIN: usize = 4;

/// Folders of whoever works on the project, which mean nothing to anybody else.
const MACHINE_PATHS: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/tmp/", "brief")];
/// Marks of unfinished work; allowed with the number of an issue, as in `MARK(#12)`.
const UNFINISHED_MARKS: [&str; 2] = [concat!("TO", "DO"), concat!("FIX", "ME")];

/// What is wrong with this file, one sentence each.
pub(crate) fn check(file: &SourceFile) -> Vec<String> {
    let mut found = unwanted_words(file);
    if file.is_rust() {
        found.extend(length(file));
        found.extend(opening(file));
        found.extend(name(file));
        found.extend(stub(file));
        found.extend(unwraps(file));
    }
    found
}

fn length(file: &SourceFile) -> Option<String> {
    let (total, code) = (file.text.lines().count(), file.lines_without_tests().len());
    (code > LINES_MAX || total > LINES_WITH_TESTS_MAX).then(|| {
        format!(
            "{}: {code} lines and {total} with tests; at most {LINES_MAX} and {LINES_WITH_TESTS_MAX}: split it by concept",
            file.path
        )
    })
}

fn opening(file: &SourceFile) -> Option<String> {
    (!file.text.starts_with("//! "))
        .then(|| format!("{}:1: open the file with `//!`: its one job, and what it does not do", file.path))
}

fn name(file: &SourceFile) -> Option<String> {
    file.path
        .ends_with("/mod.rs")
        .then(|| format!("{}: write `foo.rs` beside `foo/`, not `foo/mod.rs`", file.path))
}

fn stub(file: &SourceFile) -> Option<String> {
    let filled = file.text.lines().filter(|line| !line.trim().is_empty()).count();
    (filled < FILLED_LINES_MIN)
        .then(|| format!("{}: {filled} lines is a stub: files appear when they have content", file.path))
}

fn unwraps(file: &SourceFile) -> Vec<String> {
    if file.is_test() || !file.path.contains("/src/") {
        return Vec::new();
    }
    let calls = file.code().into_iter().filter(|(_, line)| line.contains(".unwrap()"));
    calls.map(|(number, _)| format!("{}:{number}: no `unwrap` outside tests", file.path)).collect()
}

/// Lock files quote the outside world and prose may speak about marks, so they are not searched for those.
fn unwanted_words(file: &SourceFile) -> Vec<String> {
    let prose = file.path.ends_with(".md");
    let mut found = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let place = format!("{}:{}", file.path, index + 1);
        if MACHINE_PATHS.iter().any(|path| names_path(line, path)) {
            found.push(format!("{place}: a path of one machine"));
        }
        if !prose && UNFINISHED_MARKS.iter().any(|mark| is_bare_mark(line, mark)) {
            found.push(format!("{place}: unfinished work without the number of an issue"));
        }
    }
    found
}

/// Whether `path` stands at the start of a path in `line`: `a/work/b` is somebody's relative path.
fn names_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line.get(..at).and_then(|head| head.chars().next_back());
        !before.is_some_and(|before| before.is_alphanumeric() || "._-/}".contains(before))
    })
}

fn is_bare_mark(line: &str, mark: &str) -> bool {
    line.match_indices(mark).any(|(at, _)| {
        let before = line.get(..at).and_then(|head| head.chars().next_back());
        let after = line.get(at + mark.len()..).unwrap_or_default();
        let is_word = !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
            && !after.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        is_word && !after.starts_with("(#")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::planted;

    const GOOD: &str = "//! One job.\n\nfn a() {\n    b();\n    c();\n}\n\nfn d() {}\n";

    fn complaint(path: &str, text: &str) -> String {
        check(&planted(path, text)).join("\n")
    }

    #[test]
    fn a_good_file_passes() {
        assert_eq!(complaint("core/src/a.rs", GOOD), "");
    }

    #[test]
    fn a_long_file_is_found() {
        let long = format!("{GOOD}{}", "// line\n".repeat(LINES_MAX));
        assert!(complaint("core/src/a.rs", &long).contains("split it"));
    }

    #[test]
    fn tests_in_the_file_lengthen_the_limit_but_not_without_end() {
        let tests = |lines| format!("{GOOD}#[cfg(test)]\nmod tests {{\n{}}}\n", "// line\n".repeat(lines));
        assert_eq!(complaint("core/src/a.rs", &tests(600)), "");
        assert!(complaint("core/src/a.rs", &tests(LINES_WITH_TESTS_MAX)).contains("split it"));
    }

    #[test]
    fn a_file_without_its_job_is_found() {
        assert!(complaint("core/src/a.rs", &GOOD.replace("//! ", "// ")).contains("open the file"));
    }

    #[test]
    fn the_old_module_file_is_found() {
        assert!(complaint("core/src/a/mod.rs", GOOD).contains("not `foo/mod.rs`"));
    }

    #[test]
    fn a_stub_is_found() {
        assert!(complaint("core/src/a.rs", "//! Under construction.\n").contains("stub"));
    }

    #[test]
    fn unwrap_is_found_in_code_only() {
        let bad = GOOD.replace("b();", "b().unwrap();");
        assert!(complaint("core/src/a.rs", &bad).contains("core/src/a.rs:4: no `unwrap`"));
        assert_eq!(complaint("core/src/a/tests.rs", &bad), "");
        assert_eq!(complaint("core/src/a.rs", &GOOD.replace("b();", "b(); // b().unwrap()")), "");
    }

    #[test]
    fn unfinished_work_needs_an_issue() {
        for mark in UNFINISHED_MARKS {
            let with = |tail: &str| GOOD.replace("b();", &format!("b(); // {mark}{tail}"));
            assert!(complaint("core/src/a.rs", &with(": later")).contains("unfinished"));
            assert_eq!(complaint("core/src/a.rs", &with("(#12): later")), "");
            assert_eq!(complaint("core/src/a.rs", &with("S_MAX")), "");
            assert!(complaint("Makefile", &format!("# {mark} later")).contains("unfinished"));
        }
    }

    #[test]
    fn machine_paths_are_found_in_any_file() {
        for path in MACHINE_PATHS {
            assert!(complaint("README.md", &format!("see {path}x")).contains("path of one machine"));
            assert_eq!(complaint("README.md", &format!("see a{path}x")), "");
        }
    }
}
