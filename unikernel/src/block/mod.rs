//! Disks: virtio block devices, read and written sector by sector.
//!
//! Users: images and the layers above, which turn file positions, objects or volumes into sectors. QEMU gives its guest
//! a disk by `-drive file=FILE,format=raw,if=none,id=disk0 -device virtio-blk-pci,drive=disk0`; `quarry run --disk` and
//! `quarry test --disk` say that. Source: Virtual I/O Device (VIRTIO) Version 1.2, section 5.2.
//!
//! A request is a range of sectors and the physical memory they go to or come from, in as many pieces as it has. It is
//! given to the device at once ([`Disk::submit`]) and answered later, by a call of a function in a thread of this
//! module's, in whatever order the device likes. Nothing is copied and nothing allocated on the way, so a request can
//! be made where memory is short, and in an interrupt handler.
//!
//! # Theory
//!
//! Devices are found and set up when somebody first asks for them ([`disks`]); an image that never asks has no code of
//! it. Each disk is behind one lock, taken with interrupts off, for the few hundred instructions that put a request
//! into the device's queue or take an answer out.
//!
//! The device interrupts (MSI-X) the CPU that set it up. The handler only notes that it did and wakes the thread
//! "disks", which takes answers until there are none, each under the lock, and calls the requests' functions without
//! it: they may make new requests. The device interrupts again for every answer it gives after the thread has looked,
//! so none is missed. A completion thread that polls would need no interrupt, but keeps a CPU from idling just when all
//! its threads wait for the disk.
//!
//! From the request on until the function has returned there is a [`Pending`](crate::thread::io::Pending), so that a
//! machine whose threads all wait for memory that a write would free is not taken for dead.

pub mod bio;
mod setup;
mod virtio;

use core::fmt;

use crate::interrupts;
use crate::sync::InterruptLock;
use crate::thread::WaitQueue;

pub use setup::{SetupError, disk, disks};

/// Bytes of a sector, whatever the device's own blocks are.
pub const SECTOR_BYTES: u64 = 512;

/// Most pieces of memory in a request.
pub const MOST_SEGMENTS: usize = 32;

/// Most requests a disk has at once.
pub const MOST_REQUESTS: usize = 32;

/// A piece of physical memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Its first address.
    pub physical: u64,
    /// Its length; not 0.
    pub bytes: u32,
}

/// What a request is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// From the disk into memory.
    Read,
    /// From memory to the disk.
    Write,
    /// Have everything written that was answered before this was asked for. Has no segments.
    Flush,
}

/// Called when a request is done, with the number it was given; in the thread "disks", where it may wake others and
/// make requests, but must not wait long: other answers wait behind it.
pub type Done = fn(token: usize, result: Result<(), IoError>);

/// Why the device did not do a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoError {
    /// It could not, or there are no such sectors. What memory or disk hold then is unknown.
    Failed,
    /// It knows no such requests.
    Unsupported,
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failed => {
                "the disk reports an I/O error: look whether the sectors exist and the host's file is sound"
            }
            Self::Unsupported => "the disk knows no such request",
        })
    }
}

impl core::error::Error for IoError {}

/// Why a request was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// The device has as many requests as it can: try again when one is done ([`Disk::wait_for_room`]).
    Busy,
    /// A read or write of nothing, of parts of sectors, or with a piece of no bytes; or a flush with a piece.
    NotSectors,
    /// More than [`MOST_SEGMENTS`] pieces, or than the device takes.
    TooManySegments {
        /// The most it takes.
        most: usize,
    },
    /// The disk can only be read.
    ReadOnly,
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("the disk has as many requests as it can: wait until one is done"),
            Self::NotSectors => {
                write!(f, "a request is of whole sectors of {SECTOR_BYTES} bytes, at least one, and a flush of none")
            }
            Self::TooManySegments { most } => {
                write!(f, "the disk takes {most} pieces of memory in a request: make several")
            }
            Self::ReadOnly => f.write_str("the disk is read-only: give QEMU one that is not"),
        }
    }
}

impl core::error::Error for SubmitError {}

/// A disk of this machine.
pub struct Disk {
    device: InterruptLock<virtio::Device>,
    sectors: u64,
    most_segments: usize,
    read_only: bool,
    /// Those who wait for room in the queue.
    waiting: WaitQueue,
}

impl Disk {
    /// How many sectors it has.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether it can only be read.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Most pieces of memory in a request to this disk.
    pub fn most_segments(&self) -> usize {
        self.most_segments
    }

    /// Makes a request; returns when the device has it. When it is done, `done` is called with `token`, once. Of a
    /// request beyond the disk's end the device says that it failed.
    ///
    /// The memory goes to or comes from the sectors from `sector` on, piece after piece. Callable in any context but
    /// exception handlers.
    ///
    /// # Errors
    ///
    /// [`SubmitError`]; then `done` is not called.
    ///
    /// # Safety
    ///
    /// The segments are RAM. Until `done` is called nobody else uses memory that is read into, and nobody writes to
    /// memory that is written from.
    pub unsafe fn submit(
        &self,
        operation: Operation,
        sector: u64,
        segments: &[Segment],
        token: usize,
        done: Done,
    ) -> Result<(), SubmitError> {
        self.check(operation, segments)?;
        // SAFETY: the caller's promise; the number of segments was looked at just now.
        unsafe { self.device.lock().submit(operation, sector, segments, token, done) }
    }

    fn check(&self, operation: Operation, segments: &[Segment]) -> Result<(), SubmitError> {
        let bytes: u64 = segments.iter().map(|segment| u64::from(segment.bytes)).sum();
        let whole = bytes > 0 && bytes.is_multiple_of(SECTOR_BYTES) && segments.iter().all(|segment| segment.bytes > 0);
        let fits = if operation == Operation::Flush { segments.is_empty() } else { whole };
        if !fits {
            return Err(SubmitError::NotSectors);
        }
        if segments.len() > self.most_segments {
            return Err(SubmitError::TooManySegments { most: self.most_segments });
        }
        if self.read_only && operation == Operation::Write {
            return Err(SubmitError::ReadOnly);
        }
        Ok(())
    }

    /// Waits until the device could take a request of any size. Others may be quicker to make one. Threads only.
    pub fn wait_for_room(&self) {
        self.waiting.wait_until(|| self.device.lock().has_room());
    }

    /// Answers one request; `false` when the device has answered none.
    fn complete_one(&self) -> bool {
        let Some(virtio::Answer { token, done, result, pending }) = self.device.lock().take_answer() else {
            return false;
        };
        self.waiting.wake_all();
        debug_assert!(!interrupts::in_handler(), "answers are given in a thread");
        done(token, result);
        drop(pending);
        true
    }
}
