//! What can be wrong with an image, in words that say what to do.

use core::fmt;

use super::{MAX_IMAGE_SIZE, MAX_SEGMENTS};

/// Why a file cannot be loaded as an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// No ELF file at all.
    NotElf,
    /// The file ends too early.
    Truncated {
        /// Bytes there should be.
        needed: u64,
        /// Bytes there are.
        found: u64,
    },
    /// Not 64 bits wide or not little-endian.
    WrongClass {
        /// `EI_CLASS`.
        class: u8,
        /// `EI_DATA`.
        order: u8,
    },
    /// For another architecture.
    WrongMachine(u16),
    /// An object file, a core dump or the like.
    WrongType(u16),
    /// Not position-independent, and linked for this address.
    FixedAddress(u64),
    /// A program that wants a dynamic linker.
    NeedsInterpreter,
    /// Numbers in the file header contradict each other.
    DamagedHeader,
    /// Numbers in this program header contradict each other.
    DamagedSegment(usize),
    /// This segment could overwrite its own code.
    WritableAndExecutable(usize),
    /// This segment shares a page with the one before it, or is out of order.
    Overlap(usize),
    /// This segment ends beyond the largest image.
    OutOfRange(usize),
    /// More segments than fit.
    TooManySegments,
    /// No loadable segment.
    NothingToLoad,
    /// The entry point is not in code.
    EntryOutside,
    /// A table of relocations, or what it relocates, is not within a segment.
    DamagedRelocations,
    /// A relocation of this type.
    UnknownRelocation(u32),
    /// A relocation table with this dynamic tag.
    UnknownRelocationTable(u64),
}

/// How to get an image that is right.
const REBUILD: &str = "link it with quarry_build_helper::link_image() in its build.rs";

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotElf => write!(f, "the image is not an ELF file: pass a Quarry image as the initrd"),
            Self::Truncated { needed, found } => {
                write!(f, "the image is truncated: {found} bytes of at least {needed}; build or copy it again")
            }
            Self::WrongClass { class, order } => write!(
                f,
                "the image is not a 64-bit little-endian ELF file (class {class}, byte order {order}): \
                 build it for x86_64-unknown-linux-gnu"
            ),
            Self::WrongMachine(machine) => write!(
                f,
                "the image is for another architecture ({}ELF machine {machine}): build it for x86_64-unknown-linux-gnu",
                match machine {
                    3 => "i386, ",
                    40 => "Arm, ",
                    183 => "AArch64, ",
                    243 => "RISC-V, ",
                    _ => "",
                }
            ),
            Self::WrongType(kind) => {
                write!(f, "the image is not an executable (ELF type {kind} instead of 3): {REBUILD}")
            }
            Self::FixedAddress(address) => {
                write!(f, "the image is not position-independent but linked for address {address:#x}: {REBUILD}")
            }
            Self::NeedsInterpreter => write!(f, "the image is a dynamically linked Linux program: {REBUILD}"),
            Self::DamagedHeader => write!(f, "the image's ELF header contradicts itself: build or copy it again"),
            Self::DamagedSegment(number) => {
                write!(f, "program header {number} of the image contradicts itself: build or copy it again")
            }
            Self::WritableAndExecutable(number) => {
                write!(f, "segment {number} of the image is writable and executable: {REBUILD}")
            }
            Self::Overlap(number) => {
                write!(
                    f,
                    "segment {number} of the image overlaps a page of an earlier one or is out of order: {REBUILD}"
                )
            }
            Self::OutOfRange(number) => write!(
                f,
                "segment {number} of the image ends more than {} MiB after the first: make the image smaller",
                MAX_IMAGE_SIZE >> 20
            ),
            Self::TooManySegments => write!(f, "the image has more than {MAX_SEGMENTS} segments to load: {REBUILD}"),
            Self::NothingToLoad => write!(f, "the image has no segment to load: {REBUILD}"),
            Self::EntryOutside => write!(f, "the image's entry point is not in an executable segment: {REBUILD}"),
            Self::DamagedRelocations => {
                write!(f, "the image's relocations lie outside its segments: build or copy it again")
            }
            Self::UnknownRelocation(kind) => {
                write!(
                    f,
                    "the image has a relocation of type {kind} where only R_X86_64_RELATIVE (8) is known: {REBUILD}"
                )
            }
            Self::UnknownRelocationTable(tag) => {
                write!(f, "the image has relocations of a form the loader does not know (dynamic tag {tag}): {REBUILD}")
            }
        }
    }
}
