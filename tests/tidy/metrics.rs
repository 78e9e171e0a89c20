//! Every metric that the library records is in its catalogue, and nothing is in the catalogue that nobody records, be it
//! the library or a service that is built on it.
//!
//! In the library it looks for names in `core/src/metrics` and in lines that call it; in the service, everywhere.

use std::collections::BTreeSet;

use crate::source::SourceFile;

const CATALOGUE: &str = "core/src/metrics.rs";
/// How a name begins, with the quote before it, so that a word in a sentence is none.
const BEGIN: &str = "\"ridethrough_";

/// What the catalogue and the code of the library do not agree about.
pub(crate) fn check(files: &[SourceFile]) -> Vec<String> {
    let (mut listed, mut recorded) = (BTreeSet::new(), BTreeSet::new());
    let service = files.iter().filter(|file| file.is_rust() && file.path.starts_with("server/src/"));
    let by_service: BTreeSet<&str> = service.flat_map(|file| file.text.lines().flat_map(names)).collect();
    for file in files.iter().filter(|file| file.is_rust() && file.path.starts_with("core/src/")) {
        let is_of_metrics = file.path.starts_with("core/src/metrics");
        let mut is_catalogue = false;
        for (_, line) in file.lines_without_tests() {
            if file.path == CATALOGUE {
                is_catalogue = (is_catalogue || line.starts_with("pub const CATALOGUE")) && line != "];";
            }
            if is_catalogue {
                listed.extend(names(line));
            } else if is_of_metrics || line.contains("metrics::") {
                recorded.extend(names(line));
            }
        }
    }
    let unlisted =
        recorded.difference(&listed).map(|name| format!("{CATALOGUE} does not list ridethrough_{name}"));
    let unused = listed.iter().filter(|name| !recorded.contains(*name) && !by_service.contains(*name));
    let unused = unused.map(|name| format!("{CATALOGUE} lists ridethrough_{name}, which nobody records"));
    unlisted.chain(unused).collect()
}

fn names(line: &str) -> impl Iterator<Item = &str> {
    line.split(BEGIN).skip(1).filter_map(|rest| rest.split_once('"')).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_wherever_they_stand_in_a_line() {
        let line =
            r#"gauge("ridethrough_a", 1); counter!("ridethrough_b_total", "to" => to); // ridethrough_c"#;
        assert_eq!(names(line).collect::<Vec<_>>(), ["a", "b_total"]);
    }
}
