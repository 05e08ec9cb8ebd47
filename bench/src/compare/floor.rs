//! [`NoiseFloor`]: how far two sides of the same build come to lie apart on a machine. `quarry noise` writes it, `quarry
//! compare` takes no smaller change for one.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use quarry_record::Run;
use serde::{Deserialize, Serialize};

use super::differences::differences;
use super::judge::Basis;
use crate::case::{Case, Metric};

/// Version of the file. Another one is not read.
const SCHEMA: u32 = 1;

/// Where nothing was measured: the smallest change that is taken for one when enough boots tell how boots differ.
const WITH_MANY_BOOTS: f64 = 0.01;

/// The same when they are too few to tell.
pub(crate) const WITH_FEW_BOOTS: f64 = 0.25;

/// By how much a change must exceed the measured floor where nothing but the floor tells it from noise. The next hour's
/// boots differ by more than those that were measured did: without this, 5 to 8 % of cases of the same build were called
/// changed on a busy computer, and with it 1 to 3 %.
const BEYOND_MEASURED: f64 = 1.5;

/// What was measured of a machine's noise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NoiseFloor {
    schema: u32,
    /// The `run` record of the first boot: which machine this is of.
    pub(crate) run: Run,
    /// Which figure this is of.
    pub(crate) metric: Metric,
    /// Boots a side of the longest comparison.
    pub(crate) boots: usize,
    /// All cases together.
    pub(crate) overall: Vec<Floor>,
    /// By the name of a workload's group.
    pub(crate) groups: Vec<GroupFloor>,
    /// By case.
    pub(crate) cases: Vec<CaseFloor>,
}

/// The noise between two sides of so many boots each. Changes are parts: 0.01 is 1 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Floor {
    /// Boots a side.
    pub(crate) boots: usize,
    /// What half of the changes do not exceed.
    pub(crate) median: f64,
    /// What 95 % of the changes do not exceed: where a test over boots has its say, too.
    pub(crate) p95: f64,
    /// What 99 % of the changes do not exceed: where it has not.
    pub(crate) p99: f64,
}

/// The noise of a group of workloads, for growing numbers of boots.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct GroupFloor {
    pub(crate) group: String,
    pub(crate) floors: Vec<Floor>,
}

/// The noise of a case, for growing numbers of boots.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CaseFloor {
    #[serde(flatten)]
    pub(crate) case: Case,
    pub(crate) floors: Vec<Floor>,
}

impl NoiseFloor {
    /// Without any floor in it.
    pub(crate) fn new(run: Run, metric: Metric, boots: usize) -> Self {
        Self { schema: SCHEMA, run, metric, boots, overall: Vec::new(), groups: Vec::new(), cases: Vec::new() }
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// When it cannot be read or is none that [`Self::write`] wrote.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let malformed = || format!("{} is no noise floor; `quarry noise --output FILE` writes one", file.display());
        let floor: Self = serde_json::from_str(&text).with_context(malformed)?;
        if floor.schema != SCHEMA {
            bail!("{}: version {}, but this program reads version {SCHEMA}", malformed(), floor.schema);
        }
        Ok(floor)
    }

    /// Writes a file, and the folder it is in.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("a noise floor has no JSON form")?;
        let folder = file.parent().map_or(Ok(()), fs::create_dir_all);
        folder.and_then(|()| fs::write(file, text + "\n")).with_context(|| format!("cannot write {}", file.display()))
    }

    /// What a change of that case must exceed, with so many boots a side: what the case itself showed, else its group,
    /// else all cases.
    fn of(&self, case: &Case, boots: usize, basis: Basis) -> Option<f64> {
        let case_floors = self.cases.iter().find(|floor| floor.case == *case).map(|floor| &floor.floors);
        let group = || self.groups.iter().find(|floor| floor.group == case.group()).map(|floor| &floor.floors);
        let floors = case_floors.or_else(group).unwrap_or(&self.overall);
        // Of fewer boots it is larger: nothing is promised that was not measured.
        let fitting = floors.iter().rfind(|floor| floor.boots <= boots).or(floors.first());
        fitting.map(|floor| if basis == Basis::Blocks { BEYOND_MEASURED * floor.p99 } else { floor.p95 })
    }

    /// Whether it was measured on the machine of that run; what differs, in words.
    pub(crate) fn differences(&self, run: &Run) -> Vec<String> {
        differences([&self.run], [run], ["the noise floor", "the runs"])
    }
}

/// What a change of that case must exceed: as measured, or what is assumed where nothing was.
pub(crate) fn floor(noise: Option<&NoiseFloor>, case: &Case, boots: usize, basis: Basis) -> f64 {
    let assumed = if basis == Basis::Blocks { WITH_FEW_BOOTS } else { WITH_MANY_BOOTS };
    noise.and_then(|noise| noise.of(case, boots, basis)).unwrap_or(assumed)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::float_cmp, reason = "figures that are passed on as they are")]

    use super::*;

    fn floors(p95: &[(usize, f64)]) -> Vec<Floor> {
        p95.iter().map(|&(boots, p95)| Floor { boots, median: p95 / 3.0, p95, p99: p95 * 2.0 }).collect()
    }

    fn noise() -> NoiseFloor {
        let pair = Case { workload: "pair".into(), cpus: 1, ..Case::default() };
        NoiseFloor {
            overall: floors(&[(1, 0.5), (8, 0.25)]),
            groups: vec![GroupFloor { group: "slab".into(), floors: floors(&[(1, 0.2), (8, 0.1)]) }],
            cases: vec![CaseFloor { case: pair, floors: floors(&[(1, 0.08), (2, 0.06), (8, 0.02)]) }],
            ..NoiseFloor::new(Run::default(), Metric::Ns, 8)
        }
    }

    #[test]
    fn a_case_has_its_own_floor_else_its_groups_else_that_of_all() {
        let case = |workload: &str, cpus| Case { workload: workload.into(), cpus, ..Case::default() };
        let floor = |workload, cpus, boots| floor(Some(&noise()), &case(workload, cpus), boots, Basis::Boots);
        assert_eq!([1, 2, 5, 8, 20].map(|boots| floor("pair", 1, boots)), [0.08, 0.06, 0.06, 0.02, 0.02]);
        assert_eq!([floor("pair", 4, 8), floor("batch", 1, 1)], [0.1, 0.2]);
        assert_eq!([floor("page", 1, 8), floor("songs", 1, 1)], [0.25, 0.5]);
        assert_eq!(super::floor(Some(&noise()), &case("pair", 1), 2, Basis::Blocks), 0.12 * BEYOND_MEASURED);
    }

    #[test]
    fn without_a_measured_floor_one_is_assumed() {
        let assumed = |basis| floor(None, &Case::default(), 1, basis);
        assert_eq!([Basis::Boots, Basis::Blocks].map(assumed), [WITH_MANY_BOOTS, WITH_FEW_BOOTS]);
    }

    #[test]
    fn a_file_reads_as_it_was_written_and_others_are_refused() {
        let folder = tempfile::tempdir().expect("there is room for files");
        let file = folder.path().join("new/noise.json");
        noise().write(&file).expect("there is room for files");
        assert_eq!(NoiseFloor::read(&file).expect("it was written"), noise());
        let newer = NoiseFloor { schema: 9, ..noise() };
        newer.write(&file).expect("there is room for files");
        let refusal = NoiseFloor::read(&file).expect_err("it is newer").to_string();
        assert!(refusal.ends_with("version 9, but this program reads version 1"), "{refusal}");
    }
}
