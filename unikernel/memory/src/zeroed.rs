//! [`Stock`]: pages that were set to zero while their CPU had nothing else to do, so that who asks for one need not wait
//! for it. One for each node.
//!
//! Users: the host, whose idle CPUs call [`Service::zero_idle`]; the slow paths of `alloc_pages` (with `__GFP_ZERO`, order
//! 0) and of `vm_page_alloc` (with `VM_ALLOC_ZERO`); [`drain`](crate::drain) and [`allocate`](crate::allocate), which give
//! the stock back.
//!
//! # Theory
//!
//! A stock holds single frames of its node's highest zone, at most [`MOST_OF_A_KIND`] of each kind and
//! one of [`SHARE`] of the node's frames. The kinds are unmovable memory, which is kept always, and movable memory, which is
//! kept once it was asked for; each is from pageblocks of its mobility. A movable request takes an unmovable page when
//! there is no other; never the other way round. A node whose memory is all below 16 MiB keeps none. A CPU fills the stock of its
//! nearest node; when that is full, those of nodes that are no CPU's nearest, which have nobody else.
//!
//! A frame of a stock is `Listed`, and so is one being zeroed, which the stock counts but does not list: nobody has it but the CPU
//! that zeroes it, without a lock. The stock's lock guards the lists and counts; it is taken before the zone's, and both are held while frames go from
//! one to the other: so rows that are read with the stock's lock held miss no frame, and the child of a fork finds a frame
//! in one of them. (One that another thread was zeroing then stays counted, and is lost to the child.) Who takes a page only
//! tries the lock: when it is held, zeroing a page takes hardly longer than waiting. `held` repeats how many pages there are, for readers without
//! the lock.
//!
//! The stock never keeps memory from anybody: it is filled only from above the high watermark and while nobody waits,
//! and given back whole before a request goes below the low watermark or reclaims. A page that is put in while somebody
//! begins to wait is seen by the one or the other ([`attention`](crate::attention)).

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use quarry_topology::NodeId;

use crate::allocate::Request;
use crate::events::Event;
use crate::frame::{Frames, Kind, Order, Pfn, State};
use crate::free_area::{Demand, Reach};
use crate::lock::Lock;
use crate::machine::Machine;
use crate::mobility::Mobility;
use crate::node::Node;
use crate::service::Service;
use crate::set::Set;
use crate::zone::{Zone, ZoneKind};

/// Pages of a kind that a stock holds at most.
const MOST_OF_A_KIND: usize = 32;

/// Of so many frames of a node, one may be in its stock.
const SHARE: u32 = 1024;

/// What is kept; also the indices of the lists.
const KINDS: [Mobility; 2] = [Mobility::Unmovable, Mobility::Movable];

/// The zeroed pages of a node; see the module head.
pub(crate) struct Stock {
    lists: Lock<[List; KINDS.len()]>,
    held: AtomicU32,
    /// Whether a movable page was ever asked for.
    movable_wanted: AtomicBool,
}

/// The pages of one kind.
struct List {
    pages: [Pfn; MOST_OF_A_KIND],
    count: usize,
    /// How many are being zeroed.
    under_way: usize,
}

impl List {
    const EMPTY: Self = Self { pages: [Pfn(0); MOST_OF_A_KIND], count: 0, under_way: 0 };

    fn pop(&mut self) -> Option<Pfn> {
        self.count = self.count.checked_sub(1)?;
        Some(self.pages[self.count])
    }

    /// Puts in a page for which there is room since it is under way.
    fn push(&mut self, page: Pfn) {
        self.under_way -= 1;
        self.pages[self.count] = page;
        self.count += 1;
    }
}

impl Stock {
    pub(crate) const fn new() -> Self {
        Self {
            lists: Lock::new([List::EMPTY; KINDS.len()]),
            held: AtomicU32::new(0),
            movable_wanted: AtomicBool::new(false),
        }
    }

    /// Looks at something while no frame goes in or out; `look` gets how many the stock has, those being zeroed included.
    pub(crate) fn at_rest<M: Machine, R>(&self, machine: &M, look: impl FnOnce(u32) -> R) -> R {
        let lists = self.lists.lock(machine);
        look(lists.iter().map(|list| (list.count + list.under_way) as u32).sum())
    }

    #[cfg(feature = "hosted")]
    pub(crate) fn raw(&self) -> &crate::raw_lock::RawLock {
        self.lists.raw()
    }

    /// Takes a page for memory of that mobility.
    fn take<M: Machine>(&self, machine: &M, mobility: Mobility) -> Option<Pfn> {
        if mobility == Mobility::Movable && !self.movable_wanted.load(Relaxed) {
            self.movable_wanted.store(true, Relaxed);
        }
        if self.held.load(Relaxed) == 0 {
            return None;
        }
        let mut lists = self.lists.try_lock(machine)?;
        let [unmovable, movable] = &mut *lists;
        let page = match mobility {
            Mobility::Unmovable => unmovable.pop(),
            Mobility::Movable => movable.pop().or_else(|| unmovable.pop()),
            // Few ask for it zeroed; it is not to lie between what stays.
            Mobility::Reclaimable => None,
        }?;
        self.held.store(self.held.load(Relaxed) - 1, Relaxed);
        Some(page)
    }
}

