//! What the SRAT says about memory, brought into order: sorted ranges that do not overlap, each with its domain.
//!
//! Where two entries claim the same bytes the earlier one keeps them. Claims are whole pages ([`NODE_ALIGNMENT`]).

use crate::{MAX_RANGES, NODE_ALIGNMENT, PhysicalRange};

/// A range the SRAT gives to a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) range: PhysicalRange,
    pub(crate) proximity_domain: u32,
    pub(crate) hot_pluggable: bool,
    pub(crate) non_volatile: bool,
}

impl Claim {
    fn is_like(&self, other: &Self) -> bool {
        self.proximity_domain == other.proximity_domain
            && self.hot_pluggable == other.hot_pluggable
            && self.non_volatile == other.non_volatile
    }
}

/// What became of a claim that was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Added {
    /// Some of it was added.
    pub(crate) any: bool,
    /// The first stretch that an earlier claim kept, and that claim's domain.
    pub(crate) taken: Option<(PhysicalRange, u32)>,
    /// Some of it was left out because there is no room.
    pub(crate) left_out: Option<PhysicalRange>,
}

/// A place of the address space seen through the claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// Up to here, at least, it is the same.
    pub(crate) end: u64,
    /// The claim that covers it or, if none does, the nearest by address.
    pub(crate) claim: Claim,
    /// Whether the claim covers it.
    pub(crate) covered: bool,
}

/// All claims.
pub(crate) struct Claims {
    claims: [Claim; MAX_RANGES],
    count: usize,
}

impl Claims {
    pub(crate) const fn new() -> Self {
        const NONE: Claim =
            Claim { range: PhysicalRange::new(0, 0), proximity_domain: 0, hot_pluggable: false, non_volatile: false };
        Self { claims: [NONE; MAX_RANGES], count: 0 }
    }

    pub(crate) fn as_slice(&self) -> &[Claim] {
        &self.claims[..self.count]
    }

    /// Adds what no earlier claim holds of `claim`, as far as `wanted` says that it matters.
    pub(crate) fn add(&mut self, claim: Claim, wanted: impl Fn(PhysicalRange) -> bool) -> Added {
        let mut added = Added::default();
        let mut rest = claim.range;
        rest.start -= rest.start % NODE_ALIGNMENT;
        // The last page of the address space cannot be rounded up; nothing is there.
        rest.end = rest.end.checked_next_multiple_of(NODE_ALIGNMENT).unwrap_or(rest.end);
        while !rest.is_empty() {
            let at = self.as_slice().partition_point(|earlier| earlier.range.end <= rest.start);
            let next = self.as_slice().get(at).filter(|next| next.range.start < rest.end).copied();
            let piece = PhysicalRange::new(rest.start, next.map_or(rest.end, |next| next.range.start));
            if !piece.is_empty() && wanted(piece) {
                if self.insert(at, Claim { range: piece, ..claim }) {
                    added.any = true;
                } else {
                    added.left_out.get_or_insert(piece);
                }
            }
            let Some(next) = next else { break };
            let taken = PhysicalRange::new(rest.start.max(next.range.start), rest.end.min(next.range.end));
            added.taken.get_or_insert((taken, next.proximity_domain));
            rest.start = next.range.end;
        }
        added
    }

    /// The stretch an address lies in; `None` if there are no claims at all. Between two claims the nearer one has
    /// the memory, the boundary being the page in the middle.
    pub(crate) fn stretch(&self, address: u64) -> Option<Stretch> {
        let claims = self.as_slice();
        let at = claims.partition_point(|claim| claim.range.end <= address);
        let (before, after) = (at.checked_sub(1).map(|before| claims[before]), claims.get(at).copied());
        let uncovered = |end, claim| Some(Stretch { end, claim, covered: false });
        match (before, after) {
            (_, Some(claim)) if claim.range.start <= address => {
                Some(Stretch { end: claim.range.end, claim, covered: true })
            }
            (Some(before), Some(after)) => {
                let middle = before.range.end + (after.range.start - before.range.end) / 2;
                let middle = middle - middle % NODE_ALIGNMENT;
                if address < middle { uncovered(middle, before) } else { uncovered(after.range.start, after) }
            }
            (None, Some(after)) => uncovered(after.range.start, after),
            (Some(before), None) => uncovered(u64::MAX, before),
            (None, None) => None,
        }
    }

