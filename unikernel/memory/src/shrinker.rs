//! Shrinkers: owners of caches that can give memory back when it is short.
//!
//! Users: whoever caches registers one; reclaim (direct and balancing) asks them. Source: Linux's `shrinker.h`.
//!
//! # Theory
//!
//! A fixed table under a lock. A shrinker is called with no lock held; while it is, its entry's `users` keeps it from
//! being unregistered. It is called by one thread or by several at once, always with the thread's task marked as
//! reclaiming: what it allocates may use every reserve, never waits and never reclaims, so it cannot be entered again
//! by its own doing.

use core::fmt;

use quarry_topology::NodeId;

use crate::events::Event;
use crate::gfp::Gfp;
use crate::lock::Lock;
use crate::machine::Machine;
use crate::policy::NodeMask;
use crate::service::Service;

/// Most shrinkers there can be at once.
pub const MAX_SHRINKERS: usize = 64;

/// Priority of the lightest reclaim: a shrinker is asked for 1 of 2^12 of its objects. At 0 it is asked for all.
/// Linux's `DEF_PRIORITY`.
pub(crate) const LIGHTEST: u32 = 12;

/// What a shrinker is asked for, and on whose behalf. Linux's `struct shrink_control`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShrinkControl {
    /// Flags of the allocation that is short. What it rules out (I/O, file system) the shrinker must not do either.
    pub gfp: Gfp,
    /// The node that is short; `None` for a shrinker that is not NUMA-aware.
    pub node: Option<NodeId>,
}

/// An owner of objects that can be given up.
///
/// Called in threads, which may sleep unless `gfp` says otherwise, at any time between registering and unregistering.
pub trait Shrinker: Sync {
    /// How many objects could be given up, about. Linux's `count_objects`.
    fn count(&self, control: &ShrinkControl) -> usize;

    /// Gives up to `objects` objects up; returns how many it did, or `None` when it can do nothing now (a lock is
    /// taken, say) and should not be asked again this round. Linux's `scan_objects` and `SHRINK_STOP`.
    fn scan(&self, control: &ShrinkControl, objects: usize) -> Option<usize>;

    /// Whether it is asked node by node. Linux's `SHRINKER_NUMA_AWARE`.
    fn is_numa_aware(&self) -> bool {
        false
    }

    /// What giving up needs: of [`Gfp::IO`] and [`Gfp::FS`], those without which it is not asked.
    fn needs(&self) -> Gfp {
        Gfp::empty()
    }

    /// Accesses that making an object again costs: the more, the fewer are asked for. Linux's `seeks`, and its default.
    fn seeks(&self) -> usize {
        2
    }

    /// Objects asked for at a time. Linux's `batch`, and its default.
    fn batch(&self) -> usize {
        128
    }
}

/// Names a registered shrinker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShrinkerId(u8);

/// Why a shrinker could not be registered or unregistered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShrinkerError {
    /// There are [`MAX_SHRINKERS`] already.
    TooMany,
    /// No such shrinker is registered.
    Unknown,
}

impl fmt::Display for ShrinkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany => write!(f, "{MAX_SHRINKERS} shrinkers are registered already: unregister one first"),
            Self::Unknown => f.write_str("no such shrinker is registered: it was unregistered before"),
        }
    }
}

impl core::error::Error for ShrinkerError {}

#[derive(Clone, Copy)]
struct Entry {
    shrinker: &'static dyn Shrinker,
    /// Threads inside it.
    users: u32,
    /// Nobody enters it any more.
    leaving: bool,
}

/// The registered shrinkers.
pub(crate) struct Shrinkers {
    entries: Lock<[Option<Entry>; MAX_SHRINKERS]>,
}

impl Shrinkers {
    pub(crate) const fn new() -> Self {
        Self { entries: Lock::new([None; MAX_SHRINKERS]) }
    }

    #[cfg(feature = "hosted")]
    pub(crate) fn raw(&self) -> &crate::raw_lock::RawLock {
        self.entries.raw()
    }

