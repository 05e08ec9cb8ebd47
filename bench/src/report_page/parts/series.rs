//! Every series there is: a picture for each name and case, a curve for each allocator.

use quarry_record::{Measurement, Series};

use super::super::chart::{Axis, Content, Curve, Lines, Panel};
use super::super::scale::{Spread, Unit};
use super::super::sources::{Subject, View};
use crate::words::count;

/// What curves need to share a picture.
type Key<'r> = (&'r str, Subject<'r>, u32, &'r str, &'r str, &'r str);

pub(super) fn panels(view: &View) -> Vec<Panel> {
    let mut pictures: Vec<(Key, Vec<(&Measurement, &Series)>)> = Vec::new();
    for row in &view.rows {
        for series in row.series.iter().filter(|series| !series.points.is_empty()) {
            let Series { name, unit, over, .. } = series;
            let key =
                (row.workload.as_str(), Subject::from(*row), row.cpus, name.as_str(), unit.as_str(), over.as_str());
            match pictures.iter_mut().find(|(other, _)| *other == key) {
                Some((_, curves)) => curves.push((row, series)),
                None => pictures.push((key, vec![(row, series)])),
            }
        }
    }
    let place = |row: &Measurement| view.allocators().iter().position(|name| *name == row.allocator);
    for (_, curves) in &mut pictures {
        // Ours last, over all others.
        curves.sort_by_key(|(row, _)| std::cmp::Reverse(place(row)));
    }
    pictures.into_iter().map(|(key, curves)| panel(view, key, &curves)).collect()
}

fn panel(view: &View, (workload, subject, cpus, name, unit, over): Key, curves: &[(&Measurement, &Series)]) -> Panel {
    let curve = |(row, series): &(&Measurement, &Series)| Curve {
        label: row.allocator.clone(),
        tone: view.tone(&row.allocator),
        points: series.points.clone(),
        dots: series.points.len() == 1,
    };
    Panel {
        title: format!("{name}: {}", subject.title(workload)),
        note: format!("{unit}, on {}", count(cpus.into(), "CPU")),
        front: true,
        content: Content::Lines(Lines {
            x: Axis::new(over, Unit::named(over), Spread::Even),
            y: Axis::new("", Unit::named(unit), Spread::FromZero),
            curves: curves.iter().map(curve).collect(),
        }),
    }
}
