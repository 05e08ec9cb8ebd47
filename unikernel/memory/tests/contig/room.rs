//! Room that is made for a run: by giving back what CPUs cache, by moving pages, by shrinkers; and an aged machine, in
//! which it is the pages in the way that decide.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};

use quarry_memory::events::Event;
use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::movable_pages::PinGuard;
use quarry_memory::{
    ContigBlock, ContigRequest, CpuId, Gfp, MallocFlags, MovablePage, MovablePages, Order, Pfn, ShrinkControl,
    Shrinker, Topology,
};

use crate::support::{MIB, TYPE, TestService, assert_books_balance, one_node};

const QUIET: Gfp = Gfp::NOWAIT.union(Gfp::NOWARN);

type Page = MovablePage<HostedMachine>;
type Block = ContigBlock<'static, HostedMachine>;

fn pages(service: &'static TestService) -> &'static MovablePages<HostedMachine> {
    let bytes = service.statistics().total;
    service.movable_pages((bytes / 4096) as u32).expect("memory is free")
}

fn label(page: &mut Page, number: u64) {
    page.pin_mut().chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&number.to_le_bytes()));
}

fn has_label(page: &Page, number: u64) -> bool {
    page.pin().chunks_exact(8).all(|word| word == number.to_le_bytes())
}

/// Fills all memory with labelled movable pages and keeps those whose numbers `keep` wants.
fn aged(set: &'static MovablePages<HostedMachine>, keep: impl Fn(u64) -> bool) -> Vec<(u64, Page)> {
    let mut held: Vec<_> = (0..).zip(std::iter::from_fn(|| set.alloc(QUIET))).collect();
    held.retain(|(number, _)| keep(*number));
    for (number, page) in &mut held {
        label(page, *number);
    }
    held
}

#[track_caller]
fn assert_whole(held: &[(u64, Page)]) {
    assert!(held.iter().all(|(number, page)| has_label(page, *number)), "a page that moved lost what was in it");
}

fn request(bytes: usize, flags: MallocFlags) -> ContigRequest {
    ContigRequest { flags, ..ContigRequest::new(bytes) }
}

fn obtain(service: &'static TestService, request: &ContigRequest) -> Option<Block> {
    service.contig_block(&TYPE, request).ok()
}

const TWO_MIB: usize = 2 << 20;
const WAITS: MallocFlags = MallocFlags::WAITOK;
const NOWAIT: MallocFlags = MallocFlags::NOWAIT;

#[test]
fn pages_are_moved_out_of_the_way_of_one_who_may_sleep_and_only_then() {
    let service = one_node(128 * MIB);
    let held = aged(pages(service), |number| number % 2 == 0);
    let in_use = service.statistics().in_use();
    assert!(obtain(service, &request(TWO_MIB, NOWAIT)).is_none(), "no two free frames are side by side");
    assert_eq!(service.event_count(Event::MigrateSuccess), 0);
    for bytes in [3 * 4096, TWO_MIB, 5 << 20, (8 << 20) + 4096] {
        let block = obtain(service, &request(bytes, WAITS)).expect("pages can be moved out of the way");
        assert_whole(&held);
        assert_books_balance(service, in_use + bytes as u64);
        drop(block);
        assert_books_balance(service, in_use);
    }
    let moved = service.event_count(Event::MigrateSuccess);
    assert!(moved > 0 && service.event_count(Event::MigrateFail) == 0, "{moved} pages");
}

#[test]
fn a_range_full_of_pages_is_emptied_into_other_zones() {
    let service = one_node(64 * MIB);
    let held = aged(pages(service), |number| number >= 4096);
    let low = held.iter().filter(|(_, page)| page.pin().frame().physical() < 4 * MIB).count();
    assert!(low > 500, "{low} pages are below 4 MiB");
    let example = ContigRequest { high: 1 << 22, alignment: 32 << 10, boundary: 1 << 20, ..request(8192, WAITS) };
    let all: Vec<_> = std::iter::from_fn(|| obtain(service, &example)).collect();
    let possible = 4 * MIB / (32 << 10);
    assert!(all.len() as u64 * 10 >= possible * 9, "{} of {possible}", all.len());
    assert_whole(&held);
    assert!(held.iter().filter(|(_, page)| page.pin().frame().physical() >= 16 * MIB).count() > 0);
    drop(all);
    drop(held);
    service.drain_local();
    assert!(service.validate().is_ok());
}

