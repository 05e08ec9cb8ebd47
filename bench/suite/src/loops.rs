//! The timed loops, one [`Body`] a workload.
//!
//! Each `run` is what stands between two readings of the clock: nothing is checked there, nothing counted that need not
//! be, and no function of the suite is called. The loops have the shape of those of Linux's `slab_test`, so that the
//! figures compare; what the loop itself costs is measured by running it over [`Empty`](crate::Empty). A block passes
//! through `black_box` between allocation and free: C compilers cannot see through a call of `kmalloc`, and here an
//! inlined pair might otherwise cancel out.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::black_box;
use core::mem;

use quarry_topology::NodeId;
use spin::Mutex;

use crate::platform::{Barrier, Platform};
use crate::random::{Random, log_uniform_size};
use crate::subject::Subject;

/// The work of one CPU.
pub(crate) trait Body {
    /// How many operations a sample always has, for the workloads whose samples cannot be of any length.
    fn fixed_operations(&self) -> Option<u64> {
        None
    }

    /// Timed. Does `operations` operations of a phase; returns how many allocations failed, as far as it knows.
    fn run(&mut self, phase: usize, operations: u64) -> u64;

    /// Not timed: after `phase` and before the next one. All CPUs of the case come here. Returns failures found now.
    fn after(&mut self, _phase: usize) -> u64 {
        0
    }

    /// Gives back what is still held.
    fn finish(&mut self) {}
}

/// [`Workload::Pair`](crate::Workload::Pair).
pub(crate) struct Pair<S> {
    pub(crate) subject: S,
    pub(crate) size: usize,
}

impl<S: Subject> Body for Pair<S> {
    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let (subject, size) = (self.subject, black_box(self.size));
        let mut failures = 0;
        for _ in 0..operations {
            match subject.allocate(size) {
                Some(block) => subject.free(black_box(block)),
                None => failures += 1,
            }
        }
        failures
    }
}

/// [`Workload::PairInlined`](crate::Workload::PairInlined).
pub(crate) struct PairInlined<S, const SIZE: usize> {
    pub(crate) subject: S,
}

impl<S: Subject, const SIZE: usize> Body for PairInlined<S, SIZE> {
    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let subject = self.subject;
        let mut failures = 0;
        for _ in 0..operations {
            match subject.allocate_inlined::<SIZE>() {
                Some(block) => subject.free_inlined(black_box(block)),
                None => failures += 1,
            }
        }
        failures
    }
}

/// Where the CPUs of a case leave what the next one takes.
pub(crate) struct Exchange<T> {
    mailboxes: Vec<Mutex<Vec<T>>>,
    barrier: Barrier,
}

impl<T> Exchange<T> {
    pub(crate) fn new(cpus: usize) -> Self {
        let mailboxes = (0..cpus).map(|_| Mutex::new(Vec::new())).collect();
        Self { mailboxes, barrier: Barrier::new(cpus) }
    }

    /// Every CPU gives `mail` to the one before it and gets that of the one after it; alone, it gets its own.
    pub(crate) fn pass_on(&self, platform: impl Platform, cpu: usize, mail: &mut Vec<T>) {
        mem::swap(&mut *self.mailboxes[cpu].lock(), mail);
        self.barrier.wait(platform);
        mem::swap(&mut *self.mailboxes[(cpu + 1) % self.mailboxes.len()].lock(), mail);
        // Nobody may leave new mail in a box before its reader has been there.
        self.barrier.wait(platform);
    }
}

/// [`Workload::Batch`](crate::Workload::Batch) and, with an exchange, [`Workload::Remote`](crate::Workload::Remote).
pub(crate) struct Batch<S: Subject, P> {
    pub(crate) subject: S,
    pub(crate) platform: P,
    pub(crate) size: usize,
    pub(crate) cpu: usize,
    pub(crate) blocks: Vec<Option<S::Block>>,
    pub(crate) exchange: Option<Arc<Exchange<Option<S::Block>>>>,
}

