//! [`Series`]: what was looked at again and again while a case ran.

use alloc::vec::Vec;

/// A quantity, look by look.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What it is.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// What it is told against.
    pub over: &'static str,
    /// `(over, quantity)` of each look, the first look first.
    pub points: Vec<(f64, f64)>,
}

/// Most points of a series: as many as a picture can show.
pub(crate) const MOST_POINTS: usize = 64;

/// Looks at something, evenly spread over however many times there is occasion, and never more than [`MOST_POINTS`].
/// Takes no memory after it is made.
#[derive(Clone, Debug)]
pub(crate) struct Track<T> {
    /// When, and what was seen then.
    points: Vec<(u64, T)>,
    /// Of so many occasions one is used.
    stride: u64,
    occasions: u64,
}

impl<T: Copy> Track<T> {
    pub(crate) fn new() -> Self {
        Self { points: Vec::with_capacity(MOST_POINTS), stride: 1, occasions: 0 }
    }

    /// An occasion, at `at`, to have a look. When there are too many points every second one goes.
    pub(crate) fn offer(&mut self, at: u64, look: impl FnOnce() -> Option<T>) {
        let is_due = self.occasions.is_multiple_of(self.stride);
        self.occasions += 1;
        if !is_due {
            return;
        }
        if self.points.len() == MOST_POINTS {
            let mut index = 0;
            self.points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride *= 2;
        }
        self.points.extend(look().map(|seen| (at, seen)));
    }

    /// What was seen, as a quantity.
    pub(crate) fn points(&self, quantity: impl Fn(T) -> f64) -> Vec<(f64, f64)> {
        self.points.iter().map(|&(at, seen)| (at as f64, quantity(seen))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(occasions: u64) -> Track<u64> {
        let mut track = Track::new();
        (0..occasions).for_each(|at| track.offer(at, || Some(at)));
        track
    }

    #[test]
    fn few_looks_are_all_kept() {
        let points = track(MOST_POINTS as u64).points(|seen| seen as f64);
        assert_eq!(points.len(), MOST_POINTS);
        assert_eq!(points[63], (63.0, 63.0));
    }

    #[test]
    fn many_looks_are_thinned_out_evenly_from_the_first_to_nearly_the_last() {
        for occasions in [65, 100, 1000, 100_000] {
            let points = track(occasions).points(|seen| seen as f64);
            assert!((MOST_POINTS / 2..=MOST_POINTS).contains(&points.len()), "{occasions}: {}", points.len());
            let step = points[1].0;
            assert!(
                points.iter().enumerate().all(|(index, point)| (point.0 - index as f64 * step).abs() < 0.5),
                "{points:?}"
            );
            assert!(points[points.len() - 1].0 + step >= occasions as f64, "{points:?}");
        }
    }

    #[test]
    fn what_cannot_be_seen_leaves_no_points() {
        let mut track = Track::<u64>::new();
        track.offer(0, || None);
        assert_eq!(track.points(|seen| seen as f64), []);
    }
}
