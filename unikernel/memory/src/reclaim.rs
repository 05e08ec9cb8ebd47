//! What is done when memory is short: reclaim, waiting, and the balancing of nodes.
//!
//! Users: the slow paths of pages and slabs, through [`Service::persist`]; the host, whose balancing threads run
//! [`Service::wait_for_imbalance`] and [`Service::balance`].
//!
//! # Theory
//!
//! *Direct reclaim.* Whoever may wait queues up ([`waiters`](crate::waiters)) and then works in rounds: it gives back
//! what its own CPU caches, asks the other CPUs to do so, shrinks depots, compacts zones that have enough, but not in
//! one piece, asks shrinkers if that made no block (for more in every round), serves those who wait, itself among them,
//! and sleeps until frames are handed to it or a short while has passed. An ordinary request fails after [`MAX_ROUNDS`]
//! rounds without progress; one that must not fail goes on for ever; the flags in [`Patience`] say who does how much.
//! Progress is frames that became available, a block that compaction made, or objects given up. While pagers write pages a
//! round that brought nothing is not in vain, for these will be free, unless the last was written [`LONGEST_HOPE`] ago: then
//! whoever should write may wait for memory itself.
//!
//! *Attention.* While anybody waits all limits of all CPUs' caches are 0: what is freed goes to zones and slabs at once,
//! where it can be handed over. CPUs that idle are drained by a call ([`Machine::drain_others`]); those that work give
//! back what they have when they switch threads (the host looks at [`Service::is_short`]). One that does neither keeps
//! what it has, which is bounded and a row of the statistics. A call interrupts every CPU and waits for it (milliseconds
//! under a hypervisor that shares CPUs), so reclaim makes one only when the last is [`CALL_INTERVAL`] ago; but on behalf
//! of a request that would else go on in vain, or has one round only, there is one at least.
//!
//! *Balancing.* A node whose zones fell to the low watermark is balanced by a thread of its own until they are at the
//! high one. A node that could not be helped [`MAX_ROUNDS`] times is left alone until a reclaim makes progress, or there is
//! somebody new to ask.
//!
//! *Recursion.* Whoever reclaims is marked in its task: what it allocates may use every reserve and never reclaims.
//!
//! *Dead ends.* A request that must not fail and has made no progress for long, and one that has waited long for an
//! element of a pool, ask the host how many threads can ever run. If all of them are such waiters, nothing will ever be
//! freed: the service panics and names each waiter.

use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, Ordering::Relaxed};
use core::time::Duration;

use quarry_topology::{MAX_NODES, NodeId};

use crate::allocate::{Floor, Placement, Request};
use crate::compaction::Compacted;
use crate::events::Event;
use crate::frame::{Order, Pfn, State};
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::policy::NodeMask;
use crate::service::Service;
use crate::set::{LISTED_ORDERS, Set};
use crate::shrinker::LIGHTEST;
use crate::task::Task;
use crate::waiters::Waiter;
use crate::zone::ZoneKind;

/// Rounds without progress after which an ordinary request fails. Linux's `MAX_RECLAIM_RETRIES`.
pub const MAX_ROUNDS: u32 = 16;

/// The largest order for which waiting is worth it without being asked: Linux's `PAGE_ALLOC_COSTLY_ORDER`.
const COSTLY_ORDER: u32 = 3;

/// The longest sleep between two rounds.
const LONGEST_SLEEP: Duration = Duration::from_millis(8);

/// How long the next page that pagers write is waited for: longer than a disk takes for anything.
const LONGEST_HOPE: Duration = Duration::from_secs(10);

/// Least time between two calls of other CPUs that nobody needs more than others.
const CALL_INTERVAL: Duration = Duration::from_millis(10);

/// How hard a request tries before it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    /// One light round: this CPU's caches, the depots, a share of the shrinkers' objects. `__GFP_NORETRY`.
    OneLightRound,
    /// One round with everything in it: a costly order, if not asked to try harder.
    OneRound,
    /// Until [`MAX_ROUNDS`] rounds brought nothing.
    Rounds,
    /// For ever. `__GFP_NOFAIL`.
    Endless,
}

