//! VM objects: memory that a pager can write back, page by page. `vm_page_alloc(9)` and what belongs to it.
//!
//! Users: whoever keeps more data than there is memory, or data that outlives memory: a [`VmObject`] holds pages by index, gives
//! them through [guards](BusyPage), and lets go of them when memory is short. Source: the manual of `vm_page_alloc(9)`, and
//! FreeBSD's `vm/vm_page.c` of its time.
//!
//! | module      | what it is                                                                     |
//! |-------------|--------------------------------------------------------------------------------|
//! | `fault`     | [`VmObject::fault`] and the guard through which bytes are read and written     |
//! | `daemon`    | what frees, caches and launders pages when memory is short                     |
//! | [`pager`]   | the trait of who keeps pages elsewhere; what it is asked                       |
//! | [`alloc`]   | `vm_page_alloc`: classes, flags, the reserves they may use                     |
//! | `page`      | [`VmPage`]: what can be done to a page under its object's lock                 |
//! | [`object`]  | objects, their lock, waiting for a busy page                                   |
//! | `core`      | what is done to pages under that lock, whoever holds it                        |
//! | `queues`    | what is known of a page beside its frame; the queues of a node                 |
//! | `tree`      | pages by index                                                                 |
//! | `store`     | descriptors and nodes of trees, a reserve on each node                         |
//!
//! # Theory
//!
//! *A page* of an object is a frame (`Movable`, with the descriptor's address as its cookie) and a [`Descriptor`]. It is
//!
//! - *busy* while somebody works with it: nobody else does, and it neither moves nor goes. A guard's or a pager's busy page ends
//!   by their hand alone. Others wait ([`LockedObject::wait`]).
//! - *wired* while counted so: it stays in its frame and in memory. It is on no queue.
//! - else on one of its node's queues, or on none (nobody has put it there): *active* or *inactive*, by when it was used last;
//!   or *cache*: clean, valid, used by nobody. Cached pages are available memory: the page layer takes the oldest when it
//!   finds its zones at the low watermark, and whatever their object had in them is gone. Until then the object may have them
//!   back ([`Service::vm_page_alloc`]).
//!
//! ```text
//!              fault, activate            second chance              laundered, or clean
//!   allocated ----------------> active <----------------> inactive ---------------------> cache ---> free
//!       ^                          ^   used since                  (dirty: busy meanwhile)  |
//!       +--------------------------+--------------------------------------------------------+ reactivated
//! ```
//!
//! *Locks*, in this order; each is a spin lock taken with interrupts off, so all of this may be done in handlers but for
//! what says that it may sleep:
//!
//! 1. The lists' `first` lock, `last` lock: which objects there are. Held together, and with no other.
//! 2. An object's: its tree, the flags, wirings, frames and descriptors of its pages, and who waits for them.
//! 3. A node's queues': the links and [`Queue`] of its pages; that a cached page is taken from its object; and that a page
//!    loses its object.
//! 4. A store's, the zones', and all others of the service.
//!
//! A page's queue changes under both 2 and 3, so either is enough to read it. The exception is a cached page: whoever
//! holds the queues' lock takes it. Its object may be locked by anybody, by the very caller who needs the frame too, so it is
//! only tried for; where that fails the descriptor becomes a *ghost*, which is on the object's own stack, still in its tree,
//! and is forgotten by whoever locks the object next or meets it.
//!
//! Those who come from a queue or a frame (the daemon, compaction, the page layer) hold the queues' lock, see there that
//! the page has an object, which thereby lives, and *try* its lock. So nobody waits against the order.
//!
//! *Who may wait.* [`VmObject::fault`], [`LockedObject::wait`], making and dropping an object; the daemon where it asks a pager.
//! Everything else never sleeps. The daemon is the node's balancing thread, or whoever calls [`Service::balance`]: marked as
//! one that makes memory free, so what a pager allocates on its behalf uses every reserve, never reclaims and never waits
//! for memory. Direct reclaim frees clean pages only and never calls a pager: it may have been entered from one.
//!
//! *When a descriptor goes.* It is given back to its store when its page has gone, and its memory when all of its frame are free
//! and more are left than a reserve: when an object goes, and when memory is short. Who has locked the object, or the queues
//! a page is on, or has the page busy, knows a page that lives. Who moves pages has the descriptor's address from the frame and
//! nothing else: so it says before that it is [`Looking`], and no memory of descriptors goes meanwhile. A frame names its
//! descriptor until it is freed, which comes first, but for cached pages that the page layer takes: it is looking, too.
//!
//! In the child of a fork, pages that other threads had busy stay so; and where another thread was moving pages, stores keep
//! what they have.

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::AcqRel, Ordering::Relaxed, Ordering::Release};
use core::time::Duration;

