//! What stands around the tables: the machine a run was on, where its memory was at the end, what a stress or a run at the
//! edge came to.

use std::fmt::Write;

use quarry_record::{Edge, Run, Statistics, Stress, Topology};

use crate::size::Size;
use crate::words::count;

/// Who ran, and on what.
pub(crate) fn machine(run: &Run) -> String {
    let mut text = String::new();
    let mut line = |what: &str, value: String| {
        writeln!(text, "{what:<11} {value}").expect("a string takes whatever is written to it");
    };
    line("image", format!("{}, revision {}, seed {}", run.image, run.git, run.seed));
    line("CPU", format!("{}, time-stamp counter at {} MHz ({})", run.cpu, run.tsc_hz / 1_000_000, run.tsc_method));
    let counted = if run.icount { ", where a nanosecond is an instruction" } else { "" };
    line("hypervisor", format!("{}{counted}", run.hypervisor));
    for (at, node) in nodes(&run.topology).into_iter().enumerate() {
        line(if at == 0 { "nodes" } else { "" }, node);
    }
    if run.topology.nodes.len() > 1 {
        line("distances", distances(&run.topology.distances));
    }
    let warnings = if run.warnings == 0 {
        String::new()
    } else {
        format!(", {} about its tables", count(run.warnings.into(), "warning"))
    };
    line(
        "boot",
        format!("{}, {:.1} ms{warnings}", count(run.cpus_online.into(), "CPU"), run.boot_microseconds as f64 / 1000.0),
    );
    text
}

/// A line for each node.
pub(crate) fn nodes(topology: &Topology) -> Vec<String> {
    let line = |node: &quarry_record::Node| {
        let cpus: Vec<u32> = node.cpus.iter().map(|cpu| cpu.id).collect();
        let cpus = if cpus.is_empty() { "no CPUs".into() } else { format!("CPUs {}", ranges(&cpus)) };
        let memory = if node.memory_bytes == 0 { "no memory".into() } else { Size(node.memory_bytes).for_people() };
        format!("{}: {memory}, {cpus}", node.id)
    };
    topology.nodes.iter().map(line).collect()
}

/// `10 20 / 20 10`.
pub(crate) fn distances(distances: &[Vec<u8>]) -> String {
    let row = |row: &Vec<u8>| row.iter().map(u8::to_string).collect::<Vec<_>>().join(" ");
    distances.iter().map(row).collect::<Vec<_>>().join(" / ")
}

