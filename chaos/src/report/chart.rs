//! The picture of a run: what users got per tenth of a second, and aligned below it how long they waited, the lanes and
//! the curves. Draws; counts nothing that the verdict has not counted.

use crate::checker::{Answered, Band};
use crate::history::{Event, Load};
use crate::report::curves::{self, Curve};
use crate::report::heat::{self, Heat};
use crate::report::lanes::{self, Lane, Stretch};
use crate::report::svg::{Anchor, Rect, Svg};
use crate::verdict::Verdict;

/// Width of the names, which stand in a drawing of their own: on a phone they stay while the rest is moved sideways.
const NAMES: f64 = 114.0;
const WIDTH: f64 = 846.0;
/// Room for half of the first time below the axis.
const LEFT: f64 = 10.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 26.0;
const BAND_HEIGHT: f64 = 220.0;
const AXIS_HEIGHT: f64 = 26.0;
const LANE_HEIGHT: f64 = 20.0;
const LANE_GAP: f64 = 6.0;
const HEAT_ROW_HEIGHT: f64 = 9.0;
const CURVE_HEIGHT: f64 = 34.0;
/// Between two parts of the picture.
const PART_GAP: f64 = 14.0;
/// A line of text above a part.
const HEADING: f64 = 14.0;
/// Width of one column of the band.
const BIN_US: u64 = 100_000;
/// A long run gets wider columns: more of them than the picture has points would only make the page large.
const COLUMNS_MAX: u64 = 1_000;

/// From the bottom of the stack to its top: the good ones below, so that trouble sticks out.
const STACK: [Band; 10] = [
    Band::Fresh,
    Band::Committed,
    Band::Stale,
    Band::Journaled,
    Band::Fallback,
    Band::Refused,
    Band::Error,
    Band::NoAnswer,
    Band::NeverSent,
    Band::Wrong,
];

/// The name of a band for people.
pub(crate) fn label(band: Band) -> &'static str {
    match band {
        Band::Fresh => "fresh",
        Band::Stale => "stale, labelled",
        Band::Committed => "committed",
        Band::Journaled => "journaled",
        Band::Fallback => "fallback",
        Band::Refused => "refused or cut",
        Band::Error => "error",
        Band::NoAnswer => "no answer",
        Band::NeverSent => "never sent",
        Band::Wrong => "wrong",
    }
}

/// The class that colours a band.
pub(crate) fn class(band: Band) -> &'static str {
    match band {
        Band::Fresh => "b-fresh",
        Band::Stale => "b-stale",
        Band::Committed => "b-committed",
        Band::Journaled => "b-journaled",
        Band::Fallback => "b-fallback",
        Band::Refused => "b-refused",
        Band::Error => "b-error",
        Band::NoAnswer => "b-noanswer",
        Band::NeverSent => "b-neversent",
        Band::Wrong => "b-wrong",
    }
}

/// How often each band occurs in each stretch of `step_us`, from the beginning of the load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counts {
    /// For each step, the count of each band in the order of [`Band::ALL`].
    pub(crate) steps: Vec<Vec<u64>>,
}

impl Counts {
    pub(crate) fn of(answered: &[Answered], load: &Load, step_us: u64) -> Self {
        let length = load.until_us.saturating_sub(load.at_us).div_ceil(step_us).max(1);
        let mut steps = vec![vec![0; Band::ALL.len()]; usize::try_from(length).unwrap_or(1)];
        let last = steps.len() - 1;
        for one in answered {
            let step = (one.planned_us.saturating_sub(load.at_us) / step_us) as usize;
            let band = Band::ALL.iter().position(|band| *band == one.band);
            let slot = band.and_then(|band| steps.get_mut(step.min(last))?.get_mut(band));
            if let Some(slot) = slot {
                *slot += 1;
            }
        }
        Self { steps }
    }

