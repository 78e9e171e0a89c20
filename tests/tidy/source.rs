//! The files of the repository as text, and the few things the rules need to know about a Rust file: which part is
//! tests, which lines are code, which modules it names. It judges nothing.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// A text file, with its path relative to the repository and `/` between the folders.
pub(crate) struct SourceFile {
    pub(crate) path: String,
    pub(crate) text: String,
    /// Whether its parent declares it for tests only.
    declared_for_tests: bool,
}

impl SourceFile {
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The lines before the tests in the same file, numbered from 1; all of them where there are none.
    pub(crate) fn lines_without_tests(&self) -> Vec<(usize, &str)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let tests_start = lines.windows(2).position(|pair| {
            matches!(pair, [attribute, module]
                if is_for_tests(attribute.trim()) && is_module(module) && module.ends_with('{'))
        });
        let end = tests_start.unwrap_or(lines.len());
        lines.into_iter().take(end).enumerate().map(|(index, line)| (index + 1, line)).collect()
    }

    /// Whether the whole file is for tests: declared so by its parent, or in a `tests` or `benches` folder.
    pub(crate) fn is_test(&self) -> bool {
        self.declared_for_tests
            || self.path.ends_with("/tests.rs")
            || self.path.split('/').any(|part| part == "tests" || part == "benches")
    }

    /// The paths of the modules that this file declares for tests only, with `#[cfg(test)]` on the line before.
    fn modules_for_tests(&self) -> Vec<String> {
        let folder = match self.path.strip_suffix(".rs") {
            Some(stem) => stem
                .strip_suffix("lib")
                .or(stem.strip_suffix("main"))
                .map_or(format!("{stem}/"), str::to_owned),
            None => return Vec::new(),
        };
        let lines: Vec<&str> = self.text.lines().map(str::trim).collect();
        let declared = lines.windows(2).filter_map(|pair| match pair {
            [attribute, module] if is_for_tests(attribute) => {
                module.strip_suffix(';')?.rsplit_once("mod ").map(|(_, name)| name)
            }
            _ => None,
        });
        declared.map(|name| format!("{folder}{name}.rs")).collect()
    }

    /// The file without tests and comments, line by line.
    pub(crate) fn code(&self) -> Vec<(usize, &str)> {
        self.lines_without_tests().into_iter().map(|(number, line)| (number, without_comment(line))).collect()
    }
}

/// Whether an attribute keeps its item out of everything but tests.
fn is_for_tests(attribute: &str) -> bool {
    attribute == "#[cfg(test)]" || attribute.starts_with("#[cfg(all(test,")
}

/// Whether a line begins a module, however visible.
fn is_module(line: &str) -> bool {
    line.trim_start()
        .split_once("mod ")
        .is_some_and(|(before, _)| before.is_empty() || before.starts_with("pub"))
}

/// Cuts a line comment off. `//` after a colon is taken for part of an address in a string.
fn without_comment(line: &str) -> &str {
    let comment =
        line.match_indices("//").find(|(at, _)| !line.get(..*at).is_some_and(|head| head.ends_with(':')));
    comment.and_then(|(at, _)| line.get(..at)).unwrap_or(line)
}

/// Every text file below `root`, without version control, build output and hidden caches.
pub(crate) fn read_tree(root: &Path) -> Vec<SourceFile> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository can be listed") {
            let path = entry.expect("a folder of the repository can be listed").path();
            let relative = path.strip_prefix(root).expect("the walk stays below the root").to_string_lossy();
            // In a linked worktree it is a file that names a folder of the machine.
            if relative == ".git" {
                continue;
            }
            if path.is_dir() {
                if relative != "target" && !path.join("CACHEDIR.TAG").exists() {
                    folders.push(path);
                }
            } else if let Ok(text) = fs::read_to_string(&path) {
                let path = relative.replace('\\', "/");
                files.push(SourceFile { path, text, declared_for_tests: false });
            }
        }
    }
    let for_tests: HashSet<String> = files.iter().flat_map(SourceFile::modules_for_tests).collect();
    for file in &mut files {
        file.declared_for_tests = for_tests.contains(&file.path);
    }
    files.sort_by(|left, right| left.path.cmp(&right.path));
    files
}

#[cfg(test)]
pub(crate) fn planted(path: &str, text: &str) -> SourceFile {
    SourceFile {
        path: path.to_owned(),
        text: text.to_owned(),
        declared_for_tests: path.ends_with("/tests.rs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_in_the_file_are_left_out() {
        let file =
            planted("core/src/a.rs", "//! A.\nfn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n");
        assert_eq!(file.lines_without_tests().last(), Some(&(2, "fn a() {}")));
        let text = "fn a() {}\n#[cfg(all(test, feature = \"b\"))]\npub(crate) mod tests {\n}\n";
        assert_eq!(planted("core/src/a.rs", text).lines_without_tests().len(), 1);
    }

    #[test]
    fn tests_in_another_file_leave_the_rest_in() {
        let file = planted("core/src/a.rs", "#[cfg(test)]\nmod tests;\nfn a() {}\n");
        assert_eq!(file.lines_without_tests().len(), 3);
    }

    #[test]
    fn a_module_for_tests_is_known_by_its_parent() {
        let parent = planted("core/src/journal/disk.rs", "mod real;\n#[cfg(test)]\npub(crate) mod memory;\n");
        assert_eq!(parent.modules_for_tests(), ["core/src/journal/disk/memory.rs"]);
        let root = planted("core/src/lib.rs", "    #[cfg(test)]\nmod testing;\n");
        assert_eq!(root.modules_for_tests(), ["core/src/testing.rs"]);
    }

    #[test]
    fn an_address_is_no_comment() {
        assert_eq!(without_comment("let a = \"http://b\"; // c"), "let a = \"http://b\"; ");
    }
}
