//! `vm_page_alloc`: a page for an object, or for none, at once or not at all; and which reserves it may use.
//!
//! # Classes and reserves
//!
//! The manual's classes on the watermarks of the zones, stated here once:
//!
//! | class | stops when a zone has left | manual |
//! | --- | --- | --- |
//! | [`Normal`](AllocClass::Normal) | its *min* watermark: the reserve | no special treatment |
//! | [`System`](AllocClass::System) | a quarter of that: the interrupt reserve | free count above the interrupt reserved water mark |
//! | [`Interrupt`](AllocClass::Interrupt) | nothing | free count greater than zero |
//!
//! The first two also spare a low zone's lowmem reserve, as all requests do, and what is counted is what a zone has free:
//! what CPUs keep on their page lists is not. Before a class goes below the *low* watermark, cached pages are taken: so `System`
//! and `Interrupt` come to the reserve only when "the cache is empty". A thread that makes memory free (a node's balancing thread
//! and what a pager does on its behalf) is raised from `Normal` to `System`.
//!
//! A descriptor and a tree's node come from stores that are refilled, with the same class, while they still have some: so a
//! page that there is a frame for never fails for want of them.

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::Relaxed;

use quarry_topology::NodeId;

use crate::allocate::{Floor, Request};
use crate::events::Event;
use crate::frame::{FRAME_BYTES, Order, Pfn};
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::service::Service;

use super::Stored;
use super::object::{Core, LockedObject, Pages};
use super::page::VmPage;
use super::queues::{Descriptor, Queue, flag};
use super::tree::Inner;

/// `VM_ALLOC_NORMAL`: class [`AllocClass::Normal`].
pub const VM_ALLOC_NORMAL: u32 = 1 << 0;
/// `VM_ALLOC_SYSTEM`: class [`AllocClass::System`].
pub const VM_ALLOC_SYSTEM: u32 = 1 << 1;
/// `VM_ALLOC_INTERRUPT`: class [`AllocClass::Interrupt`].
pub const VM_ALLOC_INTERRUPT: u32 = 1 << 2;
/// `VM_ALLOC_WIRED`: the page is wired.
pub const VM_ALLOC_WIRED: u32 = 1 << 5;
/// `VM_ALLOC_ZERO`: rather a page that is zeroed already.
pub const VM_ALLOC_ZERO: u32 = 1 << 6;
/// `VM_ALLOC_NOOBJ`: of no object, whatever object is named.
pub const VM_ALLOC_NOOBJ: u32 = 1 << 8;
/// `VM_ALLOC_NOBUSY`: the page is not busy.
pub const VM_ALLOC_NOBUSY: u32 = 1 << 9;
/// `VM_ALLOC_IFCACHED`: only a page that the object has cached.
pub const VM_ALLOC_IFCACHED: u32 = 1 << 10;
/// `VM_ALLOC_IFNOTCACHED`: only a page that the object does not have cached.
pub const VM_ALLOC_IFNOTCACHED: u32 = 1 << 11;

/// How far memory may be emptied; see the module head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocClass {
    /// No special treatment.
    Normal,
    /// The system really needs the page.
    System,
    /// For an interrupt handler: any free page will do.
    Interrupt,
}

impl AllocClass {
    fn floor(self) -> Floor {
        match self {
            Self::Normal => Floor::Min,
            Self::System => Floor::Quarter,
            Self::Interrupt => Floor::Nothing,
        }
    }
}

/// What about a word of `VM_ALLOC_*` cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// None of the classes, or more than one.
    NotOneClass,
    /// Both of `VM_ALLOC_IFCACHED` and `VM_ALLOC_IFNOTCACHED`, so there is no page for it.
    BothCachedAndNot,
    /// These bits are no flags.
    Unknown(u32),
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOneClass => f.write_str(
                "a page is of one class: name exactly one of VM_ALLOC_NORMAL, VM_ALLOC_SYSTEM and VM_ALLOC_INTERRUPT",
            ),
            Self::BothCachedAndNot => {
                f.write_str("VM_ALLOC_IFCACHED and VM_ALLOC_IFNOTCACHED rule each other out: leave one out")
            }
            Self::Unknown(bits) => write!(f, "{bits:#x} is no flag of vm_page_alloc: use the VM_ALLOC_ constants"),
        }
    }
}

