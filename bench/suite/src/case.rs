//! What is measured: [`Workload`], [`Case`] and the [`Settings`] a plan of cases is made from.

use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use crate::sizes::SIZES;

/// Orders `page` is measured at: 4 KiB to 2 MiB.
pub const ORDERS: core::ops::RangeInclusive<u32> = 0..=9;

/// Sizes `node` is measured at when none are asked for.
const NODE_SIZES: [usize; 3] = [64, 1024, 4096];

/// The way memory is asked for and given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Workload {
    /// One allocation and its free, over and over; called, the size in a register.
    Pair,
    /// The same, inlined, the size known at compile time.
    PairInlined,
    /// Many allocations, then their frees, first in, first out. Two rows.
    Batch,
    /// As `Batch`, but every batch is freed on the next CPU (on one CPU: the same). Two rows.
    Remote,
    /// Random sizes over slots replaced at random.
    Mix,
    /// Pairs on a node that is asked for: the local one, a remote one, and both in turn.
    Node,
    /// Pairs of page blocks, by order.
    Page,
}

impl Workload {
    /// All of them, in the order they run.
    pub const ALL: [Self; 7] =
        [Self::Pair, Self::PairInlined, Self::Batch, Self::Remote, Self::Mix, Self::Node, Self::Page];

    /// Its name on command lines and in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pair => "pair",
            Self::PairInlined => "pair-inlined",
            Self::Batch => "batch",
            Self::Remote => "remote",
            Self::Mix => "mix",
            Self::Node => "node",
            Self::Page => "page",
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No workload has that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownWorkload;

impl fmt::Display for UnknownWorkload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no such workload; choose from")?;
        for (index, workload) in Workload::ALL.iter().enumerate() {
            write!(f, "{} {workload}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl core::error::Error for UnknownWorkload {}

impl FromStr for Workload {
    type Err = UnknownWorkload;

    fn from_str(name: &str) -> Result<Self, UnknownWorkload> {
        Self::ALL.into_iter().find(|workload| workload.name() == name).ok_or(UnknownWorkload)
    }
}

/// How large the blocks of a case are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of this many bytes.
    Size(usize),
    /// All of `1 << order` pages.
    Order(u32),
    /// Drawn for each block ([`crate::random::log_uniform_size`]).
    Mixed,
}

/// Which node a case of [`Workload::Node`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The nearest with memory.
    Local,
    /// The farthest with memory.
    Remote,
    /// Local and remote in turn.
    Alternating,
}

/// One measurement: a workload on some CPUs. Has one row of results for each of its [phases](Self::phases).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// What is done.
    pub workload: Workload,
    /// To blocks of which size.
    pub extent: Extent,
    /// On which node; `None` where the workload does not ask for one.
    pub placement: Option<Placement>,
    /// On how many CPUs at once: the first so many.
    pub cpus: usize,
}

impl Case {
    /// Names of its rows; one without a name when the workload is measured as a whole.
    pub fn phases(&self) -> &'static [Option<&'static str>] {
        match (self.workload, self.placement) {
            (Workload::Batch | Workload::Remote, _) => &[Some("allocate"), Some("free")],
            (_, None) => &[None],
            (_, Some(Placement::Local)) => &[Some("local")],
            (_, Some(Placement::Remote)) => &[Some("remote")],
            (_, Some(Placement::Alternating)) => &[Some("alternating")],
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.workload)?;
        match self.extent {
            Extent::Size(size) => write!(f, ", size {size}")?,
            Extent::Order(order) => write!(f, ", order {order}")?,
            Extent::Mixed => {}
        }
        if let Some(placement) = self.placement {
            write!(f, ", {placement:?}")?;
        }
        write!(f, ", CPUs {}", self.cpus)
    }
}

/// How much work a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// As much as takes about this long, found out before each case.
    Microseconds(u64),
    /// A fixed number of operations, so that a run on one CPU under an instruction-counting clock repeats exactly.
    Fixed,
}

/// What to measure. Empty lists mean the default.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which workloads; by default all.
    pub workloads: Vec<Workload>,
    /// Which sizes; by default [`SIZES`]. `pair-inlined` leaves out what is not one of those.
    pub sizes: Vec<usize>,
    /// Which orders of `page`; by default [`ORDERS`].
    pub orders: Vec<u32>,
    /// On how many CPUs; by default powers of two and all there are. Counts beyond what there is are left out.
    pub cpus: Vec<usize>,
    /// Samples of each case, at least 1.
    pub samples: usize,
    /// How long a sample is.
    pub effort: Effort,
    /// Where the random numbers start.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workloads: Vec::new(),
            sizes: Vec::new(),
            orders: Vec::new(),
            cpus: Vec::new(),
            samples: 101,
            effort: Effort::Microseconds(1000),
            seed: 1,
        }
    }
}

