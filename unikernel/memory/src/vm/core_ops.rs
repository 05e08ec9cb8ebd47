//! What is done to the pages of a locked object, whoever holds the lock: its users through [`LockedObject`], the daemon, a
//! pager's completion.
//!
//! [`LockedObject`]: super::LockedObject

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering, Ordering::Relaxed};

use crate::frame::{FRAME_BYTES, Frames, Kind, Pfn};
use crate::lock::Guard;
use crate::machine::Machine;
use crate::owner::{OwnerId, Ownership, PageOwner};
use crate::service::Service;

use super::object::{Core, Pages};
use super::queues::{Descriptor, Queue, Queues, flag};
use super::tree::Inner;
use super::{NodeVm, Stored, VmState};

impl<M: Machine> Core<M> {
    pub(super) fn machine(&self) -> &'static M {
        self.service.machine()
    }

    /// The page at an index, unless it is cached: nobody but who has the object's lock lets go of it.
    pub(super) fn resident(pages: &Pages, index: u64) -> Option<&'static Descriptor> {
        // SAFETY: pages in the tree live.
        let page: &'static Descriptor = unsafe { pages.tree.get(index)?.as_ref() };
        page.is_resident().then_some(page)
    }

    /// The first resident page with at least that index.
    pub(super) fn next_resident(pages: &Pages, mut from: u64) -> Option<&'static Descriptor> {
        loop {
            // SAFETY: as in `resident`.
            let page: &'static Descriptor = unsafe { pages.tree.at_least(from)?.as_ref() };
            if page.is_resident() {
                return Some(page);
            }
            from = page.index.load(Relaxed).checked_add(1)?;
        }
    }

    /// The page that is cached at an index, or was until the page layer took it just now.
    pub(super) fn cached(pages: &Pages, index: u64) -> Option<&'static Descriptor> {
        // SAFETY: as in `resident`.
        let page: &'static Descriptor = unsafe { pages.tree.get(index)?.as_ref() };
        (!page.is_resident()).then_some(page)
    }

    /// The queues that a page is on.
    pub(super) fn lock_queues(&self, page: &Descriptor) -> (&'static NodeVm, Guard<'static, Queues, M>) {
        let node = self.service.vm_node_of(page.frame());
        (node, node.queues.lock(self.machine()))
    }

    /// Puts a resident page on another queue, as its newest.
    pub(super) fn set_queue(&self, page: &Descriptor, queue: Queue) {
        let (node, mut queues) = self.lock_queues(page);
        node.requeue(&mut queues, page, queue);
    }

    /// Takes out of the tree what the page layer has taken out of memory.
    pub(super) fn forget_ghosts(&self, pages: &mut Pages) {
        if self.ghosts.load(Relaxed).is_null() {
            return;
        }
        // Acquire: pairs with the Release in `push_ghost`.
        let mut next = self.ghosts.swap(ptr::null_mut(), Ordering::Acquire);
        while let Some(ghost) = NonNull::new(next) {
            // SAFETY: a ghost is its object's until it is forgotten.
            let ghost = unsafe { ghost.as_ref() };
            next = ghost.link().load(Relaxed);
            self.forget(pages, ghost);
        }
    }

    /// Leaves a page that the page layer has taken to whoever has the object next.
    pub(super) fn push_ghost(&self, page: &Descriptor) {
        let mut head = self.ghosts.load(Relaxed);
        loop {
            page.link().store(head, Relaxed);
            let this = ptr::from_ref(page).cast_mut();
            // Release: pairs with the Acquire in `forget_ghosts`, which sees the link.
            match self.ghosts.compare_exchange_weak(head, this, Ordering::Release, Relaxed) {
                Ok(_) => return,
                Err(current) => head = current,
            }
        }
    }

    /// Takes a page that has lost its frame out of the tree, and gives its descriptor back.
    pub(super) fn forget(&self, pages: &mut Pages, page: &Descriptor) {
        let (page, inner) = pages.tree.remove(page.index.load(Relaxed)).expect("a page is in its object's tree");
        pages.count -= 1;
        if let Some(inner) = inner {
            self.service.give_back_inner(inner);
        }
        self.service.give_back_descriptor(page);
    }

    /// Puts a page into the tree; `false` when there is no memory for that.
    pub(super) fn insert(&self, pages: &mut Pages, page: &'static Descriptor) -> bool {
        page.object.store(ptr::from_ref(self).cast_mut().cast(), Relaxed);
        let spare = || self.service.take_inner(page.frame());
        // SAFETY: descriptors and nodes live until they are given back, and a store gives each to one user.
        let inserted = unsafe { pages.tree.insert(NonNull::from(page), spare) };
        if inserted {
            pages.count += 1;
        } else {
            page.object.store(ptr::null_mut(), Relaxed);
        }
        inserted
    }

    /// Takes a page out of the object and frees it. It is no guard's and no pager's.
    pub(super) fn free_page(&self, pages: &mut Pages, index: u64) {
        // SAFETY: as in `resident`.
        let Some(page) = pages.tree.get(index).map(|page| unsafe { page.as_ref() }) else { return };
        let frame = page.frame();
        {
            let (node, mut queues) = self.lock_queues(page);
            if page.is_ghost() {
                drop(queues);
                return self.forget_ghosts(pages);
            }
            node.requeue(&mut queues, page, Queue::None);
            page.object.store(ptr::null_mut(), Relaxed);
            node.pages.fetch_sub(1, Relaxed);
        }
        // In this order: what names the descriptor goes before it does.
        self.service.free_object_frame(frame);
        self.forget(pages, page);
        self.call(pages, index);
    }

    /// Makes a page no longer busy. It goes to the active queue, or is noted as used where it is on one.
    pub(super) fn end_busy(&self, pages: &mut Pages, page: &Descriptor) {
        page.change(flag::REFERENCED, flag::BUSY | flag::GUARDED);
        if page.queue() == Queue::None && !page.is_wired() {
            self.set_queue(page, Queue::Active);
        }
        self.call(pages, page.index.load(Relaxed));
    }

    /// Makes a wired page one that no queue has.
    pub(super) fn wire(&self, page: &Descriptor) {
        let wired = page.wired.load(Relaxed);
        page.wired.store(wired.checked_add(1).expect("a page is wired fewer than 2^32 times"), Relaxed);
        if page.queue() != Queue::None {
            self.set_queue(page, Queue::None);
        }
    }

    /// Ends a wiring, after the last of which the page is active.
    pub(super) fn unwire(&self, page: &Descriptor) {
        let wired = page.wired.load(Relaxed).checked_sub(1).expect("unwire of a page that is not wired");
        page.wired.store(wired, Relaxed);
        if wired == 0 && !page.has(flag::BUSY) {
            self.set_queue(page, Queue::Active);
        }
    }

    /// Has a clean page that nobody uses count as available memory, or says `false`.
    pub(super) fn cache(&self, page: &Descriptor) -> bool {
        let is_clean = page.has(flag::VALID) && !page.has(flag::DIRTY);
        is_clean && !page.is_held() && {
            page.change(0, flag::REFERENCED);
            self.set_queue(page, Queue::Cache);
            true
        }
    }
}

