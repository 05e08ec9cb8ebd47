//! Why a boot fails, in one sentence each that says what was wrong and what to do.

use core::fmt;

use quarry_loader::PhysicalRange;
use quarry_loader::elf::ImageError;
use quarry_loader::page_tables::MapError;
use quarry_loader::start_info::StartInfoError;

/// Why the image cannot be booted.
pub(crate) enum BootError {
    /// The start info is damaged or of no use.
    StartInfo(StartInfoError),
    /// The image is none.
    Image(ImageError),
    /// The loader planned its page tables wrongly.
    Map(MapError),
    /// Something the start info refers to lies at address 0, wraps, or lies above 4 GiB.
    OutOfReach {
        /// What it is.
        what: &'static str,
        /// Where it is said to be.
        range: PhysicalRange,
    },
    /// No module was passed.
    NoImage,
    /// The image file lies where the loader runs.
    Overlap {
        /// The image file.
        image: PhysicalRange,
        /// The loader.
        loader: PhysicalRange,
    },
    /// The command line has no end.
    CommandLineTooLong,
    /// There is no ACPI.
    NoRsdp,
    /// No block of RAM is large enough.
    OutOfMemory {
        /// What the memory is for.
        what: &'static str,
        /// Bytes.
        needed: u64,
        /// Bytes of the largest free block.
        largest: u64,
        /// Bytes of RAM in the machine.
        ram: u64,
    },
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StartInfo(error) => error.fmt(f),
            Self::Image(error) => error.fmt(f),
            Self::Map(error) => error.fmt(f),
            Self::OutOfReach { what, range } => write!(
                f,
                "{what} lies at {:#x}..{:#x}, where the loader cannot read: place it above 0 and below 4 GiB",
                range.start, range.end
            ),
            Self::NoImage => write!(f, "there is no image: pass a Quarry image as the initrd (QEMU: -initrd IMAGE)"),
            Self::Overlap { image, loader } => write!(
                f,
                "the image file at {:#x}..{:#x} overlaps the loader at {:#x}..{:#x}: place the initrd elsewhere",
                image.start, image.end, loader.start, loader.end
            ),
            Self::CommandLineTooLong => write!(f, "the command line does not end within 64 KiB: make it shorter"),
            Self::NoRsdp => write!(
                f,
                "there is no ACPI root pointer (RSDP) in the start info or in the BIOS areas: boot with ACPI \
                 (QEMU: without -no-acpi, on microvm with -M microvm,acpi=on)"
            ),
            Self::OutOfMemory { what, needed, largest, ram } => write!(
                f,
                "too little memory: {what} takes {} KiB, the largest free block below 4 GiB has {} KiB of {} KiB of \
                 RAM: give the machine more (QEMU: -m {}M)",
                needed.div_ceil(1024),
                largest >> 10,
                ram >> 10,
                (ram + needed).next_power_of_two() >> 20
            ),
        }
    }
}

impl From<StartInfoError> for BootError {
    fn from(error: StartInfoError) -> Self {
        Self::StartInfo(error)
    }
}

impl From<ImageError> for BootError {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

impl From<MapError> for BootError {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}
