//! Time: the time-stamp counter (TSC), how fast it runs, and durations made of it.
//!
//! Users: the log (every line's time), the scheduler's timers, the local APIC's timer, images that measure.
//!
//! The TSC is the only clock. It is taken to run at one rate on all CPUs and to agree between them, as the hypervisors
//! Quarry runs on arrange; what is subtracted here saturates, so a CPU that lags a little sees no time rather than
//! centuries.
//!
//! # Theory
//!
//! [`initialise`] runs once, on the first CPU, with interrupts off and before any other CPU starts. What it found is
//! behind a `Once` and never changes. So everything else may be called on any CPU and in any context, also before: then
//! no time has passed, and the rate is [`ASSUMED_RATE`].

mod cpuid;
mod kvm_clock;
pub(crate) mod measure;
mod pit;

use core::fmt;
use core::ops::RangeInclusive;
use core::time::Duration;

use spin::Once;

use crate::arch;

/// Ticks a second where nothing tells: 1 GHz.
const ASSUMED_RATE: u64 = 1_000_000_000;

/// Ticks a second that can be true. Anything else is a source that does not know.
const PLAUSIBLE_RATES: RangeInclusive<u64> = 10_000_000..=100_000_000_000;

const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;

static CLOCK: Once<Clock> = Once::new();

struct Clock {
    /// The TSC when the loader was entered.
    start: u64,
    ticks_per_second: u64,
    method: Method,
}

/// How the TSC's rate was found. The first that gives a plausible rate is used, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The hypervisor says it: CPUID leaf `0x4000_0010`.
    HypervisorLeaf,
    /// The CPU says its crystal's frequency and the TSC's multiple of it: CPUID leaf 0x15.
    CrystalRatio,
    /// The CPU says its base frequency, at which its TSC runs: CPUID leaf 0x16.
    BaseFrequency,
    /// KVM says how it converts the TSC to nanoseconds: the paravirtual clock.
    KvmClock,
    /// Measured against the programmable interval timer (PIT).
    IntervalTimer,
    /// Nothing tells. 1 GHz is assumed, and no duration can be trusted.
    Assumed,
}

impl fmt::Display for Method {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::HypervisorLeaf => "hypervisor's CPUID leaf",
            Self::CrystalRatio => "CPUID leaf 0x15",
            Self::BaseFrequency => "CPUID leaf 0x16",
            Self::KvmClock => "kvmclock",
            Self::IntervalTimer => "PIT",
            Self::Assumed => "assumed",
        })
    }
}

/// Finds the TSC's rate. Called once, on the first CPU, with interrupts off; a later call does nothing.
///
/// `entry_tsc` is the TSC at which the uptime is 0. `physical_of` gives the physical address behind a virtual one; the
/// paravirtual clock needs it for a page of the image. Takes at most some tens of milliseconds, most where only the
/// PIT tells. Warns in the log when it has to assume.
pub(crate) fn initialise(entry_tsc: u64, physical_of: impl Fn(u64) -> Option<u64>) {
    CLOCK.call_once(|| {
        let (ticks_per_second, method) = find_rate(&physical_of).unwrap_or_else(|| {
            log::warn!(
                "nothing tells how fast the TSC runs: 1 GHz is assumed, so durations are wrong by an unknown factor"
            );
            (ASSUMED_RATE, Method::Assumed)
        });
        Clock { start: entry_tsc, ticks_per_second, method }
    });
}

fn find_rate(physical_of: &dyn Fn(u64) -> Option<u64>) -> Option<(u64, Method)> {
    let plausible =
        |rate: Option<u64>, method| rate.filter(|rate| PLAUSIBLE_RATES.contains(rate)).map(|rate| (rate, method));
    plausible(cpuid::hypervisor_rate(), Method::HypervisorLeaf)
        .or_else(|| plausible(cpuid::crystal_rate(), Method::CrystalRatio))
        .or_else(|| plausible(cpuid::base_rate(), Method::BaseFrequency))
        .or_else(|| plausible(kvm_clock::rate(physical_of), Method::KvmClock))
        .or_else(|| plausible(pit::rate(), Method::IntervalTimer))
}

/// How the TSC's rate was found.
pub fn method() -> Method {
    CLOCK.get().map_or(Method::Assumed, |clock| clock.method)
}

/// The TSC's rate in Hz.
pub fn ticks_per_second() -> u64 {
    CLOCK.get().map_or(ASSUMED_RATE, |clock| clock.ticks_per_second)
}

/// The TSC, read after everything before it and before everything after it.
#[inline(always)]
pub fn ticks() -> u64 {
    arch::ticks()
}

/// Time since the loader was entered; 0 before the TSC's rate is known.
pub fn uptime() -> Duration {
    CLOCK.get().map_or(Duration::ZERO, |clock| to_duration(ticks().saturating_sub(clock.start), clock.ticks_per_second))
}

/// How long a number of ticks takes, to the nanosecond below.
pub fn duration_of(ticks: u64) -> Duration {
    to_duration(ticks, ticks_per_second())
}

/// How many ticks take at least a duration; `u64::MAX` where there are not so many.
pub fn ticks_in(duration: Duration) -> u64 {
    to_ticks(duration, ticks_per_second())
}

/// Waits without giving up the CPU. Interrupts are handled meanwhile if they are enabled.
///
/// There is no `pause` in the loop: the waits are short, and QEMU's interpreter leaves its CPU loop at every one, which
/// makes them endless where virtual time counts instructions (`-icount`).
pub fn spin_for(duration: Duration) {
    let (start, length) = (ticks(), ticks_in(duration));
    while ticks().saturating_sub(start) < length {}
}

const fn to_duration(ticks: u64, rate: u64) -> Duration {
    // The remainder is below the rate, so the nanoseconds are below a second.
    let nanoseconds = (ticks % rate) as u128 * NANOSECONDS_PER_SECOND as u128 / rate as u128;
    Duration::new(ticks / rate, nanoseconds as u32)
}

const fn to_ticks(duration: Duration, rate: u64) -> u64 {
    let whole = duration.as_secs() as u128 * rate as u128;
    let part = (duration.subsec_nanos() as u128 * rate as u128).div_ceil(NANOSECONDS_PER_SECOND as u128);
    let ticks = whole + part;
    if ticks > u64::MAX as u128 { u64::MAX } else { ticks as u64 }
}

// This library cannot be built as a test, so what is plain arithmetic is checked while it is compiled.
const _: () = {
    const YEAR: u64 = 365 * 86_400;
    const fn same(left: Duration, right: Duration) -> bool {
        left.as_nanos() == right.as_nanos()
    }
    assert!(same(to_duration(3, 2_000_000_000), Duration::from_nanos(1)), "durations round down");
    assert!(same(to_duration(u64::MAX, 1 << 36), Duration::new((1 << 28) - 1, 999_999_999)), "no overflow");
    assert!(same(to_duration(100 * YEAR * 3_000_000_000, 3_000_000_000), Duration::new(100 * YEAR, 0)), "a century");
    assert!(to_ticks(Duration::from_nanos(1), 1_500_000_000) == 2, "ticks round up");
    assert!(
        to_ticks(Duration::new(100 * YEAR, 500_000_000), 3_000_000_000) == 100 * YEAR * 3_000_000_000 + 1_500_000_000
    );
    assert!(to_ticks(Duration::MAX, 10_000_000) == u64::MAX, "saturates");
    assert!(to_ticks(Duration::ZERO, 3_000_000_000) == 0);
};
