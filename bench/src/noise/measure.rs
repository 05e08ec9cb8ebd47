//! [`measure`]: how far two sides of one build lie apart, for growing numbers of boots a side.
//!
//! The boots are dealt out to two sides in several ways: in turn, as they were made (host conditions that change slowly
//! fall on both alike); the first half against the second (they do not); and at random, often. A floor for fewer boots
//! comes from the same boots, some of them left out.

use std::collections::BTreeSet;
use std::fmt::Write;

use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Modify};

use crate::case::{Case, Metric};
use crate::compare::floor::{CaseFloor, Floor, GroupFloor, NoiseFloor};
use crate::compare::judge::{Basis, Verdict, basis, change, compare};
use crate::compare::many::percentile;
use crate::compare::render::percent;
use crate::compare::side::Side;
use crate::session::Session;
use crate::tables::lines_below;
use crate::words::count;

/// How often boots are dealt out at random for the changes of each case.
const DEALS: usize = 100;

/// And for what a whole comparison makes of them.
const WHOLE_DEALS: usize = 20;

/// What was found.
pub(crate) struct Noise {
    pub(crate) floor: NoiseFloor,
    /// Cases measured in every boot.
    cases: usize,
    /// How many of them a comparison calls changed: boots in turn, first half against second, dealt at random (the mean).
    in_turn: usize,
    halves: usize,
    at_random: f64,
}

/// Deals out the boots of one build, at least four. `None` when no case was measured in all of them.
pub(crate) fn measure(sessions: &[Session], metric: Metric) -> Option<Noise> {
    let all = Side::new(sessions);
    let run = all.runs.first()?.clone();
    let cases: Vec<(Case, Vec<Vec<f64>>)> = all
        .cases
        .iter()
        .map(|case| (case.clone(), all.figures(case, metric)))
        .filter(|(_, figures)| figures.len() == sessions.len())
        .collect();
    if cases.is_empty() {
        return None;
    }
    let boots = sessions.len() / 2;
    let mut floor = NoiseFloor::new(run, metric, boots);
    let mut random = fastrand::Rng::with_seed(1);
    // For each case and number of boots, the changes.
    let counts = counts(boots);
    let basis = |boots: usize| basis((boots, boots), cases.len(), true);
    let changes: Vec<Vec<Changes>> = cases
        .iter()
        .map(|(_, figures)| {
            counts.iter().map(|&boots| Changes::of(figures, boots, basis(boots), &mut random)).collect()
        })
        .collect();
    let floors = |of: &dyn Fn(&Case) -> bool| -> Vec<Floor> {
        let pooled = |at: usize| {
            let chosen = cases.iter().zip(&changes).filter(|((case, _), _)| of(case)).map(|(_, changes)| &changes[at]);
            let pool = chosen.fold(Changes::default(), Changes::with);
            pool.floor(counts[at])
        };
        (0..counts.len()).map(pooled).collect()
    };
    let groups: BTreeSet<&str> = cases.iter().map(|(case, _)| case.group()).collect();
    let of_group = |group: &&str| {
        let floors = floors(&|case| case.group() == *group);
        GroupFloor { group: (*group).to_owned(), floors }
    };
    floor.overall = floors(&|_| true);
    floor.groups = groups.iter().map(of_group).collect();
    let of_case = |(case, _): &(Case, _)| CaseFloor { case: case.clone(), floors: floors(&|other| other == case) };
    floor.cases = cases.iter().map(of_case).collect();

    let called = |is_old: &dyn Fn(usize) -> bool| changed(sessions, is_old, metric);
    let deals = (0..WHOLE_DEALS).map(|_| {
        let mut order: Vec<usize> = (0..sessions.len()).collect();
        random.shuffle(&mut order);
        called(&|boot| order[boot] < boots)
    });
    let at_random = deals.sum::<usize>() as f64 / WHOLE_DEALS as f64;
    let (in_turn, halves) = (called(&|boot| boot % 2 == 0), called(&|boot| boot < boots));
    Some(Noise { floor, cases: cases.len(), in_turn, halves, at_random })
}

/// For how many boots a side there is a floor: powers of two, and as many as there are.
fn counts(most: usize) -> Vec<usize> {
    let powers = (0..).map(|power| 1 << power).take_while(|&boots| boots < most);
    powers.chain([most]).collect()
}

