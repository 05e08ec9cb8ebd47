//! [`Outcome`]: what was measured of a row, and what to think of it.
//!
//! A figure is held against its target as it is shown: rounded to the decimals of its kind, for what surrounds a loop
//! is a hundredth of an instruction in every count.

use std::slice;

use super::sources::{All, Measured, OURS};
use super::targets::{Figure, Key, Latency, Row, Section, Targets};
use crate::case::Metric;
use crate::compare::rank::median;
use crate::tables;

/// A row, measured as far as it was.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outcome {
    /// With its unit.
    pub(super) target: String,
    /// `None` where it was not measured.
    pub(super) ours: Option<String>,
    /// The peers' figures; `None` where the figure has no meaning for them, empty where they were not measured.
    pub(super) peers: Option<Vec<String>>,
    pub(super) linux: Linux,
    pub(super) verdict: Verdict,
}

/// Linux's figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Linux {
    /// It has no meaning there.
    None,
    NotMeasured,
    Measured(f64),
    /// Measured before: it stands in the targets file.
    Recorded(f64),
}

/// What to think of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Met,
    Missed,
    /// There is no target.
    Told,
    NotMeasured,
}

/// What makes a number a figure of a kind.
struct Scale {
    decimals: usize,
    unit: &'static str,
}

impl Scale {
    fn of(figure: Figure) -> Self {
        let (decimals, unit) = match figure {
            Figure::Count(_) | Figure::Unmeasured => (1, ""),
            Figure::Ratio(..) => (2, " of the best peer"),
            Figure::Growth(_) => (2, " of one CPU's"),
            Figure::Over(_) => (2, " of the other's"),
            Figure::Latency(_) => (0, " ns"),
            Figure::Held(_) => (2, ""),
            Figure::Share(_) => (2, " %"),
            Figure::Boot(_) => (0, " ms"),
            Figure::Image(_) => (0, " KiB"),
        };
        Self { decimals, unit }
    }

    fn text(&self, number: f64) -> String {
        format!("{number:.*}", self.decimals)
    }

    fn rounded(&self, number: f64) -> f64 {
        self.text(number).parse().unwrap_or(number)
    }
}

/// What was measured of a row.
pub(super) fn outcome(targets: &Targets, section: &Section, row: &Row, all: &All) -> Outcome {
    // A file without a figure in each row is not read.
    let figure = row.figure().unwrap_or(Figure::Unmeasured);
    let scale = Scale::of(figure);
    let target = match (row.at_most, figure) {
        (None, _) => "-".into(),
        (Some(most), Figure::Ratio(_, Some(names))) => format!("{most} of {}", names.join(" or ")),
        (Some(most), _) => format!("{most}{}", scale.unit),
    };
    let source = all.get(&section.from);
    let ours = source.and_then(|source| ours(figure, &scale, source, all));
    let verdict = match (&ours, row.at_most) {
        (None, _) => Verdict::NotMeasured,
        (Some(_), None) => Verdict::Told,
        (Some((number, _)), Some(most)) if scale.rounded(*number) <= most => Verdict::Met,
        (Some(_), Some(_)) => Verdict::Missed,
    };
    Outcome {
        target,
        ours: ours.map(|(_, text)| text),
        peers: peers(figure, source),
        linux: linux(targets, row, figure, all),
        verdict,
    }
}