    pub(crate) fn get(&self, step: usize, band: Band) -> u64 {
        let place = Band::ALL.iter().position(|known| *known == band);
        place.and_then(|place| self.steps.get(step)?.get(place)).copied().unwrap_or(0)
    }
}

/// The load of a run, if it began.
pub(crate) fn load(events: &[Event]) -> Option<&Load> {
    events.iter().find_map(|event| if let Event::Load(load) = event { Some(load) } else { None })
}

struct Frame {
    from_us: u64,
    until_us: u64,
}

impl Frame {
    fn x(&self, us: u64) -> f64 {
        let share = us.saturating_sub(self.from_us) as f64 / (self.until_us - self.from_us).max(1) as f64;
        // On the raster of what is written, so that neighbours meet without a gap.
        ((LEFT + share.min(1.0) * (WIDTH - LEFT - RIGHT)) * 10.0).round() / 10.0
    }
}

/// All that is drawn.
pub(crate) struct Parts {
    frame: Frame,
    /// Width of one column.
    step_us: u64,
    counts: Counts,
    heat: Heat,
    lanes: Vec<Lane>,
    curves: Vec<Curve>,
}

impl Parts {
    /// Counted from the events and what their users got; nothing where the load never began.
    pub(crate) fn of(events: &[Event], answered: &[Answered], verdict: &Verdict) -> Option<Self> {
        let load = load(events)?;
        let frame = Frame { from_us: load.at_us, until_us: load.until_us.max(load.at_us + BIN_US) };
        let step_us = BIN_US * (frame.until_us - frame.from_us).div_ceil(BIN_US * COLUMNS_MAX);
        Some(Self {
            counts: Counts::of(answered, load, step_us),
            heat: Heat::of(answered, load, step_us),
            lanes: lanes::all(events, &verdict.numbers.outages, frame.from_us, frame.until_us),
            curves: curves::all(events, frame.from_us, frame.until_us, step_us),
            frame,
            step_us,
        })
    }
}

/// One stretch of one lane or the height of one curve, for those who read the picture as a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) lane: String,
    pub(crate) what: String,
    pub(crate) from: String,
    pub(crate) until: String,
}

/// The lanes and curves as rows of a table.
pub(crate) fn rows(parts: &Parts) -> Vec<Row> {
    let time = |us: u64| format!("{:.1} s", us.saturating_sub(parts.frame.from_us) as f64 / 1e6);
    let of_lane = |lane: &Lane| -> Vec<Row> {
        let row = |part: &Stretch| Row {
            lane: lane.name.clone(),
            what: part.label.clone(),
            from: time(part.from_us),
            until: time(part.until_us),
        };
        lane.stretches.iter().map(row).collect()
    };
    let of_curve = |curve: &Curve| Row {
        lane: curve.name.to_owned(),
        what: format!("at most {}", curve.max()),
        from: time(parts.frame.from_us),
        until: time(parts.frame.until_us),
    };
    parts.lanes.iter().flat_map(of_lane).chain(parts.curves.iter().map(of_curve)).collect()
}

/// The names beside the picture, and the picture itself. Both are of one height.
struct Sheets {
    names: Svg,
    plot: Svg,
}

impl Sheets {
    fn name(&mut self, y: f64, text: &str) {
        self.names.text((NAMES - 6.0, y), Anchor::End, "tick", text);
    }
}

