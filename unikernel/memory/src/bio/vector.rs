//! [`Vector`]: a piece of memory that takes part in a transfer; [`Position`]: which part of a bio's vectors is its.
//!
//! Used by the bios. Linux's `struct bio_vec` and `struct bvec_iter`. No state of its own.

/// Bytes of a sector, the unit in which devices are addressed.
pub const SECTOR_BYTES: u32 = 512;

/// Vectors that lie in a bio itself.
pub const INLINE_VECTORS: usize = 4;

/// Most vectors of a bio from a set. Linux's `BIO_MAX_VECS`.
pub const MAX_VECTORS: usize = 256;

/// Most vectors of a bio that comes from kmalloc. Linux's `UIO_MAXIOV`.
pub const MAX_KMALLOC_VECTORS: usize = 1024;

/// Contiguous physical memory. Linux's `struct bio_vec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vector {
    /// Physical address of the first byte.
    pub address: u64,
    /// Bytes.
    pub length: u32,
}

/// How many vectors are allocated for a bio that wants so many: those of Linux's `biovec` slabs.
pub(super) const fn class_of(vectors: usize) -> usize {
    match vectors {
        0..=16 => 16,
        17..=64 => 64,
        65..=128 => 128,
        _ => MAX_VECTORS,
    }
}

/// Where a bio begins on its device and in its vectors, and how much of them is its. Linux's `struct bvec_iter`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// The first sector.
    pub(super) sector: u64,
    /// Bytes left.
    pub(super) bytes: u32,
    /// The first vector.
    pub(super) index: u32,
    /// Bytes of that vector that are not the bio's.
    pub(super) skipped: u32,
}

impl Position {
    /// Leaves the first bytes, whole sectors, to somebody else.
    pub(super) fn advance(&mut self, vectors: &[Vector], bytes: u32) {
        debug_assert!(bytes <= self.bytes && bytes.is_multiple_of(SECTOR_BYTES));
        let mut left = bytes;
        while left > 0 {
            let rest = vectors[self.index as usize].length - self.skipped;
            let step = rest.min(left);
            self.skipped += step;
            left -= step;
            if step == rest {
                self.index += 1;
                self.skipped = 0;
            }
        }
        self.bytes -= bytes;
        self.sector += u64::from(bytes / SECTOR_BYTES);
    }

    /// The pieces of memory from here to the end.
    pub(super) fn pieces(self, vectors: &[Vector]) -> impl Iterator<Item = Vector> {
        let mut left = self.bytes;
        let mut skipped = self.skipped;
        vectors.iter().skip(self.index as usize).map_while(move |vector| {
            let length = (vector.length - skipped).min(left);
            let address = vector.address + u64::from(skipped);
            skipped = 0;
            left -= length;
            (length > 0).then_some(Vector { address, length })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn vectors_come_in_the_classes_of_linuxs_slabs() {
        let wanted = [5, 16, 17, 64, 65, 128, 129, 256];
        assert_eq!(wanted.map(class_of), [16, 16, 64, 64, 128, 128, 256, 256]);
    }

    proptest! {
        #[test]
        fn what_is_advanced_over_and_what_is_left_are_the_whole(
            lengths in prop::collection::vec(1u32..9, 1..6), at in 0u32..100,
        ) {
            let half = SECTOR_BYTES / 2;
            let mut lengths = lengths;
            if lengths.iter().sum::<u32>() % 2 == 1 {
                lengths.push(1);
            }
            let vectors: Vec<_> = (0..).zip(&lengths)
                .map(|(index, length)| Vector { address: index << 32, length: length * half }).collect();
            let bytes_of = |pieces: &mut dyn Iterator<Item = Vector>| -> Vec<u64> {
                pieces.flat_map(|piece| (0..u64::from(piece.length)).map(move |byte| piece.address + byte)).collect()
            };
            let bytes = lengths.iter().sum::<u32>() * half;
            let whole = Position { sector: 7, bytes, index: 0, skipped: 0 };
            let sectors = at % (bytes / SECTOR_BYTES + 1);
            let mut rest = whole;
            rest.advance(&vectors, sectors * SECTOR_BYTES);
            let head = Position { bytes: sectors * SECTOR_BYTES, ..whole };
            prop_assert_eq!(rest.sector, 7 + u64::from(sectors));
            let mut both = bytes_of(&mut head.pieces(&vectors));
            both.extend(bytes_of(&mut rest.pieces(&vectors)));
            prop_assert_eq!(both, bytes_of(&mut whole.pieces(&vectors)));
        }
    }
}