impl Patience {
    fn of(gfp: Gfp, order: Order) -> Self {
        match gfp {
            gfp if gfp.contains(Gfp::NOFAIL) => Self::Endless,
            gfp if gfp.contains(Gfp::NORETRY) => Self::OneLightRound,
            gfp if order.get() > COSTLY_ORDER && !gfp.contains(Gfp::RETRY_MAYFAIL) => Self::OneRound,
            _ => Self::Rounds,
        }
    }

    /// Whether progress is a reason for another round.
    const fn goes_on(self) -> bool {
        matches!(self, Self::Rounds | Self::Endless)
    }

    const fn rounds(self) -> u32 {
        match self {
            Self::OneLightRound | Self::OneRound => 1,
            Self::Rounds => MAX_ROUNDS,
            Self::Endless => u32::MAX,
        }
    }
}

impl Patience {
    /// Rounds after which a request fails though there was progress. Frames that come free one by one may never make a
    /// block: whoever wants one would otherwise wait while all others are served.
    const fn most_rounds(self, order: Order) -> u32 {
        match self {
            Self::Rounds if order.get() > 0 => 2 * MAX_ROUNDS,
            _ => u32::MAX,
        }
    }
}

/// A node's balancing thread, as far as the service knows it.
pub(crate) struct Balancer {
    /// The thread's task; null while it does not wait for work.
    task: AtomicPtr<Task>,
    wanted: AtomicBool,
    /// How often in a row it could not reach the high watermark.
    failures: AtomicU32,
}

/// When other CPUs were called in last, in nanoseconds of [`Machine::now`], rounded up; 0 is never.
pub(crate) struct LastCall(AtomicU64);

impl LastCall {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Whether it is time for a call, which then is noted: the last is long ago, or was before `needed`.
    fn is_due(&self, now: Duration, needed: Option<Duration>) -> bool {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (last, now) = (self.0.load(Relaxed), nanoseconds(now).max(1));
        let is_due = last == 0
            || now.saturating_sub(last) >= nanoseconds(CALL_INTERVAL)
            || needed.is_some_and(|needed| last < nanoseconds(needed));
        // Of those who come at once, one calls.
        is_due && self.0.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
    }
}

/// The balancing threads of all nodes.
pub(crate) struct Balancers([Balancer; MAX_NODES]);

impl Balancers {
    pub(crate) const fn new() -> Self {
        Self(
            [const {
                Balancer {
                    task: AtomicPtr::new(ptr::null_mut()),
                    wanted: AtomicBool::new(false),
                    failures: AtomicU32::new(0),
                }
            }; MAX_NODES],
        )
    }
}

impl<M: Machine> Service<M> {
    /// Whether a request that finds nothing may reclaim and wait.
    pub(crate) fn may_persist(&self, gfp: Gfp, task: &Task) -> bool {
        gfp.may_wait() && !task.is_reclaiming() && self.machine().may_sleep()
    }

    /// Makes memory for a request that found none, and waits for it, as its flags allow. `look` is called with a block
    /// handed over for it, and, for a request of a cache, without one to look for an object; what it returns is the
    /// result. `None` when there is nothing to be had, at once where the request may not wait.
    #[cold]
    #[inline(never)]
    pub(crate) fn persist<T>(
        &self,
        request: &Request,
        mut look: impl FnMut(Option<(Pfn, State)>) -> Option<T>,
    ) -> Option<T> {
        let task = self.machine().task();
        if !self.may_persist(request.gfp, task) {
            return None;
        }
        let patience = Patience::of(request.gfp, request.order);
        let waiter = Waiter::new(*request, task);
        self.waiters().enter(self.machine(), &waiter);
        self.serve_those_missed();
        self.events().count(Event::DirectReclaim);
        let found = self.work_in_rounds(request, patience, &waiter, &mut look);
        let block = self.waiters().leave(self.machine(), &waiter);
        self.serve_those_missed();
        match (found, block) {
            (None, block) => block.and_then(|block| look(Some(block))),
            (found, None) => found,
            (found, Some((block, state))) => {
                // It found an object, and was given a block meanwhile: that is for the next.
                self.give_back(block, state);
                found
            }
        }
    }

