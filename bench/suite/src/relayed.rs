//! [`Relays`]: how often CPUs hand over to each other while they use an allocator.
//!
//! Where CPUs take turns on one clock that counts instructions, a figure of several CPUs says something about several
//! CPUs only if they met. How often they did is counted in a pass of its own over an allocator [watched](crate::watched) so, turns being as
//! short as in the measured one, which it costs nothing. [`judge`] refuses figures of CPUs that did not meet.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::case::Phase;
use crate::watched::Watch;

/// Of so many operations, at least one has to be a hand-over.
///
/// The shortest operations there are (inlined pairs of 40 instructions) are done 20 times in one of the guest's turns of
/// 838 instructions, so where CPUs go on side by side there is a hand-over in 5 of 100 operations, and more where
/// operations take longer. At 1 in 100, a CPU goes on for five of its turns before another gets anything done: somebody
/// keeps the others out, or turns are not short.
const MOST_IN_A_ROW: u64 = 100;

/// How often CPUs handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// Operations that were completed by another CPU than the one before them.
    pub hand_overs: u64,
    /// Operations that were looked at. Those that one call does together are one.
    pub operations: u64,
}

/// How much of a sample each CPU has to be at work, on the mean.
///
/// CPUs that share the turns and have as much to do are at work nearly all the time; at two thirds of it where some win
/// a lock more often than others. Where one follows another it is 1 / CPUs, and half where two pairs follow each other.
const LEAST_OVERLAP: f64 = 0.6;

/// Why the figures of a row are not those of several CPUs at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Refusal {
    /// They did not get things done in turn: fewer hand-overs than one in 100 operations.
    FewHandOvers(Turns),
    /// They worked one after another while they were measured: so much of a sample, 0 to 1, a CPU was at work.
    LittleOverlap(f64),
}

/// # Errors
///
/// A [`Refusal`] when CPUs that all have the same to do did not meet often enough for the figures to be of several at
/// once. `turns` is of the pass that counts, `overlap` of the measured one: of the time from the first CPU's start to
/// the last one's end, what a CPU was at work.
pub(crate) fn judge(turns: Turns, overlap: f64) -> Result<(), Refusal> {
    if turns.hand_overs * MOST_IN_A_ROW < turns.operations {
        Err(Refusal::FewHandOvers(turns))
    } else if overlap < LEAST_OVERLAP {
        Err(Refusal::LittleOverlap(overlap))
    } else {
        Ok(())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FewHandOvers(Turns { hand_overs, operations }) => write!(
                f,
                "the CPUs hardly met: {hand_overs} hand-overs in {operations} operations, fewer than 1 in \
                 {MOST_IN_A_ROW}, so what CPUs cost each other is not in these figures"
            ),
            Self::LittleOverlap(overlap) => write!(
                f,
                "the CPUs worked one after another: a CPU was at work for {:.0} % of a sample, less than {:.0} %, so \
                 what CPUs cost each other is not in these figures",
                overlap * 100.0,
                LEAST_OVERLAP * 100.0
            ),
        }
    }
}

impl core::error::Error for Refusal {}

/// Looks which CPU made the call before.
#[derive(Clone)]
pub(crate) struct Relays {
    cpu: usize,
    counted: Arc<Counted>,
}

/// What was counted, in samples alone.
struct Counted {
    allocations: Relay,
    frees: Relay,
    /// Both.
    all: Relay,
    /// Whether each CPU is in a sample.
    sampled: Vec<AtomicBool>,
}

/// Calls of one kind, of all CPUs. Relaxed throughout: whoever wants the sums has waited for all CPUs, and which call
/// came before which is the order of the exchanges of `last`.
#[derive(Default)]
struct Relay {
    /// The CPU that completed a call last, counted from 1; 0 before there was one.
    last: AtomicUsize,
    calls: AtomicU64,
    hand_overs: AtomicU64,
}

