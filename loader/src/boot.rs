//! The boot itself, one step after the other: from the start info to a machine that is ready for the image.

use core::arch::x86_64::__cpuid;
use core::ptr::addr_of;

use quarry_loader::elf::Image;
use quarry_loader::memory_map::{FOUR_GIB, LOW_MEMORY_END, MemoryMap, PAGE_SIZE};
use quarry_loader::page_tables::{Access, Mapping, PageSize, PageTables, tables_needed};
use quarry_loader::start_info::{MemoryMapEntry, ModuleEntry, StartInfo};
use quarry_loader::{
    BootInfo, DIRECT_MAP_BASE, IMAGE_BASE, MAGIC, MAX_REGIONS, PhysicalRange, Region, RegionKind, VERSION, rsdp,
};

use crate::error::BootError;
use crate::physical::{self, Block};
use crate::{entry, exit};

/// Size of the stack the image starts on, in bytes.
const BOOT_STACK_SIZE: u64 = 256 << 10;

/// Longest command line in bytes that is looked for its end. Linux on x86 takes 2048.
const MAX_COMMAND_LINE: u64 = 64 << 10;

/// Physical alignment of the image: 2 MiB pages remain possible for an image whose segments are aligned to them.
const IMAGE_ALIGNMENT: u64 = 2 << 20;

/// What is needed to enter the image.
pub(crate) struct Handoff {
    /// Physical address of the root page table.
    pub(crate) page_table_root: u64,
    /// Virtual address of the image's entry point.
    pub(crate) entry: u64,
    /// Virtual address one past the boot stack.
    pub(crate) stack_top: u64,
    /// Physical address of the [`BootInfo`].
    pub(crate) boot_info: u64,
}

/// What the hypervisor and firmware left in memory, found and checked.
struct Surroundings {
    memory: MemoryMap,
    image_file: PhysicalRange,
    command_line: PhysicalRange,
    rsdp: u64,
}

/// Loads the image, and makes the page tables and the boot information for it.
pub(crate) fn prepare(start_info: u64, entry_tsc: u64) -> Result<Handoff, BootError> {
    let Surroundings { mut memory, image_file, command_line, rsdp } = survey(start_info)?;
    let image = Image::parse(reach("the image", image_file)?)?;
    let mut image_memory = take(&mut memory, "the image", image.size(), IMAGE_ALIGNMENT)?;
    let entry = image.load(image_memory.bytes(), IMAGE_BASE)?;

    let stack = take(&mut memory, "the boot stack", BOOT_STACK_SIZE, PAGE_SIZE)?.range();
    let mut info = take(&mut memory, "the boot information", size_of::<BootInfo>() as u64, PAGE_SIZE)?;
    let command_line = copy_command_line(&mut memory, command_line)?;
    let direct_map = memory.direct_map_ranges(PhysicalRange { start: rsdp, end: rsdp + rsdp::SIZE as u64 });
    let page_tables = build_page_tables(&mut memory, &image, image_memory.range(), &direct_map)?;

    // Nothing is allocated after this: the regions are final.
    let (regions, region_count) = region_array(&memory);
    info.write(BootInfo {
        magic: MAGIC,
        version: VERSION,
        region_count,
        regions,
        rsdp,
        command_line,
        image_file,
        image: image_memory.range(),
        image_virtual: IMAGE_BASE,
        loader: loader_range(),
        page_tables,
        page_table_root: page_tables.start,
        direct_map_end: direct_map.regions().last().map_or(0, |region| region.range.end),
        boot_stack: stack,
        entry_tsc,
    });
    if memory.lost_ram() > 0 {
        let lost = memory.lost_ram() >> 10;
        exit::warn(format_args!(
            "{lost} KiB of RAM stay unused: the memory map has too many regions or reaches too far"
        ));
    }
    Ok(Handoff {
        page_table_root: page_tables.start,
        entry,
        stack_top: DIRECT_MAP_BASE + stack.end,
        boot_info: info.range().start,
    })
}

