//! [`Header`]: a bio in memory; [`List`]: bios that wait their turn.
//!
//! Used by everything about bios. A header has three parts, by who may touch them: what is [its holder's](Own) alone,
//! what several parties [count](Outstanding), and the vectors, which stay as they are while clones read them.

use core::any::TypeId;
use core::cell::UnsafeCell;
use core::ptr::NonNull;

use super::device::BlockDevice;
use super::handle::Bio;
use super::outstanding::Outstanding;
use super::set::SetState;
use super::submit::Sleeper;
use super::vector::{INLINE_VECTORS, Position, Vector};
use super::{BioError, Operation};
use crate::machine::Machine;
use crate::service::Service;
use crate::task::Task;

/// A bio in memory.
pub(super) struct Header<M: Machine> {
    pub(super) outstanding: Outstanding,
    /// The holder's of the one [`Bio`] that leads here.
    own: UnsafeCell<Own<M>>,
    inline: UnsafeCell<[Vector; INLINE_VECTORS]>,
}

/// Where a bio's memory goes.
pub(super) enum Home<M: Machine> {
    /// To kmalloc.
    Kmalloc,
    /// To the pool of its set.
    Set(NonNull<SetState<M>>),
    /// It is its maker's.
    Caller,
}

/// Where a bio's vectors are from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum VectorHome {
    /// They lie in or behind the bio, or are its maker's.
    Bio,
    /// kmalloc.
    Kmalloc,
    /// The pool of the bio's set.
    Pool,
    /// They are another bio's, to whose memory this one has a reference.
    Source,
}

/// What is done when a bio has completed.
pub(super) enum Completion<M: Machine> {
    /// Nothing; its memory is given back.
    None,
    /// The function gets it.
    Call(fn(Bio<M>)),
    /// Another bio waits for it.
    Chain(NonNull<Header<M>>),
    /// A thread does.
    Wake(NonNull<Sleeper<M>>),
}

/// What a bio's holder alone touches.
pub(super) struct Own<M: Machine> {
    pub(super) service: &'static Service<M>,
    pub(super) home: Home<M>,
    /// The bio whose vectors are used.
    pub(super) source: Option<NonNull<Header<M>>>,
    pub(super) vectors: NonNull<Vector>,
    pub(super) vector_home: VectorHome,
    pub(super) count: u16,
    pub(super) capacity: u16,
    pub(super) position: Position,
    pub(super) operation: Operation,
    pub(super) device: Option<&'static dyn BlockDevice<M>>,
    /// How far a device that hands the bio to itself again has come with it; 0 for a device that has not begun.
    pub(super) step: u32,
    /// A device has it, or will: it owes a completion.
    pub(super) submitted: bool,
    pub(super) completion: Completion<M>,
    pub(super) private: *mut (),
    /// What the front padding holds.
    pub(super) front_type: Option<TypeId>,
    /// Whose unsubmitted bio it is, where that is checked.
    pub(super) holder: *const Task,
    next: Option<NonNull<Header<M>>>,
}

impl<M: Machine> Own<M> {
    /// That of a bio without vectors.
    pub(super) fn new(service: &'static Service<M>, home: Home<M>) -> Self {
        Self {
            service,
            home,
            source: None,
            vectors: NonNull::dangling(),
            vector_home: VectorHome::Bio,
            count: 0,
            capacity: 0,
            position: Position::default(),
            operation: Operation::Read,
            device: None,
            step: 0,
            submitted: false,
            completion: Completion::None,
            private: core::ptr::null_mut(),
            front_type: None,
            holder: core::ptr::null(),
            next: None,
        }
    }

    /// The vectors in use.
    pub(super) fn vectors(&self) -> &[Vector] {
        // SAFETY: the first `count` are initialised, and nobody changes them while the bio or a clone can read them:
        // only the source's holder could, and it checks that there is no clone.
        unsafe { core::slice::from_raw_parts(self.vectors.as_ptr(), usize::from(self.count)) }
    }
}

impl<M: Machine> Header<M> {
    /// Makes a bio whose vectors, as many as fit, lie in itself.
    ///
    /// # Safety
    ///
    /// `place` is aligned memory for a header that nobody else uses.
    pub(super) unsafe fn write(place: NonNull<Self>, own: Own<M>) {
        let inline = [Vector { address: 0, length: 0 }; INLINE_VECTORS];
        let header =
            Self { outstanding: Outstanding::new(), own: UnsafeCell::new(own), inline: UnsafeCell::new(inline) };
        // SAFETY: the caller's promise.
        unsafe { place.write(header) };
        // SAFETY: initialised just now, and still nobody else's.
        let header = unsafe { place.as_ref() };
        // SAFETY: as above.
        let own = unsafe { &mut *header.own.get() };
        own.vectors = NonNull::new(header.inline.get().cast()).expect("a field of an object is somewhere");
        own.capacity = INLINE_VECTORS as u16;
    }

    /// What is the holder's.
    pub(super) fn own(&self) -> *mut Own<M> {
        self.own.get()
    }
}

