//! Where interrupts and exceptions arrive: 256 stubs that save everything and call one function.
//!
//! Used by [`tables`](super::tables), which points the IDT here. All code of this target uses the red zone below the
//! stack pointer, so every vector has a stack of its own (IST) and nothing is pushed on the interrupted one. Handlers
//! are compiled Rust and use SSE registers, so those are saved too.

use core::arch::global_asm;

/// What the interrupted code's registers held. The lower part is pushed by the CPU.
#[repr(C)]
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields are the registers they are named after")]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    /// Which vector.
    pub vector: u64,
    /// The error code, 0 for vectors without one.
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// Bytes of a stub.
const STUB_BYTES: usize = 16;

unsafe extern "C" {
    static quarry_trap_stubs: u8;
}

/// Address of the stub of a vector.
pub(super) fn stub(vector: u8) -> u64 {
    (&raw const quarry_trap_stubs).addr() as u64 + u64::from(vector) * STUB_BYTES as u64
}

// Vectors 8, 10 to 14, 17, 21, 29 and 30 come with an error code; the others push 0 in its place.
global_asm!(
    ".balign 16",
    ".global quarry_trap_stubs",
    "quarry_trap_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign 16",
    ".if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)",
    "push 0",
    ".endif",
    "push vector",
    "jmp quarry_trap_common",
    ".set vector, vector + 1",
    ".endr",
    "quarry_trap_common:",
    "push rax",
    "push rbx",
    "push rcx",
    "push rdx",
    "push rsi",
    "push rdi",
    "push rbp",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "cld",
    // 22 words were pushed on a stack aligned to 16 bytes, so it is aligned again, as fxsave and calls want.
    "mov rdi, rsp",
    "sub rsp, 512",
    "fxsave64 [rsp]",
    // For backtraces through a handler: the interrupted registers lie where the frame has them. The canonical frame
    // address is that of the frame's rip.
    ".cfi_startproc simple",
    ".cfi_signal_frame",
    ".cfi_def_cfa rsp, 512 + 17 * 8",
    ".cfi_offset rip, 0",
    ".cfi_offset rsp, 3 * 8",
    ".cfi_offset rax, -3 * 8",
    ".cfi_offset rbx, -4 * 8",
    ".cfi_offset rcx, -5 * 8",
    ".cfi_offset rdx, -6 * 8",
    ".cfi_offset rsi, -7 * 8",
    ".cfi_offset rdi, -8 * 8",
    ".cfi_offset rbp, -9 * 8",
    ".cfi_offset r8, -10 * 8",
    ".cfi_offset r9, -11 * 8",
    ".cfi_offset r10, -12 * 8",
    ".cfi_offset r11, -13 * 8",
    ".cfi_offset r12, -14 * 8",
    ".cfi_offset r13, -15 * 8",
    ".cfi_offset r14, -16 * 8",
    ".cfi_offset r15, -17 * 8",
    "call {dispatch}",
    "fxrstor64 [rsp]",
    ".cfi_endproc",
    "add rsp, 512",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rbp",
    "pop rdi",
    "pop rsi",
    "pop rdx",
    "pop rcx",
    "pop rbx",
    "pop rax",
    "add rsp, 16",
    "iretq",
    dispatch = sym crate::interrupts::dispatch,
);
