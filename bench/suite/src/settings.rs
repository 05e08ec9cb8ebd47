//! [`Settings`]: what to measure, and the plan of cases that comes of it on a machine.
//!
//! Made by whoever runs the suite, from which [`plan`](crate::plan) makes the cases.

use alloc::sync::Arc;
use alloc::vec::Vec;

use quarry_trace::{Action, Event, Request, Trace};

use crate::case::{Case, Extent, Variant, Workload};
use crate::shape::{Extents, Shape};
use crate::sizes::SIZES;
use crate::subject::{Feature, LARGE};

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
    /// Where no counts are asked for: on one CPU and on all, and on no number in between.
    pub only_ends: bool,
    /// Samples of each case, at least 1.
    pub samples: usize,
    /// How long a sample is.
    pub effort: Effort,
    /// Blocks a CPU may hold at once, where a workload would hold more.
    pub most_blocks: usize,
    /// Bytes a CPU holds at most, and about as many as it fills in a sample, in the pass that checks and weighs.
    pub checked_bytes: u64,
    /// Whether single calls are timed, in a pass of its own.
    pub latencies: bool,
    /// Seconds after which a case takes no further samples, in each pass; `None` lets it take all, however long they are.
    pub patience: Option<u64>,
    /// Where the random numbers start.
    pub seed: u64,
    /// What `replay` replays; by default a small trace of our own.
    pub trace: Option<Arc<Trace>>,
}

/// What cases can be, over an allocator on a machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Means {
    pub(crate) cpus: usize,
    /// Whether there is a second node with memory.
    pub(crate) several_nodes: bool,
    pub(crate) features: &'static [Feature],
    /// Whether there are interrupt handlers.
    pub(crate) interrupts: bool,
    /// Bytes all CPUs may hold together.
    pub(crate) memory: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workloads: Vec::new(),
            sizes: Vec::new(),
            orders: Vec::new(),
            cpus: Vec::new(),
            only_ends: false,
            samples: 101,
            effort: Effort::Microseconds(1000),
            most_blocks: usize::MAX,
            checked_bytes: 1 << 20,
            latencies: true,
            patience: Some(20),
            seed: 1,
            trace: None,
        }
    }
}

/// What [`Settings::quick`] measures: the fast path, refills, remote frees, a mix, other nodes, pages.
const QUICK: [Workload; 6] =
    [Workload::Pair, Workload::Batch, Workload::Remote, Workload::Mix, Workload::Node, Workload::Page];

impl Settings {
    /// A look at everything in some seconds: few workloads, sizes and samples, on one CPU and on all.
    pub fn quick() -> Self {
        Self {
            workloads: QUICK.into(),
            sizes: [64, 1024].into(),
            orders: [0, 4].into(),
            only_ends: true,
            samples: 15,
            effort: Effort::Microseconds(200),
            most_blocks: 512,
            patience: Some(2),
            ..Self::default()
        }
    }

    /// For figures to keep: three times the samples, each twice as long.
    pub fn full() -> Self {
        Self { samples: 301, effort: Effort::Microseconds(2000), patience: Some(120), ..Self::default() }
    }

    /// The cases, in the order they run.
    pub(crate) fn plan(&self, means: &Means) -> Vec<Case> {
        let (workloads, all) =
            if self.workloads.is_empty() { (Workload::ALL, true) } else { (&*self.workloads, false) };
        let cpu_counts = self.cpu_counts(means.cpus);
        let mut cases = Vec::new();
        for &workload in workloads {
            let shape = workload.shape();
            if workload == Workload::Replay && self.replays_large() && !means.features.contains(&Feature::Large) {
                continue;
            }
            let cpu_counts = cpu_counts.iter().filter(|cpus| **cpus >= shape.least_cpus);
            for (extent, variant) in self.variants(&shape, means) {
                let with_cpus = cpu_counts.clone().map(|&cpus| Case { workload, extent, variant, cpus });
                cases.extend(with_cpus.filter(|case| {
                    (!all || case.is_usual())
                        && case.is_possible(means.features, means.interrupts)
                        // What cannot be held would not be what the variant says.
                        && case.bytes() <= means.memory
                        && case.variant.is_none_or(|it| it.blocks() <= self.most_blocks)
                }));
            }
        }
        cases
    }

