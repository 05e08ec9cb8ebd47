//! [`BioSet`]: where bios come from that must be had even when memory is gone; [`Rescuer`]: its helper.
//!
//! Used by drivers and pagers, each with sets of its own. Linux's `struct bio_set`.
//!
//! # Theory
//!
//! A set has a mempool of bios and, if asked for, one of arrays of 256 vectors; smaller arrays come from kmalloc as long
//! as that has any. A bio that is submitted will complete and come back without needing another of its set. So whoever
//! waits for one gets it, as long as every holder of one submits it before it waits for the next.
//!
//! *The rescuer.* Under `make_request` a bio that was submitted only waits on its thread's list ([`submit`](super)),
//! and who then sleeps for the next may sleep for those it has itself. So there an allocation does not wait at first;
//! then gives those bios of its set that are on the list to the set's rescuer, a thread that submits them; and waits only
//! then. Linux's `punt_bios_to_rescuer`.
//!
//! *Holders.* In builds with debug assertions, and in sets made with [`BiosetFlags::CHECKED`], a table tells which threads
//! hold how many unsubmitted bios; who waits for another is told of once a set. At most [`HOLDERS`] are noted.
//!
//! *The end.* `out` is lowered after a bio's memory is back, as the last touch of whoever frees it; a set ends only when
//! it is 0. Its rescuer says under the lock that it has ended, and touches nothing of the set after that lock.

use core::fmt;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, Ordering::Relaxed};

use super::handle::Bio;
use super::header::{Header, Home, List, Own, VectorHome};
use super::submit::Pending;
use super::vector::{INLINE_VECTORS, MAX_KMALLOC_VECTORS, MAX_VECTORS, Vector, class_of};
use crate::gfp::Gfp;
use crate::lock::Lock;
use crate::machine::Machine;
use crate::mempool::{Mempool, MempoolError};
use crate::service::Service;
use crate::task::Task;

/// Threads that are noted as holders of unsubmitted bios of a set.
const HOLDERS: usize = 32;

bitflags::bitflags! {
    /// What a set is to be like: Linux's `BIOSET_*` flags.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct BiosetFlags: u32 {
        /// `BIOSET_NEED_BVECS`: its bios may have more vectors than lie in them. (Clones and splits need none.)
        const NEED_BVECS = 1 << 0;
        /// `BIOSET_NEED_RESCUER`: drivers allocate several bios of it while they handle one. Have a thread run its
        /// [`Rescuer`].
        const NEED_RESCUER = 1 << 1;
        /// Tells of callers that hold an unsubmitted bio and wait for another, as builds with debug assertions do for
        /// every set. (Not Linux's.)
        const CHECKED = 1 << 2;
    }
}

/// A set in memory.
#[repr(C)]
pub(super) struct SetState<M: Machine> {
    /// First, for where an object's first word has padding it holds what was on the stack, and that may be the mark of free
    /// objects: who looks at every object would take the set for one.
    service: &'static Service<M>,
    name: &'static str,
    flags: BiosetFlags,
    front_bytes: usize,
    bios: Mempool<'static>,
    vectors: Option<Mempool<'static>>,
    /// Bios whose memory is not back yet.
    out: AtomicU32,
    rescue: Lock<Rescue<M>>,
    /// Whether a thread runs the rescuer.
    has_rescuer: AtomicBool,
    rescued: AtomicU64,
    holders: Lock<[(usize, u32); HOLDERS]>,
    reported: AtomicBool,
}

/// What a set's rescuer and those who need it have in common.
struct Rescue<M: Machine> {
    bios: List<M>,
    rescuer: *const Task,
    /// Who waits for the rescuer's end.
    ending: *const Task,
    ended: bool,
}

// SAFETY: the tasks are used under the lock, and only to wake their threads, which live until they have had it.
unsafe impl<M: Machine> Send for Rescue<M> {}

/// A set of bios, which can always be had by who may wait. Linux's `struct bio_set`.
#[must_use = "dropping it leaks its pools: give it to bioset_exit"]
pub struct BioSet<M: Machine> {
    state: NonNull<SetState<M>>,
}

// SAFETY: all parts of the state may be used from any CPU.
unsafe impl<M: Machine> Send for BioSet<M> {}
// SAFETY: as above.
unsafe impl<M: Machine> Sync for BioSet<M> {}

/// Memory for a bio of the caller's own: see [`Service::bio_init`].
pub struct BioStorage<M: Machine>(
    #[expect(dead_code, reason = "a bio is made in it, and reached by its handle")] MaybeUninit<Header<M>>,
);

