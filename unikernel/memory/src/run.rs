//! [`RunDemand`]: where a run of contiguous frames may lie. Arithmetic alone.
//!
//! Used by [`contig`](crate::contig), which makes one of what its caller asks for, and by the free areas and the growth,
//! which look for frames that meet it.

use crate::frame::{FRAME_BYTES, FRAME_SHIFT, Pfn};

/// A run of frames that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunDemand {
    /// How long it is, at least 1.
    pub(crate) frames: u32,
    /// The lowest frame it may have.
    pub(crate) low: Pfn,
    /// The frame behind the highest one it may have.
    pub(crate) end: Pfn,
    /// Its first frame is a multiple of that many, a power of two.
    pub(crate) alignment: u64,
    /// No multiple of that many frames, a power of two and at least as many as the run has, lies inside the run.
    pub(crate) boundary: Option<u64>,
}

impl RunDemand {
    /// A run of `bytes` bytes, whole frames of it, all of which lie from physical address `low` to `high`, the last
    /// byte of the last frame being at most at `high`; `None` where no address can be such a run's.
    pub(crate) fn new(bytes: usize, low: u64, high: u64, alignment: usize, boundary: usize) -> Option<Self> {
        let frames = u32::try_from(bytes.div_ceil(FRAME_BYTES)).ok()?;
        let boundary = (boundary != 0).then_some(boundary as u64 >> FRAME_SHIFT);
        if boundary.is_some_and(|boundary| boundary < frames.into()) {
            return None;
        }
        let frame = |address: u64| Pfn(u32::try_from(address >> FRAME_SHIFT).unwrap_or(u32::MAX));
        let demand = Self {
            frames,
            low: frame(low.checked_next_multiple_of(FRAME_BYTES as u64)?),
            // What is at `high` itself may be used, so the frame ends where that does.
            end: frame(high.saturating_add(1)),
            alignment: (alignment as u64 >> FRAME_SHIFT).max(1),
            boundary,
        };
        demand.first_start(Pfn(0)).map(|_| demand)
    }

    /// The same within a part of memory.
    #[must_use]
    pub(crate) fn within(self, low: Pfn, end: Pfn) -> Self {
        Self { low: self.low.max(low), end: self.end.min(end), ..self }
    }

    /// The first frame at or behind `from` where such a run may begin.
    pub(crate) fn first_start(&self, from: Pfn) -> Option<Pfn> {
        let frames = u64::from(self.frames);
        let mut start = u64::from(from.max(self.low).0).next_multiple_of(self.alignment);
        if let Some(boundary) = self.boundary
            && start / boundary != (start + frames - 1) / boundary
        {
            // A multiple of a boundary larger than the alignment is aligned, too; and one that is not larger is never
            // inside, for what is aligned begins at one.
            start = (start / boundary + 1) * boundary;
        }
        (start + frames <= u64::from(self.end.0)).then_some(Pfn(start as u32))
    }

    /// The frame behind the last of a run that begins there.
    pub(crate) fn behind(&self, start: Pfn) -> Pfn {
        start.offset(self.frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Whether a run may begin there, as the caller of `contigmalloc` would say it, in bytes.
    fn is_allowed(start: u64, bytes: u64, low: u64, high: u64, alignment: u64, boundary: u64) -> bool {
        let last = start + bytes.next_multiple_of(4096) - 1;
        let inside = |multiple: u64| start < multiple && multiple <= last;
        let crosses = boundary != 0 && (0..=last / boundary).any(|number| inside(number * boundary));
        start >= low && last <= high && start.is_multiple_of(alignment) && !crosses
    }

    proptest! {
        #[test]
        fn the_first_start_is_the_lowest_that_is_allowed(
            bytes in 1u64..40 * 4096,
            (low, high) in (0u64..100 * 4096, 0u64..200 * 4096),
            (alignment, boundary) in (0u32..18, prop_oneof![Just(0), (11u32..19).prop_map(|bits| 1 << bits)]),
            from in 0u32..150,
        ) {
            let alignment = 1u64 << alignment;
            let may_begin = |frame: &u32| is_allowed(u64::from(*frame) * 4096, bytes, low, high, alignment, boundary);
            let demand = RunDemand::new(bytes as usize, low, high, alignment as usize, boundary as usize);
            prop_assert_eq!(demand.is_some(), (0..300).any(|frame| may_begin(&frame)));
            if let Some(demand) = demand {
                prop_assert_eq!(demand.first_start(Pfn(from)), (from..300).find(may_begin).map(Pfn));
            }
        }
    }

    #[test]
    fn the_whole_address_space_and_beyond_is_a_range() {
        let demand = RunDemand::new(4096, 0, u64::MAX, 1, 0).expect("anything will do");
        assert_eq!((demand.low, demand.end), (Pfn(0), Pfn(u32::MAX)));
        assert_eq!(RunDemand::new(4096, u64::MAX, u64::MAX, 1, 0), None);
        assert_eq!(RunDemand::new(usize::MAX, 0, u64::MAX, 1, 0), None);
        assert_eq!(RunDemand::new(4096, 0, 1 << 30, 1 << 31, 0).and_then(|demand| demand.first_start(Pfn(1))), None);
    }
}
