//! The commands `report` and `diff`: runs that are over, shown anew and held against each other. What differs is found
//! in `report/diff.rs`.

use std::collections::BTreeMap;
use std::path::Path;

use crate::cli::{experiments, print};
use crate::error::Error;
use crate::report::{self, Difference, Entry};
use crate::run;
use crate::verdict::Verdict;

/// Nothing got worse.
const NOT_WORSE: u8 = 0;
/// Something got worse.
const WORSE: u8 = 1;
/// The two have no scenario in common, so nothing can be said.
const INCOMPARABLE: u8 = 2;

/// `report DIR`: judges the history again and writes the report anew. Of a folder with several runs, each one and the
/// page over all. Gives the exit code of the worst.
pub(super) fn report(dir: &Path, against: Option<&Path>) -> Result<u8, Error> {
    let earlier = against.map(report::read).transpose().map_err(failed("read the earlier run"))?;
    let earlier: BTreeMap<String, Verdict> = earlier.into_iter().flatten().collect();
    let history = dir.join("history.jsonl");
    if history.is_file() {
        // One run against one run, whatever their folders are called.
        let before = earlier.get("").or_else(|| (earlier.len() == 1).then(|| earlier.values().next())?);
        let before = before.or_else(|| earlier.get(&name_of(dir)));
        if let (Some(against), None) = (against, before) {
            let reason = format!("{} holds several runs, none with this name", against.display());
            return Err(Error::state(format!("hold {} against it", dir.display()), reason));
        }
        let verdict = run::judge(&history, dir, before)?;
        experiments::tell(&verdict, Some(dir));
        return Ok(verdict.outcome.exit_code());
    }
    let mut verdicts = Vec::new();
    for (name, _) in report::read(dir).map_err(failed("find the runs"))? {
        let folder = dir.join(&name);
        verdicts
            .push((name.clone(), run::judge(&folder.join("history.jsonl"), &folder, earlier.get(&name))?));
    }
    let entries: Vec<Entry<'_>> = verdicts.iter().map(|(name, verdict)| Entry { name, verdict }).collect();
    report::write_all(dir, &entries).map_err(failed("write the report"))?;
    print(&format!("Report: {}\n", dir.join(report::INDEX).display()));
    let codes: Vec<u8> = verdicts.iter().map(|(_, verdict)| verdict.outcome.exit_code()).collect();
    Ok(experiments::worst(&codes))
}

/// `diff RUN_A RUN_B`: what got better and what got worse.
pub(super) fn diff(before: &Path, after: &Path) -> Result<u8, Error> {
    let read = |folder: &Path| report::read(folder).map_err(failed("read the runs"));
    let (text, code) = compare(&read(before)?, &read(after)?);
    print(&text);
    Ok(code)
}

fn name_of(dir: &Path) -> String {
    dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn failed<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::state(what, error.to_string())
}

/// Two folders with their runs, as text and an exit code. Runs are matched by the names of their folders, or, of one run
/// each, whatever they are called.
fn compare(before: &[(String, Verdict)], after: &[(String, Verdict)]) -> (String, u8) {
    let is_pair = before.len() == 1 && after.len() == 1;
    let mut text = String::new();
    let (mut pairs, mut worse) = (0, false);
    for (name, now) in after {
        let then = before.iter().find(|(known, _)| known == name || is_pair);
        let Some((_, then)) = then else {
            text += &format!("{name}: only in the later run\n");
            continue;
        };
        pairs += 1;
        let found = report::diff(then, now);
        worse |= !found.worse.is_empty();
        text += &told(if now.scenario.is_empty() { name } else { &now.scenario }, &found);
    }
    for (name, _) in
        before.iter().filter(|(name, _)| !is_pair && !after.iter().any(|(known, _)| known == name))
    {
        text += &format!("{name}: only in the earlier run\n");
    }
    if pairs == 0 {
        text += "The two have no run in common.\n";
        return (text, INCOMPARABLE);
    }
    text += if worse { "Something got worse.\n" } else { "Nothing got worse.\n" };
    (text, if worse { WORSE } else { NOT_WORSE })
}

fn told(name: &str, found: &Difference) -> String {
    if found.is_empty() {
        return format!("{name}: no difference\n");
    }
    let groups = [("worse", &found.worse), ("better", &found.better), ("otherwise", &found.other)];
    let lines = groups.iter().flat_map(|(word, lines)| lines.iter().map(move |line| (word, line)));
    let lines: Vec<String> = lines.map(|(word, line)| format!("  {word:<10} {line}\n")).collect();
    format!("{name}:\n{}", lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::judge;
    use crate::history::Limits;
    use crate::verdict::Outcome;

    fn run(name: &str, lost: u64) -> (String, Verdict) {
        let mut verdict = judge(&[], &Limits::default());
        verdict.scenario = "db-kill".into();
        verdict.outcome = if lost > 0 { Outcome::Violated } else { Outcome::Held };
        verdict.numbers.lost = lost;
        (name.into(), verdict)
    }

    #[test]
    fn the_exit_code_tells_worse_from_not_worse_and_from_nothing_in_common() {
        let code = |before: &[_], after: &[_]| compare(before, after).1;
        assert_eq!(code(&[run("", 0)], &[run("", 0)]), NOT_WORSE);
        assert_eq!(code(&[run("", 1)], &[run("", 0)]), NOT_WORSE);
        assert_eq!(code(&[run("", 0)], &[run("", 1)]), WORSE);
        assert_eq!(code(&[run("a", 0), run("b", 0)], &[run("c", 0)]), INCOMPARABLE);
        let (text, code) = compare(&[run("a", 0), run("b", 0)], &[run("b", 2), run("c", 0)]);
        assert_eq!(code, WORSE);
        for part in ["c: only in the later", "a: only in the earlier", "worse      acknowledged writes lost"]
        {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn two_single_runs_are_compared_whatever_their_folders_are_called() {
        assert_eq!(compare(&[run("one", 0)], &[run("other", 0)]).1, NOT_WORSE);
    }
}
