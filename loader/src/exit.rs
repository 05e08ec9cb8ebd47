//! The ways out that are no boot: an error, a panic. Each prints one line and ends the machine with a failing code.

use core::arch::asm;
use core::fmt::{self, Write};
use core::panic::PanicInfo;

use crate::ports;
use crate::serial::Serial;

/// I/O port of QEMU's `isa-debug-exit` device.
pub(crate) const PORT: u16 = 0xf4;
/// What the loader writes there; QEMU's exit status is twice that plus one: 39.
pub(crate) const LOADER_ERROR: u32 = 0x13;
/// What is written there for an image that faults before it can say so itself, as for its panics: 37.
pub(crate) const IMAGE_FAULT: u32 = 0x12;

/// Prints a line that the boot goes on after.
pub(crate) fn warn(message: fmt::Arguments<'_>) {
    line("warning", message);
}

/// Prints a line and ends the machine. Without the exit device the CPU halts for good.
pub(crate) fn fail(message: fmt::Arguments<'_>) -> ! {
    fail_with(LOADER_ERROR, message)
}

/// The same with an exit code of [`LOADER_ERROR`] or [`IMAGE_FAULT`].
pub(crate) fn fail_with(code: u32, message: fmt::Arguments<'_>) -> ! {
    line("error", message);
    ports::write_u32(PORT, code);
    loop {
        // SAFETY: stops this CPU, the only one that runs, with interrupts off.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

fn line(severity: &str, message: fmt::Arguments<'_>) {
    // The serial port takes everything; an error can only come from a value's own formatting, and there is nobody to
    // tell.
    let _ = writeln!(Serial, "quarry-loader: {severity}: {message}");
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    match info.location() {
        Some(location) => fail(format_args!("panic at {location}: {}; please report it", info.message())),
        None => fail(format_args!("panic: {}; please report it", info.message())),
    }
}
