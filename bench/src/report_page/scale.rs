//! Axes: where a value lies between the ends of an axis, which values are marked, and how values read in their unit.
//!
//! Used by [`super::draw`]. Any finite value is taken; ends and marks are found in the logarithm where an axis has one,
//! so that nothing overflows.

/// Values beyond this are not drawn: differences of two of them would not be finite.
const LARGEST: f64 = 1e300;

/// Decades a logarithmic axis may span to have marks at 1, 2 and 5 of each.
const FINE_DECADES: f64 = 2.5;

/// Most decades that are all marked.
const MARKED_DECADES: f64 = 8.0;

/// Steps of a linear axis there should be.
const STEPS: f64 = 4.0;

/// What values are of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Time; shown in ns, µs, ms or s.
    Nanoseconds,
    /// Operations or instructions; shown with k, M, G.
    Count,
    /// Memory; shown in B, KiB, MiB.
    Bytes,
    /// How many times something else.
    Times,
    /// `N / (N - n)` of the n-th of N calls, shown as a percentile: 10 is 90, 100 is 99.
    Percentile,
    /// Anything else, by its name.
    Named(String),
}

impl Unit {
    /// The unit of that name in a record.
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "bytes" => Self::Bytes,
            "ns" | "nanoseconds" => Self::Nanoseconds,
            _ => Self::Named(name.to_owned()),
        }
    }

    /// A value as people read it: `1.5 µs`, `12 M`, `4 KiB`, `99.9`.
    pub(crate) fn show(&self, value: f64) -> String {
        match self {
            Self::Nanoseconds => {
                scaled(value, &[(1e9, "\u{202f}s"), (1e6, "\u{202f}ms"), (1e3, "\u{202f}µs"), (1.0, "\u{202f}ns")])
            }
            Self::Bytes => {
                let units = ["TiB", "GiB", "MiB", "KiB"];
                let steps = (0..4).map(|at| (f64::from(4 - at) * 10.0).exp2()).zip(units);
                let step = steps.clone().find(|(step, _)| value.abs() >= *step).unwrap_or((1.0, "B"));
                format!("{}\u{202f}{}", significant(value / step.0), step.1)
            }
            Self::Times => format!("{}×", significant(value)),
            Self::Percentile => percentile(value),
            Self::Named(unit) if unit == "%" => format!("{}\u{202f}%", significant(value)),
            Self::Count | Self::Named(_) => {
                scaled(value, &[(1e9, "\u{202f}G"), (1e6, "\u{202f}M"), (1e3, "\u{202f}k"), (1.0, "")])
            }
        }
    }
}

fn scaled(value: f64, steps: &[(f64, &str)]) -> String {
    let smallest = steps[steps.len() - 1];
    let (step, unit) = steps.iter().copied().find(|(step, _)| value.abs() >= *step).unwrap_or(smallest);
    format!("{}{unit}", significant(value / step))
}

/// The percentile that lies at `N / (N - n)`.
fn percentile(value: f64) -> String {
    let nines = value.log10().ceil().clamp(0.0, 15.0) as usize;
    let text = format!("{:.*}", nines.saturating_sub(2), 100.0 - 100.0 / value);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    text.to_owned()
}

/// Three significant digits, and no zeros that say nothing.
pub(crate) fn significant(value: f64) -> String {
    let text = match value.abs() {
        0.0 => return "0".into(),
        size if !(1e-3..1e6).contains(&size) => return format!("{value:.2e}"),
        size if size < 0.0995 => format!("{value:.4}"),
        size if size < 0.9995 => format!("{value:.3}"),
        size if size < 9.995 => format!("{value:.2}"),
        size if size < 99.95 => format!("{value:.1}"),
        _ => return format!("{value:.0}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// How values are spread over an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spread {
    /// Evenly, from the least to the greatest.
    Even,
    /// Evenly, and 0 is on the axis.
    FromZero,
    /// By their logarithm. Only what is above 0 can be shown.
    Logarithmic,
    /// By their logarithm, and the marks are the values themselves.
    Marked,
    /// By their logarithm, and 1 is on the axis.
    AroundOne,
}

/// A value with its text on an axis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mark {
    /// From 0, the axis's low end, to 1.
    pub(crate) place: f64,
    /// The value in words.
    pub(crate) text: String,
}

/// An axis: its ends and its marks.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    logarithmic: bool,
    low: f64,
    high: f64,
    /// The marks, from the low end to the high one.
    pub(crate) marks: Vec<Mark>,
}

