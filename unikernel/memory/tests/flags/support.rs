//! What the tests share: tiny machines, all their memory in one hand, and a shrinker that notes what it is asked.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use quarry_memory::events::Event;
use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::statistics::ZoneInfo;
use quarry_memory::{CpuId, Gfp, NodeId, Order, Pfn, Service, ShrinkControl, Shrinker, Topology};

pub(crate) type TestService = Service<HostedMachine>;

pub(crate) const MIB: u64 = 1 << 20;

/// An ordinary request, without a report if it fails.
pub(crate) const KERNEL: Gfp = Gfp::KERNEL.union(Gfp::NOWARN);

/// One that fails at once.
pub(crate) const NOWAIT: Gfp = Gfp::NOWAIT.union(Gfp::NOWARN);

/// One that fails at once and wakes nobody.
const SILENT: Gfp = Gfp::NOWARN;

/// The second node of [`two_nodes`].
pub(crate) const NODE_1: NodeId = NodeId(1);

/// A CPU of that node.
pub(crate) const CPU_OF_NODE_1: CpuId = CpuId(2);

/// A node with a DMA and a DMA32 zone and one with a DMA32 zone alone, 32 MiB each, two CPUs each.
pub(crate) fn two_nodes() -> &'static Hosted {
    let topology = Topology::builder().node(32 * MIB, 2).node(32 * MIB, 2).build().expect("a machine");
    Hosted::leak(topology).expect("there is address space")
}

/// A node that has memory in all three zones.
pub(crate) fn three_zones() -> &'static Hosted {
    let topology = Topology::builder().node(5 << 30, 1).build().expect("a machine");
    Hosted::leak(topology).expect("there is address space")
}

/// An order the tests know to exist.
pub(crate) fn order(order: u32) -> Order {
    Order::new(order).expect("the tests use orders that exist")
}

/// The highest zone of a node that has memory.
pub(crate) fn highest_zone(service: &TestService, node: NodeId) -> ZoneInfo {
    service.zones().filter(|zone| zone.node == node && zone.managed > 0).last().expect("the node has memory")
}

/// Events counted while something runs.
pub(crate) struct Counted<'s> {
    service: &'s TestService,
    before: Vec<u64>,
}

impl<'s> Counted<'s> {
    pub(crate) fn from_here(service: &'s TestService) -> Self {
        Self { service, before: Event::ALL.iter().map(|&event| service.event_count(event)).collect() }
    }

    pub(crate) fn count(&self, event: Event) -> u64 {
        self.service.event_count(event) - self.before[event as usize]
    }

    /// Whether nobody reclaimed, slept, or asked another CPU for anything.
    #[track_caller]
    pub(crate) fn assert_nobody_waited(&self) {
        for event in [Event::DirectReclaim, Event::Wait, Event::DrainCall, Event::ScannedDirectly] {
            assert_eq!(self.count(event), 0, "{}", event.name());
        }
    }
}

/// Single frames in one hand, given back when dropped.
pub(crate) struct Hoard {
    service: &'static TestService,
    frames: Vec<Pfn>,
}

impl Hoard {
    /// Every frame there is, reserves and what CPUs cache included.
    pub(crate) fn of_everything(service: &'static TestService) -> Self {
        service.drain_local();
        service.shrink_depots();
        let scope = service.memalloc_noreclaim();
        let hoard = Self::of(service, |service| service.alloc_pages(SILENT, Order::ZERO));
        drop(scope);
        hoard
    }

    /// Every frame of one node, reserves included.
    pub(crate) fn of_node(service: &'static TestService, node: NodeId) -> Self {
        service.drain_local();
        service.shrink_depots();
        let scope = service.memalloc_noreclaim();
        let hoard = Self::of(service, |service| service.alloc_pages_node(node, SILENT | Gfp::THISNODE, Order::ZERO));
        drop(scope);
        hoard
    }

    /// All that `alloc` gives.
    pub(crate) fn of(service: &'static TestService, mut alloc: impl FnMut(&TestService) -> Option<Pfn>) -> Self {
        let frames = std::iter::from_fn(|| alloc(service)).collect();
        Self { service, frames }
    }

    /// Writes to all of it.
    pub(crate) fn dirty(&self) {
        for &frame in &self.frames {
            // SAFETY: the frame is the hoard's.
            unsafe { self.service.page_address(frame).write_bytes(0xa5, 4096) };
        }
    }

    /// Gives that many of one node's frames back, to the zones and not to a CPU's list.
    #[track_caller]
    pub(crate) fn give_back(&mut self, node: NodeId, frames: u32) {
        for _ in 0..frames {
            let last = self.frames.iter().rposition(|&frame| self.service.page_to_node(frame) == Some(node));
            let frame = self.frames.swap_remove(last.expect("the hoard has as many frames of that node"));
            self.service.__free_pages(frame, Order::ZERO);
        }
        self.service.drain_local();
    }
}

