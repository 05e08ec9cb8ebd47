//! Every CPU allocates and frees at random, hands objects to the others, and is interrupted by handlers that do the
//! same.
//!
//! Objects are filled with a label that stands beside them, and compared whenever they change hands and when they go:
//! two that overlap, or memory given to two owners, show. Bounded by a number of steps, not by time.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use quarry_suite::random::{Random, log_uniform};
use quarry_unikernel::memory::service;
use quarry_unikernel::memory_service::{CpuId, Gfp, NodeId};
use quarry_unikernel::topology_model::MAX_CPUS;
use quarry_unikernel::{TrapFrame, cpus, interrupts, thread, topology};

use crate::harness::{Outcome, seed};
use crate::interrupts::register;
use crate::object::Object;
use crate::team::{Gate, check_on_every_cpu, without_loss};
use crate::{check, check_equal, tests};

const DISTURBING: u8 = 0x70;

/// Steps of all CPUs together.
const STEPS: usize = 200_000;

/// Objects a CPU holds at most.
const HELD: usize = 200;

/// Objects that wait for a CPU at most.
const WAITING: usize = 50;

/// An object filled with its label.
struct Labelled {
    label: u64,
    object: Object,
}

impl Labelled {
    fn new(mut object: Object, label: u64) -> Self {
        object.fill(label);
        Self { label, object }
    }

    fn check(&self) -> Outcome {
        check!(self.object.holds(self.label), "{:?} does not hold what its owner wrote", self.object);
        Ok(())
    }
}

/// What lies in front of each CPU's door, handed there by others.
type Doors = Vec<spin::Mutex<Vec<Labelled>>>;

/// Objects that handlers leave to later ones, some for each CPU.
static LEFT: [[AtomicPtr<u8>; 4]; MAX_CPUS] = [const { [const { AtomicPtr::new(ptr::null_mut()) }; 4] }; MAX_CPUS];

/// How often each CPU's handler has run, and what went wrong in all of them.
static DISTURBED: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static ERRORS: AtomicU64 = AtomicU64::new(0);

/// Takes the object a handler of this CPU left; says whether it was whole. Relaxed everywhere: only this CPU's thread
/// and handler use its places, and a handler runs to its end.
fn take_left(place: &AtomicPtr<u8>) -> bool {
    let start = place.swap(ptr::null_mut(), Ordering::Relaxed);
    if start.is_null() {
        return true;
    }
    // SAFETY: `disturb` released a whole object there, and the swap made it this caller's alone.
    let object = unsafe { Object::adopt(start, service().ksize(start)) };
    object.is_some_and(|object| object.holds(object.address() as u64))
}

/// Frees what an earlier handler left and leaves a new object of another size.
fn disturb(_: &mut TrapFrame) {
    let cpu = cpus::current().index();
    let number = DISTURBED[cpu].fetch_add(1, Ordering::Relaxed) as usize;
    let place = &LEFT[cpu][number % LEFT[cpu].len()];
    let whole = take_left(place);
    let start = service().kmalloc(8 << (number % 11), Gfp::ATOMIC);
    // SAFETY: just allocated; all the room it has is used.
    let fresh = unsafe { Object::adopt(start, service().ksize(start)) };
    if !whole || fresh.is_none() {
        ERRORS.fetch_add(1, Ordering::Relaxed);
    }
    if let Some(mut fresh) = fresh {
        fresh.fill(fresh.address() as u64);
        place.store(fresh.release(), Ordering::Relaxed);
    }
}

/// One CPU's part.
struct Worker {
    cpu: CpuId,
    doors: Arc<Doors>,
    random: Random,
    held: Vec<Labelled>,
    nodes: Vec<NodeId>,
    handed_on: u64,
}

impl Worker {
    fn new(cpu: CpuId, doors: Arc<Doors>) -> Self {
        Self {
            cpu,
            doors,
            random: Random::new(seed(), u64::from(cpu.0)),
            held: Vec::with_capacity(HELD),
            nodes: topology().nodes().filter(|&node| topology().has_memory(node)).collect(),
            handed_on: 0,
        }
    }

