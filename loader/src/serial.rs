//! The first serial port, polled: where the loader says what is wrong.
//!
//! Source: National Semiconductor PC16550D data sheet.

use core::fmt;

use crate::ports;

/// I/O port of the data register of the first serial port.
pub(crate) const COM1: u16 = 0x3f8;
/// I/O port of its line status register.
pub(crate) const LINE_STATUS: u16 = COM1 + 5;

const TRANSMITTER_EMPTY: u8 = 1 << 5;

/// How often to look before a byte is sent regardless: a port that is absent or stuck must not hang the boot.
const PATIENCE: u32 = 100_000;

/// The port. Writing works at any time; lines end in CR LF as terminals want.
pub(crate) struct Serial;

impl Serial {
    /// Sets 115200 baud, 8 data bits, no parity, no interrupts, FIFOs on.
    pub(crate) fn initialise() {
        for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 0x03), (2, 0xc7), (4, 0x0b)] {
            ports::write_u8(COM1 + register, value);
        }
    }

    fn send(byte: u8) {
        let mut left = PATIENCE;
        while ports::read_u8(LINE_STATUS) & TRANSMITTER_EMPTY == 0 && left > 0 {
            left -= 1;
        }
        ports::write_u8(COM1, byte);
    }
}

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                Self::send(b'\r');
            }
            Self::send(byte);
        }
        Ok(())
    }
}
