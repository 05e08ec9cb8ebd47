//! [`BlockDevice`]: what bios are submitted to.
//!
//! Implemented by drivers: of hardware, of [memory](super::RamDisk), and by those that pass bios on to others
//! ([`Linear`](super::Linear), [`Stripe`](super::Stripe)).

use super::handle::Bio;
use crate::machine::Machine;

/// Something that can be read and written by sectors.
pub trait BlockDevice<M: Machine>: Sync {
    /// Begins what a bio asks for. The device completes it ([`Bio::endio`]) once it is done, now or later; or submits it
    /// to another device, whole or in parts ([`Service::submit_bio`](crate::Service::submit_bio)).
    ///
    /// Called by `submit_bio`, in a thread, never while another `make_request` runs in it. May allocate bios, from sets
    /// that have a rescuer also several from one.
    fn make_request(&self, bio: Bio<M>);

    /// How many sectors it has.
    fn sectors(&self) -> u64;
}
