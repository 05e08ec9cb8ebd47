//! [`CpuLocal`]: what belongs to one CPU, reached through the base of GS.
//!
//! Users: everything in the unikernel that asks "which CPU am I". A CPU's area is written by that CPU alone; others may
//! read the fields that never change after its start. All mutable fields are cells, for a handler may interrupt any
//! access; none is used by both without saying so.

use core::arch::asm;
use core::cell::{Cell, UnsafeCell};
use core::mem::{MaybeUninit, offset_of};
use core::ptr;

use core::sync::atomic::AtomicU64;

use quarry_memory::Set;
use quarry_topology::{CpuId, NodeId};

use crate::arch;
use crate::thread::Scheduler;

/// The base of GS (Intel SDM volume 4).
const IA32_GS_BASE: u32 = 0xc000_0101;

/// Calls of handlers without a set, after one could not be made, until it is tried again.
const INTERRUPT_SET_PATIENCE: u32 = 256;

/// What belongs to one CPU.
#[repr(C, align(64))]
pub(crate) struct CpuLocal {
    /// Its own address, so that one load gives a pointer.
    this: *const CpuLocal,
    /// The memory service's active set: the thread set, or inside a maskable interrupt's handler the interrupt set.
    active_set: Cell<*mut Set>,
    thread_set: Cell<*mut Set>,
    interrupt_set: Cell<*mut Set>,
    /// How many more handlers do without a set before one is made; see [`CpuLocal::should_make_interrupt_set`].
    interrupt_set_patience: Cell<u32>,
    /// Whether a maskable interrupt is being handled.
    pub(crate) in_interrupt: Cell<bool>,
    pub(crate) id: CpuId,
    pub(crate) node: NodeId,
    pub(crate) apic_id: u32,
    /// Who runs here, and who waits to.
    pub(crate) scheduler: Scheduler,
    /// The last request to forget all translations that this CPU has served; see `smp`.
    pub(crate) flushed: AtomicU64,
    /// The last request to drain its sets that this CPU has served; see `smp`.
    pub(crate) drained: AtomicU64,
}

// SAFETY: the cells are used by the CPU the area belongs to alone; other CPUs only use `id`, `node`, `apic_id`, which
// do not change, and the locks and atomics in `scheduler`, `flushed` and `drained`.
unsafe impl Sync for CpuLocal {}

/// The set of CPUs that have none yet; see `quarry_memory::Set::detached`. Made by the boot, for a file need not carry
/// 39 KiB of it; its fields are never written after that.
struct Detached(UnsafeCell<MaybeUninit<Set>>);

// SAFETY: written by the first CPU while no other runs and nothing allocates; only read afterwards.
unsafe impl Sync for Detached {}

static DETACHED: Detached = Detached(UnsafeCell::new(MaybeUninit::zeroed()));

const NO_SET: *mut Set = DETACHED.0.get().cast();

/// Makes the set of CPUs that have none. Until then no area may be in force: it would lead to zeroes.
///
/// # Safety
///
/// Called once, on the first CPU, before it has an area.
pub(crate) unsafe fn make_detached_set() {
    // SAFETY: the caller's promise: nobody else uses the set.
    Set::make_detached(unsafe { &mut *DETACHED.0.get() });
}

impl CpuLocal {
    pub(crate) const fn new(id: CpuId, node: NodeId, apic_id: u32) -> Self {
        Self {
            this: ptr::null(),
            active_set: Cell::new(NO_SET),
            thread_set: Cell::new(NO_SET),
            interrupt_set: Cell::new(NO_SET),
            interrupt_set_patience: Cell::new(0),
            in_interrupt: Cell::new(false),
            id,
            node,
            apic_id,
            scheduler: Scheduler::new(),
            flushed: AtomicU64::new(0),
            drained: AtomicU64::new(0),
        }
    }

    /// Makes this the calling CPU's area.
    ///
    /// # Safety
    ///
    /// No other CPU uses it, and its descriptor tables are loaded (that resets GS).
    pub(crate) unsafe fn install(&'static mut self) {
        self.this = self;
        // SAFETY: every x86_64 CPU has the register, and the area lives for ever.
        unsafe { arch::write_msr(IA32_GS_BASE, self.this.addr() as u64) };
    }

    /// Gives the CPU its threads' set of the memory service. Called on it, outside interrupts.
    pub(crate) fn use_thread_set(&self, set: *mut Set) {
        self.thread_set.set(set);
        self.active_set.set(set);
    }

    /// Whether to make the handlers' set now: a handler needs one and has none. Says so once, and again only after many
    /// more calls: what asks is the making itself too, and where there was no memory, there is none at the next call.
    pub(crate) fn should_make_interrupt_set(&self) -> bool {
        let needed = self.in_interrupt.get() && self.thread_set.get() != NO_SET && self.interrupt_set.get() == NO_SET;
        let patience = self.interrupt_set_patience.get();
        if needed {
            self.interrupt_set_patience.set(patience.checked_sub(1).unwrap_or(INTERRUPT_SET_PATIENCE));
        }
        needed && patience == 0
    }

    /// Runs a handler's work that gives memory back and takes none, for which no set is made.
    pub(crate) fn without_new_set<R>(&self, work: impl FnOnce() -> R) -> R {
        let patience = self.interrupt_set_patience.replace(u32::MAX);
        let result = work();
        self.interrupt_set_patience.set(patience);
        result
    }

    /// Gives the CPU its handlers' set. Called in a handler of its.
    pub(crate) fn use_interrupt_set(&self, set: *mut Set) {
        self.interrupt_set.set(set);
        self.active_set.set(set);
    }

    /// The threads' set of the memory service.
    pub(crate) fn thread_set(&self) -> *mut Set {
        self.thread_set.get()
    }

    /// The handlers' set of the memory service; that of CPUs that have none until a handler needed one.
    pub(crate) fn interrupt_set(&self) -> *mut Set {
        self.interrupt_set.get()
    }

    /// Notes that a maskable interrupt's handler begins: its allocations use the set for handlers.
    pub(crate) fn enter_interrupt(&self) {
        self.in_interrupt.set(true);
        self.active_set.set(self.interrupt_set.get());
    }

    /// Notes that the handler is done.
    pub(crate) fn leave_interrupt(&self) {
        self.active_set.set(self.thread_set.get());
        self.in_interrupt.set(false);
    }
}

/// The calling CPU's area, or `None` before it has one: a CPU that was just started, or the first very early.
pub(crate) fn try_current() -> Option<&'static CpuLocal> {
    // SAFETY: every x86_64 CPU has the register.
    let base = unsafe { arch::read_msr(IA32_GS_BASE) };
    (base != 0).then(current)
}

/// The calling CPU's area.
#[inline(always)]
pub(crate) fn current() -> &'static CpuLocal {
    let this: *const CpuLocal;
    // SAFETY: `install` ran before anything asks; the area lives for ever. The address of the area of the CPU a thread
    // runs on does not change, for threads never move.
    unsafe {
        asm!("mov {}, gs:[{offset}]", out(reg) this, offset = const offset_of!(CpuLocal, this), options(nostack, preserves_flags, readonly));
        &*this
    }
}

/// The calling CPU's active set of the memory service: one instruction.
#[inline(always)]
pub(crate) fn active_set() -> *mut Set {
    let set;
    // SAFETY: as in `current`. The field is a plain word of the calling CPU's own.
    unsafe {
        asm!("mov {}, gs:[{offset}]", out(reg) set, offset = const offset_of!(CpuLocal, active_set), options(nostack, preserves_flags, readonly));
    }
    set
}
