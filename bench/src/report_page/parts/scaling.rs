//! Operations a second against CPUs, a picture for each workload and size. Where there is one number of CPUs only: bars.

use quarry_record::Measurement;

use super::super::chart::{Axis, Bar, Bars, Content, Curve, Lines, Panel, Row, Tone};
use super::super::scale::{Spread, Unit};
use super::super::sources::{OURS, View};
use super::{cost, rate};
use crate::words::count;

pub(super) fn panels(view: &View) -> Vec<Panel> {
    let subjects = view.subjects(|row| figure(row).is_some());
    subjects
        .into_iter()
        .map(|(workload, subject, front)| {
            let rows: Vec<&Measurement> =
                view.rows_of(workload, subject).into_iter().filter(|row| figure(row).is_some()).collect();
            let counted = rows.iter().any(|row| row.instructions_per_op.is_some());
            let what = if counted { "instructions an operation" } else { "operations a second" };
            let several = rows.iter().any(|row| row.cpus != rows[0].cpus);
            let (content, note) = if several {
                (Content::Lines(curves(view, &rows, counted)), format!("{what}, both axes logarithmic"))
            } else {
                (Content::Bars(bars(view, &rows)), format!("{what} on {}", count(rows[0].cpus.into(), "CPU")))
            };
            Panel { title: subject.title(workload), note, front, content }
        })
        .collect()
}

/// Operations a second, or instructions an operation where those are counted.
fn figure(row: &Measurement) -> Option<f64> {
    if row.instructions_per_op.is_some() { Some(cost(row).0.median).filter(|cost| *cost > 0.0) } else { rate(row) }
}

fn curves(view: &View, rows: &[&Measurement], counted: bool) -> Lines {
    let curve = |allocator: &&str| {
        let of_allocator = rows.iter().filter(|row| row.allocator == *allocator);
        let points: Vec<(f64, f64)> =
            of_allocator.filter_map(|row| Some((f64::from(row.cpus), figure(row)?))).collect();
        let curve = Curve { label: (*allocator).to_owned(), tone: view.tone(allocator), points, dots: true };
        (!curve.points.is_empty()).then_some(curve)
    };
    // Ours last, over all others.
    let mut curves: Vec<Curve> = view.allocators().iter().rev().filter_map(curve).collect();
    let ours = curves.iter().find(|curve| curve.label == OURS && curve.points.len() > 1 && !counted);
    if let Some(&(cpus, rate)) = ours.and_then(|curve| curve.points.first()) {
        let most = rows.iter().map(|row| f64::from(row.cpus)).fold(cpus, f64::max);
        let points = vec![(cpus, rate), (most, rate / cpus * most)];
        curves.insert(0, Curve { label: "in proportion to CPUs".into(), tone: Tone::Reference, points, dots: false });
    }
    Lines {
        x: Axis::new("CPUs", Unit::Count, Spread::Marked),
        y: Axis::new("", Unit::Count, Spread::Logarithmic),
        curves,
    }
}

fn bars(view: &View, rows: &[&Measurement]) -> Bars {
    let row = |row: &&Measurement| {
        let value = figure(row)?;
        let bar = Bar { value, text: Unit::Count.show(value), tone: view.tone(&row.allocator), pale: false };
        Some(Row { label: row.allocator.clone(), bars: vec![bar] })
    };
    Bars { axis: Axis::new("", Unit::Count, Spread::FromZero), rows: rows.iter().filter_map(row).collect() }
}
