//! Where things are in the one address space.
//!
//! Used by everything that maps. The loader chose the direct map and the image's base; the rest is here.
//!
//! | from                     | size     | what                                                            |
//! |--------------------------|----------|-----------------------------------------------------------------|
//! | `0xffff_8000_0000_0000`  | 64 TiB   | direct map of physical memory                                   |
//! | `0xffff_d030_0000_0000`  | 128 GiB  | tags: two bytes for every page of address space, around [`TAGS`] |
//! | `0xffff_d100_0000_0000`  | 8 GiB    | states: two bytes for every frame                               |
//! | `0xffff_d180_0000_0000`  | 48 GiB   | frames: twelve bytes for every frame                            |
//! | `0xffff_e000_0000_0000`  | 1 TiB    | `vmalloc`                                                       |
//! | `0xffff_f000_0000_0000`  | 512 GiB  | stacks, each between pages that are never mapped                |
//! | `0xffff_f800_0000_0000`  | 512 GiB  | devices                                                         |
//! | `0xffff_ffff_8000_0000`  | 2 GiB    | the image                                                       |

use core::ops::Range;

pub(crate) use quarry_loader::DIRECT_MAP_BASE;

/// Bytes of a page.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// Address of the tag of address 0. An address's tag is at `TAGS + 2 * (address >> 12)`, the shift being signed: so
/// every pointer there can be has a tag, and looking it up needs no check.
pub(crate) const TAGS: u64 = 0xffff_d040_0000_0000;

/// Half the size of the tag window: 2^47 bytes of addresses on either side of 0, two bytes for each page.
const TAGS_HALF: u64 = 2 << (47 - 12);

/// The tag window.
pub(crate) const TAG_WINDOW: Range<u64> = TAGS - TAGS_HALF..TAGS + TAGS_HALF;

/// Number of frames the frame tables have room for: 16 TiB.
pub(crate) const FRAMES_LIMIT: u64 = u32::MAX as u64;

/// The states of all frames.
pub(crate) const STATE_WINDOW: Range<u64> = 0xffff_d100_0000_0000..0xffff_d100_0000_0000 + (2 << 32);

/// The other twelve bytes of all frames.
pub(crate) const FRAME_WINDOW: Range<u64> = 0xffff_d180_0000_0000..0xffff_d180_0000_0000 + (12 << 32);

/// What `vmalloc` may map at.
pub(crate) const MAPPING_WINDOW: Range<u64> = 0xffff_e000_0000_0000..0xffff_e100_0000_0000;

/// Stacks.
pub(crate) const STACK_WINDOW: Range<u64> = 0xffff_f000_0000_0000..0xffff_f080_0000_0000;

/// Device registers.
pub(crate) const DEVICE_WINDOW: Range<u64> = 0xffff_f800_0000_0000..0xffff_f880_0000_0000;

/// The address of a physical address in the direct map.
pub(crate) const fn direct(physical: u64) -> u64 {
    DIRECT_MAP_BASE + physical
}
