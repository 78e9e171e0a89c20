//! The section `[fallback]`: what the proxy answers by itself, and how those who wait come back.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ConfigProblem;

/// No more of a form than what the body of a request is kept of for a second attempt.
const FORM_BYTES_MAX: usize = 64 * 1024;
/// Each is looked at for every page, so a list without a bound would be a mistake.
const ROUTES_MAX: usize = 256;

/// The section `[fallback]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FallbackSection {
    /// Where a page asks whether a backend is back; answered by the proxy, never by a backend. Default
    /// /.ridethrough/status.
    pub(crate) status_path: String,
    /// How many of those who wait may come back in a second: the more wait, the wider they are spread. 1 to 100,000;
    /// default 100.
    pub(crate) asks_per_second: u32,
    /// Largest urlencoded form, in bytes, whose fields the page keeps when it could not be sent on. 0 keeps none; at
    /// most 64 KiB. Default 32 KiB.
    pub(crate) form_bytes_max: usize,
    /// Pages of the operator, `[[fallback.route]]` each.
    pub(crate) route: Vec<FallbackRoute>,
}

/// A page of the operator in the place of the built-in one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FallbackRoute {
    /// For this path and everything below it; of several the longest counts.
    pub(crate) path: String,
    /// For these statuses. None named: for 502, 503 and 504.
    #[serde(default)]
    pub(crate) statuses: Vec<u16>,
    /// The file: HTML with the placeholders of minijinja.
    pub(crate) template: PathBuf,
}

impl Default for FallbackSection {
    fn default() -> Self {
        Self {
            status_path: "/.ridethrough/status".to_owned(),
            asks_per_second: 100,
            form_bytes_max: 32 * 1024,
            route: Vec::new(),
        }
    }
}

impl FallbackSection {
    /// # Errors
    /// [`ConfigProblem`] names the first key that makes no sense. Templates are judged by whoever reads them.
    pub(super) fn validate(&self) -> Result<(), ConfigProblem> {
        let wrong = |key, reason| Err(ConfigProblem::Value { key, reason });
        let is_plain =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'-' | b'_' | b'~');
        let path = &self.status_path;
        if !path.starts_with('/') || path.len() < 2 || !path.bytes().all(is_plain) {
            return wrong("fallback.status_path", "must be a path below / of letters, digits, `/.-_~`");
        }
        if !(1..=100_000).contains(&self.asks_per_second) {
            return wrong("fallback.asks_per_second", "must be 1 to 100000");
        }
        if self.form_bytes_max > FORM_BYTES_MAX {
            return wrong("fallback.form_bytes_max", "must be at most 65536");
        }
        if self.route.len() > ROUTES_MAX {
            return wrong("fallback.route", "there may be at most 256");
        }
        for route in &self.route {
            if !route.path.starts_with('/') {
                return wrong("fallback.route.path", "must start with /");
            }
            if !route.statuses.iter().all(|status| (400..=599).contains(status)) {
                return wrong("fallback.route.statuses", "each must be 400 to 599");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_named() {
        let route = FallbackRoute { path: "/".into(), statuses: vec![200], template: PathBuf::from("x") };
        let changes: [(&str, FallbackSection); 5] = [
            ("status_path", FallbackSection { status_path: "/a?b".into(), ..Default::default() }),
            ("asks_per_second", FallbackSection { asks_per_second: 0, ..Default::default() }),
            ("form_bytes_max", FallbackSection { form_bytes_max: 70_000, ..Default::default() }),
            ("route.statuses", FallbackSection { route: vec![route.clone()], ..Default::default() }),
            (
                "route.path",
                FallbackSection {
                    route: vec![FallbackRoute { path: "a".into(), ..route }],
                    ..Default::default()
                },
            ),
        ];
        for (key, section) in changes {
            let told = section.validate().unwrap_err().to_string();
            assert!(told.starts_with(&format!("fallback.{key}: ")), "{told}");
        }
        assert_eq!(FallbackSection::default().validate(), Ok(()));
    }
}
