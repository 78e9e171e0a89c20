//! Texts with `{{name}}` in them. What the names mean is told where they are filled in.

/// Puts values in the place of their names; a name that is not given stays.
pub(crate) fn fill(text: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    // One pass, so that a value which looks like a name is left alone.
    while let Some((before, inside)) = rest.split_once("{{") {
        filled.push_str(before);
        let known = inside.split_once("}}").and_then(|(name, after)| {
            let value = values.iter().find(|(known, _)| *known == name.trim())?;
            Some((value.1, after))
        });
        rest = match known {
            Some((value, after)) => {
                filled.push_str(value);
                after
            }
            None => {
                filled.push_str("{{");
                inside
            }
        };
    }
    filled.push_str(rest);
    filled
}

/// Whether a text names only what is known there.
pub(super) fn check(place: &str, text: &str, known: &[&str]) -> Result<(), String> {
    let mut rest = text;
    while let Some((_, inside)) = rest.split_once("{{") {
        let Some((name, after)) = inside.split_once("}}") else {
            return Err(format!("{place}: `{{{{` without `}}}}` in `{text}`"));
        };
        if !known.contains(&name.trim()) {
            let known = known.join(", ");
            return Err(format!("{place}: `{{{{{}}}}}` is not known there; known are {known}", name.trim()));
        }
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_in_and_what_looks_like_one_in_a_value_is_not() {
        let values = [("port", "80"), ("dir", "/{{port}}")];
        assert_eq!(fill("a {{port}}b {{ dir }}", &values), "a 80b /{{port}}");
        assert_eq!(fill("{\"a\":{\"b\":1}} {{other}} {{", &values), "{\"a\":{\"b\":1}} {{other}} {{");
    }

    #[test]
    fn an_unknown_or_open_name_is_told_with_the_known_ones() {
        assert_eq!(check("x", "{{a}} {{b}}", &["a", "b"]), Ok(()));
        let error = check("x", "{{prot}}", &["port", "dir"]).unwrap_err();
        assert!(error.contains("{{prot}}") && error.contains("port, dir"), "{error}");
        assert!(check("x", "{{port", &["port"]).is_err());
    }
}
