//! Movable pages: `alloc_movable_page`, `free_movable_page`, and how they and compaction get along.
//!
//! Users: whoever keeps pages behind a table of its own and can therefore let them be moved; [`MovablePages`] is one
//! ready made. Compaction moves them.
//!
//! # Theory
//!
//! A movable page is reached through its owner's table alone. The service knows, for each, the owner and a *cookie*
//! that tells the owner which of its pages it is. The frame is in one of two states, which change under its zone's
//! lock:
//!
//! - `Movable`: the owner has it.
//! - `Moving`: compaction has taken it in hand, as the frame to be emptied or the frame to be filled. What the frame
//!   was in before the move and what it will be in after are both the owner's to free; a free finds the state `Moving`
//!   and leaves a mark, on which whoever moves gives the frame back in the end. So nobody waits for a move, and a frame
//!   in a mover's hand is never somebody else's.
//!
//! The move itself is the owner's: called without any lock of the service, it checks *under its own* that the cookie
//! still means that frame and that nobody has it pinned, copies, and changes its table. A free that came before has
//! changed the table already (so the owner refuses), one that comes after frees the new frame.
//!
//! Lock order: the owner's, then the zone's: an owner may free pages under its own lock. In the child of a fork, pages
//! that another thread was moving stay `Moving` for good: they are used and freed like others, but their frames are
//! lost.
//!
//! [`MovablePages`]: crate::movable_pages::MovablePages
//! [`PageOwner`]: crate::owner::PageOwner

use core::sync::atomic::Ordering::Relaxed;

use crate::frame::{FRAME_BYTES, Kind, Order, Pfn};
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::owner::{FREED, OwnerId, Ownership};
use crate::page::PageError;
use crate::service::Service;

impl<M: Machine> Service<M> {
    /// Allocates a page that may be moved whenever its owner agrees; the owner is asked with this cookie, possibly
    /// before this returns. Waits where the flags say so.
    ///
    /// It is no page of [`Self::alloc_pages`]: it has no references, and only [`Self::free_movable_page`] frees it.
    pub fn alloc_movable_page(&self, owner: OwnerId, cookie: u64, gfp: Gfp) -> Option<Pfn> {
        let page = self.alloc_pages(gfp | Gfp::MOVABLE, Order::ZERO)?;
        self.zone_of_frame(page).locked(self.machine(), |frames, _| {
            Ownership { owner, cookie }.give(frames, page, Kind::Movable);
        });
        Some(page)
    }

    /// Frees a page of [`Self::alloc_movable_page`], in the frame where it is now. May be called in an interrupt
    /// handler and under the owner's lock; never waits for a move.
    ///
    /// # Errors
    ///
    /// [`PageError::NotAllocated`] when there is no movable page in the frame; nothing was freed.
    pub fn free_movable_page(&self, page: Pfn) -> Result<(), PageError> {
        if !self.manages(page) {
            return Err(PageError::NotAllocated { frame: page, kind: Kind::Absent });
        }
        let not_moving = self.zone_of_frame(page).locked(self.machine(), |frames, _| {
            let state = frames.state(page);
            let word = &frames.frame(page).word;
            match state.kind() {
                Kind::Movable => {
                    // A page as any other from here on.
                    word.store(1, Relaxed);
                    frames.set_state(page, state.with_kind(Kind::Placed));
                    Ok(true)
                }
                Kind::Moving if word.load(Relaxed) & FREED == 0 => {
                    word.fetch_or(FREED, Relaxed);
                    Ok(false)
                }
                kind => Err(PageError::NotAllocated { frame: page, kind }),
            }
        })?;
        if not_moving {
            return self.try_free_pages(page, Order::ZERO);
        }
        self.claim_frames(1);
        Ok(())
    }

    /// Copies a page, for owners that move it.
    ///
    /// # Safety
    ///
    /// The frames are the two that [`PageOwner::move_page`] was given, and until it returns nobody writes to `from`.
    ///
    /// [`PageOwner::move_page`]: crate::PageOwner::move_page
    pub unsafe fn copy_frame(&self, from: Pfn, to: Pfn) {
        // SAFETY: both are whole frames of RAM in the direct map, different ones, and `to` is nobody's yet.
        unsafe {
            core::ptr::copy_nonoverlapping(self.page_address(from), self.page_address(to), FRAME_BYTES);
        }
    }
}