impl core::error::Error for RequestError {}

/// What page is asked for: exactly one class, and the optional flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    class: AllocClass,
    flags: u32,
}

impl PageRequest {
    /// A page of that class, without flags.
    pub const fn new(class: AllocClass) -> Self {
        Self { class, flags: 0 }
    }

    /// Of class `Normal`.
    pub const fn normal() -> Self {
        Self::new(AllocClass::Normal)
    }

    /// Of class `System`.
    pub const fn system() -> Self {
        Self::new(AllocClass::System)
    }

    /// Of class `Interrupt`.
    pub const fn interrupt() -> Self {
        Self::new(AllocClass::Interrupt)
    }

    /// Rather one that is zeroed already; [`VmPage::is_zeroed`] says whether it is.
    #[must_use]
    pub const fn zero(self) -> Self {
        self.with(VM_ALLOC_ZERO)
    }

    /// Of no object, whatever object is named.
    #[must_use]
    pub const fn no_object(self) -> Self {
        self.with(VM_ALLOC_NOOBJ)
    }

    /// Not busy.
    #[must_use]
    pub const fn no_busy(self) -> Self {
        self.with(VM_ALLOC_NOBUSY)
    }

    /// Wired.
    #[must_use]
    pub const fn wired(self) -> Self {
        self.with(VM_ALLOC_WIRED)
    }

    /// Only if the object has it cached.
    #[must_use]
    pub const fn if_cached(self) -> Self {
        Self { flags: self.flags & !VM_ALLOC_IFNOTCACHED | VM_ALLOC_IFCACHED, ..self }
    }

    /// Only if the object does not have it cached.
    #[must_use]
    pub const fn if_not_cached(self) -> Self {
        Self { flags: self.flags & !VM_ALLOC_IFCACHED | VM_ALLOC_IFNOTCACHED, ..self }
    }

    /// From a word of `VM_ALLOC_*`.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    pub const fn from_flags(flags: u32) -> Result<Self, RequestError> {
        const OPTIONS: u32 = VM_ALLOC_WIRED
            | VM_ALLOC_ZERO
            | VM_ALLOC_NOOBJ
            | VM_ALLOC_NOBUSY
            | VM_ALLOC_IFCACHED
            | VM_ALLOC_IFNOTCACHED;
        const CLASSES: u32 = VM_ALLOC_NORMAL | VM_ALLOC_SYSTEM | VM_ALLOC_INTERRUPT;
        let unknown = flags & !(OPTIONS | CLASSES);
        if unknown != 0 {
            return Err(RequestError::Unknown(unknown));
        }
        let class = match flags & CLASSES {
            VM_ALLOC_NORMAL => AllocClass::Normal,
            VM_ALLOC_SYSTEM => AllocClass::System,
            VM_ALLOC_INTERRUPT => AllocClass::Interrupt,
            _ => return Err(RequestError::NotOneClass),
        };
        if flags & VM_ALLOC_IFCACHED != 0 && flags & VM_ALLOC_IFNOTCACHED != 0 {
            return Err(RequestError::BothCachedAndNot);
        }
        Ok(Self { class, flags: flags & OPTIONS })
    }

    const fn with(self, flag: u32) -> Self {
        Self { flags: self.flags | flag, ..self }
    }

    const fn has(self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// The flags that a page starts with.
    fn page_flags(self) -> u32 {
        if self.has(VM_ALLOC_NOBUSY) { 0 } else { flag::BUSY }
    }
}