    /// Puts a piece that overlaps nothing before the claim at `at`, joining it with like neighbours that touch it.
    /// `false` if there is no room.
    fn insert(&mut self, at: usize, piece: Claim) -> bool {
        let joins = |low: &Claim, high: &Claim| low.range.end == high.range.start && low.is_like(high);
        let before = at.checked_sub(1).filter(|before| joins(&self.claims[*before], &piece));
        let after = Some(at).filter(|after| *after < self.count && joins(&piece, &self.claims[*after]));
        match (before, after) {
            (Some(before), Some(after)) => {
                self.claims[before].range.end = self.claims[after].range.end;
                self.claims.copy_within(after + 1..self.count, after);
                self.count -= 1;
            }
            (Some(before), None) => self.claims[before].range.end = piece.range.end,
            (None, Some(after)) => self.claims[after].range.start = piece.range.start,
            (None, None) if self.count == MAX_RANGES => return false,
            (None, None) => {
                self.claims.copy_within(at..self.count, at + 1);
                self.claims[at] = piece;
                self.count += 1;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = NODE_ALIGNMENT;

    fn claim(first_page: u64, end_page: u64, proximity_domain: u32) -> Claim {
        let range = PhysicalRange::new(first_page * PAGE, end_page * PAGE);
        Claim { range, proximity_domain, hot_pluggable: false, non_volatile: false }
    }

    fn claims(all: &[Claim]) -> Claims {
        let mut claims = Claims::new();
        for claim in all {
            assert_eq!(claims.add(*claim, |_| true), Added { any: true, ..Added::default() });
        }
        claims
    }

    #[test]
    fn claims_are_sorted_and_like_neighbours_are_joined() {
        assert_eq!(claims(&[claim(4, 5, 0), claim(0, 1, 1)]).as_slice(), [claim(0, 1, 1), claim(4, 5, 0)]);
        assert_eq!(claims(&[claim(0, 1, 0), claim(1, 2, 0)]).as_slice(), [claim(0, 2, 0)]);
        assert_eq!(claims(&[claim(1, 2, 0), claim(0, 1, 0)]).as_slice(), [claim(0, 2, 0)]);
        let filled = claims(&[claim(0, 1, 0), claim(2, 3, 0), claim(8, 9, 1), claim(1, 2, 0)]);
        assert_eq!(filled.as_slice(), [claim(0, 3, 0), claim(8, 9, 1)]);
    }

    #[test]
    fn neighbours_that_differ_are_not_joined() {
        let plugged = Claim { hot_pluggable: true, ..claim(1, 2, 0) };
        let non_volatile = Claim { non_volatile: true, ..claim(2, 3, 0) };
        let all = [claim(0, 1, 0), plugged, non_volatile, claim(3, 4, 1)];
        assert_eq!(claims(&all).as_slice(), all);
    }

    #[test]
    fn an_earlier_claim_keeps_what_it_has() {
        let mut claims = claims(&[claim(2, 4, 0), claim(6, 8, 1)]);
        let added = claims.add(claim(0, 10, 2), |_| true);
        let taken = Some((PhysicalRange::new(2 * PAGE, 4 * PAGE), 0));
        assert_eq!(added, Added { any: true, taken, left_out: None });
        let all = [claim(0, 2, 2), claim(2, 4, 0), claim(4, 6, 2), claim(6, 8, 1), claim(8, 10, 2)];
        assert_eq!(claims.as_slice(), all);
    }

    #[test]
    fn what_does_not_matter_takes_no_room() {
        let mut claims = claims(&[claim(2, 4, 0)]);
        let added = claims.add(claim(0, 10, 2), |piece| piece.start == 0);
        assert!(added.any);
        assert_eq!(claims.as_slice(), [claim(0, 2, 2), claim(2, 4, 0)]);
        assert!(!claims.add(claim(20, 21, 3), |_| false).any);
    }
}