#[test]
fn pinned_pages_stay_and_the_run_lies_between_them() {
    let service = one_node(128 * MIB);
    let held = aged(pages(service), |number| number % 2 == 0);
    let pins: Vec<_> = held.iter().step_by(400).map(|(_, page)| page.pin()).collect();
    let places: Vec<_> = pins.iter().map(PinGuard::frame).collect();
    let in_use = service.statistics().in_use();
    let blocks: Vec<_> = std::iter::from_fn(|| obtain(service, &request(1 << 20, WAITS))).collect();
    assert!(blocks.len() > 10, "{} runs", blocks.len());
    let has = |block: &Block, frame: &Pfn| (block.physical()..block.physical() + MIB).contains(&frame.physical());
    assert!(!blocks.iter().any(|block| places.iter().any(|place| has(block, place))));
    assert!(pins.iter().zip(&places).all(|(pin, place)| pin.frame() == *place));
    assert!(service.event_count(Event::MigrateFail) > 0, "some were asked");
    assert_books_balance(service, in_use + (blocks.len() as u64) * MIB);
    drop(blocks);
    drop(pins);
    assert_whole(&held);
    assert_books_balance(service, in_use);
}

#[test]
fn a_run_stays_where_it_is_while_others_move() {
    let service = one_node(64 * MIB);
    let set = pages(service);
    let table = service.statistics().in_use();
    let runs: Vec<_> = (0..40).map(|_| obtain(service, &request(5 * 4096, WAITS)).expect("memory is free")).collect();
    let bytes = |run: &Block| {
        // SAFETY: the run is this test's, and nobody else looks at it.
        unsafe { std::slice::from_raw_parts_mut(run.as_ptr(), run.size()) }
    };
    for (run, number) in runs.iter().zip(1..) {
        bytes(run).fill(number);
    }
    let held = aged(set, |number| number % 2 == 0);
    assert!(service.compact_memory() > 0, "pages moved");
    let large = obtain(service, &request(TWO_MIB, WAITS));
    assert!(large.is_some(), "room was made");
    for (run, number) in runs.iter().zip(1..) {
        assert!(bytes(run).iter().all(|&byte| byte == number), "run {number} is as it was written");
    }
    assert_whole(&held);
    drop((held, runs, large));
    assert_books_balance(service, table);
}

#[test]
fn what_is_given_up_in_the_middle_is_given_back() {
    let service = one_node(64 * MIB);
    // One pin in every half of a mebibyte: every candidate fails.
    let held = aged(pages(service), |number| number % 2 == 0);
    let mut last = u64::MAX;
    let mut pins = Vec::new();
    for (_, page) in &held {
        let pin = page.pin();
        let part = pin.frame().physical() / (MIB / 2);
        if part != last {
            last = part;
            pins.push(pin);
        }
    }
    service.drain_local();
    service.shrink_depots();
    service.drain_local();
    let before = service.statistics();
    assert!(obtain(service, &request(TWO_MIB, WAITS)).is_none());
    let after = service.statistics();
    assert!(service.event_count(Event::MigrateFail) > 0);
    assert_eq!((before.free, before.pages_in_use), (after.free, after.pages_in_use));
    assert_books_balance(service, before.in_use());
    drop(pins);
    assert_whole(&held);
    assert!(obtain(service, &request(TWO_MIB, WAITS)).is_some());
}

/// Pages a shrinker can give up.
struct Cached {
    service: &'static TestService,
    pages: Mutex<Vec<Pfn>>,
    asked: AtomicUsize,
}

impl Shrinker for Cached {
    fn count(&self, _: &ShrinkControl) -> usize {
        self.pages.lock().expect("no thread panics").len()
    }

