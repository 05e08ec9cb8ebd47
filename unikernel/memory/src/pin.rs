//! [`PinCell`]: where a movable page is, and how many use it there; and [`CellStack`], the cells without a page.
//!
//! Used by [`MovablePages`](crate::movable_pages); `tests/loom.rs` compiles this very file against loom's atomics and
//! explores every interleaving.
//!
//! # Theory
//!
//! A cell is one word, so that all of it changes at once:
//!
//! | state  | bits 0-31          | bits 32-61 | bit 62 | bit 63 |
//! |--------|--------------------|------------|--------|--------|
//! | vacant | next vacant cell   | -          | 0      | 0      |
//! | live   | the page's frame   | pins       | 0      | 1      |
//! | moving | the frame it was in| 0          | 1      | 1      |
//!
//! Pins come and go while the cell is live. A move begins only at no pins and for the frame the mover found, and while
//! it lasts whoever wants to pin or free waits: it is the time of copying a page, with interrupts off. So a page's
//! contents never change under a copy, and a pinned page never moves.
//!
//! `unpin` releases what was written through the pin to the `Acquire` of `begin_move` (the copy sees it) and of `pin`;
//! `end_move` releases the copy to the `Acquire` of `pin` and `vacate`. `vacate` releases to `begin_move`'s failing
//! load nothing: that a cell is another's is told by its frame alone, for a frame in a mover's hand belongs to nobody
//! else.

use crate::sync::{AtomicU64, Ordering};

const FRAME: u64 = 0xffff_ffff;
const PIN: u64 = 1 << 32;
const PINS: u64 = MOVING - PIN;
const MOVING: u64 = 1 << 62;
const LIVE: u64 = 1 << 63;

/// One page's place and pins; see the module head.
pub(crate) struct PinCell(AtomicU64);

impl PinCell {
    /// A vacant cell, of a word that is 0. (It is made by the caller because loom's cannot be in a constant.)
    pub(crate) const fn new(word: AtomicU64) -> Self {
        Self(word)
    }

    /// A vacant cell, which its caller popped, gets a page.
    pub(crate) fn occupy(&self, frame: u32) {
        // Release: whoever frees the page has its frame from here.
        self.0.store(LIVE | u64::from(frame), Ordering::Release);
    }

    /// Keeps the page where it is until [`Self::unpin`]; returns where that is. Calls `relax` while it is moved. Only
    /// for a cell that stays occupied meanwhile.
    pub(crate) fn pin(&self, mut relax: impl FnMut(u32)) -> u32 {
        let mut rounds = 0;
        loop {
            let word = self.0.load(Ordering::Relaxed);
            assert!(word & PINS != PINS, "a page is pinned a thousand million times");
            // Acquire: pairs with the Release of `end_move` and of `unpin`.
            let added =
                |word| self.0.compare_exchange_weak(word, word + PIN, Ordering::Acquire, Ordering::Relaxed).is_ok();
            if word & MOVING == 0 && added(word) {
                return (word & FRAME) as u32;
            }
            relax(rounds);
            rounds = rounds.saturating_add(1);
        }
    }

    /// Ends a pin.
    pub(crate) fn unpin(&self) {
        // Release: pairs with the Acquire of `begin_move` and of `pin`.
        self.0.fetch_sub(PIN, Ordering::Release);
    }

    /// Starts to move the page out of `from`, if it is there and not pinned; [`Self::end_move`] must follow at once.
    pub(crate) fn begin_move(&self, from: u32) -> bool {
        let unpinned = LIVE | u64::from(from);
        // Acquire: pairs with the Release of `unpin`.
        self.0.compare_exchange(unpinned, unpinned | MOVING, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// The page is in `to` now.
    pub(crate) fn end_move(&self, to: u32) {
        // Release: pairs with the Acquire of `pin` and `vacate`.
        self.0.store(LIVE | u64::from(to), Ordering::Release);
    }

    /// Takes the page out of a cell nobody has pinned; returns its frame. Calls `relax` while it is moved.
    pub(crate) fn vacate(&self, mut relax: impl FnMut(u32)) -> u32 {
        let mut rounds = 0;
        loop {
            let word = self.0.load(Ordering::Relaxed);
            // Acquire: pairs with the Release of `end_move` and of `occupy`.
            let emptied = |word| self.0.compare_exchange_weak(word, 0, Ordering::Acquire, Ordering::Relaxed).is_ok();
            if word & MOVING == 0 && emptied(word) {
                debug_assert!(word & (LIVE | PINS) == LIVE, "a cell is vacated while it is pinned, or twice");
                return (word & FRAME) as u32;
            }
            relax(rounds);
            rounds = rounds.saturating_add(1);
        }
    }
}

/// The vacant cells of a table, as a stack through the cells themselves.
///
/// `head` is the index of the top cell and, above it, a number that changes with every change of the stack: so a pop
/// that read a cell's link before others popped and pushed it fails, whatever it read.
pub(crate) struct CellStack {
    head: AtomicU64,
}

/// No cell.
const NONE: u64 = FRAME;

impl CellStack {
    /// An empty stack, of a word whose lower half is all ones.
    pub(crate) const fn new(head: AtomicU64) -> Self {
        Self { head }
    }

    /// What `head` is in an empty stack.
    pub(crate) const EMPTY: u64 = NONE;

    /// Puts a vacant cell on top.
    pub(crate) fn push(&self, cells: &[PinCell], index: u32) {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // Relaxed: published by the exchange below.
            cells[index as usize].0.store(head & FRAME, Ordering::Relaxed);
            let changed = next_number(head) | u64::from(index);
            // Release: pairs with the Acquire of `pop`.
            match self.head.compare_exchange_weak(head, changed, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(current) => head = current,
            }
        }
    }

    /// Takes the top cell; `None` when there is none.
    pub(crate) fn pop(&self, cells: &[PinCell]) -> Option<u32> {
        // Acquire, here and below: pairs with the Release of `push`.
        let mut head = self.head.load(Ordering::Acquire);
        while head & FRAME != NONE {
            let index = (head & FRAME) as u32;
            // Not a link any more if another popped the cell; the exchange fails then.
            let next = cells[index as usize].0.load(Ordering::Relaxed) & FRAME;
            match self.head.compare_exchange_weak(head, next_number(head) | next, Ordering::Acquire, Ordering::Acquire)
            {
                Ok(_) => return Some(index),
                Err(current) => head = current,
            }
        }
        None
    }
}

fn next_number(head: u64) -> u64 {
    (head & !FRAME).wrapping_add(FRAME + 1)
}
