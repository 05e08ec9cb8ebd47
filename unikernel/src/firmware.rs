//! Finds the ACPI tables the topology is read from.
//!
//! Used once by the boot. The `acpi` crate walks from the root pointer to the tables; what their entries say is
//! `quarry-topology`'s to judge, from bytes, and so is their checksum. Firmware may name addresses where nothing is:
//! what lies outside the memory the loader mapped reads as an empty table.

use core::ptr::NonNull;
use core::{mem, slice};

use acpi::sdt::{SdtHeader, Signature};
use acpi::{AcpiHandler, AcpiResult, AcpiTable, AcpiTables, PhysicalMapping};
use quarry_topology::Tables;

use crate::layout::{PAGE_BYTES, direct};
use crate::paging;

/// The tables, found through the root pointer at physical address `rsdp`. A machine without them has no such tables.
///
/// # Safety
///
/// `rsdp` is the address the loader found a root pointer at, and the memory of the tables is not written to while the
/// result is in use.
pub(crate) unsafe fn find_tables(rsdp: u64) -> Tables<'static> {
    // SAFETY: the loader checked the root pointer and mapped it.
    match unsafe { AcpiTables::from_rsdp(DirectMap, rsdp as usize) } {
        Ok(tables) => Tables {
            madt: bytes::<Madt>(&tables),
            srat: bytes::<Srat>(&tables),
            slit: bytes::<Slit>(&tables),
            hmat: bytes::<Hmat>(&tables),
        },
        Err(error) => {
            log::warn!(
                "ACPI: the root table at {rsdp:#x} cannot be read ({error:?}); the machine is taken to have no tables"
            );
            Tables::default()
        }
    }
}

fn bytes<T: AcpiTable>(tables: &AcpiTables<DirectMap>) -> Option<&'static [u8]> {
    let table = tables.find_table::<T>().ok()?;
    let start = table.physical_start() as u64;
    let length = mapped_bytes(start, table.region_length());
    let address = core::ptr::with_exposed_provenance::<u8>(direct(start) as usize);
    // SAFETY: as many bytes from the table's start are mapped, and nobody writes to them (`find_tables`' contract).
    Some(unsafe { slice::from_raw_parts(address, length) })
}

/// How many of the bytes at a physical address the loader mapped.
fn mapped_bytes(start: u64, bytes: usize) -> usize {
    let end = start.saturating_add(bytes as u64);
    let first_page = start & !(PAGE_BYTES - 1);
    let missing = (first_page..end).step_by(PAGE_BYTES as usize).find(|&page| !is_mapped(page));
    (missing.unwrap_or(end).max(start) - start) as usize
}

fn is_mapped(physical: u64) -> bool {
    physical < quarry_loader::DIRECT_MAP_SIZE && paging::is_readable(direct(physical))
}

/// What is read in place of something that is not all mapped: no table has this signature. Only its header is looked
/// at.
static NOTHING: [u64; 8] = [0; 8];

/// The loader's direct map, as the `acpi` crate wants it.
#[derive(Clone)]
struct DirectMap;

impl AcpiHandler for DirectMap {
    unsafe fn map_physical_region<T>(&self, physical: usize, bytes: usize) -> PhysicalMapping<Self, T> {
        let address = if mapped_bytes(physical as u64, bytes) == bytes {
            direct(physical as u64) as usize
        } else {
            assert!(mem::size_of::<T>() <= mem::size_of_val(&NOTHING), "only headers and root pointers are mapped");
            (&raw const NOTHING).addr()
        };
        let start =
            NonNull::new(core::ptr::with_exposed_provenance_mut::<T>(address)).expect("neither is at address 0");
        // SAFETY: the `T` at the address is mapped, and stays so; there is nothing to unmap.
        unsafe { PhysicalMapping::new(physical, start, bytes, bytes, self.clone()) }
    }

    fn unmap_physical_region<T>(_region: &PhysicalMapping<Self, T>) {}
}

/// A table that is only looked for: its header is all the crate is asked to see.
macro_rules! table {
    ($name:ident, $signature:expr) => {
        #[repr(transparent)]
        struct $name(SdtHeader);

        // SAFETY: every table begins with its header, and this is nothing more.
        unsafe impl AcpiTable for $name {
            const SIGNATURE: Signature = $signature;

            fn header(&self) -> &SdtHeader {
                &self.0
            }

            // The signature matched already. A bad checksum is for quarry-topology to tell, with what was assumed.
            fn validate(&self) -> AcpiResult<()> {
                Ok(())
            }
        }
    };
}

table!(Madt, Signature::MADT);
table!(Srat, Signature::SRAT);
table!(Slit, Signature::SLIT);
/// The crate does not know this one, and offers no other way to name it.
// SAFETY: `Signature` is declared as a transparent wrapper of the four bytes.
const HMAT: Signature = unsafe { mem::transmute::<[u8; 4], Signature>(*b"HMAT") };

table!(Hmat, HMAT);