    fn step(&mut self) -> Outcome {
        match self.random.below(16) {
            0 => interrupts::raise(DISTURBING),
            1 => thread::yield_now(),
            2..=3 => self.hand_on(),
            4 => self.look_outside()?,
            5..=10 if self.held.len() < HELD => self.allocate()?,
            _ => {
                if let Some(object) = self.take_one() {
                    object.check()?;
                }
            }
        }
        Ok(())
    }

    fn allocate(&mut self) -> Outcome {
        let most_bits = if self.random.below(50) == 0 { 17 } else { 12 };
        let size = log_uniform(&mut self.random, 0, most_bits);
        let node = self.nodes[self.random.below(self.nodes.len() as u64) as usize];
        let object = match self.random.below(8) {
            0 => Object::on_node(size, Gfp::KERNEL, node),
            1 => Object::new(size, Gfp::KERNEL | Gfp::DMA32),
            _ => Object::new(size, Gfp::KERNEL),
        };
        let label = self.random.next_u64();
        self.held.push(Labelled::new(object.ok_or("no memory")?, label));
        Ok(())
    }

    fn take_one(&mut self) -> Option<Labelled> {
        let index = self.random.below(self.held.len().max(1) as u64) as usize;
        (index < self.held.len()).then(|| self.held.swap_remove(index))
    }

    fn hand_on(&mut self) {
        let other = self.random.below(self.doors.len() as u64) as usize;
        let Some(object) = self.take_one() else { return };
        let mut door = self.doors[other].lock();
        if door.len() < WAITING {
            door.push(object);
            self.handed_on += u64::from(other != self.cpu.index());
        } else {
            drop(door);
            self.held.push(object);
        }
    }

    /// Takes in what others left and checks it; frees what there is no room for.
    fn look_outside(&mut self) -> Outcome {
        let waiting = core::mem::take(&mut *self.doors[self.cpu.index()].lock());
        for object in waiting {
            object.check()?;
            if self.held.len() < HELD {
                self.held.push(object);
            }
        }
        Ok(())
    }

    /// Checks and frees all there is.
    fn finish(mut self) -> Outcome {
        self.look_outside()?;
        for object in &self.held {
            object.check()?;
        }
        let whole = LEFT[self.cpu.index()].iter().all(take_left);
        check!(whole, "what a handler left has changed");
        Ok(())
    }
}

fn everybody_at_once_keeps_everything_apart() -> Outcome {
    register(DISTURBING, disturb)?;
    let count = cpus::online().count();
    let steps = STEPS / count;
    let handed_on = Arc::new(AtomicU64::new(0));
    without_loss(|| {
        let doors: Arc<Doors> = Arc::new((0..count).map(|_| spin::Mutex::new(Vec::new())).collect());
        let gates = Arc::new([Gate::new(count), Gate::new(count)]);
        let total = Arc::clone(&handed_on);
        check_on_every_cpu(move |cpu| {
            let mut worker = Worker::new(cpu, Arc::clone(&doors));
            gates[0].pass();
            let outcome = (0..steps).try_for_each(|_| worker.step());
            // Nothing is handed on after this, whatever happened before.
            gates[1].pass();
            total.fetch_add(worker.handed_on, Ordering::Relaxed);
            outcome.and_then(|()| worker.finish())
        })
    })?;
    check_equal!(ERRORS.load(Ordering::Relaxed), 0, "errors in handlers");
    let disturbed = DISTURBED.iter().take(count).all(|disturbed| disturbed.load(Ordering::Relaxed) > 0);
    check!(disturbed, "a CPU was never interrupted");
    check!(count == 1 || handed_on.load(Ordering::Relaxed) > 0, "nothing was handed on");
    Ok(())
}

tests! { "stress":
    everybody_at_once_keeps_everything_apart,
}
