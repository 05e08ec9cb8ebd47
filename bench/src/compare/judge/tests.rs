use fastrand::Rng;
use quarry_record::{Measurement, Run, Summary};

use super::super::floor::{Floor, WITH_FEW_BOOTS};
use super::*;
use crate::session::Session;

/// One boot of as many cases as there are levels. A boot shifts each case by up to 4 %, and its samples follow on each
/// other in slow waves.
fn boot(levels: &[f64], random: &mut Rng) -> Session {
    let mut session = Session::default();
    session.run = Some(Run { git: "440aa3b".into(), ..Run::default() });
    let unit = Summary { median: 1.0, ..Summary::default() };
    let mut result = |at: usize, level: f64| {
        let (shift, phase) = (0.96 + 0.04 * random.f64(), 100.0 * random.f64());
        let sample = |at: u32| level * shift * (1.0 + 0.003 * (phase + f64::from(at) / 9.0).sin());
        Measurement {
            workload: format!("workload {at}"),
            cpus: 1,
            samples: (0..51).map(sample).collect(),
            ns_per_op: unit,
            cycles_per_op: unit,
            ..Measurement::default()
        }
    };
    session.results = levels.iter().enumerate().map(|(at, &level)| result(at, level)).collect();
    session
}

fn side(boots: usize, levels: &[f64], random: &mut Rng) -> Side {
    let sessions: Vec<Session> = (0..boots).map(|_| boot(levels, random)).collect();
    Side::new(&sessions)
}

fn verdicts(all: &Comparisons, verdict: Verdict) -> Vec<usize> {
    all.both.iter().enumerate().filter(|(_, one)| one.verdict == verdict).map(|(at, _)| at).collect()
}

#[test]
fn the_same_build_twice_is_unchanged_however_many_boots_there_are() {
    let levels: Vec<f64> = (0..40).map(|case| 50.0 + f64::from(case)).collect();
    for boots in [1, 2, 3, 4, 8, 12] {
        let mut random = Rng::with_seed(boots as u64);
        let rounds = 5;
        let changed = |_| {
            let (old, new) = (side(boots, &levels, &mut random), side(boots, &levels, &mut random));
            let all = compare(&old, &new, Metric::Ns, None);
            assert_eq!(all.both.len(), levels.len());
            levels.len() - verdicts(&all, Verdict::Unchanged).len()
        };
        let changed: usize = (0..rounds).map(changed).sum();
        assert!(changed * 20 <= rounds * levels.len(), "{boots} boots: {changed} called changed");
    }
}

#[test]
fn samples_of_one_boot_would_call_most_of_the_same_cases_changed() {
    let levels = [50.0; 40];
    let mut random = Rng::with_seed(1);
    let (old, new) = (side(1, &levels, &mut random), side(1, &levels, &mut random));
    let all = compare(&old, &new, Metric::Ns, None);
    let seem_changed = all.both.iter().filter(|one| one.p_value.is_some_and(|p| p <= LEVEL)).count();
    assert!(seem_changed > 20, "the floor is not what keeps them from it: {seem_changed}");
    assert!(all.both.iter().all(|one| one.basis == Basis::Blocks && one.figures == (8, 8)));
    let holds_none = |one: &&Comparison| !one.interval.is_some_and(|(low, high)| low < 1.0 && 1.0 < high);
    assert_eq!(all.both.iter().filter(holds_none).count(), 0, "intervals are widened by what boots may differ");
}

#[test]
fn changes_put_in_are_found_and_nothing_else() {
    let levels = [100.0; 20];
    let mut changed = levels;
    (changed[3], changed[7]) = (106.0, 94.0);
    let mut random = Rng::with_seed(7);
    let (old, new) = (side(10, &levels, &mut random), side(10, &changed, &mut random));
    let all = compare(&old, &new, Metric::Ns, None);
    assert_eq!([verdicts(&all, Verdict::Worse), verdicts(&all, Verdict::Better)], [[3], [7]]);
    let (low, high) = all.both[3].interval.expect("there are enough boots");
    assert!(low <= 1.06 && 1.06 <= high, "{low} to {high}");
}

