//! What single calls took, as a curve over percentiles whose axis gives every further nine the same room.

use quarry_record::{Latency, Measurement};

use super::super::chart::{Axis, Content, Curve, Lines, Panel};
use super::super::scale::{Spread, Unit};
use super::super::sources::View;
use crate::words::count;

pub(super) fn panels(view: &View) -> Vec<Panel> {
    let mut panels = Vec::new();
    for (workload, subject, front) in view.subjects(|row| row.latency.as_ref().is_some_and(|it| !points(it).is_empty()))
    {
        let rows: Vec<(&Measurement, &Latency)> = view
            .rows_of(workload, subject)
            .into_iter()
            .filter_map(|row| Some((row, row.latency.as_ref()?)))
            .filter(|(_, latency)| !points(latency).is_empty())
            .collect();
        let mut cpu_counts: Vec<u32> = rows.iter().map(|(row, _)| row.cpus).collect();
        cpu_counts.sort_unstable();
        cpu_counts.dedup();
        let most = cpu_counts.last().copied();
        for cpus in cpu_counts {
            let of_cpus: Vec<&(&Measurement, &Latency)> = rows.iter().filter(|(row, _)| row.cpus == cpus).collect();
            let clock = of_cpus.iter().map(|(_, latency)| latency.clock).fold(0.0, f64::max);
            let title = format!("{} on {}", subject.title(workload), count(cpus.into(), "CPU"));
            let note = format!("time of a call, logarithmic; the clock alone takes {}", Unit::Nanoseconds.show(clock));
            panels.push(Panel {
                title,
                note,
                front: front && most == Some(cpus),
                content: Content::Lines(curves(view, &of_cpus)),
            });
        }
    }
    panels
}

fn curves(view: &View, rows: &[&(&Measurement, &Latency)]) -> Lines {
    let curve = |&&(row, latency): &&(&Measurement, &Latency)| Curve {
        label: row.allocator.clone(),
        tone: view.tone(&row.allocator),
        points: points(latency),
        dots: false,
    };
    // Ours last, over all others.
    let curves = rows.iter().rev().map(curve).collect();
    Lines {
        x: Axis::new("% of calls take no longer", Unit::Percentile, Spread::Logarithmic),
        y: Axis::new("", Unit::Nanoseconds, Spread::Logarithmic),
        curves,
    }
}

/// Steps from the buckets, or the percentiles alone where there are no buckets. To the right is `calls / slower calls`: 1 for all
/// calls, 100 for the slowest of a hundred.
fn points(latency: &Latency) -> Vec<(f64, f64)> {
    let all: f64 = latency.buckets.iter().map(|(_, calls)| *calls as f64).sum();
    let mut points = Vec::new();
    let mut before = 0.0;
    for &(most, calls) in latency.buckets.iter().filter(|(most, calls)| *calls > 0 && *most > 0.0) {
        let after = before + calls as f64;
        // The last call of all has none slower: it ends the curve where it alone stands.
        points.extend([(all / (all - before), most), ((all / (all - after)).min(all), most)]);
        before = after;
    }
    if points.is_empty() {
        let Latency { p50, p90, p99, p99_9, p99_99, .. } = latency;
        let named = [(2.0, *p50), (10.0, *p90), (100.0, *p99), (1e3, *p99_9), (1e4, *p99_99)];
        points = named.into_iter().filter(|(_, most)| *most > 0.0).collect();
    }
    points.retain(|(right, most)| right.is_finite() && most.is_finite());
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_become_steps_over_percentiles() {
        let latency = Latency { buckets: vec![(10.0, 90), (20.0, 9), (500.0, 1)], ..Latency::default() };
        let steps = [(1.0, 10.0), (10.0, 10.0), (10.0, 20.0), (100.0, 20.0), (100.0, 500.0), (100.0, 500.0)];
        assert_eq!(points(&latency), steps);
    }

    #[test]
    fn without_buckets_the_percentiles_are_drawn() {
        let latency = Latency { p50: 10.0, p99: 30.0, ..Latency::default() };
        assert_eq!(points(&latency), [(2.0, 10.0), (100.0, 30.0)]);
        assert!(points(&Latency::default()).is_empty());
    }
}
