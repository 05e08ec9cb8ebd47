//! What is measured: [`Workload`] and [`Case`]. [`Settings`](crate::Settings) say of which cases a plan is made.

use core::fmt;
use core::str::FromStr;

use crate::subject::{Feature, LARGE};

/// Orders `page` is measured at: 4 KiB to 2 MiB.
pub const ORDERS: core::ops::RangeInclusive<u32> = 0..=9;

macro_rules! workloads {
    ($($(#[$doc:meta])* $workload:ident = $name:literal,)*) => {
        /// The way memory is asked for and given back. [`quarry_record::catalogue`] says more of each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Workload {
            $($(#[$doc])* $workload,)*
        }

        impl Workload {
            /// All of them, in the order they run.
            pub const ALL: &'static [Self] = &[$(Self::$workload),*];

            /// Its name on command lines and in records.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$workload => $name,)*
                }
            }
        }
    };
}

workloads! {
    /// One allocation and its free, over and over; called, the size in a register.
    Pair = "pair",
    /// The same, inlined, the size known at compile time.
    PairInlined = "pair-inlined",
    /// The same called, the size known at compile time.
    PairConstant = "pair-constant",
    /// Pairs of zeroed memory.
    PairZeroed = "pair-zeroed",
    /// Pairs of objects of a cache of their own.
    PairCache = "pair-cache",
    /// Many allocations, then their frees, first in, first out. Two rows.
    Batch = "batch",
    /// The same, last in, first out. Two rows.
    BatchLifo = "batch-lifo",
    /// As `Batch`, with objects of a cache of their own. Two rows.
    BatchCache = "batch-cache",
    /// Objects of a cache, many in one call.
    Bulk = "bulk",
    /// As `Batch`, but every batch is freed on the next CPU (on one CPU: the same). Two rows.
    Remote = "remote",
    /// As `Batch`, but CPU 0 frees what all allocated. Two rows.
    RemoteZero = "remote-zero",
    /// As `Batch`, but CPU 0 allocates what all free. Two rows.
    OneAllocates = "one-allocates",
    /// Random sizes over slots replaced at random.
    Mix = "mix",
    /// The same over many more slots, which no cache of a processor holds.
    MixLarge = "mix-large",
    /// Pairs on a node that is asked for: the local one, a remote one, and both in turn.
    Node = "node",
    /// Pairs in interrupt handlers, alone and in turn with those of a thread.
    Interrupt = "interrupt",
    /// Pairs of page blocks, by order.
    Page = "page",
    /// Pages taken until many are out, and then given back.
    PageOutstanding = "page-outstanding",
    /// The same by small groups.
    PageBulk = "page-bulk",
    /// Many pages, freed on the next CPU (on one CPU: the same). Two rows.
    PageCross = "page-cross",
    /// Many page blocks, then their frees, first in, first out. Two rows.
    LlfreeBulk = "llfree-bulk",
    /// The same, but the blocks of all CPUs are shuffled before they are freed. Two rows.
    LlfreeRand = "llfree-rand",
    /// Pairs of page blocks while many are held.
    LlfreeRepeat = "llfree-repeat",
    /// Page blocks replaced at random in memory full of holes.
    LlfreeFrag = "llfree-frag",

    /// Sizes and slots at random; the slots pass from CPU to CPU.
    Larson = "larson",
    /// Pairs of CPUs: one allocates batches, the other frees them.
    Xmalloc = "xmalloc",
    /// All CPUs but one allocate batches; that one frees them all.
    Producers = "producers",
    /// Lifetimes at random, some long; blocks swapped between CPUs one by one.
    Mstress = "mstress",
    /// Many small sizes in runs; most are freed at once, from both ends.
    Sh6bench = "sh6bench",
    /// The same with few sizes, and blocks of one CPU freed by all others.
    Sh8bench = "sh8bench",
    /// As `Batch` in one row, many objects of one size.
    Threadtest = "threadtest",
    /// Pairs of objects that are written to; the first ones came from one CPU.
    CacheScratch = "cache-scratch",
    /// Pairs of objects that are written to.
    CacheThrash = "cache-thrash",
    /// Small sizes more often than large, some slots more often than others.
    AllocTest = "alloc-test",
    /// The events of a trace, by the CPUs that had them.
    Replay = "replay",

    /// A mix while most of memory is in use, and pages read into a cache that gives them up.
    Pressure = "pressure",
    /// Objects and blocks of pages, long-lived and short-lived, in little memory, and how free memory falls to pieces.
    Fragmentation = "fragmentation",
    /// Objects replaced at random until nothing tells how they came, and what is held for them.
    Footprint = "footprint",
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
        Self::ALL.iter().copied().find(|workload| workload.name() == name).ok_or(UnknownWorkload)
    }
}

/// How large the blocks of a case are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of this many bytes.
    Size(usize),
    /// All of `1 << order` pages.
    Order(u32),
    /// The workload chooses for each block.
    Mixed,
}

/// What tells cases of a workload apart beside their extent and their CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Memory of the nearest node that has some.
    Local,
    /// Memory of the farthest.
    Remote,
    /// Local and remote in turn.
    Alternating,
    /// So many blocks a call, or a group.
    Bulk(usize),
    /// So many blocks are out at once.
    Outstanding(usize),
    /// Interrupt handlers allocate, many times each.
    InHandler,
    /// A thread and handlers that interrupt it allocate in turn.
    Interleaved,
    /// So many percent of memory are in use before it begins.
    Used(u8),
    /// So many mebibytes live, those of all CPUs together.
    Live(usize),
}