/// How many cases a comparison calls changed that knows nothing of this noise.
fn changed(sessions: &[Session], is_old: &dyn Fn(usize) -> bool, metric: Metric) -> usize {
    let side = |old: bool| {
        Side::new(sessions.iter().enumerate().filter(|(boot, _)| is_old(*boot) == old).map(|(_, session)| session))
    };
    let all = compare(&side(true), &side(false), metric, None);
    all.both.iter().filter(|one| one.verdict != Verdict::Unchanged).count()
}

/// By how much sides of the same build differ.
#[derive(Default)]
struct Changes {
    /// Boots dealt out at random.
    at_random: Vec<f64>,
    /// Boots in a row against the next ones: these were made at different times, as builds that are compared are.
    in_a_row: Vec<f64>,
}

impl Changes {
    /// Of one case, with so many boots a side.
    fn of(figures: &[Vec<f64>], boots: usize, basis: Basis, random: &mut fastrand::Rng) -> Self {
        let deal = |_| {
            let mut chosen: Vec<&Vec<f64>> = figures.iter().collect();
            random.shuffle(&mut chosen);
            let side = |from: usize| chosen[from..from + boots].iter().copied().cloned().collect::<Vec<_>>();
            change(&side(0), &side(boots), basis)
        };
        let at_random = (0..DEALS).map(deal).collect();
        let rows = figures.windows(2 * boots).map(|row| change(&row[..boots], &row[boots..], basis));
        Self { at_random, in_a_row: rows.collect() }
    }

    fn with(mut self, other: &Self) -> Self {
        self.at_random.extend(&other.at_random);
        self.in_a_row.extend(&other.in_a_row);
        self
    }

    fn floor(&self, boots: usize) -> Floor {
        // The larger: whoever is compared to it may have been made in either way.
        let larger = |part| {
            let of = |changes: &[f64]| percentile(changes, part).unwrap_or(0.0);
            of(&self.at_random).max(of(&self.in_a_row))
        };
        Floor { boots, median: larger(0.5), p95: larger(0.95), p99: larger(0.99) }
    }
}

/// For people.
pub(crate) fn text(noise: &Noise) -> String {
    let mut text = String::new();
    let NoiseFloor { run, boots, .. } = &noise.floor;
    let share = |changed: f64| format!("{:>5.1} %", 100.0 * changed / noise.cases as f64);
    let cases = count(noise.cases as u64, "case");
    writeln!(text, "The same build, {}, on both sides: {} each, {cases}\n", run.git, count(*boots as u64, "boot"))
        .expect(STRING);
    writeln!(text, "Cases that `quarry compare` calls changed, though nothing did").expect(STRING);
    let lines = [
        ("boots in turn, A B A B", noise.in_turn as f64),
        ("the first half and the second", noise.halves as f64),
        ("dealt at random, on the mean", noise.at_random),
    ];
    for (name, changed) in lines {
        writeln!(text, "  {name:<30} {changed:>5.1} {}", share(changed)).expect(STRING);
    }
    let mut builder = Builder::new();
    builder.push_record(["group", "boots a side", "change, median", "95 % below", "99 % below"]);
    let overall = GroupFloor { group: "all".into(), floors: noise.floor.overall.clone() };
    for GroupFloor { group, floors } in noise.floor.groups.iter().chain([&overall]) {
        for floor in floors {
            let part = |part: f64| percent(part).trim_start_matches('+').to_owned();
            builder.push_record([
                group.clone(),
                floor.boots.to_string(),
                part(floor.median),
                part(floor.p95),
                part(floor.p99),
            ]);
        }
    }
    let mut table = builder.build();
    table.with(lines_below(1)).with(Alignment::right());
    table.with(Modify::new(Columns::first()).with(Alignment::left()));
    writeln!(text, "\nBy how much sides of the same build differ\n{table}").expect(STRING);
    text
}

const STRING: &str = "a string takes whatever is written to it";

#[cfg(test)]
mod tests {
    use quarry_record::{Measurement, Run, Summary};

    use super::*;

