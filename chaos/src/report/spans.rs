//! The picture of a violation: the times that contradict each other, each pair as a bar with its two ends. Draws what a
//! witness holds; the same times stand in a table beside it.

use crate::report::svg::{Anchor, Rect, Svg};
use crate::verdict::Span;

/// Narrow enough that a phone shows all of it.
const WIDTH: f64 = 400.0;
const SIDE: f64 = 6.0;
const ROW_HEIGHT: f64 = 70.0;
const BAR_HEIGHT: f64 = 14.0;
const BAR_TOP: f64 = 42.0;
/// More rows than this help nobody; the table beside has them all.
const ROWS_MAX: usize = 8;
/// A longer label would leave the picture.
const LABEL_MAX: usize = 40;

/// A time of the run, with the digits that tell two operations apart.
pub(crate) fn time(us: u64) -> String {
    format!("{:.3} s", us as f64 / 1e6)
}

/// Both times of a span in words.
pub(crate) fn words(span: &Span) -> String {
    let until = span.until_us.map_or_else(String::new, |us| format!(" {}", time(us)));
    format!("{} {}, {}{until}", span.from, time(span.from_us), span.until)
}

/// The picture; nothing where a witness has fewer than two pairs of times, since nothing can contradict one alone.
pub(crate) fn draw(spans: &[Span], name: &str) -> Option<String> {
    let shown = spans.get(..spans.len().min(ROWS_MAX)).filter(|shown| shown.len() > 1)?;
    let times = || shown.iter().flat_map(|span| [Some(span.from_us), span.until_us]).flatten();
    let (first, last) = (times().min()?, times().max()?);
    // Room on both sides, so that an end at the edge can be seen to be one.
    let room = (last - first) / 12 + 1;
    let (from, until) = (first.saturating_sub(room), last + room);
    let x = |us: u64| {
        let share = us.saturating_sub(from) as f64 / (until - from).max(1) as f64;
        SIDE + share.min(1.0) * (WIDTH - 2.0 * SIDE)
    };
    let height = shown.len() as f64 * ROW_HEIGHT + 4.0;
    let description: Vec<String> =
        shown.iter().map(|span| format!("{}: {}.", span.label, words(span))).collect();
    let mut svg = Svg::new(name, WIDTH, height, "The times behind this violation", &description.join(" "));
    if let Some((from_us, until_us)) = overlap(shown) {
        let width = (x(until_us) - x(from_us)).max(3.0);
        svg.rect(Rect { x: x(from_us), y: 0.0, width, height }, "clash");
    }
    for (place, span) in shown.iter().enumerate() {
        let top = place as f64 * ROW_HEIGHT;
        svg.text((SIDE, top + 17.0), Anchor::Start, "span-text", &label(span));
        svg.text((SIDE, top + 34.0), Anchor::Start, "span-times", &words(span));
        let end = span.until_us.map_or(WIDTH, x);
        let (left, right) = (x(span.from_us).min(end), x(span.from_us).max(end));
        let class = match span.until_us {
            None => "span-open",
            Some(until_us) if until_us < span.from_us => "span-back",
            Some(_) => "span",
        };
        let rect = Rect { x: left, y: top + BAR_TOP, width: (right - left).max(2.0), height: BAR_HEIGHT };
        svg.rect(rect, class);
        for us in [Some(span.from_us), span.until_us].into_iter().flatten() {
            svg.line((x(us), top + BAR_TOP - 3.0), (x(us), top + BAR_TOP + BAR_HEIGHT + 3.0), "span-end");
        }
    }
    Some(svg.finish())
}

fn label(span: &Span) -> String {
    let mut label: String = span.label.chars().take(LABEL_MAX).collect();
    if span.label.chars().count() > LABEL_MAX {
        label.push('…');
    }
    label
}

/// Where two values are both in force, and neither can come first. Only of a pair of which that can be said.
fn overlap(spans: &[Span]) -> Option<(u64, u64)> {
    let [one, other] = spans else { return None };
    let ends = |span: &Span| {
        let until_us = span.until_us?;
        Some((span.from_us.min(until_us), span.from_us.max(until_us)))
    };
    let ((one_from, one_until), (other_from, other_until)) = (ends(one)?, ends(other)?);
    let (from_us, until_us) = (one_from.max(other_from), one_until.min(other_until));
    (from_us < until_us).then_some((from_us, until_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(label: &str, from_us: u64, until_us: Option<u64>) -> Span {
        Span { label: label.into(), from_us, from: "in force by".into(), until_us, until: "still at".into() }
    }

    #[test]
    fn two_groups_show_four_times_and_where_they_meet() {
        let picture =
            draw(&[span("a", 1_000_000, Some(3_000_000)), span("b", 2_000_000, Some(4_000_000))], "w");
        let picture = picture.unwrap();
        for time in ["1.000 s", "2.000 s", "3.000 s", "4.000 s"] {
            assert!(picture.contains(time), "{time}");
        }
        assert_eq!(picture.matches("span-end").count(), 4);
        assert_eq!(picture.matches("class=\"clash\"").count(), 1);
    }

    #[test]
    fn an_operation_without_an_end_and_a_zone_that_runs_backward_are_told_apart() {
        let picture = draw(&[span("a", 5, None), span("b", 9, Some(4))], "w").unwrap();
        assert!(picture.contains("span-open") && picture.contains("span-back"));
        assert!(!picture.contains("clash"));
        assert_eq!((draw(&[], "w"), draw(&[span("a", 1, Some(2))], "w")), (None, None));
    }

    #[test]
    fn a_long_or_hostile_label_stays_inside() {
        let picture = draw(&[span(&"<i>".repeat(40), 1, Some(2)), span("b", 3, None)], "w").unwrap();
        assert!(!picture.contains("<i>") && picture.contains('…'));
    }
}