/// The queues of pages that are dealt with one after the other, which mostly are one node's: locked until another's are wanted.
pub(super) struct LockedQueues<M: Machine>(Option<(&'static NodeVm, Guard<'static, Queues, M>)>);

impl<M: Machine> LockedQueues<M> {
    pub(super) const fn none() -> Self {
        Self(None)
    }

    /// Those of a page, of an object that the caller has locked.
    pub(super) fn of(&mut self, core: &Core<M>, page: &Descriptor) -> (&'static NodeVm, &mut Queues) {
        let node = core.service.vm_node_of(page.frame());
        if self.0.as_ref().is_none_or(|(held, _)| !ptr::eq(*held, node)) {
            // Before the others are taken.
            self.0 = None;
        }
        let (node, queues) = self.0.get_or_insert_with(|| core.lock_queues(page));
        (node, queues)
    }
}

impl<M: Machine> Service<M> {
    pub(super) fn give_back_inner(&self, inner: NonNull<Inner>) {
        let frame = self.frame_of(inner);
        // SAFETY: it came from a store, and the tree has given it up.
        unsafe { self.vm_node_of(frame).inners.give(self.machine(), inner) };
    }

    pub(super) fn give_back_descriptor(&self, page: NonNull<Descriptor>) {
        let frame = self.frame_of(page);
        // SAFETY: it came from a store, and is on no list any more; whoever looks at one that is nobody's looks at no link.
        unsafe { self.vm_node_of(frame).descriptors.give(self.machine(), page) };
    }

    fn frame_of<T>(&self, item: NonNull<T>) -> Pfn {
        self.managed_frame_at(item.as_ptr().cast()).expect("a store's items lie in frames of the service")
    }

    /// Frees the frame of a page that has been taken out of its object.
    pub(super) fn free_object_frame(&self, frame: Pfn) {
        self.return_frames(1);
        self.free_movable_page(frame).expect("an object's page is movable");
    }

    /// Has compaction ask about a page whose descriptor is complete.
    pub(super) fn make_movable(&self, page: &Descriptor) {
        let owner = OwnerId(self.vm().owner.load(Relaxed));
        let cookie = ptr::from_ref(page).expose_provenance() as u64;
        let frame = page.frame();
        self.zone_of_frame(frame).locked(self.machine(), |frames, _| {
            Ownership { owner, cookie }.give(frames, frame, Kind::Movable);
        });
    }

