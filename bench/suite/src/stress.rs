//! The stress: all CPUs allocate and free at random, hand blocks to each other, and look at every byte.
//!
//! Nothing is timed. Every block is filled when it comes and compared when it goes, when it changes hands and now and
//! then in between, so two that overlap betray each other. Run by the guest (`mode=stress`) and by the hosted tests of
//! the memory service.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use spin::Mutex;

use crate::checked::{Held, Range, overlaps};
use crate::platform::{Barrier, Platform};
use crate::random::{Random, log_uniform, log_uniform_size};
use crate::subject::Subject;

/// Places for blocks each CPU has.
const SLOTS: usize = 512;

/// Blocks that may lie in a CPU's inbox.
const INBOX: usize = 64;

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// After so many steps of each CPU. With one CPU the same seed does exactly the same.
    Operations(u64),
    /// After this long.
    Seconds(u64),
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stress {
    /// On how many CPUs: the first so many.
    pub cpus: usize,
    /// Where the random numbers start.
    pub seed: u64,
    /// When to stop.
    pub limit: Limit,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StressReport {
    /// Steps of all CPUs together: a block taken, given back, compared or handed on.
    pub operations: u64,
    /// Blocks that went from one CPU to another.
    pub handed_on: u64,
    /// Blocks misaligned, overlapping or with changed contents.
    pub errors: u64,
    /// Allocations that failed, though no more than half of the platform's memory was ever held.
    pub failed_allocations: u64,
    /// Bytes that did not come back, by the allocator's own count where it has one.
    pub lost_bytes: u64,
}

impl StressReport {
    /// Whether something was done and nothing was wrong.
    pub fn passed(&self) -> bool {
        self.operations > 0 && self.errors == 0 && self.failed_allocations == 0 && self.lost_bytes == 0
    }
}

/// Runs the stress.
pub fn stress<P: Platform, S: Subject>(platform: P, subject: &S, stress: Stress) -> StressReport {
    let before = subject.in_use();
    let team: Arc<Team<S>> = Arc::new(Team {
        barrier: Barrier::new(stress.cpus),
        inboxes: (0..stress.cpus).map(|_| Mutex::new(Vec::with_capacity(INBOX))).collect(),
        ranges: Mutex::new(Vec::new()),
    });
    let reports = platform.on_cpus(stress.cpus, {
        let subject = subject.clone();
        move |cpu| Worker::new(platform, subject.clone(), stress, cpu, &team).run()
    });
    let mut total = StressReport::default();
    for report in reports {
        total.operations += report.operations;
        total.handed_on += report.handed_on;
        total.errors += report.errors;
        total.failed_allocations += report.failed_allocations;
    }
    if let (Some(before), Some(after)) = (before, subject.in_use()) {
        total.lost_bytes = before.abs_diff(after);
    }
    total
}

/// A block and how to give it back.
pub(crate) struct Owned<B> {
    pub(crate) held: Held<B>,
    /// Came from the page interface.
    pub(crate) order: Option<u32>,
}

impl<B> Owned<B> {
    /// Compares it and gives it back; counts an error when its contents changed.
    pub(crate) fn give_back<S: Subject<Block = B>>(self, subject: &S, errors: &mut u64) {
        self.held.verify(subject, errors);
        match self.order {
            Some(order) => subject.free_pages(self.held.block, order),
            None => subject.free(self.held.block),
        }
    }
}

/// A CPU's lock guards its inbox; nothing else is done under it.
struct Team<S: Subject> {
    barrier: Barrier,
    inboxes: Vec<Mutex<Vec<Owned<S::Block>>>>,
    ranges: Mutex<Vec<Range>>,
}

struct Worker<'a, P, S: Subject> {
    platform: P,
    subject: S,
    stress: Stress,
    cpu: usize,
    team: &'a Team<S>,
    random: Random,
    slots: Vec<Option<Owned<S::Block>>>,
    held_bytes: usize,
    most_bytes: usize,
    report: StressReport,
}

impl<'a, P: Platform, S: Subject> Worker<'a, P, S> {
    fn new(platform: P, subject: S, stress: Stress, cpu: usize, team: &'a Team<S>) -> Self {
        Self {
            platform,
            subject,
            stress,
            cpu,
            team,
            random: Random::new(stress.seed, cpu as u64),
            slots: (0..SLOTS).map(|_| None).collect(),
            held_bytes: 0,
            // Half of it all; the inboxes come on top but are few.
            most_bytes: platform.memory() as usize / 2 / stress.cpus,
            report: StressReport::default(),
        }
    }

