//! What the documentation of the library owes its readers: every public async function says under `# Cancel safety` what a
//! dropped call leaves behind. Whether it is true is for the tests of that function.

use crate::source::SourceFile;

const OWED: &str = "# Cancel safety";

/// Public async functions of the library that do not say what a drop leaves behind.
pub(crate) fn check(file: &SourceFile) -> Vec<String> {
    if !file.path.starts_with("core/src/") || file.is_test() {
        return Vec::new();
    }
    let lines = file.lines_without_tests();
    let functions =
        lines.iter().enumerate().filter(|(_, (_, line))| line.trim().starts_with("pub async fn "));
    functions
        .filter(|(index, _)| !documentation(&lines, *index).any(|line| line.contains(OWED)))
        .map(|(_, (number, _))| {
            format!("{}:{number}: say under `{OWED}` what a drop leaves behind", file.path)
        })
        .collect()
}

/// The lines of documentation right above the function at `index`.
fn documentation<'f>(lines: &'f [(usize, &'f str)], index: usize) -> impl Iterator<Item = &'f str> {
    let above = lines.iter().take(index).rev().map(|(_, line)| line.trim());
    above.take_while(|line| line.starts_with("///") || line.starts_with("#["))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::planted;

    const SAYS: &str =
        "//! A.\n\n/// Waits.\n///\n/// # Cancel safety\n/// Nothing.\n#[inline]\npub async fn a() {}\n";

    #[test]
    fn a_function_that_says_it_passes_and_one_that_does_not_is_found() {
        assert_eq!(check(&planted("core/src/a.rs", SAYS)), Vec::<String>::new());
        let silent = SAYS.replace("/// # Cancel safety\n", "");
        assert_eq!(check(&planted("core/src/a.rs", &silent)).len(), 1);
        assert_eq!(check(&planted("server/src/a.rs", &silent)), Vec::<String>::new(), "not the library");
    }

    #[test]
    fn the_documentation_of_a_neighbour_does_not_count() {
        let two = format!("{SAYS}\n/// Waits too.\npub async fn b() {{}}\n");
        assert_eq!(check(&planted("core/src/a.rs", &two)).len(), 1);
    }
}
