//! Measuring one clock by the TSC: moments that are known to lie between two readings, and what lies between two
//! moments.
//!
//! Users: the PIT (how fast is the TSC?) and the local APIC (how fast is its timer?). A CPU of a virtual machine can be
//! taken away at any instruction, so a single reading proves nothing; two readings around an event tell how well
//! its time is known, and a measurement that is not known well enough is repeated.

use crate::arch;

/// A moment, known to lie between two readings of the TSC.
#[derive(Clone, Copy)]
pub(crate) struct Moment {
    earliest: u64,
    latest: u64,
}

impl Moment {
    pub(crate) const fn between(earliest: u64, latest: u64) -> Self {
        Self { earliest, latest }
    }

    /// The moment of an event that had not happened at this one and had at a later one.
    pub(crate) const fn until(self, later: Self) -> Self {
        Self { earliest: self.earliest, latest: later.latest }
    }

    /// Does something and says when.
    pub(crate) fn of<R>(work: impl FnOnce() -> R) -> (R, Self) {
        let earliest = arch::ticks();
        let result = work();
        (result, Self { earliest, latest: arch::ticks() })
    }
}

/// What lies between two moments, in ticks.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    /// The best guess: from the middle of one to the middle of the other.
    pub(crate) ticks: u64,
    /// By how much it may be wrong, either way.
    pub(crate) error: u64,
}

impl Span {
    /// From one moment to a later one; `None` if they may be the same, or the TSC went backwards.
    pub(crate) const fn new(start: Moment, end: Moment) -> Option<Self> {
        if start.latest < start.earliest || end.earliest <= start.latest || end.latest < end.earliest {
            return None;
        }
        let (shortest, longest) = (end.earliest - start.latest, end.latest - start.earliest);
        Some(Self { ticks: shortest + (longest - shortest) / 2, error: (longest - shortest).div_ceil(2) })
    }

    /// How wrong it may be, in millionths of itself.
    pub(crate) const fn error_in_millionths(self) -> u64 {
        self.error.saturating_mul(1_000_000) / self.ticks
    }
}

/// Measures over longer and longer spans, until one is known well enough, and returns the best of them.
///
/// `measure` is given the span to aim at, a multiple of `first` that doubles with every one of `attempts`, and returns
/// what it measured together with the span it took. It gives `None` where there is nothing to measure, and that ends
/// it.
pub(crate) fn best<R>(
    first: u64,
    attempts: u32,
    good_enough_in_millionths: u64,
    mut measure: impl FnMut(u64) -> Option<(R, Span)>,
) -> Option<(R, Span)> {
    let mut best: Option<(R, Span)> = None;
    for attempt in 0..attempts {
        let new = measure(first << attempt)?;
        if best.as_ref().is_none_or(|(_, span)| new.1.error_in_millionths() < span.error_in_millionths()) {
            best = Some(new);
        }
        if best.as_ref().is_some_and(|(_, span)| span.error_in_millionths() <= good_enough_in_millionths) {
            break;
        }
    }
    best
}

// This library cannot be built as a test, so the arithmetic is checked while it is compiled.
const _: () = {
    let start = Moment::between(100, 110);
    assert!(matches!(Span::new(start, Moment::between(1100, 1130)), Some(Span { ticks: 1010, error: 20 })));
    assert!(matches!(Span::new(start, Moment::between(111, 111)), Some(Span { ticks: 6, error: 5 })));
    assert!(Span::new(start, Moment::between(110, 200)).is_none(), "may be the same moment");
    assert!(Span::new(start, Moment::between(50, 60)).is_none(), "backwards");
    assert!(Span { ticks: 1_000_000, error: 250 }.error_in_millionths() == 250);
};
