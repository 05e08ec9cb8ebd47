//! Random numbers and the sizes drawn from them: small, seeded, the same on every machine.

/// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled"): three
/// shifts and a multiplication, so that its part of a timed loop is small; the baseline of the results holds it.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator for each CPU of a run: streams of one seed differ.
    pub fn new(seed: u64, stream: u64) -> Self {
        // One round of splitmix64 spreads neighbouring seeds; xorshift's state may not be 0.
        let mut state = seed ^ stream.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((state ^ (state >> 31)).max(1))
    }

    /// 64 random bits.
    #[inline(always)]
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The same things in an order of which all are equally likely (Fisher and Yates).
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for end in (1..things.len()).rev() {
            things.swap(end, self.below(end as u64 + 1) as usize);
        }
    }

    /// A number in `0..bound`, by multiplication of the upper 32 bits: `bound` is at most 2^32.
    #[inline(always)]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((self.next_u64() >> 32) * bound) >> 32
    }
}

/// Smallest size the mix draws.
pub const MIX_MINIMUM: usize = 8;

/// Largest size the mix draws.
pub const MIX_MAXIMUM: usize = 4095;

/// Mean of the sizes the mix draws.
pub const MIX_MEAN: usize = 681;

/// A size that is log-uniform over [`MIX_MINIMUM`]..=[`MIX_MAXIMUM`]: the octave uniform, then uniform inside it.
#[inline(always)]
pub fn log_uniform_size(random: &mut Random) -> usize {
    log_uniform(random, MIX_MINIMUM.trailing_zeros(), (MIX_MAXIMUM + 1).trailing_zeros())
}

/// A size in `1 << first .. 1 << end`, log-uniform by octaves. `first < end <= 32`.
#[inline(always)]
pub fn log_uniform(random: &mut Random, first: u32, end: u32) -> usize {
    let bits = random.next_u64();
    // The upper half chooses the octave, the lower the place in it.
    let octave = first + ((((bits >> 32) * u64::from(end - first)) >> 32) as u32);
    let octave_start = 1_u64 << octave;
    (octave_start | (bits & (octave_start - 1))) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_seed_always_gives_the_same_numbers() {
        let mut random = Random::new(1, 0);
        let first: [u64; 3] = core::array::from_fn(|_| random.next_u64());
        let mut again = Random::new(1, 0);
        assert_eq!(first, core::array::from_fn(|_| again.next_u64()));
    }

    #[test]
    fn streams_of_a_seed_differ() {
        assert_ne!(Random::new(7, 0).next_u64(), Random::new(7, 1).next_u64());
    }

    #[test]
    fn every_octave_of_the_mix_is_equally_likely() {
        let mut random = Random::new(3, 0);
        let mut octaves = [0_u32; 9];
        for _ in 0..90_000 {
            let size = log_uniform_size(&mut random);
            octaves[(size.ilog2() - 3) as usize] += 1;
        }
        // Each expects 10,000 with a deviation of 94; five deviations either way.
        assert!(octaves.iter().all(|count| (9_530..=10_470).contains(count)), "{octaves:?}");
    }

    #[test]
    fn sizes_inside_an_octave_are_spread_evenly() {
        let mut random = Random::new(4, 0);
        let sizes: alloc::vec::Vec<usize> =
            (0..90_000).map(|_| log_uniform_size(&mut random)).filter(|size| size.ilog2() == 11).collect();
        let mean = sizes.iter().sum::<usize>() as f64 / sizes.len() as f64;
        // Uniform over 2048..=4095 has mean 3071.5; the mean of 10,000 has a deviation of 5.9.
        assert!((mean - 3071.5).abs() < 30.0, "{mean}");
    }

    #[test]
    fn every_order_of_a_shuffle_is_equally_likely() {
        let mut random = Random::new(5, 0);
        let mut counts = [0_u32; 6];
        for _ in 0..60_000 {
            let mut things = [0, 1, 2];
            random.shuffle(&mut things);
            counts[things[0] * 2 + usize::from(things[1] > things[2])] += 1;
        }
        // Each expects 10,000 with a deviation of 91; five deviations either way.
        assert!(counts.iter().all(|count| (9_540..=10_460).contains(count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn sizes_stay_in_their_range(seed: u64, stream in 0_u64..256) {
            let mut random = Random::new(seed, stream);
            for _ in 0..100 {
                let size = log_uniform_size(&mut random);
                prop_assert!((MIX_MINIMUM..=MIX_MAXIMUM).contains(&size));
            }
        }

        #[test]
        fn shuffling_keeps_everything(seed: u64, length in 0_usize..100) {
            let mut things: alloc::vec::Vec<usize> = (0..length).collect();
            Random::new(seed, 0).shuffle(&mut things);
            things.sort_unstable();
            prop_assert!(things.into_iter().eq(0..length));
        }

        #[test]
        fn bounded_numbers_stay_below_their_bound(seed: u64, bound in 1_u64..=1 << 32) {
            let mut random = Random::new(seed, 0);
            for _ in 0..100 {
                prop_assert!(random.below(bound) < bound);
            }
        }
    }
}
