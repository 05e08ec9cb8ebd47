//! [`Bio`]: the one handle of a bio, and what its holder does with it; [`BioReference`]: a look at one from beside.
//!
//! Used by everybody. The module's [head](super) tells who holds a bio when.

use core::any::TypeId;
use core::fmt;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::ptr::NonNull;

use super::device::BlockDevice;
use super::header::{Completion, Header, Home, List, Own, VectorHome, complete, release};
use super::set::{BioSet, SetState};
use super::vector::{SECTOR_BYTES, Vector};
use super::{BioError, Operation};
use crate::frame::{FRAME_SHIFT, Pfn};
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::service::Service;

/// An I/O operation: what is to be done, where on which device, with which memory. Linux's `struct bio *`.
///
/// Dropping it gives it back (Linux's `bio_put`). A device that drops one that was submitted, instead of completing it,
/// completes it with [`BioError::Dropped`].
#[must_use = "a bio that is dropped is given back, and does nothing"]
pub struct Bio<M: Machine> {
    header: NonNull<Header<M>>,
}

// SAFETY: a bio may be used on any CPU, by one at a time; what others reach of it is atomic.
unsafe impl<M: Machine> Send for Bio<M> {}

/// Keeps a bio's memory, and tells how it ended, whoever has the bio itself. Linux's `bio_get`.
pub struct BioReference<M: Machine> {
    header: NonNull<Header<M>>,
}

// SAFETY: what a reference reaches is atomic.
unsafe impl<M: Machine> Send for BioReference<M> {}
// SAFETY: as above.
unsafe impl<M: Machine> Sync for BioReference<M> {}

/// A bio was to be used anew while clones of it, or references to it, are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BioIsShared;

impl fmt::Display for BioIsShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bio_reset of a bio that has clones or references: drop these first")
    }
}

impl core::error::Error for BioIsShared {}

impl<M: Machine> Bio<M> {
    /// # Safety
    ///
    /// The caller has the handle of this bio, and gives it up for the result.
    pub(super) const unsafe fn from_raw(header: NonNull<Header<M>>) -> Self {
        Self { header }
    }

    pub(super) fn into_raw(self) -> NonNull<Header<M>> {
        ManuallyDrop::new(self).header
    }

    /// Gives the handle up for a pointer, for devices that keep one word for a request.
    #[must_use = "a bio whose pointer is lost never completes"]
    pub fn into_pointer(self) -> NonNull<()> {
        self.into_raw().cast()
    }

