//! Charts as SVG: text is text, colours are classes of the style sheet (`picture.css`, for light and dark), whatever
//! comes from records is escaped.
//!
//! Used by [`super::page`], which puts the pictures into the page, and by [`super`], which writes them as files: alone,
//! or many on one sheet.

mod bars;
mod lines;
mod matrix;
mod text;

use std::f64::consts::FRAC_1_SQRT_2;

use maud::{Markup, PreEscaped, html};

use super::chart::{Content, Panel, Tone};
use text::{clean, shortened};

/// The pictures' colours and letters.
pub(crate) const STYLE: &str = include_str!("picture.css");

/// Width of a panel. A phone shows it nearly as it is.
pub(crate) const WIDTH: f64 = 400.0;

/// Colours and shapes there are for other allocators; after that they come again, in other pairs.
const PEER_COLOURS: usize = 8;
const SHAPES: usize = 7;

/// A cross; turned by an eighth it is another shape.
const PLUS: [(f64, f64); 12] = [
    (-1.3, -4.6),
    (1.3, -4.6),
    (1.3, -1.3),
    (4.6, -1.3),
    (4.6, 1.3),
    (1.3, 1.3),
    (1.3, 4.6),
    (-1.3, 4.6),
    (-1.3, 1.3),
    (-4.6, 1.3),
    (-4.6, -1.3),
    (-1.3, -1.3),
];

/// Space between a picture's edge and what is in it.
const MARGIN: f64 = 10.0;

/// Where the chart begins, below heading and note.
const TOP: f64 = 48.0;

/// Space between the panels of a sheet.
const GAP: f64 = 12.0;

/// What a chart comes to: its markup, and how high it is.
struct Drawn {
    markup: Markup,
    height: f64,
}

/// A panel as an SVG element for a page that has [`STYLE`].
pub(crate) fn inline(panel: &Panel) -> Markup {
    let Drawn { markup, height } = draw(panel);
    html! {
        svg class="picture" role="img" aria-label=(clean(&alternative(panel))) viewBox=(view(WIDTH, height)) { (markup) }
    }
}

/// Panels as an SVG file that stands alone, side by side in so many columns at most.
pub(crate) fn sheet(panels: &[&Panel], columns: usize) -> String {
    let columns = columns.min(panels.len()).max(1);
    let drawn: Vec<Drawn> = panels.iter().map(|panel| draw(panel)).collect();
    let mut placed = Vec::new();
    let mut top = 0.0;
    for row in drawn.chunks(columns) {
        placed.extend(row.iter().enumerate().map(|(at, one)| (at as f64 * (WIDTH + GAP), top, &one.markup)));
        top += row.iter().map(|one| one.height).fold(0.0, f64::max) + GAP;
    }
    let (width, height) = (columns as f64 * (WIDTH + GAP) - GAP, (top - GAP).max(1.0));
    let label = panels.iter().map(|panel| alternative(panel)).collect::<Vec<_>>().join(" ");
    let file = html! {
        svg xmlns="http://www.w3.org/2000/svg" class="picture" role="img" aria-label=(clean(&label))
            width=(number(width)) height=(number(height)) viewBox=(view(width, height)) {
            style { (PreEscaped(STYLE)) }
            rect class="paper" width=(number(width)) height=(number(height)) {}
            @for (left, top, markup) in placed {
                g transform={ "translate(" (number(left)) " " (number(top)) ")" } { (markup) }
            }
        }
    };
    file.into_string() + "\n"
}

/// A panel for whoever cannot see it.
fn alternative(panel: &Panel) -> String {
    format!("{}: {}.", panel.title, panel.note)
}

fn draw(panel: &Panel) -> Drawn {
    let Drawn { markup, height } = match &panel.content {
        Content::Lines(lines) => lines::draw(lines),
        Content::Bars(bars) => bars::draw(bars),
        Content::Matrix(matrix) => matrix::draw(matrix),
    };
    let room = WIDTH - 2.0 * MARGIN;
    let markup = html! {
        text class="heading" x=(number(MARGIN)) y="19" { (shortened(&panel.title, room, text::HEADING)) }
        text class="note" x=(number(MARGIN)) y="35" { (shortened(&panel.note, room, text::NOTE)) }
        (markup)
    };
    Drawn { markup, height }
}

fn view(width: f64, height: f64) -> String {
    format!("0 0 {} {}", number(width), number(height))
}

/// A coordinate: a tenth is finer than eyes.
fn number(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or_else(|| text.clone(), str::to_owned)
}

/// The class that gives a tone its colour.
fn colour(tone: Tone) -> String {
    match tone {
        Tone::Ours => "ours".into(),
        Tone::Peer(at) => format!("peer-{}", at % PEER_COLOURS),
        Tone::Reference => "reference".into(),
        Tone::Better => "better".into(),
        Tone::Worse => "worse".into(),
        Tone::Same => "same".into(),
    }
}

/// The mark of a tone around a point: colours alone do not tell curves apart for everybody.
fn dot(tone: Tone, x: f64, y: f64, hint: Option<&str>) -> Markup {
    let hint = html! { @if let Some(hint) = hint { title { (clean(hint)) } } };
    let path = |shape: &[(f64, f64)]| {
        let corners = shape.iter().map(|(right, down)| format!("{},{}", number(x + right), number(y + down)));
        let corners = corners.collect::<Vec<_>>().join(" ");
        html! { polygon class={ "dot " (colour(tone)) } points=(corners) { (hint) } }
    };
    let Tone::Peer(at) = tone else {
        return html! { circle class={ "dot " (colour(tone)) } cx=(number(x)) cy=(number(y)) r="4" { (hint) } };
    };
    match at % SHAPES {
        0 => path(&[(-3.3, -3.3), (3.3, -3.3), (3.3, 3.3), (-3.3, 3.3)]),
        1 => path(&[(0.0, -4.4), (4.2, 3.2), (-4.2, 3.2)]),
        2 => path(&[(0.0, -4.6), (4.6, 0.0), (0.0, 4.6), (-4.6, 0.0)]),
        3 => path(&[(-4.2, -3.2), (4.2, -3.2), (0.0, 4.4)]),
        4 => path(&[(-4.4, -1.4), (4.4, -1.4), (4.4, 1.4), (-4.4, 1.4)]),
        5 => path(&PLUS),
        _ => path(&PLUS.map(|(right, down)| ((right - down) * FRAC_1_SQRT_2, (right + down) * FRAC_1_SQRT_2))),
    }
}

/// A tone's mark alone, for a legend.
pub(crate) fn swatch(tone: Tone) -> Markup {
    html! { svg class="picture" viewBox="0 0 14 14" aria-hidden="true" { (dot(tone, 7.0, 7.0, None)) } }
}
