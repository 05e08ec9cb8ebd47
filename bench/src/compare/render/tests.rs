use super::*;
use crate::session::Session;

fn comparison(case: Case, ratio: f64, verdict: Verdict) -> Comparison {
    Comparison {
        case,
        old: 100.0,
        new: 100.0 * ratio,
        ratio,
        interval: Some((ratio - 0.01, ratio + 0.01)),
        p_value: Some(if verdict == Verdict::Unchanged { 0.4 } else { 0.0002 }),
        figures: (8, 8),
        basis: Basis::Boots,
        floor: 0.01,
        verdict,
    }
}

fn comparisons(metric: Metric) -> Comparisons {
    let case = Case {
        allocator: "quarry".into(),
        workload: "batch".into(),
        size: Some(64),
        phase: Some("free".into()),
        cpus: 2,
        ..Case::default()
    };
    let page = Case { workload: "page".into(), size: None, phase: None, order: Some(3), cpus: 1, ..case.clone() };
    let mix = Case { workload: "mix".into(), order: None, ..page.clone() };
    let allocate = Case { phase: Some("allocate".into()), ..case.clone() };
    Comparisons {
        metric,
        both: vec![
            comparison(allocate, 1.052, Verdict::Worse),
            comparison(case, 0.9996, Verdict::Unchanged),
            comparison(page.clone(), 0.5, Verdict::Better),
        ],
        only_old: vec![mix.clone()],
        only_new: vec![Case { allocator: "peer".into(), ..mix.clone() }, Case { allocator: "peer".into(), ..page }],
        unsteady: vec![mix],
    }
}

#[test]
fn a_comparison_reads() {
    insta::assert_snapshot!(text(&comparisons(Metric::Ns)), @"
    batch (quarry): many kmallocs, then their kfrees, first in, first out; an operation is one of either
    ╭──────┬──────────┬──────┬─────────┬─────┬────────┬──────────────────┬────────┬─────┬────────╮
    │ size │ part     │ CPUs │ old, ns │ new │ change │    95 % interval │      p │   n │        │
    ├──────┼──────────┼──────┼─────────┼─────┼────────┼──────────────────┼────────┼─────┼────────┤
    │ 64 B │ allocate │    2 │     100 │ 105 │ +5.2 % │ +4.2 % to +6.2 % │ <0.001 │ 8+8 │ slower │
    │ 64 B │ free     │    2 │     100 │ 100 │  0.0 % │ -1.0 % to +1.0 % │  0.400 │ 8+8 │ ~      │
    ╰──────┴──────────┴──────┴─────────┴─────┴────────┴──────────────────┴────────┴─────┴────────╯

    page (quarry): one alloc_pages and its free_pages, over and over; order n is 2^n pages of 4 KiB
    ╭──────────────────┬──────┬─────────┬──────┬─────────┬────────────────────┬────────┬─────┬────────╮
    │ size             │ CPUs │ old, ns │  new │  change │      95 % interval │      p │   n │        │
    ├──────────────────┼──────┼─────────┼──────┼─────────┼────────────────────┼────────┼─────┼────────┤
    │ order 3 (32 KiB) │    1 │     100 │ 50.0 │ -50.0 % │ -51.0 % to -49.0 % │ <0.001 │ 8+8 │ faster │
    ╰──────────────────┴──────┴─────────┴──────┴─────────┴────────────────────┴────────┴─────┴────────╯

    Geometric means of new / old
    ╭───────────┬───────┬─────────┬───────┬────────┬────────╮
    │ allocator │ group │  change │ cases │ slower │ faster │
    ├───────────┼───────┼─────────┼───────┼────────┼────────┤
    │ quarry    │ slab  │  +2.5 % │     2 │      1 │      0 │
    │ quarry    │ page  │ -50.0 % │     1 │      0 │      1 │
    │ quarry    │ all   │ -19.3 % │     3 │      1 │      1 │
    ╰───────────┴───────┴─────────┴───────┴────────┴────────╯

    Only the old side has 1 case:
      quarry: mix on 1 CPU

    Only the new side has 2 cases:
      peer: mix on 1 CPU
      peer: page order 3 (32 KiB) on 1 CPU

    Counts that are not the same in every boot, 1 case:
      quarry: mix on 1 CPU
    ");
}

#[test]
fn counts_have_their_decimals_and_no_p_values() {
    let mut all = comparisons(Metric::Instructions);
    all.both[0] = Comparison { old: 59.0031, new: 61.0031, ..all.both[0].clone() };
    let table = table(&all.both.iter().collect::<Vec<_>>(), all.metric);
    insta::assert_snapshot!(table, @"
    ╭──────────────────┬──────────┬──────┬───────────────────┬─────────┬─────────┬───────╮
    │ size             │ part     │ CPUs │ old, instructions │     new │  change │       │
    ├──────────────────┼──────────┼──────┼───────────────────┼─────────┼─────────┼───────┤
    │ 64 B             │ allocate │    2 │           59.0031 │ 61.0031 │  +5.2 % │ more  │
    │ 64 B             │ free     │    2 │               100 │   99.96 │   0.0 % │ =     │
    │ order 3 (32 KiB) │          │    1 │               100 │      50 │ -50.0 % │ fewer │
    ╰──────────────────┴──────────┴──────┴───────────────────┴─────────┴─────────┴───────╯
    ");
}

#[test]
fn sides_say_which_builds_they_are() {
    let boot = |git: &&str| {
        let mut session = Session::default();
        session.run = Some(Run { git: (*git).to_owned(), ..Run::default() });
        session
    };
    let side = |builds: &[&str]| Side::new(&builds.iter().map(boot).collect::<Vec<_>>());
    insta::assert_snapshot!(sides(&side(&["440aa3b"]), &side(&["9f1c", "9f1c", "77aa"])), @"
    old  440aa3b, 1 boot
    new  77aa and 9f1c, 3 boots
    ");
}

#[test]
fn what_the_boots_cannot_tell_is_said() {
    let all = |boots, basis| {
        let mut all = comparisons(Metric::Ns);
        all.both.iter_mut().for_each(|one| (one.figures, one.basis) = ((boots, boots), basis));
        all
    };
    let noise = NoiseFloor::new(Run::default(), Metric::Ns, 8);
    let notes = [
        notes(&all(8, Basis::Boots), None),
        notes(&all(4, Basis::Boots), None),
        notes(&all(16, Basis::Blocks), None),
        notes(&all(16, Basis::Blocks), Some(&noise)),
    ];
    insta::assert_snapshot!(notes.map(|notes| notes.join("\n")).join("\n\n"), @"
    ~ is a difference that the rank test (false discoveries over 3 cases at 5 %) or the noise floor takes for noise.

    ~ is a difference that the rank test (false discoveries over 3 cases at 5 %) or the noise floor takes for noise.
    So few boots cannot show a change of one case among 3 cases: that takes 5 a side.

    ~ is a difference that the rank test (false discoveries over 3 cases at 5 %) or the noise floor takes for noise.
    So few boots do not tell how boots differ, and no noise floor was given: a change below 25 % is taken for noise. Take 8 boots a side (`quarry run --boots 8`) or measure the noise (`quarry noise`).

    ~ is a difference that the rank test (false discoveries over 3 cases at 5 %) or the noise floor takes for noise.
    With so few boots the tests are over blocks of samples, and intervals are widened by the noise floor; 8 boots a side tell more (`quarry run --boots 8`).
    ");
    assert!(super::notes(&all(1, Basis::Counts), None).is_empty());
}
