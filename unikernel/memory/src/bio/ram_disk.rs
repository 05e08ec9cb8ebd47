//! [`RamDisk`]: a disk in memory, which can be slow, out of order, or broken, as tests want it.
//!
//! One lock guards all of it, the contents, too; it is a leaf, and bios complete after it is released.

use core::ops::Range;

use super::device::BlockDevice;
use super::handle::{Bio, BioList};
use super::vector::SECTOR_BYTES;
use super::{BioError, Operation};
use crate::gfp::Gfp;
use crate::lock::Lock;
use crate::machine::Machine;
use crate::service::Service;

/// A disk in memory.
pub struct RamDisk<M: Machine> {
    service: &'static Service<M>,
    sectors: u64,
    state: Lock<State<M>>,
}

struct State<M: Machine> {
    contents: *mut u8,
    /// Whether they are of kvmalloc.
    is_allocated: bool,
    /// Whether bios wait for [`RamDisk::serve`].
    holds: bool,
    waiting: BioList<M>,
    broken: Range<u64>,
    flushes: u64,
}

// SAFETY: the contents are the disk's alone, reached under its lock.
unsafe impl<M: Machine> Send for State<M> {}

impl<M: Machine> RamDisk<M> {
    /// A disk of so many sectors, all zero. `None` when there is no memory.
    pub fn new(service: &'static Service<M>, sectors: u64) -> Option<Self> {
        let contents = service.kvmalloc((sectors * u64::from(SECTOR_BYTES)) as usize, Gfp::KERNEL | Gfp::ZERO);
        (!contents.is_null()).then(|| Self::of(service, sectors, contents, true))
    }

    /// A disk of the whole sectors of memory that is not the service's, with what is in them.
    pub fn over(service: &'static Service<M>, contents: &'static mut [u8]) -> Self {
        Self::of(service, contents.len() as u64 / u64::from(SECTOR_BYTES), contents.as_mut_ptr(), false)
    }

    fn of(service: &'static Service<M>, sectors: u64, contents: *mut u8, is_allocated: bool) -> Self {
        let state = State { contents, is_allocated, holds: false, waiting: BioList::new(), broken: 0..0, flushes: 0 };
        Self { service, sectors, state: Lock::new(state) }
    }

    /// Has bios wait for [`Self::serve`] from now on, or completes those that wait and every one at once.
    pub fn hold(&self, holds: bool) {
        self.state.lock(self.service.machine()).holds = holds;
        while !holds && self.serve(|_| 0) {}
    }

    /// Completes one of those that wait: `choose` is told how many and says which. `false` when none waits.
    pub fn serve(&self, choose: impl FnOnce(usize) -> usize) -> bool {
        let mut state = self.state.lock(self.service.machine());
        let count = state.waiting.len();
        if count == 0 {
            return false;
        }
        let chosen = state.waiting.take(choose(count) % count);
        drop(state);
        if let Some(bio) = chosen {
            self.finish(bio);
        }
        true
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.state.lock(self.service.machine()).waiting.len()
    }

    /// Has every bio fail that touches one of these sectors; it changes nothing.
    pub fn break_sectors(&self, sectors: Range<u64>) {
        self.state.lock(self.service.machine()).broken = sectors;
    }

    /// How often it was flushed.
    pub fn flushes(&self) -> u64 {
        self.state.lock(self.service.machine()).flushes
    }

    /// Gives its memory back, if it is the service's.
    pub fn end(self) {
        let state = self.state.lock(self.service.machine());
        let (contents, is_allocated) = (state.contents, state.is_allocated);
        drop(state);
        if is_allocated {
            // SAFETY: it came from kvmalloc, and goes with the disk.
            unsafe { self.service.kvfree(contents) };
        }
    }

    fn finish(&self, bio: Bio<M>) {
        let result = self.state.lock(self.service.machine()).transfer(self.service, &bio);
        bio.endio(result);
    }
}

impl<M: Machine> State<M> {
    fn transfer(&mut self, service: &Service<M>, bio: &Bio<M>) -> Result<(), BioError> {
        let (start, end) = (bio.sector(), bio.sector() + u64::from(bio.sectors()));
        if start < self.broken.end && self.broken.start < end {
            return Err(BioError::Io);
        }
        let mut at = (start * u64::from(SECTOR_BYTES)) as usize;
        for piece in bio.segments() {
            let memory = service.machine().direct_map() + piece.address as usize;
            let memory = core::ptr::with_exposed_provenance_mut::<u8>(memory);
            let length = piece.length as usize;
            // SAFETY: `submit_bio` has seen that the bio ends with the disk; the memory is the bio's, as whoever added it
            // vouched.
            unsafe {
                let contents = self.contents.add(at);
                match bio.operation() {
                    Operation::Read => contents.copy_to(memory, length),
                    Operation::Write => contents.copy_from(memory, length),
                    Operation::Flush => {}
                }
            }
            at += length;
        }
        self.flushes += u64::from(bio.operation() == Operation::Flush);
        Ok(())
    }
}

impl<M: Machine> BlockDevice<M> for RamDisk<M> {
    fn make_request(&self, bio: Bio<M>) {
        // A bio that was not submitted, but given to the disk, was not looked at.
        if bio.operation() != Operation::Flush
            && bio.sector().checked_add(bio.sectors().into()).is_none_or(|end| end > self.sectors)
        {
            return bio.endio(Err(BioError::OutOfRange));
        }
        {
            let mut state = self.state.lock(self.service.machine());
            if state.holds {
                return state.waiting.add(bio);
            }
        }
        self.finish(bio);
    }

    fn sectors(&self) -> u64 {
        self.sectors
    }
}
