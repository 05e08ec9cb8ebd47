//! An image as a file (ELF): checked, copied into memory and relocated.
//!
//! Used by the loader's binary. Works on byte slices: the file, and the memory that was allocated for the image. Every
//! number of the file is distrusted; whatever is wrong is an [`ImageError`] that says what to do, never a panic.
//!
//! An image is a static position-independent ELF file (or one linked for just the place it is loaded at) for `x86_64`
//! whose loadable segments are on pages of their own, none of them both writable and executable, and whose relocations
//! are all `R_X86_64_RELATIVE`. `quarry-build-helper` makes such files.
//!
//! Source: System V gABI chapters 4 and 5; x86-64 psABI 4.4.

use crate::PhysicalRange;
use crate::bytes::{u16_at, u32_at, u64_at};
use crate::memory_map::PAGE_SIZE;
use crate::page_tables::Access;

mod error;
pub use error::ImageError;

/// Most loadable segments of an image; the build helper makes three.
pub const MAX_SEGMENTS: usize = 16;

/// Largest image in memory, in bytes: half of what lies above [`crate::IMAGE_BASE`], the rest is the image's to use.
pub const MAX_IMAGE_SIZE: u64 = 1 << 30;

const FILE_HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
const SECTION_HEADER_SIZE: u64 = 64;
const RELOCATION_SIZE: usize = 24;
const DYNAMIC_ENTRY_SIZE: usize = 16;

const TYPE_FIXED: u16 = 2;
const TYPE_POSITION_INDEPENDENT: u16 = 3;
const MACHINE_X86_64: u16 = 62;

const SEGMENT_LOAD: u32 = 1;
const SEGMENT_DYNAMIC: u32 = 2;
const SEGMENT_INTERPRETER: u32 = 3;

const FLAG_EXECUTE: u32 = 1;
const FLAG_WRITE: u32 = 2;

const DYNAMIC_PLT_RELOCATIONS_SIZE: u64 = 2;
const DYNAMIC_RELA: u64 = 7;
const DYNAMIC_RELA_SIZE: u64 = 8;
const DYNAMIC_RELA_ENTRY: u64 = 9;
const DYNAMIC_REL: u64 = 17;
const DYNAMIC_RELR: u64 = 36;

const RELOCATION_RELATIVE: u32 = 8;

/// A part of the image with one kind of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First byte, counted from the image's first byte.
    pub offset: u64,
    /// Size in memory in bytes; what the file does not fill is zero.
    pub size: u64,
    /// What the code may do with it.
    pub access: Access,
    file_offset: usize,
    file_size: usize,
}

impl Segment {
    /// The pages it occupies, counted from the image's first byte.
    pub fn pages(&self) -> PhysicalRange {
        let end = (self.offset + self.size).next_multiple_of(PAGE_SIZE);
        PhysicalRange { start: self.offset & !(PAGE_SIZE - 1), end }
    }
}

/// A checked image.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    file: &'a [u8],
    base: u64,
    /// GNU ld calls a position-independent file fixed when its base is not 0.
    fixed: bool,
    segments: [Segment; MAX_SEGMENTS],
    segment_count: usize,
    /// Where the dynamic table lies, counted from the image's first byte.
    dynamic: Option<(u64, u64)>,
    /// Counted from the image's first byte.
    entry: u64,
}

impl<'a> Image<'a> {
    /// Checks the file's headers and segments.
    ///
    /// # Errors
    ///
    /// Whatever makes it no image that this loader can load.
    pub fn parse(file: &'a [u8]) -> Result<Self, ImageError> {
        check_file_header(file)?;
        let mut image = Self {
            file,
            base: 0,
            fixed: u16_at(file, 16) == Some(TYPE_FIXED),
            segments: [Segment { offset: 0, size: 0, access: Access::Read, file_offset: 0, file_size: 0 };
                MAX_SEGMENTS],
            segment_count: 0,
            dynamic: None,
            entry: 0,
        };
        let headers = program_headers(file)?;
        image.base = lowest_address(&headers)?;
        for (number, header) in headers.clone().enumerate() {
            match header.kind {
                SEGMENT_LOAD if header.memory_size > 0 => image.add_segment(number, &header)?,
                SEGMENT_DYNAMIC => image.dynamic = Some((header.address.wrapping_sub(image.base), header.file_size)),
                SEGMENT_INTERPRETER => return Err(ImageError::NeedsInterpreter),
                _ => {}
            }
        }
        check_section_headers(file)?;
        image.entry = u64_at(file, 24).unwrap_or(0).wrapping_sub(image.base);
        let holds_entry = |segment: &&Segment| {
            segment.access == Access::ReadExecute && image.entry.wrapping_sub(segment.offset) < segment.size
        };
        image.segments().iter().find(holds_entry).ok_or(ImageError::EntryOutside)?;
        Ok(image)
    }

