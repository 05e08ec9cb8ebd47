//! The catalogue of workloads and allocators: what each is called, stresses and counts, and who made it known.
//!
//! Used by the suite, which runs the workloads (and whose tests see to it that all are here), by the guest, which has the
//! allocators, and by the host, which lists them.

/// A workload in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its name on command lines and in records.
    pub name: &'static str,
    /// What it is like.
    pub group: Group,
    /// What it does, and what an operation is: a line, for the head of a table.
    pub summary: &'static str,
    /// Which part of an allocator it stresses.
    pub stresses: &'static str,
    /// Who made it known, and how ours differs.
    pub origin: &'static str,
}

/// Workloads of a kind; their results are summarised together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Kernel objects: `kmalloc` and `kmem_cache`.
    Slab,
    /// Blocks of pages.
    Page,
    /// Programs that allocator papers compare.
    Program,
    /// Little memory left, and memory that has aged.
    Pressure,
}

impl Group {
    /// All of them, in the order they are shown.
    pub const ALL: [Self; 4] = [Self::Slab, Self::Page, Self::Program, Self::Pressure];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Slab => "slab",
            Self::Page => "page",
            Self::Program => "program",
            Self::Pressure => "pressure",
        }
    }
}

/// An allocator that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocator {
    /// Its name on command lines and in records.
    pub name: &'static str,
    /// What it is, and how it is used.
    pub summary: &'static str,
}

/// Those of the bench image, in the order they are measured.
pub static ALLOCATORS: &[Allocator] = &[
    Allocator { name: "quarry", summary: "the kernel's own: kmalloc, kmem_cache and the page layer" },
    Allocator {
        name: "buddy-slab",
        summary: "buddy-slab-allocator: a buddy and per-CPU slabs, with its own spin locks",
    },
    Allocator { name: "talc", summary: "talc: binned free chunks with boundary tags, behind a spin lock" },
    Allocator { name: "rlsf", summary: "rlsf: two-level segregated fit, behind a spin lock" },
    Allocator { name: "dlmalloc", summary: "dlmalloc: Doug Lea's malloc, behind a spin lock" },
    Allocator { name: "linked-list", summary: "linked_list_allocator: a list of holes, first fit, behind a spin lock" },
    Allocator {
        name: "buddy-system",
        summary: "buddy_system_allocator: a buddy for bytes and pages, behind a spin lock",
    },
    Allocator { name: "slabmalloc", summary: "slabmalloc: slabs of powers of two up to 128 KiB, behind a spin lock" },
    Allocator { name: "bitmap", summary: "bitmap-allocator: page frames in a tree of bitmaps, behind a spin lock" },
];

/// The workload of that name.
pub fn workload(name: &str) -> Option<&'static Workload> {
    WORKLOADS.iter().find(|workload| workload.name == name)
}

