//! The CPUs that run: their areas, and who they are.
//!
//! Users: the boot and `smp`, which prepare and add them; everybody who asks which CPUs there are. A CPU is prepared by
//! the first one, in memory of its own node: area, descriptor tables, stacks, the threads' set of the memory service. It
//! then puts them into force itself.

use core::fmt;
use core::sync::atomic::{AtomicPtr, Ordering};
use core::{mem, ptr};

use quarry_memory::{Gfp, Set};
use quarry_topology::{Cpu, CpuId, MAX_CPUS, NodeId};

use crate::arch::tables::{CpuTables, InterruptStack};
use crate::cpu_local::{self, CpuLocal};
use crate::memory::service;
use crate::stack::Stack;

/// Bytes of each interrupt stack. A panic report is written on one.
const INTERRUPT_STACK_BYTES: u64 = 32 << 10;

/// The areas of the CPUs that run, by id; null for the others. Release stores by each CPU as it comes up pair with
/// Acquire loads.
static ONLINE: [AtomicPtr<CpuLocal>; MAX_CPUS] = [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS];

/// The CPUs that run, in the order of their ids.
pub fn online() -> impl Iterator<Item = CpuId> {
    areas().map(|area| area.id)
}

/// The calling CPU.
pub fn current() -> CpuId {
    cpu_local::current().id
}

/// The node of the calling CPU.
pub fn current_node() -> NodeId {
    cpu_local::current().node
}

/// The areas of all CPUs that run.
pub(crate) fn areas() -> impl Iterator<Item = &'static CpuLocal> {
    (0..MAX_CPUS).filter_map(|id| area(CpuId(id as u16)))
}

/// The area of a CPU that runs.
pub(crate) fn area(id: CpuId) -> Option<&'static CpuLocal> {
    // Acquire: pairs with the Release in `Prepared::install`.
    let area = ONLINE.get(id.index())?.load(Ordering::Acquire);
    // SAFETY: areas live for ever, and `CpuLocal` says what others may do with one.
    unsafe { area.as_ref() }
}

/// Memory ran out while a CPU was prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoMemory;

impl fmt::Display for NoMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no memory for its stacks and its area")
    }
}

/// All a CPU needs to run, made but not in force.
pub(crate) struct Prepared {
    tables: &'static mut CpuTables,
    local: &'static mut CpuLocal,
    interrupt_stack_ends: [u64; InterruptStack::COUNT],
    thread_set: *mut Set,
}

impl Prepared {
    /// Prepares a CPU. What was taken before memory ran out stays with it: it will not be asked for again.
    pub(crate) fn new(id: CpuId, cpu: Cpu) -> Result<Self, NoMemory> {
        let node = cpu.node;
        let mut interrupt_stack_ends = [0; InterruptStack::COUNT];
        for end in &mut interrupt_stack_ends {
            *end = Stack::new(INTERRUPT_STACK_BYTES, id, node).ok_or(NoMemory)?.leak();
        }
        Ok(Self {
            tables: place(node, CpuTables::new())?,
            local: place(node, CpuLocal::new(id, node, cpu.apic_id))?,
            interrupt_stack_ends,
            thread_set: service().new_set(id, node, false).ok_or(NoMemory)?,
        })
    }

    /// Puts it into force on the calling CPU, which counts as running from here on.
    ///
    /// # Safety
    ///
    /// The calling CPU is the one it was made for, with interrupts off, and runs on a stack that stays its own.
    pub(crate) unsafe fn install(self) {
        // SAFETY: the stacks were made for this CPU alone and are never unmapped.
        unsafe { self.tables.install(self.interrupt_stack_ends) };
        let id = self.local.id;
        let area = ptr::from_mut(self.local);
        // SAFETY: the area was made for this CPU, whose tables were loaded above.
        unsafe { (*area).install() };
        let local = cpu_local::current();
        local.use_thread_set(self.thread_set);
        local.scheduler.start_idle_thread(id);
        // Release: pairs with the Acquire in `area`.
        ONLINE[id.index()].store(area, Ordering::Release);
    }
}

/// Moves a value into memory of a node, for ever.
fn place<T>(node: NodeId, value: T) -> Result<&'static mut T, NoMemory> {
    let size = mem::size_of::<T>().next_power_of_two();
    let place = service().kmalloc_node(size, Gfp::KERNEL, node).cast::<T>();
    if place.is_null() {
        return Err(NoMemory);
    }
    // SAFETY: the memory is this function's alone, large enough, and aligned to its size, a power of two no smaller
    // than the type's alignment. It is never freed.
    unsafe {
        place.write(value);
        Ok(&mut *place)
    }
}