/// `0-3,6`.
fn ranges(numbers: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let range = |(first, last): (u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.into_iter().map(range).collect::<Vec<_>>().join(",")
}

/// Amounts on one line of [`memory`].
const AMOUNTS_A_LINE: usize = 4;

/// Where all memory was in the end.
pub(crate) fn memory(statistics: &Statistics) -> String {
    let rows = statistics.rows.iter().filter(|row| row.bytes > 0);
    let rows: Vec<String> =
        rows.map(|row| format!("{} {}", Size(row.bytes).for_people(), row.name.replace('_', " "))).collect();
    let lines: Vec<String> = rows.chunks(AMOUNTS_A_LINE).map(|line| line.join(" + ")).collect();
    let sum = match (statistics.adds_up, statistics.approximate) {
        (true, false) => "=",
        (_, true) => "about",
        (false, false) => "IS NOT",
    };
    let total = Size(statistics.total).for_people();
    format!("memory      {total} in all {sum}\n            {}", lines.join(" +\n            "))
}

/// What a stress came to.
pub(crate) fn stress(stress: &Stress) -> String {
    format!(
        "{}: {} in {} s on {}, {} handed on; {}, {}, {} lost",
        if stress.passed { "passed" } else { "FAILED" },
        count(stress.operations, "operation"),
        stress.seconds,
        count(stress.cpus.into(), "CPU"),
        count(stress.handed_on, "block"),
        count(stress.errors, "error"),
        count(stress.failed_allocations, "failed allocation"),
        count(stress.lost_bytes, "byte"),
    )
}

/// What a run at the edge came to.
pub(crate) fn edge(edge: &Edge) -> String {
    let verdict = if edge.complaints.is_empty() { "passed" } else { "FAILED" };
    let mut text = format!(
        "edge        {verdict}: {} on {} for {} s\n",
        count(edge.threads.into(), "thread"),
        count(edge.cpus.into(), "CPU"),
        edge.seconds
    );
    let mut line = |line: std::fmt::Arguments| {
        writeln!(text, "            {line}").expect("a string takes whatever is written to it");
    };
    line(format_args!("{:<10} {:>12} {:>12} {:>16}", "asked", "calls", "refused", "longest in ms"));
    for calls in &edge.calls {
        let longest = calls.longest_microseconds as f64 / 1000.0;
        line(format_args!("{:<10} {:>12} {:>12} {longest:>16.1}", calls.way, calls.attempts, calls.failures));
    }
    line(format_args!("{} of the atomic calls in interrupt handlers", edge.in_handlers));
    line(format_args!("{} given up by the cache", count(edge.given_up, "block")));
    let events: Vec<String> = edge.events.iter().map(|(name, times)| format!("{name} {times}")).collect();
    events.chunks(AMOUNTS_A_LINE).for_each(|events| line(format_args!("{}", events.join(", "))));
    edge.complaints.iter().for_each(|complaint| line(format_args!("{complaint}")));
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_record::{Cpu, EdgeCalls, Node, StatisticsRow};

    #[test]
    fn a_machine_reads() {
        let node = |id, memory_bytes, cpus: &[u32]| Node {
            id,
            memory_bytes,
            cpus: cpus.iter().map(|&id| Cpu { id, apic_id: id }).collect(),
            ..Node::default()
        };
        let run = Run {
            git: "440aa3b".into(),
            image: "bench".into(),
            cpu: "QEMU TCG CPU version 2.5+".into(),
            hypervisor: "TCG".into(),
            tsc_hz: 2_445_381_002,
            tsc_method: "PIT".into(),
            topology: Topology {
                nodes: vec![node(0, 1 << 30, &[0, 1, 3]), node(1, 0, &[2]), node(2, 512 << 20, &[])],
                distances: vec![vec![10, 20, 30], vec![20, 10, 40], vec![30, 40, 10]],
                ..Topology::default()
            },
            warnings: 1,
            cpus_online: 4,
            boot_microseconds: 59_429,
            seed: 7,
            ..Run::default()
        };
        insta::assert_snapshot!(machine(&run), @"
        image       bench, revision 440aa3b, seed 7
        CPU         QEMU TCG CPU version 2.5+, time-stamp counter at 2445 MHz (PIT)
        hypervisor  TCG
        nodes       0: 1 GiB, CPUs 0-1,3
                    1: no memory, CPUs 2
                    2: 512 MiB, no CPUs
        distances   10 20 30 / 20 10 40 / 30 40 10
        boot        4 CPUs, 59.4 ms, 1 warning about its tables
        ");
    }

    #[test]
    fn memory_reads() {
        let row = |name: &str, bytes| StatisticsRow { name: name.into(), bytes };
        let rows = vec![row("free", 3 << 20), row("large", 0), row("slab_in_use", 1 << 20)];
        let right = Statistics { total: 4 << 20, rows, adds_up: true, approximate: false };
        let wrong = Statistics { adds_up: false, ..right.clone() };
        let hurried = Statistics { approximate: true, ..wrong.clone() };
        insta::assert_snapshot!([memory(&right), memory(&wrong), memory(&hurried)].join("\n"), @"
        memory      4 MiB in all =
                    3 MiB free + 1 MiB slab in use
        memory      4 MiB in all IS NOT
                    3 MiB free + 1 MiB slab in use
        memory      4 MiB in all about
                    3 MiB free + 1 MiB slab in use
        ");
    }

    #[test]
    fn a_stress_reads() {
        let report = Stress { seconds: 30, cpus: 4, operations: 1000, handed_on: 1, errors: 2, ..Stress::default() };
        insta::assert_snapshot!(stress(&report), @"FAILED: 1000 operations in 30 s on 4 CPUs, 1 block handed on; 2 errors, 0 failed allocations, 0 bytes lost");
    }

    #[test]
    fn a_run_at_the_edge_reads() {
        let calls = |way: &str, failures, longest_microseconds| EdgeCalls {
            way: way.into(),
            attempts: 1000,
            failures,
            longest_microseconds,
        };
        let report = Edge {
            seconds: 60,
            cpus: 4,
            threads: 20,
            calls: vec![calls("atomic", 12, 40), calls("unfailing", 0, 1_234_567)],
            in_handlers: 500,
            given_up: 1,
            events: ["allocstall", "kswapd_wake", "memory_waits", "drain_calls", "slabs_shrunk"]
                .map(|name| (name.into(), 7))
                .into(),
            complaints: vec!["8 bytes did not come back".into()],
        };
        insta::assert_snapshot!(edge(&report), @"
        edge        FAILED: 20 threads on 4 CPUs for 60 s
                    asked             calls      refused    longest in ms
                    atomic             1000           12              0.0
                    unfailing          1000            0           1234.6
                    500 of the atomic calls in interrupt handlers
                    1 block given up by the cache
                    allocstall 7, kswapd_wake 7, memory_waits 7, drain_calls 7
                    slabs_shrunk 7
                    8 bytes did not come back
        ");
    }

    #[test]
    fn cpus_in_a_row_are_told_as_a_range() {
        assert_eq!([ranges(&[]), ranges(&[5]), ranges(&[0, 1, 2, 5, 7, 8])], ["", "5", "0-2,5,7-8"]);
    }
}