impl<M: Machine> BioStorage<M> {
    /// Memory that holds no bio yet.
    pub const fn new() -> Self {
        Self(MaybeUninit::uninit())
    }
}

impl<M: Machine> Default for BioStorage<M> {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a set could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BioSetError {
    /// One of its pools could not.
    Pool(MempoolError),
    /// There is no memory for its own state.
    OutOfMemory,
}

impl fmt::Display for BioSetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(error) => write!(f, "a set of bios: {error}"),
            Self::OutOfMemory => {
                f.write_str("not enough free memory for a set of bios: make it before memory is short")
            }
        }
    }
}

impl core::error::Error for BioSetError {}

/// A set that cannot end yet; nothing has changed.
#[must_use = "it has the set"]
pub struct BiosOut<M: Machine> {
    /// The set.
    pub set: BioSet<M>,
    /// How many of its bios are not back.
    pub count: u32,
}

impl<M: Machine> fmt::Display for BiosOut<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "bioset_exit of the set \"{}\", of which {} bios are in use: wait until they have completed, and drop them",
            self.set.name(),
            self.count
        )
    }
}

impl<M: Machine> fmt::Debug for BiosOut<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<M: Machine> core::error::Error for BiosOut<M> {}

impl<M: Machine> BioSet<M> {
    pub(super) const fn state(&self) -> NonNull<SetState<M>> {
        self.state
    }

    fn get(&self) -> &SetState<M> {
        // SAFETY: it lives as long as the handle.
        unsafe { self.state.as_ref() }
    }

    /// Its name, for reports.
    pub fn name(&self) -> &'static str {
        self.get().name
    }

    /// How many bios its rescuer has submitted.
    pub fn rescued(&self) -> u64 {
        self.get().rescued.load(Relaxed)
    }

    /// The rescuer, for a thread to run; `None` for a set made without, and the second time.
    pub fn rescuer(&self) -> Option<Rescuer<M>> {
        let wanted = self.get().flags.contains(BiosetFlags::NEED_RESCUER);
        (wanted && !self.get().has_rescuer.swap(true, Relaxed)).then(|| Rescuer { state: self.state })
    }
}

/// What a host's thread runs for a set, so that drivers can allocate several of its bios at a time.
#[must_use = "a set whose rescuer nobody runs is without one: have a thread run it"]
pub struct Rescuer<M: Machine> {
    state: NonNull<SetState<M>>,
}

// SAFETY: the state may be used on any CPU, and lives until the rescuer has said that it has ended.
unsafe impl<M: Machine> Send for Rescuer<M> {}

impl<M: Machine> Rescuer<M> {
    /// Submits the bios of the set that its users cannot, until the set ends.
    pub fn run(self) {
        // Once it has ended the state may be gone.
        let rescuer = ManuallyDrop::new(self);
        // SAFETY: the state lives until this has said that it has ended.
        let state = unsafe { rescuer.state.as_ref() };
        let service = state.service;
        let machine = service.machine();
        state.rescue.lock(machine).rescuer = machine.task();
        loop {
            let is_wanted = || {
                let rescue = state.rescue.lock(machine);
                !rescue.bios.is_empty() || !rescue.ending.is_null()
            };
            machine.sleep(&mut { is_wanted }, None);
            let next = || state.rescue.lock(machine).bios.pop();
            while let Some(bio) = next() {
                service.submit_bio(bio);
                state.rescued.fetch_add(1, Relaxed);
            }
            let mut rescue = state.rescue.lock(machine);
            // SAFETY: who waits for the end does so until it has had the lock after `ended` is set.
            if let Some(ending) = unsafe { rescue.ending.as_ref() } {
                rescue.ended = true;
                machine.wake(ending);
                return;
            }
        }
    }
}

impl<M: Machine> Drop for Rescuer<M> {
    /// The set is without a rescuer again, and can end.
    fn drop(&mut self) {
        // SAFETY: a set does not end before a rescuer that was taken.
        unsafe { self.state.as_ref() }.has_rescuer.store(false, Relaxed);
    }
}

impl<M: Machine> SetState<M> {
    pub(super) const fn front_bytes(&self) -> usize {
        self.front_bytes
    }

    fn is_checked(&self) -> bool {
        cfg!(debug_assertions) || self.flags.contains(BiosetFlags::CHECKED)
    }