    /// The segments, ascending and on pages of their own.
    pub fn segments(&self) -> &[Segment] {
        &self.segments[..self.segment_count]
    }

    /// Bytes of memory the image needs: a multiple of the page size, at most [`MAX_IMAGE_SIZE`].
    pub fn size(&self) -> u64 {
        self.segments().last().map_or(0, |segment| segment.pages().end)
    }

    /// Copies the segments into `memory`, zeroes the rest of it and relocates the image for the virtual address
    /// `address` of its first byte. Returns the virtual address of the entry point.
    ///
    /// # Errors
    ///
    /// When the image is linked for a fixed address other than `address`, when it has relocations this loader does not
    /// know, or such that lie outside it.
    ///
    /// # Panics
    ///
    /// When `memory` is smaller than [`Self::size`].
    pub fn load(&self, memory: &mut [u8], address: u64) -> Result<u64, ImageError> {
        if self.fixed && self.base != address {
            return Err(ImageError::FixedAddress(self.base));
        }
        let mut filled = 0;
        for segment in self.segments() {
            let start = segment.offset as usize;
            memory[filled..start].fill(0);
            filled = start + segment.file_size;
            memory[start..filled].copy_from_slice(&self.file[segment.file_offset..][..segment.file_size]);
        }
        memory[filled..].fill(0);
        self.relocate(memory, address)?;
        Ok(address + self.entry)
    }

    fn add_segment(&mut self, number: usize, header: &ProgramHeader) -> Result<(), ImageError> {
        let end = header.file_offset.checked_add(header.file_size).ok_or(ImageError::DamagedSegment(number))?;
        if end > self.file.len() as u64 {
            return Err(ImageError::Truncated { needed: end, found: self.file.len() as u64 });
        }
        if header.file_size > header.memory_size {
            return Err(ImageError::DamagedSegment(number));
        }
        let access = match (header.flags & FLAG_WRITE != 0, header.flags & FLAG_EXECUTE != 0) {
            (true, true) => return Err(ImageError::WritableAndExecutable(number)),
            (true, false) => Access::ReadWrite,
            (false, true) => Access::ReadExecute,
            (false, false) => Access::Read,
        };
        let offset = header.address - self.base;
        let in_reach = offset.checked_add(header.memory_size).is_some_and(|end| end <= MAX_IMAGE_SIZE);
        if !in_reach || header.address.checked_add(header.memory_size - 1).is_none() {
            return Err(ImageError::OutOfRange(number));
        }
        let segment = Segment {
            offset,
            size: header.memory_size,
            access,
            file_offset: header.file_offset as usize,
            file_size: header.file_size as usize,
        };
        if self.size() > segment.pages().start {
            return Err(ImageError::Overlap(number));
        }
        *self.segments.get_mut(self.segment_count).ok_or(ImageError::TooManySegments)? = segment;
        self.segment_count += 1;
        Ok(())
    }

    fn relocate(&self, memory: &mut [u8], address: u64) -> Result<(), ImageError> {
        let Some((table, size)) = self.relocation_table(memory)? else { return Ok(()) };
        let bias = address.wrapping_sub(self.base);
        let table = self.locate(table.wrapping_sub(self.base), size).ok_or(ImageError::DamagedRelocations)?;
        for entry in (table.start..table.end).step_by(RELOCATION_SIZE) {
            let number = |field: usize| u64_at(memory, entry + field).ok_or(ImageError::DamagedRelocations);
            let (place, info, addend) = (number(0)?, number(8)?, number(16)?);
            if info as u32 != RELOCATION_RELATIVE {
                return Err(ImageError::UnknownRelocation(info as u32));
            }
            let place = self.locate(place.wrapping_sub(self.base), 8).ok_or(ImageError::DamagedRelocations)?;
            memory[place].copy_from_slice(&bias.wrapping_add(addend).to_le_bytes());
        }
        Ok(())
    }