    /// Works until the waiter is given a block (`None`, too), or an object is found, or patience is at its end.
    fn work_in_rounds<T>(
        &self,
        request: &Request,
        patience: Patience,
        waiter: &Waiter,
        look: &mut impl FnMut(Option<(Pfn, State)>) -> Option<T>,
    ) -> Option<T> {
        // Rounds, those in vain, and those that brought nothing, be there hope or not; the latter two in a row.
        let (mut round, mut in_vain, mut empty) = (0, 0, 0);
        let began = self.machine().now();
        while in_vain < patience.rounds() && round < patience.most_rounds(request.order) {
            let needs_call = in_vain > 0 || patience == Patience::OneRound;
            let progress = self.reclaim(request, round, patience, waiter, needs_call.then_some(began));
            empty = if progress { 0 } else { empty + 1 };
            let is_worth_it = progress || self.may_hope(request);
            in_vain = if is_worth_it && patience.goes_on() { 0 } else { in_vain + 1 };
            round += 1;
            self.serve_waiters_in_turn();
            waiter.will_look();
            let found = request.cache.and_then(|_| look(None));
            if found.is_some() || waiter.is_given() {
                return found;
            }
            if patience == Patience::Endless && in_vain >= MAX_ROUNDS {
                waiter.stalled.store(true, Relaxed);
                self.panic_at_a_dead_end();
            } else {
                waiter.stalled.store(false, Relaxed);
            }
            if in_vain >= patience.rounds() || round >= patience.most_rounds(request.order) {
                break;
            }
            self.events().count(Event::Wait);
            let longest = LONGEST_SLEEP.min(Duration::from_millis(1) * (empty + 1));
            self.machine().sleep(&mut || waiter.is_called(), Some(longest));
            if waiter.is_given() {
                return None;
            }
            waiter.will_look();
            let found = request.cache.and_then(|_| look(None));
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// One round of direct reclaim on behalf of a request, until it is given a block; whether it brought anything. Other
    /// CPUs are called at the latest when they were not since `needed`.
    fn reclaim(
        &self,
        request: &Request,
        round: u32,
        patience: Patience,
        waiter: &Waiter,
        needed: Option<Duration>,
    ) -> bool {
        let _scope = self.memalloc_noreclaim();
        let nodes = request.placement.nodes;
        let before = self.available_on(request.placement);
        self.drain_local();
        if patience != Patience::OneLightRound {
            self.close_all_caches();
            self.call_others_in(needed);
        }
        self.shrink_depots();
        if waiter.is_given() {
            return true;
        }
        // Before anything is given up that its owner would have to make again.
        let compacted = patience != Patience::OneLightRound && self.compact_for(request);
        let mut freed = 0;
        if !compacted {
            let priority = LIGHTEST.saturating_sub(round);
            freed = self.shrink(request.gfp, nodes, priority, Event::ScannedDirectly, &|| waiter.is_given());
            // What the shrinkers freed went into this CPU's caches.
            self.drain_local();
            self.shrink_depots();
        }
        let progress = freed > 0 || compacted || self.available_on(request.placement) > before;
        if progress {
            nodes.nodes().for_each(|node| self.balancers().0[node.index()].failures.store(0, Relaxed));
        }
        progress
    }

    /// Whether pagers write pages that will be free, and have not stopped doing so.
    fn may_hope(&self, request: &Request) -> bool {
        let now = self.machine().now();
        let is_fresh = |since: Duration| now.saturating_sub(since) < LONGEST_HOPE;
        self.candidates(request.placement).any(|node| self.laundering_since(node).is_some_and(is_fresh))
    }

    /// Moves pages together where a zone has enough for a request, but not in one piece; whether that made a block.
    fn compact_for(&self, request: &Request) -> bool {
        let mut zones = self
            .candidates(request.placement)
            .flat_map(|node| self.nodes().get(node).into_iter().flat_map(|node| node.zones.iter().rev()))
            .filter(|zone| zone.id().kind() <= request.placement.highest);
        let floor = Floor::of_waiter(request, false);
        zones.any(|zone| {
            request.allows(zone, floor, request.order.frames())
                && self.compact_zone(zone, request.order) == Compacted::Success
        })
    }

    /// Has other CPUs give back what they cache, if that is due.
    fn call_others_in(&self, needed: Option<Duration>) {
        if self.last_call().is_due(self.machine().now(), needed) {
            self.events().count(Event::DrainCall);
            M::drain_others(self);
        }
    }

    /// Sets every limit of every set to 0: what is freed from now on is not cached.
    pub(crate) fn close_all_caches(&self) {
        self.sets().for_each(Set::close);
    }

    /// Frames to be had for a request at all.
    fn available_on(&self, placement: Placement) -> u64 {
        let zones = |node| self.nodes().get(node).into_iter().flat_map(|node| &node.zones);
        self.candidates(placement)
            .flat_map(zones)
            .filter(|zone| zone.id().kind() <= placement.highest)
            .map(|zone| u64::from(zone.available_frames()))
            .sum()
    }

    /// Whether anybody is short of memory: then what CPUs cache is best [given back](Self::drain_local). One relaxed
    /// load, for hosts to look at whenever they switch threads.
    #[inline]
    pub fn is_short(&self) -> bool {
        self.waiters().attention().is_raised()
    }

    /// Gives back a block that was handed over and is not needed.
    pub(crate) fn give_back(&self, block: Pfn, state: State) {
        let zone = self.nodes().zone(state.zone()).expect("a block handed over is of a zone that exists");
        zone.free(self.machine(), block, state.order());
        self.frames_freed();
    }

    /// Ends the run if no thread but those that wait in vain can ever run again. Called by one of these, with no lock
    /// held.
    pub(crate) fn panic_at_a_dead_end(&self) {
        // In this order: whoever is counted and no longer waits when the waiters are asked, is one too many.
        let Some(runnable) = self.machine().runnable_threads() else { return };
        let Some(waiters) = self.waiters().all_stalled(self.machine()) else { return };
        let dead = self.all_pool_waiters_stalled().is_some_and(|pool_waiters| runnable <= waiters + pool_waiters);
        if dead {
            // Written now: when a panic's report is, other CPUs may have been stopped holding the locks this takes.
            let mut text = Text { bytes: [0; 4096], length: 0 };
            let _ = fmt::Write::write_fmt(&mut text, format_args!("{}", DeadEnd(self)));
            panic!("{}", text.as_str());
        }
    }
}

/// A text as far as there is room for it.
struct Text {
    bytes: [u8; 4096],
    length: usize,
}

impl Text {
    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).expect("only whole characters are written")
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let written = text.floor_char_boundary(self.bytes.len() - self.length);
        self.bytes[self.length..][..written].copy_from_slice(&text.as_bytes()[..written]);
        self.length += written;
        if written == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Every thread waits for memory: names each, and what it wants.
struct DeadEnd<'a, M: Machine>(&'a Service<M>);

impl<M: Machine> fmt::Display for DeadEnd<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = self.0;
        f.write_str("out of memory: no thread can run but those that wait for memory, and nothing will free any")?;
        let mut result = Ok(());
        service.waiters().for_each(service.machine(), |task, request| {
            result = result
                .and_then(|()| f.write_str("\n"))
                .and_then(|()| service.machine().describe_task(task, f))
                .and_then(|()| write!(f, " waits for {} with {}", request.order, request.gfp));
        });
        service.for_each_pool_waiter(|task, pool| {
            result = result
                .and_then(|()| f.write_str("\n"))
                .and_then(|()| service.machine().describe_task(task, f))
                .and_then(|()| write!(f, " waits for an element of {pool}"));
        });
        result
    }
}

