//! `alloc-test`: sizes and slots that are not equally likely.
//!
//! `OLogN` Technologies (Ignatchenko and Ivanchykhin), 2018, as in mimalloc-bench. A thread has slots, half of them
//! filled. It chooses one at random, frees the block if there is one, and allocates one if there is none. Slots are
//! chosen by Pareto's rule, six times over: of all accesses 80 % fall on 20 % of the slots, of these 80 % on 20 %
//! again, and so on. Sizes are 5 to 1024 bytes: each octave is half as likely as the one below it.
//!
//! Here the slots of all CPUs together are 16 Ki (the original's: 256 Ki).

use alloc::vec::Vec;

use super::allocate_and_touch;
use crate::dimensions::{
    ALLOC_TEST_FEWEST_SLOTS as FEWEST_SLOTS, ALLOC_TEST_LARGEST as LARGEST, ALLOC_TEST_SLOTS as SLOTS,
};
use crate::measure::{Run, Samples};
use crate::platform::Platform;
use crate::random::Random;
use crate::subject::Subject;
use crate::workloads::{Body, places};

const WRITES: u32 = 1;

pub(super) fn sample<P: Platform, S: Subject>(run: Run<P>, subject: &S) -> Samples {
    let slots = run.blocks(SLOTS / run.case.cpus, LARGEST).max(FEWEST_SLOTS);
    let seed = run.sampling.seed;
    run.sample(subject, move |subject, cpu| {
        let mut random = Random::new(seed, cpu as u64);
        let mut fill = || {
            let filled = random.below(2) == 1;
            filled.then(|| subject.allocate(draw_size(&mut random))).flatten()
        };
        let slots = (0..slots).map(|_| fill()).collect::<Vec<_>>();
        AllocTest { subject, random, chances: Pareto::new(slots.len()), slots }
    })
}

/// 5 to [`LARGEST`]: an octave by the trailing zeros of seven random bits, then uniform inside it.
#[inline(always)]
fn draw_size(random: &mut Random) -> usize {
    let bits = random.next_u64() >> 32;
    let octave = ((bits & 0x7f) + 1).trailing_zeros() + 2;
    let start = 1 << octave;
    start + 1 + ((bits >> 7) as usize & (start - 1))
}

/// Ranges of slots, the fewer the more often each is chosen.
struct Pareto {
    /// Where each range begins, and where the last one ends.
    starts: [u64; Self::RANGES + 1],
}

impl Pareto {
    const RANGES: usize = 7;

    /// How likely each range is, in 2^-32, all those before it included: of six choices between 80 % and 20 %, so many
    /// were the latter. The slots of a range are the part that the mirrored range has of the accesses.
    const CUMULATIVE: [u64; Self::RANGES] =
        [1_125_899_906, 2_814_749_767, 3_870_280_930, 4_222_124_650, 4_288_095_348, 4_294_692_418, 1 << 32];

    fn new(slots: usize) -> Self {
        let mut starts = [0; Self::RANGES + 1];
        for range in 1..Self::RANGES {
            let part = (1 << 32) - Self::CUMULATIVE[Self::RANGES - 1 - range];
            // Every range has a slot.
            starts[range] = ((slots as u64 * part) >> 32).max(starts[range - 1] + 1);
        }
        starts[Self::RANGES] = slots as u64;
        Self { starts }
    }

    #[inline(always)]
    fn draw(&self, random: &mut Random) -> usize {
        let bits = random.next_u64() >> 32;
        let range = Self::CUMULATIVE.iter().take_while(|end| bits >= **end).count();
        let start = self.starts[range];
        (start + random.below(self.starts[range + 1] - start)) as usize
    }
}

struct AllocTest<S: Subject> {
    subject: S,
    random: Random,
    chances: Pareto,
    slots: Vec<Option<S::Block>>,
}

impl<S: Subject> Body for AllocTest<S> {
    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let subject = self.subject.clone();
        let slots = self.slots.as_mut_slice();
        let mut random = self.random.clone();
        let mut failures = 0;
        for _ in 0..operations {
            let slot = &mut slots[self.chances.draw(&mut random)];
            if let Some(block) = slot.take() {
                subject.free(block);
            } else {
                *slot = allocate_and_touch(&subject, draw_size(&mut random), WRITES);
                failures += u64::from(slot.is_none());
            }
        }
        self.random = random;
        failures
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
        fn sizes_stay_in_their_range(seed: u64) {
            let mut random = Random::new(seed, 0);
            for _ in 0..100 {
                prop_assert!((5..=LARGEST).contains(&draw_size(&mut random)));
            }
        }

        #[test]
        fn slots_exist_and_every_range_has_one(seed: u64, slots in FEWEST_SLOTS..100_000) {
            let pareto = Pareto::new(slots);
            prop_assert!(pareto.starts.is_sorted_by(|one, next| one < next), "{:?}", pareto.starts);
            let mut random = Random::new(seed, 0);
            for _ in 0..100 {
                prop_assert!(pareto.draw(&mut random) < slots);
            }
        }
    }

    #[test]
    fn each_octave_of_sizes_is_half_as_likely_as_the_one_below() {
        let mut random = Random::new(1, 0);
        let mut octaves = [0_u32; 8];
        for _ in 0..128_000 {
            octaves[(draw_size(&mut random) - 1).ilog2() as usize - 2] += 1;
        }
        for (octave, count) in octaves.iter().enumerate() {
            // The last octave takes what all further ones would have, which is as much as the one before it has.
            let expected = f64::from(64_000_u32 >> octave.min(6));
            assert!((f64::from(*count) - expected).abs() < 5.0 * expected.sqrt(), "{octaves:?}");
        }
    }

    #[test]
    fn four_fifths_of_accesses_fall_on_a_fifth_of_slots_or_less() {
        const SLOTS: usize = 1000;
        let pareto = Pareto::new(SLOTS);
        let mut random = Random::new(2, 0);
        let mut counts = [0_u32; SLOTS];
        for _ in 0..100_000 {
            counts[pareto.draw(&mut random)] += 1;
        }
        counts.sort_unstable_by(|one, other| other.cmp(one));
        let fifth: u32 = counts[..SLOTS / 5].iter().sum();
        assert!(fifth > 80_000, "{fifth}");
    }
}