impl Variant {
    /// Blocks it says are had at once.
    pub(crate) const fn blocks(self) -> usize {
        match self {
            Self::Bulk(count) | Self::Outstanding(count) => count,
            _ => 0,
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Remote => f.write_str("remote"),
            Self::Alternating => f.write_str("alternating"),
            Self::Bulk(count) => write!(f, "bulk {count}"),
            Self::Outstanding(count) => write!(f, "{count} outstanding"),
            Self::InHandler => f.write_str("in handler"),
            Self::Interleaved => f.write_str("interleaved"),
            Self::Used(percent) => write!(f, "{percent} % used"),
            Self::Live(mebibytes) => write!(f, "{mebibytes} MiB live"),
        }
    }
}

/// One measurement: a workload on some CPUs. Has one row of results for each of its [phases](Self::phases).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// What is done.
    pub workload: Workload,
    /// To blocks of which size.
    pub extent: Extent,
    /// In which of its variants, where it has some.
    pub variant: Option<Variant>,
    /// On how many CPUs at once: the first so many.
    pub cpus: usize,
}

/// A part of a workload that is measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// All there is.
    Whole,
    /// Allocations.
    Allocate,
    /// Frees.
    Free,
}

impl Phase {
    /// Its name, unless the workload is measured as a whole.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Whole => None,
            Self::Allocate => Some("allocate"),
            Self::Free => Some("free"),
        }
    }
}

impl Case {
    /// Its rows.
    pub fn phases(&self) -> &'static [Phase] {
        match self.workload {
            Workload::Batch
            | Workload::BatchLifo
            | Workload::BatchCache
            | Workload::Remote
            | Workload::RemoteZero
            | Workload::OneAllocates
            | Workload::PageCross
            | Workload::LlfreeBulk
            | Workload::LlfreeRand => &[Phase::Allocate, Phase::Free],
            _ => &[Phase::Whole],
        }
    }

    /// Whether all its CPUs do the same in a phase: not CPU 0 for them, nor each what a trace has it do.
    pub(crate) fn all_work(&self, phase: Phase) -> bool {
        !matches!(
            (self.workload, phase),
            (Workload::RemoteZero, Phase::Free) | (Workload::OneAllocates, Phase::Allocate) | (Workload::Replay, _)
        )
    }

    /// Whether an allocator with these features has what it takes.
    pub(crate) fn is_possible(&self, features: &[Feature], interrupts: bool) -> bool {
        let is_large = matches!(self.extent, Extent::Size(size) if size > LARGE);
        self.workload.shape().is_possible(features, interrupts) && (!is_large || features.contains(&Feature::Large))
    }

    /// Whether it is measured where nobody names workloads. One that fills hundreds of mebibytes with small blocks is not:
    /// some allocators take minutes for it.
    pub(crate) const fn is_usual(&self) -> bool {
        !matches!(self.workload, Workload::MixLarge) && !matches!(self.variant, Some(Variant::Live(100..)))
    }

    /// Bytes that live at once by its variant's name.
    pub(crate) fn bytes(&self) -> u64 {
        if let Some(Variant::Live(mebibytes)) = self.variant {
            return (mebibytes as u64) << 20;
        }
        let length = match self.extent {
            Extent::Size(size) => size as u64,
            Extent::Order(order) => 4096 << order,
            Extent::Mixed => 0,
        };
        (self.variant.map_or(0, Variant::blocks) * self.cpus) as u64 * length
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
        if let Some(variant) = self.variant {
            write!(f, ", {variant}")?;
        }
        write!(f, ", CPUs {}", self.cpus)
    }
}
#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;
    use alloc::vec::Vec;
    use quarry_record::catalogue;

    #[test]
    fn every_workload_is_found_by_its_name() {
        for workload in Workload::ALL {
            assert_eq!(workload.name().parse(), Ok(*workload));
        }
    }

    #[test]
    fn the_catalogue_describes_every_workload() {
        let described: Vec<&str> = catalogue::WORKLOADS.iter().map(|workload| workload.name).collect();
        let names: Vec<&str> = Workload::ALL.iter().map(|workload| workload.name()).collect();
        assert_eq!(described, names);
    }

    #[test]
    fn an_unknown_workload_is_answered_with_the_known_ones() {
        let error = "pairs".parse::<Workload>().expect_err("there is none of that name");
        let names: Vec<&str> = Workload::ALL.iter().map(|workload| workload.name()).collect();
        assert_eq!(error.to_string(), format!("there is no such workload; choose from {}", names.join(", ")));
    }

    #[test]
    fn variants_are_told_in_words() {
        let variants = [
            Variant::Bulk(16),
            Variant::Outstanding(64),
            Variant::InHandler,
            Variant::Interleaved,
            Variant::Used(90),
            Variant::Live(16),
        ];
        let words: Vec<_> = variants.iter().map(ToString::to_string).collect();
        assert_eq!(words, ["bulk 16", "64 outstanding", "in handler", "interleaved", "90 % used", "16 MiB live"]);
    }
}