    /// Whether a thread that waits could wait for bios of its own.
    fn needs_rescue(&self, task: &Task) -> bool {
        self.has_rescuer.load(Relaxed) && Pending::<M>::of(task).is_some_and(|pending| !pending.is_empty())
    }

    /// Gives the bios of the set that wait on a thread's list to the rescuer.
    fn rescue(&self, itself: NonNull<Self>, task: &Task) {
        let Some(pending) = Pending::<M>::of(task) else { return };
        let bios = pending.take_of(itself);
        if bios.is_empty() {
            return;
        }
        let mut rescue = self.rescue.lock(self.service.machine());
        rescue.bios.append(bios);
        // SAFETY: the rescuer's thread lives until the set ends. Before it has begun there is none to wake.
        if let Some(rescuer) = unsafe { rescue.rescuer.as_ref() } {
            self.service.machine().wake(rescuer);
        }
    }

    /// An element of one of the pools, with the rescuer's help if it must be.
    fn element(&self, itself: NonNull<Self>, pool: &Mempool<'static>, gfp: Gfp) -> Option<NonNull<u8>> {
        let task = self.service.machine().task();
        if gfp.may_wait() && self.needs_rescue(task) {
            let at_once = self.service.mempool_alloc(pool, gfp.difference(Gfp::DIRECT_RECLAIM));
            if !at_once.is_null() {
                return NonNull::new(at_once);
            }
            self.rescue(itself, task);
        }
        NonNull::new(self.service.mempool_alloc(pool, gfp))
    }

    /// Vectors for a bio that wants more than lie in it.
    fn vectors(&self, itself: NonNull<Self>, count: usize, gfp: Gfp) -> Option<(NonNull<Vector>, VectorHome, usize)> {
        let pool = self.vectors.as_ref()?;
        let class = class_of(count);
        if class < MAX_VECTORS {
            let quick = gfp.difference(Gfp::DIRECT_RECLAIM | Gfp::IO | Gfp::NOFAIL | Gfp::ZERO);
            let array = self.service.kmalloc(class * size_of::<Vector>(), quick | Gfp::NOWARN | Gfp::NORETRY);
            if let Some(array) = NonNull::new(array) {
                return Some((array.cast(), VectorHome::Kmalloc, class));
            }
        }
        let array = self.element(itself, pool, gfp)?;
        Some((array.cast(), VectorHome::Pool, MAX_VECTORS))
    }

    /// Gives an array of the pool back.
    ///
    /// # Safety
    ///
    /// It came from there, nobody uses it, and one of the set's bios is out.
    pub(super) unsafe fn free_vectors(set: NonNull<Self>, vectors: NonNull<Vector>) {
        // SAFETY: a set lives as long as one of its bios is out.
        let state = unsafe { set.as_ref() };
        let pool = state.vectors.as_ref().expect("an array of the pool came from it");
        // SAFETY: the caller's promise.
        unsafe { state.service.mempool_free(vectors.as_ptr().cast(), pool) };
    }

    /// Gives a bio's memory back.
    ///
    /// # Safety
    ///
    /// It came from the set, and nobody uses it.
    pub(super) unsafe fn free(set: NonNull<Self>, header: NonNull<Header<M>>) {
        // SAFETY: a set lives as long as one of its bios is out.
        let state = unsafe { set.as_ref() };
        // SAFETY: the element begins with the front padding, before the header.
        let element = unsafe { header.cast::<u8>().sub(state.front_bytes) };
        // SAFETY: the caller's promise.
        unsafe { state.service.mempool_free(element.as_ptr(), &state.bios) };
        // Release: pairs with the Acquire in `bioset_exit`. The set may be gone right after.
        // SAFETY: it is there until this.
        unsafe { (*set.as_ptr()).out.fetch_sub(1, Ordering::Release) };
    }

    /// Notes that a thread holds another unsubmitted bio; tells when it may wait for one while it holds one.
    fn hold(&self, task: &Task, gfp: Gfp) {
        if !gfp.may_wait() {
            return;
        }
        let task = ptr::from_ref(task).addr();
        let holds =
            self.holders.lock(self.service.machine()).iter().any(|&(holder, count)| holder == task && count > 0);
        if holds && !self.reported.swap(true, Relaxed) {
            self.service.machine().warn(format_args!(
                "bio_alloc_bioset: the caller holds an unsubmitted bio of the set \"{}\" and waits for another: submit \
                 the first before, or threads can wait for each other for ever",
                self.name
            ));
        }
    }