impl Relay {
    #[inline(always)]
    fn completed_by(&self, cpu: usize) {
        let last = self.last.swap(cpu + 1, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
        if last != cpu + 1 && last != 0 {
            self.hand_overs.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn turns(&self) -> Turns {
        Turns { hand_overs: self.hand_overs.load(Ordering::Relaxed), operations: self.calls.load(Ordering::Relaxed) }
    }
}

impl Relays {
    pub(crate) fn new(cpus: usize) -> Self {
        let sampled = (0..cpus).map(|_| AtomicBool::new(false)).collect();
        let [allocations, frees, all] = [(); 3].map(|()| Relay::default());
        let counted = Counted { allocations, frees, all, sampled };
        Self { cpu: 0, counted: Arc::new(counted) }
    }

    /// How often CPUs handed over in the operations of a phase. In a whole workload, whose operations have a call of each
    /// kind, they do from any call to the next: some CPUs may allocate what others free.
    pub(crate) fn turns(&self, phase: Phase) -> Turns {
        let (allocations, frees) = (self.counted.allocations.turns(), self.counted.frees.turns());
        match phase {
            Phase::Allocate => allocations,
            Phase::Free => frees,
            Phase::Whole => {
                Turns { operations: allocations.operations.max(frees.operations), ..self.counted.all.turns() }
            }
        }
    }

    #[inline(always)]
    fn completed<T>(&self, relay: &Relay, call: impl FnOnce() -> T) -> T {
        let result = call();
        if self.counted.sampled[self.cpu].load(Ordering::Relaxed) {
            relay.completed_by(self.cpu);
            self.counted.all.completed_by(self.cpu);
        }
        result
    }
}

impl Watch for Relays {
    #[inline(always)]
    fn allocation<T>(&self, call: impl FnOnce() -> T) -> T {
        self.completed(&self.counted.allocations, call)
    }

    #[inline(always)]
    fn release(&self, call: impl FnOnce()) {
        self.completed(&self.counted.frees, call);
    }

    fn for_cpu(&self, cpu: usize) -> Self {
        Self { cpu, ..self.clone() }
    }

    fn sampled(&self, is: bool) {
        // Relaxed: only this CPU looks at it.
        self.counted.sampled[self.cpu].store(is, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::Places;
    use crate::subject::{Empty, Subject};
    use crate::watched::Watched;
    use alloc::string::ToString;
    use proptest::prelude::*;

    /// A handle for each CPU, in a sample.
    fn on_cpus(cpus: usize) -> (Relays, Vec<Watched<Empty, Relays>>) {
        let relays = Relays::new(cpus);
        let watched = Watched { subject: Empty, watch: relays.clone() };
        let handles = (0..cpus).map(|cpu| watched.for_cpu(cpu)).collect::<Vec<_>>();
        for handle in &handles {
            handle.sampled(true);
        }
        (relays, handles)
    }

    fn pair(handle: &Watched<Empty, Relays>) {
        let block = handle.allocate(64).expect("an empty allocator never fails");
        handle.free(block);
    }

    proptest! {
        #[test]
        fn a_hand_over_is_an_operation_of_another_cpu_than_the_one_before(
            sequence in proptest::collection::vec(0..3_usize, 0..100)
        ) {
            let (relays, handles) = on_cpus(3);
            for &cpu in &sequence {
                pair(&handles[cpu]);
            }
            let hand_overs = sequence.windows(2).filter(|two| two[0] != two[1]).count() as u64;
            let turns = Turns { hand_overs, operations: sequence.len() as u64 };
            for phase in [Phase::Whole, Phase::Allocate, Phase::Free] {
                prop_assert_eq!(relays.turns(phase), turns);
            }
        }
    }

    #[test]
    fn allocations_and_frees_are_handed_over_apart() {
        let (relays, handles) = on_cpus(2);
        let blocks = [0, 1, 0].map(|cpu: usize| handles[cpu].allocate(64).expect("an empty allocator never fails"));
        for block in blocks {
            handles[1].free(block);
        }
        assert_eq!(relays.turns(Phase::Allocate), Turns { hand_overs: 2, operations: 3 });
        assert_eq!(relays.turns(Phase::Free), Turns { hand_overs: 0, operations: 3 });
    }

    #[test]
    fn a_cpu_that_frees_what_another_allocates_is_handed_over_to() {
        let (relays, handles) = on_cpus(2);
        for _ in 0..3 {
            let block = handles[0].allocate(64).expect("an empty allocator never fails");
            handles[1].free(block);
        }
        assert_eq!(relays.turns(Phase::Whole), Turns { hand_overs: 5, operations: 3 });
    }

    #[test]
    fn a_workload_that_frees_nothing_is_told_by_its_allocations() {
        let (relays, handles) = on_cpus(2);
        for handle in &handles {
            assert!(handle.allocate_pages(0).is_some());
        }
        assert_eq!(relays.turns(Phase::Whole), Turns { hand_overs: 1, operations: 2 });
    }

    #[test]
    fn objects_of_a_cache_and_bulks_count_as_well() {
        let (relays, handles) = on_cpus(2);
        for handle in &handles {
            let objects = handle.objects(64).expect("an empty allocator has caches");
            let mut blocks = Places::new(2);
            assert!(objects.allocate_bulk(64, &mut blocks));
            objects.free_bulk(&mut blocks);
        }
        assert_eq!(relays.turns(Phase::Whole), Turns { hand_overs: 1, operations: 2 });
    }

    #[test]
    fn what_is_no_sample_is_not_counted() {
        let (relays, handles) = on_cpus(2);
        handles[1].sampled(false);
        for _ in 0..2 {
            handles.iter().for_each(pair);
        }
        assert_eq!(relays.turns(Phase::Whole), Turns { hand_overs: 0, operations: 2 });
    }

    #[test]
    fn fewer_than_one_hand_over_in_a_hundred_operations_are_refused() {
        let judge = |hand_overs, operations| judge(Turns { hand_overs, operations }, 1.0);
        assert_eq!([judge(10, 1000), judge(1, 1), judge(0, 0)], [Ok(()); 3]);
        let turns = Turns { hand_overs: 10, operations: 1001 };
        assert_eq!(judge(10, 1001), Err(Refusal::FewHandOvers(turns)));
        assert_eq!(
            Refusal::FewHandOvers(turns).to_string(),
            "the CPUs hardly met: 10 hand-overs in 1001 operations, fewer than 1 in 100, so what CPUs cost each other \
             is not in these figures"
        );
    }

    #[test]
    fn cpus_that_were_measured_one_after_another_are_refused() {
        let judge = |overlap| judge(Turns { hand_overs: 1, operations: 1 }, overlap);
        assert_eq!([judge(1.0), judge(0.6)], [Ok(()); 2]);
        assert_eq!(judge(0.5), Err(Refusal::LittleOverlap(0.5)));
        assert_eq!(
            Refusal::LittleOverlap(0.5).to_string(),
            "the CPUs worked one after another: a CPU was at work for 50 % of a sample, less than 60 %, so what CPUs \
             cost each other is not in these figures"
        );
    }
}
