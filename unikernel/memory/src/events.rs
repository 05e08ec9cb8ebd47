//! [`Events`]: how often things happened that `/proc/vmstat` counts, beside what the CPUs' sets count themselves.
//!
//! Users: every slow path counts here; [`statistics`](crate::statistics) reads. One relaxed addition to a shared
//! counter: for what happens at most once in thousands of allocations.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::free_area::Stolen;

macro_rules! events {
    ($($(#[$documentation:meta])* $event:ident = $name:literal),+ $(,)?) => {
        /// Something worth counting.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event {
            $($(#[$documentation])* $event),+
        }

        impl Event {
            /// All events, in the order in which they are shown.
            pub const ALL: &[Self] = &[$(Self::$event),+];

            /// Its name in `/proc/vmstat`, Linux's where Linux has the same.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$event => $name),+
                }
            }
        }
    };
}

events! {
    /// A page allocation left the fast path and found nothing above the low watermark.
    SlowAllocation = "allocslow",
    /// An allocation reclaimed memory itself.
    DirectReclaim = "allocstall",
    /// A balancing thread was woken.
    BalancerWoken = "kswapd_wake",
    /// A balancing thread brought its node to the high watermark.
    BalancerDone = "kswapd_high_wmark_hit_quickly",
    /// Objects a balancing thread asked shrinkers to look at.
    ScannedByBalancer = "slabs_scanned_kswapd",
    /// Objects direct reclaim asked shrinkers to look at.
    ScannedDirectly = "slabs_scanned_direct",
    /// Objects shrinkers gave up.
    Shrunk = "slabs_shrunk",
    /// Other CPUs were asked to give back what they cache.
    DrainCall = "drain_calls",
    /// A thread went to sleep for memory.
    Wait = "memory_waits",
    /// A sleeper was handed a block.
    HandedOver = "memory_handed_over",
    /// An allocation failed.
    AllocationFailed = "allocation_failed",
    /// An allocation that may not wait failed.
    AtomicFailed = "allocation_failed_atomic",
    /// A thread went to sleep for an element of a memory pool.
    PoolWait = "mempool_waits",
    /// An allocation was made to fail.
    FaultInjected = "fault_injected",
    /// A pageblock was given another mobility, for an allocation that found none of its own.
    PageblockStolen = "pageblock_stolen",
    /// A block was allocated in a pageblock of another mobility, which stayed so.
    PageblockMixed = "pageblock_mixed",
    /// A zone was to be compacted for an allocation.
    CompactStall = "compact_stall",
    /// It had no block of the order afterwards.
    CompactFail = "compact_fail",
    /// It had one.
    CompactSuccess = "compact_success",
    /// Frames compaction looked at, to empty them.
    CompactMigrateScanned = "compact_migrate_scanned",
    /// Frames compaction looked at, to fill them.
    CompactFreeScanned = "compact_free_scanned",
    /// Pages compaction took in hand.
    CompactIsolated = "compact_isolated",
    /// Pages that were moved.
    MigrateSuccess = "pgmigrate_success",
    /// Pages that could not be moved.
    MigrateFail = "pgmigrate_fail",
    /// A request for a zeroed page got one that an idle CPU had zeroed.
    ZeroedHit = "zeroed_hit",
    /// A request for a zeroed page found none, and zeroed one itself.
    ZeroedMiss = "zeroed_miss",
    /// Pages that idle CPUs zeroed.
    ZeroedIdle = "zeroed_idle",
    /// Object pages that a pager was asked for.
    VmPagedIn = "vm_paged_in",
    /// Object pages that a pager has written.
    VmLaundered = "vm_laundered",
    /// Object pages that a pager could not write.
    VmLaunderFailed = "vm_launder_failed",
    /// Clean object pages that became available because nobody used them.
    VmCached = "vm_cached",
    /// Cached object pages that were freed.
    VmCacheFreed = "vm_cache_freed",
    /// Cached object pages that their objects took back.
    VmReactivated = "vm_reactivated",
}

/// A counter for each event.
pub(crate) struct Events([AtomicU64; Event::ALL.len()]);

impl Events {
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; Event::ALL.len()])
    }

    pub(crate) fn count(&self, event: Event) {
        self.add(event, 1);
    }

    pub(crate) fn add(&self, event: Event, times: u64) {
        self.0[event as usize].fetch_add(times, Relaxed);
    }

    /// What an allocation took from other mobilities.
    #[inline]
    pub(crate) fn note_stolen(&self, stolen: Stolen) {
        for (event, times) in [(Event::PageblockStolen, stolen.pageblocks), (Event::PageblockMixed, stolen.mixed)] {
            if times > 0 {
                self.add(event, times.into());
            }
        }
    }

    pub(crate) fn get(&self, event: Event) -> u64 {
        self.0[event as usize].load(Relaxed)
    }
}
