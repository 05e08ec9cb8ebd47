//! `contigmalloc` and `contigfree`: memory that is contiguous in physical addresses, in a range of these, aligned, and
//! crossing no boundary. For devices, mostly.
//!
//! Users: callers of the C-like [`Service::contigmalloc`], and of [`Service::contig_block`], which returns errors and
//! frees by itself. Source: FreeBSD's `contigmalloc(9)`. docs/contig.md has every call and flag, with its tests.
//!
//! # The range
//!
//! A run is whole pages, as many as `size` needs: no power of two. All of its pages lie at `low` or above and at `high` or
//! below: *`high` is inclusive*, the last byte of the last page may be at `high`. The manual's example passes `1 << 22`
//! and promises bytes 0 to 4194303; since no page ends at 4194304, that and 4194303 mean the same here, and callers who
//! pass the last byte they can reach (FreeBSD's `BUS_SPACE_MAXADDR_24BIT`) get its page, too. Alignment and boundary are
//! of the pages as well. A run lies in one zone of one node.
//!
//! # How a run is found
//!
//! Nodes and zones are tried as for any page, nearest first, and as far down to their watermarks and lowmem reserves
//! (`find`). In each the free areas are looked at, then what is deferred:
//!
//! | what is asked for       | where                                | looks                                            |
//! |-------------------------|--------------------------------------|--------------------------------------------------|
//! | less than 1023 frames   | at the first blocks of the free lists | 64 blocks a list, and their neighbours           |
//! |                         | where these do not tell, by address  | every obstacle in the range                      |
//! | 1023 frames and more    | at the map of whole pageblocks       | a word for 128 MiB, then a look at each 4 MiB of a run |
//! | less than 128 MiB       | in sections not filled yet           | fills the one or two that hold the run           |
//! | 128 MiB and more        | in sections not filled yet           | cuts the run out of them, filling nothing        |
//!
//! A run of n frames that is free is n / 1024 + 20 blocks at most, and each is a step to take it out and one to give it
//! back. The frames of a run that was cut out of sections not filled are unknown to the frame tables, but for the first,
//! which names the next such run: [`Service::virt_to_page`] goes through them. It goes back to where it came from.
//!
//! # Making room
//!
//! A request that may sleep and finds nothing has all CPUs give back what they cache, then has pages moved out of the
//! way (`room`), then has pagers write dirty pages of VM objects and asks shrinkers, harder from round to round, and moves
//! pages again. It does not queue with those who wait for pages, and sleeps for nothing but what pagers, shrinkers and
//! owners of pages sleep for. With `M_NOWAIT` it gives back what its own CPU caches, and frees clean pages of VM objects
//! until there is a run; in an interrupt handler the former alone.
//!
//! # Theory
//!
//! The first frame of a run is `Contig`: its word is the number of frames; `next` is the number of the type, whether the
//! run is of sections not filled, and how many bytes the last page has that were not asked for. All that `contigfree` is
//! told is compared with it under the zone's lock, where the frame stops being `Contig`: of two frees one is told. The
//! other frames are `Inner`, or `Absent` where not filled; none of them has a tag. So no other free takes any of it.

mod find;
mod room;

use core::fmt;
use core::mem;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering::Relaxed;

use crate::allocate::{Floor, Placement, Request};
use crate::frame::{FRAME_BYTES, FRAME_SHIFT, Frames, Kind, NIL, Order, Pfn, State, for_each_block};
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::malloc_type::MallocType;
use crate::policy::NodeMask;
use crate::run::RunDemand;
use crate::service::Service;
use crate::zone::{Zone, ZoneKind};

use find::Run;

bitflags::bitflags! {
    /// Flags of `contigmalloc`, with FreeBSD's names and values; others are ignored.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct MallocFlags: u32 {
        /// `M_NOWAIT`: what cannot be had at once is not to be had.
        const NOWAIT = 0x0001;
        /// `M_WAITOK`: the opposite, which is what happens without [`Self::NOWAIT`], too.
        const WAITOK = 0x0002;
        /// `M_ZERO`: the memory is zeroed.
        const ZERO = 0x0100;
        const _ = !0;
    }
}

