//! A small typed builder for SVG: rectangles, lines, text. Colours come from the classes, and so from the
//! style sheet of the page, because only that knows dark from light. Knows nothing of what is drawn.

use std::fmt::Write;

/// A drawing in the making. Lengths are in the units of its own `viewBox`.
#[derive(Debug)]
pub(crate) struct Svg {
    body: String,
    name: String,
    width: f64,
    height: f64,
    title: String,
    description: String,
}

/// Where a text stands relative to its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// A rectangle by its upper left corner.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rect {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

impl Svg {
    /// An empty drawing. `name` becomes part of the ids of its title and description; `description` is what
    /// a reader who cannot see it is told.
    pub(crate) fn new(name: &str, width: f64, height: f64, title: &str, description: &str) -> Self {
        Self {
            body: String::new(),
            name: name.into(),
            width,
            height,
            title: title.into(),
            description: description.into(),
        }
    }

    /// An empty drawing for the eye only, whose content is told elsewhere.
    pub(crate) fn silent(name: &str, width: f64, height: f64) -> Self {
        Self::new(name, width, height, "", "")
    }

    pub(crate) fn rect(&mut self, rect: Rect, class: &str) {
        let Rect { x, y, width, height } = rect;
        self.add(format_args!(
            r#"<rect class="{}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"/>"#,
            escape(class)
        ));
    }

    /// Many rectangles of one class as one element, which keeps the page small.
    pub(crate) fn rects(&mut self, rects: &[Rect], class: &str) {
        if rects.is_empty() {
            return;
        }
        let mut path = String::new();
        for Rect { x, y, width, height } in rects {
            // Writing to a string cannot fail.
            let _ = write!(path, "M{x:.1} {y:.1}h{width:.1}v{height:.1}h-{width:.1}z");
        }
        self.add(format_args!(r#"<path class="{}" d="{path}"/>"#, escape(class)));
    }

    pub(crate) fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        self.add(format_args!(
            r#"<line class="{}" x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}"/>"#,
            escape(class),
            from.0,
            from.1,
            to.0,
            to.1
        ));
    }

    pub(crate) fn text(&mut self, at: (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.add(format_args!(
            r#"<text class="{}" x="{:.1}" y="{:.1}" text-anchor="{anchor}">{}</text>"#,
            escape(class),
            at.0,
            at.1,
            escape(text)
        ));
    }

    /// A pattern of stripes slanted by `degrees`: `class` colours the stripes, `class` with `-ground` what lies
    /// below.
    pub(crate) fn stripes(&mut self, id: &str, class: &str, degrees: i32) {
        let (id, class) = (escape(id), escape(class));
        self.add(format_args!(
            concat!(
                r#"<pattern id="{id}" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate({degrees})">"#,
                r#"<rect class="{class}-ground" width="6" height="6"/><rect class="{class}" width="3" height="6"/></pattern>"#
            ),
            id = id,
            class = class,
            degrees = degrees
        ));
    }

    pub(crate) fn finish(self) -> String {
        let Self { body, name, width, height, title, description } = self;
        let (name, title, description) = (escape(&name), escape(&title), escape(&description));
        let words = format!(
            concat!(
                r#"role="img" aria-labelledby="{name}-title {name}-description">"#,
                r#"<title id="{name}-title">{title}</title><desc id="{name}-description">{description}</desc>"#
            ),
            name = name,
            title = title,
            description = description
        );
        let words = if title.is_empty() { r#"aria-hidden="true">"# } else { &words };
        let of = format!(r#"xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}""#);
        format!(r#"<svg class="{name}" {of} {words}{body}</svg>"#)
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.body.write_fmt(element);
        self.body.push('\n');
    }
}

/// Text that cannot end an element or an attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_stays_text() {
        let mut svg = Svg::new("a", 10.0, 10.0, "<b>", "\"&'");
        svg.text((1.0, 2.0), Anchor::Start, "x", "</text><script>");
        let out = svg.finish();
        assert!(!out.contains("<script>") && !out.contains("<b>"));
        assert!(out.contains("&lt;/text&gt;&lt;script&gt;") && out.contains("&quot;&amp;&#39;"));
    }

    #[test]
    fn many_rectangles_are_one_path_and_none_are_nothing() {
        let mut svg = Svg::new("a", 10.0, 10.0, "t", "d");
        svg.rects(&[], "none");
        let rect = Rect { x: 1.0, y: 2.0, width: 3.0, height: 4.0 };
        svg.rects(&[rect, Rect { x: 5.0, ..rect }], "two");
        let out = svg.finish();
        assert!(
            out.contains(r#"<path class="two" d="M1.0 2.0h3.0v4.0h-3.0zM5.0 2.0h3.0v4.0h-3.0z"/>"#),
            "{out}"
        );
        assert!(!out.contains("none"));
    }
}
