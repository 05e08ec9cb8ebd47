//! [`Workload::Replay`](crate::Workload::Replay): the events of a [`Trace`], by the CPUs that had them.
//!
//! A trace is turned into a [`Script`] before anything is timed: a list of steps for each CPU. Most objects are touched
//! by one CPU alone and lie in a list of its own. One that changes hands lies in a [`Slot`]; whoever's step comes too
//! early waits for the step before it on that object, as it was in the recording. Waiting is part of what is timed.
//!
//! Theory: a slot's `turn` is the number of steps done on its object in this sample. The CPU whose step that is has the
//! slot for itself; its release store of the next turn hands the block on to the acquire load of whoever waits for it.
//! So the lock around the block is always free, and is there because safe code cannot know that. Steps stand in the
//! order of the trace, in which each object is allocated before all else, so the first step of the trace that is not
//! done can always be done: nobody waits for ever. Turns go back to 0 between two barriers, when nobody has a step.

mod script;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::black_box;
use core::sync::atomic::{AtomicU32, Ordering};

use quarry_topology::NodeId;
use quarry_trace::Trace;
use spin::Mutex;

use super::Body;
use crate::measure::{Run, Samples, Sampling};
use crate::platform::{Barrier, Platform};
use crate::subject::{Feature, Subject};
use script::{Ask, Place, Script, Step, What};

/// Events after which a case has been sampled enough, if there are [`LEAST_SAMPLES`].
const MOST_EVENTS: usize = 10_000_000;

/// Samples a long trace has, if so many are asked for.
const LEAST_SAMPLES: usize = 5;

/// The trace that is replayed where there is no other.
static SAMPLE: &str = include_str!("sample.trace");

/// The trace that is replayed where there is no other.
pub(crate) fn sample_trace() -> Trace {
    Trace::parse(SAMPLE).expect("a test reads it")
}

/// Measures a case of this workload.
pub(super) fn sample<P: Platform, S: Subject>(run: Run<P>, subject: &S, trace: &Trace) -> Samples {
    let (platform, cpus) = (run.platform, run.case.cpus);
    let script = Arc::new(Script::new(trace, cpus, &nodes(platform), |feature| has(subject, feature)));
    let slots: Arc<Vec<Slot<S::Block>>> = Arc::new((0..script.shared).map(|_| Slot::new()).collect());
    let barrier = Arc::new(Barrier::new(cpus));
    let most_samples = (MOST_EVENTS / trace.events().len().max(1)).max(LEAST_SAMPLES);
    let sampling = Sampling { samples: run.sampling.samples.min(most_samples), ..run.sampling };
    Run { sampling, ..run }.sample(subject, move |subject, cpu| Replay {
        subject,
        platform,
        cpu,
        cpus,
        own: (0..script.programs[cpu].own).map(|_| None).collect(),
        slots: slots.clone(),
        script: script.clone(),
        barrier: barrier.clone(),
    })
}

fn has(subject: &impl Subject, feature: Feature) -> bool {
    subject.features().contains(&feature)
}

/// The nodes there are to ask for.
fn nodes(platform: impl Platform) -> Vec<NodeId> {
    let cpus = 0..platform.cpu_count();
    let mut nodes: Vec<NodeId> =
        cpus.flat_map(|cpu| [Some(platform.local_node(cpu)), platform.remote_node(cpu)]).flatten().collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

/// Where an object is that more than one CPU touches. A cache line of its own, so that waiting for one disturbs no other.
#[repr(align(64))]
struct Slot<B> {
    /// Steps done on it in this sample.
    turn: AtomicU32,
    /// `None` before it is allocated, after it is freed, and when there was no memory for it.
    block: Mutex<Option<B>>,
}

impl<B> Slot<B> {
    fn new() -> Self {
        Self { turn: AtomicU32::new(0), block: Mutex::new(None) }
    }
}

/// One CPU's part.
struct Replay<S: Subject, P> {
    subject: S,
    platform: P,
    cpu: usize,
    cpus: usize,
    /// The objects that this CPU alone touches.
    own: Vec<Option<S::Block>>,
    slots: Arc<Vec<Slot<S::Block>>>,
    script: Arc<Script>,
    barrier: Arc<Barrier>,
}

impl<S: Subject, P: Platform> Body for Replay<S, P> {
    fn fixed_operations(&self) -> Option<u64> {
        Some(self.script.programs[self.cpu].steps.len() as u64)
    }

    #[inline(never)]
    fn run(&mut self, _phase: usize, _operations: u64) -> u64 {
        let (subject, platform) = (self.subject.clone(), self.platform);
        let (own, slots) = (self.own.as_mut_slice(), self.slots.as_slice());
        let mut failures = 0;
        for &Step { what, place } in &self.script.programs[self.cpu].steps {
            match place {
                Place::Own(place) => failures += perform(&subject, what, &mut own[place as usize]),
                Place::Shared { place, turn } => {
                    let slot = &slots[place as usize];
                    while slot.turn.load(Ordering::Acquire) != turn {
                        platform.relax();
                    }
                    failures += perform(&subject, what, &mut slot.block.lock());
                    slot.turn.store(turn + 1, Ordering::Release);
                }
            }
        }
        failures
    }

    /// Frees what the trace does not, and sets the slots back.
    fn after(&mut self, _phase: usize) -> u64 {
        self.barrier.wait(self.platform);
        for &Step { what, place } in &self.script.programs[self.cpu].leftovers {
            match place {
                Place::Own(place) => perform(&self.subject, what, &mut self.own[place as usize]),
                Place::Shared { place, .. } => {
                    perform(&self.subject, what, &mut self.slots[place as usize].block.lock())
                }
            };
        }
        for slot in self.slots.iter().skip(self.cpu).step_by(self.cpus) {
            // Relaxed: the barrier before the next sample orders it.
            slot.turn.store(0, Ordering::Relaxed);
        }
        0
    }
}

/// One step on the object at `place`; how many allocations failed.
#[inline(always)]
fn perform<S: Subject>(subject: &S, what: What, place: &mut Option<S::Block>) -> u64 {
    match what {
        What::Allocate(ask) => {
            *place = allocate(subject, ask);
            u64::from(place.is_none())
        }
        What::Resize(ask) => match allocate(subject, ask) {
            Some(new) => {
                if let Some(old) = place.replace(new) {
                    subject.free(old);
                }
                0
            }
            None => 1,
        },
        What::Free => {
            if let Some(block) = place.take() {
                subject.free(block);
            }
            0
        }
        What::FreePages(order) => {
            if let Some(block) = place.take() {
                subject.free_pages(block, order.into());
            }
            0
        }
    }
}

#[inline(always)]
fn allocate<S: Subject>(subject: &S, ask: Ask) -> Option<S::Block> {
    black_box(match ask {
        Ask::Plain(size) => subject.allocate(size as usize),
        Ask::Zeroed(size) => subject.allocate_zeroed(size as usize),
        Ask::Atomic(size) => subject.allocate_atomic(size as usize),
        Ask::OnNode(size, node) => subject.allocate_on(size as usize, node),
        Ask::Pages(order) => subject.allocate_pages(order.into()),
    })
}