/// Our figure, and as a text.
fn ours(figure: Figure, scale: &Scale, source: &Measured, all: &All) -> Option<(f64, String)> {
    let plain = |number: f64| (number, scale.text(number));
    let with_unit = |number: f64| (number, format!("{}{}", scale.text(number), scale.unit));
    match figure {
        Figure::Count(keys) => source.sum(OURS, keys, Metric::Instructions).map(plain),
        Figure::Ratio(keys, beside) => {
            let ours = source.sum(OURS, keys, Metric::Ns)?;
            let meant = |name: &String| beside.is_none_or(|names| names.contains(name));
            let (_, best) = source.others(keys, Metric::Ns).into_iter().find(|(name, _)| meant(name))?;
            Some((ours / best, format!("{} ({} ns)", scale.text(ours / best), tables::figure(ours))))
        }
        Figure::Growth(growth) => {
            let (one, many) = (growth.on(1), growth.on(growth.to));
            let metric = growth_metric(&one, source);
            Some(compared(scale, source.sum(OURS, &one, metric)?, source.sum(OURS, &many, metric)?))
        }
        Figure::Over(over) => {
            let cost = |source: &Measured| source.sum(OURS, &over.cases, Metric::Instructions);
            Some(compared(scale, cost(all.get(&over.source)?)?, cost(source)?))
        }
        Figure::Latency(latency) => source.latency(OURS, latency).map(with_unit),
        Figure::Held(key) => source.sum(OURS, slice::from_ref(key), Metric::Held).map(plain),
        Figure::Share(name) => {
            let statistics = source.statistics.as_ref()?;
            let bytes = |name: &str| statistics.rows.iter().find(|row| row.name == name).map(|row| row.bytes);
            let touched = statistics.total - bytes("deferred").unwrap_or(0);
            Some(with_unit(bytes(name)? as f64 * 100.0 / touched as f64))
        }
        Figure::Boot(name) => {
            let boots = source.startup.boots.get(name).filter(|boots| !boots.is_empty())?;
            Some(with_unit(median(boots)))
        }
        Figure::Image(name) => Some(with_unit(*source.startup.images.get(name)? as f64 / 1024.0)),
        Figure::Unmeasured => None,
    }
}

/// What one figure is over another, with both.
fn compared(scale: &Scale, from: f64, to: f64) -> (f64, String) {
    (to / from, format!("{} ({} to {})", scale.text(to / from), tables::figure(from), tables::figure(to)))
}

fn peers(figure: Figure, source: Option<&Measured>) -> Option<Vec<String>> {
    let (keys, metric, unit) = match figure {
        Figure::Count(keys) => (keys.to_vec(), Metric::Instructions, ""),
        Figure::Ratio(keys, _) => (keys.to_vec(), Metric::Ns, " ns"),
        Figure::Held(key) => (vec![key.clone()], Metric::Held, ""),
        Figure::Latency(latency) => return Some(latencies(latency, source)),
        Figure::Growth(growth) => return Some(growths(&growth.on(1), &growth.on(growth.to), source)),
        Figure::Over(_) | Figure::Share(_) | Figure::Boot(_) | Figure::Image(_) | Figure::Unmeasured => return None,
    };
    let others = source.map(|source| source.others(&keys, metric)).unwrap_or_default();
    Some(others.into_iter().map(|(name, cost)| format!("{name} {}{unit}", tables::figure(cost))).collect())
}

fn latencies(latency: &Latency, source: Option<&Measured>) -> Vec<String> {
    let Some(source) = source else { return Vec::new() };
    let mut figures: Vec<(&str, f64)> =
        source.peers().filter_map(|name| Some((name, source.latency(name, latency)?))).collect();
    figures.sort_by(|one, other| one.1.total_cmp(&other.1));
    figures.into_iter().map(|(name, figure)| format!("{name} {figure:.0} ns")).collect()
}

/// What growth is told in: instructions where they were counted, else time.
fn growth_metric(one: &[Key], source: &Measured) -> Metric {
    if source.sum(OURS, one, Metric::Instructions).is_some() { Metric::Instructions } else { Metric::Ns }
}

fn growths(one: &[Key], many: &[Key], source: Option<&Measured>) -> Vec<String> {
    let Some(source) = source else { return Vec::new() };
    let metric = growth_metric(one, source);
    let growth = |(name, cost): (String, f64)| source.sum(&name, one, metric).map(|alone| (cost / alone, name));
    let mut figures: Vec<_> = source.others(many, metric).into_iter().filter_map(growth).collect();
    figures.sort_by(|one, other| one.0.total_cmp(&other.0));
    figures.into_iter().map(|(growth, name)| format!("{name} {growth:.2}")).collect()
}

fn linux(targets: &Targets, row: &Row, figure: Figure, all: &All) -> Linux {
    let Figure::Count(keys) = figure else { return Linux::None };
    let keys = row.linux_count.as_deref().unwrap_or(keys);
    let source = all.get(&targets.linux.from);
    match (source.and_then(|source| source.others(keys, Metric::Instructions).into_iter().next()), row.linux) {
        (Some((_, measured)), _) => Linux::Measured(measured),
        (None, Some(recorded)) => Linux::Recorded(recorded),
        (None, None) => Linux::NotMeasured,
    }
}