/// All of them, in the order they run.
pub static WORKLOADS: &[Workload] = &[
    Workload {
        name: "pair",
        group: Group::Slab,
        summary: "one kmalloc and its kfree, over and over; an operation is the pair",
        stresses: "the fast path of one CPU: the object freed last is the next one given out",
        origin: "Christoph Lameter's slab_test, \"Kmalloc: alloc/free test\"",
    },
    Workload {
        name: "pair-inlined",
        group: Group::Slab,
        summary: "the same, inlined into the loop, with a size the compiler knows",
        stresses: "what is left of the fast path when the compiler knows the size class",
        origin: "slab_test as Linux compiles it, whose sizes are constants",
    },
    Workload {
        name: "pair-constant",
        group: Group::Slab,
        summary: "as pair, called, with a size the compiler knows",
        stresses: "the fast path without the look-up of a class, and with the calls",
        origin: "slab_test as Linux compiles it: the class is a constant and the allocator's function is called",
    },
    Workload {
        name: "pair-zeroed",
        group: Group::Slab,
        summary: "one kzalloc and its kfree, over and over; an operation is the pair",
        stresses: "the zeroing, and by how much it outweighs the fast path as objects grow",
        origin: "slab_test's loop, with the call most of Linux's callers use",
    },
    Workload {
        name: "pair-cache",
        group: Group::Slab,
        summary: "one kmem_cache_alloc and its kmem_cache_free, over and over; an operation is the pair",
        stresses: "the fast path where the caller has the cache at hand, so that no size class is looked up",
        origin: "Jesper Dangaard Brouer's slab_bulk_test01, \"kmem fastpath reuse\"",
    },
    Workload {
        name: "batch",
        group: Group::Slab,
        summary: "many kmallocs, then their kfrees, first in, first out; an operation is one of either",
        stresses: "refills and flushes of per-CPU caches; on several CPUs the locks behind them",
        origin: "slab_test, \"Repeatedly allocate then free test\" and its concurrent form",
    },
    Workload {
        name: "batch-lifo",
        group: Group::Slab,
        summary: "as batch, last in, first out",
        stresses: "refills and flushes where what was given out last comes back first, as from a stack of calls",
        origin: "slab_test's pattern, freed in the other order",
    },
    Workload {
        name: "batch-cache",
        group: Group::Slab,
        summary: "as batch, with the objects of a cache made for it: kmem_cache_alloc, kmem_cache_free",
        stresses: "refills and flushes of a cache that starts with nothing",
        origin: "slab_test's pattern over kmem_cache",
    },
    Workload {
        name: "bulk",
        group: Group::Slab,
        summary: "kmem_cache_alloc_bulk and kmem_cache_free_bulk of n objects; an operation is one object allocated and freed",
        stresses: "what many objects in one call save, and the sizes at which calls outgrow the per-CPU cache; latencies are of whole calls",
        origin: "Brouer's slab_bulk_test01, with its numbers of objects; there objects are packet heads (struct sk_buff), here of 256 bytes",
    },
    Workload {
        name: "remote",
        group: Group::Slab,
        summary: "as batch, but freed on another CPU than allocated (on one CPU: on the same)",
        stresses: "the way of an object back to where it came from",
        origin: "the remote frees of slab_test, made symmetric: every CPU frees what its neighbour allocated",
    },
    Workload {
        name: "remote-zero",
        group: Group::Slab,
        summary: "as batch, but CPU 0 frees what all CPUs allocated",
        stresses: "a CPU whose cache gets far more objects than it gives out, of other CPUs and nodes",
        origin: "slab_test, \"Remote free test\"; there CPU 0 allocates nothing",
    },
    Workload {
        name: "one-allocates",
        group: Group::Slab,
        summary: "as batch, but CPU 0 allocates what all CPUs free, each an equal part",
        stresses: "a CPU that only allocates, and the way back from caches that only fill",
        origin: "slab_test, \"1 alloc N free test\"; there the others free while CPU 0 allocates",
    },
    Workload {
        name: "mix",
        group: Group::Slab,
        summary: "random sizes over slots that are replaced at random; an operation is a free and an allocation",
        stresses: "all size classes at once, with lifetimes that differ",
        origin: "the inner loop of Larson and Krishnan's server simulation, on one CPU's own slots",
    },
    Workload {
        name: "mix-large",
        group: Group::Slab,
        summary: "as mix, over 1,048,576 slots of each CPU, or as many as memory has room for; measured only where it is named",
        stresses: "metadata and objects that no cache of the processor holds, and their translations",
        origin: "as mix, with the number of blocks of a large program",
    },
    Workload {
        name: "node",
        group: Group::Slab,
        summary: "pairs on a node that is asked for: the CPU's own, the farthest, both in turn",
        stresses: "requests for the memory of a node that the CPU's cache may not have",
        origin: "kmalloc_node in slab_test's manner",
    },
    Workload {
        name: "interrupt",
        group: Group::Slab,
        summary: "pairs with GFP_ATOMIC in interrupt handlers: 256 in each, or one after each pair of the interrupted thread; an operation is a pair",
        stresses: "what handlers and threads must share of a CPU's cache. Where pairs alternate getting into the handler is nearly all of the cost: read the latencies",
        origin: "network drivers, which allocate where packets arrive; Brouer's benchmarks ask with GFP_ATOMIC for that reason, though from a thread",
    },
    Workload {
        name: "page",
        group: Group::Page,
        summary: "one alloc_pages and its free_pages, over and over; order n is 2^n pages of 4 KiB",
        stresses: "the per-CPU page lists and, above their orders, the buddy allocator",
        origin: "Jesper Dangaard Brouer's page_bench01, and its order ladder",
    },
    Workload {
        name: "page-outstanding",
        group: Group::Page,
        summary: "n pages are taken, one by one, then given back; an operation is one page taken and given back",
        stresses: "the per-CPU page lists, and what it costs when more pages are out than they hold",
        origin: "Brouer's page_bench02, \"step_outstanding_pages\", with the steps that differ",
    },
    Workload {
        name: "page-bulk",
        group: Group::Page,
        summary: "as page-outstanding, with few pages: as many as callers of alloc_pages_bulk want at once",
        stresses: "what the size of a group adds to a page, up to where groups outgrow the per-CPU page lists",
        origin: "Brouer's page_bench04_bulk, with its numbers of pages, but by single pages: there is no alloc_pages_bulk here",
    },
    Workload {
        name: "page-cross",
        group: Group::Page,
        summary: "many pages, freed on another CPU than allocated (on one CPU: on the same); an operation is one of either",
        stresses: "per-CPU page lists that only fill and others that only run dry",
        origin: "Brouer's page_bench05_cross_cpu, made symmetric: every CPU frees what its neighbour allocated",
    },
    Workload {
        name: "llfree-bulk",
        group: Group::Page,
        summary: "many page blocks allocated, then freed, first in, first out; an operation is one of either",
        stresses: "refills and flushes of the per-CPU page lists, and splits and merges of the buddy",
        origin: "bulk of Wrenger et al., LLFree, USENIX ATC 2023, which takes half of all memory; ours at most 16 \
                 MiB a CPU",
    },
    Workload {
        name: "llfree-rand",
        group: Group::Page,
        summary: "as llfree-bulk, but the blocks of all CPUs are shuffled before each frees its part",
        stresses: "frees in no order, of blocks that other CPUs allocated: merges come late, locks are wanted by all",
        origin: "rand of LLFree's kernel module, whose allocations are one CPU's and not timed",
    },
    Workload {
        name: "llfree-repeat",
        group: Group::Page,
        summary: "one page block allocated and freed, over and over, while many are held",
        stresses: "the fast path of pages when the allocator's tables are not those of an empty machine",
        origin: "repeat of LLFree, which holds half of all memory; ours at most 32 MiB a CPU",
    },
    Workload {
        name: "llfree-frag",
        group: Group::Page,
        summary: "page blocks replaced at random in memory that is half holes; an operation is a free and an \
                  allocation",
        stresses: "the choice among many free blocks of all orders, and merges that hardly ever succeed: of the \
                   memory that was freed, as much is in huge pages again as the allocator keeps or brings together",
        origin: "frag of LLFree, which fills all memory and counts the huge pages free in the end; ours counts them \
                 from sample to sample and times the calls, on 32 MiB a CPU at most",
    },
    Workload {
        name: "larson",
        group: Group::Program,
        summary: "blocks of 8 to 999 bytes replaced at random; the slots go to the next CPU after each sample; an \
                  operation is a free and an allocation",
        stresses: "a server's mix of sizes and lifetimes, much of it freed by another CPU than allocated it",
        origin: "Larson and Krishnan, ISMM 1998, with mimalloc-bench's numbers; there new threads inherit the slots, \
                 here CPUs do, and sooner",
    },
    Workload {
        name: "xmalloc",
        group: Group::Program,
        summary: "CPUs in pairs: one allocates batches of objects, the other frees them; an operation is one of \
                  either",
        stresses: "objects that are never freed where they were allocated: the way back, at full speed",
        origin: "Lever and Boreham, USENIX 2000 (xmalloc-test in mimalloc-bench); ours has a short queue for each \
                 pair, and a CPU without a partner does both",
    },
    Workload {
        name: "producers",
        group: Group::Program,
        summary: "all CPUs but one allocate batches of objects, and that one frees them all; an operation is one of \
                  either",
        stresses: "one CPU that must return the objects of all others, none of which it needs itself",
        origin: "Michael's producer and consumer benchmark, PLDI 2004, turned round: many producers and one consumer",
    },
    Workload {
        name: "mstress",
        group: Group::Program,
        summary: "power-of-two sizes with random lifetimes, swapped between CPUs one by one; an operation is an \
                  allocation and what goes with it",
        stresses: "everything at once: short and long lives, a few large blocks, frees on other CPUs at any time",
        origin: "mimalloc's test-stress (mstress in mimalloc-bench); a sample is one stress of at most 1536 \
                 allocations a CPU, without the giant blocks",
    },
    Workload {
        name: "sh6bench",
        group: Group::Program,
        summary: "runs of sizes below 1000 bytes; four fifths of all blocks freed at once, from both ends; an \
                  operation is an allocation and a free",
        stresses: "bursts: caches that fill with one size after the other and then overflow",
        origin: "MicroQuill SmartHeap's sh6bench, 2000, written anew from what it does; a round is a sample of at \
                 most 3276 allocations a CPU",
    },
    Workload {
        name: "sh8bench",
        group: Group::Program,
        summary: "as sh6bench with 12 sizes, 8 bytes to 165 KiB, and 8-byte blocks that the neighbour allocated freed \
                  first",
        stresses: "bursts of few sizes, with now and then a large one, after frees of another CPU's objects; an allocator \
                   without blocks above 128 KiB is left out",
        origin: "MicroQuill SmartHeap's sh8bench, 2005, written anew; there one thread allocates the blocks others \
                 free, here every CPU for its neighbour, not timed",
    },
    Workload {
        name: "threadtest",
        group: Group::Program,
        summary: "8192 objects, shared out among CPUs, allocated and then freed in order; an operation is the pair",
        stresses: "scaling where CPUs have nothing to do with one another",
        origin: "threadtest of Berger et al., Hoard, ASPLOS 2000, which shares out 30,000 objects and counts no \
                 phases",
    },
    Workload {
        name: "cache-scratch",
        group: Group::Program,
        summary: "a small object allocated, written 100 times and freed, over and over, after each CPU freed one that \
                  CPU 0 allocated",
        stresses: "passive false sharing: cache lines that the allocator lets CPUs share because they once were given \
                   objects",
        origin: "cache-scratch of Hoard; objects of 8 bytes and not of one, given anew for each sample",
    },
    Workload {
        name: "cache-thrash",
        group: Group::Program,
        summary: "a small object allocated, written 100 times and freed, over and over",
        stresses: "active false sharing: one cache line given to several CPUs",
        origin: "cache-thrash of Hoard; objects of 8 bytes and not of one",
    },
    Workload {
        name: "alloc-test",
        group: Group::Program,
        summary: "sizes of 5 to 1024 bytes, small ones often, in slots of which few are chosen often; an operation is \
                  a free or an allocation",
        stresses: "lives that differ by orders of magnitude, as real ones do, on one CPU's own slots",
        origin: "OLogN Technologies' alloc-test, 2018 (in mimalloc-bench), with 16 Ki slots for all CPUs and not 256 \
                 Ki",
    },
    Workload {
        name: "replay",
        group: Group::Program,
        summary: "the events of a trace, in order, on the CPUs that had them; an operation is one event",
        stresses: "what the recorded program stressed: its sizes, lifetimes and remote frees. A CPU that is early for an object waits, which is in the figures",
        origin: "trace-driven simulation of allocators, as Wilson, Johnstone, Neely and Boles survey it (1995), with traces of Linux's kmem events or of our own workloads",
    },
    Workload {
        name: "pressure",
        group: Group::Pressure,
        summary: "a mix while 50, 90 or 99 % of memory are in use; an operation replaces an object, and after \
                  every eighth a page is cached, as one of a file that is read",
        stresses: "reclaim: at 99 % what is allocated has to come from the cache, 4 % of memory that a shrinker \
                   gives up; at 50 and 90 % it need not, and shows what the rest costs",
        origin: "the page cache at work beside slab allocations, in which Linux spends its life",
    },
    Workload {
        name: "fragmentation",
        group: Group::Pressure,
        summary: "objects and blocks of orders 0 to 3, some of them short-lived, replaced at random in an eighth \
                  of memory of which 80 % are taken; an operation is a free and an allocation",
        stresses: "how memory ages: what of the free memory is left in blocks of 2 MiB, and what is held for a \
                   live byte",
        origin: "the unusable free space index of Mel Gorman's thesis (unusable_index in Linux's debugfs); the mix of \
                 lives is ours",
    },
    Workload {
        name: "footprint",
        group: Group::Pressure,
        summary: "1, 16 or 256 MiB of objects of the sizes of mix, replaced at random five times over, until nothing tells how \
                  they came; an operation is a free and an allocation; 256 MiB are measured only where it is named",
        stresses: "what memory is held for a live byte: sizes rounded up, slabs and pages partly in use, headers, and what is \
                   cached. An allocator that does not tell what it holds is left out",
        origin: "fragmentation as Johnstone and Wilson (ISMM 1998) and Berger et al. (Hoard, ASPLOS 2000) reckon it, memory \
                 taken for what is live; there of programs, here of a mix of ours",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_one_workload() {
        for (at, one) in WORKLOADS.iter().enumerate() {
            assert_eq!(workload(one.name), Some(one));
            assert!(WORKLOADS[..at].iter().all(|other| other.name != one.name), "{} is there twice", one.name);
        }
    }

    #[test]
    fn every_workload_says_what_an_operation_is_or_that_it_is_as_another() {
        for one in WORKLOADS {
            let says = ["operation", "as ", "the same", "over and over", "pairs"];
            assert!(says.iter().any(|word| one.summary.contains(word)), "{}: {}", one.name, one.summary);
        }
    }

    #[test]
    fn groups_follow_one_another() {
        let groups: alloc::vec::Vec<Group> = WORKLOADS.iter().map(|workload| workload.group).collect();
        assert!(groups.is_sorted(), "workloads of a group stand together");
    }
}
