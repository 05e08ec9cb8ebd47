//! Random steps: the calls the model makes.

use proptest::prelude::*;
use quarry_memory::{Gfp, MAX_SIZE, Order};

/// Flags of an allocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flags {
    pub(crate) zone: Gfp,
    pub(crate) this_node: bool,
    pub(crate) zero: bool,
    /// `GFP_KERNEL`, `GFP_USER` or `GFP_ATOMIC`.
    pub(crate) context: Gfp,
    /// None, or one of the flags of mobility.
    pub(crate) mobility: Gfp,
}

impl Flags {
    /// As one word, without `__GFP_ZERO`.
    pub(crate) fn gfp(self) -> Gfp {
        let node = if self.this_node { Gfp::THISNODE } else { Gfp::empty() };
        self.context | self.zone | self.mobility | node | Gfp::NOWARN
    }
}

/// A call, or a few of the same. Numbers of CPUs, nodes and held allocations are taken modulo how many there are, one
/// more for nodes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// `kmalloc`, `kzalloc`, `kmalloc_node` or `kzalloc_node`, so often.
    Kmalloc { size: usize, flags: Flags, node: Option<usize>, times: usize },
    /// `kmemdup` of that many bytes.
    Kmemdup { size: usize },
    /// `krealloc` of something held, or of null.
    Krealloc { held: usize, size: usize },
    /// `alloc_pages` or `alloc_pages_node`, until there are so many or no more.
    AllocPages { order: Order, flags: Flags, node: Option<usize>, times: usize },
    /// `kvmalloc` or, for what it refuses, nothing.
    Kvmalloc { size: usize },
    /// `alloc_percpu`.
    Percpu { size: usize, align: usize },
    /// `kmem_cache_create`.
    CreateCache { size: usize, align: usize, constructed: bool },
    /// `kmem_cache_alloc`, `kmem_cache_alloc_node` or `kmem_cache_alloc_bulk`, so many objects.
    UseCache { cache: usize, node: Option<usize>, count: usize, bulk: bool },
    /// `kmem_cache_destroy`, whether or not objects are in use.
    DestroyCache { cache: usize },
    /// `mempool_create_kmalloc_pool` or `mempool_create_page_pool`.
    CreatePool { minimum: usize, size: usize, pages: bool },
    /// `mempool_alloc`, so often, without waiting.
    UsePool { pool: usize, count: usize },
    /// `mempool_free`, so often.
    FreeToPool { pool: usize, count: usize },
    /// `mempool_destroy`.
    DestroyPool { pool: usize },
    /// Movable pages, so many.
    AllocMovables { count: usize },
    /// Frees every `stride`th movable page.
    FreeMovables { stride: usize },
    /// `compact_memory`, with every `stride`th movable page pinned.
    Compact { stride: usize },
    /// `set_mempolicy`.
    SetPolicy { kind: u8, nodes: u64 },
    /// Frees something held, the way it wants.
    Free { held: usize },
    /// Frees every `stride`th allocation held.
    FreeSome { stride: usize },
    /// Continues on another CPU.
    RunOn { cpu: usize },
    /// `drain_local`, `shrink_depots`.
    Shrink,
}

/// Sizes of all magnitudes up to somewhat beyond the largest, powers of two more often than others.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => (0u32..=13, 0usize..8192).prop_map(|(shift, extra)| (1 << shift) + (extra >> (13 - shift))),
        1 => (13u32..=22, any::<u32>()).prop_map(|(shift, extra)| (1usize << shift) + (extra >> (32 - shift)) as usize),
        2 => (0u32..=22).prop_map(|shift| 1 << shift),
        1 => prop_oneof![Just(0), Just(MAX_SIZE + 1), Just(usize::MAX)],
    ]
}

fn flags() -> impl Strategy<Value = Flags> {
    let zone = prop_oneof![6 => Just(Gfp::empty()), 1 => Just(Gfp::DMA), 1 => Just(Gfp::DMA32)];
    let rare = || prop::bool::weighted(0.25);
    let mobility = prop_oneof![4 => Just(Gfp::empty()), 1 => Just(Gfp::MOVABLE), 1 => Just(Gfp::RECLAIMABLE)];
    let context = prop_oneof![2 => Just(Gfp::KERNEL), 1 => Just(Gfp::USER), 1 => Just(Gfp::ATOMIC)];
    (zone, mobility, context, rare(), rare()).prop_map(|(zone, mobility, context, this_node, zero)| Flags {
        zone,
        this_node,
        zero,
        context,
        mobility,
    })
}

fn node() -> impl Strategy<Value = Option<usize>> {
    prop::option::of(any::<usize>())
}

/// Any step.
pub(crate) fn step() -> impl Strategy<Value = Step> {
    let order = (0..=Order::MAX.get()).prop_map(|order| Order::new(order).expect("at most the largest"));
    let times = || prop_oneof![6 => 1usize..4, 2 => 4usize..200, 1 => Just(100_000)];
    prop_oneof![
        8 => (size(), flags(), node(), times()).prop_map(|(size, flags, node, times)| {
            // Not so many that they alone are all there is to a case.
            Step::Kmalloc { size, flags, node, times: times.min(400) }
        }),
        1 => (0usize..20_000).prop_map(|size| Step::Kmemdup { size }),
        4 => (any::<usize>(), size()).prop_map(|(held, size)| Step::Krealloc { held, size }),
        4 => (order, flags(), node(), times()).prop_map(|(order, flags, node, times)| {
            Step::AllocPages { order, flags, node, times: if order == Order::ZERO { times.min(500) } else { times } }
        }),
        1 => (0usize..3 << 20).prop_map(|size| Step::Kvmalloc { size }),
        1 => (1usize..3000, 0u32..10).prop_map(|(size, align)| Step::Percpu { size, align: 1 << align }),
        1 => (1usize..3000, 0u32..10, any::<bool>()).prop_map(|(size, align, constructed)| {
            Step::CreateCache { size, align: 1 << align, constructed }
        }),
        4 => (any::<usize>(), node(), 1usize..200, any::<bool>()).prop_map(|(cache, node, count, bulk)| {
            Step::UseCache { cache, node, count, bulk }
        }),
        1 => any::<usize>().prop_map(|cache| Step::DestroyCache { cache }),
        1 => (1usize..20, size(), any::<bool>()).prop_map(|(minimum, size, pages)| {
            Step::CreatePool { minimum, size: size.clamp(1, 20_000), pages }
        }),
        3 => (any::<usize>(), 1usize..40).prop_map(|(pool, count)| Step::UsePool { pool, count }),
        2 => (any::<usize>(), 1usize..40).prop_map(|(pool, count)| Step::FreeToPool { pool, count }),
        1 => any::<usize>().prop_map(|pool| Step::DestroyPool { pool }),
        2 => prop_oneof![1usize..20, 20usize..1024].prop_map(|count| Step::AllocMovables { count }),
        1 => (1usize..4).prop_map(|stride| Step::FreeMovables { stride }),
        1 => (1usize..20).prop_map(|stride| Step::Compact { stride }),
        1 => (0u8..4, 0u64..1 << 9).prop_map(|(kind, nodes)| Step::SetPolicy { kind, nodes }),
        6 => any::<usize>().prop_map(|held| Step::Free { held }),
        3 => (1usize..5).prop_map(|stride| Step::FreeSome { stride }),
        3 => any::<usize>().prop_map(|cpu| Step::RunOn { cpu }),
        1 => Just(Step::Shrink),
    ]
}