/// Reads the start info and what it refers to. Everything found is kept from being overwritten.
fn survey(address: u64) -> Result<Surroundings, BootError> {
    let here = PhysicalRange { start: address, end: address + StartInfo::SIZE as u64 };
    let info = StartInfo::parse(reach("the start info", here)?)?;
    let map_range = list(info.memory_map, info.memory_map_entry_count, MemoryMapEntry::SIZE);
    let entries = reach("the memory map", map_range)?.chunks_exact(MemoryMapEntry::SIZE);
    let mut memory = MemoryMap::from_firmware(&entries.filter_map(MemoryMapEntry::parse));

    let modules_range = list(info.modules, info.module_count, ModuleEntry::SIZE);
    if info.module_count == 0 {
        return Err(BootError::NoImage);
    }
    let modules = reach("the list of modules", modules_range)?.chunks_exact(ModuleEntry::SIZE);
    let mut modules =
        modules.filter_map(ModuleEntry::parse).map(|module| module.range).filter(|range| range.size() > 0);
    let image_file = modules.next().ok_or(BootError::NoImage)?;
    if image_file.overlaps(loader_range()) {
        return Err(BootError::Overlap { image: image_file, loader: loader_range() });
    }
    let command_line = find_command_line(info.command_line)?;

    memory.claim(loader_range());
    memory.claim(image_file);
    // Modules beyond the image are not the loader's business, but somebody passed them.
    modules.for_each(|module| memory.claim(module));
    for range in [here, map_range, modules_range, command_line] {
        assert!(memory.avoid(range), "the list of ranges to avoid has room for four");
    }
    Ok(Surroundings { memory, image_file, command_line, rsdp: find_rsdp(info.rsdp)? })
}

/// Where `count` entries lie.
fn list(start: u64, count: u32, entry_size: usize) -> PhysicalRange {
    PhysicalRange { start, end: start.saturating_add(u64::from(count) * entry_size as u64) }
}

