//! The local APIC: interrupts between CPUs, their end, and each CPU's one-shot timer.
//!
//! Users: the boot and `smp` (starting CPUs), the interrupt dispatcher, the scheduler (wakes and timers), the panic
//! handler (stopping the others). Source: Intel SDM volume 3, chapter "Advanced Programmable Interrupt Controller
//! (APIC)".
//!
//! Two ways lead to the same registers: memory (xAPIC), and model-specific registers (x2APIC), which are faster in a
//! virtual machine and the only way to a CPU whose id does not fit in eight bits. x2APIC is used wherever the CPU has
//! it.
//!
//! # Theory
//!
//! [`initialise`] runs once on the first CPU and chooses; the choice is behind a `Once` and never changes. Each CPU
//! then calls [`enable_on_this_cpu`]. All registers are the calling CPU's own (under xAPIC one address leads every CPU
//! to its own), so nothing here is shared, there are no locks, and the only disturbance can come from an interrupt on
//! the same CPU:
//!
//! - Under xAPIC an interrupt command is two writes, the destination and then the rest. A handler that sends in between
//!   would redirect the command, so [`send`] and its kin keep interrupts off around them. [`send_nmi_to_others`] names
//!   no destination and writes the second half only: it may come from an NMI and disturbs no command that is half
//!   written.
//! - [`arm_timer`] is one write of a deadline or count; the last one holds. Who decides by looking at a queue of timers
//!   keeps interrupts off from the look to the write.
//!
//! What a CPU wrote before it sends is visible to the handler on the other CPU: see [`LocalApic::write_command`].

use core::arch::x86_64::_mm_lfence;
use core::ptr;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicU64, fence};
use core::time::Duration;

use raw_cpuid::CpuId;
use spin::Once;

use crate::paging::{self, Access, FrameSource, OutOfFrames};
use crate::time::measure::{self, Moment, Span};
use crate::{arch, layout, time};

/// The timer's vector.
pub(crate) const TIMER_VECTOR: u8 = 0xf0;

/// The vector that makes a halted CPU look at its run queue.
pub(crate) const WAKE_VECTOR: u8 = 0xf1;

/// The vector of an interrupt that went away before it was delivered. Its handler must not call [`end_of_interrupt`].
pub(crate) const SPURIOUS_VECTOR: u8 = 0xff;

/// Where the registers are mapped under xAPIC: the first page of the device window is theirs.
const MAPPING: u64 = layout::DEVICE_WINDOW.start;

/// The largest id xAPIC can send to; 255 means everybody there.
const LARGEST_XAPIC_ID: u32 = 254;

/// `IA32_APIC_BASE` and its bits.
const APIC_BASE: u32 = 0x1b;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLE: u64 = 1 << 11;

/// `IA32_TSC_DEADLINE`: the TSC at which the timer fires, 0 for never.
const TSC_DEADLINE: u32 = 0x6e0;

/// A register, by its offset in the page of registers. Its MSR is 0x800 plus a sixteenth of that.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Register {
    Version = 0x30,
    TaskPriority = 0x80,
    EndOfInterrupt = 0xb0,
    Spurious = 0xf0,
    ErrorStatus = 0x280,
    CorrectedErrors = 0x2f0,
    Command = 0x300,
    /// Under xAPIC only.
    CommandDestination = 0x310,
    Timer = 0x320,
    Thermal = 0x330,
    Performance = 0x340,
    Line0 = 0x350,
    Line1 = 0x360,
    Error = 0x370,
    TimerInitialCount = 0x380,
    TimerCurrentCount = 0x390,
    TimerDivisor = 0x3e0,
}

/// The local vector table but for the timer, with the least "maximum entry" of the version register that has the entry.
const LOCAL_VECTORS: [(Register, u32); 6] = [
    (Register::Line0, 0),
    (Register::Line1, 0),
    (Register::Error, 3),
    (Register::Performance, 4),
    (Register::Thermal, 5),
    (Register::CorrectedErrors, 6),
];

/// Bits of local vectors.
const MASKED: u32 = 1 << 16;
const TIMER_TO_DEADLINE: u32 = 0b10 << 17;

/// In the spurious vector's register: the APIC works.
const SOFTWARE_ENABLE: u32 = 1 << 8;

