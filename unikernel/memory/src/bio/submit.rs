//! Submission: how a bio gets to its device, and how one waits for it.
//!
//! # Theory
//!
//! A driver that stands on others submits bios while it handles one, and so may theirs: handled at once they would use
//! up the stack. So only the outermost [`submit_bio`](Service::submit_bio) of a thread calls devices. It keeps its
//! [`Pending`] on its stack and notes it in the thread's task; inner calls add to it. What was added while a device
//! handled a bio comes before what waited already: first the bios for other devices (which are lower), then those for
//! the same one (its rest, that it parted). So what a device submits is done before its next bio is looked at, and bios
//! that will give memory back come before those that will want some.
//!
//! `Pending` is its thread's alone. A [`Sleeper`] lies on the stack of a thread that waits for a bio; who completes the
//! bio tells it under the sleeper's lock, and the thread leaves only after it has had the lock itself.

use core::cell::Cell;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering::Relaxed;

use super::handle::Bio;
use super::header::{Completion, List};
use super::set::SetState;
use super::{BioError, Operation};
use crate::lock::Lock;
use crate::machine::Machine;
use crate::service::Service;
use crate::task::Task;

/// What the outermost submission of a thread has still to do.
pub(super) struct Pending<M: Machine> {
    /// Submitted by the device that handles a bio now.
    fresh: Cell<List<M>>,
    /// Submitted before.
    older: Cell<List<M>>,
}

impl<M: Machine> Pending<M> {
    fn new() -> Self {
        Self { fresh: Cell::new(List::new()), older: Cell::new(List::new()) }
    }

    /// That of the running thread; `None` when it is in no submission.
    pub(super) fn of(task: &Task) -> Option<&Self> {
        // SAFETY: a task is its thread's alone, and the outermost submission takes the pointer back before it returns.
        unsafe { task.pending_bios.load(Relaxed).cast::<Self>().as_ref() }
    }

    fn with<R>(list: &Cell<List<M>>, work: impl FnOnce(&mut List<M>) -> R) -> R {
        let mut taken = list.take();
        let result = work(&mut taken);
        list.set(taken);
        result
    }

    pub(super) fn is_empty(&self) -> bool {
        Self::with(&self.fresh, |list| list.is_empty()) && Self::with(&self.older, |list| list.is_empty())
    }

    fn add(&self, bio: Bio<M>) {
        Self::with(&self.fresh, |list| list.push(bio));
    }

    /// Takes out the bios of a set.
    pub(super) fn take_of(&self, set: NonNull<SetState<M>>) -> List<M> {
        let of_set = |list: &mut List<M>| list.take_where(|bio| bio.is_of_state(set));
        let mut taken = Self::with(&self.fresh, of_set);
        taken.append(Self::with(&self.older, of_set));
        taken
    }

    /// Has a device handle a bio, and puts what it submits in order.
    fn handle(&self, bio: Bio<M>) {
        let Some(device) = bio.device() else { return bio.endio(Err(BioError::NoDevice)) };
        debug_assert!(Self::with(&self.fresh, |list| list.is_empty()));
        device.make_request(bio);
        let mut rest = self.fresh.take();
        let is_same = |bio: &Bio<M>| bio.device().is_some_and(|other| ptr::addr_eq(other, device));
        let mut ordered = rest.take_where(|bio| !is_same(bio));
        ordered.append(rest);
        ordered.append(self.older.take());
        self.older.set(ordered);
    }
}

/// A task's note of a [`Pending`], until it is dropped.
struct Noted<'a>(&'a Task);

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.0.pending_bios.store(ptr::null_mut(), Relaxed);
    }
}

/// A thread that waits for a bio.
pub(super) struct Sleeper<M: Machine> {
    task: *const Task,
    service: &'static Service<M>,
    done: Lock<Option<Bio<M>>>,
}

impl<M: Machine> Sleeper<M> {
    /// Gives it the bio that has completed.
    ///
    /// # Safety
    ///
    /// The sleeper waits, and is told once.
    pub(super) unsafe fn tell(sleeper: NonNull<Self>, bio: Bio<M>) {
        // SAFETY: it stays until it has had the lock after this.
        let sleeper = unsafe { sleeper.as_ref() };
        let service = sleeper.service;
        let mut done = sleeper.done.lock(service.machine());
        *done = Some(bio);
        // SAFETY: the thread takes the lock that is held here before it goes on.
        service.machine().wake(unsafe { &*sleeper.task });
    }
}

impl<M: Machine> Service<M> {
    /// Hands a bio to its device. It completes in any case, perhaps before this returns: with an error at once where it
    /// has no device, or reaches beyond its end. In a thread; may sleep, for the device may allocate. Called by a device
    /// that handles a bio, it only notes it: see the module head. Linux's `submit_bio`, `generic_make_request`.
    pub fn submit_bio(&self, mut bio: Bio<M>) {
        bio.let_go();
        bio.own_mut().submitted = true;
        if let Err(error) = check(&bio) {
            return bio.endio(Err(error));
        }
        let task = self.machine().task();
        if let Some(pending) = Pending::<M>::of(task) {
            return pending.add(bio);
        }
        let pending = Pending::new();
        task.pending_bios.store(ptr::from_ref(&pending).cast_mut().cast(), Relaxed);
        let noted = Noted(task);
        let mut next = Some(bio);
        while let Some(bio) = next {
            pending.handle(bio);
            next = Pending::with(&pending.older, List::pop);
        }
        drop(noted);
    }

    /// Submits a bio and sleeps until it has completed; returns it. Its own completion is forgotten. Linux's
    /// `submit_bio_wait`.
    ///
    /// # Errors
    ///
    /// The first error beside it.
    ///
    /// # Panics
    ///
    /// Where a device that handles a bio calls it: nothing is submitted until that has returned. And when the bio is chained
    /// to another, which would never complete.
    pub fn submit_and_wait(&'static self, mut bio: Bio<M>) -> (Bio<M>, Result<(), BioError>) {
        let task = self.machine().task();
        assert!(
            Pending::<M>::of(task).is_none(),
            "submit_bio_wait inside make_request would wait for ever: submit the bio with a completion"
        );
        assert!(
            !matches!(bio.own().completion, Completion::Chain(_)),
            "submit_bio_wait of a bio that is chained to another, which would never complete: wait for that one"
        );
        let sleeper = Sleeper { task, service: self, done: Lock::new(None) };
        bio.own_mut().completion = Completion::Wake(NonNull::from(&sleeper));
        self.submit_bio(bio);
        self.machine().sleep(&mut || sleeper.done.lock(self.machine()).is_some(), None);
        let bio = sleeper.done.lock(self.machine()).take().expect("a sleep without a limit ends when it is ready");
        let status = bio.status();
        (bio, status)
    }
}

/// Whether a device can be asked for what a bio wants.
fn check<M: Machine>(bio: &Bio<M>) -> Result<(), BioError> {
    let device = bio.device().ok_or(BioError::NoDevice)?;
    if bio.operation() == Operation::Flush {
        return if bio.bytes() == 0 { Ok(()) } else { Err(BioError::NotSupported) };
    }
    if !bio.bytes().is_multiple_of(super::SECTOR_BYTES) {
        return Err(BioError::NotSupported);
    }
    let end = bio.sector().checked_add(bio.sectors().into());
    if end.is_some_and(|end| end <= device.sectors()) { Ok(()) } else { Err(BioError::OutOfRange) }
}
