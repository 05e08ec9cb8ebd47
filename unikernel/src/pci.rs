//! PCI functions: found, given addresses, mapped, and told which interrupt to send.
//!
//! Used by drivers, when an image asks for a device for the first time. Configuration space is reached through the two
//! I/O ports every PC has for it, which need nothing of the firmware; of machines without PCI (`microvm`) it reads as
//! empty. Bus 0 alone is looked at: there QEMU puts what `-device` adds. Source: PCI Local Bus Specification 3.0,
//! chapter 6; MSI-X there in section 6.8.2; Intel SDM volume 3, "Message Signalled Interrupts".
//!
//! Firmware as small as `qboot` gives devices no addresses, so those that have none get one here, from a part of the
//! hole below 4 GiB that PCs keep free of memory.
//!
//! # Theory
//!
//! A configuration register takes two ports, so each access holds [`CONFIGURATION`]. Addresses are given out and mapped
//! by whoever sets up a device, one after another, for good: [`NEXT_ADDRESS`] and [`NEXT_PAGE`] only grow.

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use virtio_drivers::transport::pci::bus::{
    BarInfo, Command, ConfigurationAccess, DeviceFunction, DeviceFunctionInfo, PciRoot,
};

use crate::arch::{read_port_u32, write_port_u32};
use crate::layout::{DEVICE_WINDOW, PAGE_BYTES};
use crate::memory::page_table_frames;
use crate::paging::{self, Access, OutOfFrames};
use crate::sync::InterruptLock;

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;

/// Where devices without an address get theirs: on PCs memory ends below, and interrupt controllers begin above.
const FREE_ADDRESSES: core::ops::Range<u64> = 0xfd00_0000..0xfe00_0000;

/// Base address registers of a function.
const BARS: u8 = 6;

/// Capability of message-signalled interrupts.
const MSI_X: u8 = 0x11;
const MSI_X_ENABLE: u32 = 1 << 31;
const MSI_X_MASK_ALL: u32 = 1 << 30;

/// A message to this address and those above, by the APIC id from bit 12 on, interrupts a CPU; its data is the vector.
const MESSAGE_ADDRESS: u32 = 0xfee0_0000;

/// Larger ids do not fit the address.
const LARGEST_APIC_ID: u32 = 254;

static CONFIGURATION: InterruptLock<()> = InterruptLock::new(());

/// The next address to give to a device.
static NEXT_ADDRESS: AtomicU64 = AtomicU64::new(FREE_ADDRESSES.start);

/// The next page of the device window to map at; the first is the local APIC's.
static NEXT_PAGE: AtomicU64 = AtomicU64::new(DEVICE_WINDOW.start + PAGE_BYTES);

/// Why a function cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PciError {
    /// Its registers say what no registers can.
    Malformed,
    /// The addresses devices can have here are used up.
    NoAddress,
    /// There is no memory for page tables.
    NoMemory,
    /// It sends no message-signalled interrupts, or none to this CPU.
    NoInterrupts,
}

impl From<OutOfFrames> for PciError {
    fn from(_: OutOfFrames) -> Self {
        Self::NoMemory
    }
}

/// Configuration space, by ports.
pub(crate) struct Ports;

impl Ports {
    fn select(function: DeviceFunction, register: u8) {
        let DeviceFunction { bus, device, function } = function;
        let place =
            u32::from(bus) << 16 | u32::from(device) << 11 | u32::from(function) << 8 | u32::from(register & !3);
        // SAFETY: selects a register, no more.
        unsafe { write_port_u32(ADDRESS_PORT, ENABLE | place) };
    }
}

impl ConfigurationAccess for Ports {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        let _selection = CONFIGURATION.lock();
        Self::select(function, register);
        // SAFETY: reading configuration space has no effect on memory.
        unsafe { read_port_u32(DATA_PORT) }
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, data: u32) {
        let _selection = CONFIGURATION.lock();
        Self::select(function, register);
        // SAFETY: what is written here gives a device addresses that nobody else has, switches it on, and has it send
        // interrupts that have a handler.
        unsafe { write_port_u32(DATA_PORT, data) };
    }

    unsafe fn unsafe_clone(&self) -> Self {
        Self
    }
}

/// The functions of bus 0.
pub(crate) fn functions() -> impl Iterator<Item = (DeviceFunction, DeviceFunctionInfo)> {
    PciRoot::new(Ports).enumerate_bus(0)
}

/// A function's registers in memory: one of its base address registers, mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    bar: u8,
    physical: u64,
    bytes: u64,
    mapped: u64,
}

impl Region {
    /// Where a physical address of the region is mapped; `None` for one of another.
    fn find(&self, physical: u64, bytes: u64) -> Option<*mut u8> {
        let offset = physical.checked_sub(self.physical)?;
        let fits = offset.checked_add(bytes)? <= self.bytes;
        fits.then(|| ptr::with_exposed_provenance_mut((self.mapped + offset) as usize))
    }
}

