//! Size classes of kmalloc, the geometry of their slabs, and tags.
//!
//! Used by the slab layer and by kmalloc. Everything here is arithmetic on constants: no state.
//!
//! Classes are 8, 16, 24, 32, 48 and every 16 bytes up to 128, then eight to an octave up to 8 KiB: above 128 bytes at
//! most 12.5 % of an object is lost to rounding. Every class is a multiple of each power of two that a request rounded
//! up to its alignment is, so an aligned request is an ordinary one.
//!
//! # Geometry
//!
//! A slab is a naturally aligned block of 2^order frames, packed *from its end*: object `i` starts `(i + 1) * size`
//! bytes before the end. The waste lies in front and is smaller than an object, so a pointer whose distance from the
//! end is a multiple of the size is an object, with no bounds to check; and a power-of-two object is naturally aligned.
//!
//! That check is one multiplication: with M = ceil(2^32 / size), a distance is a multiple of the size exactly when the
//! low half of distance * M is below M. (Lemire, Kaser, Kurz, "Faster remainder by direct computation", 2019; exact here
//! since distance and size are at most 2^15.) The fast paths have it as a [`Grid`](crate::grid::Grid).

use crate::frame::{FRAME_BYTES, Order};

/// Largest size served from slabs, in bytes; larger requests are page blocks.
pub const MAX_SLAB_SIZE: usize = 8192;

/// Number of kmalloc classes, and of cache ids that have magazines: id 0 is none.
pub(crate) const CLASSES: usize = 59;

/// Cache ids from here up to [`CACHES`] have no magazines: their objects go straight to the depot.
pub(crate) const MAGAZINES: usize = 64;

/// First cache id of the classes for `GFP_DMA`; powers of two from 8 bytes on.
pub(crate) const DMA_BASE: usize = MAGAZINES;

/// First cache id of the classes for `GFP_DMA32`.
pub(crate) const DMA32_BASE: usize = DMA_BASE + POWERS;

/// How many powers of two there are from 8 bytes to [`MAX_SLAB_SIZE`].
pub(crate) const POWERS: usize = 11;

/// Cache ids of the kmalloc family.
pub(crate) const CACHES: usize = DMA32_BASE + POWERS;

/// First cache id of those made while the service runs (`kmem_cache_create`).
pub(crate) const DYNAMIC_BASE: usize = 128;

/// How many of these, from the first on, have magazines. Later ones go straight to the depot.
pub(crate) const DYNAMIC_MAGAZINES: usize = 256;

/// How many caches can be made.
pub(crate) const DYNAMIC_CACHES: usize = LARGE_ID - DYNAMIC_BASE;

/// Bytes of the largest slab, and so the most that an object can take up.
pub(crate) const MAX_STRIDE: u32 = (FRAME_BYTES as u32) << 3;

/// Bits of a tag that say which node; the bits above say which cache. In this order because a local object's tag, less
/// the node, is then its cache's [`key`].
const NODE_BITS: u32 = 6;

const _: () = assert!(quarry_topology::MAX_NODES <= 1 << NODE_BITS, "every node has a tag");

/// Which cache the tag of a large allocation (a page block handed out by kmalloc) names.
const LARGE_ID: usize = (1 << (u16::BITS - NODE_BITS)) - 1;

/// The tag of a large allocation.
pub(crate) const LARGE: u16 = tag(0, LARGE_ID);

/// A tag: which node and cache the objects of a frame are from.
pub(crate) const fn tag(node: u8, cache: usize) -> u16 {
    key(cache) as u16 | node as u16
}

/// Cache id of a tag.
pub(crate) const fn tag_cache(tag: u16) -> usize {
    (tag >> NODE_BITS) as usize
}

/// Node of a tag.
pub(crate) const fn tag_node(tag: u16) -> u8 {
    (tag & ((1 << NODE_BITS) - 1)) as u8
}

/// A cache id as the fast paths have it: where its magazine is in a set, in units of [`KEY_UNIT`] bytes.
#[inline(always)]
pub(crate) const fn key(cache: usize) -> u32 {
    (cache as u32) << NODE_BITS
}

/// Cache id of a key.
#[inline(always)]
pub(crate) const fn key_cache(key: u32) -> usize {
    (key >> NODE_BITS) as usize
}

