//! Interrupts and exceptions: who is called for which vector.
//!
//! Users: the stubs of [`traps`](crate::arch::traps) come in through [`dispatch`]; the timer, wake-ups and images
//! register handlers. Handlers of vectors from 32 on run on the CPU's interrupt stack, with interrupts off, and with
//! the memory service's interrupt set active: they may allocate, may wake threads, and must not wait or sleep.
//!
//! Exceptions end the run ([`panic::fatal_trap`](crate::panic::fatal_trap)), except three kinds of page fault or
//! general protection fault: a probe's ([`probe`](crate::probe)), and a write through a stale translation of a zero
//! window ([`paging`]), which is repeated.

use core::fmt;
use core::mem;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::arch::traps::TrapFrame;
use crate::{apic, arch, cpu_local, layout, paging, panic, probe, smp};

/// What is called for an interrupt.
pub type Handler = fn(&mut TrapFrame);

/// The first vector that is no exception.
pub const FIRST_VECTOR: u8 = 32;

/// Vectors from here on are the unikernel's own.
pub(crate) const FIRST_OWN_VECTOR: u8 = 0xf0;

const NON_MASKABLE: u64 = 2;
const GENERAL_PROTECTION: u64 = 13;
const PAGE_FAULT: u64 = 14;

/// Page-fault error code: the access was a write to a page that is present.
const WRITE_TO_PRESENT: u64 = 0b11;

static HANDLERS: [AtomicPtr<()>; 256] = [const { AtomicPtr::new(ptr::null_mut()) }; 256];

/// A vector that cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorError {
    /// It belongs to the CPU's exceptions or to the unikernel.
    Reserved(u8),
    /// Somebody has it.
    InUse(u8),
}

impl fmt::Display for VectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserved(vector) => {
                write!(f, "vector {vector} is reserved: use one from {FIRST_VECTOR} to {}", FIRST_OWN_VECTOR - 1)
            }
            Self::InUse(vector) => write!(f, "vector {vector} has a handler already"),
        }
    }
}

impl core::error::Error for VectorError {}

/// Has `handler` called for every interrupt with this vector, on whatever CPU it arrives, for ever.
///
/// # Errors
///
/// [`VectorError`] for vectors below 32, from 0xf0 on, or taken.
pub fn register(vector: u8, handler: Handler) -> Result<(), VectorError> {
    if !(FIRST_VECTOR..FIRST_OWN_VECTOR).contains(&vector) {
        return Err(VectorError::Reserved(vector));
    }
    set_handler(vector, handler)
}

/// Sends an interrupt to the calling CPU. It arrives at once if interrupts are on.
pub fn raise(vector: u8) {
    apic::send(cpu_local::current().apic_id, vector);
}

/// Runs `body` with interrupts off on this CPU. Nests.
pub fn without_interrupts<R>(body: impl FnOnce() -> R) -> R {
    let state = arch::save_and_disable_interrupts();
    let result = body();
    arch::restore_interrupts(state);
    result
}

/// Whether interrupts are on, on this CPU.
pub fn are_enabled() -> bool {
    arch::interrupts_enabled()
}

/// Whether the caller is an interrupt handler.
pub fn in_handler() -> bool {
    cpu_local::current().in_interrupt.get()
}

pub(crate) fn set_handler(vector: u8, handler: Handler) -> Result<(), VectorError> {
    let handler = handler as *mut ();
    // Release: pairs with the Acquire load in `dispatch`, so that the handler sees what was prepared for it.
    match HANDLERS[usize::from(vector)].compare_exchange(ptr::null_mut(), handler, Ordering::Release, Ordering::Relaxed)
    {
        Ok(_) => Ok(()),
        Err(_) => Err(VectorError::InUse(vector)),
    }
}

/// Masks the two legacy interrupt controllers, and moves their vectors away from the exceptions first: what is already
/// pending in them could come even so.
pub(crate) fn mask_legacy_controllers() {
    const COMMANDS: [(u16, u8); 10] = [
        (0x20, 0x11),
        (0xa0, 0x11),
        (0x21, FIRST_VECTOR),
        (0xa1, FIRST_VECTOR + 8),
        (0x21, 4),
        (0xa1, 2),
        (0x21, 1),
        (0xa1, 1),
        (0x21, 0xff),
        (0xa1, 0xff),
    ];
    for (port, value) in COMMANDS {
        // SAFETY: the ports are the controllers' (or nobody's); masking them has no effect on memory.
        unsafe { arch::write_port(port, value) };
    }
}

/// Where every trap arrives. The saved registers may be changed: the interrupted code resumes with them.
pub(crate) extern "sysv64" fn dispatch(frame: &mut TrapFrame) {
    if frame.vector < u64::from(FIRST_VECTOR) {
        exception(frame);
        return;
    }
    let vector = frame.vector as u8;
    // Acquire: pairs with the Release in `set_handler`.
    let handler = HANDLERS[usize::from(vector)].load(Ordering::Acquire);
    if handler.is_null() {
        // The spurious vector, or one of the legacy controllers': neither wants an answer.
        if vector >= FIRST_OWN_VECTOR && vector != apic::SPURIOUS_VECTOR {
            log::warn!("interrupt with vector {vector:#x}, which has no handler");
        }
        return;
    }
    let cpu = cpu_local::current();
    cpu.enter_interrupt();
    // SAFETY: only `set_handler` stores here, and it stores a `Handler`.
    let handler = unsafe { mem::transmute::<*mut (), Handler>(handler) };
    handler(frame);
    apic::end_of_interrupt();
    cpu.leave_interrupt();
}

fn exception(frame: &mut TrapFrame) {
    let survived = match frame.vector {
        NON_MASKABLE if smp::is_stopping() => arch::stop(),
        GENERAL_PROTECTION => probe::recover(frame),
        PAGE_FAULT => is_stale(frame) || probe::recover(frame),
        _ => false,
    };
    if !survived {
        panic::fatal_trap(frame);
    }
}

/// Whether a page fault was a write to a page of a zero window that has had memory of its own since this CPU last
/// looked. The CPU forgets the old translation by faulting (Intel SDM volume 3, section 4.10.4.1), so repeating is
/// enough.
fn is_stale(frame: &TrapFrame) -> bool {
    let address = arch::fault_address();
    let in_window = layout::TAG_WINDOW.contains(&address) || layout::STATE_WINDOW.contains(&address);
    in_window && frame.error & WRITE_TO_PRESENT == WRITE_TO_PRESENT && paging::is_writable(address)
}
