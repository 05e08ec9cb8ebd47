//! KVM's paravirtual clock, asked once for the TSC's rate. Source: "KVM-specific MSRs" and "KVM CPUID bits" of Linux's
//! documentation.
//!
//! Users: [`super::initialise`]. The hypervisor writes [`PAGE`] between the two writes of the MSR; nobody else touches
//! it. Its fields are valid while the version is even and the same before and after they are read.

use core::sync::atomic::Ordering::{Acquire, Relaxed};
use core::sync::atomic::{AtomicI8, AtomicU8, AtomicU32, AtomicU64, fence};

use raw_cpuid::{CpuId, Hypervisor, cpuid};

use super::NANOSECONDS_PER_SECOND;
use crate::arch;

/// `MSR_KVM_SYSTEM_TIME_NEW`: the physical address of a `struct pvclock_vcpu_time_info`; bit 0 switches it on.
const SYSTEM_TIME: u32 = 0x4b56_4d01;
const ENABLE: u64 = 1;

/// The leaf with KVM's features.
const FEATURES_LEAF: u32 = 0x4000_0001;

/// `KVM_FEATURE_CLOCKSOURCE2` in its EAX: the MSR exists.
const CLOCK_SOURCE: u32 = 1 << 3;

/// How often to look for a valid version. KVM writes the page before the instruction after the MSR's write, so once is
/// enough.
const PATIENCE: u32 = 1000;

/// `struct pvclock_vcpu_time_info`, on a page of its own.
#[repr(C, align(4096))]
struct TimeInfo {
    version: AtomicU32,
    _padding: AtomicU32,
    tsc_timestamp: AtomicU64,
    system_time: AtomicU64,
    multiplier: AtomicU32,
    shift: AtomicI8,
    flags: AtomicU8,
}

static PAGE: TimeInfo = TimeInfo {
    version: AtomicU32::new(0),
    _padding: AtomicU32::new(0),
    tsc_timestamp: AtomicU64::new(0),
    system_time: AtomicU64::new(0),
    multiplier: AtomicU32::new(0),
    shift: AtomicI8::new(0),
    flags: AtomicU8::new(0),
};

/// The TSC's rate in Hz as KVM converts it; `None` where there is no such clock.
pub(super) fn rate(physical_of: &dyn Fn(u64) -> Option<u64>) -> Option<u64> {
    if !is_offered() {
        return None;
    }
    let physical = physical_of((&raw const PAGE).addr() as u64)?;
    // SAFETY: the feature bit promises the MSR. The hypervisor writes the page and nothing else; its fields are
    // atomics.
    unsafe { arch::write_msr(SYSTEM_TIME, physical | ENABLE) };
    let conversion = read_conversion();
    // SAFETY: as above; the hypervisor leaves the page alone from here on.
    unsafe { arch::write_msr(SYSTEM_TIME, 0) };
    let (multiplier, shift) = conversion?;
    rate_of(multiplier, shift)
}

fn is_offered() -> bool {
    let is_kvm = CpuId::new().get_hypervisor_info().is_some_and(|info| info.identify() == Hypervisor::KVM);
    is_kvm && cpuid!(FEATURES_LEAF).eax & CLOCK_SOURCE != 0
}

/// The multiplier and the shift, of one version.
fn read_conversion() -> Option<(u32, i8)> {
    for _ in 0..PATIENCE {
        // Acquire: the hypervisor makes the version even after it has written the fields.
        let version = PAGE.version.load(Acquire);
        let conversion = (PAGE.multiplier.load(Relaxed), PAGE.shift.load(Relaxed));
        // The fields are read before the version is looked at again; the hypervisor makes it odd before it writes them.
        fence(Acquire);
        if version != 0 && version & 1 == 0 && PAGE.version.load(Relaxed) == version {
            return Some(conversion);
        }
    }
    None
}

/// The rate at which `ticks * 2^shift * multiplier / 2^32` is a number of nanoseconds.
const fn rate_of(multiplier: u32, shift: i8) -> Option<u64> {
    if multiplier == 0 || shift < -32 || shift > 32 {
        return None;
    }
    // Shifted up by a further 32 bits, so that no shift is negative and nothing is lost before the division.
    let scaled = ((NANOSECONDS_PER_SECOND as u128) << 64) >> (shift + 32) as u32;
    Some((scaled / multiplier as u128) as u64)
}

// This library cannot be built as a test, so the arithmetic is checked while it is compiled.
const _: () = {
    const fn is(rate: Option<u64>, expected: u64) -> bool {
        matches!(rate, Some(rate) if rate == expected)
    }
    assert!(is(rate_of(1 << 31, 1), 1_000_000_000), "a nanosecond a tick");
    assert!(is(rate_of(1 << 31, 0), 2_000_000_000), "half a nanosecond a tick");
    assert!(is(rate_of(1 << 31, -1), 4_000_000_000), "a quarter of a nanosecond a tick");
    assert!(is(rate_of(2_863_311_531, -1), 2_999_999_999), "what KVM gives for 3 GHz");
    assert!(rate_of(0, 0).is_none(), "no multiplier, no rate");
    assert!(rate_of(1 << 31, 33).is_none() && rate_of(1 << 31, i8::MIN).is_none(), "no such shift");
};