/// The whole picture, in two drawings side by side.
pub(crate) fn draw(parts: &Parts, verdict: &Verdict) -> String {
    let Parts { frame, step_us, counts, heat, lanes, curves } = parts;
    let heat_top = TOP + BAND_HEIGHT + AXIS_HEIGHT + PART_GAP + HEADING;
    let lanes_top = heat_top + heat::ROWS as f64 * HEAT_ROW_HEIGHT + PART_GAP;
    let curves_top = lanes_top + lanes.len() as f64 * (LANE_HEIGHT + LANE_GAP) + PART_GAP - LANE_GAP;
    let height = curves_top + curves.len() as f64 * (CURVE_HEIGHT + PART_GAP) + 8.0;
    let title = format!("What users got, per {}", column(*step_us));
    let mut plot = Svg::new("band", WIDTH, height, &title, &describe(verdict, parts));
    plot.stripes("stripes-stale", "stripe-stale", 45);
    plot.stripes("stripes-journaled", "stripe-journaled", -45);
    plot.stripes("stripes-away", "stripe-away", 45);
    draw_axis(&mut plot, frame, height);
    // What the names say stands in the description of the picture.
    let mut sheets = Sheets { names: Svg::silent("names", NAMES, height), plot };
    draw_band(&mut sheets, counts, frame, *step_us);
    draw_heat(&mut sheets, heat, frame, *step_us, heat_top);
    for (place, lane) in lanes.iter().enumerate() {
        draw_lane(&mut sheets, lane, frame, lanes_top + place as f64 * (LANE_HEIGHT + LANE_GAP));
    }
    for (place, curve) in curves.iter().enumerate() {
        draw_curve(&mut sheets, curve, frame, curves_top + place as f64 * (CURVE_HEIGHT + PART_GAP));
    }
    format!("<div class=\"chart\">{}\n{}</div>", sheets.names.finish(), sheets.plot.finish())
}

/// The width of a column in words.
fn column(step_us: u64) -> String {
    if step_us == BIN_US { "tenth of a second".to_owned() } else { format!("{:.1} s", step_us as f64 / 1e6) }
}

fn draw_band(sheets: &mut Sheets, counts: &Counts, frame: &Frame, step_us: u64) {
    let tallest = counts.steps.iter().map(|step| step.iter().sum::<u64>()).max().unwrap_or(0).max(1);
    let unit = BAND_HEIGHT / tallest as f64;
    let mut floor = vec![0_u64; counts.steps.len()];
    for band in STACK {
        let mut rects = Vec::new();
        for (step, floor) in floor.iter_mut().enumerate() {
            let many = counts.get(step, band);
            if many == 0 {
                continue;
            }
            let from_us = frame.from_us + step as u64 * step_us;
            let (x, end) = (frame.x(from_us), frame.x(from_us + step_us));
            *floor += many;
            let y = TOP + BAND_HEIGHT - *floor as f64 * unit;
            rects.push(Rect { x, y, width: end - x, height: many as f64 * unit });
        }
        sheets.plot.rects(&rects, class(band));
    }
    sheets.name(TOP + 10.0, &tallest.to_string());
    sheets.name(TOP + BAND_HEIGHT, "0");
    heading(&mut sheets.plot, TOP, &format!("requests planned in each {}", column(step_us)));
}

/// The line above a part that begins here.
fn heading(plot: &mut Svg, top: f64, text: &str) {
    plot.text((LEFT, top - 9.0), Anchor::Start, "tick", text);
}

fn draw_axis(svg: &mut Svg, frame: &Frame, height: f64) {
    let floor = TOP + BAND_HEIGHT;
    svg.line((LEFT, floor), (WIDTH - RIGHT, floor), "axis");
    let length_s = (frame.until_us - frame.from_us) / 1_000_000;
    // Some eight marks, at a distance that reads easily.
    let every = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600]
        .into_iter()
        .find(|step| length_s / step <= 10)
        .unwrap_or(3_600);
    for second in (0..=length_s).step_by(usize::try_from(every).unwrap_or(usize::MAX)) {
        let x = frame.x(frame.from_us + second * 1_000_000);
        svg.line((x, floor), (x, height - 8.0), "grid");
        let anchor = if x > WIDTH - RIGHT - 20.0 { Anchor::End } else { Anchor::Middle };
        svg.text((x, floor + 17.0), anchor, "tick", &format!("{second} s"));
    }
}

