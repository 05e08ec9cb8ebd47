//! [`Checked`]: an allocator that is not trusted.
//!
//! A pass of its own runs a workload's loops over it, so whatever a workload does is checked as it does it: every block
//! is filled when it comes and compared when it goes, wherever that is. Two blocks that overlap betray each other, for
//! whoever is filled later overwrites the other's pattern; so do one that is too small, one given out twice, and one
//! that was moved or cleared. Misaligned blocks, blocks on another node than asked for, zeroed ones that are not, and
//! those that did not come back are counted as well.
//!
//! A block that lives alone cannot overlap another, and some workloads have but one at a time. So each allocation is made
//! twice, and the other block joins a [`Company`] that lives on for a while.
//!
//! The same pass weighs: how many bytes live, how many the allocator holds for them, and how many frees are another CPU's.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use quarry_topology::NodeId;
use spin::Mutex;

use crate::ballast::Ballast;
use crate::places::Places;
use crate::series::{Series, Track};
use crate::subject::{Feature, Subject};

/// A block filled with its pattern.
pub(crate) struct Held<B> {
    pub(crate) block: B,
    pub(crate) length: usize,
    pub(crate) seed: u64,
}

impl<B> Held<B> {
    /// Fills a fresh block; counts an error when it is misaligned.
    pub(crate) fn fill<S: Subject<Block = B>>(
        subject: &S,
        mut block: B,
        length: usize,
        seed: u64,
        errors: &mut u64,
    ) -> Self {
        if !subject.address(&block).is_multiple_of(subject.alignment(length)) {
            *errors += 1;
        }
        subject.fill(&mut block, length, seed);
        Self { block, length, seed }
    }

    /// Counts an error when the block no longer holds its pattern.
    pub(crate) fn verify<S: Subject<Block = B>>(&self, subject: &S, errors: &mut u64) {
        if !subject.check(&self.block, self.length, self.seed) {
            *errors += 1;
        }
    }

    /// Where it lies.
    pub(crate) fn range<S: Subject<Block = B>>(&self, subject: &S) -> Range {
        let start = subject.address(&self.block);
        (start, start.saturating_add(self.length))
    }
}

/// First byte and one past the last.
pub(crate) type Range = (usize, usize);

/// How many ranges begin inside another.
pub(crate) fn overlaps(ranges: &mut [Range]) -> u64 {
    ranges.sort_unstable();
    let mut end = 0;
    let mut found = 0;
    for range in ranges {
        found += u64::from(range.0 < end);
        end = end.max(range.1);
    }
    found
}

/// Most blocks of a CPU's company.
const MOST_COMPANY: usize = 64;

/// Most blocks that join a company for a call that allocates many.
const BULK_COMPANY: usize = 16;

/// Most bytes of a CPU's company, if that is two blocks at least.
const MOST_COMPANY_BYTES: usize = 64 << 10;

/// Every block of `subject`, checked.
#[derive(Clone)]
pub(crate) struct Checked<S: Subject> {
    subject: S,
    cpu: usize,
    company: Arc<Company<S>>,
    tally: Arc<Tally>,
}

/// Blocks that live on beside those of the workload. The last to go gives them back.
struct Company<S: Subject> {
    subject: S,
    /// Each CPU's, oldest first. The locks guard the lists, and only the last handle's drop takes another CPU's; nothing
    /// is allocated or freed under them.
    blocks: Vec<Mutex<Crowd<S::Block>>>,
    tally: Arc<Tally>,
}

/// A CPU's part of a company.
type Crowd<B> = VecDeque<(CheckedBlock<B>, Way)>;

/// How a block is given back.
#[derive(Clone, Copy)]
enum Way {
    Plain,
    Inlined,
    Pages(u32),
}

/// A block of [`Checked`], with the CPU that allocated it.
pub(crate) struct CheckedBlock<B> {
    held: Held<B>,
    cpu: usize,
}

/// What is counted, by all CPUs. Everything is relaxed: counters that order nothing, read when all threads have ended.
pub(crate) struct Tally {
    errors: AtomicU64,
    /// Blocks so far: makes their patterns different.
    blocks: AtomicU64,
    frees: AtomicU64,
    remote_frees: AtomicU64,
    live_blocks: AtomicU64,
    live_bytes: AtomicU64,
    /// What the allocator held before the first block: what the suite itself took from it for its lists is in that.
    held_before: AtomicU64,
    /// Whether a CPU asks what the allocator holds.
    asking: AtomicBool,
    /// The most bytes that lived when the allocator was last asked what it holds.
    peak_live: AtomicU64,
    peak_held: AtomicU64,
    /// Allocations and frees so far.
    calls: AtomicU64,
    memory: Arc<Memory>,
}