impl Drop for Hoard {
    fn drop(&mut self) {
        free_blocks(self.service, &self.frames, Order::ZERO);
    }
}

/// Frames the shrinker of the tests is asked for at once: more than any zone's watermark is.
pub(crate) const BATCH: usize = 1024;

/// A shrinker that notes what it is asked, and gives up frames while it has any.
pub(crate) struct Listener {
    service: &'static TestService,
    needs: Gfp,
    /// What it says that it could give up.
    claims: usize,
    frames: Mutex<Vec<Pfn>>,
    /// How much it gives up at a time.
    most: AtomicUsize,
    /// How often it was asked how much it has: once a round.
    rounds: AtomicUsize,
    /// How many objects it was asked to give up.
    scanned: AtomicUsize,
    asked: Mutex<Vec<ShrinkControl>>,
}

impl Listener {
    /// Registers one that has nothing, claims to have that much, and needs those of `IO` and `FS`.
    pub(crate) fn register(service: &'static TestService, claims: usize, needs: Gfp) -> &'static Self {
        let listener = Box::leak(Box::new(Self {
            service,
            needs,
            claims,
            frames: Mutex::new(Vec::new()),
            most: AtomicUsize::new(usize::MAX),
            rounds: AtomicUsize::new(0),
            scanned: AtomicUsize::new(0),
            asked: Mutex::new(Vec::new()),
        }));
        service.register_shrinker(listener).expect("there are few shrinkers");
        listener
    }

    /// Gives it frames to give up.
    pub(crate) fn hold(&self, hoard: &mut Hoard, frames: usize) {
        let at = hoard.frames.len() - frames;
        self.frames.lock().expect("no test panics inside").extend(hoard.frames.drain(at..));
    }

    /// Has it give up no more than that each time it is asked.
    pub(crate) fn give_up_at_most(&self, frames: usize) {
        self.most.store(frames, Relaxed);
    }

    /// How many frames it has yet.
    pub(crate) fn held(&self) -> usize {
        self.frames.lock().expect("no test panics inside").len()
    }

    /// Gives up what it has yet.
    pub(crate) fn give_back_all(&self) {
        let frames = std::mem::take(&mut *self.frames.lock().expect("no test panics inside"));
        free_blocks(self.service, &frames, Order::ZERO);
    }

    pub(crate) fn rounds(&self) -> usize {
        self.rounds.load(Relaxed)
    }

    pub(crate) fn scanned(&self) -> usize {
        self.scanned.load(Relaxed)
    }

    /// What it was asked on whose behalf, each different question once.
    pub(crate) fn asked(&self) -> Vec<ShrinkControl> {
        let mut asked = self.asked.lock().expect("no test panics inside").clone();
        asked.dedup();
        asked
    }
}

impl Shrinker for Listener {
    fn count(&self, control: &ShrinkControl) -> usize {
        self.rounds.fetch_add(1, Relaxed);
        self.asked.lock().expect("no test panics inside").push(*control);
        self.claims.max(self.held())
    }

    fn scan(&self, _: &ShrinkControl, objects: usize) -> Option<usize> {
        self.scanned.fetch_add(objects, Relaxed);
        let mut frames = self.frames.lock().expect("no test panics inside");
        let kept = frames.len().saturating_sub(objects.min(self.most.load(Relaxed)));
        let given = frames.split_off(kept);
        free_blocks(self.service, &given, Order::ZERO);
        // One that only claims to have something lets itself be asked for all that was meant for it.
        Some(given.len().max(usize::from(self.claims > 0)))
    }

    fn needs(&self) -> Gfp {
        self.needs
    }

    fn batch(&self) -> usize {
        BATCH
    }
}

/// Lets other threads run until `condition` holds.
#[track_caller]
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_mins(1), "in vain waited until {what}");
        std::thread::yield_now();
    }
}

/// Frees blocks of one order.
pub(crate) fn free_blocks(service: &TestService, blocks: &[Pfn], order: Order) {
    for &block in blocks {
        service.__free_pages(block, order);
    }
}

/// Frees an object of the family.
pub(crate) fn free(service: &TestService, object: *mut u8) {
    // SAFETY: the tests free what they allocated, once.
    unsafe { service.kfree(object) };
}

#[track_caller]
pub(crate) fn assert_books_balance(service: &TestService) {
    service.validate().unwrap_or_else(|broken| panic!("{broken}"));
    let rows = service.statistics();
    assert!(rows.adds_up(), "{rows:#?}");
    assert_eq!((rows.slab_in_use, rows.large, rows.pages_in_use), (0, 0, 0), "{rows:#?}");
}