    /// The handle that was given up for this pointer.
    ///
    /// # Safety
    ///
    /// The pointer is from [`Self::into_pointer`], and is made a handle once.
    pub const unsafe fn from_pointer(pointer: NonNull<()>) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self::from_raw(pointer.cast()) }
    }

    fn header(&self) -> &Header<M> {
        // SAFETY: the handle is one of the references.
        unsafe { self.header.as_ref() }
    }

    pub(super) fn own(&self) -> &Own<M> {
        // SAFETY: the holder's alone.
        unsafe { &*self.header().own() }
    }

    pub(super) fn own_mut(&mut self) -> &mut Own<M> {
        // SAFETY: the holder's alone.
        unsafe { &mut *self.header().own() }
    }

    /// What is to be done.
    pub fn operation(&self) -> Operation {
        self.own().operation
    }

    /// Says what is to be done.
    pub fn set_operation(&mut self, operation: Operation) {
        self.own_mut().operation = operation;
    }

    /// The first sector on the device; sectors have [`SECTOR_BYTES`].
    pub fn sector(&self) -> u64 {
        self.own().position.sector
    }

    /// Says where on the device it begins.
    pub fn set_sector(&mut self, sector: u64) {
        self.own_mut().position.sector = sector;
    }

    /// Bytes of memory that take part.
    pub fn bytes(&self) -> u32 {
        self.own().position.bytes
    }

    /// Sectors that take part.
    pub fn sectors(&self) -> u32 {
        self.bytes() / SECTOR_BYTES
    }

    /// The device it is for.
    pub fn device(&self) -> Option<&'static dyn BlockDevice<M>> {
        self.own().device
    }

    /// Says which device it is for. Linux's `bio_set_dev`.
    pub fn set_device(&mut self, device: &'static dyn BlockDevice<M>) {
        let own = self.own_mut();
        own.device = Some(device);
        own.step = 0;
    }

    /// Whether it is of that set.
    pub fn is_of(&self, set: &BioSet<M>) -> bool {
        self.is_of_state(set.state())
    }

    pub(super) fn is_of_state(&self, set: NonNull<SetState<M>>) -> bool {
        matches!(self.own().home, Home::Set(home) if home == set)
    }

    /// Adds memory to the end: `length` bytes from `offset` of the block of frames that begins with `page`. Returns how
    /// many bytes were taken: all, or none when there is no room for another vector, when it is a clone, or has clones or
    /// references. A length of 0 takes no vector.
    /// Memory that lies right behind the last vector's needs no vector of its own. Linux's `bio_add_page`.
    ///
    /// # Safety
    ///
    /// Until the bio has completed, or is given back unsubmitted, the memory is there, nobody writes to it, and, should
    /// the operation be a read, nobody reads it either.
    pub unsafe fn add_page(&mut self, page: Pfn, length: u32, offset: u32) -> u32 {
        let is_alone = self.header().outstanding.is_only_one();
        let own = self.own_mut();
        let is_own = is_alone && own.vector_home != VectorHome::Source;
        // (An empty vector would end the memory for whoever goes through it.)
        if length == 0 || !is_own || own.position.bytes.checked_add(length).is_none() {
            return 0;
        }
        let address = (u64::from(page.0) << FRAME_SHIFT) + u64::from(offset);
        let count = usize::from(own.count);
        if let Some(last) = count.checked_sub(1) {
            // SAFETY: the first `count` vectors are initialised, and without clones the holder's alone.
            let last = unsafe { own.vectors.add(last).as_mut() };
            // (What a split took is in the vector still, so that may be longer than the bio.)
            if last.address + u64::from(last.length) == address
                && let Some(longer) = last.length.checked_add(length)
            {
                last.length = longer;
                own.position.bytes += length;
                return length;
            }
        }
        if own.count == own.capacity {
            return 0;
        }
        // SAFETY: there is room for `capacity` vectors.
        unsafe { own.vectors.add(count).write(Vector { address, length }) };
        own.count += 1;
        own.position.bytes += length;
        length
    }

    /// The memory that takes part, piece by piece.
    pub fn segments(&self) -> impl Iterator<Item = Vector> {
        let own = self.own();
        own.position.pieces(own.vectors())
    }

    /// How many vectors it has room for.
    pub fn capacity(&self) -> usize {
        self.own().capacity.into()
    }

    /// Has `function` called with the bio when it and all that were chained to it have completed: once, on whichever CPU
    /// that is, and perhaps in an interrupt handler, so it must not wait. `private` is for it. Linux's `bi_end_io` and
    /// `bi_private`.
    ///
    /// # Panics
    ///
    /// When the bio is chained to another, which would never complete.
    pub fn set_end_io(&mut self, function: fn(Self), private: *mut ()) {
        let own = self.own_mut();
        assert!(
            !matches!(own.completion, Completion::Chain(_)),
            "bi_end_io of a bio that is chained to another, which would never complete: set it on that one"
        );
        own.completion = Completion::Call(function);
        own.private = private;
    }

    /// What was given to [`Self::set_end_io`].
    pub fn private(&self) -> *mut () {
        self.own().private
    }

    /// Has `parent` complete only once this bio has, too. An error of this one is one of the parent's. Linux's
    /// `bio_chain`.
    ///
    /// # Panics
    ///
    /// When this bio has a completion of its own already.
    pub fn chain_to(&mut self, parent: &mut Self) {
        assert!(
            matches!(self.own().completion, Completion::None),
            "bio_chain of a bio that has a completion of its own: chain another"
        );
        parent.header().outstanding.expect_another();
        self.own_mut().completion = Completion::Chain(parent.header);
    }

    /// Another bio of the same memory, operation, device and place, without a completion. Its vectors are this one's: no
    /// data is copied. `None` where [`Service::bio_alloc_bioset`] fails. Linux's `bio_alloc_clone`, `bio_clone_fast`.
    pub fn fast_clone(&self, gfp: Gfp, set: &BioSet<M>) -> Option<Self> {
        let mut clone = self.own().service.bio_alloc_bioset(gfp, 0, Some(set))?;
        let from = self.own();
        let source = from.source.unwrap_or(self.header);
        // SAFETY: this bio has a reference to its source, or is it.
        unsafe { source.as_ref() }.outstanding.get();
        let own = clone.own_mut();
        own.source = Some(source);
        (own.vectors, own.count, own.capacity) = (from.vectors, from.count, from.count);
        own.vector_home = VectorHome::Source;
        (own.position, own.operation, own.device) = (from.position, from.operation, from.device);
        Some(clone)
    }

    /// Parts the first `sectors` from the rest: they are the bio that is returned, the rest is this one. Both have the
    /// same vectors. [Chain](Self::chain_to) the first to the rest to have it complete once both have. `None` where
    /// [`Service::bio_alloc_bioset`] fails; this bio is whole then. Linux's `bio_split`.
    ///
    /// # Panics
    ///
    /// When either part would be empty.
    pub fn split(&mut self, sectors: u32, gfp: Gfp, set: &BioSet<M>) -> Option<Self> {
        assert!(
            sectors > 0 && sectors < self.sectors(),
            "bio_split of {} sectors after {sectors}: both parts must have some",
            self.sectors()
        );
        let mut first = self.fast_clone(gfp, set)?;
        let bytes = sectors * SECTOR_BYTES;
        first.own_mut().position.bytes = bytes;
        let own = self.own_mut();
        let mut position = own.position;
        position.advance(own.vectors(), bytes);
        own.position = position;
        Some(first)
    }

    /// A reference, which keeps the memory until it is dropped. Linux's `bio_get`.
    pub fn get(&self) -> BioReference<M> {
        self.header().outstanding.get();
        BioReference { header: self.header }
    }

    /// The first error since it was made or [reset](Self::reset), of it or of one chained to it.
    ///
    /// # Errors
    ///
    /// That.
    pub fn status(&self) -> Result<(), BioError> {
        BioError::of(self.header().outstanding.error())
    }

    /// Makes it as it was when it was allocated: without memory, operation, place, completion or error. Linux's
    /// `bio_reset`.
    ///
    /// # Errors
    ///
    /// [`BioIsShared`]; it is unchanged then.
    pub fn reset(&mut self) -> Result<(), BioIsShared> {
        if !self.header().outstanding.is_only_one() || self.owes_completion() {
            return Err(BioIsShared);
        }
        self.header().outstanding.clear_error();
        let own = self.own_mut();
        let is_clone = own.vector_home == VectorHome::Source;
        own.count = 0;
        own.position = super::vector::Position::default();
        own.operation = Operation::Read;
        own.device = None;
        own.step = 0;
        own.completion = Completion::None;
        own.private = core::ptr::null_mut();
        if is_clone {
            own.capacity = 0;
        }
        Ok(())
    }

    /// Says that a device is done with it. It and those it was chained to complete when all others have. Linux's
    /// `bio_endio`. Never waits; may be called in an interrupt handler.
    pub fn endio(self, result: Result<(), BioError>) {
        // SAFETY: the handle is given up.
        unsafe { complete(self.into_raw(), result) };
    }

    /// Keeps a value of the driver's own before the bio. `false` when the front padding has no room for it, or there is
    /// none: see [`BioSet`]. What was there is forgotten.
    pub fn set_front<T: Copy + Send + 'static>(&mut self, value: T) -> bool {
        let Some(place) = self.front_place::<T>() else { return false };
        // SAFETY: the front padding has room for it, is aligned, and the holder's.
        unsafe { place.write(MaybeUninit::new(value)) };
        self.own_mut().front_type = Some(TypeId::of::<T>());
        true
    }

    /// The value of that type that is kept before the bio.
    pub fn front<T: Copy + Send + 'static>(&self) -> Option<&T> {
        let place = self.front_place::<T>().filter(|_| self.own().front_type == Some(TypeId::of::<T>()))?;
        // SAFETY: a value of the type was written there, and the padding is the holder's.
        Some(unsafe { place.as_ref().assume_init_ref() })
    }

    fn front_place<T>(&self) -> Option<NonNull<MaybeUninit<T>>> {
        const { assert!(align_of::<T>() <= 8, "the front padding is aligned to 8 bytes") };
        let Home::Set(set) = self.own().home else { return None };
        // SAFETY: a set lives as long as one of its bios is out.
        let padding = unsafe { set.as_ref() }.front_bytes();
        (size_of::<T>() <= padding).then(|| {
            // SAFETY: the padding lies before the header in the same element.
            unsafe { self.header.cast::<u8>().sub(padding).cast() }
        })
    }

    fn owes_completion(&self) -> bool {
        let own = self.own();
        own.submitted || matches!(own.completion, Completion::Chain(_)) || self.header().outstanding.has_children()
    }

    /// It is no longer an unsubmitted bio of its set that a thread holds.
    pub(super) fn let_go(&mut self) {
        let holder = core::mem::replace(&mut self.own_mut().holder, core::ptr::null());
        if let (false, Home::Set(set)) = (holder.is_null(), &self.own().home) {
            // SAFETY: a set lives as long as one of its bios is out.
            unsafe { set.as_ref() }.let_go(holder);
        }
    }
}

