//! The privileged instructions, as small inline functions: the one folder a paravirtual back end would replace.
//!
//! Users: the rest of the unikernel. Nothing here knows what it is used for.

pub(crate) mod memory_functions;
pub(crate) mod tables;
pub(crate) mod traps;

use core::arch::asm;

use raw_cpuid::{CpuId, Hypervisor};

use x86_64::instructions::random::RdRand;
use x86_64::registers::control::{Cr0, Cr2, Cr3, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::registers::model_specific::Msr;
use x86_64::registers::rflags::{self, RFlags};
use x86_64::{VirtAddr, instructions};

/// Whether interrupts were enabled, to be restored.
#[derive(Clone, Copy)]
pub struct InterruptState(bool);

/// Disables interrupts and tells what they were.
#[inline(always)]
pub(crate) fn save_and_disable_interrupts() -> InterruptState {
    let enabled = rflags::read().contains(RFlags::INTERRUPT_FLAG);
    instructions::interrupts::disable();
    InterruptState(enabled)
}

/// Enables interrupts if they were enabled when `state` was saved.
#[inline(always)]
pub(crate) fn restore_interrupts(state: InterruptState) {
    if state.0 {
        instructions::interrupts::enable();
    }
}

/// Whether interrupts are enabled.
pub(crate) fn interrupts_enabled() -> bool {
    rflags::read().contains(RFlags::INTERRUPT_FLAG)
}

/// Enables interrupts.
pub(crate) fn enable_interrupts() {
    instructions::interrupts::enable();
}

/// Disables interrupts.
pub(crate) fn disable_interrupts() {
    instructions::interrupts::disable();
}

/// Enables interrupts and halts until one comes; nothing can come between the two.
pub(crate) fn enable_interrupts_and_halt() {
    instructions::interrupts::enable_and_hlt();
}

/// Stops this CPU for good.
pub(crate) fn stop() -> ! {
    loop {
        disable_interrupts();
        instructions::hlt();
    }
}

/// Switches on what the kernel relies on and the loader has not: floating-point exceptions of SSE are reported as such.
pub(crate) fn enable_features() {
    // SAFETY: every x86_64 CPU has SSE, and the dispatcher knows the exception.
    unsafe { Cr4::update(|flags| flags.insert(Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE)) };
}

/// Whether QEMU interprets the instructions, so that what they cost says nothing about hardware.
pub fn under_emulation() -> bool {
    CpuId::new().get_hypervisor_info().is_some_and(|info| matches!(info.identify(), Hypervisor::QEMU))
}

/// The calling CPU's APIC id: 32 bits where the CPU tells them, else 8.
pub(crate) fn apic_id() -> u32 {
    let cpuid = CpuId::new();
    let extended = cpuid.get_extended_topology_info().and_then(|mut levels| levels.next());
    let extended = extended.filter(|level| level.processors() > 0).map(|level| level.x2apic_id());
    extended.or_else(|| cpuid.get_feature_info().map(|info| u32::from(info.initial_local_apic_id()))).unwrap_or(0)
}

/// CR4, EFER and CR0 of this CPU, for another to run alike. What only says what is going on (long mode active) is left
/// out.
pub(crate) fn control_registers() -> [u64; 3] {
    let efer = Efer::read_raw() & !EferFlags::LONG_MODE_ACTIVE.bits();
    [Cr4::read_raw(), efer, Cr0::read_raw()]
}

/// 64 bits nobody can guess where the CPU has a generator of them; else from the time-stamp counter, and not secret.
pub(crate) fn random() -> u64 {
    const ATTEMPTS: usize = 10;
    let generator = RdRand::new();
    let drawn = (0..ATTEMPTS).find_map(|_| generator.and_then(RdRand::get_u64));
    // The multiplier is 2^64 over the golden ratio: it spreads the counter's low bits over all.
    drawn.unwrap_or_else(|| ticks().wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Forgets this CPU's translation of one page.
pub(crate) fn flush_page(address: u64) {
    instructions::tlb::flush(VirtAddr::new_truncate(address));
}

/// Forgets all of this CPU's translations.
pub(crate) fn flush_all_pages() {
    instructions::tlb::flush_all();
}

/// Physical address of the root of this CPU's page tables.
pub(crate) fn page_table_root() -> u64 {
    Cr3::read().0.start_address().as_u64()
}

/// The address the last page fault was about.
pub(crate) fn fault_address() -> u64 {
    Cr2::read_raw()
}

/// Reads a model-specific register.
///
/// # Safety
///
/// The register exists on this CPU.
pub(crate) unsafe fn read_msr(register: u32) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { Msr::new(register).read() }
}

/// Writes a model-specific register.
///
/// # Safety
///
/// The register exists on this CPU, and the value keeps the promises the rest of the kernel rests on.
pub(crate) unsafe fn write_msr(register: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { Msr::new(register).write(value) };
}

/// Reads a byte from an I/O port.
///
/// # Safety
///
/// Reading the port has no effect on memory safety.
pub(crate) unsafe fn read_port(port: u16) -> u8 {
    // SAFETY: the caller's promise.
    unsafe { x86_64::instructions::port::PortReadOnly::new(port).read() }
}

/// Reads four bytes from an I/O port.
///
/// # Safety
///
/// Reading the port has no effect on memory safety.
pub(crate) unsafe fn read_port_u32(port: u16) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { x86_64::instructions::port::PortReadOnly::new(port).read() }
}

/// Writes a byte to an I/O port.
///
/// # Safety
///
/// Writing the port has no effect on memory safety.
pub(crate) unsafe fn write_port(port: u16, value: u8) {
    // SAFETY: the caller's promise.
    unsafe { x86_64::instructions::port::PortWriteOnly::new(port).write(value) };
}

/// Writes two bytes to an I/O port.
///
/// # Safety
///
/// Writing the port has no effect on memory safety.
pub(crate) unsafe fn write_port_u16(port: u16, value: u16) {
    // SAFETY: the caller's promise.
    unsafe { x86_64::instructions::port::PortWriteOnly::new(port).write(value) };
}

/// Writes four bytes to an I/O port.
///
/// # Safety
///
/// Writing the port has no effect on memory safety.
pub(crate) unsafe fn write_port_u32(port: u16, value: u32) {
    // SAFETY: the caller's promise.
    unsafe { x86_64::instructions::port::PortWriteOnly::new(port).write(value) };
}

/// The time-stamp counter, read after everything before it and before everything after it.
#[inline(always)]
pub(crate) fn ticks() -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: reads a counter every CPU in long mode has; the fences order it (Intel SDM volume 2, RDTSC).
    unsafe {
        asm!("lfence", "rdtsc", "lfence", out("rax") low, out("rdx") high, options(nomem, nostack, preserves_flags));
    }
    high << 32 | low
}
