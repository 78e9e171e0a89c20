//! What a request wants to get: a page, data, an image, a part of a page, a stream. Pure: header fields go in.
//!
//! It says nothing about what happened, and writes no answer.

use http::{HeaderMap, Method, header};

use super::language::weight;
use crate::headers;

/// What whoever asked can make use of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A person navigates: HTML.
    Page,
    /// A program, which reads problem+json; also whoever does not say what it is.
    Data,
    /// An image that may be SVG.
    Drawing,
    /// An image of other formats, sound, video, a font: nothing of ours would fit.
    Opaque,
    /// A style sheet.
    Style,
    /// A script or a worker.
    Script,
    /// A call of gRPC, native or for browsers.
    Grpc {
        /// Whether it is gRPC-Web.
        is_web: bool,
    },
    /// The handshake of a websocket.
    WebSocket,
    /// An `EventSource`, which gives up for ever at any other status than 200.
    EventStream,
}

impl Kind {
    /// What the request with these fields wants. What a browser says of it (`Sec-Fetch-Dest`) weighs more than
    /// `Accept`, because scripts and pages often ask for `*/*`.
    pub(crate) fn of(method: &Method, headers: &HeaderMap) -> Self {
        if let Some(grpc) = grpc(headers) {
            return grpc;
        }
        if headers::asks_for_websocket(headers) {
            return Self::WebSocket;
        }
        let says = |name: &str, word: &str| headers.get(name).is_some_and(|value| value == word);
        let destination = headers.get("sec-fetch-dest").and_then(|value| value.to_str().ok());
        match destination {
            Some("image") => return image(headers),
            Some("style" | "xslt") => return Self::Style,
            Some(
                "script" | "worker" | "sharedworker" | "serviceworker" | "audioworklet" | "paintworklet",
            ) => return Self::Script,
            Some("font" | "audio" | "video" | "track") => return Self::Opaque,
            _ => {}
        }
        if *method == Method::GET && wants_events(headers) {
            return Self::EventStream;
        }
        let is_fetched = headers.contains_key("sec-fetch-mode") && !says("sec-fetch-mode", "navigate");
        if is_fetched || destination == Some("empty") {
            return Self::Data;
        }
        by_accept(headers)
    }
}

fn grpc(headers: &HeaderMap) -> Option<Kind> {
    let content_type = headers.get(header::CONTENT_TYPE)?.to_str().ok()?.to_ascii_lowercase();
    let rest = content_type.strip_prefix("application/grpc")?;
    let (is_web, rest) = match rest.strip_prefix("-web") {
        Some(rest) => (true, rest.strip_prefix("-text").unwrap_or(rest)),
        None => (false, rest),
    };
    matches!(rest.bytes().next(), None | Some(b'+' | b';' | b' ')).then_some(Kind::Grpc { is_web })
}

fn image(headers: &HeaderMap) -> Kind {
    let drawing = weight(headers, header::ACCEPT, |range| {
        ["image/svg+xml", "image/*", "*/*"].iter().any(|known| range.eq_ignore_ascii_case(known))
    });
    // Whoever names nothing takes anything.
    if drawing > 0 || !headers.contains_key(header::ACCEPT) { Kind::Drawing } else { Kind::Opaque }
}

fn wants_events(headers: &HeaderMap) -> bool {
    let events = named(headers, "text/event-stream");
    events > 0 && events > json(headers) && events >= named(headers, "text/html")
}

