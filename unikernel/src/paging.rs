//! The kernel's page tables after the loader: windows for frame tables, stacks, `vmalloc`, devices.
//!
//! Users: the boot, the memory service's host, stacks, devices. Source: Intel SDM volume 3, chapter 4 (four levels).
//!
//! # Theory
//!
//! One set of tables, used by all CPUs. Entries are changed under [`LOCK`] (interrupts off; the last lock of any order:
//! nothing is taken under it). So frames for new tables are asked for before it is taken, one at a time, until the
//! change goes through; one that turned out not to be needed waits in [`SPARES`] for the next change. Tables are never
//! freed, so a walk that found one may keep using it.
//!
//! A *zero window* reads as zeroes everywhere though nothing is behind it: its tables are shared, all of them leading
//! to one read-only page of zeroes. [`back`] gives a page of it memory of its own, splitting the shared tables on the
//! way (a copy of the table, then the change). Other CPUs may remember the page of zeroes; who depends on it refreshes
//! ([`crate::arch::flush_page`]), and a write through a stale translation faults once and is repeated
//! ([`is_writable`]).

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use x86_64::structures::paging::PageTableFlags;

use crate::arch;
use crate::layout::{PAGE_BYTES, direct};
use crate::sync::InterruptLock;

const PRESENT: u64 = PageTableFlags::PRESENT.bits();
const WRITABLE: u64 = PageTableFlags::WRITABLE.bits();
const WRITE_THROUGH: u64 = PageTableFlags::WRITE_THROUGH.bits();
const CACHE_DISABLED: u64 = PageTableFlags::NO_CACHE.bits();
const LARGE: u64 = PageTableFlags::HUGE_PAGE.bits();
const NO_EXECUTE: u64 = PageTableFlags::NO_EXECUTE.bits();
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const ENTRIES: usize = 512;

/// How a page may be used. Nothing is ever writable and executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Ordinary data.
    ReadWrite,
    /// A device's registers: not cached.
    Device,
}

impl Access {
    const fn bits(self) -> u64 {
        match self {
            Self::ReadWrite => PRESENT | WRITABLE | NO_EXECUTE,
            Self::Device => PRESENT | WRITABLE | NO_EXECUTE | WRITE_THROUGH | CACHE_DISABLED,
        }
    }
}

/// No frame was to be had for a page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfFrames;

/// Gives zeroed frames for page tables, by physical address.
pub(crate) type FrameSource<'a> = &'a mut dyn FnMut() -> Option<u64>;

static LOCK: InterruptLock<()> = InterruptLock::new(());

/// The shared page of zeroes and the tables that lead to it, lowest level first; 0 before they are made.
static SHARED: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

/// Zeroed frames asked for and not needed; 0 where there is none. Each CPU leaves at most one at a time.
static SPARES: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];

/// Takes a frame for a table out of the spare one it is given.
type Spare<'a> = &'a mut Option<u64>;

/// Repeats `change` under the lock, with a frame more each time it runs out of them.
fn changed<R>(
    frames: FrameSource<'_>,
    mut change: impl FnMut(Spare<'_>) -> Result<R, OutOfFrames>,
) -> Result<R, OutOfFrames> {
    let mut spare = SPARES.iter().map(|slot| slot.swap(0, Relaxed)).find(|&frame| frame != 0);
    loop {
        let result = locked(|| change(&mut spare));
        if result.is_ok() {
            if let Some(frame) = spare {
                // Where all places are taken the frame is lost to the machine, not to the accounts: it counts as a
                // table.
                let _ = SPARES.iter().find(|slot| slot.compare_exchange(0, frame, Relaxed, Relaxed).is_ok());
            }
            return result;
        }
        spare = Some(frames().ok_or(OutOfFrames)?);
    }
}

fn locked<R>(work: impl FnOnce() -> R) -> R {
    let _guard = LOCK.lock();
    work()
}

/// A page table, in the direct map.
#[derive(Clone, Copy)]
struct Table(u64);

impl Table {
    fn entry(self, index: usize) -> &'static AtomicU64 {
        assert!(index < ENTRIES, "a page table has 512 entries");
        // SAFETY: tables are frames in the direct map that are never freed; entries are only accessed atomically.
        unsafe { &*ptr::with_exposed_provenance::<AtomicU64>((direct(self.0) as usize) + index * 8) }
    }

    fn is_shared(self) -> bool {
        SHARED[1..].iter().any(|shared| shared.load(Relaxed) == self.0)
    }
}

