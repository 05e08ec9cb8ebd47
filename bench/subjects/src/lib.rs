//! What the allocators that are measured share, in the guest and hosted.
//!
//! [`Memory`] is the block of an allocator that is told nothing but the address when it is freed, and
//! [`contents_of_memory!`] is what a [`Subject`](quarry_suite::Subject) says of such blocks. With the feature `buddy-slab`
//! the package has the locks that `buddy-slab-allocator` asks its kernel for.
//!
//! Used by the bench image and by `quarry-peers`. Apart from the suite, which forbids unsafe code.

#![no_std]

mod memory;
#[cfg(feature = "buddy-slab")]
mod spin_locks;

pub use memory::Memory;