/// The bits that are 0 in the keys of caches whose magazines are in the sets themselves, and in nothing else that a tag
/// can differ by from a node's.
pub(crate) const NOT_A_KEY: u32 = !key(MAGAZINES - 1);

/// Bytes of a magazine for each unit of a key: a factor that an address is scaled by without an instruction of its own.
pub(crate) const KEY_UNIT: usize = 8;

/// Bytes between the magazines of a set.
pub(crate) const MAGAZINE_STRIDE: usize = KEY_UNIT << NODE_BITS;

/// Sizes of the classes by cache id, in bytes.
pub(crate) const SIZES: [u16; CLASSES] = sizes();

/// Geometry of the kmalloc family's caches, by id.
pub(crate) static GEOMETRY: [Geometry; CACHES] = geometries();

/// Key of the class for a request of up to [`MAX_SLAB_SIZE`] bytes, by (size + 7) / 8; 0 for a request of nothing.
/// (Class numbers would fit into bytes, but then each request would shift one.)
static KEY_OF: [u16; MAX_SLAB_SIZE / 8 + 1] = key_table();

/// [`key`] of the class that serves `size` bytes, which must be at most [`MAX_SLAB_SIZE`]; 0 for 0 bytes.
#[inline(always)]
pub(crate) const fn key_of(size: usize) -> u32 {
    KEY_OF[(size + 7) >> 3] as u32
}

/// Cache id of that class.
#[inline(always)]
pub(crate) const fn class_of(size: usize) -> usize {
    key_cache(key_of(size))
}

/// Where the objects of a slab are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// Bytes of an object.
    pub(crate) size: u32,
    /// Order of a slab.
    pub(crate) order: Order,
    /// Objects of a slab.
    pub(crate) objects: u32,
    /// Bytes of a slab, less one.
    pub(crate) mask: u32,
    /// ceil(2^32 / size).
    pub(crate) inverse: u32,
    /// Bytes from the start of an object to the word that is the service's while the object is free.
    pub(crate) link: u32,
}

impl Geometry {
    /// No objects: nothing passes its check.
    pub(crate) const NONE: Self = Self { size: 0, order: Order::ZERO, objects: 0, mask: 0, inverse: 0, link: 0 };

    /// Objects of `size` bytes, a multiple of 8 of at most [`MAX_STRIDE`], whose first word is the service's while they
    /// are free.
    pub(crate) const fn new(size: u32) -> Self {
        let mut order = 0;
        loop {
            let bytes = (FRAME_BYTES as u32) << order;
            let waste = bytes % size;
            // A slab has at least eight objects or is of the largest order, and wastes at most a sixteenth.
            if order == 3 || (bytes / size >= 8 && waste * 16 <= bytes) {
                break;
            }
            order += 1;
        }
        let bytes = (FRAME_BYTES as u32) << order;
        let inverse = (1u64 << 32).div_ceil(size as u64) as u32;
        let Some(order) = Order::new(order) else { panic!("at most 3") };
        Self { size, order, objects: bytes / size, mask: bytes - 1, inverse, link: 0 }
    }

    /// As [`Self::new`], but the contents of free objects are not the service's: the word at `link` is, behind them.
    pub(crate) const fn with_link(size: u32, link: u32) -> Self {
        Self { link, ..Self::new(size) }
    }

    /// Whether `address`, known to lie in a slab of this geometry, is the start of an object.
    #[inline]
    pub(crate) const fn is_object(&self, address: usize) -> bool {
        ((!(address as u32) & self.mask) + 1).wrapping_mul(self.inverse) < self.inverse
    }

    /// Number of the object at `address` in its slab, 0 being the last in memory.
    #[inline]
    pub(crate) const fn index(&self, address: usize) -> u32 {
        (((!(address as u32) & self.mask) as u64 * self.inverse as u64) >> 32) as u32
    }

    /// Distance of object `index` from the start of its slab, in bytes.
    #[inline]
    pub(crate) const fn offset(&self, index: u32) -> u32 {
        self.mask + 1 - (index + 1) * self.size
    }

    /// Bytes of an object that are its user's.
    pub(crate) const fn usable(&self) -> usize {
        if self.link == 0 { self.size as usize } else { self.link as usize }
    }

    /// Bytes of a slab that hold no object.
    pub(crate) const fn waste(&self) -> u32 {
        self.mask + 1 - self.objects * self.size
    }
}

