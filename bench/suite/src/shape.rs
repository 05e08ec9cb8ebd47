//! [`Shape`]: over what the cases of each workload range, and what they need.
//!
//! Used by [`case`](crate::case), which makes plans of it.

use crate::case::{Variant, Workload};
use crate::sizes::SIZES;
use crate::subject::Feature;

/// Orders the workloads of `LLFree` are measured at when none are asked for.
const LLFREE_ORDERS: [u32; 3] = [0, 4, 9];

/// The same where blocks are to be small beside the holes they leave.
const SMALL_ORDERS: [u32; 2] = [0, 4];

/// Sizes `node` and `interrupt` are measured at when none are asked for.
const NODE_SIZES: [usize; 3] = [64, 1024, 4096];

/// The size `bulk` is measured at when none is asked for: about that of the packet heads it was made for.
const BULK_SIZES: [usize; 1] = [256];

/// Objects in a call of `bulk`: those of `slab_bulk_test01`.
pub(crate) const BULKS: [Variant; 14] = bulks([1, 2, 3, 4, 8, 16, 30, 32, 34, 48, 64, 128, 158, 250]);

/// Pages in a group of `page-bulk`: those of `page_bench04_bulk`.
const PAGE_BULKS: [Variant; 9] = bulks([1, 2, 3, 4, 8, 16, 32, 64, 128]);

/// Pages that are out at once in `page-outstanding`.
const OUTSTANDING: [Variant; 5] = [
    Variant::Outstanding(1),
    Variant::Outstanding(64),
    Variant::Outstanding(512),
    Variant::Outstanding(1000),
    Variant::Outstanding(4096),
];

/// Shares of memory in use under `pressure`.
const USED: [Variant; 3] = [Variant::Used(50), Variant::Used(90), Variant::Used(99)];

/// Mebibytes that live in `footprint`.
pub(crate) const LIVE: [Variant; 3] = [Variant::Live(1), Variant::Live(16), Variant::Live(256)];

/// Largest objects a cache is asked for.
pub(crate) const MOST_OBJECT: usize = 32 << 10;

const fn bulks<const N: usize>(counts: [usize; N]) -> [Variant; N] {
    let mut variants = [Variant::Bulk(0); N];
    let mut index = 0;
    while index < N {
        variants[index] = Variant::Bulk(counts[index]);
        index += 1;
    }
    variants
}

impl Workload {
    /// Its cases, and what they need.
    pub(crate) const fn shape(self) -> Shape {
        match self {
            Self::Pair | Self::Batch | Self::BatchLifo | Self::Remote => Shape::of_sizes(&SIZES),
            Self::PairInlined | Self::PairConstant => {
                Shape { only_known: true, ..Shape::of_sizes(&SIZES).needing(Feature::Inlined) }
            }
            Self::PairZeroed => Shape::of_sizes(&SIZES).needing(Feature::Zeroed),
            Self::PairCache | Self::BatchCache => Shape::of_objects(&SIZES),
            Self::Bulk => Shape { variants: &BULKS, ..Shape::of_objects(&BULK_SIZES).needing(Feature::Bulk) },
            Self::RemoteZero | Self::OneAllocates => Shape { least_cpus: 2, ..Shape::of_sizes(&SIZES) },
            Self::Node => {
                let variants = &[Variant::Local, Variant::Remote, Variant::Alternating];
                Shape { variants, ..Shape::of_sizes(&NODE_SIZES).needing(Feature::Nodes) }
            }
            Self::Interrupt => {
                let variants = &[Variant::InHandler, Variant::Interleaved];
                Shape { variants, interrupts: true, ..Shape::of_sizes(&NODE_SIZES).needing(Feature::Atomic) }
            }
            Self::Page => Shape::ORDERS.needing(Feature::Pages),
            Self::PageOutstanding => Shape { variants: &OUTSTANDING, ..Shape::PAGES },
            Self::PageBulk => Shape { variants: &PAGE_BULKS, ..Shape::PAGES },
            Self::PageCross => Shape::PAGES,
            Self::LlfreeBulk | Self::LlfreeRand | Self::LlfreeRepeat => {
                Shape::of_orders(&LLFREE_ORDERS).needing(Feature::Pages)
            }
            Self::LlfreeFrag => Shape::of_orders(&SMALL_ORDERS).needing(Feature::Pages),
            Self::Mix
            | Self::MixLarge
            | Self::Larson
            | Self::Mstress
            | Self::Sh6bench
            | Self::AllocTest
            | Self::Replay => Shape::MIXED,
            Self::Sh8bench => Shape::MIXED.needing(Feature::Large),
            Self::Xmalloc => Shape::of_sizes(&[64]),
            Self::Producers => Shape { least_cpus: 2, ..Shape::of_sizes(&[64]) },
            Self::Threadtest | Self::CacheScratch | Self::CacheThrash => Shape::of_sizes(&[8]),
            Self::Pressure => Shape { variants: &USED, ..Shape::MIXED.needing(Feature::Pressure) },
            Self::Fragmentation => Shape::MIXED.needing(Feature::Pages).needing(Feature::Pressure),
            Self::Footprint => {
                let needs = [Some(Feature::Sizes), Some(Feature::Held)];
                Shape { variants: &LIVE, needs, ..Shape::MIXED }
            }
        }
    }
}

/// Over what the cases of a workload range, and what they need.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) extents: Extents,
    /// Sizes other than [`SIZES`] have no code.
    pub(crate) only_known: bool,
    /// One case for each; for none, one that has no variant.
    pub(crate) variants: &'static [Variant],
    pub(crate) needs: [Option<Feature>; 2],
    /// Whether it needs interrupt handlers.
    pub(crate) interrupts: bool,
    /// Largest blocks there can be.
    pub(crate) most_size: usize,
    /// CPUs without which it has no meaning.
    pub(crate) least_cpus: usize,
}

/// How large blocks are by default.
#[derive(Clone, Copy)]
pub(crate) enum Extents {
    Sizes(&'static [usize]),
    Orders(&'static [u32]),
    /// Single pages, whatever orders are asked for.
    Page,
    Mixed,
}

impl Shape {
    const MIXED: Self = Self {
        extents: Extents::Mixed,
        only_known: false,
        variants: &[],
        needs: [Some(Feature::Sizes), None],
        interrupts: false,
        most_size: usize::MAX,
        least_cpus: 1,
    };

    const ORDERS: Self = Self::of_orders(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);

    const fn of_orders(orders: &'static [u32]) -> Self {
        Self { extents: Extents::Orders(orders), ..Self::MIXED }
    }

    const PAGES: Self = Self { extents: Extents::Page, ..Self::MIXED }.needing(Feature::Pages);

    const fn of_sizes(sizes: &'static [usize]) -> Self {
        Self { extents: Extents::Sizes(sizes), ..Self::MIXED }
    }

    const fn of_objects(sizes: &'static [usize]) -> Self {
        Self { most_size: MOST_OBJECT, ..Self::of_sizes(sizes).needing(Feature::Caches) }
    }

    /// That feature, of two at most, in place of the sizes that others need.
    const fn needing(self, feature: Feature) -> Self {
        let needs = match self.needs {
            [Some(Feature::Sizes), None] => [Some(feature), None],
            [first, _] => [first, Some(feature)],
        };
        Self { needs, ..self }
    }

    /// Whether it can be, over an allocator with these features and with or without interrupts.
    pub(crate) fn is_possible(&self, features: &[Feature], interrupts: bool) -> bool {
        self.needs.iter().flatten().all(|feature| features.contains(feature)) && (interrupts || !self.interrupts)
    }
}