impl<M: Machine> Service<M> {
    /// Allocates a page: for `object` at `index`, where it has none, or one that is cached, which then is reactivated with its
    /// contents; or, with `None` or `VM_ALLOC_NOOBJ`, for no object. `None` when the class may have no more memory, or the
    /// flags rule the page out. Never sleeps; may be called in an interrupt handler. FreeBSD's `vm_page_alloc`.
    ///
    /// The page is busy and wired as the flags say, on no queue, and its contents are whatever the frame held, unless
    /// [`VmPage::is_zeroed`], or it was cached ([`VmPage::is_valid`]). A page of no object is not movable, and its owner's
    /// until [`VmPage::free`].
    ///
    /// # Panics
    ///
    /// When the object has a page there that is not cached: look it up first.
    pub fn vm_page_alloc<'l, 'o>(
        &'static self,
        object: Option<&'l mut LockedObject<'o, M>>,
        index: u64,
        request: PageRequest,
    ) -> Option<VmPage<'l, 'o, M>> {
        let Some(locked) = object.filter(|_| !request.has(VM_ALLOC_NOOBJ)) else {
            return self.page_of_no_object(index, request);
        };
        let core = locked.object.core();
        debug_assert!(core::ptr::eq(core.service, self), "the object is another service's");
        assert!(
            Core::<M>::resident(&locked.pages, index).is_none(),
            "vm_page_alloc at index {index} of an object that has a page there: look it up first"
        );
        if let Some(page) = Core::<M>::cached(&locked.pages, index) {
            if !request.has(VM_ALLOC_IFNOTCACHED) && core.reactivate(page, request) {
                return Some(VmPage::of(locked, page));
            }
            if core.is_still_cached(page) {
                return None;
            }
            core.forget_ghosts(&mut locked.pages);
        }
        if request.has(VM_ALLOC_IFCACHED) {
            return None;
        }
        let class = self.class_of_thread(request.class);
        let (frame, zeroed) = self.frame_of_class(class, None, Gfp::MOVABLE, request.has(VM_ALLOC_ZERO))?;
        let flags = request.page_flags() | if zeroed { flag::ZERO } else { 0 };
        let wired = request.has(VM_ALLOC_WIRED);
        let page = core.adopt(&mut locked.pages, index, frame, flags, wired, class)?;
        Some(VmPage::of(locked, page))
    }

    fn page_of_no_object<'l, 'o>(&'static self, index: u64, request: PageRequest) -> Option<VmPage<'l, 'o, M>> {
        if request.has(VM_ALLOC_IFCACHED) {
            return None;
        }
        let class = self.class_of_thread(request.class);
        let (frame, zeroed) = self.frame_of_class(class, None, Gfp::empty(), request.has(VM_ALLOC_ZERO))?;
        let Some(page) = self.take_descriptor(frame, class) else {
            self.free_vm_frame(frame);
            return None;
        };
        let flags = request.page_flags() | if zeroed { flag::ZERO } else { 0 };
        page.reset(index, frame, flags, request.has(VM_ALLOC_WIRED));
        // From here on it is a caller's, as a page of `alloc_pages` is.
        self.return_frames(1);
        Some(VmPage::of_no_object(self, page))
    }

    /// "The pager process is always upgraded to `VM_ALLOC_SYSTEM` unless `VM_ALLOC_INTERRUPT` is set."
    fn class_of_thread(&self, class: AllocClass) -> AllocClass {
        let raised = class == AllocClass::Normal && self.machine().task().is_reclaiming();
        if raised { AllocClass::System } else { class }
    }

    /// A frame, as far down as the class may go, and whether it is zeroed: rather so with `zeroed`. It is noted nowhere yet.
    pub(super) fn frame_of_class(
        &self,
        class: AllocClass,
        near: Option<NodeId>,
        flags: Gfp,
        zeroed: bool,
    ) -> Option<(Pfn, bool)> {
        // SAFETY: `attached_set` returns a set as `Machine::set` does: valid and this context's alone.
        let set = unsafe { &*self.attached_set() };
        let gfp = Gfp::NOWAIT | Gfp::NOWARN | flags;
        if self.page_fault_injected(gfp, Order::ZERO) {
            return None;
        }
        let placement = self.place(set, near, gfp, self.machine().task())?;
        let request = Request { gfp, order: Order::ZERO, placement, cache: None };
        if zeroed && let Some((block, state)) = self.take_zeroed(set, &request) {
            return Some((self.hand_out(block, state), true));
        }
        let found = self.walk_zonelist(&request, Floor::Low).or_else(|| {
            self.note_shortage(&request);
            self.walk_zonelist(&request, class.floor())
        });
        let Some((block, state)) = found else {
            self.note_failure(gfp);
            return None;
        };
        Some((self.hand_out(block, state), false))
    }