/// The bytes of `range`, which others left in memory.
fn reach(what: &'static str, range: PhysicalRange) -> Result<&'static [u8], BootError> {
    // SAFETY: devices are idle, this is the only CPU, and the loader writes nowhere but to itself and to blocks it
    // allocated; `survey` allocates nothing, and lets nothing be allocated in what it found.
    unsafe { physical::read(range) }.ok_or(BootError::OutOfReach { what, range })
}

/// The command line without its terminating zero.
fn find_command_line(start: u64) -> Result<PhysicalRange, BootError> {
    if start == 0 {
        return Ok(PhysicalRange { start: LOW_MEMORY_END, end: LOW_MEMORY_END });
    }
    let longest = PhysicalRange { start, end: start.saturating_add(MAX_COMMAND_LINE).min(FOUR_GIB) };
    let bytes = reach("the command line", longest)?;
    let length = bytes.iter().position(|&byte| byte == 0).ok_or(BootError::CommandLineTooLong)?;
    Ok(PhysicalRange { start, end: start + length as u64 })
}

/// Copies the command line into memory that stays.
fn copy_command_line(memory: &mut MemoryMap, from: PhysicalRange) -> Result<PhysicalRange, BootError> {
    let text = reach("the command line", from)?;
    let mut copy = take(memory, "the command line", from.size(), PAGE_SIZE)?;
    copy.bytes()[..text.len()].copy_from_slice(text);
    let start = copy.range().start;
    Ok(PhysicalRange { start, end: start + from.size() })
}

/// Physical address of ACPI's root pointer: `told` by the hypervisor, or else where a BIOS puts it.
fn find_rsdp(told: u64) -> Result<u64, BootError> {
    const BIOS_AREA: PhysicalRange = PhysicalRange { start: 0xe_0000, end: LOW_MEMORY_END };
    const EXTENDED_DATA_SEGMENT: PhysicalRange = PhysicalRange { start: 0x40e, end: 0x410 };
    if told != 0 {
        let range = PhysicalRange { start: told, end: told.saturating_add(rsdp::SIZE as u64) };
        if rsdp::is_valid(reach("the ACPI root pointer (RSDP)", range)?) {
            return Ok(told);
        }
        exit::warn(format_args!("there is no ACPI root pointer (RSDP) at {told:#x} where the start info says so"));
    }
    let segment = reach("the BIOS data area", EXTENDED_DATA_SEGMENT)?;
    let start = u64::from(u16::from_le_bytes([segment[0], segment[1]])) << 4;
    let extended_data = PhysicalRange { start, end: start + 1024 };
    for area in [extended_data, BIOS_AREA] {
        // Without an extended data area its segment is 0 or rubbish.
        if area.start >= 0x400
            && area.end <= LOW_MEMORY_END
            && let Some(offset) = rsdp::find(reach("the BIOS area", area)?)
        {
            return Ok(area.start + offset as u64);
        }
    }
    Err(BootError::NoRsdp)
}

/// Memory for the boot.
fn take(memory: &mut MemoryMap, what: &'static str, size: u64, alignment: u64) -> Result<Block, BootError> {
    let block = Block::allocate(memory, size, alignment).or_else(|| Block::allocate(memory, size, PAGE_SIZE));
    block.ok_or_else(|| BootError::OutOfMemory {
        what,
        needed: size,
        largest: memory.largest_free(),
        ram: memory.ram(),
    })
}

/// Maps the loader, all memory and the image. Returns the tables, the root first.
fn build_page_tables(
    memory: &mut MemoryMap,
    image: &Image<'_>,
    image_memory: PhysicalRange,
    direct_map: &MemoryMap,
) -> Result<PhysicalRange, BootError> {
    let memory_mappings = direct_map.regions().iter().map(|region| Mapping {
        address: DIRECT_MAP_BASE + region.range.start,
        physical: region.range,
        access: Access::ReadWrite,
    });
    let image_mappings = image.segments().iter().map(|segment| {
        let pages = segment.pages();
        let physical = PhysicalRange { start: image_memory.start + pages.start, end: image_memory.start + pages.end };
        Mapping { address: IMAGE_BASE + pages.start, physical, access: segment.access }
    });
    let mappings = loader_mappings().into_iter().chain(memory_mappings).chain(image_mappings);

    let largest = largest_page();
    let needed = tables_needed(mappings.clone(), largest) as u64 * PAGE_SIZE;
    let mut block = take(memory, "the page tables", needed, PAGE_SIZE)?;
    let range = block.range();
    let mut tables = PageTables::new(block.tables(), range.start, largest);
    for mapping in mappings {
        tables.map(mapping)?;
    }
    Ok(range)
}

/// The loader at its own address, for the instructions around the switch and for its exception handlers.
fn loader_mappings() -> [Mapping; 3] {
    let loader = loader_range();
    let constants = addr_of!(entry::loader_constants) as u64;
    let data = addr_of!(entry::loader_data) as u64;
    [
        (loader.start, constants, Access::ReadExecute),
        (constants, data, Access::Read),
        (data, loader.end, Access::ReadWrite),
    ]
    .map(|(start, end, access)| Mapping { address: start, physical: PhysicalRange { start, end }, access })
}

/// Where the loader lies.
fn loader_range() -> PhysicalRange {
    PhysicalRange { start: addr_of!(entry::loader_start) as u64, end: addr_of!(entry::loader_end) as u64 }
}

/// The largest page this CPU maps.
fn largest_page() -> PageSize {
    const EXTENDED_FEATURES: u32 = 0x8000_0001;
    const HUGE_PAGES: u32 = 1 << 26;
    if __cpuid(EXTENDED_FEATURES).edx & HUGE_PAGES == 0 { PageSize::Large } else { PageSize::Huge }
}

/// The memory map as [`BootInfo`] has it.
fn region_array(memory: &MemoryMap) -> ([Region; MAX_REGIONS], u32) {
    const NOTHING: Region = Region { range: PhysicalRange { start: 0, end: 0 }, kind: RegionKind::Reserved };
    let mut regions = [NOTHING; MAX_REGIONS];
    regions[..memory.regions().len()].copy_from_slice(memory.regions());
    (regions, memory.regions().len() as u32)
}