    /// Notes the holder of an unsubmitted bio; null when the table is full.
    fn note_holder(&self, task: &Task) -> *const Task {
        let address = ptr::from_ref(task).addr();
        let mut holders = self.holders.lock(self.service.machine());
        let place = holders.iter().position(|&(holder, count)| holder == address && count > 0);
        let Some(place) = place.or_else(|| holders.iter().position(|&(_, count)| count == 0)) else {
            return ptr::null();
        };
        holders[place] = (address, holders[place].1 + 1);
        task
    }

    /// A holder has submitted a bio, or given it back.
    pub(super) fn let_go(&self, holder: *const Task) {
        let mut holders = self.holders.lock(self.service.machine());
        if let Some(entry) = holders.iter_mut().find(|(task, count)| *task == holder.addr() && *count > 0) {
            entry.1 -= 1;
        }
    }
}

impl<M: Machine> Service<M> {
    /// Makes a set of bios with reserves of `pool_size`, which is how many can be under way when all other memory is
    /// gone. `front_pad`: bytes before each bio for the driver's own ([`Bio::set_front`]). `name` is for reports. May
    /// sleep. Linux's `bioset_init`.
    ///
    /// # Errors
    ///
    /// [`BioSetError`]; nothing is kept then.
    pub fn bioset_init(
        &'static self,
        name: &'static str,
        pool_size: usize,
        front_pad: usize,
        flags: BiosetFlags,
    ) -> Result<BioSet<M>, BioSetError> {
        let front_bytes = front_pad.next_multiple_of(align_of::<Header<M>>());
        let bios = self
            .mempool_create_kmalloc_pool(pool_size, front_bytes + size_of::<Header<M>>())
            .map_err(BioSetError::Pool)?;
        let mut vectors = None;
        if flags.contains(BiosetFlags::NEED_BVECS) {
            match self.mempool_create_kmalloc_pool(pool_size, MAX_VECTORS * size_of::<Vector>()) {
                Ok(pool) => vectors = Some(pool),
                Err(error) => {
                    self.end_pool(bios);
                    return Err(BioSetError::Pool(error));
                }
            }
        }
        let Some(state) = NonNull::new(self.kmalloc(size_of::<SetState<M>>(), Gfp::KERNEL)) else {
            self.end_pool(bios);
            if let Some(pool) = vectors {
                self.end_pool(pool);
            }
            return Err(BioSetError::OutOfMemory);
        };
        let state = state.cast::<SetState<M>>();
        let rescue = Rescue { bios: List::new(), rescuer: ptr::null(), ending: ptr::null(), ended: false };
        let new = SetState {
            service: self,
            name,
            flags,
            front_bytes,
            bios,
            vectors,
            out: AtomicU32::new(0),
            rescue: Lock::new(rescue),
            has_rescuer: AtomicBool::new(false),
            rescued: AtomicU64::new(0),
            holders: Lock::new([(0, 0); HOLDERS]),
            reported: AtomicBool::new(false),
        };
        // SAFETY: the object has as many bytes, is aligned to 8, and new.
        unsafe { state.write(new) };
        Ok(BioSet { state })
    }

    /// Ends a set, after its rescuer, and gives its reserves back. May sleep. Linux's `bioset_exit`.
    ///
    /// # Errors
    ///
    /// [`BiosOut`] with the set, when bios of it are in use.
    pub fn bioset_exit(&self, set: BioSet<M>) -> Result<(), BiosOut<M>> {
        // Acquire: pairs with the Release in `SetState::free`.
        let count = set.get().out.load(Ordering::Acquire);
        if count > 0 {
            return Err(BiosOut { set, count });
        }
        let state = set.get();
        if state.has_rescuer.load(Relaxed) {
            {
                let mut rescue = state.rescue.lock(self.machine());
                rescue.ending = self.machine().task();
                // SAFETY: the rescuer lives until it has seen that the set ends.
                if let Some(rescuer) = unsafe { rescue.rescuer.as_ref() } {
                    self.machine().wake(rescuer);
                }
            }
            self.machine().sleep(&mut || state.rescue.lock(self.machine()).ended, None);
        }
        // SAFETY: no bio is out, the rescuer has ended, and the caller had the only handle.
        let state = unsafe { set.state.read() };
        // SAFETY: it came from kmalloc, and what was in it has been taken out.
        unsafe { self.kfree(set.state.as_ptr().cast()) };
        self.end_pool(state.bios);
        if let Some(pool) = state.vectors {
            self.end_pool(pool);
        }
        Ok(())
    }