impl Scale {
    /// An axis that has room for all of these values; `None` where none of them can be shown.
    pub(crate) fn new(spread: Spread, unit: &Unit, values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let logarithmic = !matches!(spread, Spread::Even | Spread::FromZero);
        let mut places: Vec<f64> = values
            .into_iter()
            .filter(|value| can_show(*value, logarithmic))
            .map(|value| if logarithmic { value.log10() } else { value })
            .collect();
        if places.is_empty() {
            return None;
        }
        places.extend(matches!(spread, Spread::FromZero | Spread::AroundOne).then_some(0.0));
        places.sort_by(f64::total_cmp);
        let (least, most) = (places[0], places[places.len() - 1]);
        let at = match spread {
            Spread::Marked => marked(places),
            Spread::Even | Spread::FromZero => evenly(least, most, *unit == Unit::Bytes),
            Spread::AroundOne => around_one(least, most),
            Spread::Logarithmic => decades(least, most),
        };
        let (low, high) = (at[0].min(least), at[at.len() - 1].max(most));
        let mut scale = Self { logarithmic, low, high, marks: Vec::new() };
        scale.marks = at
            .into_iter()
            .map(|at| {
                let text = unit.show(if logarithmic { 10_f64.powf(at) } else { at });
                Mark { place: scale.between(at), text }
            })
            .collect();
        Some(scale)
    }

    /// Where a value lies: 0 is the low end, 1 the high one. `None` where it cannot be shown.
    pub(crate) fn place(&self, value: f64) -> Option<f64> {
        can_show(value, self.logarithmic)
            .then(|| self.between(if self.logarithmic { value.log10() } else { value }).clamp(0.0, 1.0))
    }

    fn between(&self, place: f64) -> f64 {
        if self.high > self.low { (place - self.low) / (self.high - self.low) } else { 0.5 }
    }
}

fn can_show(value: f64, logarithmic: bool) -> bool {
    value.is_finite() && value.abs() <= LARGEST && (!logarithmic || value > 0.0)
}

/// The values themselves.
fn marked(mut places: Vec<f64>) -> Vec<f64> {
    places.dedup();
    places
}

/// One in the middle, and as far to either side, so that twice and half are equally long.
fn around_one(least: f64, most: f64) -> Vec<f64> {
    let reach = least.abs().max(most.abs());
    let near = [1.05_f64, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0].map(f64::log10).into_iter().find(|end| *end >= reach);
    near.map_or_else(|| decades(-reach, reach), |end| vec![-end, 0.0, end])
}