/// Without a browser's word: HTML asked for by name and not less than JSON is a person, as ever.
fn by_accept(headers: &HeaderMap) -> Kind {
    let html = named(headers, "text/html").max(named(headers, "application/xhtml+xml"));
    if html > 0 {
        return if html >= json(headers) { Kind::Page } else { Kind::Data };
    }
    if named(headers, "text/css") > json(headers) {
        return Kind::Style;
    }
    let first = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let starts_with = |prefix: &str| {
        first.trim_start().get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    if starts_with("image/") && json(headers) == 0 {
        return image(headers);
    }
    if starts_with("font/") && json(headers) == 0 { Kind::Opaque } else { Kind::Data }
}

fn json(headers: &HeaderMap) -> u16 {
    named(headers, "application/json").max(named(headers, "application/problem+json"))
}

fn named(headers: &HeaderMap, wanted: &str) -> u16 {
    weight(headers, header::ACCEPT, |range| range.eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAVIGATION: (&str, &str) =
        ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8");

    fn kind(fields: &[(&'static str, &str)]) -> Kind {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(*name, value.parse().unwrap());
        }
        Kind::of(&Method::GET, &headers)
    }

    #[test]
    fn people_and_programs_are_told_apart() {
        let cases: [(&[(&str, &str)], Kind); 12] = [
            (&[NAVIGATION], Kind::Page),
            (&[("accept", "text/html")], Kind::Page),
            (&[("accept", "*/*")], Kind::Data),
            (&[], Kind::Data),
            (&[("accept", "application/json")], Kind::Data),
            (&[("accept", "application/json, text/html;q=0.5")], Kind::Data),
            (&[("accept", "text/html;q=0")], Kind::Data),
            (&[NAVIGATION, ("sec-fetch-mode", "cors")], Kind::Data),
            (&[NAVIGATION, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")], Kind::Page),
            (&[NAVIGATION, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")], Kind::Page),
            (&[("accept", "*/*"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")], Kind::Data),
            (&[NAVIGATION, ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "script")], Kind::Script),
        ];
        for (fields, wanted) in cases {
            assert_eq!(kind(fields), wanted, "{fields:?}");
        }
    }

    #[test]
    fn the_parts_of_a_page_are_known_by_the_browsers_word_or_by_accept() {
        let image = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8";
        let cases: [(&[(&str, &str)], Kind); 10] = [
            (&[("accept", image), ("sec-fetch-dest", "image")], Kind::Drawing),
            (&[("accept", image)], Kind::Drawing),
            (&[("accept", "image/png"), ("sec-fetch-dest", "image")], Kind::Opaque),
            (&[("accept", "image/png,image/svg+xml;q=0")], Kind::Opaque),
            (&[("accept", "text/css,*/*;q=0.1")], Kind::Style),
            (&[("accept", "*/*"), ("sec-fetch-dest", "style")], Kind::Style),
            (&[("accept", "*/*"), ("sec-fetch-dest", "serviceworker")], Kind::Script),
            (&[("accept", "*/*"), ("sec-fetch-dest", "font")], Kind::Opaque),
            (&[("accept", "*/*"), ("sec-fetch-dest", "video")], Kind::Opaque),
            (&[("accept", "image/png, application/json")], Kind::Data),
        ];
        for (fields, wanted) in cases {
            assert_eq!(kind(fields), wanted, "{fields:?}");
        }
    }

    #[test]
    fn protocols_over_http_are_known_by_what_they_must_send() {
        let websocket = [("connection", "Upgrade"), ("upgrade", "websocket")];
        assert_eq!(kind(&websocket), Kind::WebSocket);
        for (content_type, wanted) in [
            ("application/grpc", Kind::Grpc { is_web: false }),
            ("application/grpc+proto", Kind::Grpc { is_web: false }),
            ("application/grpc-web+proto", Kind::Grpc { is_web: true }),
            ("application/grpc-web-text", Kind::Grpc { is_web: true }),
            ("application/grpcish", Kind::Data),
        ] {
            assert_eq!(kind(&[("content-type", content_type)]), wanted, "{content_type}");
        }
        assert_eq!(kind(&[("accept", "text/event-stream"), ("sec-fetch-dest", "empty")]), Kind::EventStream);
        assert_eq!(kind(&[("accept", "application/json, text/event-stream")]), Kind::Data);
        // A stream that a script asks for with POST has no EventSource behind it.
        let mut headers = HeaderMap::new();
        headers.insert("accept", "text/event-stream".parse().unwrap());
        assert_eq!(Kind::of(&Method::POST, &headers), Kind::Data);
    }
}
