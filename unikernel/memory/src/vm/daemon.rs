//! What becomes of pages when memory is short: cached ones are freed, clean ones cached, dirty ones laundered.
//!
//! Used by reclaim: the page layer, before it goes below the low watermark ([`Service::free_cached_for`]); everybody who
//! reclaims, as a [`Shrinker`] that frees clean pages; and the balancing thread of a node, which alone calls pagers
//! ([`Service::launder`]) and so is the page daemon.
//!
//! # Theory
//!
//! The inactive queue is kept as long as the active one: the oldest active pages go there, but those used since they were
//! looked at last get a second chance as the newest active ones. From the inactive queue pages go, oldest first: back,
//! where they were used; to the cache, where clean; to their pager, where dirty, with their dirty neighbours in the object that
//! were not used either, [`MAX_CLUSTER`] at most. What a pager has written is cached, or freed at once while anybody waits.
//!
//! Each round looks at a bounded number of pages. A page whose object somebody has locked is passed over and becomes the
//! newest: so is a busy one. While pagers have more than [`MOST_LAUNDERING`] pages of a node, it asks for no more, and a round
//! that ends with some outstanding waits a little for them. When the node is balanced the daemon goes on until an eighth of
//! its object pages is cached.

use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;

use quarry_topology::NodeId;

use crate::allocate::Request;
use crate::events::Event;
use crate::frame::Pfn;
use crate::machine::Machine;
use crate::node::Node;
use crate::service::Service;
use crate::shrinker::{LIGHTEST, ShrinkControl, Shrinker};

use super::core_ops::LockedQueues;
use super::object::{Core, Pages};
use super::pager::{MAX_CLUSTER, PageOut};
use super::queues::{Descriptor, Queue, flag};
use super::{NodeVm, VmState};

/// Frames taken under one lock.
const BATCH: usize = 32;

/// Least and most pages a round looks at.
const LEAST_SCANNED: u32 = 64;
pub(crate) const MOST_SCANNED: u32 = 1024;

/// Rounds that launder ahead.
const MOST_AHEAD: u32 = 8;

/// Pages of a node that pagers may have at once.
const MOST_LAUNDERING: u32 = 256;

/// How long a round waits for pagers.
const PAGER_TIME: Duration = Duration::from_millis(2);

/// What is done to a dirty page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dirty {
    Launder,
    PassOver,
}

/// What came of looking at pages.
struct Looked<M: Machine> {
    /// How many; some were on the queue for no reason any more, or their object is locked.
    pages: u32,
    /// How many of them are cached now.
    cached: u32,
    /// The last of them, with its neighbours.
    to_be_written: Option<PageOut<M>>,
}

impl<M: Machine> Service<M> {
    /// Frees some of the cached pages of the nodes that may serve a request: cached memory is available.
    pub(crate) fn free_cached_for(&self, request: &Request) {
        for node in self.candidates(request.placement) {
            if self.vm_cached(node) > 0 {
                self.free_cached(node, BATCH as u32);
            }
        }
    }

    /// Frees up to so many cached pages of a node, the oldest first; returns how many. May be called in any context, also with
    /// objects locked.
    pub(super) fn free_cached(&self, node: NodeId, most: u32) -> u32 {
        let vm = self.vm_node(node);
        // Descriptors are given back before the frames that name them are free.
        let _looking = self.look_at_descriptors();
        let mut freed = 0;
        while freed < most && vm.count(Queue::Cache) > 0 {
            let mut frames = [Pfn(0); BATCH];
            let mut taken = 0;
            {
                let mut queues = vm.queues.lock(self.machine());
                while taken < BATCH.min((most - freed) as usize) {
                    let Some(page) = queues.oldest(Queue::Cache) else { break };
                    // SAFETY: pages on a queue live.
                    let page: &'static Descriptor = unsafe { page.as_ref() };
                    vm.requeue(&mut queues, page, Queue::None);
                    frames[taken] = page.frame();
                    taken += 1;
                    self.take_from_object(page);
                }
            }
            if taken == 0 {
                break;
            }
            vm.pages.fetch_sub(taken as u64, Relaxed);
            frames[..taken].iter().for_each(|&frame| self.free_object_frame(frame));
            freed += taken as u32;
        }
        self.events().add(Event::VmCacheFreed, freed.into());
        freed
    }

    /// A page that was cached loses its frame and its object. The queues are locked.
    fn take_from_object(&self, page: &'static Descriptor) {
        let core: &Core<M> = VmState::object_of(page).expect("a cached page has an object");
        page.set_ghost();
        page.object.store(core::ptr::null_mut(), Relaxed);
        match core.lock.try_lock(self.machine()) {
            Some(mut pages) => core.forget(&mut pages, page),
            None => core.push_ghost(page),
        }
    }

