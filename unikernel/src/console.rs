//! The console: the first serial port, a line at a time, whoever writes.
//!
//! Users: `print!`, `println!` and the log. Lines of different CPUs never mix: a call writes all its text under one
//! lock, which is taken with interrupts off, for handlers log too. The panic handler writes without the lock, once the
//! other CPUs are stopped.

use core::fmt::{self, Write};

use spin::mutex::TicketMutex;

use crate::arch;

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

/// Bytes the transmitter takes at once when it is empty.
const FIFO_BYTES: u32 = 16;

/// How often to look at the status before a byte is sent regardless: a stuck port must not hang the guest.
const PATIENCE: u32 = 100_000;

static PORT: TicketMutex<SerialPort> = TicketMutex::new(SerialPort { room: 0 });

struct SerialPort {
    /// Bytes the FIFO surely takes without another look at the status.
    room: u32,
}

impl SerialPort {
    fn send(&mut self, byte: u8) {
        if self.room == 0 {
            let mut left = PATIENCE;
            // SAFETY: reading the status has no effect on memory.
            while unsafe { arch::read_port(LINE_STATUS) } & TRANSMITTER_EMPTY == 0 && left > 0 {
                left -= 1;
                core::hint::spin_loop();
            }
            self.room = FIFO_BYTES;
        }
        self.room -= 1;
        // SAFETY: sends a byte, no more.
        unsafe { arch::write_port(COM1, byte) };
    }
}

impl Write for SerialPort {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.send(b'\r');
            }
            self.send(byte);
        }
        Ok(())
    }
}

/// Sets the port up: 115200 baud, 8 data bits, no parity, FIFOs on, no interrupts.
pub(crate) fn initialise() {
    for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 0x03), (2, 0xc7), (4, 0x0b)] {
        // SAFETY: writing the serial port's registers has no effect on memory.
        unsafe { arch::write_port(COM1 + register, value) };
    }
}

/// Writes text whole: nothing of another CPU gets in between. May be called anywhere but in an NMI.
pub fn write(text: fmt::Arguments<'_>) {
    let interrupts = arch::save_and_disable_interrupts();
    // The port never fails; an error could only come from a Display of the caller's, and then the rest of the text is
    // lost.
    let _ = PORT.lock().write_fmt(text);
    arch::restore_interrupts(interrupts);
}

/// Writes text without the lock, for when its holder was stopped.
pub(crate) fn write_unlocked(text: fmt::Arguments<'_>) {
    let _ = SerialPort { room: 0 }.write_fmt(text);
}

/// Waits until everything written has left the port, as far as a bounded wait can tell.
pub(crate) fn flush() {
    for _ in 0..PATIENCE {
        // SAFETY: reading the status has no effect on memory.
        if unsafe { arch::read_port(LINE_STATUS) } & (TRANSMITTER_EMPTY << 1) != 0 {
            return;
        }
    }
}

/// Writes to the console.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::console::write(format_args!($($argument)*)) };
}

/// Writes a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::console::write(format_args!("\n")) };
    ($($argument:tt)*) => { $crate::console::write(format_args!("{}\n", format_args!($($argument)*))) };
}