/// What is asked of [`Service::contig_block`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContigRequest {
    /// Bytes; not 0.
    pub size: usize,
    /// How.
    pub flags: MallocFlags,
    /// The lowest physical address the run may have.
    pub low: u64,
    /// The highest physical address the run may have.
    pub high: u64,
    /// Its first byte's address is a multiple of this power of two.
    pub alignment: usize,
    /// No multiple of this power of two lies inside the run; 0 for no such boundary.
    pub boundary: usize,
    /// The nodes it may come from.
    pub nodes: NodeMask,
}

impl ContigRequest {
    /// Any contiguous memory of that size, in bytes.
    pub const fn new(size: usize) -> Self {
        Self {
            size,
            flags: MallocFlags::empty(),
            low: 0,
            high: u64::MAX,
            alignment: 1,
            boundary: 0,
            nodes: NodeMask::ALL,
        }
    }
}

/// Why there is no contiguous memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContigError {
    /// A size of 0.
    ZeroSize,
    /// An alignment that is not a power of two.
    Alignment(usize),
    /// A boundary that is neither a power of two nor 0.
    Boundary(usize),
    /// No address can be a run's that is in the range, aligned, and crosses no boundary.
    NoSuchPlace,
    /// The service has noted as many types as it can: [`MAX_MALLOC_TYPES`](crate::malloc_type::MAX_MALLOC_TYPES).
    TooManyTypes,
    /// No memory, or none in one piece.
    NoMemory,
}

impl ContigError {
    /// Whether it is a mistake of the caller's, on which the C-like calls panic.
    const fn is_misuse(self) -> bool {
        matches!(self, Self::ZeroSize | Self::Alignment(_) | Self::Boundary(_))
    }
}

impl fmt::Display for ContigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZeroSize => f.write_str("contigmalloc of 0 bytes: ask for at least one"),
            Self::Alignment(alignment) => {
                write!(f, "contigmalloc with an alignment of {alignment}, which is not a power of two: 1 is the least")
            }
            Self::Boundary(boundary) => {
                write!(f, "contigmalloc with a boundary of {boundary}, which is not a power of two: 0 is for none")
            }
            Self::NoSuchPlace => f.write_str(
                "contigmalloc for a place that cannot be: widen the range, or ask for less than the boundary allows",
            ),
            Self::TooManyTypes => f.write_str("contigmalloc with one malloc type too many: use one of those in use"),
            Self::NoMemory => f.write_str("contigmalloc found no free memory in one piece"),
        }
    }
}

impl core::error::Error for ContigError {}

/// Why contiguous memory could not be freed. It is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContigFreeError {
    /// No run begins there.
    NotAllocated {
        /// Where.
        address: usize,
    },
    /// It was allocated with another size.
    WrongSize {
        /// Where.
        address: usize,
        /// The size it was allocated with.
        allocated: usize,
        /// The size it was freed with.
        freed: usize,
    },
    /// It was allocated with another type.
    WrongType {
        /// Where.
        address: usize,
        /// The type it was allocated with.
        allocated: &'static str,
        /// The type it was freed with.
        freed: &'static str,
    },
}

impl fmt::Display for ContigFreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllocated { address } => {
                write!(f, "contigfree of {address:#x}, where no run begins: a double free, or not from contigmalloc")
            }
            Self::WrongSize { address, allocated, freed } => {
                write!(f, "contigfree of {address:#x} with {freed} bytes, but it was allocated with {allocated}")
            }
            Self::WrongType { address, allocated, freed } => {
                write!(f, "contigfree of {address:#x} as \"{freed}\", but it was allocated as \"{allocated}\"")
            }
        }
    }
}

impl core::error::Error for ContigFreeError {}

/// Contiguous memory, freed when dropped. Its contents are undefined unless [`MallocFlags::ZERO`] was given.
pub struct ContigBlock<'s, M: Machine> {
    service: &'s Service<M>,
    address: NonNull<u8>,
    size: usize,
    kind: &'static MallocType,
}

