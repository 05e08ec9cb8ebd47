//! [`MallocType`]: whose memory it is, and how much each has: FreeBSD's `malloc_type`, shown by `vmstat -m`.
//!
//! Users: callers of [`contigmalloc`](crate::contig), who keep one in a static for each kind of use.
//!
//! # Theory
//!
//! A service knows a type from its first use on: a slot of a table gets the type's address by one compare-and-swap, and
//! keeps it. So nothing is allocated for it, a type may be used with several services, and each counts for itself.
//! Counters are atomics anybody adds to; allocations that name a type take locks anyway.

use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering, Ordering::Relaxed};

use crate::machine::Machine;
use crate::service::Service;

/// Types that a service can note.
pub const MAX_MALLOC_TYPES: usize = 64;

/// A kind of use of memory. Lives in a static; its address is what it is known by.
#[derive(Debug)]
pub struct MallocType {
    name: &'static str,
    description: &'static str,
}

/// `M_DEVBUF`: memory of device drivers.
pub static M_DEVBUF: MallocType = MallocType::new("devbuf", "device driver memory");

/// `M_TEMP`: for a short while.
pub static M_TEMP: MallocType = MallocType::new("temp", "misc temporary data buffers");

impl MallocType {
    /// A type with a short name, which `vmstat -m` shows, and a sentence on what it is for. FreeBSD's `MALLOC_DEFINE`.
    pub const fn new(name: &'static str, description: &'static str) -> Self {
        Self { name, description }
    }

    /// Its short name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What it is for.
    pub const fn description(&self) -> &'static str {
        self.description
    }
}

/// What a service has handed out of one type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MallocTypeUse {
    /// Allocations that were not freed yet.
    pub in_use: u64,
    /// Bytes of their memory, whole pages.
    pub bytes: u64,
    /// Allocations ever made.
    pub requests: u64,
    /// Bit n is set when one was ever made of more than 2^(n-1) and at most 2^n bytes.
    pub sizes: u64,
}

/// A service's table of types.
pub(crate) struct MallocTypes([Slot; MAX_MALLOC_TYPES]);

struct Slot {
    /// Null until a type has the slot.
    kind: AtomicPtr<MallocType>,
    in_use: AtomicU64,
    bytes: AtomicU64,
    requests: AtomicU64,
    sizes: AtomicU64,
}

impl MallocTypes {
    pub(crate) const fn new() -> Self {
        Self(
            [const {
                Slot {
                    kind: AtomicPtr::new(ptr::null_mut()),
                    in_use: AtomicU64::new(0),
                    bytes: AtomicU64::new(0),
                    requests: AtomicU64::new(0),
                    sizes: AtomicU64::new(0),
                }
            }; MAX_MALLOC_TYPES],
        )
    }

    /// The number of a type, which gets one if it has none; `None` when there is no more.
    pub(crate) fn number_of(&self, kind: &'static MallocType) -> Option<usize> {
        let wanted = ptr::from_ref(kind).cast_mut();
        self.0.iter().position(|slot| {
            // Release: pairs with the Acquire in `get`. (A static is visible to all, but need not be one.)
            match slot.kind.compare_exchange(ptr::null_mut(), wanted, Ordering::Release, Relaxed) {
                Ok(_) => true,
                Err(other) => ptr::eq(other, wanted),
            }
        })
    }

    /// The type with that number.
    pub(crate) fn get(&self, number: usize) -> Option<&'static MallocType> {
        // SAFETY: what is stored there is null or came from a reference for as long as the program runs.
        unsafe { self.0.get(number)?.kind.load(Ordering::Acquire).as_ref() }
    }

    /// Counts an allocation of that many bytes that takes up that much memory.
    pub(crate) fn note_allocated(&self, number: usize, size: usize, memory: u64) {
        let slot = &self.0[number];
        slot.in_use.fetch_add(1, Relaxed);
        slot.bytes.fetch_add(memory, Relaxed);
        slot.requests.fetch_add(1, Relaxed);
        slot.sizes.fetch_or(1 << size.checked_next_power_of_two().map_or(63, usize::trailing_zeros), Relaxed);
    }

    /// Counts a free of what took up that much memory.
    pub(crate) fn note_freed(&self, number: usize, memory: u64) {
        self.0[number].in_use.fetch_sub(1, Relaxed);
        self.0[number].bytes.fetch_sub(memory, Relaxed);
    }
}

impl<M: Machine> Service<M> {
    /// The types this service has handed out memory of, in the order of their first use, and how much.
    pub fn malloc_types(&self) -> impl Iterator<Item = (&'static MallocType, MallocTypeUse)> {
        let types = self.type_table();
        types.0.iter().enumerate().map_while(|(number, slot)| {
            let numbers = MallocTypeUse {
                in_use: slot.in_use.load(Relaxed),
                bytes: slot.bytes.load(Relaxed),
                requests: slot.requests.load(Relaxed),
                sizes: slot.sizes.load(Relaxed),
            };
            Some((types.get(number)?, numbers))
        })
    }
}

impl fmt::Display for MallocType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}
