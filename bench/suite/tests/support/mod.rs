//! What the tests run the suite on: [`Threads`], a machine made of std's threads, and [`Arena`], an allocator that can
//! be told to misbehave.

#![allow(dead_code, reason = "each test crate uses its part")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use quarry_suite::random::Random;
use quarry_suite::{Ballast, Feature, Platform, Subject, pattern};
use quarry_topology::NodeId;

/// So many CPUs on two nodes, alternating.
#[derive(Clone, Copy)]
pub(crate) struct Threads(pub(crate) usize);

impl Platform for Threads {
    fn cpu_count(&self) -> usize {
        self.0
    }

    fn local_node(&self, cpu: usize) -> NodeId {
        NodeId((cpu % 2) as u8)
    }

    fn remote_node(&self, cpu: usize) -> Option<NodeId> {
        Some(self.local_node(cpu + 1))
    }

    fn ticks(&self) -> u64 {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }

    fn ticks_per_second(&self) -> u64 {
        1_000_000_000
    }

    fn relax(&self) {
        std::thread::yield_now();
    }

    fn memory(&self) -> u64 {
        1 << 20
    }

    /// There are none here: whoever wants to interrupt does it itself.
    fn has_interrupts(&self) -> bool {
        true
    }

    fn on_cpus<T, F>(&self, cpus: usize, body: F) -> Vec<T>
    where
        T: Send + 'static,
        F: Fn(usize) -> T + Send + Sync + 'static,
    {
        let body = Arc::new(body);
        let start = |cpu| {
            let body = body.clone();
            std::thread::spawn(move || body(cpu))
        };
        let threads: Vec<_> = (0..cpus).map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("a worker has no reason to panic")).collect()
    }
}

/// What an [`Arena`] does wrong, now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Hands out a block that somebody holds.
    Overlap,
    /// Hands out blocks of half the size.
    Short,
    /// Hands out blocks one byte off.
    Misaligned,
    /// Fails although there is memory.
    Null,
    /// Forgets to take a block back.
    Lost,
    /// Clears a byte of a block that somebody holds.
    Scribble,
    /// Ignores the node asked for.
    WrongNode,
    /// Leaves a byte of zeroed memory as it was.
    NotZero,
    /// Complains of a cache that ended with objects in use.
    Remains,
}

/// One of so many calls has the fault, which one being as good as random: a period would fall in with the workloads'.
const RARITY: u64 = 7;

/// Bytes of one node's memory.
const NODE_BYTES: usize = 2 << 20;

/// Where addresses start: aligned to every size.
const BASE: usize = 1 << 40;

/// An allocator of power-of-two classes over bytes that any number of owners may touch without undefined behaviour.
/// Its memory goes with the last handle on it.
#[derive(Clone)]
pub(crate) struct Arena(Arc<Inner>);

struct Inner {
    bytes: Vec<AtomicU8>,
    fault: Fault,
    calls: AtomicU64,
    complaints: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Live blocks: start and what is really set apart.
    live: BTreeMap<usize, usize>,
    /// Places to use again, by node and class.
    free: BTreeMap<(usize, usize), Vec<usize>>,
    /// Bytes of each node never used so far.
    fresh: [usize; 2],
    /// The last live block, for the faults that need a victim.
    last: Option<usize>,
    in_use: usize,
}

/// A place in the arena.
pub(crate) struct Place {
    start: usize,
}

impl Arena {
    pub(crate) fn new(fault: Fault) -> Self {
        let bytes = std::iter::repeat_with(AtomicU8::default).take(2 * NODE_BYTES).collect();
        let (calls, complaints) = (AtomicU64::new(0), AtomicUsize::new(0));
        Self(Arc::new(Inner { bytes, fault, calls, complaints, state: Mutex::default() }))
    }

    fn strikes(&self, fault: Fault) -> bool {
        self.0.fault == fault && Random::new(0, self.0.calls.fetch_add(1, Ordering::Relaxed)).below(RARITY) == 0
    }

