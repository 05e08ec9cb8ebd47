//! [`Grid`]: where the objects of a slab start, as the fast paths of a free look at it.
//!
//! Used by magazines, which each repeat the [`Geometry`] of their cache so that a free finds all it needs beside the
//! count. It is plain memory of the CPU whose magazine it is in.
//!
//! # The check
//!
//! It is [`Geometry::is_object`]: with d the distance of an address to the end of its slab, and M = ceil(2^32 / size),
//! the low half of d * M is below M exactly for objects. Ones above the bits of an offset in a slab make an address -d
//! in one instruction, so that it is -d * -M that is compared with M: five instructions where all three words are
//! compared from memory. A process has instructions to spare and waits for loads, so it reads the ones and M as one
//! word, and makes -M of M.

use core::cell::Cell;
use core::ptr;

use crate::class::Geometry;

/// Where objects start; all zeroes, as it is before it is somebody's, that no address is an object's.
#[repr(C)]
pub(crate) struct Grid {
    /// Ones above the bits of an offset in a slab.
    above: Cell<u32>,
    /// ceil(2^32 / size).
    inverse: Cell<u32>,
    /// The same, negated.
    negated: Cell<u32>,
}

impl Grid {
    pub(crate) const fn none() -> Self {
        Self { above: Cell::new(0), inverse: Cell::new(0), negated: Cell::new(0) }
    }

    pub(crate) fn set(&self, geometry: &Geometry) {
        self.above.set(!geometry.mask);
        self.inverse.set(geometry.inverse);
        self.negated.set(geometry.inverse.wrapping_neg());
    }

    /// Whether `address`, known to lie in a slab of these objects, is the start of one.
    #[inline(always)]
    pub(crate) fn is_object(&self, address: usize) -> bool {
        if cfg!(feature = "hosted") { self.is_object_by_one_load(address) } else { self.is_object_in_memory(address) }
    }

    #[inline(always)]
    fn is_object_in_memory(&self, address: usize) -> bool {
        (address as u32 | self.above.get()).wrapping_mul(self.negated.get()) < self.inverse.get()
    }

    #[inline(always)]
    fn is_object_by_one_load(&self, address: usize) -> bool {
        // SAFETY: the first two fields are eight bytes, in cells of this CPU. (Sets have them where eight is a factor.)
        let word = unsafe { ptr::from_ref(self).cast::<u64>().read_unaligned() };
        let (above, inverse) = (word as u32, (word >> 32) as u32);
        (address as u32 | above).wrapping_mul(inverse).wrapping_neg() < inverse
    }

    /// What is in it, for a test that compares sets.
    #[cfg(test)]
    pub(crate) fn contents(&self) -> [u32; 3] {
        [&self.above, &self.inverse, &self.negated].map(Cell::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::GEOMETRY;

    #[test]
    fn both_ways_to_look_agree_with_the_geometry_about_every_byte_of_a_slab() {
        let grid = Grid::none();
        for geometry in GEOMETRY.iter().filter(|geometry| geometry.size > 0) {
            grid.set(geometry);
            for address in (0..=geometry.mask).map(|offset| 0x7f00_0010_0000 + offset as usize) {
                let expected = geometry.is_object(address);
                assert_eq!(grid.is_object_in_memory(address), expected, "{address:#x}, objects of {}", geometry.size);
                assert_eq!(grid.is_object_by_one_load(address), expected, "{address:#x}, objects of {}", geometry.size);
            }
        }
    }

    #[test]
    fn a_grid_that_is_nobodys_and_one_of_no_objects_let_no_address_pass() {
        let grid = Grid::none();
        for _ in 0..2 {
            for address in (0..1 << 15).map(|offset| 0xffff_8000_0000_0000 + offset) {
                assert!(!grid.is_object_in_memory(address) && !grid.is_object_by_one_load(address), "{address:#x}");
            }
            grid.set(&Geometry::NONE);
        }
    }
}