fn index(address: u64, level: u32) -> usize {
    (address >> (12 + 9 * level)) as usize % ENTRIES
}

/// The entry for a page, at the lowest level, making (and unsharing) tables on the way.
fn make_entry(address: u64, spare: Spare<'_>) -> Result<&'static AtomicU64, OutOfFrames> {
    let mut table = Table(arch::page_table_root());
    for level in (1..=3).rev() {
        let entry = table.entry(index(address, level));
        let value = entry.load(Relaxed);
        let next = Table(value & ADDRESS);
        table = if value & PRESENT == 0 {
            let new = Table(spare.take().ok_or(OutOfFrames)?);
            entry.store(new.0 | PRESENT | WRITABLE, Relaxed);
            new
        } else if next.is_shared() {
            let new = Table(spare.take().ok_or(OutOfFrames)?);
            for slot in 0..ENTRIES {
                new.entry(slot).store(next.entry(slot).load(Relaxed), Relaxed);
            }
            entry.store(new.0 | PRESENT | WRITABLE, Relaxed);
            new
        } else {
            assert!(value & LARGE == 0, "{address:#x} is part of a large page");
            next
        };
    }
    Ok(table.entry(index(address, 0)))
}

/// The lowest entry that translates an address and its level; `None` where a table is missing.
fn find_entry(address: u64) -> Option<(&'static AtomicU64, u32)> {
    let mut table = Table(arch::page_table_root());
    for level in (0..=3).rev() {
        let entry = table.entry(index(address, level));
        let value = entry.load(Relaxed);
        if level == 0 || value & LARGE != 0 && level < 3 {
            return Some((entry, level));
        }
        if value & PRESENT == 0 {
            return None;
        }
        table = Table(value & ADDRESS);
    }
    None
}

/// Maps a page. The page must not be mapped yet.
pub(crate) fn map(page: u64, physical: u64, access: Access, frames: FrameSource<'_>) -> Result<(), OutOfFrames> {
    changed(frames, |spare| {
        make_entry(page, spare)?.store(physical | access.bits(), Relaxed);
        Ok(())
    })
}

/// Removes a page's mapping and returns the physical address it had. Forgets it on this CPU only.
pub(crate) fn unmap(page: u64) -> Option<u64> {
    let value = locked(|| find_entry(page).filter(|(_, level)| *level == 0).map(|(entry, _)| entry.swap(0, Relaxed)))?;
    arch::flush_page(page);
    (value & PRESENT != 0).then_some(value & ADDRESS)
}

/// Physical address behind an address, as the tables have it now.
pub(crate) fn translate(address: u64) -> Option<u64> {
    let (entry, level) = find_entry(address)?;
    let value = entry.load(Relaxed);
    let offset = (1u64 << (12 + 9 * level)) - 1;
    (value & PRESENT != 0).then_some((value & ADDRESS & !offset) | address & offset)
}

/// What an address may be used for as the tables have it now: (writable, executable). `None` where it is not mapped.
pub fn rights(address: u64) -> Option<(bool, bool)> {
    let (entry, _) = find_entry(address)?;
    let value = entry.load(Relaxed);
    (value & PRESENT != 0).then_some((value & WRITABLE != 0, value & NO_EXECUTE == 0))
}

/// Whether an address may be written as the tables have it now: then a fault on it was a stale translation.
pub(crate) fn is_writable(address: u64) -> bool {
    rights(address).is_some_and(|(writable, _)| writable)
}

/// Makes a window of whole GiB read as zeroes. `frames` gives what the tables need: a frame or two, and three the first
/// time.
pub(crate) fn make_zero_window(window: core::ops::Range<u64>, frames: FrameSource<'_>) -> Result<(), OutOfFrames> {
    const GIB: u64 = 1 << 30;
    assert!(window.start.is_multiple_of(GIB) && window.end.is_multiple_of(GIB), "zero windows are whole GiB");
    changed(frames, |spare| {
        if SHARED.iter().any(|shared| shared.load(Relaxed) == 0) {
            for shared in SHARED.iter().filter(|shared| shared.load(Relaxed) == 0) {
                shared.store(spare.take().ok_or(OutOfFrames)?, Relaxed);
            }
            let [zeroes, lowest, middle] = [0, 1, 2].map(|level: usize| SHARED[level].load(Relaxed));
            for slot in 0..ENTRIES {
                Table(lowest).entry(slot).store(zeroes | PRESENT | NO_EXECUTE, Relaxed);
                Table(middle).entry(slot).store(lowest | PRESENT | WRITABLE, Relaxed);
            }
        }
        let middle = SHARED[2].load(Relaxed);
        for page in window.clone().step_by(GIB as usize) {
            let top = Table(arch::page_table_root()).entry(index(page, 3));
            if top.load(Relaxed) & PRESENT == 0 {
                top.store(spare.take().ok_or(OutOfFrames)? | PRESENT | WRITABLE, Relaxed);
            }
            Table(top.load(Relaxed) & ADDRESS).entry(index(page, 2)).store(middle | PRESENT | WRITABLE, Relaxed);
        }
        Ok(())
    })
}

/// Gives a page of a window memory of its own, zeroed, unless it has.
pub(crate) fn back(page: u64, frames: FrameSource<'_>) -> Result<(), OutOfFrames> {
    let page = page & !(PAGE_BYTES - 1);
    changed(frames, |spare| {
        let entry = make_entry(page, spare)?;
        let value = entry.load(Relaxed);
        if value & PRESENT == 0 || value & ADDRESS == SHARED[0].load(Relaxed) {
            let frame = spare.take().ok_or(OutOfFrames)?;
            entry.store(frame | Access::ReadWrite.bits(), Relaxed);
            arch::flush_page(page);
        }
        Ok(())
    })
}

/// Whether an address may be read as the tables have it now.
pub(crate) fn is_readable(address: u64) -> bool {
    rights(address).is_some()
}

/// Removes the identity mapping of the lower half that the loader left: null pointers fault from here on.
pub(crate) fn drop_lower_half() {
    locked(|| {
        for slot in 0..ENTRIES / 2 {
            Table(arch::page_table_root()).entry(slot).store(0, Relaxed);
        }
    });
    arch::flush_all_pages();
}

/// Makes a second root: everything the first has, and one page of the lower half mapped to itself, executable. For the
/// moment in which another CPU switches paging on. All frames must lie below 4 GiB.
pub(crate) fn make_start_root(page: u64, frames: FrameSource<'_>) -> Result<u64, OutOfFrames> {
    let root = frames().ok_or(OutOfFrames)?;
    for slot in ENTRIES / 2..ENTRIES {
        Table(root).entry(slot).store(Table(arch::page_table_root()).entry(slot).load(Relaxed), Relaxed);
    }
    let mut table = Table(root);
    for level in (1..=3).rev() {
        let next = frames().ok_or(OutOfFrames)?;
        table.entry(index(page, level)).store(next | PRESENT | WRITABLE, Relaxed);
        table = Table(next);
    }
    table.entry(index(page, 0)).store(page | PRESENT, Relaxed);
    Ok(root)
}
