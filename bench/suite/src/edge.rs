//! The edge: threads that together want more memory than there is, each in a way of its own, beside a cache that can
//! be emptied for them.
//!
//! Run by the guest (`mode=edge`) and, for fewer steps, by the hosted tests. Every CPU has a crew of threads. *Patient*
//! ones wait for memory and may be refused; *atomic* ones take bursts without waiting, half of them in an interrupt
//! handler; *unfailing* ones wait as long as it takes; *optional* ones fill the [`Cache`] with whatever is left, so that
//! free memory is always about where allocations begin to be refused. Each takes the figures of its calls, fills every
//! block and compares it before it goes.
//!
//! Nothing allocates behind the workers' backs once they run: what they note has its place before.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use spin::Mutex;

use crate::cache::Cache;
use crate::checked::Held;
use crate::platform::Threads;
use crate::random::{Random, log_uniform};
use crate::stress::{Limit, Owned};
use crate::subject::{Pressed, Way};

/// What the threads of a CPU are.
const CREW: [Way; 5] = [Way::Patient, Way::Patient, Way::Atomic, Way::Unfailing, Way::Optional];

/// What all threads of a way may hold together, in hundredths of the memory there is. Patient ones want between a
/// quarter and one and a half of theirs; the cache takes what it gets.
const fn share(way: Way) -> u64 {
    match way {
        Way::Patient => 85,
        Way::Atomic => 6,
        Way::Unfailing => 15,
        Way::Optional => 0,
    }
}

/// Steps after which a patient thread wants another amount.
const MOOD: u64 = 128;

/// Bytes a thread takes before it lets others run.
const TURN: usize = 128 << 10;

/// Turns an atomic thread passes after each burst.
const REST: usize = 16;

/// Blocks an optional thread takes in a step.
const EAGERNESS: usize = 16;

/// A wait that is longer means that somebody starves. Far longer than any should be, for hosts are busy.
const LONGEST_WAIT_SECONDS: u64 = 10;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// On how many CPUs.
    pub cpus: usize,
    /// Where the random numbers start.
    pub seed: u64,
    /// When each thread is to stop.
    pub limit: Limit,
    /// Bytes there are for all of it: what nobody uses when it begins.
    pub memory: u64,
}

impl Edge {
    /// How many threads it takes. They must exist before it begins, where making one takes memory that is kept.
    pub const fn threads(&self) -> usize {
        self.cpus * CREW.len()
    }
}

/// What came of the calls of one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Calls.
    pub attempts: u64,
    /// Those that were refused.
    pub failures: u64,
    /// How long the longest took, in ticks.
    pub longest_ticks: u64,
}

