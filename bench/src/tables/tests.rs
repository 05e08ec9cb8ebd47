//! Tables as people see them.

use super::*;

fn summary(median: f64) -> Summary {
    Summary { min: median * 0.9, median, p99: median * 1.5, spread: median * 0.2 }
}

fn pair(size: u64, cpus: u32, median: f64) -> Measurement {
    Measurement {
        workload: "pair".into(),
        allocator: "quarry".into(),
        size: Some(size),
        cpus,
        ops: 10_000,
        ns_per_op: summary(median),
        cycles_per_op: summary(2.5 * median),
        samples: [0.9, 1.0, 1.5].map(|factor| factor * 2.5 * median).to_vec(),
        empty_ns_per_op: 1.25,
        empty_cycles_per_op: 3.1,
        ..Measurement::default()
    }
}

#[test]
fn sizes_are_rows_and_cpus_are_columns() {
    let results = [pair(64, 1, 20.0), pair(64, 2, 21.0), pair(64, 4, 48.0), pair(4096, 1, 120.0), pair(4096, 2, 130.0)];
    insta::assert_snapshot!(tables(&results, Detail::Overview), @"
    pair: one kmalloc and its kfree, over and over; an operation is the pair
      (the empty loop, which is in every figure: 1.25 ns)
    ╭───────┬───────┬────────┬────────┬───────┬────────┬────────┬───────┬────────┬────────╮
    │       │       ns, median        │         ns, p99         │ million ops/s, all CPUs │
    │ size  │ 1 CPU │ 2 CPUs │ 4 CPUs │ 1 CPU │ 2 CPUs │ 4 CPUs │ 1 CPU │ 2 CPUs │ 4 CPUs │
    ├───────┼───────┼────────┼────────┼───────┼────────┼────────┼───────┼────────┼────────┤
    │ 64 B  │  20.0 │   21.0 │   48.0 │  30.0 │   31.5 │   72.0 │  44.1 │   84.0 │   73.5 │
    │ 4 KiB │   120 │    130 │      - │   180 │    195 │      - │  7.35 │   13.6 │      - │
    ╰───────┴───────┴────────┴────────┴───────┴────────┴────────┴───────┴────────┴────────╯
    ");
}

#[test]
fn parts_have_a_column_and_workloads_a_table_each() {
    let batch = |phase: &str, median| Measurement {
        workload: "batch".into(),
        phase: Some(phase.into()),
        ..pair(64, 1, median)
    };
    let node = |variant: &str, median| Measurement {
        workload: "node".into(),
        variant: Some(variant.into()),
        empty_ns_per_op: median / 10.0,
        ..pair(64, 1, median)
    };
    let results = [batch("allocate", 30.0), batch("free", 9.994), node("local", 40.0), node("remote", 99.96)];
    insta::assert_snapshot!(tables(&results, Detail::Overview), @"
    batch: many kmallocs, then their kfrees, first in, first out; an operation is one of either
      (the empty loop, which is in every figure: 1.25 ns)
    ╭──────┬──────────┬────────────┬─────────┬─────────────────────────╮
    │      │          │ ns, median │ ns, p99 │ million ops/s, all CPUs │
    │ size │ part     │      1 CPU │   1 CPU │                   1 CPU │
    ├──────┼──────────┼────────────┼─────────┼─────────────────────────┤
    │ 64 B │ allocate │       30.0 │    45.0 │                    29.4 │
    │ 64 B │ free     │       9.99 │    15.0 │                    88.3 │
    ╰──────┴──────────┴────────────┴─────────┴─────────────────────────╯

    node: pairs on a node that is asked for: the CPU's own, the farthest, both in turn
      (the empty loop, which is in every figure: 4.00 to 10.0 ns)
    ╭──────┬────────┬────────────┬─────────┬─────────────────────────╮
    │      │        │ ns, median │ ns, p99 │ million ops/s, all CPUs │
    │ size │ part   │      1 CPU │   1 CPU │                   1 CPU │
    ├──────┼────────┼────────────┼─────────┼─────────────────────────┤
    │ 64 B │ local  │       40.0 │    60.0 │                    22.1 │
    │ 64 B │ remote │        100 │     150 │                    8.83 │
    ╰──────┴────────┴────────────┴─────────┴─────────────────────────╯
    ");
}

#[test]
fn orders_are_told_in_bytes_and_mixes_as_mixed() {
    let page = Measurement { workload: "page".into(), size: None, order: Some(9), ..pair(0, 1, 300.0) };
    let mix = Measurement { workload: "mix".into(), size: None, ..pair(0, 1, 300.0) };
    insta::assert_snapshot!(tables(&[page, mix], Detail::Overview), @"
    page: one alloc_pages and its free_pages, over and over; order n is 2^n pages of 4 KiB
      (the empty loop, which is in every figure: 1.25 ns)
    ╭─────────────────┬────────────┬─────────┬─────────────────────────╮
    │                 │ ns, median │ ns, p99 │ million ops/s, all CPUs │
    │ size            │      1 CPU │   1 CPU │                   1 CPU │
    ├─────────────────┼────────────┼─────────┼─────────────────────────┤
    │ order 9 (2 MiB) │        300 │     450 │                    2.94 │
    ╰─────────────────┴────────────┴─────────┴─────────────────────────╯

    mix: random sizes over slots that are replaced at random; an operation is a free and an allocation
      (the empty loop, which is in every figure: 1.25 ns)
    ╭───────┬────────────┬─────────┬─────────────────────────╮
    │       │ ns, median │ ns, p99 │ million ops/s, all CPUs │
    │ size  │      1 CPU │   1 CPU │                   1 CPU │
    ├───────┼────────────┼─────────┼─────────────────────────┤
    │ mixed │        300 │     450 │                    2.94 │
    ╰───────┴────────────┴─────────┴─────────────────────────╯
    ");
}

#[test]
fn counted_instructions_take_the_place_of_time() {
    let counted = |size, median| Measurement { instructions_per_op: Some(summary(median)), ..pair(size, 1, median) };
    insta::assert_snapshot!(tables(&[counted(8, 31.0), counted(16, 31.0)], Detail::Overview), @"
    pair: one kmalloc and its kfree, over and over; an operation is the pair
      (the empty loop, which is in every figure: 1.25 instructions)
    ╭──────┬──────────────────────┬───────────────────╮
    │      │ instructions, median │ instructions, p99 │
    │ size │                1 CPU │             1 CPU │
    ├──────┼──────────────────────┼───────────────────┤
    │ 8 B  │                 31.0 │              46.5 │
    │ 16 B │                 31.0 │              46.5 │
    ╰──────┴──────────────────────┴───────────────────╯
    ");
}

#[test]
fn hand_overs_stand_beside_counts_of_several_cpus_and_refusals_below_them() {
    let counted = |size, cpus, hand_overs| Measurement {
        instructions_per_op: Some(summary(59.0)),
        hand_overs,
        ..pair(size, cpus, 59.0)
    };
    let refusal = Some("the CPUs hardly met".into());
    let refused = Measurement { refusal, errors: 1, ..counted(16, 2, Some(3)) };
    let results = [counted(8, 1, None), counted(8, 2, Some(1203)), counted(16, 1, None), refused];
    insta::assert_snapshot!(tables(&results, Detail::Overview), @"
    pair: one kmalloc and its kfree, over and over; an operation is the pair
      (the empty loop, which is in every figure: 1.25 instructions)
    ╭──────┬──────────┬───────────┬─────────┬─────────┬──────────────┬──────────────╮
    │      │ instructions, median │ instructions, p99 │ hand-overs, % of operations │
    │ size │    1 CPU │    2 CPUs │   1 CPU │  2 CPUs │        1 CPU │       2 CPUs │
    ├──────┼──────────┼───────────┼─────────┼─────────┼──────────────┼──────────────┤
    │ 8 B  │     59.0 │      59.0 │    88.5 │    88.5 │            - │         12.0 │
    │ 16 B │     59.0 │      59.0 │    88.5 │    88.5 │            - │         0.03 │
    ╰──────┴──────────┴───────────┴─────────┴─────────┴──────────────┴──────────────╯
      REFUSED: 16 B on 2 CPUs: the CPUs hardly met
    ");
    insta::assert_snapshot!(tables(&results, Detail::Full), @"
    pair: one kmalloc and its kfree, over and over; an operation is the pair
      (the empty loop, which is in every figure: 1.25 instructions)
    ╭──────┬──────┬──────────────┬──────────────┬──────────────┬──────────────┬──────────────┬────────┬────────┬────────┬─────────┬────────────┬────────────┬────────╮
    │ size │ CPUs │ instructions │ instructions │ instructions │ instructions │ instructions │ cycles │ cycles │ cycles │ million │ hand-overs │ operations │ errors │
    │      │      │ min          │ median       │ p99          │ spread       │ loop         │ min    │ median │ p99    │ ops/s   │            │            │        │
    ├──────┼──────┼──────────────┼──────────────┼──────────────┼──────────────┼──────────────┼────────┼────────┼────────┼─────────┼────────────┼────────────┼────────┤
    │ 8 B  │    1 │         53.1 │         59.0 │         88.5 │         11.8 │         1.25 │    133 │    148 │    221 │    15.0 │          - │      10000 │      0 │
    │ 8 B  │    2 │         53.1 │         59.0 │         88.5 │         11.8 │         1.25 │    133 │    148 │    221 │    29.9 │       1203 │      10000 │      0 │
    │ 16 B │    1 │         53.1 │         59.0 │         88.5 │         11.8 │         1.25 │    133 │    148 │    221 │    15.0 │          - │      10000 │      0 │
    │ 16 B │    2 │         53.1 │         59.0 │         88.5 │         11.8 │         1.25 │    133 │    148 │    221 │    29.9 │          3 │      10000 │      1 │
    ╰──────┴──────┴──────────────┴──────────────┴──────────────┴──────────────┴──────────────┴────────┴────────┴────────┴─────────┴────────────┴────────────┴────────╯
      REFUSED: 16 B on 2 CPUs: the CPUs hardly met
    ");
}

#[test]
fn rows_of_fewer_samples_than_wanted_are_told_below_the_table() {
    let slow = Measurement { samples_wanted: Some(101), samples: vec![500.0; 7], ..pair(16, 8, 200.0) };
    let text = tables(&[pair(8, 8, 20.0), slow], Detail::Overview);
    assert!(text.ends_with("╯\n  SLOW: 16 B on 8 CPUs: 7 of 101 samples were taken\n\n"), "{text}");
}

#[test]
fn details_have_every_figure() {
    let free = Measurement { phase: Some("free".into()), errors: 3, ..pair(64, 2, 21.0) };
    insta::assert_snapshot!(tables(&[pair(64, 1, 20.0)], Detail::Full), @"
    pair: one kmalloc and its kfree, over and over; an operation is the pair
      (the empty loop, which is in every figure: 1.25 ns)
    ╭──────┬──────┬──────┬────────┬──────┬────────┬──────┬────────┬────────┬────────┬─────────┬────────────┬────────╮
    │ size │ CPUs │ ns   │ ns     │ ns   │ ns     │ ns   │ cycles │ cycles │ cycles │ million │ operations │ errors │
    │      │      │ min  │ median │ p99  │ spread │ loop │ min    │ median │ p99    │ ops/s   │            │        │
    ├──────┼──────┼──────┼────────┼──────┼────────┼──────┼────────┼────────┼────────┼─────────┼────────────┼────────┤
    │ 64 B │    1 │ 18.0 │   20.0 │ 30.0 │   4.00 │ 1.25 │   45.0 │   50.0 │   75.0 │    44.1 │      10000 │      0 │
    ╰──────┴──────┴──────┴────────┴──────┴────────┴──────┴────────┴────────┴────────┴─────────┴────────────┴────────╯
    ");
    insta::assert_snapshot!(tables(&[free], Detail::Full), @"
    pair: one kmalloc and its kfree, over and over; an operation is the pair
      (the empty loop, which is in every figure: 1.25 ns)
    ╭──────┬──────┬──────┬──────┬────────┬──────┬────────┬──────┬────────┬────────┬────────┬─────────┬────────────┬────────╮
    │ size │ part │ CPUs │ ns   │ ns     │ ns   │ ns     │ ns   │ cycles │ cycles │ cycles │ million │ operations │ errors │
    │      │      │      │ min  │ median │ p99  │ spread │ loop │ min    │ median │ p99    │ ops/s   │            │        │
    ├──────┼──────┼──────┼──────┼────────┼──────┼────────┼──────┼────────┼────────┼────────┼─────────┼────────────┼────────┤
    │ 64 B │ free │    2 │ 18.9 │   21.0 │ 31.5 │   4.20 │ 1.25 │   47.2 │   52.5 │   78.8 │    84.0 │      10000 │      3 │
    ╰──────┴──────┴──────┴──────┴────────┴──────┴────────┴──────┴────────┴────────┴────────┴─────────┴────────────┴────────╯
    ");
}

#[test]
fn several_allocators_stand_side_by_side() {
    let other = |size| Measurement { allocator: "other".into(), ..pair(size, 1, 25.0) };
    let results = [pair(64, 1, 12.0), pair(128, 1, 13.0), other(64), other(128)];
    insta::assert_snapshot!(tables(&results, Detail::Overview), @"
    pair: one kmalloc and its kfree, over and over; an operation is the pair
      (the empty loop, which is in every figure: 1.25 ns)
    ╭───────┬───────────┬────────────┬─────────┬─────────────────────────╮
    │       │           │ ns, median │ ns, p99 │ million ops/s, all CPUs │
    │ size  │ allocator │      1 CPU │   1 CPU │                   1 CPU │
    ├───────┼───────────┼────────────┼─────────┼─────────────────────────┤
    │ 64 B  │ quarry    │       12.0 │    18.0 │                    73.5 │
    │ 64 B  │ other     │       25.0 │    37.5 │                    35.3 │
    │ 128 B │ quarry    │       13.0 │    19.5 │                    67.9 │
    │ 128 B │ other     │       25.0 │    37.5 │                    35.3 │
    ╰───────┴───────────┴────────────┴─────────┴─────────────────────────╯
    ");
}

#[test]
fn throughput_counts_the_time_cpus_had_to_wait() {
    let waiting = Measurement { samples: vec![50.0, 50.0, 200.0], ..pair(64, 2, 20.0) };
    // A mean of 100 cycles at 0.4 ns each.
    assert_eq!(figure(throughput(&waiting)), figure(2.0 * 1000.0 / 40.0));
}

#[test]
fn no_results_make_no_table() {
    assert_eq!(tables(&[], Detail::Overview), "");
}

#[test]
fn figures_have_three_digits_or_are_whole() {
    let figures = [0.0, 1.234, 9.994, 9.996, 12.34, 99.96, 1234.5, f64::NAN].map(figure);
    assert_eq!(figures, ["0.00", "1.23", "9.99", "10.0", "12.3", "100", "1234", "-"]);
}

#[test]
fn what_a_workload_watches_stands_below_its_table_and_memory_does_not() {
    let series = |name: &str, unit: &str, over: &str, points: &[(f64, f64)]| quarry_record::Series {
        name: name.into(),
        unit: unit.into(),
        over: over.into(),
        points: points.to_vec(),
    };
    let frag = |order, again: &[(f64, f64)]| Measurement {
        workload: "llfree-frag".into(),
        size: None,
        order: Some(order),
        series: vec![
            series("memory live", "bytes", "allocations and frees", &[(0.0, 4096.0), (1.0, 8192.0)]),
            series("huge pages (2 MiB) free again", "blocks", "operations", again),
        ],
        ..pair(64, 1, 50.0)
    };
    let results = [frag(0, &[(0.0, 0.0), (100.0, -1.0)]), frag(4, &[(0.0, 0.0), (100.0, 2.0), (200.0, 16.0)])];
    insta::assert_snapshot!(tables(&results, Detail::Overview), @"
    llfree-frag: page blocks replaced at random in memory that is half holes; an operation is a free and an allocation
      (the empty loop, which is in every figure: 1.25 ns)
    ╭──────────────────┬────────────┬─────────┬─────────────────────────╮
    │                  │ ns, median │ ns, p99 │ million ops/s, all CPUs │
    │ size             │      1 CPU │   1 CPU │                   1 CPU │
    ├──────────────────┼────────────┼─────────┼─────────────────────────┤
    │ order 0 (4 KiB)  │       50.0 │    75.0 │                    17.6 │
    │ order 4 (64 KiB) │       50.0 │    75.0 │                    17.6 │
    ╰──────────────────┴────────────┴─────────┴─────────────────────────╯

    ╭───────────────────────────────┬──────────────────┬──────┬──────────┬────────────┬────────╮
    │ watched                       │ size             │ CPUs │ at first │ in the end │ unit   │
    ├───────────────────────────────┼──────────────────┼──────┼──────────┼────────────┼────────┤
    │ huge pages (2 MiB) free again │ order 0 (4 KiB)  │    1 │     0.00 │      -1.00 │ blocks │
    │ huge pages (2 MiB) free again │ order 4 (64 KiB) │    1 │     0.00 │       16.0 │ blocks │
    ╰───────────────────────────────┴──────────────────┴──────┴──────────┴────────────┴────────╯
    ");
    assert!(!tables(&[pair(64, 1, 20.0)], Detail::Overview).contains("watched"));
}