    fn place(&self, size: usize, node: NodeId) -> Option<Place> {
        if self.strikes(Fault::Null) {
            return None;
        }
        let mut state = self.0.state.lock().expect("no holder panics");
        let last = state.last.filter(|start| state.live.contains_key(start));
        if let Some(start) = last.filter(|_| self.strikes(Fault::Overlap)) {
            return Some(Place { start });
        }
        if let Some(start) = last.filter(|_| self.strikes(Fault::Scribble)) {
            self.0.bytes[start].fetch_xor(0xff, Ordering::Relaxed);
        }
        let node = if self.strikes(Fault::WrongNode) { NodeId(1 - node.0) } else { node }.index();
        // No smaller than the alignment every block has.
        let size = if self.0.fault == Fault::Short { size.div_ceil(2) } else { size }.next_power_of_two().max(8);
        let start = if let Some(start) = state.free.entry((node, size)).or_default().pop() {
            start
        } else {
            let start = state.fresh[node].next_multiple_of(size);
            if start + size > NODE_BYTES {
                return None;
            }
            // What lies before it is for smaller blocks.
            let mut gap = state.fresh[node];
            while gap < start {
                let piece = 1 << gap.trailing_zeros();
                state.free.entry((node, piece)).or_default().push(node * NODE_BYTES + gap);
                gap += piece;
            }
            state.fresh[node] = start + size;
            node * NODE_BYTES + start
        };
        state.live.insert(start, size);
        state.in_use += size;
        state.last = Some(start);
        Some(Place { start: start + usize::from(self.strikes(Fault::Misaligned)) })
    }
}

impl Subject for Arena {
    type Block = Place;
    type Objects = Self;

    const NAME: &'static str = "arena";

    const FEATURES: &'static [Feature] = Feature::ALL;

    fn allocate(&self, size: usize) -> Option<Place> {
        self.place(size, NodeId(0))
    }

    fn free(&self, block: Place) {
        if self.strikes(Fault::Lost) {
            return;
        }
        let mut state = self.0.state.lock().expect("no holder panics");
        // A misaligned block starts inside its own; an overlapping one may be gone already.
        let misaligned = self.0.fault == Fault::Misaligned && !state.live.contains_key(&block.start);
        let start = block.start - usize::from(misaligned);
        if let Some(size) = state.live.remove(&start) {
            state.in_use -= size;
            state.free.entry((start / NODE_BYTES, size)).or_default().push(start);
        }
    }

    fn allocate_inlined<const SIZE: usize>(&self) -> Option<Place> {
        self.allocate(SIZE)
    }

    fn free_inlined(&self, block: Place) {
        self.free(block);
    }

    fn allocate_on(&self, size: usize, node: NodeId) -> Option<Place> {
        self.place(size, node)
    }

    fn allocate_pages(&self, order: u32) -> Option<Place> {
        self.allocate(4096 << order)
    }

    fn free_pages(&self, block: Place, _order: u32) {
        self.free(block);
    }

    fn allocate_zeroed(&self, size: usize) -> Option<Place> {
        let block = self.allocate(size)?;
        for byte in &self.0.bytes[block.start..][..size] {
            byte.store(0, Ordering::Relaxed);
        }
        if self.strikes(Fault::NotZero) {
            self.0.bytes[block.start + size / 2].store(1, Ordering::Relaxed);
        }
        Some(block)
    }

    fn allocate_atomic(&self, size: usize) -> Option<Place> {
        self.allocate(size)
    }

    fn objects(&self, _size: usize) -> Option<Self> {
        self.0.complaints.fetch_add(usize::from(self.0.fault == Fault::Remains), Ordering::Relaxed);
        Some(self.clone())
    }

    fn complaints(&self) -> u64 {
        self.0.complaints.load(Ordering::Relaxed) as u64
    }

    /// Memory is never short here, but for its own faults.
    fn occupy(&self, _leave: u64, _cached: u64) -> Option<Arc<dyn Ballast>> {
        Some(Arc::new(()))
    }

    fn address(&self, block: &Place) -> usize {
        BASE + block.start
    }

    fn fill(&self, block: &mut Place, length: usize, seed: u64) {
        for (index, byte) in self.0.bytes[block.start..][..length].iter().enumerate() {
            byte.store(pattern::word(seed, index / 8).to_le_bytes()[index % 8], Ordering::Relaxed);
        }
    }

    fn check(&self, block: &Place, length: usize, seed: u64) -> bool {
        let bytes = self.0.bytes[block.start..][..length].iter();
        pattern::check(&bytes.map(|byte| byte.load(Ordering::Relaxed)).collect::<Vec<u8>>(), seed)
    }

    fn is_zero(&self, block: &Place, length: usize) -> bool {
        self.0.bytes[block.start..][..length].iter().all(|byte| byte.load(Ordering::Relaxed) == 0)
    }

    fn touch(&self, block: &mut Place, writes: u32) {
        for write in 0..writes {
            self.0.bytes[block.start].store(write as u8, Ordering::Relaxed);
        }
    }

    fn node_of(&self, block: &Place) -> Option<NodeId> {
        Some(NodeId((block.start / NODE_BYTES) as u8))
    }

    fn in_use(&self) -> Option<u64> {
        Some(self.0.state.lock().expect("no holder panics").in_use as u64)
    }
}