use quarry_topology::NodeId;

use crate::frame::{Frames, Pfn};
use crate::lock::Lock;
use crate::machine::Machine;
use crate::node::Node;
#[cfg(feature = "hosted")]
use crate::node::Nodes;
use crate::service::Service;

pub mod alloc;
mod core_ops;
mod daemon;
mod fault;
pub mod object;
mod page;
pub mod pager;
mod queues;
mod store;
mod tree;

pub(crate) use daemon::MOST_SCANNED;

pub use alloc::{AllocClass, PageRequest, RequestError};
pub use fault::{BusyPage, FaultError};
pub use object::{LockedObject, VmError, VmObject};
pub use page::VmPage;
pub use pager::{MAX_CLUSTER, PageIn, PageOut, PagedIn, Pager, PagerError};
pub use queues::Queue;

use object::Objects;
use queues::{Descriptor, Queues};
use store::Store;
use tree::Inner;

/// What a node has of object pages.
#[repr(align(64))]
pub(crate) struct NodeVm {
    pub(super) queues: Lock<Queues>,
    /// Pages on each queue, from `Active` on; written under the queues' lock.
    counts: [AtomicU32; 3],
    /// Pages that pagers have yet to write.
    laundering: AtomicU32,
    /// When pagers were given a page while they had none, or had written one, in nanoseconds of [`Machine::now`].
    pagers_seen: AtomicU64,
    /// Frames of objects' pages, cached ones among them.
    pages: AtomicU64,
    /// Frames of the stores.
    store_frames: AtomicU64,
    descriptors: Store,
    inners: Store,
}

impl NodeVm {
    pub(crate) const fn new() -> Self {
        Self {
            queues: Lock::new(Queues::new()),
            counts: [const { AtomicU32::new(0) }; 3],
            laundering: AtomicU32::new(0),
            pagers_seen: AtomicU64::new(0),
            pages: AtomicU64::new(0),
            store_frames: AtomicU64::new(0),
            descriptors: Store::of::<Descriptor>(),
            inners: Store::of::<Inner>(),
        }
    }

    /// Pages on a queue, about.
    pub(super) fn count(&self, queue: Queue) -> u32 {
        (queue as usize).checked_sub(1).map_or(0, |at| self.counts[at].load(Relaxed))
    }

    /// Notes that a pager is given one of its pages.
    fn begin_laundering<M: Machine>(&self, machine: &M) {
        if self.laundering.fetch_add(1, Relaxed) == 0 {
            self.note_pagers(machine);
        }
    }

    /// Notes that a pager is done with one of its pages.
    fn end_laundering<M: Machine>(&self, machine: &M) {
        self.note_pagers(machine);
        self.laundering.fetch_sub(1, Relaxed);
    }

    fn note_pagers<M: Machine>(&self, machine: &M) {
        self.pagers_seen.store(u64::try_from(machine.now().as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Puts a page on a queue, instead of that it is on.
    fn requeue(&self, queues: &mut Queues, page: &Descriptor, queue: Queue) {
        let note = |queue: Queue, change: u32| {
            if let Some(at) = (queue as usize).checked_sub(1) {
                self.counts[at].store(self.counts[at].load(Relaxed).wrapping_add(change), Relaxed);
            }
        };
        note(page.queue(), 1u32.wrapping_neg());
        queues.remove(page);
        queues.push(page, queue);
        note(queue, 1);
    }
}

/// What a store is of.
#[derive(Clone, Copy)]
pub(crate) enum Stored {
    Descriptors,
    Inners,
}

impl Stored {
    pub(super) const ALL: [Self; 2] = [Self::Descriptors, Self::Inners];
}

impl NodeVm {
    fn store(&self, what: Stored) -> &Store {
        match what {
            Stored::Descriptors => &self.descriptors,
            Stored::Inners => &self.inners,
        }
    }
}

/// The service's state of all objects.
pub(crate) struct VmState<M: Machine> {
    /// The service this is in; null before the first object.
    service: AtomicPtr<Service<M>>,
    owner: AtomicU32,
    /// How many have, or may take, addresses of descriptors whose objects they have not locked.
    looking: AtomicU32,
    /// The list of objects changes under both of these, the first and the last of the locks here that a fork takes: so it
    /// stays as it is from when a fork takes the locks until it has given all of them back.
    first: Lock<Objects<M>>,
    last: Lock<()>,
}

impl<M: Machine> VmState<M> {
    pub(crate) const fn new() -> Self {
        Self {
            service: AtomicPtr::new(core::ptr::null_mut()),
            owner: AtomicU32::new(0),
            looking: AtomicU32::new(0),
            first: Lock::new(Objects::new()),
            last: Lock::new(()),
        }
    }

    /// Whether anybody may have the address of a descriptor that is free.
    fn is_looked_at(&self) -> bool {
        // A read-modify-write: who begins to look after it sees what this caller saw, frames that name no such descriptor
        // any more. AcqRel: pairs with itself and with those of `Looking`.
        self.looking.fetch_add(0, AcqRel) > 0
    }

    /// Every lock, in lock order.
    #[cfg(feature = "hosted")]
    pub(crate) fn for_each_lock(&self, nodes: &Nodes, each: &mut dyn FnMut(&crate::raw_lock::RawLock)) {
        each(self.first.raw());
        // SAFETY: `first` is held, or (when all are given back) `last` still is, so the list does not change.
        unsafe { self.for_each_object_lock(each) };
        for (_, Node { vm: node, .. }) in nodes.with_memory() {
            each(node.queues.raw());
        }
        for (_, Node { vm: node, .. }) in nodes.with_memory() {
            each(node.descriptors.raw());
            each(node.inners.raw());
        }
        each(self.last.raw());
    }
}

/// While there is one, every descriptor stays one. For who takes addresses of descriptors from frames, to move their pages;
/// and for who gives descriptors back before the frames that name them.
#[must_use = "descriptors go when it is dropped"]
pub(crate) struct Looking<'s>(&'s AtomicU32);

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `is_looked_at`.
        self.0.fetch_sub(1, Release);
    }
}

