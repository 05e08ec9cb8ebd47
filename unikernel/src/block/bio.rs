//! Disks as devices of bios: [`BioDisk`]; and sets of bios whose rescuer runs: [`bioset_init`].
//!
//! Users: drivers that stand on disks (`Stripe`, `Linear`, `Partition` of the memory service), pagers, images.
//!
//! # Theory
//!
//! A bio that fits becomes one request of the disk, its pieces of memory the request's, its address the token; the answer
//! completes it, in the thread "disks". Nothing is allocated for it. One of more pieces than a request has is parted: its
//! first sectors, a bio of the disk's own set, are submitted before the rest, and so are with the device before another
//! part is wanted. A part completes without a further one, so one bio in reserve is enough and no rescuer is needed.
//!
//! Where the device has as many requests as it can the submitting thread waits. What it waits for needs no memory: only
//! that the device answers and the thread "disks" runs, whose completions never wait.

use core::ptr::NonNull;

use quarry_memory::Gfp;
use quarry_memory::bio::{self, Bio, BioError, BioSet, BioSetError, BiosOut, BiosetFlags, BlockDevice, SECTOR_BYTES};

use super::{Disk, IoError, MOST_SEGMENTS, Operation, Segment, SubmitError};
use crate::memory::{Guest, service};
use crate::{cpus, thread};

const _: () = assert!(SECTOR_BYTES as u64 == super::SECTOR_BYTES, "bios and disks have the same sectors");

/// Makes a set of bios, as the memory service's call of that name, and has a thread "rescuer" run its rescuer if it has
/// one. `Service::bioset_exit` ends both. Threads only.
///
/// # Errors
///
/// [`BioSetError`]; of `OutOfMemory` also where there is no memory for the thread.
pub fn bioset_init(
    name: &'static str,
    pool_size: usize,
    front_pad: usize,
    flags: BiosetFlags,
) -> Result<BioSet<Guest>, BioSetError> {
    let set = service().bioset_init(name, pool_size, front_pad, flags)?;
    let Some(rescuer) = set.rescuer() else { return Ok(set) };
    if thread::spawn_on(cpus::current(), "rescuer", || rescuer.run()).is_ok() {
        return Ok(set);
    }
    // The rescuer is gone with the thread that could not be.
    service().bioset_exit(set).expect("nobody has had a bio of it");
    Err(BioSetError::OutOfMemory)
}

/// A disk that takes bios.
pub struct BioDisk {
    disk: &'static Disk,
    /// Parts of bios that are too large for a request.
    parts: BioSet<Guest>,
}

impl BioDisk {
    /// Of that disk, with `reserve` parts of bios under way when all other memory is gone; at least 1. Threads only.
    ///
    /// # Errors
    ///
    /// [`BioSetError`].
    pub fn new(disk: &'static Disk, reserve: usize) -> Result<Self, BioSetError> {
        let parts = service().bioset_init("disk", reserve, 0, BiosetFlags::empty())?;
        Ok(Self { disk, parts })
    }

    /// Ends it; the disk stays. Threads only.
    ///
    /// # Errors
    ///
    /// [`BiosOut`] when parts are under way.
    pub fn end(self) -> Result<(), BiosOut<Guest>> {
        service().bioset_exit(self.parts)
    }

    /// Passes a bio of at most as many pieces as a request can have to the disk.
    fn pass_on(&self, bio: Bio<Guest>, segments: &[Segment]) {
        let operation = match bio.operation() {
            bio::Operation::Read => Operation::Read,
            bio::Operation::Write => Operation::Write,
            bio::Operation::Flush => Operation::Flush,
        };
        let sector = bio.sector();
        let pointer = bio.into_pointer();
        let token = pointer.as_ptr().expose_provenance();
        let refused = loop {
            // SAFETY: whoever added memory to the bio lends it until the bio completes, which `done` has it do.
            match unsafe { self.disk.submit(operation, sector, segments, token, done) } {
                Ok(()) => return,
                Err(SubmitError::Busy) => self.disk.wait_for_room(),
                Err(error) => break error,
            }
        };
        // SAFETY: the disk has refused it, so `done` is not called.
        unsafe { Bio::<Guest>::from_pointer(pointer) }.endio(Err(match refused {
            SubmitError::NotSectors | SubmitError::TooManySegments { .. } => BioError::NotSupported,
            SubmitError::ReadOnly => BioError::ReadOnly,
            SubmitError::Busy => BioError::Io,
        }));
    }

    /// Parts the first sectors, so many that fit into a request, from a bio, and submits both.
    fn part(&self, mut bio: Bio<Guest>, fitting: &[Segment]) {
        let bytes: u32 = fitting.iter().map(|segment| segment.bytes).sum();
        let sectors = bytes / SECTOR_BYTES;
        if sectors == 0 {
            // A sector in more pieces than a request has.
            return bio.endio(Err(BioError::NotSupported));
        }
        let Some(mut first) = bio.split(sectors, Gfp::NOIO, &self.parts) else {
            return bio.endio(Err(BioError::OutOfMemory));
        };
        first.chain_to(&mut bio);
        service().submit_bio(first);
        service().submit_bio(bio);
    }
}

impl BlockDevice<Guest> for BioDisk {
    fn make_request(&self, bio: Bio<Guest>) {
        if bio.bytes() == 0 && bio.operation() != bio::Operation::Flush {
            return bio.endio(Ok(()));
        }
        let mut segments = [Segment::default(); MOST_SEGMENTS];
        let mut pieces = bio.segments();
        let mut count = 0;
        for (place, piece) in segments[..self.disk.most_segments()].iter_mut().zip(&mut pieces) {
            *place = Segment { physical: piece.address, bytes: piece.length };
            count += 1;
        }
        let fits = pieces.next().is_none();
        drop(pieces);
        if fits { self.pass_on(bio, &segments[..count]) } else { self.part(bio, &segments[..count]) }
    }

    fn sectors(&self) -> u64 {
        self.disk.sectors()
    }
}

/// The disk has answered the request of a bio.
fn done(token: usize, result: Result<(), IoError>) {
    let pointer = NonNull::new(core::ptr::with_exposed_provenance_mut(token)).expect("a bio is somewhere");
    // SAFETY: the token is the pointer of the bio that was submitted with it, and a request is answered once.
    let bio = unsafe { Bio::<Guest>::from_pointer(pointer) };
    bio.endio(result.map_err(|error| match error {
        IoError::Failed => BioError::Io,
        IoError::Unsupported => BioError::NotSupported,
    }));
}
