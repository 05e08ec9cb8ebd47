//! The workloads on one CPU ask for the same memory in the same order every time, and give all of it back.

mod support;

use std::sync::{Arc, Mutex};

use quarry_suite::{Ballast, Effort, Feature, Settings, Subject, Workload, plan, run};
use quarry_topology::NodeId;
use support::{Arena, Fault, Place, Threads};

/// What was asked of an allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Allocate(usize),
    /// Of the block that so many others were allocated before.
    Free(usize),
}

/// A sound allocator that writes down what it is asked.
#[derive(Clone)]
struct Recorder {
    arena: Arena,
    calls: Arc<Mutex<Vec<Call>>>,
}

struct Numbered {
    place: Place,
    number: usize,
}

impl Recorder {
    fn new() -> Self {
        Self { arena: Arena::new(Fault::None), calls: Arc::default() }
    }

    fn note(&self, size: usize, place: Option<Place>) -> Option<Numbered> {
        let mut calls = self.calls.lock().expect("no holder panics");
        let number = calls.len();
        calls.push(Call::Allocate(size));
        place.map(|place| Numbered { place, number })
    }
}

impl Subject for Recorder {
    type Block = Numbered;
    type Objects = Self;

    const NAME: &'static str = "recorder";

    const FEATURES: &'static [Feature] = Feature::ALL;

    fn allocate(&self, size: usize) -> Option<Numbered> {
        self.note(size, self.arena.allocate(size))
    }

    fn free(&self, block: Numbered) {
        self.calls.lock().expect("no holder panics").push(Call::Free(block.number));
        self.arena.free(block.place);
    }

    fn allocate_inlined<const SIZE: usize>(&self) -> Option<Numbered> {
        self.allocate(SIZE)
    }

    fn free_inlined(&self, block: Numbered) {
        self.free(block);
    }

    fn allocate_on(&self, size: usize, node: NodeId) -> Option<Numbered> {
        self.note(size, self.arena.allocate_on(size, node))
    }

    fn allocate_pages(&self, order: u32) -> Option<Numbered> {
        self.allocate(4096 << order)
    }

    fn free_pages(&self, block: Numbered, _order: u32) {
        self.free(block);
    }

    fn allocate_zeroed(&self, size: usize) -> Option<Numbered> {
        self.note(size, self.arena.allocate_zeroed(size))
    }

    fn allocate_atomic(&self, size: usize) -> Option<Numbered> {
        self.allocate(size)
    }

    fn objects(&self, _size: usize) -> Option<Self> {
        Some(self.clone())
    }

    fn occupy(&self, leave: u64, cached: u64) -> Option<Arc<dyn Ballast>> {
        self.arena.occupy(leave, cached)
    }

    fn address(&self, block: &Numbered) -> usize {
        self.arena.address(&block.place)
    }

    fn fill(&self, block: &mut Numbered, length: usize, seed: u64) {
        self.arena.fill(&mut block.place, length, seed);
    }

    fn check(&self, block: &Numbered, length: usize, seed: u64) -> bool {
        self.arena.check(&block.place, length, seed)
    }

    fn is_zero(&self, block: &Numbered, length: usize) -> bool {
        self.arena.is_zero(&block.place, length)
    }

    fn touch(&self, block: &mut Numbered, writes: u32) {
        self.arena.touch(&mut block.place, writes);
    }
}

/// What a workload asks for on so many CPUs. `None` where it has no meaning.
fn calls(workload: Workload, cpus: usize, effort: Effort, seed: u64) -> Option<Vec<Call>> {
    let settings = Settings {
        workloads: vec![workload],
        sizes: vec![64],
        orders: vec![0],
        cpus: vec![cpus],
        samples: 1,
        effort,
        seed,
        ..Settings::default()
    };
    if plan(Threads(cpus), Recorder::FEATURES, &settings).is_empty() {
        return None;
    }
    let recorder = Recorder::new();
    run(Threads(cpus), &recorder, &settings, &mut |row| assert_eq!(row.errors, 0, "{}", row.case));
    let calls = std::mem::take(&mut *recorder.calls.lock().expect("no holder panics"));
    assert!(!calls.is_empty(), "{workload} does nothing");
    Some(calls)
}

#[test]
fn on_one_cpu_every_workload_repeats_exactly() {
    for &workload in Workload::ALL {
        let calls = || calls(workload, 1, Effort::Fixed, 1);
        assert!(calls() == calls(), "{workload} differs from run to run");
    }
}

#[test]
fn another_seed_changes_what_is_drawn_at_random() {
    let random = [Workload::Larson, Workload::Mstress, Workload::AllocTest, Workload::LlfreeRand, Workload::LlfreeFrag];
    for workload in random {
        let calls = |seed| calls(workload, 1, Effort::Fixed, seed);
        assert!(calls(1) != calls(2), "{workload} knows no seed");
    }
}

#[test]
fn everything_allocated_is_freed_once_on_any_number_of_cpus() {
    for &workload in Workload::ALL {
        for cpus in [1, 3] {
            let Some(calls) = calls(workload, cpus, Effort::Microseconds(10), 1) else { continue };
            let mut live = vec![false; calls.len()];
            for (number, call) in calls.iter().enumerate() {
                match *call {
                    Call::Allocate(_) => live[number] = true,
                    Call::Free(number) => assert!(std::mem::take(&mut live[number]), "{workload} frees one twice"),
                }
            }
            assert!(!live.contains(&true), "{workload} keeps a block on {cpus} CPUs");
        }
    }
}

#[test]
fn batches_are_freed_in_the_order_their_names_say() {
    // Of neighbouring frees, those of blocks that were allocated in the same order and in the opposite one.
    let orders = |workload| {
        let calls = calls(workload, 1, Effort::Fixed, 1).expect("one CPU is enough");
        let neighbours = calls.windows(2).filter_map(|pair| match *pair {
            [Call::Free(one), Call::Free(next)] => Some((one, next)),
            _ => None,
        });
        let (same, opposite): (Vec<_>, Vec<_>) = neighbours.partition(|(one, next)| one < next);
        (same.len(), opposite.len())
    };
    let (same, opposite) = orders(Workload::Batch);
    assert!(same > 10 * opposite, "{same} and {opposite}");
    let (same, opposite) = orders(Workload::BatchLifo);
    assert!(opposite > 10 * same, "{same} and {opposite}");
}