/// What lived and what was held, over time. Made before a pass begins, for it stays when the pass is over.
pub(crate) struct Memory(Mutex<Track<(u64, u64)>>);

impl Memory {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Track::new())))
    }

    /// A look after so many calls. Left out where another CPU, or who was interrupted, is having one.
    fn look(&self, calls: u64, live: u64, held: impl FnOnce() -> Option<u64>) {
        if let Some(mut track) = self.0.try_lock() {
            track.offer(calls, || held().map(|held| (live, held)));
        }
    }

    /// What was seen; nothing where nobody knows what is held.
    pub(crate) fn series(&self) -> Vec<Series> {
        let track = self.0.lock();
        let series = |name, points| Series { name, unit: "bytes", over: "allocations and frees", points };
        let series = [
            series("memory live", track.points(|(live, _)| live as f64)),
            series("memory held", track.points(|(_, held)| held as f64)),
        ];
        series.into_iter().filter(|series| !series.points.is_empty()).collect()
    }
}

/// What a pass over a [`Checked`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Findings {
    pub(crate) errors: u64,
    /// Of all frees, those on another CPU than the one that allocated.
    pub(crate) remote_frees: f64,
    /// The most bytes that lived, and what the allocator held for them then.
    pub(crate) peak: Option<(u64, u64)>,
}

impl Tally {
    fn new(memory: Arc<Memory>) -> Self {
        Self {
            errors: AtomicU64::default(),
            blocks: AtomicU64::default(),
            frees: AtomicU64::default(),
            remote_frees: AtomicU64::default(),
            live_blocks: AtomicU64::default(),
            live_bytes: AtomicU64::default(),
            held_before: AtomicU64::new(u64::MAX),
            asking: AtomicBool::default(),
            peak_live: AtomicU64::default(),
            peak_held: AtomicU64::default(),
            calls: AtomicU64::default(),
            memory,
        }
    }

    /// What was found so far; blocks that live count as lost.
    pub(crate) fn findings(&self) -> Findings {
        let frees = self.frees.load(Relaxed);
        let peak_held = self.peak_held.load(Relaxed);
        let held = peak_held.saturating_sub(self.held_before.load(Relaxed));
        Findings {
            errors: self.errors.load(Relaxed) + self.live_blocks.load(Relaxed),
            remote_frees: if frees == 0 { 0.0 } else { self.remote_frees.load(Relaxed) as f64 / frees as f64 },
            peak: (peak_held > 0).then(|| (self.peak_live.load(Relaxed), held)),
        }
    }

    fn error_if(&self, wrong: bool) {
        self.errors.fetch_add(u64::from(wrong), Relaxed);
    }

    /// Before an allocation.
    fn begin(&self, subject: &impl Subject) {
        if self.blocks.load(Relaxed) == 0
            && let Some(held) = self.held(subject)
        {
            self.held_before.fetch_min(held, Relaxed);
        }
    }

    /// What the allocator holds, unless another CPU is asking just now. An allocator that has to look at all it has
    /// looks under its locks, and CPUs that ask at once would wait for each other at every single one.
    fn held(&self, subject: &impl Subject) -> Option<u64> {
        if self.asking.swap(true, Relaxed) {
            return None;
        }
        let held = subject.held();
        self.asking.store(false, Relaxed);
        held
    }

    /// A fresh block, filled.
    fn take<S: Subject>(&self, subject: &S, cpu: usize, block: S::Block, length: usize) -> CheckedBlock<S::Block> {
        let seed = self.blocks.fetch_add(1, Relaxed);
        let mut errors = 0;
        let held = Held::fill(subject, block, length, seed, &mut errors);
        self.errors.fetch_add(errors, Relaxed);
        self.live_blocks.fetch_add(1, Relaxed);
        self.live_bytes.fetch_add(length as u64, Relaxed);
        self.look(subject);
        CheckedBlock { held, cpu }
    }

    /// A block about to be given back.
    fn give<S: Subject>(&self, subject: &S, block: CheckedBlock<S::Block>) -> S::Block {
        self.weigh(subject);
        self.look(subject);
        let mut errors = 0;
        block.held.verify(subject, &mut errors);
        self.errors.fetch_add(errors, Relaxed);
        self.live_blocks.fetch_sub(1, Relaxed);
        self.live_bytes.fetch_sub(block.held.length as u64, Relaxed);
        block.held.block
    }

    /// A look at the memory, for the picture over time.
    fn look(&self, subject: &impl Subject) {
        let (calls, live) = (self.calls.fetch_add(1, Relaxed), self.live_bytes.load(Relaxed));
        let before = self.held_before.load(Relaxed);
        self.memory.look(calls, live, || self.held(subject)?.checked_sub(before));
    }

