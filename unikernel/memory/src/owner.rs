//! Who has movable pages: [`PageOwner`], and what the service knows of each page.
//!
//! Used by [`movable`](crate::movable), which tells how owners, frees and moves get along, and by
//! [`compaction`](crate::compaction), which moves the pages.
//!
//! The table of owners has a lock of its own, which nothing else is taken under. It only grows.

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use crate::frame::{Frames, Kind, Order, Pfn, State};
use crate::lock::Lock;
use crate::machine::Machine;
use crate::service::Service;

/// Owners the service can note.
pub const MAX_OWNERS: usize = 32;

/// Somebody whose pages can be moved.
pub trait PageOwner: Sync {
    /// Moves the page that `cookie` names out of frame `from` into frame `to`, if it can: checks that `from` is still
    /// where that page is, and that nobody is using it; copies it ([`Service::copy_frame`]); uses `to` from then on.
    /// Returns whether it did. `from` is not the owner's any more then, else `to` is not. `to` may be of another zone or
    /// another node: whoever cannot do with that refuses.
    ///
    /// Called in a thread, without locks of the service. Must not allocate or wait for memory: the caller may be the
    /// one who makes it free.
    fn move_page(&self, cookie: u64, from: Pfn, to: Pfn) -> bool;
}

/// A registered [`PageOwner`] of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerId(pub(crate) u32);

/// Why an owner of movable pages could not be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerError {
    /// [`MAX_OWNERS`] are registered already.
    TooManyOwners,
    /// No memory for its table.
    NoMemory,
}

impl fmt::Display for OwnerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyOwners => {
                write!(f, "{MAX_OWNERS} owners of movable pages are registered, and they stay: share one")
            }
            Self::NoMemory => f.write_str("no memory for a table of movable pages: ask for a smaller one"),
        }
    }
}

impl core::error::Error for OwnerError {}

/// All owners, by id.
pub(crate) struct Owners([Option<&'static dyn PageOwner>; MAX_OWNERS]);

impl Owners {
    pub(crate) const fn new() -> Lock<Self> {
        Lock::new(Self([None; MAX_OWNERS]))
    }
}

/// What the service knows of a movable page beside its frame.
#[derive(Clone, Copy)]
pub(crate) struct Ownership {
    pub(crate) owner: OwnerId,
    pub(crate) cookie: u64,
}

/// In the word of a `Moving` frame: its owner has freed it. The bits above are the owner's id.
pub(crate) const FREED: u32 = 1;

impl Ownership {
    pub(crate) fn of(frames: Frames, frame: Pfn) -> Self {
        let fields = frames.frame(frame);
        let cookie = u64::from(fields.previous.load(Relaxed)) << 32 | u64::from(fields.next.load(Relaxed));
        Self { owner: OwnerId(fields.word.load(Relaxed) >> 1), cookie }
    }

    /// Makes a frame the owner's, in a state of that kind. Under the zone's lock, or while nobody else knows the frame.
    pub(crate) fn give(self, frames: Frames, frame: Pfn, kind: Kind) {
        let fields = frames.frame(frame);
        fields.next.store(self.cookie as u32, Relaxed);
        fields.previous.store((self.cookie >> 32) as u32, Relaxed);
        fields.word.store(self.owner.0 << 1, Relaxed);
        frames.set_state(frame, State::new(kind, Order::ZERO, frames.state(frame).zone()));
    }
}

/// Whether the owner has freed a frame since it is `Moving`. Under the zone's lock.
pub(crate) fn was_freed(frames: Frames, frame: Pfn) -> bool {
    frames.frame(frame).word.load(Relaxed) & FREED != 0
}

impl<M: Machine> Service<M> {
    /// Registers somebody whose pages can be moved, for as long as the service lives.
    ///
    /// # Errors
    ///
    /// [`OwnerError::TooManyOwners`].
    pub fn register_page_owner(&self, owner: &'static dyn PageOwner) -> Result<OwnerId, OwnerError> {
        let mut owners = self.owners().lock(self.machine());
        let id = owners.0.iter().position(Option::is_none).ok_or(OwnerError::TooManyOwners)?;
        owners.0[id] = Some(owner);
        Ok(OwnerId(id as u32))
    }

    /// Asks a page's owner to move it.
    pub(crate) fn ask_to_move(&self, page: Ownership, from: Pfn, to: Pfn) -> bool {
        let owner = self.owners().lock(self.machine()).0.get(page.owner.0 as usize).copied().flatten();
        owner.is_some_and(|owner| owner.move_page(page.cookie, from, to))
    }
}
