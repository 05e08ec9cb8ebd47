//! The memory service in the guest: [`service`], and [`Guest`], which is the machine it runs on.
//!
//! Users: everybody who allocates. The service is one static; all Rust collections use it too, through the global
//! allocator. What it asks of the machine comes down to a few instructions here: the active set is a word of the
//! CPU-local area, and the tag of any address is one load from a table that has an address for every pointer
//! ([`layout`]).

use core::alloc::{GlobalAlloc, Layout};
use core::arch::asm;
use core::fmt;
use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use core::time::Duration;

use quarry_memory::fault::FaultAttributes;
use quarry_memory::frame::Frame;
use quarry_memory::machine::{FrameTables, OutOfFrames};
use quarry_memory::{CpuId, Gfp, MAX_SIZE, Machine, Pfn, Service, Set, StartError, Task};
use quarry_topology::Topology;

use crate::boot_memory::BootMemory;
use crate::command_line::option;
use crate::layout::{self, DIRECT_MAP_BASE, FRAMES_LIMIT, PAGE_BYTES, direct};
use crate::paging::{self, Access};
use crate::{arch, cpu_local, smp, thread, time};

pub use quarry_memory::{Order, PerCpu, ZERO_SIZE_PTR};

/// The machine under Quarry as the memory service sees it.
pub struct Guest {
    frame_limit: AtomicU32,
}

static SERVICE: Service<Guest> = Service::new(Guest { frame_limit: AtomicU32::new(0) });

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// The memory service: `kmalloc` and its family, pages, per-CPU memory, statistics.
#[inline(always)]
pub fn service() -> &'static Service<Guest> {
    &SERVICE
}

/// Gives all free memory to the service.
///
/// # Safety
///
/// As [`Service::start`]; the direct map ends at `direct_map_end`.
pub(crate) unsafe fn start(
    topology: &Topology,
    memory: &mut BootMemory,
    direct_map_end: u64,
) -> Result<(), StartError> {
    let node = topology.cpus().first().map_or(quarry_topology::NodeId(0), |cpu| cpu.node);
    let mut frames = || memory.take_frame(node);
    let windows = [layout::TAG_WINDOW, layout::STATE_WINDOW];
    let made = windows.into_iter().try_for_each(|window| paging::make_zero_window(window, &mut frames));
    made.map_err(|paging::OutOfFrames| StartError::NoMemory)?;
    SERVICE.machine().frame_limit.store((direct_map_end / PAGE_BYTES).min(FRAMES_LIMIT) as u32, Relaxed);
    // SAFETY: the caller's promise.
    unsafe { SERVICE.start(topology, memory.ranges().iter().copied()) }?;
    #[cfg(feature = "trace")]
    begin_trace();
    Ok(())
}

/// Writes the first calls down, as many as the command line's `trace=` says. Before this nobody could call.
#[cfg(feature = "trace")]
fn begin_trace() {
    let Some(text) = option("trace") else { return };
    match text.parse().map(|calls| SERVICE.start_trace(calls)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::warn!("trace={text} is ignored: {error}"),
        Err(_) => log::warn!("trace={text} is ignored: it is no whole number of calls to keep"),
    }
}

/// Makes allocations fail as the command line's `failslab=` and `fail_page_alloc=` say. Called when the boot, which
/// could not go on without memory, is done.
pub(crate) fn inject_faults() {
    if let Some(text) = option("failslab") {
        match FaultAttributes::parse_failslab(text) {
            Ok(attributes) => SERVICE.failslab(Some(attributes)),
            Err(error) => log::warn!("failslab={text} is ignored: {error}"),
        }
    }
    if let Some(text) = option("fail_page_alloc") {
        match FaultAttributes::parse_fail_page_alloc(text) {
            Ok(attributes) => SERVICE.fail_page_alloc(Some(attributes)),
            Err(error) => log::warn!("fail_page_alloc={text} is ignored: {error}"),
        }
    }
}

