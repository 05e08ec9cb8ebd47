//! From the PVH entry point to Rust: 32-bit protected mode without paging becomes long mode with SSE.
//!
//! At entry (Xen's `docs/misc/pvh.pandoc`): `ebx` holds the physical address of the start info, segments are flat,
//! paging and interrupts are off, there is no stack. Before Rust runs there must be: zeroed bss, a stack, and SSE,
//! which compiled code uses as a matter of course. The early page tables map the first 4 GiB to themselves, which is
//! all the loader ever touches; they are constants, so that nothing has to be built here.
//!
//! A CPU without long mode or no-execute pages cannot run Rust code for `x86_64`, so that one error is reported from
//! here.

use core::arch::global_asm;

unsafe extern "C" {
    /// First byte of the loader and of its code.
    pub(crate) static loader_start: u8;
    /// First byte of its constants.
    pub(crate) static loader_constants: u8;
    /// First byte of its data.
    pub(crate) static loader_data: u8;
    /// One past its last byte; all four are page-aligned.
    pub(crate) static loader_end: u8;
    /// The descriptor table; the task state's two words are filled in later.
    pub(crate) static mut loader_gdt: [u64; 5];
}

/// Selector of the 64-bit code segment.
pub(crate) const CODE_SELECTOR: u16 = 0x08;
/// Selector of the task state segment.
pub(crate) const TASK_STATE_SELECTOR: u16 = 0x18;

global_asm!(
    // The note that tells a hypervisor to enter in protected mode: XEN_ELFNOTE_PHYS32_ENTRY.
    ".section .note.Xen, \"a\", @note",
    ".balign 4",
    ".long 4, 8, 18",
    ".asciz \"Xen\"",
    ".quad pvh_entry",

    ".section .text.pvh_entry, \"ax\", @progbits",
    ".code32",
    ".global pvh_entry",
    "pvh_entry:",
    "cli",
    "cld",
    "mov ebp, ebx",
    "rdtsc",
    "mov esi, eax",
    "mov ebx, edx",
    // Zero the bss: nobody promises that memory is.
    "mov edi, offset loader_bss",
    "mov ecx, offset loader_bss_end",
    "sub ecx, edi",
    "shr ecx, 2",
    "xor eax, eax",
    "rep stosd",
    "mov esp, offset {stack} + {stack_size}",
    "push ebx",
    "push esi",
    // Long mode and no-execute?
    "mov eax, 0x80000000",
    "cpuid",
    "cmp eax, 0x80000001",
    "jb 2f",
    "mov eax, 0x80000001",
    "cpuid",
    "not edx",
    "test edx, (1 << 29) | (1 << 20)",
    "jnz 2f",
    // Physical address extension and SSE.
    "mov eax, cr4",
    "or eax, (1 << 5) | (1 << 9) | (1 << 10)",
    "mov cr4, eax",
    "mov eax, offset early_root",
    "mov cr3, eax",
    // EFER: long mode, no-execute.
    "mov ecx, 0xc0000080",
    "rdmsr",
    "or eax, (1 << 8) | (1 << 11)",
    "wrmsr",
    // CR0: paging, write protection, native FPU errors, caches on, no FPU emulation.
    "mov eax, cr0",
    "and eax, ~((1 << 30) | (1 << 29) | (1 << 3) | (1 << 2))",
    "or eax, (1 << 31) | (1 << 16) | (1 << 5) | (1 << 1)",
    "mov cr0, eax",
    "lgdt [loader_gdt_pointer]",
    "mov eax, {code}",
    "push eax",
    "mov eax, offset long_mode",
    "push eax",
    "retf",

    // No 64-bit CPU: print the message byte by byte and fail.
    "2: mov esi, offset no_long_mode_message",
    "4: mov dx, {line_status}",
    "in al, dx",
    "test al, 0x20",
    "jz 4b",
    "lodsb",
    "test al, al",
    "jz 5f",
    "mov dx, {data_port}",
    "out dx, al",
    "jmp 4b",
    "5: mov dx, {exit_port}",
    "mov eax, {exit_code}",
    "out dx, eax",
    "6: cli",
    "hlt",
    "jmp 6b",

    ".code64",
    "long_mode:",
    "mov ax, 0x10",
    "mov ds, ax",
    "mov es, ax",
    "mov ss, ax",
    "xor eax, eax",
    "mov fs, ax",
    "mov gs, ax",
    "mov esp, esp",
    "mov edi, ebp",
    "pop rsi",
    "xor ebp, ebp",
    "call {main}",
    "ud2",

    ".section .rodata.pvh_entry, \"a\", @progbits",
    "no_long_mode_message:",
    ".asciz \"quarry-loader: error: this CPU has no long mode or no no-execute pages: choose a 64-bit CPU model (QEMU: -cpu max)\\r\\n\"",

    ".section .data.pvh_entry, \"aw\", @progbits",
    ".balign 8",
    ".global loader_gdt",
    "loader_gdt:",
    ".quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0, 0",
    "loader_gdt_pointer:",
    ".word . - loader_gdt - 1",
    ".long loader_gdt",

    // 4 GiB in pages of 2 MiB.
    ".balign 4096",
    "early_root:",
    ".quad early_level_2 + 3",
    ".fill 511, 8, 0",
    "early_level_2:",
    ".quad early_level_1 + 0x3, early_level_1 + 0x1003, early_level_1 + 0x2003, early_level_1 + 0x3003",
    ".fill 508, 8, 0",
    "early_level_1:",
    ".set page, 0",
    ".rept 2048",
    ".quad (page << 21) + 0x83",
    ".set page, page + 1",
    ".endr",

    stack = sym STACK,
    stack_size = const STACK_SIZE,
    code = const CODE_SELECTOR,
    line_status = const crate::serial::LINE_STATUS,
    data_port = const crate::serial::COM1,
    exit_port = const crate::exit::PORT,
    exit_code = const crate::exit::LOADER_ERROR,
    main = sym crate::main,
);

/// A memory map takes 6 KiB, and unoptimised code keeps many copies.
const STACK_SIZE: usize = 256 << 10;

#[repr(C, align(16))]
struct Stack([u8; STACK_SIZE]);

/// The loader's own stack. Only the assembly above refers to it, by address. Not in the bss: it need not be zeroed.
#[unsafe(link_section = ".stack")]
static mut STACK: Stack = Stack([0; STACK_SIZE]);
