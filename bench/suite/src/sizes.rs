//! Sizes known at compile time, for the loops that inline the allocator's whole fast path.

/// Every size `pair-inlined` has code for, and the default sizes of the workloads.
pub const SIZES: [usize; 11] = [8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192];

/// Something to do with a size as a constant.
pub(crate) trait WithSize {
    /// What it gives.
    type Output;

    fn with<const SIZE: usize>(self) -> Self::Output;
}

/// Does `action` with `size` as a constant; `None` when it is not one of [`SIZES`].
pub(crate) fn dispatch<A: WithSize>(size: usize, action: A) -> Option<A::Output> {
    macro_rules! choose {
        ($($index:literal)*) => {{
            // One arm for each size, and as many as there are.
            const { assert!([$($index),*].len() == SIZES.len()) };
            $(if size == SIZES[$index] {
                return Some(action.with::<{ SIZES[$index] }>());
            })*
            None
        }};
    }
    choose!(0 1 2 3 4 5 6 7 8 9 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Same;

    impl WithSize for Same {
        type Output = usize;

        fn with<const SIZE: usize>(self) -> usize {
            SIZE
        }
    }

    #[test]
    fn every_listed_size_becomes_that_constant() {
        for size in SIZES {
            assert_eq!(dispatch(size, Same), Some(size));
        }
    }

    #[test]
    fn other_sizes_have_no_constant() {
        assert_eq!(dispatch(100, Same), None);
    }
}
