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
use minijinja::{Environment, Value, context};
use ridethrough::http::retry_after_seconds;
use uuid::Uuid;

use crate::{app::App, error::Trouble};

const TEMPLATES: [(&str, &str); 4] = [
    ("base.html", include_str!("../../templates/base.html")),
    ("list.html", include_str!("../../templates/list.html")),
    ("sign-in.html", include_str!("../../templates/sign-in.html")),
    ("trouble.html", include_str!("../../templates/trouble.html")),
];

/// The pages, ready to render.
pub(crate) struct Pages(Environment<'static>);

impl Pages {
    pub(crate) fn new() -> Self {
        let mut environment = Environment::new();
        for (name, source) in TEMPLATES {
            environment.add_template(name, source).expect("the embedded templates are valid");
        }
        Self(environment)
    }

    /// One page; text in `content` is escaped.
    pub(crate) fn render(&self, template: &str, status: StatusCode, content: Value) -> Response {
        // The one style sheet is in the page and named by a number that nobody can guess; nothing else is let in.
        let nonce = Uuid::new_v4().simple().to_string();
        let rendered = self
            .0
            .get_template(template)
            .and_then(|template| template.render(context! { nonce => &nonce, page => content }));
        let Ok(html) = rendered else {
            tracing::error!(template, "a page cannot be rendered");
            let mut bare = Response::new(Body::from("something went wrong inside the server"));
            *bare.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            return bare;
        };
        let mut response = Response::new(Body::from(html));
        *response.status_mut() = status;
        let policy = format!(
            "default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        );
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
        headers.extend(HeaderValue::from_str(&policy).map(|value| (header::CONTENT_SECURITY_POLICY, value)));
        response
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pages")
    }
}

/// Makes a page of a problem document where the request came from a browser.
pub(crate) async fn pages_for_people(State(app): State<App>, request: Request, next: Next) -> Response {
    let by_person = prefers_html(request.headers());
    let mut response = next.run(request).await;
    let Some(trouble) = response.extensions_mut().remove::<Trouble>() else { return response };
    let vary = HeaderValue::from_static("accept");
    if !by_person {
        response.headers_mut().append(header::VARY, vary);
        return response;
    }
    let mut page = match trouble.wants_sign_in() {
        Some(refused) => app.pages.render("sign-in.html", trouble.status, context! { refused }),
        None => {
            let content = context! {
                status => trouble.status.as_u16(),
                title => trouble.title,
                detail => trouble.detail,
                retry_after => trouble.retry_after.map(retry_after_seconds),
            };
            app.pages.render("trouble.html", trouble.status, content)
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
    fn what_users_wrote_is_escaped() {
        let content = context! { status => 400, title => "<script>alert(1)</script>" };
        let pages = Pages::new();
        let template = pages.0.get_template("trouble.html").unwrap();
        let html = template.render(context! { nonce => "n", page => content }).unwrap();
        assert!(!html.contains("<script>") && html.contains("&lt;script&gt;"), "{html}");
    }
}
