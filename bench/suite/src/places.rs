//! [`Places`]: where many blocks are between a bulk allocation and the bulk free that gives them back.
//!
//! Used by [`Subject`](crate::subject::Subject) and the workload `bulk`. A free by itself takes a block, so nobody has it any
//! more. To take sixteen out of their places would be a store for each, which is no part of a bulk free and which the loops
//! of others do not have. So full or empty is one flag of all of them, and what a free left in the places is shown to
//! nobody but to the allocation that writes over it.

use alloc::boxed::Box;

/// Places that are all full or all empty.
#[derive(Debug)]
pub struct Places<B> {
    /// Meaningless while not `full`.
    places: Box<[Option<B>]>,
    full: bool,
}

impl<B> Places<B> {
    /// Empty places.
    pub fn new(count: usize) -> Self {
        Self { places: (0..count).map(|_| None).collect(), full: false }
    }

    /// How many there are.
    #[inline(always)]
    #[expect(clippy::len_without_is_empty, reason = "whether they are empty is the business of `fill` and `empty`")]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Has `allocate` put a block into every place, or none, and tell which: whatever is in the places means nothing to
    /// it, and is nobody's. Only for places that are empty.
    #[inline(always)]
    pub fn fill(&mut self, allocate: impl FnOnce(&mut [Option<B>]) -> bool) -> bool {
        debug_assert!(!self.full, "blocks would be forgotten");
        self.full = allocate(&mut self.places);
        self.full
    }

    /// Hands the blocks to `free`, whose they are, and who need not take them out of the places. Nothing if they are empty.
    #[inline(always)]
    pub fn empty(&mut self, free: impl FnOnce(&mut [Option<B>])) {
        if core::mem::take(&mut self.full) {
            free(&mut self.places);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_free_left_behind_is_not_freed_again() {
        let mut places = Places::new(2);
        let mut freed = 0;
        assert!(places.fill(|places| {
            places.fill(Some(7));
            true
        }));
        for _ in 0..2 {
            places.empty(|places| freed += places.iter().flatten().sum::<i32>());
        }
        assert_eq!((freed, places.len()), (14, 2));
    }

    #[test]
    fn places_that_could_not_be_filled_are_empty() {
        let mut places = Places::<u8>::new(1);
        assert!(!places.fill(|_| false));
        places.empty(|_| panic!("there is nothing to free"));
    }
}