    /// Boots whose case `pair` differs from boot to boot by the parts given, and whose case `page` never differs.
    fn boots(parts: &[f64]) -> Vec<Session> {
        let unit = Summary { median: 1.0, ..Summary::default() };
        let result = |workload: &str, value: f64| Measurement {
            workload: workload.into(),
            allocator: "quarry".into(),
            cpus: 1,
            ns_per_op: unit,
            cycles_per_op: unit,
            samples: vec![value; 16],
            ..Measurement::default()
        };
        let boot = |part: &f64| {
            let mut session = Session::default();
            session.run = Some(Run { git: "440aa3b".into(), ..Run::default() });
            session.results = vec![result("pair", 100.0 * (1.0 + part)), result("page", 50.0)];
            session
        };
        parts.iter().map(boot).collect()
    }

    #[test]
    fn the_floor_is_what_boots_differ_by_and_falls_with_their_number() {
        let parts: Vec<f64> = (0..16).map(|at| 0.01 * f64::from(at * 7 % 16)).collect();
        let noise = measure(&boots(&parts), Metric::Ns).expect("there are cases");
        let floors = |name: &str| {
            let floor = noise.floor.cases.iter().find(|floor| floor.case.workload == name);
            floor.map(|floor| floor.floors.clone()).expect("the case is there")
        };
        assert!(floors("page").iter().all(|floor| floor.median.abs() < 1e-12 && floor.p95.abs() < 1e-12));
        let pair = floors("pair");
        assert_eq!(pair.iter().map(|floor| floor.boots).collect::<Vec<_>>(), [1, 2, 4, 8]);
        assert!((0.08..=0.15).contains(&pair[0].p95), "{pair:?}");
        assert!(pair.is_sorted_by(|fewer, more| fewer.p95 >= more.p95), "{pair:?}");
        assert!(pair[3].p95 > 0.02, "{pair:?}");
    }

    #[test]
    fn boots_that_grow_slower_and_slower_show_when_halves_are_compared() {
        let parts: Vec<f64> = (0..16).map(|at| 0.005 * f64::from(at)).collect();
        let noise = measure(&boots(&parts), Metric::Ns).expect("there are cases");
        assert_eq!((noise.cases, noise.in_turn, noise.halves), (2, 0, 1));
        let pair = &noise.floor.cases[0].floors;
        assert!(pair[3].p95 >= 0.035, "a comparison of builds made one after the other meets this: {pair:?}");
        insta::assert_snapshot!(text(&noise), @"
        The same build, 440aa3b, on both sides: 8 boots each, 2 cases

        Cases that `quarry compare` calls changed, though nothing did
          boots in turn, A B A B           0.0   0.0 %
          the first half and the second    1.0  50.0 %
          dealt at random, on the mean     0.1   2.5 %

        By how much sides of the same build differ
        ╭───────┬──────────────┬────────────────┬────────────┬────────────╮
        │ group │ boots a side │ change, median │ 95 % below │ 99 % below │
        ├───────┼──────────────┼────────────────┼────────────┼────────────┤
        │ page  │            1 │          0.0 % │      0.0 % │      0.0 % │
        │ page  │            2 │          0.0 % │      0.0 % │      0.0 % │
        │ page  │            4 │          0.0 % │      0.0 % │      0.0 % │
        │ page  │            8 │          0.0 % │      0.0 % │      0.0 % │
        │ slab  │            1 │          2.9 % │      6.0 % │      7.0 % │
        │ slab  │            2 │          1.7 % │      4.5 % │      4.9 % │
        │ slab  │            4 │          1.9 % │      3.2 % │      3.7 % │
        │ slab  │            8 │          3.9 % │      3.9 % │      3.9 % │
        │ all   │            1 │          0.0 % │      5.4 % │      7.0 % │
        │ all   │            2 │          0.0 % │      3.7 % │      4.7 % │
        │ all   │            4 │          0.0 % │      2.7 % │      3.7 % │
        │ all   │            8 │          0.0 % │      3.9 % │      3.9 % │
        ╰───────┴──────────────┴────────────────┴────────────┴────────────╯
        ");
    }

    #[test]
    fn cases_that_not_every_boot_has_are_left_out() {
        let mut sessions = boots(&[0.0; 4]);
        sessions[2].results.remove(0);
        let noise = measure(&sessions, Metric::Ns).expect("there are cases");
        assert_eq!(noise.cases, 1);
        sessions[1].results.clear();
        assert!(measure(&sessions, Metric::Ns).is_none());
    }
}
