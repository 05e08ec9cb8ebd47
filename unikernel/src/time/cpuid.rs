//! What CPUID says about the TSC's rate. Sources: Intel SDM volume 2 (CPUID, leaves 0x15 and 0x16) and volume 3,
//! "Determining the Processor Base Frequency"; for the hypervisor's leaf `VMware`'s interface, which KVM and QEMU
//! follow.
//!
//! Users: [`super::initialise`]. A rate of 0 or none at all means: not told.

use raw_cpuid::CpuId;

/// From the hypervisor: exact, for it knows how it scales the TSC.
pub(super) fn hypervisor_rate() -> Option<u64> {
    CpuId::new().get_hypervisor_info()?.tsc_frequency().map(|kilohertz| u64::from(kilohertz) * 1000)
}

/// From the crystal's frequency and the TSC's multiple of it.
pub(super) fn crystal_rate() -> Option<u64> {
    CpuId::new().get_tsc_info()?.tsc_frequency()
}

/// From the base frequency, for CPUs that tell the ratio but not the crystal's frequency: there the crystal's is the
/// base frequency divided by the ratio, so that the TSC runs at the base frequency. Without a ratio the two are not
/// related.
pub(super) fn base_rate() -> Option<u64> {
    let cpuid = CpuId::new();
    cpuid.get_tsc_info().filter(|tsc| tsc.numerator() != 0 && tsc.denominator() != 0)?;
    cpuid.get_processor_frequency_info().map(|info| u64::from(info.processor_base_frequency()) * 1_000_000)
}
