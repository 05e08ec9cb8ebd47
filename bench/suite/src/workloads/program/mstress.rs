//! `mstress`: everything at once, with lifetimes at random.
//!
//! mimalloc's own stress test (`test-stress.c`, mstress in mimalloc-bench), Leijen, 2018. In each step a thread
//! allocates: either a block it soon frees or one it retains to the end, half as many as the others. With a chance of
//! 66 % it frees one of the former at random, with one of 25 % it swaps one with a place that all threads share, of
//! which there are 1000, so that blocks live on elsewhere. At the end it frees all it has. Sizes are powers of two, in
//! words: 1 to 16, of retained blocks 1 to 64; one in a hundred is 100 times as large.
//!
//! Here a sample is one such stress, with a fixed number of steps (the original's depends on the thread), and none of
//! the blocks that the original makes 1000 and 10,000 times as large. The original writes and reads all of a block.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::allocate_and_touch;
use crate::dimensions::{MSTRESS_OTHERS as OTHERS, MSTRESS_RECKONED as RECKONED, MSTRESS_RETAINED as RETAINED};
use crate::exchange::Swap;
use crate::measure::{Run, Samples};
use crate::platform::Platform;
use crate::random::Random;
use crate::subject::Subject;
use crate::workloads::Body;

/// Places all CPUs share.
const TRANSFERS: usize = 1000;

const WORD: usize = 8;

/// Sizes of blocks that are soon freed: `1 << 0 .. 1 << this` words.
const SIZES: u64 = 5;

/// The same of blocks that are retained.
const RETAINED_SIZES: u64 = 7;

const LARGE: usize = 100;

const WRITES: u32 = 1;

pub(super) fn sample<P: Platform, S: Subject>(run: Run<P>, subject: &S) -> Samples {
    let (platform, seed) = (run.platform, run.sampling.seed);
    let retained = run.blocks(RETAINED, RECKONED);
    let transfers = Arc::new(Swap::new(run.case.cpus, TRANSFERS));
    run.sample(subject, move |subject, cpu| Mstress {
        subject,
        platform,
        cpu,
        cpus: run.case.cpus,
        random: Random::new(seed, cpu as u64),
        to_retain: retained,
        retained: Vec::with_capacity(retained),
        others: Vec::with_capacity(retained * OTHERS),
        transfers: transfers.clone(),
    })
}

fn chance(random: &mut Random, percent: u64) -> bool {
    random.below(100) < percent
}

fn draw_size(random: &mut Random, sizes: u64) -> usize {
    let size = WORD << random.below(sizes);
    if chance(random, 1) { size * LARGE } else { size }
}

struct Mstress<S: Subject, P> {
    subject: S,
    platform: P,
    cpu: usize,
    cpus: usize,
    random: Random,
    /// Blocks to retain in a sample.
    to_retain: usize,
    /// Both are empty between samples.
    retained: Vec<Option<S::Block>>,
    others: Vec<Option<S::Block>>,
    transfers: Arc<Swap<S::Block>>,
}

impl<S: Subject, P: Platform> Body for Mstress<S, P> {
    fn fixed_operations(&self) -> Option<u64> {
        Some((self.to_retain * (1 + OTHERS)) as u64)
    }

    #[inline(never)]
    fn run(&mut self, _phase: usize, _operations: u64) -> u64 {
        let (subject, transfers) = (self.subject.clone(), &*self.transfers);
        let (retained, others) = (&mut self.retained, &mut self.others);
        let mut random = self.random.clone();
        let mut failures = 0;
        let (mut to_retain, mut to_allocate) = (self.to_retain, self.to_retain * OTHERS);
        while to_allocate > 0 || to_retain > 0 {
            let retain = to_retain > 0 && (to_allocate == 0 || chance(&mut random, 50));
            let size = draw_size(&mut random, if retain { RETAINED_SIZES } else { SIZES });
            let block = allocate_and_touch(&subject, size, WRITES);
            failures += u64::from(block.is_none());
            if retain {
                to_retain -= 1;
                retained.push(block);
            } else {
                to_allocate -= 1;
                others.push(block);
            }
            if !others.is_empty() && chance(&mut random, 66) {
                let place = random.below(others.len() as u64) as usize;
                if let Some(block) = others[place].take() {
                    subject.free(block);
                }
            }
            if !others.is_empty() && chance(&mut random, 25) {
                let place = random.below(others.len() as u64) as usize;
                transfers.swap(random.below(TRANSFERS as u64) as usize, &mut others[place]);
            }
        }
        for block in retained.drain(..).chain(others.drain(..)).flatten() {
            subject.free(block);
        }
        self.random = random;
        failures
    }

    fn after(&mut self, _phase: usize) -> u64 {
        // Nobody may leave anything behind when others finish.
        self.transfers.meet(self.platform);
        0
    }

    fn finish(&mut self) {
        for place in (self.cpu..TRANSFERS).step_by(self.cpus) {
            if let Some(block) = self.transfers.take(place) {
                self.subject.free(block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sizes_are_powers_of_two_or_a_hundred_times_one(seed: u64, sizes in 1_u64..=RETAINED_SIZES) {
            let mut random = Random::new(seed, 0);
            for _ in 0..100 {
                let size = draw_size(&mut random, sizes);
                let small = if size.is_power_of_two() { size } else { size / LARGE };
                prop_assert!(small.is_power_of_two() && (WORD..WORD << sizes).contains(&small), "{}", size);
            }
        }
    }

    #[test]
    fn one_block_in_a_hundred_is_large_and_the_mean_stays_below_what_is_reckoned_with() {
        let mut random = Random::new(1, 0);
        let sizes: Vec<usize> = (0..100_000).map(|_| draw_size(&mut random, RETAINED_SIZES)).collect();
        let large = sizes.iter().filter(|size| !size.is_power_of_two()).count();
        // 1000 with a deviation of 31.
        assert!((840..=1160).contains(&large), "{large}");
        let mean = sizes.iter().sum::<usize>() / sizes.len();
        assert!(mean < RECKONED, "{mean}");
    }
}
