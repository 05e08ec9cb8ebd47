//! [`Partition`]: an area of a device, as a device. Linux's `dm-linear`.

use core::ops::Range;

use super::Operation;
use super::device::BlockDevice;
use super::handle::Bio;
use crate::machine::Machine;
use crate::service::Service;

/// Sectors of a device, as one. A flush is one of the whole device.
pub struct Partition<M: Machine> {
    service: &'static Service<M>,
    device: &'static dyn BlockDevice<M>,
    sectors: Range<u64>,
}

impl<M: Machine> Partition<M> {
    /// Of these sectors; `None` when the device has not all of them.
    pub fn new(service: &'static Service<M>, device: &'static dyn BlockDevice<M>, sectors: Range<u64>) -> Option<Self> {
        let is_there = sectors.start <= sectors.end && sectors.end <= device.sectors();
        is_there.then_some(Self { service, device, sectors })
    }
}

impl<M: Machine> BlockDevice<M> for Partition<M> {
    fn make_request(&self, mut bio: Bio<M>) {
        bio.set_device(self.device);
        if bio.operation() != Operation::Flush {
            // It ends within the partition, as `submit_bio` has seen, so it stays within the device.
            bio.set_sector(self.sectors.start + bio.sector());
        }
        self.service.submit_bio(bio);
    }

    fn sectors(&self) -> u64 {
        self.sectors.end - self.sectors.start
    }
}
