//! How far nodes are from each other, and what an allocation costs by where its memory is to be.

use quarry_record::Measurement;

use super::super::chart::{Axis, Bar, Bars, Content, Matrix, Panel, Row};
use super::super::scale::{Spread, Unit};
use super::super::sources::{Source, Subject, View};
use super::cost;
use crate::words::count;

/// The workload whose variants are nodes.
const WORKLOAD: &str = "node";

pub(super) fn panels(sources: &[Source], view: &View) -> Vec<Panel> {
    let mut panels: Vec<Panel> = Vec::new();
    for source in sources {
        let Some(topology) = source.runs.last().and_then(|session| Some(&session.run.as_ref()?.topology)) else {
            continue;
        };
        let cells = |row: &Vec<u8>| row.iter().map(|distance| Some(f64::from(*distance))).collect();
        let name = |at: usize| topology.nodes.get(at).map_or(at as u32, |node| node.id);
        let rows: Vec<(String, Vec<Option<f64>>)> =
            topology.distances.iter().enumerate().map(|(at, row)| (format!("node {}", name(at)), cells(row))).collect();
        let columns = topology.distances.iter().map(Vec::len).max().unwrap_or(0);
        let content = Content::Matrix(Matrix { columns: (0..columns).map(|at| name(at).to_string()).collect(), rows });
        let seen = panels.iter().any(|panel| panel.content == content);
        if topology.distances.len() > 1 && columns > 0 && !seen {
            let title = if panels.is_empty() { "distances".into() } else { format!("distances, {}", source.label) };
            let distances = || topology.distances.iter().flatten();
            let (least, most) = (distances().min().unwrap_or(&0), distances().max().unwrap_or(&0));
            let source = &topology.distance_source;
            let note = format!("from row to column, {least} (pale) to {most} (dark); source: {source}");
            panels.push(Panel { title, note, front: true, content });
        }
    }
    panels.extend(costs(view));
    panels
}

/// A picture for each size and number of CPUs, with the variants as bars. One CPU is shown first: what it tells of distance is
/// not mixed with contention.
fn costs(view: &View) -> Vec<Panel> {
    let of_nodes = |row: &Measurement| row.workload == WORKLOAD && row.variant.is_some() && cost(row).0.median > 0.0;
    let mut rows: Vec<&Measurement> = view.rows.iter().copied().filter(|row| of_nodes(row)).collect();
    let place = |row: &Measurement| view.allocators().iter().position(|name| *name == row.allocator);
    rows.sort_by_key(|row| (row.cpus, place(row)));
    let fewest = rows.first().map(|row| row.cpus);
    let shown = view.subjects(of_nodes).into_iter().find(|(_, _, front)| *front).map(|(_, subject, _)| subject);
    let size = |row: &Measurement| Subject { variant: None, ..Subject::from(row) }.title(WORKLOAD);
    let mut groups: Vec<(String, u32)> = Vec::new();
    for row in &rows {
        if !groups.contains(&(size(row), row.cpus)) {
            groups.push((size(row), row.cpus));
        }
    }
    let group = |(title, cpus): (String, u32)| {
        let rows: Vec<&Measurement> =
            rows.iter().copied().filter(|row| row.cpus == cpus && size(row) == title).collect();
        let counted = rows.iter().any(|row| row.instructions_per_op.is_some());
        let unit = if counted { Unit::Count } else { Unit::Nanoseconds };
        let is_shown = shown.is_some_and(|shown| Subject { variant: None, ..shown }.title(WORKLOAD) == title);
        let what = if counted { "instructions of an operation, median" } else { "time of an operation, median" };
        Panel {
            title: format!("{title} on {}", count(cpus.into(), "CPU")),
            note: what.into(),
            front: is_shown && Some(cpus) == fewest,
            content: Content::Bars(bars(view, &rows, unit)),
        }
    };
    groups.into_iter().map(group).collect()
}

fn bars(view: &View, rows: &[&Measurement], unit: Unit) -> Bars {
    let several = rows.iter().any(|row| row.allocator != rows[0].allocator);
    let row = |row: &&Measurement| {
        let value = cost(row).0.median;
        let variant = row.variant.clone().unwrap_or_default();
        let label = if several { format!("{}, {variant}", row.allocator) } else { variant };
        let bar = Bar { value, text: unit.show(value), tone: view.tone(&row.allocator), pale: false };
        Row { label, bars: vec![bar] }
    };
    let rows = rows.iter().map(row).collect();
    Bars { axis: Axis::new("", unit, Spread::FromZero), rows }
}