/// Bits of commands.
const DELIVER_NMI: u32 = 0b100 << 8;
const DELIVER_INIT: u32 = 0b101 << 8;
const DELIVER_STARTUP: u32 = 0b110 << 8;
const PENDING: u32 = 1 << 12;
const ASSERT: u32 = 1 << 14;
const TO_ALL_OTHERS: u32 = 0b11 << 18;

/// How often to look whether a command has left. It leaves at once but when hardware fails; then it is sent regardless.
const PATIENCE: u32 = 100_000;

/// The timer counts every 16th cycle of its clock: at 1 GHz 16 ns a count and 68 s at most.
const DIVIDE_BY_16: u32 = 0b0011;

/// Calibration of the timer: first span, spans tried (up to 8 ms), and an error that is good enough: who
/// is woken a little early or late looks at the TSC.
const FIRST_SPAN: Duration = Duration::from_millis(1);
const ATTEMPTS: u32 = 4;
const GOOD_ENOUGH_IN_MILLIONTHS: u64 = 2500;

/// Counts of the timer per tick of the TSC, times 2^32; 0 before [`calibrate_timer`]. Written by the first CPU before
/// it starts others, which orders it before all their reads.
static TIMER_RATE: AtomicU64 = AtomicU64::new(0);

static APIC: Once<LocalApic> = Once::new();

/// How a CPU's registers are reached, and what its timer is.
struct LocalApic {
    /// Address of the registers, or none: then they are MSRs (x2APIC).
    memory: Option<u64>,
    /// Whether the timer takes a TSC as its deadline.
    has_deadline: bool,
}

/// Chooses how the registers are reached. Called once, on the first CPU; a later call does nothing.
///
/// `physical_address` is that of the registers under xAPIC (from the MADT). Under xAPIC they are mapped here, at the
/// first page of the device window, and `frames` gives what the page tables need.
pub(crate) fn initialise(physical_address: u64, frames: FrameSource<'_>) -> Result<(), OutOfFrames> {
    if APIC.is_completed() {
        return Ok(());
    }
    let features = CpuId::new().get_feature_info();
    let has_x2apic = features.as_ref().is_some_and(raw_cpuid::FeatureInfo::has_x2apic);
    let has_deadline = features.as_ref().is_some_and(raw_cpuid::FeatureInfo::has_tsc_deadline);
    let memory = if has_x2apic {
        None
    } else {
        paging::map(MAPPING, physical_address, Access::Device, frames)?;
        Some(MAPPING)
    };
    APIC.call_once(|| LocalApic { memory, has_deadline });
    Ok(())
}

/// Switches the calling CPU's APIC on, with every local vector masked but the timer's, which is stopped, and no
/// priority in the way of any interrupt. Each CPU calls it once, with interrupts off, after [`initialise`].
pub(crate) fn enable_on_this_cpu() {
    apic().enable();
}

/// Ends the interrupt being handled, so that the next may come. For every vector from 32 up but [`SPURIOUS_VECTOR`].
pub(crate) fn end_of_interrupt() {
    apic().write(Register::EndOfInterrupt, 0);
}

/// Interrupts a CPU, which may be the calling one. What the caller wrote before is visible to the handler. Any context
/// but an NMI.
pub(crate) fn send(apic_id: u32, vector: u8) {
    apic().command(apic_id, u32::from(vector) | ASSERT);
}

/// Resets a CPU, which then waits for [`send_startup`]. Ten milliseconds later it is ready.
pub(crate) fn send_init(apic_id: u32) {
    apic().command(apic_id, DELIVER_INIT | ASSERT);
}

/// Starts a CPU that waits after [`send_init`], in real mode at the physical address `page` times 4096. A CPU that runs
/// takes no notice.
pub(crate) fn send_startup(apic_id: u32, page: u8) {
    apic().command(apic_id, DELIVER_STARTUP | ASSERT | u32::from(page));
}

/// Sends a non-maskable interrupt to every CPU but the calling one. Any context; does nothing before [`initialise`].
///
/// CPUs that were never started may get it, too; they wait for a startup command and take no notice.
pub(crate) fn send_nmi_to_others() {
    if let Some(apic) = APIC.get() {
        apic.wait_until_sent();
        apic.write_command(None, DELIVER_NMI | ASSERT | TO_ALL_OTHERS);
        apic.wait_until_sent();
    }
}