fn draw_heat(sheets: &mut Sheets, heat: &Heat, frame: &Frame, step_us: u64, top: f64) {
    let floor = top + heat::ROWS as f64 * HEAT_ROW_HEIGHT;
    let row_top = |row: usize| floor - (row + 1) as f64 * HEAT_ROW_HEIGHT;
    let mut shades: Vec<Vec<Rect>> = vec![Vec::new(); heat::SHADES_COUNT];
    for (step, row, shade) in heat.cells() {
        let from_us = frame.from_us + step as u64 * step_us;
        let (x, end) = (frame.x(from_us), frame.x(from_us + step_us));
        if let Some(rects) = shades.get_mut(shade) {
            rects.push(Rect { x, y: row_top(row), width: end - x, height: HEAT_ROW_HEIGHT });
        }
    }
    for (shade, rects) in shades.iter().enumerate() {
        sheets.plot.rects(rects, &format!("heat heat-{shade}"));
    }
    // Every second bound, because text is higher than a row.
    for row in (1..heat::ROWS).step_by(2) {
        sheets.name(row_top(row) + HEAT_ROW_HEIGHT + 4.5, heat::label(row));
    }
    sheets.plot.line((LEFT, floor), (WIDTH - RIGHT, floor), "grid");
    heading(&mut sheets.plot, top, "how long they took, from the planned time");
}

fn draw_curve(sheets: &mut Sheets, curve: &Curve, frame: &Frame, top: f64) {
    let max = curve.max();
    let unit = CURVE_HEIGHT / max.max(1) as f64;
    let mut rects = Vec::new();
    for (step, value) in curve.values.iter().enumerate().filter(|(_, value)| **value > 0) {
        let from_us = frame.from_us + step as u64 * curve.step_us;
        let (x, end) = (frame.x(from_us), frame.x(from_us + curve.step_us));
        let height = *value as f64 * unit;
        rects.push(Rect { x, y: top + CURVE_HEIGHT - height, width: end - x, height });
    }
    sheets.plot.rects(&rects, "curve");
    sheets.plot.line((LEFT, top + CURVE_HEIGHT), (WIDTH - RIGHT, top + CURVE_HEIGHT), "axis");
    sheets.name(top + 14.0, curve.name);
    sheets.name(top + 30.0, &format!("at most {max}"));
}

fn draw_lane(sheets: &mut Sheets, lane: &Lane, frame: &Frame, y: f64) {
    sheets.name(y + 14.5, &lane.name);
    let svg = &mut sheets.plot;
    for Stretch { from_us, until_us, kind, label } in &lane.stretches {
        let (x, end) = (frame.x(*from_us), frame.x(*until_us));
        // A stretch of a moment would vanish; two units can be seen.
        let width = (end - x).max(2.0);
        svg.rect(Rect { x, y, width, height: LANE_HEIGHT }, kind.class());
        // As wide as the widest of the usual fonts makes it.
        let back = label.chars().count() as f64 * 7.6 + 8.0;
        if width > back + 3.0 {
            let (text_class, back_class) =
                (format!("{}-text", kind.class()), format!("{}-back", kind.class()));
            svg.rect(Rect { x: x + 3.0, y: y + 2.0, width: back, height: LANE_HEIGHT - 4.0 }, &back_class);
            svg.text((x + 7.0, y + 14.5), Anchor::Start, &text_class, label);
        }
    }
}

/// The picture in words.
fn describe(verdict: &Verdict, parts: &Parts) -> String {
    let Parts { frame, lanes, curves, .. } = parts;
    let second = |us: u64| format!("{:.1} s", us.saturating_sub(frame.from_us) as f64 / 1e6);
    let mut text = crate::report::headline(verdict);
    for lane in lanes {
        let parts: Vec<String> = lane
            .stretches
            .iter()
            .take(12)
            .map(|part| format!("{} from {} to {}", part.label, second(part.from_us), second(part.until_us)))
            .collect();
        text.push_str(&format!(" {}: {}.", lane.name, parts.join(", ")));
    }
    for curve in curves {
        text.push_str(&format!(" {}: at most {}.", curve.name, curve.max()));
    }
    text.push_str(" The same stands in the tables below.");
    text
}