    fn scan(&self, _: &ShrinkControl, objects: usize) -> Option<usize> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut pages = self.pages.lock().expect("no thread panics");
        let left = pages.len().saturating_sub(objects);
        let gone = pages.split_off(left);
        for &page in &gone {
            self.service.__free_pages(page, Order::ZERO);
        }
        Some(gone.len())
    }
}

#[test]
fn shrinkers_are_asked_when_nothing_else_helps() {
    let service = one_node(64 * MIB);
    let all = || std::iter::from_fn(|| service.alloc_pages(QUIET, Order::ZERO)).collect::<Vec<_>>();
    let cached = Box::leak(Box::new(Cached { service, pages: Mutex::new(all()), asked: AtomicUsize::new(0) }));
    let id = service.register_shrinker(cached).expect("there is room");
    assert!(obtain(service, &request(TWO_MIB, NOWAIT)).is_none());
    assert_eq!(cached.asked.load(Ordering::Relaxed), 0, "who may not sleep asks nobody");
    let block = obtain(service, &request(TWO_MIB, WAITS)).expect("the shrinker gives it up");
    assert!(cached.asked.load(Ordering::Relaxed) > 0);
    assert!(!cached.pages.lock().expect("no thread panics").is_empty(), "no more than was needed is given up, about");
    drop(block);
    service.unregister_shrinker(id).expect("it is registered");
    cached.pages.lock().expect("no thread panics").drain(..).for_each(|page| service.__free_pages(page, Order::ZERO));
}

#[test]
fn what_cpus_cache_is_called_in() {
    let topology = Topology::builder().node(64 * MIB, 2).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    let service = hosted.service();
    assert!(hosted.run_on(CpuId(0)));
    // Another CPU keeps single pages here and there, and idles.
    let kept = std::thread::spawn(move || {
        assert!(hosted.run_on(CpuId(1)));
        let pages: Vec<_> = std::iter::from_fn(|| service.alloc_pages(QUIET, Order::ZERO)).collect();
        let (kept, gone): (Vec<_>, Vec<_>) = pages.into_iter().partition(|page| page.0 % 512 == 7);
        for page in gone {
            service.__free_pages(page, Order::ZERO);
        }
        service.drain_local();
        for &page in &kept {
            service.__free_pages(page, Order::ZERO);
        }
        assert!(service.statistics().per_cpu_lists > 0, "nothing is on the list");
        kept
    });
    let kept = kept.join().expect("it does not panic");
    let places = |flags| {
        let at = |page: &Pfn| {
            let low = page.physical() & !(2 * MIB - 1);
            obtain(service, &ContigRequest { low, high: low + 2 * MIB - 1, ..request(TWO_MIB, flags) }).is_some()
        };
        kept.iter().map(at).collect::<Vec<_>>()
    };
    let (at_once, with_all_cpus) = (places(NOWAIT), places(WAITS));
    let called_in = at_once.iter().zip(&with_all_cpus).filter(|(before, after)| !**before && **after).count();
    assert!(called_in > 0, "another CPU's list was in no way: {at_once:?}, {with_all_cpus:?}");
    assert!(service.event_count(Event::DrainCall) > 0);
    assert_books_balance(service, 0);
}

#[test]
fn what_this_cpu_caches_is_no_obstacle_to_one_who_may_not_sleep() {
    let service = one_node(64 * MIB);
    let mut all: Vec<_> = std::iter::from_fn(|| service.alloc_pages(QUIET, Order::ZERO)).collect();
    all.sort_unstable();
    let (kept, gone): (Vec<_>, Vec<_>) = all.into_iter().partition(|page| page.0 % 512 == 7);
    for page in gone {
        service.__free_pages(page, Order::ZERO);
    }
    service.drain_local();
    for page in kept {
        service.__free_pages(page, Order::ZERO);
    }
    assert!(service.statistics().per_cpu_lists > 0);
    assert!(obtain(service, &request(32 << 20, NOWAIT)).is_some());
    assert_books_balance(service, 0);
}