impl<M: Machine> Service<M> {
    /// Keeps what is a descriptor one. Before the lock of the zone is taken whose frames are looked at.
    pub(crate) fn look_at_descriptors(&self) -> Looking<'_> {
        let looking = &self.vm().looking;
        // AcqRel: pairs with `is_looked_at`.
        looking.fetch_add(1, AcqRel);
        Looking(looking)
    }

    /// The state of a node's objects' pages. It has memory, or no frame would be of it.
    fn vm_node(&self, node: NodeId) -> &NodeVm {
        &self.nodes().get(node).expect("a node that has pages has memory").vm
    }

    /// The same, of the node of a frame that the service manages.
    fn vm_node_of(&self, frame: Pfn) -> &NodeVm {
        self.vm_node(Frames::of(self.machine()).state(frame).zone().node())
    }

    fn vm_nodes(&self) -> impl Iterator<Item = &NodeVm> {
        self.nodes().with_memory().map(|(_, node)| &node.vm)
    }

    /// Frames of the stores of descriptors and trees.
    pub(crate) fn vm_store_frames(&self) -> u64 {
        self.vm_nodes().map(|node| node.store_frames.load(Relaxed)).sum()
    }

    /// Frames of objects' pages that are not cached, and of those that are.
    pub(crate) fn vm_page_frames(&self) -> (u64, u64) {
        let cached = self.vm_nodes().map(|node| u64::from(node.count(Queue::Cache))).sum::<u64>();
        let all = self.vm_nodes().map(|node| node.pages.load(Relaxed)).sum::<u64>();
        (all.saturating_sub(cached), cached)
    }

    /// Where pagers have pages of a node to write: when they were given the first or wrote the last, as [`Machine::now`].
    pub(crate) fn laundering_since(&self, node: NodeId) -> Option<Duration> {
        let vm = &self.nodes().get(node)?.vm;
        (vm.laundering.load(Relaxed) > 0).then(|| Duration::from_nanos(vm.pagers_seen.load(Relaxed)))
    }

    /// Cached pages of a node: memory that can be had at once.
    pub(crate) fn vm_cached(&self, node: NodeId) -> u32 {
        self.nodes().get(node).map_or(0, |node| node.vm.count(Queue::Cache))
    }
}

/// Pages of a node by what they are; see [`Service::vm_pages`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmPages {
    /// On the active queue.
    pub active: u32,
    /// On the inactive queue.
    pub inactive: u32,
    /// On the cache queue.
    pub cache: u32,
    /// With a pager that has yet to write them.
    pub laundering: u32,
    /// All pages of objects, cached ones and those on no queue among them.
    pub all: u64,
}

impl<M: Machine> Service<M> {
    /// How many object pages a node has, by queue. Each number is of a moment of its own while CPUs work.
    pub fn vm_pages(&self, node: NodeId) -> VmPages {
        let Some(Node { vm: state, .. }) = self.nodes().get(node) else { return VmPages::default() };
        VmPages {
            active: state.count(Queue::Active),
            inactive: state.count(Queue::Inactive),
            cache: state.count(Queue::Cache),
            laundering: state.laundering.load(Relaxed),
            all: state.pages.load(Relaxed),
        }
    }
}