    /// Cuts a frame that nobody has into what a store of its node holds: where its items are given back to.
    pub(super) fn fill_store(&self, what: Stored, frame: Pfn) {
        let node = self.vm_node_of(frame);
        node.store_frames.fetch_add(1, Relaxed);
        // SAFETY: the frame is the caller's, who gives it up.
        unsafe { node.store(what).refill(self.machine(), frame) };
    }

    /// Gives back the frames that a node's stores have to spare; returns how many. May be called in any context, without
    /// locks below the zones'.
    pub(super) fn shrink_stores(&self, node: quarry_topology::NodeId) -> u32 {
        let vm = self.vm_node(node);
        let mut given_back = 0;
        for store in Stored::ALL.map(|what| vm.store(what)) {
            while let Some(frame) = store.take_whole(self.machine()) {
                if self.vm().is_looked_at() {
                    store.put_whole(self.machine(), frame);
                    break;
                }
                vm.store_frames.fetch_sub(1, Relaxed);
                self.free_vm_frame(frame);
                given_back += 1;
            }
        }
        given_back
    }
}

impl<M: Machine> VmState<M> {
    pub(super) fn service(&self) -> &'static Service<M> {
        // SAFETY: null, or stored by `start_vm` from a static reference before anybody could ask for anything here.
        unsafe { self.service.load(Relaxed).as_ref() }.expect("asked after the first object was made")
    }

    /// The object that a page is of, which lives as long as the caller holds the lock of the page's queues.
    pub(super) fn object_of<'a>(page: &Descriptor) -> Option<&'a Core<M>> {
        let object: &AtomicPtr<()> = &page.object;
        // SAFETY: null, or stored by `insert` from the core of an object of this service; an object goes after all its pages
        // have lost it under the queues' lock.
        unsafe { object.load(Relaxed).cast::<Core<M>>().as_ref() }
    }
}

impl<M: Machine> PageOwner for VmState<M> {
    fn move_page(&self, cookie: u64, from: Pfn, to: Pfn) -> bool {
        let service = self.service();
        let machine = service.machine();
        let page = core::ptr::with_exposed_provenance::<Descriptor>(cookie as usize);
        // SAFETY: a cookie is the address of a descriptor, and who has taken it from a frame keeps it one (`Looking`).
        let page = unsafe { &*page };
        // As in `look_at_oldest`.
        let interrupts = machine.disable_interrupts();
        let is_moved = self.move_undisturbed(page, from, to);
        machine.restore_interrupts(interrupts);
        is_moved
    }
}

impl<M: Machine> VmState<M> {
    /// Moves a page unless it is held, or its object locked.
    fn move_undisturbed(&self, page: &Descriptor, from: Pfn, to: Pfn) -> bool {
        let service = self.service();
        let machine = service.machine();
        let queues = self.service().vm_node_of(from).queues.lock(machine);
        let Some(core) = Self::object_of(page).filter(|_| page.frame() == from) else { return false };
        let Some(_pages) = core.lock.try_lock(machine) else { return false };
        // The page layer may take a cached page while the queues are not locked; no other.
        let queues = if page.queue() == Queue::Cache {
            Some(queues)
        } else {
            drop(queues);
            None
        };
        if page.is_held() {
            return false;
        }
        // SAFETY: compaction gave the frames; the page is not busy and its object is locked, so nobody writes to it.
        unsafe { service.copy_frame(from, to) };
        page.set_frame(to);
        drop(queues);
        true
    }
}

/// Bytes of a page at an address.
pub(super) type Bytes = [u8; FRAME_BYTES];

impl<M: Machine> Service<M> {
    /// What node a frame is of.
    pub(super) fn node_of_frame(&self, frame: Pfn) -> quarry_topology::NodeId {
        Frames::of(self.machine()).state(frame).zone().node()
    }
}

#[cfg(all(test, feature = "hosted"))]
mod tests {
    use quarry_topology::{NodeId, Topology};

    use crate::hosted::Hosted;

    #[test]
    fn no_descriptor_goes_while_somebody_may_have_its_address_from_a_frame() {
        let topology = Topology::builder().node(16 << 20, 1).build().expect("a machine");
        let service = Hosted::leak(topology).expect("there is address space").service();
        let object = service.vm_object(None).expect("there is memory");
        for index in 0..500 {
            drop(object.fault(index).expect("there is memory"));
        }
        let looking = service.look_at_descriptors();
        let frames = |node: NodeId| service.vm_node(node).descriptors.spare_frames();
        drop(object);
        let spare = frames(NodeId(0));
        assert!(spare >= 500 * 48 / 4096, "{spare} frames of descriptors are kept");
        drop(looking);
        assert!(service.shrink_stores(NodeId(0)) >= spare);
        assert_eq!(frames(NodeId(0)), 0);
        service.validate().unwrap_or_else(|broken| panic!("{broken}"));
    }
}
