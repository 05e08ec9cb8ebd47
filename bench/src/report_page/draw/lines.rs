//! Curves, each with its label at its end.

use maud::{Markup, html};

use super::super::chart::{Axis, Curve, Lines, Tone};
use super::super::scale::Scale;
use super::text::{self, apart, clean, shortened, width};
use super::{Drawn, MARGIN, TOP, WIDTH, colour, dot, number};

/// Height of the part between the axes.
const LEAST_HEIGHT: f64 = 172.0;

/// Space for marks and title of the lower axis.
const BOTTOM: f64 = 42.0;

/// From one label to the next.
const LINE: f64 = 13.5;

/// Widest a label at a curve's end may be.
const WIDEST_LABEL: f64 = 118.0;

/// From a curve's end to its label.
const LEADER: f64 = 16.0;

/// The part between the axes.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x: Scale,
    y: Scale,
}

impl Frame {
    fn at(&self, (x, y): (f64, f64)) -> Option<(f64, f64)> {
        let across = self.left + self.x.place(x)? * (self.right - self.left);
        Some((across, self.bottom - self.y.place(y)? * (self.bottom - self.top)))
    }
}

pub(super) fn draw(lines: &Lines) -> Drawn {
    let values =
        |part: fn(&(f64, f64)) -> f64| lines.curves.iter().flat_map(move |curve| curve.points.iter().map(part));
    let scale =
        |axis: &Axis, part| Scale::new(axis.spread, &axis.unit, values(part).chain(axis.include.iter().copied()));
    let (Some(x), Some(y)) = (scale(&lines.x, |point| point.0), scale(&lines.y, |point| point.1)) else {
        let markup =
            html! { text class="label" x=(number(MARGIN)) y=(number(TOP + 20.0)) { "No value can be shown." } };
        return Drawn { markup, height: TOP + 40.0 };
    };
    let labelled = lines.curves.iter().filter(|curve| curve.tone != Tone::Reference).count();
    let label = lines.curves.iter().map(|curve| width(&curve.label, text::LABEL)).fold(0.0, f64::max).min(WIDEST_LABEL);
    let mark = y.marks.iter().map(|mark| width(&mark.text, text::LABEL)).fold(0.0, f64::max).min(WIDEST_LABEL);
    let height = LEAST_HEIGHT.max(labelled as f64 * LINE);
    let frame = Frame {
        left: MARGIN + mark + 6.0,
        right: WIDTH - MARGIN - label - LEADER - 8.0,
        top: TOP,
        bottom: TOP + height,
        x,
        y,
    };
    let markup = html! {
        (axes(&frame, &lines.x.title))
        @for curve in &lines.curves { (line(&frame, curve, lines)) }
        (labels(&frame, &lines.curves, label))
    };
    Drawn { markup, height: frame.bottom + BOTTOM }
}

/// Marks, the lines through them, and what the lower axis is.
fn axes(frame: &Frame, title: &str) -> Markup {
    let across = frame.right - frame.left;
    let marks = frame.x.marks.iter().map(|mark| (frame.left + mark.place * across, mark.text.as_str()));
    html! {
        @for mark in &frame.y.marks {
            @let y = frame.bottom - mark.place * (frame.bottom - frame.top);
            line class="grid" x1=(number(frame.left)) x2=(number(frame.right)) y1=(number(y)) y2=(number(y)) {}
            text class="label end" x=(number(frame.left - 6.0)) y=(number(y + 3.5)) { (mark.text) }
        }
        (lower_marks(marks, frame.top, frame.bottom))
        text class="note middle" x=(number(f64::midpoint(frame.left, frame.right))) y=(number(frame.bottom + 33.0)) {
            (shortened(title, across + 60.0, text::NOTE))
        }
    }
}

/// Marks below a chart, but for those that the text of another leaves no room.
pub(super) fn lower_marks<'t>(marks: impl Iterator<Item = (f64, &'t str)>, top: f64, bottom: f64) -> Markup {
    let mut free = f64::NEG_INFINITY;
    let mut shown = Vec::new();
    for (x, text) in marks {
        let half = width(text, text::LABEL) / 2.0;
        let has_room = x - half >= free;
        if has_room {
            free = x + half + 5.0;
        }
        shown.push((x, has_room.then_some(text)));
    }
    html! {
        @for (x, text) in shown {
            line class="grid" x1=(number(x)) x2=(number(x)) y1=(number(top)) y2=(number(bottom)) {}
            @if let Some(text) = text {
                text class="label middle" x=(number(x)) y=(number(bottom + 16.0)) { (text) }
            }
        }
    }
}

fn line(frame: &Frame, curve: &Curve, lines: &Lines) -> Markup {
    let mut points: Vec<((f64, f64), (f64, f64))> =
        curve.points.iter().filter_map(|&point| Some((point, frame.at(point)?))).collect();
    points.dedup_by_key(|(_, (x, y))| (number(*x), number(*y)));
    let path = points.iter().map(|(_, (x, y))| format!("{},{}", number(*x), number(*y))).collect::<Vec<_>>().join(" ");
    let hint = |(x, y): (f64, f64)| {
        format!("{}: {} at {} {}", curve.label, lines.y.unit.show(y), lines.x.unit.show(x), lines.x.title)
    };
    html! {
        polyline class={ "curve " (colour(curve.tone)) } points=(path) { title { (clean(&curve.label)) } }
        @if curve.dots {
            @for (point, (x, y)) in points { (dot(curve.tone, x, y, Some(&hint(point)))) }
        }
    }
}

/// The curves' names right of their ends, moved apart, with a line to the end.
fn labels(frame: &Frame, curves: &[Curve], room: f64) -> Markup {
    let ends: Vec<(&Curve, (f64, f64))> = curves
        .iter()
        .filter(|curve| curve.tone != Tone::Reference)
        .filter_map(|curve| Some((curve, curve.points.iter().rev().find_map(|point| frame.at(*point))?)))
        .collect();
    let wanted: Vec<f64> = ends.iter().map(|(_, (_, y))| *y).collect();
    let places = apart(&wanted, LINE, frame.top + 2.0, frame.bottom);
    let left = frame.right + LEADER;
    html! {
        @for ((curve, (x, y)), place) in ends.into_iter().zip(places) {
            polyline class={ "leader " (colour(curve.tone)) }
                points={ (number(x)) "," (number(y)) " " (number(frame.right + 3.0)) "," (number(y)) " "
                    (number(left - 4.0)) "," (number(place)) } {}
            (dot(curve.tone, left, place, None))
            text class=(if curve.tone == Tone::Ours { "label strong" } else { "label" })
                x=(number(left + 8.0)) y=(number(place + 3.5)) { (shortened(&curve.label, room, text::LABEL)) }
        }
    }
}
