//! Charts as plain data: what [`super::parts`] make of records and [`super::draw`] turns into pictures.

use super::scale::{Spread, Unit};

/// Who a curve or bar is of; the pictures' style sheet gives each a colour, and marks their shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Our allocator.
    Ours,
    /// Another allocator, by its place in the files.
    Peer(usize),
    /// Nobody's: a line to compare with.
    Reference,
    /// A change for the better.
    Better,
    /// A change for the worse.
    Worse,
    /// No change worth the name.
    Same,
}

/// A picture, or one of many on a sheet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Panel {
    /// What it shows: the heading.
    pub(crate) title: String,
    /// What the figures are.
    pub(crate) note: String,
    /// Whether it stands for others like it, which are shown on request only.
    pub(crate) front: bool,
    /// What is in it.
    pub(crate) content: Content,
}

/// What is in a panel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    /// Curves.
    Lines(Lines),
    /// Horizontal bars.
    Bars(Bars),
    /// A table of coloured cells.
    Matrix(Matrix),
}

/// Curves over an axis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lines {
    /// To the right.
    pub(crate) x: Axis,
    /// Upwards.
    pub(crate) y: Axis,
    /// The last are drawn over the first.
    pub(crate) curves: Vec<Curve>,
}

/// An axis in words.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Axis {
    /// What it measures. Of an upward axis the panel's note says so.
    pub(crate) title: String,
    /// In what.
    pub(crate) unit: Unit,
    /// How values lie on it.
    pub(crate) spread: Spread,
    /// Values that are on it whether the chart has them or not, so that charts side by side have one measure.
    pub(crate) include: Vec<f64>,
}

impl Axis {
    /// One that has the chart's own values on it. An upward axis has no title.
    pub(crate) fn new(title: &str, unit: Unit, spread: Spread) -> Self {
        Self { title: title.into(), unit, spread, include: Vec::new() }
    }
}

/// A curve.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Curve {
    /// Whose it is; stands at its end.
    pub(crate) label: String,
    /// The same as a colour.
    pub(crate) tone: Tone,
    /// From left to right.
    pub(crate) points: Vec<(f64, f64)>,
    /// Whether each point has a mark.
    pub(crate) dots: bool,
}

/// Horizontal bars in rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bars {
    /// To the right.
    pub(crate) axis: Axis,
    /// From above.
    pub(crate) rows: Vec<Row>,
}

/// Bars that belong together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// Whose they are.
    pub(crate) label: String,
    /// From above.
    pub(crate) bars: Vec<Bar>,
}

/// A bar.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bar {
    /// Its length, from 0 or 1 as the axis has it.
    pub(crate) value: f64,
    /// Stands beside it.
    pub(crate) text: String,
    /// Its colour.
    pub(crate) tone: Tone,
    /// Whether it is the lesser of its row.
    pub(crate) pale: bool,
}

/// A table of coloured cells.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Matrix {
    /// Above the columns.
    pub(crate) columns: Vec<String>,
    /// Rows with their labels; a cell may be missing.
    pub(crate) rows: Vec<(String, Vec<Option<f64>>)>,
}
