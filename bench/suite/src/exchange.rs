//! [`Exchange`]: CPUs hand what they have to their neighbours.

use alloc::vec::Vec;
use core::mem;

use spin::Mutex;

use crate::platform::{Barrier, Platform};

/// Where the CPUs of a case leave what the next one takes.
pub(crate) struct Exchange<T> {
    mailboxes: Vec<Mutex<Vec<T>>>,
    barrier: Barrier,
}

impl<T> Exchange<T> {
    pub(crate) fn new(cpus: usize) -> Self {
        let mailboxes = (0..cpus).map(|_| Mutex::new(Vec::new())).collect();
        Self { mailboxes, barrier: Barrier::new(cpus) }
    }

    /// Every CPU gives `mail` to the one before it and gets that of the one after it; alone, it gets its own.
    pub(crate) fn pass_on(&self, platform: impl Platform, cpu: usize, mail: &mut Vec<T>) {
        mem::swap(&mut *self.mailboxes[cpu].lock(), mail);
        self.barrier.wait(platform);
        mem::swap(&mut *self.mailboxes[(cpu + 1) % self.mailboxes.len()].lock(), mail);
        // Nobody may leave new mail in a box before its reader has been there.
        self.barrier.wait(platform);
    }
}
