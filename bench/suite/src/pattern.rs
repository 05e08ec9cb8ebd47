//! The bytes blocks are filled with, so that a check can tell whose they are.
//!
//! Every byte depends on the seed and its place: a block that overlaps another, was moved, cut short or cleared
//! does not hold its own pattern. Implementors of [`Subject`](crate::Subject) fill and check with these.

use core::hint::black_box;
use core::mem::MaybeUninit;

/// Eight bytes of the pattern: those at `8 * index..`.
#[inline]
pub fn word(seed: u64, index: usize) -> u64 {
    // A Weyl sequence through half a mixer: cheap enough to check every byte under emulation.
    let value = seed.wrapping_add((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (value ^ (value >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// Writes the pattern of `seed` over all of `bytes`.
pub fn fill(bytes: &mut [MaybeUninit<u8>], seed: u64) {
    let (words, tail) = bytes.as_chunks_mut::<8>();
    for (index, bytes) in words.iter_mut().enumerate() {
        *bytes = word(seed, index).to_le_bytes().map(MaybeUninit::new);
    }
    for (byte, value) in tail.iter_mut().zip(word(seed, words.len()).to_le_bytes()) {
        byte.write(value);
    }
}

/// Whether all of `bytes` hold the pattern of `seed`.
pub fn check(bytes: &[u8], seed: u64) -> bool {
    let (words, tail) = bytes.as_chunks::<8>();
    words.iter().enumerate().all(|(index, bytes)| *bytes == word(seed, index).to_le_bytes())
        && *tail == word(seed, words.len()).to_le_bytes()[..tail.len()]
}

/// Whether all of `bytes` are 0.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, tail) = bytes.as_chunks::<8>();
    words.iter().all(|word| *word == [0; 8]) && tail.iter().all(|byte| *byte == 0)
}

/// Writes the byte so often, and reads it back each time. None of the writes is optimised away.
#[inline(always)]
pub fn touch(byte: &mut MaybeUninit<u8>, writes: u32) {
    for write in 0..writes {
        let byte = black_box(byte.write(write as u8));
        black_box(*byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filled(length: usize, seed: u64) -> alloc::vec::Vec<u8> {
        (0..length).map(|index| word(seed, index / 8).to_le_bytes()[index % 8]).collect()
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_found(length in 1_usize..200, seed: u64, place: prop::sample::Index, change in 1_u8..) {
            let mut bytes = filled(length, seed);
            prop_assert!(check(&bytes, seed));
            bytes[place.index(length)] ^= change;
            prop_assert!(!check(&bytes, seed));
        }

        #[test]
        fn one_byte_that_is_not_zero_is_found(length in 1_usize..200, place: prop::sample::Index, change in 1_u8..) {
            let mut bytes = alloc::vec![0; length];
            prop_assert!(is_zero(&bytes));
            bytes[place.index(length)] = change;
            prop_assert!(!is_zero(&bytes));
        }

        #[test]
        fn another_seed_is_found(length in 8_usize..200, seed: u64, other: u64) {
            prop_assume!(seed != other);
            prop_assert!(!check(&filled(length, seed), other));
        }
    }
}
