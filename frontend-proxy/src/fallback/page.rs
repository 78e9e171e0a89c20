//! The page for people: one template, one style sheet, both part of the binary.
//!
//! What it says comes from `texts`; when it is shown is decided in the parent.

use minijinja::{Environment, context};

use super::{Outcome, Trouble, language::Language, texts};

const TEMPLATE: &str = include_str!("../../pages/fallback.html");
const STYLE: &str = include_str!("../../pages/fallback.css");
const NAME: &str = "fallback.html";

/// Nothing may be loaded or run; the style sheet in the page is known by its hash, which a test keeps right.
pub(super) const SECURITY_POLICY: &str = "default-src 'none'; \
     style-src 'sha256-hOH+G4uBA398OE3dY3Ce/BZ5BbpkokXFh9OZ0yionFo='; \
     base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// What a page says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Content<'a> {
    pub(super) language: Language,
    pub(super) trouble: Trouble,
    /// What became of a write; `None` for everything else.
    pub(super) outcome: Option<Outcome>,
    /// Whether the write can be repeated safely.
    pub(super) has_key: bool,
    /// Seconds until the page asks again by itself.
    pub(super) refresh: Option<u64>,
    /// For people who ask for help.
    pub(super) request_id: Option<&'a str>,
}

/// The parsed templates.
#[derive(Debug)]
pub(super) struct Pages(Environment<'static>);

impl Pages {
    pub(super) fn new() -> Self {
        let mut environment = Environment::new();
        environment.add_template(NAME, TEMPLATE).expect("the built-in template is tested");
        Self(environment)
    }

    pub(super) fn render(&self, content: &Content<'_>) -> String {
        let texts = texts::of(content);
        let values = context! {
            style => STYLE,
            language => content.language.tag(),
            title => texts.title,
            lead => texts.lead,
            outcome => texts.outcome,
            next => texts.next,
            action => texts.action,
            reference => texts.reference,
            request_id => content.request_id,
        };
        let rendered = self.0.get_template(NAME).and_then(|template| template.render(values));
        // A page that cannot be rendered is worse than a plain one, and nobody is helped by a second error.
        rendered.unwrap_or_else(|_| format!("<!doctype html><title>{0}</title><h1>{0}</h1>", texts.title))
    }
}
