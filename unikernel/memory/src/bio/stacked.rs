//! [`Stacked`]: what drivers have in common that pass bios on to other devices, in parts where they must.
//!
//! Used by [`Linear`](super::Linear) and [`Stripe`](super::Stripe), which say where a sector is.

use core::fmt;

use super::device::BlockDevice;
use super::handle::Bio;
use super::set::{BioSet, BiosOut};
use super::{BioError, Operation};
use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::service::Service;

/// Most devices that a driver of ours stands on.
pub const MAX_MEMBERS: usize = 16;

/// How a bio that spans several members is parted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Splitting {
    /// The first part is passed on, and the rest submitted to the driver again: one bio of the set for each call.
    OneByOne,
    /// All parts in one call, each a bio of the set: one that has fewer in reserve needs a rescuer.
    AllAtOnce,
}

/// Why a stacked device could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackError {
    /// None, or more than [`MAX_MEMBERS`].
    Members,
    /// A chunk of no sectors.
    NoChunk,
}

impl fmt::Display for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Members => write!(f, "a device can stand on 1 to {MAX_MEMBERS} others"),
            Self::NoChunk => f.write_str("a stripe needs chunks of at least one sector"),
        }
    }
}

impl core::error::Error for StackError {}

/// Where a sector of a stacked device is.
pub(super) struct Place {
    /// On which member.
    pub(super) member: usize,
    /// Where there.
    pub(super) sector: u64,
    /// How many sectors from there on follow each other.
    pub(super) together: u64,
}

/// The members of a stacked device, and the set its parts come from.
pub(super) struct Stacked<M: Machine> {
    service: &'static Service<M>,
    set: BioSet<M>,
    splitting: Splitting,
    members: [Option<&'static dyn BlockDevice<M>>; MAX_MEMBERS],
    count: usize,
}

impl<M: Machine> Stacked<M> {
    pub(super) fn new(
        service: &'static Service<M>,
        set: BioSet<M>,
        members: &[&'static dyn BlockDevice<M>],
        splitting: Splitting,
    ) -> Result<Self, (StackError, BioSet<M>)> {
        if members.is_empty() || members.len() > MAX_MEMBERS {
            return Err((StackError::Members, set));
        }
        let places = core::array::from_fn(|index| members.get(index).copied());
        Ok(Self { service, set, splitting, members: places, count: members.len() })
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &'static dyn BlockDevice<M>> + '_ {
        self.members[..self.count].iter().flatten().copied()
    }

    pub(super) const fn set(&self) -> &BioSet<M> {
        &self.set
    }

    /// Ends its set.
    pub(super) fn end(self) -> Result<(), BiosOut<M>> {
        self.service.bioset_exit(self.set)
    }

    /// Passes a bio on, `place` saying where.
    pub(super) fn pass_on(&self, mut bio: Bio<M>, place: impl Fn(u64) -> Place) {
        loop {
            let Some(part) = self.take_part(&mut bio, &place) else {
                return bio.endio(Err(BioError::OutOfMemory));
            };
            let Part::First(first) = part else {
                return self.service.submit_bio(bio);
            };
            if self.splitting == Splitting::OneByOne {
                self.service.submit_bio(bio);
                return self.service.submit_bio(first);
            }
            self.service.submit_bio(first);
        }
    }

    /// Parts what goes to one member from a bio, or makes it the member's when that is all of it.
    fn take_part(&self, bio: &mut Bio<M>, place: &impl Fn(u64) -> Place) -> Option<Part<M>> {
        if bio.operation() == Operation::Flush {
            return self.take_flush(bio);
        }
        let Place { member, sector, together } = place(bio.sector());
        if u64::from(bio.sectors()) <= together {
            self.redirect(bio, member, sector);
            return Some(Part::Last);
        }
        let mut first = bio.split(together as u32, Gfp::NOIO, &self.set)?;
        first.chain_to(bio);
        self.redirect(&mut first, member, sector);
        Some(Part::First(first))
    }

    /// A flush goes to every member, to each in its turn.
    fn take_flush(&self, bio: &mut Bio<M>) -> Option<Part<M>> {
        let member = bio.own().step as usize;
        if member + 1 == self.count {
            self.redirect(bio, member, 0);
            return Some(Part::Last);
        }
        let mut first = bio.fast_clone(Gfp::NOIO, &self.set)?;
        first.chain_to(bio);
        self.redirect(&mut first, member, 0);
        bio.own_mut().step += 1;
        Some(Part::First(first))
    }

    fn redirect(&self, bio: &mut Bio<M>, member: usize, sector: u64) {
        bio.set_device(self.members[member].expect("a sector is on a member"));
        bio.set_sector(sector);
    }
}

/// What [`Stacked::take_part`] took.
enum Part<M: Machine> {
    /// The first part; the bio is the rest.
    First(Bio<M>),
    /// All of it.
    Last,
}
