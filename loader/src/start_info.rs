//! The PVH start info: what the hypervisor or firmware hands to the loader.
//!
//! Source: Xen's `public/arch-x86/hvm/start_info.h`. The same structure comes from QEMU, Firecracker and
//! cloud-hypervisor. Version 0 ends before the memory map. Used by the loader's binary, which reads the physical memory
//! the addresses here point to.

use core::fmt;

use crate::PhysicalRange;
use crate::bytes::{u32_at, u64_at};

/// First word of every start info.
pub const MAGIC: u32 = 0x336e_c578;

/// Most memory map entries that are believed. Firmware passes tens.
pub const MAX_MEMORY_MAP_ENTRIES: u32 = 4096;

/// Most modules that are believed. The loader uses one.
pub const MAX_MODULES: u32 = 64;

/// The start info, with the addresses of what it refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartInfo {
    /// Number of modules (initial RAM disks); the first is the image.
    pub module_count: u32,
    /// Physical address of [`Self::module_count`] entries of [`ModuleEntry::SIZE`] bytes.
    pub modules: u64,
    /// Physical address of the zero-terminated command line; 0 when there is none.
    pub command_line: u64,
    /// Physical address of ACPI's root pointer; 0 when the hypervisor does not say.
    pub rsdp: u64,
    /// Number of memory map entries.
    pub memory_map_entry_count: u32,
    /// Physical address of [`Self::memory_map_entry_count`] entries of [`MemoryMapEntry::SIZE`] bytes.
    pub memory_map: u64,
}

/// Why a start info cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartInfoError {
    /// The magic number is another.
    BadMagic(u32),
    /// Version 0, or a version 1 without entries.
    NoMemoryMap {
        /// The version found.
        version: u32,
    },
    /// A count nobody means.
    Implausible {
        /// What is counted.
        what: &'static str,
        /// The count.
        count: u32,
    },
}

impl StartInfo {
    /// Size of version 1 in bytes; version 0 has 40.
    pub const SIZE: usize = 56;

    /// Reads a start info of version 0 or later. Bytes missing at the end count as zero.
    ///
    /// # Errors
    ///
    /// When the magic is wrong, there is no memory map, or a count is beyond reason.
    pub fn parse(bytes: &[u8]) -> Result<Self, StartInfoError> {
        let word = |offset| u32_at(bytes, offset).unwrap_or(0);
        let address = |offset| u64_at(bytes, offset).unwrap_or(0);
        let (magic, version) = (word(0), word(4));
        if magic != MAGIC {
            return Err(StartInfoError::BadMagic(magic));
        }
        let info = Self {
            module_count: word(12),
            modules: address(16),
            command_line: address(24),
            rsdp: address(32),
            memory_map: address(40),
            memory_map_entry_count: word(48),
        };
        if version == 0 || info.memory_map == 0 || info.memory_map_entry_count == 0 {
            return Err(StartInfoError::NoMemoryMap { version });
        }
        for (what, count, most) in [
            ("memory map entries", info.memory_map_entry_count, MAX_MEMORY_MAP_ENTRIES),
            ("modules", info.module_count, MAX_MODULES),
        ] {
            if count > most {
                return Err(StartInfoError::Implausible { what, count });
            }
        }
        Ok(info)
    }
}

impl fmt::Display for StartInfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadMagic(magic) => write!(
                f,
                "the PVH start info has magic {magic:#x} instead of {MAGIC:#x}: boot by PVH, and keep the command line \
                 below 4000 bytes (a longer one overwrites the start info on some firmware)"
            ),
            Self::NoMemoryMap { version } => write!(
                f,
                "the PVH start info (version {version}) has no memory map: use a hypervisor that passes version 1, \
                 such as QEMU 4.0 or later"
            ),
            Self::Implausible { what, count } => write!(
                f,
                "the PVH start info claims {count} {what}, so it is damaged: keep the command line below 4000 bytes \
                 (a longer one overwrites the start info on some firmware)"
            ),
        }
    }
}