impl Settings {
    /// The cases, in the order they run, on a machine with so many CPUs, with or without a second node with memory.
    pub fn plan(&self, cpu_count: usize, several_nodes: bool) -> Vec<Case> {
        let workloads = if self.workloads.is_empty() { &Workload::ALL[..] } else { &self.workloads };
        let cpu_counts = self.cpu_counts(cpu_count);
        let mut cases = Vec::new();
        for &workload in workloads {
            for (extent, placement) in self.variants(workload, several_nodes) {
                cases.extend(cpu_counts.iter().map(|&cpus| Case { workload, extent, placement, cpus }));
            }
        }
        cases
    }

    fn cpu_counts(&self, cpu_count: usize) -> Vec<usize> {
        if !self.cpus.is_empty() {
            return self.cpus.iter().copied().filter(|cpus| (1..=cpu_count).contains(cpus)).collect();
        }
        let mut counts: Vec<usize> =
            core::iter::successors(Some(1), |count| Some(count * 2)).take_while(|count| *count < cpu_count).collect();
        counts.push(cpu_count);
        counts
    }

    fn variants(&self, workload: Workload, several_nodes: bool) -> Vec<(Extent, Option<Placement>)> {
        let sizes =
            |default: &'static [usize]| if self.sizes.is_empty() { default.to_vec() } else { self.sizes.clone() };
        match workload {
            Workload::Pair | Workload::Batch | Workload::Remote => {
                sizes(&SIZES).into_iter().map(|size| (Extent::Size(size), None)).collect()
            }
            Workload::PairInlined => {
                let known = sizes(&SIZES).into_iter().filter(|size| SIZES.contains(size));
                known.map(|size| (Extent::Size(size), None)).collect()
            }
            Workload::Mix => [(Extent::Mixed, None)].into(),
            Workload::Node => {
                let all = [Placement::Local, Placement::Remote, Placement::Alternating];
                let placements = if several_nodes { &all[..] } else { &all[..1] };
                let with_placements = |size| placements.iter().map(move |place| (Extent::Size(size), Some(*place)));
                sizes(&NODE_SIZES).into_iter().flat_map(with_placements).collect()
            }
            Workload::Page if self.orders.is_empty() => ORDERS.map(|order| (Extent::Order(order), None)).collect(),
            Workload::Page => self.orders.iter().map(|&order| (Extent::Order(order), None)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;

    #[test]
    fn every_workload_is_found_by_its_name() {
        for workload in Workload::ALL {
            assert_eq!(workload.name().parse(), Ok(workload));
        }
    }

    #[test]
    fn an_unknown_workload_is_answered_with_the_known_ones() {
        let error = "pairs".parse::<Workload>().expect_err("there is none of that name");
        assert_eq!(
            error.to_string(),
            "there is no such workload; choose from pair, pair-inlined, batch, remote, mix, node, page"
        );
    }

    fn cpu_counts(cpu_count: usize) -> Vec<usize> {
        let settings = Settings { workloads: vec![Workload::Mix], ..Settings::default() };
        settings.plan(cpu_count, false).iter().map(|case| case.cpus).collect()
    }

    #[test]
    fn cpu_counts_are_powers_of_two_and_all() {
        assert_eq!(cpu_counts(1), [1]);
        assert_eq!(cpu_counts(4), [1, 2, 4]);
        assert_eq!(cpu_counts(6), [1, 2, 4, 6]);
    }

    #[test]
    fn cpu_counts_beyond_the_machine_are_left_out() {
        let settings = Settings { workloads: vec![Workload::Mix], cpus: vec![2, 8, 0], ..Settings::default() };
        assert_eq!(settings.plan(4, false).len(), 1);
    }

    #[test]
    fn inlined_pairs_leave_out_sizes_without_code() {
        let settings = Settings { workloads: vec![Workload::PairInlined], sizes: vec![64, 100], ..Settings::default() };
        let extents: Vec<Extent> = settings.plan(1, false).iter().map(|case| case.extent).collect();
        assert_eq!(extents, [Extent::Size(64)]);
    }

    #[test]
    fn one_node_has_no_remote_rows() {
        let settings = Settings { workloads: vec![Workload::Node], sizes: vec![64], ..Settings::default() };
        let placements = |several| -> Vec<_> { settings.plan(1, several).iter().map(|case| case.placement).collect() };
        assert_eq!(placements(false), [Some(Placement::Local)]);
        assert_eq!(placements(true), [Some(Placement::Local), Some(Placement::Remote), Some(Placement::Alternating)]);
    }

    #[test]
    fn a_plan_is_ordered_by_workload_then_extent_then_cpus() {
        let settings = Settings { workloads: vec![Workload::Pair], sizes: vec![8, 16], ..Settings::default() };
        let plan: Vec<_> = settings.plan(2, true).iter().map(ToString::to_string).collect();
        assert_eq!(
            plan,
            ["pair, size 8, CPUs 1", "pair, size 8, CPUs 2", "pair, size 16, CPUs 1", "pair, size 16, CPUs 2"]
        );
    }
}
