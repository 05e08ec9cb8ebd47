//! What the machines of two sides differ in: figures of different machines are compared at one's own risk.

use std::collections::BTreeSet;

use quarry_record::Run;

use crate::report::{distances, nodes};

/// Rates of the time-stamp counter that differ by no more are the same, measured twice.
const SAME_RATE: f64 = 0.005;

/// Something to compare, by its name.
type Aspect = (&'static str, fn(&Run) -> String);

/// Each difference in words, `names` being those of the sides. Also where the runs of one side differ.
pub(crate) fn differences<'r>(
    old: impl IntoIterator<Item = &'r Run>,
    new: impl IntoIterator<Item = &'r Run>,
    names: [&str; 2],
) -> Vec<String> {
    let (old, new): (Vec<_>, Vec<_>) = (old.into_iter().collect(), new.into_iter().collect());
    let aspects: [Aspect; 9] = [
        ("image", |run| run.image.clone()),
        ("CPU", |run| run.cpu.clone()),
        ("hypervisor", |run| run.hypervisor.clone()),
        ("accelerator", |run| run.accelerator.clone()),
        ("clock", |run| if run.icount { "counts instructions" } else { "counts time" }.into()),
        ("CPUs at work", |run| run.cpus_online.to_string()),
        ("nodes", |run| nodes(&run.topology).join("; ")),
        ("distances", |run| distances(&run.topology.distances)),
        ("seed", |run| run.seed.to_string()),
    ];
    let mut found = Vec::new();
    for (aspect, value) in aspects {
        let values = |runs: &[&Run]| runs.iter().map(|run| value(run)).collect::<BTreeSet<String>>();
        let (old, new) = (values(&old), values(&new));
        if old != new || old.len() > 1 {
            let list = |values: BTreeSet<String>| values.into_iter().collect::<Vec<_>>().join(" and ");
            found.push(format!("{aspect}: {} {}, {} {}", names[0], list(old), names[1], list(new)));
        }
    }
    found.extend(rates(&old, &new));
    found
}

fn rates(old: &[&Run], new: &[&Run]) -> Option<String> {
    let rates = old.iter().chain(new).map(|run| run.tsc_hz);
    let (least, most) = (rates.clone().min()?, rates.max()?);
    let apart = (most - least) as f64 > SAME_RATE * most as f64;
    apart.then(|| format!("time-stamp counter: {} to {} MHz", least / 1_000_000, most / 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_with_both_values() {
        let one = Run { cpu: "old CPU".into(), cpus_online: 4, tsc_hz: 2_000_000_000, ..Run::default() };
        let same = Run { tsc_hz: 2_001_000_000, git: "another".into(), ..one.clone() };
        let other = Run { cpu: "new CPU".into(), tsc_hz: 3_000_000_000, icount: true, ..one.clone() };
        assert!(differences([&one], [&same, &one], ["old", "new"]).is_empty());
        let found = differences([&one], [&other, &one], ["old", "new"]);
        insta::assert_snapshot!(found.join("\n"), @"
        CPU: old old CPU, new new CPU and old CPU
        clock: old counts time, new counts instructions and counts time
        time-stamp counter: 2000 to 3000 MHz
        ");
    }
}