/// Measures how fast the timer counts, if it does not take a TSC as its deadline. Called once, on the first CPU, after
/// [`enable_on_this_cpu`] and [`time::initialise`], before other CPUs start and with interrupts off. Takes a
/// millisecond or a few.
pub(crate) fn calibrate_timer() {
    let apic = apic();
    if apic.has_deadline {
        return;
    }
    apic.write(Register::Timer, u32::from(TIMER_VECTOR) | MASKED);
    let first = time::ticks_in(FIRST_SPAN);
    let best = measure::best(first, ATTEMPTS, GOOD_ENOUGH_IN_MILLIONTHS, |length| apic.count_for(length));
    apic.write(Register::TimerInitialCount, 0);
    apic.write(Register::Timer, u32::from(TIMER_VECTOR));
    let (counts, span) = best.expect("a local APIC's timer counts, and the TSC goes forward");
    // Relaxed: other CPUs are started later.
    TIMER_RATE.store(rate_of(counts, span.ticks), Relaxed);
}

/// Has the calling CPU interrupted with [`TIMER_VECTOR`] once, as soon as its TSC reaches `deadline` (at once if it
/// has), or never. Replaces what was set before. An interrupt may still come that was under way.
///
/// Where the timer counts, a deadline more than about a minute away makes it fire earlier, and so may the difference
/// between the measured rate and the true one: the handler looks at the TSC and arms it again.
pub(crate) fn arm_timer(deadline: Option<u64>) {
    let apic = apic();
    if apic.has_deadline {
        // A deadline of 0 would be none.
        let value = deadline.map_or(0, |deadline| deadline.max(1));
        // SAFETY: CPUID promised the MSR; the timer's vector has a handler.
        unsafe { arch::write_msr(TSC_DEADLINE, value) };
        return;
    }
    let counts = deadline.map_or(0, |deadline| {
        let rate = TIMER_RATE.load(Relaxed);
        debug_assert!(rate != 0, "the timer is calibrated before it is armed");
        counts_in(deadline.saturating_sub(time::ticks()), rate)
    });
    apic.write(Register::TimerInitialCount, counts);
}

fn apic() -> &'static LocalApic {
    APIC.get().expect("the local APIC is initialised early in the boot")
}

impl LocalApic {
    fn read(&self, register: Register) -> u32 {
        match self.memory {
            // SAFETY: the page is mapped for ever and is the APIC's registers, which are 32 bits wide.
            Some(base) => unsafe { address_of(base, register).read_volatile() },
            // SAFETY: the CPU is in x2APIC mode, and the callers name registers it has.
            None => unsafe { arch::read_msr(msr_of(register)) as u32 },
        }
    }

    fn write(&self, register: Register, value: u32) {
        match self.memory {
            // SAFETY: as in `read`. What the callers write leads to handlers that exist, and to no memory.
            Some(base) => unsafe { address_of(base, register).write_volatile(value) },
            // SAFETY: as above.
            None => unsafe { arch::write_msr(msr_of(register), u64::from(value)) },
        }
    }

    fn enable(&self) {
        // SAFETY: every CPU in long mode has the register.
        let base = unsafe { arch::read_msr(APIC_BASE) } | BASE_ENABLE;
        // SAFETY: switches the APIC on where it is; x2APIC only where CPUID names it, and from xAPIC, as the manual
        // demands.
        unsafe {
            arch::write_msr(APIC_BASE, base);
            if self.memory.is_none() {
                arch::write_msr(APIC_BASE, base | BASE_X2APIC);
            }
        }
        let last_entry = self.read(Register::Version) >> 16 & 0xff;
        for (register, _) in LOCAL_VECTORS.into_iter().filter(|(_, needed)| last_entry >= *needed) {
            self.write(register, MASKED);
        }
        self.write(Register::TaskPriority, 0);
        self.write(Register::ErrorStatus, 0);
        self.write(Register::Spurious, SOFTWARE_ENABLE | u32::from(SPURIOUS_VECTOR));
        self.write(Register::TimerDivisor, DIVIDE_BY_16);
        self.write(Register::TimerInitialCount, 0);
        let mode = if self.has_deadline { TIMER_TO_DEADLINE } else { 0 };
        self.write(Register::Timer, u32::from(TIMER_VECTOR) | mode);
        if self.has_deadline {
            // Under xAPIC the write above is one to memory and could be overtaken by the MSR's.
            fence(SeqCst);
            // SAFETY: CPUID promised the MSR; this stops the timer.
            unsafe { arch::write_msr(TSC_DEADLINE, 0) };
        }
    }