    fn run(mut self) -> StressReport {
        self.team.barrier.wait(self.platform);
        let start = self.platform.ticks();
        while self.goes_on(start) {
            self.step();
            self.report.operations += 1;
        }
        self.finish();
        self.report
    }

    fn goes_on(&self, start: u64) -> bool {
        match self.stress.limit {
            Limit::Operations(most) => self.report.operations < most,
            Limit::Seconds(seconds) => {
                self.platform.ticks().saturating_sub(start) < seconds.saturating_mul(self.platform.ticks_per_second())
            }
        }
    }

    fn step(&mut self) {
        let place = self.random.below(SLOTS as u64) as usize;
        match self.random.below(16) {
            0..=9 => match self.slots[place].take() {
                Some(owned) => self.give_back(owned),
                None => self.slots[place] = self.take(),
            },
            10..=12 => self.hand_on(place),
            13..=14 => self.read_inbox(),
            _ => {
                if let Some(owned) = &self.slots[place] {
                    owned.held.verify(&self.subject, &mut self.report.errors);
                }
            }
        }
    }

    fn take(&mut self) -> Option<Owned<S::Block>> {
        let subject = self.subject.clone();
        let seed = self.random.next_u64();
        let choice = self.random.below(16);
        let order = (choice == 0).then(|| self.random.below(4) as u32);
        let length = match (order, choice) {
            (Some(order), _) => 4096 << order,
            // Up to 64 KiB - 1: beyond every size class.
            (None, 1..=2) => log_uniform(&mut self.random, 0, 16),
            _ => log_uniform_size(&mut self.random),
        };
        if self.held_bytes + length > self.most_bytes {
            return None;
        }
        let block = match (order, choice) {
            (Some(order), _) => subject.allocate_pages(order),
            (None, 3) => subject.allocate_on(length, self.platform.local_node(self.cpu)),
            (None, 4) => {
                let local = self.platform.local_node(self.cpu);
                subject.allocate_on(length, self.platform.remote_node(self.cpu).unwrap_or(local))
            }
            _ => subject.allocate(length),
        };
        let Some(block) = block else {
            self.report.failed_allocations += 1;
            return None;
        };
        self.held_bytes += length;
        Some(Owned { held: Held::fill(&subject, block, length, seed, &mut self.report.errors), order })
    }

    fn give_back(&mut self, owned: Owned<S::Block>) {
        self.held_bytes -= owned.held.length;
        owned.give_back(&self.subject, &mut self.report.errors);
    }

    fn hand_on(&mut self, place: usize) {
        let other = self.random.below(self.stress.cpus as u64) as usize;
        let Some(owned) = self.slots[place].take() else { return };
        let length = owned.held.length;
        let mut inbox = self.team.inboxes[other].lock();
        if inbox.len() < INBOX {
            inbox.push(owned);
            self.held_bytes -= length;
            self.report.handed_on += u64::from(other != self.cpu);
        } else {
            drop(inbox);
            self.slots[place] = Some(owned);
        }
    }

    fn read_inbox(&mut self) {
        loop {
            let Some(owned) = self.team.inboxes[self.cpu].lock().pop() else { return };
            self.held_bytes += owned.held.length;
            owned.held.verify(&self.subject, &mut self.report.errors);
            let place = self.random.below(SLOTS as u64) as usize;
            if let Some(old) = self.slots[place].replace(owned) {
                self.give_back(old);
            }
        }
    }

    /// Everyone's blocks side by side, then all given back.
    fn finish(&mut self) {
        let (team, platform, subject) = (self.team, self.platform, self.subject.clone());
        // Nothing is handed on after this.
        team.barrier.wait(platform);
        self.read_inbox();
        team.ranges.lock().extend(self.slots.iter().flatten().map(|owned| owned.held.range(&subject)));
        team.barrier.wait(platform);
        if self.cpu == 0 {
            self.report.errors += overlaps(&mut mem::take(&mut *team.ranges.lock()));
        }
        for owned in mem::take(&mut self.slots).into_iter().flatten() {
            self.give_back(owned);
        }
    }
}
