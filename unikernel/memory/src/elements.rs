//! [`Source`]: where the elements of a memory pool come from, how many bytes they take up, and where they go.
//!
//! Used by [`mempool`](crate::mempool). No state.

use core::fmt;
use core::ptr::NonNull;

use crate::class::MAX_SLAB_SIZE;
use crate::frame::Order;
use crate::gfp::Gfp;
use crate::kept::PoolBytes;
use crate::kmem_cache::KmemCache;
use crate::machine::Machine;
use crate::service::Service;

/// Makes an element for a pool: its flags and the pool's data. Null when there is none. Linux's `mempool_alloc_t`.
pub type MempoolAlloc = fn(Gfp, *mut ()) -> *mut u8;

/// Frees an element of a pool, of which the second argument is the data. Linux's `mempool_free_t`.
pub type MempoolFree = fn(*mut u8, *mut ());

/// Where a pool's elements come from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'c> {
    /// Objects of that many bytes.
    Kmalloc(usize),
    /// Objects of a cache.
    Slab(&'c KmemCache),
    /// Page blocks.
    Pages(Order),
    /// The caller's own functions.
    Functions { alloc: MempoolAlloc, free: MempoolFree, data: *mut () },
}

impl Source<'_> {
    /// Bytes of an element, as the kind that it is in use; `None` when it should be an object of kmalloc's and is none.
    /// Takes no lock.
    pub(crate) fn bytes_of<M: Machine>(&self, service: &Service<M>, element: NonNull<u8>) -> Option<PoolBytes> {
        let none = PoolBytes::default();
        Some(match *self {
            // The flags of a request may have brought it from another class than the pool's other elements.
            Self::Kmalloc(_) => match service.find_size(element.as_ptr())? {
                bytes if bytes > MAX_SLAB_SIZE => PoolBytes { large: bytes as u64, ..none },
                bytes => PoolBytes { objects: bytes as u64, ..none },
            },
            Self::Slab(cache) => PoolBytes { objects: cache.view.geometry.size.into(), ..none },
            Self::Pages(order) => PoolBytes { pages: order.bytes() as u64, ..none },
            Self::Functions { .. } => none,
        })
    }

    /// An element, if there is one.
    pub(crate) fn allocate<M: Machine>(&self, service: &Service<M>, gfp: Gfp) -> Option<NonNull<u8>> {
        NonNull::new(match *self {
            Self::Kmalloc(size) => service.kmalloc(size, gfp),
            Self::Slab(cache) => service.kmem_cache_alloc(cache, gfp),
            Self::Pages(order) => service.get_free_pages(gfp, order),
            Self::Functions { alloc, data, .. } => alloc(gfp, data),
        })
    }

    /// Frees an element that came from here and that nobody uses any more.
    pub(crate) fn free<M: Machine>(&self, service: &Service<M>, element: NonNull<u8>) {
        let element = element.as_ptr();
        match *self {
            // SAFETY: the element came from kmalloc, and whoever had it gave it up.
            Self::Kmalloc(_) => unsafe { service.kfree(element) },
            // SAFETY: the element came from this cache, and whoever had it gave it up.
            Self::Slab(cache) => unsafe { service.kmem_cache_free(cache, element) },
            Self::Pages(order) => service.free_pages(element, order),
            Self::Functions { free, data, .. } => free(element, data),
        }
    }
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kmalloc(size) => write!(f, "a pool of kmalloc({size})"),
            Self::Slab(cache) => write!(f, "a pool of {}", cache.name()),
            Self::Pages(order) => write!(f, "a pool of pages of {order}"),
            Self::Functions { data, .. } => write!(f, "a pool of elements of its owner's (data {data:p})"),
        }
    }
}
