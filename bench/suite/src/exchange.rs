//! [`Exchange`]: CPUs hand what they have to their neighbours, or to CPU 0, or have it from there.

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

    /// Every CPU gives its mail to CPU 0, which has a place for each in `all`. Nobody else has places.
    pub(crate) fn gather(&self, platform: impl Platform, cpu: usize, mail: &mut Vec<T>, all: &mut [Vec<T>]) {
        mem::swap(&mut *self.mailboxes[cpu].lock(), mail);
        self.barrier.wait(platform);
        for (place, mailbox) in all.iter_mut().zip(&self.mailboxes) {
            mem::swap(&mut *mailbox.lock(), place);
        }
        // As in `pass_on`.
        self.barrier.wait(platform);
    }

    /// The way back: CPU 0 gives every CPU its mail.
    pub(crate) fn scatter(&self, platform: impl Platform, cpu: usize, mail: &mut Vec<T>, all: &mut [Vec<T>]) {
        for (place, mailbox) in all.iter_mut().zip(&self.mailboxes) {
            mem::swap(&mut *mailbox.lock(), place);
        }
        self.barrier.wait(platform);
        mem::swap(&mut *self.mailboxes[cpu].lock(), mail);
        self.barrier.wait(platform);
    }
}
