//! `sh6bench` and `sh8bench`: the benchmarks of `SmartHeap`, a commercial allocator.
//!
//! `MicroQuill` Software Publishing, 2000 and 2005; the originals may not be passed on, and what is here was written
//! from what they do. A thread fills an array with blocks. When it is full, it frees all but a fifth: those before the fifth
//! in the order they were allocated, those behind it in the reverse order. Then it fills the places freed, the next
//! fifth is spared, and so on: most blocks live for one round, some for two, and each free takes from both ends.
//!
//! - `sh6bench`: sizes in runs. For 1, 2, 4, 7, 11 and so on, half as much again each time, below 1000: that size, half
//!   of it, and so on to 1; 250 blocks of each size below 100, 50 of each other.
//! - `sh8bench`: 12 sizes from 8 bytes to 165 KiB, in runs of 5000 (the second smallest) to 1 (the largest). In every
//!   round each thread frees blocks of 8 bytes that were allocated by others.
//!
//! Here a round is a sample and the array has 4095 places a CPU. In `sh8bench` every CPU allocates as many small blocks
//! for its neighbour as make a tenth of its allocations; in the original the main thread allocates them for all.
//! Sizes too large for the share of a CPU's memory that one block may have are left out.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::allocate_and_touch;
use crate::dimensions::{
    SH6_END, SH8_LARGEST_PART as LARGEST_PART, SH8_RECKONED, SMARTHEAP_PARTS as PARTS, SMARTHEAP_PLACES as PLACES,
};
use crate::exchange::Exchange;
use crate::measure::{Run, Samples};
use crate::platform::Platform;
use crate::subject::Subject;
use crate::workloads::Body;

/// Of the places that are filled in a round, this part is as many blocks for the neighbour, in `sh8bench`.
const FOREIGN_PART: usize = 10;

const FOREIGN_SIZE: usize = 8;

const WRITES: u32 = 1;

pub(super) fn sample_sh6<P: Platform, S: Subject>(run: Run<P>, subject: &S) -> Samples {
    let places = run.blocks(PLACES, Ladder::END);
    run.sample(subject, move |subject, _| Rounds::new(subject, places, Ladder::new()))
}

pub(super) fn sample_sh8<P: Platform, S: Subject>(run: Run<P>, subject: &S) -> Samples {
    let (platform, cpus) = (run.platform, run.case.cpus);
    let places = run.blocks(PLACES, SH8_RECKONED);
    let largest = (run.sampling.most_bytes / LARGEST_PART) as usize;
    let exchange = Arc::new(Exchange::new(cpus));
    run.sample(subject, move |subject, cpu| {
        let rounds = Rounds::new(subject, places, Histogram::new(largest));
        let foreign = rounds.filled().div_ceil(FOREIGN_PART);
        let mut foreign =
            Foreign { platform, cpu, blocks: (0..foreign).map(|_| None).collect(), exchange: exchange.clone(), rounds };
        foreign.give();
        foreign
    })
}

/// What sizes follow one another.
trait Sizes {
    fn next(&mut self) -> usize;
}

/// An array of blocks, of which a fifth is spared.
struct Rounds<S: Subject, Z> {
    subject: S,
    sizes: Z,
    places: Vec<Option<S::Block>>,
    /// The part that holds blocks between two samples.
    spared: usize,
}

impl<S: Subject, Z: Sizes> Rounds<S, Z> {
    fn new(subject: S, places: usize, mut sizes: Z) -> Self {
        let part = (places / PARTS).max(1);
        let mut places: Vec<_> = (0..part * PARTS).map(|_| None).collect();
        for place in &mut places[..part] {
            *place = subject.allocate(sizes.next());
        }
        Self { subject, sizes, places, spared: 0 }
    }

    /// Places that are filled, and freed, in a round.
    fn filled(&self) -> usize {
        self.places.len() / PARTS * (PARTS - 1)
    }
}

impl<S: Subject, Z: Sizes> Body for Rounds<S, Z> {
    fn fixed_operations(&self) -> Option<u64> {
        Some(self.filled() as u64)
    }

    #[inline(never)]
    fn run(&mut self, _phase: usize, _operations: u64) -> u64 {
        let subject = self.subject.clone();
        let part = self.places.len() / PARTS;
        let mut failures = 0;
        for (index, places) in self.places.chunks_exact_mut(part).enumerate() {
            if index != self.spared {
                for place in places {
                    *place = allocate_and_touch(&subject, self.sizes.next(), WRITES);
                    failures += u64::from(place.is_none());
                }
            }
        }
        self.spared = (self.spared + 1) % PARTS;
        let (before, rest) = self.places.split_at_mut(self.spared * part);
        let behind = &mut rest[part..];
        for place in before.iter_mut().chain(behind.iter_mut().rev()) {
            if let Some(block) = place.take() {
                subject.free(block);
            }
        }
        failures
    }

    fn finish(&mut self) {
        for block in self.places.drain(..).flatten() {
            self.subject.free(block);
        }
    }
}

/// Rounds that begin with the frees of blocks from another CPU.
struct Foreign<S: Subject, P> {
    rounds: Rounds<S, Histogram>,
    platform: P,
    cpu: usize,
    blocks: Vec<Option<S::Block>>,
    exchange: Arc<Exchange<Option<S::Block>>>,
}

impl<S: Subject, P: Platform> Foreign<S, P> {
    /// Allocates blocks for the neighbour and gets those of the other. All CPUs come here. Returns failures.
    fn give(&mut self) -> u64 {
        for place in &mut self.blocks {
            *place = self.rounds.subject.allocate(FOREIGN_SIZE);
        }
        let failures = self.blocks.iter().filter(|block| block.is_none()).count();
        self.exchange.pass_on(self.platform, self.cpu, &mut self.blocks);
        failures as u64
    }

