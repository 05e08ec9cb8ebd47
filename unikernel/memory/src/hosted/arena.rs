//! Simulated RAM and its frame tables: address space reserved from the kernel; and what else the host asks of the
//! process.
//!
//! The tables lie in front of the simulated RAM, and have entries for as much of it as there can be at most, most of which
//! nobody ever touches: so whoever knows one address, the base, knows all.

use core::fmt;
use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicU16, Ordering::Relaxed};

use quarry_topology::Topology;

use super::mapping::Mapping;
use super::{HostedMachine, threads};
use crate::frame::{FRAME_BYTES, FRAME_SHIFT, Frame, Order};
use crate::growth::SECTION_FRAMES;
use crate::machine::FrameTables;
use crate::service::Service;
use crate::set::Set;
use crate::zone::ZoneKind;

/// No simulated RAM spans more than two to the power of this many bytes: 4 TiB.
pub(super) const SPAN_SHIFT: u32 = 42;

/// The base of no arena: no address of a process, all of which are below it, is less than 4 TiB above it.
pub(super) const NOWHERE: usize = 1 << 63;

/// How far in front of the base the tables begin.
const TAGS: usize = size_of::<AtomicU16>() << (SPAN_SHIFT - FRAME_SHIFT);
const STATES: usize = TAGS + (size_of::<AtomicU16>() << (SPAN_SHIFT - FRAME_SHIFT));
const FRAMES: usize = STATES + (size_of::<Frame>() << (SPAN_SHIFT - FRAME_SHIFT));

/// The tables of the arena with that base.
#[inline(always)]
pub(super) fn tables(base: usize) -> FrameTables {
    FrameTables {
        tags: ptr::with_exposed_provenance(base - TAGS),
        states: ptr::with_exposed_provenance(base - STATES),
        frames: ptr::with_exposed_provenance(base - FRAMES),
    }
}

/// Address space of one instance. The sets in it are never unmapped: a thread may hold a pointer to one.
pub(super) struct Arena {
    pub(super) base: usize,
    pub(super) bytes: usize,
}

impl Arena {
    pub(super) fn reserve(topology: &Topology) -> Option<Self> {
        let end = topology.memory().iter().map(|memory| memory.range.end).max()?;
        // Whole largest blocks, so that a buddy of any frame has table entries.
        let bytes = usize::try_from(end).ok()?.next_multiple_of(Order::MAX.bytes());
        if bytes > 1 << SPAN_SHIFT {
            return None;
        }
        // Natural alignment of blocks is by simulated physical address: the base must not spoil it.
        let base = reserve_aligned(FRAMES + bytes, Order::MAX.bytes(), FRAMES)? + FRAMES;
        Some(Self { base, bytes })
    }

    /// Asks the kernel for huge pages behind zone NORMAL, which memory comes from as long as there is any in it. But not
    /// for its first section, nor for its last, where the service's own tables are: a program that needs no more than
    /// these would hold 4 MiB more.
    pub(super) fn prefer_huge_pages(&self) {
        let section = SECTION_FRAMES as usize * FRAME_BYTES;
        let start = ZoneKind::Dma32.end().0 as usize * FRAME_BYTES + section;
        let rest = ptr::with_exposed_provenance_mut(self.base + start);
        // SAFETY: advice about a mapping of this arena's. A kernel without huge pages refuses it, and nothing is lost.
        unsafe { libc::madvise(rest, self.bytes.saturating_sub(start + section), libc::MADV_HUGEPAGE) };
    }
}

/// Rights of memory that may be used.
const USABLE: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;

/// Reserves address space; memory comes when it is touched.
pub(super) fn reserve(bytes: usize, rights: libc::c_int) -> Option<usize> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of anyone.
    let address = unsafe { libc::mmap(ptr::null_mut(), bytes, rights, flags, -1, 0) };
    (address != libc::MAP_FAILED).then(|| address.expose_provenance())
}

/// As [`reserve`], such that the address `lead` bytes into it is a multiple of `align`. All three are whole pages.
pub(super) fn reserve_aligned(bytes: usize, align: usize, lead: usize) -> Option<usize> {
    let spare = align.saturating_sub(FRAME_BYTES);
    let reserved = reserve(bytes.checked_add(spare)?, USABLE)?;
    let start = (reserved + lead).next_multiple_of(align) - lead;
    unreserve(reserved..start);
    unreserve(start + bytes..reserved + bytes + spare);
    Some(start)
}

/// Gives address space of [`reserve`] back; nothing happens for an empty range.
pub(super) fn unreserve(range: Range<usize>) {
    if !range.is_empty() {
        // SAFETY: the range is of a mapping that its one user gives up.
        unsafe { libc::munmap(ptr::with_exposed_provenance_mut(range.start), range.len()) };
    }
}

/// Gives the memory behind whole pages back to the kernel; they then read as zeroes.
pub(super) fn discard_pages(address: usize, bytes: usize) {
    // SAFETY: the range was mapped by `reserve` and holds nothing anyone uses.
    unsafe { libc::madvise(ptr::with_exposed_provenance_mut(address), bytes, libc::MADV_DONTNEED) };
}

/// Whether anything is mapped at the page.
pub(super) fn is_mapped(page: usize) -> bool {
    let mut residency = 0u8;
    // SAFETY: the call fails where nothing is mapped, and else writes one byte for the one page.
    unsafe { libc::mincore(ptr::with_exposed_provenance_mut(page), FRAME_BYTES, &raw mut residency) == 0 }
}

/// Gives an instance's address space back, if it has any, all but its sets: threads that outlive it still have pointers
/// to theirs, and find detached ones.
pub(super) fn discard<const PROCESS: bool>(service: &Service<HostedMachine<PROCESS>>) {
    let machine = service.machine();
    let sets = || service.sets().map(|set| ptr::from_ref(set).addr());
    service.sets().for_each(threads::detach);
    let base = machine.base.load(Relaxed);
    if base == NOWHERE {
        return;
    }
    let (mut next, end) = (base - FRAMES, base + machine.bytes.load(Relaxed));
    while let Some(set) = sets().filter(|&set| set >= next).min() {
        unreserve(next..set);
        next = set + size_of::<Set>().next_multiple_of(FRAME_BYTES);
    }
    unreserve(next..end);
    machine.mapping().into_iter().for_each(Mapping::discard);
}

pub(super) fn random() -> u64 {
    let mut word = 0u64;
    // SAFETY: eight bytes are asked for and `word` has eight.
    let got = unsafe { libc::getrandom((&raw mut word).cast(), size_of::<u64>(), 0) };
    if got == size_of::<u64>() as isize {
        word
    } else {
        // No entropy, as in a very small container: an address is random too where the kernel randomises them.
        (&raw const word).addr() as u64 * 0x9e37_79b9_7f4a_7c15
    }
}

/// Writes a line to standard error without allocating.
pub(super) fn write_error_line(message: fmt::Arguments<'_>) {
    struct StandardError;
    impl fmt::Write for StandardError {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            // SAFETY: the bytes are those of `text`. A short write loses the rest of a diagnostic, no more.
            unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
            Ok(())
        }
    }
    let written = fmt::Write::write_fmt(&mut StandardError, format_args!("quarry-memory: {message}\n"));
    debug_assert!(written.is_ok(), "StandardError never fails");
}