    fn end_pool(&self, pool: Mempool<'static>) {
        if let Err(error) = self.mempool_destroy(pool) {
            panic!("{error}");
        }
    }

    /// Allocates a bio with room for `vectors` pieces of memory.
    ///
    /// With a set, and flags that allow to wait (where the caller may sleep), it never fails, as long as each caller
    /// holds one unsubmitted bio of the set at a time. It may have at most [`MAX_VECTORS`], and no more than
    /// [`INLINE_VECTORS`] from a set without [`BiosetFlags::NEED_BVECS`]: else `None`. Without a set it is
    /// [`Self::bio_kmalloc`]. Linux's `bio_alloc_bioset`.
    pub fn bio_alloc_bioset(&'static self, gfp: Gfp, vectors: usize, set: Option<&BioSet<M>>) -> Option<Bio<M>> {
        let Some(set) = set else { return self.bio_kmalloc(vectors, gfp) };
        let state = set.get();
        if vectors > MAX_VECTORS || vectors > INLINE_VECTORS && state.vectors.is_none() {
            return None;
        }
        let task = self.machine().task();
        if state.is_checked() {
            state.hold(task, gfp);
        }
        // Relaxed: the set cannot end while it is borrowed.
        state.out.fetch_add(1, Relaxed);
        let Some(element) = state.element(set.state, &state.bios, gfp) else {
            state.out.fetch_sub(1, Relaxed);
            return None;
        };
        // SAFETY: the element has the front padding and, aligned, a header, and is this caller's alone.
        let header = unsafe { element.add(state.front_bytes).cast::<Header<M>>() };
        // SAFETY: as above.
        unsafe { Header::write(header, Own::new(self, Home::Set(set.state))) };
        // SAFETY: made just now.
        let mut bio = unsafe { Bio::from_raw(header) };
        if vectors > INLINE_VECTORS {
            let (array, home, capacity) = state.vectors(set.state, vectors, gfp)?;
            let own = bio.own_mut();
            (own.vectors, own.vector_home, own.capacity) = (array, home, capacity as u16);
        }
        if state.is_checked() {
            bio.own_mut().holder = state.note_holder(task);
        }
        Some(bio)
    }

    /// Allocates a bio from kmalloc, its vectors behind it. `None` where that fails, and for more than
    /// [`MAX_KMALLOC_VECTORS`]. Linux's `bio_kmalloc`.
    pub fn bio_kmalloc(&'static self, vectors: usize, gfp: Gfp) -> Option<Bio<M>> {
        if vectors > MAX_KMALLOC_VECTORS {
            return None;
        }
        let behind = if vectors > INLINE_VECTORS { vectors } else { 0 };
        let bytes = size_of::<Header<M>>() + behind * size_of::<Vector>();
        let header = NonNull::new(self.kmalloc(bytes, gfp))?.cast::<Header<M>>();
        // SAFETY: the object has as many bytes, aligned to 8, and is new.
        unsafe { Header::write(header, Own::new(self, Home::Kmalloc)) };
        // SAFETY: made just now.
        let mut bio = unsafe { Bio::from_raw(header) };
        if behind > 0 {
            // SAFETY: the vectors lie right behind the header, in the same object.
            bio.own_mut().vectors = unsafe { header.add(1).cast() };
            bio.own_mut().capacity = vectors as u16;
        }
        Some(bio)
    }

    /// Makes a bio in memory of the caller's, with vectors of the caller's if there are any (at most 65535 are used),
    /// else with the [`INLINE_VECTORS`] in it. Linux's `bio_init`.
    ///
    /// # Safety
    ///
    /// Both are there and used by nobody else until the bio, its clones and references are all gone.
    pub unsafe fn bio_init(
        &'static self,
        storage: NonNull<BioStorage<M>>,
        vectors: &'static mut [MaybeUninit<Vector>],
    ) -> Bio<M> {
        let header = storage.cast::<Header<M>>();
        // SAFETY: the caller's promise; the storage is as large and aligned as a header.
        unsafe { Header::write(header, Own::new(self, Home::Caller)) };
        // SAFETY: made just now.
        let mut bio = unsafe { Bio::from_raw(header) };
        if let Some(first) = NonNull::new(vectors.as_mut_ptr()).filter(|_| !vectors.is_empty()) {
            bio.own_mut().vectors = first.cast();
            bio.own_mut().capacity = vectors.len().min(u16::MAX.into()) as u16;
        }
        bio
    }
}