impl<M: Machine> Service<M> {
    /// Wakes the balancing threads of the nodes that may serve a request and are out of balance.
    pub(crate) fn wake_balancers(&self, placement: Placement) {
        for node in self.candidates(placement) {
            let balancer = &self.balancers().0[node.index()];
            if balancer.failures.load(Relaxed) < MAX_ROUNDS
                && !balancer.wanted.load(Relaxed)
                && !self.is_balanced(node)
                // SeqCst: with the store of `task` in `wait_for_imbalance`, so one of the two sees the other.
                && !balancer.wanted.swap(true, Ordering::SeqCst)
            {
                self.events().count(Event::BalancerWoken);
                // SAFETY: a balancing thread never ends.
                if let Some(task) = unsafe { balancer.task.load(Ordering::SeqCst).as_ref() } {
                    self.machine().wake(task);
                }
            }
        }
    }

    /// As [`Self::wake_balancers`], for a node whose thread was left alone after it had failed often: there is something
    /// now that it alone can do.
    pub(crate) fn wake_balancer_again(&self, node: NodeId) {
        self.balancers().0[node.index()].failures.store(0, Relaxed);
        self.wake_balancers(Placement { nodes: NodeMask::only(node), ..Placement::near(node) });
    }

    /// Has nodes that were given up balanced again, for there is somebody new to ask.
    pub(crate) fn balance_those_given_up(&self) {
        for (node, _) in self.nodes().with_memory() {
            // One whose thread is in its last vain round starts counting anew.
            if self.balancers().0[node.index()].failures.swap(0, Relaxed) >= MAX_ROUNDS {
                self.wake_balancer_again(node);
            }
        }
    }