    /// Asks what the allocator holds when more lives than before, by 1 % at least.
    fn weigh(&self, subject: &impl Subject) {
        let (live, peak) = (self.live_bytes.load(Relaxed), self.peak_live.load(Relaxed));
        if live > peak + peak / 100
            && let Some(held) = self.held(subject)
        {
            self.peak_live.fetch_max(live, Relaxed);
            self.peak_held.fetch_max(held, Relaxed);
        }
    }
}

impl<S: Subject> Company<S> {
    fn new(subject: S, cpus: usize, tally: Arc<Tally>) -> Arc<Self> {
        let blocks = (0..cpus).map(|_| Mutex::new(VecDeque::with_capacity(MOST_COMPANY + 1))).collect();
        Arc::new(Self { subject, blocks, tally })
    }

    /// Takes one in; the oldest go when there are too many: after smaller ones there may be.
    fn join(&self, block: CheckedBlock<S::Block>, way: Way) {
        let most = (MOST_COMPANY_BYTES / block.held.length).clamp(2, MOST_COMPANY);
        let cpu = block.cpu;
        self.blocks[cpu].lock().push_back((block, way));
        let leaving = || {
            let mut blocks = self.blocks[cpu].lock();
            if blocks.len() > most { blocks.pop_front() } else { None }
        };
        while let Some((block, way)) = leaving() {
            self.release(block, way);
        }
    }

    fn release(&self, block: CheckedBlock<S::Block>, way: Way) {
        let block = self.tally.give(&self.subject, block);
        match way {
            Way::Plain => self.subject.free(block),
            Way::Inlined => self.subject.free_inlined(block),
            Way::Pages(order) => self.subject.free_pages(block, order),
        }
    }
}

impl<S: Subject> Drop for Company<S> {
    fn drop(&mut self) {
        for crowd in mem::take(&mut self.blocks) {
            for (block, way) in crowd.into_inner() {
                self.release(block, way);
            }
        }
    }
}

impl<S: Subject> Checked<S> {
    pub(crate) fn new(subject: S, cpus: usize, memory: Arc<Memory>) -> Self {
        let tally = Arc::new(Tally::new(memory));
        Self { subject: subject.clone(), cpu: 0, company: Company::new(subject, cpus, tally.clone()), tally }
    }

    /// Where it counts. What it says is complete when all handles on the subject are gone.
    pub(crate) fn tally(&self) -> Arc<Tally> {
        self.tally.clone()
    }

    /// A block by `allocate`, and one for the company.
    fn take(
        &self,
        length: usize,
        way: Way,
        mut allocate: impl FnMut() -> Option<S::Block>,
    ) -> Option<CheckedBlock<S::Block>> {
        self.tally.begin(&self.subject);
        let block = self.tally.take(&self.subject, self.cpu, allocate()?, length);
        if let Some(other) = allocate() {
            self.company.join(self.tally.take(&self.subject, self.cpu, other, length), way);
        }
        Some(block)
    }

    /// A block about to be given back, by the workload.
    fn give(&self, block: CheckedBlock<S::Block>) -> S::Block {
        self.tally.frees.fetch_add(1, Relaxed);
        self.tally.remote_frees.fetch_add(u64::from(block.cpu != self.cpu), Relaxed);
        self.tally.give(&self.subject, block)
    }
}

impl<S: Subject> Subject for Checked<S> {
    type Block = CheckedBlock<S::Block>;
    type Objects = Checked<S::Objects>;

    const NAME: &'static str = S::NAME;

    const FEATURES: &'static [Feature] = S::FEATURES;

    fn allocate(&self, size: usize) -> Option<Self::Block> {
        self.take(size, Way::Plain, || self.subject.allocate(size))
    }

    fn free(&self, block: Self::Block) {
        self.subject.free(self.give(block));
    }

    fn allocate_inlined<const SIZE: usize>(&self) -> Option<Self::Block> {
        self.take(SIZE, Way::Inlined, || self.subject.allocate_inlined::<SIZE>())
    }

    fn free_inlined(&self, block: Self::Block) {
        self.subject.free_inlined(self.give(block));
    }

    fn allocate_constant<const SIZE: usize>(&self) -> Option<Self::Block> {
        self.take(SIZE, Way::Plain, || self.subject.allocate_constant::<SIZE>())
    }

    fn allocate_on(&self, size: usize, node: NodeId) -> Option<Self::Block> {
        self.take(size, Way::Plain, || {
            let block = self.subject.allocate_on(size, node);
            let found = block.as_ref().and_then(|block| self.subject.node_of(block));
            self.tally.error_if(found.is_some_and(|found| found != node));
            block
        })
    }

    fn allocate_pages(&self, order: u32) -> Option<Self::Block> {
        self.take(4096 << order, Way::Pages(order), || self.subject.allocate_pages(order))
    }

