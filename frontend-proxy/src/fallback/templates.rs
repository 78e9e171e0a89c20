//! The operator's pages: read from files, tried out with every language before they are used, chosen by path and
//! status.
//!
//! It renders; what there is to render comes from `page`.

use std::{io, path::PathBuf, time::Duration};

use http::StatusCode;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value};

use super::{
    Failure, Outcome, Trouble,
    kept::Form,
    language::Language,
    page::{Content, Recovery},
};
use crate::{backend::NoBackend, config::FallbackRoute, target::Refusal};

/// A page larger than this is no page for an outage.
const BYTES_MAX: u64 = 256 * 1024;
/// For what a route stands that names no status.
const STATUSES: [u16; 3] = [502, 503, 504];

/// A page of the operator that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum TemplateProblem {
    #[error("fallback.route: failed to read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("fallback.route: {}: larger than {BYTES_MAX} bytes", path.display())]
    TooLarge { path: PathBuf },
    #[error("fallback.route: {}:{line}: {message}", path.display())]
    Wrong { path: PathBuf, line: usize, message: String },
}

/// The operator's pages, parsed.
#[derive(Debug, Default)]
pub(super) struct Templates {
    environment: Environment<'static>,
    /// The longest path first.
    routes: Vec<Route>,
}

#[derive(Debug)]
struct Route {
    path: String,
    statuses: Vec<u16>,
    /// The template's name, which ends with `.html` whatever the file is called.
    name: String,
}

impl Templates {
    /// Reads and tries the pages of `routes`; `values` gives what a template can use.
    ///
    /// # Errors
    /// [`TemplateProblem`] names the first file that cannot be used, and the line.
    pub(super) fn load(
        routes: &[FallbackRoute],
        values: &dyn Fn(&Content<'_>) -> Value,
    ) -> Result<Self, TemplateProblem> {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        // A name that was typed wrong is found now, and not when the page is needed.
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let mut read = Self { environment, routes: Vec::with_capacity(routes.len()) };
        for (place, route) in routes.iter().enumerate() {
            let path = || route.template.clone();
            let unreadable = |source| TemplateProblem::Unreadable { path: path(), source };
            if std::fs::metadata(&route.template).map_err(unreadable)?.len() > BYTES_MAX {
                return Err(TemplateProblem::TooLarge { path: path() });
            }
            let source = std::fs::read_to_string(&route.template).map_err(unreadable)?;
            let name = format!("route-{place}.html");
            let wrong = |error: minijinja::Error| TemplateProblem::Wrong {
                path: path(),
                line: error.line().unwrap_or(1),
                message: error.detail().map_or_else(|| error.kind().to_string(), str::to_owned),
            };
            read.environment.add_template_owned(name.clone(), source).map_err(wrong)?;
            read.try_out(&name, values).map_err(wrong)?;
            let statuses = if route.statuses.is_empty() { STATUSES.to_vec() } else { route.statuses.clone() };
            read.routes.push(Route { path: route.path.clone(), statuses, name });
        }
        read.routes.sort_by_key(|route| std::cmp::Reverse(route.path.len()));
        Ok(read)
    }

    /// Renders it as each kind of page there is, in each language.
    fn try_out(&self, name: &str, values: &dyn Fn(&Content<'_>) -> Value) -> Result<(), minijinja::Error> {
        let template = self.environment.get_template(name)?;
        let wait = Duration::from_secs(1);
        let recovery = Recovery { status_path: "/", token: 0, wait, reloads: true };
        let form = Form::of(b"title=x");
        let away = Trouble::Failed(Failure::NoBackend(NoBackend::Away), wait);
        for language in Language::ALL {
            let looked_at = Content {
                language,
                trouble: away,
                status: StatusCode::SERVICE_UNAVAILABLE,
                path: "/",
                outcome: None,
                has_key: false,
                form: None,
                action: "",
                recovery: Some(recovery),
                request_id: Some("id"),
            };
            let sent = Content { outcome: Some(Outcome::Unknown), form: form.as_ref(), ..looked_at };
            let refused = Content { trouble: Trouble::Refused(Refusal::Host), recovery: None, ..looked_at };
            for content in [looked_at, sent, refused] {
                template.render(values(&content))?;
            }
        }
        Ok(())
    }

    /// The page for `path` and `status`, where the operator has one.
    pub(super) fn render(&self, path: &str, status: StatusCode, values: &Value) -> Option<String> {
        let is_below = |route: &&Route| {
            let rest = path.strip_prefix(route.path.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                && route.statuses.contains(&status.as_u16())
        };
        let route = self.routes.iter().find(is_below)?;
        let rendered = self.environment.get_template(&route.name).and_then(|page| page.render(values));
        rendered
            .inspect_err(|error| tracing::error!(%error, template = route.name, "the built-in page is shown"))
            .ok()
    }
}