    /// Frees a frame of [`Self::frame_of_class`] that was noted nowhere.
    pub(super) fn free_vm_frame(&self, frame: Pfn) {
        self.return_frames(1);
        self.__free_pages(frame, Order::ZERO);
    }

    /// Refills the stores of a frame's node that are low, if it has memory; and if not, and those of all other nodes are low as
    /// well, one of another node.
    fn refill_stores(&self, node: NodeId, class: AllocClass) {
        for what in Stored::ALL {
            let is_low = |vm: &super::NodeVm| vm.store(what).is_low();
            if is_low(self.vm_node(node)) {
                let frame = self.frame_of_class(class, Some(node), Gfp::THISNODE, false);
                let elsewhere = || self.frame_of_class(class, Some(node), Gfp::empty(), false);
                let frame = frame.or_else(|| if self.stores_from(node).all(is_low) { elsewhere() } else { None });
                if let Some((frame, _)) = frame {
                    self.fill_store(what, frame);
                }
            }
        }
    }

    /// A descriptor near a frame, or from any node.
    fn take_descriptor(&self, frame: Pfn, class: AllocClass) -> Option<&'static Descriptor> {
        let node = self.node_of_frame(frame);
        self.refill_stores(node, class);
        let taken = self.stores_from(node).find_map(|node| node.descriptors.take(self.machine()));
        // SAFETY: a descriptor lives until it is given back, and all its fields are atomics.
        taken.map(|page: NonNull<Descriptor>| unsafe { page.as_ref() })
    }

    /// A tree's node near a frame, or from any node.
    pub(super) fn take_inner(&self, frame: Pfn) -> Option<NonNull<Inner>> {
        self.stores_from(self.node_of_frame(frame)).find_map(|node| node.inners.take(self.machine()))
    }

    fn stores_from(&self, node: NodeId) -> impl Iterator<Item = &super::NodeVm> {
        self.nodes().fallback_order(node).filter_map(|node| Some(&self.nodes().get(node)?.vm))
    }
}

impl<M: Machine> Core<M> {
    /// Gives a frame that nobody knows to the object, as its page at an index where it has none. The frame is freed where that
    /// needs memory that there is not.
    pub(super) fn adopt(
        &self,
        pages: &mut Pages,
        index: u64,
        frame: Pfn,
        flags: u32,
        wired: bool,
        class: AllocClass,
    ) -> Option<&'static Descriptor> {
        let Some(page) = self.service.take_descriptor(frame, class) else {
            self.service.free_vm_frame(frame);
            return None;
        };
        page.reset(index, frame, flags, wired);
        if !self.insert(pages, page) {
            self.service.give_back_descriptor(NonNull::from(page));
            self.service.free_vm_frame(frame);
            return None;
        }
        self.service.vm_node_of(frame).pages.fetch_add(1, Relaxed);
        self.service.make_movable(page);
        Some(page)
    }

    /// Takes a page back that the object has cached; `false` when the page layer was quicker.
    pub(super) fn reactivate(&self, page: &Descriptor, request: PageRequest) -> bool {
        let (node, mut queues) = self.lock_queues(page);
        if page.is_ghost() {
            return false;
        }
        node.requeue(&mut queues, page, Queue::None);
        drop(queues);
        page.change(request.page_flags(), flag::ZERO);
        page.wired.store(request.has(VM_ALLOC_WIRED).into(), Relaxed);
        self.service.events().count(Event::VmReactivated);
        true
    }
}

impl<M: Machine> Core<M> {
    /// Whether the page layer has not taken a cached page.
    fn is_still_cached(&self, page: &Descriptor) -> bool {
        let (_, _queues) = self.lock_queues(page);
        !page.is_ghost()
    }
}

const _: () = assert!(size_of::<Descriptor>() * 64 <= FRAME_BYTES, "a frame has many descriptors");
