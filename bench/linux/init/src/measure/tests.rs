//! The requests a case comes to, over a module that is a function.

use quarry_record::{Cpu, Node, Topology};
use quarry_suite::Histogram;

use super::*;

/// Ticks that timing nothing takes.
const CLOCK: u64 = 4;

/// Takes so many ticks for each operation, and remembers what it was asked.
struct Fake {
    ticks_per_operation: u64,
    asked: Vec<Request>,
}

impl Runner for Fake {
    fn run(&mut self, request: &Request) -> Result<Answer> {
        self.asked.push(request.clone());
        let phases = if request.operations == request.count as u64 { 2 } else { 1 };
        let ticks = if request.kind == Kind::Empty { 1 } else { self.ticks_per_operation } * request.operations;
        let span = |at: usize| Span { start: at as u64, end: at as u64 + ticks };
        let spans = (0..request.cpus * request.samples * phases).map(span).collect();
        let calls = (request.kind == Kind::Stamped).then(|| Calls {
            allocations: Histogram::of_buckets([(20, 3)], 20),
            frees: Histogram::of_buckets([(10, 1)], 10),
        });
        Ok(Answer { failures: 1, spans, calls })
    }
}

fn machine(nodes: u32) -> Machine {
    let cpus = |id| vec![Cpu { id, apic_id: id }];
    let nodes: Vec<Node> =
        (0..nodes).map(|id| Node { id, memory_bytes: 1 << 30, cpus: cpus(id), ..Node::default() }).collect();
    let distances = vec![vec![10; nodes.len()]; nodes.len()];
    Machine::of(Topology { nodes, distances, ..Topology::default() }, 1_000_000_000, 1 << 30)
}

fn settings(workload: Workload, effort: Effort) -> Settings {
    Settings { workloads: vec![workload], sizes: vec![64], samples: 7, effort, seed: 3, ..Settings::default() }
}

/// What is asked for a workload, and the rows it comes to.
fn measured(workload: Workload, effort: Effort, cpus: u32) -> (Vec<String>, Vec<Row>) {
    let mut fake = Fake { ticks_per_operation: 10, asked: Vec::new() };
    let settings = settings(workload, effort);
    let machine = machine(cpus);
    let cases = plan(machine, &settings);
    let mut rows = Vec::new();
    run(machine, &mut fake, CLOCK, &settings, &cases, &mut |row| {
        rows.push(row);
        Ok(())
    })
    .expect("the module does all");
    (fake.asked.iter().map(ToString::to_string).collect(), rows)
}

#[test]
fn counted_pairs_are_of_a_fixed_number_with_an_empty_loop_beside() {
    let (asked, rows) = measured(Workload::Pair, Effort::Fixed, 1);
    assert_eq!(asked, ["pair 0 64 0 0 1 10000 7 3 3", "pair 1 64 0 0 1 10000 7 3 3"]);
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].ticks.median, rows[0].empty_ticks, rows[0].errors), (10.0, 1.0, 1));
}

#[test]
fn timed_pairs_grow_until_they_take_as_long_as_they_should() {
    let (asked, rows) = measured(Workload::Pair, Effort::Microseconds(100), 1);
    // 100,000 ticks of 10 an operation: 64 at first, at most eight times more each time.
    let expected = [64, 512, 4096, 10_000, 10_000];
    let operations: Vec<u64> =
        asked.iter().take(5).map(|line| line.split(' ').nth(6).and_then(|word| word.parse().ok()).unwrap()).collect();
    assert_eq!(operations, expected);
    assert_eq!((rows[0].operations, rows[0].samples.len()), (70_000, 7));
}

#[test]
fn calls_are_timed_in_a_pass_of_their_own_and_told_by_phase() {
    let (asked, rows) = measured(Workload::Batch, Effort::Microseconds(100), 1);
    assert_eq!(asked[1], "batch 2 64 0 4096 1 4096 5 3 3");
    let told: Vec<_> = rows.iter().flat_map(|row| &row.latency).map(|it| (it.calls.worst(), it.clock)).collect();
    assert_eq!(told, [(20, CLOCK), (10, CLOCK)]);
    let whole = measured(Workload::Pair, Effort::Microseconds(100), 1).1.remove(0).latency.expect("calls are timed");
    assert_eq!((whole.calls.count(), whole.calls.worst()), (4, 20));
}