/// Marks from at most `least` to at least `most`, at whole decades or 1, 2 and 5 of each.
fn decades(least: f64, most: f64) -> Vec<f64> {
    const HAIR: f64 = 1e-9;
    let span = most - least;
    let every = (span / MARKED_DECADES).ceil().max(1.0);
    let fine = span <= FINE_DECADES;
    let within: &[f64] = if fine { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let first = (least / every).floor() * every;
    let steps = ((most - first) / every).ceil() as usize + 1;
    let all: Vec<f64> = (0..=steps)
        .flat_map(|step| within.iter().map(move |part| first + step as f64 * every + part.log10()))
        .collect();
    let from = all.iter().rposition(|at| *at <= least + HAIR).unwrap_or(0);
    let to = all.iter().position(|at| *at >= most - HAIR).unwrap_or(all.len() - 1).max(from + 1);
    all[from..=to.min(all.len() - 1)].to_vec()
}

/// Marks from at most `least` to at least `most`, at round numbers.
fn evenly(least: f64, most: f64, binary: bool) -> Vec<f64> {
    let span = if most > least { most - least } else { least.abs().max(1.0) };
    let wanted = span / STEPS;
    let step = if binary {
        wanted.log2().ceil().exp2()
    } else {
        let decade = 10_f64.powf(wanted.log10().floor());
        [1.0, 2.0, 5.0].map(|part| part * decade).into_iter().find(|step| *step >= wanted).unwrap_or(10.0 * decade)
    };
    let start = (least / step).floor();
    let end = (most / step).ceil().max(start + 1.0);
    let steps = (end - start) as usize;
    (0..=steps.min(2 * STEPS as usize + 2)).map(|at| (start + at as f64) * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn marks(spread: Spread, unit: &Unit, values: &[f64]) -> Vec<String> {
        let scale = Scale::new(spread, unit, values.iter().copied()).expect("there are values");
        scale.marks.into_iter().map(|mark| mark.text.replace('\u{202f}', " ")).collect()
    }

    #[test]
    fn values_read_in_the_unit_that_fits() {
        let show = |unit: Unit, values: &[f64]| {
            values.iter().map(|value| unit.show(*value).replace('\u{202f}', " ")).collect::<Vec<_>>()
        };
        assert_eq!(
            show(Unit::Nanoseconds, &[0.0, 0.25, 12.0, 1500.0, 2e6]),
            ["0 ns", "0.25 ns", "12 ns", "1.5 µs", "2 ms"]
        );
        assert_eq!(show(Unit::Bytes, &[0.0, 512.0, 4096.0, 3e9]), ["0 B", "512 B", "4 KiB", "2.79 GiB"]);
        assert_eq!(show(Unit::Count, &[1.0, 12_345.0, 9.5e6, 1e300]), ["1", "12.3 k", "9.5 M", "1.00e291 G"]);
        assert_eq!(show(Unit::Times, &[1.0, 1.125]), ["1×", "1.12×"]);
        assert_eq!(
            show(Unit::Percentile, &[1.0, 2.0, 10.0, 100.0, 1e3, 1e5]),
            ["0", "50", "90", "99", "99.9", "99.999"]
        );
    }

    #[test]
    fn logarithmic_axes_are_marked_at_round_numbers_around_the_values() {
        assert_eq!(marks(Spread::Logarithmic, &Unit::Count, &[3.0, 40.0]), ["2", "5", "10", "20", "50"]);
        assert_eq!(
            marks(Spread::Logarithmic, &Unit::Nanoseconds, &[20.0, 3e5]),
            ["10 ns", "100 ns", "1 µs", "10 µs", "100 µs", "1 ms"]
        );
        assert_eq!(marks(Spread::Logarithmic, &Unit::Count, &[100.0]), ["100", "200"], "one value has an axis too");
        assert_eq!(marks(Spread::Marked, &Unit::Count, &[8.0, 1.0, 2.0, 1.0]), ["1", "2", "8"]);
        assert_eq!(marks(Spread::AroundOne, &Unit::Times, &[1.2, 0.9]), ["0.8×", "1×", "1.25×"]);
        assert_eq!(marks(Spread::AroundOne, &Unit::Times, &[40.0]), ["0.01×", "0.1×", "1×", "10×", "100×"]);
    }

    #[test]
    fn even_axes_are_marked_at_round_numbers_and_memory_at_powers_of_two() {
        assert_eq!(marks(Spread::FromZero, &Unit::Count, &[7.0]), ["0", "2", "4", "6", "8"]);
        assert_eq!(marks(Spread::Even, &Unit::Count, &[100.0, 104.0]), ["100", "101", "102", "103", "104"]);
        assert_eq!(marks(Spread::FromZero, &Unit::Bytes, &[3e6]), ["0 B", "1 MiB", "2 MiB", "3 MiB"]);
        assert_eq!(marks(Spread::FromZero, &Unit::Count, &[0.0]), ["0", "0.5"]);
    }

    #[test]
    fn what_cannot_be_shown_has_no_place() {
        assert!(Scale::new(Spread::Logarithmic, &Unit::Count, [0.0, -1.0, f64::NAN]).is_none());
        let scale = Scale::new(Spread::Logarithmic, &Unit::Count, [1.0, 100.0]).expect("there are values");
        assert_eq!((scale.place(0.0), scale.place(10.0)), (None, Some(0.5)));
    }

    proptest! {
        #[test]
        fn every_axis_has_marks_in_order_and_all_its_values_between_its_ends(
            values in proptest::collection::vec(proptest::num::f64::ANY, 1..20), which in 0_usize..5,
        ) {
            let spreads =
                [Spread::Even, Spread::FromZero, Spread::Logarithmic, Spread::Marked, Spread::AroundOne];
            if let Some(scale) = Scale::new(spreads[which], &Unit::Nanoseconds, values.iter().copied()) {
                let places: Vec<f64> = scale.marks.iter().map(|mark| mark.place).collect();
                prop_assert!(!places.is_empty() && places.len() < 30 || which == 3, "{places:?}");
                prop_assert!(places.is_sorted() && places.iter().all(|place| (-1e-9..=1.0 + 1e-9).contains(place)), "{places:?}");
                for value in values {
                    prop_assert!(scale.place(value).is_none_or(|place| (0.0..=1.0).contains(&place)));
                }
            }
        }
    }
}
