//! Each CPU's GDT and TSS with its interrupt stacks, and the IDT all CPUs share.
//!
//! Used by the boot for the first CPU and by `smp` for the others. Sources: Intel SDM volume 3, chapters 3, 6 and 8.
//!
//! Interrupt stacks (IST entries): every vector switches to one, see [`traps`](super::traps). Maskable interrupts share
//! one, for handlers run with interrupts off; exceptions have another, because a handler may fault; double fault, NMI,
//! machine check and debug have their own, for they can come at any time.

use core::mem::size_of;
use core::sync::atomic::{AtomicBool, Ordering};

use x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::instructions::tables::{lgdt, lidt, load_tss};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::SegmentSelector;
use x86_64::structures::tss::TaskStateSegment;
use x86_64::{PrivilegeLevel, VirtAddr};

use super::traps;

/// The interrupt stacks of a CPU, in the order of their IST entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum InterruptStack {
    /// Maskable interrupts.
    Interrupt = 0,
    /// Exceptions that have no stack of their own.
    Exception = 1,
    /// Double fault.
    DoubleFault = 2,
    /// Non-maskable interrupt.
    NonMaskable = 3,
    /// Machine check.
    MachineCheck = 4,
    /// Debug exception.
    Debug = 5,
}

impl InterruptStack {
    /// How many there are.
    pub(crate) const COUNT: usize = 6;

    const fn of(vector: u8) -> Self {
        match vector {
            1 => Self::Debug,
            2 => Self::NonMaskable,
            8 => Self::DoubleFault,
            18 => Self::MachineCheck,
            0..32 => Self::Exception,
            _ => Self::Interrupt,
        }
    }
}

const CODE: SegmentSelector = SegmentSelector::new(1, PrivilegeLevel::Ring0);
const DATA: SegmentSelector = SegmentSelector::new(2, PrivilegeLevel::Ring0);
const TASK: SegmentSelector = SegmentSelector::new(3, PrivilegeLevel::Ring0);

/// A CPU's own descriptor tables. Must not move once loaded.
#[repr(C, align(16))]
pub(crate) struct CpuTables {
    descriptors: [u64; 5],
    task: TaskStateSegment,
}

impl CpuTables {
    pub(crate) const fn new() -> Self {
        Self { descriptors: [0; 5], task: TaskStateSegment::new() }
    }

    /// Fills the tables in and makes the calling CPU use them; `stack_ends` are the (16-byte aligned) upper ends of its
    /// interrupt stacks.
    ///
    /// # Safety
    ///
    /// The stacks are the calling CPU's alone, and mapped as long as it runs.
    pub(crate) unsafe fn install(&'static mut self, stack_ends: [u64; InterruptStack::COUNT]) {
        // A copy, for the structure is packed and its fields are not aligned.
        let mut stacks = self.task.interrupt_stack_table;
        for (entry, end) in stacks.iter_mut().zip(stack_ends) {
            *entry = VirtAddr::new_truncate(end);
        }
        self.task.interrupt_stack_table = stacks;
        let task = (&raw const self.task).addr() as u64;
        let limit = size_of::<TaskStateSegment>() as u64 - 1;
        self.descriptors = [
            0,
            // 64-bit code: present, code, long, readable, accessed.
            0x00af_9b00_0000_ffff,
            // Data: present, writable, accessed.
            0x00cf_9300_0000_ffff,
            // Available 64-bit TSS, low half: limit, base in three pieces.
            limit | (task & 0xff_ffff) << 16 | 0x89 << 40 | (task >> 24 & 0xff) << 56,
            task >> 32,
        ];
        let pointer = DescriptorTablePointer {
            limit: (size_of::<[u64; 5]>() - 1) as u16,
            base: VirtAddr::new_truncate(self.descriptors.as_ptr().addr() as u64),
        };
        // SAFETY: the descriptors are flat ring-0 segments and a TSS that lives for ever; the selectors name them. GS's
        // base is set by whoever sets up the CPU-local area, after this.
        unsafe {
            lgdt(&pointer);
            CS::set_reg(CODE);
            SS::set_reg(DATA);
            DS::set_reg(DATA);
            ES::set_reg(DATA);
            FS::set_reg(DATA);
            GS::set_reg(DATA);
            load_tss(TASK);
        }
        load_interrupt_table();
    }
}

/// An IDT entry: an interrupt gate (Intel SDM volume 3, figure 6-8).
#[repr(C)]
#[derive(Clone, Copy)]
struct Gate {
    low: u64,
    high: u64,
}

impl Gate {
    fn new(vector: u8) -> Self {
        let handler = traps::stub(vector);
        let stack = InterruptStack::of(vector) as u64 + 1;
        // Present, interrupt gate: handlers start with interrupts off.
        let low =
            handler & 0xffff | u64::from(CODE.0) << 16 | stack << 32 | 0x8e << 40 | (handler >> 16 & 0xffff) << 48;
        Self { low, high: handler >> 32 }
    }
}

static mut INTERRUPT_TABLE: [Gate; 256] = [Gate { low: 0, high: 0 }; 256];

/// Whether the table has been filled in: by the first CPU, before any other runs.
static FILLED: AtomicBool = AtomicBool::new(false);

fn load_interrupt_table() {
    let table = &raw mut INTERRUPT_TABLE;
    if !FILLED.swap(true, Ordering::Relaxed) {
        for vector in 0..=255 {
            // SAFETY: only the first CPU comes here, before any other runs and before the table is in use.
            unsafe { (*table)[usize::from(vector)] = Gate::new(vector) };
        }
    }
    let pointer = DescriptorTablePointer {
        limit: (size_of::<[Gate; 256]>() - 1) as u16,
        base: VirtAddr::new_truncate(table.addr() as u64),
    };
    // SAFETY: the table is filled in, lives for ever, and every gate leads to a stub on an interrupt stack.
    unsafe { lidt(&pointer) };
}
