//! The handoff contract between the loader and an image: [`BootInfo`].
//!
//! The loader (this package's binary) fills it in; an image's entry code in `quarry-unikernel` reads it once at boot.
//! Nothing else knows it. The modules are the loader's logic: what can be said without touching the machine, tested on
//! the host.
//!
//! All addresses that cross the boundary are physical, so that neither side depends on the other's mappings; the image
//! reaches them through the direct map. `quarry-build-helper` links images at [`IMAGE_BASE`], where the loader maps
//! them, so that addresses and symbols of the file are those of the running image.
//!
//! # State of the CPU at the image's entry
//!
//! The image's ELF entry point is called as `extern "sysv64" fn(boot_info_physical: u64) -> !` with
//!
//! - long mode, CR0.WP and EFER.NXE set, CR4.OSFXSR set, four levels of page tables, interrupts off;
//! - the image mapped W^X at [`BootInfo::image_virtual`], all RAM, ACPI memory, reserved memory that
//!   touches it, the first MiB and the RSDP mapped writable and not executable at [`DIRECT_MAP_BASE`] plus the physical
//!   address; nothing at address 0; device memory not mapped;
//! - `rsp` inside the direct map on a loader-provided stack ([`BootInfo::boot_stack`]), aligned as the System V ABI
//!   wants, with a return address of 0;
//! - the code that made the switch still identity-mapped at [`BootInfo::loader`]; the image unmaps it. Its exception
//!   handlers, GDT and TSS are in force until the image loads its own: until then a fault ends in one clear line.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod bytes;
pub mod elf;
pub mod memory_map;
pub mod page_tables;
pub mod rsdp;
pub mod start_info;

/// Virtual address at which physical address 0 would appear in the direct map.
pub const DIRECT_MAP_BASE: u64 = 0xffff_8000_0000_0000;

/// Size of the direct map in bytes. RAM beyond it is left out of the memory map.
pub const DIRECT_MAP_SIZE: u64 = 1 << 46;

/// Virtual address at which images are mapped: the top 2 GiB, so that 32-bit displacements reach everything.
pub const IMAGE_BASE: u64 = 0xffff_ffff_8000_0000;

/// First field of every [`BootInfo`]; `QUARRY` and two digits in ASCII.
pub const MAGIC: u64 = u64::from_be_bytes(*b"QUARRY01");

/// Version of the layout of [`BootInfo`]; an image refuses any other.
pub const VERSION: u32 = 1;

/// Capacity of the memory map. The loader merges neighbours; of a map that is longer still it leaves the smallest
/// regions out, and says so.
pub const MAX_REGIONS: usize = 256;

/// A range of physical addresses, in bytes; `start` inclusive, `end` exclusive. Empty when equal.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhysicalRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl PhysicalRange {
    /// In bytes.
    pub const fn size(self) -> u64 {
        self.end - self.start
    }

    /// Whether some byte lies in both.
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end && self.start < self.end && other.start < other.end
    }
}

/// What a region of physical memory holds when the image starts.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionKind {
    /// RAM nobody uses.
    Usable = 1,
    /// Firmware says: hands off.
    Reserved = 2,
    /// ACPI tables; RAM once they have been read.
    AcpiReclaimable = 3,
    /// ACPI firmware memory that must be kept.
    AcpiNonVolatile = 4,
    /// RAM firmware found to be bad.
    Bad = 5,
    /// RAM in use by the boot: the loader, its page tables, the loaded image, the image file, the boot information,
    /// the command line. The fields of [`BootInfo`] say which is which.
    Boot = 6,
}

/// One region of the physical memory map. Regions are sorted by address and do not overlap.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Where.
    pub range: PhysicalRange,
    /// What.
    pub kind: RegionKind,
}

/// What the loader tells the image. Lives in a `Boot` region of its own, so it stays readable.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct BootInfo {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u32,
    /// Number of valid entries of [`Self::regions`].
    pub region_count: u32,
    /// The physical memory map: the first [`Self::region_count`] entries.
    pub regions: [Region; MAX_REGIONS],
    /// Physical address of ACPI's root pointer (RSDP); never 0.
    pub rsdp: u64,
    /// The kernel command line, without its terminating zero.
    pub command_line: PhysicalRange,
    /// The image as a file (the ELF QEMU loaded as initrd), kept for its symbols.
    pub image_file: PhysicalRange,
    /// The image as it was loaded and relocated.
    pub image: PhysicalRange,
    /// Virtual address of the image's first byte.
    pub image_virtual: u64,
    /// The loader itself, still identity-mapped.
    pub loader: PhysicalRange,
    /// Page tables the loader built, in use; contiguous.
    pub page_tables: PhysicalRange,
    /// Root of the page tables (the value of CR3).
    pub page_table_root: u64,
    /// One past the last physical byte the direct map covers.
    pub direct_map_end: u64,
    /// The stack the image starts on; free for other use once the image has left it.
    pub boot_stack: PhysicalRange,
    /// Time-stamp counter when the loader was entered: measures the boot.
    pub entry_tsc: u64,
}

impl BootInfo {
    /// The valid part of the memory map.
    pub fn regions(&self) -> &[Region] {
        &self.regions[..self.region_count as usize]
    }
}