    /// Waits until a node fell to its low watermark. What a host's balancing thread of that node calls before each
    /// [`Self::balance`], for ever; Linux's `kswapd`.
    pub fn wait_for_imbalance(&self, node: NodeId) {
        let balancer = &self.balancers().0[node.index()];
        balancer.task.store(ptr::from_ref(self.machine().task()).cast_mut(), Ordering::SeqCst);
        self.machine().sleep(&mut || balancer.wanted.load(Ordering::SeqCst), None);
    }

    /// Reclaims until a node is at its high watermark or nothing more can be had; whether it got there. May sleep.
    pub fn balance(&self, node: NodeId) -> bool {
        let balancer = &self.balancers().0[node.index()];
        let _scope = self.memalloc_noreclaim();
        let mut laundered = false;
        for priority in (0..=LIGHTEST).rev() {
            if self.is_balanced(node) {
                break;
            }
            self.drain_local();
            if priority < LIGHTEST {
                self.call_others_in(None);
            }
            self.shrink_depots();
            let is_done = || self.is_balanced(node);
            self.shrink(Gfp::KERNEL, NodeMask::only(node), priority, Event::ScannedByBalancer, &is_done);
            laundered |= self.launder(node, priority);
            self.drain_local();
            self.shrink_depots();
            self.frames_freed();
        }
        let reached = self.is_balanced(node);
        self.launder_ahead(node);
        if reached {
            balancer.failures.store(0, Relaxed);
            self.events().count(Event::BalancerDone);
        } else if laundered {
            balancer.failures.store(0, Relaxed);
        } else {
            balancer.failures.fetch_add(1, Relaxed);
        }
        balancer.wanted.store(false, Ordering::SeqCst);
        reached
    }

    /// Whether the node's zones together have as much as their high watermarks say.
    fn is_balanced(&self, node: NodeId) -> bool {
        let Some(state) = self.nodes().get(node) else { return true };
        let sum =
            |of: fn(&crate::zone::Zone) -> u32| -> u64 { state.zones.iter().map(|zone| u64::from(of(zone))).sum() };
        // DMA memory is no help to those who did not ask for it.
        let dma = state.zone(ZoneKind::Dma);
        let spared = if dma.managed.load(Relaxed) > 0 && state.highest_zone().id() != dma.id() {
            dma.available_frames()
        } else {
            0
        };
        let cached = u64::from(self.vm_cached(node));
        sum(crate::zone::Zone::available_frames) + cached - u64::from(spared) >= sum(|zone| zone.watermarks().high)
    }
}

impl Set {
    /// Has the owner drain each cache at its next free. Any CPU may call this; see the head of [`set`](crate::set).
    pub(crate) fn close(&self) {
        for (_, magazine) in self.each_magazine() {
            magazine.limit.store(0, Relaxed);
        }
        for list in &self.pages[..LISTED_ORDERS] {
            list.limit.store(0, Relaxed);
        }
    }
}