/// Notes an error of a bio, and that one of those that complete it has done so; completes it and those it was chained to
/// where that was the last. A loop, for chains can be long.
///
/// # Safety
///
/// The caller has the bio's handle and gives it up, or is a child chained to it that has completed.
pub(super) unsafe fn complete<M: Machine>(header: NonNull<Header<M>>, result: Result<(), BioError>) {
    let (mut header, mut result) = (header, result);
    loop {
        // SAFETY: it lives until the last that completes it has done so, and this caller has not.
        let outstanding = unsafe { &header.as_ref().outstanding };
        if let Err(error) = result {
            outstanding.fail(error as u32);
        }
        if !outstanding.complete_one() {
            return;
        }
        outstanding.start_again();
        // SAFETY: who completes last owns the bio.
        let mut bio = unsafe { Bio::from_raw(header) };
        let own = bio.own_mut();
        own.submitted = false;
        match own.completion {
            Completion::None => return,
            Completion::Call(function) => return function(bio),
            Completion::Wake(sleeper) => {
                own.completion = Completion::None;
                // SAFETY: the sleeper waits until it is told.
                return unsafe { Sleeper::tell(sleeper, bio) };
            }
            Completion::Chain(parent) => {
                own.completion = Completion::None;
                result = bio.status();
                drop(bio);
                header = parent;
            }
        }
    }
}

/// One less uses a bio's memory; it is given back after the last.
///
/// # Safety
///
/// The caller has a reference, and gives it up.
pub(super) unsafe fn release<M: Machine>(header: NonNull<Header<M>>) {
    // SAFETY: it lives as long as there is a reference.
    if !unsafe { header.as_ref() }.outstanding.put() {
        return;
    }
    // SAFETY: nobody else uses it any more.
    let own = unsafe { &*header.as_ref().own() };
    let source = own.source;
    let service = own.service;
    match own.vector_home {
        // SAFETY: they came from kmalloc, and go with the bio.
        VectorHome::Kmalloc => unsafe { service.kfree(own.vectors.as_ptr().cast()) },
        VectorHome::Pool => {
            let Home::Set(set) = own.home else { unreachable!("only bios of sets have vectors of a set") };
            // SAFETY: they came from the set's pool; the set lives while its bio is out.
            unsafe { SetState::free_vectors(set, own.vectors) };
        }
        VectorHome::Bio | VectorHome::Source => {}
    }
    match own.home {
        // SAFETY: it came from kmalloc, and nobody uses it.
        Home::Kmalloc => unsafe { service.kfree(header.as_ptr().cast()) },
        // SAFETY: it came from the set's pool, and nobody uses it.
        Home::Set(set) => unsafe { SetState::free(set, header) },
        Home::Caller => {}
    }
    if let Some(source) = source {
        // A source has its own vectors, so this ends here.
        // SAFETY: the clone had a reference to its source.
        unsafe { release(source) };
    }
}

/// The first and the last bio of a list.
type Ends<M> = (NonNull<Header<M>>, NonNull<Header<M>>);

/// Bios in the order in which they came. What is left in it when it is dropped is dropped, too.
pub(super) struct List<M: Machine> {
    ends: Option<Ends<M>>,
}

// SAFETY: a list has the handles of its bios, which may be on any CPU.
unsafe impl<M: Machine> Send for List<M> {}

impl<M: Machine> List<M> {
    pub(super) const fn new() -> Self {
        Self { ends: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_none()
    }

    pub(super) fn push(&mut self, mut bio: Bio<M>) {
        bio.own_mut().next = None;
        let header = bio.into_raw();
        match &mut self.ends {
            None => self.ends = Some((header, header)),
            Some((_, last)) => {
                // SAFETY: the list has the handles of its bios.
                unsafe { (*last.as_ref().own()).next = Some(header) };
                *last = header;
            }
        }
    }

    pub(super) fn pop(&mut self) -> Option<Bio<M>> {
        let (first, last) = self.ends?;
        // SAFETY: the list had its handle.
        let mut bio = unsafe { Bio::from_raw(first) };
        self.ends = bio.own_mut().next.take().map(|next| (next, last));
        Some(bio)
    }

    /// Puts another list's bios behind this one's.
    pub(super) fn append(&mut self, mut other: Self) {
        while let Some(bio) = other.pop() {
            self.push(bio);
        }
    }

    /// Takes out those that `wanted` says, in order.
    pub(super) fn take_where(&mut self, mut wanted: impl FnMut(&Bio<M>) -> bool) -> Self {
        let mut all = core::mem::take(self);
        let mut taken = Self::new();
        while let Some(bio) = all.pop() {
            if wanted(&bio) { taken.push(bio) } else { self.push(bio) }
        }
        taken
    }

    pub(super) fn count(&self) -> usize {
        let mut next = self.ends.map(|(first, _)| first);
        core::iter::from_fn(|| {
            let header = next?;
            // SAFETY: the list has the handles of its bios.
            next = unsafe { (*header.as_ref().own()).next };
            Some(())
        })
        .count()
    }
}

impl<M: Machine> Default for List<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: Machine> Drop for List<M> {
    fn drop(&mut self) {
        while let Some(bio) = self.pop() {
            drop(bio);
        }
    }
}
