//! The loader: boots a Quarry image on any hypervisor that speaks PVH (QEMU, Firecracker, cloud-hypervisor).
//!
//! The hypervisor loads this ELF file, enters it in 32-bit protected mode, and passes the image as the first module
//! (QEMU: `-kernel quarry-loader -initrd image`). The loader reads the memory map, maps and relocates the image, and
//! jumps to it as the library half of this package ([`quarry_loader`]) promises. On success it prints nothing.
//! The way is described in `docs/boot.md`.
//!
//! Each module is one step or one device; what can be computed without touching the machine is in the library.

#![no_std]
#![no_main]

mod boot;
mod entry;
mod error;
mod exceptions;
mod exit;
mod physical;
mod ports;
mod runtime;
mod serial;

use core::arch::asm;

use boot::Handoff;

/// Called by the entry code, once: in long mode, on the loader's stack, with the first 4 GiB mapped to themselves.
extern "sysv64" fn main(start_info: u64, entry_tsc: u64) -> ! {
    serial::Serial::initialise();
    exceptions::install();
    match boot::prepare(start_info, entry_tsc) {
        Ok(handoff) => enter(&handoff),
        Err(error) => exit::fail(format_args!("{error}")),
    }
}

/// Switches to the image's page tables and stack and jumps to its entry point.
fn enter(handoff: &Handoff) -> ! {
    // SAFETY: the tables map this code at the address where it runs, the image at its own, and the stack in the direct
    // map. The stack is page-aligned, so that after the zero (a return address that ends backtraces) it is as the
    // calling convention wants it at a function's first instruction.
    unsafe {
        asm!(
            "mov cr3, {root}",
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "push 0",
            "jmp {entry}",
            root = in(reg) handoff.page_table_root,
            stack = in(reg) handoff.stack_top,
            entry = in(reg) handoff.entry,
            in("rdi") handoff.boot_info,
            options(noreturn),
        )
    }
}
