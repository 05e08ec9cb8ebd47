//! What loops do to places for blocks: fill, empty and replace.
//!
//! Used by the workloads' timed loops, into which the first three are inlined. A loop that would take another number of
//! instructions so, and its figures be no longer those of before, has a body of its own and says why.

use alloc::vec::Vec;

use crate::subject::Subject;

/// Fills all places.
#[inline(always)]
pub(super) fn fill<B>(places: &mut [Option<B>], mut allocate: impl FnMut() -> Option<B>) {
    for place in places {
        *place = allocate();
    }
}

/// Empties all places.
#[inline(always)]
pub(super) fn empty<B>(places: &mut [Option<B>], mut free: impl FnMut(B)) {
    for place in places {
        if let Some(block) = place.take() {
            free(block);
        }
    }
}

/// Frees what is in a place, if anything, and puts another block there. Returns how many there were none of.
#[inline(always)]
pub(super) fn replace<B>(place: &mut Option<B>, free: impl FnOnce(B), allocate: impl FnOnce() -> Option<B>) -> u64 {
    if let Some(block) = place.take() {
        free(block);
    }
    *place = allocate();
    u64::from(place.is_none())
}

/// Places without a block.
pub(super) fn missing<B>(places: &[Option<B>]) -> u64 {
    places.iter().filter(|place| place.is_none()).count() as u64
}

/// Frees all objects there are, and all places go.
pub(super) fn free_objects<S: Subject>(subject: &S, places: &mut Vec<Option<S::Block>>) {
    for block in places.drain(..).flatten() {
        subject.free(block);
    }
}

/// The same of blocks of pages.
pub(super) fn free_pages<S: Subject>(subject: &S, places: &mut Vec<Option<S::Block>>, order: u32) {
    for block in places.drain(..).flatten() {
        subject.free_pages(block, order);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn places_are_filled_emptied_and_counted() {
        let mut places = [None; 3];
        let mut next = 0;
        fill(&mut places, || {
            next += 1;
            (next != 2).then_some(next)
        });
        assert_eq!((places, missing(&places)), ([Some(1), None, Some(3)], 1));
        let mut freed = vec![];
        empty(&mut places, |block| freed.push(block));
        assert_eq!((places, freed), ([None; 3], vec![1, 3]));
    }

    #[test]
    fn a_block_goes_before_the_next_one_comes() {
        let mut freed = None;
        let mut place = Some(1);
        assert_eq!(replace(&mut place, |block| freed = Some(block), || Some(2)), 0);
        assert_eq!((place, freed), (Some(2), Some(1)));
        assert_eq!(replace(&mut place, |_| (), || None), 1);
        assert_eq!(replace(&mut place, |_| panic!("there is nothing to free"), || Some(3)), 0);
        assert_eq!(place, Some(3));
    }
}