/// Writes the state of the service for a panic report: no locks, no allocation.
pub(crate) fn report_for_panic(out: &mut dyn fmt::Write) -> fmt::Result {
    if SERVICE.cpu_count() == 0 {
        return writeln!(out, "memory: the service has not started");
    }
    writeln!(out, "memory")?;
    SERVICE.available().try_for_each(|(node, kind, available, present)| {
        writeln!(out, "  {node}, zone {kind}: {} of {} KiB to be had", available / 1024, present / 1024)
    })
}

/// Physical address of a frame.
pub(crate) fn physical(frame: Pfn) -> u64 {
    u64::from(frame.0) * PAGE_BYTES
}

/// Zeroed frames of the service, for page tables outside its own windows.
pub(crate) fn page_table_frames() -> impl FnMut() -> Option<u64> {
    || SERVICE.alloc_pages(Gfp::KERNEL | Gfp::ZERO, Order::ZERO).map(physical)
}

/// Frames of the service as zeroed frames for page tables.
fn zeroed(frames: &mut dyn FnMut() -> Option<Pfn>) -> impl FnMut() -> Option<u64> {
    move || {
        let frame = physical(frames()?);
        let address = ptr::with_exposed_provenance_mut::<u8>(direct(frame) as usize);
        // SAFETY: the service gave the frame up to whoever called; it is RAM in the direct map.
        unsafe { address.write_bytes(0, PAGE_BYTES as usize) };
        Some(frame)
    }
}

// SAFETY: the active set is the calling CPU's: threads are cooperative and never move, and interrupt entry switches to
// another set, or to the one of CPUs that have none. The direct map never changes, the tables' windows are mapped before `Service::start`, and
// `paging::back` gives them writable memory.
unsafe impl Machine for Guest {
    type InterruptState = arch::InterruptState;

    #[inline(always)]
    fn set(&self) -> *mut Set {
        cpu_local::active_set()
    }

    /// Handlers get a set when one of them first needs it: those of most CPUs never allocate, and a set is 40 KiB.
    #[cold]
    fn attach(service: &Service<Self>) -> *mut Set {
        let cpu = cpu_local::current();
        if cpu.should_make_interrupt_set()
            && let Some(set) = service.new_set(cpu.id, cpu.node, true)
        {
            cpu.use_interrupt_set(set);
        }
        cpu_local::active_set()
    }

    #[inline(always)]
    fn tag(&self, address: usize) -> u32 {
        let tag: u32;
        // SAFETY: every canonical address has an entry in the window, which is readable everywhere. Another has none:
        // the load faults, which ends the run at the call that got the bad pointer. An aligned load of two bytes is
        // atomic. It is written out because the compiler widens a 16-bit atomic load in a second step.
        unsafe {
            asm!(
                "movzx {tag:e}, word ptr [{tags} + 2 * {page}]",
                tag = lateout(reg) tag,
                tags = in(reg) layout::TAGS,
                page = in(reg) address.cast_signed() >> 12,
                options(readonly, nostack, preserves_flags),
            );
        }
        tag
    }

    #[inline(always)]
    fn tables(&self) -> FrameTables {
        const FIRST_TAG: u64 = layout::TAGS.wrapping_add_signed(2 * (DIRECT_MAP_BASE.cast_signed() >> 12));
        FrameTables {
            tags: ptr::with_exposed_provenance(FIRST_TAG as usize),
            states: ptr::with_exposed_provenance(layout::STATE_WINDOW.start as usize),
            frames: ptr::with_exposed_provenance::<Frame>(layout::FRAME_WINDOW.start as usize),
        }
    }

    #[inline(always)]
    fn frame_limit(&self) -> u32 {
        self.frame_limit.load(Relaxed)
    }

    fn refresh(&self, entry: usize) {
        arch::flush_page(entry as u64);
    }

    fn back(&self, page: usize, frames: &mut dyn FnMut() -> Option<Pfn>) -> Result<(), OutOfFrames> {
        paging::back(page as u64, &mut zeroed(frames)).map_err(|paging::OutOfFrames| OutOfFrames)
    }

