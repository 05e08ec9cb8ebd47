//! A table of cells coloured by their values: the darker, the greater.

use maud::html;

use super::super::chart::Matrix;
use super::super::scale::significant;
use super::text::{self, clean, shortened, width};
use super::{Drawn, MARGIN, TOP, WIDTH, number};

/// Most columns whose cells have room for their values.
const MOST_WITH_VALUES: usize = 12;

/// Largest a cell becomes.
const LARGEST_CELL: f64 = 56.0;

/// Shades there are, from `shade-0` on; from the first of the dark ones on, text is light.
const SHADES: f64 = 9.0;
const FIRST_DARK: usize = 5;

pub(super) fn draw(matrix: &Matrix) -> Drawn {
    let label = matrix.rows.iter().map(|(label, _)| width(label, text::LABEL)).fold(0.0, f64::max).min(80.0);
    let left = MARGIN + label + 8.0;
    let cell = ((WIDTH - MARGIN - left) / matrix.columns.len().max(1) as f64).min(LARGEST_CELL);
    let height = cell.min(36.0);
    let top = TOP + 16.0;
    let values = || matrix.rows.iter().flat_map(|(_, cells)| cells.iter().flatten().copied());
    let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let shade = |value: f64| {
        let share = if most > least { (value / 2.0 - least / 2.0) / (most / 2.0 - least / 2.0) } else { 0.0 };
        ((share * SHADES) as usize).min(SHADES as usize - 1)
    };
    let with_values = matrix.columns.len() <= MOST_WITH_VALUES;
    // Where labels have no room beside each other, some are left out.
    let every = |room: f64, letters: f64| ((letters / room).ceil() as usize).max(1);
    let widest = matrix.columns.iter().map(|label| width(label, text::LABEL)).fold(0.0, f64::max);
    let (across, down) = (every(cell, widest + 4.0), every(height, 12.0));
    let markup = html! {
        @for (at, column) in matrix.columns.iter().enumerate().step_by(across) {
            text class="label middle" x=(number(left + (at as f64 + 0.5) * cell)) y=(number(top - 6.0)) { (clean(column)) }
        }
        @for (at, (row, cells)) in matrix.rows.iter().enumerate() {
            @let y = top + at as f64 * height;
            @if at.is_multiple_of(down) {
                text class="label end" x=(number(left - 6.0)) y=(number(y + height / 2.0 + 4.0)) {
                    (shortened(row, 80.0, text::LABEL))
                }
            }
            @for (to, value) in cells.iter().enumerate().take(matrix.columns.len()) {
                @if let Some(value) = value {
                    @let shade = shade(*value);
                    @let x = left + to as f64 * cell;
                    rect class={ "shade-" (shade) } x=(number(x + 0.5)) y=(number(y + 0.5)) width=(number(cell - 1.0))
                        height=(number(height - 1.0)) {
                        title { (clean(row)) " to " (clean(&matrix.columns[to])) ": " (significant(*value)) }
                    }
                    @if with_values {
                        text class=(if shade >= FIRST_DARK { "label middle on-dark" } else { "label middle on-light" })
                            x=(number(x + cell / 2.0)) y=(number(y + height / 2.0 + 4.0)) { (significant(*value)) }
                    }
                }
            }
        }
    };
    Drawn { markup, height: top + matrix.rows.len() as f64 * height + MARGIN }
}
