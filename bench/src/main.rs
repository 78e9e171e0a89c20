//! What the library costs, beside its peers, measured in one run by taking turns. Figures and ratios go to standard
//! output; nothing here passes or fails.
//!
//! `make bench-core`, which builds the guardian that cleans up after PostgreSQL.

mod appends;
mod breakers;
mod instructions;
mod measure;
mod path;
mod peers;
mod reads;
mod recovery;
mod replay;
mod windows;

use std::path::Path;

const ROUNDS: usize = 9;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [only, name, calls] = arguments.as_slice()
        && only == "only"
    {
        let calls = calls.parse().expect("the third argument is a number");
        assert!(instructions::only(name, calls), "there is no call named {name}");
        return;
    }
    let [guardian, parts @ ..] = arguments.as_slice() else {
        eprintln!(
            "usage: ridethrough-bench PATH-OF-RIDETHROUGH-CHAOS [breakers] [windows] [path] [instructions] [appends] \
             [recovery] [reads] [replay]"
        );
        std::process::exit(1);
    };
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|given| given == part);
    println!("median of {ROUNDS} rounds in which all take turns (least to most)\n");
    if wanted("breakers") {
        print(breakers::tables(ROUNDS));
    }
    if wanted("windows") {
        print(vec![windows::table()]);
    }
    if wanted("path") {
        print(path::tables(ROUNDS));
    }
    if wanted("instructions") {
        print(vec![instructions::table()]);
    }
    // Beside the other results of the build: the folder for temporary files may be memory.
    let disk = std::env::current_dir().expect("there is a current folder").join("target");
    if wanted("appends") {
        print(appends::tables(&disk, ROUNDS));
    }
    if wanted("recovery") {
        print(vec![recovery::table(&disk, ROUNDS)]);
    }
    if wanted("reads") {
        print(reads::Ground::new(Path::new(guardian)).tables(ROUNDS));
    }
    if wanted("replay") {
        print(vec![replay::table(Path::new(guardian))]);
    }
}

fn print(tables: Vec<String>) {
    for table in tables {
        println!("{table}");
    }
}
