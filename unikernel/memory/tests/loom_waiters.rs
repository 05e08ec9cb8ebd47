//! Every interleaving of waiting for memory: the very files that ship, compiled against loom's atomics.
//!
//! The model's zone is a count of frames behind a lock, its FIFO has one place, and its threads do what
//! `Service::persist` and `Service::frames_freed` do with the protocols. At most three times is a thread interrupted
//! where it need not be: more finds nothing new and takes long.

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU32, Ordering, fence};

    /// So that who waits at all starves, too.
    pub(crate) const PATIENCE_ROUNDS: u32 = 1;
}

#[path = "../src/attention.rs"]
mod attention;
#[path = "../src/handover.rs"]
mod handover;
#[path = "../src/raw_lock.rs"]
#[allow(dead_code, reason = "the model runs the protocol, not what hosts do with it around a fork")]
mod raw_lock;
#[path = "../src/walks.rs"]
mod walks;

use attention::Attention;
use handover::Handover;
use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex, Notify};
use raw_lock::RawLock;
use sync::{AtomicU32, Ordering};
use walks::Walks;

/// A thread that waits.
type Waiter = Arc<(Handover, Notify)>;

/// A machine with one zone and room for one waiter.
struct Model {
    attention: Attention,
    /// Frames in the zone.
    zone: Mutex<u32>,
    /// The lock of what follows.
    raw: RawLock,
    /// The waiter, while it waits. Loom fails the model when two reach it at once.
    fifo: UnsafeCell<Option<Waiter>>,
    waiting: AtomicU32,
    walks: Walks,
    /// Free objects in the depot.
    depot: Mutex<u32>,
}

// SAFETY: the FIFO is reached only by the holder of the raw lock; that this is so is what loom checks.
unsafe impl Sync for Model {}

impl Model {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            attention: Attention::new(AtomicU32::new(0)),
            zone: Mutex::new(0),
            raw: RawLock::new(AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0)),
            fifo: UnsafeCell::new(None),
            waiting: AtomicU32::new(0),
            walks: Walks::new(AtomicU32::new(0)),
            depot: Mutex::new(0),
        })
    }

    fn frames(&self) -> u32 {
        *self.zone.lock().expect("no thread of the model panics")
    }

    /// Under the FIFO's lock, waiting for it.
    fn locked<R>(&self, work: impl FnOnce(&mut Option<Waiter>) -> R) -> R {
        self.raw.acquire(|_| loom::thread::yield_now());
        // SAFETY: the pointer is used while the lock is held alone.
        let result = self.fifo.with_mut(|fifo| work(unsafe { &mut *fifo }));
        self.raw.release();
        result
    }

    /// Under the FIFO's lock, if it is free.
    fn try_locked(&self, work: impl FnOnce(&mut Option<Waiter>)) -> bool {
        if !self.raw.try_acquire() {
            return false;
        }
        // SAFETY: as above.
        self.fifo.with_mut(|fifo| work(unsafe { &mut *fifo }));
        self.raw.release();
        true
    }

    fn walk(&self, fifo: &mut Option<Waiter>) {
        let Some(waiter) = fifo.as_ref() else { return };
        let mut frames = self.zone.lock().expect("no thread of the model panics");
        if *frames > 0 {
            *frames -= 1;
            let waiter = Arc::clone(waiter);
            self.take_out(fifo);
            waiter.0.give(7, 9);
            waiter.1.notify();
        }
    }

    fn take_out(&self, fifo: &mut Option<Waiter>) {
        *fifo = None;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.attention.lower();
    }

    fn serve(&self) {
        self.walks.offer(|| {
            self.waiting.load(Ordering::Relaxed) > 0
                && self.try_locked(|fifo| {
                    self.walks.begin();
                    self.walk(fifo);
                })
        });
    }

    fn serve_in_turn(&self) {
        self.locked(|fifo| self.walk(fifo));
        self.serve_those_missed();
    }

    fn serve_those_missed(&self) {
        if self.walks.is_noted() {
            self.serve();
        }
    }

    fn free_frame(&self) {
        *self.zone.lock().expect("no thread of the model panics") += 1;
        if self.attention.noticed() {
            self.serve();
        }
    }

    fn free_object(&self) {
        *self.depot.lock().expect("no thread of the model panics") += 1;
        if self.attention.noticed() {
            self.locked(|fifo| {
                if let Some(waiter) = fifo.as_ref()
                    && waiter.0.tell_to_look()
                {
                    waiter.1.notify();
                }
            });
            self.serve_those_missed();
        }
    }

    fn enter(&self) -> Waiter {
        let waiter = Arc::new((Handover::new(), Notify::new()));
        self.locked(|fifo| *fifo = Some(Arc::clone(&waiter)));
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.attention.raise();
        self.serve_those_missed();
        waiter
    }

    fn leave(&self, waiter: &Waiter) {
        self.locked(|fifo| {
            // Whoever gave it a block has taken it out.
            if waiter.0.given().is_none() {
                self.take_out(fifo);
            }
        });
        self.serve_those_missed();
    }

    fn take_object(&self) -> bool {
        let mut depot = self.depot.lock().expect("no thread of the model panics");
        let found = *depot > 0;
        *depot -= u32::from(found);
        found
    }
}

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn a_frame_freed_while_a_thread_begins_to_wait_reaches_it() {
    explore(|| {
        let model = Model::new();
        let other = Arc::clone(&model);
        let freer = loom::thread::spawn(move || other.free_frame());
        let waiter = model.enter();
        model.serve_in_turn();
        // Loom fails the model when the notification never comes.
        while waiter.0.given().is_none() {
            waiter.1.wait();
        }
        model.leave(&waiter);
        assert_eq!(waiter.0.given(), Some((7, 9)), "the block is seen whole");
        freer.join().expect("no thread of the model panics");
        assert_eq!(model.frames(), 0, "the frame was given once");
    });
}

