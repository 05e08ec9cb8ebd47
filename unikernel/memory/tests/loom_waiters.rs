//! Every interleaving of waiting for memory: the very files that ship, compiled against loom's atomics.
//!
//! The model's zone is a count of frames behind a lock, its FIFO has one place, and its threads do what
//! `Service::persist` and `Service::frames_freed` do with the protocols. At most three times is a thread interrupted
//! where it need not be: more finds nothing new and takes long.

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU32, Ordering, fence};
}

#[path = "../src/attention.rs"]
mod attention;
#[path = "../src/handover.rs"]
mod handover;

use attention::Attention;
use handover::Handover;
use loom::sync::{Arc, Mutex, Notify};
use sync::{AtomicU32, Ordering};

/// A machine with one zone and room for one waiter.
struct Model {
    attention: Attention,
    /// Frames in the zone.
    zone: Mutex<u32>,
    /// The waiter, while it waits.
    fifo: Mutex<Option<Arc<(Handover, Notify)>>>,
    /// Free objects in the depot.
    depot: Mutex<u32>,
}

impl Model {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            attention: Attention::new(AtomicU32::new(0)),
            zone: Mutex::new(0),
            fifo: Mutex::new(None),
            depot: Mutex::new(0),
        })
    }

    fn serve(&self) {
        let mut fifo = self.fifo.lock().expect("no thread of the model panics");
        let Some(waiter) = fifo.as_ref() else { return };
        let mut frames = self.zone.lock().expect("no thread of the model panics");
        if *frames > 0 {
            *frames -= 1;
            waiter.0.give(7, 9);
            waiter.1.notify();
            *fifo = None;
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
            let fifo = self.fifo.lock().expect("no thread of the model panics");
            if let Some(waiter) = fifo.as_ref()
                && waiter.0.tell_to_look()
            {
                waiter.1.notify();
            }
        }
    }

    fn enter(&self) -> Arc<(Handover, Notify)> {
        let waiter = Arc::new((Handover::new(), Notify::new()));
        *self.fifo.lock().expect("no thread of the model panics") = Some(Arc::clone(&waiter));
        self.attention.raise();
        waiter
    }

    fn leave(&self) {
        *self.fifo.lock().expect("no thread of the model panics") = None;
        self.attention.lower();
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
        model.serve();
        // Loom fails the model when the notification never comes.
        while waiter.0.given().is_none() {
            waiter.1.wait();
        }
        model.leave();
        assert_eq!(waiter.0.given(), Some((7, 9)), "the block is seen whole");
        freer.join().expect("no thread of the model panics");
        assert_eq!(*model.zone.lock().expect("no thread of the model panics"), 0, "the frame was given once");
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
        model.leave();
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
        model.leave();
        for freer in freers {
            freer.join().expect("no thread of the model panics");
        }
        assert_eq!(*model.zone.lock().expect("no thread of the model panics"), 1, "the other frame is free");
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
