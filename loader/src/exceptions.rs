//! Exceptions end in a line that says where, and never in silence.
//!
//! Every vector the CPU itself raises leads to a stack of its own (IST 1), so that a bad stack pointer is reported like
//! any other fault. The tables stay in force in the image until it loads its own: until then the loader reports for it.
//!
//! Source: Intel SDM volume 3, sections 6.14 (64-bit interrupts) and 8.7 (task state segment).

use core::arch::{asm, global_asm};
use core::ptr::{addr_of, addr_of_mut};

use crate::{entry, exit};

const VECTORS: usize = 32;
/// Bytes between two stubs.
const STUB_SIZE: u64 = 16;
const STACK_SIZE: usize = 16 << 10;

#[repr(C, align(16))]
struct Stack([u8; STACK_SIZE]);

/// The hardware's task state segment; only the interrupt stacks matter.
#[repr(C, packed(4))]
struct TaskState {
    reserved: u32,
    privilege_stacks: [u64; 3],
    reserved_2: u64,
    interrupt_stacks: [u64; 7],
    reserved_3: [u16; 5],
    port_map_base: u16,
}

#[repr(C, packed(2))]
struct TableRegister {
    limit: u16,
    base: u64,
}

/// What the CPU and the stubs leave on the stack.
#[repr(C)]
struct Frame {
    vector: u64,
    error_code: u64,
    instruction: u64,
    code_selector: u64,
    flags: u64,
    stack_pointer: u64,
}

static mut STACK: Stack = Stack([0; STACK_SIZE]);
static mut GATES: [[u64; 2]; VECTORS] = [[0; 2]; VECTORS];
static mut TASK_STATE: TaskState = TaskState {
    reserved: 0,
    privilege_stacks: [0; 3],
    reserved_2: 0,
    interrupt_stacks: [0; 7],
    reserved_3: [0; 5],
    port_map_base: size_of::<TaskState>() as u16,
};

unsafe extern "C" {
    static exception_stubs: u8;
}

global_asm!(
    ".section .text.exceptions, \"ax\", @progbits",
    ".balign 16",
    ".global exception_stubs",
    "exception_stubs:",
    ".set vector, 0",
    ".rept {vectors}",
    ".balign {stub_size}",
    // Vectors for which the CPU pushes no error code get a zero in its place.
    ".if ((0x60227d00 >> vector) & 1) == 0",
    "push 0",
    ".endif",
    "push vector",
    "jmp 2f",
    ".set vector, vector + 1",
    ".endr",
    "2: mov rdi, rsp",
    "mov rsi, cr2",
    "and rsp, -16",
    "cld",
    "call {report}",
    "ud2",
    vectors = const VECTORS,
    stub_size = const STUB_SIZE,
    report = sym report,
);

/// Installs the tables. To be called once, first of all.
pub(crate) fn install() {
    let stubs = addr_of!(exception_stubs) as u64;
    // SAFETY: the loader runs on one CPU with interrupts off and calls this once, before anything can refer to these
    // statics; they are where hardware will look for them, for they are identity-mapped and never move.
    unsafe {
        let stack_top = addr_of!(STACK) as u64 + STACK_SIZE as u64;
        (&raw mut TASK_STATE.interrupt_stacks).cast::<u64>().write_unaligned(stack_top);
        let task_state = descriptor(addr_of!(TASK_STATE) as u64);
        let gdt = addr_of_mut!(entry::loader_gdt).cast::<u64>();
        gdt.add(3).write(task_state[0]);
        gdt.add(4).write(task_state[1]);
        for vector in 0..VECTORS {
            let gate = addr_of_mut!(GATES).cast::<[u64; 2]>().add(vector);
            gate.write(gate_to(stubs + vector as u64 * STUB_SIZE));
        }
        let table = TableRegister { limit: (VECTORS * size_of::<[u64; 2]>() - 1) as u16, base: addr_of!(GATES) as u64 };
        asm!("lidt [{}]", "ltr {:x}", in(reg) &raw const table, in(reg) entry::TASK_STATE_SELECTOR, options(nostack));
    }
}

/// The two words of an available 64-bit task state descriptor.
fn descriptor(base: u64) -> [u64; 2] {
    let limit = size_of::<TaskState>() as u64 - 1;
    let low = limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
    [low, base >> 32]
}

/// The two words of an interrupt gate that switches to the first interrupt stack.
fn gate_to(handler: u64) -> [u64; 2] {
    let selector = u64::from(entry::CODE_SELECTOR);
    let low = handler & 0xffff | selector << 16 | 1 << 32 | 0x8e << 40 | (handler >> 16 & 0xffff) << 48;
    [low, handler >> 32]
}

extern "sysv64" fn report(frame: &Frame, fault_address: u64) -> ! {
    const PAGE_FAULT: u64 = 14;
    let Frame { vector, error_code, instruction, stack_pointer, .. } = *frame;
    let name = match vector {
        0 => "divide error",
        2 => "non-maskable interrupt",
        6 => "invalid opcode",
        8 => "double fault",
        13 => "general protection fault",
        PAGE_FAULT => "page fault",
        18 => "machine check",
        _ => "exception",
    };
    let (code, whose) = if instruction < addr_of!(entry::loader_end) as u64 {
        (exit::LOADER_ERROR, "in the loader; please report it")
    } else {
        (
            exit::IMAGE_FAULT,
            "in the image, before it installed handlers of its own; look the instruction up with addr2line",
        )
    };
    let fault_address = if vector == PAGE_FAULT { fault_address } else { 0 };
    exit::fail_with(
        code,
        format_args!(
            "{name} (vector {vector}, error code {error_code:#x}, address {fault_address:#x}) at instruction \
         {instruction:#x}, stack {stack_pointer:#x}, {whose}"
        ),
    )
}
