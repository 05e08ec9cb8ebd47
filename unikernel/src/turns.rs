//! Turns: how long an emulator that runs the CPUs one after another on one thread stays with each.
//!
//! Users: the bench image, while several CPUs are measured and their instructions are counted.
//!
//! QEMU with `-icount` gives a CPU the whole time to the next event of a device, which is tens of milliseconds where
//! nothing is due: whole samples, so that no CPU ever finds another in the middle of something. A timer that is due all
//! the time cuts that down, and nobody need be interrupted for it: the counter is channel 0 of the programmable
//! interval timer (PIT), whose interrupt is masked (as all legacy interrupts are) and still an event. A masked timer of
//! the local APIC is none. Sources: the data sheet of the Intel 8254; QEMU's `hw/timer/i8254_common.c`.
//!
//! Nothing else uses the channel. Where there is no PIT, nobody answers, and turns stay as long as they were; the same
//! on KVM and on emulators whose CPUs have a thread each. So whoever relies on short turns has to look at what comes of
//! them.

use crate::arch;

const CHANNEL_0: u16 = 0x40;
const COMMAND: u16 = 0x43;

/// Channel 0, low byte then high byte, mode 2 (a pulse every so many counts), binary.
const PULSES: u8 = 0b0011_0100;

/// The same, mode 3 (a square wave): what firmware leaves.
const SQUARE_WAVE: u8 = 0b0011_0110;

/// Counts from pulse to pulse: the smallest number the data sheet allows. A count is 838 ns, and so many instructions.
///
/// Chosen by trial with QEMU 7.2, on 2 and 4 CPUs with nothing in common that allocated and freed, 84 instructions at a
/// time. With 2, one operation in 10 was completed by another CPU than the one before it, which is a turn of 840
/// instructions, and all CPUs were at work for 99.8 % of a sample. With 3 it was one in 20 and 87 %, with 5 one in 40
/// and 81 %, with 10 one in 90 and 78 %: there one CPU gets more turns than another. With turns left alone they worked
/// one after another. A whole run takes the host a fifth more processor time with 2 than with those. A square wave of 2
/// counts, which has as many edges, let some CPUs work one after another.
const SHORT: u16 = 2;

/// 65,536 counts, what firmware leaves.
const LONG: u16 = 0;

/// Makes turns as short as they can be, until [`lengthen`].
///
/// To be called again, by the first CPU, whenever others may have waited and now no longer do. QEMU goes on with the next
/// CPU both when a turn is over and when the event that ended it is dealt with; so a CPU that ends its turn early, as
/// those do that wait (by `pause` or by halting), can leave things such that every second CPU gets turns of no length
/// from then on. A write to the channel ends the turn of its writer in such a way that each gets its own again.
pub fn shorten() {
    program(PULSES, SHORT);
}

/// Makes turns as long as they are when nobody asks for others.
pub fn lengthen() {
    program(SQUARE_WAVE, LONG);
}

fn program(command: u8, counts: u16) {
    let [low, high] = counts.to_le_bytes();
    // SAFETY: programs channel 0, whose interrupt is masked and which nobody else uses; without a PIT nobody listens.
    unsafe {
        arch::write_port(COMMAND, command);
        arch::write_port(CHANNEL_0, low);
        arch::write_port(CHANNEL_0, high);
    }
}
