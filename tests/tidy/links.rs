//! Links between the documents of the repository lead to files that exist. Links to the outside, and to headings inside
//! a document, are not followed.

use crate::source::SourceFile;

/// The links of this document that lead nowhere, one sentence each.
pub(crate) fn check(file: &SourceFile, files: &[SourceFile]) -> Vec<String> {
    if !file.path.ends_with(".md") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for target in targets(line) {
            if let Some(path) = resolve(&file.path, target)
                && !exists(&path, files)
            {
                found.push(format!("{}:{}: the link to {target} leads nowhere", file.path, index + 1));
            }
        }
    }
    found
}

/// What stands between `](` and `)`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// The target as a path from the root of the repository, where it is one.
fn resolve(document: &str, target: &str) -> Option<String> {
    let target = target.split('#').next().unwrap_or_default();
    if target.is_empty() || target.contains(':') {
        return None;
    }
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Whether a file, or a folder with a file in it, has this path. Pictures are no text and are looked for on the disk.
fn exists(path: &str, files: &[SourceFile]) -> bool {
    let inside = format!("{path}/");
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    files.iter().any(|file| file.path == path || file.path.starts_with(&inside))
        || std::path::Path::new(root).join(path).exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::planted;

    fn complaint(text: &str) -> String {
        let document = planted("docs/adr/a.md", text);
        check(&document, &[planted("core/src/db.rs", ""), planted("docs/glossary.md", "")]).join("\n")
    }

    #[test]
    fn links_to_files_and_folders_pass() {
        assert_eq!(
            complaint(
                "[a](../glossary.md#word), [b](../../core/src/), [c](https://example.org/x), [d](#here)"
            ),
            ""
        );
    }

    #[test]
    fn a_link_into_the_void_is_found() {
        assert!(
            complaint("see\n[a](../glosary.md)").starts_with("docs/adr/a.md:2: the link to ../glosary.md")
        );
        assert!(complaint("[a](glossary.md)").contains("leads nowhere"));
    }
}