#[test]
fn a_change_within_the_noise_floor_is_none() {
    let mut random = Rng::with_seed(3);
    let (old, new) = (side(8, &[100.0], &mut random), side(8, &[108.0], &mut random));
    let verdict = |p95| {
        let mut noise = NoiseFloor::new(Run::default(), Metric::Ns, 8);
        noise.overall = vec![Floor { boots: 8, median: 0.0, p95, p99: p95 }];
        compare(&old, &new, Metric::Ns, Some(&noise)).both[0].verdict
    };
    assert_eq!([verdict(0.02), verdict(0.2)], [Verdict::Worse, Verdict::Unchanged]);
    // One boot a side tells it too, where the floor is known to be lower.
    let (old, new) = (side(1, &[100.0], &mut random), side(1, &[115.0], &mut random));
    let mut noise = NoiseFloor::new(Run::default(), Metric::Ns, 1);
    noise.overall = vec![Floor { boots: 1, median: 0.02, p95: 0.05, p99: 0.08 }];
    let verdict = |noise| compare(&old, &new, Metric::Ns, noise).both[0].verdict;
    const { assert!(WITH_FEW_BOOTS > 0.2) };
    assert_eq!([verdict(Some(&noise)), verdict(None)], [Verdict::Worse, Verdict::Unchanged]);
}

#[test]
fn a_few_boots_find_with_a_measured_floor_what_they_cannot_find_alone() {
    let mut random = Rng::with_seed(11);
    let levels = [100.0; 20];
    let mut changed = levels;
    changed[5] = 112.0;
    let (old, new) = (side(4, &levels, &mut random), side(4, &changed, &mut random));
    let mut noise = NoiseFloor::new(Run::default(), Metric::Ns, 4);
    noise.overall = vec![Floor { boots: 4, median: 0.01, p95: 0.03, p99: 0.04 }];
    let worse = |noise| verdicts(&compare(&old, &new, Metric::Ns, noise), Verdict::Worse);
    assert_eq!((worse(None), worse(Some(&noise))), (vec![], vec![5]));
}

#[test]
fn any_difference_in_instructions_is_one() {
    let counted = |instructions: &[f64]| {
        let mut session = boot(&vec![1.0; instructions.len()], &mut Rng::with_seed(1));
        for (result, &count) in session.results.iter_mut().zip(instructions) {
            result.samples = vec![count; 5];
            result.instructions_per_op = Some(Summary::default());
        }
        session
    };
    let old = Side::new(&[counted(&[59.0, 59.0, 59.0])]);
    let new = Side::new(&[counted(&[59.0001, 59.0, 58.0])]);
    let all = compare(&old, &new, Metric::Instructions, None);
    let expected = [Verdict::Worse, Verdict::Unchanged, Verdict::Better];
    assert_eq!(all.both.iter().map(|one| one.verdict).collect::<Vec<_>>(), expected);
    assert!(all.unsteady.is_empty());
    let unsteady = Side::new(&[counted(&[59.0, 1.0]), counted(&[59.0, 2.0])]);
    let all = compare(&old, &unsteady, Metric::Instructions, None);
    assert_eq!(all.unsteady, [old.cases[1].clone()]);
}

#[test]
fn more_operations_a_second_are_better() {
    let fast = |millions: f64, random: &mut Rng| {
        let mut session = boot(&[1.0], random);
        let median = millions * 1e6 * (1.0 + 0.01 * random.f64());
        session.results[0].ops_per_second = Some(Summary { median, ..Summary::default() });
        session
    };
    let mut random = Rng::with_seed(1);
    let mut side =
        |millions: f64, boots: usize| Side::new(&(0..boots).map(|_| fast(millions, &mut random)).collect::<Vec<_>>());
    let (old, new) = (side(10.0, 6), side(12.0, 6));
    let all = compare(&old, &new, Metric::Throughput, None);
    assert_eq!(all.both[0].verdict, Verdict::Better);
    assert!(all.both[0].worsening(Metric::Throughput) < -0.1);
    // One figure a boot and one boot: nothing can be said.
    let all = compare(&side(10.0, 1), &side(20.0, 1), Metric::Throughput, None);
    assert_eq!((all.both[0].verdict, all.both[0].interval), (Verdict::Unchanged, None));
}

#[test]
fn cases_of_one_side_are_told() {
    let mut random = Rng::with_seed(1);
    let (small, large) = (side(1, &[1.0], &mut random), side(1, &[1.0, 2.0], &mut random));
    let added = compare(&small, &large, Metric::Ns, None);
    let missing = compare(&large, &small, Metric::Ns, None);
    let lacking = large.cases[1..].to_vec();
    assert_eq!((added.only_old, &added.only_new, added.both.len()), (vec![], &lacking, 1));
    assert_eq!((&missing.only_old, missing.only_new, missing.both.len()), (&lacking, vec![], 1));
}