    fn free_pages(&self, block: Self::Block, order: u32) {
        self.tally.error_if(block.held.length != 4096 << order);
        self.subject.free_pages(self.give(block), order);
    }

    fn allocate_zeroed(&self, size: usize) -> Option<Self::Block> {
        self.take(size, Way::Plain, || {
            let block = self.subject.allocate_zeroed(size);
            self.tally.error_if(block.as_ref().is_some_and(|block| !self.subject.is_zero(block, size)));
            block
        })
    }

    fn allocate_atomic(&self, size: usize) -> Option<Self::Block> {
        self.take(size, Way::Plain, || self.subject.allocate_atomic(size))
    }

    fn allocate_bulk(&self, size: usize, places: &mut Places<Self::Block>) -> bool {
        let count = places.len();
        let mut fresh = Places::new(count);
        self.tally.begin(&self.subject);
        let complete = self.subject.allocate_bulk(size, &mut fresh);
        fresh.empty(|fresh| {
            self.tally.error_if(fresh.iter().any(Option::is_none));
            places.fill(|places| {
                for (place, block) in places.iter_mut().zip(fresh) {
                    *place = block.take().map(|block| self.tally.take(&self.subject, self.cpu, block, size));
                }
                true
            });
        });
        // Blocks of one call have no contents to lose before all are there; those that come one by one have.
        for _ in 0..count.min(BULK_COMPANY) {
            if let Some(other) = self.subject.allocate(size) {
                self.company.join(self.tally.take(&self.subject, self.cpu, other, size), Way::Plain);
            }
        }
        complete
    }

    fn free_bulk(&self, places: &mut Places<Self::Block>) {
        let mut given = Places::new(places.len());
        places.empty(|places| {
            given.fill(|given| {
                for (place, block) in given.iter_mut().zip(places) {
                    *place = block.take().map(|block| self.give(block));
                }
                true
            });
        });
        self.subject.free_bulk(&mut given);
    }

    fn objects(&self, size: usize) -> Option<Self::Objects> {
        let subject = self.subject.objects(size)?;
        let company = Company::new(subject.clone(), self.company.blocks.len(), self.tally.clone());
        Some(Checked { subject, cpu: self.cpu, company, tally: self.tally.clone() })
    }

    fn memory(&self) -> Option<u64> {
        self.subject.memory()
    }

    fn occupy(&self, leave: u64, cached: u64) -> Option<Arc<dyn Ballast>> {
        self.subject.occupy(leave, cached)
    }

    fn for_cpu(&self, cpu: usize) -> Self {
        Self { subject: self.subject.for_cpu(cpu), cpu, ..self.clone() }
    }

    fn address(&self, block: &Self::Block) -> usize {
        self.subject.address(&block.held.block)
    }

    fn fill(&self, block: &mut Self::Block, length: usize, seed: u64) {
        self.subject.fill(&mut block.held.block, length, seed);
    }

    fn check(&self, block: &Self::Block, length: usize, seed: u64) -> bool {
        self.subject.check(&block.held.block, length, seed)
    }

    fn is_zero(&self, block: &Self::Block, length: usize) -> bool {
        self.subject.is_zero(&block.held.block, length)
    }

    /// Checks the block beforehand, for afterwards its pattern is written anew.
    fn touch(&self, block: &mut Self::Block, writes: u32) {
        let mut errors = 0;
        block.held.verify(&self.subject, &mut errors);
        self.tally.errors.fetch_add(errors, Relaxed);
        let Held { block, length, seed } = &mut block.held;
        self.subject.touch(block, writes);
        self.subject.fill(block, *length, *seed);
    }

    fn alignment(&self, size: usize) -> usize {
        self.subject.alignment(size)
    }

    fn trim(&self) {
        self.subject.trim();
    }

    fn node_of(&self, block: &Self::Block) -> Option<NodeId> {
        self.subject.node_of(&block.held.block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_that_touch_do_not_overlap() {
        assert_eq!(overlaps(&mut [(8, 16), (0, 8), (16, 17)]), 0);
    }

    #[test]
    fn equal_ranges_overlap() {
        assert_eq!(overlaps(&mut [(8, 16), (8, 16)]), 1);
    }

    proptest! {
        #[test]
        fn overlap_is_found_exactly_where_some_byte_is_in_two_ranges(
            ranges in proptest::collection::vec((0_usize..64, 1_usize..16), 0..12)
        ) {
            let mut ranges: Vec<Range> = ranges.into_iter().map(|(start, length)| (start, start + length)).collect();
            let covered = |byte: usize| ranges.iter().filter(|range| (range.0..range.1).contains(&byte)).count();
            let expected = (0..80).any(|byte| covered(byte) > 1);
            prop_assert_eq!(overlaps(&mut ranges) > 0, expected);
        }
    }
}
