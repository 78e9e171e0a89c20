//! The page `docs/metrics.md`, made of the catalogues: one table for each, one row for each metric.

use std::fmt::Write as _;

use ridethrough::metrics::{CATALOGUE, Label, Metric, PROCESS, Values};

use super::{proxy, server};

/// Where it stands.
pub(crate) const PAGE: &str = "docs/metrics.md";

const INTRODUCTION: &str = "\
# Metrics

What `/metrics` on the admin port tells, in the text format of Prometheus. Times are in seconds, sizes in bytes. \
No request can add a value to a label: each is one of the words below, or a name from code or configuration. \
Counters whose labels are all listed, and few, begin at zero when the program starts; others appear with their first event.

This page is made of the lists in the code, and a test holds it against them: \
`RIDETHROUGH_WRITE_PAGES=1 cargo nextest run -p ridethrough-tests --test tidy` writes it anew.
";
const TABLES: [(&str, &str, &[Metric]); 4] = [
    (
        "The process",
        "Of every program, read from `/proc` at each scrape; on other systems than Linux they are missing.",
        PROCESS,
    ),
    (
        "The library",
        "All of them in the server, and in any service that is built on the library. The proxy has `ridethrough_build_info`, \
         `ridethrough_ready`, `ridethrough_mode`, and those of the breaker, one circuit for each backend.",
        CATALOGUE,
    ),
    ("The server", "Of `ridethrough-server`, besides those of the library.", server::CATALOGUE),
    ("The proxy", "Of `ridethrough-proxy`.", proxy::CATALOGUE),
];

/// The page as it should be.
pub(crate) fn page() -> String {
    let mut text = INTRODUCTION.to_owned();
    for (title, about, catalogue) in TABLES {
        let _ = write!(
            text,
            "\n## {title}\n\n{about}\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n"
        );
        for Metric { name, kind, labels, help } in catalogue {
            let (kind, labels) = (kind.as_str(), labels.iter().map(label).collect::<Vec<_>>().join("<br>"));
            let _ = writeln!(text, "| `{name}` | {kind} | {labels} | {help} |");
        }
    }
    text
}

fn label(Label { name, values }: &Label) -> String {
    match values {
        Values::OneOf(values) => {
            let quoted: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
            format!("`{name}`: {}", quoted.join(", "))
        }
        Values::Named(what) => format!("`{name}`: *{what}*"),
    }
}