    fn enter<M: Machine>(&self, machine: &M, index: usize) -> Option<&'static dyn Shrinker> {
        let mut entries = self.entries.lock(machine);
        let entry = entries[index].as_mut().filter(|entry| !entry.leaving)?;
        entry.users += 1;
        Some(entry.shrinker)
    }

    fn leave<M: Machine>(&self, machine: &M, index: usize) {
        let mut entries = self.entries.lock(machine);
        entries[index].as_mut().expect("an entry stays while it has users").users -= 1;
    }
}

impl<M: Machine> Service<M> {
    /// Has reclaim ask this shrinker when memory is short. Nodes that nobody could help until now are balanced again.
    /// May be called in any context.
    ///
    /// # Errors
    ///
    /// [`ShrinkerError::TooMany`].
    pub fn register_shrinker(&self, shrinker: &'static dyn Shrinker) -> Result<ShrinkerId, ShrinkerError> {
        let id = {
            let mut entries = self.shrinkers().entries.lock(self.machine());
            let free = entries.iter().position(Option::is_none).ok_or(ShrinkerError::TooMany)?;
            entries[free] = Some(Entry { shrinker, users: 0, leaving: false });
            ShrinkerId(free as u8)
        };
        self.balance_those_given_up();
        Ok(id)
    }

    /// No longer asks a shrinker, and returns when nobody is inside it. Not to be called by the shrinker itself.
    ///
    /// # Errors
    ///
    /// [`ShrinkerError::Unknown`].
    pub fn unregister_shrinker(&self, id: ShrinkerId) -> Result<(), ShrinkerError> {
        let mut rounds = 0;
        loop {
            {
                let mut entries = self.shrinkers().entries.lock(self.machine());
                let slot = entries.get_mut(usize::from(id.0)).ok_or(ShrinkerError::Unknown)?;
                let entry = slot.as_mut().ok_or(ShrinkerError::Unknown)?;
                entry.leaving = true;
                if entry.users == 0 {
                    *slot = None;
                    return Ok(());
                }
            }
            // Whoever is inside may need this CPU to get out.
            if self.machine().may_sleep() {
                self.machine().sleep(&mut || false, Some(core::time::Duration::from_millis(1)));
            } else {
                self.machine().relax(rounds);
            }
            rounds = rounds.saturating_add(1);
        }
    }

    /// Asks every shrinker that may be asked on behalf of `gfp` to give up 1 of 2^`priority` of its objects, on those
    /// nodes, until it is `enough`; returns how many objects were given up. The caller's task is marked as reclaiming.
    pub(crate) fn shrink(
        &self,
        gfp: Gfp,
        nodes: NodeMask,
        priority: u32,
        scanned: Event,
        enough: &dyn Fn() -> bool,
    ) -> usize {
        let mut freed = 0;
        for index in 0..MAX_SHRINKERS {
            let Some(shrinker) = self.shrinkers().enter(self.machine(), index) else { continue };
            if gfp.contains(shrinker.needs()) {
                if shrinker.is_numa_aware() {
                    for (node, _) in self.nodes().with_memory().filter(|(node, _)| nodes.contains(*node)) {
                        freed += self.ask(shrinker, ShrinkControl { gfp, node: Some(node) }, priority, scanned, enough);
                    }
                } else {
                    freed += self.ask(shrinker, ShrinkControl { gfp, node: None }, priority, scanned, enough);
                }
            }
            self.shrinkers().leave(self.machine(), index);
        }
        self.events().add(Event::Shrunk, freed as u64);
        freed
    }

    fn ask(
        &self,
        shrinker: &dyn Shrinker,
        control: ShrinkControl,
        priority: u32,
        scanned: Event,
        enough: &dyn Fn() -> bool,
    ) -> usize {
        let count = shrinker.count(&control);
        let batch = shrinker.batch().max(1);
        // As in Linux's `do_shrink_slab`; what is left of a cache smaller than a batch is asked for whole.
        let share = (count >> priority).saturating_mul(4) / shrinker.seeks().max(1);
        let mut wanted = share.max(count.min(batch)).min(count);
        let mut freed = 0;
        while wanted > 0 && !enough() {
            let objects = wanted.min(batch);
            self.events().add(scanned, objects as u64);
            match shrinker.scan(&control, objects) {
                None | Some(0) => break,
                Some(given_up) => freed += given_up,
            }
            wanted -= objects;
        }
        freed
    }
}