    /// A round of the page daemon of a node: pages become inactive, cached, laundered. Returns whether it brought anything.
    /// Called in a thread that is marked as making memory free, without locks; may sleep.
    pub(crate) fn launder(&self, node: NodeId, priority: u32) -> bool {
        let vm = self.vm_node(node);
        let all = vm.count(Queue::Active) + vm.count(Queue::Inactive);
        if all == 0 && vm.laundering.load(Relaxed) == 0 {
            return false;
        }
        let most = (all >> priority.min(LIGHTEST)).clamp(LEAST_SCANNED, MOST_SCANNED);
        let before = self.event_count(Event::VmLaundered);
        self.deactivate_some(vm, most);
        let cached = self.scan_inactive(vm, most, Dirty::Launder);
        if vm.laundering.load(Relaxed) > 0 && self.machine().may_sleep() {
            let outstanding = vm.laundering.load(Relaxed);
            self.machine().sleep(&mut || vm.laundering.load(Relaxed) < outstanding, Some(PAGER_TIME));
        }
        if self.is_short() {
            self.free_cached(node, most);
        }
        cached > 0 || self.event_count(Event::VmLaundered) != before
    }

    /// Launders on until an eighth of the node's object pages is cached, or nothing more can be done: what is cached keeps its
    /// contents, and whoever wants memory next need not wait for a pager. (The watermarks are near each other: between
    /// them there is too little for a thread that runs only when others wait.)
    pub(crate) fn launder_ahead(&self, node: NodeId) {
        let vm = self.vm_node(node);
        for _ in 0..MOST_AHEAD {
            let wanted = (vm.pages.load(Relaxed) / 8).min(u64::from(MOST_SCANNED));
            if u64::from(vm.count(Queue::Cache)) >= wanted || !self.launder(node, 0) {
                return;
            }
            self.frames_freed();
        }
    }

    /// Has the oldest active pages become inactive, until there are as many of these.
    fn deactivate_some(&self, vm: &NodeVm, most: u32) {
        let mut queues = vm.queues.lock(self.machine());
        for looked_at in 1..=most {
            if looked_at.is_multiple_of(BATCH as u32) {
                // Others, and handlers of this CPU, have their turn.
                drop(queues);
                queues = vm.queues.lock(self.machine());
            }
            if vm.count(Queue::Inactive) >= vm.count(Queue::Active) {
                return;
            }
            let Some(page) = queues.oldest(Queue::Active) else { return };
            // SAFETY: as in `free_cached`.
            let page: &'static Descriptor = unsafe { page.as_ref() };
            let core: &Core<M> = VmState::object_of(page).expect("a page on a queue has an object");
            // A page's queue changes under both locks.
            let locked = core.lock.try_lock(self.machine());
            let is_used = locked.is_none() || page.is_held() || page.has(flag::REFERENCED);
            if locked.is_some() {
                page.change(0, flag::REFERENCED);
            }
            let queue = if is_used { Queue::Active } else { Queue::Inactive };
            vm.requeue(&mut queues, page, queue);
        }
    }

    /// Looks at the oldest inactive pages; returns how many were cached.
    fn scan_inactive(&self, vm: &NodeVm, most: u32, dirty: Dirty) -> u32 {
        let (mut cached, mut left) = (0, most.min(vm.count(Queue::Inactive)));
        while left > 0 {
            let dirty = if vm.laundering.load(Relaxed) >= MOST_LAUNDERING { Dirty::PassOver } else { dirty };
            let looked = self.look_at_oldest(vm, left.min(BATCH as u32), dirty);
            cached += looked.cached;
            left -= looked.pages;
            if let Some(request) = looked.to_be_written {
                request.pager().page_out(request);
            } else if looked.pages == 0 {
                break;
            }
        }
        self.events().add(Event::VmCached, cached.into());
        cached
    }

    /// Looks at the pages that are inactive longest, so many at most, until one is to be written. All under one lock: many
    /// CPUs may want it, and each time it changes hands may take long where CPUs share those of a host.
    fn look_at_oldest(&self, vm: &NodeVm, most: u32, dirty: Dirty) -> Looked<M> {
        // The first lock taken is the first given back, and must not let handlers in while the other is held.
        let interrupts = self.machine().disable_interrupts();
        let looked = self.look_at_oldest_undisturbed(vm, most, dirty);
        self.machine().restore_interrupts(interrupts);
        looked
    }

