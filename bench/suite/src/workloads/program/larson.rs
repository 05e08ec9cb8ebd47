//! `larson`: a server that runs for long.
//!
//! Larson and Krishnan, "Memory Allocation for Long-Running Server Applications", ISMM 1998. Every thread has slots,
//! each with a block of random size. It frees the block of a slot at random and puts a new one there, and writes two
//! bytes to it; after some rounds the thread ends, and a new one inherits its slots, so that blocks are freed by other
//! threads than allocated them. Sizes and slots are those of mimalloc-bench: 8 to 999 bytes, 5000 slots a thread.
//!
//! Here the threads stay and the slots go, to the next CPU after each sample. That is sooner than in the original,
//! which makes 100 replacements a slot first.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::allocate_and_touch;
use crate::dimensions::{LARSON_END, LARSON_SLOTS as SLOTS};
use crate::exchange::Exchange;
use crate::measure::{Run, Samples};
use crate::platform::Platform;
use crate::random::Random;
use crate::subject::Subject;
use crate::workloads::{Body, places};

/// Sizes are in `SMALLEST..END`, all equally likely.
const SMALLEST: u64 = 8;
const END: u64 = LARSON_END as u64;

const WRITES: u32 = 2;

fn draw_size(random: &mut Random) -> usize {
    (SMALLEST + random.below(END - SMALLEST)) as usize
}

pub(super) fn sample<P: Platform, S: Subject>(run: Run<P>, subject: &S) -> Samples {
    let (platform, seed) = (run.platform, run.sampling.seed);
    let slots = run.blocks(SLOTS, END as usize);
    let exchange = Arc::new(Exchange::new(run.case.cpus));
    run.sample(subject, move |subject, cpu| {
        let mut random = Random::new(seed, cpu as u64);
        let slots = (0..slots).map(|_| subject.allocate(draw_size(&mut random))).collect();
        Larson { subject, platform, cpu, random, slots, exchange: exchange.clone() }
    })
}

struct Larson<S: Subject, P> {
    subject: S,
    platform: P,
    cpu: usize,
    random: Random,
    slots: Vec<Option<S::Block>>,
    exchange: Arc<Exchange<Option<S::Block>>>,
}

impl<S: Subject, P: Platform> Body for Larson<S, P> {
    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let subject = self.subject.clone();
        let slots = self.slots.as_mut_slice();
        let mut random = self.random.clone();
        let mut failures = 0;
        for _ in 0..operations {
            let slot = &mut slots[random.below(slots.len() as u64) as usize];
            // As `places::replace`, which compiles to another number of instructions here.
            if let Some(block) = slot.take() {
                subject.free(block);
            }
            *slot = allocate_and_touch(&subject, draw_size(&mut random), WRITES);
            failures += u64::from(slot.is_none());
        }
        self.random = random;
        failures
    }

    fn after(&mut self, _phase: usize) -> u64 {
        self.exchange.pass_on(self.platform, self.cpu, &mut self.slots);
        0
    }

    fn finish(&mut self) {
        places::free_objects(&self.subject, &mut self.slots);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sizes_are_those_of_the_original(seed: u64) {
            let mut random = Random::new(seed, 0);
            for _ in 0..100 {
                prop_assert!((8..1000).contains(&draw_size(&mut random)));
            }
        }
    }

    #[test]
    fn sizes_are_spread_evenly() {
        let mut random = Random::new(1, 0);
        let mean = (0..10_000).map(|_| draw_size(&mut random)).sum::<usize>() as f64 / 10_000.0;
        // Uniform over 8..=999 has mean 503.5; the mean of 10,000 has a deviation of 2.9.
        assert!((mean - 503.5).abs() < 15.0, "{mean}");
    }
}
