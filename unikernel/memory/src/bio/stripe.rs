//! [`Stripe`]: chunks of several devices in turn, as one. RAID-0.

use super::device::BlockDevice;
use super::handle::Bio;
use super::set::{BioSet, BiosOut};
use super::stacked::{Place, Splitting, StackError, Stacked};
use crate::machine::Machine;
use crate::service::Service;

/// Chunks of several devices in turn. A bio of several chunks is split. Of each device as many whole chunks are used as
/// the smallest has.
pub struct Stripe<M: Machine> {
    stacked: Stacked<M>,
    /// Sectors.
    chunk: u32,
}

impl<M: Machine> Stripe<M> {
    /// Of these devices, with chunks of `chunk` sectors, the parts of bios from `set`.
    ///
    /// # Errors
    ///
    /// [`StackError`], with the set.
    pub fn new(
        service: &'static Service<M>,
        set: BioSet<M>,
        members: &[&'static dyn BlockDevice<M>],
        chunk: u32,
        splitting: Splitting,
    ) -> Result<Self, (StackError, BioSet<M>)> {
        if chunk == 0 {
            return Err((StackError::NoChunk, set));
        }
        Ok(Self { stacked: Stacked::new(service, set, members, splitting)?, chunk })
    }

    /// The set of its parts.
    pub const fn set(&self) -> &BioSet<M> {
        self.stacked.set()
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// [`BiosOut`] when parts are under way.
    pub fn end(self) -> Result<(), BiosOut<M>> {
        self.stacked.end()
    }

    fn place(&self, sector: u64) -> Place {
        let (count, chunk) = (self.stacked.members().count() as u64, u64::from(self.chunk));
        let (number, within) = (sector / chunk, sector % chunk);
        Place { member: (number % count) as usize, sector: number / count * chunk + within, together: chunk - within }
    }
}

impl<M: Machine> BlockDevice<M> for Stripe<M> {
    fn make_request(&self, bio: Bio<M>) {
        self.stacked.pass_on(bio, |sector| self.place(sector));
    }

    fn sectors(&self) -> u64 {
        let chunk = u64::from(self.chunk);
        let members = self.stacked.members();
        let chunks = members.map(|member| member.sectors() / chunk).min().unwrap_or(0);
        chunks * chunk * self.stacked.members().count() as u64
    }
}
