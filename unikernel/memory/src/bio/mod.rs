//! Block I/O: bios, the sets they come from, and their way to a device. Linux's `struct bio`, `struct bio_set`.
//!
//! Users: whoever reads or writes a disk, before all a pager that writes pages to make memory free: it needs bios while
//! there is no memory. Drivers of disks, and drivers that stand on others. Source: the manual of `bio_alloc_bioset(9)`,
//! `block/bio.c` and `block/blk-core.c`. docs/bio.md has every call, with the test that shows it.
//!
//! | part       | what it is                                                       |
//! |------------|------------------------------------------------------------------|
//! | `handle`   | a bio, and what its holder does with it                          |
//! | `set`      | sets, allocation, the rescuer                                    |
//! | `submit`   | submission without recursion; waiting                            |
//! | `device`   | what a driver is                                                 |
//! | `stacked`, `linear`, `stripe`, `partition` | drivers that stand on others     |
//! | `pager`    | keeps pages of VM objects on a device                            |
//! | `ram_disk` | a disk in memory                                                 |
//! | `header`, `vector`, `outstanding` | a bio in memory, its pieces of memory, its counts |
//!
//! # Theory
//!
//! A bio has one handle, [`Bio`], and whoever has that may change it. It is *filled* by who allocated it; *submitted*,
//! when it is on a list of its thread or its set's rescuer; with a *device*, which may keep it, hand it on or split it;
//! *completed*, when its completion gets it, or nobody. The handle goes from one to the next and is never copied: so a
//! bio completes once, and one that gets lost on the way completes with an error.
//!
//! Of a bio with children (chained to it) the handle is given up like that of any other when its device is done with it,
//! and is made again by the last that completes: see `outstanding`. Until then its memory stays. Clones and splits use
//! the vectors of their source and keep its memory by a reference.
//!
//! Locks: that of a set's rescue list, that of its table of holders, that of a sleeper. Each is a leaf: a holder takes no
//! other but what [`Machine::wake`](crate::Machine::wake) needs. Completions are called with none held.

mod device;
mod handle;
mod header;
mod linear;
mod outstanding;
mod pager;
mod partition;
mod ram_disk;
mod set;
mod stacked;
mod stripe;
mod submit;
mod vector;

use core::fmt;

pub use device::BlockDevice;
pub use handle::{Bio, BioIsShared, BioList, BioReference};
pub use linear::Linear;
pub use pager::{DiskPager, DiskPagerError, PAGE_SECTORS};
pub use partition::Partition;
pub use ram_disk::RamDisk;
pub use set::{BioSet, BioSetError, BioStorage, BiosOut, BiosetFlags, Rescuer};
pub use stacked::{MAX_MEMBERS, Splitting, StackError};
pub use stripe::Stripe;
pub use vector::{INLINE_VECTORS, MAX_KMALLOC_VECTORS, MAX_VECTORS, SECTOR_BYTES, Vector};

/// What a bio asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// From the device to memory.
    Read,
    /// From memory to the device.
    Write,
    /// That what was written before outlives a loss of power. Without memory.
    Flush,
}

/// Why a bio failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum BioError {
    /// The device could not do it.
    Io = 1,
    /// The device cannot do such things: not whole sectors, or a flush of memory.
    NotSupported,
    /// It reaches beyond the end of the device.
    OutOfRange,
    /// No device was named.
    NoDevice,
    /// A device gave it back without completing it.
    Dropped,
    /// A device on its way found no memory where it could not wait.
    OutOfMemory,
    /// A write to a device that can only be read.
    ReadOnly,
}

impl BioError {
    const ALL: [Self; 7] = [
        Self::Io,
        Self::NotSupported,
        Self::OutOfRange,
        Self::NoDevice,
        Self::Dropped,
        Self::OutOfMemory,
        Self::ReadOnly,
    ];

    fn of(number: u32) -> Result<(), Self> {
        Self::ALL.into_iter().find(|error| *error as u32 == number).map_or(Ok(()), Err)
    }
}

impl fmt::Display for BioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Io => "the device reports an error: what it was asked for was not done, or not wholly",
            Self::NotSupported => "a device reads and writes whole sectors of 512 bytes, and flushes no memory",
            Self::OutOfRange => "the request reaches beyond the end of the device",
            Self::NoDevice => "the bio names no device: call set_device before it is submitted",
            Self::Dropped => "a driver dropped the bio without completing it: have it call endio",
            Self::OutOfMemory => "a driver on the way found no memory for a bio, and could not wait for one",
            Self::ReadOnly => "the device can only be read: write to another",
        })
    }
}

impl core::error::Error for BioError {}
