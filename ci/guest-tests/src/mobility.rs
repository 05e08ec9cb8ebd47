//! Movable pages: compaction brings them together with their contents, leaves the pinned ones, and loses nothing while
//! other CPUs pin, free and allocate, also in handlers.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use quarry_unikernel::memory::{Guest, service};
use quarry_unikernel::memory_service::events::Event;
use quarry_unikernel::memory_service::{CpuId, Gfp, Mobility, MovablePage, MovablePages};
use quarry_unikernel::{TrapFrame, cpus, thread, topology};

use crate::harness::Outcome;
use crate::interrupts::{raise_and_wait, register};
use crate::team::check_on_every_cpu;
use crate::{check, check_equal, tests};

const PINNING: u8 = 0x64;

/// Frames of a pageblock.
const PAGEBLOCK: u32 = 512;

type Page = MovablePage<Guest>;

/// The one set of all tests, for sets stay.
static SET: spin::Once<&'static MovablePages<Guest>> = spin::Once::new();

fn set() -> &'static MovablePages<Guest> {
    SET.call_once(|| service().movable_pages(16 * PAGEBLOCK).expect("there is memory for a small table"))
}

/// A page and what is written in it.
struct Labelled {
    label: u64,
    page: Page,
}

impl Labelled {
    fn new(label: u64) -> Option<Self> {
        let mut page = set().alloc(Gfp::KERNEL)?;
        let mut guard = page.pin_mut();
        for (at, words) in guard.chunks_exact_mut(512).enumerate() {
            words[..8].copy_from_slice(&(label << 8 | at as u64).to_le_bytes());
        }
        drop(guard);
        Some(Self { label, page })
    }

    fn is_whole(&self) -> bool {
        let guard = self.page.pin();
        let mut words = guard.chunks_exact(512).enumerate();
        words.all(|(at, words)| words[..8] == (self.label << 8 | at as u64).to_le_bytes())
    }

    fn frame(&self) -> u32 {
        self.page.pin().frame().0
    }
}

/// Every other page of eight pageblocks' worth of them.
fn aged() -> Result<Vec<Labelled>, &'static str> {
    let mut pages: Vec<_> =
        (0..u64::from(8 * PAGEBLOCK)).map(Labelled::new).collect::<Option<_>>().ok_or("no memory")?;
    pages.retain(|page| page.label % 2 == 0);
    Ok(pages)
}

fn pageblocks(pages: &[Labelled]) -> usize {
    let mut pageblocks: Vec<_> = pages.iter().map(|page| page.frame() / PAGEBLOCK).collect();
    pageblocks.sort_unstable();
    pageblocks.dedup();
    pageblocks.len()
}

fn compaction_brings_pages_together_with_their_contents() -> Outcome {
    let pages = aged()?;
    let before = pageblocks(&pages);
    let moved = service().compact_memory();
    let after = pageblocks(&pages);
    check!(moved > 0, "no page moved out of {before} pageblocks");
    check!(after <= before / 2 + 2, "{} pages are in {after} pageblocks, and were in {before}", pages.len());
    check!(pages.iter().all(Labelled::is_whole), "a page that moved lost what was in it");
    for page in &pages {
        let frame = page.page.pin().frame();
        check_equal!(service().mobility_of(frame), Some(Mobility::Movable), "mobility of {frame}");
    }
    Ok(())
}

fn pinned_pages_stay() -> Outcome {
    let pages = aged()?;
    let pins: Vec<_> = pages.iter().step_by(100).map(|page| page.page.pin()).collect();
    let places: Vec<_> = pins.iter().map(|pin| pin.as_ptr().addr()).collect();
    service().compact_memory();
    for (pin, place) in pins.iter().zip(places) {
        check_equal!(pin.as_ptr().addr(), place, "address of a pinned page");
        let address = service().page_address(pin.frame()).addr();
        check_equal!(address, place, "address of a pinned page's frame");
    }
    drop(pins);
    check!(pages.iter().all(Labelled::is_whole), "a page lost what was in it");
    Ok(())
}

/// Pages that the handlers of every CPU pin, and what they found.
static PINNED: spin::Once<Vec<Labelled>> = spin::Once::new();
static LOOKED_AT: AtomicU64 = AtomicU64::new(0);
static BROKEN: AtomicU64 = AtomicU64::new(0);

fn pin_some(_: &mut TrapFrame) {
    let number = LOOKED_AT.fetch_add(1, Ordering::Relaxed) as usize;
    let pages = PINNED.get().map_or(&[][..], Vec::as_slice);
    let wrong = pages.iter().skip(number % 64).step_by(64).filter(|page| !page.is_whole()).count();
    BROKEN.fetch_add(wrong as u64, Ordering::Relaxed);
}

fn handlers_pin_pages_while_they_are_moved() -> Outcome {
    if PINNED.get().is_none() {
        let pages = aged()?;
        PINNED.call_once(|| pages);
        // Once, for the handler stays when the test is run again.
        register(PINNING, pin_some)?;
    }
    check_on_every_cpu(|cpu| {
        for _ in 0..20 {
            if cpu == CpuId(0) {
                service().compact_memory();
            } else {
                raise_and_wait(PINNING, &LOOKED_AT)?;
            }
            thread::yield_now();
        }
        raise_and_wait(PINNING, &LOOKED_AT)
    })?;
    check!(LOOKED_AT.load(Ordering::Relaxed) > 0, "no handler ran");
    check_equal!(BROKEN.load(Ordering::Relaxed), 0, "pages that handlers found broken");
    Ok(())
}

fn nothing_is_lost_while_other_cpus_pin_and_free() -> Outcome {
    let moved = service().event_count(Event::MigrateSuccess);
    // Two pageblocks of each node's and more, or there is nothing to bring together.
    let pageblocks = (2 * topology().node_count() as u64).clamp(4, 16);
    let share = pageblocks * u64::from(PAGEBLOCK) / cpus::online().count() as u64;
    check_on_every_cpu(move |cpu| {
        let labels = u64::from(cpu.0) << 32;
        let mut pages: Vec<_> =
            (0..share).map(|at| Labelled::new(labels + at)).collect::<Option<_>>().ok_or("no memory")?;
        for round in 0..10 {
            // Every other goes, and comes again from elsewhere.
            pages.retain(|page| (page.label + round) % 2 == 0);
            check!(pages.iter().all(Labelled::is_whole), "a page lost what was in it");
            if cpu.0 % 2 == 0 {
                service().compact_memory();
            }
            thread::yield_now();
            while (pages.len() as u64) < share {
                let label = labels + ((round + 1) << 16) + pages.len() as u64;
                pages.push(Labelled::new(label).ok_or("no memory")?);
            }
        }
        check!(pages.iter().all(Labelled::is_whole), "a page lost what was in it");
        Ok(())
    })?;
    check!(service().event_count(Event::MigrateSuccess) > moved, "no page moved");
    service().validate().map_err(|broken| alloc::format!("{broken}"))
}

tests!("mobility":
    compaction_brings_pages_together_with_their_contents,
    pinned_pages_stay,
    handlers_pin_pages_while_they_are_moved,
    nothing_is_lost_while_other_cpus_pin_and_free,
);