impl Calls {
    fn add(&mut self, other: Self) {
        self.attempts += other.attempts;
        self.failures += other.failures;
        self.longest_ticks = self.longest_ticks.max(other.longest_ticks);
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EdgeReport {
    /// The calls, by way, in the order of [`Way::ALL`].
    pub calls: [Calls; Way::ALL.len()],
    /// Of the atomic calls, those made in an interrupt handler.
    pub in_handlers: u64,
    /// Blocks the cache gave up.
    pub given_up: u64,
    /// Blocks misaligned or with changed contents.
    pub errors: u64,
    /// Bytes that did not come back, by the allocator's own count where it has one.
    pub lost_bytes: u64,
}

impl EdgeReport {
    /// What is wrong with it; nothing, if all is as it should be. `waits` is how often a thread slept for memory.
    pub fn complaints(&self, ticks_per_second: u64, waits: u64) -> Vec<String> {
        let mut complaints = Vec::new();
        let of = |way: Way| self.calls[way as usize];
        for way in Way::ALL {
            if of(way).attempts == 0 {
                complaints.push(format!("no {} allocation was tried", way.name()));
            }
            let seconds = of(way).longest_ticks / ticks_per_second.max(1);
            if seconds >= LONGEST_WAIT_SECONDS {
                complaints.push(format!("somebody starved: one {} allocation took {seconds} s", way.name()));
            }
        }
        if of(Way::Unfailing).failures > 0 {
            complaints.push(format!("{} allocations failed that must not", of(Way::Unfailing).failures));
        }
        if of(Way::Atomic).failures == 0 && waits == 0 {
            complaints.push("this was not the edge: nothing was refused and nobody waited".to_string());
        }
        if self.errors > 0 {
            complaints.push(format!("{} blocks were misaligned or changed while they were held", self.errors));
        }
        if self.lost_bytes > 0 {
            complaints.push(format!("{} bytes did not come back", self.lost_bytes));
        }
        complaints
    }
}

/// Runs it. The allocator is to ask `cache` for memory while this runs; the cache is empty when it returns.
pub fn edge<P: Threads, S: Pressed + Copy>(
    platform: P,
    subject: S,
    edge: Edge,
    cache: &'static Cache<S>,
) -> EdgeReport {
    let before = subject.in_use();
    let worker = |thread| Mutex::new(Some(Worker::new(platform, subject, edge, thread, cache)));
    let workers: Vec<_> = (0..edge.threads()).map(worker).collect();
    // Nobody begins before all are there, for making a thread takes memory. Then the patient take theirs, the cache is
    // filled with the rest, and only then does time begin, however slow the machine.
    let gates = [(); 3].map(|()| Gate(AtomicUsize::new(workers.len())));
    let body = move |thread: usize| {
        let mut worker = workers[thread].lock().take().expect("each thread takes its own worker");
        for (gate, way) in gates.iter().zip([None, Some(Way::Patient), Some(Way::Optional)]) {
            if way == Some(worker.way) {
                worker.begin();
            }
            gate.pass(platform);
        }
        worker.run()
    };
    let mut total = EdgeReport::default();
    for report in platform.on_threads(edge.threads(), body) {
        for (sum, calls) in total.calls.iter_mut().zip(report.calls) {
            sum.add(calls);
        }
        total.in_handlers += report.in_handlers;
        total.errors += report.errors;
    }
    total.given_up = cache.given_up();
    total.errors += cache.clear();
    if let (Some(before), Some(after)) = (before, subject.in_use()) {
        total.lost_bytes = before.abs_diff(after);
    }
    total
}

/// Holds threads, which run in turn, until all have come. Once.
struct Gate(AtomicUsize);

impl Gate {
    fn pass(&self, platform: impl Threads) {
        // Relaxed: nothing else is shared.
        self.0.fetch_sub(1, Relaxed);
        while self.0.load(Relaxed) > 0 {
            platform.yield_now();
        }
    }
}

struct Worker<P, S: Pressed + Copy> {
    platform: P,
    subject: S,
    edge: Edge,
    cache: &'static Cache<S>,
    way: Way,
    random: Random,
    blocks: Vec<Owned<S::Block>>,
    held_bytes: usize,
    /// Most bytes to hold, on average and at the moment.
    share: usize,
    wanted: usize,
    steps: u64,
    taken_this_turn: usize,
    report: EdgeReport,
}

impl<P: Threads, S: Pressed + Copy> Worker<P, S> {
    fn new(platform: P, subject: S, edge: Edge, thread: usize, cache: &'static Cache<S>) -> Self {
        let way = CREW[thread / edge.cpus];
        let others = CREW.iter().filter(|&&other| other == way).count() * edge.cpus;
        let share = (edge.memory * share(way) / 100) as usize / others;
        Self {
            platform,
            subject,
            edge,
            cache,
            way,
            random: Random::new(edge.seed, thread as u64),
            // Room for blocks a good deal smaller than they are on average.
            blocks: Vec::with_capacity((share / 2048).clamp(64, 1 << 15)),
            held_bytes: 0,
            share,
            wanted: share,
            steps: 0,
            taken_this_turn: 0,
            report: EdgeReport::default(),
        }
    }

    /// Takes most of a patient thread's share, or all there is for the cache, until it gives some up.
    fn begin(&mut self) {
        let enough = self.share / 4 * 3;
        while match self.way {
            Way::Optional => self.cache.given_up() == 0 && self.report.calls[self.way as usize].failures == 0,
            _ => self.held_bytes < enough && self.blocks.len() < self.blocks.capacity(),
        } {
            self.step();
            self.wanted = self.share;
        }
    }

    fn run(mut self) -> EdgeReport {
        let start = self.platform.ticks();
        while self.goes_on(start) {
            self.step();
        }
        while self.give_one_back() {
            self.platform.yield_now();
        }
        self.report
    }

    fn step(&mut self) {
        match self.way {
            Way::Patient => self.be_patient(),
            Way::Atomic => self.burst(),
            Way::Unfailing => self.insist(),
            Way::Optional => self.fill_the_cache(),
        }
        self.steps += 1;
        if self.taken_this_turn >= TURN {
            self.taken_this_turn = 0;
            self.platform.yield_now();
        }
    }

    fn goes_on(&self, start: u64) -> bool {
        match self.edge.limit {
            Limit::Operations(most) => self.steps < most,
            Limit::Seconds(seconds) => {
                let ticks = seconds.saturating_mul(self.platform.ticks_per_second());
                self.platform.ticks().saturating_sub(start) < ticks
            }
        }
    }

    /// Takes or gives one back, so that about what is wanted is held; gives up a quarter when refused.
    fn be_patient(&mut self) {
        if self.steps % MOOD == MOOD - 1 {
            self.wanted = self.share * (1 + self.random.below(6) as usize) / 4;
        }
        if !self.wants_more() {
            self.give_one_back();
            return;
        }
        let order = (self.random.below(4) == 0).then(|| self.random.below(4) as u32);
        let length = log_uniform(&mut self.random, 3, 16);
        if !self.take(order, length) {
            for _ in 0..self.blocks.len().div_ceil(4) {
                self.give_one_back();
            }
        }
    }

    /// Takes or gives one back; never refused.
    fn insist(&mut self) {
        if self.wants_more() {
            let order = (self.random.below(4) == 0).then(|| self.random.below(2) as u32);
            let length = log_uniform(&mut self.random, 3, 13);
            self.take(order, length);
        } else {
            self.give_one_back();
        }
    }

    /// Whether to take rather than to give back: three times in four, until enough is held.
    fn wants_more(&mut self) -> bool {
        let room = self.held_bytes < self.wanted && self.blocks.len() < self.blocks.capacity();
        room && self.random.below(4) > 0 || self.blocks.is_empty()
    }

    /// Takes until it is refused or has enough, then gives all back.
    fn burst(&mut self) {
        while self.held_bytes < self.share && self.blocks.len() < self.blocks.capacity() {
            let order = (self.random.below(2) == 0).then(|| self.random.below(2) as u32);
            let length = log_uniform(&mut self.random, 3, 13);
            if !self.take(order, length) {
                break;
            }
        }
        while self.give_one_back() {}
        for _ in 0..REST {
            self.platform.yield_now();
        }
    }

    /// Takes what there is for the cache, and uses some of what is in it.
    fn fill_the_cache(&mut self) {
        for _ in 0..EAGERNESS {
            let order = (self.random.below(2) == 0).then(|| self.random.below(3) as u32);
            let length = log_uniform(&mut self.random, 9, 14);
            if !self.take(order, length) {
                // Others first.
                self.platform.yield_now();
                break;
            }
            if let Some(owned) = self.blocks.pop() {
                self.held_bytes -= owned.held.length;
                self.cache.put(owned);
            }
        }
        self.cache.touch(self.random.next_u64());
    }

    /// Takes a block of that length, or of 2^order pages; `false` when it is refused.
    fn take(&mut self, order: Option<u32>, length: usize) -> bool {
        let (subject, way) = (self.subject, self.way);
        let length = order.map_or(length, |order| 4096 << order);
        let allocate = || match order {
            Some(order) => subject.allocate_pages_with(way, order),
            None => subject.allocate_with(way, length),
        };
        let in_handler = way == Way::Atomic && self.random.below(2) == 0;
        let start = self.platform.ticks();
        let block = if in_handler {
            let mut block = None;
            self.platform.interrupt(&mut || block = allocate());
            block
        } else {
            allocate()
        };
        let ticks = self.platform.ticks().saturating_sub(start);
        let calls = Calls { attempts: 1, failures: u64::from(block.is_none()), longest_ticks: ticks };
        self.report.calls[way as usize].add(calls);
        self.report.in_handlers += u64::from(in_handler);
        let Some(block) = block else { return false };
        let seed = self.random.next_u64();
        self.held_bytes += length;
        self.taken_this_turn += length;
        let held = Held::fill(&subject, block, length, seed, &mut self.report.errors);
        self.blocks.push(Owned { held, order });
        true
    }

    /// Compares and gives back any block; `false` when there is none.
    fn give_one_back(&mut self) -> bool {
        if self.blocks.is_empty() {
            return false;
        }
        let place = self.random.below(self.blocks.len() as u64) as usize;
        let owned = self.blocks.swap_remove(place);
        self.held_bytes -= owned.held.length;
        owned.give_back(&self.subject, &mut self.report.errors);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> EdgeReport {
        let calls = Calls { attempts: 10, failures: 0, longest_ticks: 9_999 };
        let mut report = EdgeReport { calls: [calls; 4], ..EdgeReport::default() };
        report.calls[Way::Atomic as usize].failures = 1;
        report
    }

    fn complaints(change: impl FnOnce(&mut EdgeReport)) -> String {
        let mut report = report();
        change(&mut report);
        report.complaints(1000, 0).join("; ")
    }

    #[test]
    fn a_run_as_it_should_be_gives_no_cause_for_complaint() {
        assert_eq!(complaints(|_| ()), "");
        let mut patient = report();
        patient.calls[Way::Atomic as usize].failures = 0;
        assert_eq!(patient.complaints(1000, 1), [""; 0], "somebody waited, so this was the edge");
    }

    #[test]
    fn every_fault_is_told() {
        let told = |change: fn(&mut EdgeReport), what: &str| assert_eq!(complaints(change), what);
        told(|it| it.calls[Way::Unfailing as usize].failures = 2, "2 allocations failed that must not");
        told(|it| it.calls[0].longest_ticks = 10_000, "somebody starved: one patient allocation took 10 s");
        told(|it| it.calls[Way::Optional as usize].attempts = 0, "no optional allocation was tried");
        told(
            |it| it.calls[Way::Atomic as usize].failures = 0,
            "this was not the edge: nothing was refused and nobody waited",
        );
        told(|it| it.errors = 3, "3 blocks were misaligned or changed while they were held");
        told(|it| it.lost_bytes = 8, "8 bytes did not come back");
    }
}
