//! Allocators beside ours, in the same guest and the same run: what Rust kernels and unikernels use.
//!
//! Each is used as its kernels use it: behind the lock they put it behind where it has none of its own, and fed from
//! the page layer when it runs dry. The loops, the checks and the timing are those our own allocator is measured with.
//!
//! Used by `main`, which measures the [`CONTESTANTS`] it is asked for, one after another. To add one:
//!
//! 1. Its crate goes to `Cargo.toml` here and its name to the catalogue of `quarry-record`.
//! 2. If it is a heap that lies in memory it is given: implement [`Heap`] in `heaps.rs`. If it locks by itself:
//!    implement [`Peer`] in a file of its own; `buddy_slab.rs` is an example.
//! 3. Add a line to [`CONTESTANTS`]. The guest's checks then cover it.

mod buddy_slab;
mod heap;
mod heaps;
mod region;
mod subject;

use quarry_suite::{Case, Feature, Row, Settings, Subject, Workload, plan, run};

use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::pressure;
use buddy_slab::BuddySlab;
use heap::Locked;
use subject::{Peer, PeerSubject};

/// [`quarry_suite::run`] over one allocator.
type Measure = fn(Machine, &Settings, &mut dyn FnMut(&Row));

/// An allocator that can be measured, whatever its type.
pub(crate) struct Contestant {
    /// Its name on command lines and in records.
    pub(crate) name: &'static str,
    /// What it can do.
    pub(crate) features: &'static [Feature],
    /// Starts it, and measures and checks what it can do.
    pub(crate) run: Measure,
}

/// All of them, ours first.
pub(crate) const CONTESTANTS: &[Contestant] = &[
    Contestant {
        name: Kernel::NAME,
        features: Kernel::FEATURES,
        run: |machine, settings, sink| {
            let occupies = |case: &Case| matches!(case.workload, Workload::Pressure | Workload::Fragmentation);
            if plan(machine, Kernel::FEATURES, settings).iter().any(occupies) {
                pressure::prepare();
            }
            run(machine, &Kernel, settings, sink);
        },
    },
    contestant::<BuddySlab>(),
    contestant::<Locked<heaps::Talc>>(),
    contestant::<Locked<heaps::Tlsf>>(),
    contestant::<Locked<heaps::Dlmalloc>>(),
    contestant::<Locked<heaps::LinkedList>>(),
    contestant::<Locked<heaps::BuddySystem>>(),
    contestant::<Locked<heaps::Slabmalloc>>(),
    contestant::<Locked<heaps::Bitmap>>(),
];

const fn contestant<P: Peer>() -> Contestant {
    Contestant {
        name: P::NAME,
        features: P::FEATURES,
        run: |machine, settings, sink| measure(machine, &PeerSubject::start::<P>(), settings, sink),
    }
}

/// One function for all peers, so that the workloads' code is there once.
fn measure(machine: Machine, peer: &PeerSubject, settings: &Settings, sink: &mut dyn FnMut(&Row)) {
    run(machine, peer, settings, sink);
}