    /// Whether the trace has blocks that not every allocator has.
    fn replays_large(&self) -> bool {
        let is_large = |event: &Event| match event.action {
            Action::Allocate(Request { size, .. }) | Action::Resize(size) => size as usize > LARGE,
            Action::AllocatePages(order) => 4096 << order > LARGE,
            Action::Free | Action::FreePages => false,
        };
        self.trace.as_ref().is_some_and(|trace| trace.events().iter().any(is_large))
    }

    fn cpu_counts(&self, cpu_count: usize) -> Vec<usize> {
        if !self.cpus.is_empty() {
            return self.cpus.iter().copied().filter(|cpus| (1..=cpu_count).contains(cpus)).collect();
        }
        if self.only_ends {
            let all = Some(cpu_count).filter(|all| *all > 1);
            return [1].into_iter().chain(all).collect();
        }
        let mut counts: Vec<usize> =
            core::iter::successors(Some(1), |count| Some(count * 2)).take_while(|count| *count < cpu_count).collect();
        counts.push(cpu_count);
        counts
    }

    fn variants(&self, shape: &Shape, means: &Means) -> Vec<(Extent, Option<Variant>)> {
        let variants: Vec<Option<Variant>> = if shape.variants.is_empty() {
            [None].into()
        } else {
            let remote = |variant: &Variant| matches!(variant, Variant::Remote | Variant::Alternating);
            let possible = shape.variants.iter().filter(|variant| means.several_nodes || !remote(variant));
            possible.copied().map(Some).collect()
        };
        let with_variants = |extent| variants.iter().map(move |&variant| (extent, variant));
        self.extents(shape).into_iter().flat_map(with_variants).collect()
    }

