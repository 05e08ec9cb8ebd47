//! The console: the first serial port, a line at a time, whoever writes, and byte by byte to whoever reads.
//!
//! Users: `print!`, `println!` and the log; images that want to be spoken to read. Lines of different CPUs never mix: a
//! call writes all its text under one lock, which is taken with interrupts off, for handlers log too. The panic handler
//! writes without the lock, once the other CPUs are stopped.
//!
//! Nothing interrupts when a byte arrives: whoever reads looks every few milliseconds and sleeps in between. So reading
//! works on every machine that has the port, whatever its interrupt controllers. The port keeps 16 bytes; hypervisors
//! hold back what comes after them until there is room again. The receiving half of the port has a lock of its own, for
//! a reader must not wait, interrupts off, until somebody's long text is out.

use core::fmt::{self, Write};
use core::time::Duration;

use spin::Mutex;

use crate::sync::InterruptLock;
use crate::{arch, thread};

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
const DATA_READY: u8 = 1 << 0;
const OVERRUN: u8 = 1 << 1;

/// What a port says whose device is not there.
const ABSENT: u8 = 0xff;

/// Bytes the transmitter takes at once when it is empty.
const FIFO_BYTES: u32 = 16;

/// How often to look at the status before a byte is sent regardless: a stuck port must not hang the guest.
const PATIENCE: u32 = 100_000;

/// How long a reader sleeps between two looks: short enough for hands, long enough for an idle CPU to be idle.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Held while bytes are taken from the port. Threads of the first CPU and of others may both read; handlers do not.
static RECEIVER: Mutex<()> = Mutex::new(());

static PORT: InterruptLock<SerialPort> = InterruptLock::new(SerialPort { room: 0 });

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
    // The port never fails; an error could only come from a Display of the caller's, and then the rest of the text is
    // lost.
    let _ = PORT.lock().write_fmt(text);
}

/// Writes text without the lock, for when its holder was stopped.
pub(crate) fn write_unlocked(text: fmt::Arguments<'_>) {
    let _ = SerialPort { room: 0 }.write_fmt(text);
}

/// Waits for bytes and takes as many as have come and `buffer` has room for; returns how many, which is 0 only for an
/// empty buffer. Other threads of the CPU run meanwhile. Where several threads read, each byte goes to one of them.
///
/// Context: a thread that may sleep; not an interrupt handler. The end of whatever the hypervisor connects to the port
/// is not seen: who needs an end has to agree on a byte for it.
pub fn read(buffer: &mut [u8]) -> usize {
    loop {
        let count = try_read(buffer);
        if count > 0 || buffer.is_empty() {
            return count;
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// As [`read`], but does not wait: returns 0 when nothing has come. Any thread may call it.
pub fn try_read(buffer: &mut [u8]) -> usize {
    let mut count = 0;
    let mut lost = false;
    let receiver = RECEIVER.lock();
    for place in buffer {
        // SAFETY: reading the status has no effect on memory.
        let status = unsafe { arch::read_port(LINE_STATUS) };
        if status == ABSENT || status & DATA_READY == 0 {
            break;
        }
        lost |= status & OVERRUN != 0;
        // SAFETY: takes a byte from the port, no more.
        *place = unsafe { arch::read_port(COM1) };
        count += 1;
    }
    drop(receiver);
    if lost {
        log::warn!("the serial port had more to take than it keeps: some input is lost");
    }
    count
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
