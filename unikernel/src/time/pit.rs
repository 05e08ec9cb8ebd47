//! The TSC's rate, measured against channel 2 of the programmable interval timer. Source: the data sheet of the Intel
//! 8254.
//!
//! Users: [`super::initialise`], with interrupts off. Channel 2 is the speaker's; nothing else uses it, and it is left
//! stopped.
//!
//! The channel counts down once (mode 0) and its status is read until the output says that it is done. The status also
//! repeats the mode, which tells a PIT from a port nobody answers: some machines (`microvm` with `pit=off`) have none.
//! The output is not taken from port 0x61, for `microvm` has the PIT but not that port.

use super::measure::{self, Moment, Span};
use crate::arch;

const CHANNEL_2: u16 = 0x42;
const COMMAND: u16 = 0x43;

/// System control port B: bit 0 lets channel 2 count, bit 1 lets it through to the speaker.
const CONTROL: u16 = 0x61;
const GATE: u8 = 1 << 0;
const SPEAKER: u8 = 1 << 1;

/// Channel 2, low byte then high byte, mode 0, binary.
const COUNT_DOWN_ONCE: u8 = 0b1011_0000;

/// Read-back of channel 2's status, not of its count.
const READ_STATUS: u8 = 0b1110_1000;

/// The part of the status that repeats the command.
const STATUS_MODE: u8 = 0b0011_1111;
const STATUS_OUTPUT: u8 = 1 << 7;

/// Of the PIT, in Hz.
const FREQUENCY: u64 = 1_193_182;

/// A millisecond's worth of counts.
const FIRST_COUNT: u64 = FREQUENCY / 1000;

/// Up to 32 ms, which is what the 16 bits of the counter hold. Reached only where others take the CPU away all the
/// time.
const ATTEMPTS: u32 = 6;

/// An error that is good enough.
const GOOD_ENOUGH_IN_MILLIONTHS: u64 = 200;

/// How often to look at the status at most, should the counter stand still: more than 32 ms of the fastest accesses.
const PATIENCE: u32 = 2_000_000;

const _: () = assert!(FIRST_COUNT << (ATTEMPTS - 1) <= 0xffff);

/// The TSC's rate in Hz; `None` where there is no PIT.
pub(super) fn rate() -> Option<u64> {
    // SAFETY: the port is the speaker's and the channel's; there is nothing else behind these two bits.
    let before = unsafe { arch::read_port(CONTROL) };
    // SAFETY: as above.
    unsafe { arch::write_port(CONTROL, before & !SPEAKER | GATE) };
    let best = measure::best(FIRST_COUNT, ATTEMPTS, GOOD_ENOUGH_IN_MILLIONTHS, |count| {
        count_down(count as u16).map(|span| (count, span))
    });
    // SAFETY: as above.
    unsafe { arch::write_port(CONTROL, before & !(SPEAKER | GATE)) };
    best.map(|(count, span)| rate_of(span.ticks, count))
}

/// How long the channel takes to count to 0.
fn count_down(count: u16) -> Option<Span> {
    let [low, high] = count.to_le_bytes();
    // SAFETY: programs channel 2, whose output leads nowhere.
    unsafe {
        arch::write_port(COMMAND, COUNT_DOWN_ONCE);
        arch::write_port(CHANNEL_2, low);
    }
    // The count starts with its high byte.
    // SAFETY: as above.
    let ((), start) = Moment::of(|| unsafe { arch::write_port(CHANNEL_2, high) });
    let mut still_counting = start;
    for _ in 0..PATIENCE {
        let (status, now) = Moment::of(read_status);
        if status & STATUS_MODE != COUNT_DOWN_ONCE & STATUS_MODE {
            return None;
        }
        if status & STATUS_OUTPUT != 0 {
            return Span::new(start, still_counting.until(now));
        }
        still_counting = now;
    }
    None
}

fn read_status() -> u8 {
    // SAFETY: latches and reads a byte of status.
    unsafe {
        arch::write_port(COMMAND, READ_STATUS);
        arch::read_port(CHANNEL_2)
    }
}

const fn rate_of(ticks: u64, count: u64) -> u64 {
    (ticks as u128 * FREQUENCY as u128 / count as u128) as u64
}

// This library cannot be built as a test, so the arithmetic is checked while it is compiled.
const _: () = {
    assert!(rate_of(1_000_000, 1193) == 1_000_152_556, "1193 counts are a little less than a millisecond");
    assert!(rate_of(3_000_000_000, FREQUENCY) == 3_000_000_000, "a second");
};
