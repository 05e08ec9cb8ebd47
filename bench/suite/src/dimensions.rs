//! How large the workloads are, and how often they are run.
//!
//! For the loops here and for those who run the same loops elsewhere (Linux's init program), so that both are one size.

/// Operations of a sample while their number is being found: the first try.
pub const FIRST_TRY: u64 = 64;

/// How often a sample of a workload of fixed length is run before the first that counts.
pub const WARM_UPS: usize = 3;

/// Operations of a sample under [`Effort::Fixed`](crate::Effort::Fixed).
pub const FIXED_OPERATIONS: u64 = 10_000;

/// Samples of an empty loop.
pub const EMPTY_SAMPLES: usize = 21;

/// Samples of the pass that times single calls.
pub const LATENCY_SAMPLES: usize = 5;

/// Objects in a batch, memory permitting: many times what the allocators' per-CPU caches hold.
pub const BATCH: usize = 4096;

/// Slots of [`Workload::Mix`](crate::Workload::Mix); a power of two.
pub const MIX_SLOTS: usize = 4096;

/// Slots of [`Workload::MixLarge`](crate::Workload::MixLarge), memory permitting; a power of two.
pub const MIX_LARGE_SLOTS: usize = 1 << 20;

/// Bytes to reckon with for a block of it, by those who round sizes up to powers of two, too. The mean size is 681.
pub const MIX_LARGE_RECKONED: usize = 1024;

/// Bytes a CPU allocates and frees in a sample of `llfree-bulk` and `llfree-rand`, memory permitting: many times what per-CPU lists hold.
pub const LLFREE_BATCH_BYTES: usize = 16 << 20;

/// Bytes a CPU holds in `llfree-repeat` and `llfree-frag` while other blocks come and go, memory permitting.
pub const LLFREE_HELD_BYTES: usize = 32 << 20;

/// Slots of a CPU in `larson`, memory permitting.
pub const LARSON_SLOTS: usize = 5000;

/// Sizes in `larson` are below this.
pub const LARSON_END: usize = 1000;

/// Objects in a batch of `xmalloc` and `producers`, memory permitting.
pub const HANDOFF_BATCH: usize = 256;

/// Batches between two of their CPUs.
pub const HANDOFF_BATCHES: usize = 4;

/// Blocks a CPU retains in `mstress`, memory permitting.
pub const MSTRESS_RETAINED: usize = 512;

/// For each of those so many others.
pub const MSTRESS_OTHERS: usize = 2;

/// Bytes to reckon with in `mstress` for a retained block and those that come with it; the mean is below 200.
pub const MSTRESS_RECKONED: usize = 512;

/// Places of a CPU in `sh6bench` and `sh8bench`, memory permitting.
pub const SMARTHEAP_PLACES: usize = 4095;

/// Their array's parts, one of which is spared in each round.
pub const SMARTHEAP_PARTS: usize = 5;

/// Sizes in `sh6bench` are below this.
pub const SH6_END: usize = 1000;

/// No block of `sh8bench` is larger than this part of what a CPU may hold.
pub const SH8_LARGEST_PART: u64 = 16;

/// Bytes to reckon with for a block of `sh8bench`. The mean is 55.
pub const SH8_RECKONED: usize = 256;

/// Objects of all CPUs together in `threadtest`, memory permitting.
pub const THREADTEST_OBJECTS: usize = 8192;

/// Slots of all CPUs together in `alloc-test`, memory permitting.
pub const ALLOC_TEST_SLOTS: usize = 16 << 10;

/// Fewest slots of a CPU in `alloc-test`, enough that no range of them is empty.
pub const ALLOC_TEST_FEWEST_SLOTS: usize = 32;

/// The largest size in `alloc-test`.
pub const ALLOC_TEST_LARGEST: usize = 1024;
