//! The page for people: the built-in templates, one style sheet, one script, all part of the binary; and the
//! operator's pages in their place.
//!
//! What it says comes from `texts`; when it is shown is decided in the parent.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use http::StatusCode;
use minijinja::{Environment, Value, context};
use ridethrough::http::retry_after_seconds;

use super::{
    Outcome, Trouble,
    kept::Form,
    language::Language,
    templates::{TemplateProblem, Templates},
    texts::Texts,
};
use crate::config::FallbackRoute;

const PAGE: (&str, &str) = ("fallback.html", include_str!("../../pages/fallback.html"));
const RECOVERY: (&str, &str) = ("recovery.html", include_str!("../../pages/recovery.html"));
const FORM: (&str, &str) = ("form.html", include_str!("../../pages/form.html"));
pub(super) const STYLE: &str = include_str!("../../pages/fallback.css");
pub(super) const SCRIPT: &str = include_str!("../../pages/recover.js");

/// Nothing may be loaded; style sheet and script in the page are known by their hashes, which a test keeps right.
pub(super) const SECURITY_POLICY: &str = "default-src 'none'; \
     style-src 'sha256-8uk9W/uoAceObqfnCD7cn/CZTLSXzjH3sA6avzxyORE='; \
     script-src 'sha256-EUGwKznA+mGHbgBFis1KYU8/xbr01ML97YjT/+7zmMc='; \
     connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'";

/// The same for pages of the operator, which bring styles and small images with them: whatever they would load would
/// have to come from the service that is away.
pub(super) const OWN_SECURITY_POLICY: &str = "default-src 'none'; \
     style-src 'unsafe-inline'; img-src data:; font-src data:; \
     script-src 'sha256-EUGwKznA+mGHbgBFis1KYU8/xbr01ML97YjT/+7zmMc='; \
     connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'";

/// What a page says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Content<'a> {
    pub(super) language: Language,
    pub(super) trouble: Trouble,
    pub(super) status: StatusCode,
    /// The path that was asked for.
    pub(super) path: &'a str,
    /// What became of a write; `None` for everything else.
    pub(super) outcome: Option<Outcome>,
    /// Whether the write can be repeated safely.
    pub(super) has_key: bool,
    /// What was typed, where it could be kept.
    pub(super) form: Option<&'a Form>,
    /// Where it is sent again.
    pub(super) action: &'a str,
    /// How the page finds out that the service is back; `None` where waiting mends nothing.
    pub(super) recovery: Option<Recovery<'a>>,
    /// For people who ask for help.
    pub(super) request_id: Option<&'a str>,
}

/// How a page finds out that the service is back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recovery<'a> {
    /// Where it asks.
    pub(super) status_path: &'a str,
    /// Who it is when it asks.
    pub(super) token: u64,
    /// When it asks first.
    pub(super) wait: Duration,
    /// Whether it may load again by itself: it was merely looked at.
    pub(super) reloads: bool,
}

/// A rendered page and the policy it needs.
#[derive(Debug)]
pub(super) struct Rendered {
    pub(super) html: String,
    pub(super) policy: &'static str,
}

/// The parsed templates.
#[derive(Debug)]
pub(super) struct Pages {
    built_in: Environment<'static>,
    own: RwLock<Arc<Templates>>,
}

impl Pages {
    /// Takes the operator's pages; those that cannot be used are left out, with a line in the log.
    pub(super) fn new(routes: &[FallbackRoute]) -> Self {
        let mut built_in = Environment::new();
        for (name, source) in [PAGE, RECOVERY, FORM] {
            built_in.add_template(name, source).expect("the built-in templates are tested");
        }
        let pages = Self { built_in, own: RwLock::new(Arc::default()) };
        if let Err(problem) = pages.reload(routes) {
            tracing::error!(%problem, "the built-in page is shown in the place of the operator's");
        }
        pages
    }

    /// Reads the operator's pages again. The ones there were stay where one cannot be used.
    ///
    /// # Errors
    /// [`TemplateProblem`] names the file and the line.
    pub(super) fn reload(&self, routes: &[FallbackRoute]) -> Result<(), TemplateProblem> {
        let read = Templates::load(routes, &|content| self.values(content))?;
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(read);
        Ok(())
    }

    pub(super) fn render(&self, content: &Content<'_>) -> Rendered {
        let values = self.values(content);
        let own = Arc::clone(&self.own.read().unwrap_or_else(PoisonError::into_inner));
        if let Some(html) = own.render(content.path, content.status, &values) {
            return Rendered { html, policy: OWN_SECURITY_POLICY };
        }
        let html = self.part(PAGE.0, values).unwrap_or_else(|| {
            // A page that cannot be rendered is worse than a plain one, and nobody is helped by a second error.
            let title = Texts::of(content.language).choose(content).said.title;
            format!("<!doctype html><title>{title}</title><h1>{title}</h1>")
        });
        Rendered { html, policy: SECURITY_POLICY }
    }

    /// What every template can use; the names are documented for operators.
    fn values(&self, content: &Content<'_>) -> Value {
        let texts = Texts::of(content.language);
        let chosen = texts.choose(content);
        let retry_after = match content.trouble {
            Trouble::Failed(_, wait) => Some(retry_after_seconds(wait)),
            Trouble::Refused(_) => None,
        };
        context! {
            language => content.language.tag(),
            direction => content.language.direction(),
            status => content.status.as_u16(),
            title => chosen.said.title,
            lead => chosen.said.lead,
            outcome => chosen.outcome.unwrap_or_default(),
            next => chosen.next.unwrap_or_default(),
            action => chosen.action.unwrap_or_default(),
            reference => texts.reference,
            request_id => content.request_id.unwrap_or_default(),
            retry_after => retry_after,
            style => Value::from_safe_string(STYLE.to_owned()),
            recovery => self.recovery(content, texts),
            form => self.form(content, texts),
        }
    }

    /// The part of the head that brings the page back.
    fn recovery(&self, content: &Content<'_>, texts: &Texts) -> Value {
        let Some(recovery) = content.recovery else { return safe(None) };
        safe(self.part(
            RECOVERY.0,
            context! {
                status_path => recovery.status_path,
                token => format!("{:016x}", recovery.token),
                milliseconds => u64::try_from(recovery.wait.as_millis()).unwrap_or(u64::MAX),
                seconds => retry_after_seconds(recovery.wait),
                reloads => recovery.reloads,
                is_back => texts.is_back,
                script => Value::from_safe_string(SCRIPT.to_owned()),
            },
        ))
    }

    /// What was typed, with a button that sends it again.
    fn form(&self, content: &Content<'_>, texts: &Texts) -> Value {
        let Some(form) = content.form else { return safe(None) };
        let fields = form.fields.iter().map(|field| {
            context! {
                name => field.name.as_str(),
                value => field.value.as_str(),
                is_seen => field.is_seen,
                is_left_out => field.is_left_out,
            }
        });
        safe(self.part(
            FORM.0,
            context! {
                fields => fields.collect::<Vec<Value>>(),
                action => content.action,
                has_seen => form.fields.iter().any(|field| field.is_seen && !field.is_left_out),
                has_left_out => form.has_left_out(),
                entered => texts.entered,
                left_out => texts.left_out,
                send_again => texts.send_again,
            },
        ))
    }

    fn part(&self, name: &str, values: Value) -> Option<String> {
        self.built_in.get_template(name).and_then(|template| template.render(values)).ok()
    }
}

/// Markup that was escaped when it was made; nothing where it could not be made.
fn safe(markup: Option<String>) -> Value {
    Value::from_safe_string(markup.unwrap_or_default())
}
