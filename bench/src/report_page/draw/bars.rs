//! Horizontal bars, each with its value beside it.

use maud::{Markup, html};

use super::super::chart::{Bars, Row, Tone};
use super::super::scale::{Scale, Spread};
use super::lines::lower_marks;
use super::text::{self, clean, shortened, width};
use super::{Drawn, MARGIN, TOP, WIDTH, colour, number};

/// A bar, and from one to the next.
const THICK: f64 = 11.0;
const STEP: f64 = 14.0;

/// Between rows.
const GAP: f64 = 6.0;

/// Space for marks of the axis, and for its title where it has one.
const MARKS: f64 = 24.0;
const TITLE: f64 = 18.0;

/// Widest a row's label or a bar's text may be.
const WIDEST_LABEL: f64 = 152.0;
const WIDEST_TEXT: f64 = 96.0;

pub(super) fn draw(bars: &Bars) -> Drawn {
    let all = || bars.rows.iter().flat_map(|row| &row.bars);
    let Some(scale) = Scale::new(
        bars.axis.spread,
        &bars.axis.unit,
        all().map(|bar| bar.value).chain(bars.axis.include.iter().copied()),
    ) else {
        let markup =
            html! { text class="label" x=(number(MARGIN)) y=(number(TOP + 20.0)) { "No value can be shown." } };
        return Drawn { markup, height: TOP + 40.0 };
    };
    let widest = |texts: &mut dyn Iterator<Item = &str>| texts.map(|text| width(text, text::LABEL)).fold(0.0, f64::max);
    let label = widest(&mut bars.rows.iter().map(|row| row.label.as_str())).min(WIDEST_LABEL);
    let text = widest(&mut all().map(|bar| bar.text.as_str())).min(WIDEST_TEXT);
    let (left, right) = (MARGIN + label + 8.0, WIDTH - MARGIN - text - 8.0);
    let bottom = TOP + bars.rows.iter().map(row_height).sum::<f64>();
    let marks = scale.marks.iter().map(|mark| (left + mark.place * (right - left), mark.text.as_str()));
    let origin = if bars.axis.spread == Spread::AroundOne { 1.0 } else { 0.0 };
    let across = |value: f64| scale.place(value).map(|place| left + place * (right - left));
    let base = across(origin).unwrap_or(left);
    let mut top = TOP;
    // Ours stands out where there is something to stand out from.
    let several = all().any(|bar| bar.tone != Tone::Ours);
    let rows: Vec<Markup> = bars
        .rows
        .iter()
        .map(|one| {
            let row = row(one, several, (top, base, label), &across);
            top += row_height(one);
            row
        })
        .collect();
    let markup = html! {
        (lower_marks(marks, TOP, bottom))
        @for row in rows { (row) }
        line class="axis" x1=(number(base)) x2=(number(base)) y1=(number(TOP)) y2=(number(bottom)) {}
        text class="note middle" x=(number(f64::midpoint(left, right))) y=(number(bottom + 33.0)) {
            (shortened(&bars.axis.title, right - left + 100.0, text::NOTE))
        }
    };
    Drawn { markup, height: bottom + MARKS + if bars.axis.title.is_empty() { 0.0 } else { TITLE } }
}

fn row_height(row: &Row) -> f64 {
    row.bars.len() as f64 * STEP + GAP
}

/// A row from `top`; its bars begin at `base`, and its label has so much room.
fn row(row: &Row, several: bool, (top, base, room): (f64, f64, f64), across: &dyn Fn(f64) -> Option<f64>) -> Markup {
    let middle = top + (row_height(row) - GAP) / 2.0 + 3.0;
    let ours = several && row.bars.iter().any(|bar| bar.tone == Tone::Ours);
    html! {
        text class=(if ours { "label end strong" } else { "label end" }) x=(number(MARGIN + room)) y=(number(middle)) {
            (shortened(&row.label, room, text::LABEL))
        }
        @for (at, bar) in row.bars.iter().enumerate() {
            @let y = top + at as f64 * STEP;
            @let end = across(bar.value).unwrap_or(base);
            rect class={ "bar " (colour(bar.tone)) @if bar.pale { " pale" } } x=(number(base.min(end))) y=(number(y))
                width=(number((end - base).abs().max(0.5))) height=(number(THICK)) {
                title { (clean(&row.label)) ": " (clean(&bar.text)) }
            }
            text class="label" x=(number(base.max(end) + 5.0)) y=(number(y + THICK - 1.8)) {
                (shortened(&bar.text, WIDEST_TEXT, text::LABEL))
            }
        }
    }
}
