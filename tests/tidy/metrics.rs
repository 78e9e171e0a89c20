//! Every metric that a package records is in its catalogue, nothing is in a catalogue that nobody records, and
//! `docs/metrics.md` says what the catalogues say.
//!
//! In the library it looks for names in `core/src/metrics` and in lines that call it; in server and proxy, in every file
//! that records something.

mod page;

use std::collections::BTreeSet;

use ridethrough::metrics::{CATALOGUE, Metric};

pub(crate) use self::page::{PAGE, page};
use crate::source::SourceFile;

#[path = "../../frontend-proxy/src/meters/catalogue.rs"]
mod proxy;
#[path = "../../server/src/meters.rs"]
mod server;

/// The folder of a package, its catalogue, and where that stands.
struct Package {
    folder: &'static str,
    catalogue: &'static [Metric],
    file: &'static str,
}

const PACKAGES: [Package; 3] = [
    Package { folder: LIBRARY, catalogue: CATALOGUE, file: "core/src/metrics/catalogue.rs" },
    Package { folder: "server/src/", catalogue: server::CATALOGUE, file: "server/src/meters.rs" },
    Package {
        folder: "frontend-proxy/src/",
        catalogue: proxy::CATALOGUE,
        file: "frontend-proxy/src/meters/catalogue.rs",
    },
];
/// Here names of channels and tables begin in the same way, in files that record something too.
const LIBRARY: &str = "core/src/";
/// How a name begins, with the quote before it, so that a word in a sentence is none.
const BEGIN: &str = "\"ridethrough_";

/// What the catalogues and the code do not agree about.
pub(crate) fn check(files: &[SourceFile]) -> Vec<String> {
    PACKAGES.iter().flat_map(|package| check_package(package, files)).collect()
}

fn check_package(Package { folder, catalogue, file }: &Package, files: &[SourceFile]) -> Vec<String> {
    let is_own = |source: &&SourceFile| {
        source.is_rust()
            && source.path.starts_with(folder)
            && source.path != *file
            && !source.is_test()
            && source.text.contains("metrics::")
    };
    let mut recorded = BTreeSet::new();
    for source in files.iter().filter(is_own) {
        let may_record_anywhere = *folder != LIBRARY || source.path.starts_with("core/src/metrics");
        let lines = source.lines_without_tests().into_iter().map(|(_, line)| line);
        let lines = lines.filter(|line| may_record_anywhere || line.contains("metrics::"));
        recorded.extend(lines.flat_map(names));
    }
    let listed: BTreeSet<&str> = catalogue.iter().map(|metric| metric.name).collect();
    let unlisted = recorded.difference(&listed).map(|name| format!("{file} does not list {name}"));
    let unused =
        listed.difference(&recorded).map(|name| format!("{file} lists {name}, which nobody records"));
    unlisted.chain(unused).collect()
}

fn names(line: &str) -> impl Iterator<Item = &str> {
    let starts = line.match_indices(BEGIN).filter_map(|(at, _)| line.get(at + 1..));
    starts.filter_map(|rest| rest.split_once('"')).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::planted;

    #[test]
    fn names_are_found_wherever_they_stand_in_a_line() {
        let line =
            r#"gauge("ridethrough_a", 1); counter!("ridethrough_b_total", "to" => to); // ridethrough_c"#;
        assert_eq!(names(line).collect::<Vec<_>>(), ["ridethrough_a", "ridethrough_b_total"]);
    }

    #[test]
    fn what_is_not_listed_and_what_nobody_records_is_told() {
        const LISTED: &[Metric] = &[Metric::gauge("ridethrough_a", "."), Metric::gauge("ridethrough_b", ".")];
        let package = Package { folder: "server/src/", catalogue: LISTED, file: "server/src/meters.rs" };
        let files = [
            planted("server/src/meters.rs", "\"ridethrough_a\" \"ridethrough_b\""),
            planted("server/src/app.rs", "metrics::gauge!(\"ridethrough_a\"); gauge!(\"ridethrough_c\");"),
            planted("server/src/cookie.rs", "const COOKIE: &str = \"ridethrough_cookie\";"),
            planted("frontend-proxy/src/app.rs", "metrics::gauge!(\"ridethrough_b\");"),
        ];
        let told = check_package(&package, &files);
        assert_eq!(
            told,
            [
                "server/src/meters.rs does not list ridethrough_c",
                "server/src/meters.rs lists ridethrough_b, which nobody records",
            ]
        );
    }
}