#[test]
fn watermarks_hold_as_for_ordinary_requests() {
    let service = one_node(64 * MIB);
    let small = request(4096, NOWAIT);
    let runs: Vec<_> = std::iter::from_fn(|| obtain(service, &small)).collect();
    for zone in service.zones() {
        let floor = zone.watermarks.min + zone.lowmem_reserve[2];
        assert_eq!(zone.available(), floor, "{zone:?}");
    }
    assert!(service.alloc_pages(QUIET, Order::ZERO).is_none(), "nor is there a page");
    assert!(service.alloc_pages(Gfp::ATOMIC | Gfp::NOWARN, Order::ZERO).is_some_and(|page| {
        service.__free_pages(page, Order::ZERO);
        true
    }));
    // What is for those who need low memory, they get.
    let low = ContigRequest { high: 16 * MIB - 1, ..small };
    assert!(obtain(service, &low).is_some());
    drop(runs);
    service.drain_local();
    assert_books_balance(service, 0);
}

/// Pages and slab objects come and go in an order without pattern, until memory is in pieces: some of it kernel
/// memory, more of it movable.
fn age(
    service: &'static TestService,
    set: &'static MovablePages<HostedMachine>,
    seed: u64,
) -> (Vec<(u64, Page)>, Vec<*mut u8>) {
    let mut number = seed;
    let mut random = move |below: usize| {
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        (number >> 11) as usize % below
    };
    let mut movable: Vec<(u64, Page)> = Vec::new();
    let mut objects: Vec<*mut u8> = Vec::new();
    let mut labels = 0;
    let frames = (service.statistics().total / 4096) as usize;
    for round in 0..6 {
        // Filled to the watermark, one object for seven pages, ...
        loop {
            if random(8) == 0 && objects.len() < frames / 8 {
                let object = service.kmalloc(1 << (6 + random(7)), QUIET);
                if object.is_null() {
                    break;
                }
                objects.push(object);
            } else {
                let Some(page) = set.alloc(QUIET) else { break };
                movable.push((labels, page));
                labels += 1;
            }
        }
        // ... and emptied by half, any of them.
        let left = movable.len() / 2;
        while movable.len() > left {
            let gone = random(movable.len());
            movable.swap_remove(gone);
        }
        let left = if round == 5 { objects.len() / 2 } else { objects.len() / 3 };
        while objects.len() > left {
            let object = objects.swap_remove(random(objects.len()));
            // SAFETY: each is freed once.
            unsafe { service.kfree(object) };
        }
    }
    for (number, page) in &mut movable {
        label(page, *number);
    }
    (movable, objects)
}

/// How much of what is free can be had in runs of 2 MiB, in frames.
fn in_runs(service: &'static TestService, flags: MallocFlags) -> u64 {
    std::iter::from_fn(|| obtain(service, &request(TWO_MIB, flags))).collect::<Vec<_>>().len() as u64 * 512
}

/// How many frames are in places of 2 MiB each of which can be had, one after the other.
fn in_places(service: &'static TestService, flags: MallocFlags) -> u64 {
    let places = (0..service.statistics().total).step_by(TWO_MIB);
    let had = places.filter(|&low| {
        obtain(service, &ContigRequest { low, high: low + 2 * MIB - 1, ..request(TWO_MIB, flags) }).is_some()
    });
    had.count() as u64 * 512
}

