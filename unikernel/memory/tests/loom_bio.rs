//! Every interleaving of completing a chain and of giving a bio's memory back: the very file that ships, compiled
//! against loom's atomics.

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU32, Ordering};
}

#[path = "../src/bio/outstanding.rs"]
#[allow(dead_code, reason = "the model runs the protocol, not all that its users ask")]
mod outstanding;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use outstanding::Outstanding;

/// A bio: its counts, what its holder alone touches, and how often it completed.
struct Model {
    outstanding: Outstanding,
    /// Loom fails the model when two reach it at once, or one without having seen what another did.
    own: UnsafeCell<u32>,
    completions: AtomicU32,
}

impl Model {
    fn new() -> Self {
        Self { outstanding: Outstanding::new(), own: UnsafeCell::new(0), completions: AtomicU32::new(0) }
    }

    fn complete(&self, error: u32) {
        if error != 0 {
            self.outstanding.fail(error);
        }
        if self.outstanding.complete_one() {
            self.outstanding.start_again();
            // SAFETY: who completes last owns the bio; that this is so is what loom checks.
            self.own.with_mut(|own| unsafe { *own += 1 });
            self.completions.fetch_add(1, Ordering::Relaxed);
            assert!([1, 2].contains(&self.outstanding.error()), "one of the errors, and the owner sees it");
        }
    }
}

#[test]
fn the_last_of_a_chain_owns_the_parent_and_sees_an_error() {
    loom::model(|| {
        let bio = Arc::new(Model::new());
        bio.outstanding.expect_another();
        bio.outstanding.expect_another();
        // SAFETY: the handle is still this thread's.
        bio.own.with_mut(|own| unsafe { *own = 7 });
        let children: Vec<_> = [1, 2]
            .map(|error| {
                let bio = Arc::clone(&bio);
                loom::thread::spawn(move || bio.complete(error))
            })
            .into();
        bio.complete(0);
        for child in children {
            child.join().expect("it only completes");
        }
        assert_eq!(bio.completions.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn memory_is_given_back_once_after_all_have_used_it() {
    loom::model(|| {
        let bio = Arc::new(Model::new());
        bio.outstanding.get();
        let put = |bio: &Model| {
            // SAFETY: a reader of vectors that nobody changes.
            bio.own.with(|own| unsafe { own.read() });
            if bio.outstanding.put() {
                // SAFETY: nobody else uses it any more; that this is so is what loom checks.
                bio.own.with_mut(|own| unsafe { *own += 1 });
            }
        };
        let clone = {
            let bio = Arc::clone(&bio);
            loom::thread::spawn(move || put(&bio))
        };
        put(&bio);
        clone.join().expect("it only gives up its reference");
        // SAFETY: the other thread has ended.
        assert_eq!(bio.own.with(|own| unsafe { own.read() }), 1);
    });
}

#[test]
fn a_holder_that_is_alone_may_change_what_a_clone_has_read() {
    loom::model(|| {
        let bio = Arc::new(Model::new());
        bio.outstanding.get();
        let clone = {
            let bio = Arc::clone(&bio);
            loom::thread::spawn(move || {
                // SAFETY: a clone reads vectors that nobody changes while it is there.
                bio.own.with(|own| unsafe { own.read() });
                bio.outstanding.put();
            })
        };
        if bio.outstanding.is_only_one() {
            // SAFETY: there is no clone any more; that this is so is what loom checks.
            bio.own.with_mut(|own| unsafe { *own += 1 });
        }
        clone.join().expect("it only reads");
    });
}
