//! [`Contestant`]: an allocator, ready to be measured, whatever its type.

use quarry_suite::{Case, Row, Settings, Subject, plan, run_cases};

use crate::buddy_slab::BuddySlab;
use crate::malloc::{Jemalloc, MallocSubject, Mimalloc, System};
use crate::quarry::Quarry;
use crate::threads::Threads;

/// [`run_cases`] over one subject; over all there are, for none.
type Run = fn(Threads, &Settings, Option<Case>, &mut dyn FnMut(&Row));

/// An allocator of the comparison.
#[derive(Clone, Copy, Debug)]
pub struct Contestant {
    /// Its name in tables and records.
    pub name: &'static str,
    /// The package it comes from, as Cargo.lock names it; `None` where that is this workspace or the system.
    pub package: Option<&'static str>,
    run: Run,
}

impl Contestant {
    /// All of them, the hosted service first.
    pub fn all() -> Vec<Self> {
        vec![
            Self::new::<Quarry>(None),
            Self::new::<MallocSubject<Mimalloc>>(Some("libmimalloc-sys")),
            Self::new::<MallocSubject<Jemalloc>>(Some("tikv-jemalloc-sys")),
            #[cfg(feature = "snmalloc")]
            Self::new::<MallocSubject<crate::malloc::Snmalloc>>(Some("snmalloc-sys")),
            Self::new::<BuddySlab>(Some("buddy-slab-allocator")),
            Self::new::<MallocSubject<System>>(None),
        ]
    }

    /// The contestant of a subject, whose default is to be the allocator, started.
    pub fn new<S: Subject + Default>(package: Option<&'static str>) -> Self {
        let run: Run = |threads, settings, case, sink| {
            let cases = case.map_or_else(|| plan(threads, S::FEATURES, settings), |case| vec![case]);
            run_cases(threads, &S::default(), settings, &cases, sink);
        };
        Self { name: S::NAME, package, run }
    }

    /// Measures and checks every case of the plan over this allocator: [`quarry_suite::run`].
    pub fn run(&self, threads: Threads, settings: &Settings, sink: &mut dyn FnMut(&Row)) {
        (self.run)(threads, settings, None, sink);
    }

    /// The same for one case; nothing, where the allocator cannot do it.
    pub fn run_case(&self, threads: Threads, settings: &Settings, case: Case, sink: &mut dyn FnMut(&Row)) {
        (self.run)(threads, settings, Some(case), sink);
    }
}