    /// Address and size in bytes of the relocations, as the dynamic table in `memory` has them.
    fn relocation_table(&self, memory: &[u8]) -> Result<Option<(u64, u64)>, ImageError> {
        let Some((start, size)) = self.dynamic else { return Ok(None) };
        let dynamic = self.locate(start, size).ok_or(ImageError::DamagedRelocations)?;
        let (mut table, mut table_size, mut entry_size) = (None, 0, RELOCATION_SIZE as u64);
        for entry in memory[dynamic].chunks_exact(DYNAMIC_ENTRY_SIZE) {
            let (tag, value) = (u64_at(entry, 0).unwrap_or(0), u64_at(entry, 8).unwrap_or(0));
            match tag {
                0 => break,
                DYNAMIC_RELA => table = Some(value),
                DYNAMIC_RELA_SIZE => table_size = value,
                DYNAMIC_RELA_ENTRY => entry_size = value,
                DYNAMIC_REL | DYNAMIC_RELR => return Err(ImageError::UnknownRelocationTable(tag)),
                DYNAMIC_PLT_RELOCATIONS_SIZE if value > 0 => return Err(ImageError::UnknownRelocationTable(tag)),
                _ => {}
            }
        }
        if entry_size != RELOCATION_SIZE as u64 || !table_size.is_multiple_of(entry_size) {
            return Err(ImageError::DamagedRelocations);
        }
        Ok(table.filter(|_| table_size > 0).map(|table| (table, table_size)))
    }

    /// The bytes `offset..offset + size` of the image as indices of its memory, when one segment holds them all.
    fn locate(&self, offset: u64, size: u64) -> Option<core::ops::Range<usize>> {
        let end = offset.checked_add(size)?;
        let holds = |segment: &&Segment| segment.offset <= offset && end <= segment.offset + segment.size;
        self.segments().iter().find(holds)?;
        Some(offset as usize..end as usize)
    }
}

/// What the loader reads of a program header.
struct ProgramHeader {
    kind: u32,
    flags: u32,
    file_offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
}

fn check_file_header(file: &[u8]) -> Result<(), ImageError> {
    if !file.starts_with(b"\x7fELF") {
        return Err(ImageError::NotElf);
    }
    if file.len() < FILE_HEADER_SIZE {
        return Err(ImageError::Truncated { needed: FILE_HEADER_SIZE as u64, found: file.len() as u64 });
    }
    let (class, order) = (file[4], file[5]);
    let half = |offset| u16_at(file, offset).unwrap_or(0);
    if class != 2 || order != 1 {
        return Err(ImageError::WrongClass { class, order });
    }
    let (kind, machine) = (half(16), half(18));
    if machine != MACHINE_X86_64 {
        return Err(ImageError::WrongMachine(machine));
    }
    if !matches!(kind, TYPE_POSITION_INDEPENDENT | TYPE_FIXED) {
        return Err(ImageError::WrongType(kind));
    }
    if half(54) as usize != PROGRAM_HEADER_SIZE {
        return Err(ImageError::DamagedHeader);
    }
    Ok(())
}

fn program_headers(file: &[u8]) -> Result<impl Iterator<Item = ProgramHeader> + Clone, ImageError> {
    let offset = u64_at(file, 32).ok_or(ImageError::DamagedHeader)?;
    let size = u64::from(u16_at(file, 56).ok_or(ImageError::DamagedHeader)?) * PROGRAM_HEADER_SIZE as u64;
    let end = offset.checked_add(size).ok_or(ImageError::DamagedHeader)?;
    let table = file
        .get(offset as usize..end as usize)
        .ok_or(ImageError::Truncated { needed: end, found: file.len() as u64 })?;
    Ok(table.chunks_exact(PROGRAM_HEADER_SIZE).map(|header| {
        let number = |offset| u64_at(header, offset).unwrap_or(0);
        let word = |offset| u32_at(header, offset).unwrap_or(0);
        ProgramHeader {
            kind: word(0),
            flags: word(4),
            file_offset: number(8),
            address: number(16),
            file_size: number(32),
            memory_size: number(40),
        }
    }))
}

/// The page of the lowest loadable address: the image's first byte.
fn lowest_address(headers: &(impl Iterator<Item = ProgramHeader> + Clone)) -> Result<u64, ImageError> {
    headers
        .clone()
        .filter(|header| header.kind == SEGMENT_LOAD && header.memory_size > 0)
        .map(|header| header.address & !(PAGE_SIZE - 1))
        .min()
        .ok_or(ImageError::NothingToLoad)
}

/// Linkers put the section headers last: when they are there, so is the whole file, symbols included.
fn check_section_headers(file: &[u8]) -> Result<(), ImageError> {
    let offset = u64_at(file, 40).unwrap_or(0);
    let count = u64::from(u16_at(file, 60).unwrap_or(0));
    let needed = offset.checked_add(count * SECTION_HEADER_SIZE).ok_or(ImageError::DamagedHeader)?;
    if needed > file.len() as u64 {
        return Err(ImageError::Truncated { needed, found: file.len() as u64 });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
