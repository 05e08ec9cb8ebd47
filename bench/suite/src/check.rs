//! The pass that checks what the timed loops do not: every block written and read, compared with every other.
//!
//! It asks for memory by the way of the case it belongs to, on as many CPUs at once, and counts: allocations that
//! failed, blocks misaligned or on another node than asked for, contents that changed while held, blocks that overlap
//! others of any CPU, and memory that did not come back.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use quarry_topology::NodeId;
use spin::Mutex;

use crate::case::{Case, Extent, Workload};
use crate::loops::Exchange;
use crate::measure::nodes;
use crate::platform::{Barrier, Platform};
use crate::random::{Random, log_uniform_size};
use crate::sizes::{WithSize, dispatch};
use crate::subject::Subject;

/// Most blocks a CPU holds.
const MOST_BLOCKS: usize = 512;

/// Most bytes a CPU holds, if that is two blocks at least.
const MOST_BYTES: usize = 256 << 10;

/// A block filled with its pattern.
pub(crate) struct Held<B> {
    pub(crate) block: B,
    pub(crate) length: usize,
    pub(crate) seed: u64,
}

impl<B> Held<B> {
    /// Fills a fresh block; counts an error when it is misaligned.
    pub(crate) fn fill<S: Subject<Block = B>>(
        subject: S,
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
    pub(crate) fn verify<S: Subject<Block = B>>(&self, subject: S, errors: &mut u64) {
        if !subject.check(&self.block, self.length, self.seed) {
            *errors += 1;
        }
    }

    /// Where it lies.
    pub(crate) fn range<S: Subject<Block = B>>(&self, subject: S) -> Range {
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

/// Checks `case` over `subject`; returns the number of errors.
pub(crate) fn check<P: Platform, S: Subject>(platform: P, subject: S, case: Case, seed: u64) -> u64 {
    let before = subject.in_use();
    let team: Arc<Team<S>> = Arc::new(Team {
        barrier: Barrier::new(case.cpus),
        exchange: Exchange::new(case.cpus),
        ranges: Mutex::new(Vec::new()),
    });
    let errors = platform.on_cpus(case.cpus, move |cpu| {
        let mut checker = Checker {
            platform,
            subject,
            case,
            cpu,
            nodes: case.placement.map(|placement| nodes(platform, cpu, placement)),
            random: Random::new(seed, cpu as u64),
            team: team.clone(),
            errors: 0,
        };
        checker.run();
        checker.errors
    });
    // Where the subject is everybody's allocator, the list of errors must be gone before it is asked.
    let errors = errors.into_iter().sum::<u64>();
    let lost = before.is_some_and(|before| subject.in_use() != Some(before));
    errors + u64::from(lost)
}

struct Team<S: Subject> {
    barrier: Barrier,
    exchange: Exchange<Held<S::Block>>,
    ranges: Mutex<Vec<Range>>,
}

struct Checker<P, S: Subject> {
    platform: P,
    subject: S,
    case: Case,
    cpu: usize,
    nodes: Option<[NodeId; 2]>,
    random: Random,
    team: Arc<Team<S>>,
    errors: u64,
}

struct AllocateInlined<S>(S);

impl<S: Subject> WithSize for AllocateInlined<S> {
    type Output = Option<S::Block>;

    fn with<const SIZE: usize>(self) -> Self::Output {
        self.0.allocate_inlined::<SIZE>()
    }
}

impl<P: Platform, S: Subject> Checker<P, S> {
    fn run(&mut self) {
        let most = self.most_blocks();
        // A block alone meets the pages of the one before it; a crowd has neighbours; a second crowd is of used blocks.
        for count in [1, most, most] {
            let mut blocks = self.take(count);
            if self.case.workload == Workload::Mix {
                self.replace_at_random(&mut blocks);
            }
            self.compare_with_all(&blocks);
            if self.case.workload == Workload::Remote {
                let exchange = &self.team.exchange;
                exchange.pass_on(self.platform, self.cpu, &mut blocks);
            }
            for held in blocks {
                self.give_back(held);
            }
        }
    }

    fn most_blocks(&self) -> usize {
        let length = match self.case.extent {
            Extent::Size(size) => size,
            Extent::Order(order) => 4096 << order,
            Extent::Mixed => crate::random::MIX_MAXIMUM,
        };
        let share = self.platform.memory() as usize / self.case.cpus / length;
        (MOST_BYTES / length).clamp(2, MOST_BLOCKS).min(share.max(1))
    }

    fn take(&mut self, count: usize) -> Vec<Held<S::Block>> {
        (0..count).filter_map(|index| self.take_one(index)).collect()
    }

    /// A block by the way of the case, filled.
    fn take_one(&mut self, index: usize) -> Option<Held<S::Block>> {
        let subject = self.subject;
        let seed = self.random.next_u64();
        let mut wanted = None;
        let (length, block) = match (self.case.workload, self.case.extent) {
            (Workload::PairInlined, Extent::Size(size)) => (size, dispatch(size, AllocateInlined(subject)).flatten()),
            (_, Extent::Size(size)) => {
                wanted = self.nodes.map(|nodes| nodes[index & 1]);
                (size, wanted.map_or_else(|| subject.allocate(size), |node| subject.allocate_on(size, node)))
            }
            (_, Extent::Order(order)) => (4096 << order, subject.allocate_pages(order)),
            (_, Extent::Mixed) => {
                let size = log_uniform_size(&mut self.random);
                (size, subject.allocate(size))
            }
        };
        let Some(block) = block else {
            self.errors += 1;
            return None;
        };
        let held = Held::fill(subject, block, length, seed, &mut self.errors);
        let found = subject.node_of(&held.block);
        if wanted.is_some() && found.is_some() && found != wanted {
            self.errors += 1;
        }
        Some(held)
    }

    fn give_back(&mut self, held: Held<S::Block>) {
        held.verify(self.subject, &mut self.errors);
        match (self.case.workload, self.case.extent) {
            (_, Extent::Order(order)) => self.subject.free_pages(held.block, order),
            (Workload::PairInlined, _) => self.subject.free_inlined(held.block),
            _ => self.subject.free(held.block),
        }
    }

    fn replace_at_random(&mut self, blocks: &mut [Held<S::Block>]) {
        for index in 0..4 * blocks.len() {
            let place = self.random.below(blocks.len() as u64) as usize;
            if let Some(fresh) = self.take_one(index) {
                let old = mem::replace(&mut blocks[place], fresh);
                self.give_back(old);
            }
        }
    }

    /// While all CPUs hold theirs: looks at every byte, and at every block's place beside all others.
    fn compare_with_all(&mut self, blocks: &[Held<S::Block>]) {
        let team = self.team.clone();
        team.ranges.lock().extend(blocks.iter().map(|held| held.range(self.subject)));
        team.barrier.wait(self.platform);
        if self.cpu == 0 {
            self.errors += overlaps(&mut mem::take(&mut *team.ranges.lock()));
        }
        for held in blocks {
            held.verify(self.subject, &mut self.errors);
        }
        team.barrier.wait(self.platform);
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