    fn extents(&self, shape: &Shape) -> Vec<Extent> {
        match shape.extents {
            Extents::Mixed => [Extent::Mixed].into(),
            Extents::Page => [Extent::Order(0)].into(),
            Extents::Orders(default) => {
                let orders = if self.orders.is_empty() { default } else { &self.orders };
                orders.iter().copied().map(Extent::Order).collect()
            }
            Extents::Sizes(default) => {
                let sizes = if self.sizes.is_empty() { default } else { &self.sizes };
                let possible = |size: &&usize| (!shape.only_known || SIZES.contains(size)) && **size <= shape.most_size;
                let sizes = sizes.iter().filter(possible);
                sizes.copied().map(Extent::Size).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::{BULKS, MOST_OBJECT};
    use alloc::string::ToString;
    use alloc::{format, vec};

    /// An allocator that can do everything, on a machine of so many CPUs.
    fn means(cpus: usize, several_nodes: bool) -> Means {
        Means { cpus, several_nodes, features: Feature::ALL, interrupts: true, memory: 1 << 30 }
    }

    fn cpu_counts(cpu_count: usize) -> Vec<usize> {
        let settings = Settings { workloads: vec![Workload::Mix], ..Settings::default() };
        settings.plan(&means(cpu_count, false)).iter().map(|case| case.cpus).collect()
    }

    #[test]
    fn cpu_counts_are_powers_of_two_and_all() {
        assert_eq!(cpu_counts(1), [1]);
        assert_eq!(cpu_counts(4), [1, 2, 4]);
        assert_eq!(cpu_counts(6), [1, 2, 4, 6]);
    }

    #[test]
    fn a_quick_look_is_at_one_cpu_and_at_all() {
        let counts = |cpu_count| -> Vec<usize> {
            let settings = Settings { workloads: vec![Workload::Mix], ..Settings::quick() };
            settings.plan(&means(cpu_count, false)).iter().map(|case| case.cpus).collect()
        };
        assert_eq!(counts(1), [1]);
        assert_eq!(counts(6), [1, 6]);
    }

    #[test]
    fn cpu_counts_beyond_the_machine_are_left_out() {
        let settings = Settings { workloads: vec![Workload::Mix], cpus: vec![2, 8, 0], ..Settings::default() };
        assert_eq!(settings.plan(&means(4, false)).len(), 1);
    }

    #[test]
    fn inlined_pairs_leave_out_sizes_without_code() {
        let settings = Settings { workloads: vec![Workload::PairInlined], sizes: vec![64, 100], ..Settings::default() };
        let extents: Vec<Extent> = settings.plan(&means(1, false)).iter().map(|case| case.extent).collect();
        assert_eq!(extents, [Extent::Size(64)]);
    }

    #[test]
    fn one_node_has_no_remote_rows() {
        let settings = Settings { workloads: vec![Workload::Node], sizes: vec![64], ..Settings::default() };
        let variants =
            |several| -> Vec<_> { settings.plan(&means(1, several)).iter().map(|case| case.variant).collect() };
        assert_eq!(variants(false), [Some(Variant::Local)]);
        assert_eq!(variants(true), [Some(Variant::Local), Some(Variant::Remote), Some(Variant::Alternating)]);
    }

    #[test]
    fn what_an_allocator_cannot_do_is_left_out() {
        let plan = Settings::default().plan(&Means { features: &[Feature::Sizes], ..means(1, true) });
        assert!(plan.iter().any(|case| case.workload == Workload::Pair));
        let more = [Workload::PairInlined, Workload::Node, Workload::Page];
        assert!(plan.iter().all(|case| !more.contains(&case.workload)));
    }

    fn plan_of(workload: Workload, means: &Means) -> Vec<Case> {
        Settings { workloads: vec![workload], ..Settings::default() }.plan(means)
    }

    #[test]
    fn bulk_calls_need_a_cache_as_well() {
        let of = |features| plan_of(Workload::Bulk, &Means { features, ..means(1, false) }).len();
        assert_eq!(of(&[Feature::Bulk, Feature::Caches]), BULKS.len());
        assert_eq!((of(&[Feature::Bulk]), of(&[Feature::Caches])), (0, 0));
    }

    #[test]
    fn large_blocks_are_asked_of_those_that_have_them() {
        let workloads = vec![Workload::Pair, Workload::Mix, Workload::Sh8bench];
        let settings = Settings { workloads, sizes: vec![64, LARGE, LARGE + 1], ..Settings::default() };
        let of = |features| -> Vec<_> {
            let plan = settings.plan(&Means { features, ..means(1, false) });
            plan.iter().map(|case| (case.workload, case.extent)).collect()
        };
        let pair = |size| (Workload::Pair, Extent::Size(size));
        let (mix, sh8bench) = ((Workload::Mix, Extent::Mixed), (Workload::Sh8bench, Extent::Mixed));
        assert_eq!(of(&[Feature::Sizes]), [pair(64), pair(LARGE), mix]);
        assert_eq!(of(&[Feature::Sizes, Feature::Large]), [pair(64), pair(LARGE), pair(LARGE + 1), mix, sh8bench]);
    }

    #[test]
    fn traces_of_large_blocks_are_replayed_over_those_that_have_them() {
        let of = |events: &str, features| {
            let trace = Trace::parse(&format!("quarry-trace 1\n{events}")).expect("the trace is right");
            let settings =
                Settings { workloads: vec![Workload::Replay], trace: Some(Arc::new(trace)), ..Settings::default() };
            settings.plan(&Means { features, ..means(1, false) }).len()
        };
        let (small, large): (&[Feature], &[Feature]) = (&[Feature::Sizes], &[Feature::Sizes, Feature::Large]);
        assert_eq!(of("a 0 0 131072\np 0 1 5\n", small), 1);
        for events in ["a 0 0 131073\n", "a 0 0 8\nr 0 0 131073\n", "p 0 0 6\n"] {
            assert_eq!((of(events, small), of(events, large)), (0, 1), "{events}");
        }
    }

    #[test]
    fn handlers_need_a_machine_that_is_interrupted() {
        assert_eq!(plan_of(Workload::Interrupt, &Means { interrupts: false, ..means(1, false) }), []);
        assert_ne!(plan_of(Workload::Interrupt, &means(1, false)), []);
    }

    #[test]
    fn objects_are_no_larger_than_caches_have_them() {
        let workloads = vec![Workload::PairCache];
        let settings = Settings { workloads, sizes: vec![64, MOST_OBJECT, MOST_OBJECT + 1], ..Settings::default() };
        let extents: Vec<_> = settings.plan(&means(1, false)).iter().map(|case| case.extent).collect();
        assert_eq!(extents, [Extent::Size(64), Extent::Size(MOST_OBJECT)]);
    }

    #[test]
    fn more_than_memory_holds_is_not_outstanding() {
        let means = Means { memory: 2 * 512 * 4096, ..means(2, false) };
        let plan = plan_of(Workload::PageOutstanding, &means);
        let named = |variant, cpus| plan.iter().any(|case| case.variant == Some(variant) && case.cpus == cpus);
        assert!(named(Variant::Outstanding(512), 2) && !named(Variant::Outstanding(4096), 1));
        let few = Settings { workloads: vec![Workload::PageOutstanding], most_blocks: 64, ..Settings::default() };
        let most = few.plan(&self::means(1, false)).iter().filter_map(|case| case.variant).map(Variant::blocks).max();
        assert_eq!(most, Some(64));
    }

    #[test]
    fn what_fills_hundreds_of_mebibytes_is_measured_where_it_is_named() {
        let means = Means { memory: 4 << 30, ..means(1, false) };
        let many = |case: &Case| case.workload == Workload::MixLarge || case.variant == Some(Variant::Live(256));
        assert!(!Settings::default().plan(&means).iter().any(many));
        for workload in [Workload::MixLarge, Workload::Footprint] {
            assert_eq!(plan_of(workload, &means).iter().filter(|case| many(case)).count(), 1, "{workload}");
        }
    }

    #[test]
    fn as_many_mebibytes_live_as_there_are_and_what_they_cost_must_be_told() {
        let live = |means: &Means| -> Vec<_> {
            plan_of(Workload::Footprint, means).iter().filter_map(|case| case.variant).collect()
        };
        // However many CPUs there are.
        assert_eq!(live(&Means { memory: 255 << 20, ..means(1, false) }), [Variant::Live(1), Variant::Live(16)]);
        assert_eq!(live(&Means { memory: 256 << 20, ..means(2, false) }).len(), 6);
        assert_eq!(live(&Means { features: &[Feature::Sizes], ..means(1, false) }), []);
    }

    #[test]
    fn what_one_cpu_does_for_another_needs_two() {
        for workload in [Workload::RemoteZero, Workload::OneAllocates] {
            assert!(plan_of(workload, &means(4, false)).iter().all(|case| case.cpus >= 2));
            assert_eq!(plan_of(workload, &means(1, false)), []);
        }
    }

    #[test]
    fn a_plan_is_ordered_by_workload_then_extent_then_cpus() {
        let settings = Settings { workloads: vec![Workload::Pair], sizes: vec![8, 16], ..Settings::default() };
        let plan: Vec<_> = settings.plan(&means(2, true)).iter().map(ToString::to_string).collect();
        assert_eq!(
            plan,
            ["pair, size 8, CPUs 1", "pair, size 8, CPUs 2", "pair, size 16, CPUs 1", "pair, size 16, CPUs 2"]
        );
    }
}
