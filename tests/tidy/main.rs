//! The rules of the house as a test: file length, module docs, who may import whom, words that must not be here,
//! promises that are missing, links that lead nowhere, images that nobody pinned.
//!
//! It reads text line by line and knows no Rust grammar; what the compiler or clippy can check is left to them.

mod containers;
mod files;
mod imports;
mod links;
mod manifests;
mod metrics;
mod promises;
mod source;

use std::path::Path;

use crate::source::{SourceFile, read_tree};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests folder lies in the workspace")
}

fn tree() -> Vec<SourceFile> {
    let root = root();
    let files = read_tree(root);
    assert!(
        files.iter().any(|file| file.path == "core/src/lib.rs"),
        "no sources found below {}",
        root.display()
    );
    files
}

fn assert_clean(violations: &[String]) {
    assert!(violations.is_empty(), "{} to put right:\n{}", violations.len(), violations.join("\n"));
}

#[test]
fn files_are_small_documented_and_finished() {
    assert_clean(&tree().iter().flat_map(files::check).collect::<Vec<_>>());
}

#[test]
fn packages_depend_only_on_what_the_house_allows() {
    assert_clean(&tree().iter().flat_map(manifests::check).collect::<Vec<_>>());
}

#[test]
fn modules_import_only_what_lies_before_them() {
    assert_clean(&tree().iter().flat_map(imports::check).collect::<Vec<_>>());
}

#[test]
fn public_async_functions_say_what_a_drop_leaves_behind() {
    assert_clean(&tree().iter().flat_map(promises::check).collect::<Vec<_>>());
}

#[test]
fn metrics_and_their_catalogue_agree() {
    assert_clean(&metrics::check(&tree()));
}

#[test]
fn the_page_on_metrics_says_what_the_catalogues_say() {
    let path = root().join(metrics::PAGE);
    let expected = metrics::page();
    if std::env::var_os("RIDETHROUGH_WRITE_PAGES").is_some() {
        std::fs::write(&path, &expected).expect("a page can be written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = expected
        .lines()
        .zip(written.lines().chain(std::iter::repeat("")))
        .find(|(left, right)| left != right);
    assert!(
        written == expected,
        "{} is not what the lists in the code say, first at {differs:?}; RIDETHROUGH_WRITE_PAGES=1 writes it anew",
        metrics::PAGE
    );
}

#[test]
fn links_between_documents_lead_somewhere() {
    let files = tree();
    assert_clean(&files.iter().flat_map(|file| links::check(file, &files)).collect::<Vec<_>>());
}

#[test]
fn images_are_pinned_and_nobody_is_root() {
    assert_clean(&tree().iter().flat_map(containers::check).collect::<Vec<_>>());
}