    fn look_at_oldest_undisturbed(&self, vm: &NodeVm, most: u32, dirty: Dirty) -> Looked<M> {
        let mut looked = Looked { pages: 0, cached: 0, to_be_written: None };
        let mut queues = vm.queues.lock(self.machine());
        while looked.pages < most {
            let Some(page) = queues.oldest(Queue::Inactive) else { break };
            // SAFETY: as in `free_cached`.
            let page: &'static Descriptor = unsafe { page.as_ref() };
            looked.pages += 1;
            let core: &Core<M> = VmState::object_of(page).expect("a page on a queue has an object");
            let Some(mut pages) = core.lock.try_lock(self.machine()) else {
                vm.requeue(&mut queues, page, Queue::Inactive);
                continue;
            };
            let can_be_written = page.has(flag::DIRTY) && core.pager.is_some();
            let queue = if page.is_held() || page.has(flag::REFERENCED) {
                page.change(0, flag::REFERENCED);
                Queue::Active
            } else if page.has(flag::VALID) && !page.has(flag::DIRTY) {
                looked.cached += 1;
                Queue::Cache
            } else if !can_be_written {
                Queue::Active
            } else if dirty == Dirty::PassOver {
                Queue::Inactive
            } else {
                drop(queues);
                looked.to_be_written = Some(core.cluster_around(&mut pages, page));
                return looked;
            };
            vm.requeue(&mut queues, page, queue);
        }
        looked
    }
}

impl<M: Machine> Core<M> {
    /// Takes a page to be written, and its neighbours that should be written too.
    fn cluster_around(&self, pages: &mut Pages, page: &'static Descriptor) -> PageOut<M> {
        let most = self.pager.map_or(1, |pager| pager.cluster().clamp(1, MAX_CLUSTER));
        let index = page.index.load(Relaxed);
        let fits = |index: Option<u64>| Core::<M>::resident(pages, index?).filter(|page| Self::is_idle(page));
        let behind = (1..most as u64).take_while(|&at| fits(index.checked_add(at)).is_some()).count();
        let before = (1..(most - behind) as u64).take_while(|&at| fits(index.checked_sub(at)).is_some()).count();
        let count = before + 1 + behind;
        let mut cluster = [None; MAX_CLUSTER];
        let mut queues = LockedQueues::none();
        for (slot, at) in cluster.iter_mut().zip(0..count as u64) {
            let index = index - before as u64 + at;
            let page = Core::<M>::resident(pages, index).expect("it was there, and the object is locked");
            page.change(flag::BUSY | flag::GUARDED, flag::REFERENCED);
            let (node, queues) = queues.of(self, page);
            node.requeue(queues, page, Queue::None);
            node.begin_laundering(self.machine());
            *slot = Some(page);
        }
        drop(queues);
        PageOut::new(self, cluster, count)
    }

    /// Whether a page is dirty and nobody has used it lately.
    fn is_idle(page: &Descriptor) -> bool {
        page.has(flag::DIRTY) && !page.is_held() && !page.has(flag::REFERENCED)
    }
}

impl<M: Machine> Shrinker for VmState<M> {
    fn count(&self, control: &ShrinkControl) -> usize {
        let Some(node) = control.node else { return 0 };
        let Some(Node { vm: node, .. }) = self.service().nodes().get(node) else { return 0 };
        let spare = node.descriptors.spare_frames() + node.inners.spare_frames();
        (spare + node.count(Queue::Cache) + node.count(Queue::Inactive) + node.count(Queue::Active) / 2) as usize
    }

    /// Frees cached pages, and clean inactive ones; dirty ones are the balancing thread's, which is woken.
    fn scan(&self, control: &ShrinkControl, objects: usize) -> Option<usize> {
        let node = control.node?;
        let service = self.service();
        let vm = service.vm_node(node);
        let wanted = objects as u32;
        let mut freed = service.free_cached(node, wanted);
        if freed < wanted {
            service.deactivate_some(vm, wanted);
            service.scan_inactive(vm, wanted, Dirty::PassOver);
            freed += service.free_cached(node, wanted - freed);
        }
        freed += service.shrink_stores(node);
        if freed == 0 && vm.count(Queue::Inactive) + vm.count(Queue::Active) > 0 {
            // It may have failed often before there were any pages.
            service.wake_balancer_again(node);
        }
        // The rest of the queue has probably as little to free at once: more is for the pagers to make.
        (freed > 0).then_some(freed as usize)
    }

    fn is_numa_aware(&self) -> bool {
        true
    }

    fn batch(&self) -> usize {
        BATCH
    }
}