/// A module: a file the hypervisor put into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModuleEntry {
    /// Where the file is.
    pub range: PhysicalRange,
}

impl ModuleEntry {
    /// Size of an entry in bytes.
    pub const SIZE: usize = 32;

    /// Reads an entry; `None` when bytes are missing.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let start = u64_at(bytes, 0)?;
        Some(Self { range: PhysicalRange { start, end: start.saturating_add(u64_at(bytes, 8)?) } })
    }
}

/// A range of the memory map as firmware states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryMapEntry {
    /// First byte.
    pub address: u64,
    /// Length in bytes.
    pub size: u64,
    /// Type as in E820: 1 is RAM.
    pub kind: u32,
}

impl MemoryMapEntry {
    /// Size of an entry in bytes.
    pub const SIZE: usize = 24;

    /// Reads an entry; `None` when bytes are missing.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self { address: u64_at(bytes, 0)?, size: u64_at(bytes, 8)?, kind: u32_at(bytes, 16)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(version: u32) -> [u8; StartInfo::SIZE] {
        let mut bytes = [0; StartInfo::SIZE];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        bytes[12] = 1;
        bytes[16..24].copy_from_slice(&0x7000u64.to_le_bytes());
        bytes[24..32].copy_from_slice(&0x2_0000u64.to_le_bytes());
        bytes[32..40].copy_from_slice(&0xe_0000u64.to_le_bytes());
        if version > 0 {
            bytes[40..48].copy_from_slice(&0x8000u64.to_le_bytes());
            bytes[48..52].copy_from_slice(&7u32.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn version_1_is_read_in_full() {
        let expected = StartInfo {
            module_count: 1,
            modules: 0x7000,
            command_line: 0x2_0000,
            rsdp: 0xe_0000,
            memory_map_entry_count: 7,
            memory_map: 0x8000,
        };
        assert_eq!(StartInfo::parse(&bytes(1)), Ok(expected));
        assert_eq!(StartInfo::parse(&bytes(2)), Ok(expected), "later versions only append");
    }

    #[test]
    fn version_0_is_told_to_lack_the_memory_map() {
        assert_eq!(StartInfo::parse(&bytes(0)[..40]), Err(StartInfoError::NoMemoryMap { version: 0 }));
        // What follows a version 0 structure in memory is not part of it.
        let mut followed = bytes(1);
        followed[4] = 0;
        assert_eq!(StartInfo::parse(&followed), Err(StartInfoError::NoMemoryMap { version: 0 }));
    }

    #[test]
    fn damage_is_recognised() {
        let mut damaged = bytes(1);
        damaged[51] = 0x61;
        assert!(matches!(
            StartInfo::parse(&damaged),
            Err(StartInfoError::Implausible { what: "memory map entries", .. })
        ));
        damaged[0] = 0;
        assert!(matches!(StartInfo::parse(&damaged), Err(StartInfoError::BadMagic(_))));
        assert!(matches!(StartInfo::parse(&[]), Err(StartInfoError::BadMagic(0))));
    }

    #[test]
    fn entries_are_read_and_short_ones_refused() {
        let mut entry = [0; ModuleEntry::SIZE];
        entry[..8].copy_from_slice(&0x1000u64.to_le_bytes());
        entry[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        let range = PhysicalRange { start: 0x1000, end: u64::MAX };
        assert_eq!(ModuleEntry::parse(&entry), Some(ModuleEntry { range }));
        assert_eq!(ModuleEntry::parse(&entry[..15]), None);
        let map = MemoryMapEntry { address: 0x1000, size: u64::MAX, kind: 0 };
        assert_eq!(MemoryMapEntry::parse(&entry), Some(map));
        assert_eq!(MemoryMapEntry::parse(&entry[..19]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..80), magic: bool) {
            let mut bytes = bytes;
            if magic && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
            }
            if let Ok(info) = StartInfo::parse(&bytes) {
                prop_assert!(info.memory_map_entry_count <= MAX_MEMORY_MAP_ENTRIES);
            }
        }
    }
}