#[test]
fn after_ageing_nine_tenths_of_what_is_free_or_movable_can_be_had_in_runs_of_two_mebibytes() {
    const SEED: u64 = 0x5eed_0000_2007_0719;
    let service = one_node(256 * MIB);
    let set = pages(service);
    let (movable, objects) = age(service, set, SEED);
    service.drain_local();
    service.shrink_depots();
    let free = service.zones().map(|zone| u64::from(zone.free)).sum::<u64>();
    // What is free at once, and what is when pages may be moved: pages that move stay in memory, so it is what is free.
    // Place by place: of all frames that are free or movable, those in a place that can be had, one after the other.
    let had_at_once = in_places(service, NOWAIT);
    let before = in_runs(service, NOWAIT);
    let after = in_runs(service, WAITS);
    assert_whole(&movable);
    let had = in_places(service, WAITS);
    let all = free + movable.len() as u64;
    let percent = |part: u64, whole: u64| part * 100 / whole;
    println!("seed {SEED:#x}, {free} frames free, {} movable", movable.len());
    println!("of what is free, had in runs of 2 MiB at once:");
    println!("{:>4} % before pages are moved, {} % after", percent(before, free), percent(after, free));
    println!("of what is free or movable, in a place of 2 MiB that can be had:");
    println!("{:>4} % before pages are moved, {} % after", percent(had_at_once, all), percent(had, all));
    assert!(before * 2 < free, "the machine has not aged: {before} of {free}");
    assert!(after * 10 >= free * 9, "{after} of {free}");
    assert!(had * 10 >= all * 9, "{had} of {all}");
    assert_whole(&movable);
    drop(movable);
    for object in objects {
        // SAFETY: each is freed once.
        unsafe { service.kfree(object) };
    }
    service.drain_local();
    service.shrink_depots();
    assert!(service.validate().is_ok() && service.statistics().adds_up());
}

#[test]
fn nothing_is_lost_while_threads_make_room_pin_free_and_compact() {
    let topology = Topology::builder().node(64 * MIB, 4).node(64 * MIB, 4).build().expect("a machine");
    let service = Hosted::leak(topology).expect("there is address space").service();
    let set = pages(service);
    let held: Vec<_> = aged(set, |number| number % 2 == 0).into_iter().map(|page| Mutex::new(Some(page))).collect();
    let (stop, start) = (AtomicBool::new(false), Barrier::new(6));
    let (wrong, runs) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let users: Vec<_> = (0..2)
            .map(|user| {
                let (held, wrong, start) = (&held, &wrong, &start);
                scope.spawn(move || {
                    start.wait();
                    let mut place = user * 31;
                    for step in 0..1_000_u64 {
                        place = (place + 7919) % held.len();
                        let mut slot = held[place].lock().expect("no thread panics");
                        let right = slot.as_ref().is_none_or(|(number, page)| has_label(page, *number));
                        wrong.fetch_add(usize::from(!right), Ordering::Relaxed);
                        if step % 3 == 0 {
                            *slot = None;
                            *slot = set.alloc(QUIET).map(|mut page| {
                                label(&mut page, step);
                                (step, page)
                            });
                        }
                    }
                })
            })
            .collect();
        for maker in 0..3_u8 {
            let (stop, wrong, runs, start) = (&stop, &wrong, &runs, &start);
            scope.spawn(move || {
                start.wait();
                let mut blocks = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    if let Some(block) = obtain(service, &request(300_000 << maker, WAITS)) {
                        // SAFETY: the block is this thread's, as large as that.
                        unsafe { block.as_ptr().write_bytes(maker + 1, block.size()) };
                        runs.fetch_add(1, Ordering::Relaxed);
                        blocks.push(block);
                    }
                    if blocks.len() > 4 {
                        let block = blocks.remove(0);
                        // SAFETY: as above, and it was written.
                        let bytes = unsafe { std::slice::from_raw_parts(block.as_ptr(), block.size()) };
                        wrong.fetch_add(usize::from(bytes.iter().any(|&byte| byte != maker + 1)), Ordering::Relaxed);
                    }
                }
            });
        }
        scope.spawn(|| {
            start.wait();
            while !stop.load(Ordering::Relaxed) {
                service.compact_memory();
            }
        });
        for user in users {
            user.join().expect("no thread panics");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(wrong.load(Ordering::Relaxed), 0, "pages or runs lost what was written");
    assert!(runs.load(Ordering::Relaxed) > 10, "{runs:?} runs");
    let held: Vec<_> = held.into_iter().filter_map(|slot| slot.into_inner().expect("no thread panics")).collect();
    assert_whole(&held);
    drop(held);
    service.drain_local();
    let rows = service.statistics();
    assert!(rows.adds_up() && rows.pages_in_use == 0 && rows.large <= 2 * MIB, "{rows:#?}");
    service.validate().unwrap_or_else(|broken| panic!("{broken}"));
}