    /// Sends a command to one CPU, after everything the calling CPU wrote before.
    fn command(&self, apic_id: u32, command: u32) {
        assert!(
            self.memory.is_none() || apic_id <= LARGEST_XAPIC_ID,
            "APIC id {apic_id} cannot be reached without x2APIC"
        );
        let interrupts = arch::save_and_disable_interrupts();
        self.wait_until_sent();
        self.write_command(Some(apic_id), command);
        arch::restore_interrupts(interrupts);
    }

    /// Writes the command register; without a destination under xAPIC only its second half.
    fn write_command(&self, apic_id: Option<u32>, command: u32) {
        // Writes to x2APIC's registers wait for no earlier write to memory by themselves: the manual wants both fences.
        fence(SeqCst);
        // SAFETY: every x86_64 CPU has the instruction; it orders, no more.
        unsafe { _mm_lfence() };
        if self.memory.is_some() {
            if let Some(apic_id) = apic_id {
                self.write(Register::CommandDestination, apic_id << 24);
            }
            self.write(Register::Command, command);
        } else {
            let value = u64::from(apic_id.unwrap_or(0)) << 32 | u64::from(command);
            // SAFETY: the CPU is in x2APIC mode; commands lead to handlers that exist, or start a CPU as `smp` prepared
            // it.
            unsafe { arch::write_msr(msr_of(Register::Command), value) };
        }
    }

    /// Waits until the last command has left this CPU. x2APIC takes the next one at any time.
    fn wait_until_sent(&self) {
        if self.memory.is_some() {
            for _ in 0..PATIENCE {
                if self.read(Register::Command) & PENDING == 0 {
                    return;
                }
            }
        }
    }

    /// Lets the timer count down for at least `length` ticks of the TSC: how many counts, and in what span.
    fn count_for(&self, length: u64) -> Option<(u64, Span)> {
        let ((), start) = Moment::of(|| self.write(Register::TimerInitialCount, u32::MAX));
        let begin = time::ticks();
        while time::ticks().saturating_sub(begin) < length {}
        let (left, end) = Moment::of(|| self.read(Register::TimerCurrentCount));
        let counts = u64::from(u32::MAX - left);
        Span::new(start, end).filter(|_| counts != 0 && left != 0).map(|span| (counts, span))
    }
}

fn address_of(base: u64, register: Register) -> *mut u32 {
    ptr::with_exposed_provenance_mut(base as usize + register as usize)
}

const fn msr_of(register: Register) -> u32 {
    0x800 + (register as u32 >> 4)
}

/// Counts per tick, times 2^32. Below a count per tick: the timer's clock divided by 16 is far slower than any TSC.
const fn rate_of(counts: u64, ticks: u64) -> u64 {
    (((counts as u128) << 32) / ticks as u128) as u64
}

/// The count that takes at least `ticks`, as far as the rate is exact; never 0, which would stop the timer.
const fn counts_in(ticks: u64, rate: u64) -> u32 {
    let counts = ((ticks as u128 * rate as u128) >> 32) + 1;
    if counts > u32::MAX as u128 { u32::MAX } else { counts as u32 }
}

// This library cannot be built as a test, so the arithmetic is checked while it is compiled.
const _: () = {
    assert!(
        msr_of(Register::Version) == 0x803
            && msr_of(Register::Command) == 0x830
            && msr_of(Register::TimerDivisor) == 0x83e
    );
    // A TSC of 3 GHz and a timer of 1 GHz divided by 16: 62,500 counts in 3,000,000 ticks.
    let rate = rate_of(62_500, 3_000_000);
    assert!(counts_in(3_000_000, rate) == 62_500, "a millisecond");
    assert!(counts_in(0, rate) == 1, "a deadline that has passed");
    assert!(counts_in(u64::MAX, rate) == u32::MAX, "as far as the timer goes");
};
