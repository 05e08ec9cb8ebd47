//! Every interleaving of an exchange with a depot: the very files that ship, compiled against loom's atomics.
//!
//! The model's depot is a stack behind the shipped lock, as a CPU's own stack is behind another; its magazines are
//! plain memory of one thread each, as they are plain memory of one CPU in the service, and closing one is a store to
//! its limit by another thread. Loom fails the model when two threads touch an object, a stack or the depot without an
//! ordering between them.

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU32, Ordering, fence};

    /// So that who waits at all starves, too.
    pub(crate) const PATIENCE_ROUNDS: u32 = 1;
}

#[path = "../src/attention.rs"]
#[allow(dead_code, reason = "the model uses what an owner of a magazine does")]
mod attention;
#[path = "../src/raw_lock.rs"]
#[allow(dead_code, reason = "the model runs the protocol, not what hosts do with it around a fork")]
mod raw_lock;

use attention::Attention;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use raw_lock::RawLock;
use sync::{AtomicU32, Ordering};

/// An object: what its owner writes to it.
type Object = Arc<UnsafeCell<u32>>;

struct Stack {
    lock: RawLock,
    objects: UnsafeCell<Vec<Object>>,
}

impl Stack {
    fn new(objects: Vec<Object>) -> Self {
        Self {
            lock: RawLock::new(AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0)),
            objects: UnsafeCell::new(objects),
        }
    }

    fn locked<R>(&self, work: impl FnOnce(&mut Vec<Object>) -> R) -> R {
        self.lock.acquire(|_| loom::thread::yield_now());
        // SAFETY: the lock is held; loom itself fails the model when two threads are inside at once.
        let result = self.objects.with_mut(|objects| work(unsafe { &mut *objects }));
        self.lock.release();
        result
    }
}

struct Depot {
    stack: Stack,
    /// Those behind the magazines of two CPUs.
    own: [Stack; 2],
    attention: Attention,
    limit: AtomicU32,
}

// SAFETY: the stacks are reached under their locks only, which loom watches over.
unsafe impl Sync for Depot {}
// SAFETY: as above.
unsafe impl Send for Depot {}

impl Depot {
    fn new(objects: usize) -> Arc<Self> {
        let objects = (0..objects).map(|_| Arc::new(UnsafeCell::new(0))).collect();
        Arc::new(Self {
            stack: Stack::new(objects),
            own: [(); 2].map(|()| Stack::new(Vec::new())),
            attention: Attention::new(AtomicU32::new(0)),
            limit: AtomicU32::new(2),
        })
    }

    fn locked<R>(&self, work: impl FnOnce(&mut Vec<Object>) -> R) -> R {
        self.stack.locked(work)
    }

    /// A refill of a CPU's: an object of its own stack, which takes all that the depot has where it is empty.
    fn take_local(&self, cpu: usize) -> Option<Object> {
        self.own[cpu].locked(|own| {
            if own.is_empty() {
                self.locked(|stack| own.append(stack));
            }
            own.pop()
        })
    }

    /// A drain of a CPU's, onto its own stack.
    fn give_local(&self, cpu: usize, object: Object) {
        self.own[cpu].locked(|own| own.push(object));
    }

    /// What another CPU does when memory is short.
    fn empty(&self, cpu: usize) {
        self.own[cpu].locked(|own| self.locked(|stack| stack.append(own)));
    }

    /// A refill: up to `wanted` objects, under one lock acquisition.
    fn take(&self, wanted: usize) -> Vec<Object> {
        self.locked(|stack| {
            let kept = stack.len().saturating_sub(wanted);
            stack.split_off(kept)
        })
    }

    /// A drain, or a batch of another node's objects that goes home.
    fn give(&self, objects: Vec<Object>) {
        self.locked(|stack| stack.extend(objects));
    }
}

/// Writes to an object as its owner does.
fn use_up(object: &Object) {
    // SAFETY: loom itself fails the model when another thread uses it without an ordering between.
    object.with_mut(|value| unsafe { *value += 1 });
}

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn what_one_cpu_drains_another_takes_whole_and_alone() {
    explore(|| {
        let depot = Depot::new(3);
        let cpus = [(); 2].map(|()| {
            let depot = Arc::clone(&depot);
            loom::thread::spawn(move || {
                let magazine = depot.take(2);
                magazine.iter().for_each(use_up);
                depot.give(magazine);
                depot.take(1)
            })
        });
        let held: Vec<_> =
            cpus.into_iter().flat_map(|cpu| cpu.join().expect("no thread of the model panics")).collect();
        assert_eq!(held.len() + depot.locked(|stack| stack.len()), 3, "no object is lost or there twice");
    });
}

#[test]
fn a_stack_that_another_cpu_empties_meanwhile_loses_nothing() {
    explore(|| {
        let depot = Depot::new(2);
        let cpus = [0, 1].map(|cpu| {
            let depot = Arc::clone(&depot);
            loom::thread::spawn(move || {
                let object = depot.take_local(cpu);
                if let Some(object) = object {
                    use_up(&object);
                    depot.give_local(cpu, object);
                }
                depot.empty(1 - cpu);
            })
        });
        for cpu in cpus {
            cpu.join().expect("no thread of the model panics");
        }
        let left = depot.own.iter().map(|own| own.locked(|own| own.len())).sum::<usize>();
        assert_eq!(left + depot.locked(|stack| stack.len()), 2, "no object is lost or there twice");
    });
}

#[test]
fn objects_freed_on_another_node_come_home_with_what_was_written_to_them() {
    explore(|| {
        let depot = Depot::new(2);
        let objects = depot.take(2);
        let home = Arc::clone(&depot);
        let remote = loom::thread::spawn(move || {
            objects.iter().for_each(use_up);
            home.give(objects);
        });
        for object in depot.take(2) {
            use_up(&object);
            // SAFETY: the object is this thread's.
            assert_eq!(object.with(|value| unsafe { *value }), 2, "it was seen before its last owner was done");
        }
        remote.join().expect("no thread of the model panics");
    });
}

#[test]
fn a_magazine_closed_while_its_owner_opens_it_keeps_nothing() {
    explore(|| {
        let depot = Depot::new(1);
        let owner = {
            let depot = Arc::clone(&depot);
            loom::thread::spawn(move || {
                let object = depot.take(1).pop().expect("there is one");
                use_up(&object);
                // A free's slow path: opens the magazine again, if it may.
                let mut magazine = Vec::new();
                if depot.attention.settle(&depot.limit, 2) > 0 {
                    magazine.push(object);
                } else {
                    depot.give(vec![object]);
                }
                // Its next free, or its next switch of threads.
                if depot.limit.load(Ordering::Relaxed) == 0 {
                    depot.give(std::mem::take(&mut magazine));
                }
                magazine
            })
        };
        depot.attention.raise();
        depot.limit.store(0, Ordering::Relaxed);
        let magazine = owner.join().expect("no thread of the model panics");
        assert_eq!(depot.limit.load(Ordering::Relaxed), 0, "the limit stays 0 while somebody is short");
        assert_eq!(magazine.len() + depot.locked(|stack| stack.len()), 1);
    });
}
