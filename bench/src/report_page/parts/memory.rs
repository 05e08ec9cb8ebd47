//! Memory held for each byte of live blocks, at the peak and in the end.

use quarry_record::{Footprint, Measurement};

use super::super::chart::{Axis, Bar, Bars, Content, Panel, Row};
use super::super::scale::{Spread, Unit};
use super::super::sources::View;
use crate::words::count;

pub(super) fn panels(view: &View) -> Vec<Panel> {
    let mut panels = Vec::new();
    for (workload, subject, front) in view.subjects(|row| footprint(row).is_some()) {
        let rows: Vec<(&Measurement, Footprint)> =
            view.rows_of(workload, subject).into_iter().filter_map(|row| Some((row, footprint(row)?))).collect();
        let mut cpu_counts: Vec<u32> = rows.iter().map(|(row, _)| row.cpus).collect();
        cpu_counts.sort_unstable();
        cpu_counts.dedup();
        let most = cpu_counts.last().copied();
        for cpus in cpu_counts {
            let of_cpus = rows.iter().filter(|(row, _)| row.cpus == cpus);
            let live = of_cpus.clone().map(|(_, footprint)| footprint.peak_live).max().unwrap_or(0);
            panels.push(Panel {
                title: format!("{} on {}", subject.title(workload), count(cpus.into(), "CPU")),
                note: format!("held for each live byte, of {} live at most", Unit::Bytes.show(live as f64)),
                front: front && most == Some(cpus),
                content: Content::Bars(Bars {
                    axis: Axis::new("at the peak; paler: at the end", Unit::Times, Spread::FromZero),
                    rows: of_cpus.map(|(row, footprint)| bars(view, row, *footprint)).collect(),
                }),
            });
        }
    }
    panels
}

/// A footprint that can be told by the live byte.
fn footprint(row: &Measurement) -> Option<Footprint> {
    row.footprint.filter(|footprint| footprint.peak_live > 0)
}

fn bars(view: &View, row: &Measurement, footprint: Footprint) -> Row {
    let bar = |held: u64, pale| {
        let value = held as f64 / footprint.peak_live as f64;
        let text = if value < 100.0 { format!("{value:.2}×") } else { Unit::Times.show(value) };
        Bar { value, text, tone: view.tone(&row.allocator), pale }
    };
    Row { label: row.allocator.clone(), bars: vec![bar(footprint.peak_held, false), bar(footprint.end_held, true)] }
}