impl<M: Machine> Drop for Bio<M> {
    fn drop(&mut self) {
        self.let_go();
        if self.owes_completion() {
            // SAFETY: the handle is given up.
            unsafe { complete(self.header, Err(BioError::Dropped)) };
        } else {
            // SAFETY: the handle is given up.
            unsafe { release(self.header) };
        }
    }
}

impl<M: Machine> fmt::Debug for Bio<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bio({:?} of {} bytes at sector {})", self.operation(), self.bytes(), self.sector())
    }
}

impl<M: Machine> BioReference<M> {
    /// As [`Bio::status`].
    ///
    /// # Errors
    ///
    /// The first error.
    pub fn status(&self) -> Result<(), BioError> {
        // SAFETY: it lives as long as there is a reference.
        BioError::of(unsafe { self.header.as_ref() }.outstanding.error())
    }
}

impl<M: Machine> Drop for BioReference<M> {
    fn drop(&mut self) {
        // SAFETY: the reference is given up.
        unsafe { release(self.header) };
    }
}

/// Bios that a driver keeps, in the order in which they came. Those that are left when it is dropped complete with
/// [`BioError::Dropped`].
pub struct BioList<M: Machine>(List<M>);

impl<M: Machine> BioList<M> {
    /// An empty one. Linux's `bio_list_init`.
    pub const fn new() -> Self {
        Self(List::new())
    }

    /// Adds one to the end. Linux's `bio_list_add`.
    pub fn add(&mut self, bio: Bio<M>) {
        self.0.push(bio);
    }

    /// Takes the first. Linux's `bio_list_pop`.
    pub fn pop(&mut self) -> Option<Bio<M>> {
        self.0.pop()
    }

    /// Takes the one with that number, counted from the first; `None` when there are not so many.
    pub fn take(&mut self, index: usize) -> Option<Bio<M>> {
        let mut number = 0..;
        self.0.take_where(|_| number.next() == Some(index)).pop()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<M: Machine> Default for BioList<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: Machine> Service<M> {
    /// Gives a bio back that is not needed any more. The same as dropping it. Linux's `bio_put`.
    pub fn bio_put(&self, bio: Bio<M>) {
        drop(bio);
    }
}
