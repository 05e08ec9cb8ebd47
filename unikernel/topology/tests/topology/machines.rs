//! Machines whose tables are in `tests/tables` (its README says where they come from). Used by the tests of what those
//! tables say, and as what mutation begins with.

use quarry_topology::Tables;

const GIB: u64 = 1 << 30;

macro_rules! table {
    ($folder:literal, $table:literal) => {
        Some(include_bytes!(concat!("../tables/", $folder, "/", $table, ".bin")).as_slice())
    };
}

macro_rules! machine {
    ($folder:literal) => {
        Tables {
            madt: table!($folder, "apic"),
            srat: table!($folder, "srat"),
            slit: table!($folder, "slit"),
            hmat: None,
        }
    };
}

pub(crate) const X10DAI: Tables<'static> = machine!("x10dai-4a64");
pub(crate) const H8DGU: Tables<'static> = machine!("h8dgu-57ed");
pub(crate) const ALL_SERIES: Tables<'static> = machine!("all-series-6b15");
pub(crate) const PROLIANT: Tables<'static> = Tables {
    madt: table!("proliant-dl360-g7-60dc", "apic"),
    srat: table!("proliant-dl360-g7-60dc", "srat"),
    slit: None,
    hmat: None,
};
pub(crate) const QEMU: Tables<'static> = Tables { hmat: table!("qemu-q35-hmat", "hmat"), ..machine!("qemu-q35-hmat") };

// Memory maps that agree with the tables, start and end in bytes; the firmware's own are not part of the collection.
pub(crate) const X10DAI_RAM: &[(u64, u64)] = &[(0, 0x9_d000), (0x10_0000, 0x7a00_0000), (4 * GIB, 0x28_8000_0000)];
pub(crate) const PROLIANT_RAM: &[(u64, u64)] = &[(0, 0x9_f400), (0x10_0000, 0xdf60_0000), (4 * GIB, 0x30_2000_0000)];
pub(crate) const H8DGU_RAM: &[(u64, u64)] = &[(0, 0xa_0000), (0x10_0000, 0xdfd0_0000), (4 * GIB, 0x12_2000_0000)];
pub(crate) const ALL_SERIES_RAM: &[(u64, u64)] = &[(0, 0x9_c800), (0x10_0000, 0xb000_0000), (4 * GIB, 0x10_4000_0000)];
/// As `SeaBIOS` has it: the last 128 KiB hold the tables themselves.
pub(crate) const QEMU_RAM: &[(u64, u64)] = &[(0, 0x9_fc00), (0x10_0000, 0x2ffe_0000)];

/// One of them, with all that discovery is given.
pub(crate) struct Known {
    pub(crate) name: &'static str,
    pub(crate) tables: Tables<'static>,
    pub(crate) ram: &'static [(u64, u64)],
    pub(crate) boot_apic_id: u32,
}

pub(crate) const MACHINES: [Known; 5] = [
    Known { name: "x10dai", tables: X10DAI, ram: X10DAI_RAM, boot_apic_id: 0 },
    Known { name: "proliant", tables: PROLIANT, ram: PROLIANT_RAM, boot_apic_id: 0 },
    Known { name: "h8dgu", tables: H8DGU, ram: H8DGU_RAM, boot_apic_id: 16 },
    Known { name: "all-series", tables: ALL_SERIES, ram: ALL_SERIES_RAM, boot_apic_id: 0 },
    Known { name: "qemu", tables: QEMU, ram: QEMU_RAM, boot_apic_id: 0 },
];