    fn free(&mut self) {
        let subject = self.rounds.subject.clone();
        for place in &mut self.blocks {
            if let Some(block) = place.take() {
                subject.free(block);
            }
        }
    }
}

impl<S: Subject, P: Platform> Body for Foreign<S, P> {
    fn fixed_operations(&self) -> Option<u64> {
        self.rounds.fixed_operations()
    }

    #[inline(never)]
    fn run(&mut self, phase: usize, operations: u64) -> u64 {
        self.free();
        self.rounds.run(phase, operations)
    }

    fn after(&mut self, _phase: usize) -> u64 {
        self.give()
    }

    fn finish(&mut self) {
        self.free();
        self.rounds.finish();
    }
}

/// The sizes of `sh6bench`.
struct Ladder {
    /// Where the run of halves began.
    rung: usize,
    size: usize,
    /// Blocks of this size still to come.
    left: usize,
}

impl Ladder {
    /// Sizes are below this.
    const END: usize = SH6_END;

    /// The last rung below the end.
    const TOP: usize = 709;

    /// From the top, so that the few blocks of a short run are not all tiny.
    const fn new() -> Self {
        Self { rung: Self::TOP, size: Self::TOP, left: Self::count(Self::TOP) }
    }

    /// Blocks of a size before the next one.
    const fn count(size: usize) -> usize {
        if size < 100 { 250 } else { 50 }
    }
}

impl Sizes for Ladder {
    #[inline(always)]
    fn next(&mut self) -> usize {
        if self.left == 0 {
            self.size /= 2;
            if self.size == 0 {
                self.rung = self.rung + self.rung / 2 + 1;
                if self.rung >= Self::END {
                    self.rung = 1;
                }
                self.size = self.rung;
            }
            self.left = Self::count(self.size);
        }
        self.left -= 1;
        self.size
    }
}

/// The sizes of `sh8bench`.
struct Histogram {
    largest: usize,
    index: usize,
    left: usize,
}

impl Histogram {
    /// Sizes, and how many blocks of each follow one another.
    const RUNS: [(usize, usize); 12] = [
        (8, 1000),
        (16, 5000),
        (48, 1000),
        (72, 100),
        (148, 100),
        (200, 100),
        (520, 10),
        (1056, 5),
        (4096, 3),
        (9162, 1),
        (34_562, 1),
        (168_524, 1),
    ];

    /// Behind the long run, so that a short one sees most sizes.
    const FIRST: usize = 2;

    /// Without sizes above that, but with the smallest.
    const fn new(largest: usize) -> Self {
        Self { largest, index: Self::FIRST, left: Self::RUNS[Self::FIRST].1 }
    }
}

impl Sizes for Histogram {
    #[inline(always)]
    fn next(&mut self) -> usize {
        if self.left == 0 {
            self.index += 1;
            if self.index == Self::RUNS.len() || Self::RUNS[self.index].0 > self.largest {
                self.index = 0;
            }
            self.left = Self::RUNS[self.index].1;
        }
        self.left -= 1;
        Self::RUNS[self.index].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::LARGE;
    use alloc::vec;

    /// The sizes of runs, one after the other, and the blocks in each.
    fn runs(sizes: &mut impl Sizes, count: usize) -> Vec<(usize, usize)> {
        let mut runs: Vec<(usize, usize)> = vec![];
        while runs.len() <= count {
            let size = sizes.next();
            match runs.last_mut() {
                Some((last, blocks)) if *last == size => *blocks += 1,
                _ => runs.push((size, 1)),
            }
        }
        runs.truncate(count);
        runs
    }

    #[test]
    fn the_ladder_halves_each_rung_down_to_one() {
        let top = [(709, 50), (354, 50), (177, 50), (88, 250), (44, 250), (22, 250), (11, 250), (5, 250), (2, 250)];
        // The run of size 1 at the end and the one it begins with again follow one another.
        let again = [(1, 500), (2, 250), (1, 250), (4, 250), (2, 250), (1, 250), (7, 250), (3, 250), (1, 250)];
        let found = runs(&mut Ladder::new(), 18);
        assert_eq!(found[..9], top);
        assert_eq!(found[9..], again);
    }

    #[test]
    fn the_ladder_never_reaches_its_end_and_begins_again() {
        let mut ladder = Ladder::new();
        let sizes: Vec<usize> = (0..100_000).map(|_| ladder.next()).collect();
        assert_eq!(sizes.iter().max(), Some(&709), "the largest rung below 1000");
        assert!(sizes.iter().all(|size| *size > 0));
        let first: Vec<usize> = sizes[..3000].to_vec();
        assert!(sizes[3000..].windows(3000).any(|window| window == first), "the ladder repeats");
    }

    #[test]
    fn the_histogram_has_a_size_that_not_every_allocator_has() {
        assert!(Histogram::RUNS.iter().any(|(size, _)| *size > LARGE), "else its shape need not ask for the feature");
    }

    #[test]
    fn the_histogram_goes_round() {
        let mut histogram = Histogram::new(usize::MAX);
        let once = runs(&mut histogram, 12);
        let (first, rest) = Histogram::RUNS.split_at(Histogram::FIRST);
        assert_eq!(once, [rest, first].concat());
        let (bytes, blocks) = Histogram::RUNS
            .iter()
            .fold((0, 0), |(bytes, blocks), (size, count)| (bytes + size * count, blocks + count));
        assert!(bytes / blocks < SH8_RECKONED, "{}", bytes / blocks);
    }

    #[test]
    fn the_histogram_leaves_out_what_is_too_large() {
        assert_eq!(runs(&mut Histogram::new(5000), 9)[6..], [(4096, 3), (8, 1000), (16, 5000)]);
    }
}