#[test]
fn counted_calls_have_no_latency() {
    let (asked, rows) = measured(Workload::Batch, Effort::Fixed, 1);
    assert!(rows.iter().all(|row| row.latency.is_none()));
    assert!(asked.iter().all(|line| line.split(' ').nth(1) != Some("2")), "{asked:?}");
}

#[test]
fn a_loop_that_takes_no_time_is_not_made_longer_for_ever() {
    let mut fake = Fake { ticks_per_operation: 0, asked: Vec::new() };
    let settings = settings(Workload::Pair, Effort::Microseconds(100));
    let cases = plan(machine(1), &settings);
    run(machine(1), &mut fake, CLOCK, &settings, &cases, &mut |_| Ok(())).expect("the module does all");
    assert!(fake.asked.iter().all(|request| request.operations <= 8 * MOST_OPERATIONS));
}

#[test]
fn the_empty_loop_is_measured_once_on_one_cpu() {
    let (asked, rows) = measured(Workload::Batch, Effort::Fixed, 2);
    assert_eq!(
        asked,
        ["batch 0 64 0 4096 1 4096 7 3 3", "batch 1 64 0 4096 1 4096 7 3 3", "batch 0 64 0 4096 2 4096 7 3 3"]
    );
    let phases: Vec<_> = rows.iter().map(|row| (row.case.cpus, row.phase.name(), row.errors)).collect();
    let expected = [(1, "allocate", 1), (1, "free", 0), (2, "allocate", 1), (2, "free", 0)];
    assert_eq!(phases, expected.map(|(cpus, phase, errors)| (cpus, Some(phase), errors)));
}

#[test]
fn groups_come_whole_and_nodes_by_their_number() {
    let bulk = measured(Workload::Bulk, Effort::Fixed, 1).0;
    assert!(bulk.contains(&"bulk 0 64 0 3 1 10002 7 3 3".to_owned()), "{bulk:?}");
    let node = measured(Workload::Node, Effort::Fixed, 2).0;
    for (word, cpus) in [(0, 1), (1, 1), (2, 2)] {
        assert!(node.contains(&format!("node 0 64 0 {word} {cpus} 10000 7 3 3")), "{node:?}");
    }
}

#[test]
fn batches_are_no_larger_than_memory_allows() {
    let settings = Settings { sizes: vec![4 << 20], ..settings(Workload::Batch, Effort::Fixed) };
    let machine = machine(1);
    let mut fake = Fake { ticks_per_operation: 1, asked: Vec::new() };
    let cases = plan(machine, &settings);
    run(machine, &mut fake, CLOCK, &settings, &cases, &mut |_| Ok(())).expect("the module does all");
    // A quarter of 1 GiB.
    assert_eq!(fake.asked[0].count, 64);
}

#[test]
fn what_the_module_has_no_loop_for_is_not_planned() {
    for workload in [Workload::Replay, Workload::Pressure, Workload::Fragmentation] {
        assert_eq!(plan(machine(2), &settings(workload, Effort::Fixed)), [], "{workload}");
    }
    let all = plan(machine(2), &Settings::default());
    assert!(MEASURED.iter().all(|workload| all.iter().any(|case| case.workload == *workload)));
}

#[test]
fn an_answer_with_too_few_spans_is_refused() {
    struct Short;
    impl Runner for Short {
        fn run(&mut self, _request: &Request) -> Result<Answer> {
            Ok(Answer { failures: 0, spans: Vec::new(), calls: None })
        }
    }
    let settings = settings(Workload::Pair, Effort::Fixed);
    let cases = plan(machine(1), &settings);
    let error = run(machine(1), &mut Short, CLOCK, &settings, &cases, &mut |_| Ok(())).expect_err("there is nothing");
    assert_eq!(error.to_string(), "the module gave 0 spans of pair, size 64, CPUs 1, not 7");
}