// SAFETY: the memory is the block's alone, and the service may be used and the memory freed by any thread.
unsafe impl<M: Machine> Send for ContigBlock<'_, M> {}

// SAFETY: a shared block gives its address alone.
unsafe impl<M: Machine> Sync for ContigBlock<'_, M> {}

impl<M: Machine> ContigBlock<'_, M> {
    /// Its first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    /// Physical address of its first byte: for a device.
    pub fn physical(&self) -> u64 {
        (self.address.addr().get() - self.service.machine().direct_map()) as u64
    }

    /// Bytes that were asked for.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Gives it up without freeing it: [`Service::contigfree`] does, with its size and type.
    pub fn into_raw(self) -> NonNull<u8> {
        let address = self.address;
        mem::forget(self);
        address
    }
}

impl<M: Machine> Drop for ContigBlock<'_, M> {
    fn drop(&mut self) {
        // SAFETY: the block owned the memory, and nobody has it any more.
        unsafe { self.service.contigfree(self.address.as_ptr(), self.size, self.kind) };
    }
}

impl<M: Machine> fmt::Debug for ContigBlock<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of {} at {:p} (physical {:#x})", self.size, self.kind, self.address, self.physical())
    }
}

impl<M: Machine> Service<M> {
    /// Allocates `size` bytes that are contiguous in physical memory, aligned to `alignment`, in which no multiple of
    /// `boundary` lies (0: any may), and whose pages all are from physical address `low` to `high`, both inclusive.
    /// Null when there are none. FreeBSD's `contigmalloc`.
    ///
    /// Sleeps unless [`MallocFlags::NOWAIT`] is given; with it, it may be called in an interrupt handler.
    ///
    /// # Panics
    ///
    /// When the size is 0, or alignment or boundary are no powers of two (a boundary of 0 is none).
    #[allow(clippy::too_many_arguments, reason = "they are the manual's")]
    pub fn contigmalloc(
        &self,
        size: usize,
        kind: &'static MallocType,
        flags: MallocFlags,
        low: u64,
        high: u64,
        alignment: usize,
        boundary: usize,
    ) -> *mut u8 {
        self.contigmalloc_domainset(size, kind, NodeMask::ALL, flags, low, high, alignment, boundary)
    }

    /// As [`Self::contigmalloc`], from one of these nodes, the nearest first. FreeBSD's `contigmalloc_domainset`.
    ///
    /// # Panics
    ///
    /// As [`Self::contigmalloc`].
    #[allow(clippy::too_many_arguments, reason = "they are the manual's")]
    pub fn contigmalloc_domainset(
        &self,
        size: usize,
        kind: &'static MallocType,
        nodes: NodeMask,
        flags: MallocFlags,
        low: u64,
        high: u64,
        alignment: usize,
        boundary: usize,
    ) -> *mut u8 {
        let request = ContigRequest { size, flags, low, high, alignment, boundary, nodes };
        match self.contig_block(kind, &request) {
            Ok(block) => block.into_raw().as_ptr(),
            Err(error) if error.is_misuse() => panic!("{error}"),
            Err(_) => ptr::null_mut(),
        }
    }

