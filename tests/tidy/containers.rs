//! Rules about the image and the Compose file: every image has a version, nobody runs as root, nothing is published
//! beyond this machine. Whether they build and run is tried elsewhere.

use crate::source::SourceFile;

/// What is wrong with this file, where it describes containers.
pub(crate) fn check(file: &SourceFile) -> Vec<String> {
    let complaints = match file.path.as_str() {
        "Dockerfile" => dockerfile(&file.text),
        "compose.yaml" => compose(&file.text),
        _ => Vec::new(),
    };
    complaints.into_iter().map(|complaint| format!("{}: {complaint}", file.path)).collect()
}

fn dockerfile(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some((name, image)) = line.strip_prefix("ARG ").and_then(|argument| argument.split_once('='))
            && name.ends_with("_IMAGE")
            && !is_pinned(image)
        {
            found.push(format!("{name} has no version: {image}"));
        }
        if let Some(image) = line.strip_prefix("FROM ")
            && image.contains([':', '/', '@'])
        {
            found.push(format!("name the base image as a build argument: {image}"));
        }
    }
    let users: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("USER ")).collect();
    if users.is_empty() || !users.iter().all(|user| is_unprivileged_number(user)) {
        found.push("USER must be a number above 0, so that Kubernetes can check it".to_owned());
    }
    found
}

fn compose(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(image) = line.strip_prefix("image: ")
            && !is_pinned(default_of(image))
        {
            found.push(format!("an image without a version: {image}"));
        }
        if let Some(ports) = line.strip_prefix("ports: ")
            && !ports.contains("127.0.0.1:")
        {
            found.push(format!("a port for the whole network: {ports}"));
        }
        if line.starts_with("privileged:") || line.starts_with("network_mode: host") {
            found.push(format!("no container needs this: {line}"));
        }
    }
    found
}

/// `${NAME:-value}` gives `value`; anything else is itself.
fn default_of(image: &str) -> &str {
    let inner = image.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    inner.and_then(|inner| inner.split_once(":-")).map_or(image, |(_, value)| value)
}

fn is_pinned(image: &str) -> bool {
    let last = image.rsplit('/').next().unwrap_or_default();
    let tag = last.split_once([':', '@']).map(|(_, tag)| tag);
    tag.is_some_and(|tag| !tag.is_empty() && tag != "latest")
}

fn is_unprivileged_number(user: &str) -> bool {
    let number = user.split(':').next().unwrap_or_default();
    number.parse::<u32>().is_ok_and(|number| number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::planted;

    const GOOD: &str =
        "ARG RUST_IMAGE=rust:1.95\nFROM ${RUST_IMAGE} AS build\nFROM build\nUSER 65532:65532\n";

    fn complaint(path: &str, text: &str) -> String {
        check(&planted(path, text)).join("\n")
    }

    #[test]
    fn pinned_images_and_a_number_pass() {
        assert_eq!(complaint("Dockerfile", GOOD), "");
        let compose =
            "    image: ${DB:-registry.example/postgres:17}\n    ports: [\"127.0.0.1:8080:8080\"]\n";
        assert_eq!(complaint("compose.yaml", compose), "");
    }

    #[test]
    fn floating_images_are_found() {
        assert!(complaint("Dockerfile", &GOOD.replace(":1.95", ":latest")).contains("no version"));
        assert!(complaint("Dockerfile", &GOOD.replace(":1.95", "")).contains("no version"));
        assert!(
            complaint("Dockerfile", &GOOD.replace("FROM build", "FROM debian:12")).contains("build argument")
        );
        assert!(complaint("compose.yaml", "image: postgres").contains("without a version"));
        assert!(complaint("compose.yaml", "image: host.example:5000/postgres").contains("without a version"));
    }

    #[test]
    fn root_and_open_ports_are_found() {
        for user in ["USER root", "USER 0", "USER nonroot", ""] {
            assert!(
                complaint("Dockerfile", &GOOD.replace("USER 65532:65532", user)).contains("USER must be")
            );
        }
        assert!(complaint("compose.yaml", "ports: [\"8080:8080\"]").contains("whole network"));
        assert!(complaint("compose.yaml", "privileged: true").contains("no container needs"));
    }
}