/// The phases of [`Batch`].
const ALLOCATE: usize = 0;

impl<S: Subject, P: Platform> Batch<S, P> {
    #[inline(never)]
    fn allocate(&mut self) {
        let (subject, size) = (self.subject, black_box(self.size));
        for slot in &mut self.blocks {
            *slot = subject.allocate(size);
        }
    }

    #[inline(never)]
    fn free(&mut self) {
        let subject = self.subject;
        for slot in &mut self.blocks {
            if let Some(block) = slot.take() {
                subject.free(block);
            }
        }
    }
}

impl<S: Subject, P: Platform> Body for Batch<S, P> {
    fn fixed_operations(&self) -> Option<u64> {
        Some(self.blocks.len() as u64)
    }

    #[inline(always)]
    fn run(&mut self, phase: usize, _operations: u64) -> u64 {
        if phase == ALLOCATE {
            self.allocate();
        } else {
            self.free();
        }
        0
    }

    fn after(&mut self, phase: usize) -> u64 {
        if phase != ALLOCATE {
            return 0;
        }
        let failures = self.blocks.iter().filter(|slot| slot.is_none()).count() as u64;
        if let Some(exchange) = &self.exchange {
            exchange.pass_on(self.platform, self.cpu, &mut self.blocks);
        }
        failures
    }
}

/// Slots of [`Workload::Mix`](crate::Workload::Mix); a power of two.
pub(crate) const MIX_SLOTS: usize = 4096;

/// [`Workload::Mix`](crate::Workload::Mix).
pub(crate) struct Mix<S: Subject> {
    subject: S,
    random: Random,
    /// A power of two of them.
    slots: Vec<Option<S::Block>>,
}

impl<S: Subject> Mix<S> {
    /// With every slot filled; `slots` is a power of two.
    pub(crate) fn new(subject: S, mut random: Random, slots: usize) -> Self {
        let slots = (0..slots).map(|_| subject.allocate(log_uniform_size(&mut random))).collect();
        Self { subject, random, slots }
    }
}

impl<S: Subject> Body for Mix<S> {
    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let subject = self.subject;
        let slots = self.slots.as_mut_slice();
        let mut random = self.random.clone();
        let mut failures = 0;
        for _ in 0..operations {
            let place = (random.next_u64() >> 32) as usize & (slots.len() - 1);
            let slot = &mut slots[place];
            if let Some(block) = slot.take() {
                subject.free(block);
            }
            *slot = subject.allocate(log_uniform_size(&mut random));
            failures += u64::from(slot.is_none());
        }
        self.random = random;
        failures
    }

    fn finish(&mut self) {
        for block in self.slots.drain(..).flatten() {
            self.subject.free(block);
        }
    }
}

/// [`Workload::Node`](crate::Workload::Node): the nodes asked for in turn.
pub(crate) struct OnNode<S> {
    pub(crate) subject: S,
    pub(crate) size: usize,
    pub(crate) nodes: [NodeId; 2],
}

impl<S: Subject> Body for OnNode<S> {
    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let (subject, size, nodes) = (self.subject, black_box(self.size), black_box(self.nodes));
        let mut failures = 0;
        for index in 0..operations {
            match subject.allocate_on(size, nodes[index as usize & 1]) {
                Some(block) => subject.free(black_box(block)),
                None => failures += 1,
            }
        }
        failures
    }
}

/// [`Workload::Page`](crate::Workload::Page).
pub(crate) struct Page<S> {
    pub(crate) subject: S,
    pub(crate) order: u32,
}

impl<S: Subject> Body for Page<S> {
    #[inline(never)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let (subject, order) = (self.subject, black_box(self.order));
        let mut failures = 0;
        for _ in 0..operations {
            match subject.allocate_pages(order) {
                Some(block) => subject.free_pages(black_box(block), order),
                None => failures += 1,
            }
        }
        failures
    }
}
