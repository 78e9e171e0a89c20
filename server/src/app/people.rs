//! HTML for people: the templates, and the layer that makes a page of a problem where a browser asked. Which data a
//! page shows is the business of `routes`.

use std::fmt;

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use minijinja::{Environment, HtmlEscape, UndefinedBehavior, Value, context};
use ridethrough::http::retry_after_seconds;
use sha2::{Digest as _, Sha256};

use super::{Language, assets, problem, texts};
use crate::{app::App, error::Trouble, identity::hexadecimal};

const TEMPLATES: [(&str, &str); 7] = [
    ("base.html", include_str!("../../templates/base.html")),
    ("docs.html", include_str!("../../templates/docs.html")),
    ("list.html", include_str!("../../templates/list.html")),
    ("problem.html", include_str!("../../templates/problem.html")),
    ("problems.html", include_str!("../../templates/problems.html")),
    ("sign-in.html", include_str!("../../templates/sign-in.html")),
    ("trouble.html", include_str!("../../templates/trouble.html")),
];

/// Nothing from elsewhere, nothing inside the page: style and script have their own addresses here.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The pages, ready to render.
pub(crate) struct Pages {
    environment: Environment<'static>,
    /// What names this release of the pages.
    release: String,
}

impl Pages {
    pub(crate) fn new() -> Self {
        let mut environment = Environment::new();
        let mut release = Sha256::new();
        for (_, source) in TEMPLATES {
            release.update(source);
        }
        for (name, address) in [("style", assets::style()), ("script", assets::script())] {
            release.update(&address);
            environment.add_global(name, address);
        }
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.add_function("t", texts::of_template);
        environment.add_filter("prose", prose);
        for (name, source) in TEMPLATES {
            environment.add_template(name, source).expect("the embedded templates are valid");
        }
        Self { environment, release: hexadecimal(&release.finalize()) }
    }

    /// Another one where templates, style or script are others.
    pub(crate) fn release(&self) -> &str {
        &self.release
    }

    /// One page in one language; text in `values` is escaped.
    pub(crate) fn render(
        &self,
        language: Language,
        template: &str,
        status: StatusCode,
        values: Value,
    ) -> Response {
        let mut response = match self.html(language, template, values) {
            Ok(html) => Response::new(Body::from(html)),
            Err(error) => {
                tracing::error!(template, kind = ?error.kind(), "a page cannot be rendered");
                let mut bare = Response::new(Body::from("something went wrong inside the server"));
                *bare.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                return bare;
            }
        };
        *response.status_mut() = status;
        let headers = response.headers_mut();
        Self::describe(headers);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(header::CONTENT_LANGUAGE, HeaderValue::from_static(language.tag()));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        response
    }

    /// What is said of every page, also of one that its reader has.
    pub(crate) fn describe(headers: &mut HeaderMap) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.append(header::VARY, HeaderValue::from_static("accept-language"));
    }

    fn html(&self, language: Language, template: &str, values: Value) -> Result<String, minijinja::Error> {
        let template = self.environment.get_template(template)?;
        template.render(context! { language => language.tag(), ..values })
    }
}

/// Prose of the documents that programs get, in which code stands between backticks.
fn prose(text: &str) -> Value {
    let pieces = text.split('`').enumerate().map(|(place, piece)| {
        let piece = HtmlEscape(piece);
        if place % 2 == 1 { format!("<code>{piece}</code>") } else { piece.to_string() }
    });
    Value::from_safe_string(pieces.collect())
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pages")
    }
}

/// Makes a page of a problem document where the request came from a browser.
pub(crate) async fn pages_for_people(State(app): State<App>, request: Request, next: Next) -> Response {
    let by_person = prefers_html(request.headers());
    let language = Language::of(request.headers());
    let mut response = next.run(request).await;
    let Some(trouble) = response.extensions_mut().remove::<Trouble>() else { return response };
    let vary = HeaderValue::from_static("accept");
    if !by_person {
        response.headers_mut().append(header::VARY, vary);
        return response;
    }
    let mut page = match trouble.wants_sign_in() {
        Some(refused) => {
            app.pages.render(language, "sign-in.html", trouble.kind.status, context! { refused })
        }
        None => {
            let values = context! {
                status => trouble.kind.status.as_u16(),
                said => problem(trouble.kind.slug, trouble.kind.status.is_server_error()),
                title => trouble.kind.title,
                detail => trouble.detail,
                retry_after => trouble.retry_after.map(retry_after_seconds),
            };
            app.pages.render(language, "trouble.html", trouble.kind.status, values)
        }
    };
    // What the document's headers said holds for the page, but for those that describe the document itself.
    for (name, value) in response.headers() {
        if !page.headers().contains_key(name) && *name != header::CONTENT_LENGTH {
            page.headers_mut().append(name, value.clone());
        }
    }
    page.headers_mut().append(header::VARY, vary);
    page
}

/// Whether the sender names HTML, and nothing of JSON that it would rather have.
pub(crate) fn prefers_html(headers: &HeaderMap) -> bool {
    let (mut html, mut json) = (0.0, 0.0);
    for value in headers.get_all(header::ACCEPT) {
        for range in value.to_str().unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality: f32 = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
            match kind.as_str() {
                "text/html" | "application/xhtml+xml" => html = quality.max(html),
                "application/json" | "application/problem+json" => json = quality.max(json),
                _ => {}
            }
        }
    }
    html > 0.0 && html >= json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_asks_for_html_gets_it() {
        let prefers = |text: &str| {
            prefers_html(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_str(text).unwrap())]))
        };
        assert!(prefers("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"));
        assert!(prefers("application/json;q=0.5, text/html"));
        for program in ["*/*", "", "application/json", "application/json, text/html;q=0.9", "text/html;q=0"] {
            assert!(!prefers(program), "{program}");
        }
        assert!(!prefers_html(&HeaderMap::new()));
    }

    #[test]
    fn prose_is_escaped_inside_and_outside_of_code() {
        assert_eq!(prose("a `<b>` & <i>").to_string(), "a <code>&lt;b&gt;</code> &amp; &lt;i&gt;");
        assert_eq!(prose("plain").to_string(), "plain");
    }

    #[test]
    fn what_users_wrote_is_escaped() {
        let values = context! { status => 400, said => "problem.other", title => "<script>alert(1)</script>",
        detail => (), retry_after => () };
        let html = Pages::new().html(Language::English, "trouble.html", values).unwrap();
        assert!(!html.contains("<script>") && html.contains("&lt;script&gt;"), "{html}");
    }

    /// A browser runs and applies nothing that stands in a page, so nothing may be meant to.
    #[test]
    fn no_template_has_style_or_script_inside() {
        for (name, source) in TEMPLATES {
            // The name of a kind of document, and no address that anybody asks.
            let source = source.replace("http://www.w3.org/2000/svg", "");
            for inside in ["<style", " style=", "onclick", "onsubmit", "javascript:", "http:", "https:"] {
                assert!(!source.contains(inside), "{name} has {inside}");
            }
        }
        assert!(!POLICY.contains("unsafe") && !POLICY.contains("http"));
    }
}
