//! The I/O ports the loader talks to: the serial port and QEMU's exit device.

use core::arch::asm;

/// Writes a byte. The loader calls it for [`crate::serial::COM1`]'s registers only.
pub(crate) fn write_u8(port: u16, value: u8) {
    // SAFETY: writing to the serial port's registers has no effect on memory; elsewhere than the serial port it is not
    // called.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) }
}

/// Reads a byte. The loader calls it for [`crate::serial::COM1`]'s registers only.
pub(crate) fn read_u8(port: u16) -> u8 {
    let value;
    // SAFETY: reading the serial port's registers has no effect on memory; elsewhere it is not called.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) }
    value
}

/// Writes four bytes. The loader calls it for [`crate::exit::PORT`] only.
pub(crate) fn write_u32(port: u16, value: u32) {
    // SAFETY: the exit device ends the machine, and where there is none nobody listens; memory is not touched.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) }
}
