//! [`Linear`]: devices one after the other, as one. Linux's `md` in linear mode.

use super::device::BlockDevice;
use super::handle::Bio;
use super::set::{BioSet, BiosOut};
use super::stacked::{Place, Splitting, StackError, Stacked};
use crate::machine::Machine;
use crate::service::Service;

/// Devices one after the other. A bio across a border is split.
pub struct Linear<M: Machine> {
    stacked: Stacked<M>,
}

impl<M: Machine> Linear<M> {
    /// Of these devices, the parts of bios from `set`.
    ///
    /// # Errors
    ///
    /// [`StackError`], with the set.
    pub fn new(
        service: &'static Service<M>,
        set: BioSet<M>,
        members: &[&'static dyn BlockDevice<M>],
        splitting: Splitting,
    ) -> Result<Self, (StackError, BioSet<M>)> {
        Ok(Self { stacked: Stacked::new(service, set, members, splitting)? })
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
        let mut before = 0;
        for (member, device) in self.stacked.members().enumerate() {
            let sectors = device.sectors();
            if sector - before < sectors {
                return Place { member, sector: sector - before, together: sectors - (sector - before) };
            }
            before += sectors;
        }
        // Only a bio without sectors can begin at the end.
        Place { member: 0, sector: 0, together: 0 }
    }
}

impl<M: Machine> BlockDevice<M> for Linear<M> {
    fn make_request(&self, bio: Bio<M>) {
        self.stacked.pass_on(bio, |sector| self.place(sector));
    }

    fn sectors(&self) -> u64 {
        self.stacked.members().map(BlockDevice::sectors).sum()
    }
}
