//! Calls of the kmalloc family and of caches, written down as they are made: the feature `trace`.
//!
//! The interfaces tell it of every object they hand out, resize or take back, whoever calls; without the feature
//! nothing is told and nothing compiled. `quarry trace record --whole` is its user: an image built with the feature
//! begins when the service has started and gives what was written down as a trace when its work is done
//! (docs/traces.md).
//!
//! # Theory
//!
//! There is one list for all CPUs, of places taken in turn by one atomic counter: it is the order of the calls, and the
//! buffer always has the *first* so many of them. (A list for each CPU would need the counter all the same, to put the
//! lists in order, and would end at another moment on each CPU: frees would be missing.) No lock is taken, nothing is
//! allocated, no interrupt masked, so handlers are told of like everybody else: one that comes between the taking of a
//! place and its filling takes the next.
//!
//! An allocation is written down when it has come back, a free before it is made, an object that moves when its new
//! place has been got and before the old one is given back. So of two objects that had one address after each other,
//! the free of the first comes before the allocation of the second: to be handed on, the address had to be given back
//! and taken again, and one atomic counter agrees with every order that its users have otherwise. The counter is
//! therefore relaxed. The last word of a place is written with `Release` and read with `Acquire`: a place that is not 0
//! is whole.

use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering, Ordering::Relaxed};
use core::time::Duration;

use quarry_topology::{CpuId, NodeId};

use crate::frame::Order as BlockOrder;
use crate::gfp::Gfp;
use crate::kmalloc::ZERO_SIZE_PTR;
use crate::machine::Machine;
use crate::service::Service;

/// Blocks of places; each is as large as a page block can be.
const MOST_BLOCKS: usize = 8;

/// Places of a block.
const BLOCK_PLACES: usize = BlockOrder::MAX.bytes() / size_of::<Place>();

/// The most calls that can be written down: about a million.
pub const MOST_CALLS: usize = MOST_BLOCKS * BLOCK_PLACES;

/// A call that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// When.
    pub time: Duration,
    /// By which CPU.
    pub cpu: CpuId,
    /// What was done.
    pub action: Action,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// An object began.
    Allocate {
        /// Where.
        address: usize,
        /// Bytes asked for, or of an object of the cache.
        size: usize,
        /// The node asked for.
        node: Option<NodeId>,
        /// `__GFP_ZERO`, `kzalloc`.
        zeroed: bool,
        /// Without waiting.
        atomic: bool,
    },
    /// An object has another size, and maybe another address.
    Resize {
        /// Where it was.
        from: usize,
        /// Where it is.
        to: usize,
        /// Bytes asked for.
        size: usize,
    },
    /// An object ended.
    Free {
        /// Where.
        address: usize,
    },
}

/// What was written down cannot be kept: there is no memory for so many calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no memory to write so many calls down: ask for fewer, or give the machine more")
    }
}

impl core::error::Error for NoRoom {}

/// One call. All zero where none has been written.
struct Place {
    address: AtomicU64,
    /// Where a resized object was.
    from: AtomicU64,
    nanoseconds: AtomicU64,
    /// The rest, packed; written last, and then not 0.
    rest: AtomicU64,
}

// How `rest` is packed: the size below, then the CPU, the node plus 1, and what the call was.
const CPU_SHIFT: u32 = 32;
const NODE_SHIFT: u32 = 44;
const ZEROED: u64 = 1 << 56;
const ATOMIC: u64 = 1 << 57;
const KIND_SHIFT: u32 = 60;
const ALLOCATE: u64 = 1;
const RESIZE: u64 = 2;
const FREE: u64 = 3;

/// Where calls are written.
pub(crate) struct Tracer {
    blocks: [AtomicPtr<Place>; MOST_BLOCKS],
    capacity: AtomicU64,
    running: AtomicBool,
    /// Calls so far, also those there was no room for.
    calls: AtomicU64,
}

impl Tracer {
    pub(crate) const fn new() -> Self {
        Self {
            blocks: [const { AtomicPtr::new(ptr::null_mut()) }; MOST_BLOCKS],
            capacity: AtomicU64::new(0),
            running: AtomicBool::new(false),
            calls: AtomicU64::new(0),
        }
    }

    /// The place with that number, of those there are.
    fn place(&self, number: u64) -> &Place {
        let number = number as usize;
        let block = self.blocks[number / BLOCK_PLACES].load(Relaxed);
        // SAFETY: the number is below the capacity, so its block was made, zeroed, before `running` was set, has that
        // many places and is never given back. All-zero bytes are a `Place`.
        unsafe { &*block.add(number % BLOCK_PLACES) }
    }

