//! Touching an address that may not be there, and hearing about it instead of faulting.
//!
//! Users: guest tests of what is mapped and how, and diagnostics. The two functions are a few instructions of assembly;
//! the page-fault handler knows their addresses ([`recover`]) and resumes at the place where they return failure.

use core::arch::global_asm;

use crate::arch::traps::TrapFrame;

unsafe extern "sysv64" {
    fn quarry_probe_read(address: u64) -> u64;
    fn quarry_probe_write(address: u64) -> u64;
    static quarry_probe_start: u8;
    static quarry_probe_end: u8;
    static quarry_probe_failed: u8;
}

// Both return 1. The write stores the byte it has just read, so that nothing changes.
global_asm!(
    "quarry_probe_start:",
    "quarry_probe_write:",
    "lock or byte ptr [rdi], 0",
    "mov eax, 1",
    "ret",
    "quarry_probe_read:",
    "mov al, [rdi]",
    "mov eax, 1",
    "ret",
    "quarry_probe_end:",
    "quarry_probe_failed:",
    "xor eax, eax",
    "ret",
);

/// Whether the byte at an address can be read: tried, not looked up.
pub fn can_read(address: u64) -> bool {
    // SAFETY: an ordinary call that reads one byte; should that fault, `recover` makes it return 0. What is read is
    // dropped.
    unsafe { quarry_probe_read(address) == 1 }
}

/// Whether the byte at an address can be written: tried, not looked up. The byte keeps its value.
pub fn can_write(address: u64) -> bool {
    // SAFETY: as above; the write is an atomic `or` with 0, so nobody sees a change.
    unsafe { quarry_probe_write(address) == 1 }
}

/// Makes a probe that faulted return failure; `false` when the fault was no probe's.
pub(crate) fn recover(frame: &mut TrapFrame) -> bool {
    let probes = (&raw const quarry_probe_start).addr() as u64..(&raw const quarry_probe_end).addr() as u64;
    let faulted = probes.contains(&frame.rip);
    if faulted {
        frame.rip = (&raw const quarry_probe_failed).addr() as u64;
    }
    faulted
}