/// Regions of all functions that were opened.
const MOST_REGIONS: usize = 64;
static MAPPED: InterruptLock<[Option<Region>; MOST_REGIONS]> = InterruptLock::new([None; MOST_REGIONS]);

/// Where a physical address of any opened function's registers is mapped.
pub(crate) fn mapped(physical: u64, bytes: u64) -> Option<*mut u8> {
    MAPPED.lock().iter().flatten().find_map(|region| region.find(physical, bytes))
}

/// A function that is switched on.
pub(crate) struct Function {
    /// Whose configuration space.
    pub(crate) root: PciRoot<Ports>,
    /// Which.
    pub(crate) place: DeviceFunction,
    /// Its registers in memory.
    regions: [Option<Region>; BARS as usize],
}

impl Function {
    /// Gives the function's registers addresses where they have none, maps them, and switches it on.
    pub(crate) fn open(place: DeviceFunction) -> Result<Self, PciError> {
        let mut root = PciRoot::new(Ports);
        let bars = root.bars(place).map_err(|_| PciError::Malformed)?;
        let mut regions = [None; BARS as usize];
        for (bar, info) in (0..BARS).zip(&bars) {
            let Some((address, bytes)) = info.as_ref().and_then(BarInfo::memory_address_size) else { continue };
            let wide = info.as_ref().is_some_and(BarInfo::takes_two_entries);
            let physical = if address == 0 { give_address(&mut root, place, bar, wide, bytes)? } else { address };
            let region = Region { bar, physical, bytes, mapped: map(physical, bytes)? };
            *MAPPED.lock().iter_mut().find(|place| place.is_none()).ok_or(PciError::NoAddress)? = Some(region);
            regions[usize::from(bar)] = Some(region);
        }
        let (_, command) = root.get_status_command(place);
        root.set_command(place, command | Command::MEMORY_SPACE | Command::BUS_MASTER);
        Ok(Self { root, place, regions })
    }

    /// So many bytes at an offset of a base address register's region.
    pub(crate) fn registers(&self, bar: u8, offset: u32, bytes: u64) -> Option<*mut u8> {
        let region = self.regions.iter().flatten().find(|region| region.bar == bar)?;
        region.find(region.physical + u64::from(offset), bytes)
    }

    /// Has the first of the function's messages interrupt a CPU with that vector, and switches messages on.
    pub(crate) fn enable_messages(&mut self, apic_id: u32, vector: u8) -> Result<(), PciError> {
        let capability = self.root.capabilities(self.place).find(|capability| capability.id == MSI_X);
        let capability = capability.filter(|_| apic_id <= LARGEST_APIC_ID).ok_or(PciError::NoInterrupts)?;
        let table = Ports.read_word(self.place, capability.offset + 4);
        // The first entry: address, upper half of it, data, and a word whose lowest bit masks it.
        let entry = self.registers((table & 7) as u8, table & !7, 16).ok_or(PciError::Malformed)?.cast::<u32>();
        let words = [MESSAGE_ADDRESS | apic_id << 12, 0, u32::from(vector), 0];
        for (index, word) in words.into_iter().enumerate() {
            // SAFETY: the entry is 16 bytes of the device's registers, mapped, and aligned to 8 by the specification.
            unsafe { entry.add(index).write_volatile(word) };
        }
        let control = Ports.read_word(self.place, capability.offset);
        Ports.write_word(self.place, capability.offset, (control | MSI_X_ENABLE) & !MSI_X_MASK_ALL);
        Ok(())
    }
}

/// Gives a base address register's region an address of its own, aligned to its size, which is a power of two.
fn give_address(
    root: &mut PciRoot<Ports>,
    place: DeviceFunction,
    bar: u8,
    wide: bool,
    bytes: u64,
) -> Result<u64, PciError> {
    let aligned = |next: u64| next.checked_next_multiple_of(bytes.max(PAGE_BYTES));
    let taken = NEXT_ADDRESS.fetch_update(Relaxed, Relaxed, |next| {
        aligned(next)?.checked_add(bytes).filter(|end| *end <= FREE_ADDRESSES.end)
    });
    let address = taken.ok().and_then(aligned).ok_or(PciError::NoAddress)?;
    if wide {
        root.set_bar_64(place, bar, address);
    } else {
        root.set_bar_32(place, bar, address as u32);
    }
    Ok(address)
}

/// Maps a region of registers at pages of its own.
fn map(physical: u64, bytes: u64) -> Result<u64, PciError> {
    let first = physical & !(PAGE_BYTES - 1);
    let pages = (physical + bytes - first).div_ceil(PAGE_BYTES);
    let mapped = NEXT_PAGE.fetch_add(pages * PAGE_BYTES, Relaxed);
    if mapped + pages * PAGE_BYTES > DEVICE_WINDOW.end {
        return Err(PciError::NoAddress);
    }
    let mut frames = page_table_frames();
    for page in 0..pages {
        let offset = page * PAGE_BYTES;
        paging::map(mapped + offset, first + offset, Access::Device, &mut frames)?;
    }
    Ok(mapped + (physical - first))
}
