//! Ways of things from CPU to CPU: between samples to neighbours, or to CPU 0 and back ([`Exchange`]), or anywhere
//! ([`Deck`]); within samples in batches ([`Channel`]) or one by one ([`Swap`]).
//!
//! Nothing here allocates once it is made and full, and no lock is held for longer than a few moves of pointers. Every
//! lock guards just what stands in it. Whoever waits calls [`Platform::relax`].

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::mem;

use spin::Mutex;

use crate::platform::{Barrier, Platform};
use crate::random::Random;

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

/// What all CPUs have, shuffled and dealt out again.
pub(crate) struct Deck<T> {
    cards: Mutex<Vec<T>>,
    barrier: Barrier,
}

impl<T> Deck<T> {
    /// For so many CPUs with so many things each.
    pub(crate) fn new(cpus: usize, each: usize) -> Self {
        Self { cards: Mutex::new(Vec::with_capacity(cpus * each)), barrier: Barrier::new(cpus) }
    }

    /// Every CPU comes with things in `hand` and leaves with as many, from anywhere. CPU 0 shuffles, with its `random`.
    pub(crate) fn deal(&self, platform: impl Platform, cpu: usize, random: &mut Random, hand: &mut Vec<T>) {
        let count = hand.len();
        self.cards.lock().append(hand);
        self.barrier.wait(platform);
        if cpu == 0 {
            random.shuffle(&mut self.cards.lock());
        }
        self.barrier.wait(platform);
        {
            let mut cards = self.cards.lock();
            let left = cards.len() - count;
            hand.extend(cards.drain(left..));
        }
        // Nobody may come again before all have theirs.
        self.barrier.wait(platform);
    }
}

/// A bounded queue of batches from one CPU to another. The vectors go round and are never given up.
pub(crate) struct Channel<T> {
    full: Mutex<VecDeque<Vec<T>>>,
    empty: Mutex<Vec<Vec<T>>>,
}

impl<T> Channel<T> {
    /// With so many batches of at most that length.
    pub(crate) fn new(batches: usize, length: usize) -> Self {
        let empty = (0..batches).map(|_| Vec::with_capacity(length)).collect();
        Self { full: Mutex::new(VecDeque::with_capacity(batches)), empty: Mutex::new(empty) }
    }

    /// An empty batch, as soon as there is one.
    pub(crate) fn begin(&self, platform: impl Platform) -> Vec<T> {
        loop {
            let batch = self.empty.lock().pop();
            if let Some(batch) = batch {
                return batch;
            }
            platform.relax();
        }
    }

    pub(crate) fn send(&self, batch: Vec<T>) {
        self.full.lock().push_back(batch);
    }

    /// The batch sent first, if there is one.
    pub(crate) fn receive(&self) -> Option<Vec<T>> {
        self.full.lock().pop_front()
    }

    /// Takes back a batch from [`Self::receive`], emptied.
    pub(crate) fn end(&self, batch: Vec<T>) {
        self.empty.lock().push(batch);
    }
}

/// Places in which CPUs leave single things for whoever comes next.
pub(crate) struct Swap<T> {
    places: Vec<Mutex<Option<T>>>,
    barrier: Barrier,
}

impl<T> Swap<T> {
    pub(crate) fn new(cpus: usize, places: usize) -> Self {
        let places = (0..places).map(|_| Mutex::new(None)).collect();
        Self { places, barrier: Barrier::new(cpus) }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// What was there is in `thing` now, and the other way round.
    #[inline(always)]
    pub(crate) fn swap(&self, place: usize, thing: &mut Option<T>) {
        mem::swap(&mut *self.places[place].lock(), thing);
    }

    #[inline(always)]
    pub(crate) fn take(&self, place: usize) -> Option<T> {
        self.places[place].lock().take()
    }

    /// Waits for all CPUs: whatever any did to a place before is seen by all after it.
    pub(crate) fn meet(&self, platform: impl Platform) {
        self.barrier.wait(platform);
    }
}