#[test]
fn an_object_freed_while_a_thread_begins_to_wait_is_found_by_it() {
    explore(|| {
        let model = Model::new();
        let other = Arc::clone(&model);
        let freer = loom::thread::spawn(move || other.free_object());
        let waiter = model.enter();
        loop {
            waiter.0.will_look();
            if model.take_object() {
                break;
            }
            while !waiter.0.is_called() {
                waiter.1.wait();
            }
        }
        model.leave(&waiter);
        freer.join().expect("no thread of the model panics");
    });
}

#[test]
fn two_threads_that_free_give_one_waiter_one_frame() {
    explore(|| {
        let model = Model::new();
        let waiter = model.enter();
        let freers = [(); 2].map(|()| {
            let model = Arc::clone(&model);
            loom::thread::spawn(move || model.free_frame())
        });
        while waiter.0.given().is_none() {
            waiter.1.wait();
        }
        model.leave(&waiter);
        for freer in freers {
            freer.join().expect("no thread of the model panics");
        }
        assert_eq!(model.frames(), 1, "the other frame is free");
    });
}

#[test]
fn a_frame_freed_while_another_cpu_walks_is_handed_over_by_one_of_them() {
    explore(|| {
        let model = Model::new();
        let waiter = model.enter();
        // One that has freed what this waiter may not have, and looks.
        let walker = Arc::clone(&model);
        let walker = loom::thread::spawn(move || walker.serve());
        model.free_frame();
        walker.join().expect("no thread of the model panics");
        assert_eq!(waiter.0.given(), Some((7, 9)), "nobody comes later who could walk");
        model.leave(&waiter);
        assert_eq!(model.frames(), 0, "the frame was given once");
    });
}

#[test]
fn the_lock_is_taken_by_one_who_tries_only_when_nobody_has_it() {
    explore(|| {
        let model = Model::new();
        let other = Arc::clone(&model);
        // Loom sees whether two are in the FIFO at once.
        let tries = loom::thread::spawn(move || {
            other.try_locked(|fifo| assert!(fifo.is_none()));
        });
        model.locked(|fifo| assert!(fifo.is_none()));
        tries.join().expect("no thread of the model panics");
        assert!(model.try_locked(|_| ()), "a lock that was released is free");
    });
}

#[test]
fn a_limit_restored_while_somebody_becomes_short_ends_at_0() {
    explore(|| {
        let shared = Arc::new((Attention::new(AtomicU32::new(0)), AtomicU32::new(0)));
        let other = Arc::clone(&shared);
        let owner = loom::thread::spawn(move || other.0.settle(&other.1, 60));
        shared.0.raise();
        shared.1.store(0, Ordering::Relaxed);
        owner.join().expect("no thread of the model panics");
        assert_eq!(shared.1.load(Ordering::Relaxed), 0, "nothing may be cached while somebody is short");
        shared.0.lower();
        assert_eq!(shared.0.settle(&shared.1, 60), 60, "and again afterwards");
    });
}