impl<M: Machine> Service<M> {
    /// Zeroes a page for the stock of the calling CPU's nearest node, or of a node that is no CPU's nearest, if memory is plenty
    /// and the stock is short; whether it did, so that another call may find more to do. For a host's idle CPUs, with interrupts on: it takes as long as 4 KiB take to
    /// zero, never sleeps, and leaves what the CPU's sets hold alone. May be called by any thread.
    pub fn zero_idle(&self) -> bool {
        // SAFETY: `Machine::set` is valid; only what never changes after its start is read.
        let set = unsafe { &*self.machine().set() };
        let own = set.zone.node();
        let without_cpus = || self.nodes().fallback_order(own).filter(|&node| self.nodes().is_nobodys(node));
        set.attached && (self.zero_for(own) || without_cpus().any(|node| self.zero_for(node)))
    }

    /// Zeroes a page for the stock of a node.
    fn zero_for(&self, node: NodeId) -> bool {
        let Some(node) = self.nodes().get(node) else { return false };
        let zone = node.highest_zone();
        let plenty = zone.watermarks().high + zone.lowmem_reserve(ZoneKind::Normal);
        if self.is_short() || zone.id().kind() == ZoneKind::Dma || zone.available_frames() <= plenty {
            return false;
        }
        let Some((page, kind)) = self.begin_zeroing(node, zone) else { return false };
        // SAFETY: the frame left the free lists and is on no other, so it is this caller's alone, and the direct map
        // covers it.
        unsafe { self.page_address(page).write_bytes(0, Order::ZERO.bytes()) };
        {
            let mut lists = node.zeroed.lists.lock(self.machine());
            lists[kind].push(page);
            node.zeroed.held.store(node.zeroed.held.load(Relaxed) + 1, Relaxed);
        }
        self.events().count(Event::ZeroedIdle);
        if self.waiters().attention().noticed() {
            self.return_zeroed(node);
        }
        true
    }

    /// A page from the stock of the nearest node that may serve a request for zeroed memory, in the state in which it is to be handed
    /// out. Like a page of a zone, it is noted nowhere yet.
    pub(crate) fn take_zeroed(&self, set: &Set, request: &Request) -> Option<(Pfn, State)> {
        if request.order != Order::ZERO {
            return None;
        }
        let found = self.take_from_stock(request);
        self.events().count(if found.is_some() { Event::ZeroedHit } else { Event::ZeroedMiss });
        let (_, state) = found?;
        self.count_numa(set, request.placement, state.zone().node(), 1);
        found
    }

    fn take_from_stock(&self, request: &Request) -> Option<(Pfn, State)> {
        // Nobody goes past those who wait; the stock is theirs, too.
        if self.is_short() {
            return None;
        }
        let node = self.nodes().get(self.candidates(request.placement).next()?)?;
        let zone = node.highest_zone().id();
        if zone.kind() > request.placement.highest {
            return None;
        }
        let mobility = Mobility::of(request.gfp);
        let page = node.zeroed.take(self.machine(), mobility)?;
        Some((page, State::new(mobility.page_kind(), Order::ZERO, zone)))
    }

    /// Gives the stocks of the nodes that may serve a request back.
    pub(crate) fn return_zeroed_for(&self, request: &Request) {
        for node in self.candidates(request.placement).filter_map(|node| self.nodes().get(node)) {
            self.return_zeroed(node);
        }
    }

    /// Gives the stocks of all nodes back.
    pub(crate) fn return_all_zeroed(&self) {
        self.nodes().with_memory().for_each(|(_, node)| self.return_zeroed(node));
    }

    /// Gives a node's stock back to its zone. May be called in any context, without a lock below the stock's.
    fn return_zeroed(&self, node: &Node) {
        if node.zeroed.held.load(Relaxed) == 0 {
            return;
        }
        let zone = node.highest_zone();
        let inner = State::new(Kind::Inner, Order::ZERO, zone.id());
        {
            let mut lists = node.zeroed.lists.lock(self.machine());
            zone.locked(self.machine(), |frames, areas| {
                for page in lists.iter_mut().flat_map(|list| core::iter::from_fn(|| list.pop())) {
                    frames.set_state(page, inner);
                    areas.give(frames, page, Order::ZERO);
                }
            });
            node.zeroed.held.store(0, Relaxed);
        }
        self.frames_freed();
    }

    /// Takes a page to be zeroed out of the zone, of a kind that the stock is short of (returned as the index of its list). `None` when there is none, or no page
    /// of its mobility that takes neither a deferred section nor a pageblock of another.
    fn begin_zeroing(&self, node: &Node, zone: &Zone) -> Option<(Pfn, usize)> {
        let frames: u32 = node.zones.iter().map(|zone| zone.present.load(Relaxed)).sum();
        let most = MOST_OF_A_KIND.min(frames as usize / (SHARE as usize * KINDS.len()));
        let mut lists = node.zeroed.lists.lock(self.machine());
        lists.iter_mut().zip(KINDS).enumerate().find_map(|(kind, (list, mobility))| {
            let wanted = mobility == Mobility::Unmovable || node.zeroed.movable_wanted.load(Relaxed);
            if !wanted || list.count + list.under_way >= most {
                return None;
            }
            let demand = Demand { order: Order::ZERO, mobility, reach: Reach::WholePageblocks };
            let listed = State::new(Kind::Listed, Order::ZERO, zone.id());
            let mut found = None;
            let (_, stolen) = zone.allocate(self.machine(), demand, 1, |page, _| {
                Frames::of(self.machine()).set_state(page, listed);
                list.under_way += 1;
                found = Some(page);
            });
            self.events().note_stolen(stolen);
            Some((found?, kind))
        })
    }
}
