//! Names for addresses, from the image's own symbol table.
//!
//! Users: backtraces and the panic report, on any CPU, in any context, even after memory was damaged: nothing here
//! allocates, locks or panics, whatever the file holds. An image is linked at the address it runs at, so an address of
//! the running image is an address of the file.
//!
//! A search reads the whole table. It is for reports, not for speed.

use core::fmt;

use elf::ElfBytes;
use elf::abi::{SHF_EXECINSTR, STT_FUNC, STT_NOTYPE, STT_OBJECT};
use elf::endian::LittleEndian;
use elf::section::SectionHeader;
use elf::string_table::StringTable;
use elf::symbol::{Symbol as Entry, SymbolTable};
use spin::Once;

/// The parts of the image's file that a search reads.
struct Table {
    sections: elf::section::SectionHeaderTable<'static, LittleEndian>,
    symbols: SymbolTable<'static, LittleEndian>,
    names: StringTable<'static>,
}

/// Written once at boot; a search before that finds nothing.
static TABLE: Once<Table> = Once::new();

/// A function or a static, and how far into it an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Symbol {
    /// As the linker knows it, mangled.
    pub(crate) name: &'static str,
    /// In bytes from its start.
    pub(crate) offset: u64,
}

/// The name as the source has it, and the offset: `quarry_unikernel::panic::die+0x12`.
impl fmt::Display for Symbol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:#}+{:#x}", rustc_demangle::demangle(self.name), self.offset)
    }
}

/// Keeps the image's file at hand for [`find`]. A file without symbols is no error: addresses then have no names.
pub(crate) fn initialise(image_file: &'static [u8]) {
    if let Some(table) = parse(image_file) {
        TABLE.call_once(|| table);
    }
}

/// What stands at an address of the image, if the image says.
pub(crate) fn find(address: u64) -> Option<Symbol> {
    TABLE.get()?.find(address)
}

fn parse(image_file: &'static [u8]) -> Option<Table> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(image_file).ok()?;
    let (symbols, names) = file.symbol_table().ok()??;
    Some(Table { sections: file.section_headers()?, symbols, names })
}

impl Table {
    /// The symbol whose bytes hold the address. Failing that the nearest one below it that has no size, as assembly's
    /// labels have none, if both are in the same code section.
    fn find(&self, address: u64) -> Option<Symbol> {
        let mut label: Option<Entry> = None;
        for entry in self.symbols.iter().filter(|entry| entry.st_value <= address) {
            match entry.st_symtype() {
                STT_FUNC | STT_OBJECT if address - entry.st_value < entry.st_size => return self.name(&entry, address),
                STT_FUNC | STT_NOTYPE
                    if entry.st_size == 0
                        && label.as_ref().is_none_or(|best| entry.st_value >= best.st_value)
                        && self.code_section(&entry).is_some_and(|section| contains(&section, address)) =>
                {
                    label = Some(entry);
                }
                _ => {}
            }
        }
        self.name(&label?, address)
    }

    fn name(&self, entry: &Entry, address: u64) -> Option<Symbol> {
        let name = self.names.get(entry.st_name as usize).ok()?;
        Some(Symbol { name, offset: address - entry.st_value })
    }

    /// The section of code that an entry belongs to.
    fn code_section(&self, entry: &Entry) -> Option<SectionHeader> {
        let section = self.sections.get(usize::from(entry.st_shndx)).ok()?;
        (section.sh_flags & u64::from(SHF_EXECINSTR) != 0).then_some(section)
    }
}

fn contains(section: &SectionHeader, address: u64) -> bool {
    address.checked_sub(section.sh_addr).is_some_and(|offset| offset < section.sh_size)
}