    fn mapping_window(&self) -> Range<usize> {
        layout::MAPPING_WINDOW.start as usize..layout::MAPPING_WINDOW.end as usize
    }

    fn map(&self, page: usize, frame: Pfn, frames: &mut dyn FnMut() -> Option<Pfn>) -> Result<(), OutOfFrames> {
        paging::map(page as u64, physical(frame), Access::ReadWrite, &mut zeroed(frames))
            .map_err(|paging::OutOfFrames| OutOfFrames)
    }

    fn translate(&self, page: usize) -> Option<Pfn> {
        paging::translate(page as u64).map(Pfn::containing)
    }

    fn unmap(&self, page: usize) -> Option<Pfn> {
        paging::unmap(page as u64).map(Pfn::containing)
    }

    fn forget(&self, _pages: Range<usize>) {
        smp::flush_everywhere();
    }

    #[inline(always)]
    fn direct_map(&self) -> usize {
        DIRECT_MAP_BASE as usize
    }

    #[inline(always)]
    fn disable_interrupts(&self) -> arch::InterruptState {
        arch::save_and_disable_interrupts()
    }

    #[inline(always)]
    fn restore_interrupts(&self, state: arch::InterruptState) {
        arch::restore_interrupts(state);
    }

    fn cpu(&self) -> CpuId {
        cpu_local::current().id
    }

    fn random(&self) -> u64 {
        arch::random()
    }

    fn task(&self) -> &Task {
        thread::current_task()
    }

    fn may_sleep(&self) -> bool {
        thread::may_park()
    }

    fn sleep(&self, ready: &mut dyn FnMut() -> bool, limit: Option<Duration>) {
        thread::park(ready, limit);
    }

    fn wake(&self, task: &Task) {
        thread::wake_task(task);
    }

    fn drain_others(_service: &Service<Self>) {
        smp::drain_everywhere();
    }

    fn runnable_threads(&self) -> Option<usize> {
        thread::runnable()
    }

    fn describe_task(&self, task: &Task, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        thread::describe_task(task, f)
    }

    fn now(&self) -> Duration {
        time::uptime()
    }

    fn warn(&self, message: fmt::Arguments<'_>) {
        log::warn!("{message}");
    }
}

/// The service as Rust's global allocator: what `Box` and `Vec` are made of.
///
/// What is larger than kmalloc can give comes from `vmalloc`, and the layout says which it was. So such a block can be
/// aligned to a page at most, and can neither be made nor freed in an interrupt handler.
struct Allocator;

const HEAP: Gfp = Gfp::KERNEL.union(Gfp::NOWARN);

// SAFETY: blocks come from the service's kmalloc and vmalloc, which hand out memory nobody else has, of at least the
// size asked for, aligned as `kmalloc_aligned` promises or to a page; nothing unwinds.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_huge(layout) {
            allocate_huge(layout, HEAP)
        } else {
            SERVICE.kmalloc_aligned(layout.size(), layout.align(), HEAP)
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_huge(layout) {
            // SAFETY: the caller gives the block up; its layout says that it came from vmalloc.
            unsafe { SERVICE.vfree(block) };
        } else {
            // SAFETY: the caller gives the block up.
            unsafe { SERVICE.kfree(block) };
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let flags = HEAP | Gfp::ZERO;
        if is_huge(layout) {
            allocate_huge(layout, flags)
        } else {
            SERVICE.kmalloc_aligned(layout.size(), layout.align(), flags)
        }
    }
}

#[inline]
fn is_huge(layout: Layout) -> bool {
    layout.size().max(layout.align()) > MAX_SIZE
}

#[cold]
fn allocate_huge(layout: Layout, flags: Gfp) -> *mut u8 {
    if layout.align() > PAGE_BYTES as usize { ptr::null_mut() } else { SERVICE.vmalloc(layout.size(), flags) }
}