    /// Allocates contiguous memory, as [`Self::contigmalloc`] does.
    ///
    /// # Errors
    ///
    /// [`ContigError`].
    pub fn contig_block(
        &self,
        kind: &'static MallocType,
        request: &ContigRequest,
    ) -> Result<ContigBlock<'_, M>, ContigError> {
        let ContigRequest { size, low, high, alignment, boundary, .. } = *request;
        if size == 0 {
            return Err(ContigError::ZeroSize);
        }
        if !alignment.is_power_of_two() {
            return Err(ContigError::Alignment(alignment));
        }
        if boundary != 0 && !boundary.is_power_of_two() {
            return Err(ContigError::Boundary(boundary));
        }
        let demand = RunDemand::new(size, low, high, alignment, boundary).ok_or(ContigError::NoSuchPlace)?;
        let number = self.type_table().number_of(kind).ok_or(ContigError::TooManyTypes)?;
        let run = self.obtain_run(&demand, request)?;
        let memory = demand.frames as usize * FRAME_BYTES;
        self.note_run(&run, demand.frames, Record { number, unfilled: run.unfilled, tail: memory - size });
        self.type_table().note_allocated(number, size, memory as u64);
        let address = self.page_address(run.head);
        if request.flags.contains(MallocFlags::ZERO) {
            // SAFETY: the run is this caller's alone, and the direct map covers all of it.
            unsafe { address.write_bytes(0, memory) };
        }
        let address = NonNull::new(address).expect("no frame is at address 0");
        Ok(ContigBlock { service: self, address, size, kind })
    }

    fn obtain_run(&self, demand: &RunDemand, contig: &ContigRequest) -> Result<Run<'_>, ContigError> {
        let task = self.machine().task();
        let waits = !contig.flags.contains(MallocFlags::NOWAIT);
        let gfp = task.allowed(if waits { Gfp::KERNEL } else { Gfp::NOWAIT });
        let order = Order::for_bytes(contig.size).unwrap_or(Order::MAX);
        if self.page_fault_injected(gfp, order) {
            return Err(ContigError::NoMemory);
        }
        // SAFETY: `attach` returns a set as `set` does.
        let node = unsafe { &*self.attached_set() }.node;
        let highest = ZoneKind::of(Pfn(demand.end.0 - 1));
        let placement = Placement { nodes: contig.nodes, highest, ..Placement::near(node) };
        let request = Request { gfp, order, placement, cache: None };
        let floor = Floor::of(gfp, task);
        let mut found = self.find_run(demand, &request, Floor::Low);
        if found.is_none() {
            self.note_shortage(&request);
            found = self.find_run(demand, &request, floor);
        }
        if found.is_none() {
            self.drain_local();
            found = self.find_run(demand, &request, floor);
        }
        if found.is_none() && self.may_persist(gfp, task) {
            found = self.make_room_for(demand, &request, floor);
        } else if found.is_none() && self.machine().may_sleep() && !task.is_reclaiming() {
            // It may not, but it is no handler.
            found = self.free_clean_pages_for(demand, &request, floor);
        }
        if found.is_none() {
            self.note_failure(gfp);
        }
        found.ok_or(ContigError::NoMemory)
    }

    /// Frees what [`Self::contigmalloc`] gave for as many bytes and the same type. Never sleeps. FreeBSD's `contigfree`.
    ///
    /// # Safety
    ///
    /// Nobody uses the memory any more.
    ///
    /// # Panics
    ///
    /// When no run begins there, or it has another size or type: see [`Self::try_contigfree`].
    pub unsafe fn contigfree(&self, address: *mut u8, size: usize, kind: &'static MallocType) {
        // SAFETY: the caller's promise.
        if let Err(error) = unsafe { self.try_contigfree(address, size, kind) } {
            panic!("{error}");
        }
    }

    /// As [`Self::contigfree`], telling what was wrong instead of panicking.
    ///
    /// # Errors
    ///
    /// [`ContigFreeError`]; nothing was freed.
    ///
    /// # Safety
    ///
    /// As [`Self::contigfree`].
    pub unsafe fn try_contigfree(
        &self,
        address: *mut u8,
        size: usize,
        kind: &'static MallocType,
    ) -> Result<(), ContigFreeError> {
        let start = address.addr();
        let head = self.managed_frame_at(address).filter(|_| start.is_multiple_of(FRAME_BYTES));
        let head = head.ok_or(ContigFreeError::NotAllocated { address: start })?;
        let zone = self.zone_of_frame(head);
        let (length, record) = zone.locked(self.machine(), |frames, _| {
            if frames.state(head).kind() != Kind::Contig {
                return Err(ContigFreeError::NotAllocated { address: start });
            }
            let length = self.run_frames(head);
            let record = Record::of(frames, head);
            let allocated = length as usize * FRAME_BYTES - record.tail;
            let type_of_it = self.type_table().get(record.number).expect("a type stays in the table");
            if !ptr::eq(type_of_it, kind) {
                let (allocated, freed) = (type_of_it.name(), kind.name());
                return Err(ContigFreeError::WrongType { address: start, allocated, freed });
            }
            if allocated != size {
                return Err(ContigFreeError::WrongSize { address: start, allocated, freed: size });
            }
            frames.set_state(head, State::new(Kind::Inner, Order::ZERO, zone.id()));
            Ok((length, record))
        })?;
        let bytes = u64::from(length) << FRAME_SHIFT;
        self.type_table().note_freed(record.number, bytes);
        self.large_frames().fetch_sub(length.into(), Relaxed);
        if record.unfilled {
            let mut growth = self.growth().lock(self.machine());
            growth.forget_run(self.machine(), head);
            Frames::of(self.machine()).set_state(head, State::from_bits(0));
            growth.give_run(self.machine(), zone, head, length);
        } else {
            self.give_frames(zone, head, head.offset(length));
        }
        self.frames_freed();
        Ok(())
    }

    /// Gives frames that are `Inner` and this caller's back to their zone, some blocks at a time.
    fn give_frames(&self, zone: &Zone, start: Pfn, end: Pfn) {
        let mut next = start;
        while next < end {
            let stop = next.block(Order::MAX).offset(FRAMES_A_LOCK).min(end);
            zone.locked(self.machine(), |frames, areas| {
                for_each_block(next, stop, |block, order| areas.give(frames, block, order));
            });
            next = stop;
        }
    }

    /// Makes a run that was found one that is handed out.
    fn note_run(&self, run: &Run<'_>, length: u32, record: Record) {
        self.large_frames().fetch_add(length.into(), Relaxed);
        run.zone.locked(self.machine(), |frames, _| {
            let fields = frames.frame(run.head);
            fields.word.store(length, Relaxed);
            fields.next.store(record.pack(), Relaxed);
            fields.previous.store(NIL, Relaxed);
            frames.set_state(run.head, State::new(Kind::Contig, Order::ZERO, run.zone.id()));
        });
        if run.unfilled {
            self.growth().lock(self.machine()).note_run(self.machine(), run.head);
        }
    }

    /// The first frame of the run never filled that a frame is in.
    #[cold]
    pub(crate) fn unfilled_run_with(&self, frame: Pfn) -> Option<Pfn> {
        self.growth().lock(self.machine()).run_with(self.machine(), frame)
    }

    /// How many frames a run has.
    pub(crate) fn run_frames(&self, head: Pfn) -> u32 {
        Frames::of(self.machine()).frame(head).word.load(Relaxed)
    }
}

/// Frames given back in a critical section: 32 of the largest blocks.
const FRAMES_A_LOCK: u32 = 32 << Order::MAX.get();

/// What the first frame of a run says of it, beside how long it is.
#[derive(Clone, Copy)]
struct Record {
    /// Of its type.
    number: usize,
    /// Whether it was cut out of sections not filled.
    unfilled: bool,
    /// Bytes of the last page that were not asked for.
    tail: usize,
}

impl Record {
    const UNFILLED: u32 = 1 << 8;
    const TAIL_SHIFT: u32 = 9;

    fn pack(self) -> u32 {
        let unfilled = if self.unfilled { Self::UNFILLED } else { 0 };
        self.number as u32 | unfilled | (self.tail as u32) << Self::TAIL_SHIFT
    }

    fn of(frames: Frames, head: Pfn) -> Self {
        let packed = frames.frame(head).next.load(Relaxed);
        Self {
            number: (packed & 0xff) as usize,
            unfilled: packed & Self::UNFILLED != 0,
            tail: (packed >> Self::TAIL_SHIFT) as usize,
        }
    }
}

const _: () = assert!(crate::malloc_type::MAX_MALLOC_TYPES <= 256, "the number of a type has eight bits");