    /// A place of its own for a call; `None` while nothing is recorded, and when all are taken.
    fn take(&self) -> Option<&Place> {
        // Acquire: pairs with the Release in `start_trace`, so the blocks are seen.
        if !self.running.load(Ordering::Acquire) {
            return None;
        }
        let number = self.calls.fetch_add(1, Relaxed);
        (number < self.capacity.load(Relaxed)).then(|| self.place(number))
    }
}

impl Place {
    fn write(&self, machine: &impl Machine, kind: u64, address: *mut u8, from: *mut u8, what: u64) {
        self.address.store(address.addr() as u64, Relaxed);
        self.from.store(from.addr() as u64, Relaxed);
        self.nanoseconds.store(machine.now().as_nanos() as u64, Relaxed);
        let rest = what | (machine.cpu().index() as u64) << CPU_SHIFT | kind << KIND_SHIFT;
        self.rest.store(rest, Ordering::Release);
    }

    fn read(&self) -> Option<Call> {
        let rest = self.rest.load(Ordering::Acquire);
        let (address, from) = (self.address.load(Relaxed) as usize, self.from.load(Relaxed) as usize);
        let size = rest as u32 as usize;
        let action = match rest >> KIND_SHIFT {
            ALLOCATE => Action::Allocate {
                address,
                size,
                node: (rest >> NODE_SHIFT & 0xfff).checked_sub(1).map(|node| NodeId(node as u8)),
                zeroed: rest & ZEROED != 0,
                atomic: rest & ATOMIC != 0,
            },
            RESIZE => Action::Resize { from, to: address, size },
            FREE => Action::Free { address },
            _ => return None,
        };
        let time = Duration::from_nanos(self.nanoseconds.load(Relaxed));
        Some(Call { time, cpu: CpuId((rest >> CPU_SHIFT & 0xfff) as u16), action })
    }
}

/// Null, and what an object of no bytes has for an address, are nothing to write down.
fn is_object(object: *mut u8) -> bool {
    object.addr() > ZERO_SIZE_PTR.addr()
}

impl<M: Machine> Service<M> {
    /// Begins to write calls down, the first `calls` of them ([`MOST_CALLS`] at most), in memory taken from the page
    /// layer for good. Called once, after [`Service::start`].
    ///
    /// # Errors
    ///
    /// [`NoRoom`]; nothing is written down then.
    pub fn start_trace(&self, calls: usize) -> Result<(), NoRoom> {
        let (calls, tracer) = (calls.min(MOST_CALLS), self.tracer());
        let mut missing = calls;
        for block in tracer.blocks.iter().take(calls.div_ceil(BLOCK_PLACES)) {
            let places = missing.min(BLOCK_PLACES);
            let order = BlockOrder::for_bytes(places * size_of::<Place>()).ok_or(NoRoom)?;
            let frame = self.alloc_pages(Gfp::KERNEL | Gfp::ZERO | Gfp::NOWARN, order).ok_or(NoRoom)?;
            block.store(self.page_address(frame).cast(), Relaxed);
            missing -= places;
        }
        tracer.capacity.store(calls as u64, Relaxed);
        tracer.running.store(true, Ordering::Release);
        Ok(())
    }

    /// Ends it. Calls that other CPUs are in the middle of may still be written.
    pub fn stop_trace(&self) {
        self.tracer().running.store(false, Relaxed);
    }

    /// What was written down, in order.
    pub fn traced_calls(&self) -> impl Iterator<Item = Call> {
        let tracer = self.tracer();
        let written = tracer.calls.load(Relaxed).min(tracer.capacity.load(Relaxed));
        (0..written).filter_map(|number| tracer.place(number).read())
    }

    /// Calls there was no room for: all of them came after those that were written down.
    pub fn untraced_calls(&self) -> u64 {
        let tracer = self.tracer();
        tracer.calls.load(Relaxed).saturating_sub(tracer.capacity.load(Relaxed))
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn trace_allocation(&self, object: *mut u8, size: usize, node: Option<NodeId>, gfp: Gfp) {
        if !is_object(object) {
            return;
        }
        if let Some(place) = self.tracer().take() {
            let node = node.map_or(0, |node| u64::from(node.0) + 1);
            let mut what = u64::from(size as u32) | node << NODE_SHIFT;
            what |= if gfp.contains(Gfp::ZERO) { ZEROED } else { 0 };
            what |= if gfp.contains(Gfp::DIRECT_RECLAIM) { 0 } else { ATOMIC };
            place.write(self.machine(), ALLOCATE, object, ptr::null_mut(), what);
        }
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn trace_resize(&self, from: *mut u8, to: *mut u8, size: usize) {
        if let Some(place) = self.tracer().take() {
            place.write(self.machine(), RESIZE, to, from, u64::from(size as u32));
        }
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn trace_free(&self, object: *mut u8) {
        if !is_object(object) {
            return;
        }
        if let Some(place) = self.tracer().take() {
            place.write(self.machine(), FREE, object, ptr::null_mut(), 0);
        }
    }
}