const fn sizes() -> [u16; CLASSES] {
    let mut sizes = [0; CLASSES];
    let mut class = 1;
    let mut size = 8;
    while class < CLASSES {
        sizes[class] = size as u16;
        size += if size < 32 {
            8
        } else if size < 128 {
            16
        } else {
            // An eighth of the power of two at or below it.
            1 << (usize::BITS - 1 - (size as usize).leading_zeros() - 3)
        };
        class += 1;
    }
    assert!(sizes[CLASSES - 1] as usize == MAX_SLAB_SIZE, "the classes end at the largest slab size");
    sizes
}

const fn geometries() -> [Geometry; CACHES] {
    let mut table = [Geometry::NONE; CACHES];
    let mut class = 1;
    while class < CLASSES {
        table[class] = Geometry::new(SIZES[class] as u32);
        class += 1;
    }
    let mut power = 0;
    while power < POWERS {
        table[DMA_BASE + power] = Geometry::new(8 << power);
        table[DMA32_BASE + power] = Geometry::new(8 << power);
        power += 1;
    }
    table
}

const fn key_table() -> [u16; MAX_SLAB_SIZE / 8 + 1] {
    let mut table = [0; MAX_SLAB_SIZE / 8 + 1];
    let mut class = 1;
    let mut step = 1;
    while step < table.len() {
        if step * 8 > SIZES[class] as usize {
            class += 1;
        }
        table[step] = key(class) as u16;
        step += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_gets_the_smallest_class_that_holds_it() {
        assert_eq!(class_of(0), 0);
        for size in 1..=MAX_SLAB_SIZE {
            let class = class_of(size);
            assert!(SIZES[class] as usize >= size && (SIZES[class - 1] as usize) < size, "{size}");
        }
    }

    #[test]
    fn above_128_bytes_at_most_an_eighth_is_lost_to_rounding() {
        for size in 129..=MAX_SLAB_SIZE {
            let got = SIZES[class_of(size)] as usize;
            assert!((got - size) * 8 <= got, "{size} bytes get {got}");
        }
    }

    #[test]
    fn a_request_rounded_up_to_its_alignment_gets_an_aligned_class() {
        for shift in 3..=13 {
            let align = 1usize << shift;
            for size in (align..=MAX_SLAB_SIZE).step_by(align) {
                assert_eq!(SIZES[class_of(size)] as usize % align, 0, "{size} bytes aligned to {align}");
            }
        }
    }

    #[test]
    fn exactly_the_objects_of_a_slab_pass_the_check_of_a_free() {
        for (cache, geometry) in GEOMETRY.iter().enumerate().filter(|(_, geometry)| geometry.size > 0) {
            let slab = 0x7f00_0010_0000usize;
            let mut found = 0;
            for offset in 0..=geometry.mask {
                let address = slab + offset as usize;
                let distance = geometry.mask + 1 - offset;
                let expected = distance % geometry.size == 0;
                assert_eq!(geometry.is_object(address), expected, "cache {cache} offset {offset}");
                if expected {
                    let index = geometry.index(address);
                    assert_eq!(index, distance / geometry.size - 1);
                    assert_eq!(geometry.offset(index), offset);
                    found += 1;
                }
            }
            assert_eq!(found, geometry.objects);
            assert!(geometry.waste() < geometry.size);
        }
    }

    #[test]
    fn objects_of_any_size_a_cache_may_have_pass_the_check_of_a_free_and_nothing_else_does() {
        let sizes =
            (8..=MAX_STRIDE).step_by(8).filter(|size| *size <= 256 || size % 376 == 0 || *size >= MAX_STRIDE - 8);
        for size in sizes {
            let geometry = Geometry::new(size);
            assert!(geometry.objects >= 1 && geometry.waste() < size, "{size}");
            // All words, and a byte off each.
            for offset in (0..=geometry.mask).step_by(8).flat_map(|offset| [offset, offset + 1]) {
                let distance = geometry.mask + 1 - offset;
                assert_eq!(geometry.is_object(offset as usize), distance.is_multiple_of(size), "{size} at {offset}");
            }
        }
    }

    #[test]
    fn a_tag_keeps_node_and_cache_apart() {
        for node in [0, 1, 63] {
            for cache in [0, 1, CACHES - 1, LARGE_ID] {
                assert_eq!((tag_node(tag(node, cache)), tag_cache(tag(node, cache))), (node, cache));
            }
        }
    }
}
