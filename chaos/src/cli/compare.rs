//! The commands `report` and `diff`, and `--against`: runs that are over, shown anew and held against each other. What
//! differs is found in `report/diff.rs`.

use std::path::{Path, PathBuf};

use crate::cli::{ended, print};
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
    let earlier = against.map(Earlier::read).transpose()?;
    let history = dir.join("history.jsonl");
    if history.is_file() {
        // One run against one run, whatever their folders are called.
        let name = name_of(dir);
        let before = earlier.as_ref().map(|earlier| {
            let reason = || format!("{} holds several runs, none with this name", earlier.from.display());
            let unlike = || Error::state(format!("hold {} against it", dir.display()), reason());
            earlier.alone().or_else(|| earlier.find(&name)).ok_or_else(unlike)
        });
        let verdict = run::judge(&history, dir, before.transpose()?)?;
        ended::tell(&verdict, Some(dir));
        return Ok(verdict.outcome.exit_code());
    }
    let mut verdicts = Vec::new();
    for (name, _) in report::read(dir).map_err(failed("find the runs"))? {
        let folder = dir.join(&name);
        let before = earlier.as_ref().and_then(|earlier| earlier.find(&name));
        let verdict = run::judge(&folder.join("history.jsonl"), &folder, before)?;
        verdicts.push((name, verdict));
    }
    let entries: Vec<Entry<'_>> = verdicts.iter().map(|(name, verdict)| Entry { name, verdict }).collect();
    report::write_all(dir, &entries).map_err(failed("write the report"))?;
    print(&format!("Report: {}\n", dir.join(report::INDEX).display()));
    let codes: Vec<u8> = verdicts.iter().map(|(_, verdict)| verdict.outcome.exit_code()).collect();
    Ok(ended::worst(&codes))
}

/// `diff RUN_A RUN_B`: what got better and what got worse.
pub(super) fn diff(before: &Path, after: &Path) -> Result<u8, Error> {
    let read = |folder: &Path| report::read(folder).map_err(failed("read the runs"));
    let (text, code) = compare(&read(before)?, &read(after)?);
    print(&text);
    Ok(code)
}

/// Runs that later ones are held against.
#[derive(Debug)]
pub(super) struct Earlier {
    from: PathBuf,
    verdicts: Vec<(String, Verdict)>,
}

impl Earlier {
    /// Reads a `verdict.json`, the folder of a run, or that of several.
    pub(super) fn read(from: &Path) -> Result<Self, Error> {
        let verdicts = report::read(from).map_err(failed("read the earlier run"))?;
        Ok(Self { from: from.to_owned(), verdicts })
    }

    /// The only one.
    fn alone(&self) -> Option<&Verdict> {
        if let [(_, only)] = self.verdicts.as_slice() { Some(only) } else { None }
    }

    /// The one of this name, of its folder or else of its scenario.
    fn find(&self, name: &str) -> Option<&Verdict> {
        let of_folder = self.verdicts.iter().find(|(folder, _)| folder == name);
        let found = of_folder.or_else(|| self.verdicts.iter().find(|(_, verdict)| verdict.scenario == name));
        found.map(|(_, verdict)| verdict)
    }

    /// Holds a run that has just been judged against the one of its scenario: on its page, and in words. Of two runs by
    /// different names nothing is compared, since they broke different things.
    pub(super) fn hold(&self, scenario: &str, out: &Path) -> Result<String, Error> {
        let Some(before) = self.find(scenario) else {
            return Ok(format!("{scenario}: {} holds no run of it\n", self.from.display()));
        };
        let now = run::judge(&out.join("history.jsonl"), out, Some(before))?;
        let found = report::diff(before, &now);
        Ok(format!("Against {}:\n{}", self.from.display(), told(scenario, &found)))
    }
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
    fn an_earlier_run_is_found_by_its_folder_and_else_by_its_scenario() {
        let earlier = Earlier { from: "x".into(), verdicts: vec![run("db-hang", 1), run("tuesday", 2)] };
        let lost = |name: &str| earlier.find(name).map(|verdict| verdict.numbers.lost);
        assert_eq!((lost("db-hang"), lost("tuesday"), lost("failover")), (Some(1), Some(2), None));
        // Its scenario says db-kill, whatever its folder is called.
        assert_eq!(lost("db-kill"), Some(1));
        assert!(earlier.alone().is_none());
        assert!(earlier.hold("failover", Path::new("/")).unwrap().contains("holds no run of it"));
    }

    #[test]
    fn two_single_runs_are_compared_whatever_their_folders_are_called() {
        assert_eq!(compare(&[run("one", 0)], &[run("other", 0)]).1, NOT_WORSE);
    }
}
