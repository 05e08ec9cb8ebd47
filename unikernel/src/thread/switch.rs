//! The switch from one thread's stack to another's.

use core::arch::naked_asm;
use core::ptr;

/// Words on the stack of a thread that does not run: six registers and where it goes on.
const SAVED_WORDS: u64 = 7;

/// Prepares a stack so that the first switch to it calls [`scheduler::begin`](super::scheduler::begin); returns the
/// stack pointer.
pub(super) fn prepare(stack_end: u64) -> u64 {
    // One word more stays above: `begin` is entered as by a call, with the stack 8 bytes off a multiple of 16, and a
    // return address of 0 ends its backtraces.
    let pointer = stack_end - 8 * (SAVED_WORDS + 1);
    let entry = super::scheduler::begin as extern "sysv64" fn() -> ! as usize as u64;
    let place = ptr::with_exposed_provenance_mut::<u64>((pointer + 8 * (SAVED_WORDS - 1)) as usize);
    // SAFETY: the stack is mapped, zeroed or left by a thread that ended, and nobody uses it yet; the two words lie
    // below its end.
    unsafe {
        place.write(entry);
        place.add(1).write(0);
    }
    pointer
}

/// Saves the running thread's registers on its stack, notes the stack pointer in `from`, and goes on where `to` points.
///
/// # Safety
///
/// `to` came from [`prepare`] or from a switch away from a thread that does not run; `from` is where the running one's
/// is kept.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn switch(from: *mut u64, to: u64) {
    // The ABI lets a call destroy all but these; control words of x87 and SSE are the same for all threads.
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}
